//! Every state of a cluster that a real Envoy can be brought into: what the filter says, what
//! Envoy's own health_check filter on a listener beside it says, and why where the two differ.

use e2e::config::{
    Config, address, cluster, cluster_of, host, listener_with_routes, with_http_check,
    with_tcp_check,
};
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::pair::{Pair, one_of, rule, spread};
use e2e::prober::Prober;
use e2e::xds::{Cds, Eds};
use e2e::{Build, TcpHost, dead_port, free_port};
use reqwest::Method;
use serde_json::{Value, json};

both_builds! {
    active_checks,
    discovered_health,
    outlier_ejection,
    immediate_failure,
    host_waiting_for_its_first_check,
    host_removed_but_still_passing,
    clusters_without_a_host,
    thresholds,
    priorities_are_added_up,
    several_clusters,
    odd_names,
    draining_and_back,
    without_stats,
    requests,
}

/// Why the two differ.
const DEGRADED: &str = "degraded: the built-in filter always counts degraded hosts as healthy";
const ABSOLUTE: &str = "min_healthy: the built-in filter knows percentages alone";
const EXCLUDED: &str = "percentages: the built-in filter counts draining hosts in the whole";
const STATS: &str = "stats: the built-in filter counts with gauges that can be switched off";

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn active_checks(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let hung = FakeAdmin::start(Does::Hang).await;
    let degraded =
        Does::Respond(|_| OK.replace("\r\ncontent", "\r\nx-envoy-degraded: true\r\ncontent"));
    let degraded = FakeAdmin::start(degraded).await;
    let strict = json!({"clusters": [{"name": "degraded", "degraded": "unhealthy"}]});
    let mut timing_out = with_http_check(cluster("timing_out", &[hung.port]));
    timing_out["health_checks"][0]["timeout"] = json!("0.3s");
    let names = ["passing", "failing", "timing_out", "degraded"];
    let rules = names.map(one_of).into_iter();
    let config = Config::new()
        .cluster(with_tcp_check(cluster("passing", &[live])))
        .cluster(with_tcp_check(cluster("failing", &[dead_port()])))
        .cluster(timing_out)
        .cluster(with_http_check(cluster("degraded", &[degraded.port])));
    let rules = rules.chain([rule("degraded_is_unhealthy", strict, 1.0)]);
    let pair = Pair::start(build, rules, config).await;
    pair.follows("passing", "healthy", 200).await;
    pair.follows("failing", "/failed_active_hc", 503).await;
    let timed_out = "/failed_active_hc/active_hc_timeout";
    pair.follows("timing_out", timed_out, 503).await;
    pair.follows("degraded", "/degraded_active_hc", 200).await;
    let strict = "degraded_is_unhealthy";
    pair.check(strict, 503, 200, Some(DEGRADED)).await;
}

async fn discovered_health(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[host(live, "UNKNOWN")]);
    let strict = json!({"clusters": [{"name": "eds", "degraded": "unhealthy"}]});
    let rules = [one_of("eds"), rule("strict", strict, 1.0)];
    let pair = Pair::start(build, rules, Config::new().cluster(eds.cluster())).await;
    for (status, flags, expected, strict) in [
        ("UNKNOWN", "healthy", 200, 200),
        ("HEALTHY", "healthy", 200, 200),
        ("UNHEALTHY", "/failed_eds_health", 503, 503),
        ("TIMEOUT", "/failed_eds_health", 503, 503),
        ("DRAINING", "/eds_status_draining", 503, 503),
        ("DEGRADED", "/degraded_eds_health", 200, 503),
    ] {
        eds.replace(&[host(live, status)]);
        pair.follows("eds", flags, expected).await;
        let why = (strict != expected).then_some(DEGRADED);
        pair.check("strict", strict, expected, why).await;
    }
}

/// A listener that leads to this cluster.
fn traffic_to(cluster: &str) -> (Prober, Value) {
    let port = free_port();
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    let listener = listener_with_routes(port, [], vec![route]);
    (Prober::http(port), listener)
}

