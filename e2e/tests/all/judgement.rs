//! Every state of a cluster that a real Envoy can be brought into: what the filter says, what
//! Envoy's own health_check filter on a listener beside it says, and why where the two differ.

use std::path::PathBuf;

use e2e::config::{
    address, bootstrap, cluster, cluster_of_endpoints, health_check, listener, quick,
    with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::{Answer, Prober};
use e2e::{Build, TcpHost, eventually, free_port, replace_file};
use reqwest::Method;
use serde_json::{Value, json};

use crate::Served;

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

/// An Envoy with these clusters: the filter on one listener, an endpoint a rule, and on another
/// the built-in filter for each of them.
pub(crate) struct Pair {
    build: Build,
    pub(crate) envoy: Envoy,
    pub(crate) ours: Prober,
    pub(crate) built_in: Prober,
}

/// A rule of ours, and the least percentage that stands for it in the built-in filter.
pub(crate) struct Rule {
    path: &'static str,
    ours: Value,
    built_in: f64,
}

/// One usable host of this cluster is enough.
pub(crate) fn one_of(cluster: &'static str) -> Rule {
    // It takes whole percentages: 1 % is one host, up to a hundred of them.
    rule(cluster, json!({"clusters": [cluster]}), 1.0)
}

pub(crate) fn rule(path: &'static str, ours: Value, built_in: f64) -> Rule {
    Rule {
        path,
        ours,
        built_in,
    }
}

impl Pair {
    pub(crate) async fn start(
        build: Build,
        rules: Vec<Rule>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let (admin, ours, built_in) = (free_port(), free_port(), free_port());
        let endpoints: Vec<_> = rules
            .iter()
            .map(|rule| {
                let mut endpoint = rule.ours.clone();
                endpoint["path"] = json!(format!("/{}", rule.path));
                endpoint["details"] = json!(true);
                endpoint
            })
            .collect();
        let filter = json!({"max_age_ms": 0, "endpoints": endpoints});
        let built_ins: Vec<_> = rules
            .iter()
            .filter_map(|rule| {
                let cluster = &rule.ours["clusters"][0];
                let cluster = cluster["name"].as_str().or(cluster.as_str())?;
                Some(health_check(
                    &format!("/{}", rule.path),
                    cluster,
                    rule.built_in,
                ))
            })
            .collect();
        let listeners = vec![build.listener(ours, &filter), listener(built_in, built_ins)];
        let mut config = bootstrap(admin, listeners, vec![]);
        change(&mut config);
        // The module knows what its worker knows, which by default may be a second late.
        let clusters = config["static_resources"]["clusters"].as_array_mut();
        for cluster in clusters.expect("clusters") {
            cluster["common_lb_config"]["update_merge_window"] = json!("0s");
        }
        Self {
            build,
            envoy: Envoy::start(&config.to_string(), &[]).await,
            ours: Prober::http(ours),
            built_in: Prober::http(built_in),
        }
    }

    /// Waits until the admin shows a host of this cluster with these flags.
    pub(crate) async fn wait_for_flags(&self, cluster: &str, flags: &str) {
        eventually(&format!("a host of {cluster} is {flags}"), async || {
            let page = self.envoy.admin.get("/clusters").await.body;
            let end = format!("::health_flags::{flags}");
            let mut lines = page.lines();
            let start = format!("{cluster}::");
            lines
                .any(|line| line.starts_with(&start) && line.ends_with(&end))
                .then_some(())
        })
        .await;
    }

    /// What ours says; gives its lines.
    pub(crate) async fn ours_says(&self, path: &str, status: u16) -> String {
        let path = format!("/{path}?verbose");
        let answer = match self.build {
            Build::Wasm => self.ours.get(&path).await,
            // The worker hears of it a moment after the admin.
            Build::Module => {
                eventually(&format!("{path}: the filter says {status}"), async || {
                    let answer = self.ours.get(&path).await;
                    (answer.status == status).then_some(answer)
                })
                .await
            }
        };
        let said = &answer.body;
        assert_eq!(answer.status, status, "{path}: the filter says {said}");
        answer.body
    }

    /// What both say; `intended` is the reason where they differ.
    pub(crate) async fn check(&self, path: &str, ours: u16, built_in: u16, intended: Option<&str>) {
        self.ours_says(path, ours).await;
        let path = format!("/{path}");
        // The built-in filter counts from gauges that follow the flags a moment later.
        eventually(
            &format!("{path}: the built-in filter says {built_in}"),
            async || (self.built_in.get(&path).await.status == built_in).then_some(()),
        )
        .await;
        assert_eq!(ours != built_in, intended.is_some(), "{path}: {intended:?}");
    }
}

pub(crate) fn clusters(clusters: Vec<Value>) -> impl FnOnce(&mut Value) {
    move |config| {
        let list = config["static_resources"]["clusters"]
            .as_array_mut()
            .expect("clusters");
        list.extend(clusters);
    }
}

pub(crate) fn endpoint(port: u16, status: &str) -> Value {
    json!({"endpoint": {"address": address("127.0.0.1", port)}, "health_status": status})
}

fn with_http_check(mut cluster: Value) -> Value {
    let check = json!({"http_health_check": {"path": "/check"}});
    cluster["health_checks"] = json!([quick(check)]);
    cluster
}

/// A cluster whose hosts come from a file that can be rewritten.
pub(crate) struct Eds {
    name: &'static str,
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Eds {
    pub(crate) fn new(name: &'static str, endpoints: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eds.json");
        let eds = Self {
            name,
            _dir: dir,
            path,
        };
        eds.write(endpoints);
        eds
    }

    pub(crate) fn cluster(&self) -> Value {
        json!({
            "name": self.name,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": self.path},
            }},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        })
    }

    pub(crate) fn write(&self, endpoints: &[Value]) {
        let resources = json!({"version_info": "1", "resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": self.name,
            "endpoints": [{"lb_endpoints": endpoints}],
        }]});
        replace_file(&self.path, &resources);
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn active_checks(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let hung = FakeAdmin::start(Does::Hang).await;
    let degraded = FakeAdmin::start(Does::Respond(|_| {
        "HTTP/1.1 200 OK\r\nx-envoy-degraded: true\r\ncontent-length: 0\r\n\r\n".to_owned()
    }))
    .await;
    let pair = Pair::start(
        build,
        vec![
            one_of("passing"),
            one_of("failing"),
            one_of("timing_out"),
            one_of("degraded"),
            rule(
                "degraded_is_unhealthy",
                json!({"clusters": [{"name": "degraded", "degraded": "unhealthy"}]}),
                1.0,
            ),
        ],
        clusters(vec![
            with_tcp_check(cluster("passing", &[live])),
            with_tcp_check(cluster("failing", &[free_port()])),
            with_http_check(cluster("timing_out", &[hung.port])),
            with_http_check(cluster("degraded", &[degraded.port])),
        ]),
    )
    .await;
    pair.wait_for_flags("passing", "healthy").await;
    pair.check("passing", 200, 200, None).await;
    pair.wait_for_flags("failing", "/failed_active_hc").await;
    pair.check("failing", 503, 503, None).await;
    pair.wait_for_flags("timing_out", "/failed_active_hc/active_hc_timeout")
        .await;
    pair.check("timing_out", 503, 503, None).await;
    pair.wait_for_flags("degraded", "/degraded_active_hc").await;
    pair.check("degraded", 200, 200, None).await;
    let why = "degraded: the built-in filter always counts degraded hosts as healthy";
    pair.check("degraded_is_unhealthy", 503, 200, Some(why))
        .await;
}

