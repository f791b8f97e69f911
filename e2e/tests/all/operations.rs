//! What an operator sees and relies on: admin calls, logs and stats.

use std::time::{Duration, Instant};

use e2e::config::{Config, cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, envoy_with_fake, healthy};
use e2e::module::wait_to_count;
use e2e::prober::{Connection, Prober, probe_at_once};
use e2e::{Build, TcpHost, free_port, timed, until};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

both_builds! { logs_and_stats }

/// Waits until one of our counters, which follow the answers a moment later, has this value.
async fn counted(envoy: &Envoy, counter: &str, value: u64) {
    let name = format!("wasmcustom.envoy_healthz.{counter}");
    envoy.wait_for_stat(&name, value).await;
}

/// A good answer that comes so late.
fn late(milliseconds: u64) -> Does {
    Does::Delay(Duration::from_millis(milliseconds), HEALTHY.to_vec())
}

const PROBES: &str = "probes.filter.default.code.200.path./healthz";
const ACTIVE: &str = "http.e2e.downstream_rq_active";

#[tokio::test]
async fn probes_that_come_together_share_one_call() {
    let fields = json!({"max_age_ms": 60000, "admin_timeout_ms": 60000});
    let (envoy, fake) = envoy_with_fake(late(300), "1", fields).await;
    assert_eq!(probe_at_once(envoy.port, 50).await, [200; 50]);
    assert_eq!(fake.requests(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_answer_with_it() {
    let fields = json!({"max_age_ms": 60000, "admin_timeout_ms": 60000});
    let (tell, told) = watch::channel(false);
    let does = Does::WhenTold(told, HEALTHY.to_vec());
    let (envoy, fake) = envoy_with_fake(does, "1", fields).await;
    let mut leavers = Vec::new();
    for _ in 0..10 {
        let mut leaver = Connection::open(envoy.port).await;
        leaver
            .send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        leavers.push(leaver);
    }
    envoy.wait_for_stat(ACTIVE, 10).await;
    let stayers = tokio::spawn(probe_at_once(envoy.port, 10));
    envoy.wait_for_stat(ACTIVE, 20).await;
    drop(leavers);
    envoy.wait_for_stat(ACTIVE, 10).await;
    tell.send(true).unwrap();
    assert_eq!(stayers.await.unwrap(), [200; 10]);
    envoy.wait_for_stat(ACTIVE, 0).await;
    assert_eq!(fake.requests(), 1);
    // Those who left were not counted as answered.
    counted(&envoy, PROBES, 10).await;
}

/// However many probes: at most one refresh a worker and `max_age_ms`, whether it succeeds or not.
#[tokio::test]
async fn probes_cannot_flood_the_admin() {
    for (admin, code) in [(200, 200), (500, 503)] {
        let does = Does::Answer(admin, HEALTHY.to_vec());
        let begun = Instant::now();
        let (envoy, fake) = envoy_with_fake(does, "2", json!({"max_age_ms": 200})).await;
        let mut flood = JoinSet::new();
        for _ in 0..8 {
            let prober = Prober::http(envoy.port);
            flood.spawn(async move {
                for _ in 0..100 {
                    prober.get("/healthz").await;
                }
            });
        }
        flood.join_all().await;
        let probes = format!("probes.filter.default.code.{code}.path./healthz");
        counted(&envoy, &probes, 800).await;
        let most = 2 * (begun.elapsed().as_millis() as usize / 200 + 1);
        let calls = fake.requests();
        assert!(calls <= most, "{calls} calls, {most} allowed");
    }
}

#[tokio::test]
async fn background_refresh_is_one_for_all_workers() {
    let begun = Instant::now();
    let fields = json!({"max_age_ms": 60000, "refresh_interval_ms": 100});
    let (envoy, fake) = envoy_with_fake(healthy(), "8", fields).await;
    until("it refreshes without a probe", async || {
        fake.requests() >= 20
    })
    .await;
    // As many workers as there are get a probe, and none of them needs a call of its own.
    assert_eq!(probe_at_once(envoy.port, 64).await, [200; 64]);
    let so_far = fake.requests();
    until("it goes on", async || fake.requests() >= so_far + 10).await;
    let (calls, most) = (
        fake.requests(),
        begun.elapsed().as_millis() as usize / 100 + 1,
    );
    assert!(calls <= most, "{calls} calls, {most} allowed");
}

/// Two endpoints on two workers, and a host that comes and goes.
async fn logs_and_stats(build: Build) {
    let live = free_port();
    let filter = json!({
        "name": "one", "max_age_ms": 50, "max_stale_ms": 0, "admin_timeout_ms": 30000,
        "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/livez", "clusters": ["steady"]},
        ],
    });
    let config = Config::new()
        .cluster(with_tcp_check(cluster("c", &[live])))
        .cluster(cluster("steady", &[live]))
        .listener(build.listener(free_port(), &filter));
    let envoy = config.start().await;

    // The last one stays until the end, so that nothing changes after the rounds.
    let mut host = None;
    let mut probes = [0, 0];
    for (round, expected) in [503, 200, 503, 200, 503, 200].into_iter().enumerate() {
        drop(host.take());
        if expected == 200 {
            host = Some(TcpHost::start(live).await);
        }
        let mut count = |status: u16| probes[usize::from(status == 503)] += 1;
        // One that follows another within a second is recorded by an answer after that.
        until("the change is seen and logged", async || {
            let status = envoy.get("/healthz").await.status;
            count(status);
            let logged = envoy.logged(&["envoy-healthz[one]: /healthz "]).len();
            status == expected && logged == round + 1
        })
        .await;
        // Both workers see it, by connections of their own.
        for _ in 0..3 {
            probe_at_once(envoy.port, 20)
                .await
                .into_iter()
                .for_each(&mut count);
            wait_to_count().await;
        }
    }
    for _ in 0..4 {
        envoy.prober.send(Method::POST, "/healthz", &[]).await;
    }
    wait_to_count().await;
    envoy.get("/livez").await;
    let failed = format!(": 127.0.0.1:{live} failed_active_hc");
    check_log(&envoy, build.of_hosts(&failed));
    check_stats(&envoy, build, probes).await;
}

/// Seven lines in all: none for the admin, none for a probe.
fn check_log(envoy: &Envoy, failed: &str) {
    let unhealthy = format!("/healthz is unhealthy: c 0/1 healthy{failed}");
    let (unhealthy, healthy) = (unhealthy.as_str(), "/healthz is healthy");
    let lines = envoy.logged(&["envoy-healthz[one]: /healthz "]);
    let lines = lines
        .iter()
        .filter_map(|line| line.split_once("envoy-healthz[one]: "));
    let lines: Vec<_> = lines.map(|(_, text)| text).collect();
    assert_eq!(lines, [[unhealthy, healthy]; 3].concat());
    for (texts, count) in [
        (&["envoy-healthz[one]: /livez is healthy"][..], 1),
        (&["envoy-healthz["], 7),
        (&["[warning]", "is unhealthy"], 3),
        (&["[info]", "is healthy"], 4),
    ] {
        assert_eq!(envoy.logged(texts).len(), count, "{texts:?}");
    }
}

async fn check_stats(envoy: &Envoy, build: Build, [healthy, unhealthy]: [u64; 2]) {
    let of = |metric: &str, labels: &[(&str, &str)]| {
        build.stat(metric, &[&[("filter", "one")], labels].concat())
    };
    for (code, path, count) in [
        ("200", "/healthz", healthy),
        ("503", "/healthz", unhealthy),
        ("405", "/healthz", 4),
        ("200", "/livez", 1),
    ] {
        let probes = of("probes", &[("code", code), ("path", path)]);
        envoy.wait_for_stat(&probes, count).await;
    }
    for (metric, path, value) in [
        ("transitions", "/healthz", 6),
        ("transitions", "/livez", 1),
        ("healthy", "/healthz", 1),
        ("healthy", "/livez", 1),
    ] {
        envoy
            .wait_for_stat(&of(metric, &[("path", path)]), value)
            .await;
    }
    if build == Build::Wasm {
        envoy.wait_for_stat(&of("admin_up", &[]), 1).await;
        let failed = of("refreshes", &[("result", "failed")]);
        envoy.wait_for_stat(&failed, 0).await;
        let succeeded = of("refreshes", &[("result", "succeeded")]);
        let refreshes = envoy.stat(&succeeded).await;
        assert!(refreshes >= 6, "{refreshes}");
        assert!(envoy.stat(&build.stat("vm_memory_bytes", &[])).await > 0);
    }
}

/// Workers that give the first answers of many endpoints at the same time log each of them once.
#[tokio::test]
async fn first_verdicts_are_logged_once() {
    for _ in 0..4 {
        let numbered = (1..32).map(|nth| format!("/healthz/{nth}"));
        let paths: Vec<_> = ["/healthz".to_owned()]
            .into_iter()
            .chain(numbered)
            .collect();
        let endpoints = paths
            .iter()
            .map(|path| json!({"path": path, "clusters": ["c"]}));
        let endpoints: Vec<_> = endpoints.collect();
        let fields = json!({"max_age_ms": 0, "admin_timeout_ms": 60000, "endpoints": endpoints});
        let (envoy, fake) = envoy_with_fake(late(300), "4", fields).await;
        let mut probes = JoinSet::new();
        for path in (0..4).flat_map(|_| paths.clone()) {
            let prober = Prober::http(envoy.port);
            probes.spawn(async move { prober.get(&path).await.status });
        }
        assert_eq!(probes.join_all().await, [200; 128]);
        assert!(fake.requests() > 1, "several workers queried the admin");
        counted(&envoy, PROBES, 4).await;
        let lines = envoy.logged(&["envoy-healthz[default]: /healthz", " is healthy"]);
        assert_eq!(lines.len(), 32);
        for path in &paths[1..] {
            let transitions = format!("transitions.filter.default.path.{path}");
            counted(&envoy, &transitions, 1).await;
        }
    }
}

#[tokio::test]
async fn an_admin_that_goes_and_comes_back_is_logged_once_each() {
    for (max_stale, expected, unhealthy) in [(0, 503, 1), (600_000, 200, 0)] {
        let fields = json!({"max_age_ms": 0, "admin_timeout_ms": 30000, "max_stale_ms": max_stale});
        let (envoy, fake) = envoy_with_fake(healthy(), "2", fields).await;
        let probe = async || Prober::http(envoy.port).get("/healthz").await.status;
        Prober::http(envoy.port).wait_for(200).await;
        let admin_port = fake.port;
        drop(fake);
        let cannot = "cannot reach the admin through cluster \"local_admin\"";
        let gone = format!("envoy-healthz[default]: admin unavailable: {cannot}");
        let gone = ["[warning]", gone.as_str()];
        until("the admin is gone", async || {
            probe().await;
            !envoy.logged(&gone).is_empty()
        })
        .await;
        for _ in 0..20 {
            assert_eq!(probe().await, expected, "max_stale_ms {max_stale}");
        }
        let _back = FakeAdmin::start_on(admin_port, healthy()).await;
        let back = ["[info]", "envoy-healthz[default]: admin available again"];
        until("the admin is back", async || {
            probe().await;
            !envoy.logged(&back).is_empty()
        })
        .await;
        Prober::http(envoy.port).wait_for(200).await;
        assert_eq!(envoy.logged(&gone).len(), 1);
        assert_eq!(envoy.logged(&back).len(), 1);
        let failed = "wasmcustom.envoy_healthz.refreshes.filter.default.result.failed";
        until("failures are counted", async || {
            envoy.stat(failed).await > 0
        })
        .await;
        let cause = format!("/healthz is unhealthy: admin: {cannot}");
        assert_eq!(envoy.logged(&[&cause]).len(), unhealthy);
    }
}

/// However many workers see it.
#[tokio::test]
async fn an_unknown_flag_is_logged_once() {
    let text =
        b"c::127.0.0.1:1::health_flags::/brand_new\nc::127.0.0.1:2::health_flags::/brand_new\n";
    let does = Does::Delay(Duration::from_millis(200), text.to_vec());
    let (envoy, fake) = envoy_with_fake(
        does,
        "8",
        json!({"max_age_ms": 0, "admin_timeout_ms": 30000}),
    )
    .await;
    for _ in 0..4 {
        assert_eq!(probe_at_once(envoy.port, 32).await, [503; 32]);
    }
    assert!(fake.requests() > 8, "several workers queried the admin");
    let line = "unknown health flag \"brand_new\"";
    assert_eq!(envoy.logged(&[line]).len(), 1);
}

/// A probe that the filter gives up waiting for, rather than Envoy the call, is a transition like any
/// other: Envoy is frozen until both are overdue, and the filter's tick is the first to be.
#[test]
fn a_probe_that_expires_is_logged() {
    timed(a_probe_expires);
}

async fn a_probe_expires() {
    let fields = json!({"admin_timeout_ms": 1000, "max_age_ms": 0, "max_stale_ms": 0});
    let (envoy, fake) = envoy_with_fake(healthy(), "1", fields).await;
    assert_eq!(envoy.get("/healthz").await.status, 200);
    fake.change_to(Does::Hang);
    let before = fake.requests();
    let prober = envoy.prober.clone();
    let waiting = tokio::spawn(async move { prober.get("/healthz").await.status });
    until("it waits", async || fake.requests() > before).await;
    envoy.stand_still();
    tokio::time::sleep(Duration::from_secs(2)).await;
    envoy.go_on();
    assert_eq!(waiting.await.unwrap(), 503);
    for line in ["/healthz is unhealthy: ", "admin unavailable: "] {
        let line = format!("envoy-healthz[default]: {line}");
        envoy.wait_for_log(&[&line]).await;
        assert_eq!(envoy.logged(&[&line]).len(), 1, "{line}");
    }
    counted(&envoy, "transitions.filter.default.path./healthz", 2).await;
    counted(&envoy, "healthy.filter.default.path./healthz", 0).await;
}

/// A liveness endpoint that stays healthy in a drain needs no admin; one that does not needs `/ready` alone.
#[test]
fn a_liveness_endpoint_asks_for_no_more_than_it_needs() {
    timed(no_more_than_it_needs);
}

async fn no_more_than_it_needs() {
    for (does, fails, status) in [
        (Does::Hang, false, 200),
        (Does::Close, false, 200),
        // `/ready` is answered all the same.
        (Does::Hang, true, 200),
        (Does::HangWhenReady(HEALTHY.to_vec()), true, 503),
    ] {
        let liveness = json!({
            "max_age_ms": 0, "max_stale_ms": 0, "admin_timeout_ms": 1000, "fail_when_draining": fails,
            "endpoints": [{"path": "/healthz", "clusters": []}],
        });
        let (envoy, fake) = envoy_with_fake(does.clone(), "2", liveness).await;
        let before = fake.requests();
        assert_eq!(envoy.get("/healthz").await.status, status, "{does:?}");
        let statuses = probe_at_once(envoy.port, 10).await;
        assert_eq!(statuses, [status; 10], "{does:?}");
        assert_eq!(fake.requests(), before, "{does:?}: /clusters");
        assert_eq!(fake.ready_requests() > 0, fails, "{does:?}: /ready");
    }
}
