//! Endpoints that mean one thing each, and filters that have a name.

use e2e::config::{Config, cluster};
use e2e::fake_admin::{Does, FakeAdmin, healthy};
use e2e::prober::Prober;
use e2e::{Build, free_port, until};
use serde_json::{Value, json};

/// Each endpoint fails while Envoy drains if it says so, or else if the filter does.
#[tokio::test]
async fn draining_is_minded_endpoint_by_endpoint() {
    let endpoints = json!([
        {"path": "/live/default", "clusters": []},
        {"path": "/live/true", "clusters": [], "fail_when_draining": true},
        {"path": "/live/false", "clusters": [], "fail_when_draining": false},
        {"path": "/service/default", "clusters": ["c"]},
        {"path": "/service/true", "clusters": ["c"], "fail_when_draining": true},
        {"path": "/service/false", "clusters": ["c"], "fail_when_draining": false},
        {"path": "/dead/true", "clusters": ["none"], "fail_when_draining": true},
        {"path": "/dead/false", "clusters": ["none"], "fail_when_draining": false},
    ]);
    let mut config = Config::new().cluster(cluster("c", &[1]));
    // For each filter: the status of an endpoint that says nothing, while Envoy is draining.
    let mut filters = Vec::new();
    for (field, default) in [
        (json!({}), 503),
        (json!({"fail_when_draining": true}), 503),
        (json!({"fail_when_draining": false}), 200),
    ] {
        let (port, mut filter) = (free_port(), field);
        // A slow machine gets no answer from an old snapshot.
        filter["max_age_ms"] = json!(0);
        filter["max_stale_ms"] = json!(0);
        filter["admin_timeout_ms"] = json!(30000);
        filter["endpoints"] = endpoints.clone();
        config = config.listener(Build::Wasm.listener(port, &filter));
        filters.push((port, default));
    }
    let envoy = config.start().await;
    for action in ["/healthcheck/ok", "/healthcheck/fail", "/healthcheck/ok"] {
        envoy.post(action).await;
        for (port, default) in &filters {
            for (path, live, draining) in [
                ("/live/default", 200, *default),
                ("/live/true", 200, 503),
                ("/live/false", 200, 200),
                ("/service/default", 200, *default),
                ("/service/true", 200, 503),
                ("/service/false", 200, 200),
                ("/dead/true", 503, 503),
                ("/dead/false", 503, 503),
            ] {
                let expected = if action == "/healthcheck/ok" {
                    live
                } else {
                    draining
                };
                let status = Prober::http(*port).get(path).await.status;
                assert_eq!(status, expected, "{path} after {action}, default {default}");
            }
        }
    }
}

/// The number of requests that Envoy has sent to the cluster `fake`.
const CALLS: &str = "cluster.fake.upstream_rq_total";

/// A liveness endpoint that stays healthy in a drain is so whatever is known of the admin; one that does
/// not needs nothing but whether Envoy is ready.
#[tokio::test]
async fn a_liveness_endpoint_asks_nothing_it_does_not_need() {
    let fake = FakeAdmin::start(Does::Hang).await;
    let livez = json!({"path": "/livez", "clusters": [], "fail_when_draining": false});
    let drains = json!({"path": "/drainz", "clusters": []});
    let service = json!({"path": "/healthz", "clusters": ["c"]});
    let mut config = Config::new().cluster(cluster("fake", &[fake.port]));
    let ports = [
        ("lost", "nowhere", json!([livez, drains, service])),
        ("silent", "fake", json!([livez])),
        ("ready", "fake", json!([livez, drains])),
    ]
    .map(|(name, admin_cluster, endpoints)| {
        let filter = json!({
            "name": name, "admin_cluster": admin_cluster, "admin_timeout_ms": 60000,
            // Nor in the background.
            "max_age_ms": 50, "refresh_interval_ms": 50,
            "endpoints": endpoints,
        });
        let port = free_port();
        config = config.clone().listener(Build::Wasm.listener(port, &filter));
        port
    });
    let envoy = config.start().await;
    let [lost, silent, ready] = ports;
    let check = async |port, path, status| {
        // On a connection of its own, and so on any worker.
        assert_eq!(Prober::http(port).get(path).await.status, status, "{path}");
    };

    // An admin that is not there, and one that hangs.
    for _ in 0..20 {
        check(lost, "/livez", 200).await;
        check(lost, "/drainz", 503).await;
        check(lost, "/healthz", 503).await;
        check(silent, "/livez", 200).await;
        check(ready, "/livez", 200).await;
    }
    check(ready, "/drainz", 200).await;
    assert!(envoy.stat(CALLS).await > 0);
    assert_eq!(fake.requests(), 0, "for another page than /ready");

    envoy.post("/healthcheck/fail").await;
    check(lost, "/livez", 200).await;
    check(silent, "/livez", 200).await;
    for name in ["lost", "silent", "ready"] {
        let line = format!("envoy-healthz[{name}]: /livez is healthy");
        assert_eq!(envoy.logged(&[&line]).len(), 1, "{name}");
    }
}

