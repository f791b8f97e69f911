//! The forms of an answer, and what it does not say.

use std::time::Duration;

use e2e::config::{bootstrap, cluster, healthz, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, envoy_with_fake};
use e2e::free_port;
use e2e::prober::{Answer, Prober};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An Envoy with a healthy and an unhealthy cluster: `/up` and `/down` with details, `/plain`
/// for the unhealthy one without.
struct Setup {
    _envoy: Envoy,
    _live: TcpListener,
    prober: Prober,
    live: u16,
    dead: u16,
}

async fn setup() -> Setup {
    let (live, dead, port, admin) = (free_port(), free_port(), free_port(), free_port());
    let listening = TcpListener::bind(("127.0.0.1", live)).await.unwrap();
    let filter = healthz(&json!({
        "admin_cluster": "local_admin",
        "max_age_ms": 0,
        "endpoints": [
            {"path": "/up", "clusters": ["up"], "details": true},
            {"path": "/down", "clusters": ["up", "down"], "details": true},
            {"path": "/plain", "clusters": ["down"]},
        ],
    }));
    let clusters = vec![
        with_tcp_check(cluster("up", &[("127.0.0.1", live)])),
        with_tcp_check(cluster("down", &[("127.0.0.1", dead)])),
    ];
    let config = bootstrap(admin, vec![listener(port, filter)], clusters);
    let setup = Setup {
        _envoy: Envoy::start(&config, admin).await,
        _live: listening,
        prober: Prober::http(port),
        live,
        dead,
    };
    let prober = &setup.prober;
    e2e::eventually("the checks have run", async || {
        (prober.get("/up").await.status == 200).then_some(())
    })
    .await;
    setup
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/health+json";

fn check(answer: &Answer, status: u16, content_type: &str, body: &str) {
    assert_eq!((answer.status, answer.body.as_str()), (status, body));
    assert_eq!(answer.header("content-type"), Some(content_type));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn details() {
    let setup = setup().await;
    let prober = &setup.prober;
    let (live, dead) = (setup.live, setup.dead);
    check(&prober.get("/up").await, 200, TEXT, "ok");
    check(&prober.get("/down").await, 503, TEXT, "unavailable");
    let passed = "[+]up 1/1 healthy\nhealthz check passed\n";
    check(&prober.get("/up?verbose").await, 200, TEXT, passed);
    let failed = format!(
        "[+]up 1/1 healthy\n[-]down 0/1 healthy: 127.0.0.1:{dead} failed_active_hc\nhealthz check failed\n"
    );
    check(&prober.get("/down?verbose").await, 503, TEXT, &failed);

    for (path, accept) in [
        ("/down?format=json", ""),
        ("/down", "application/json"),
        ("/down", "application/health+json;q=0.9, text/plain;q=0.5"),
    ] {
        let request = prober.request(Method::GET, path).header("accept", accept);
        let answer = Answer::to(request).await.unwrap();
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        check(&answer, 503, JSON, &answer.body);
        assert_eq!(body["status"], "fail");
        let (up, down) = (&body["checks"]["up"][0], &body["checks"]["down"][0]);
        assert_eq!(
            (&up["status"], &up["healthy"], &up["total"]),
            (&json!("pass"), &json!(1), &json!(1))
        );
        assert_eq!(up["hosts"][0]["address"], format!("127.0.0.1:{live}"));
        assert_eq!(down["hosts"][0]["flags"], json!(["failed_active_hc"]));
        assert!(down["ageMs"].is_u64());
    }
    let request = prober
        .request(Method::GET, "/up")
        .header("accept", "text/plain, application/json");
    check(&Answer::to(request).await.unwrap(), 200, TEXT, "ok");

    let head = Answer::to(prober.request(Method::HEAD, "/down?verbose"))
        .await
        .unwrap();
    check(&head, 503, TEXT, "");
}

#[tokio::test]
async fn nothing_internal_without_details() {
    let setup = setup().await;
    for path in [
        "/plain",
        "/plain?verbose",
        "/plain?format=json",
        "/plain?verbose&format=json",
    ] {
        for accept in ["*/*", "application/json", "application/health+json"] {
            let request = setup
                .prober
                .request(Method::GET, path)
                .header("accept", accept);
            check(
                &Answer::to(request).await.unwrap(),
                503,
                TEXT,
                "unavailable",
            );
        }
    }
}

#[tokio::test]
async fn grpc_status() {
    let setup = setup().await;
    for content_type in ["application/grpc", "application/grpc+proto"] {
        for (path, status, message) in [("/up", "0", None), ("/plain", "14", Some("unavailable"))] {
            let request = setup.prober.request(Method::POST, path);
            let request = request.header("content-type", content_type);
            let answer = Answer::to(request).await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
            assert_eq!(answer.header("grpc-status"), Some(status));
            assert_eq!(answer.header("grpc-message"), message);
        }
    }
}

#[tokio::test]
async fn other_paths_go_on() {
    let setup = setup().await;
    let long = format!("/{}", "x".repeat(50_000));
    for path in [
        "/", "/u", "/upp", "/up/", "//up", "/UP", "/%75p", "/x/../up", "/up/../x", &long,
    ] {
        // A client of ours would tidy the path.
        let mut stream = TcpStream::connect(("127.0.0.1", port_of(&setup)))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 418 "), "{path:.20}: {answer}");
        assert!(answer.ends_with("passed"), "{path:.20}: {answer}");
    }
}

fn port_of(setup: &Setup) -> u16 {
    let request = setup.prober.request(Method::GET, "/").build().unwrap();
    request.url().port().unwrap()
}

/// An Envoy whose admin takes its time, so that probes wait.
async fn slow(delay: Duration) -> (Envoy, FakeAdmin, u16) {
    let fields = json!({"admin_timeout_ms": 60000, "max_age_ms": 60000});
    envoy_with_fake(Does::Delay(delay, HEALTHY.to_vec()), "2", fields).await
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let (_envoy, _fake, port) = slow(Duration::from_millis(500)).await;
    for promised in ["content-length: 1000000", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{promised}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_ok(&mut stream).await;
    }
    // More than Envoy buffers for a request (1 MiB), sent while the probe waits.
    let (_envoy, _fake, port) = slow(Duration::from_millis(500)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = "GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..64 {
        // Once the answer is there, Envoy may close the connection.
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    assert_ok(&mut stream).await;
}

async fn assert_ok(stream: &mut TcpStream) {
    let mut start = [0; 15];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&start), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn bytes_that_are_not_utf8_harm_nobody() {
    let setup = setup().await;
    for header in ["accept", "content-type", "x-bad", "user-agent"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port_of(&setup)))
            .await
            .unwrap();
        let head = format!("GET /up HTTP/1.1\r\nhost: x\r\n{header}: ");
        let request = [head.as_bytes(), b"\xff\xfe\r\n\r\n"].concat();
        stream.write_all(&request).await.unwrap();
        assert_ok(&mut stream).await;
    }
    assert_eq!(setup.prober.get("/up").await.status, 200);
}
