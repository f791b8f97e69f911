//! HZ1xx: what the health checks look at, and when.

use crate::detection::{Detection, seconds};
use crate::rules::clusters::{Ours, ours};
use crate::rules::{Case, Check, Finding, Rule};
use crate::tree::Node;

/// The rules.
pub const RULES: [Rule; 6] = [
    Rule {
        id: "HZ102",
        title: "slow until the first call",
        severity: "warning",
        when: "The larger of `no_traffic_interval` (60 s by default) and `no_traffic_healthy_interval` is over `interval` and over 5 s.",
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
        then: "a backend that hangs still accepts connections: /healthz is 200 for ever",
        measured: "Backend stopped by SIGSTOP: 200 for ever, calls DEADLINE_EXCEEDED. With a gRPC check: 503 after 4.0 s.",
        unless: "A service without a health service: `# doctor: ignore HZ107 no health service`.",
        set: "grpc_health_check: {} instead of tcp_health_check, if the service has grpc.health.v1.Health; otherwise end this line with: # doctor: ignore HZ107 no health service",
        check: Check::Whole(port_check),
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
                "{}: {field} is {}, which holds until Envoy sends it a first request",
                ours.title(),
                seconds(times.idle_interval)
            ),
            None => format!(
                "{}: no_traffic_interval is 60 s (the default), which holds until Envoy sends it a first request",
                ours.title()
            ),
        };
        let back = check.number("healthy_threshold").unwrap_or(1.0) * times.idle_interval;
        let then = format!(
            "until then /healthz is late: still 200 up to {} after a stop, still 503 up to {} after a start",
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
