//! The filter before an Envoy of the tests' own.

use std::cell::RefCell;
use std::collections::BTreeMap;

use healthz_core::view::Counts;

use super::*;
use crate::envoy::Metric;

/// An Envoy whose clusters the test sets.
#[derive(Default)]
struct FakeEnvoy {
    headers: BTreeMap<&'static str, &'static str>,
    /// By name, one entry a priority.
    clusters: BTreeMap<&'static str, Vec<Counts>>,
    network_filter: bool,
    route: Option<&'static str>,
    log: RefCell<Vec<String>>,
    /// Names of metrics, their labels and their values.
    stats: RefCell<BTreeMap<String, u64>>,
}

const NAMES: [&str; 3] = ["probes", "transitions", "healthy"];

impl Setup for FakeEnvoy {
    fn counter(&self, name: &str, _: &[&str]) -> Option<Metric> {
        NAMES.iter().position(|known| *known == name).map(Metric)
    }

    fn gauge(&self, name: &str, labels: &[&str]) -> Option<Metric> {
        self.counter(name, labels)
    }

    fn log(&self, _: Level, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
    }
}

impl Request for FakeEnvoy {
    fn header(&self, name: &str) -> &[u8] {
        self.headers.get(name).map_or(b"", |value| value.as_bytes())
    }

    fn route_cluster(&self) -> Option<&[u8]> {
        self.route.map(str::as_bytes)
    }

    fn route_cluster_hosts(&self, priority: u32) -> Option<Counts> {
        let hosts = self.clusters.get(self.route?)?;
        hosts.get(priority as usize).copied()
    }

    fn has_network_filter(&self) -> bool {
        self.network_filter
    }

    fn hosts(&self, cluster: &str, priority: u32) -> Option<Counts> {
        assert!(self.network_filter);
        self.clusters.get(cluster)?.get(priority as usize).copied()
    }

    fn count(&self, counter: Metric, labels: &[&str], value: u64) {
        let name = format!("{}{labels:?}", NAMES[counter.0]);
        *self.stats.borrow_mut().entry(name).or_default() += value;
    }

    fn set(&self, gauge: Metric, labels: &[&str], value: u64) {
        let name = format!("{}{labels:?}", NAMES[gauge.0]);
        self.stats.borrow_mut().insert(name, value);
    }

    fn log(&self, level: Level, line: &str) {
        Setup::log(self, level, line);
    }
}

fn hosts(total: u64, healthy: u64, degraded: u64) -> Counts {
    Counts {
        total,
        healthy,
        degraded,
        excluded: 0,
    }
}

impl FakeEnvoy {
    fn get(&mut self, filter: &Filter, path: &'static str) -> Option<(String, String)> {
        self.headers.insert(":method", "GET");
        self.ask(filter, path)
    }

    fn ask(&mut self, filter: &Filter, path: &'static str) -> Option<(String, String)> {
        self.headers.insert(":path", path);
        let answer = filter.answer(self)?;
        assert_eq!(answer.headers[0].0, ":status");
        Some((answer.headers[0].1.to_string(), answer.body.to_string()))
    }
}

