//! HZ3xx: what the wasm build needs of the admin, and its own VM.

use crate::envoy::{Address, Cluster, Kind};
use crate::filter::{Config, Filter};
use crate::matching::{self, Match};
use crate::rules::{Case, Check, Finding, Rule};
use crate::tree::Node;
use healthz_core::config::wasm;

/// The rules.
pub const RULES: [Rule; 6] = [
    Rule {
        id: "HZ301",
        title: "no admin cluster",
        severity: "error",
        when: "`admin_cluster` is not in the configuration. Silent with `dynamic_resources.cds_config`.",
        then: "503 for ever",
        measured: "503 for ever.",
        unless: "",
        set: "the name of the cluster that leads to the admin",
        check: Check::Whole(no_admin_cluster),
    },
    Rule {
        id: "HZ302",
        title: "another's admin",
        severity: "error",
        when: "The admin cluster's endpoint is not `admin.address` (0.0.0.0 fits any; pipes are compared).",
        then: "503 for ever; or, if another Envoy's admin is there and has a cluster of the backend's name, that one's health: 200 although your backend is dead",
        measured: "503 for ever; with another Envoy there: 200 for ever, own backend dead.",
        unless: "",
        set: "the address of admin in the cluster's endpoint",
        check: Check::Whole(other_admin),
    },
    Rule {
        id: "HZ303",
        title: "no admin",
        severity: "error",
        when: "There is no `admin`.",
        then: "503 for ever",
        measured: "503 for ever.",
        unless: "",
        set: "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}, allow_paths: [{prefix: /clusters}, {exact: /ready}]}",
        check: Check::Whole(no_admin),
    },
    Rule {
        id: "HZ304",
        title: "admin path not allowed",
        severity: "error",
        when: "`admin.allow_paths` has no entry that takes `/clusters?filter=...` (if an endpoint has clusters) or `/ready` (if one fails while draining). Envoy matches the path with its query, so that `exact: /clusters` does not do.",
        then: "503 for ever",
        measured: "503 for ever, with `exact: /clusters` as well.",
        unless: "",
        set: "allow_paths: [{prefix: /clusters}, {exact: /ready}]",
        check: Check::Whole(not_allowed),
    },
    Rule {
        id: "HZ305",
        title: "admin by several addresses",
        severity: "error",
        when: "The admin cluster has several addresses, or is STRICT_DNS or LOGICAL_DNS and its address is `localhost`, which is ::1 too (silent with `dns_lookup_family` V4_ONLY or V4_PREFERRED). No other name is looked up.",
        then: "503, as long as one of the addresses is not the admin's",
        measured: "`localhost`, admin on 127.0.0.1: 503, 40 of 40 probes.",
        unless: "",
        set: "the admin's one IP address",
        check: Check::Whole(several_addresses),
    },
    Rule {
        id: "HZ309",
        title: "a trap lasts",
        severity: "warning; error for FAIL_OPEN or fail_open",
        when: "`failure_policy` of the filter is not FAIL_RELOAD.",
        then: "after one trap of its VM, that worker answers 503 for ever",
        measured: "One trap: 503 for ever. FAIL_OPEN, and 200 on the route: 200 for ever. (With a wasm that traps at will; the filter's own has no known trap.)",
        unless: "",
        set: "failure_policy: FAIL_RELOAD",
        check: Check::Whole(trap),
    },
];

/// Our wasm filters.
fn wasm_filters<'t>(
    case: &Case<'t>,
) -> impl Iterator<Item = (&'t Filter<'t>, &'t wasm::Config)> + use<'t> {
    case.filters
        .iter()
        .filter_map(|filter| match &filter.config {
            Config::Wasm(config) => Some((filter, config)),
            Config::Module(_) => None,
        })
}

/// What a rule finds in the clusters by which our wasm filters reach the admin.
fn each_admin_cluster<'t>(
    case: &Case<'t>,
    find: impl Fn(&'t str, &'t Cluster<'t>) -> Option<Finding<'t>>,
) -> Vec<Finding<'t>> {
    let found = wasm_filters(case).filter_map(|(_, config)| {
        find(
            &config.admin_cluster,
            case.envoy.cluster(&config.admin_cluster)?,
        )
    });
    found.collect()
}

fn no_admin_cluster<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let missing = wasm_filters(case).filter(|(_, config)| {
        !case.envoy.has_cds && case.envoy.cluster(&config.admin_cluster).is_none()
    });
    let finding = |(filter, config): (&'t Filter<'t>, &wasm::Config)| {
        let what = format!(
            "admin_cluster: there is no cluster {:?}",
            config.admin_cluster
        );
        Finding::error(filter.text, what).at_text("admin_cluster")
    };
    missing.map(finding).collect()
}

fn no_admin<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let bootstrap = case.envoy.bootstrap;
    let missing = bootstrap.at("admin.address").is_none() && wasm_filters(case).next().is_some();
    let what = "there is no admin, which the filter queries";
    missing
        .then(|| Finding::error(bootstrap, what.to_owned()))
        .into_iter()
        .collect()
}

