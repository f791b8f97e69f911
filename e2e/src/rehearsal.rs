//! A load balancer in front of two pods, as on GKE, to see what each way of answering `/healthz`
//! costs the callers.
//!
//! An Envoy instead of Google's load balancer checks `/healthz` of each pod by HTTP/2 over TLS, or the
//! module by `grpc.health.v1`; a pod is a sidecar Envoy with `envoy/envoy.yaml` or
//! `envoy/module.yaml`, and a backend. gRPC calls go through without
//! pause while one backend is killed, hung, drained or rolled over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::backend::{Backend, ping};
use crate::config::{Config, cluster, listener_with_routes, lua, with_https2};
use crate::envoy::Envoy;
use crate::shipped::Shipped;
use crate::{Build, free_port, replaced, until};

/// How the pods answer `/healthz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// This filter.
    Filter,
    /// The native module, checked by `grpc.health.v1`.
    Grpc,
    /// The Lua script.
    Lua,
    /// 200, whatever happens: the nginx way that the article rejects.
    Always,
}

/// What happens to the first pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its backend is killed, and started again.
    Kill,
    /// Its backend hangs, and goes on.
    Hang,
    /// It ends as a pod does: `/healthcheck/fail`, a while, SIGTERM; and starts again.
    Drain,
    /// Its backend alone is stopped with SIGTERM and started anew, as by a careless roll-over.
    RollOver,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Course {
    /// From the event until the balancer took the pod out, if it did.
    pub out_after: Option<Duration>,
    /// From the recovery until the balancer took it back in, if it was out.
    pub in_after: Option<Duration>,
    /// Every call: when it ended since the beginning, and whether it succeeded.
    pub calls: Vec<(Duration, bool)>,
    /// When the event and the recovery happened since the beginning.
    pub marks: [Duration; 2],
    /// Since the beginning: when each pod was in (true) or out, at each look.
    pub pool: Vec<(Duration, [bool; 2])>,
}

impl Course {
    /// How many calls failed.
    pub fn failed(&self) -> usize {
        self.calls.iter().filter(|(_, good)| !good).count()
    }
}

/// The balancer's check: every half second, out after 2, in after 1.
const CHECK_INTERVAL: &str = "0.5s";
/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// How many callers call without pause.
const CALLERS: usize = 2;
/// How long an unhealthy pod is left so before it recovers, and how long after is watched.
const WHILE: Duration = Duration::from_secs(8);

struct Pod {
    shipped: Shipped,
    envoy: Option<Envoy>,
    backend: Option<Backend>,
}

impl Pod {
    async fn start(answers: Answers) -> Self {
        let mut shipped = match answers {
            Answers::Grpc => Shipped::as_it_is(Build::Module),
            _ => Shipped::as_it_is(Build::Wasm),
        };
        shipped.config = pod_config(&shipped.config, answers);
        let mut pod = Self {
            shipped,
            envoy: None,
            backend: None,
        };
        pod.come().await;
        pod
    }

    async fn come(&mut self) {
        if self.backend.is_none() {
            self.backend = Some(Backend::start(self.shipped.backend_port).await);
        }
        if self.envoy.is_none() {
            self.envoy = Some(self.shipped.start().await);
        }
    }
}

/// The shipped configuration with another answer, and with what a preStop hook needs of the admin.
fn pod_config(shipped: &str, answers: Answers) -> String {
    if answers == Answers::Grpc {
        return shipped.to_owned();
    }
    let allowed = "  - {exact: /ready}\n";
    let drain = format!("{allowed}  - {{exact: /healthcheck/fail}}\n");
    let mut config = replaced(shipped, allowed, &drain);
    if answers == Answers::Filter {
        return config;
    }
    let (before, rest) = config
        .split_once("          - name: envoy-healthz\n")
        .expect("the filter");
    let router = "          - name: envoy.filters.http.router\n";
    let (_, after) = rest.split_once(router).expect("the router");
    let filter = match answers {
        Answers::Lua => format!("          - {}\n", lua("my_service", "local_admin")),
        _ => String::new(),
    };
    config = format!("{before}{filter}{router}{after}");
    let (before, rest) = config
        .split_once("                typed_per_filter_config:\n")
        .expect("it");
    let (_, after) = rest.split_once("config: {}\n").expect("the end of it");
    config = format!("{before}{after}");
    let [from, to] = [503, 200].map(|status| format!("direct_response: {{status: {status}}}"));
    replaced(&config, &from, &to)
}

