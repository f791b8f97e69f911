//! HZ1xx: what Envoy itself can know of the clusters that an endpoint names.

use crate::detection::{Detection, seconds};
use crate::endpoint::{Build, Endpoint, Min, Target};
use crate::envoy::{Cluster, Kind};
use crate::rules::{Case, Check, Finding, Rule};
use crate::tree::Node;

/// The rules.
pub const RULES: [Rule; 13] = [
    Rule {
        id: "HZ101",
        title: "no health check",
        severity: "error; warning for EDS, or with outlier_detection of max_ejection_percent: 100",
        when: "A cluster that an endpoint names has no `health_checks`.",
        then: "200 for ever, with nothing on the port",
        measured: "Backend stopped: 200 for ever. With `outlier_detection: {}` and one host: still 200 after 14,736 failed calls in 25 s, for the default max_ejection_percent of 10 ejects nobody.",
        unless: "EDS may send a health status of its own (Kubernetes readiness, by Envoy Gateway or Istio).",
        set: "health_checks: [{timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {}}]",
        check: Check::Whole(no_check),
    },
    Rule {
        id: "HZ102",
        title: "slow until the first call",
        severity: "warning",
        when: "The larger of `no_traffic_interval` (60 s if it is not said) and `no_traffic_healthy_interval` is over `interval` and over 5 s.",
        then: "until the cluster's first call, checks come seldom",
        measured: "interval 1 s, threshold 2, no_traffic_interval not said: 200 for 120.0 s after a stop, and 503 for 119.9 s after a start, at each rollout.",
        unless: "A cluster that has had a connection is not concerned.",
        set: "no_traffic_interval: as interval",
        check: Check::Whole(no_traffic_interval),
    },
    Rule {
        id: "HZ103",
        title: "slow detection",
        severity: "warning",
        when: "A hang is found later than `--max-detection` (15 s) allows, `max_age_ms` added.",
        then: "200 for that long after a hang",
        measured: "interval 10 s, threshold 3: 200 for 29.9 s. unhealthy_interval 30 s: 31.0 s, for it counts from the first failed check on. `max_age_ms` 30000: 30.0 s.",
        unless: "The limit is yours: `--max-detection`.",
        set: "a shorter interval, unhealthy_interval, timeout or max_age_ms, or a lower unhealthy_threshold",
        check: Check::Whole(slow_detection),
    },
    Rule {
        id: "HZ104",
        title: "panic",
        severity: "warning",
        when: "A cluster with health checks can have several hosts (EDS, STRICT_DNS, or more than one endpoint), and `healthy_panic_threshold` is not 0 (50 % if it is not said). Silent if the endpoint fails before the panic begins: `min_healthy` or `cluster_min_healthy_percentages` at least the threshold.",
        then: "200 with few hosts alive, while calls go to the dead ones as well",
        measured: "1 of 3 alive: probe 200, 40 of 60 calls fail; 0 of 60 with a threshold of 0.",
        unless: "Who wants the panic ignores it.",
        set: "common_lb_config: {healthy_panic_threshold: {value: 0}}",
        check: Check::Whole(panic_threshold),
    },
    Rule {
        id: "HZ106",
        title: "HTTP/1.1 check of an HTTP/2 backend",
        severity: "warning",
        when: "`http_health_check` without `codec_client_type: HTTP2`, on a cluster with explicit `http2_protocol_options`. Silent if the check goes to a port or an address of its own.",
        then: "503 for ever: the check speaks HTTP/1.1 to a backend that speaks HTTP/2",
        measured: "A gRPC server: the check never passes, 503 for ever.",
        unless: "A backend that takes both on one port.",
        set: "codec_client_type: HTTP2",
        check: Check::Whole(http1_check),
    },
    Rule {
        id: "HZ107",
        title: "the port is checked, not the service",
        severity: "warning",
        when: "`tcp_health_check` without `receive`, on a cluster that speaks HTTP/2.",
        then: "a backend that hangs: 200 for ever, for the kernel takes its connections",
        measured: "Backend stopped by SIGSTOP: 200 for ever, calls DEADLINE_EXCEEDED. With a gRPC check: 503 after 4.0 s.",
        unless: "A service without a health service: `# doctor: ignore HZ107 no health service`.",
        set: "grpc_health_check: {} if the service has grpc.health.v1.Health; else keep it: # doctor: ignore HZ107 no health service",
        check: Check::Whole(port_check),
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
        id: "HZ114",
        title: "check without ALPN",
        severity: "warning",
        when: "The cluster speaks TLS, its check is by gRPC or HTTP/2, and neither `tls_options.alpn_protocols` of the check nor the TLS context's own is said. Silent if the check goes to a port or an address of its own.",
        then: "503 for ever from servers that insist on ALPN, while calls are served",
        measured: "gRPC's C core (grpcio 1.85): each check fails, 503 for ever, calls served. grpc-go from 1.67 on insists too.",
        unless: "Servers that do not insist.",
        set: "tls_options: {alpn_protocols: [h2]}",
        check: Check::Whole(check_without_alpn),
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
    Rule {
        id: "HZ120",
        title: "the cluster's name as authority",
        severity: "warning",
        when: "`grpc_health_check` without `authority`, on a cluster whose name holds `/`, `|`, `::` or a space, as those of Envoy Gateway and Istio do. Envoy sends the name as `:authority`.",
        then: "503 for ever from Rust backends (tonic), which refuse such an authority; calls are served in panic",
        measured: "Rust's h2 answers each check PROTOCOL_ERROR: 503 for ever.",
        unless: "grpc-go and gRPC's C core take such names.",
        set: "grpc_health_check: {authority: my-service}",
        check: Check::Whole(authority),
    },
];

/// A cluster and the endpoints that name it.
struct Ours<'t> {
    name: &'t str,
    cluster: &'t Cluster<'t>,
    named: Vec<(&'t Endpoint<'t>, &'t Target<'t>)>,
}

