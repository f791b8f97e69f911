//! Endpoints that mean one thing each, and filters that have a name.

use e2e::config::{bootstrap, cluster, healthz, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY};
use e2e::free_port;
use e2e::prober::Prober;
use serde_json::{Value, json};

/// Each endpoint minds draining if it says so, or else if the filter does.
#[tokio::test]
async fn draining_is_minded_endpoint_by_endpoint() {
    let endpoint = |path: &str, clusters: &[&str], fail: Option<bool>| {
        let mut endpoint = json!({"path": path, "clusters": clusters});
        if let Some(fail) = fail {
            endpoint["fail_when_draining"] = json!(fail);
        }
        endpoint
    };
    let endpoints = json!([
        endpoint("/live/default", &[], None),
        endpoint("/live/true", &[], Some(true)),
        endpoint("/live/false", &[], Some(false)),
        endpoint("/service/default", &["c"], None),
        endpoint("/service/true", &["c"], Some(true)),
        endpoint("/service/false", &["c"], Some(false)),
        endpoint("/dead/true", &["none"], Some(true)),
        endpoint("/dead/false", &["none"], Some(false)),
    ]);
    let filter = |fail: Option<bool>| {
        let mut filter = json!({
            "admin_cluster": "local_admin", "max_age_ms": 0, "endpoints": endpoints,
        });
        if let Some(fail) = fail {
            filter["fail_when_draining"] = json!(fail);
        }
        healthz(&filter)
    };
    let (admin, unsaid, minds, ignores) = (free_port(), free_port(), free_port(), free_port());
    let listeners = vec![
        listener(unsaid, [filter(None)]),
        listener(minds, [filter(Some(true))]),
        listener(ignores, [filter(Some(false))]),
    ];
    let clusters = vec![cluster("c", &[1])];
    let envoy = Envoy::start(&bootstrap(admin, listeners, clusters).to_string(), &[]).await;
    // For each filter: the status of an endpoint that says nothing, while Envoy is draining.
    let filters = [(unsaid, 503), (minds, 503), (ignores, 200)];
    let rows = |default: u16| {
        [
            ("/live/default", 200, default),
            ("/live/true", 200, 503),
            ("/live/false", 200, 200),
            ("/service/default", 200, default),
            ("/service/true", 200, 503),
            ("/service/false", 200, 200),
            ("/dead/true", 503, 503),
            ("/dead/false", 503, 503),
        ]
    };
    for action in ["/healthcheck/ok", "/healthcheck/fail", "/healthcheck/ok"] {
        envoy.post(action).await;
        for (port, default) in filters {
            for (path, live, draining) in rows(default) {
                let expected = match action {
                    "/healthcheck/ok" => live,
                    _ => draining,
                };
                let status = Prober::http(port).get(path).await.status;
                assert_eq!(status, expected, "{path} after {action}, default {default}");
            }
        }
    }
}

/// How often Envoy has sent something to this cluster.
async fn calls(envoy: &Envoy, cluster: &str) -> u64 {
    envoy
        .stat(&format!("cluster.{cluster}.upstream_rq_total"))
        .await
}

/// A liveness endpoint that does not mind draining is healthy whatever is known of the admin; one
/// that does asks for nothing but whether Envoy is ready.
#[tokio::test]
async fn a_liveness_endpoint_asks_nothing_it_does_not_need() {
    let fake = FakeAdmin::start(Does::Hang).await;
    let clusters = vec![cluster("fake", &[fake.port])];
    let (admin, lost, silent, ready) = (free_port(), free_port(), free_port(), free_port());
    let filter = |name: &str, admin_cluster: &str, endpoints: Value| {
        healthz(&json!({
            "name": name, "admin_cluster": admin_cluster, "admin_timeout_ms": 60000,
            // Nor in the background.
            "max_age_ms": 50, "refresh_interval_ms": 50,
            "endpoints": endpoints,
        }))
    };
    let livez = json!({"path": "/livez", "clusters": [], "fail_when_draining": false});
    let drains = json!({"path": "/drainz", "clusters": []});
    let service = json!({"path": "/healthz", "clusters": ["c"]});
    let listeners = vec![
        listener(
            lost,
            [filter("lost", "nowhere", json!([livez, drains, service]))],
        ),
        listener(silent, [filter("silent", "fake", json!([livez]))]),
        listener(ready, [filter("ready", "fake", json!([livez, drains]))]),
    ];
    let config = bootstrap(admin, listeners, clusters);
    let envoy = Envoy::start(&config.to_string(), &[]).await;

    // An admin that is not there, and one that hangs.
    for _ in 0..20 {
        assert_eq!(Prober::http(lost).get("/livez").await.status, 200);
        assert_eq!(Prober::http(lost).get("/drainz").await.status, 503);
        assert_eq!(Prober::http(lost).get("/healthz").await.status, 503);
        assert_eq!(Prober::http(silent).get("/livez").await.status, 200);
        assert_eq!(Prober::http(ready).get("/livez").await.status, 200);
    }
    // The fake does not count who asks it for `/ready`; Envoy does.
    assert_eq!(Prober::http(ready).get("/drainz").await.status, 200);
    assert!(calls(&envoy, "fake").await > 0);
    assert_eq!(fake.requests(), 0, "for another page than /ready");

    envoy.post("/healthcheck/fail").await;
    assert_eq!(Prober::http(lost).get("/livez").await.status, 200);
    assert_eq!(Prober::http(silent).get("/livez").await.status, 200);
    for name in ["lost", "silent", "ready"] {
        let line = format!("envoy-healthz[{name}]: /livez is healthy");
        assert_eq!(envoy.logged(&[&line]).len(), 1, "{name}");
    }
}

