//! That our hand-written signatures are those of the Envoy at hand: every function of Envoy's that the
//! module uses is called, and what it should have done is seen. Then logs and stats, of which the same
//! holds.

use std::collections::BTreeSet;

use e2e::config::{bootstrap, cluster, listener, listener_with_routes, with_tcp_check};
use e2e::envoy::{Envoy, version};
use e2e::prober::{Prober, probe_at_once};
use e2e::{TcpHost, eventually, free_port, module};
use serde_json::json;

use super::Native;

/// What the module uses of Envoy, and where it is seen below. `http_send_response`, the answer after a
/// fault, is seen in `panics.rs`; bodies, trailers, schedulers and the attribute in `grpc.rs`. Of the network
/// filter's attribute the name alone is looked for.
const USED: [&str; 20] = [
    "http_filter_config_define_counter",
    "http_filter_config_define_gauge",
    "http_filter_get_attribute_string",
    "http_filter_increment_counter",
    "http_filter_scheduler_commit",
    "http_filter_scheduler_delete",
    "http_filter_scheduler_new",
    "http_filter_set_gauge",
    "http_get_body_chunks",
    "http_get_body_chunks_size",
    "http_get_cluster_host_count",
    "http_get_cluster_name",
    "http_get_header",
    "http_send_response",
    "http_send_response_data",
    "http_send_response_headers",
    "http_send_response_trailers",
    "log",
    "network_filter_get_attribute_string",
    "network_filter_get_cluster_host_count",
];

#[test]
fn the_list_is_whole() {
    let file = std::fs::read(module::folder().join("libenvoy_healthz.so")).unwrap();
    let prefix = b"envoy_dynamic_module_callback_";
    let used: BTreeSet<_> = file
        .windows(prefix.len())
        .enumerate()
        .filter(|(_, window)| window == prefix)
        .map(|(start, _)| {
            let name = &file[start + prefix.len()..];
            let end = name
                .iter()
                .position(|byte| !byte.is_ascii_lowercase() && *byte != b'_');
            String::from_utf8_lossy(&name[..end.unwrap()]).into_owned()
        })
        .collect();
    assert_eq!(used, USED.map(str::to_owned).into());
}

