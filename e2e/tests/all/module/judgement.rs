//! What the worker's own view of a cluster is worth: each state that a real Envoy can be brought into.

use e2e::config::{address, cluster, cluster_of_endpoints, with_tcp_check};
use e2e::{TcpHost, free_port, replace_file};
use serde_json::{Value, json};

use super::Native;
use crate::judgement::{Eds, endpoint};

fn verbose(lines: &[&str], passed: bool) -> String {
    let end = if passed { "passed" } else { "failed" };
    let lines: Vec<_> = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{}healthz check {end}\n", lines.concat())
}

#[tokio::test]
async fn active_checks() {
    let port = free_port();
    let endpoints = json!([{"path": "/healthz", "clusters": ["c"], "details": true}]);
    let clusters = vec![with_tcp_check(cluster("c", &[("127.0.0.1", port)]))];
    let native = Native::start(endpoints, clusters).await;
    for _ in 0..3 {
        let down = verbose(&["[-]c 0/1 healthy"], false);
        native.wait_for("/healthz?verbose", 503, &down).await;
        let _host = TcpHost::start(port).await;
        let up = verbose(&["[+]c 1/1 healthy"], true);
        native.wait_for("/healthz?verbose", 200, &up).await;
    }
}

/// Every status that EDS can give; hosts of a second priority count as well.
#[tokio::test]
async fn discovered_health_and_thresholds() {
    let eds = Eds::new("c", &[]);
    let one = |fields: Value| {
        let mut rule = json!({"name": "c"});
        let fields = fields.as_object().unwrap().clone();
        rule.as_object_mut().unwrap().extend(fields);
        rule
    };
    let endpoints = json!([
        {"path": "/one", "clusters": ["c"], "details": true},
        {"path": "/strict", "clusters": [one(json!({"degraded": "unhealthy"}))]},
        {"path": "/two", "clusters": [one(json!({"min_healthy": 2}))]},
        {"path": "/half", "clusters": [one(json!({"min_healthy": "50%"}))]},
        {"path": "/all", "clusters": [one(json!({"min_healthy": "100%"}))]},
    ]);
    let native = Native::start(endpoints, vec![eds.cluster()]).await;
    let rows: &[(&[&str], [u16; 5])] = &[
        (&["UNKNOWN"], [200, 200, 503, 200, 200]),
        (&["UNHEALTHY"], [503; 5]),
        (&["TIMEOUT"], [503; 5]),
        (&["DRAINING"], [503; 5]),
        (&["DEGRADED"], [200, 503, 503, 200, 200]),
        (&["HEALTHY", "DEGRADED"], [200; 5]),
        (
            &["HEALTHY", "UNHEALTHY", "UNHEALTHY"],
            [200, 200, 503, 503, 503],
        ),
        // Where the wasm build differs: it leaves draining hosts out of the whole, the ABI does not
        // tell them from others.
        (
            &["HEALTHY", "DRAINING", "DRAINING"],
            [200, 200, 503, 503, 503],
        ),
        (&[], [503; 5]),
    ];
    for (statuses, expected) in rows {
        let hosts: Vec<_> = statuses
            .iter()
            .zip(1..)
            .map(|(status, port)| endpoint(port, status))
            .collect();
        eds.write(&hosts);
        // The next row is another one, so that this waits for this row.
        let total = statuses.len();
        let usable = statuses
            .iter()
            .filter(|status| matches!(**status, "UNKNOWN" | "HEALTHY" | "DEGRADED"))
            .count();
        let sign = if usable > 0 { '+' } else { '-' };
        // Of an empty cluster more is said.
        let (end, body) = match total {
            0 => (": the cluster has no host", String::new()),
            _ => (
                "",
                verbose(
                    &[&format!("[{sign}]c {usable}/{total} healthy")],
                    usable > 0,
                ),
            ),
        };
        native.wait_for("/one?verbose", expected[0], &body).await;
        let said = native.prober.get("/one?verbose").await.body;
        let start = format!("[{sign}]c {usable}/{total} healthy{end}");
        assert!(said.starts_with(&start), "{said}");
        for (path, status) in ["/one", "/strict", "/two", "/half", "/all"]
            .iter()
            .zip(expected)
        {
            // Rows of the same counts differ by what is degraded alone.
            native.wait_for(path, *status, "").await;
        }
    }
}

#[tokio::test]
async fn priorities_are_added_up() {
    let hosts = |priority: u32, count: u16| {
        let hosts: Vec<_> = (1..=count).map(|port| endpoint(port, "HEALTHY")).collect();
        json!({"priority": priority, "lb_endpoints": hosts})
    };
    let mut spread = cluster_of_endpoints("c", vec![]);
    // A gap: priority 1 has no host.
    spread["load_assignment"]["endpoints"] = json!([hosts(0, 1), hosts(2, 3)]);
    let endpoints = json!([{"path": "/healthz", "clusters": [{"name": "c", "min_healthy": 4}], "details": true}]);
    let expected = verbose(&["[+]c 4/4 healthy, 4 needed"], true);
    let by_name = Native::start(endpoints.clone(), vec![spread.clone()]).await;
    by_name.wait_for("/healthz?verbose", 200, &expected).await;
    let by_route = Native::start_on_routes(endpoints, &[("/healthz", "c")], vec![spread]).await;
    by_route.wait_for("/healthz?verbose", 200, &expected).await;
}

