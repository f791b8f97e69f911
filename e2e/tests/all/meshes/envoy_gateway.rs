//! Envoy Gateway: what it makes of our files (see the head of `e2e/testdata/envoy-gateway-1.8-wasm.yaml`), with their
//! patches and the filter's configuration.

use std::collections::BTreeSet;

use e2e::backend::Backend;
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{Build, free_port, until};
use regex::Regex;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Dump, Home, doctor, documents, each_object, gateway_files, gauge, list, of_kind, shipped_tags,
};

both_builds! {
    healthz_follows_readiness_and_checks,
    a_host_of_the_routes_gets_the_same_answer,
    a_drain_is_503,
    metrics_have_names_and_labels,
    the_doctor_says_nothing,
}

/// A gateway with the file of a build.
struct Gateway {
    home: Home,
    envoy: Envoy,
    clusters: Vec<String>,
}

impl Gateway {
    async fn start(build: Build) -> Self {
        let [file, dump] = gateway_files(build);
        let (documents, mut dump) = (documents(file), Dump::read(dump));
        assert_eq!(routes_of_file(&documents), routes_of_dump(&dump), "{file}");
        for proxy in of_kind(&documents, "EnvoyProxy") {
            for patch in list(&proxy["spec"]["bootstrap"]["jsonPatches"]) {
                add(&mut dump.bootstrap, patch);
            }
        }
        for policy in of_kind(&documents, "EnvoyExtensionPolicy") {
            put_config(&mut dump, policy);
        }
        for policy in of_kind(&documents, "EnvoyPatchPolicy") {
            for patch in list(&policy["spec"]["jsonPatches"]) {
                apply(&mut dump, patch);
            }
        }
        let names = dump.clusters.iter().map(|cluster| cluster["name"].as_str());
        let clusters: Vec<_> = names.map(|name| name.unwrap().to_owned()).collect();
        let home = dump.at_home();
        for cluster in &clusters {
            home.set_endpoints(cluster, &[(free_port(), false)]);
        }
        let envoy = Envoy::start(&home.config.to_string(), &[]).await;
        Self {
            home,
            envoy,
            clusters,
        }
    }

    /// The endpoint of the service: its port, and whether its pod is ready.
    fn set_endpoint(&self, port: u16, ready: bool) {
        for cluster in &self.clusters {
            self.home.set_endpoints(cluster, &[(port, ready)]);
        }
    }

    fn probe(&self) -> Prober {
        Prober::http(self.home.port(10080))
    }
}

/// Names of the routes' rules, as `httproute/default/healthz/rule/0`.
fn routes_of_file(documents: &[Value]) -> BTreeSet<String> {
    let all = ["HTTPRoute", "GRPCRoute"].into_iter();
    let all = all.flat_map(|kind| of_kind(documents, kind));
    all.map(|route| {
        let [kind, name] =
            [&route["kind"], &route["metadata"]["name"]].map(|text| text.as_str().unwrap());
        format!("{}/default/{name}/rule/0", kind.to_lowercase())
    })
    .collect()
}

fn routes_of_dump(dump: &Dump) -> BTreeSet<String> {
    let hosts = dump.routes.iter();
    let hosts = hosts.flat_map(|routes| list(&routes["virtual_hosts"]));
    let routes = hosts.flat_map(|host| list(&host["routes"]));
    let names = routes.map(|route| {
        let (name, _) = route["name"]
            .as_str()
            .unwrap()
            .split_once("/match/")
            .unwrap();
        name.to_owned()
    });
    names.collect()
}

/// The filters of a policy have its `config` as JSON in a StringValue.
fn put_config(dump: &mut Dump, policy: &Value) {
    let spec = &policy["spec"];
    let filters = [&spec["wasm"], &spec["dynamicModule"]].map(list).concat();
    let [filter] = filters.try_into().unwrap();
    for listener in &mut dump.listeners {
        each_object(listener, &mut |object| {
            if object["value"] == policy["metadata"]["name"] {
                object["value"] = json!(filter["config"].to_string());
            }
        });
    }
}

/// A patch of an EnvoyPatchPolicy.
fn apply(dump: &mut Dump, patch: &Value) {
    let all = match patch["type"].as_str().unwrap().rsplit('.').next() {
        Some("Cluster") => &mut dump.clusters,
        Some("Listener") => &mut dump.listeners,
        kind => panic!("{kind:?}"),
    };
    let mut all = all.iter_mut();
    let resource = all.find(|resource| resource["name"] == patch["name"]);
    let resource = resource.unwrap_or_else(|| panic!("no {}", patch["name"]));
    let operation = &patch["operation"];
    let Some(way) = operation["jsonPath"].as_str() else {
        return add(resource, operation);
    };
    // `..LIST[?(@.A.B=='TEXT')].C.D`
    let form = Regex::new(r"^\.\.(\w+)\[\?\(@((?:\.\w+)+)=='([^']+)'\)\]((?:\.\w+)+)$").unwrap();
    let [field, key, text, rest] = form.captures(way).unwrap().extract().1;
    let pointer = |way: &str| way.replace('.', "/");
    let mut patched = 0;
    each_object(resource, &mut |object| {
        let items = object.get_mut(field).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            if item
                .pointer(&pointer(key))
                .is_some_and(|value| value == text)
            {
                add(item.pointer_mut(&pointer(rest)).unwrap(), operation);
                patched += 1;
            }
        }
    });
    assert!(patched > 0, "{way} matches nothing");
}

