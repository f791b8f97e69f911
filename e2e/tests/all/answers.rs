//! The forms of an answer, what it does not say, and the requests that are none of ours.

use std::time::Duration;

use e2e::config::{Config, cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY};
use e2e::prober::{Answer, Prober};
use e2e::{Build, TcpHost, dead_port, exchange, free_port};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::OTHER_METHODS;

both_builds! {
    every_form,
    nothing_internal_without_details,
    grpc_status,
    other_paths_go_on,
    bytes_that_are_not_utf8_harm_nobody,
    a_body_is_not_waited_for,
    http2_in_the_clear,
}

/// An Envoy with a healthy and an unhealthy cluster: `/up` and `/down` with details, `/plain`
/// for the unhealthy one without.
struct Setup {
    envoy: Envoy,
    _host: TcpHost,
    live: u16,
    /// What `?verbose` says of `/down`.
    failed: String,
}

async fn setup(build: Build) -> Setup {
    let ((host, live), dead) = (TcpHost::on_free_port().await, dead_port());
    let filter = json!({
        "max_age_ms": 0,
        "admin_timeout_ms": 30000,
        "endpoints": [
            {"path": "/up", "clusters": ["up"], "details": true},
            {"path": "/down", "clusters": ["up", "down"], "details": true},
            {"path": "/plain", "clusters": ["down"]},
        ],
    });
    let config = Config::new()
        .listener(build.listener(free_port(), &filter))
        .cluster(with_tcp_check(cluster("up", &[live])))
        .cluster(with_tcp_check(cluster("down", &[dead])));
    let envoy = config.start().await;
    let host_failed = format!(": 127.0.0.1:{dead} failed_active_hc");
    let down = format!("[-]down 0/1 healthy{}", build.of_hosts(&host_failed));
    let failed = format!("[+]up 1/1 healthy\n{down}\nhealthz check failed\n");
    envoy.wait_for("/down?verbose", 503, &failed).await;
    Setup {
        envoy,
        _host: host,
        live,
        failed,
    }
}

