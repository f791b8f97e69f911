//! What `make release` has made: the sums hold, and each image holds what its readers expect, which runs.
//! Needs `dist/release`: run by `make release`, not by `cargo test`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::backend::ping;
use e2e::config::{Config, cluster, listener, listener_with_routes};
use e2e::envoy::Envoy;
use e2e::{Build, eventually, free_port, module, root};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Channel;

fn release() -> PathBuf {
    root().join("dist/release")
}

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

/// An image of the release, unpacked.
struct Layout(TempDir);

impl Layout {
    /// With the descriptor of its one image, whose digest is the release's.
    fn open(name: &str) -> (Self, Value) {
        let layout = Self(tempfile::tempdir().unwrap());
        let archive = release().join(format!("{name}.tar"));
        run(layout.path(), &["tar", "xf", archive.to_str().unwrap()]);
        let index = layout.read("index.json");
        let [entry] = &index["manifests"].as_array().unwrap()[..] else {
            panic!("{name}: not one image: {index}");
        };
        let digest = std::fs::read_to_string(release().join(format!("{name}.digest"))).unwrap();
        assert_eq!(entry["digest"], json!(digest.trim()), "{name}");
        let entry = entry.clone();
        (layout, entry)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path().join(file)).unwrap()).unwrap()
    }

    /// The file of a blob, whose bytes have the digest and the size that its descriptor says.
    fn blob(&self, descriptor: &Value) -> String {
        let digest = descriptor["digest"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap();
        let file = format!("blobs/sha256/{digest}");
        let sum = run(self.path(), &["sha256sum", &file]);
        assert!(sum.starts_with(digest), "{sum} is not {digest}");
        let size = std::fs::metadata(self.path().join(&file)).unwrap().len();
        assert_eq!(descriptor["size"], json!(size), "{file}");
        file
    }

    /// Unpacks the one layer of an image into this folder; gives the image's configuration.
    fn unpack(&self, descriptor: &Value, folder: &Path) -> Value {
        let manifest = self.read(&self.blob(descriptor));
        let config = self.read(&self.blob(&manifest["config"]));
        // One layer, gzipped: Istio and Envoy Gateway take nothing else.
        let [layer] = &manifest["layers"].as_array().unwrap()[..] else {
            panic!("not one layer: {manifest}");
        };
        let gzipped = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(layer["mediaType"], json!(gzipped));
        let file = self.path().join(self.blob(layer));
        let file = file.to_str().unwrap();
        let command = format!("gzip -dc {file} | sha256sum");
        let plain = run(folder, &["sh", "-c", &command]);
        let plain = plain.split_whitespace().next().unwrap();
        let expected = json!([format!("sha256:{plain}")]);
        assert_eq!(config["rootfs"]["diff_ids"], expected);
        run(folder, &["tar", "xzf", file]);
        config
    }
}

/// The files in a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    });
    files.collect()
}

#[test]
fn the_sums_hold_for_every_file() {
    let sums = run(
        &release(),
        &["sha256sum", "--check", "--strict", "SHA256SUMS"],
    );
    let checked = sums.lines().filter_map(|line| line.strip_suffix(": OK"));
    let found = files(&release());
    let found = found.keys().filter(|name| *name != "SHA256SUMS");
    assert!(checked.eq(found), "{sums}");
}

/// Each names the crate and what is linked into it.
#[test]
fn the_sboms_name_what_is_in_each_file() {
    for (file, name, linked) in [
        ("envoy_healthz", "envoy-healthz", "proxy-wasm"),
        ("libenvoy_healthz", "envoy-healthz-module", "serde_json"),
        ("echo-server", "echo-server", "tonic"),
        ("healthz-doctor", "healthz-doctor", "saphyr-parser"),
    ] {
        let text = std::fs::read(release().join(format!("{file}.cdx.json"))).unwrap();
        let sbom: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(sbom["bomFormat"], json!("CycloneDX"));
        assert_eq!(sbom["metadata"]["component"]["name"], json!(name));
        let components = sbom["components"].as_array().unwrap();
        let names = |name: &str| components.iter().any(|found| found["name"] == json!(name));
        assert!(names(linked), "{file} does not name {linked}");
        assert!(!names("reqwest"), "{file} names what tests alone use");
    }
}

