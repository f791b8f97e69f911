//! HZ2xx: whether a plain probe comes to what answers the endpoint.

use crate::Prober;
use crate::endpoint::{Build, Endpoint, answers_always, answers_itself};
use crate::matching::{self, Match, Request};
use crate::rules::{Case, Check, Finding, Rule, Severity, refused};
use crate::tree::Node;
use crate::walk::{self, Entry, Way};

/// The rules.
pub const RULES: [Rule; 12] = [
    Rule {
        id: "HZ201",
        title: "not switched on",
        severity: "error",
        when: "The filter is off on the route that takes the path, and no later route switches it on: `disabled: true`, and `typed_per_filter_config` has nothing under the filter's own **name** (other names are accepted in silence: `envoy_healthz`, `envoy.filters.http.wasm`), or has `FilterConfig.disabled: true` there.",
        then: "the route answers, for ever",
        measured: "The route's 503 for ever, while the filter's own log says healthy; with `direct_response: {status: 200}` 200 for ever.",
        unless: "",
        set: "typed_per_filter_config: {envoy-healthz: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}} on that route",
        check: Check::Reach(not_on),
    },
    Rule {
        id: "HZ202",
        title: "shadowed by an earlier route",
        severity: "error",
        when: "The filter is off on the route that takes the path, as `prefix: /` before it does, and a later one switches it on.",
        then: "the earlier route answers, for ever",
        measured: "The backend's own answer for ever, here 503.",
        unless: "",
        set: "the endpoint's route before that one",
        check: Check::Reach(shadowed),
    },
    Rule {
        id: "HZ203",
        title: "no virtual host for an address",
        severity: "warning; error with --prober; walked with --host",
        when: "No virtual host's `domains` take the host that the prober sends (an address if `--host` is not said), and the filter is `disabled: true`.",
        then: "404 for ever to probers that send an address as host",
        measured: "`domains: [\"grpc.example.com\"]`: 404 for ever.",
        unless: "A prober that is told to send the right host: `--host`.",
        set: "domains: [\"*\"]",
        check: Check::Reach(no_host),
    },
    Rule {
        id: "HZ204",
        title: "refused by a filter before it",
        severity: "error; warning where another service decides, or where only some requests are refused",
        when: "A filter that is placed before the endpoint's, on for that route, refuses a plain probe. Errors: jwt_authn with a rule that takes the path and has `requires` without allow_missing; basic_auth; api_key_auth; rbac whose ALLOW policies for this path all need a header, a JWT or a certificate; oauth2 without a `pass_through_matcher` that takes the path; fault with a fixed abort at 100 %. Warnings: ext_authz; fault under 100 %; local_ratelimit with `filter_enabled` and `filter_enforced` over 0; ratelimit on a route with `rate_limits`.",
        then: "refused for ever",
        measured: "jwt_authn 401, rbac 403, basic_auth 401, ext_authz 403, fault 503, for ever; local_ratelimit 429 after 5 calls. The filter's own log and envoy_healthz_healthy say healthy. oauth2, api_key_auth and ratelimit were not run.",
        unless: "An authorization service that lets the path through. An address in an rbac policy is no finding; `matcher` is not walked.",
        set: "put it after the endpoint's filter in http_filters",
        check: Check::Reach(refused::before),
    },
    Rule {
        id: "HZ205",
        title: "no HTTP/2",
        severity: "warning; error for google-http2 and alb-grpc, silent for other probers",
        when: "The listener's `DownstreamTlsContext` has no `h2` in `alpn_protocols`.",
        then: "no HTTP/2: Google's HTTP2 check and gRPC clients fail",
        measured: "\"No ALPN negotiated\"; HTTP/1.1 works.",
        unless: "Nobody wants HTTP/2 of this listener.",
        set: "alpn_protocols: [h2, http/1.1]",
        check: Check::Reach(no_h2),
    },
    Rule {
        id: "HZ206",
        title: "client certificate",
        severity: "error",
        when: "`require_client_certificate: true` on the endpoint's listener.",
        then: "the handshake fails for ever: probers have no certificate",
        measured: "Handshake closed for ever.",
        unless: "A prober that has a certificate (your own).",
        set: "a listener of its own for probers",
        check: Check::Reach(client_certificate),
    },
    Rule {
        id: "HZ207",
        title: "server names only",
        severity: "error",
        when: "Every filter chain of the listener has `server_names`, and there is no default chain.",
        then: "connection reset for ever: a prober that asks an address sends no server name",
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
        id: "HZ210",
        title: "answered before",
        severity: "error",
        when: "Before the endpoint's filter, another one answers its path: Envoy's health_check filter with `pass_through_mode: false`, or a Lua script that names the path and responds.",
        then: "200 for ever, backend dead or not",
        measured: "health_check without clusters before the filter: 200 for ever, backend dead.",
        unless: "",
        set: "take it out",
        check: Check::Reach(answered_before),
    },
    Rule {
        id: "HZ211",
        title: "refused in an overload",
        severity: "warning",
        when: "`overload_manager` has a `stop_accepting_*` action, and no listener with an endpoint has `bypass_overload_manager: true`; or it has the global_downstream_max_connections monitor, and the listener no `ignore_global_conn_limit: true`, or (wasm) the admin has none.",
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
        check: Check::Reach(loopback),
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

fn not_on<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    if endpoint.is_on || later_route(endpoint).is_some() {
        return Vec::new();
    }
    let path = &endpoint.path;
    let name = endpoint.name;
    let finding = match endpoint.way {
        Way::Route(_, route) => {
            let what = format!("{path}: its route does not switch on {name:?}, which is disabled");
            let other = route.get("typed_per_filter_config").and_then(|configs| {
                configs
                    .entries()
                    .map(|(key, _)| key)
                    .find(|key| key.contains("healthz"))
            });
            let what = match other {
                Some(key) if key != name => format!("{what}; {key:?} is no filter's name"),
                _ => what,
            };
            Finding::error(route, what).then(format!("{}, for ever", answer_of(route)))
        }
        Way::NoRoute(host) => {
            let what = format!("{path}: no route takes it, and {name:?} is disabled");
            Finding::error(host, what)
                .then("404 for ever")
                .set(format!("a route for {path} that switches it on"))
        }
        Way::NoHost | Way::NotWalked => return Vec::new(),
    };
    vec![finding]
}

fn shadowed<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let (false, Some(later), Some(route)) =
        (endpoint.is_on, later_route(endpoint), endpoint.way.route())
    else {
        return Vec::new();
    };
    let path = &endpoint.path;
    let what = format!(
        "{path}: this route takes it, before the one at line {} that switches on {:?}",
        later.line, endpoint.name
    );
    let finding = Finding::error(route, what).then(format!("{}, for ever", answer_of(route)));
    vec![finding.set(format!("the route of line {} before this one", later.line))]
}