async fn outlier_ejection(build: Build) {
    let host = FakeAdmin::start(Does::Answer(500, vec![])).await;
    let mut ejecting = cluster("ejecting", &[host.port]);
    ejecting["outlier_detection"] = json!({
        "consecutive_5xx": 1, "interval": "0.1s", "base_ejection_time": "300s", "max_ejection_percent": 100,
    });
    let (traffic, listener) = traffic_to("ejecting");
    let config = Config::new().cluster(ejecting).listener(listener);
    let pair = Pair::start(build, [one_of("ejecting")], config).await;
    pair.check("ejecting", 200, 200, None).await;
    traffic.get("/").await;
    pair.follows("ejecting", "/failed_outlier_check", 503).await;
}

async fn immediate_failure(build: Build) {
    let host = FakeAdmin::start(Does::Respond(|path| match path {
        "/check" => OK.to_owned(),
        _ => OK.replace(
            "\r\ncontent",
            "\r\nx-envoy-immediate-health-check-fail: true\r\ncontent",
        ),
    }))
    .await;
    let mut failing = with_http_check(cluster("failing", &[host.port]));
    // One check, which may take its time while Envoy starts: the next would make it healthy again.
    failing["health_checks"][0]["timeout"] = json!("30s");
    failing["health_checks"][0]["interval"] = json!("300s");
    failing["health_checks"][0]["no_traffic_interval"] = json!("300s");
    let (traffic, listener) = traffic_to("failing");
    let config = Config::new().cluster(failing).listener(listener);
    let pair = Pair::start(build, [one_of("failing")], config).await;
    pair.follows("failing", "healthy", 200).await;
    traffic.get("/").await;
    let flags = "/failed_active_hc/excluded_via_immediate_hc_fail";
    pair.follows("failing", flags, 503).await;
}

async fn host_waiting_for_its_first_check(build: Build) {
    let hung = FakeAdmin::start(Does::Hang).await;
    let eds = Eds::new("eds", &[]);
    let mut waiting = with_http_check(eds.cluster());
    waiting["health_checks"][0]["timeout"] = json!("300s");
    waiting["common_lb_config"]["ignore_new_hosts_until_first_hc"] = json!(true);
    let pair = Pair::start(build, [one_of("eds")], Config::new().cluster(waiting)).await;
    eds.replace(&[host(hung.port, "UNKNOWN")]);
    let pending = "/failed_active_hc/pending_active_hc";
    pair.follows("eds", pending, 503).await;
}

async fn host_removed_but_still_passing(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[host(live, "UNKNOWN")]);
    let config = Config::new().cluster(with_tcp_check(eds.cluster()));
    let pair = Pair::start(build, [one_of("eds")], config).await;
    pair.wait_for_flags("eds", "healthy").await;
    eds.replace(&[]);
    pair.follows("eds", "/pending_dynamic_removal", 200).await;
}

async fn clusters_without_a_host(build: Build) {
    let mut cds = Cds::new(vec![]);
    let mut unresolvable = cluster_of("unresolvable", vec![address("nowhere.invalid", 80)]);
    unresolvable["type"] = json!("STRICT_DNS");
    // Its request for hosts is never answered: what depends on it stays warming.
    let mute = FakeAdmin::start(Does::Hang).await;
    let warming = json!({
        "name": "warming", "type": "EDS",
        "eds_cluster_config": {"eds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
            "api_config_source": {
                "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["mute"],
                "refresh_delay": "300s", "request_timeout": "300s",
            },
        }},
    });
    let names = ["empty", "unknown", "unresolvable", "warming"];
    let config = Config::new()
        .clusters([
            cluster("empty", &[]),
            unresolvable,
            cluster("mute", &[mute.port]),
        ])
        .cds(&cds);
    let pair = Pair::start(build, names.map(one_of), config).await;
    cds.set("warming", Some(warming));
    let count = "cluster_manager.warming_clusters";
    pair.envoy.wait_for_stat(count, 1).await;
    for name in names {
        pair.check(name, 503, 503, None).await;
    }
}