impl Setup {
    async fn get(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, ("accept", accept)).await
    }

    async fn send(&self, method: Method, path: &str, header: (&str, &str)) -> Answer {
        self.envoy.prober.send(method, path, &[header]).await
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/health+json";

fn check(answer: &Answer, status: u16, content_type: &str, body: &str) {
    assert_eq!((answer.status, answer.body.as_str()), (status, body));
    assert_eq!(answer.header("content-type"), Some(content_type));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    let mut names: Vec<_> = names.filter(|name| *name != "allow").collect();
    names.sort_unstable();
    let known = "cache-control content-length content-type date server";
    assert_eq!(names.join(" "), known);
}

async fn every_form(build: Build) {
    let setup = setup(build).await;
    let passed = "[+]up 1/1 healthy\nhealthz check passed\n";
    let failed = setup.failed.as_str();
    for (path, accept, status, body) in [
        ("/up", "*/*", 200, "ok"),
        ("/up?", "*/*", 200, "ok"),
        ("/up?x=1", "*/*", 200, "ok"),
        ("/down", "*/*", 503, "unavailable"),
        ("/up?verbose", "*/*", 200, passed),
        ("/down?verbose", "*/*", 503, failed),
        ("/up", "text/plain, application/json", 200, "ok"),
    ] {
        check(&setup.get(path, accept).await, status, TEXT, body);
    }
    let json_second = "application/health+json;q=0.9, text/plain;q=0.5";
    for (path, accept) in [
        ("/down?format=json", ""),
        ("/down", "application/json"),
        ("/down", json_second),
    ] {
        let answer = setup.get(path, accept).await;
        check(&answer, 503, JSON, &answer.body);
        check_json(build, &setup, serde_json::from_str(&answer.body).unwrap());
    }
    for (path, status, length) in [("/up", 200, 2), ("/down?verbose", 503, failed.len())] {
        let head = setup.send(Method::HEAD, path, ("accept", "*/*")).await;
        check(&head, status, TEXT, "");
        let length = length.to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
    }
    for method in OTHER_METHODS {
        let answer = setup.send(method, "/up", ("accept", "*/*")).await;
        check(&answer, 405, TEXT, "method not allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
}

/// Of the module's answers the hosts and the snapshot's age are missing: it knows neither.
fn check_json(build: Build, setup: &Setup, mut body: Value) {
    let (_, down) = setup.failed.split_once("[-]").unwrap();
    let (down, _) = down.split_once('\n').unwrap();
    let mut expected = json!({"status": "fail", "checks": {
        "up": [{"status": "pass", "healthy": 1, "total": 1, "required": 1, "hosts": []}],
        "down": [{
            "status": "fail", "output": down, "healthy": 0, "total": 1, "required": 1, "hosts": [],
        }],
    }});
    if build == Build::Wasm {
        let (_, dead) = down.split_once(": ").unwrap();
        let (dead, _) = dead.split_once(' ').unwrap();
        let live = format!("127.0.0.1:{}", setup.live);
        for (check, address, status, flags) in [
            ("/checks/up/0", live.as_str(), "pass", json!([])),
            ("/checks/down/0", dead, "fail", json!(["failed_active_hc"])),
        ] {
            let host = json!({"address": address, "status": status, "flags": flags});
            expected.pointer_mut(check).unwrap()["hosts"] = json!([host]);
            let check = body.pointer_mut(check).unwrap().as_object_mut().unwrap();
            let age = check.remove("ageMs");
            assert!(age.is_some_and(|age| age.is_u64()));
        }
    }
    assert_eq!(body, expected);
}

async fn nothing_internal_without_details(build: Build) {
    let setup = setup(build).await;
    for query in ["", "?verbose", "?format=json", "?verbose&format=json"] {
        for accept in ["*/*", "application/json", JSON] {
            let answer = setup.get(&format!("/plain{query}"), accept).await;
            check(&answer, 503, TEXT, "unavailable");
        }
    }
}

async fn grpc_status(build: Build) {
    let setup = setup(build).await;
    for content_type in ["application/grpc", "application/grpc+proto"] {
        for (path, status, message) in [("/up", "0", None), ("/plain", "14", Some("unavailable"))] {
            let header = ("content-type", content_type);
            let answer = setup.send(Method::POST, path, header).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
            assert_eq!(answer.header("content-type"), Some("application/grpc"));
            assert_eq!(answer.header("grpc-status"), Some(status));
            assert_eq!(answer.header("grpc-message"), message);
        }
    }
    // Envoy makes no gRPC status for these: of the wasm's answers the HTTP status speaks.
    for content_type in ["application/grpc;x", "application/grpc; charset=utf-8"] {
        for (path, http, status) in [("/up", 200, "0"), ("/plain", 503, "14")] {
            for method in [Method::GET, Method::POST] {
                let header = ("content-type", content_type);
                let answer = setup.send(method, path, header).await;
                let seen = (answer.status, answer.header("grpc-status"));
                let expected = match build {
                    Build::Wasm => (http, None),
                    Build::Module => (200, Some(status)),
                };
                assert_eq!(seen, expected, "{content_type} {path}");
            }
        }
    }
}

async fn other_paths_go_on(build: Build) {
    let setup = setup(build).await;
    let envoy = &setup.envoy;
    let long = format!("/{}", "x".repeat(50_000));
    for path in [
        "/", "/u", "/upp", "/up/", "//up", "/UP", "/%75p", "/x/../up", "/up/../x", &long,
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = exchange(envoy.port, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 418 "), "{path:.20}: {answer}");
        assert!(answer.ends_with("passed"), "{path:.20}: {answer}");
    }
}

async fn bytes_that_are_not_utf8_harm_nobody(build: Build) {
    let setup = setup(build).await;
    let envoy = &setup.envoy;
    for header in ["accept", "content-type", "x-bad", "user-agent"] {
        let head = format!("GET /up HTTP/1.1\r\nhost: x\r\n{header}: ");
        let request = [head.as_bytes(), b"\xff\xfe\r\n\r\n"].concat();
        let answer = exchange(envoy.port, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{header}: {answer}");
    }
    envoy.wait_for("/up", 200, "ok").await;
}

/// The answer comes before the body. With the wasm build the probe waits meanwhile: its admin takes its
/// time, once for each Envoy.
async fn a_body_is_not_waited_for(build: Build) {
    let start = async || {
        let late = Does::Delay(Duration::from_millis(500), HEALTHY.to_vec());
        let fake = FakeAdmin::start(late).await;
        let filter = json!({"admin_timeout_ms": 60000, "max_age_ms": 60000});
        let config = Config::new()
            .fake_admin(fake.port)
            .cluster(cluster("c", &[1]));
        let config = config.listener(build.listener(free_port(), &filter));
        (config.start().await, fake)
    };
    let send = async |envoy: &Envoy, promised: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", envoy.port)).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{promised}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let sent = async {
            for _ in 0..64 {
                // Once the answer is there, Envoy may close the connection.
                let _ = writing.write_all(body).await;
            }
        };
        let mut start = [0; 15];
        let (read, ()) = tokio::join!(reading.read_exact(&mut start), sent);
        read.unwrap();
        assert_eq!(String::from_utf8_lossy(&start), "HTTP/1.1 200 OK");
    };
    let (envoy, _fake) = start().await;
    for promised in ["content-length: 1000000", "transfer-encoding: chunked"] {
        send(&envoy, promised, b"").await;
    }
    // More than Envoy buffers for a request (1 MiB).
    let piece = "x".repeat(0x10000);
    let chunk = format!("10000\r\n{piece}\r\n");
    for (promised, body) in [
        ("content-length: 10000000", piece),
        ("transfer-encoding: chunked", chunk),
    ] {
        let (envoy, _fake) = start().await;
        send(&envoy, promised, body.as_bytes()).await;
        envoy.wait_for("/healthz", 200, "ok").await;
    }
}

/// Many requests at once on one connection.
async fn http2_in_the_clear(build: Build) {
    let setup = setup(build).await;
    let envoy = &setup.envoy;
    let prober = Prober::http2(envoy.port);
    let mut requests = JoinSet::new();
    for nth in 0..200 {
        let (path, status) = [("/up", 200), ("/down?verbose", 503), ("/x", 418)][nth % 3];
        let prober = prober.clone();
        requests.spawn(async move { (prober.get(path).await.status, status) });
    }
    for (found, expected) in requests.join_all().await {
        assert_eq!(found, expected);
    }
    let head = prober.send(Method::HEAD, "/up", &[]).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
