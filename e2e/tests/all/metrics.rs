//! Metrics as Prometheus gets them, and the alerts of `envoy/monitoring/rules.yaml` on them.

use std::collections::BTreeMap;

use e2e::config::{Config, cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::module::wait_to_count;
use e2e::prober::Prober;
use e2e::prometheus::{alerts, readable, series, test_rules};
use e2e::xds::Lds;
use e2e::{Build, TcpHost, between, dead_port, exchange, free_port, read, root, until};
use serde_json::{Value, json};

mod info;

both_builds! {
    no_two_paths_share_a_label,
    the_text_is_valid_whichever_paths,
    the_alert_fires_for_a_dead_backend_and_not_for_an_endpoint_that_nobody_asks,
    an_endpoint_that_is_gone_raises_no_alert,
    an_endpoint_that_nobody_asks_has_no_gauge,
}

/// An Envoy with these listeners, and the `stats_config` of `envoy/envoy.yaml`. Cluster `live` has a
/// host, `dead` has one that refuses connections.
struct Scraped {
    envoy: Envoy,
    lds: Lds,
    _host: TcpHost,
}

impl Scraped {
    async fn start(listeners: Vec<Value>) -> Self {
        let (host, live) = TcpHost::on_free_port().await;
        let lds = Lds::new(listeners);
        let config = Config::new()
            .lds(&lds)
            .cluster(with_tcp_check(cluster("live", &[live])))
            .cluster(with_tcp_check(cluster("dead", &[dead_port()])));
        let shipped = read("envoy/envoy.yaml");
        let tags = between(&shipped, "\nstats_config:\n", "\n\n");
        let stats_config = format!("stats_config:\n{tags}\n");
        let arguments = ["--config-yaml", &stats_config, "--drain-time-s", "1"];
        let envoy = config.start_with(&arguments).await;
        for (name, healthy) in [("live", 1), ("dead", 0)] {
            let checks = format!("cluster.{name}.health_check.attempt");
            until("hosts are checked", async || envoy.stat(&checks).await > 0).await;
            let stat = format!("cluster.{name}.membership_healthy");
            envoy.wait_for_stat(&stat, healthy).await;
        }
        Self {
            envoy,
            lds,
            _host: host,
        }
    }

    async fn text(&self) -> String {
        self.envoy.admin.get("/stats/prometheus").await.body
    }

    /// Our series, each with its value.
    async fn series(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (name, value) in series(&self.text().await) {
            let before = all.insert(name.to_owned(), value.parse().expect("a number"));
            assert_eq!(before, None, "two lines of one series: {name}");
        }
        all
    }

    /// Polls until a series has this value.
    async fn wait_for(&self, name: &str, value: u64) {
        until(&format!("{name} is {value}"), async || {
            self.series().await.get(name) == Some(&value)
        })
        .await;
    }

    /// Polls until the gauge of an endpoint that is gone is gone as well, or 1: no gauge of the wasm
    /// build can go.
    async fn wait_for_end(&self, build: Build, name: &str) {
        until(&format!("{name} ends"), async || {
            let last = self.series().await.get(name).copied();
            last == (build == Build::Wasm).then_some(1)
        })
        .await;
    }

    /// Whether just these alerts of unhealthy endpoints fire.
    async fn alerts(&self, expected: &[(&str, &str)]) {
        alerts(&self.text().await, "BackendUnhealthy", expected).unwrap();
    }
}

/// A listener with a filter of this name: each path, and its cluster.
fn named(build: Build, port: u16, name: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints = endpoints.iter();
    let endpoints = endpoints.map(|(path, cluster)| json!({"path": path, "clusters": [cluster]}));
    let endpoints: Vec<_> = endpoints.collect();
    let filter = json!({
        "name": name, "max_age_ms": 50, "max_stale_ms": 0, "admin_timeout_ms": 30000,
        "endpoints": endpoints,
    });
    build.listener(port, &filter)
}

fn healthy(filter: &str, path: &str) -> String {
    format!("envoy_healthz_healthy{{filter=\"{filter}\",path=\"{path}\"}}")
}

/// GETs a path as it is, on a connection of its own.
async fn probe(port: u16, path: &str, status: u16) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(port, request.as_bytes()).await;
    let start = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&start), "{path}: {answer}");
}

