//! `envoy/recipes.yaml`, which pages of `docs/` explain and quote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::envoy::Envoy;
use e2e::prober::{Answer, Prober};
use e2e::shipped::{ADMIN, on_free_ports};
use e2e::{between, eventually, exchange_to_end, read, replaced};
use echo_server::Empty;
use echo_server::echo_client::EchoClient;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// `envoy/recipes.yaml`, moved to free ports and this machine's files.
struct Recipes {
    config: String,
    calls: u16,
    probes: u16,
    service: u16,
    fallback: u16,
}

impl Recipes {
    fn on_free_ports() -> Self {
        let addresses = [
            "0.0.0.0, port_value: 8080",
            "0.0.0.0, port_value: 8081",
            "app, port_value: 9000",
            "fallback, port_value: 9000",
            ADMIN,
        ];
        let text = read("envoy/recipes.yaml");
        let (config, [calls, probes, service, fallback, _]) = on_free_ports(&text, addresses);
        Self {
            config,
            calls,
            probes,
            service,
            fallback,
        }
    }

    /// With another text instead of one that must be there.
    fn with(mut self, from: &str, to: &str) -> Self {
        self.config = replaced(&self.config, from, to);
        self
    }

    async fn start(&self) -> Envoy {
        self.start_with(&[]).await
    }

    async fn start_with(&self, arguments: &[&str]) -> Envoy {
        Envoy::start(&self.config, arguments).await
    }

    /// Calls `yages.Echo/Ping` with the key that the listener wants.
    async fn ping(&self, channel: &Channel) -> Result<String, Status> {
        let answer = EchoClient::new(channel.clone())
            .ping(with_key(Empty {}))
            .await?;
        Ok(answer.into_inner().text)
    }

    /// Waits until a call is served: workers hear of a healthy host a moment after the admin.
    async fn wait_for_ping(&self) {
        eventually("a call is served", async || {
            self.ping(&self.channel()).await.ok()
        })
        .await;
    }

    /// A connection for calls, made when it is needed.
    fn channel(&self) -> Channel {
        let address = format!("http://127.0.0.1:{}", self.calls);
        Endpoint::from_shared(address).unwrap().connect_lazy()
    }
}

/// How many calls the listener allows.
const TOKENS: &str = "max_tokens: 100, tokens_per_fill: 100";

/// The header that it wants of a call.
const KEY: (&str, &str) = ("x-api-key", "CHANGE-ME");

fn with_key<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = KEY.1.parse().unwrap();
    request.metadata_mut().insert(KEY.0, value);
    request
}

/// Probes are answered, each on a connection of its own.
async fn are_answered(port: u16) {
    for _ in 0..20 {
        let answer = Prober::http(port).get("/healthz").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }
}

/// AWS's load balancer checks over HTTP/2 in the clear, by a gRPC call that no service has.
#[tokio::test]
async fn aws_alb_checks_by_grpc() {
    let recipes = Recipes::on_free_ports();
    let _envoy = recipes.start().await;
    let calls = Prober::http2(recipes.calls);
    let grpc_status = async |expected: &str| {
        eventually(&format!("grpc-status {expected}"), async || {
            let request = calls.request(Method::POST, "/AWS.ALB/healthcheck");
            let request = request.header("content-type", "application/grpc");
            let answer = Answer::to(request.body(&b"\0\0\0\0\0"[..])).await.ok()?;
            assert_eq!(answer.status, 200);
            (answer.header("grpc-status") == Some(expected)).then_some(())
        })
        .await;
    };
    grpc_status("14").await;
    let _fallback = Backend::start(recipes.fallback).await;
    Prober::http(recipes.probes).wait_for(200).await;
    grpc_status("14").await;
    let _service = Backend::start(recipes.service).await;
    grpc_status("0").await;
}

#[tokio::test]
async fn an_aggregate_is_as_healthy_as_its_members() {
    let recipes = Recipes::on_free_ports();
    let _envoy = recipes.start().await;
    let prober = Prober::http(recipes.probes);
    prober.wait_for(503).await;
    for port in [recipes.fallback, recipes.service] {
        let backend = Backend::start(port).await;
        prober.wait_for(200).await;
        recipes.wait_for_ping().await;
        backend.stop();
        prober.wait_for(503).await;
    }
}

