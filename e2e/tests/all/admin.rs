//! The rows of the fault matrix in which the admin fails. Silence is not a wrong reply: while
//! the admin is silent the last good snapshot answers until it is `max_stale_ms` old; a wrong reply
//! means 503 at once. Without a snapshot every probe is answered 503 in bounded time. The log says
//! why; when the admin is back, 200; the neighbours notice nothing.

mod stage;

use std::time::{Duration, Instant};

use e2e::config::cluster;
use e2e::fake_admin::{Does, HEALTHY, envoy_with_fake, healthy};
use e2e::prober::{Prober, probe_at_once};
use e2e::{DEADLINE, timed, until};
use serde_json::json;
use tokio::task::LocalSet;

use stage::{How, Is, Row, Running, Stage, play};

/// The `/clusters` of some other Envoy: whole, with healthy hosts, but none of ours.
const ANOTHER: &[u8] = include_bytes!("../../../src/testdata/clusters-envoy-1.36.4.txt");

/// The cause where the admin answers well, but not about our cluster.
const UNKNOWN: &str = "Envoy knows no such cluster";

fn rows() -> Vec<Row> {
    let row = |broken, how, is, cause| Row {
        broken,
        how,
        is,
        cause,
    };
    let silent = |broken, does, cause| row(broken, How::Fake(does), Is::Silence, cause);
    let wrong = |broken, status, body: &[u8], cause| {
        let does = Does::Answer(status, body.to_vec());
        row(broken, How::Fake(does), Is::Wrong, cause)
    };
    let good = || HEALTHY.to_vec();
    let timeout = "/clusters did not answer within admin_timeout_ms";
    let ready_timeout = "/ready did not answer within admin_timeout_ms";
    // Either page, whichever Envoy gives up first.
    let either_timeout = "did not answer within admin_timeout_ms";
    let cut_off = "the reply to /clusters was lost after its headers: cut off";
    let refused = "cannot reach the admin through cluster \"admin_NAME\" (/clusters: 503)";
    let foreign = "/clusters answered 200 with a text that is not Envoy's";
    let not_sent = "has no host, or its circuit breaker is open";
    let part = b"c::127.0.0.1:9000::health_fl";
    let inside = "ends inside a line";
    let other = b"other_c::127.0.0.1:9000::health_flags::healthy\n";
    let none = How::Cluster(Some(cluster("", &[])));
    let mut no_requests = cluster("", &[1]);
    no_requests["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    let breaker = How::Cluster(Some(no_requests));
    let missing = How::Cluster(None);
    vec![
        row("refused", How::Refused, Is::Silence, refused),
        row("mute", How::Mute, Is::Silence, either_timeout),
        silent("hangs", Does::Hang, timeout),
        silent("hangs_in_body", Does::HangInBody(good()), cut_off),
        silent("cut_off", Does::CutOff(good()), cut_off),
        silent("trickles", Does::Trickle(good()), cut_off),
        silent("closes", Does::Close, refused),
        silent("ready_hangs", Does::HangWhenReady(good()), ready_timeout),
        row("cluster_empty", none, Is::Silence, not_sent),
        row("circuit_breaker", breaker, Is::Silence, refused),
        row(
            "cluster_missing",
            missing,
            Is::Wrong,
            "Envoy has no cluster",
        ),
        wrong("empty", 200, b"", UNKNOWN),
        wrong("garbage", 200, b"<html>healthy</html>\n", foreign),
        wrong("not_utf8", 200, b"\xff\xfe\0 healthy\n", foreign),
        wrong("another_cluster", 200, other, UNKNOWN),
        wrong("another_envoy", 200, ANOTHER, UNKNOWN),
        wrong("truncated_line", 200, part, inside),
        wrong("truncated_end", 200, HEALTHY.trim_ascii_end(), inside),
        wrong("403", 403, HEALTHY, "403: allow_paths must have"),
        wrong("404", 404, HEALTHY, "/clusters answered 404"),
        wrong("500", 500, HEALTHY, "/clusters answered 500"),
    ]
}

/// Plays these rows; then the log says when each began and when it ended, once each, and the cause.
async fn check(
    rows: Vec<Row>,
    timeout: Duration,
    max_stale: Duration,
    check: impl AsyncFn(&Running) + Clone + 'static,
) {
    let cause = |row: &Row| (row.broken, row.cause.replace("NAME", row.broken));
    let causes: Vec<_> = rows.iter().map(cause).collect();
    let played = play(rows, timeout, max_stale, check);
    let envoy = LocalSet::new().run_until(played).await;
    for (name, cause) in causes {
        let mut lines = vec![(format!("/{name} is unhealthy: "), cause.as_str())];
        // A whole page without our cluster is no fault of the admin's.
        if cause != UNKNOWN {
            lines.push(("admin unavailable: ".to_owned(), cause.as_str()));
            lines.push(("admin available again".to_owned(), ""));
        }
        for (text, cause) in lines {
            let line = format!("envoy-healthz[{name}]: {text}");
            envoy.wait_for_log(&[&line, cause]).await;
            assert_eq!(envoy.logged(&[&line]).len(), 1, "{line}");
        }
    }
}

/// With `max_stale_ms: 0`, every probe is answered 503 within one call's time.
#[test]
fn every_row_without_a_snapshot() {
    timed(without_a_snapshot);
}

async fn without_a_snapshot() {
    /// So long that a busy machine's delays are small beside it.
    const TIMEOUT: Duration = Duration::from_secs(4);
    /// More than one call takes, less than two in a row.
    const BOUND: Duration = Duration::from_millis(7500);
    check(
        rows(),
        TIMEOUT,
        Duration::ZERO,
        async |running: &Running| {
            let mut stage = Stage::Nobody;
            running.mend(&mut stage).await;
            running.wait_for(200).await;
            let requests = |stage: &Stage| match stage {
                Stage::Fake(fake) => fake.requests(),
                _ => 0,
            };
            running.break_it(&mut stage).await;
            if let How::Cluster(_) = running.row.how {
                // The workers follow a moment later.
                running.wait_for(503).await;
            }
            let before = requests(&stage);
            running.check_broken(Some(BOUND)).await;
            if let How::Fake(_) = running.row.how {
                assert!(requests(&stage) > before, "{}: no request", running.name());
            }
            running.mend(&mut stage).await;
            running.wait_for(200).await;
        },
    )
    .await;
}

/// A row of silence, with a good snapshot at hand: it answers until it is `max_stale_ms` old.
#[test]
fn silence_is_bridged_by_the_last_snapshot() {
    timed(silence_is_bridged);
}

async fn silence_is_bridged() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    const MAX_STALE: Duration = Duration::from_secs(3);
    /// Of the clocks: the filter counts in milliseconds.
    const CLOCKS: Duration = Duration::from_millis(50);
    let silent = rows().into_iter().filter(|row| row.is == Is::Silence);
    check(
        silent.collect(),
        TIMEOUT,
        MAX_STALE,
        async |running: &Running| {
            let mut stage = Stage::Nobody;
            running.mend(&mut stage).await;
            let sound_from = Instant::now();
            running.wait_for(200).await;
            running.break_it(&mut stage).await;
            let silent_from = Instant::now();
            let name = running.name();
            // The admin cluster's change reaches the workers a moment later: until then the admin answers.
            let exactly = !matches!(running.row.how, How::Cluster(_));
            let still_answers = |sent: Duration| {
                let too_old = exactly && sent > MAX_STALE + CLOCKS;
                assert!(!too_old, "{name}: 200 to a probe {sent:?} after");
                assert!(sent < DEADLINE, "{name}: 200 for ever");
            };
            let mut bridged = 0;
            loop {
                let sent = silent_from.elapsed();
                let status = running.status().await;
                if status == 503 {
                    break;
                }
                assert_eq!(status, 200, "{name}");
                still_answers(sent);
                bridged += 1;
            }
            let age = sound_from.elapsed();
            let old_enough = age + CLOCKS >= MAX_STALE;
            assert!(old_enough, "{name}: 503, the snapshot at most {age:?} old");
            assert!(bridged > 0, "{name}: the snapshot answered nobody");
            // Another worker's may be younger.
            let mut sent = silent_from.elapsed();
            while !running.is_broken_on_all_workers().await {
                still_answers(sent);
                sent = silent_from.elapsed();
            }
            running.check_broken(None).await;
            running.mend(&mut stage).await;
            running.wait_for(200).await;
        },
    )
    .await;
}

