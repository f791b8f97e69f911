//! The filter before an Envoy of the tests' own.

use std::cell::RefCell;
use std::collections::BTreeMap;

use healthz_core::answer::Content;
use healthz_core::judgement::{Health, Verdict};
use healthz_core::state::Level;
use healthz_core::view::Counts;

use super::*;
use crate::envoy::Metric;
use crate::grpc::calls::Reply;
use crate::grpc::wire::{ServingStatus, status, statuses};

/// An Envoy whose clusters the test sets.
#[derive(Default)]
struct FakeEnvoy {
    headers: BTreeMap<&'static str, &'static str>,
    details: &'static str,
    /// What has just come of the body.
    body: Vec<Vec<u8>>,
    /// By name, one entry a priority.
    clusters: BTreeMap<&'static str, Vec<Counts>>,
    network_filter: bool,
    route: Option<&'static str>,
    log: RefCell<Vec<String>>,
    /// Names of metrics, their labels and their values.
    stats: RefCell<BTreeMap<String, u64>>,
}

const NAMES: [&str; 5] = [
    "probes",
    "transitions",
    "healthy",
    "grpc_checks",
    "build_info",
];

impl Setup for FakeEnvoy {
    fn counter(&self, name: &str, _: &[&str]) -> Metric {
        Metric(NAMES.iter().position(|known| *known == name).unwrap())
    }

    fn gauge(&self, name: &str, labels: &[&str]) -> Metric {
        self.counter(name, labels)
    }
}

impl Request for FakeEnvoy {
    fn header(&self, name: &str) -> &[u8] {
        self.headers.get(name).map_or(b"", |value| value.as_bytes())
    }

    fn response_details(&self) -> &[u8] {
        self.details.as_bytes()
    }

