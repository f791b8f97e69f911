//! HZ2xx: whether a prober gets a connection on which it can ask.

use crate::Prober;
use crate::endpoint::{Build, Endpoint};
use crate::rules::{Case, Check, Finding, Rule, Severity};
use crate::tree::Node;
use crate::walk::{self, Entry};

/// The rules.
pub const RULES: [Rule; 7] = [
    Rule {
        id: "HZ205",
        title: "no HTTP/2",
        severity: "warning; error for google-http2 and alb-grpc, silent for other probers",
        when: "The listener's `DownstreamTlsContext` has no `h2` in `alpn_protocols`.",
        then: "no HTTP/2: Google's HTTP2 check and gRPC clients fail; HTTP/1.1 works",
        measured: "\"No ALPN negotiated\"; HTTP/1.1 works.",
        unless: "Nobody wants HTTP/2 of this listener.",
        set: "common_tls_context: {alpn_protocols: [h2, http/1.1]}, beside what is there",
        check: Check::Reach(no_h2),
    },
    Rule {
        id: "HZ206",
        title: "client certificate",
        severity: "error",
        when: "`require_client_certificate: true` on the endpoint's listener, and a validation context with something to validate by (`trusted_ca`, hashes, SDS).",
        then: "the handshake fails for ever: probers have no certificate",
        measured: "Handshake closed for ever. Without a validation context Envoy 1.40.0 asks for no certificate, and the probe passes.",
        unless: "A prober that has a certificate (your own).",
        set: "a listener of its own for probers",
        check: Check::Reach(client_certificate),
    },
    Rule {
        id: "HZ207",
        title: "server names only",
        severity: "error",
        when: "Every filter chain of the listener has `server_names`, and there is no default chain.",
        then: "connection reset for ever: a prober that connects to an address sends no server name",
        measured: "Connection reset for ever.",
        unless: "",
        set: "default_filter_chain, with the endpoint",
        check: Check::Reach(server_names),
    },
    Rule {
        id: "HZ208",
        title: "PROXY protocol",
        severity: "warning; error with --prober",
        when: "A ProxyProtocol listener filter without `allow_requests_without_proxy_protocol: true`.",
        then: "connection reset for ever for probers that do not speak it",
        measured: "Connection reset for ever.",
        unless: "A balancer that sends the PROXY protocol with its checks as well.",
        set: "allow_requests_without_proxy_protocol: true",
        check: Check::Reach(proxy_protocol),
    },
    Rule {
        id: "HZ211",
        title: "refused in an overload",
        severity: "warning",
        when: "`overload_manager` has a `stop_accepting_*` action, and no listener with an endpoint has `bypass_overload_manager: true`; or it has the global_downstream_max_connections monitor, and no listener with an endpoint has `ignore_global_conn_limit: true`, or (wasm) the admin has none.",
        then: "503 or no connection while Envoy is overloaded, although the backend is alive",
        measured: "503 \"envoy overloaded\", backend alive.",
        unless: "Who wants the balancer to send less to an overloaded Envoy ignores it.",
        set: "a listener of its own for probers, with bypass_overload_manager: true",
        check: Check::Reach(overload),
    },
    Rule {
        id: "HZ216",
        title: "on loopback",
        severity: "note; error with --prober",
        when: "All listeners of the endpoint are on loopback.",
        then: "probers from outside are refused",
        measured: "Connection refused.",
        unless: "An endpoint for people and sidecars of the same pod.",
        set: "address: 0.0.0.0",
        check: Check::Whole(loopback),
    },
    Rule {
        id: "HZ217",
        title: "TLS or none",
        severity: "error, with --prober",
        when: "google-http2 or google-https, and every listener of the endpoint is in the clear; google-http or alb-http1, and all of them speak TLS.",
        then: "no answer for ever",
        measured: "A TLS handshake against a listener in the clear, and the other way: no answer.",
        unless: "",
        set: "a listener as that prober speaks it",
        check: Check::Reach(scheme),
    },
];
fn no_h2<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let severity = match case.options.prober {
        None => Severity::Warning,
        Some(Prober::GoogleHttp2 | Prober::AlbGrpc) => Severity::Error,
        Some(_) => return Vec::new(),
    };
    let Some(tls) = endpoint.chain.tls() else {
        return Vec::new();
    };
    let protocols = tls.at("common_tls_context.alpn_protocols");
    let mut said = protocols.into_iter().flat_map(Node::items);
    if said.any(|protocol| protocol.text() == Some("h2")) {
        return Vec::new();
    }
    let what = format!(
        "listener {}: no h2 in alpn_protocols",
        endpoint.listener.name
    );
    let node = protocols
        .or_else(|| tls.get("common_tls_context"))
        .unwrap_or(tls);
    vec![Finding::new(severity, node, what)]
}

fn client_certificate<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let wanted = |tls: &&Node| tls.is_true("require_client_certificate") && validates(tls);
    let tls = endpoint.chain.tls().filter(wanted);
    let field = tls.and_then(|tls| tls.get("require_client_certificate"));
    let what = format!(
        "listener {}: require_client_certificate",
        endpoint.listener.name
    );
    field
        .map(|field| Finding::error(field, what))
        .into_iter()
        .collect()
}

