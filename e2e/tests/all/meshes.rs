//! The files of `envoy/mesh`, as Envoy Gateway and Istio hand them to their Envoys: what `e2e/testdata` has of
//! each control plane's own, with what comes from our files in it, becomes the configuration of an Envoy here.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use e2e::config::host;
use e2e::{Build, certificate, free_port, read, replace_file, root, wasm};
use healthz_doctor::{Options, check, tree};
use serde_json::{Value, json};
use tempfile::TempDir;

mod envoy_gateway;
mod istio;

/// A file's documents.
fn documents(file: &str) -> Vec<Value> {
    read(file).split("\n---\n").map(yaml).collect()
}

fn yaml(text: &str) -> Value {
    merged(tree::parse(text.as_bytes()).unwrap().to_json())
}

/// With YAML's merge keys (`<<`), which Kubernetes takes and Envoy does not.
fn merged(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(merged).collect(),
        Value::Object(mut fields) => {
            let Value::Object(mut all) = fields.remove("<<").unwrap_or_else(|| json!({})) else {
                panic!("merged with no object")
            };
            all.append(&mut fields);
            let all = all.into_iter().map(|(key, value)| (key, merged(value)));
            Value::Object(all.collect())
        }
        value => value,
    }
}

/// The documents of this kind.
fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Vec<&'d Value> {
    let all = documents.iter();
    all.filter(|document| document["kind"] == kind).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Calls this with each object in a value, from the outside in.
fn each_object(value: &mut Value, change: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_object(item, change)),
        Value::Object(_) => {
            change(value);
            let fields = value.as_object_mut().unwrap();
            for item in fields.values_mut() {
                each_object(item, change);
            }
        }
        _ => {}
    }
}

/// What a control plane makes for an Envoy.
struct Dump {
    bootstrap: Value,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    routes: Vec<Value>,
    /// Filters from ECDS.
    filters: Vec<Value>,
}

impl Dump {
    fn read(file: &str) -> Self {
        let documents = documents(&format!("e2e/testdata/{file}"));
        let [dump] = documents.try_into().unwrap();
        let all = |field: &str, way: &str| {
            let parts = list(&dump["configs"]).iter();
            let entries = parts.flat_map(|part| list(&part[field]));
            let entries = entries.map(|entry| entry.pointer(way).unwrap().clone());
            entries.collect()
        };
        let mut parts = list(&dump["configs"]).iter();
        let bootstrap = parts.find_map(|part| part.get("bootstrap"));
        Self {
            bootstrap: bootstrap.unwrap().clone(),
            listeners: all("dynamic_listeners", "/active_state/listener"),
            clusters: all("dynamic_active_clusters", "/cluster"),
            routes: all("dynamic_route_configs", "/route_config"),
            filters: all("ecds_filters", "/ecds_filter"),
        }
    }

    /// An Envoy's configuration: on free ports of this machine, with its files; endpoints and filters from ECDS
    /// come from files in a folder.
    fn at_home(mut self) -> Home {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: String| folder.path().join(name);
        let source = |name| json!({"resource_api_version": "V3", "path_config_source": {"path": path(name)}});
        for filter in &self.filters {
            let resources = json!({"version_info": "1", "resources": [filter]});
            replace_file(&path("ecds.json".to_owned()), &resources);
        }
        let mut config = self.bootstrap.take();
        for (field, more) in [
            ("listeners", &mut self.listeners),
            ("clusters", &mut self.clusters),
        ] {
            let mut all = list(&config["static_resources"][field]).to_vec();
            all.append(more);
            config["static_resources"][field] = all.into();
        }
        let routes = |name: &Value| self.routes.iter().find(|routes| routes["name"] == *name);
        let mut ports = BTreeMap::new();
        each_object(&mut config, &mut |object| {
            if let Some(socket) = object.get_mut("socket_address") {
                let port = socket["port_value"].as_u64().unwrap();
                let port = ports.entry(port).or_insert_with(free_port);
                *socket = json!({"address": "127.0.0.1", "port_value": *port});
            }
            if let Some(rds) = object.get("rds") {
                let name = rds["route_config_name"].clone();
                object.as_object_mut().unwrap().remove("rds");
                object["route_config"] = routes(&name).unwrap().clone();
            }
            if object.get("eds_config").is_some() {
                let name = object["service_name"].as_str().unwrap();
                object["eds_config"] = source(eds_file(name));
            }
            if let Some(discovery) = object.get_mut("config_discovery") {
                discovery["config_source"] = source("ecds.json".to_owned());
            }
            put_certificate(object);
            // A resource of its own says its type; a part of the bootstrap may not.
            let kind = object["@type"].as_str().unwrap_or_default();
            let of_its_own = [
                "cluster.v3.Cluster",
                "listener.v3.Listener",
                "route.v3.RouteConfiguration",
            ];
            if of_its_own.iter().any(|end| kind.ends_with(end)) {
                object.as_object_mut().unwrap().remove("@type");
            }
        });
        with_our_files(&mut config);
        Home {
            config,
            ports: ports.into_iter().collect(),
            folder,
        }
    }
}

