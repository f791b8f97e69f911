//! Istio: what istiod made for a gateway, with the port, the filter and its configuration of our files.

use std::time::{Duration, Instant};

use e2e::envoy::Envoy;
use e2e::prober::{Prober, probe_at_once, wait_on_all_workers};
use e2e::{free_port, read, replace_file, until};
use serde_json::{Value, json};

use super::{Dump, Home, doctor, documents, gauge, list, of_kind, shipped_tags, with_our_files};

const SHARED: &str = "envoy/mesh/istio.yaml";
const EXTENSIONS: [&str; 2] = [
    "envoy/mesh/istio-traffic-extension.yaml",
    "envoy/mesh/istio-wasm-plugin.yaml",
];
const CLUSTER: &str = "outbound|443||my-service.default.svc.cluster.local";

/// Each of them that gives a gateway something else than the others, which is one as long as they say the same.
fn distinct() -> Vec<&'static str> {
    let mut files = EXTENSIONS.to_vec();
    files.dedup_by_key(|file| {
        let mut spec = documents(file)[0]["spec"].take();
        let ports = spec["match"].take();
        let mut plugin = match spec.get_mut("wasm") {
            Some(plugin) => plugin.take(),
            None => spec,
        };
        let fields = ["pluginConfig", "failStrategy"];
        (ports, fields.map(|field| plugin[field].take()))
    });
    files
}

/// A gateway with the filter of one of the files.
struct Gateway {
    home: Home,
    envoy: Envoy,
    /// Answers every call: this Envoy's own admin.
    service: u16,
}

impl Gateway {
    async fn start(extension: &str) -> Self {
        Self::with(&documents(extension)[0]["spec"]).await
    }

    /// With this object's `spec`.
    async fn with(spec: &Value) -> Self {
        let shared = documents(SHARED);
        let mut dump = Dump::read("istio-1.31-dev.yaml");
        for gateway in of_kind(&shared, "Gateway") {
            for server in list(&gateway["spec"]["servers"]) {
                let listener = server_without_routes(&dump, &server["port"]);
                dump.listeners.push(listener);
            }
        }
        put_filter(&mut dump, &list(&spec["match"])[0]["ports"]);
        // Of a TrafficExtension the plugin is in `wasm`, of a WasmPlugin at the top.
        let plugin = spec.get("wasm").unwrap_or(spec);
        let config = &mut dump.filters[0]["typed_config"]["config"];
        config["configuration"]["value"] = json!(plugin["pluginConfig"].to_string());
        config["failure_policy"] = plugin["failStrategy"].clone();
        dump.filters.iter_mut().for_each(with_our_files);

        let home = dump.at_home();
        let service = home.port(15000);
        home.set_endpoints(CLUSTER, &[(service, false)]);
        // As pilot-agent does with ISTIO_BOOTSTRAP_OVERRIDE.
        let more = &of_kind(&shared, "ConfigMap")[0]["data"]["custom_bootstrap.json"];
        let arguments = ["--config-yaml", more.as_str().unwrap()];
        let envoy = Envoy::start(&home.config.to_string(), &arguments).await;
        Self {
            home,
            envoy,
            service,
        }
    }

    /// The port of the probe.
    fn probe(&self) -> Prober {
        Prober::http(self.home.port(8081))
    }

    /// The port of the calls.
    fn calls(&self) -> Prober {
        Prober::https2(self.home.port(8443))
    }

    fn set_ready(&self, ready: bool) {
        self.home.set_endpoints(CLUSTER, &[(self.service, ready)]);
    }
}

/// What istiod makes of a Gateway's server without a VirtualService: the dump's HTTP listener on another port, where
/// every request is 404.
fn server_without_routes(dump: &Dump, port: &Value) -> Value {
    assert_eq!(port["protocol"], "HTTP");
    let mut listener = dump.listeners[0].clone();
    assert_eq!(listener["name"], "0.0.0.0_8080");
    listener["name"] = json!(format!("0.0.0.0_{}", port["number"]));
    listener["address"]["socket_address"]["port_value"] = port["number"].clone();
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("rds");
    manager["route_config"] =
        json!({"virtual_hosts": [{"name": "blackhole", "domains": ["*"], "routes": []}]});
    listener
}

