//! `make test-compose`: `docker-compose.yml` with a real Docker engine, with the wasm and with the module.
//!
//! `ENVOY_IMAGE` and `APP_IMAGE` say which images; the composition is always torn down.

use std::process::Command;

use e2e::backend::{ping, tls_channel};
use e2e::prober::Prober;
use e2e::{eventually, free_port, root};
use tonic::transport::Channel;

/// The files of a composition: the filter as wasm.
const WASM: &[&str] = &["-f", "docker-compose.yml"];
/// The filter as native module.
const MODULE: &[&str] = &[
    "-f",
    "docker-compose.yml",
    "-f",
    "envoy/module.compose.yaml",
];

struct Composition {
    files: &'static [&'static str],
    project: String,
    port: u16,
    /// Of the load balancer, if it is up.
    balancer: u16,
}

impl Composition {
    /// Brings it up, with these options of docker-compose.
    fn up(name: &str, files: &'static [&'static str], options: &[&str]) -> Self {
        let composition = Self {
            files,
            project: format!("envoyhealthz{name}{}", std::process::id()),
            port: free_port(),
            balancer: free_port(),
        };
        composition.compose(&[options, &["up", "-d", "--no-build"]].concat());
        composition
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker-compose");
        command.current_dir(root());
        command.env("PORT", self.port.to_string());
        command.env("BALANCER_PORT", self.balancer.to_string());
        command.args(self.files).args(["-p", &self.project]);
        run(command.args(arguments))
    }

    fn container(&self, service: &str) -> String {
        self.compose(&["ps", "-q", service])
    }
}

fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments))
}

/// What a command prints, less the last end of line.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Drop for Composition {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.compose(&["logs", "--no-color", "--tail", "100"]));
        }
        let down = [
            "--profile",
            "balancer",
            "down",
            "--timeout",
            "1",
            "--volumes",
        ];
        self.compose(&down);
    }
}

async fn healthy(prober: &Prober, channel: &Channel) {
    let answer = prober.wait_for(200).await;
    assert_eq!(answer.version, reqwest::Version::HTTP_2);
    assert_eq!(ping(channel).await.expect("a gRPC call"), "pong");
}

#[tokio::test]
async fn wasm_follows_each_way_in_which_the_backend_goes_and_comes_back() {
    follows_the_backend("pair", WASM).await;
}

#[tokio::test]
async fn module_follows_each_way_in_which_the_backend_goes_and_comes_back() {
    follows_the_backend("modulepair", MODULE).await;
}

async fn follows_the_backend(name: &str, files: &'static [&'static str]) {
    let composition = Composition::up(name, files, &[]);
    let prober = Prober::https2(composition.port);
    let channel = tls_channel(composition.port, &root().join("envoy/tls/tls.crt"));
    let app = composition.container("app");
    let network = format!("{}_default", composition.project);
    healthy(&prober, &channel).await;

    let disconnect = ["network", "disconnect", &network, &app];
    let connect = ["network", "connect", "--alias", "app", &network, &app];
    for (how, down, up) in [
        ("stop", &["stop", "-t", "1", &app][..], &["start", &app][..]),
        ("kill", &["kill", &app], &["start", &app]),
        ("pause", &["pause", &app], &["unpause", &app]),
        ("disconnect", &disconnect, &connect),
    ] {
        docker(down);
        prober.wait_for(503).await;
        docker(up);
        healthy(&prober, &channel).await;
        println!("{name}: {how}: 503, and 200 with a gRPC call when it is back");
    }

    let envoy = composition.container("envoy");
    eventually("Envoy's container is healthy", async || {
        let health = ["inspect", "-f", "{{.State.Health.Status}}", &envoy];
        (docker(&health) == "healthy").then_some(())
    })
    .await;
    let maps = docker(&["exec", &envoy, "cat", "/proc/1/maps"]);
    let module = maps.contains("/etc/envoy/modules/libenvoy_healthz.so");
    assert_eq!(module, files == MODULE, "which build Envoy has loaded");
    let format = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}";
    let inspect = ["inspect", "-f", format, &envoy];
    assert_eq!(docker(&inspect), "101:101 true");
}

/// The profile with a load balancer before two pods: calls go on when one of them has no backend.
#[tokio::test]
async fn wasm_has_the_balancer_take_a_pod_out_and_back_in() {
    a_pod_goes_out_and_back_in("balancer", WASM).await;
}

#[tokio::test]
async fn module_has_the_balancer_take_a_pod_out_and_back_in() {
    a_pod_goes_out_and_back_in("modulebalancer", MODULE).await;
}

async fn a_pod_goes_out_and_back_in(name: &str, files: &'static [&'static str]) {
    let composition = Composition::up(name, files, &["--profile", "balancer"]);
    let balancer = format!("http://127.0.0.1:{}", composition.balancer);
    let channel = Channel::from_shared(balancer).expect("a valid address");
    let channel = channel.connect_lazy();
    // The round robin reaches both pods.
    let all_answer = async || {
        for _ in 0..10 {
            ping(&channel).await.ok()?;
        }
        Some(())
    };
    eventually("both pods answer", all_answer).await;
    let prober = Prober::https2(composition.port);
    for (command, status) in [("stop", 503), ("start", 200)] {
        docker(&[command, &composition.container("app")]);
        prober.wait_for(status).await;
        eventually("calls go on", all_answer).await;
    }
}