/// Paths that differ only where Prometheus would have put `_`, two filters that have all of them, and
/// paths that break a line if they are not escaped.
async fn the_text_is_valid_whichever_paths(build: Build) {
    let paths = [
        "/readyz/a",
        "/readyz_a",
        "/readyz-a",
        "/health.json",
        "/say\"hi\"",
        "/back\\slash",
        "/a:b",
        "/.filter.x",
        "/a..b",
    ];
    let filters = [("default", "live", 200, 1), ("other-1", "dead", 503, 0)];
    let filters = filters.map(|filter| (free_port(), filter));
    let listeners = filters.map(|(port, (name, cluster, ..))| {
        let all = paths.iter().chain(["/last"].iter());
        let endpoints: Vec<_> = all.map(|path| (*path, cluster)).collect();
        named(build, port, name, &endpoints)
    });
    let scraped = Scraped::start(listeners.into()).await;
    for path in paths {
        for (port, (_, _, status, _)) in filters {
            probe(port, path, status).await;
        }
    }
    wait_to_count().await;
    for (port, (_, _, status, _)) in filters {
        probe(port, "/last", status).await;
    }
    for path in paths {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        for (_, (filter, _, code, value)) in filters {
            let filter_label = format!("filter=\"{filter}\"");
            // The labels' order means nothing to Prometheus.
            let labels = match build {
                Build::Wasm => format!("code=\"{code}\",path=\"{path}\""),
                Build::Module => format!("path=\"{path}\",code=\"{code}\""),
            };
            let probes = format!("envoy_healthz_probes{{{filter_label},{labels}}}");
            scraped.wait_for(&probes, 1).await;
            let transitions =
                format!("envoy_healthz_transitions{{{filter_label},path=\"{path}\"}}");
            scraped.wait_for(&transitions, 1).await;
            scraped.wait_for(&healthy(filter, &path), value).await;
        }
    }
    check_names(build, &scraped.series().await);
    let text = scraped.text().await;
    readable(&text).unwrap();
    let broken = "envoy_healthz_broken{path=\"/say\"hi\"\"} 1";
    readable(&format!("{text}{broken}\n")).unwrap_err();
}

/// The series of the filters themselves, and none of another name.
fn check_names(build: Build, series: &BTreeMap<String, u64>) {
    let value = |name: &str| series.get(name).copied().unwrap_or_default();
    if build == Build::Wasm {
        for filter in ["default", "other-1"] {
            let filter = format!("filter=\"{filter}\"");
            assert_eq!(value(&format!("envoy_healthz_admin_up{{{filter}}}")), 1);
            let succeeded = format!("envoy_healthz_refreshes{{{filter},result=\"succeeded\"}}");
            assert!(value(&succeeded) > 0, "{series:#?}");
        }
        assert!(value("envoy_healthz_vm_memory_bytes{}") > 0, "{series:#?}");
    }
    let names = [
        "probes{",
        "refreshes{",
        "transitions{",
        "healthy{",
        "admin_up{",
        "vm_memory_bytes{",
        "snapshot_timestamp_seconds{filter=\"",
        "build_info{filter=\"",
    ];
    for name in series.keys() {
        let name = name.strip_prefix("envoy_healthz_").unwrap_or_default();
        assert!(names.iter().any(|start| name.starts_with(start)), "{name}");
    }
}

async fn the_alert_fires_for_a_dead_backend_and_not_for_an_endpoint_that_nobody_asks(build: Build) {
    let (port, unprobed) = (free_port(), free_port());
    let endpoints = [("/healthz", "dead"), ("/livez", "live")];
    let scraped = Scraped::start(vec![
        named(build, port, "default", &endpoints),
        named(build, unprobed, "unprobed", &[("/healthz", "dead")]),
    ])
    .await;
    for name in scraped.series().await.keys() {
        let early = name.starts_with("envoy_healthz_healthy");
        assert!(!early, "{name} before the first verdict");
    }
    scraped.alerts(&[]).await;

    let prober = Prober::http(port);
    prober.wait_for(503).await;
    prober.get("/livez").await;
    scraped.wait_for(&healthy("default", "/healthz"), 0).await;
    scraped.wait_for(&healthy("default", "/livez"), 1).await;
    scraped.alerts(&[("default", "/healthz")]).await;
    let text = scraped.text().await;
    alerts(&text, "BackendUnhealthy", &[]).unwrap_err();
    alerts(&text, "AdminUnavailable", &[]).unwrap();
}