/// The route after the one that takes the probe which would take it too, and switches the filter on.
fn later_route<'t>(endpoint: &Endpoint<'t>) -> Option<&'t Node> {
    let Way::Route(host, taken) = endpoint.way else {
        return None;
    };
    let request = Request::get(&endpoint.path, Vec::new());
    let mut later = host
        .list("routes")
        .skip_while(|route| !std::ptr::eq(*route, taken))
        .skip(1);
    later.find(|route| {
        let matcher = route.get("match");
        let takes = matcher.is_some_and(|matcher| matching::route(matcher, &request) != Match::No);
        takes && walk::switches_on(route, endpoint.name)
    })
}

/// What a route answers by itself.
fn answer_of(route: &Node) -> String {
    if let Some(status) = route.str("direct_response.status") {
        return format!("the route's own {status}");
    }
    if route.get("redirect").is_some() {
        return "a redirect".to_owned();
    }
    match route.str("route.cluster") {
        Some(cluster) => format!("whatever cluster {cluster:?} answers"),
        None => "whatever the route's cluster answers".to_owned(),
    }
}

fn no_host<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let (Way::NoHost, false, Some(routes)) = (endpoint.way, endpoint.is_on, endpoint.chain.routes)
    else {
        return Vec::new();
    };
    let domains = routes
        .list("virtual_hosts")
        .find_map(|host| host.get("domains"));
    let host = match &case.options.host {
        Some(host) => format!("the host {host:?}"),
        None => "an address as host".to_owned(),
    };
    let what = format!("{}: no virtual host takes {host}", endpoint.path);
    let severity = if case.options.prober.is_some() {
        Severity::Error
    } else {
        Severity::Warning
    };
    let finding = Finding::new(severity, domains.unwrap_or(routes), what);
    vec![finding.then(format!("404 for ever to a prober that sends {host}"))]
}

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
    let tls = endpoint
        .chain
        .tls()
        .filter(|tls| tls.is_true("require_client_certificate"));
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