/// A JSON patch that adds.
fn add(value: &mut Value, patch: &Value) {
    assert_eq!(*patch.get("op").unwrap(), "add");
    let path = patch["path"].as_str().unwrap();
    let path = format!("/{}", path.trim_start_matches('/'));
    let (parent, last) = path.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent);
    match parent.unwrap_or_else(|| panic!("no {path}")) {
        Value::Array(items) if last == "-" => items.push(patch["value"].clone()),
        Value::Array(items) => items.insert(last.parse().unwrap(), patch["value"].clone()),
        object => object[last] = patch["value"].clone(),
    }
}

/// Without a check, wasm follows readiness only; the module's example has Envoy's gRPC checks, of a server in Rust.
async fn healthz_follows_readiness_and_checks(build: Build) {
    let gateway = Gateway::start(build).await;
    let mut probes = vec![gateway.probe()];
    if build == Build::Module {
        probes.push(Prober::https2(gateway.home.port(10443)));
    }
    for probe in &probes {
        probe.wait_for(503).await;
    }
    let backend = Backend::start(free_port()).await;
    let port = backend.port;
    gateway.set_endpoint(port, true);
    for probe in &probes {
        assert_eq!(probe.wait_for(200).await.body, "ok");
    }
    match build {
        Build::Wasm => {
            gateway.set_endpoint(port, false);
            probes[0].wait_for(503).await;
            gateway.set_endpoint(port, true);
            probes[0].wait_for(200).await;
            backend.kill();
            // Only its pod's readiness probe finds that.
            assert_eq!(probes[0].get("/healthz").await.status, 200);
            gateway.home.set_endpoints(&gateway.clusters[0], &[]);
        }
        Build::Module => {
            backend.kill();
            probes[0].wait_for(503).await;
            let _backend = Backend::start(port).await;
            for probe in &probes {
                probe.wait_for(200).await;
            }
            gateway.set_endpoint(port, false);
        }
    }
    for probe in &probes {
        probe.wait_for(503).await;
    }
}

/// It would go to the backend by the GRPCRoute, whose 404 is HTTP 200.
async fn a_host_of_the_routes_gets_the_same_answer(build: Build) {
    let gateway = Gateway::start(build).await;
    let backend = Backend::start(free_port()).await;
    gateway.set_endpoint(backend.port, true);
    for (status, body) in [(200, "ok"), (503, "unavailable")] {
        gateway.set_endpoint(backend.port, status == 200);
        until("the probe with a host has this answer", async || {
            let host = [("host", "grpc.example.com")];
            let answer = gateway.probe().send(Method::GET, "/healthz", &host).await;
            answer.status == status && answer.body == body
        })
        .await;
    }
}

async fn a_drain_is_503(build: Build) {
    let gateway = Gateway::start(build).await;
    let backend = Backend::start(free_port()).await;
    gateway.set_endpoint(backend.port, true);
    gateway.probe().wait_for(200).await;
    gateway.envoy.post("/healthcheck/fail").await;
    gateway.probe().wait_for(503).await;
    gateway.envoy.post("/healthcheck/ok").await;
    gateway.probe().wait_for(200).await;
}

async fn metrics_have_names_and_labels(build: Build) {
    if build == Build::Wasm {
        let documents = documents(gateway_files(build)[0]);
        let proxy = of_kind(&documents, "EnvoyProxy")[0];
        let tags = list(&proxy["spec"]["bootstrap"]["jsonPatches"]).iter();
        let tags = tags.filter(|patch| patch["path"] == "/stats_config/stats_tags/-");
        let tags: Value = tags.map(|patch| patch["value"].clone()).collect();
        assert_eq!(tags, shipped_tags());
    }
    let gateway = Gateway::start(build).await;
    gateway.probe().wait_for(503).await;
    // Where Prometheus scrapes.
    let scraped = Prober::http(gateway.home.port(19001));
    until("the gauge is 0", async || {
        scraped
            .get("/stats/prometheus")
            .await
            .body
            .contains(&gauge(0))
    })
    .await;
}

async fn the_doctor_says_nothing(build: Build) {
    let gateway = Gateway::start(build).await;
    let dump = gateway.envoy.admin.get("/config_dump?include_eds").await;
    assert_eq!(doctor(&dump.body), [""; 0]);
}
