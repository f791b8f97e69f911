//! Our metrics. Prometheus shows them as `envoy_healthz_...` if the module's `metrics_namespace` is
//! `healthz`.
//!
//! To add to a counter with labels costs Envoy as much as a twentieth of the whole probe. So probes and
//! Checks are counted here, and what has come is handed over by one that finds the last time
//! [`HAND_OVER`] ago: at once where probes are rare, and twenty times a second in a flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use healthz_core::answer::Outcome;
use healthz_core::config::module::Config;
use healthz_core::config::{Endpoint, FilterName};
use healthz_core::judgement::Health;

use crate::envoy::{Metric, Request, Setup};
use crate::shared::Shared;

/// How long what is counted may wait for the next probe or Check, in milliseconds.
const HAND_OVER: u64 = 50;

/// What is counted and shown of a configuration's endpoints.
pub struct Stats {
    /// The label `filter`.
    name: FilterName,
    probes: Metric,
    checks: Metric,
    transitions: Metric,
    healthy: Metric,
    build_info: Metric,
    /// In the configuration's order.
    endpoints: Vec<EndpointStats>,
    /// When it is handed over next.
    due: AtomicU64,
}

/// One endpoint's.
struct EndpointStats {
    /// The label `path`.
    path: String,
    /// Whether a gRPC service has it.
    is_checked: bool,
    waiting: Arc<Waiting>,
}

/// What is not handed over yet of each [`COUNTED`], of whichever configuration: what one leaves when it ends, the
/// next one of the same name and path hands over.
type Waiting = [AtomicU64; COUNTED.len()];

static WAITING: Shared<(String, String), Waiting> = Shared::empty();

/// How a probe or a Check was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// A probe.
    Probe(Outcome),
    /// A Check of gRPC.
    Check(Health),
}

/// Each, with the last label of its counter.
const COUNTED: [(Counted, &str); 5] = [
    (Counted::Probe(Outcome::Health(Health::Healthy)), "200"),
    (Counted::Probe(Outcome::MethodNotAllowed), "405"),
    (Counted::Probe(Outcome::Health(Health::Unhealthy)), "503"),
    (Counted::Check(Health::Healthy), "SERVING"),
    (Counted::Check(Health::Unhealthy), "NOT_SERVING"),
];

impl Stats {
    /// Makes the metrics; none is there before its first use.
    pub fn new(setup: &dyn Setup, config: &Config) -> Self {
        let endpoint = |(index, endpoint): (usize, &Endpoint)| EndpointStats {
            path: endpoint.label(),
            is_checked: config.services.values().any(|&of| of == index),
            waiting: WAITING.of((config.name.to_string(), endpoint.path.clone())),
        };
        let endpoints = config.endpoints.iter().enumerate();
        Self {
            name: config.name.clone(),
            probes: setup.counter("probes", &["filter", "path", "code"]),
            checks: setup.counter("grpc_checks", &["filter", "path", "status"]),
            transitions: setup.counter("transitions", &["filter", "path"]),
            healthy: setup.gauge("healthy", &["filter", "path"]),
            build_info: setup.gauge("build_info", &["filter", "version"]),
            endpoints: endpoints.map(endpoint).collect(),
            due: AtomicU64::new(0),
        }
    }

    /// The filter's name.
    pub fn name(&self) -> &FilterName {
        &self.name
    }

    /// Counts a probe or a Check of an endpoint, at this time.
    pub fn count(&self, endpoint: usize, what: Counted, request: &dyn Request, now: u64) {
        let place = COUNTED.iter().position(|(known, _)| *known == what);
        let stats = self.endpoints.get(endpoint);
        if let Some(waiting) = place.and_then(|place| stats?.waiting.get(place)) {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        let next = |due| (now >= due).then_some(now + HAND_OVER);
        let mine = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        if mine.is_ok() {
            self.hand_over(request);
        }
    }

    fn hand_over(&self, request: &dyn Request) {
        for endpoint in &self.endpoints {
            for ((what, label), waiting) in COUNTED.iter().zip(endpoint.waiting.iter()) {
                if waiting.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                let count = waiting.swap(0, Ordering::Relaxed);
                let labels = [self.name.as_str(), &endpoint.path, label];
                request.count(self.counter(*what), &labels, count);
            }
        }
    }

    fn counter(&self, what: Counted) -> Metric {
        match what {
            Counted::Probe(_) => self.probes,
            Counted::Check(_) => self.checks,
        }
    }

    /// Counts a transition of an endpoint.
    pub fn transition(&self, endpoint: usize, request: &dyn Request) {
        if let Some(EndpointStats { path, .. }) = self.endpoints.get(endpoint) {
            request.count(self.transitions, &[self.name.as_str(), path], 1);
        }
    }

    /// Sets an endpoint's gauge. Its counters begin with that, at 0: a series that begins with its first
    /// event hides it from `increase`.
    pub fn show(&self, endpoint: usize, healthy: bool, first: bool, request: &dyn Request) {
        let Some(endpoint) = self.endpoints.get(endpoint) else {
            return;
        };
        let labels = [self.name.as_str(), &endpoint.path];
        request.set(self.healthy, &labels, u64::from(healthy));
        if !first {
            return;
        }
        let version = [self.name.as_str(), env!("CARGO_PKG_VERSION")];
        request.set(self.build_info, &version, 1);
        request.count(self.transitions, &labels, 0);
        for (what, label) in COUNTED {
            if endpoint.is_checked || matches!(what, Counted::Probe(_)) {
                let labels = [self.name.as_str(), &endpoint.path, label];
                request.count(self.counter(what), &labels, 0);
            }
        }
    }
}
