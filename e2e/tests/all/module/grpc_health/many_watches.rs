//! Thousands of Watches: each sees each change; together they cost what one costs; nothing is left
//! when they go.

use std::time::Duration;

use e2e::grpc_health::{NOT_SERVING, SERVING, Seen, Watch, channel};
use e2e::{timed, until};
use tonic::transport::Channel;

use super::{Sidecar, Way};

const WATCHES: usize = 3000;
/// Their connections, which Envoy spreads over its workers. HTTP/2 ends one on which [`MOST_RESETS`] streams
/// are reset in a burst, and a Watch that is dropped is such a stream.
const CONNECTIONS: usize = 30;
/// nghttp2's `stream_reset_rate_limit`; 33 more a second are left out of account.
const MOST_RESETS: usize = 1000;
/// How often the many of `that_come_and_go` do so before, and while, memory is looked at.
const EARLY: usize = 3;
const LATE: usize = 6;
const _: () = assert!((EARLY + LATE) * WATCHES.div_ceil(CONNECTIONS) < MOST_RESETS);
/// How long it is left alone to see what it costs.
const QUIET: Duration = Duration::from_secs(5);

fn open(channels: &[Channel], count: usize) -> Vec<Watch> {
    let channels = channels.iter().cycle().take(count);
    channels.map(|channel| Watch::start(channel, "")).collect()
}

async fn all_see(watches: &[Watch], expected: &[Seen]) {
    until(&format!("all see {expected:?}"), async || {
        let mut watches = watches.iter();
        watches.all(|watch| watch.seen().len() >= expected.len())
    })
    .await;
    for watch in watches {
        assert_eq!(watch.seen(), expected);
    }
}

/// What Envoy does while nothing happens.
#[derive(Debug)]
struct Cost {
    cpu: Duration,
    main_thread: Duration,
    wake_ups: u64,
}

async fn cost(sidecar: &Sidecar) -> Cost {
    let envoy = &sidecar.envoy;
    let before = (envoy.cpu(), envoy.main_thread_cpu(), envoy.sleeps());
    tokio::time::sleep(QUIET).await;
    Cost {
        cpu: envoy.cpu() - before.0,
        main_thread: envoy.main_thread_cpu() - before.1,
        wake_ups: envoy.sleeps() - before.2,
    }
}

#[test]
fn of_one_endpoint() {
    timed(one_endpoint);
}

async fn one_endpoint() {
    let sidecar = Sidecar::start(Way::NetworkFilter).await;
    sidecar.wait_for([503, 503]).await;
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| channel(sidecar.plain)).collect();
    // One on each connection first, so that the connections are there without the many.
    let few = open(&channels, CONNECTIONS);
    all_see(&few, &[NOT_SERVING]).await;
    let with_few = cost(&sidecar).await;
    let descriptors = sidecar.envoy.descriptors();

    let many = open(&channels, WATCHES);
    all_see(&many, &[NOT_SERVING]).await;
    let with_many = cost(&sidecar).await;
    println!("{CONNECTIONS} Watches: {with_few:?}; {WATCHES} more: {with_many:?}");
    // The same but for noise: what they cost does not grow with them.
    let slack = QUIET / 50;
    assert!(with_many.wake_ups < with_few.wake_ups * 2);
    assert!(with_many.cpu < with_few.cpu * 3 + slack);
    assert!(with_many.main_thread < with_few.main_thread * 3 + slack);

    let mut expected = vec![NOT_SERVING];
    for _ in 0..2 {
        let host = sidecar.start_host(0).await;
        expected.push(SERVING);
        all_see(&many, &expected).await;
        drop(host);
        expected.push(NOT_SERVING);
        all_see(&many, &expected).await;
    }
    drop(many);
    let active = "http.e2e.downstream_rq_active";
    sidecar
        .envoy
        .wait_for_stat(active, CONNECTIONS as u64)
        .await;
    assert!(sidecar.envoy.descriptors() <= descriptors + 2);
    drop(few);
    sidecar.wait_until_idle().await;
}

/// They come and go: memory does not grow, and without them nothing ticks.
#[test]
fn that_come_and_go() {
    timed(come_and_go);
}

async fn come_and_go() {
    let sidecar = Sidecar::start(Way::Route).await;
    sidecar.wait_for([503, 503]).await;
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| channel(sidecar.plain)).collect();
    let come_and_go = async || {
        let many = open(&channels, WATCHES);
        all_see(&many, &[NOT_SERVING]).await;
        drop(many);
        sidecar.wait_until_idle().await;
        sidecar.envoy.resident_mb()
    };
    let before = cost(&sidecar).await;
    let mut early: f64 = 0.0;
    for _ in 0..EARLY {
        early = early.max(come_and_go().await);
    }
    let mut late: f64 = 0.0;
    for _ in 0..LATE {
        late = late.max(come_and_go().await);
    }
    let after = cost(&sidecar).await;
    println!("{early:.1} MB, then {late:.1} MB; {before:?}, then {after:?}");
    // Each of thousands that was left would take some hundred bytes.
    assert!(late < early + 2.0, "{early} MB, then {late} MB");
    assert!(after.wake_ups < before.wake_ups * 2 + 20);
}
