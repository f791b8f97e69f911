//! A deliberate panic in each hook, by `make panicking-module`'s build: Envoy lives, the probe is
//! answered 503 where the panic leaves it without a verdict, and other traffic goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::backend::{Backend, ping};
use e2e::config::{Config, cluster, listener_with_routes, manager, with_grpc_check};
use e2e::envoy::{Envoy, validate_in};
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::grpc_health::{NOT_SERVING, SERVING, Seen, Watch, channel, check};
use e2e::prober::{Answer, Prober};
use e2e::{eventually, exchange_to_end, free_port, module};
use reqwest::Method;
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};
use tonic::Code;
use tonic::transport::Channel;

use super::names_in_the_file;

/// Hooks of a probe's, a call's or an upload's way, and how the probe is answered.
const ON_THE_WAY: [(&str, u16); 9] = [
    ("http_filter_new", 503),
    ("http_filter_request_headers", 503),
    // No cluster can be queried by its name.
    ("network_filter_new", 503),
    ("http_filter_request_body", 200),
    ("http_filter_request_trailers", 200),
    ("http_filter_response_headers", 200),
    ("http_filter_destroy", 200),
    ("http_filter_config_destroy", 200),
    // None at all.
    ("nothing", 200),
];

/// What Envoy calls while it loads the module.
const WHILE_LOADING: [&str; 3] = [
    "program_init",
    "http_filter_config_new",
    "network_filter_config_new",
];

/// Those that do nothing, or nothing that can panic: they have no guard.
const WITHOUT_A_GUARD: [&str; 21] = [
    "http_filter_downstream_above_write_buffer_high_watermark",
    "http_filter_downstream_below_write_buffer_low_watermark",
    "http_filter_http_callout_done",
    "http_filter_http_stream_complete",
    "http_filter_http_stream_data",
    "http_filter_http_stream_headers",
    "http_filter_http_stream_reset",
    "http_filter_http_stream_trailers",
    "http_filter_response_body",
    "http_filter_response_trailers",
    "http_filter_stream_complete",
    "network_filter_above_write_buffer_high_watermark",
    "network_filter_below_write_buffer_low_watermark",
    "network_filter_config_destroy",
    "network_filter_destroy",
    "network_filter_event",
    "network_filter_http_callout_done",
    "network_filter_new_connection",
    "network_filter_read",
    "network_filter_scheduled",
    "network_filter_write",
];

const PREFIX: &str = "envoy_dynamic_module_on_";

#[test]
fn no_hook_is_forgotten() {
    let on_the_way = ON_THE_WAY.map(|(hook, _)| hook);
    let of_a_call = OF_A_CALL.map(|(hook, _)| hook);
    let lists = [
        &on_the_way[..],
        &of_a_call,
        &WHILE_LOADING,
        &WITHOUT_A_GUARD,
    ];
    let tested: BTreeSet<_> = lists.concat().into_iter().map(str::to_owned).collect();
    let mut hooks = names_in_the_file(PREFIX);
    hooks.insert("nothing".to_owned());
    assert_eq!(hooks, tested);
}

/// How many run at the same time, on how many connections each, for how long, and how long each
/// connection rests between two probes: all of them together leave the machine some air.
const TOGETHER: usize = 6;
const CONNECTIONS: usize = 50;
const LENGTH: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What is behind all Envoys.
struct Upstream {
    backend: Backend,
    http1: FakeAdmin,
}

/// An Envoy before it; `/healthz` needs the network filter.
struct Panicking {
    hook: &'static str,
    envoy: Envoy,
    channel: Channel,
}

fn configuration(backend: u16, http1: u16) -> Config {
    let filter = module::filter(&json!({
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
        "grpc_health": {"services": {"": "/healthz"}},
    }));
    let healthz = json!({"match": {"path": "/healthz"}, "direct_response": {"status": 404}});
    let calls = json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}});
    let routes = vec![healthz, module::route("/upload", "http1"), calls];
    let listener = listener_with_routes(free_port(), [filter], routes);
    let mut listener = module::with_network_filter(listener);
    manager(&mut listener)["http_protocol_options"] = json!({"enable_trailers": true});
    let backend = with_grpc_check(cluster("c", &[backend]));
    let clusters = [backend, cluster("http1", &[http1])];
    Config::new().clusters(clusters).listener(listener)
}

impl Panicking {
    async fn start(hook: &'static str, backend: u16, http1: u16) -> Self {
        let config = configuration(backend, http1);
        let folder = module::panicking_folder();
        let variables = [
            (module::SEARCH_PATH, folder.as_path()),
            ("ENVOY_HEALTHZ_PANIC", Path::new(hook)),
            ("RUST_BACKTRACE", Path::new("0")),
        ];
        let envoy = Envoy::start_in(&config.to_string(), &[], &variables).await;
        Self {
            hook,
            channel: channel(envoy.port),
            envoy,
        }
    }

