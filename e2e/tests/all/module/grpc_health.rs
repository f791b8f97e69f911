//! `grpc.health.v1.Health`, answered by the module: asked by clients that are not ours.

mod agreement;
mod compression;
mod drains;
mod many_watches;
mod requests;
mod transcoder;
mod watches;

use e2e::backend::Backend;
use e2e::config::{bootstrap, cluster, listener_with_routes, manager, with_grpc_check, with_tls};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{eventually, free_port, module};
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

/// How the module is told of the cluster.
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
    async fn start_with(way: Way, change: impl FnOnce(&mut Value)) -> Self {
        Self::start_with_arguments(way, &[], change).await
    }

    /// The same with more arguments for Envoy.
    async fn start_with_arguments(
        way: Way,
        arguments: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Self {
        module::folder();
        let [admin, plain, tls, one, other] = [(); 5].map(|()| free_port());
        let listeners = vec![listener(way, plain), with_tls(listener(way, tls))];
        let hosts = [one, other];
        let mut config = bootstrap(admin, listeners, vec![backends(&hosts)]);
        change(&mut config);
        Self {
            envoy: Envoy::start(&config.to_string(), arguments).await,
            plain,
            tls,
            hosts: [one, other],
        }
    }

    async fn start_host(&self, nth: usize) -> Backend {
        Backend::start(self.hosts[nth]).await
    }

    /// Waits until each path of [`SERVICES`] has this status.
    async fn wait_for(&self, statuses: [u16; 2]) {
        let prober = Prober::http(self.plain);
        for ((_, path), status) in SERVICES.into_iter().zip(statuses) {
            eventually(&format!("{path} answers {status}"), async || {
                let answer = prober.try_get(path).await.ok()?;
                (answer.status == status).then_some(())
            })
            .await;
        }
    }

    /// Waits until no request is under way.
    async fn wait_until_idle(&self) {
        eventually("no request is left", async || {
            // This look is one of the admin's, under another name.
            (self.envoy.stat("http.e2e.downstream_rq_active").await == 0).then_some(())
        })
        .await;
    }
}

/// The backend's cluster, whose every change the workers learn of at once.
fn backends(hosts: &[u16]) -> Value {
    let mut backends = with_grpc_check(cluster("c", hosts));
    backends["common_lb_config"]["update_merge_window"] = json!("0s");
    // A slow machine must not make a host unhealthy: Watches would be told.
    backends["health_checks"][0]["timeout"] = json!("20s");
    backends
}

fn listener(way: Way, port: u16) -> Value {
    let services: serde_json::Map<_, _> = SERVICES
        .into_iter()
        .chain([(LIVE, "/livez")])
        .map(|(service, path)| (service.to_owned(), json!(path)))
        .collect();
    let mut filters = module::drain_filters();
    filters.push(module::filter(&json!({
        "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/both", "clusters": [{"name": "c", "min_healthy": 2}]},
            {"path": "/livez", "clusters": []},
        ],
        "grpc_health": {"services": services},
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
fn listeners(config: &mut Value) -> impl Iterator<Item = &mut Value> {
    let listeners = &mut config["static_resources"]["listeners"];
    listeners.as_array_mut().expect("listeners").iter_mut()
}

/// Has an Envoy take its listeners from a file.
fn by_lds(config: &mut Value) -> Lds {
    let listeners = config["static_resources"]["listeners"].take();
    config["static_resources"]["listeners"] = json!([]);
    Lds::add_to(config, serde_json::from_value(listeners).unwrap())
}
