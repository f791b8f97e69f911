//! `src/generated` is what `proto/yages.proto` makes, by a compiler in Rust: no `protoc` is needed.

use std::fs;
use std::path::Path;

use prost::Message;

/// Writes what differs, and fails: commit it then.
#[test]
fn generated_files_are_of_the_proto_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["yages.proto"], [folder.join("proto")]).unwrap();
    let made = tempfile::tempdir().unwrap();
    fs::write(made.path().join("yages.bin"), files.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .out_dir(made.path())
        .compile_fds(files)
        .unwrap();
    for name in ["yages.rs", "yages.bin"] {
        let new = fs::read(made.path().join(name)).unwrap();
        let committed = folder.join("src/generated").join(name);
        let same = fs::read(&committed).is_ok_and(|old| old == new);
        if !same {
            fs::write(&committed, new).unwrap();
        }
        assert!(same, "{name} was not what the proto file makes; it is now");
    }
}
