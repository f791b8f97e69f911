//! Envoy configurations for tests, piece by piece.

use std::ops::{Deref, DerefMut};

use serde_json::{Value, json};

use crate::envoy::{Envoy, validate};
use crate::xds::{Cds, Lds};
use crate::{certificate, free_port, wasm};

/// What an Envoy runs.
#[derive(Clone)]
pub struct Config(pub Value);

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// An admin on a free port, and the cluster `local_admin` that reaches it.
    pub fn new() -> Self {
        let admin = free_port();
        let config = json!({
            "admin": {"address": address("127.0.0.1", admin)},
            "node": {"id": "e2e", "cluster": "e2e"},
            "static_resources": {"listeners": [], "clusters": []},
        });
        Self(config).cluster(cluster("local_admin", &[admin]))
    }

    /// Where its admin listens.
    pub fn admin_port(&self) -> u16 {
        let port = &self["admin"]["address"]["socket_address"]["port_value"];
        port.as_u64()
            .and_then(|port| port.try_into().ok())
            .expect("a port")
    }

    /// Has `local_admin` reach what listens on this port instead.
    pub fn fake_admin(mut self, port: u16) -> Self {
        self["static_resources"]["clusters"][0] = cluster("local_admin", &[port]);
        self
    }

    /// Adds a cluster.
    pub fn cluster(self, cluster: Value) -> Self {
        self.clusters([cluster])
    }

    /// Adds clusters.
    pub fn clusters(self, clusters: impl IntoIterator<Item = Value>) -> Self {
        self.append("clusters", clusters)
    }

    /// Adds a listener.
    pub fn listener(self, listener: Value) -> Self {
        self.listeners([listener])
    }

    /// Adds listeners.
    pub fn listeners(self, listeners: impl IntoIterator<Item = Value>) -> Self {
        self.append("listeners", listeners)
    }

    fn append(mut self, field: &str, more: impl IntoIterator<Item = Value>) -> Self {
        let list = self["static_resources"][field].as_array_mut();
        list.expect("a list").extend(more);
        self
    }

    /// Has Envoy take listeners from this file.
    pub fn lds(mut self, lds: &Lds) -> Self {
        self["dynamic_resources"]["lds_config"] = lds.source();
        self
    }

    /// Has Envoy take clusters from this file.
    pub fn cds(mut self, cds: &Cds) -> Self {
        self["dynamic_resources"]["cds_config"] = cds.source();
        self
    }

    /// Starts an Envoy with it.
    pub async fn start(&self) -> Envoy {
        self.start_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(&self, arguments: &[&str]) -> Envoy {
        Envoy::start(&self.0.to_string(), arguments).await
    }

    /// What `envoy --mode validate` says of it: whether it is good, and the log.
    pub fn validate(&self) -> (bool, String) {
        validate(&self.0.to_string())
    }
}

impl Deref for Config {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Value {
        &mut self.0
    }
}

/// A listener in the clear on 127.0.0.1: these HTTP filters, and behind them an answer 418 `passed`.
pub fn listener(port: u16, filters: impl IntoIterator<Item = Value>) -> Value {
    let passed = json!({"status": 418, "body": {"inline_string": "passed"}});
    let passed = json!({"match": {"prefix": "/"}, "direct_response": passed});
    listener_with_routes(port, filters, vec![passed])
}

/// The same with other routes.
pub fn listener_with_routes(
    port: u16,
    filters: impl IntoIterator<Item = Value>,
    routes: Vec<Value>,
) -> Value {
    let mut filters: Vec<_> = filters.into_iter().collect();
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    ));
    let manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "e2e",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        }),
    );
    json!({
        "name": format!("listener_{port}"),
        "address": address("127.0.0.1", port),
        "filter_chains": [{"filters": [manager]}],
    })
}

/// An extension, like a filter: its name, its type and the fields of that.
pub fn typed(name: &str, kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": fields})
}

/// The connection manager of a listener: its last network filter.
pub fn manager(listener: &mut Value) -> &mut Value {
    let filters = &mut listener["filter_chains"][0]["filters"];
    let last = filters
        .as_array_mut()
        .and_then(|filters| filters.last_mut());
    &mut last.expect("a connection manager")["typed_config"]
}

/// The wasm build with the configuration's text, on for every route.
pub fn healthz_text(config: &str) -> Value {
    let text = "type.googleapis.com/google.protobuf.StringValue";
    let config = json!({
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": wasm()}},
        },
        "configuration": {"@type": text, "value": config},
    });
    typed(
        "envoy-healthz",
        "envoy.extensions.filters.http.wasm.v3.Wasm",
        json!({"config": config}),
    )
}

