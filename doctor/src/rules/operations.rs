//! HZ5xx: the admin's reach and the metrics.

use crate::envoy::{Address, Chain};
use crate::filter::Config;
use crate::matching::{self, Match};
use crate::rules::{Case, Check, Finding, Rule};
use crate::tree::Node;

/// The rules.
pub const RULES: [Rule; 3] = [
    Rule {
        id: "HZ501",
        title: "the admin is open",
        severity: "warning",
        when: "`admin.address` is neither on loopback nor a pipe.",
        then: "whoever reaches it can stop Envoy, drain it and read its configuration",
        measured: "Not measured: it is what the admin is for.",
        unless: "",
        set: "address: 127.0.0.1",
        check: Check::Whole(open_admin),
    },
    Rule {
        id: "HZ502",
        title: "metrics without labels",
        severity: "note",
        when: "Wasm: no `stats_config.stats_tags` that names healthz. Module: no `metrics_namespace`.",
        then: "the shipped alerts never fire: the metrics have other names",
        measured: "Prometheus gets `envoy_healthz_probes_filter_default_code_200_path__healthz`, or `envoy_dynamicmodulescustom_probes`.",
        unless: "Nobody reads the metrics.",
        set: "stats_tags as in envoy/envoy.yaml; module: dynamic_module_config: {name: envoy_healthz, metrics_namespace: healthz}",
        check: Check::Whole(no_labels),
    },
    Rule {
        id: "HZ505",
        title: "a route to the admin",
        severity: "warning",
        when: "A listener that is not on loopback has a route to the admin's cluster, and no header matcher of it takes exactly one `:path`, which has the query in it: so the path or the query is the asker's.",
        then: "whoever reaches the listener drives the admin",
        measured: "`/stats/prometheus?filter=` with a regex of 3.8 KB holds Envoy's main thread for 5.4 s, and `/healthz` (wasm) says 503 for a live backend.",
        unless: "",
        set: "match: {path: /stats/prometheus, headers: [{name: \":path\", string_match: {exact: /stats/prometheus}}, {name: \":method\", string_match: {exact: GET}}]}",
        check: Check::Whole(route_to_admin),
    },
];

fn open_admin<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let address = case.envoy.bootstrap.at("admin.address");
    let open = case
        .envoy
        .admin_address()
        .filter(|address| !address.is_local());
    let (Some(node), Some(Address::Socket(host, _))) = (address, open) else {
        return Vec::new();
    };
    vec![Finding::warning(
        node,
        format!("the admin listens on {host}"),
    )]
}

fn no_labels<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let bootstrap = case.envoy.bootstrap;
    let mut tags = bootstrap.list("stats_config.stats_tags");
    let tagged = tags.any(|tag| {
        tag.str("regex")
            .is_some_and(|regex| regex.contains("healthz"))
    });
    let mut found = Vec::new();
    for filter in case.filters {
        match &filter.config {
            Config::Wasm(_) if !tagged => {
                let node = bootstrap.get("stats_config").unwrap_or(bootstrap);
                let what = "stats_config has no stats_tags for healthz".to_owned();
                found.push(Finding::note(node, what).set("stats_tags as in envoy/envoy.yaml"));
            }
            Config::Module(_) => {
                let module = filter.node.at("typed_config.dynamic_module_config");
                if let Some(module) =
                    module.filter(|module| module.get("metrics_namespace").is_none())
                {
                    let what = "dynamic_module_config has no metrics_namespace".to_owned();
                    found.push(Finding::note(module, what).set("metrics_namespace: healthz"));
                }
            }
            Config::Wasm(_) => {}
        }
    }
    found
}

fn route_to_admin<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for listener in case
        .envoy
        .listeners
        .iter()
        .filter(|listener| !listener.is_local())
    {
        for route in listener.chains.iter().flat_map(routes) {
            if let Some(cluster) = admin_cluster_of(case, route)
                && !is_exact(route)
            {
                let what = format!(
                    "listener {}: a route to the admin by cluster {cluster:?} whose path or query is the asker's",
                    listener.name
                );
                found.push(Finding::warning(route, what));
            }
        }
    }
    found
}

fn routes<'t>(chain: &Chain<'t>) -> impl Iterator<Item = &'t Node> + use<'t> {
    let hosts = chain
        .routes
        .into_iter()
        .flat_map(|routes| routes.list("virtual_hosts"));
    hosts.flat_map(|host| host.list("routes"))
}

/// The cluster by which a route leads to the admin.
fn admin_cluster_of<'t>(case: &Case<'t>, route: &'t Node) -> Option<&'t str> {
    let action = route.get("route")?;
    let weighted = action
        .list("weighted_clusters.clusters")
        .filter_map(|cluster| cluster.str("name"));
    let mut names = action.str("cluster").into_iter().chain(weighted);
    names.find(|name| {
        let cluster = case.envoy.cluster(name);
        cluster.is_some_and(|cluster| case.envoy.leads_to_admin(cluster))
    })
}

/// Whether a matcher of `:path` takes one text alone, or at least none with a query of the asker's.
fn is_exact(route: &Node) -> bool {
    let mut matchers = route
        .list("match.headers")
        .filter(|matcher| matcher.str("name") == Some(":path"));
    matchers.any(|matcher| {
        if matcher.is_true("invert_match") {
            return false;
        }
        if matcher.str("exact_match").is_some() {
            return true;
        }
        let pages = [
            "/stats/prometheus",
            "/stats",
            "/clusters",
            "/config_dump",
            "/ready",
        ];
        let own = route.str("match.path");
        let with_query = |page: &str| format!("{page}?filter=(a|b)*&x");
        let takes = |page: &str| {
            matcher
                .get("string_match")
                .is_none_or(|text| matching::string(text, &with_query(page)) != Match::No)
        };
        !pages.into_iter().chain(own).any(takes) && !takes("/quitquitquit")
    })
}
