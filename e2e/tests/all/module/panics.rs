//! A deliberate panic in each hook, by `make panicking-module`'s build: Envoy lives, the probe is
//! answered 503 where the panic leaves it without a verdict, and other calls go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::backend::{Backend, ping};
use e2e::config::{bootstrap, cluster, listener_with_routes, with_grpc_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{eventually, free_port, module};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

/// An Envoy before the demo backend; `/healthz` needs the network filter.
struct Panicking {
    envoy: Envoy,
    _backend: Backend,
    port: u16,
    channel: Channel,
}

fn configuration(admin: u16, port: u16, backend: u16) -> Value {
    let filters = vec![module::filter_for("c")];
    let healthz = json!({"match": {"path": "/healthz"}, "direct_response": {"status": 404}});
    let routes = vec![
        healthz,
        json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}}),
    ];
    let listener = module::with_network_filter(listener_with_routes(port, filters, routes));
    let mut backend = with_grpc_check(cluster("c", &[("127.0.0.1", backend)]));
    // A slow machine must not make it unhealthy: what is tested is something else.
    backend["health_checks"][0]["timeout"] = json!("20s");
    bootstrap(admin, vec![listener], vec![backend])
}

impl Panicking {
    async fn start(hook: &str) -> Self {
        let (admin, port) = (free_port(), free_port());
        let backend = Backend::start(free_port()).await;
        let config = configuration(admin, port, backend.port).to_string();
        let folder = module::panicking_folder();
        let variables = [
            (module::SEARCH_PATH, folder.as_path()),
            ("ENVOY_HEALTHZ_PANIC", Path::new(hook)),
            ("RUST_BACKTRACE", Path::new("0")),
        ];
        let envoy = Envoy::start_in(&config, admin, &[], &variables).await;
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        Self {
            envoy,
            _backend: backend,
            port,
            channel: channel.connect_lazy(),
        }
    }

    fn caught(&self, hook: &str) -> usize {
        self.envoy
            .logged(&[&format!("envoy-healthz: a fault in {hook}, ")])
            .len()
    }

    /// Calls reach the backend.
    async fn ping(&self) {
        eventually("a call succeeds", async || ping(&self.channel).await.ok()).await;
        for _ in 0..5 {
            assert_eq!(ping(&self.channel).await.unwrap(), "pong");
        }
    }
}

/// Hooks of a probe's and a call's way, and what the probe is told.
const ON_THE_WAY: [(&str, u16); 17] = [
    ("http_filter_new", 503),
    ("http_filter_request_headers", 503),
    // Nobody can be asked for a cluster by its name.
    ("network_filter_new", 503),
    ("http_filter_request_body", 200),
    ("http_filter_response_headers", 200),
    ("http_filter_response_body", 200),
    ("http_filter_response_trailers", 200),
    ("http_filter_stream_complete", 200),
    ("http_filter_destroy", 200),
    ("network_filter_new_connection", 200),
    ("network_filter_read", 200),
    ("network_filter_write", 200),
    ("network_filter_event", 200),
    ("network_filter_destroy", 200),
    ("http_filter_config_destroy", 200),
    ("network_filter_config_destroy", 200),
    // None at all.
    ("nothing", 200),
];

#[tokio::test]
async fn in_each_hook_of_the_way() {
    for (hook, expected) in ON_THE_WAY {
        let mut panicking = Panicking::start(hook).await;
        panicking.ping().await;
        for _ in 0..5 {
            let answer = Prober::http(panicking.port).get("/healthz").await;
            assert_eq!(answer.status, expected, "{hook}: {}", answer.body);
        }
        panicking.ping().await;
        let exit = panicking.envoy.stop();
        let caught = panicking.caught(hook);
        assert_eq!(caught > 0, hook != "nothing", "{hook}: {caught}");
        assert!(exit.success(), "{hook}: {exit}");
    }
}

/// What Envoy calls while it loads the module: the configuration is refused, and Envoy does not crash.
#[test]
fn while_it_is_loaded() {
    let config = configuration(free_port(), free_port(), 1).to_string();
    let folder = module::panicking_folder();
    for hook in [
        "program_init",
        "http_filter_config_new",
        "network_filter_config_new",
    ] {
        let variables = [
            (module::SEARCH_PATH, folder.as_path()),
            ("ENVOY_HEALTHZ_PANIC", Path::new(hook)),
        ];
        let (exit, log) = e2e::envoy::validate_in(&config, &variables);
        assert_eq!(exit.code(), Some(1), "{hook}: {exit} {log}");
        assert!(
            log.contains(&format!("a fault in {hook}, ")),
            "{hook}: {log}"
        );
    }
}

/// For ten seconds, on fifty connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_flood() {
    let hook = "http_filter_request_headers";
    let mut panicking = Panicking::start(hook).await;
    panicking.ping().await;
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..50)
        .map(|_| {
            let (prober, stop) = (Prober::http(panicking.port), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(prober.get("/healthz").await.status, 503);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < Duration::from_secs(10) {
        assert_eq!(ping(&panicking.channel).await.unwrap(), "pong");
        calls += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut probes = 0;
    for flood in floods {
        probes += flood.await.unwrap();
    }
    println!("{probes} panics, {calls} calls beside them");
    assert!(probes > 50 && calls > 0, "{probes} {calls}");
    assert!(panicking.envoy.stop().success());
}
