//! HZ4xx: what the dynamic module needs around it.

use crate::endpoint::{Build, Endpoint};
use crate::filter::{Config, is_module, is_network_module};
use crate::matching::{self, Match, Request};
use crate::rules::{Case, Check, Finding, Rule, reach};
use crate::tree::Node;
use crate::walk::{self, Way};

/// The rules.
pub const RULES: [Rule; 5] = [
    Rule {
        id: "HZ401",
        title: "the module cannot read the cluster",
        severity: "error",
        when: "An endpoint's cluster is not the one that its route leads to (of `weighted_clusters` each), and no network filter of the module is placed before the connection manager in that chain.",
        then: "503 for ever; with weighted_clusters a share of the probes",
        measured: "`direct_response` on the route: 503 for ever.",
        unless: "",
        set: "route: {cluster: ...} with the endpoint's cluster, or the network filter (docs/module.md, Several clusters)",
        check: Check::Whole(cannot_ask),
    },
    Rule {
        id: "HZ402",
        title: "200 while draining",
        severity: "warning",
        when: "An endpoint with clusters, and no Envoy health_check filter with `pass_through_mode: true` is on for its route before the module.",
        then: "200 while Envoy drains (/healthcheck/fail)",
        measured: "`/healthcheck/fail`: 200 for ever.",
        unless: "An endpoint that is to stay 200 while draining.",
        set: "the health_check filter before the module, and on for that route (envoy/module.yaml)",
        check: Check::Whole(no_drain),
    },
    Rule {
        id: "HZ404",
        title: "cached answers",
        severity: "error",
        when: "`cache_time` on the health_check filter that is on before the module.",
        then: "a false 200 for as long as cache_time",
        measured: "cache_time 30 s: a false 200 for 29.8 s.",
        unless: "",
        set: "take cache_time out",
        check: Check::Whole(cached),
    },
    Rule {
        id: "HZ405",
        title: "the module among upstream filters",
        severity: "error",
        when: "The module is in a cluster's `http_filters`, or in the router's `upstream_http_filters`.",
        then: "Envoy dies with SIGSEGV at the first probe",
        measured: "Envoy dies with SIGSEGV at the first probe.",
        unless: "",
        set: "http_filters of the connection manager",
        check: Check::Whole(upstream),
    },
    Rule {
        id: "HZ407",
        title: "gRPC checks go past the module",
        severity: "warning",
        when: "`grpc_health` is configured, and the module is on for `/grpc.health.v1.Health/Check` or for `/grpc.health.v1.Health/Watch` of no host.",
        then: "the application answers: SERVING while /healthz says 503",
        measured: "The application says SERVING while `/healthz` says 503.",
        unless: "",
        set: "a route {prefix: /grpc.health.v1.Health/} that switches the module on",
        check: Check::Whole(grpc_past),
    },
];

/// The module's endpoints to which a probe comes.
fn reached<'t>(case: &Case<'t>) -> impl Iterator<Item = &'t Endpoint<'t>> + use<'t> {
    case.endpoints
        .iter()
        .filter(|endpoint| endpoint.build == Build::Module && endpoint.is_on)
}

fn cannot_ask<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for endpoint in reached(case) {
        let any = endpoint
            .chain
            .before
            .iter()
            .any(|filter| is_network_module(filter));
        let (false, Some(route)) = (any, endpoint.way.route()) else {
            continue;
        };
        let Some(leads_to) = clusters_of(route) else {
            continue;
        };
        // What is not there at all is HZ109's.
        let beside = |cluster: &str| {
            let known = case.envoy.has_cds || case.envoy.cluster(cluster).is_some();
            known && (leads_to.is_empty() || leads_to.iter().any(|other| *other != cluster))
        };
        let Some(target) = endpoint
            .targets
            .iter()
            .find(|target| beside(&target.cluster))
        else {
            continue;
        };
        let path = &endpoint.path;
        let way = match leads_to.as_slice() {
            [] => "leads to no cluster".to_owned(),
            names => format!("leads to {}", names.join(", ")),
        };
        let what = format!(
            "{path}: the module cannot read cluster {:?}: the route {way}",
            target.cluster
        );
        let finding = Finding::error(route, what);
        found.push(match leads_to.len() {
            0 | 1 => finding.then("503 for ever"),
            _ => finding.then("503 for a share of the probes"),
        });
    }
    found
}

