//! What `make release` has made: the sums hold, and Envoy loads the filter out of the OCI image.
//! Needs `dist/release`: run by `make release`, not by `cargo test`.

use std::path::Path;
use std::process::Command;

use e2e::config::{bootstrap, cluster, healthz_for, listener};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{free_port, root};
use serde_json::{Value, json};

/// Runs a command in this folder; gives what it prints.
fn run(folder: &Path, command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The file of a blob, whose bytes have the digest and the size that its descriptor says.
fn blob(layout: &Path, descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap();
    let digest = digest.strip_prefix("sha256:").unwrap();
    let file = format!("blobs/sha256/{digest}");
    let sum = run(layout, &["sha256sum", &file]);
    assert!(sum.starts_with(digest), "{sum} is not {digest}");
    let size = std::fs::metadata(layout.join(&file)).unwrap().len();
    assert_eq!(descriptor["size"], json!(size), "{file}");
    file
}

fn read(layout: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(layout.join(file)).unwrap()).unwrap()
}

#[tokio::test]
async fn envoy_loads_the_filter_out_of_the_image() {
    let release = root().join("dist/release");
    run(
        &release,
        &["sha256sum", "--check", "--strict", "SHA256SUMS"],
    );

    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path();
    let archive = release.join("plugin.tar");
    run(layout, &["tar", "xf", archive.to_str().unwrap()]);
    let index = read(layout, "index.json");
    let digest = std::fs::read_to_string(release.join("plugin.digest")).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(digest.trim()));
    let manifest = read(layout, &blob(layout, &index["manifests"][0]));
    let config = read(layout, &blob(layout, &manifest["config"]));
    // One layer, gzipped, with /plugin.wasm: Istio and Envoy Gateway take nothing else.
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let layer = &manifest["layers"][0];
    let gzipped = "application/vnd.oci.image.layer.v1.tar+gzip";
    assert_eq!(layer["mediaType"], json!(gzipped));
    let file = blob(layout, layer);
    let plain = run(
        layout,
        &["sh", "-c", &format!("gzip -dc {file} | sha256sum")],
    );
    let plain = plain.split_whitespace().next().unwrap();
    let expected = json!([format!("sha256:{plain}")]);
    assert_eq!(config["rootfs"]["diff_ids"], expected);
    run(layout, &["tar", "xzf", &file]);

    let (admin, port) = (free_port(), free_port());
    let mut filter = healthz_for("up");
    filter["typed_config"]["config"]["vm_config"]["code"] =
        json!({"local": {"filename": layout.join("plugin.wasm")}});
    let clusters = vec![cluster("up", &[("127.0.0.1", 1)])];
    let config = bootstrap(admin, vec![listener(port, filter)], clusters);
    let _envoy = Envoy::start(&config, admin).await;
    assert_eq!(Prober::http(port).wait_for(200).await.body, "ok");
}
