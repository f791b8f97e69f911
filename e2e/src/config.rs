//! Envoy configurations for tests, piece by piece.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{certificate, replace_file, wasm};

/// An Envoy with these listeners and clusters, its admin on this port, and the cluster
/// `local_admin` that reaches it.
pub fn bootstrap(admin_port: u16, listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    bootstrap_with_fake(admin_port, admin_port, listeners, clusters)
}

/// The same, but that `local_admin` leads to this port, where a fake one listens.
pub fn bootstrap_with_fake(
    admin_port: u16,
    fake_port: u16,
    listeners: Vec<Value>,
    mut clusters: Vec<Value>,
) -> Value {
    clusters.push(cluster("local_admin", &[("127.0.0.1", fake_port)]));
    json!({
        "admin": {"address": address("127.0.0.1", admin_port)},
        "node": {"id": "e2e", "cluster": "e2e"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// A listener without TLS on 127.0.0.1: this filter, and behind it an answer 418 `passed`.
pub fn listener(port: u16, filter: Value) -> Value {
    listener_with_filters(port, vec![filter])
}

/// The same with several filters, or none.
pub fn listener_with_filters(port: u16, filters: Vec<Value>) -> Value {
    let passed = json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 418, "body": {"inline_string": "passed"}},
    });
    listener_with_routes(port, filters, vec![passed])
}

/// The same with other routes.
pub fn listener_with_routes(port: u16, mut filters: Vec<Value>, routes: Vec<Value>) -> Value {
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    json!({
        "name": format!("listener_{port}"),
        "address": address("127.0.0.1", port),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "e2e",
                "http_filters": filters,
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            },
        }]}],
    })
}

/// The connection manager of a listener: its last network filter.
pub fn manager(listener: &mut Value) -> &mut Value {
    let filters = &mut listener["filter_chains"][0]["filters"];
    let last = filters
        .as_array_mut()
        .and_then(|filters| filters.last_mut());
    &mut last.expect("a connection manager")["typed_config"]
}

/// Listeners that Envoy takes from a file (LDS), and anew whenever it is replaced.
pub struct Lds(TempDir);

impl Lds {
    /// Has an Envoy take its listeners from a file, of which this is the first version, 0.
    pub fn add_to(config: &mut Value, listeners: Vec<Value>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        config["dynamic_resources"] = json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": dir.path().join("lds.json")},
        }});
        let lds = Self(dir);
        lds.replace(0, listeners);
        lds
    }

    /// Replaces the listeners.
    pub fn replace(&self, version: u64, mut listeners: Vec<Value>) {
        for listener in &mut listeners {
            listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        }
        let content = json!({"version_info": version.to_string(), "resources": listeners});
        replace_file(&self.0.path().join("lds.json"), &content);
    }
}

/// Clusters that Envoy takes from a file (CDS), and anew whenever one of them is replaced.
pub struct Cds {
    dir: TempDir,
    version: u64,
    clusters: Vec<Value>,
}

impl Cds {
    /// Has an Envoy take these clusters from a file.
    pub fn add_to(config: &mut Value, clusters: Vec<Value>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        config["dynamic_resources"]["cds_config"] = json!({
            "resource_api_version": "V3",
            "path_config_source": {"path": dir.path().join("cds.json")},
        });
        let cds = Self {
            dir,
            version: 0,
            clusters,
        };
        cds.write();
        cds
    }

    /// Replaces the cluster of this name, or takes it away; says whether that changes anything.
    pub fn set(&mut self, name: &str, cluster: Option<Value>) -> bool {
        let before = self.clusters.clone();
        self.clusters.retain(|known| known["name"] != name);
        self.clusters.extend(cluster);
        let changed = self.clusters.iter().any(|known| !before.contains(known))
            || self.clusters.len() < before.len();
        if changed {
            self.version += 1;
            self.write();
        }
        changed
    }

    fn write(&self) {
        let mut clusters = self.clusters.clone();
        for cluster in &mut clusters {
            cluster["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
        }
        let content = json!({"version_info": self.version.to_string(), "resources": clusters});
        replace_file(&self.dir.path().join("cds.json"), &content);
    }
}

/// Our filter, on for every route.
pub fn healthz(config: &Value) -> Value {
    healthz_text(&config.to_string())
}

/// The same with the configuration's text.
pub fn healthz_text(config: &str) -> Value {
    json!({
        "name": "envoy-healthz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": wasm()}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": config,
                },
            },
        },
    })
}