/// The clusters that a route may lead to; nothing if a header says which.
fn clusters_of(route: &Node) -> Option<Vec<&str>> {
    let Some(action) = route.get("route") else {
        return Some(Vec::new());
    };
    if let Some(cluster) = action.str("cluster") {
        return Some(vec![cluster]);
    }
    let weighted = action.at("weighted_clusters.clusters")?;
    Some(
        weighted
            .items()
            .filter_map(|cluster| cluster.str("name"))
            .collect(),
    )
}

/// Envoy's health_check filter that passes requests on, placed before the endpoint's and on for its route.
fn drain_filter<'t>(endpoint: &Endpoint<'t>) -> Option<&'t Node> {
    let request = Request::get(&endpoint.path, Vec::new());
    let mut before = reach::before(endpoint);
    before.find(|filter| {
        let headers = filter.at("typed_config.headers");
        filter.is_a("http.health_check.v3.HealthCheck")
            && filter.is_true("typed_config.pass_through_mode")
            && headers.is_none_or(|headers| matching::headers(headers, &request) != Match::No)
            && endpoint.way.is_on(endpoint.chain, filter)
    })
}

fn no_drain<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let judged = reached(case).filter(|endpoint| !endpoint.targets.is_empty());
    let walked = judged.filter(|endpoint| !matches!(endpoint.way, Way::NotWalked));
    let without = walked.filter(|endpoint| drain_filter(endpoint).is_none());
    let finding = |endpoint: &'t Endpoint<'t>| {
        let what = format!(
            "{}: no health_check filter before the module is on for its route, to fail while Envoy drains",
            endpoint.path
        );
        Finding::warning(endpoint.way.route().unwrap_or(endpoint.node), what)
    };
    without.map(finding).collect()
}

fn cached<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for endpoint in reached(case) {
        let time = drain_filter(endpoint).and_then(|filter| filter.at("typed_config.cache_time"));
        if let Some(time) = time {
            let said = time.text().unwrap_or_default();
            let what = format!(
                "{}: the health_check filter before the module keeps answers for {said}",
                endpoint.path
            );
            found.push(Finding::error(time, what).then(format!("a false 200 for up to {said}")));
        }
    }
    found
}

/// The module where Envoy dies of it. A file in which it is nowhere else has a finding, if no endpoint.
pub fn upstream<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for (name, cluster) in case.envoy.clusters() {
        let filters = cluster.filters().filter(|filter| is_module(filter));
        found.extend(filters.map(|filter| {
            Finding::error(
                filter,
                format!("cluster {name:?}: the module is among its http_filters"),
            )
        }));
    }
    let chains = case
        .envoy
        .listeners
        .iter()
        .flat_map(|listener| &listener.chains);
    for filter in chains.flat_map(|chain| chain.filters()) {
        let filters = filter
            .list("typed_config.upstream_http_filters")
            .filter(|filter| is_module(filter));
        found.extend(filters.map(|filter| {
            Finding::error(
                filter,
                "the module is among the router's upstream_http_filters".to_owned(),
            )
        }));
    }
    found
}

fn grpc_past<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for filter in case.filters {
        let Config::Module(config) = &filter.config else {
            continue;
        };
        // A gRPC client names a host of the routes.
        let routes = filter.chain.routes.into_iter();
        let domains = routes
            .flat_map(|routes| routes.list("virtual_hosts"))
            .flat_map(|host| host.list("domains"))
            .filter_map(|domain| Some(vec![domain.text()?.to_owned()]));
        let address = walk::hosts(filter.listener, case.options.host.as_deref());
        let hosts: Vec<_> = domains.chain([address]).collect();
        let past = |call: &&str| {
            let path = format!("/grpc.health.v1.Health/{call}");
            hosts.iter().all(|hosts| {
                let way = walk::walk(filter.chain, &Request::grpc(&path, hosts.clone()));
                !matches!(way, Way::NotWalked) && !way.is_on(filter.chain, filter.node)
            })
        };
        let calls: Vec<&str> = ["Check", "Watch"].into_iter().filter(past).collect();
        if !config.services.is_empty() && !calls.is_empty() {
            let name = filter.node.str("name").unwrap_or_default();
            let what = format!(
                "{name}: grpc_health is configured, and no route switches it on for /grpc.health.v1.Health/{}",
                calls.join(" and ")
            );
            let node = filter.text.get("grpc_health").unwrap_or(filter.text);
            found.push(Finding::warning(node, what).at_text("grpc_health"));
        }
    }
    found
}
