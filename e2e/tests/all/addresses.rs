//! Hosts whose address is not an IP address and port, in every form that Envoy takes: they are hosts, shown
//! as Envoy writes them. A call through Envoy, the filter and Envoy's own health_check filter agree on
//! each. Text that only looks like a host is none.

use e2e::config::{
    Config, address, cluster_of_endpoints, listener_with_routes, manager, pipe, typed,
};
use e2e::pair::{Pair, one_of, rule};
use e2e::prober::Prober;
use e2e::{Build, free_port};
use serde_json::{Value, json};

both_builds! {
    every_form,
    hosts_of_a_longer_name,
}

/// What looks like a host in a host name or a locality.
const FAKES: [&str; 3] = [
    "x::health_flags::healthy",
    "/x.sock::health_flags::healthy",
    "x::hostname::y::observability_name::z::127.0.0.1:1::health_flags::healthy",
];

/// An address that some listener has, and how `/clusters` shows it.
struct Form {
    name: &'static str,
    address: Value,
    shown: String,
    /// A host name and locality of this text.
    text: &'static str,
}

impl Form {
    fn new(name: &'static str, address: Value, shown: &str) -> Self {
        Self {
            name,
            address,
            shown: shown.to_owned(),
            text: "",
        }
    }

    fn pipe(name: &'static str, path: &str) -> Self {
        Self::new(name, pipe(path), path)
    }

    fn internal(name: &'static str, id: &str) -> Self {
        let address = json!({"envoy_internal_address": {
            "server_listener_name": "connect_originate", "endpoint_id": id,
        }});
        Self::new(name, address, &format!("envoy://connect_originate/{id}"))
    }

    fn with(self, text: &'static str) -> Self {
        Self { text, ..self }
    }

    fn cluster(&self, name: &str, status: &str) -> Value {
        let mut host = json!({"endpoint": {"address": self.address}, "health_status": status});
        host["endpoint"]["hostname"] = json!(self.text);
        let mut cluster = cluster_of_endpoints(name, vec![host]);
        let text = self.text;
        cluster["load_assignment"]["endpoints"][0]["locality"] =
            json!({"region": text, "zone": text, "sub_zone": text});
        cluster
    }

    fn down(&self) -> &'static str {
        format!("{}_down", self.name).leak()
    }

    fn listener(&self) -> Value {
        let mut listener = serving();
        listener["name"] = json!(format!("backend_{}", self.name));
        listener["address"] = self.address.clone();
        listener
    }
}

/// A listener that answers 200, without an address.
fn serving() -> Value {
    let ok = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}});
    listener_with_routes(0, [], vec![ok])
}

/// The listener of all internal addresses.
fn internal_listener() -> Value {
    let mut listener = serving();
    listener["name"] = json!("connect_originate");
    listener["internal_listener"] = json!({});
    listener.as_object_mut().expect("fields").remove("address");
    listener
}

/// An Envoy that takes internal addresses.
fn config() -> Config {
    let mut config = Config::new();
    config["bootstrap_extensions"] = json!([typed(
        "envoy.bootstrap.internal_listener",
        "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        json!({}),
    )]);
    config
}

/// A listener that leads `/NAME` to the cluster NAME.
fn calls(port: u16, names: &[&str]) -> Value {
    let route =
        |name: &&str| json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}});
    let mut listener = listener_with_routes(port, [], names.iter().map(route).collect());
    manager(&mut listener)["route_config"]["validate_clusters"] = json!(false);
    listener
}

/// A call through Envoy, the filter and Envoy's own agree; gives the first line of `?verbose`.
async fn check(pair: &Pair, calls: u16, name: &str, status: u16) -> String {
    let path = format!("/{name}");
    let calls = Prober::http(calls);
    calls.wait_for_answer(&path, status, "").await;
    pair.check(name, status, status, None).await;
    let lines = pair.check_ours(name, status).await;
    lines.lines().next().unwrap_or_default().to_owned()
}

async fn every_form(build: Build) {
    let dir = tempfile::tempdir().unwrap();
    let inside = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (port, calling) = (free_port(), free_port());
    let abstract_name = format!("@healthz-{port}");
    let ip = format!("127.0.0.1:{port}");
    let forms = [
        Form::internal("internal_v4", "10.0.0.1:8080"),
        Form::internal("internal_v6", "[fd00::1]:8080"),
        Form::internal("internal_colons", "a::b"),
        Form::pipe("pipe", &inside("app.sock")),
        Form::pipe("pipe_colons", &inside("a::b.sock")),
        Form::pipe("relative", "backend.sock"),
        Form::pipe("dotted", "./x.sock"),
        Form::pipe("relative_colons", "a::127.0.0.1:80"),
        Form::pipe("abstract", &abstract_name),
        Form::pipe("abstract_colons", &format!("{abstract_name}::b")),
        Form::new("ip", address("127.0.0.1", port), &ip).with(FAKES[2]),
        Form::pipe("fakes_0", &inside("0.sock")).with(FAKES[0]),
        Form::pipe("fakes_1", "1.sock").with(FAKES[1]),
        Form::pipe("fakes_2", &inside("2.sock")).with(FAKES[2]),
    ];
    let names = forms.iter().flat_map(|form| [form.name, form.down()]);
    let names: Vec<_> = names.collect();
    let mut config = config()
        .listener(internal_listener())
        .listener(calls(calling, &names));
    for form in &forms {
        let up = form.cluster(form.name, "HEALTHY");
        config = config.clusters([up, form.cluster(form.down(), "UNHEALTHY")]);
        if !form.name.starts_with("internal") {
            config = config.listener(form.listener());
        }
    }
    let pair = Pair::start(build, names.iter().map(|name| one_of(name)), config).await;
    for form in &forms {
        let (name, down, shown) = (form.name, form.down(), &form.shown);
        let line = check(&pair, calling, name, 200).await;
        assert_eq!(line, format!("[+]{name} 1/1 healthy"));
        let line = check(&pair, calling, down, 503).await;
        let host = format!(": {shown} failed_eds_health");
        let host = build.of_hosts(&host);
        assert_eq!(line, format!("[-]{down} 0/1 healthy{host}"));
    }
}

/// The cluster `long::more` has a host `x.sock`, the cluster `long` none that is called `more::x.sock`.
async fn hosts_of_a_longer_name(build: Build) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("y.sock");
    let short = Form::pipe("short", "x.sock");
    let up = Form::pipe("up", path.to_str().unwrap());
    let names = ["long", "long::more", "long::/more", "none", "none::more"];
    let calling = free_port();
    let all = |name| json!({"clusters": [{"name": name, "min_healthy": "100%"}]});
    let rules = names.map(|name| rule(name, all(name), 100.0));
    let config = config()
        .cluster(short.cluster("long", "UNHEALTHY"))
        .cluster(short.cluster("long::more", "HEALTHY"))
        .cluster(up.cluster("long::/more", "HEALTHY"))
        .cluster(short.cluster("none::more", "HEALTHY"))
        .listeners([short.listener(), up.listener(), calls(calling, &names)]);
    let pair = Pair::start(build, rules, config).await;
    for (name, status, counts) in [
        ("long", 503, "0/1"),
        ("long::more", 200, "1/1"),
        ("long::/more", 200, "1/1"),
        ("none", 503, "0/0"),
        ("none::more", 200, "1/1"),
    ] {
        let line = check(&pair, calling, name, status).await;
        let counts = format!("]{name} {counts} healthy");
        assert!(line.contains(&counts), "{line}");
    }
}