/// Alone in its Envoy: not one call, in a hundred probes and many background periods.
#[tokio::test]
async fn a_liveness_endpoint_alone_never_calls() {
    let fake = FakeAdmin::start(Does::Answer(200, HEALTHY.to_vec())).await;
    let clusters = vec![cluster("fake", &[fake.port])];
    let (admin, port) = (free_port(), free_port());
    let filter = healthz(&json!({
        "admin_cluster": "fake", "max_age_ms": 50, "refresh_interval_ms": 50,
        "endpoints": [
            {"path": "/livez", "clusters": [], "fail_when_draining": false},
            {"path": "/healthz/alive", "clusters": [], "fail_when_draining": false},
        ],
    }));
    let config = bootstrap(admin, vec![listener(port, [filter])], clusters);
    let envoy = Envoy::start(&config.to_string(), &[]).await;
    for _ in 0..100 {
        for path in ["/livez", "/healthz/alive"] {
            let answer = Prober::http(port).get(path).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        }
    }
    // Counted at the tick, which is the one that a background refresh would come with.
    let probes = "wasmcustom.envoy_healthz.probes.filter.default.code.200.path./livez";
    e2e::eventually("the probes are counted", async || {
        (envoy.stat(probes).await == 100).then_some(())
    })
    .await;
    assert_eq!(calls(&envoy, "fake").await, 0);
    assert_eq!(fake.requests(), 0);
}

/// Filters that are alike but for their names: each line of the log says whose it is.
#[tokio::test]
async fn each_line_of_the_log_carries_its_filters_name() {
    const BRAND_NEW: &[u8] = b"c::127.0.0.1:9000::health_flags::/brand_new\n";
    let fake = FakeAdmin::start(Does::Answer(200, HEALTHY.to_vec())).await;
    let clusters = vec![cluster("fake", &[fake.port])];
    let (admin, edge, inside, unnamed) = (free_port(), free_port(), free_port(), free_port());
    let filter = |name: Option<&str>| {
        let mut filter = json!({
            "admin_cluster": "fake", "max_age_ms": 0,
            "endpoints": [{"path": "/healthz", "clusters": ["c"], "fail_when_draining": false}],
        });
        if let Some(name) = name {
            filter["name"] = json!(name);
        }
        healthz(&filter)
    };
    let listeners = vec![
        listener(edge, [filter(Some("edge"))]),
        listener(inside, [filter(Some("in_side-1"))]),
        listener(unnamed, [filter(None)]),
    ];
    let config = bootstrap(admin, listeners, clusters);
    // One worker, which sees all changes: another one would look for them once a second.
    let envoy = Envoy::start(&config.to_string(), &["--concurrency", "1"]).await;
    let filters = [(edge, "edge"), (inside, "in_side-1"), (unnamed, "default")];
    let rows: [(_, _, &[&str]); 4] = [
        (
            Does::Answer(200, HEALTHY.to_vec()),
            200,
            &["/healthz is healthy"],
        ),
        (
            Does::Answer(500, b"no".to_vec()),
            503,
            &["admin unavailable: ", "/healthz is unhealthy: admin: "],
        ),
        (
            Does::Answer(200, BRAND_NEW.to_vec()),
            503,
            &[
                "admin available again",
                "/healthz is still unhealthy: c 0/1 healthy: 127.0.0.1:9000 brand_new",
            ],
        ),
        (
            Does::Answer(200, HEALTHY.to_vec()),
            200,
            &["/healthz is healthy"],
        ),
    ];
    let lines_of = |name: &str| {
        let ours = envoy.logged(&[&format!("envoy-healthz[{name}]: ")]);
        let lines = ours.iter().filter_map(|line| line.split_once("]: "));
        let lines = lines.map(|(_, text)| text.to_owned());
        let lines = lines.filter(|line| !line.starts_with("unknown health flag"));
        lines.collect::<Vec<_>>()
    };
    for (port, name) in filters {
        let mut begin: Vec<&str> = Vec::new();
        for (does, status, more) in &rows {
            fake.change_to(does.clone());
            begin.extend(*more);
            e2e::eventually(&format!("{name} says {more:?}"), async || {
                let answer = Prober::http(port).get("/healthz").await;
                assert_eq!(answer.status, *status, "{name}");
                (lines_of(name).len() >= begin.len()).then_some(())
            })
            .await;
        }
        let lines = lines_of(name);
        assert_eq!(lines.len(), begin.len(), "{name}: {lines:?}");
        for (line, begin) in lines.iter().zip(begin) {
            assert!(line.starts_with(begin), "{name}: {line:?} is not {begin:?}");
        }
    }
    // An unknown flag is news for the process, not for each filter.
    let unknown = "]: unknown health flag \"brand_new\" at 127.0.0.1:9000";
    assert_eq!(envoy.logged(&[unknown]).len(), 1);
    let all = envoy.logged(&["wasm log", "envoy-healthz"]);
    assert_eq!(all.len(), 19, "a line without a name: {all:?}");
}