/// Our certificate instead of one from SDS, if this object has that.
fn put_certificate(object: &mut Value) {
    let sds = "tls_certificate_sds_secret_configs";
    if let Some(fields) = object.as_object_mut()
        && fields.remove(sds).is_some()
    {
        let tls = certificate();
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| json!({"filename": tls.join(name)}));
        let pair = json!({"certificate_chain": chain, "private_key": key});
        fields.insert("tls_certificates".to_owned(), json!([pair]));
    }
}

/// Our wasm and module of this machine, which may be slow: the filter waits for its admin.
fn with_our_files(config: &mut Value) {
    each_object(config, &mut |object| {
        if object.get("vm_id").is_some() || object.get("runtime").is_some() {
            object["code"] = json!({"local": {"filename": wasm()}});
        }
        if let Some(Value::String(text)) = object.pointer_mut("/configuration/value") {
            let admin = "\"admin_cluster\":";
            *text = text.replacen(admin, &format!("\"admin_timeout_ms\": 30000, {admin}"), 1);
        }
        if object["filename"] == "/etc/envoy/modules/libenvoy_healthz.so" {
            object["filename"] = json!(e2e::module::folder().join("libenvoy_healthz.so"));
        }
    });
}

fn eds_file(cluster: &str) -> String {
    format!("{}.json", cluster.replace(['/', '|'], "_"))
}

/// A configuration for this machine.
struct Home {
    config: Value,
    /// By the port that the control plane has.
    ports: HashMap<u64, u16>,
    folder: TempDir,
}

impl Home {
    fn port(&self, theirs: u64) -> u16 {
        self.ports[&theirs]
    }

    /// What the control plane says of a cluster's endpoints: ports of this machine, and whether they are ready.
    fn set_endpoints(&self, cluster: &str, endpoints: &[(u16, bool)]) {
        let hosts = endpoints.iter().map(|(port, ready)| match ready {
            true => host(*port, "HEALTHY"),
            false => host(*port, "UNHEALTHY"),
        });
        let hosts: Vec<_> = hosts.collect();
        let assignment = json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": cluster,
            "endpoints": [{"lb_endpoints": hosts}],
        });
        let resources = json!({"resources": [assignment]});
        replace_file(&self.folder.path().join(eds_file(cluster)), &resources);
    }
}

/// What `healthz-doctor` says of a saved `/config_dump`; that everything is on loopback here is ours.
fn doctor(dump: &str) -> Vec<String> {
    let report = check("dump.json", dump.as_bytes(), &Options::default()).unwrap();
    assert!(!report.endpoints.is_empty());
    let found = report.findings.into_iter();
    let found = found.filter(|found| found.id != "HZ216");
    let found = found.map(|found| format!("{} {}", found.id, found.what));
    found.collect()
}

/// What is ours to guess is marked in the files, on its line or in the comment before it.
#[test]
fn what_is_to_be_changed_is_marked() {
    let ours = [
        "REGISTRY",
        "00000000",
        "istio-system",
        "ingressgateway",
        "default",
        "example.com",
        "port: 9000",
        "gatewayClassName",
    ];
    for entry in fs::read_dir(root().join("envoy/mesh")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let mut comment = String::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if line.trim_start().starts_with('#') {
                comment.push_str(line);
                continue;
            }
            if ours.iter().any(|guess| line.contains(guess)) {
                let marked = line.contains("CHANGE ME") || comment.contains("CHANGE ME");
                assert!(marked, "{}: {line}", path.display());
            }
            comment.clear();
        }
    }
}

/// The labels of metrics are those of `envoy/envoy.yaml`.
fn shipped_tags() -> Value {
    let [config] = documents("envoy/envoy.yaml").try_into().unwrap();
    config["stats_config"]["stats_tags"].clone()
}

/// How a gauge shows in Prometheus.
fn gauge(healthy: u8) -> String {
    format!("envoy_healthz_healthy{{filter=\"default\",path=\"/healthz\"}} {healthy}\n")
}

/// The file of `envoy/mesh` for Envoy Gateway, and what that makes of it.
fn gateway_files(build: Build) -> [&'static str; 2] {
    match build {
        Build::Wasm => [
            "envoy/mesh/envoy-gateway.yaml",
            "envoy-gateway-1.8-wasm.yaml",
        ],
        Build::Module => [
            "envoy/mesh/envoy-gateway-module.yaml",
            "envoy-gateway-1.8-module.yaml",
        ],
    }
}