/// Its own name instead of its members': the cause says what to do.
#[tokio::test]
async fn an_aggregate_has_no_hosts_of_its_own() {
    let recipes = Recipes::on_free_ports().with(
        r#""clusters": ["my_service", "my_fallback"], "require": "any""#,
        r#""clusters": ["service_or_fallback"], "details": true"#,
    );
    let _backend = Backend::start(recipes.service).await;
    let _envoy = recipes.start().await;
    recipes.wait_for_ping().await;
    let answer = Prober::http(recipes.probes).get("/healthz?verbose").await;
    assert_eq!(answer.status, 503);
    let body = answer.body;
    assert!(body.contains("list its members"), "{body:?}");
}

#[tokio::test]
async fn probes_are_answered_while_calls_are_refused() {
    for overloaded in [false, true] {
        let mut recipes = Recipes::on_free_ports();
        if overloaded {
            let heap = "max_heap_size_bytes: 1";
            recipes = recipes.with(&format!("{heap}073741824"), heap);
        }
        let _backend = Backend::start(recipes.service).await;
        let _envoy = recipes.start().await;
        Prober::http(recipes.probes).wait_for(200).await;
        let calls = Prober::http(recipes.calls);
        let (status, body) = match overloaded {
            true => (503, "envoy overloaded"),
            false => (200, "ok"),
        };
        calls.wait_for_answer("/healthz", status, body).await;
        match overloaded {
            true => drop(recipes.ping(&recipes.channel()).await.unwrap_err()),
            false => recipes.wait_for_ping().await,
        }
        are_answered(recipes.probes).await;
    }
}

