//! What an operator sees and relies on: admin calls, logs and stats.

use std::time::{Duration, Instant};

use e2e::config::{cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, envoy_with_fake};
use e2e::prober::{Prober, probe_at_once};
use e2e::{Build, TcpHost, eventually, free_port};
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Served;

both_builds! { logs_and_stats }

/// Waits until one of our counters, which follow the answers a moment later, has this value.
async fn counted(envoy: &Envoy, counter: &str, value: u64) {
    let name = format!("wasmcustom.envoy_healthz.{counter}");
    shown(envoy, &name, value).await;
}

/// The same of any of Envoy's stats.
async fn shown(envoy: &Envoy, name: &str, value: u64) {
    eventually(&format!("{name} is {value}"), async || {
        (envoy.stat(name).await == value).then_some(())
    })
    .await;
}

#[tokio::test]
async fn probes_that_come_together_share_one_call() {
    let slow = Does::Delay(Duration::from_millis(300), HEALTHY.to_vec());
    let fields = json!({"max_age_ms": 60000, "admin_timeout_ms": 60000});
    let (_envoy, fake, port) = envoy_with_fake(slow, "1", fields).await;
    assert_eq!(probe_at_once(port, 50).await, [200; 50]);
    assert_eq!(fake.requests(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_answer_with_it() {
    let slow = Does::Delay(Duration::from_secs(3), HEALTHY.to_vec());
    let fields = json!({"max_age_ms": 60000, "admin_timeout_ms": 60000});
    let (envoy, fake, port) = envoy_with_fake(slow, "1", fields).await;
    let mut leavers = Vec::new();
    for _ in 0..10 {
        let mut leaver = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        leaver.write_all(request).await.unwrap();
        leavers.push(leaver);
    }
    let requests = "http.e2e.downstream_rq_active";
    eventually("they wait", async || {
        (envoy.stat(requests).await == 10).then_some(())
    })
    .await;
    let stayers = tokio::spawn(probe_at_once(port, 10));
    drop(leavers);
    assert_eq!(stayers.await.unwrap(), [200; 10]);
    eventually("nobody waits", async || {
        (envoy.stat(requests).await == 0).then_some(())
    })
    .await;
    assert_eq!(fake.requests(), 1);
    // Those who left were not counted as answered.
    counted(&envoy, "probes.filter.default.code.200.path./healthz", 10).await;
}

/// However many probes: at most one refresh a worker and `max_age_ms`, whether it succeeds or not.
#[tokio::test]
async fn probes_cannot_flood_the_admin() {
    for fails in [false, true] {
        let status = if fails { 500 } else { 200 };
        let does = Does::Answer(status, HEALTHY.to_vec());
        let begun = Instant::now();
        let (envoy, fake, port) = envoy_with_fake(does, "2", json!({"max_age_ms": 200})).await;
        let flood: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    let prober = Prober::http(port);
                    for _ in 0..100 {
                        prober.get("/healthz").await;
                    }
                })
            })
            .collect();
        for flooder in flood {
            flooder.await.unwrap();
        }
        let code = if fails { "503" } else { "200" };
        let probes = format!("probes.filter.default.code.{code}.path./healthz");
        counted(&envoy, &probes, 800).await;
        let most = 2 * (begun.elapsed().as_millis() as usize / 200 + 1);
        assert!(
            fake.requests() <= most,
            "{} calls, {most} allowed",
            fake.requests()
        );
    }
}

