//! Requests with many headers, large ones and odd ones.
//!
//! The wasm build reads all headers of a request at once, but of a request with more than 16 the path
//! first: so the rows stand on both sides of that.

use e2e::config::{Config, cluster, listener_with_routes, manager};
use e2e::{Build, exchange, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

both_builds! {
    probes_are_answered_whatever_their_headers,
    other_traffic_passes_with_each_of_its_headers,
}

/// How a request is answered: its status, and what must stand in the answer.
type Expected = (u16, &'static str);

const OK: Expected = (200, "\r\n\r\nok");
const JSON: Expected = (200, "content-type: application/health+json");
const GRPC: Expected = (200, "grpc-status: 0");
const NOT_ALLOWED: Expected = (405, "\r\n\r\nmethod not allowed");

/// A listener that takes more headers, and larger ones, than Envoy does by default.
fn wide(mut listener: Value) -> Value {
    let manager = manager(&mut listener);
    manager["max_request_headers_kb"] = json!(96);
    manager["common_http_protocol_options"] = json!({"max_headers_count": 300});
    listener
}

/// Sends a request with these headers.
async fn send(port: u16, first: &str, headers: &[u8]) -> String {
    let head = format!("{first} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    exchange(port, &[head.as_bytes(), headers, b"\r\n"].concat()).await
}

/// This many headers that mean nothing, each with a value of this length.
fn filler(count: usize, length: usize) -> Vec<u8> {
    let lines = (0..count).map(|nth| format!("x-{nth}: {}\r\n", "x".repeat(length)));
    lines.collect::<String>().into_bytes()
}

async fn probes_are_answered_whatever_their_headers(build: Build) {
    let filter = json!({
        "admin_timeout_ms": 30000,
        "endpoints": [{"path": "/healthz", "clusters": ["c"], "details": true}],
    });
    let config = Config::new()
        .cluster(cluster("c", &[1]))
        .listener(wide(build.listener(free_port(), &filter)));
    let envoy = config.start().await;
    envoy.wait_for("/healthz", 200, "ok").await;

    let json: &[u8] = b"accept: application/json\r\n";
    let grpc: &[u8] = b"content-type: application/grpc\r\n";
    let plain: &[u8] = b"content-type: text/plain\r\n";
    let other: &[u8] = b"content-type: a/b\r\n";
    let odd: &[u8] = b"x-odd: \xff\xfe\x80\r\n";
    let odd_accept: &[u8] = b"accept: \xff/\xfe\r\n";
    let no_value: &[u8] = b"x-empty:\r\ncontent-type:\r\n";
    let (few, many, half) = (filler(5, 1), filler(200, 1), filler(40, 1));
    let (large, long) = (filler(1, 60 << 10), filler(200, 300));
    let rows: [(_, _, &[&[u8]], Expected); 16] = [
        ("none", "GET", &[], OK),
        ("few, JSON", "GET", &[&few, json], JSON),
        ("many, JSON", "GET", &[&many, json], JSON),
        ("JSON, many", "GET", &[json, &many], JSON),
        ("many, gRPC", "POST", &[&many, grpc], GRPC),
        ("many, PUT", "PUT", &[&many], NOT_ALLOWED),
        ("not UTF-8", "GET", &[odd, json], JSON),
        ("odd among many", "GET", &[&half, odd, &half, json], JSON),
        ("an accept that is not UTF-8", "GET", &[odd_accept], OK),
        ("two types, gRPC last", "PUT", &[plain, grpc], NOT_ALLOWED),
        ("two types, none gRPC", "GET", &[plain, other], OK),
        (
            "two accepts",
            "GET",
            &[b"accept: image/png\r\n", json],
            JSON,
        ),
        ("no value", "GET", &[no_value, json], JSON),
        ("an accept without a value", "GET", &[b"accept:\r\n"], OK),
        ("60 KiB in one", "GET", &[&large, json], JSON),
        ("60 KiB in many", "GET", &[&long, json], JSON),
    ];
    for (case, method, headers, (status, text)) in rows {
        let answer = send(envoy.port, &format!("{method} /healthz"), &headers.concat()).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{case}: {answer}");
        assert!(answer.contains(text), "{case}: {answer}");
    }
    // A name that is not UTF-8 Envoy itself refuses, or there is nothing odd to read for the filter.
    let answer = send(envoy.port, "GET /healthz", b"x-\xff: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    envoy.wait_for("/healthz", 200, "ok").await;
}

/// The filter is on for every route; the upstream gets what it gets without it.
async fn other_traffic_passes_with_each_of_its_headers(build: Build) {
    let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (with, without) = (free_port(), free_port());
    let listener = |port, filters: Vec<Value>| {
        let routes = vec![json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}})];
        let mut listener = wide(listener_with_routes(port, filters, routes));
        manager(&mut listener)["generate_request_id"] = json!(false);
        listener
    };
    let config = Config::new()
        .cluster(cluster("c", &[upstream.local_addr().unwrap().port()]))
        .listener(listener(with, vec![build.filter(&json!({}))]))
        .listener(listener(without, vec![]));
    let _envoy = config.start().await;

    let server = tokio::spawn(async move {
        let mut received = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = upstream.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            received.push(request);
        }
        received
    });
    let twice = b"x-twice: a\r\nx-twice: b\r\ncontent-type: a/b\r\nx-odd: \xff\xfe\r\nx-empty:\r\n";
    let filler = filler(95, 1);
    let headers = [&filler[..], twice].concat();
    for port in [with, without] {
        let answer = send(port, "GET /other?x=1", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
    let received = server.await.unwrap();
    assert_eq!(received[0], received[1]);
    let lines = filler.split_inclusive(|&byte| byte == b'\n');
    for header in lines.chain([&b"x-odd: \xff\xfe\r\n"[..]]) {
        let mut found = received[0].windows(header.len());
        let has = found.any(|bytes| bytes == header);
        assert!(has, "{}", String::from_utf8_lossy(header));
    }
}