    fn body(&self) -> Vec<&[u8]> {
        self.body.iter().map(Vec::as_slice).collect()
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

    fn log(&self, _: Level, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
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
        let Action::Answer(answer) = begin(filter, self, true) else {
            return None;
        };
        let status = answer.response.outcome.status().to_string();
        match answer.response.content {
            Content::Http { .. } if answer.head => Some((status, String::new())),
            Content::Http { body, .. } => Some((status, body.into_owned())),
            Content::Grpc => Some((format!("gRPC {status}"), String::new())),
        }
    }
}

fn filter(envoy: &FakeEnvoy, endpoints: &str) -> Filter {
    Filter::new(
        envoy,
        format!(r#"{{"endpoints": [{endpoints}]}}"#).as_bytes(),
    )
    .unwrap()
}

/// A request that no filter before ours has held up.
fn begin(filter: &Filter, envoy: &FakeEnvoy, end: bool) -> Action {
    filter.begin(envoy, end, filter.drain.known())
}

fn answered(filter: &Filter, envoy: &FakeEnvoy) -> Answer {
    match begin(filter, envoy, true) {
        Action::Answer(answer) => answer,
        _ => panic!("no answer"),
    }
}

fn answer(status: &str, body: &str) -> Option<(String, String)> {
    Some((status.to_owned(), body.to_owned()))
}

#[test]
fn a_refused_configuration_has_a_reason() {
    let fault = Filter::new(&FakeEnvoy::default(), b"{}").err().unwrap();
    let expected = "configuration: missing field `endpoints`";
    assert_eq!(fault.to_string(), expected);
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

/// Whatever the route leads to, only the configuration's cluster is queried.
#[test]
fn another_route_is_not_queried() {
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
        log[0].contains("/r is unhealthy: cannot read cluster \"c\""),
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
    let version = format!("build_info[\"default\", {:?}]", env!("CARGO_PKG_VERSION"));
    let expected = [
        (version.as_str(), 1),
        (r#"healthy["default", "/change"]"#, 1),
        (r#"probes["default", "/change", "200"]"#, 1),
        // A series begins at 0: the first of these must not hide from whoever asks for the increase.
        (r#"probes["default", "/change", "405"]"#, 0),
        (r#"probes["default", "/change", "503"]"#, 0),
        (r#"transitions["default", "/change"]"#, 0),
    ];
    assert_eq!(
        stats,
        expected.map(|(name, value)| (name.to_owned(), value))
    );
}

/// Listeners of one name and path, of one configuration or of two, share gauge and log: what one has answered
/// last, whichever was loaded last.
#[test]
fn gauge_and_log_follow_the_last_answer() {
    let endpoint = |cluster| format!(r#"{{"path": "/two", "clusters": ["{cluster}"]}}"#);
    let mut envoy = FakeEnvoy {
        network_filter: true,
        ..FakeEnvoy::default()
    };
    let listeners = ["c", "c", "d"].map(|cluster| filter(&envoy, &endpoint(cluster)));
    let mut up = false;
    for nth in [0, 1, 2, 0, 2] {
        up = !up;
        let count = u64::from(up);
        envoy.clusters.insert("c", vec![hosts(1, count, 0)]);
        envoy.clusters.insert("d", vec![hosts(1, count, 0)]);
        let gauge = r#"healthy["default", "/two"]"#;
        let word = ["/two is unhealthy", "/two is healthy"][usize::from(up)];
        let started = std::time::Instant::now();
        // A change within a second of the last one is recorded by an answer after that.
        while envoy.stats.borrow().get(gauge) != Some(&count) {
            envoy.get(&listeners[nth], "/two");
            assert!(started.elapsed().as_secs() < 30, "{nth}: it is not {count}");
        }
        assert!(envoy.log.borrow().last().unwrap().contains(word));
    }
    assert_eq!(envoy.log.borrow().len(), 5);
}

/// A request by another host or route, which leads to no cluster of the endpoint, is 503 like any other, and
/// is recorded like any other.
#[test]
fn a_request_that_reaches_no_cluster() {
    let mut envoy = FakeEnvoy {
        clusters: [("c", vec![hosts(1, 1, 0)])].into(),
        ..FakeEnvoy::default()
    };
    let filter = filter(&envoy, r#"{"path": "/way", "clusters": ["c"]}"#);
    assert_eq!(envoy.get(&filter, "/way"), answer("503", "unavailable"));
    let healthy = r#"healthy["default", "/way"]"#;
    assert_eq!(envoy.stats.borrow().get(healthy), Some(&0));
    let why = "cannot read cluster \"c\": this route leads to no cluster that Envoy knows. \
        Add the network filter (docs/module.md, Several clusters)";
    let line = format!("envoy-healthz[default]: /way is unhealthy: {why}");
    assert_eq!(envoy.log.borrow()[..], [line]);
}

/// What comes too soon after a change is recorded when the second is over, unless something else has been
/// answered since.
#[test]
fn a_message_of_a_watch_that_came_too_soon() {
    let mut envoy = FakeEnvoy {
        network_filter: true,
        ..FakeEnvoy::default()
    };
    let filter = filter(&envoy, r#"{"path": "/soon", "clusters": ["c"]}"#);
    let endpoint = &filter.config.endpoints[0];
    let recorded = |envoy: &FakeEnvoy| {
        let gauge = r#"healthy["default", "/soon"]"#;
        envoy.stats.borrow().get(gauge).copied()
    };
    let (up, down) = (vec![hosts(1, 1, 0)], vec![hosts(1, 0, 0)]);
    let say = |envoy: &FakeEnvoy, what: &dyn Fn(&Verdict<'_>)| {
        what(&judge(endpoint, &WorkerView::new(envoy, endpoint)));
    };
    envoy.clusters.insert("c", up.clone());
    envoy.get(&filter, "/soon");
    envoy.clusters.insert("c", down);
    say(&envoy, &|verdict| {
        filter.recorder.message(0, verdict, &envoy)
    });
    assert_eq!(recorded(&envoy), Some(1));
    let tick = |envoy: &FakeEnvoy| {
        say(envoy, &|verdict| {
            filter.recorder.postponed_message(0, verdict, envoy);
        });
    };
    let started = std::time::Instant::now();
    while recorded(&envoy) != Some(0) {
        tick(&envoy);
        assert!(started.elapsed().as_secs() < 30);
    }
    assert!(started.elapsed().as_millis() > 500);
    // A probe that comes too soon as well leaves it to the tick.
    envoy.clusters.insert("c", up.clone());
    say(&envoy, &|verdict| {
        filter.recorder.message(0, verdict, &envoy)
    });
    envoy.get(&filter, "/soon");
    assert_eq!(recorded(&envoy), Some(0));
    let started = std::time::Instant::now();
    while recorded(&envoy) != Some(1) {
        tick(&envoy);
        assert!(started.elapsed().as_secs() < 30);
    }
    envoy.clusters.clear();
    while recorded(&envoy) != Some(0) {
        envoy.get(&filter, "/soon");
        assert!(started.elapsed().as_secs() < 30);
    }
    // Now the other way, but a probe says again what is recorded.
    envoy.clusters.insert("c", up);
    say(&envoy, &|verdict| {
        filter.recorder.message(0, verdict, &envoy)
    });
    envoy.clusters.clear();
    envoy.get(&filter, "/soon");
    envoy.clusters.insert("c", vec![hosts(1, 1, 0)]);
    let started = std::time::Instant::now();
    while started.elapsed().as_secs() < 2 {
        tick(&envoy);
    }
    assert_eq!(recorded(&envoy), Some(0));
}

/// Probes of one moment are counted together, by one that comes later, also of a later configuration.
#[test]
fn no_probe_goes_uncounted() {
    let mut envoy = FakeEnvoy::default();
    let load = |envoy: &FakeEnvoy| filter(envoy, r#"{"path": "/count", "clusters": []}"#);
    let mut filter = load(&envoy);
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
        if sent % 10 == 0 {
            filter = load(&envoy);
        }
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
fn the_request_decides_the_form() {
    let endpoint = r#"{"path": "/form", "clusters": []}"#;
    let mut envoy = FakeEnvoy::default();
    let filter = filter(&envoy, endpoint);
    assert_eq!(envoy.get(&filter, "/form"), answer("200", "ok"));
    for other in ["/", "/form/", "/for", "", "?/form"] {
        assert_eq!(envoy.get(&filter, other), None, "{other}");
    }
    envoy.headers.insert(":method", "HEAD");
    assert_eq!(envoy.ask(&filter, "/form?x"), answer("200", ""));
    assert!(answered(&filter, &envoy).head);
    envoy.headers.insert(":method", "POST");
    assert_eq!(
        envoy.ask(&filter, "/form"),
        answer("405", "method not allowed")
    );
    envoy.headers.insert("content-type", "application/grpc");
    assert_eq!(envoy.ask(&filter, "/form"), answer("gRPC 200", ""));
}

/// A filter that answers for `""` and `a` by the cluster `c`, and for `live` by none.
fn with_services(envoy: &FakeEnvoy, path: &str) -> Filter {
    let name = path.trim_start_matches('/');
    let text = format!(
        r#"{{"name": "{name}", "endpoints": [{{"path": "{path}", "clusters": ["c"]}}, {{"path": "/live", "clusters": []}}],
            "grpc_health": {{"services": {{"": "{path}", "a": "{path}", "live": "/live"}}}}}}"#
    );
    Filter::new(envoy, text.as_bytes()).unwrap()
}

impl FakeEnvoy {
    fn on_http2(method: &'static str) -> Self {
        Self {
            headers: [
                (":method", "POST"),
                (":path", method),
                ("content-type", "application/grpc"),
            ]
            .into(),
            network_filter: true,
            ..Self::default()
        }
    }

    /// A whole call whose body comes in these pieces.
    fn call(&mut self, filter: &Filter, pieces: &[&[u8]]) -> Reply {
        let Action::Read(mut call) = begin(filter, self, false) else {
            panic!("no call");
        };
        for piece in pieces {
            self.body = vec![piece.to_vec()];
            if let Some(reply) = filter.read(&mut call, false, self) {
                return reply;
            }
        }
        self.body.clear();
        filter.read(&mut call, true, self).unwrap()
    }
}

const CHECK: &str = "/grpc.health.v1.Health/Check";

fn failed(reply: Reply) -> Status {
    match reply {
        Reply::Failed(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_check_says_what_a_probe_says() {
    let mut envoy = FakeEnvoy::on_http2(CHECK);
    let filter = with_services(&envoy, "/check");
    for (usable, expected) in [
        (0, ServingStatus::NotServing),
        (1, ServingStatus::Serving),
        (0, ServingStatus::NotServing),
    ] {
        envoy.clusters.insert("c", vec![hosts(1, usable, 0)]);
        for message in [&b"\0\0\0\0\0"[..], b"\0\0\0\0\x03\x0a\x01a"] {
            let reply = envoy.call(&filter, &[message]);
            assert_eq!(reply, Reply::Message(status(expected)));
        }
        let reply = envoy.call(&filter, &[b"\0\0\0", b"\0\x06\x0a\x04li", b"ve"]);
        assert_eq!(reply, Reply::Message(status(ServingStatus::Serving)));
    }
    for (pieces, expected) in [
        (&[&b"\0\0\0\0\x03\x0a\x01b"[..]][..], Status::NotFound),
        (&[], Status::InvalidArgument),
        (&[b"\0\0\0\0\x03\x0a\x01"], Status::InvalidArgument),
        (&[b"\0\0\0\0\0", b"\0\0\0\0\0"], Status::InvalidArgument),
        (&[b"\0\0\0\x10", b"\x01"], Status::ResourceExhausted),
        (&[b"\x01\0\0\0\x03"], Status::Internal),
    ] {
        let reply = envoy.call(&filter, pieces);
        assert_eq!(failed(reply), expected, "{pieces:?}");
    }
    envoy.headers.insert("grpc-encoding", "zstd");
    let reply = envoy.call(&filter, &[b"\x01\0\0\0\x03"]);
    assert_eq!(failed(reply), Status::Unimplemented);
    // The end of the stream with the headers: no message.
    let no_message = begin(&filter, &envoy, true);
    assert!(matches!(no_message, Action::Fail(Status::InvalidArgument)));

    // What followed came too quickly to be a transition.
    let expected = [
        "envoy-healthz[check]: /check is unhealthy: c 0/1 healthy",
        "envoy-healthz[check]: /live is healthy",
    ];
    assert_eq!(envoy.log.borrow()[..], expected);
}

#[test]
fn checks_are_counted() {
    let mut envoy = FakeEnvoy::on_http2(CHECK);
    envoy.clusters.insert("c", vec![hosts(1, 1, 0)]);
    let filter = with_services(&envoy, "/checks-counted");
    let started = std::time::Instant::now();
    let counted = |envoy: &FakeEnvoy, name: &str| envoy.stats.borrow().get(name).copied();
    let serving = r#"grpc_checks["checks-counted", "/checks-counted", "SERVING"]"#;
    let not_serving = r#"grpc_checks["checks-counted", "/checks-counted", "NOT_SERVING"]"#;
    let mut sent = 0;
    while counted(&envoy, serving) != Some(sent) || sent < 10 {
        envoy.call(&filter, &[b"\0\0\0\0\0"]);
        // Of these nothing is counted.
        envoy.call(&filter, &[b"\0\0\0\0\x03\x0a\x01b"]);
        sent += 1;
        assert!(started.elapsed().as_secs() < 30);
    }
    assert_eq!(counted(&envoy, not_serving), Some(0));
    let probes = r#"probes["checks-counted", "/checks-counted", "200"]"#;
    assert_eq!(counted(&envoy, probes), Some(0));
}

#[test]
fn all_services_are_listed() {
    let mut envoy = FakeEnvoy::on_http2("/grpc.health.v1.Health/List");
    let filter = with_services(&envoy, "/list");
    let reply = envoy.call(&filter, &[b"\0\0\0\0\0"]);
    let expected = [
        ("", ServingStatus::NotServing),
        ("a", ServingStatus::NotServing),
        ("live", ServingStatus::Serving),
    ];
    assert_eq!(reply, Reply::Message(statuses(expected.into_iter())));
    let reply = envoy.call(&filter, &[b"\0\0\0\0\x01\x0f"]);
    assert_eq!(failed(reply), Status::InvalidArgument);
}

#[test]
fn what_is_no_call_passes() {
    let plain = r#"{"path": "/x", "clusters": []}"#;
    for (header, value) in [
        (":method", "GET"),
        (":path", "/grpc.health.v1.Health/check"),
        (":path", "/grpc.health.v1.Health/Check?x"),
        ("content-type", "application/grpc+json"),
        ("content-type", "application/grpc-web"),
    ] {
        let mut envoy = FakeEnvoy::on_http2(CHECK);
        let without = filter(&envoy, plain);
        assert!(matches!(begin(&without, &envoy, false), Action::Pass));
        assert!(!without.is_for_us(&envoy));
        let with = with_services(&envoy, "/no-call");
        assert!(matches!(begin(&with, &envoy, false), Action::Read(_)));
        assert!(with.is_for_us(&envoy));
        envoy.headers.insert(header, value);
        assert!(
            matches!(begin(&with, &envoy, false), Action::Pass),
            "{value}"
        );
        assert!(!with.is_for_us(&envoy), "{value}");
    }
}

#[test]
fn a_watch_begins_with_the_status() {
    let mut envoy = FakeEnvoy::on_http2("/grpc.health.v1.Health/Watch");
    envoy.clusters.insert("c", vec![hosts(1, 1, 0)]);
    envoy.route = Some("r");
    let filter = with_services(&envoy, "/watch");
    let Reply::Watch(message, Some(watched)) = envoy.call(&filter, &[b"\0\0\0\0\0"]) else {
        panic!("no Watch");
    };
    assert_eq!(message, status(ServingStatus::Serving));
    assert_eq!(watched.sent, Health::Healthy);
    assert_eq!(watched.key.endpoint, 0);
    assert_eq!(watched.key.route.as_deref(), Some(&b"r"[..]));

    envoy.clusters.clear();
    let again = envoy.call(&filter, &[b"\0\0\0\0\x03\x0a\x01a"]);
    let Reply::Watch(message, Some(other)) = again else {
        panic!("no Watch");
    };
    assert_eq!(message, status(ServingStatus::NotServing));
    assert_eq!((other.sent, other.key), (Health::Unhealthy, watched.key));

    // Without a network filter it depends on the route's cluster.
    envoy.network_filter = false;
    for other in [Some("r"), None] {
        envoy.route = other;
        let reply = envoy.call(&filter, &[b"\0\0\0\0\0"]);
        assert_eq!(failed(reply), Status::Unavailable);
    }
    envoy.route = Some("c");
    let route = envoy.call(&filter, &[b"\0\0\0\0\0"]);
    assert!(matches!(route, Reply::Watch(_, Some(_))), "{route:?}");
    envoy.route = None;
    let live = envoy.call(&filter, &[b"\0\0\0\0\x06\x0a\x04live"]);
    assert!(matches!(live, Reply::Watch(_, Some(_))), "{live:?}");

    let unknown = envoy.call(&filter, &[b"\0\0\0\0\x03\x0a\x01b"]);
    let expected = status(ServingStatus::ServiceUnknown);
    assert_eq!(unknown, Reply::Watch(expected, None));
    let reply = envoy.call(&filter, &[b"\0\0\0\0\x03\x0a\x01"]);
    assert_eq!(failed(reply), Status::InvalidArgument);
}

/// What Envoy's health_check filter refuses in our place, Watches are sent too.
#[test]
fn a_watch_hears_of_a_drain() {
    let mut envoy = FakeEnvoy::on_http2("/grpc.health.v1.Health/Watch");
    envoy.clusters.insert("c", vec![hosts(1, 1, 0)]);
    let filter = with_services(&envoy, "/drain");
    for (path, details, expected) in [
        ("/drain", "local_rate_limited", false),
        ("/other", "health_check_failed", false),
        ("/drain?x", "health_check_failed", true),
    ] {
        envoy.headers.insert(":path", path);
        envoy.details = details;
        filter.answered_before(&envoy);
        assert_eq!(filter.drain.is_under_way(), expected, "{path} {details}");
    }
    let watch = |envoy: &mut FakeEnvoy| {
        envoy.headers.insert(":method", "POST");
        envoy
            .headers
            .insert(":path", "/grpc.health.v1.Health/Watch");
        match envoy.call(&filter, &[b"\0\0\0\0\0"]) {
            Reply::Watch(message, Some(_)) => message,
            other => panic!("{other:?}"),
        }
    };
    let sent = |health: Health| status(health.into());
    assert_eq!(watch(&mut envoy), sent(Health::Unhealthy));
    assert_eq!(envoy.get(&filter, "/live"), answer("gRPC 200", ""));
    assert_eq!(watch(&mut envoy), sent(Health::Unhealthy));
    assert_eq!(envoy.get(&filter, "/drain"), answer("gRPC 200", ""));
    assert_eq!(watch(&mut envoy), sent(Health::Healthy));
    // A drain is no transition of the endpoint.
    assert_eq!(envoy.log.borrow().len(), 2);
}
