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
use healthz_core::config::wasm::Config;
use healthz_core::config::{Endpoint, FilterName};

use crate::envoy::Envoy;

/// The counters of a configuration, and those gauges that no answer changes.
pub struct Metrics {
    name: FilterName,
    /// The label `path` of each endpoint.
    paths: Vec<String>,
    /// What is still to be added to counters.
    counts: Vec<(Counted, i64)>,
    /// When the last good snapshot was taken, by the monotonic clock, if its gauge does not show that yet.
    taken: Option<Duration>,
    /// When this is to be handed over; `None` while nothing was counted.
    due: Option<Duration>,
}

/// What is counted; an endpoint by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// An answer to a probe of this endpoint.
    Probe(usize, Outcome),
    /// A transition of this endpoint.
    Transition(usize),
    /// A refresh; whether it succeeded.
    Refresh(bool),
}

/// How long a count may wait for the tick.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

impl Metrics {
    /// For a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            name: config.name.clone(),
            paths: config.endpoints.iter().map(Endpoint::label).collect(),
            counts: Vec::new(),
            taken: None,
            due: None,
        }
    }

    /// Counts one more.
    pub fn count(&mut self, what: Counted, now: Duration) {
        match self.counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((what, 1)),
        }
        self.due.get_or_insert(now + LONGEST_WAIT);
    }

    /// Notes when the last good snapshot was taken. Calls of several workers can overlap: of two snapshots that
    /// are no further apart than a call may take, the older one may be shown.
    pub fn snapshot(&mut self, taken: Duration) {
        self.taken = Some(taken);
    }

    /// When counts are to be handed over.
    pub fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Adds to Envoy's counters what has come since the last time, and sets the gauges.
    pub fn flush(&mut self, envoy: &impl Envoy) {
        self.due = None;
        envoy.set("vm_memory_bytes", envoy.memory());
        envoy.set(&self.build_info(), 1);
        if let Some(taken) = self.taken.take() {
            let age = envoy.now().saturating_sub(taken);
            let taken = envoy.unix_time().saturating_sub(age);
            let gauge = format!("snapshot_timestamp_seconds.filter.{}", self.name);
            envoy.set(&gauge, taken.as_secs());
        }
        for (what, count) in std::mem::take(&mut self.counts) {
            envoy.add(&self.counter(what), count);
        }
    }

    /// The configuration is gone, and perhaps this version: one of it that is left says so at its next tick.
    pub fn stop(&mut self, envoy: &impl Envoy) {
        self.flush(envoy);
        envoy.set(&self.build_info(), 0);
    }

    fn build_info(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        format!("build_info.filter.{}.version.{version}", self.name)
    }

    fn counter(&self, what: Counted) -> String {
        let name = &self.name;
        let path = |endpoint: usize| self.paths.get(endpoint).map_or("", String::as_str);
        match what {
            Counted::Probe(endpoint, outcome) => {
                let (code, path) = (outcome.status(), path(endpoint));
                format!("probes.filter.{name}.code.{code}.path.{path}")
            }
            Counted::Transition(endpoint) => {
                format!("transitions.filter.{name}.path.{}", path(endpoint))
            }
            Counted::Refresh(succeeded) => {
                let result = if succeeded { "succeeded" } else { "failed" };
                format!("refreshes.filter.{name}.result.{result}")
            }
        }
    }
}