/// Whether there is something to validate a client's certificate by. If not, Envoy asks for none.
fn validates(tls: &Node) -> bool {
    let by = [
        "trusted_ca",
        "system_root_certs",
        "ca_certificate_provider_instance",
        "verify_certificate_hash",
        "verify_certificate_spki",
        "custom_validator_config",
    ];
    tls.get("common_tls_context").is_some_and(|common| {
        let context = common.get("validation_context");
        context.is_some_and(|context| by.iter().any(|field| context.get(field).is_some()))
            || common.get("combined_validation_context").is_some()
            || common.get("validation_context_sds_secret_config").is_some()
    })
}

fn server_names<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    if walk::entry(endpoint.listener.node) != Entry::None {
        return Vec::new();
    }
    let what = format!(
        "listener {}: every filter chain asks for a server name (SNI)",
        endpoint.listener.name
    );
    let node = endpoint
        .chain
        .node
        .get("filter_chain_match")
        .unwrap_or(endpoint.chain.node);
    vec![Finding::error(node, what)]
}

fn proxy_protocol<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let mut filters = endpoint.listener.node.list("listener_filters");
    let wanted = filters.find(|filter| {
        let without = "typed_config.allow_requests_without_proxy_protocol";
        filter.is_a("proxy_protocol.v3.ProxyProtocol") && !filter.is_true(without)
    });
    let severity = if case.options.prober.is_some() {
        Severity::Error
    } else {
        Severity::Warning
    };
    let what = format!(
        "listener {}: takes connections with the PROXY protocol only",
        endpoint.listener.name
    );
    wanted
        .map(|filter| Finding::new(severity, filter, what))
        .into_iter()
        .collect()
}

fn overload<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let (bootstrap, listener) = (case.envoy.bootstrap, endpoint.listener);
    let mut actions = bootstrap
        .list("overload_manager.actions")
        .filter_map(|action| action.str("name"));
    // Who has a listener for probers that is left out has seen to it.
    let has_listener_with = |field: &str| {
        let mut others = case.endpoints.iter();
        others.any(|other| {
            other.is_on && !other.listener.is_local() && other.listener.node.is_true(field)
        })
    };
    let stops = actions
        .find(|name| name.contains("stop_accepting_"))
        .filter(|_| !has_listener_with("bypass_overload_manager"));
    let mut monitors = bootstrap.list("overload_manager.resource_monitors");
    let limited = monitors.any(|monitor| {
        monitor
            .str("name")
            .is_some_and(|name| name.contains("global_downstream_max_connections"))
    });
    let ignores = has_listener_with("ignore_global_conn_limit");
    let mut found = Vec::new();
    if let Some(action) = stops {
        let what = format!("listener {}: {action} refuses probes too", listener.name);
        found.push(Finding::warning(listener.node, what));
    }
    if limited && !ignores {
        let what = format!(
            "listener {}: global_downstream_max_connections counts probes too",
            listener.name
        );
        let finding = Finding::warning(listener.node, what)
            .then("no connection while the limit is reached, although the backend is alive");
        found.push(
            finding.set("a listener of its own for probers, with ignore_global_conn_limit: true"),
        );
    }
    if limited
        && endpoint.build == Build::Wasm
        && let Some(admin) = bootstrap.get("admin")
        && !admin.is_true("ignore_global_conn_limit")
    {
        let what = "the admin, which the filter asks, takes no connection while global_downstream_max_connections is reached";
        let finding =
            Finding::warning(admin, what.to_owned()).then("503, although the backend is alive");
        found.push(finding.set("admin: {ignore_global_conn_limit: true}"));
    }
    found
}

fn loopback<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let is_outside = |path: &str| {
        let mut same = case.endpoints.iter().filter(|other| other.path == path);
        same.any(|other| !other.listener.is_local())
    };
    let severity = match case.options.prober {
        Some(_) => Severity::Error,
        None => Severity::Note,
    };
    let local = case
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.listener.is_local());
    let finding = |endpoint: &'t Endpoint<'t>| {
        let node = endpoint.listener.node;
        let what = format!(
            "{}: listener {} is on loopback",
            endpoint.path, endpoint.listener.name
        );
        Finding::new(severity, node.get("address").unwrap_or(node), what)
    };
    local
        .filter(|endpoint| !is_outside(&endpoint.path))
        .map(finding)
        .collect()
}

fn scheme<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let tls = endpoint.chain.tls().is_some();
    let (has, wants) = match (case.options.prober, tls) {
        (Some(Prober::GoogleHttp2 | Prober::GoogleHttps), false) => {
            ("is in the clear", "speaks TLS")
        }
        (Some(Prober::GoogleHttp | Prober::AlbHttp1), true) => ("speaks TLS", "does not"),
        _ => return Vec::new(),
    };
    let what = format!(
        "{}: listener {} {has}, the prober {wants}",
        endpoint.path, endpoint.listener.name
    );
    vec![Finding::error(endpoint.chain.node, what)]
}