/// The filter is on the listeners with these ports, first. In the dump that is 8443, for `[{number: 8443}]`; with
/// `[{number: 443}]`, the Service's port, istiod put it nowhere.
fn put_filter(dump: &mut Dump, ports: &Value) {
    let filters = "/filter_chains/0/filters/0/typed_config/http_filters";
    let with_filter = dump.listeners[1].pointer_mut(filters).unwrap();
    let filter = with_filter.as_array_mut().unwrap().remove(0);
    assert!(filter.get("config_discovery").is_some());
    for listener in &mut dump.listeners {
        let port = listener["address"]["socket_address"]["port_value"].clone();
        if list(ports).iter().any(|named| named["number"] == port) {
            let filters = listener.pointer_mut(filters).unwrap();
            filters.as_array_mut().unwrap().insert(0, filter.clone());
        }
    }
}

/// 503, 200, 503 by what istiod says of the pod; a process that died while its pod is ready is not seen.
#[tokio::test]
async fn healthz_follows_readiness() {
    for extension in distinct() {
        let gateway = Gateway::start(extension).await;
        let probe = gateway.probe();
        assert_eq!(probe.wait_for(503).await.body, "unavailable");
        gateway.set_ready(true);
        assert_eq!(probe.wait_for(200).await.body, "ok");
        assert_eq!(probe.get("/other").await.status, 404);
        assert_eq!(gateway.calls().get("/server_info").await.status, 200);
        gateway.set_ready(false);
        probe.wait_for(503).await;
        gateway.home.set_endpoints(CLUSTER, &[(free_port(), true)]);
        probe.wait_for(200).await;
        // Nobody listens there.
        assert_eq!(gateway.calls().get("/server_info").await.status, 503);
        gateway.home.set_endpoints(CLUSTER, &[]);
        probe.wait_for(503).await;
    }
}

/// Not on the probe's port but on that of the calls, as the files' comments offer.
#[tokio::test]
async fn on_the_port_of_the_calls() {
    let both = "[{number: 443}, {number: 8443}]";
    for extension in EXTENSIONS {
        assert!(read(extension).contains(both), "{extension}");
    }
    for extension in distinct() {
        let mut spec = documents(extension)[0]["spec"].clone();
        spec["match"][0]["ports"] = super::yaml(both);
        let gateway = Gateway::with(&spec).await;
        gateway.set_ready(true);
        gateway.calls().wait_for(200).await;
        assert_eq!(gateway.calls().get("/server_info").await.status, 200);
        assert_eq!(gateway.probe().get("/healthz").await.status, 404);
    }
}

/// By the preStop hook: pilot-agent itself drains without a word to `/healthz`.
#[tokio::test]
async fn a_drain_is_503_and_calls_are_served() {
    let gateway = Gateway::start(EXTENSIONS[0]).await;
    gateway.set_ready(true);
    gateway.probe().wait_for(200).await;

    let shared = documents(SHARED);
    let pod = &of_kind(&shared, "Deployment")[0]["spec"]["template"];
    let hook = &pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
    let command: Vec<_> = list(hook).iter().filter_map(Value::as_str).collect();
    let ["pilot-agent", "request", "POST", path] = command[..] else {
        panic!("{command:?}")
    };
    assert_eq!(gateway.envoy.post(&format!("/{path}")).await.status, 200);
    gateway.probe().wait_for(503).await;
    assert_eq!(gateway.calls().get("/server_info").await.status, 200);

    // The agent goes on, and the pod lives, for longer than a load balancer needs.
    let agent = &pod["metadata"]["annotations"]["proxy.istio.io/config"];
    let agent = super::yaml(agent.as_str().unwrap());
    let drain = agent["terminationDrainDuration"].as_str().unwrap();
    let drain: u64 = drain.trim_end_matches('s').parse().unwrap();
    assert!(drain >= 15);
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    assert!(grace.unwrap() > drain);
}