#[tokio::test]
async fn each_is_called_and_does_what_it_should() {
    let port = free_port();
    let endpoints = json!([{"path": "/healthz", "clusters": [{"name": "c", "min_healthy": 2}], "details": true}]);
    let clusters = || {
        let dead = ("127.0.0.1", port);
        vec![with_tcp_check(cluster(
            "c",
            &[dead, ("127.0.0.2", port), ("127.0.0.3", port)],
        ))]
    };
    let routed = Native::start_on_routes(endpoints.clone(), &[("/healthz", "c")], clusters()).await;
    for native in [Native::start(endpoints, clusters()).await, routed] {
        let failed = "[-]c 0/3 healthy, 2 needed\nhealthz check failed\n";
        native.wait_for("/healthz?verbose", 503, failed).await;
        let line = "envoy-healthz[default]: /healthz is unhealthy: c 0/3 healthy, 2 needed";
        assert_eq!(native.envoy.logged(&["[warning]", line]).len(), 1);
        let gauge = "healthz.healthy.filter.default.path./healthz";
        assert_eq!(native.envoy.stat(gauge).await, 0);
        let counter = "healthz.probes.filter.default.path./healthz.code.503";
        assert!(native.envoy.stat(counter).await > 0);
        let request = native.prober.request(reqwest::Method::GET, "/healthz");
        let request = request.header("accept", "application/json");
        let answer = e2e::prober::Answer::to(request).await.unwrap();
        assert_eq!(
            answer.header("content-type"),
            Some("application/health+json")
        );
        assert!(
            answer.body.contains(r#""total":3,"required":2"#),
            "{}",
            answer.body
        );
    }
}

/// One .so for every version of Envoy that has the ABI; what each says of it.
#[tokio::test]
async fn the_version_of_the_abi() {
    let clusters = vec![cluster("c", &[("127.0.0.1", 1)])];
    let endpoints = json!([{"path": "/healthz", "clusters": ["c"]}]);
    let native = Native::start(endpoints, clusters).await;
    native.wait_for("/healthz", 200, "ok").await;
    let line = match version().get(..5) {
        Some("1.38." | "1.39.") => "ABI version v0.2.0 is deprecated",
        Some("1.40.") => "ABI version v0.2.0 matched",
        _ => {
            println!(
                "SKIPPED: nobody has looked at what Envoy {} says",
                version()
            );
            return;
        }
    };
    assert!(!native.envoy.logged(&[line]).is_empty(), "{line}");
}

/// Two endpoints on two workers, and a host that comes and goes: one line and one transition each.
#[tokio::test]
async fn logs_and_stats() {
    let live = free_port();
    let (admin, port) = (free_port(), free_port());
    let filter = module::filter(&json!({
        "name": "one", "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/readyz/a", "clusters": ["steady"]},
            {"path": "/never", "clusters": ["steady"]},
        ],
    }));
    let clusters = vec![
        with_tcp_check(cluster("c", &[("127.0.0.1", live)])),
        cluster("steady", &[("127.0.0.1", live)]),
    ];
    let listener = module::with_network_filter(listener(port, filter));
    let config = bootstrap(admin, vec![listener], clusters);
    let envoy = Envoy::start(&config, admin).await;
    let prober = Prober::http(port);

    let mut lines = Vec::new();
    let mut probes = [0, 0];
    let mut host = None;
    for expected in [503, 200, 503, 200] {
        drop(host.take());
        if expected == 200 {
            host = Some(TcpHost::start(live).await);
        }
        let mut count = |status: u16| probes[usize::from(status == 503)] += 1;
        eventually("the change is seen", async || {
            let status = prober.get("/healthz").await.status;
            count(status);
            (status == expected).then_some(())
        })
        .await;
        // Both workers see it, by connections of their own.
        for status in probe_at_once(port, 20).await {
            assert_eq!(status, expected);
            count(status);
        }
        lines.push(match expected {
            200 => "/healthz is healthy",
            _ => "/healthz is unhealthy: c 0/1 healthy",
        });
    }
    for _ in 0..3 {
        assert_eq!(Prober::http(port).get("/readyz/a").await.status, 200);
    }
    let request = prober.request(reqwest::Method::POST, "/healthz");
    e2e::prober::Answer::to(request).await.unwrap();

    let logged = envoy.logged(&["envoy-healthz[one]: /healthz "]);
    let logged: Vec<_> = logged
        .iter()
        .filter_map(|line| Some(line.split_once("envoy-healthz[one]: ")?.1))
        .collect();
    assert_eq!(logged, lines);
    assert_eq!(envoy.logged(&["envoy-healthz"]).len(), lines.len() + 1);
    assert_eq!(envoy.logged(&["[info]", "/readyz/a is healthy"]).len(), 1);

    // Probes of one moment are counted by a later one: by one more of these, then.
    let [mut good, bad] = probes;
    eventually("all probes are counted", async || {
        assert_eq!(prober.get("/healthz").await.status, 200);
        good += 1;
        let text = envoy.admin.get("/stats/prometheus").await.body;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("envoy_healthz"));
        let mut ours: Vec<_> = lines.collect();
        ours.sort_unstable();
        let mut expected = [
            format!(r#"probes{{filter="one",path="/healthz",code="200"}} {good}"#),
            format!(r#"probes{{filter="one",path="/healthz",code="503"}} {bad}"#),
            r#"probes{filter="one",path="/healthz",code="405"} 1"#.to_owned(),
            r#"probes{filter="one",path="/readyz/a",code="200"} 3"#.to_owned(),
            r#"transitions{filter="one",path="/healthz"} 4"#.to_owned(),
            r#"transitions{filter="one",path="/readyz/a"} 1"#.to_owned(),
            r#"healthy{filter="one",path="/healthz"} 1"#.to_owned(),
            r#"healthy{filter="one",path="/readyz/a"} 1"#.to_owned(),
        ]
        .map(|line| format!("envoy_healthz_{line}"));
        expected.sort_unstable();
        (ours == expected).then_some(())
    })
    .await;
}

/// Where Envoy keeps no stats at all, its own filter that counts hosts always says 503.
#[tokio::test]
async fn no_stats_are_needed() {
    let (admin, port) = (free_port(), free_port());
    let mut filters = module::drain_filters();
    filters.push(module::filter_for("c"));
    let routes = vec![module::route("/healthz", "c")];
    let listener = listener_with_routes(port, filters, routes);
    let mut config = bootstrap(
        admin,
        vec![listener],
        vec![cluster("c", &[("127.0.0.1", 1)])],
    );
    config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    let envoy = Envoy::start(&config, admin).await;
    let prober = Prober::http(port);
    assert_eq!(prober.get("/healthz").await.status, 200);
    envoy.post("/healthcheck/fail").await;
    assert_eq!(prober.get("/healthz").await.status, 503);
}
