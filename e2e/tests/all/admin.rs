//! The rows of the fault matrix in which the admin fails: while it does, every probe is answered
//! 503 in bounded time and the log says why; when it is back, 200; the neighbours notice nothing.

use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, healthz, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{eventually, free_port};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};

const TIMEOUT: Duration = Duration::from_millis(300);
const HEALTHY: &[u8] = b"the_service::127.0.0.1:9000::health_flags::healthy\n";

/// The `/clusters` of some other Envoy: whole, with healthy hosts, but none of ours.
const ANOTHER: &[u8] = include_bytes!("../../../src/testdata/clusters-envoy-1.36.4.txt");

/// One row: what is broken, and the cause that the log must name.
struct Row {
    broken: &'static str,
    how: How,
    cause: &'static str,
}

/// How it is broken.
enum How {
    /// A server in the admin's place does this, before and after it is sound.
    Fake(Does),
    /// Nobody listens, before and after somebody did.
    Refused,
    /// Connections are neither taken nor refused.
    Mute,
    /// The admin cluster is like this, and stays so.
    Cluster(Option<Value>),
}

fn rows() -> Vec<Row> {
    let row = |broken, how, cause| Row { broken, how, cause };
    let fake = |broken, does, cause| row(broken, How::Fake(does), cause);
    let answer = |broken, status, body: &[u8], cause| {
        fake(broken, Does::Answer(status, body.to_vec()), cause)
    };
    let timeout = "/clusters did not answer within admin_timeout_ms";
    let cut_off = "the reply to /clusters was cut off";
    let refused = "/clusters answered 503 (so does Envoy";
    let unknown = "Envoy knows no such cluster";
    let not_sent = "has no host, or its circuit breaker is open";
    let part = b"the_service::127.0.0.1:9000::health_fl";
    let inside = "ends inside a line";
    let other = b"other_the_service::127.0.0.1:9000::health_flags::healthy\n";
    let mut no_requests = cluster("", &[("127.0.0.1", 1)]);
    no_requests["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    vec![
        row("refused", How::Refused, refused),
        // Either page, whichever Envoy gives up first.
        row("mute", How::Mute, "did not answer within admin_timeout_ms"),
        fake("hangs", Does::Hang, timeout),
        fake("hangs_in_body", Does::HangInBody(HEALTHY.into()), cut_off),
        fake("cut_off", Does::CutOff(HEALTHY.into()), cut_off),
        fake("trickles", Does::Trickle(HEALTHY.into()), cut_off),
        fake("closes", Does::Close, refused),
        fake(
            "ready_hangs",
            Does::HangWhenReady(HEALTHY.into()),
            "/ready did not answer within admin_timeout_ms",
        ),
        answer("empty", 200, b"", unknown),
        answer("garbage", 200, b"<html>healthy</html>\n", unknown),
        answer("not_utf8", 200, b"\xff\xfe\0 healthy\n", unknown),
        answer("another_cluster", 200, other, unknown),
        answer("another_envoy", 200, ANOTHER, unknown),
        answer("truncated_line", 200, part, inside),
        answer("truncated_end", 200, HEALTHY.trim_ascii_end(), inside),
        answer("403", 403, HEALTHY, "allow_paths is too narrow"),
        answer("404", 404, HEALTHY, "/clusters answered 404"),
        answer("500", 500, HEALTHY, "/clusters answered 500"),
        row(
            "cluster_missing",
            How::Cluster(None),
            "Envoy has no cluster",
        ),
        row(
            "cluster_empty",
            How::Cluster(Some(cluster("", &[]))),
            not_sent,
        ),
        row(
            "circuit_breaker",
            How::Cluster(Some(no_requests)),
            "/clusters answered 503",
        ),
    ]
}

/// A filter of its own for a row, whose admin is this cluster; `/NAME` is its path.
fn filter(name: &str, timeout: Duration) -> Value {
    healthz(&json!({
        "admin_cluster": format!("admin_{name}"),
        "admin_timeout_ms": timeout.as_millis() as u64,
        "max_age_ms": 0,
        "endpoints": [{"path": format!("/{name}"), "clusters": ["the_service"]}],
    }))
}

fn named(name: &str, mut cluster: Value) -> Value {
    cluster["name"] = json!(format!("admin_{name}"));
    cluster["load_assignment"]["cluster_name"] = cluster["name"].clone();
    cluster
}

fn sound() -> Does {
    Does::Answer(200, HEALTHY.to_vec())
}

/// One by one and many at once, every probe is answered 503, in bounded time.
async fn check_broken(name: &str, prober: &Prober) {
    let path = format!("/{name}");
    for _ in 0..3 {
        let answer = prober.get(&path).await;
        let told = (answer.status, answer.body.as_str());
        assert_eq!(told, (503, "unavailable"), "{name}");
    }
    let begun = Instant::now();
    let mut probes = JoinSet::new();
    for _ in 0..20 {
        let (prober, path) = (prober.clone(), path.clone());
        probes.spawn(async move { prober.get(&path).await.status });
    }
    for status in probes.join_all().await {
        assert_eq!(status, 503, "{name}");
    }
    // Not a claim about speed: far less than one call after another would take.
    let took = begun.elapsed();
    assert!(took < TIMEOUT * 20, "{name}: {took:?}");
}