/// A wrong reply, with a good snapshot at hand that might answer for minutes: 503 all the same.
#[tokio::test]
async fn a_wrong_reply_is_not_bridged() {
    const MAX_STALE: Duration = Duration::from_secs(600);
    let wrong = rows().into_iter().filter(|row| row.is == Is::Wrong);
    check(
        wrong.collect(),
        Duration::from_secs(30),
        MAX_STALE,
        async |running: &Running| {
            let mut stage = Stage::Nobody;
            running.mend(&mut stage).await;
            running.wait_for(200).await;
            running.break_it(&mut stage).await;
            // A reply that is late is silence until it comes, for each worker.
            until("no worker goes on with its snapshot", async || {
                running.is_broken_on_all_workers().await
            })
            .await;
            running.check_broken(None).await;
            running.mend(&mut stage).await;
            running.wait_for(200).await;
        },
    )
    .await;
}

/// While a snapshot is at hand no probe waits for as long as the call may take, on any worker.
#[tokio::test]
async fn with_a_snapshot_at_hand_a_probe_does_not_wait_for_the_timeout() {
    for max_age_ms in [0, 50] {
        let fields = json!({
            "admin_timeout_ms": 60000, "max_stale_ms": 600_000, "max_age_ms": max_age_ms,
        });
        let (envoy, fake) = envoy_with_fake(healthy(), "2", fields).await;
        let probe = async || Prober::http(envoy.port).get("/healthz").await.status;
        assert_eq!(probe().await, 200);
        fake.change_to(Does::Hang);
        // A prober gives up before that. Each has a connection of its own, to either worker.
        for _ in 0..10 {
            assert_eq!(probe().await, 200);
        }
        let statuses = probe_at_once(envoy.port, 20).await;
        assert_eq!(statuses, [200; 20], "{max_age_ms}");
        // The endpoint's health has not changed.
        assert_eq!(envoy.logged(&["/healthz is unhealthy"]).len(), 0);
    }
}

/// Envoy gives up on a reply of more than 32 MiB.
#[tokio::test]
async fn sixty_four_mib() {
    let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
    let body = line.repeat(64 << 10);
    let fields = json!({"admin_timeout_ms": 30000, "max_age_ms": 0, "max_stale_ms": 0});
    let (envoy, fake) = envoy_with_fake(Does::Answer(200, body), "2", fields).await;
    for _ in 0..3 {
        assert_eq!(envoy.get("/healthz").await.status, 503);
    }
    let cause = "/healthz is unhealthy: admin: the reply to /clusters was lost after its headers: cut off, \
                 too slow, or over 32 MiB";
    assert_eq!(envoy.logged(&[cause]).len(), 1);
    fake.change_to(healthy());
    envoy.wait_for("/healthz", 200, "").await;
}