async fn balancer(ports: &[u16; 2], answers: Answers) -> Envoy {
    let mut pool = with_https2(cluster("pods", ports));
    let (kind, check) = match answers {
        Answers::Grpc => ("grpc_health_check", json!({})),
        _ => {
            let http = json!({"path": "/healthz", "codec_client_type": "HTTP2"});
            ("http_health_check", http)
        }
    };
    pool["health_checks"] = json!([{
        "timeout": "0.5s", "interval": CHECK_INTERVAL, "no_traffic_interval": CHECK_INTERVAL,
        "unhealthy_threshold": 2, "healthy_threshold": 1, kind: check,
    }]);
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "pods", "timeout": "0s"}});
    let listener = listener_with_routes(free_port(), [], vec![route]);
    Config::new().cluster(pool).listener(listener).start().await
}

/// Whether the balancer has each pod in its pool.
async fn pool(balancer: &Envoy, pods: &[u16; 2]) -> Option<[bool; 2]> {
    let page = balancer.admin.try_get("/clusters").await.ok()?.body;
    Some(pods.map(|port| {
        let line = format!("pods::127.0.0.1:{port}::health_flags::healthy");
        page.lines().any(|found| found == line)
    }))
}

/// Plays an event and the recovery from it.
pub async fn play(answers: Answers, event: Event) -> Course {
    let mut pods = [Pod::start(answers).await, Pod::start(answers).await];
    let ports = [pods[0].shipped.port, pods[1].shipped.port];
    let balancer = Arc::new(balancer(&ports, answers).await);
    until("both pods are in", async || {
        pool(&balancer, &ports).await == Some([true; 2])
    })
    .await;

    let begun = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(call(balancer.port, begun, Arc::clone(&stop))))
        .collect();
    let watcher = watch(Arc::clone(&balancer), ports, begun, Arc::clone(&stop));
    tokio::time::sleep(Duration::from_secs(2)).await;

    let happened = begun.elapsed();
    let [pod, _] = &mut pods;
    match event {
        Event::Kill => pod.backend.take().expect("a backend").kill(),
        Event::Hang => pod.backend.as_ref().expect("a backend").hang(),
        Event::RollOver => pod.backend.take().expect("a backend").stop(),
        Event::Drain => {
            pod.envoy
                .as_ref()
                .expect("an Envoy")
                .post("/healthcheck/fail")
                .await;
            // What the preStop hook of envoy/gke sleeps, made shorter for a quicker check.
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(pod.envoy.take());
            drop(pod.backend.take());
        }
    }
    if event != Event::RollOver {
        tokio::time::sleep(WHILE.saturating_sub(begun.elapsed() - happened)).await;
    }
    let recovered = begun.elapsed();
    match event {
        Event::Hang => pod.backend.as_ref().expect("a backend").go_on(),
        _ => pod.come().await,
    }
    tokio::time::sleep(WHILE).await;
    stop.store(true, Ordering::Relaxed);

    let mut calls = Vec::new();
    for caller in callers {
        calls.extend(caller.await.expect("a caller"));
    }
    let pool = watcher.await.expect("the watcher");
    let seen = |from: Duration, inside: bool| {
        let mut looks = pool.iter().filter(|(time, _)| *time >= from);
        looks
            .find(|(_, pods)| pods[0] == inside)
            .map(|(time, _)| *time - from)
    };
    let out_after = seen(happened, false).filter(|after| happened + *after < recovered);
    Course {
        out_after,
        in_after: out_after.and_then(|_| seen(recovered, true)),
        calls,
        marks: [happened, recovered],
        pool,
    }
}

async fn call(port: u16, begun: Instant, stop: Arc<AtomicBool>) -> Vec<(Duration, bool)> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("a valid address")
        .timeout(CALL_LIMIT)
        .connect_lazy();
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let good = ping(&channel).await.is_ok();
        calls.push((begun.elapsed(), good));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    calls
}

fn watch(
    balancer: Arc<Envoy>,
    ports: [u16; 2],
    begun: Instant,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Vec<(Duration, [bool; 2])>> {
    tokio::spawn(async move {
        let mut looks = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if let Some(pods) = pool(&balancer, &ports).await {
                looks.push((begun.elapsed(), pods));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        looks
    })
}
