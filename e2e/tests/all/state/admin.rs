//! What is recorded of the admin, and what survives an update while it is silent: the wasm build's.

use std::time::Duration;

use e2e::config::{Config, cluster, manager, with_http_check};
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, envoy_with_fake, healthy};
use e2e::prober::{Prober, probe_at_once};
use e2e::{Build, free_port, timed, until};
use serde_json::{Value, json};

use super::{Sidecar, agree, in_force, listener};

/// A sidecar whose filter queries this fake.
async fn with_fake(fake: &FakeAdmin, workers: &str, first: Value) -> Sidecar {
    let config = Config::new().fake_admin(fake.port);
    let workers = ["--concurrency", workers];
    Sidecar::start_with(Build::Wasm, vec![first], config, &workers).await
}

/// No probe comes after the rollback until the admin is silent.
#[test]
fn a_configuration_that_was_put_back_goes_on_to_refresh() {
    timed(goes_on_to_refresh);
}

async fn goes_on_to_refresh() {
    const MAX_STALE: Duration = Duration::from_secs(5);
    let fake = FakeAdmin::start(healthy()).await;
    let port = free_port();
    let given = |cluster: &str| {
        let config = json!({
            "refresh_interval_ms": 100,
            "max_stale_ms": MAX_STALE.as_millis() as u64,
            "endpoints": [{"path": "/healthz", "clusters": [cluster]}],
        });
        listener(Build::Wasm, port, cluster, &config)
    };
    let mut sidecar = with_fake(&fake, "2", given("c")).await;
    sidecar.update(vec![given("cc")]);
    in_force(port, "cc").await;
    sidecar.update(vec![given("c")]);
    in_force(port, "c").await;
    // What was known before the rollback is too old from then on.
    tokio::time::sleep(MAX_STALE + Duration::from_secs(1)).await;
    fake.change_to(Does::Hang);
    assert_eq!(probe_at_once(port, 16).await, [200; 16]);
}

/// The configuration's filter, as Envoy is given it.
fn configuration(listener: &mut Value) -> &mut Value {
    &mut manager(listener)["http_filters"][0]["typed_config"]["config"]
}

/// The admin falls silent just when an update comes, as it does when a push of many clusters comes with
/// it. The endpoint is what it was, so that what is known is known still: on each worker, though but one
/// of them was probed before.
#[tokio::test]
async fn an_update_that_asks_for_the_same_keeps_what_is_known() {
    let more = |endpoint: Value| {
        move |filter: &mut Value, config: &Value| {
            let mut config = config.clone();
            let endpoints = config["endpoints"].as_array_mut();
            endpoints.expect("endpoints").push(endpoint.clone());
            filter["configuration"]["value"] = json!(config.to_string());
        }
    };
    let space = |filter: &mut Value, config: &Value| {
        filter["configuration"]["value"] = json!(format!("{config} "));
    };
    let root_id = |filter: &mut Value, _: &Value| filter["root_id"] = json!("another");
    let endpoint = |cluster: &str| json!({"path": "/other", "clusters": [cluster]});
    let (same, new) = (more(endpoint("c")), more(endpoint("new")));
    type Change<'a> = &'a dyn Fn(&mut Value, &Value);
    let rows: [(&str, Change, u16); 4] = [
        ("another endpoint", &same, 200),
        ("a space", &space, 200),
        ("another root_id", &root_id, 200),
        // It begins as at a start.
        ("another cluster", &new, 503),
    ];
    for background in [false, true] {
        for (row, change, status) in rows {
            println!("{row}, in the background: {background}");
            let fake = FakeAdmin::start(healthy()).await;
            let port = free_port();
            let mut config = json!({
                "admin_cluster": "local_admin",
                "max_stale_ms": 60000,
                "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
            });
            if background {
                config["refresh_interval_ms"] = json!(100);
            }
            let old = listener(Build::Wasm, port, "old", &config);
            let mut sidecar = with_fake(&fake, "4", old).await;
            Prober::http(port).wait_for(200).await;
            fake.change_to(Does::Hang);
            let mut new = listener(Build::Wasm, port, "new", &config);
            change(configuration(&mut new), &config);
            sidecar.update(vec![new]);
            in_force(port, "new").await;
            if status == 503 {
                // A worker may have the old listener still.
                Prober::http(port).wait_for(503).await;
            } else {
                assert_eq!(probe_at_once(port, 64).await, [200; 64], "{row}");
            }
        }
    }
}

