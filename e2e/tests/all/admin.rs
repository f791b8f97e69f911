//! Admins that fail: every probe is answered 503, in bounded time, and the log says why.

use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, healthz, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{eventually, free_port};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_millis(300);

/// An Envoy whose filter asks this cluster in the admin's place.
async fn start(admin_cluster: Value) -> (Envoy, Prober) {
    let (admin, port) = (free_port(), free_port());
    let filter = healthz(&json!({
        "admin_cluster": "local_admin",
        "admin_timeout_ms": TIMEOUT.as_millis() as u64,
        "max_age_ms": 0,
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    }));
    let mut config = bootstrap(admin, vec![listener(port, filter)], vec![]);
    config["static_resources"]["clusters"] = json!([admin_cluster]);
    (Envoy::start(&config, admin).await, Prober::http(port))
}

/// Probes, one by one and many at once, and looks for the cause in the log.
async fn check(admin_cluster: Value, cause: &str) {
    let (envoy, prober) = start(admin_cluster).await;
    for _ in 0..3 {
        let answer = prober.get("/healthz").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "unavailable"),
            "{cause}"
        );
    }
    let begun = Instant::now();
    let probes: Vec<_> = (0..20)
        .map(|_| {
            let prober = prober.clone();
            tokio::spawn(async move { prober.get("/healthz").await.status })
        })
        .collect();
    for probe in probes {
        assert_eq!(probe.await.unwrap(), 503, "{cause}");
    }
    // Not a claim about speed: far less than one call after another would take.
    assert!(
        begun.elapsed() < TIMEOUT * 20,
        "{cause}: {:?}",
        begun.elapsed()
    );
    eventually(&format!("the log says {cause:?}"), async || {
        (!envoy.logged(&[cause]).is_empty()).then_some(())
    })
    .await;
}

async fn check_fake(does: Does, cause: &str) {
    let fake = FakeAdmin::start(does).await;
    check(cluster("local_admin", &[("127.0.0.1", fake.port)]), cause).await;
    assert!(fake.requests() > 0, "{cause}: the fake admin was not asked");
}

const HEALTHY: &[u8] = b"my_service::127.0.0.1:9000::health_flags::healthy\n";

#[tokio::test]
async fn the_fake_itself_can_be_healthy() {
    let fake = FakeAdmin::start(Does::Answer(200, HEALTHY.to_vec())).await;
    let (_envoy, prober) = start(cluster("local_admin", &[("127.0.0.1", fake.port)])).await;
    assert_eq!(prober.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn down() {
    let nobody = cluster("local_admin", &[("127.0.0.1", free_port())]);
    check(nobody, "/clusters answered 503").await;
}

#[tokio::test]
async fn cluster_missing() {
    let other = cluster("other", &[("127.0.0.1", 1)]);
    check(other, "Envoy has no cluster \"local_admin\"").await;
}

#[tokio::test]
async fn cluster_without_hosts() {
    check(
        cluster("local_admin", &[]),
        "has no host, or its circuit breaker is open",
    )
    .await;
}

#[tokio::test]
async fn circuit_breaker_open() {
    let fake = FakeAdmin::start(Does::Answer(200, HEALTHY.to_vec())).await;
    let mut cut_short = cluster("local_admin", &[("127.0.0.1", fake.port)]);
    cut_short["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    check(cut_short, "/clusters answered 503 (so does Envoy").await;
    assert_eq!(fake.requests(), 0);
}

/// Envoy gives up on a reply of more than 32 MiB.
#[tokio::test]
async fn sixty_four_mib() {
    let line = [b'x'; 1023].into_iter().chain([b'\n']);
    let body: Vec<u8> = line.cycle().take(64 << 20).collect();
    let fake = FakeAdmin::start(Does::Answer(200, body)).await;
    let huge = cluster("local_admin", &[("127.0.0.1", fake.port)]);
    let (_envoy, prober) = start(huge).await;
    for _ in 0..3 {
        assert_eq!(prober.get("/healthz").await.status, 503);
    }
}

#[tokio::test]
async fn hanging() {
    check_fake(
        Does::Hang,
        "/clusters did not answer within admin_timeout_ms",
    )
    .await;
}

#[tokio::test]
async fn hanging_in_the_body() {
    check_fake(
        Does::HangInBody(HEALTHY.to_vec()),
        "the reply to /clusters was cut off",
    )
    .await;
}

#[tokio::test]
async fn cut_off() {
    check_fake(
        Does::CutOff(HEALTHY.to_vec()),
        "the reply to /clusters was cut off",
    )
    .await;
}

#[tokio::test]
async fn trickling() {
    check_fake(
        Does::Trickle(HEALTHY.to_vec()),
        "the reply to /clusters was cut off",
    )
    .await;
}

#[tokio::test]
async fn closing() {
    check_fake(Does::Close, "/clusters answered 503").await;
}

#[tokio::test]
async fn answering_with_errors() {
    check_fake(
        Does::Answer(500, HEALTHY.to_vec()),
        "/clusters answered 500",
    )
    .await;
    check_fake(
        Does::Answer(403, HEALTHY.to_vec()),
        "allow_paths is too narrow",
    )
    .await;
}

#[tokio::test]
async fn ending_inside_a_line() {
    let text = HEALTHY.strip_suffix(b"\n").unwrap().to_vec();
    check_fake(Does::Answer(200, text), "ends inside a line").await;
}

#[tokio::test]
async fn answering_with_nothing_of_ours() {
    let unknown = "Envoy knows no such cluster";
    check_fake(Does::Answer(200, vec![]), unknown).await;
    check_fake(
        Does::Answer(200, b"<html>\xff\xfe\0 healthy\n".to_vec()),
        unknown,
    )
    .await;
    let other = b"other_my_service::127.0.0.1:9000::health_flags::healthy\n".to_vec();
    check_fake(Does::Answer(200, other), unknown).await;
}