#[tokio::test]
async fn several_clusters() {
    let both = ["up", "down"];
    let endpoints = json!([
        {"path": "/all", "clusters": both},
        {"path": "/any", "clusters": both, "require": "any"},
        {"path": "/none", "clusters": ["down", "unknown"], "require": "any", "details": true},
        {"path": "/livez", "clusters": [], "details": true},
    ]);
    let clusters = vec![
        cluster("up", &[("127.0.0.1", 1)]),
        with_tcp_check(cluster("down", &[("127.0.0.1", free_port())])),
    ];
    let native = Native::start(endpoints, clusters).await;
    native.wait_for("/all", 503, "unavailable").await;
    native.wait_for("/any", 200, "ok").await;
    let lines = [
        "[-]down 0/1 healthy",
        "[-]unknown 0/0 healthy: Envoy knows no such cluster, or is still warming it",
    ];
    native
        .wait_for("/none?verbose", 503, &verbose(&lines, false))
        .await;
    native
        .wait_for("/livez?verbose", 200, &verbose(&[], true))
        .await;
}

/// A cluster that comes and goes by CDS.
#[tokio::test]
async fn unknown_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cds = dir.path().join("cds.json");
    let clusters = |version: &str, clusters: Value| {
        replace_file(
            &cds,
            &json!({"version_info": version, "resources": clusters}),
        );
    };
    clusters("1", json!([]));
    let endpoints = json!([{"path": "/healthz", "clusters": ["c"], "details": true}]);
    let native = Native::start_with(endpoints, vec![], |config| {
        config["dynamic_resources"] = json!({"cds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": cds},
        }});
    })
    .await;
    let unknown = "[-]c 0/0 healthy: Envoy knows no such cluster, or is still warming it";
    let unknown = verbose(&[unknown], false);
    let mut new = cluster("c", &[("127.0.0.1", 1)]);
    new["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    native.wait_for("/healthz?verbose", 503, &unknown).await;
    clusters("2", json!([new]));
    native.wait_for("/healthz", 200, "").await;
    clusters("3", json!([]));
    native.wait_for("/healthz?verbose", 503, &unknown).await;
}

/// Without the network filter the route's own cluster is known, and no other.
#[tokio::test]
async fn the_cluster_of_the_route() {
    let port = free_port();
    let endpoints = json!([
        {"path": "/healthz", "clusters": ["c"], "details": true},
        {"path": "/other", "clusters": ["c"], "details": true},
        {"path": "/gone", "clusters": ["unknown"], "details": true},
        {"path": "/livez", "clusters": []},
    ]);
    let clusters = vec![
        with_tcp_check(cluster("c", &[("127.0.0.1", port)])),
        cluster("d", &[("127.0.0.1", 1)]),
    ];
    let routes = [("/healthz", "c"), ("/other", "d"), ("/livez", "d")];
    let native = Native::start_on_routes(endpoints, &routes, clusters).await;
    native.wait_for("/healthz", 503, "unavailable").await;
    let _host = TcpHost::start(port).await;
    native.wait_for("/healthz", 200, "ok").await;
    native.wait_for("/livez", 200, "ok").await;
    for (path, cluster, leads_to) in [
        ("/other", "c", "\"d\""),
        ("/gone", "unknown", "no cluster that Envoy knows"),
    ] {
        let cause = format!(
            "no way to ask for cluster {cluster:?}: its listener has no network filter of this module, and the route leads to {leads_to}"
        );
        let expected = verbose(&[&format!("[-]{cause}")], false);
        native
            .wait_for(&format!("{path}?verbose"), 503, &expected)
            .await;
        let line = format!("envoy-healthz[default]: {path} is unhealthy: {cause}");
        assert_eq!(native.envoy.logged(&["[warning]", &line]).len(), 1);
    }
}

/// `/healthcheck/fail` and back, for endpoints behind Envoy's health_check filter.
#[tokio::test]
async fn draining_and_back() {
    let endpoints = json!([{"path": "/healthz", "clusters": ["c"], "details": true}]);
    let clusters = vec![cluster("c", &[("127.0.0.1", 1)])];
    let native = Native::start_on_routes(endpoints, &[("/healthz", "c")], clusters).await;
    let grpc = async || {
        let request = native.prober.request(reqwest::Method::POST, "/healthz");
        let request = request.header("content-type", "application/grpc");
        let answer = e2e::prober::Answer::to(request).await.unwrap();
        (
            answer.status,
            answer.header("grpc-status").map(str::to_owned),
        )
    };
    for (path, status, body, grpc_status) in [
        ("/healthcheck/ok", 200, "ok", "0"),
        ("/healthcheck/fail", 503, "", "14"),
        ("/healthcheck/ok", 200, "ok", "0"),
    ] {
        native.envoy.post(path).await;
        for _ in 0..4 {
            let answer = e2e::prober::Prober::http(native.port).get("/healthz").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (status, body),
                "{path}"
            );
            for (name, _) in &answer.headers {
                assert!(!name.starts_with("x-"), "{name} is for nobody outside");
            }
        }
        assert_eq!(grpc().await, (200, Some(grpc_status.to_owned())), "{path}");
    }
}

/// A name is looked for whole: no part of one is another.
#[tokio::test]
async fn odd_names() {
    let names = ["a::b", "my-service", "c.d", "ü"];
    let paths: Vec<_> = (0..names.len()).map(|index| format!("/{index}")).collect();
    let endpoints: Vec<_> = names
        .iter()
        .zip(&paths)
        .map(|(name, path)| json!({"path": path, "clusters": [name]}))
        .chain([json!({"path": "/part", "clusters": ["my"]})])
        .collect();
    let host = json!({"endpoint": {"address": address("127.0.0.1", 1)}});
    let clusters = names.map(|name| cluster_of_endpoints(name, vec![host.clone()]));
    let native = Native::start(json!(endpoints), clusters.into()).await;
    for path in &paths {
        native.wait_for(path, 200, "ok").await;
    }
    native.wait_for("/part", 503, "unavailable").await;
}
