//! Clients that are slow, rude or hostile: what they get, and that nobody else notices.

use std::time::Duration;

use e2e::Build;
use e2e::config::cluster;
use e2e::fake_admin::{Does, envoy_with_fake};
use e2e::prober::Prober;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Served;

both_builds! {
    odd_requests,
    rude_clients,
}

/// What a client gets to see first.
const OK: &str = "HTTP/1.1 200 OK";
const PASSED: &str = "HTTP/1.1 418 ";
const TOO_LARGE: &str = "HTTP/1.1 431 ";
const BAD: &str = "HTTP/1.1 400 ";

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start(build: Build) -> Served {
    let config = json!({"endpoints": [{"path": "/healthz", "clusters": ["up"]}]});
    Served::start(build, &config, vec![cluster("up", &[1])]).await
}

/// Sends these bytes and reads the beginning of the answer.
async fn ask(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
    answer.truncate(read.expect("an answer in time").unwrap_or(0));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn odd_requests(build: Build) {
    let served = start(build).await;
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").into_bytes()
    };
    let many = |count: usize| {
        (0..count)
            .map(|index| format!("x-{index}: y\r\n"))
            .collect::<String>()
    };
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("plain", get("/healthz", ""), OK),
        ("a slash behind", get("/healthz/", ""), PASSED),
        ("a slash before", get("//healthz", ""), PASSED),
        ("dots", get("/healthz/../x", ""), PASSED),
        ("dots that lead here", get("/x/../healthz", ""), PASSED),
        ("percent-encoded", get("/%68ealthz", ""), PASSED),
        ("upper case", get("/HEALTHZ", ""), PASSED),
        ("a parameter of the path", get("/healthz;x=1", ""), PASSED),
        ("a whole URL", get("http://x/healthz", ""), OK),
        (
            "a query of 50 KB",
            get(&format!("/healthz?{}", "x".repeat(50_000)), ""),
            OK,
        ),
        (
            "a path of 60 KB",
            get(&format!("/{}", "x".repeat(61_440)), ""),
            TOO_LARGE,
        ),
        ("90 headers", get("/healthz", &many(90)), OK),
        ("100 headers", get("/healthz", &many(99)), OK),
        ("101 headers", get("/healthz", &many(100)), TOO_LARGE),
        ("200 headers", get("/healthz", &many(200)), TOO_LARGE),
        (
            "0xff in a header",
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-bad: \xff\xfe\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "0xff in accept",
            b"GET /healthz HTTP/1.1\r\nhost: x\r\naccept: \xff\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "0xff in content-type",
            b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-type: \xff\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "0xff in host",
            b"GET /healthz HTTP/1.1\r\nhost: \xff\r\n\r\n".to_vec(),
            BAD,
        ),
        (
            "0xff in the method",
            b"GE\xff /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            BAD,
        ),
        (
            "an empty host",
            b"GET /healthz HTTP/1.1\r\nhost:\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "a host that is none",
            b"GET /healthz HTTP/1.1\r\nhost: ..:99999\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "0xff in the query",
            b"GET /healthz?\xff HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            BAD,
        ),
        (
            "0xff in the path",
            b"GET /health\xff HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            BAD,
        ),
        ("no host", b"GET /healthz HTTP/1.1\r\n\r\n".to_vec(), BAD),
        (
            "an IPv6 host",
            b"GET /healthz HTTP/1.1\r\nhost: [::1]:1\r\n\r\n".to_vec(),
            OK,
        ),
        (
            "a promised body",
            get("/healthz", "content-length: 1000000\r\n"),
            OK,
        ),
    ];
    for (case, request, expected) in rows {
        let answer = ask(served.port, &request).await;
        assert!(answer.starts_with(expected), "{case}: {answer}");
        let next = Prober::http(served.port).get("/healthz").await.status;
        assert_eq!(next, 200, "after {case}");
    }
}

async fn rude_clients(build: Build) {
    let Served { envoy, port, .. } = start(build).await;
    // Leaves without a word, two hundred times.
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(GET).await.unwrap();
    }
    // One byte at a time.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in GET {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = [0; OK.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, OK.as_bytes());
    // Half-closes: Envoy takes that for the end of the connection, with or without an answer.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(GET).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    let _ = end.await.expect("the connection ends");

    assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
    e2e::eventually("nobody is left waiting", async || {
        (envoy.stat("http.e2e.downstream_rq_active").await == 0).then_some(())
    })
    .await;
}

/// However many come and go while the admin hangs, the filter keeps none of them.
#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let fields = json!({"admin_timeout_ms": 60000});
    let (envoy, _fake) = envoy_with_fake(Does::Hang, "1", fields).await;
    let port = envoy.port;
    let come_and_go = async |count: u64| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(GET).await.unwrap();
        }
        e2e::eventually("they came and left", async || {
            let came = envoy.stat("http.e2e.downstream_rq_total").await;
            let here = envoy.stat("http.e2e.downstream_rq_active").await;
            (came >= count && here == 0).then_some(())
        })
        .await;
        e2e::eventually("its memory is told", async || {
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