/// A Lua script that does what the article's does, for this cluster: it GETs `/clusters` of the admin with
/// a timeout of 50 ms and searches the text for a healthy host.
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
    typed(
        "envoy.filters.http.lua",
        "envoy.extensions.filters.http.lua.v3.Lua",
        json!({"default_source_code": {"inline_string": script}}),
    )
}

/// Envoy's own health_check filter on this path: so many percent of this cluster's hosts.
pub fn health_check(path: &str, cluster: &str, percent: f64) -> Value {
    typed(
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        json!({
            "pass_through_mode": false,
            "cluster_min_healthy_percentages": {cluster: {"value": percent}},
            "headers": [{"name": ":path", "string_match": {"exact": path}}],
        }),
    )
}

/// A static cluster of these ports of 127.0.0.1, without health checks.
pub fn cluster(name: &str, ports: &[u16]) -> Value {
    let addresses = ports.iter().map(|port| address("127.0.0.1", *port));
    cluster_of(name, addresses.collect())
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

/// Adds quick HTTP health checks, for `/check`, to a cluster.
pub fn with_http_check(mut cluster: Value) -> Value {
    let check = json!({"http_health_check": {"path": "/check"}});
    cluster["health_checks"] = json!([quick(check)]);
    cluster
}

/// Has a cluster speak HTTP/2, and adds quick gRPC health checks to it.
pub fn with_grpc_check(cluster: Value) -> Value {
    let mut cluster = with_http2(cluster);
    cluster["health_checks"] = json!([quick(json!({"grpc_health_check": {}}))]);
    cluster
}

/// Has a cluster speak HTTP/2.
pub fn with_http2(mut cluster: Value) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    cluster
}

/// Has a cluster speak HTTP/2 over TLS, the certificate not validated, as Google's load balancers do.
pub fn with_https2(cluster: Value) -> Value {
    let mut cluster = with_http2(cluster);
    cluster["transport_socket"] = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        json!({"common_tls_context": {"alpn_protocols": ["h2"]}}),
    );
    cluster
}

/// Has a listener speak TLS with our self-signed certificate, HTTP/2 and HTTP/1.1.
pub fn with_tls(mut listener: Value) -> Value {
    let certificate = certificate();
    let file = |name: &str| json!({"filename": certificate.join(name)});
    let context = json!({
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {"certificate_chain": file("tls.crt"), "private_key": file("tls.key")},
        ],
    });
    listener["filter_chains"][0]["transport_socket"] = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        json!({"common_tls_context": context}),
    );
    listener
}

/// Adds the timing that tests use to a health check: every 100 ms, one result is enough. The timeout is one that
/// a slow machine does not come to: what hangs needs another.
pub fn quick(mut check: Value) -> Value {
    for (field, value) in [
        ("timeout", json!("20s")),
        ("interval", json!("0.1s")),
        ("no_traffic_interval", json!("0.1s")),
        ("unhealthy_threshold", json!(1)),
        ("healthy_threshold", json!(1)),
    ] {
        check[field] = value;
    }
    check
}

/// A host on this port of 127.0.0.1, of this `health_status`: one of `lb_endpoints`.
pub fn host(port: u16, status: &str) -> Value {
    json!({"endpoint": {"address": address("127.0.0.1", port)}, "health_status": status})
}

/// What a name would add to the log if its line feed got there.
pub const FORGED: &str = "\n[warning] forged";

/// Checks that Envoy refuses a filter, by one line of ours that holds this one.
pub fn refused(filter: Value, line: &str) {
    let (good, log) = Config::new()
        .listener(listener(10_000, [filter]))
        .validate();
    assert!(!good, "Envoy takes it: {line}");
    let ours = log.lines().filter(|entry| entry.contains("envoy-healthz"));
    let ours = ours.filter(|entry| !entry.contains("envoy_healthz.wasm"));
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 1, "{line}: {log}");
    assert!(ours[0].contains(line), "{line:?} is not in {:?}", ours[0]);
    assert!(!log.contains(FORGED), "{line}: {log}");
}

/// The address of a host or a listener.
pub fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// The address of a unix socket, or of an abstract one with `@` before its name.
pub fn pipe(path: &str) -> Value {
    json!({"pipe": {"path": path}})
}
