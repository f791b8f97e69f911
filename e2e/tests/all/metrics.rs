//! Metrics as Prometheus gets them, and the alerts of `envoy/monitoring/rules.yaml` on them.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::config::{Config, cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{Build, TcpHost, eventually, exchange, free_port, root, until};
use serde_json::{Value, json};

mod info;
mod promtool;

use promtool::{alerts, readable};

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
            .cluster(with_tcp_check(cluster("dead", &[free_port()])));
        let shipped = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
        let stats = stats_config(&shipped);
        let arguments = ["--config-yaml", stats, "--drain-time-s", "1"];
        let envoy = config.start_with(&arguments).await;
        for (name, healthy) in [("live", 1), ("dead", 0)] {
            let stat = format!("cluster.{name}.membership_healthy");
            let checks = format!("cluster.{name}.health_check.attempt");
            until("hosts are checked", async || {
                envoy.stat(&checks).await > 0 && envoy.stat(&stat).await == healthy
            })
            .await;
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
        let text = self.text().await;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("envoy_healthz_"));
        let mut series = BTreeMap::new();
        for line in lines {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let before = series.insert(name.to_owned(), value.parse().expect("a number"));
            assert_eq!(before, None, "two lines of one series: {line}");
        }
        series
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

/// The block `stats_config` of a configuration.
pub fn stats_config(config: &str) -> &str {
    let start = config.find("\nstats_config:\n").expect("stats_config") + 1;
    let block = &config[start..];
    &block[..block.find("\n\n").expect("an empty line after it") + 1]
}

/// A listener with a filter of this name: each path, and the cluster that it asks about.
fn named(build: Build, port: u16, name: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(path, cluster)| json!({"path": path, "clusters": [cluster]}))
        .collect();
    let filter = json!({"name": name, "max_age_ms": 50, "endpoints": endpoints});
    build.listener(port, &filter)
}

/// Probes a path as it is, on a connection of its own; gives the answer.
async fn probe(port: u16, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    exchange(port, request.as_bytes()).await
}

fn healthy(filter: &str, path: &str) -> String {
    format!("envoy_healthz_healthy{{filter=\"{filter}\",path=\"{path}\"}}")
}

/// Paths that differ only where Prometheus would have put `_`, two filters that have all of them, and
/// paths that break a line if they are not escaped.
async fn the_text_is_valid_whichever_paths(build: Build) {
    let paths = ["/readyz/a", "/readyz_a", "/readyz-a", "/health.json"];
    let odd = ["/say\"hi\"", "/back\\slash", "/a:b", "/.filter.x", "/a..b"];
    let ports = [free_port(), free_port()];
    let of = |cluster: &'static str| -> Vec<_> {
        let paths = paths.iter().chain(&odd).chain(&["/last"]);
        paths.map(|path| (*path, cluster)).collect()
    };
    let listeners = vec![
        named(build, ports[0], "default", &of("live")),
        named(build, ports[1], "other-1", &of("dead")),
    ];
    let scraped = Scraped::start(listeners).await;
    for path in paths.iter().chain(&odd) {
        for (port, status) in ports.into_iter().zip([200, 503]) {
            let (answer, start) = (probe(port, path).await, format!("HTTP/1.1 {status}"));
            assert!(answer.starts_with(&start), "{path}: {answer}");
        }
    }
    // The module counts probes with the first one that comes 50 ms after it did so last.
    tokio::time::sleep(Duration::from_millis(60)).await;
    for port in ports {
        probe(port, "/last").await;
    }
    for path in paths.iter().chain(&odd) {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        for (filter, code, value) in [("default", 200, 1), ("other-1", 503, 0)] {
            // The labels' order means nothing to Prometheus.
            let labels = match build {
                Build::Wasm => format!("code=\"{code}\",path=\"{path}\""),
                Build::Module => format!("path=\"{path}\",code=\"{code}\""),
            };
            let probes = format!("envoy_healthz_probes{{filter=\"{filter}\",{labels}}}");
            scraped.wait_for(&probes, 1).await;
            let labels = format!("{{filter=\"{filter}\",path=\"{path}\"}}");
            let transitions = format!("envoy_healthz_transitions{labels}");
            scraped.wait_for(&transitions, 1).await;
            scraped.wait_for(&healthy(filter, &path), value).await;
        }
    }
    check_the_rest(build, &scraped).await;
    let text = scraped.text().await;
    readable(&text).unwrap();
    let broken = "envoy_healthz_broken{path=\"/say\"hi\"\"} 1";
    readable(&format!("{text}{broken}\n")).unwrap_err();
}

/// What the wasm build alone shows; and nothing of ours is named in another way.
async fn check_the_rest(build: Build, scraped: &Scraped) {
    let series = scraped.series().await;
    if build == Build::Wasm {
        let value = |name: String| series.get(&name).copied().unwrap_or_default();
        for filter in ["default", "other-1"] {
            let label = format!("filter=\"{filter}\"");
            let refreshes = format!("{{{label},result=\"succeeded\"}}");
            assert_eq!(value(format!("envoy_healthz_admin_up{{{label}}}")), 1);
            assert!(
                value(format!("envoy_healthz_refreshes{refreshes}")) > 0,
                "{series:#?}"
            );
        }
        assert!(value("envoy_healthz_vm_memory_bytes{}".to_owned()) > 0);
    }
    let names = [
        "envoy_healthz_probes{",
        "envoy_healthz_refreshes{",
        "envoy_healthz_transitions{",
        "envoy_healthz_healthy{",
        "envoy_healthz_admin_up{",
        "envoy_healthz_vm_memory_bytes{",
        "envoy_healthz_snapshot_timestamp_seconds{filter=\"",
        "envoy_healthz_build_info{filter=\"",
    ];
    for name in series.keys() {
        assert!(names.iter().any(|start| name.starts_with(start)), "{name}");
    }
}