/// The first health check takes its time, and Envoy is not live meanwhile: that is no fault of the admin
/// nor of the endpoint, and hides none.
#[tokio::test]
async fn a_start_says_nothing_of_itself() {
    let late = Does::Delay(Duration::from_secs(2), b"ok".to_vec());
    for (does, timeout, status) in [(late, "20s", 200), (Does::Hang, "2s", 503)] {
        let host = FakeAdmin::start(does).await;
        let mut c = with_http_check(cluster("c", &[host.port]));
        c["health_checks"][0]["timeout"] = json!(timeout);
        let filter = json!({"refresh_interval_ms": 100, "admin_timeout_ms": 20000});
        let config = Config::new().cluster(c);
        let config = config.listener(Build::Wasm.listener(free_port(), &filter));
        let envoy = config.start().await;
        let refreshes = async |result: &str| {
            let stat = [("filter", "default"), ("result", result)];
            envoy.stat(&Build::Wasm.stat("refreshes", &stat)).await
        };
        let what = "it refreshes without a probe";
        until(what, async || refreshes("succeeded").await > 2).await;
        let logged_nothing = || {
            for line in ["admin unavailable", "admin available", "INITIALIZING"] {
                assert_eq!(envoy.logged(&["envoy-healthz", line]), [""; 0], "{status}");
            }
        };
        logged_nothing();
        // No probe has come.
        assert_eq!(envoy.logged(&["envoy-healthz", "/healthz"]), [""; 0]);
        let probe = async || Prober::http(envoy.port).get("/healthz").await.status;
        agree(Build::Wasm, &envoy, status, probe).await;
        logged_nothing();
        assert_eq!(refreshes("failed").await, 0, "{status}");
        let lines = envoy.logged(&["envoy-healthz[default]: /healthz is unhealthy"]);
        assert_eq!(lines.len(), usize::from(status == 503), "{lines:#?}");
        assert!(lines.iter().all(|line| line.contains("c 0/1 healthy")));
    }
}

/// An answer that rests on a failed refresh says that the admin is unavailable, any other one that it is
/// available; a refresh in the background says nothing.
#[tokio::test]
async fn admin_up_says_what_answers_rested_on() {
    let fields = json!({
        "refresh_interval_ms": 50, "max_stale_ms": 600_000, "admin_timeout_ms": 20000,
    });
    let (envoy, fake) = envoy_with_fake(healthy(), "2", fields).await;
    let port = envoy.port;
    let stat = async |metric: &str, labels: &[(&str, &str)]| {
        let labels = [&[("filter", "default")], labels].concat();
        envoy.stat(&Build::Wasm.stat(metric, &labels)).await
    };
    // Ten refreshes end so from now on.
    let refreshes = async |result: &str| {
        let count = async || stat("refreshes", &[("result", result)]).await;
        let before = count().await;
        let what = format!("refreshes have {result}");
        until(&what, async || count().await >= before + 10).await;
    };
    let lines = || {
        let logged = |text| envoy.logged(&["envoy-healthz[default]: admin ", text]);
        let [gone, back] = ["unavailable: ", "available again"].map(|text| logged(text).len());
        (gone, back)
    };
    // Probes until gauge and lines say this.
    let shown = async |status: u16, up: u64, logged: (usize, usize)| {
        until(&format!("admin_up {up}, lines {logged:?}"), async || {
            let answer = Prober::http(port).get("/healthz").await.status;
            answer == status && (stat("admin_up", &[]).await, lines()) == (up, logged)
        })
        .await;
    };
    let unchanged = async |up: u64, logged: (usize, usize)| {
        assert_eq!((stat("admin_up", &[]).await, lines()), (up, logged));
    };
    shown(200, 1, (0, 0)).await;
    let wrong = || Does::Answer(500, HEALTHY.to_vec());
    for does in [Does::Close, wrong()] {
        fake.change_to(does);
        refreshes("failed").await;
        unchanged(1, (0, 0)).await;
        fake.change_to(healthy());
        refreshes("succeeded").await;
        unchanged(1, (0, 0)).await;
    }
    shown(200, 1, (0, 0)).await;

    // Stale answers.
    fake.change_to(Does::Close);
    shown(200, 0, (1, 0)).await;
    fake.change_to(healthy());
    refreshes("succeeded").await;
    unchanged(0, (1, 0)).await;
    shown(200, 1, (1, 1)).await;

    // Nothing is known.
    fake.change_to(wrong());
    shown(503, 0, (2, 1)).await;
    fake.change_to(healthy());
    shown(200, 1, (2, 2)).await;
}
