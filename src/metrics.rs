//! What is counted. Envoy shows the names below behind `wasmcustom.envoy_healthz.`; the `stats_tags`
//! of the shipped configurations make labels of `filter`, `code`, `result` and `path`.
//!
//! ```text
//! probes.filter.default.code.200.path./healthz
//! refreshes.filter.default.result.succeeded
//! transitions.filter.default.path./healthz
//! healthy.filter.default.path./healthz
//! ```
//!
//! The path comes last, for it may hold dots. A counter exists from its first count on. Counts
//! are added up at the tick: a host call for each probe would show in how many can be answered.

use std::time::Duration;

use healthz_core::answer::Outcome;
use healthz_core::config::Endpoint;
use healthz_core::judgement::Health;

use crate::envoy::{Envoy, MetricKind};

/// The counters of a configuration.
pub struct Metrics {
    /// In the configuration's order.
    endpoints: Vec<EndpointMetrics>,
    succeeded: Counter,
    failed: Counter,
    /// When what was counted is to be handed over; `None` while nothing was.
    due: Option<Duration>,
}

struct EndpointMetrics {
    healthy: Counter,
    unhealthy: Counter,
    method_not_allowed: Counter,
    transitions: Counter,
}

/// A counter's name, and what is still to be added to it.
struct Counter {
    name: String,
    pending: i64,
}

/// How long a count may wait for the tick.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

impl Metrics {
    /// For a filter of this name and these endpoints.
    pub fn new(name: &str, endpoints: &[Endpoint]) -> Self {
        let refreshes = |result| Counter::new(format!("refreshes.filter.{name}.result.{result}"));
        let endpoint = |endpoint: &Endpoint| {
            let path = endpoint.label();
            let probes = |code| {
                let name = format!("probes.filter.{name}.code.{code}.path.{path}");
                Counter::new(name)
            };
            EndpointMetrics {
                healthy: probes(200),
                unhealthy: probes(503),
                method_not_allowed: probes(405),
                transitions: Counter::new(format!("transitions.filter.{name}.path.{path}")),
            }
        };
        Self {
            endpoints: endpoints.iter().map(endpoint).collect(),
            succeeded: refreshes("succeeded"),
            failed: refreshes("failed"),
            due: None,
        }
    }

    /// Counts an answer to a probe of an endpoint.
    pub fn probe(&mut self, endpoint: usize, outcome: Outcome, now: Duration) {
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            let counter = match outcome {
                Outcome::Health(Health::Healthy) => &mut endpoint.healthy,
                Outcome::Health(Health::Unhealthy) | Outcome::Fault => &mut endpoint.unhealthy,
                Outcome::MethodNotAllowed => &mut endpoint.method_not_allowed,
            };
            counter.pending += 1;
            self.due.get_or_insert(now + LONGEST_WAIT);
        }
    }

    /// Counts a refresh.
    pub fn refresh(&mut self, succeeded: bool, now: Duration) {
        let counter = match succeeded {
            true => &mut self.succeeded,
            false => &mut self.failed,
        };
        counter.pending += 1;
        self.due.get_or_insert(now + LONGEST_WAIT);
    }

    /// Counts a transition of an endpoint.
    pub fn transition(&mut self, endpoint: usize, now: Duration) {
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            endpoint.transitions.pending += 1;
            self.due.get_or_insert(now + LONGEST_WAIT);
        }
    }

    /// When counts are to be handed over.
    pub fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Adds to Envoy's counters what has come since the last time, and shows how much memory there is.
    pub fn flush(&mut self, envoy: &impl Envoy) {
        let memory = envoy.metric(MetricKind::Gauge, "vm_memory_bytes");
        envoy.set(memory, envoy.memory());
        if self.due.take().is_none() {
            return;
        }
        for endpoint in &mut self.endpoints {
            endpoint.healthy.flush(envoy);
            endpoint.unhealthy.flush(envoy);
            endpoint.method_not_allowed.flush(envoy);
            endpoint.transitions.flush(envoy);
        }
        self.succeeded.flush(envoy);
        self.failed.flush(envoy);
    }
}

impl Counter {
    fn new(name: String) -> Self {
        Self { name, pending: 0 }
    }

    fn flush(&mut self, envoy: &impl Envoy) {
        let count = std::mem::take(&mut self.pending);
        if count > 0 {
            envoy.add(envoy.metric(MetricKind::Counter, &self.name), count);
        }
    }
}