fn other_admin<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let Some(admin) = case.envoy.admin_address() else {
        return Vec::new();
    };
    each_admin_cluster(case, |name, cluster| {
        let node = one_address(cluster)?;
        let address = Address::of(node)?;
        // Of `localhost` the port alone can be compared.
        let reaches = match address {
            Address::Socket("localhost", port) => {
                Address::Socket("127.0.0.1", port).reaches(&admin)
                    || Address::Socket("::1", port).reaches(&admin)
            }
            address => address.reaches(&admin),
        };
        let what = format!(
            "cluster {name:?} leads to {}, and the admin is at {}",
            text(&address),
            text(&admin)
        );
        (!reaches).then(|| {
            Finding::error(node, what).set(format!("{} in the cluster's endpoint", text(&admin)))
        })
    })
}

fn text(address: &Address<'_>) -> String {
    match address {
        Address::Socket(host, port) => format!("{host}:{port}"),
        Address::Pipe(path) => (*path).to_owned(),
    }
}

/// The address of a cluster that has one endpoint.
fn one_address<'t>(cluster: &Cluster<'t>) -> Option<&'t Node> {
    let mut hosts = cluster.hosts();
    let host = hosts.next()?;
    hosts.next().is_none().then(|| host.get("address"))?
}

fn several_addresses<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_admin_cluster(case, |name, cluster| {
        let Some(node) = one_address(cluster) else {
            let second = cluster.hosts().nth(1)?;
            return Some(Finding::error(
                second,
                format!(
                    "cluster {name:?}, by which the filter asks the admin, has several addresses"
                ),
            ));
        };
        let families = [
            "dns_lookup_family",
            "cluster_type.typed_config.dns_lookup_family",
        ];
        let family = families.iter().find_map(|way| cluster.node.str(way));
        let by_name = matches!(cluster.kind, Kind::StrictDns | Kind::LogicalDns)
            && !matches!(family, Some("V4_ONLY" | "V4_PREFERRED"));
        let Some(Address::Socket("localhost", _)) = Address::of(node).filter(|_| by_name) else {
            return None;
        };
        let what = format!(
            "cluster {name:?}, by which the filter asks the admin, leads to localhost, which is ::1 too"
        );
        Some(Finding::error(node, what))
    })
}

fn not_allowed<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let Some(allowed) = case.envoy.bootstrap.at("admin.allow_paths") else {
        return Vec::new();
    };
    if allowed.items().len() == 0 {
        return Vec::new();
    }
    let takes = |path: &str| allowed.items().any(|matcher| may_take(matcher, path));
    let mut found = Vec::new();
    let clusters = "/clusters?filter=";
    let has_clusters = |config: &wasm::Config| {
        config
            .endpoints
            .iter()
            .any(|endpoint| !endpoint.clusters.is_empty())
    };
    for (path, is_wanted) in [
        (
            clusters,
            wasm_filters(case).any(|(_, config)| has_clusters(config)),
        ),
        (
            "/ready",
            wasm_filters(case).any(|(_, config)| config.asks_the_admin()),
        ),
    ] {
        if is_wanted && !takes(path) {
            let shown = if path == clusters {
                "/clusters?filter=..."
            } else {
                path
            };
            let what =
                format!("allow_paths has no entry that takes {shown}, which the filter queries");
            found.push(Finding::error(allowed, what));
        }
    }
    found
}

/// Whether an entry of `allow_paths` takes a path, or may take it once the rest of the query is there.
fn may_take(matcher: &Node, path: &str) -> bool {
    let whole = !path.ends_with('=');
    let longer = |field| {
        !whole
            && matcher
                .str(field)
                .is_some_and(|text| text.starts_with(path))
    };
    if !whole && (matcher.get("suffix").is_some() || matcher.get("contains").is_some()) {
        return true;
    }
    let example = if whole {
        path.to_owned()
    } else {
        format!("{path}%5E%28%3F%3Amy_service%29%3A%3A")
    };
    longer("exact") || longer("prefix") || matching::string(matcher, &example) != Match::No
}

fn trap<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for (filter, _) in wasm_filters(case) {
        let Some(config) = filter.node.at("typed_config.config") else {
            continue;
        };
        let name = filter.node.str("name").unwrap_or_default();
        let policy = config.get("failure_policy");
        let said = policy.and_then(Node::text);
        let node = policy.unwrap_or(config);
        let then =
            "after one trap of its VM, probes go to the route, which may answer 200 for ever";
        if said == Some("FAIL_RELOAD") {
            continue;
        }
        found.push(
            if said == Some("FAIL_OPEN") || config.is_true("fail_open") {
                Finding::error(
                    node,
                    format!("{name}: it is left out once it fails (fail open)"),
                )
                .then(then)
            } else {
                let what = match said {
                    Some(policy) => format!("{name}: failure_policy is {policy}"),
                    None => format!("{name}: failure_policy is FAIL_CLOSED (the default)"),
                };
                Finding::warning(node, what)
            },
        );
    }
    found
}