fn filter(envoy: &FakeEnvoy, endpoints: &str) -> Filter {
    Filter::new(
        envoy,
        format!(r#"{{"endpoints": [{endpoints}]}}"#).as_bytes(),
    )
    .unwrap()
}

fn answer(status: &str, body: &str) -> Option<(String, String)> {
    Some((status.to_owned(), body.to_owned()))
}

#[test]
fn a_refused_configuration_is_logged() {
    let envoy = FakeEnvoy::default();
    assert!(Filter::new(&envoy, b"{}").is_none());
    let log = envoy.log.borrow();
    assert!(log[0].starts_with("envoy-healthz: configuration: missing field `endpoints`"));
    assert_eq!(log.len(), 1);
}

#[test]
fn priorities_are_added_up_by_either_way() {
    let endpoint =
        r#"{"path": "/p", "clusters": [{"name": "c", "min_healthy": "50%"}], "details": true}"#;
    let mut envoy = FakeEnvoy {
        clusters: [("c", vec![hosts(1, 0, 0), hosts(0, 0, 0), hosts(3, 1, 1)])].into(),
        network_filter: true,
        ..FakeEnvoy::default()
    };
    let filter = filter(&envoy, endpoint);
    let expected = answer("200", "[+]c 2/4 healthy, 2 needed\nhealthz check passed\n");
    assert_eq!(envoy.get(&filter, "/p?verbose"), expected);
    envoy.network_filter = false;
    envoy.route = Some("c");
    assert_eq!(envoy.get(&filter, "/p?verbose"), expected);
}

/// Whatever the route leads to, it is asked for nothing but the configuration's cluster.
#[test]
fn another_route_is_not_asked() {
    let endpoint = r#"{"path": "/r", "clusters": ["c", "d"], "require": "any"}"#;
    let mut envoy = FakeEnvoy {
        clusters: [("c", vec![hosts(1, 1, 0)]), ("d", vec![hosts(1, 1, 0)])].into(),
        ..FakeEnvoy::default()
    };
    let filter = filter(&envoy, endpoint);
    for route in [None, Some("c"), Some("d"), Some("e")] {
        envoy.route = route;
        assert_eq!(
            envoy.get(&filter, "/r"),
            answer("503", "unavailable"),
            "{route:?}"
        );
    }
    envoy.network_filter = true;
    assert_eq!(envoy.get(&filter, "/r"), answer("200", "ok"));
    let log = envoy.log.borrow();
    assert!(
        log[0].contains("/r is unhealthy: no way to ask for cluster \"c\""),
        "{log:?}"
    );
}

#[test]
fn a_change_is_logged_and_counted_once() {
    let endpoint = r#"{"path": "/change", "clusters": ["c"]}"#;
    let mut envoy = FakeEnvoy {
        clusters: [("c", vec![hosts(1, 1, 0)])].into(),
        network_filter: true,
        ..FakeEnvoy::default()
    };
    let first = filter(&envoy, endpoint);
    envoy.get(&first, "/change");
    // The same text in a listener that is new: its gauge is new, the verdict is not.
    let second = filter(&envoy, endpoint);
    envoy.stats.borrow_mut().clear();
    envoy.get(&second, "/change");
    assert_eq!(
        envoy.log.borrow()[..],
        ["envoy-healthz[default]: /change is healthy"]
    );
    let stats: Vec<_> = envoy.stats.borrow().clone().into_iter().collect();
    let expected = [
        (r#"healthy["default", "/change"]"#, 1),
        (r#"probes["default", "/change", "200"]"#, 1),
    ];
    assert_eq!(
        stats,
        expected.map(|(name, value)| (name.to_owned(), value))
    );
}

/// Probes of one moment are counted together, by one that comes later.
#[test]
fn no_probe_goes_uncounted() {
    let mut envoy = FakeEnvoy::default();
    let filter = filter(&envoy, r#"{"path": "/count", "clusters": []}"#);
    let counted = |envoy: &FakeEnvoy| {
        let name = r#"probes["default", "/count", "200"]"#;
        envoy.stats.borrow().get(name).copied().unwrap_or_default()
    };
    let started = std::time::Instant::now();
    let mut sent = 0;
    while sent < 100 || counted(&envoy) < sent {
        envoy.get(&filter, "/count");
        sent += 1;
        assert!(counted(&envoy) <= sent);
        assert!(
            started.elapsed().as_secs() < 30,
            "{} of {sent}",
            counted(&envoy)
        );
    }
    let transitions = r#"transitions["default", "/count"]"#;
    assert_eq!(envoy.stats.borrow().get(transitions), Some(&1));
}

#[test]
fn what_is_asked_decides_the_form() {
    let endpoint = r#"{"path": "/form", "clusters": []}"#;
    let mut envoy = FakeEnvoy::default();
    let filter = filter(&envoy, endpoint);
    assert_eq!(envoy.get(&filter, "/form"), answer("200", "ok"));
    for other in ["/", "/form/", "/for", "", "?/form"] {
        assert_eq!(envoy.get(&filter, other), None, "{other}");
    }
    envoy.headers.insert(":method", "HEAD");
    assert_eq!(envoy.ask(&filter, "/form?x"), answer("200", ""));
    let head = filter.answer(&envoy).unwrap();
    assert!(head.headers.contains(&("content-length", "2".into())));
    envoy.headers.insert(":method", "POST");
    assert_eq!(
        envoy.ask(&filter, "/form"),
        answer("405", "method not allowed")
    );
    envoy.headers.insert("content-type", "application/grpc");
    assert_eq!(envoy.ask(&filter, "/form"), answer("200", ""));
    let grpc = filter.answer(&envoy).unwrap();
    assert!(grpc.headers.contains(&("grpc-status", "0".into())));
}