async fn thresholds(build: Build) {
    let eds = Eds::new("eds", &[]);
    let strict = json!({"name": "eds", "degraded": "unhealthy"});
    let min = |min| json!({"name": "eds", "min_healthy": min});
    let rules = [
        ("one", json!({"name": "eds"}), 1, ""),
        ("strict", strict, 1, DEGRADED),
        ("two", min(json!(2)), 1, ABSOLUTE),
        ("half", min(json!("50%")), 50, EXCLUDED),
        ("all", min(json!("100%")), 100, EXCLUDED),
    ];
    let given = rules.clone();
    let given =
        given.map(|(path, of, percent, _)| rule(path, json!({"clusters": [of]}), percent as f64));
    let pair = Pair::start(build, given, Config::new().cluster(eds.cluster())).await;
    // The module does not learn which hosts Envoy excludes, so that it counts them in the whole.
    let drained = match build {
        Build::Wasm => [200, 200, 503, 200, 200],
        Build::Module => [200, 200, 503, 503, 503],
    };
    // No two rows that follow each other have the same number of hosts: this waits for it.
    for (statuses, expected) in [
        ("HEALTHY UNHEALTHY UNHEALTHY", [200, 200, 503, 503, 503]),
        (
            "HEALTHY HEALTHY UNHEALTHY UNHEALTHY",
            [200, 200, 200, 200, 503],
        ),
        ("HEALTHY HEALTHY DEGRADED", [200; 5]),
        ("HEALTHY DEGRADED", [200; 5]),
        ("DEGRADED", [200, 503, 503, 200, 200]),
        ("HEALTHY DRAINING DRAINING DRAINING", drained),
        ("UNKNOWN", [200, 200, 503, 200, 200]),
        ("", [503; 5]),
    ] {
        let statuses: Vec<_> = statuses.split_whitespace().collect();
        let hosts = statuses.iter().zip(1..);
        let hosts: Vec<_> = hosts.map(|(status, port)| host(port, status)).collect();
        eds.replace(&hosts);
        let total = statuses.len();
        let shown = "cluster.eds.membership_total";
        pair.envoy.wait_for_stat(shown, total as u64).await;
        let usable = |status: &&&str| matches!(**status, "UNKNOWN" | "HEALTHY" | "DEGRADED");
        let usable = statuses.iter().filter(usable).count();
        for ((path, _, percent, why), ours) in rules.iter().zip(expected) {
            let enough = total > 0 && usable * 100 >= total * percent;
            let built_in = if enough { 200 } else { 503 };
            let why = (built_in != ours).then_some(*why);
            pair.check(path, ours, built_in, why).await;
        }
        let lines = pair.check_ours("one", expected[0]).await;
        let sign = if usable > 0 { '+' } else { '-' };
        let line = format!("[{sign}]eds {usable}/{total} healthy");
        assert!(lines.starts_with(&line), "{statuses:?}: {lines}");
    }
}

async fn priorities_are_added_up(build: Build) {
    let four = json!({"clusters": [{"name": "c", "min_healthy": 4}]});
    let config = Config::new().cluster(spread());
    let pair = Pair::start(build, [rule("four", four, 100.0)], config).await;
    pair.check("four", 200, 200, None).await;
    let lines = pair.check_ours("four", 200).await;
    assert_eq!(lines, "[+]c 4/4 healthy, 4 needed\nhealthz check passed\n");
}

/// An Envoy with a healthy cluster `up` and an unhealthy one, `down`.
async fn up_and_down(
    build: Build,
    rules: impl IntoIterator<Item = e2e::pair::Rule>,
) -> (Pair, TcpHost) {
    let (host, live) = TcpHost::on_free_port().await;
    let config = Config::new()
        .cluster(cluster("up", &[live]))
        .cluster(with_tcp_check(cluster("down", &[dead_port()])));
    let pair = Pair::start(build, rules, config).await;
    pair.wait_for_flags("down", "/failed_active_hc").await;
    (pair, host)
}

async fn several_clusters(build: Build) {
    let none = json!({"clusters": ["down", "unknown"], "require": "any"});
    let rules = [
        rule("all", json!({"clusters": ["up", "down"]}), 1.0),
        rule(
            "any",
            json!({"clusters": ["up", "down"], "require": "any"}),
            1.0,
        ),
        rule("none", none, 1.0),
        rule("livez", json!({"clusters": []}), 1.0),
    ];
    let (pair, _host) = up_and_down(build, rules).await;
    // Envoy's own filter has the first cluster alone.
    pair.check_ours("all", 503).await;
    pair.check_ours("any", 200).await;
    let lines = pair.check_ours("none", 503).await;
    for line in [
        "[-]down 0/1 healthy",
        "[-]unknown 0/0 healthy: Envoy knows no such cluster, or is",
    ] {
        assert!(lines.contains(line), "{lines}");
    }
    let lines = pair.check_ours("livez", 200).await;
    assert_eq!(lines, "healthz check passed\n");
}