#[tokio::test]
async fn http_1_0_is_answered_where_it_is_accepted() {
    let recipes = Recipes::on_free_ports();
    let _backend = Backend::start(recipes.service).await;
    let _envoy = recipes.start().await;
    let prober = Prober::http(recipes.probes);
    prober.wait_for(200).await;
    for request in [
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.0\r\nhost: x\r\n\r\n",
    ] {
        let answer = exchange_to_end(recipes.probes, request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 OK\r\n"), "{answer}");
        assert_eq!(body, "ok", "{answer}");
        let refused = exchange_to_end(recipes.calls, request.as_bytes()).await;
        assert!(refused.contains(" 426 Upgrade Required\r\n"), "{refused}");
    }
}

/// Calls take every connection that is allowed; the filter has not queried the admin before.
#[tokio::test]
async fn probes_are_answered_while_connections_are_used_up() {
    const LIMIT: usize = 20;
    let limit = "overload.global_downstream_max_connections: ";
    let [from, to] = [50000, LIMIT].map(|number| format!("{limit}{number}"));
    let recipes = Recipes::on_free_ports().with(&from, &to);
    let _backend = Backend::start(recipes.service).await;
    let _envoy = recipes.start().await;
    recipes.wait_for_ping().await;

    let request = b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n";
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..2 * LIMIT {
        let stream = TcpStream::connect(("127.0.0.1", recipes.calls));
        let mut stream = stream.await.unwrap();
        let _ = stream.write_all(request).await;
        match stream.read_u8().await {
            Ok(_) => open.push(stream),
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= LIMIT, "{} are open", open.len());
    are_answered(recipes.probes).await;
    drop(open);
}

/// What refuses calls, by key or by rate, does not refuse probes.
#[tokio::test]
async fn the_filter_stands_first() {
    let recipes = Recipes::on_free_ports()
        .with(TOKENS, "max_tokens: 3, tokens_per_fill: 3")
        .with("fill_interval: 60s", "fill_interval: 3600s");
    let _backend = Backend::start(recipes.service).await;
    let _envoy = recipes.start().await;
    Prober::http(recipes.probes).wait_for(200).await;
    let calls = Prober::http(recipes.calls);
    let with_key = async || calls.send(Method::GET, "/other", &[KEY]).await.status;
    assert_eq!(calls.get("/other").await.status, 403);
    // Three calls, whatever the backend says to them, and no more.
    for _ in 0..3 {
        assert!(![403, 429].contains(&with_key().await));
    }
    assert_eq!(with_key().await, 429);
    for _ in 0..20 {
        assert_eq!(calls.get("/healthz").await.status, 200);
    }
}

/// The same filters in another order: probes are refused.
#[tokio::test]
async fn a_filter_that_stands_later_does_not_see_what_is_refused() {
    let mut recipes = Recipes::on_free_ports();
    let start = |name: &str| format!("          - {name} ");
    let [healthz, rbac, limit] = [
        "&healthz",
        "name: envoy.filters.http.rbac",
        "name: envoy.filters.http.local_ratelimit",
    ]
    .map(start);
    let text = recipes.config.clone();
    let ours = format!("{healthz}{}", between(&text, &healthz, &rbac));
    let first = format!("{rbac}{}", between(&text, &rbac, &limit));
    recipes = recipes.with(&format!("{ours}{first}"), &format!("{first}{ours}"));
    let _backend = Backend::start(recipes.service).await;
    let _envoy = recipes.start().await;
    Prober::http(recipes.probes).wait_for(200).await;
    let refused = Prober::http(recipes.calls).get("/healthz").await;
    assert_eq!(refused.status, 403);
}

/// Callers who go on calling, each on connections of its own.
struct Callers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Callers {
    /// Two that keep their connection, and two with a new one for each call.
    fn start(recipes: &Arc<Recipes>) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..4).map(|nth| {
            let (recipes, stop, done) = (recipes.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let mut channel = recipes.channel();
                while !stop.load(Ordering::Relaxed) {
                    if nth % 2 == 0 {
                        channel = recipes.channel();
                    }
                    assert_eq!(recipes.ping(&channel).await.unwrap(), "pong");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, done, tasks }
    }

    /// Waits until this many more calls are done.
    async fn do_more(&self, count: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("calls go on", async || {
            let failed = self.tasks.iter().any(|task| task.is_finished());
            assert!(!failed, "a call was lost");
            (self.done.load(Ordering::Relaxed) >= before + count).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call was lost");
        }
    }
}

/// What the two commands of `docs/operations.md` POST to the admin.
fn drain_commands(page: &str) -> [&str; 2] {
    let words = between(page, "\n## Drain a pod\n", "\n1. ").split_whitespace();
    let paths = words.filter_map(|word| word.trim_matches('\'').strip_prefix("localhost:9901"));
    let paths: Vec<_> = paths.collect();
    paths.try_into().expect("two commands")
}

/// The commands of `docs/operations.md`, one after the other.
#[tokio::test]
async fn a_drain_loses_no_call() {
    let page = read("docs/operations.md");
    let [fail, drain] = drain_commands(&page);
    let many = "max_tokens: 1000000, tokens_per_fill: 1000000";
    let recipes = Arc::new(Recipes::on_free_ports().with(TOKENS, many));
    let backend = Backend::start(recipes.service).await;
    let drain_time = Duration::from_secs(1);
    let envoy = recipes.start_with(&["--drain-time-s", "1"]).await;
    let prober = Prober::http(recipes.probes);
    prober.wait_for(200).await;

    recipes.wait_for_ping().await;
    let callers = Callers::start(&recipes);
    let mut watch = HealthClient::new(recipes.channel())
        .watch(with_key(HealthCheckRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let mut status = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(status().await, ServingStatus::Serving);
    callers.do_more(50).await;

    // The balancer learns of it, and sends its calls meanwhile.
    assert_eq!(envoy.post(fail).await.status, 200);
    prober.wait_for(503).await;
    callers.do_more(50).await;
    let begun = Instant::now();
    assert_eq!(envoy.post(drain).await.status, 200);
    // Until the drain's time is long over.
    while begun.elapsed() < 3 * drain_time {
        callers.do_more(10).await;
    }
    callers.stop().await;

    // A call under way since before the drain is served still.
    backend.turn_health_over();
    while status().await == ServingStatus::Serving {}
    assert_eq!(prober.get("/healthz").await.status, 503);
    // SIGTERM ends Envoy.
    drop(envoy);
}
