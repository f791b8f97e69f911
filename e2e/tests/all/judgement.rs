//! Every state of a cluster that a real Envoy can be brought into: what the filter says, what
//! Envoy's own health_check filter on a listener beside it says, and why where the two differ.

use std::path::PathBuf;

use e2e::config::{
    address, bootstrap, cluster, health_check, healthz, listener, listener_with_filters, quick,
    with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{TcpHost, eventually, free_port, replace_file};
use serde_json::{Value, json};

/// An Envoy with these clusters: the filter on one listener, an endpoint a rule, and on another
/// the built-in filter for each of them.
pub(crate) struct Pair {
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
    pub(crate) async fn start(rules: Vec<Rule>, change: impl FnOnce(&mut Value)) -> Self {
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
        let filter = healthz(&json!({
            "admin_cluster": "local_admin", "max_age_ms": 0, "endpoints": endpoints,
        }));
        let built_ins = rules
            .iter()
            .map(|rule| {
                let cluster = &rule.ours["clusters"][0];
                let cluster = cluster["name"]
                    .as_str()
                    .or(cluster.as_str())
                    .expect("a name");
                health_check(&format!("/{}", rule.path), cluster, rule.built_in)
            })
            .collect();
        let listeners = vec![
            listener(ours, filter),
            listener_with_filters(built_in, built_ins),
        ];
        let mut config = bootstrap(admin, listeners, vec![]);
        change(&mut config);
        Self {
            envoy: Envoy::start(&config, admin).await,
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

    /// What both say; `intended` is the reason where they differ.
    pub(crate) async fn check(&self, path: &str, ours: u16, built_in: u16, intended: Option<&str>) {
        let path = format!("/{path}");
        let answer = self.ours.get(&format!("{path}?verbose")).await;
        assert_eq!(
            answer.status, ours,
            "{path}: the filter says {}",
            answer.body
        );
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

#[tokio::test]
async fn active_checks() {
    let (_live, live) = TcpHost::on_free_port().await;
    let hung = FakeAdmin::start(Does::Hang).await;
    let degraded = FakeAdmin::start(Does::Respond(|_| {
        "HTTP/1.1 200 OK\r\nx-envoy-degraded: true\r\ncontent-length: 0\r\n\r\n".to_owned()
    }))
    .await;
    let pair = Pair::start(
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
            with_tcp_check(cluster("passing", &[("127.0.0.1", live)])),
            with_tcp_check(cluster("failing", &[("127.0.0.1", free_port())])),
            with_http_check(cluster("timing_out", &[("127.0.0.1", hung.port)])),
            with_http_check(cluster("degraded", &[("127.0.0.1", degraded.port)])),
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

#[tokio::test]
async fn discovered_health() {
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

#[tokio::test]
async fn outlier_ejection() {
    let host = FakeAdmin::start(Does::Answer(500, vec![])).await;
    let mut ejecting = cluster("ejecting", &[("127.0.0.1", host.port)]);
    ejecting["outlier_detection"] = json!({
        "consecutive_5xx": 1, "interval": "0.1s", "base_ejection_time": "300s", "max_ejection_percent": 100,
    });
    let traffic = free_port();
    let pair = Pair::start(vec![one_of("ejecting")], |config| {
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

#[tokio::test]
async fn immediate_failure() {
    let host = FakeAdmin::start(Does::Respond(|path| match path {
        "/check" => OK.to_owned(),
        _ => "HTTP/1.1 200 OK\r\nx-envoy-immediate-health-check-fail: true\r\ncontent-length: 0\r\n\r\n".to_owned(),
    }))
    .await;
    let mut failing = with_http_check(cluster("failing", &[("127.0.0.1", host.port)]));
    // One check, which may take its time while Envoy starts: the next would make it healthy again.
    failing["health_checks"][0]["timeout"] = json!("30s");
    failing["health_checks"][0]["interval"] = json!("300s");
    failing["health_checks"][0]["no_traffic_interval"] = json!("300s");
    let traffic = free_port();
    let pair = Pair::start(vec![one_of("failing")], |config| {
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

#[tokio::test]
async fn host_waiting_for_its_first_check() {
    let hung = FakeAdmin::start(Does::Hang).await;
    let eds = Eds::new("eds", &[]);
    let mut waiting = with_http_check(eds.cluster());
    waiting["health_checks"][0]["timeout"] = json!("300s");
    waiting["common_lb_config"]["ignore_new_hosts_until_first_hc"] = json!(true);
    let pair = Pair::start(vec![one_of("eds")], clusters(vec![waiting])).await;
    eds.write(&[endpoint(hung.port, "UNKNOWN")]);
    pair.wait_for_flags("eds", "/failed_active_hc/pending_active_hc")
        .await;
    pair.check("eds", 503, 503, None).await;
}

#[tokio::test]
async fn host_removed_but_still_passing() {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[endpoint(live, "UNKNOWN")]);
    let pair = Pair::start(
        vec![one_of("eds")],
        clusters(vec![with_tcp_check(eds.cluster())]),
    )
    .await;
    pair.wait_for_flags("eds", "healthy").await;
    eds.write(&[]);
    pair.wait_for_flags("eds", "/pending_dynamic_removal").await;
    pair.check("eds", 200, 200, None).await;
}

#[tokio::test]
async fn clusters_without_a_host() {
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
    let pair = Pair::start(names.map(one_of).into(), |config| {
        clusters(vec![
            cluster("empty", &[]),
            unresolvable,
            cluster("mute", &[("127.0.0.1", mute.port)]),
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

#[tokio::test]
async fn thresholds() {
    let (_live, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("eds", &[]);
    let least = |count: u64| json!({"clusters": [{"name": "eds", "min_healthy": count}]});
    let share = |share: &str| json!({"clusters": [{"name": "eds", "min_healthy": share}]});
    let rules = vec![
        rule("two", least(2), 1.0),
        rule("half", share("50%"), 50.0),
        rule("all", share("100%"), 100.0),
    ];
    let pair = Pair::start(rules, clusters(vec![eds.cluster()])).await;
    let absolute = Some("min_healthy: the built-in filter knows percentages alone");
    let excluded = Some("percentages: the built-in filter counts draining hosts in the whole");

    let hosts = |statuses: &[&str]| {
        let hosts: Vec<_> = statuses
            .iter()
            .enumerate()
            .map(|(index, status)| {
                let mut host = endpoint(live, status);
                let last = u16::try_from(index).unwrap() + 1;
                host["endpoint"]["address"] = address(&format!("127.0.0.{last}"), live);
                host
            })
            .collect();
        eds.write(&hosts);
        statuses.len() as u64
    };
    let shown = async |count: u64| {
        eventually("the hosts are there", async || {
            let total = pair.envoy.stat("cluster.eds.membership_total").await;
            (total == count).then_some(())
        })
        .await;
    };

    shown(hosts(&["HEALTHY", "UNHEALTHY", "UNHEALTHY"])).await;
    pair.check("two", 503, 200, absolute).await;
    pair.check("half", 503, 503, None).await;
    pair.check("all", 503, 503, None).await;

    shown(hosts(&["HEALTHY", "HEALTHY", "UNHEALTHY", "UNHEALTHY"])).await;
    pair.check("two", 200, 200, None).await;
    pair.check("half", 200, 200, None).await;
    pair.check("all", 503, 503, None).await;

    shown(hosts(&["HEALTHY", "HEALTHY", "DEGRADED"])).await;
    pair.check("two", 200, 200, None).await;
    pair.check("half", 200, 200, None).await;
    pair.check("all", 200, 200, None).await;

    shown(hosts(&["HEALTHY", "DRAINING", "DRAINING", "DRAINING"])).await;
    pair.check("two", 503, 200, absolute).await;
    pair.check("half", 200, 503, excluded).await;
    pair.check("all", 200, 503, excluded).await;
}

#[tokio::test]
async fn several_clusters() {
    let (_live, live) = TcpHost::on_free_port().await;
    let both = ["up", "down"];
    let pair = Pair::start(
        vec![
            rule("all", json!({"clusters": both}), 1.0),
            rule("any", json!({"clusters": both, "require": "any"}), 1.0),
            rule(
                "none",
                json!({"clusters": ["down", "unknown"], "require": "any"}),
                1.0,
            ),
        ],
        clusters(vec![
            cluster("up", &[("127.0.0.1", live)]),
            with_tcp_check(cluster("down", &[("127.0.0.1", free_port())])),
        ]),
    )
    .await;
    pair.wait_for_flags("down", "/failed_active_hc").await;
    // The built-in filter is asked about the first of them alone.
    for (path, expected) in [("/all", 503), ("/any", 200), ("/none", 503)] {
        assert_eq!(pair.ours.get(path).await.status, expected, "{path}");
    }
}

#[tokio::test]
async fn draining_and_back() {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(
        vec![one_of("up")],
        clusters(vec![cluster("up", &[("127.0.0.1", live)])]),
    )
    .await;
    pair.check("up", 200, 200, None).await;
    pair.envoy.post("/healthcheck/fail").await;
    pair.check("up", 503, 503, None).await;
    let verbose = pair.ours.get("/up?verbose").await.body;
    assert_eq!(
        verbose,
        "[-]envoy: not ready, /ready says 503 DRAINING\n[+]up 1/1 healthy\nhealthz check failed\n"
    );
    pair.envoy.post("/healthcheck/ok").await;
    pair.check("up", 200, 200, None).await;
}

/// The built-in filter counts with gauges, which a stats_matcher takes away.
#[tokio::test]
async fn without_stats() {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(vec![one_of("up")], |config| {
        clusters(vec![cluster("up", &[("127.0.0.1", live)])])(config);
        config["stats_config"] = json!({"stats_matcher": {"reject_all": true}});
    })
    .await;
    let why = "stats: the built-in filter counts with gauges that can be switched off";
    pair.check("up", 200, 503, Some(why)).await;
}

/// The differences that have nothing to do with a cluster's state.
#[tokio::test]
async fn requests() {
    let (_live, live) = TcpHost::on_free_port().await;
    let pair = Pair::start(
        vec![one_of("up"), one_of("down")],
        clusters(vec![
            cluster("up", &[("127.0.0.1", live)]),
            with_tcp_check(cluster("down", &[("127.0.0.1", free_port())])),
        ]),
    )
    .await;
    pair.wait_for_flags("down", "/failed_active_hc").await;

    // The query: an exact matcher of the built-in filter takes it for part of the path.
    assert_eq!(pair.ours.get("/up?x=1").await.status, 200);
    assert_eq!(pair.built_in.get("/up?x=1").await.status, 418);

    // The method: the built-in filter answers any.
    let post =
        |prober: &Prober| e2e::prober::Answer::to(prober.request(reqwest::Method::POST, "/up"));
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
            let request = prober.request(reqwest::Method::POST, path);
            let request = request.header("content-type", "application/grpc");
            let answer = e2e::prober::Answer::to(request).await.unwrap();
            assert_eq!(
                (answer.status, answer.header("grpc-status")),
                (200, Some(expected)),
                "{path}"
            );
        }
    }
}