/// A name is looked for whole: no part of one is another.
async fn odd_names(build: Build) {
    let names = ["a::b", "my-service", "c.d", "\u{fc}"];
    let paths = ["/0", "/1", "/2", "/3"];
    let of = |(path, name)| json!({"path": path, "clusters": [name]});
    let rows = paths.into_iter().zip(names).chain([("/part", "my")]);
    let endpoints: Vec<_> = rows.map(of).collect();
    let config = Config::new()
        .clusters(names.map(|name| cluster(name, &[1])))
        .listener(build.listener(
            free_port(),
            &json!({"admin_timeout_ms": 30000, "endpoints": endpoints}),
        ));
    let envoy = config.start().await;
    for path in paths {
        envoy.wait_for(path, 200, "ok").await;
    }
    envoy.wait_for("/part", 503, "unavailable").await;
}

const GRPC: [(&str, &str); 1] = [("content-type", "application/grpc")];

async fn draining_and_back(build: Build) {
    let config = Config::new().cluster(cluster("up", &[1]));
    let pair = Pair::start(build, [one_of("up")], config).await;
    // The module's drain is Envoy's health_check filter, which says no more than its status.
    let draining = match build {
        Build::Wasm => {
            "[-]Envoy is not ready (/ready: 503 DRAINING)\n[+]up 1/1 healthy\nhealthz check failed\n"
        }
        Build::Module => "",
    };
    let passed = "[+]up 1/1 healthy\nhealthz check passed\n";
    for (action, status, body, grpc_status) in [
        ("/healthcheck/ok", 200, passed, "0"),
        ("/healthcheck/fail", 503, draining, "14"),
        ("/healthcheck/ok", 200, passed, "0"),
    ] {
        pair.envoy.post(action).await;
        pair.check("up", status, status, None).await;
        let answer = pair.ours.get("/up?verbose").await;
        assert_eq!(answer.body, body, "{action}");
        for (name, _) in &answer.headers {
            assert!(!name.starts_with("x-"), "{name} is for nobody outside");
        }
        let answer = pair.ours.send(Method::POST, "/up", &GRPC).await;
        let seen = (answer.status, answer.header("grpc-status"));
        assert_eq!(seen, (200, Some(grpc_status)));
    }
}

/// The built-in filter counts with gauges, which a stats_matcher takes away.
async fn without_stats(build: Build) {
    let mut config = Config::new().cluster(cluster("up", &[1]));
    config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    let pair = Pair::start(build, [one_of("up")], config).await;
    pair.check("up", 200, 503, Some(STATS)).await;
    pair.envoy.post("/healthcheck/fail").await;
    pair.check("up", 503, 503, None).await;
}

/// The differences that have nothing to do with a cluster's state.
async fn requests(build: Build) {
    let (pair, _host) = up_and_down(build, [one_of("up"), one_of("down")]).await;
    let (ours, built_in) = (&pair.ours, &pair.built_in);

    // The query: an exact matcher of the built-in filter takes it for part of the path.
    assert_eq!(ours.get("/up?x=1").await.status, 200);
    assert_eq!(built_in.get("/up?x=1").await.status, 418);

    // The method: the built-in filter answers any.
    for (prober, status) in [(ours, 405), (built_in, 200)] {
        assert_eq!(prober.send(Method::POST, "/up", &[]).await.status, status);
    }

    // The body and headers: the built-in filter says nothing, and names the node's cluster.
    for (prober, body, cluster) in [(ours, "ok", None), (built_in, "", Some("e2e"))] {
        let answer = prober.get("/up").await;
        let header = answer.header("x-envoy-upstream-healthchecked-cluster");
        assert_eq!((answer.body.as_str(), header), (body, cluster));
    }

    // A gRPC-typed probe: the built-in filter's success is grpc-status 2, UNKNOWN.
    for (prober, path, status) in [
        (ours, "/up", "0"),
        (built_in, "/up", "2"),
        (ours, "/down", "14"),
        (built_in, "/down", "14"),
    ] {
        let answer = prober.send(Method::POST, path, &GRPC).await;
        let seen = (answer.status, answer.header("grpc-status"));
        assert_eq!(seen, (200, Some(status)), "{path}");
    }
}