async fn check_sound(name: &str, prober: &Prober) {
    let path = format!("/{name}");
    eventually(&format!("{name} is sound"), async || {
        (prober.get(&path).await.status == 200).then_some(())
    })
    .await;
}

/// Brings a row's fault about, probes, and mends it.
async fn check(row: &Row, port: u16, admin_port: u16) {
    let (name, prober) = (row.broken, Prober::http(port));
    match &row.how {
        How::Fake(does) => {
            let fake = FakeAdmin::start_on(admin_port, sound()).await;
            check_sound(name, &prober).await;
            fake.turn_to(does.clone());
            let asked = fake.requests();
            check_broken(name, &prober).await;
            assert!(fake.requests() > asked, "{name}: the fake was not asked");
            fake.turn_to(sound());
            check_sound(name, &prober).await;
        }
        How::Refused => {
            check_broken(name, &prober).await;
            let fake = FakeAdmin::start_on(admin_port, sound()).await;
            check_sound(name, &prober).await;
            drop(fake);
            check_broken(name, &prober).await;
        }
        How::Mute => {
            // The queue of a listener that takes nobody is full: the kernel drops what comes.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], admin_port));
            socket.bind(address).unwrap();
            let listener = socket.listen(1).unwrap();
            let mut queued = Vec::new();
            while let Ok(Ok(stream)) =
                tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await
            {
                queued.push(stream);
            }
            check_broken(name, &prober).await;
            drop((listener, queued));
            let _fake = FakeAdmin::start_on(admin_port, sound()).await;
            check_sound(name, &prober).await;
        }
        How::Cluster(_) => check_broken(name, &prober).await,
    }
}

/// All rows in one Envoy, at the same time: each has a filter and an admin of its own.
#[tokio::test]
async fn every_row_of_a_broken_admin() {
    LocalSet::new().run_until(every_row()).await;
}

async fn every_row() {
    let (admin, neighbour) = (free_port(), free_port());
    let mut listeners = vec![listener(neighbour, filter("neighbour", e2e::DEADLINE))];
    let neighbours = FakeAdmin::start(sound()).await;
    let leads_to = |port| cluster("", &[("127.0.0.1", port)]);
    let mut clusters = vec![named("neighbour", leads_to(neighbours.port))];
    let mut checks = JoinSet::new();
    let mut causes = Vec::new();
    let mut running = Vec::new();
    for row in rows() {
        let (port, admin_port) = (free_port(), free_port());
        listeners.push(listener(port, filter(row.broken, TIMEOUT)));
        clusters.extend(match &row.how {
            How::Cluster(given) => given.clone().map(|given| named(row.broken, given)),
            _ => Some(named(row.broken, leads_to(admin_port))),
        });
        causes.push((row.broken, row.cause));
        running.push((row, port, admin_port));
    }
    let config = bootstrap(admin, listeners, clusters);
    let envoy = Envoy::start(&config, admin).await;
    for (row, port, admin_port) in running {
        checks.spawn_local(async move { check(&row, port, admin_port).await });
    }
    let prober = Prober::http(neighbour);
    let mut probes = 0;
    while !checks.is_empty() {
        while let Some(done) = checks.try_join_next() {
            done.unwrap();
        }
        assert_eq!(prober.get("/neighbour").await.status, 200);
        probes += 1;
    }
    assert!(probes > 20, "the neighbour was probed {probes} times");
    for (broken, cause) in causes {
        let line = format!("envoy-healthz: /{broken} is unhealthy: ");
        eventually(&format!("the log says {line}{cause}"), async || {
            (!envoy.logged(&[&line, cause]).is_empty()).then_some(())
        })
        .await;
    }
}

/// Envoy gives up on a reply of more than 32 MiB.
#[tokio::test]
async fn sixty_four_mib() {
    let line = [b'x'; 1023].into_iter().chain([b'\n']);
    let body: Vec<u8> = line.cycle().take(64 << 20).collect();
    let fake = FakeAdmin::start(Does::Answer(200, body)).await;
    let (admin, port) = (free_port(), free_port());
    let huge = named("huge", cluster("", &[("127.0.0.1", fake.port)]));
    let filter = filter("huge", e2e::DEADLINE);
    let config = bootstrap(admin, vec![listener(port, filter)], vec![huge]);
    let envoy = Envoy::start(&config, admin).await;
    for _ in 0..3 {
        assert_eq!(Prober::http(port).get("/huge").await.status, 503);
    }
    let cause = "/huge is unhealthy: admin: the reply to /clusters was cut off";
    assert_eq!(envoy.logged(&[cause]).len(), 1);
    fake.turn_to(sound());
    check_sound("huge", &Prober::http(port)).await;
}
