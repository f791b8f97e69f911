//! HZ2xx: whether a plain probe comes to what answers the endpoint. What happens before its first byte is
//! read is in [`super::connection`].

use crate::answer::{answers_always, answers_itself};
use crate::endpoint::{Build, Endpoint};
use crate::matching::{self, Match, Request};
use crate::rules::{Case, Check, Finding, Rule, Severity, refused};
use crate::tree::Node;
use crate::walk::{self, Way};

/// The rules.
pub const RULES: [Rule; 5] = [
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
        unless: "A prober that is set to send the right host: `--host`.",
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
        "{path}: this route takes it, before the one that switches on {:?}",
        endpoint.name
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
        Some(host) => format!("the Host header {host:?}"),
        None => "a Host header with an IP address".to_owned(),
    };
    let what = format!("{}: no virtual host matches {host}", endpoint.path);
    let severity = if case.options.prober.is_some() {
        Severity::Error
    } else {
        Severity::Warning
    };
    let finding = Finding::new(severity, domains.unwrap_or(routes), what);
    vec![finding.then(format!("404 for ever to a prober that sends {host}"))]
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
            found.push(Finding::error(filter, what).then("no probe reaches the filter"));
        } else if filter.is_a("http.lua.v3.Lua")
            && endpoint.way.is_on(chain, filter)
            && responds_to(filter, path)
        {
            let what =
                format!("{path}: the script of {name} is placed before the filter and answers it");
            found.push(Finding::error(filter, what).then("no probe reaches the filter"));
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