/// Alone in its Envoy: not one call, in a hundred probes and many background periods.
#[tokio::test]
async fn a_liveness_endpoint_alone_never_calls() {
    let fake = FakeAdmin::start(healthy()).await;
    let filter = json!({
        "admin_cluster": "fake", "max_age_ms": 50, "refresh_interval_ms": 50,
        "endpoints": [
            {"path": "/livez", "clusters": [], "fail_when_draining": false},
            {"path": "/healthz/alive", "clusters": [], "fail_when_draining": false},
        ],
    });
    let config = Config::new()
        .cluster(cluster("fake", &[fake.port]))
        .listener(Build::Wasm.listener(free_port(), &filter));
    let envoy = config.start().await;
    for _ in 0..100 {
        for path in ["/livez", "/healthz/alive"] {
            let answer = Prober::http(envoy.port).get(path).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        }
    }
    // Counted at the tick, which is the one that a background refresh would come with.
    let probes = "wasmcustom.envoy_healthz.probes.filter.default.code.200.path./livez";
    envoy.wait_for_stat(probes, 100).await;
    assert_eq!(envoy.stat(CALLS).await, 0);
    assert_eq!(fake.requests(), 0);
}

/// Filters that are alike but for their names: each line of the log says whose it is.
#[tokio::test]
async fn each_line_of_the_log_carries_its_filters_name() {
    let brand_new = b"c::127.0.0.1:9000::health_flags::/brand_new\n".to_vec();
    let fake = FakeAdmin::start(healthy()).await;
    let mut config = Config::new().fake_admin(fake.port);
    let mut filters = Vec::new();
    for (name, field) in [
        ("edge", json!({"name": "edge"})),
        ("in_side-1", json!({"name": "in_side-1"})),
        ("default", json!({})),
    ] {
        let (port, mut filter): (_, Value) = (free_port(), field);
        filter["max_age_ms"] = json!(0);
        filter["max_stale_ms"] = json!(0);
        filter["admin_timeout_ms"] = json!(30000);
        filter["endpoints"] =
            json!([{"path": "/healthz", "clusters": ["c"], "fail_when_draining": false}]);
        config = config.listener(Build::Wasm.listener(port, &filter));
        filters.push((name, Prober::http(port)));
    }
    // One worker, which sees all changes: another one would look for them once a second.
    let envoy = config.start_with(&["--concurrency", "1"]).await;
    let rows: [(_, _, &[&str]); 4] = [
        (healthy(), 200, &["/healthz is healthy"]),
        (
            Does::Answer(500, b"no".to_vec()),
            503,
            &["admin unavailable: ", "/healthz is unhealthy: admin: "],
        ),
        (
            Does::Answer(200, brand_new),
            503,
            &[
                "admin available again",
                "/healthz is still unhealthy: c 0/1 healthy: 127.0.0.1:9000 brand_new",
            ],
        ),
        (healthy(), 200, &["/healthz is healthy"]),
    ];
    let lines_of = |name: &str| {
        let ours = envoy.logged(&[&format!("envoy-healthz[{name}]: ")]);
        let lines = ours.iter().filter_map(|line| line.split_once("]: "));
        let lines = lines.map(|(_, text)| text.to_owned());
        let lines = lines.filter(|line| !line.starts_with("unknown health flag"));
        lines.collect::<Vec<_>>()
    };
    for (name, prober) in filters {
        let mut begin: Vec<&str> = Vec::new();
        for (does, status, more) in &rows {
            fake.change_to(does.clone());
            begin.extend(*more);
            until(&format!("{name} logs {more:?}"), async || {
                assert_eq!(prober.get("/healthz").await.status, *status, "{name}");
                lines_of(name).len() >= begin.len()
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
