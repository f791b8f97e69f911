//! `grpc.health.v1.Health`, answered by the module to clients that are not ours.

mod agreement;
mod compression;
mod drains;
mod many_watches;
mod requests;
mod transcoder;
mod watches;

use e2e::backend::Backend;
use e2e::config::{Config, cluster, listener_with_routes, manager, with_grpc_check, with_tls};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{free_port, module};
use serde_json::{Value, json};

/// A sidecar before two hosts of a backend, as users have it: the filters are off but for the routes
/// that switch them on.
struct Sidecar {
    envoy: Envoy,
    /// In the clear: HTTP/1.1 and h2c.
    plain: u16,
    tls: u16,
    /// The hosts' ports.
    hosts: [u16; 2],
}

/// What `/healthz` and the service `""` need: one host. `/both` and the service `both` need two.
const SERVICES: [(&str, &str); 2] = [("", "/healthz"), ("both", "/both")];

/// A service that is always SERVING, but in a drain.
const LIVE: &str = "live";

/// A host of the application itself, whose own `grpc.health.v1` nobody touches.
const APP: &str = "app.test";

/// How the module finds the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Route,
    NetworkFilter,
}

impl Sidecar {
    async fn start(way: Way) -> Self {
        Self::start_with(way, |_| ()).await
    }

    /// The same with a change of Envoy's configuration.
    async fn start_with(way: Way, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with_arguments(way, &[], change).await
    }

    /// The same with more arguments for Envoy.
    async fn start_with_arguments(
        way: Way,
        arguments: &[&str],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        module::folder();
        let [plain, tls, one, other] = [(); 4].map(|()| free_port());
        let hosts = [one, other];
        let mut config = Config::new()
            .listener(listener(way, plain))
            .listener(with_tls(listener(way, tls)))
            .cluster(backends(&hosts));
        change(&mut config);
        let envoy = config.start_with(arguments).await;
        Self {
            envoy,
            plain,
            tls,
            hosts,
        }
    }

    async fn start_host(&self, nth: usize) -> Backend {
        Backend::start(self.hosts[nth]).await
    }

    /// Waits until each path of [`SERVICES`] has this status.
    async fn wait_for(&self, statuses: [u16; 2]) {
        let prober = Prober::http(self.plain);
        for ((_, path), status) in SERVICES.into_iter().zip(statuses) {
            prober.wait_for_answer(path, status, "").await;
        }
    }

    /// Waits until no request is under way.
    async fn wait_until_idle(&self) {
        let active = "http.e2e.downstream_rq_active";
        self.envoy.wait_for_stat(active, 0).await;
    }
}

/// The backend's cluster, whose every change the workers learn of at once.
fn backends(hosts: &[u16]) -> Value {
    let mut backends = with_grpc_check(cluster("c", hosts));
    backends["common_lb_config"]["update_merge_window"] = json!("0s");
    backends
}

fn listener(way: Way, port: u16) -> Value {
    let [(whole, healthz), (pair, both)] = SERVICES;
    let mut filters = module::drain_filters();
    filters.push(module::filter(&json!({
        "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/both", "clusters": [{"name": "c", "min_healthy": 2}]},
            {"path": "/livez", "clusters": []},
        ],
        "grpc_health": {"services": {whole: healthz, pair: both, LIVE: "/livez"}},
    })));
    let on =
        json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
    let mut switches = serde_json::Map::new();
    for filter in &mut filters {
        filter["disabled"] = json!(true);
        let name = filter["name"].as_str().expect("a name").to_owned();
        switches.insert(name, on.clone());
    }
    let ours = |mut route: Value| {
        route["typed_per_filter_config"] = json!(switches);
        if way == Way::NetworkFilter {
            route.as_object_mut().expect("a route").remove("route");
            route["direct_response"] = json!({"status": 503});
        }
        route
    };
    let to_app =
        |matched: Value| json!({"match": matched, "route": {"cluster": "c", "timeout": "0s"}});
    let health = "/grpc.health.v1.Health/";
    let routes = vec![
        to_app(json!({"prefix": health, "headers": [{"name": "x-app", "present_match": true}]})),
        ours(to_app(json!({"prefix": health}))),
        ours(module::route("/healthz", "c")),
        ours(module::route("/both", "c")),
        to_app(json!({"prefix": "/"})),
    ];
    let mut listener = listener_with_routes(port, filters, routes);
    let hosts = &mut manager(&mut listener)["route_config"]["virtual_hosts"];
    hosts.as_array_mut().expect("hosts").push(json!({
        "name": "app", "domains": [APP, format!("{APP}:*")],
        "routes": [to_app(json!({"prefix": "/"}))],
    }));
    match way {
        Way::Route => listener,
        Way::NetworkFilter => module::with_network_filter(listener),
    }
}

/// The listeners of a configuration.
fn listeners(config: &mut Config) -> impl Iterator<Item = &mut Value> {
    let listeners = &mut config["static_resources"]["listeners"];
    listeners.as_array_mut().expect("listeners").iter_mut()
}

/// Has an Envoy take its listeners from a file.
fn by_lds(config: &mut Config) -> Lds {
    let lds = Lds::new(listeners(config).map(Value::take).collect());
    config["static_resources"]["listeners"] = json!([]);
    config["dynamic_resources"]["lds_config"] = lds.source();
    lds
}