async fn discovered_health(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let rows = [
        ("UNKNOWN", "healthy"),
        ("HEALTHY", "healthy"),
        ("UNHEALTHY", "/failed_eds_health"),
        ("TIMEOUT", "/failed_eds_health"),
        ("DRAINING", "/eds_status_draining"),
        ("DEGRADED", "/degraded_eds_health"),
    ];
    let eds = Eds::new("eds", &[endpoint(live, "UNKNOWN")]);
    let pair = Pair::start(
        build,
        vec![
            one_of("eds"),
            rule(
                "degraded_is_unhealthy",
                json!({"clusters": [{"name": "eds", "degraded": "unhealthy"}]}),
                1.0,
            ),
        ],
        clusters(vec![eds.cluster()]),
    )
    .await;
    for (status, flags) in rows {
        eds.write(&[endpoint(live, status)]);
        pair.wait_for_flags("eds", flags).await;
        let expected = match flags {
            "healthy" | "/degraded_eds_health" => 200,
            _ => 503,
        };
        pair.check("eds", expected, expected, None).await;
        let why = "degraded: the built-in filter always counts degraded hosts as healthy";
        if status == "DEGRADED" {
            pair.check("degraded_is_unhealthy", 503, 200, Some(why))
                .await;
        } else {
            pair.check("degraded_is_unhealthy", expected, expected, None)
                .await;
        }
    }
}

