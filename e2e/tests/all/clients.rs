//! Clients that are slow, rude or hostile: what they get, and that nobody else notices.

use std::time::Duration;

use e2e::config::{Config, cluster};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, envoy_with_fake};
use e2e::prober::{Connection, Prober};
use e2e::{Build, DEADLINE, eventually, exchange, free_port, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

both_builds! {
    odd_requests,
    rude_clients,
}

/// How an answer begins.
const OK: &str = "HTTP/1.1 200 OK";
const PASSED: &str = "HTTP/1.1 418 ";
const TOO_LARGE: &str = "HTTP/1.1 431 ";
const BAD: &str = "HTTP/1.1 400 ";

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start(build: Build) -> Envoy {
    let config = Config::new().cluster(cluster("c", &[1]));
    let config = config.listener(build.listener(free_port(), &json!({"admin_timeout_ms": 30000})));
    config.start().await
}

async fn odd_requests(build: Build) {
    let envoy = start(build).await;
    let large = |start: &str, size| [start.as_bytes(), &vec![b'x'; size]].concat();
    let (query, path) = (large("GET /healthz?", 50_000), large("GET /", 61_440));
    let lines: [(&str, &[u8], &str); 14] = [
        ("plain", b"GET /healthz", OK),
        ("a slash behind", b"GET /healthz/", PASSED),
        ("a slash before", b"GET //healthz", PASSED),
        ("dots", b"GET /healthz/../x", PASSED),
        ("dots that lead here", b"GET /x/../healthz", PASSED),
        ("percent-encoded", b"GET /%68ealthz", PASSED),
        ("upper case", b"GET /HEALTHZ", PASSED),
        ("a parameter of the path", b"GET /healthz;x=1", PASSED),
        ("a whole URL", b"GET http://x/healthz", OK),
        ("a query of 50 KB", &query, OK),
        ("a path of 60 KB", &path, TOO_LARGE),
        ("0xff in the method", b"GE\xff /healthz", BAD),
        ("0xff in the query", b"GET /healthz?\xff", BAD),
        ("0xff in the path", b"GET /health\xff", BAD),
    ];
    let many = |count| {
        let fillers = (1..count).map(|nth| format!("x-{nth}: y\r\n"));
        format!("{}host: x\r\n", fillers.collect::<String>())
    };
    let many = [90, 100, 101, 200].map(many);
    let headers: [(&str, &[u8], &str); 13] = [
        ("90 headers", many[0].as_bytes(), OK),
        ("100 headers", many[1].as_bytes(), OK),
        ("101 headers", many[2].as_bytes(), TOO_LARGE),
        ("200 headers", many[3].as_bytes(), TOO_LARGE),
        ("0xff in a header", b"host: x\r\nx-bad: \xff\xfe\r\n", OK),
        ("0xff in accept", b"host: x\r\naccept: \xff\r\n", OK),
        ("0xff in a type", b"host: x\r\ncontent-type: \xff\r\n", OK),
        ("0xff in host", b"host: \xff\r\n", BAD),
        ("an empty host", b"host:\r\n", OK),
        ("a host that is none", b"host: ..:99999\r\n", OK),
        ("no host", b"", BAD),
        ("an IPv6 host", b"host: [::1]:1\r\n", OK),
        ("a body", b"host: x\r\ncontent-length: 1000000\r\n", OK),
    ];
    let lines = lines.map(|(case, line, expected)| (case, line, &b"host: x\r\n"[..], expected));
    let headers =
        headers.map(|(case, headers, expected)| (case, &b"GET /healthz"[..], headers, expected));
    for (case, line, headers, expected) in lines.into_iter().chain(headers) {
        let request = [line, b" HTTP/1.1\r\n", headers, b"\r\n"].concat();
        let answer = exchange(envoy.port, &request).await;
        assert!(answer.starts_with(expected), "{case}: {answer}");
        let next = Prober::http(envoy.port).get("/healthz").await.status;
        assert_eq!(next, 200, "after {case}");
    }
}

async fn rude_clients(build: Build) {
    let envoy = start(build).await;
    // Leaves without a word, two hundred times.
    for _ in 0..200 {
        Connection::open(envoy.port).await.send(GET).await;
    }
    // One byte at a time.
    let mut stream = TcpStream::connect(("127.0.0.1", envoy.port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in GET {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = [0; OK.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, OK.as_bytes());
    // Half-closes: Envoy takes that for the end of the connection, with or without an answer.
    let mut stream = TcpStream::connect(("127.0.0.1", envoy.port)).await.unwrap();
    stream.write_all(GET).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
    let _ = end.await.expect("the connection ends");

    assert_eq!(Prober::http(envoy.port).get("/healthz").await.status, 200);
    envoy
        .wait_for_stat("http.e2e.downstream_rq_active", 0)
        .await;
}

/// However many come and go while the admin hangs, the filter keeps none of them.
#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let fields = json!({"admin_timeout_ms": 60000});
    let (envoy, _fake) = envoy_with_fake(Does::Hang, "1", fields).await;
    let come_and_go = async |count: u64| {
        for _ in 0..count {
            Connection::open(envoy.port).await.send(GET).await;
        }
        until("they came and left", async || {
            let came = envoy.stat("http.e2e.downstream_rq_total").await;
            came >= count && envoy.stat("http.e2e.downstream_rq_active").await == 0
        })
        .await;
        eventually("its memory is shown", async || {
            let memory = "wasmcustom.envoy_healthz.vm_memory_bytes";
            Some(envoy.stat(memory).await).filter(|&bytes| bytes > 0)
        })
        .await
    };
    // A waiting probe takes some 40 bytes of the VM's memory: all that came would take over 1.1 MiB.
    // Those that wait at the same time, while Envoy is slow, may take some of that.
    let before = come_and_go(500).await;
    let after = come_and_go(30_000).await;
    assert!(after < before + 600_000, "{before} and {after} bytes");
}