    /// A body with trailers goes up.
    async fn upload(&self) {
        let request = b"POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
            transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-trailer: x\r\n\r\n";
        let answer = exchange_to_end(self.envoy.port, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{}", self.hook);
    }

    /// Probes on many connections, all with this status, and calls beside them.
    async fn flood(&self, expected: u16) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut flood = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (prober, stop) = (Prober::http(self.envoy.port), Arc::clone(&stop));
            flood.spawn(async move {
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    statuses.push(prober.get("/healthz").await.status);
                    tokio::time::sleep(PAUSE).await;
                }
                statuses
            });
        }
        let (started, mut calls) = (Instant::now(), 0);
        while started.elapsed() < LENGTH {
            assert_eq!(ping(&self.channel).await.unwrap(), "pong", "{}", self.hook);
            calls += 1;
            tokio::time::sleep(PAUSE).await;
        }
        stop.store(true, Ordering::Relaxed);
        let statuses = flood.join_all().await.concat();
        println!("{}: {} probes, {calls} calls", self.hook, statuses.len());
        assert!(statuses.len() > CONNECTIONS && calls > 0, "{}", self.hook);
        let good = statuses.iter().all(|status| *status == expected);
        assert!(good, "{}: not all are {expected}", self.hook);
    }

    fn caught(&self) -> usize {
        let line = format!("envoy-healthz: bug: panic in {} (", self.hook);
        self.envoy.logged(&[&line]).len()
    }

    async fn play(mut self, expected: u16) {
        eventually("a call succeeds", async || ping(&self.channel).await.ok()).await;
        self.upload().await;
        self.flood(expected).await;
        let probe = Prober::http(self.envoy.port).request(Method::GET, "/healthz");
        let probe = probe.header("content-type", "application/grpc");
        let answer = Answer::to(probe).await.unwrap();
        let status = if expected == 200 { "0" } else { "14" };
        assert_eq!(answer.header("grpc-status"), Some(status), "{}", self.hook);
        let exit = self.envoy.stop();
        assert_eq!(self.caught() > 0, self.hook != "nothing", "{}", self.hook);
        assert!(exit.success(), "{}: {exit}", self.hook);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_each_hook_of_the_way() {
    let http1 = Does::Respond(|_| {
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx".to_owned()
    });
    let upstream = Rc::new(Upstream {
        backend: Backend::start(free_port()).await,
        http1: FakeAdmin::start(http1).await,
    });
    let here = LocalSet::new();
    for group in ON_THE_WAY.chunks(TOGETHER) {
        let mut courses = JoinSet::new();
        for &(hook, expected) in group {
            let upstream = Rc::clone(&upstream);
            let course = async move {
                let (backend, http1) = (upstream.backend.port, upstream.http1.port);
                let panicking = Panicking::start(hook, backend, http1).await;
                panicking.play(expected).await;
            };
            courses.spawn_local_on(course, &here);
        }
        here.run_until(courses.join_all()).await;
    }
}

/// Hooks of a gRPC call's way, and the first answer to a Check and to a Watch.
const OF_A_CALL: [(&str, Seen); 7] = [
    ("http_filter_new", Seen::Ended(Code::Unavailable)),
    (
        "http_filter_request_headers",
        Seen::Ended(Code::Unavailable),
    ),
    ("http_filter_request_body", Seen::Ended(Code::Unavailable)),
    ("http_filter_response_headers", SERVING),
    ("http_filter_scheduled", SERVING),
    ("http_filter_destroy", SERVING),
    ("nothing", SERVING),
];

/// Every call ends, or goes on with what is right.
#[tokio::test]
async fn in_each_hook_of_a_call() {
    for (hook, expected) in OF_A_CALL {
        let backend = Backend::start(free_port()).await;
        let mut panicking = Panicking::start(hook, backend.port, 1).await;
        let channel = panicking.channel.clone();
        eventually("a call succeeds", async || ping(&channel).await.ok()).await;
        // Where a panic ends Watches, each begins anew.
        eventually("Check has the expected answer", async || {
            (check(&channel, "").await == expected).then_some(())
        })
        .await;
        let mut watches: Vec<_> = (0..4).map(|_| Watch::start(&channel, "")).collect();
        for watch in &watches {
            eventually("a Watch has the expected answer", async || {
                (watch.seen().first() == Some(&expected)).then_some(())
            })
            .await;
        }
        watches.remove(0);
        backend.stop();
        let then = match hook {
            "http_filter_scheduled" => Seen::Ended(Code::Unavailable),
            _ if expected == SERVING => NOT_SERVING,
            _ => expected,
        };
        for watch in &watches {
            watch.wait_for(then).await;
        }
        drop(watches);
        let exit = panicking.envoy.stop();
        assert_eq!(panicking.caught() > 0, hook != "nothing", "{hook}");
        assert!(exit.success(), "{hook}: {exit}");
    }
}

/// The configuration is refused, and Envoy does not crash.
#[test]
fn while_it_is_loaded() {
    let config = configuration(1, 1).to_string();
    let folder = module::panicking_folder();
    for hook in WHILE_LOADING {
        let variables = [
            (module::SEARCH_PATH, folder.as_path()),
            ("ENVOY_HEALTHZ_PANIC", Path::new(hook)),
        ];
        let (exit, log) = validate_in(&config, &variables);
        assert_eq!(exit.code(), Some(1), "{hook}: {exit} {log}");
        let caught = format!("bug: panic in {hook} (");
        assert!(log.contains(&caught), "{hook}: {log}");
    }
}