/// An endpoint is renamed, then its whole listener is removed, while its backend is dead.
async fn an_endpoint_that_is_gone_raises_no_alert(build: Build) {
    let ports @ [port, other] = [free_port(), free_port()];
    let with = |port, name, path| named(build, port, name, &[("/healthz", "dead"), (path, "dead")]);
    let first = |path| with(port, "default", path);
    let second = with(other, "other", "/old");
    let scraped = Scraped::start(vec![first("/old"), second.clone()]).await;
    for path in ["/healthz", "/old"] {
        for port in ports {
            probe(port, path, 503).await;
        }
        for filter in ["default", "other"] {
            scraped.wait_for(&healthy(filter, path), 0).await;
        }
    }

    scraped.lds.replace(vec![first("/new"), second.clone()]);
    until("the new path is answered", async || {
        Prober::http(port).get("/new").await.status == 503
    })
    .await;
    scraped.wait_for(&healthy("default", "/new"), 0).await;
    let end = async |path| {
        let name = healthy("default", path);
        scraped.wait_for_end(build, &name).await;
    };
    end("/old").await;
    // The module shows an endpoint once it has been probed with its new configuration.
    Prober::http(port).wait_for(503).await;
    scraped.wait_for(&healthy("default", "/healthz"), 0).await;
    let others = [("other", "/healthz"), ("other", "/old")];
    let firsts = [("default", "/healthz"), ("default", "/new")];
    scraped.alerts(&[firsts, others].concat()).await;

    scraped.lds.replace(vec![second]);
    for path in ["/healthz", "/new"] {
        end(path).await;
    }
    scraped.alerts(&others).await;
}

/// What each alert says of pods that are unhealthy, drain, hang, end, or cannot reach the admin: over
/// minutes and more, which nobody waits for here.
#[test]
fn the_rules_pass_their_unit_tests() {
    test_rules(&root().join("e2e/tests/rules_test.yaml")).unwrap();
}

/// Though another endpoint of the same filter is probed.
async fn an_endpoint_that_nobody_asks_has_no_gauge(build: Build) {
    let port = free_port();
    let endpoints = [("/healthz", "dead"), ("/unprobed", "dead")];
    let scraped = Scraped::start(vec![named(build, port, "default", &endpoints)]).await;
    Prober::http(port).wait_for(503).await;
    scraped.wait_for(&healthy("default", "/healthz"), 0).await;
    scraped.alerts(&[("default", "/healthz")]).await;
}

/// Envoy drops the dots at a name's end, so that they are escaped. Every second path is healthy.
async fn no_two_paths_share_a_label(build: Build) {
    let rows = [
        ("/a", "/a", "dead", 503, 0),
        ("/a.", "/a%2E", "live", 200, 1),
        ("/a..", "/a%2E%2E", "dead", 503, 0),
        ("/a%2E", "/a%252E", "live", 200, 1),
        ("/a%2e", "/a%2e", "dead", 503, 0),
        ("/a%252E", "/a%25252E", "live", 200, 1),
    ];
    let port = free_port();
    let endpoints = rows.map(|(path, _, cluster, ..)| (path, cluster));
    let scraped = Scraped::start(vec![named(build, port, "default", &endpoints)]).await;
    for (path, _, _, status, _) in rows {
        probe(port, path, status).await;
    }
    for (_, label, _, _, value) in rows {
        scraped.wait_for(&healthy("default", label), value).await;
    }
    let series = scraped.series().await;
    let gauges = series.keys();
    let gauges = gauges.filter(|name| name.starts_with("envoy_healthz_healthy{"));
    assert_eq!(gauges.count(), rows.len(), "{series:#?}");
    readable(&scraped.text().await).unwrap();
}

/// Each build's stats are a family of their own to Envoy, though both have one name: Prometheus' text then
/// has two TYPE lines of it.
#[tokio::test]
async fn both_builds_in_one_envoy_give_two_types_of_one_name() {
    let filters = [(Build::Wasm, "one"), (Build::Module, "two")];
    let filters = filters.map(|(build, name)| (build, name, free_port()));
    let listeners =
        filters.map(|(build, name, port)| named(build, port, name, &[("/healthz", "live")]));
    let scraped = Scraped::start(listeners.into()).await;
    for (_, _, port) in filters {
        Prober::http(port).wait_for(200).await;
    }
    for (_, name, _) in filters {
        scraped.wait_for(&healthy(name, "/healthz"), 1).await;
    }
    let text = scraped.text().await;
    let types = text.lines();
    let types = types.filter(|line| *line == "# TYPE envoy_healthz_healthy gauge");
    assert_eq!(types.count(), 2);
    readable(&text).unwrap_err();
}
