//! How long a health check needs to find a stop or a hang: from six fields, of which each has a
//! default that is another field.

use crate::tree::Node;

/// Upper ends, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// `grpc`, `http` or `tcp`.
    pub check: &'static str,
    /// Between two checks of a healthy host.
    pub interval: f64,
    /// Until a backend that stopped is unhealthy.
    pub stop: f64,
    /// Until one that hangs is; never, if the kernel's accepting is enough for the check.
    pub hang: Option<f64>,
    /// Until one that came back is healthy.
    pub back: f64,
    /// The larger of the intervals before the cluster's first connection.
    pub idle_interval: f64,
    /// [`Detection::stop`] before that.
    pub idle_stop: f64,
    /// [`Detection::hang`] before that.
    pub idle_hang: Option<f64>,
}

/// Envoy's `no_traffic_interval` if nothing is said.
const NO_TRAFFIC_INTERVAL: f64 = 60.0;

impl Detection {
    /// Adds up the fields of a `config.core.v3.HealthCheck`.
    pub fn of(check: &Node) -> Self {
        let jitter = check.seconds("interval_jitter").unwrap_or(0.0);
        let percent = check.number("interval_jitter_percent").unwrap_or(0.0);
        let with_jitter = |interval: f64| interval * (1.0 + percent / 100.0) + jitter;
        let seconds = |field, default: f64| check.seconds(field).unwrap_or(default);
        let threshold = |field| check.number(field).unwrap_or(1.0).max(1.0);

        let interval = seconds("interval", 0.0);
        let unhealthy_interval = seconds("unhealthy_interval", interval);
        let unhealthy_edge = seconds("unhealthy_edge_interval", unhealthy_interval);
        let healthy_edge = seconds("healthy_edge_interval", interval);
        let no_traffic = seconds("no_traffic_interval", NO_TRAFFIC_INTERVAL);
        let no_traffic_healthy = seconds("no_traffic_healthy_interval", no_traffic);
        let (unhealthy, healthy) = (
            threshold("unhealthy_threshold"),
            threshold("healthy_threshold"),
        );

        let stop = with_jitter(interval) + (unhealthy - 1.0) * with_jitter(unhealthy_edge);
        let idle_stop =
            with_jitter(no_traffic_healthy) + (unhealthy - 1.0) * with_jitter(no_traffic);
        let kind = kind(check);
        let accepting_is_enough = kind == "tcp" && check.at("tcp_health_check.receive").is_none();
        let timeouts = unhealthy * seconds("timeout", 0.0);
        let hang = |stop: f64| (!accepting_is_enough).then_some(stop + timeouts);
        Self {
            check: kind,
            interval,
            stop,
            hang: hang(stop),
            back: with_jitter(unhealthy_interval) + (healthy - 1.0) * with_jitter(healthy_edge),
            idle_interval: no_traffic.max(no_traffic_healthy),
            idle_stop,
            idle_hang: hang(idle_stop),
        }
    }

    /// Whether the time before the cluster's first connection is another.
    pub fn idles(&self) -> bool {
        self.idle_stop > self.stop
    }
}

fn kind(check: &Node) -> &'static str {
    let kinds = [
        ("grpc_health_check", "grpc"),
        ("http_health_check", "http"),
        ("tcp_health_check", "tcp"),
    ];
    let found = kinds.iter().find(|(field, _)| check.get(field).is_some());
    found.map_or("custom", |(_, kind)| *kind)
}

/// A number of seconds as text: `1 s`, `0.5 s`.
pub fn seconds(seconds: f64) -> String {
    format!("{} s", (seconds * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse;

    #[test]
    fn the_rows_that_were_measured() {
        for (fields, stop, hang, back, idle) in [
            (
                "{timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {}}",
                2.0,
                Some(4.0),
                2.0,
                2.0,
            ),
            (
                "{timeout: 1s, interval: 10s, no_traffic_interval: 10s, unhealthy_threshold: 3, healthy_threshold: 1, grpc_health_check: {}}",
                30.0,
                Some(33.0),
                10.0,
                30.0,
            ),
            (
                "{timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_interval: 30s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {}}",
                31.0,
                Some(33.0),
                31.0,
                2.0,
            ),
            (
                "{timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, tcp_health_check: {}}",
                2.0,
                None,
                2.0,
                120.0,
            ),
            (
                "{timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_interval: 5s, unhealthy_edge_interval: 0.5s, healthy_edge_interval: 0.5s, unhealthy_threshold: 3, healthy_threshold: 2, http_health_check: {}}",
                2.0,
                Some(5.0),
                5.5,
                3.0,
            ),
            (
                "{timeout: 1s, interval: 1s, intervalJitter: 0.5s, interval_jitter_percent: 50, no_traffic_interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, custom_health_check: {}}",
                2.0,
                Some(3.0),
                2.0,
                2.0,
            ),
        ] {
            let tree = parse(fields.as_bytes()).unwrap();
            let found = Detection::of(&tree);
            assert_eq!(
                (found.stop, found.hang, found.back, found.idle_stop),
                (stop, hang, back, idle),
                "{fields}"
            );
        }
    }
}
