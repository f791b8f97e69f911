//! The rows of the fault matrix in which the admin fails. With `max_stale_ms: 0` every probe is then
//! answered 503 in bounded time and the log says why; when it is back, 200; the neighbours notice
//! nothing. By default the last good snapshot answers while the admin is silent, and not after a
//! wrong reply.

use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, healthz, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY as HEALTHY_C, envoy_with_fake};
use e2e::prober::{Prober, probe_at_once};
use e2e::{eventually, free_port};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};

const TIMEOUT: Duration = Duration::from_millis(300);
const HEALTHY: &[u8] = b"the_service::127.0.0.1:9000::health_flags::healthy\n";

/// The `/clusters` of some other Envoy: whole, with healthy hosts, but none of ours.
const ANOTHER: &[u8] = include_bytes!("../../../src/testdata/clusters-envoy-1.36.4.txt");

/// One row: what is broken, whether that is silence, and the cause that the log must name.
struct Row {
    broken: &'static str,
    how: How,
    kind: Kind,
    cause: &'static str,
}

/// Whether a fault says anything of what the admin knows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Silence,
    WrongReply,
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
    let row = |broken, how, kind, cause| Row {
        broken,
        how,
        kind,
        cause,
    };
    let silence = |broken, does, cause| row(broken, How::Fake(does), Kind::Silence, cause);
    let answer = |broken, status, body: &[u8], cause| {
        let does = Does::Answer(status, body.to_vec());
        row(broken, How::Fake(does), Kind::WrongReply, cause)
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
        row("refused", How::Refused, Kind::Silence, refused),
        // Either page, whichever Envoy gives up first.
        row(
            "mute",
            How::Mute,
            Kind::Silence,
            "did not answer within admin_timeout_ms",
        ),
        silence("hangs", Does::Hang, timeout),
        silence("hangs_in_body", Does::HangInBody(HEALTHY.into()), cut_off),
        silence("cut_off", Does::CutOff(HEALTHY.into()), cut_off),
        silence("trickles", Does::Trickle(HEALTHY.into()), cut_off),
        silence("closes", Does::Close, refused),
        silence(
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
            Kind::WrongReply,
            "Envoy has no cluster",
        ),
        row(
            "cluster_empty",
            How::Cluster(Some(cluster("", &[]))),
            Kind::Silence,
            not_sent,
        ),
        row(
            "circuit_breaker",
            How::Cluster(Some(no_requests)),
            Kind::Silence,
            "/clusters answered 503",
        ),
    ]
}