/// Without an interpreter it needs no libraries either.
#[test]
fn the_doctor_is_static_and_runs() {
    let released = files(&release());
    for (machine, elf) in [("x86_64", 62), ("aarch64", 183)] {
        let name = format!("healthz-doctor-{machine}");
        let doctor = &released[&name];
        assert_eq!(doctor[..4], *b"\x7fELF");
        assert_eq!(u16::from_le_bytes([doctor[18], doctor[19]]), elf);
        let interpreter = doctor.windows(8).any(|bytes| bytes == b"/lib/ld-");
        assert!(!interpreter, "{name} wants an interpreter");
        if machine == std::env::consts::ARCH {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(&name);
            std::fs::write(&path, doctor).unwrap();
            run(folder.path(), &["chmod", "+x", path.to_str().unwrap()]);
            let shipped = root().join("envoy/envoy.yaml");
            let said = run(
                folder.path(),
                &[path.to_str().unwrap(), shipped.to_str().unwrap()],
            );
            assert!(
                said.ends_with("nothing found; 1 endpoint checked\n"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn envoy_loads_the_wasm_out_of_its_image() {
    let (layout, image) = Layout::open("plugin");
    let dir = tempfile::tempdir().unwrap();
    layout.unpack(&image, dir.path());

    let mut filter = Build::Wasm.filter(&json!({}));
    filter["typed_config"]["config"]["vm_config"]["code"] =
        json!({"local": {"filename": dir.path().join("plugin.wasm")}});
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listener(listener(free_port(), [filter]));
    let envoy = config.start().await;
    assert_eq!(envoy.prober.wait_for(200).await.body, "ok");
}

#[tokio::test]
async fn envoy_loads_the_module_out_of_its_image() {
    let (layout, index) = Layout::open("module");
    let index = layout.read(&layout.blob(&index));
    let images = index["manifests"].as_array().unwrap();
    let released = files(&release());
    let mut runs = None;
    // The machine of an ELF file, in its bytes 18 and 19.
    for (machine, architecture, elf) in [("x86_64", "amd64", 62), ("aarch64", "arm64", 183)] {
        let platform = json!({"architecture": architecture, "os": "linux"});
        let image = images.iter().find(|image| image["platform"] == platform);
        let dir = tempfile::tempdir().unwrap();
        let config = layout.unpack(image.unwrap(), dir.path());
        assert_eq!(config["architecture"], json!(architecture));
        let unpacked = files(dir.path());
        let names: Vec<_> = unpacked.keys().collect();
        assert_eq!(names, ["libenvoy_healthz.so", "manifest.yaml"]);
        let module = &unpacked["libenvoy_healthz.so"];
        let name = format!("libenvoy_healthz-{machine}.so");
        assert!(*module == released[&name], "{architecture} is not {name}");
        assert_eq!(module[..4], *b"\x7fELF");
        assert_eq!(u16::from_le_bytes([module[18], module[19]]), elf);
        if machine == std::env::consts::ARCH {
            runs = Some(dir);
        }
    }
    assert_eq!(images.len(), 2);

    let dir = runs.expect("a module for this machine");
    let filter = module::filter_for("c");
    let routes = vec![module::route("/healthz", "c")];
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listener(listener_with_routes(free_port(), [filter], routes));
    let search = [(module::SEARCH_PATH, dir.path())];
    let envoy = Envoy::start_in(&config.to_string(), &[], &search).await;
    assert_eq!(envoy.prober.wait_for(200).await.body, "ok");
}

#[tokio::test]
async fn the_backend_out_of_its_image_answers_calls() {
    let (layout, image) = Layout::open("app");
    let dir = tempfile::tempdir().unwrap();
    let config = layout.unpack(&image, dir.path());
    let command = &config["config"];
    assert_eq!(command["Entrypoint"], json!(["/echo-server"]));
    assert_eq!(command["Cmd"], json!(["--listen", "0.0.0.0:9000"]));
    // What `docker load` reads names the same blobs.
    let manifest = layout.read(&layout.blob(&image));
    let file = |descriptor: &Value| json!(layout.blob(descriptor));
    let saved = layout.read("manifest.json");
    assert_eq!(saved.as_array().unwrap().len(), 1);
    let saved = &saved[0];
    assert_eq!(saved["Config"], file(&manifest["config"]));
    assert_eq!(saved["Layers"], json!([file(&manifest["layers"][0])]));

    let address = format!("127.0.0.1:{}", free_port());
    let mut server = Command::new(dir.path().join("echo-server"))
        .args(["--listen", &address])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect_lazy();
    let pong = eventually("the backend answers", async || ping(&channel).await.ok()).await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(pong, "pong");
}
