//! The forms of an answer, what it does not say, and the requests that are none of ours.

use std::time::Duration;

use e2e::config::{bootstrap_with_fake, cluster, with_tcp_check};
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY};
use e2e::prober::Answer;
use e2e::{Build, TcpHost, free_port};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{OTHER_METHODS, Served};

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
    served: Served,
    _host: TcpHost,
    live: u16,
    /// What `?verbose` says of `/down`.
    failed: String,
}

async fn setup(build: Build) -> Setup {
    let ((host, live), dead) = (TcpHost::on_free_port().await, free_port());
    let config = json!({
        "max_age_ms": 0,
        "endpoints": [
            {"path": "/up", "clusters": ["up"], "details": true},
            {"path": "/down", "clusters": ["up", "down"], "details": true},
            {"path": "/plain", "clusters": ["down"]},
        ],
    });
    let clusters = vec![
        with_tcp_check(cluster("up", &[live])),
        with_tcp_check(cluster("down", &[dead])),
    ];
    let served = Served::start(build, &config, clusters).await;
    let host_failed = format!(": 127.0.0.1:{dead} failed_active_hc");
    let failed = format!(
        "[+]up 1/1 healthy\n[-]down 0/1 healthy{}\nhealthz check failed\n",
        build.of_hosts(&host_failed)
    );
    served.wait_for("/down?verbose", 503, &failed).await;
    Setup {
        served,
        _host: host,
        live,
        failed,
    }
}

impl Setup {
    async fn ask(&self, method: Method, path: &str, header: (&str, &str)) -> Answer {
        let request = self.served.prober.request(method, path);
        let request = request.header(header.0, header.1);
        Answer::to(request).await.unwrap()
    }

    async fn get(&self, path: &str, accept: &str) -> Answer {
        self.ask(Method::GET, path, ("accept", accept)).await
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
    let known = [
        "cache-control",
        "content-length",
        "content-type",
        "date",
        "server",
    ];
    assert_eq!(names, known);
}

async fn every_form(build: Build) {
    let setup = setup(build).await;
    for path in ["/up", "/up?", "/up?x=1"] {
        check(&setup.get(path, "*/*").await, 200, TEXT, "ok");
    }
    check(&setup.get("/down", "*/*").await, 503, TEXT, "unavailable");
    let passed = "[+]up 1/1 healthy\nhealthz check passed\n";
    check(&setup.get("/up?verbose", "*/*").await, 200, TEXT, passed);
    let failed = &setup.failed;
    check(&setup.get("/down?verbose", "*/*").await, 503, TEXT, failed);

    for (path, accept) in [
        ("/down?format=json", ""),
        ("/down", "application/json"),
        ("/down", "application/health+json;q=0.9, text/plain;q=0.5"),
    ] {
        let answer = setup.get(path, accept).await;
        check(&answer, 503, JSON, &answer.body);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        check_json(build, &setup, body);
    }
    let text_first = "text/plain, application/json";
    check(&setup.get("/up", text_first).await, 200, TEXT, "ok");

    for (path, status, length) in [("/up", 200, 2), ("/down?verbose", 503, failed.len())] {
        let head = setup.ask(Method::HEAD, path, ("accept", "*/*")).await;
        check(&head, status, TEXT, "");
        let length = length.to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
    }
    for method in OTHER_METHODS {
        let answer = setup.ask(method, "/up", ("accept", "*/*")).await;
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
            let answer = setup.ask(Method::POST, path, header).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
            assert_eq!(answer.header("content-type"), Some("application/grpc"));
            assert_eq!(answer.header("grpc-status"), Some(status));
            assert_eq!(answer.header("grpc-message"), message);
        }
    }
}

/// Sends a request that a client of ours would tidy, and reads all of the answer.
async fn exchange(setup: &Setup, request: &[u8]) -> String {
    let address = ("127.0.0.1", setup.served.port);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn other_paths_go_on(build: Build) {
    let setup = setup(build).await;
    let long = format!("/{}", "x".repeat(50_000));
    for path in [
        "/", "/u", "/upp", "/up/", "//up", "/UP", "/%75p", "/x/../up", "/up/../x", &long,
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = exchange(&setup, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 418 "), "{path:.20}: {answer}");
        assert!(answer.ends_with("passed"), "{path:.20}: {answer}");
    }
}

async fn bytes_that_are_not_utf8_harm_nobody(build: Build) {
    let setup = setup(build).await;
    for header in ["accept", "content-type", "x-bad", "user-agent"] {
        let head = format!("GET /up HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}: ");
        let request = [head.as_bytes(), b"\xff\xfe\r\n\r\n"].concat();
        let answer = exchange(&setup, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{header}: {answer}");
    }
    setup.served.wait_for("/up", 200, "ok").await;
}

/// The answer comes before the body. With the wasm build the probe waits meanwhile: its admin takes its
/// time, once for each Envoy.
async fn a_body_is_not_waited_for(build: Build) {
    let start = async || {
        let slow = Does::Delay(Duration::from_millis(500), HEALTHY.to_vec());
        let fake = FakeAdmin::start(slow).await;
        let (admin, port) = (free_port(), free_port());
        let config = json!({
            "admin_timeout_ms": 60000, "max_age_ms": 60000,
            "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
        });
        let listeners = vec![build.listener(port, &config)];
        let clusters = vec![cluster("c", &[1])];
        let config = bootstrap_with_fake(admin, fake.port, listeners, clusters);
        (Served::of(&config, admin, port).await, fake)
    };
    let send = async |served: &Served, promised: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port))
            .await
            .unwrap();
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
    let (served, _fake) = start().await;
    for promised in ["content-length: 1000000", "transfer-encoding: chunked"] {
        send(&served, promised, b"").await;
    }
    // More than Envoy buffers for a request (1 MiB).
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for (promised, body) in [
        ("content-length: 10000000", "x".repeat(0x10000)),
        ("transfer-encoding: chunked", chunk),
    ] {
        let (served, _fake) = start().await;
        send(&served, promised, body.as_bytes()).await;
        served.wait_for("/healthz", 200, "ok").await;
    }
}

/// Many requests at once on one connection.
async fn http2_in_the_clear(build: Build) {
    let setup = setup(build).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", setup.served.port);
    let mut asked = JoinSet::new();
    for nth in 0..200 {
        let (path, status) = [("/up", 200), ("/down?verbose", 503), ("/x", 418)][nth % 3];
        let request = client.get(url(path));
        asked.spawn(async move { (request.send().await.unwrap().status().as_u16(), status) });
    }
    for (found, expected) in asked.join_all().await {
        assert_eq!(found, expected);
    }
    let head = client.head(url("/up")).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 200);
    assert_eq!(head.text().await.unwrap(), "");
}