impl Ours<'_> {
    /// Its name, and the endpoints if they are several.
    fn title(&self) -> String {
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
fn ours<'t>(case: &Case<'t>) -> Vec<Ours<'t>> {
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

/// What a rule finds in our clusters' health checks.
fn each_check<'t>(
    case: &Case<'t>,
    find: impl Fn(&Ours<'t>, &'t Node) -> Option<Finding<'t>>,
) -> Vec<Finding<'t>> {
    let ours = ours(case);
    ours.iter()
        .flat_map(|ours| ours.cluster.checks().filter_map(|check| find(ours, check)))
        .collect()
}

fn no_check<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each(case, |ours| {
        let node = ours.cluster.node;
        if ours.cluster.checks().next().is_some() {
            return None;
        }
        let what = format!("{} has no health_checks", ours.title());
        let ejects = node.number("outlier_detection.max_ejection_percent") == Some(100.0);
        Some(if ours.cluster.kind == Kind::Eds {
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

fn no_traffic_interval<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let times = Detection::of(check);
        if times.idle_interval <= times.interval.max(5.0) {
            return None;
        }
        let field = ["no_traffic_interval", "no_traffic_healthy_interval"]
            .into_iter()
            .find(|field| check.seconds(field) == Some(times.idle_interval));
        let what = match field {
            Some(field) => format!(
                "{}: {field} is {}, until its first call",
                ours.title(),
                seconds(times.idle_interval)
            ),
            None => format!(
                "{}: no_traffic_interval is 60 s (the default), until its first call",
                ours.title()
            ),
        };
        let back = check.number("healthy_threshold").unwrap_or(1.0) * times.idle_interval;
        let then = format!(
            "200 up to {} after a stop; 503 up to {} after a start, while no call has come",
            seconds(times.idle_stop),
            seconds(back)
        );
        let node = field.and_then(|field| check.get(field)).unwrap_or(check);
        let set = format!(
            "no_traffic_interval: {}",
            seconds(times.interval).replace(' ', "")
        );
        Some(Finding::warning(node, what).then(then).set(set))
    })
}

fn slow_detection<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let times = Detection::of(check);
        let ages = ours.named.iter().map(|(endpoint, _)| endpoint.max_age);
        let age = ages.fold(0.0, f64::max);
        let found = times.hang.unwrap_or(times.stop) + age;
        if found <= case.options.max_detection {
            return None;
        }
        let trouble = if times.hang.is_some() { "hang" } else { "stop" };
        let what = format!(
            "{}: a {trouble} is found within {}, later than {}",
            ours.title(),
            seconds(found),
            seconds(case.options.max_detection)
        );
        let unhealthy = check
            .seconds("unhealthy_interval")
            .unwrap_or(times.interval);
        let then = match (unhealthy > times.interval, age > 1.0) {
            (true, _) => format!(
                "200 up to {} after a {trouble}: unhealthy_interval ({}) counts from the first failed check on",
                seconds(found),
                seconds(unhealthy)
            ),
            (_, true) => format!(
                "200 up to {} after a {trouble}, {} of them by the answer's age (max_age_ms)",
                seconds(found),
                seconds(age)
            ),
            _ => format!("200 up to {} after a {trouble}", seconds(found)),
        };
        Some(Finding::warning(check, what).then(then))
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
            "fewer than {threshold} % of the hosts alive: 200, while calls go to the dead ones as well"
        );
        let node = cluster
            .node
            .at("common_lb_config.healthy_panic_threshold")
            .unwrap_or(cluster.node);
        Some(Finding::warning(node, what).then(then))
    })
}