async fn outlier_ejection(build: Build) {
    let host = FakeAdmin::start(Does::Answer(500, vec![])).await;
    let mut ejecting = cluster("ejecting", &[host.port]);
    ejecting["outlier_detection"] = json!({
        "consecutive_5xx": 1, "interval": "0.1s", "base_ejection_time": "300s", "max_ejection_percent": 100,
    });
    let traffic = free_port();
    let pair = Pair::start(build, vec![one_of("ejecting")], |config| {
        clusters(vec![ejecting])(config);
        add_traffic_listener(config, traffic, "ejecting");
    })
    .await;
    pair.check("ejecting", 200, 200, None).await;
    Prober::http(traffic).get("/").await;
    pair.wait_for_flags("ejecting", "/failed_outlier_check")
        .await;
    pair.check("ejecting", 503, 503, None).await;
}

fn add_traffic_listener(config: &mut Value, port: u16, cluster: &str) {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    let listener = e2e::config::listener_with_routes(port, vec![], vec![route]);
    let listeners = config["static_resources"]["listeners"].as_array_mut();
    listeners.expect("listeners").push(listener);
}

async fn immediate_failure(build: Build) {
    let host = FakeAdmin::start(Does::Respond(|path| match path {
        "/check" => OK.to_owned(),
        _ => "HTTP/1.1 200 OK\r\nx-envoy-immediate-health-check-fail: true\r\ncontent-length: 0\r\n\r\n".to_owned(),
    }))
    .await;
    let mut failing = with_http_check(cluster("failing", &[host.port]));
    // One check, which may take its time while Envoy starts: the next would make it healthy again.
    failing["health_checks"][0]["timeout"] = json!("30s");
    failing["health_checks"][0]["interval"] = json!("300s");
    failing["health_checks"][0]["no_traffic_interval"] = json!("300s");
    let traffic = free_port();
    let pair = Pair::start(build, vec![one_of("failing")], |config| {
        clusters(vec![failing])(config);
        add_traffic_listener(config, traffic, "failing");
    })
    .await;
    pair.wait_for_flags("failing", "healthy").await;
    pair.check("failing", 200, 200, None).await;
    Prober::http(traffic).get("/").await;
    let flags = "/failed_active_hc/excluded_via_immediate_hc_fail";
    pair.wait_for_flags("failing", flags).await;
    pair.check("failing", 503, 503, None).await;
}

async fn host_waiting_for_its_first_check(build: Build) {
    let hung = FakeAdmin::start(Does::Hang).await;
    let eds = Eds::new("eds", &[]);
    let mut waiting = with_http_check(eds.cluster());
    waiting["health_checks"][0]["timeout"] = json!("300s");
    waiting["common_lb_config"]["ignore_new_hosts_until_first_hc"] = json!(true);
    let pair = Pair::start(build, vec![one_of("eds")], clusters(vec![waiting])).await;
    eds.write(&[endpoint(hung.port, "UNKNOWN")]);
    pair.wait_for_flags("eds", "/failed_active_hc/pending_active_hc")
        .await;
    pair.check("eds", 503, 503, None).await;
}

async fn host_removed_but_still_passing(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[endpoint(live, "UNKNOWN")]);
    let pair = Pair::start(
        build,
        vec![one_of("eds")],
        clusters(vec![with_tcp_check(eds.cluster())]),
    )
    .await;
    pair.wait_for_flags("eds", "healthy").await;
    eds.write(&[]);
    pair.wait_for_flags("eds", "/pending_dynamic_removal").await;
    pair.check("eds", 200, 200, None).await;
}

async fn clusters_without_a_host(build: Build) {
    let dir = tempfile::tempdir().unwrap();
    let cds = dir.path().join("cds.json");
    replace_file(&cds, &json!({"version_info": "1", "resources": []}));
    let unresolvable = json!({
        "name": "unresolvable", "type": "STRICT_DNS",
        "load_assignment": {"cluster_name": "unresolvable", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address("nowhere.invalid", 80)}},
        ]}]},
    });
    // Asked for its hosts, it never answers: what depends on it stays warming.
    let mute = FakeAdmin::start(Does::Hang).await;
    let warming = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
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
    let pair = Pair::start(build, names.map(one_of).into(), |config| {
        clusters(vec![
            cluster("empty", &[]),
            unresolvable,
            cluster("mute", &[mute.port]),
        ])(config);
        config["dynamic_resources"] = json!({"cds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": cds},
        }});
    })
    .await;
    replace_file(&cds, &json!({"version_info": "2", "resources": [warming]}));
    eventually("the cluster is warming", async || {
        let warming = pair.envoy.stat("cluster_manager.warming_clusters").await;
        (warming == 1).then_some(())
    })
    .await;
    for name in names {
        pair.check(name, 503, 503, None).await;
    }
}