async fn the_alert_fires_for_a_dead_backend_and_not_for_an_endpoint_that_nobody_asks(build: Build) {
    let (port, unasked) = (free_port(), free_port());
    let both = [("/healthz", "dead"), ("/livez", "live")];
    let probed = named(build, port, "default", &both);
    let unasked = named(build, unasked, "unasked", &[("/healthz", "dead")]);
    let scraped = Scraped::start(vec![probed, unasked]).await;
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
    let (port, other) = (free_port(), free_port());
    let of = |port, name, path| {
        let endpoints = [("/healthz", "dead"), (path, "dead")];
        named(build, port, name, &endpoints)
    };
    let second = || of(other, "other", "/old");
    let first = |path| of(port, "default", path);
    let scraped = Scraped::start(vec![first("/old"), second()]).await;
    for port in [port, other] {
        for path in ["/healthz", "/old"] {
            assert_eq!(Prober::http(port).get(path).await.status, 503);
        }
    }
    for filter in ["default", "other"] {
        for path in ["/healthz", "/old"] {
            scraped.wait_for(&healthy(filter, path), 0).await;
        }
    }

    scraped.lds.replace(vec![first("/new"), second()]);
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
    let left = [
        ("default", "/healthz"),
        ("default", "/new"),
        ("other", "/healthz"),
        ("other", "/old"),
    ];
    scraped.alerts(&left).await;

    scraped.lds.replace(vec![second()]);
    for path in ["/healthz", "/new"] {
        end(path).await;
    }
    scraped.alerts(&left[2..]).await;
}

/// What each alert says of pods that are unhealthy, drain, hang, end, or cannot reach the admin: over minutes and
/// more, which nobody waits for here.
#[test]
fn the_rules_pass_their_unit_tests() {
    let rows = root().join("e2e/tests/rules_test.yaml");
    promtool::test_rules(&rows).unwrap();
}

/// Though another endpoint of the same filter is probed.
async fn an_endpoint_that_nobody_asks_has_no_gauge(build: Build) {
    let port = free_port();
    let endpoints = [("/healthz", "dead"), ("/unasked", "dead")];
    let scraped = Scraped::start(vec![named(build, port, "default", &endpoints)]).await;
    Prober::http(port).wait_for(503).await;
    scraped.wait_for(&healthy("default", "/healthz"), 0).await;
    scraped.alerts(&[("default", "/healthz")]).await;
}

/// Envoy drops the dots at a name's end, so that they are escaped.
async fn no_two_paths_share_a_label(build: Build) {
    let paths = ["/a", "/a.", "/a..", "/a%2E", "/a%2e", "/a%252E"];
    let labels = ["/a", "/a%2E", "/a%2E%2E", "/a%252E", "/a%2e", "/a%25252E"];
    let port = free_port();
    // Every second one is healthy, the first not.
    let of = |nth: usize| ["dead", "live"][nth % 2];
    let paths_of = paths.iter().enumerate();
    let endpoints: Vec<_> = paths_of.map(|(nth, path)| (*path, of(nth))).collect();
    let scraped = Scraped::start(vec![named(build, port, "default", &endpoints)]).await;
    for (nth, path) in paths.iter().enumerate() {
        let answer = probe(port, path).await;
        let status = ["503", "200"][nth % 2];
        assert!(answer.contains(status), "{path}: {answer}");
    }
    for (nth, label) in labels.iter().enumerate() {
        let value = u64::from(nth % 2 == 1);
        scraped.wait_for(&healthy("default", label), value).await;
    }
    let series = scraped.series().await;
    let gauges = series
        .keys()
        .filter(|name| name.starts_with("envoy_healthz_healthy{"));
    assert_eq!(gauges.count(), paths.len(), "{series:#?}");
    readable(&scraped.text().await).unwrap();
}

/// Each build's stats are a family of their own to Envoy, though both have one name: Prometheus' text then
/// has two TYPE lines of it.
#[tokio::test]
async fn both_builds_in_one_envoy_give_two_types_of_one_name() {
    e2e::module::folder();
    let ports = [free_port(), free_port()];
    let endpoints = [("/healthz", "live")];
    let listeners = vec![
        named(Build::Wasm, ports[0], "one", &endpoints),
        named(Build::Module, ports[1], "two", &endpoints),
    ];
    let scraped = Scraped::start(listeners).await;
    for port in ports {
        Prober::http(port).wait_for(200).await;
    }
    for name in ["one", "two"] {
        scraped.wait_for(&healthy(name, "/healthz"), 1).await;
    }
    let text = scraped.text().await;
    let types = text
        .lines()
        .filter(|line| *line == "# TYPE envoy_healthz_healthy gauge");
    assert_eq!(types.count(), 2);
    readable(&text).unwrap_err();
}