/// What pilot-agent does by itself at SIGTERM.
#[tokio::test]
async fn pilot_agents_own_drain_is_not_seen() {
    let gateway = Gateway::start(EXTENSIONS[0]).await;
    gateway.set_ready(true);
    let port = gateway.home.port(8081);
    wait_on_all_workers(port, 200).await;
    gateway.envoy.post("/drain_listeners?graceful").await;
    assert_eq!(gateway.envoy.admin.get("/ready").await.status, 200);
    // What was known before it is too old by then.
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert_eq!(probe_at_once(port, 20).await, [200; 20]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// pilot-agent then hands Envoy a filter that refuses all requests.
#[tokio::test]
async fn an_image_that_cannot_be_fetched_stops_no_call() {
    for extension in distinct() {
        let gateway = Gateway::start(extension).await;
        gateway.set_ready(true);
        gateway.probe().wait_for(200).await;
        let name = Dump::read("istio-1.31-dev.yaml").filters[0]["name"].clone();
        let refuses = json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            "name": name,
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {}},
        });
        let resources = json!({"version_info": "2", "resources": [refuses]});
        replace_file(&gateway.home.folder.path().join("ecds.json"), &resources);
        gateway.probe().wait_for(403).await;
        assert_eq!(gateway.calls().get("/server_info").await.status, 200);
    }
}

/// Before 1.31 hosts that are not ready are not sent.
#[tokio::test]
async fn a_percentage_of_ready_hosts_says_nothing() {
    for (min_healthy, status) in [(json!("50%"), 200), (json!(2), 503)] {
        let mut spec = documents(EXTENSIONS[0])[0]["spec"].clone();
        let rule = json!({"name": CLUSTER, "min_healthy": min_healthy});
        spec["wasm"]["pluginConfig"]["endpoints"][0]["clusters"] = json!([rule]);
        let gateway = Gateway::with(&spec).await;
        let ports = [gateway.service, free_port(), free_port()];
        let all = ports.map(|port| (port, true));
        gateway.home.set_endpoints(CLUSTER, &all);
        gateway.probe().wait_for(200).await;
        // One of three is ready.
        gateway.set_ready(true);
        until("two hosts are gone", async || {
            let hosts = gateway.envoy.admin.get("/clusters").await.body;
            let hosts = hosts.lines().filter(|line| line.starts_with(CLUSTER));
            hosts
                .filter(|line| line.contains("::health_flags::"))
                .count()
                == 1
        })
        .await;
        gateway.probe().wait_for(status).await;
    }
}

/// Those of `envoy/envoy.yaml`, and Istio keeps our metrics.
#[tokio::test]
async fn metrics_have_labels() {
    let shared = documents(SHARED);
    let text = &of_kind(&shared, "ConfigMap")[0]["data"]["custom_bootstrap.json"];
    let more: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(more["stats_config"]["stats_tags"], shipped_tags());
    let gateway = Gateway::start(EXTENSIONS[0]).await;
    gateway.probe().wait_for(503).await;
    until("the gauge is 0", async || {
        let page = gateway.envoy.admin.get("/stats/prometheus").await.body;
        page.contains(&gauge(0))
    })
    .await;
}

#[tokio::test]
async fn the_doctor_says_nothing() {
    for extension in distinct() {
        let gateway = Gateway::start(extension).await;
        let dump = gateway.envoy.admin.get("/config_dump?include_eds").await;
        assert_eq!(doctor(&dump.body), [""; 0]);
    }
}

/// Both at once would put the filter in twice: each is a file of its own, and they say the same.
#[test]
fn each_extension_is_a_file() {
    let [traffic, plugin] = EXTENSIONS.map(|file| {
        let [document] = documents(file).try_into().unwrap();
        document
    });
    assert_eq!(traffic["kind"], "TrafficExtension");
    assert_eq!(plugin["kind"], "WasmPlugin");
    assert_eq!(traffic["metadata"], plugin["metadata"]);
    let mut flat = traffic["spec"].clone();
    let Value::Object(wasm) = flat["wasm"].take() else {
        panic!("no object")
    };
    let flat = flat.as_object_mut().unwrap();
    flat.remove("wasm");
    flat.extend(wasm);
    assert_eq!(*flat, *plugin["spec"].as_object().unwrap());
}