async fn thresholds(build: Build) {
    let eds = Eds::new("eds", &[]);
    let of = |fields: Value| {
        let mut cluster = fields;
        cluster["name"] = json!("eds");
        json!({"clusters": [cluster]})
    };
    let absolute = "min_healthy: the built-in filter knows percentages alone";
    let degraded = "degraded: the built-in filter always counts degraded hosts as healthy";
    let excluded = "percentages: the built-in filter counts draining hosts in the whole";
    let rules = [
        ("one", json!({}), 1, ""),
        ("strict", json!({"degraded": "unhealthy"}), 1, degraded),
        ("two", json!({"min_healthy": 2}), 1, absolute),
        ("half", json!({"min_healthy": "50%"}), 50, excluded),
        ("all", json!({"min_healthy": "100%"}), 100, excluded),
    ];
    let given = rules
        .clone()
        .map(|(path, fields, percent, _)| rule(path, of(fields), percent as f64));
    let pair = Pair::start(build, given.into(), clusters(vec![eds.cluster()])).await;
    // Envoy does not tell the module which hosts it excludes, so that it counts them in the whole.
    let drained = match build {
        Build::Wasm => [200, 200, 503, 200, 200],
        Build::Module => [200, 200, 503, 503, 503],
    };
    // No two rows that follow each other have the same number of hosts: this waits for it.
    let rows: &[(&[&str], [u16; 5])] = &[
        (
            &["HEALTHY", "UNHEALTHY", "UNHEALTHY"],
            [200, 200, 503, 503, 503],
        ),
        (
            &["HEALTHY", "HEALTHY", "UNHEALTHY", "UNHEALTHY"],
            [200, 200, 200, 200, 503],
        ),
        (&["HEALTHY", "HEALTHY", "DEGRADED"], [200; 5]),
        (&["HEALTHY", "DEGRADED"], [200; 5]),
        (&["DEGRADED"], [200, 503, 503, 200, 200]),
        (&["HEALTHY", "DRAINING", "DRAINING", "DRAINING"], drained),
        (&["UNKNOWN"], [200, 200, 503, 200, 200]),
        (&[], [503; 5]),
    ];
    for (statuses, expected) in rows {
        let hosts: Vec<_> = statuses
            .iter()
            .zip(1..)
            .map(|(status, port)| endpoint(port, status))
            .collect();
        eds.write(&hosts);
        let total = statuses.len();
        eventually("the hosts are there", async || {
            let shown = pair.envoy.stat("cluster.eds.membership_total").await;
            (shown == total as u64).then_some(())
        })
        .await;
        let usable = |status: &&&str| matches!(**status, "UNKNOWN" | "HEALTHY" | "DEGRADED");
        let usable = statuses.iter().filter(usable).count();
        for ((path, _, percent, why), ours) in rules.iter().zip(expected) {
            let built_in = match total > 0 && usable * 100 >= total * percent {
                true => 200,
                false => 503,
            };
            let why = (built_in != *ours).then_some(*why);
            pair.check(path, *ours, built_in, why).await;
        }
        let said = pair.ours_says("one", expected[0]).await;
        let sign = if usable > 0 { '+' } else { '-' };
        let line = format!("[{sign}]eds {usable}/{total} healthy");
        assert!(said.starts_with(&line), "{statuses:?}: {said}");
    }
}

/// A cluster of four hosts, some of them of another priority.
pub(crate) fn spread() -> Value {
    let hosts = |priority: u32, count: u16| {
        let hosts: Vec<_> = (1..=count).map(|port| endpoint(port, "HEALTHY")).collect();
        json!({"priority": priority, "lb_endpoints": hosts})
    };
    let mut spread = cluster_of_endpoints("c", vec![]);
    // A gap: priority 1 has no host.
    spread["load_assignment"]["endpoints"] = json!([hosts(0, 1), hosts(2, 3)]);
    spread
}

async fn priorities_are_added_up(build: Build) {
    let four = json!({"clusters": [{"name": "c", "min_healthy": 4}]});
    let pair = Pair::start(
        build,
        vec![rule("four", four, 100.0)],
        clusters(vec![spread()]),
    )
    .await;
    pair.check("four", 200, 200, None).await;
    let said = pair.ours_says("four", 200).await;
    assert_eq!(said, "[+]c 4/4 healthy, 4 needed\nhealthz check passed\n");
}

