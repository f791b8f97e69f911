//! The forms of an answer, and the requests that are none of ours.

use e2e::config::{cluster, with_tcp_check};
use e2e::free_port;
use e2e::prober::Answer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Native;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/health+json";

/// `/up` and `/down` with details, `/plain` for the unhealthy cluster without.
async fn native() -> Native {
    let endpoints = json!([
        {"path": "/up", "clusters": ["up"], "details": true},
        {"path": "/down", "clusters": ["up", "down"], "details": true},
        {"path": "/plain", "clusters": ["down"]},
    ]);
    let clusters = vec![
        cluster("up", &[("127.0.0.1", 1)]),
        with_tcp_check(cluster("down", &[("127.0.0.1", free_port())])),
    ];
    let native = Native::start(endpoints, clusters).await;
    native.wait_for("/down", 503, "").await;
    native
}

fn check(answer: &Answer, status: u16, content_type: &str, body: &str) {
    assert_eq!((answer.status, answer.body.as_str()), (status, body));
    assert_eq!(answer.header("content-type"), Some(content_type));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let mut names: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names.retain(|name| *name != "allow");
    let known = [
        "cache-control",
        "content-length",
        "content-type",
        "date",
        "server",
    ];
    assert_eq!(names, known);
}

#[tokio::test]
async fn every_form() {
    let native = native().await;
    let ask = async |method: Method, path: &str, accept: &str| {
        let request = native.prober.request(method, path).header("accept", accept);
        Answer::to(request).await.unwrap()
    };
    check(&ask(Method::GET, "/up", "*/*").await, 200, TEXT, "ok");
    check(&ask(Method::GET, "/up?x=1", "*/*").await, 200, TEXT, "ok");
    check(
        &ask(Method::GET, "/down", "*/*").await,
        503,
        TEXT,
        "unavailable",
    );
    let failed = "[+]up 1/1 healthy\n[-]down 0/1 healthy\nhealthz check failed\n";
    check(
        &ask(Method::GET, "/down?verbose", "*/*").await,
        503,
        TEXT,
        failed,
    );
    let json = r#"{"status":"fail","checks":{"up":[{"status":"pass","healthy":1,"total":1,"required":1,"hosts":[]}],"down":[{"status":"fail","output":"down 0/1 healthy","healthy":0,"total":1,"required":1,"hosts":[]}]}}"#;
    check(
        &ask(Method::GET, "/down?format=json", "*/*").await,
        503,
        JSON,
        json,
    );
    let answer = ask(Method::GET, "/down", "application/json").await;
    check(&answer, 503, JSON, json);
    assert!(serde_json::from_str::<Value>(&answer.body).is_ok());
    for query in ["", "?verbose", "?format=json"] {
        let answer = ask(Method::GET, &format!("/plain{query}"), "application/json").await;
        check(&answer, 503, TEXT, "unavailable");
    }
    for (path, status, length) in [("/up", 200, "2"), ("/down?verbose", 503, "59")] {
        let head = ask(Method::HEAD, path, "*/*").await;
        check(&head, status, TEXT, "");
        assert_eq!(head.header("content-length"), Some(length), "{path}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = ask(method, "/up", "*/*").await;
        check(&answer, 405, TEXT, "method not allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    for (path, status, message) in [("/up", "0", None), ("/plain", "14", Some("unavailable"))] {
        let request = native.prober.request(Method::POST, path);
        let request = request.header("content-type", "application/grpc+proto");
        let answer = Answer::to(request).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert_eq!(answer.header("grpc-status"), Some(status));
        assert_eq!(answer.header("grpc-message"), message);
    }
}

async fn exchange(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn other_paths_go_on() {
    let native = native().await;
    let long = format!("/{}", "x".repeat(50_000));
    for path in [
        "/", "/u", "/upp", "/up/", "//up", "/UP", "/%75p", "/x/../up", "/up/../x", &long,
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = exchange(native.port, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 418 "), "{path:.20}: {answer}");
        assert!(answer.ends_with("passed"), "{path:.20}: {answer}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_utf8_harm_nobody() {
    let native = native().await;
    for header in ["accept", "content-type", "x-bad", "user-agent"] {
        let head = format!("GET /up HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}: ");
        let request = [head.as_bytes(), b"\xff\xfe\r\n\r\n"].concat();
        let answer = exchange(native.port, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{header}: {answer}");
    }
}

/// The answer comes before the body, and what comes of the body is dropped.
#[tokio::test]
async fn a_body_is_not_waited_for() {
    let native = native().await;
    for promised in ["content-length: 1000000", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(("127.0.0.1", native.port))
            .await
            .unwrap();
        let head = format!("GET /up HTTP/1.1\r\nhost: x\r\n{promised}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&start), "HTTP/1.1 200 OK");
        // Envoy may have closed the connection by now.
        let _ = stream.write_all(&[b'x'; 100_000]).await;
    }
    native.wait_for("/up", 200, "ok").await;
}

/// HTTP/2 in the clear, with many requests at once on one connection.
#[tokio::test]
async fn http2() {
    let native = native().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", native.port);
    let mut asked = tokio::task::JoinSet::new();
    for nth in 0..200 {
        let (path, status) = [("/up", 200), ("/down?verbose", 503), ("/x", 418)][nth % 3];
        let request = client.get(url(path));
        asked.spawn(async move { (request.send().await.unwrap().status().as_u16(), status) });
    }
    while let Some(answer) = asked.join_next().await {
        let (found, expected) = answer.unwrap();
        assert_eq!(found, expected);
    }
    let head = client.head(url("/up")).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.text().await.unwrap().as_str()),
        (200, "")
    );
}
