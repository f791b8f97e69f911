//! What is counted. Envoy shows the names below behind `wasmcustom.envoy_healthz.`; the `stats_tags`
//! of the shipped configurations make labels of `filter`, `code`, `result` and `path`.
//!
//! ```text
//! probes.filter.default.code.200.path./healthz
//! refreshes.filter.default.result.succeeded
//! transitions.filter.default.path./healthz
//! ```
//!
//! The path stands last, for it may hold dots. A counter is there from its first count on. Counts
//! are added up at the tick: a host call for each probe would show in how many can be answered.

use std::cell::Cell;

use healthz_core::answer::Response;

use crate::host::{Host, MetricKind};

pub(super) struct Metrics {
    /// In the configuration's order.
    endpoints: Vec<EndpointMetrics>,
    succeeded: Counter,
    failed: Counter,
}

struct EndpointMetrics {
    answered_200: Counter,
    answered_503: Counter,
    answered_405: Counter,
    transitions: Counter,
}

/// A counter's name, and what is still to be added to it.
struct Counter {
    name: String,
    pending: Cell<i64>,
}

impl Metrics {
    pub(super) fn new<'a>(name: &str, paths: impl Iterator<Item = &'a str>) -> Self {
        let refreshes = |result| {
            let name = format!("refreshes.filter.{name}.result.{result}");
            Counter::new(name)
        };
        let endpoint = |path: &str| {
            let path = label(path);
            let probes = |code| {
                let name = format!("probes.filter.{name}.code.{code}.path.{path}");
                Counter::new(name)
            };
            EndpointMetrics {
                answered_200: probes(200),
                answered_503: probes(503),
                answered_405: probes(405),
                transitions: Counter::new(format!("transitions.filter.{name}.path.{path}")),
            }
        };
        Self {
            endpoints: paths.map(endpoint).collect(),
            succeeded: refreshes("succeeded"),
            failed: refreshes("failed"),
        }
    }

    pub(super) fn count_probe(&self, endpoint: usize, response: &Response) {
        if let Some(endpoint) = self.endpoints.get(endpoint) {
            match response.code() {
                200 => endpoint.answered_200.count(),
                503 => endpoint.answered_503.count(),
                _ => endpoint.answered_405.count(),
            }
        }
    }

    pub(super) fn count_refresh(&self, succeeded: bool) {
        match succeeded {
            true => self.succeeded.count(),
            false => self.failed.count(),
        }
    }

    pub(super) fn count_transition(&self, endpoint: usize) {
        if let Some(endpoint) = self.endpoints.get(endpoint) {
            endpoint.transitions.count();
        }
    }

    /// Adds to the counters what has come since the last time.
    pub(super) fn flush(&self, host: &impl Host) {
        for endpoint in &self.endpoints {
            endpoint.answered_200.flush(host);
            endpoint.answered_503.flush(host);
            endpoint.answered_405.flush(host);
            endpoint.transitions.flush(host);
        }
        self.succeeded.flush(host);
        self.failed.flush(host);
        let memory = host.metric(MetricKind::Gauge, "vm_memory_bytes");
        host.record(memory, host.memory());
    }
}

/// A path as the last part of a metric's name, of which Envoy drops dots at the end.
pub(super) fn label(path: &str) -> String {
    let kept = path.trim_end_matches('.');
    let dropped = path.len() - kept.len();
    format!("{kept}{}", "%2E".repeat(dropped))
}

impl Counter {
    fn new(name: String) -> Self {
        let pending = Cell::new(0);
        Self { name, pending }
    }

    fn count(&self) {
        self.pending.set(self.pending.get() + 1);
    }

    fn flush(&self, host: &impl Host) {
        let count = self.pending.take();
        if count > 0 {
            host.add(host.metric(MetricKind::Counter, &self.name), count);
        }
    }
}