fn http1_check<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let http = check.get("http_health_check")?;
        let http2 = http.str("codec_client_type") == Some("HTTP2");
        if http2 || !ours.cluster.is_http2_only() || ours.cluster.is_checked_elsewhere() {
            return None;
        }
        let what = format!(
            "{}: http_health_check speaks HTTP/1.1, the cluster HTTP/2",
            ours.title()
        );
        Some(Finding::warning(http, what))
    })
}

fn port_check<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let tcp = check.get("tcp_health_check")?;
        if tcp.get("receive").is_some() || !ours.cluster.may_speak_http2() {
            return None;
        }
        let what = format!(
            "{}: tcp_health_check looks at the port, not at the service",
            ours.title()
        );
        Some(Finding::warning(tcp, what))
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

fn check_without_alpn<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let tls = ours.cluster.node.at("transport_socket.typed_config")?;
        let http2 = check.get("grpc_health_check").is_some()
            || check.str("http_health_check.codec_client_type") == Some("HTTP2");
        let said = check.list("tls_options.alpn_protocols").next().is_some()
            || tls
                .list("common_tls_context.alpn_protocols")
                .next()
                .is_some();
        let concerned = tls.is_a("tls.v3.UpstreamTlsContext") && http2 && !said;
        if !concerned || ours.cluster.is_checked_elsewhere() {
            return None;
        }
        let what = format!(
            "{}: the check speaks HTTP/2 over TLS and offers no ALPN",
            ours.title()
        );
        Some(Finding::warning(check, what))
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

fn authority<'t>(case: &Case<'t>) -> Vec<Finding<'t>> {
    each_check(case, |ours, check| {
        let grpc = check.get("grpc_health_check")?;
        let odd = ["/", "|", "::", " "]
            .iter()
            .any(|part| ours.name.contains(part));
        let named = |host: &Node| host.str("health_check_config.hostname").is_some();
        let all_named = ours.cluster.hosts().next().is_some() && ours.cluster.hosts().all(named);
        if !odd || grpc.str("authority").is_some() || all_named {
            return None;
        }
        let what = format!(
            "{}: its gRPC check sends this name as :authority",
            ours.title()
        );
        Some(Finding::warning(grpc, what))
    })
}
