//! Admin text in random chunks: the same hosts as in one piece, and none of another's name.
#![no_main]

use std::time::Duration;

use envoy_healthz::admin::clusters::Parser;
use envoy_healthz::admin::pages::{Ready, Report};
use envoy_healthz::admin::shared::{read_snapshot, write_snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let names = ["a", "a::b", "eds_status", "my_service"].map(str::to_owned);
    let mut whole = Parser::new(&names);
    whole.feed(text);
    // The text's own first bytes say where it is cut.
    let mut pieces = Parser::new(&names);
    let mut rest = text;
    for size in text.iter().take(8).cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, others) = rest.split_at((usize::from(*size) + 1).min(rest.len()));
        pieces.feed(piece);
        rest = others;
    }
    let whole = whole.finish();
    assert_eq!(whole, pieces.finish());
    if let Ok(whole) = whole {
        for (cluster, name) in whole.iter().zip(&names) {
            assert_eq!(&cluster.name, name);
            let start = format!("{name}::");
            let lines = text.split(|&byte| byte == b'\n');
            let most = lines
                .filter(|line| line.starts_with(start.as_bytes()))
                .count();
            assert!(cluster.hosts.len() <= most);
        }
        // What one worker shares is what another reads.
        let report = Report {
            clusters: whole,
            ready: Ready::Yes,
        };
        let shared = write_snapshot(&report, Duration::from_secs(7));
        assert!(read_snapshot(shared.as_bytes(), &names).is_some());
    }
});