/// The smallest configuration, `/healthz` for the cluster `c`, with these fields added or replaced.
pub fn healthz_with(fields: &Value) -> Value {
    let mut config = json!({
        "admin_cluster": "local_admin",
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
    });
    let fields = fields.as_object().expect("fields").clone();
    config.as_object_mut().expect("an object").extend(fields);
    healthz(&config)
}

/// The smallest configuration: `/healthz` for this cluster.
pub fn healthz_for(cluster: &str) -> Value {
    healthz(&json!({
        "admin_cluster": "local_admin",
        "endpoints": [{"path": "/healthz", "clusters": [cluster]}],
    }))
}

/// A Lua script that does what the article's does, for this cluster: it asks the admin for
/// `/clusters` with a timeout of 50 ms and searches the text for a healthy host.
pub fn lua_for(cluster: &str) -> Value {
    lua(cluster, "local_admin")
}

/// The same with this way to the admin.
pub fn lua(cluster: &str, admin_cluster: &str) -> Value {
    let script = format!(
        r#"
function envoy_on_request(handle)
  if handle:headers():get(":path") ~= "/healthz" then
    return
  end
  local _, text = handle:httpCall("{admin_cluster}",
    {{[":method"] = "GET", [":path"] = "/clusters", [":authority"] = "local_admin"}}, "", 50)
  if string.find(text, "{cluster}::%d+.%d+.%d+.%d+:%d+::health_flags::healthy") then
    handle:respond({{[":status"] = "200"}}, "ok")
  else
    handle:respond({{[":status"] = "503"}}, "unavailable")
  end
end
"#
    );
    json!({
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": script},
        },
    })
}

/// Envoy's own health_check filter on this path: so many percent of this cluster's hosts.
pub fn health_check(path: &str, cluster: &str, percent: f64) -> Value {
    json!({
        "name": "envoy.filters.http.health_check",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck",
            "pass_through_mode": false,
            "cluster_min_healthy_percentages": {cluster: {"value": percent}},
            "headers": [{"name": ":path", "string_match": {"exact": path}}],
        },
    })
}

/// A static cluster of these hosts, without health checks.
pub fn cluster(name: &str, hosts: &[(&str, u16)]) -> Value {
    cluster_of(
        name,
        hosts
            .iter()
            .map(|(host, port)| address(host, *port))
            .collect(),
    )
}

/// A static cluster of these addresses.
pub fn cluster_of(name: &str, addresses: Vec<Value>) -> Value {
    let endpoints = addresses
        .into_iter()
        .map(|address| json!({"endpoint": {"address": address}}))
        .collect();
    cluster_of_endpoints(name, endpoints)
}

/// A static cluster of these `lb_endpoints`.
pub fn cluster_of_endpoints(name: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    })
}

/// Adds quick TCP health checks to a cluster.
pub fn with_tcp_check(mut cluster: Value) -> Value {
    cluster["health_checks"] = json!([quick(json!({"tcp_health_check": {}}))]);
    cluster
}

/// Has a cluster speak HTTP/2, and adds quick gRPC health checks to it.
pub fn with_grpc_check(mut cluster: Value) -> Value {
    cluster["health_checks"] = json!([quick(json!({"grpc_health_check": {}}))]);
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    cluster
}

/// Has a listener speak TLS with our self-signed certificate, HTTP/2 and HTTP/1.1.
pub fn with_tls(mut listener: Value) -> Value {
    let certificate = certificate();
    let file = |name: &str| json!({"filename": certificate.join(name)});
    listener["filter_chains"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [
                    {"certificate_chain": file("tls.crt"), "private_key": file("tls.key")},
                ],
            },
        },
    });
    listener
}

/// Adds the timing that tests use to a health check: every 100 ms, one result is enough.
pub fn quick(mut check: Value) -> Value {
    for (field, value) in [
        ("timeout", json!("0.3s")),
        ("interval", json!("0.1s")),
        ("no_traffic_interval", json!("0.1s")),
        ("unhealthy_threshold", json!(1)),
        ("healthy_threshold", json!(1)),
    ] {
        check[field] = value;
    }
    check
}

/// An endpoint's address.
pub fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// The address of a unix socket, or of an abstract one with `@` before its name.
pub fn pipe(path: &str) -> Value {
    json!({"pipe": {"path": path}})
}
