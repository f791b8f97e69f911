//! HZ1xx: what Envoy itself can know of the clusters that an endpoint names. What their health checks
//! look at, and when, is in [`super::health_checks`].

use crate::endpoint::{Build, Endpoint, Min, Target};
use crate::envoy::{Cluster, Kind, follows_readiness};
use crate::rules::{Case, Check, Finding, Rule};
use crate::tree::Node;

/// The rules.
pub const RULES: [Rule; 7] = [
    Rule {
        id: "HZ101",
        title: "no health check",
        severity: "error; warning for EDS, or with outlier_detection of max_ejection_percent: 100",
        when: "A cluster that an endpoint names has no `health_checks`. Silent for EDS clusters of Istio and Envoy Gateway (`outbound|...`, `httproute/...`, `grpcroute/...`), which follow Kubernetes readiness.",
        then: "200 for ever, with nothing on the port",
        measured: "Backend stopped: 200 for ever. With `outlier_detection: {}` and one host: still 200 after 14,736 failed calls in 25 s, for the default max_ejection_percent of 10 ejects nobody.",
        unless: "EDS of another control plane may send a health status of its own.",
        set: "health_checks: [{timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {}}]",
        check: Check::Whole(no_check),
    },
    Rule {
        id: "HZ104",
        title: "panic",
        severity: "warning",
        when: "A cluster with health checks can have several hosts (EDS, STRICT_DNS, or more than one endpoint), and `healthy_panic_threshold` is not 0 (50 % by default). Silent if the endpoint fails before the panic begins: `min_healthy` or `cluster_min_healthy_percentages` at least the threshold.",
        then: "200 with few hosts alive, while calls go to the dead ones as well",
        measured: "1 of 3 alive: probe 200, 40 of 60 calls fail; 0 of 60 with a threshold of 0.",
        unless: "Who wants the panic ignores it.",
        set: "common_lb_config: {healthy_panic_threshold: {value: 0}}",
        check: Check::Whole(panic_threshold),
    },
    Rule {
        id: "HZ108",
        title: "too few hosts",
        severity: "error",
        when: "`min_healthy` is more than the endpoints of a STATIC cluster, or more than 1 of a LOGICAL_DNS one.",
        then: "503 for ever",
        measured: "min_healthy 2 of one endpoint: 503 for ever, calls served.",
        unless: "",
        set: "a lower min_healthy",
        check: Check::Whole(too_few_hosts),
    },
    Rule {
        id: "HZ109",
        title: "unknown cluster",
        severity: "error",
        when: "An endpoint names a cluster that is not there. Silent with `dynamic_resources.cds_config`.",
        then: "503 for ever",
        measured: "`my-service` for `my_service`: 503 for ever, calls served.",
        unless: "",
        set: "the cluster's name as in clusters",
        check: Check::Whole(unknown_cluster),
    },
    Rule {
        id: "HZ110",
        title: "a cluster without hosts",
        severity: "error",
        when: "An endpoint names an aggregate cluster, an ORIGINAL_DST cluster or a dynamic forward proxy.",
        then: "503 for ever, while calls are served",
        measured: "An aggregate of two clusters: 503 for ever, calls served.",
        unless: "",
        set: "its member clusters, with \"require\": \"any\"",
        check: Check::Whole(no_hosts),
    },
    Rule {
        id: "HZ111",
        title: "check switched off",
        severity: "error",
        when: "`endpoint.health_check_config.disable_active_health_check: true`.",
        then: "200 for ever, whatever becomes of that host",
        measured: "Backend stopped: 200 for ever.",
        unless: "",
        set: "take disable_active_health_check out",
        check: Check::Whole(check_off),
    },
    Rule {
        id: "HZ119",
        title: "an answer that is always 200",
        severity: "warning",
        when: "`/healthz`, `/health`, `/readyz`, `/ready` or `/livez` is answered 200 whatever happens: by Envoy's health_check filter without `pass_through_mode` and without `cluster_min_healthy_percentages`, or by a `direct_response`. `/livez` is silent beside an endpoint that is judged by clusters.",
        then: "200 for ever, backend dead or not",
        measured: "A balancer kept sending: 1,094 of 2,331 calls failed in a hang of 25 s.",
        unless: "A liveness answer that is meant as one.",
        set: "cluster_min_healthy_percentages: {my_service: {value: 1}} on Envoy's health_check filter, or this filter",
        check: Check::Whole(unconditional),
    },
];

/// A cluster and the endpoints that name it.
pub struct Ours<'t> {
    /// Its name.
    pub name: &'t str,
    /// The cluster.
    pub cluster: &'t Cluster<'t>,
    /// What each endpoint says of it.
    pub named: Vec<(&'t Endpoint<'t>, &'t Target<'t>)>,
}

impl Ours<'_> {
    /// Its name, and the endpoints if they are several.
    pub fn title(&self) -> String {
        let mut paths: Vec<&str> = self
            .named
            .iter()
            .map(|(endpoint, _)| endpoint.path.as_str())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        match paths.len() {
            0 | 1 => format!("cluster {:?}", self.name),
            _ => format!("cluster {:?} (of {})", self.name, paths.join(", ")),
        }
    }
}

/// The clusters that endpoints name and that are there, but for those that have no hosts of their own.
pub fn ours<'t>(case: &Case<'t>) -> Vec<Ours<'t>> {
    let mut all: Vec<Ours<'t>> = Vec::new();
    for endpoint in case.endpoints {
        for target in &endpoint.targets {
            if let Some(known) = all.iter_mut().find(|known| known.name == target.cluster) {
                known.named.push((endpoint, target));
            } else if let Some(cluster) = case.envoy.cluster(&target.cluster)
                && !matches!(cluster.kind, Kind::Hostless(_))
            {
                let name = target.cluster.as_str();
                all.push(Ours {
                    name,
                    cluster,
                    named: vec![(endpoint, target)],
                });
            }
        }
    }
    all
}

