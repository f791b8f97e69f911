//! Metrics as Prometheus gets them, and the alerts of `envoy/monitoring/rules.yaml` on them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::config::{bootstrap, cluster, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{Build, TcpHost, eventually, free_port, root};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod info;

both_builds! {
    no_two_paths_share_a_label,
    the_text_is_valid_whichever_paths,
    the_alert_fires_for_a_dead_backend_and_not_for_an_endpoint_that_nobody_asks,
    an_endpoint_that_is_gone_raises_no_alert,
    an_endpoint_that_nobody_asks_has_no_gauge,
}

/// Prometheus' own tool, which `make` fetches.
fn promtool() -> PathBuf {
    let path = root().join(".tools/promtool");
    assert!(path.exists(), "{path:?} is missing: run make promtool");
    path
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
        let admin = free_port();
        let clusters = vec![
            with_tcp_check(cluster("live", &[live])),
            with_tcp_check(cluster("dead", &[free_port()])),
        ];
        let mut config = bootstrap(admin, vec![], clusters);
        let lds = Lds::add_to(&mut config, listeners);
        let shipped = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
        let arguments = [
            "--config-yaml",
            stats_config(&shipped),
            "--drain-time-s",
            "1",
        ];
        let envoy = Envoy::start(&config.to_string(), &arguments).await;
        for (name, healthy) in [("live", 1), ("dead", 0)] {
            let stat = format!("cluster.{name}.membership_healthy");
            let checks = format!("cluster.{name}.health_check.attempt");
            eventually("hosts are checked", async || {
                let checked = envoy.stat(&checks).await > 0;
                (checked && envoy.stat(&stat).await == healthy).then_some(())
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
        eventually(&format!("{name} is {value}"), async || {
            (self.series().await.get(name) == Some(&value)).then_some(())
        })
        .await;
    }

    /// Polls until the gauge of an endpoint that is gone is gone as well, or 1: no gauge of the wasm
    /// build can go.
    async fn wait_for_end(&self, build: Build, name: &str) {
        eventually(&format!("{name} ends"), async || {
            let last = self.series().await.get(name).copied();
            (last == (build == Build::Wasm).then_some(1)).then_some(())
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

fn healthy(filter: &str, path: &str) -> String {
    format!("envoy_healthz_healthy{{filter=\"{filter}\",path=\"{path}\"}}")
}

/// Asks for a path as it stands, on a connection of its own; gives the answer's first line.
async fn ask(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Whether Prometheus can read a text; its parser's complaint if not.
fn readable(text: &str) -> Result<(), String> {
    let mut child = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = child.stdin.take().expect("a pipe");
    let text = text.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let output = child.wait_with_output().expect("promtool ends");
    let _ = writer.join();
    match output.status.code() {
        // 3: readable, but with names that promtool would rather not see, such as Envoy's own.
        Some(0 | 3) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What Prometheus, scraping this text for ten minutes, says to a rule of `rules.yaml`: whether the
/// alerts that fire are just these, each a filter's name and a path.
fn alerts(text: &str, alert: &str, expected: &[(&str, &str)]) -> Result<(), String> {
    let series: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("envoy_healthz_"))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let name = name.replacen('{', "{instance=\"pod-1\",", 1);
            json!({"series": name, "values": format!("{value}x10")})
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(filter, path)| {
            let summary = format!(" pod-1: {path} is unhealthy (filter {filter})");
            json!({
                "exp_labels": {
                    "severity": "warning", "instance": "pod-1", "filter": filter, "path": path,
                },
                "exp_annotations": {"summary": summary},
            })
        })
        .collect();
    let test = json!({
        "rule_files": [root().join("envoy/monitoring/rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [{"alertname": alert, "eval_time": "5m", "exp_alerts": expected}],
        }],
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("test.yaml");
    std::fs::write(&path, test.to_string()).expect("the test can be written");
    let output = Command::new(promtool())
        .args(["test", "rules"])
        .arg(&path)
        .output()
        .expect("promtool runs");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
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
            let answer = ask(port, path).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{path}: {answer}"
            );
        }
    }
    // The module counts probes with the first one that comes 50 ms after it did so last.
    tokio::time::sleep(Duration::from_millis(60)).await;
    for port in ports {
        ask(port, "/last").await;
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
            let transitions =
                format!("envoy_healthz_transitions{{filter=\"{filter}\",path=\"{path}\"}}");
            scraped.wait_for(&transitions, 1).await;
            scraped.wait_for(&healthy(filter, &path), value).await;
        }
    }
    let series = scraped.series().await;
    if build == Build::Wasm {
        for filter in ["default", "other-1"] {
            let label = format!("{{filter=\"{filter}\"}}");
            assert_eq!(
                series.get(&format!("envoy_healthz_admin_up{label}")),
                Some(&1)
            );
            let succeeded =
                format!("envoy_healthz_refreshes{{filter=\"{filter}\",result=\"succeeded\"}}");
            assert!(
                series.get(&succeeded).is_some_and(|&count| count > 0),
                "{series:#?}"
            );
        }
        assert!(
            series
                .get("envoy_healthz_vm_memory_bytes{}")
                .is_some_and(|&bytes| bytes > 0)
        );
    }
    // Nothing of ours is named in another way.
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
    let text = scraped.text().await;
    readable(&text).unwrap();
    readable(&format!(
        "{text}envoy_healthz_broken{{path=\"/say\"hi\"\"}} 1\n"
    ))
    .unwrap_err();
}

async fn the_alert_fires_for_a_dead_backend_and_not_for_an_endpoint_that_nobody_asks(build: Build) {
    let (port, unasked) = (free_port(), free_port());
    let listeners = vec![
        named(
            build,
            port,
            "default",
            &[("/healthz", "dead"), ("/livez", "live")],
        ),
        named(build, unasked, "unasked", &[("/healthz", "dead")]),
    ];
    let scraped = Scraped::start(listeners).await;
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
    let second = || {
        named(
            build,
            other,
            "other",
            &[("/healthz", "dead"), ("/old", "dead")],
        )
    };
    let first = |path| {
        named(
            build,
            port,
            "default",
            &[("/healthz", "dead"), (path, "dead")],
        )
    };
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
    eventually("the new path is answered", async || {
        (Prober::http(port).get("/new").await.status == 503).then_some(())
    })
    .await;
    scraped.wait_for(&healthy("default", "/new"), 0).await;
    let end = async |path| {
        let name = healthy("default", path);
        scraped.wait_for_end(build, &name).await;
    };
    end("/old").await;
    // The module shows an endpoint once it has been asked with its new configuration.
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

/// What each alert says of pods that are unhealthy, drain, hang, end, or cannot ask the admin: over minutes and
/// more, which nobody waits for here.
#[test]
fn the_rules_pass_their_unit_tests() {
    let rows = root().join("e2e/tests/rules_test.yaml");
    let output = Command::new(promtool())
        .args(["test", "rules"])
        .arg(rows)
        .output()
        .expect("promtool runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
}

/// Though another endpoint of the same filter is asked.
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
        let answer = ask(port, path).await;
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