#[tokio::test]
async fn background_refresh_is_one_for_all_workers() {
    let begun = Instant::now();
    let fields = json!({"max_age_ms": 60000, "refresh_interval_ms": 100});
    let good = Does::Answer(200, HEALTHY.to_vec());
    let (_envoy, fake, port) = envoy_with_fake(good, "8", fields).await;
    let most = || begun.elapsed().as_millis() as usize / 100 + 1;
    eventually("it refreshes with nobody asking", async || {
        (fake.requests() >= 20).then_some(())
    })
    .await;
    // As many workers as there are get a probe, and none of them needs a call of its own.
    assert_eq!(probe_at_once(port, 64).await, [200; 64]);
    let so_far = fake.requests();
    eventually("it goes on", async || {
        (fake.requests() >= so_far + 10).then_some(())
    })
    .await;
    assert!(
        fake.requests() <= most(),
        "{} calls, {} allowed",
        fake.requests(),
        most()
    );
}

/// Two endpoints on two workers, and a host that comes and goes.
async fn logs_and_stats(build: Build) {
    let live = free_port();
    let config = json!({
        "name": "one", "max_age_ms": 50,
        "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/livez", "clusters": ["steady"]},
        ],
    });
    let clusters = vec![
        with_tcp_check(cluster("c", &[("127.0.0.1", live)])),
        cluster("steady", &[("127.0.0.1", live)]),
    ];
    let Served {
        envoy,
        prober,
        port,
    } = Served::start(build, &config, clusters).await;

    let mut lines = Vec::new();
    let mut probes = [0, 0];
    // The last one stays until the end, so that nothing changes after the rounds.
    let mut host = None;
    for expected in [503, 200, 503, 200, 503, 200] {
        drop(host.take());
        if expected == 200 {
            host = Some(TcpHost::start(live).await);
        }
        let mut count = |status: u16| probes[usize::from(status == 503)] += 1;
        // One that follows another within a second is recorded by an answer after that.
        let transitions = lines.len() + 1;
        eventually("the change is seen and logged", async || {
            let status = prober.get("/healthz").await.status;
            count(status);
            let logged = envoy.logged(&["envoy-healthz[one]: /healthz "]).len();
            (status == expected && logged == transitions).then_some(())
        })
        .await;
        // Both workers see it, by connections of their own.
        for _ in 0..3 {
            for status in probe_at_once(port, 20).await {
                count(status);
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        let failed = format!(": 127.0.0.1:{live} failed_active_hc");
        lines.push(match expected {
            200 => "/healthz is healthy".to_owned(),
            _ => format!(
                "/healthz is unhealthy: c 0/1 healthy{}",
                build.of_hosts(&failed)
            ),
        });
    }
    for _ in 0..4 {
        let request = prober.request(Method::POST, "/healthz");
        e2e::prober::Answer::to(request).await.unwrap();
    }
    // The module counts probes with the first one that comes 50 ms after it did so last.
    tokio::time::sleep(Duration::from_millis(60)).await;
    prober.get("/livez").await;
    let logged: Vec<_> = envoy
        .logged(&["envoy-healthz[one]: /healthz "])
        .iter()
        .filter_map(|line| {
            line.split_once("envoy-healthz[one]: ")
                .map(|(_, text)| text.to_owned())
        })
        .collect();
    assert_eq!(logged, lines);
    assert_eq!(
        envoy
            .logged(&["envoy-healthz[one]: /livez is healthy"])
            .len(),
        1
    );
    // Seven lines in all: none for the admin, none for a probe.
    assert_eq!(envoy.logged(&["envoy-healthz["]).len(), 7);
    assert_eq!(envoy.logged(&["[warning]", "is unhealthy"]).len(), 3);
    assert_eq!(envoy.logged(&["[info]", "is healthy"]).len(), 4);

    let of = |metric: &str, labels: &[(&str, &str)]| {
        build.stat(metric, &[&[("filter", "one")], labels].concat())
    };
    for (code, path, count) in [
        ("200", "/healthz", probes[0]),
        ("503", "/healthz", probes[1]),
        ("405", "/healthz", 4),
        ("200", "/livez", 1),
    ] {
        shown(
            &envoy,
            &of("probes", &[("code", code), ("path", path)]),
            count,
        )
        .await;
    }
    for (metric, path, value) in [
        ("transitions", "/healthz", 6),
        ("transitions", "/livez", 1),
        ("healthy", "/healthz", 1),
        ("healthy", "/livez", 1),
    ] {
        shown(&envoy, &of(metric, &[("path", path)]), value).await;
    }
    if build == Build::Wasm {
        shown(&envoy, &of("admin_up", &[]), 1).await;
        shown(&envoy, &of("refreshes", &[("result", "failed")]), 0).await;
        let refreshes = envoy
            .stat(&of("refreshes", &[("result", "succeeded")]))
            .await;
        assert!(refreshes >= 6, "{refreshes}");
        assert!(envoy.stat(&build.stat("vm_memory_bytes", &[])).await > 0);
    }
}

/// Workers that give the first answers of many endpoints at the same time log each of them once.
#[tokio::test]
async fn first_verdicts_are_logged_once() {
    for _ in 0..4 {
        let slow = Does::Delay(Duration::from_millis(300), HEALTHY.to_vec());
        let paths = (1..32).map(|nth| format!("/healthz/{nth}"));
        let endpoints: Vec<_> = std::iter::once("/healthz".to_owned())
            .chain(paths)
            .map(|path| json!({"path": path, "clusters": ["c"]}))
            .collect();
        let fields = json!({"max_age_ms": 0, "endpoints": endpoints});
        let (envoy, fake, port) = envoy_with_fake(slow, "4", fields).await;
        let mut probes = JoinSet::new();
        for nth in (0..4).flat_map(|_| 0..32) {
            let path = if nth == 0 {
                "/healthz".to_owned()
            } else {
                format!("/healthz/{nth}")
            };
            probes.spawn(async move { Prober::http(port).get(&path).await.status });
        }
        assert_eq!(probes.join_all().await, [200; 128]);
        assert!(fake.requests() > 1, "several workers asked");
        counted(&envoy, "probes.filter.default.code.200.path./healthz", 4).await;
        let lines = envoy.logged(&["envoy-healthz[default]: /healthz", " is healthy"]);
        assert_eq!(lines.len(), 32);
        for nth in 1..32 {
            let transitions = format!("transitions.filter.default.path./healthz/{nth}");
            counted(&envoy, &transitions, 1).await;
        }
    }
}

#[tokio::test]
async fn an_admin_that_goes_and_comes_back_is_logged_once_each() {
    for max_stale in [0, 600_000] {
        let fields = json!({"max_age_ms": 0, "admin_timeout_ms": 1000, "max_stale_ms": max_stale});
        let good = || Does::Answer(200, HEALTHY.to_vec());
        let (envoy, fake, port) = envoy_with_fake(good(), "2", fields).await;
        Prober::http(port).wait_for(200).await;
        let admin_port = fake.port;
        drop(fake);
        let gone = [
            "[warning]",
            "envoy-healthz[default]: admin unavailable: cannot reach the admin through admin_cluster",
        ];
        eventually("the admin is gone", async || {
            Prober::http(port).get("/healthz").await;
            (!envoy.logged(&gone).is_empty()).then_some(())
        })
        .await;
        let expected = if max_stale == 0 { 503 } else { 200 };
        for _ in 0..20 {
            let answer = Prober::http(port).get("/healthz").await;
            assert_eq!(answer.status, expected, "max_stale_ms {max_stale}");
        }
        let _back = FakeAdmin::start_on(admin_port, good()).await;
        let back = ["[info]", "envoy-healthz[default]: admin available again"];
        eventually("the admin is back", async || {
            Prober::http(port).get("/healthz").await;
            (!envoy.logged(&back).is_empty()).then_some(())
        })
        .await;
        Prober::http(port).wait_for(200).await;
        assert_eq!(envoy.logged(&gone).len(), 1);
        assert_eq!(envoy.logged(&back).len(), 1);
        let failed = "wasmcustom.envoy_healthz.refreshes.filter.default.result.failed";
        eventually("failures are counted", async || {
            (envoy.stat(failed).await > 0).then_some(())
        })
        .await;
        let cause = "/healthz is unhealthy: admin: cannot reach the admin through admin_cluster";
        assert_eq!(envoy.logged(&[cause]).len(), usize::from(max_stale == 0));
    }
}

/// However many workers see it.
#[tokio::test]
async fn an_unknown_flag_is_logged_once() {
    let text =
        b"c::127.0.0.1:1::health_flags::/brand_new\nc::127.0.0.1:2::health_flags::/brand_new\n";
    let slow = Does::Delay(Duration::from_millis(200), text.to_vec());
    let (envoy, fake, port) = envoy_with_fake(slow, "8", json!({"max_age_ms": 0})).await;
    for _ in 0..4 {
        assert_eq!(probe_at_once(port, 32).await, [503; 32]);
    }
    assert!(fake.requests() > 8, "several workers asked");
    assert_eq!(
        envoy.logged(&["unknown health flag \"brand_new\""]).len(),
        1
    );
}

/// A probe that the filter gives up waiting for, rather than Envoy the call, is a transition like any
/// other: Envoy stands still until both are overdue, and the filter's tick is the first to be.
#[tokio::test]
async fn a_probe_that_expires_is_logged() {
    let fields = json!({"admin_timeout_ms": 1000, "max_age_ms": 0, "max_stale_ms": 0});
    let good = Does::Answer(200, HEALTHY.to_vec());
    let (envoy, fake, port) = envoy_with_fake(good, "1", fields).await;
    let prober = Prober::http(port);
    assert_eq!(prober.get("/healthz").await.status, 200);
    fake.change_to(Does::Hang);
    let asked = fake.requests();
    let waiting = tokio::spawn(async move { prober.get("/healthz").await.status });
    eventually("it waits", async || (fake.requests() > asked).then_some(())).await;
    envoy.stand_still();
    tokio::time::sleep(Duration::from_secs(2)).await;
    envoy.go_on();
    assert_eq!(waiting.await.unwrap(), 503);
    for line in ["/healthz is unhealthy: ", "admin unavailable: "] {
        let line = format!("envoy-healthz[default]: {line}");
        eventually(&format!("the log says {line}"), async || {
            (!envoy.logged(&[&line]).is_empty()).then_some(())
        })
        .await;
        assert_eq!(envoy.logged(&[&line]).len(), 1, "{line}");
    }
    counted(&envoy, "transitions.filter.default.path./healthz", 2).await;
    counted(&envoy, "healthy.filter.default.path./healthz", 0).await;
}

/// A liveness endpoint that does not mind a drain needs no admin; one that does needs `/ready` alone.
#[tokio::test]
async fn a_liveness_endpoint_asks_for_no_more_than_it_needs() {
    let liveness = |fail: bool| {
        json!({
            "max_age_ms": 0, "max_stale_ms": 0, "admin_timeout_ms": 1000, "fail_when_draining": fail,
            "endpoints": [{"path": "/healthz", "clusters": []}],
        })
    };
    for (does, fails, status) in [
        (Does::Hang, false, 200),
        (Does::Close, false, 200),
        // `/ready` is answered all the same.
        (Does::Hang, true, 200),
        (Does::HangWhenReady(HEALTHY.to_vec()), true, 503),
    ] {
        let (_envoy, fake, port) = envoy_with_fake(does.clone(), "2", liveness(fails)).await;
        let asked = fake.requests();
        assert_eq!(
            Prober::http(port).get("/healthz").await.status,
            status,
            "{does:?}"
        );
        let statuses = probe_at_once(port, 10).await;
        assert_eq!(statuses, [status; 10], "{does:?}");
        assert_eq!(fake.requests(), asked, "{does:?}: /clusters");
        assert_eq!(fake.ready_requests() > 0, fails, "{does:?}: /ready");
    }
}