/// What a rule finds in our clusters, one by one.
fn each<'t>(case: &Case<'t>, find: impl Fn(&Ours<'t>) -> Option<Finding<'t>>) -> Vec<Finding<'t>> {
    ours(case).iter().filter_map(find).collect()
}

fn no_check<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each(case, |ours| {
        let node = ours.cluster.node;
        let eds = ours.cluster.kind == Kind::Eds;
        if ours.cluster.checks().next().is_some() || eds && follows_readiness(ours.name) {
            return None;
        }
        let what = format!("{} has no health_checks", ours.title());
        let ejects = node.number("outlier_detection.max_ejection_percent") == Some(100.0);
        Some(if eds {
            let then = "200 for ever after a stop, but for what EDS says of its hosts";
            Finding::warning(node, what).then(then)
        } else if ejects {
            let then =
                "200 after a stop until enough calls have failed, and again after each ejection";
            Finding::warning(node, what).then(then)
        } else {
            Finding::error(node, what)
        })
    })
}

fn panic_threshold<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each(case, |ours| {
        let cluster = ours.cluster;
        let said = cluster
            .node
            .number("common_lb_config.healthy_panic_threshold");
        let threshold = said.unwrap_or(50.0);
        let checked = cluster.checks().next().is_some();
        if !checked || threshold <= 0.0 || !cluster.may_have_several_hosts() {
            return None;
        }
        let fails_before = |target: &Target<'_>| match target.min {
            Min::Percent(percent) => percent >= threshold,
            Min::Hosts(hosts) if cluster.kind == Kind::Static => {
                hosts as f64 * 100.0 >= threshold * cluster.hosts().count() as f64
            }
            Min::Hosts(_) => false,
        };
        if ours.named.iter().all(|(_, target)| fails_before(target)) {
            return None;
        }
        let default = if said.is_none() { " (the default)" } else { "" };
        let what = format!(
            "{}: healthy_panic_threshold is {threshold} %{default}",
            ours.title()
        );
        let then = format!(
            "while fewer than {threshold} % of the hosts are alive, Envoy sends calls to dead ones as well, and the probe is 200"
        );
        let node = cluster
            .node
            .at("common_lb_config.healthy_panic_threshold")
            .unwrap_or(cluster.node);
        Some(Finding::warning(node, what).then(then))
    })
}

fn too_few_hosts<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for ours in ours(case) {
        let most = match ours.cluster.kind {
            Kind::Static => ours.cluster.hosts().count() as u64,
            Kind::LogicalDns => 1,
            _ => continue,
        };
        for (endpoint, target) in &ours.named {
            if let Min::Hosts(hosts) = target.min
                && hosts > most
            {
                let what = format!(
                    "{}: min_healthy is {hosts}, and cluster {:?} has {most} {}",
                    endpoint.path,
                    ours.name,
                    if most == 1 { "host" } else { "hosts" }
                );
                found.push(Finding::error(target.text, what).at_text("min_healthy"));
            }
        }
    }
    found
}

fn unknown_cluster<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for endpoint in case.endpoints.iter().filter(|_| !case.envoy.has_cds) {
        for target in &endpoint.targets {
            if case.envoy.cluster(&target.cluster).is_none() {
                let name = &target.cluster;
                let what = format!("{}: there is no cluster {name:?}", endpoint.path);
                let node = named_at(target.text, name);
                found.push(Finding::error(node, what).at_text(&format!("{name:?}")));
            }
        }
    }
    found
}

fn no_hosts<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    for endpoint in case.endpoints {
        for target in &endpoint.targets {
            let name = &target.cluster;
            if let Some(cluster) = case.envoy.cluster(name)
                && let Kind::Hostless(kind) = cluster.kind
            {
                let what = format!(
                    "{}: {name:?} is {kind}, which has no hosts of its own",
                    endpoint.path
                );
                let node = named_at(target.text, name);
                found.push(Finding::error(node, what).at_text(&format!("{name:?}")));
            }
        }
    }
    found
}

/// In a configuration that is an object, the text that is this name.
fn named_at<'t>(node: &'t Node, name: &str) -> &'t Node {
    fn search<'t>(node: &'t Node, name: &str) -> Option<&'t Node> {
        if node.text() == Some(name) {
            return Some(node);
        }
        let values = node.entries().map(|(_, value)| value);
        values
            .chain(node.items())
            .find_map(|value| search(value, name))
    }
    search(node, name).unwrap_or(node)
}

fn check_off<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each(case, |ours| {
        let field = "health_check_config.disable_active_health_check";
        let off = ours.cluster.hosts().find(|host| host.is_true(field))?;
        ours.cluster.checks().next()?;
        let what = format!("{}: a host has disable_active_health_check", ours.title());
        Some(Finding::error(off.at(field)?, what))
    })
}

fn unconditional<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    let judged = case
        .endpoints
        .iter()
        .any(|endpoint| !endpoint.targets.is_empty());
    let always = case
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.build == Build::Unconditional);
    always
        .filter(|endpoint| !(judged && endpoint.path == "/livez"))
        .map(|endpoint| {
            let by = match endpoint.name {
                "route" => "a direct_response",
                name => name,
            };
            let what = format!(
                "{}: {by} answers 200 and looks at no cluster",
                endpoint.path
            );
            Finding::warning(endpoint.node, what)
        })
        .collect()
}
