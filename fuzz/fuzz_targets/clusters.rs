//! Admin text in random chunks: the same hosts as in one piece, and none of another's name.
#![no_main]

use envoy_healthz::clusters::Parser;
use envoy_healthz::shared::{read_snapshot, write_snapshot};
use envoy_healthz::admin::{Ready, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (cuts, text) = input;
    let names = ["a".to_owned(), "a::b".to_owned(), "my_service".to_owned()];
    let mut whole = Parser::new(&names);
    whole.feed(text);
    let mut pieces = Parser::new(&names);
    let mut rest = text;
    for cut in cuts {
        let (piece, others) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.feed(piece);
        rest = others;
    }
    pieces.feed(rest);
    // Only the pieces can hold an overlong line; whoever has both must have the same.
    if let (Ok(whole), Ok(pieces)) = (whole.finish(), pieces.finish()) {
        assert_eq!(whole, pieces);
        for (cluster, name) in whole.iter().zip(&names) {
            assert_eq!(&cluster.name, name);
            let start = format!("{name}::");
            let lines = text.split(|&byte| byte == b'\n');
            let most = lines.filter(|line| line.starts_with(start.as_bytes())).count();
            assert!(cluster.hosts.len() <= most);
        }
        // What one worker shares is what another reads, as long as no address holds a line break
        // or a replacement character.
        let report = Report { clusters: whole, ready: Ready::Yes };
        let shared = write_snapshot(&report, 7);
        assert!(read_snapshot(shared.as_bytes(), &names).is_some());
    }
});