async fn several_clusters(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let both = ["up", "down"];
    let pair = Pair::start(
        build,
        vec![
            rule("all", json!({"clusters": both}), 1.0),
            rule("any", json!({"clusters": both, "require": "any"}), 1.0),
            rule(
                "none",
                json!({"clusters": ["down", "unknown"], "require": "any"}),
                1.0,
            ),
            rule("livez", json!({"clusters": []}), 1.0),
        ],
        clusters(vec![
            cluster("up", &[live]),
            with_tcp_check(cluster("down", &[free_port()])),
        ]),
    )
    .await;
    pair.wait_for_flags("down", "/failed_active_hc").await;
    // The built-in filter is asked about the first of them alone.
    pair.ours_says("all", 503).await;
    pair.ours_says("any", 200).await;
    let said = pair.ours_says("none", 503).await;
    for line in [
        "[-]down 0/1 healthy",
        "[-]unknown 0/0 healthy: Envoy knows no such cluster, or is",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(pair.ours_says("livez", 200).await, "healthz check passed\n");
}

/// A name is looked for whole: no part of one is another.
async fn odd_names(build: Build) {
    let names = ["a::b", "my-service", "c.d", "\u{fc}"];
    let paths = ["/0", "/1", "/2", "/3"];
    let endpoints: Vec<_> = names
        .iter()
        .zip(paths)
        .map(|(name, path)| json!({"path": path, "clusters": [name]}))
        .chain([json!({"path": "/part", "clusters": ["my"]})])
        .collect();
    let clusters = names.map(|name| cluster(name, &[1]));
    let served = Served::start(build, &json!({"endpoints": endpoints}), clusters.into()).await;
    for path in paths {
        served.wait_for(path, 200, "ok").await;
    }
    served.wait_for("/part", 503, "unavailable").await;
}

async fn draining_and_back(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(
        build,
        vec![one_of("up")],
        clusters(vec![cluster("up", &[live])]),
    )
    .await;
    // The module's drain is Envoy's health_check filter, which says no more than its status.
    let draining = match build {
        Build::Wasm => {
            "[-]envoy: not ready, /ready says 503 DRAINING\n[+]up 1/1 healthy\nhealthz check failed\n"
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
        let request = pair.ours.request(Method::POST, "/up");
        let request = request.header("content-type", "application/grpc");
        let answer = Answer::to(request).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (200, Some(grpc_status))
        );
    }
}

/// The built-in filter counts with gauges, which a stats_matcher takes away.
async fn without_stats(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(build, vec![one_of("up")], |config| {
        clusters(vec![cluster("up", &[live])])(config);
        config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    })
    .await;
    let why = "stats: the built-in filter counts with gauges that can be switched off";
    pair.check("up", 200, 503, Some(why)).await;
    pair.envoy.post("/healthcheck/fail").await;
    pair.check("up", 503, 503, None).await;
}

/// The differences that have nothing to do with a cluster's state.
async fn requests(build: Build) {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(
        build,
        vec![one_of("up"), one_of("down")],
        clusters(vec![
            cluster("up", &[live]),
            with_tcp_check(cluster("down", &[free_port()])),
        ]),
    )
    .await;
    pair.wait_for_flags("down", "/failed_active_hc").await;

    // The query: an exact matcher of the built-in filter takes it for part of the path.
    assert_eq!(pair.ours.get("/up?x=1").await.status, 200);
    assert_eq!(pair.built_in.get("/up?x=1").await.status, 418);

    // The method: the built-in filter answers any.
    let post = |prober: &Prober| Answer::to(prober.request(Method::POST, "/up"));
    assert_eq!(post(&pair.ours).await.unwrap().status, 405);
    assert_eq!(post(&pair.built_in).await.unwrap().status, 200);

    // The body and headers: the built-in filter says nothing, and names the node's cluster.
    let header = "x-envoy-upstream-healthchecked-cluster";
    let (ours, built_in) = (pair.ours.get("/up").await, pair.built_in.get("/up").await);
    assert_eq!((ours.body.as_str(), ours.header(header)), ("ok", None));
    assert_eq!(
        (built_in.body.as_str(), built_in.header(header)),
        ("", Some("e2e"))
    );

    // A gRPC-typed probe: the built-in filter's success is grpc-status 2, UNKNOWN.
    for (path, ours, built_in) in [("/up", "0", "2"), ("/down", "14", "14")] {
        for (prober, expected) in [(&pair.ours, ours), (&pair.built_in, built_in)] {
            let request = prober.request(Method::POST, path);
            let request = request.header("content-type", "application/grpc");
            let answer = Answer::to(request).await.unwrap();
            assert_eq!(
                (answer.status, answer.header("grpc-status")),
                (200, Some(expected)),
                "{path}"
            );
        }
    }
}
