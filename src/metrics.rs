//! What is counted. Envoy shows the names below behind `wasmcustom.envoy_healthz.`; the `stats_tags`
//! of the shipped configurations make labels of `filter`, `code`, `result`, `path` and `version`.
//!
//! ```text
//! build_info.filter.default.version.0.1.0
//! probes.filter.default.code.200.path./healthz
//! refreshes.filter.default.result.succeeded
//! transitions.filter.default.path./healthz
//! healthy.filter.default.path./healthz
//! snapshot_timestamp_seconds.filter.default
//! ```
//!
//! Path and version come last, for they may hold dots. A counter exists from its first count on. Counts
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
    /// Of the gauge of this version: 1, and 0 once it has gone. A configuration of it that is left writes 1 again.
    build_info: String,
    /// Of the gauge that says when the last good snapshot was taken.
    snapshot: String,
    /// That time, by the monotonic clock, if the gauge does not show it yet.
    taken: Option<Duration>,
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

const VERSION: &str = env!("CARGO_PKG_VERSION");

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
            build_info: format!("build_info.filter.{name}.version.{VERSION}"),
            snapshot: format!("snapshot_timestamp_seconds.filter.{name}"),
            taken: None,
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

    /// Notes when the last good snapshot was taken. Calls of several workers can overlap: of two snapshots that
    /// are no further apart than a call may take, the older one may be shown.
    pub fn snapshot(&mut self, taken: Duration) {
        self.taken = Some(taken);
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

    /// Adds to Envoy's counters what has come since the last time, and sets the gauges that no answer changes.
    pub fn flush(&mut self, envoy: &impl Envoy) {
        set(envoy, "vm_memory_bytes", envoy.memory());
        set(envoy, &self.build_info, 1);
        if let Some(taken) = self.taken.take() {
            let age = envoy.now().saturating_sub(taken);
            let taken = envoy.unix_time().saturating_sub(age);
            set(envoy, &self.snapshot, taken.as_secs());
        }
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

    /// The configuration is gone, and perhaps this version.
    pub fn stop(&mut self, envoy: &impl Envoy) {
        self.flush(envoy);
        set(envoy, &self.build_info, 0);
    }
}

/// Sets the gauge of this name.
pub fn set(envoy: &impl Envoy, gauge: &str, value: u64) {
    envoy.set(envoy.metric(MetricKind::Gauge, gauge), value);
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
