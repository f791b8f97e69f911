//! Requests with many headers, large ones and odd ones.
//!
//! The wasm build reads all headers of a request at once, but of a request with more than 16 the path
//! first: so the rows stand on both sides of that.

use e2e::config::{bootstrap, cluster, listener_with_routes, manager};
use e2e::envoy::Envoy;
use e2e::{Build, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Served;

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

/// Sends a request and reads the answer until Envoy closes the connection.
async fn exchange(port: u16, first: &str, headers: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("{first} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    let request = [head.as_bytes(), headers, b"\r\n"].concat();
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// This many headers that mean nothing.
fn filler(count: usize) -> Vec<u8> {
    let lines = (0..count).map(|nth| format!("x-{nth}: {nth}\r\n"));
    lines.collect::<String>().into_bytes()
}

async fn probes_are_answered_whatever_their_headers(build: Build) {
    let (admin, port) = (free_port(), free_port());
    let config = json!({
        "endpoints": [{"path": "/healthz", "clusters": ["c"], "details": true}],
    });
    let listeners = vec![wide(build.listener(port, &config))];
    let clusters = vec![cluster("c", &[1])];
    let served = Served::of(&bootstrap(admin, listeners, clusters), admin, port).await;
    served.wait_for("/healthz", 200, "ok").await;

    let json: &[u8] = b"accept: application/json\r\n";
    let grpc: &[u8] = b"content-type: application/grpc\r\n";
    let odd: &[u8] = b"x-odd: \xff\xfe\x80\r\n";
    let rows: Vec<(&str, &str, Vec<u8>, Expected)> = vec![
        ("none", "GET", vec![], OK),
        ("few, JSON", "GET", [&filler(5), json].concat(), JSON),
        ("many, JSON", "GET", [&filler(200), json].concat(), JSON),
        ("JSON, many", "GET", [json, &filler(200)].concat(), JSON),
        ("many, gRPC", "POST", [&filler(200), grpc].concat(), GRPC),
        ("many, PUT", "PUT", filler(200), NOT_ALLOWED),
        ("not UTF-8", "GET", [odd, json].concat(), JSON),
        (
            "not UTF-8 among many",
            "GET",
            [&filler(40), odd, &filler(40), json].concat(),
            JSON,
        ),
        (
            "an accept that is not UTF-8",
            "GET",
            b"accept: \xff/\xfe\r\n".to_vec(),
            OK,
        ),
        (
            "two content-types, gRPC last",
            "PUT",
            [b"content-type: text/plain\r\n", grpc].concat(),
            NOT_ALLOWED,
        ),
        (
            "two content-types, none gRPC",
            "GET",
            b"content-type: text/plain\r\ncontent-type: a/b\r\n".to_vec(),
            OK,
        ),
        (
            "two accepts",
            "GET",
            [b"accept: image/png\r\n", json].concat(),
            JSON,
        ),
        (
            "no value",
            "GET",
            [b"x-empty:\r\ncontent-type:\r\n", json].concat(),
            JSON,
        ),
        (
            "an accept without a value",
            "GET",
            b"accept:\r\n".to_vec(),
            OK,
        ),
        (
            "60 KiB in one",
            "GET",
            [b"x-large: ", "x".repeat(60 << 10).as_bytes(), b"\r\n", json].concat(),
            JSON,
        ),
        (
            "60 KiB in many",
            "GET",
            [
                &(0..200)
                    .flat_map(|nth| format!("x-{nth}: {}\r\n", "x".repeat(300)).into_bytes())
                    .collect::<Vec<_>>(),
                json,
            ]
            .concat(),
            JSON,
        ),
    ];
    for (case, method, headers, (status, text)) in rows {
        let answer = exchange(port, &format!("{method} /healthz"), &headers).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{case}: {answer}");
        assert!(answer.contains(text), "{case}: {answer}");
    }
    // A name that is not UTF-8 Envoy itself refuses, or there is nothing odd to read for the filter.
    let answer = exchange(port, "GET /healthz", b"x-\xff: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    served.wait_for("/healthz", 200, "ok").await;
    let (status, _) = OK;
    assert_eq!(served.prober.get("/healthz").await.status, status);
}

/// The filter is on for every route; the upstream gets what it gets without it.
async fn other_traffic_passes_with_each_of_its_headers(build: Build) {
    let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (admin, with, without) = (free_port(), free_port(), free_port());
    let config = json!({"endpoints": [{"path": "/healthz", "clusters": ["c"]}]});
    let config = match build {
        Build::Wasm => json!({"admin_cluster": "local_admin", "endpoints": config["endpoints"]}),
        Build::Module => config,
    };
    let listener = |port, filters| {
        let routes = vec![json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}})];
        let mut listener = wide(listener_with_routes(port, filters, routes));
        manager(&mut listener)["generate_request_id"] = json!(false);
        listener
    };
    let filter = match build {
        Build::Wasm => build.filter(&config),
        Build::Module => {
            e2e::module::folder();
            e2e::module::filter(&config)
        }
    };
    let listeners = vec![listener(with, vec![filter]), listener(without, vec![])];
    let address = upstream.local_addr().unwrap().port();
    let config = bootstrap(admin, listeners, vec![cluster("c", &[address])]);
    let _envoy = Envoy::start(&config.to_string(), &[]).await;

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
    let headers = [&filler(95)[..], twice].concat();
    for port in [with, without] {
        let answer = exchange(port, "GET /other?x=1", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
    let received = server.await.unwrap();
    assert_eq!(received[0], received[1]);
    for header in filler(95)
        .split_inclusive(|&byte| byte == b'\n')
        .chain([&b"x-odd: \xff\xfe\r\n"[..]])
    {
        let has = received[0]
            .windows(header.len())
            .any(|bytes| bytes == header);
        assert!(has, "{}", String::from_utf8_lossy(header));
    }
}