/// A filter of its own for a row, whose admin is this cluster; `/NAME` is its path.
fn filter(name: &str, timeout: Duration, max_stale: Duration) -> Value {
    healthz(&json!({
        "name": name,
        "admin_cluster": format!("admin_{name}"),
        "admin_timeout_ms": timeout.as_millis() as u64,
        "max_stale_ms": max_stale.as_millis() as u64,
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
    let mut probes = JoinSet::new();
    for _ in 0..20 {
        let (prober, path) = (prober.clone(), path.clone());
        probes.spawn(async move {
            let begun = Instant::now();
            (prober.get(&path).await.status, begun.elapsed())
        });
    }
    for (status, took) in probes.join_all().await {
        assert_eq!(status, 503, "{name}");
        // One call's time, and a busy machine's.
        assert!(took < TIMEOUT * 10, "{name}: {took:?}");
    }
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
            fake.change_to(does.clone());
            let asked = fake.requests();
            check_broken(name, &prober).await;
            assert!(fake.requests() > asked, "{name}: the fake was not asked");
            fake.change_to(sound());
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
    let mut listeners = vec![listener(
        neighbour,
        filter("neighbour", e2e::DEADLINE, Duration::ZERO),
    )];
    let neighbours = FakeAdmin::start(sound()).await;
    let leads_to = |port| cluster("", &[("127.0.0.1", port)]);
    let mut clusters = vec![named("neighbour", leads_to(neighbours.port))];
    let mut checks = JoinSet::new();
    let mut causes = Vec::new();
    let mut running = Vec::new();
    for row in rows() {
        let (port, admin_port) = (free_port(), free_port());
        listeners.push(listener(port, filter(row.broken, TIMEOUT, Duration::ZERO)));
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
        let line = format!("envoy-healthz[{broken}]: /{broken} is unhealthy: ");
        eventually(&format!("the log says {line}{cause}"), async || {
            (!envoy.logged(&[&line, cause]).is_empty()).then_some(())
        })
        .await;
    }
}

const MAX_STALE: Duration = Duration::from_secs(2);

/// Silence answers from the last good snapshot until it is too old, whatever kind of silence, and a
/// wrong reply does not; one line when the admin becomes unavailable, and one when it is back.
#[tokio::test]
async fn silence_is_told_from_a_wrong_reply() {
    LocalSet::new().run_until(every_kind()).await;
}

async fn every_kind() {
    let admin = free_port();
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    let (mut checks, mut running, mut names) = (JoinSet::new(), Vec::new(), Vec::new());
    for row in rows() {
        let How::Fake(does) = row.how else { continue };
        let (port, admin_port) = (free_port(), free_port());
        listeners.push(listener(port, filter(row.broken, TIMEOUT, MAX_STALE)));
        clusters.push(named(row.broken, cluster("", &[("127.0.0.1", admin_port)])));
        running.push((row.broken, does, row.kind, port, admin_port));
        names.push((row.broken, row.cause));
    }
    let config = bootstrap(admin, listeners, clusters).to_string();
    // One worker: it has a snapshot of its own.
    let envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
    for (name, does, kind, port, admin_port) in running {
        checks.spawn_local(async move { check_kind(name, does, kind, port, admin_port).await });
    }
    while let Some(done) = checks.join_next().await {
        done.unwrap();
    }
    for (name, cause) in names {
        let line = format!("envoy-healthz[{name}]: ");
        // A whole page without our cluster is no fault of the admin's.
        let faulty = usize::from(!cause.starts_with("Envoy knows no such cluster"));
        for (text, count) in [
            ("admin unavailable: ", faulty),
            ("admin available again", faulty),
            (" is unhealthy: ", 1),
        ] {
            let lines = envoy.logged(&[&line, text]);
            assert_eq!(lines.len(), count, "{name}: {text}: {lines:?}");
        }
    }
}

async fn check_kind(name: &str, does: Does, kind: Kind, port: u16, admin_port: u16) {
    let (path, prober) = (format!("/{name}"), Prober::http(port));
    let fake = FakeAdmin::start_on(admin_port, sound()).await;
    check_sound(name, &prober).await;
    // Each probe asks: what is known now was asked for after this moment, and before the next one.
    let asked_after = Instant::now();
    assert_eq!(prober.get(&path).await.status, 200, "{name}");
    fake.change_to(does);
    let asked_before = Instant::now();
    let mut stale = 0;
    loop {
        let sent = Instant::now();
        let status = prober.get(&path).await.status;
        match (kind, status) {
            (Kind::Silence, 200) => {
                let age = sent - asked_before;
                assert!(age < MAX_STALE, "{name}: 200 by a snapshot {age:?} old");
                stale += 1;
            }
            (Kind::Silence, 503) => {
                let age = asked_after.elapsed();
                assert!(
                    age >= MAX_STALE,
                    "{name}: 503 beside a snapshot {age:?} old"
                );
                break;
            }
            (Kind::WrongReply, 503) => break,
            other => panic!("{name}: {status} after {:?}", other.0 == Kind::Silence),
        }
        assert!(asked_after.elapsed() < e2e::DEADLINE, "{name} never ends");
    }
    assert!(
        kind == Kind::WrongReply || stale > 5,
        "{name}: {stale} probes"
    );
    fake.change_to(sound());
    check_sound(name, &prober).await;
}

/// A probe waits for the admin no longer than a moment while a good snapshot is at hand, however long
/// a call may take; and for one call, not for several, while there is none.
#[tokio::test]
async fn a_silent_admin_holds_up_nobody() {
    let fields = json!({"max_age_ms": 0, "admin_timeout_ms": 60000, "max_stale_ms": 600_000});
    let good = Does::Answer(200, HEALTHY_C.to_vec());
    let (_envoy, fake, port) = envoy_with_fake(good, "1", fields).await;
    Prober::http(port).wait_for(200).await;
    fake.change_to(Does::Hang);
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(probe_at_once(port, 10).await, [200; 10]);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");

    let timeout = Duration::from_secs(2);
    let fields = json!({"max_age_ms": 0, "admin_timeout_ms": timeout.as_millis() as u64});
    let (_envoy, _fake, port) = envoy_with_fake(Does::Hang, "1", fields).await;
    let mut probes = JoinSet::new();
    for _ in 0..20 {
        probes.spawn(async move {
            let begun = Instant::now();
            (
                Prober::http(port).get("/healthz").await.status,
                begun.elapsed(),
            )
        });
    }
    for (status, took) in probes.join_all().await {
        assert_eq!(status, 503);
        assert!(took < 2 * timeout, "{took:?}");
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
    let filter = filter("huge", e2e::DEADLINE, Duration::ZERO);
    let config = bootstrap(admin, vec![listener(port, filter)], vec![huge]);
    let envoy = Envoy::start(&config, admin).await;
    for _ in 0..3 {
        assert_eq!(Prober::http(port).get("/huge").await.status, 503);
    }
    let cause = "/huge is unhealthy: admin: the reply to /clusters was cut off";
    assert_eq!(envoy.logged(&[cause]).len(), 1);
    fake.change_to(sound());
    check_sound("huge", &Prober::http(port)).await;
}
