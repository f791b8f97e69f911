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
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::grpc::next;

/// An Envoy before the demo backend; `/healthz` needs the network filter.
struct Panicking {
    envoy: Envoy,
    backend: Option<Backend>,
    port: u16,
    channel: Channel,
}

fn configuration(admin: u16, port: u16, backend: u16) -> Value {
    let filters = vec![module::filter(&json!({
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
        "grpc_health": {"services": {"": "/healthz"}},
    }))];
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
            backend: Some(backend),
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
        let prober = Prober::http(panicking.port);
        let request = prober.request(reqwest::Method::GET, "/healthz");
        let request = request.header("content-type", "application/grpc");
        let answer = e2e::prober::Answer::to(request).await.unwrap();
        let status = if expected == 200 { "0" } else { "14" };
        assert_eq!(answer.header("grpc-status"), Some(status), "{hook}");
        panicking.ping().await;
        let exit = panicking.envoy.stop();
        let caught = panicking.caught(hook);
        assert_eq!(caught > 0, hook != "nothing", "{hook}: {caught}");
        assert!(exit.success(), "{hook}: {exit}");
    }
}

/// Hooks of a gRPC call's way, and what a Check and a Watch are told at first.
const OF_A_CALL: [(&str, Result<ServingStatus, Code>); 7] = [
    ("http_filter_new", Err(Code::Unavailable)),
    ("http_filter_request_headers", Err(Code::Unavailable)),
    ("http_filter_request_body", Err(Code::Unavailable)),
    ("http_filter_response_headers", Ok(ServingStatus::Serving)),
    ("http_filter_scheduled", Ok(ServingStatus::Serving)),
    ("http_filter_destroy", Ok(ServingStatus::Serving)),
    ("nothing", Ok(ServingStatus::Serving)),
];

/// Every call ends, or goes on with what is right.
#[tokio::test]
async fn in_each_hook_of_a_call() {
    for (hook, expected) in OF_A_CALL {
        let mut panicking = Panicking::start(hook).await;
        panicking.ping().await;
        let mut client = HealthClient::new(panicking.channel.clone());
        let ask = || HealthCheckRequest::default();
        let code = |status: Status| status.code();
        let Ok(expected) = expected else {
            for _ in 0..3 {
                let check = client
                    .check(ask())
                    .await
                    .map(|answer| answer.into_inner().status());
                assert_eq!(check.map_err(code), expected, "{hook}");
                let watch = client.watch(ask()).await.map(|_| ServingStatus::Unknown);
                assert_eq!(watch.map_err(code), expected, "{hook}");
            }
            assert!(panicking.caught(hook) > 0, "{hook}");
            continue;
        };
        // Where a panic ends Watches, each begins anew.
        eventually("the backend is known to be healthy", async || {
            let check = client.check(ask()).await.ok()?;
            (check.into_inner().status() == expected).then_some(())
        })
        .await;
        let mut watches = Vec::new();
        for _ in 0..4 {
            let mut watch = client.watch(ask()).await.unwrap().into_inner();
            assert_eq!(next(&mut watch).await.unwrap(), expected, "{hook}");
            watches.push(watch);
        }
        watches.remove(0);
        panicking.backend = None;
        for watch in &mut watches {
            let then = next(watch).await.map_err(code);
            if hook == "http_filter_scheduled" {
                assert!(then.is_err(), "{hook}: {then:?}");
            } else {
                assert_eq!(then, Ok(ServingStatus::NotServing), "{hook}");
            }
        }
        drop(watches);
        let exit = panicking.envoy.stop();
        assert_eq!(panicking.caught(hook) > 0, hook != "nothing", "{hook}");
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