fn answered_before<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let chain = endpoint.chain;
    let request = Request::get(&endpoint.path, Vec::new());
    let mut found = Vec::new();
    if endpoint.build == Build::Unconditional {
        return found;
    }
    for filter in before(endpoint) {
        let name = filter.str("name").unwrap_or("a filter");
        let path = &endpoint.path;
        if answers_always(filter, &endpoint.way, chain, &request) {
            let what = format!(
                "{path}: {name} is placed before the filter and answers it, without a look at clusters"
            );
            found.push(Finding::error(filter, what));
        } else if answers_itself(filter, &endpoint.way, chain, &request) {
            let what = format!("{path}: {name} is placed before the filter and answers it");
            found.push(Finding::error(filter, what).then("the filter is never asked"));
        } else if filter.is_a("http.lua.v3.Lua")
            && endpoint.way.is_on(chain, filter)
            && responds_to(filter, path)
        {
            let what =
                format!("{path}: the script of {name} is placed before the filter and answers it");
            found.push(Finding::error(filter, what).then("the filter is never asked"));
        }
    }
    found
}

fn responds_to(filter: &Node, path: &str) -> bool {
    let ways = ["default_source_code.inline_string", "inline_code"];
    let config = filter.get("typed_config");
    let script = config.and_then(|config| ways.iter().find_map(|way| config.str(way)));
    let quoted = |quote: char| format!("{quote}{path}{quote}");
    script.is_some_and(|text| {
        text.contains(":respond(") && (text.contains(&quoted('"')) || text.contains(&quoted('\'')))
    })
}

/// The HTTP filters before the endpoint's.
pub fn before<'t>(endpoint: &Endpoint<'t>) -> impl Iterator<Item = &'t Node> {
    let node = endpoint.node;
    endpoint
        .chain
        .filters()
        .take_while(move |filter| !std::ptr::eq(*filter, node))
}

fn overload<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let (bootstrap, listener) = (case.envoy.bootstrap, endpoint.listener);
    let mut actions = bootstrap
        .list("overload_manager.actions")
        .filter_map(|action| action.str("name"));
    // Who has a listener that bypasses it has seen to it.
    let has_bypass = case.endpoints.iter().any(|other| {
        other.is_on
            && !other.listener.is_local()
            && other.listener.node.is_true("bypass_overload_manager")
    });
    let stops = actions
        .find(|name| name.contains("stop_accepting_"))
        .filter(|_| !has_bypass);
    let mut monitors = bootstrap.list("overload_manager.resource_monitors");
    let limited = monitors.any(|monitor| {
        monitor
            .str("name")
            .is_some_and(|name| name.contains("global_downstream_max_connections"))
    });
    let ignores = listener.node.is_true("ignore_global_conn_limit");
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

fn loopback<'t>(case: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    if !endpoint.listener.is_local() {
        return Vec::new();
    }
    let severity = if case.options.prober.is_some() {
        Severity::Error
    } else {
        Severity::Note
    };
    let node = endpoint.listener.node;
    let what = format!(
        "{}: listener {} is on loopback",
        endpoint.path, endpoint.listener.name
    );
    vec![Finding::new(
        severity,
        node.get("address").unwrap_or(node),
        what,
    )]
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
