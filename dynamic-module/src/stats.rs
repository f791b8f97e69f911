//! Our metrics. Prometheus shows them as `envoy_healthz_...` if the module's `metrics_namespace` is
//! `healthz`.
//!
//! To add to a counter with labels costs Envoy as much as a twentieth of the whole probe. So probes and
//! Checks are counted here, and what has come is handed over by one that finds the last time
//! [`HAND_OVER`] ago: at once where probes are rare, and a hundred times a second in a flood.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use healthz_core::config::Endpoint;
use healthz_core::judgement::Health;

use crate::envoy::{Metric, Request, Setup};
use crate::record::Records;
use healthz_core::config::module::Config;

/// How long what is counted may wait for the next probe or Check, in milliseconds.
const HAND_OVER: u64 = 10;

/// What is counted and shown of a configuration's endpoints.
pub struct Stats {
    probes: Option<Metric>,
    checks: Option<Metric>,
    transitions: Option<Metric>,
    healthy: Option<Metric>,
    endpoints: Vec<EndpointStats>,
    /// When it is handed over next.
    due: AtomicU64,
}

/// One endpoint's.
struct EndpointStats {
    /// What is not handed over yet of each [`COUNTED`].
    waiting: [AtomicU64; COUNTED.len()],
    /// What this configuration has set the gauge to last, and 1 more; 0 if never. Its stats are its own:
    /// those of others go when they do.
    shown: AtomicU8,
}

/// How a probe or a Check was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// A probe, by the code.
    Probe(u32),
    /// A Check of gRPC, by the endpoint's health.
    Check(Health),
}

/// Each, with the last label of its counter.
const COUNTED: [(Counted, &str); 5] = [
    (Counted::Probe(200), "200"),
    (Counted::Probe(405), "405"),
    (Counted::Probe(503), "503"),
    (Counted::Check(Health::Healthy), "SERVING"),
    (Counted::Check(Health::Unhealthy), "NOT_SERVING"),
];

impl Stats {
    /// Makes the metrics; none is there before its first use.
    pub fn new(setup: &dyn Setup, endpoints: usize) -> Self {
        let endpoint = || EndpointStats {
            waiting: Default::default(),
            shown: AtomicU8::new(0),
        };
        Self {
            probes: setup.counter("probes", &["filter", "path", "code"]),
            checks: setup.counter("grpc_checks", &["filter", "path", "status"]),
            transitions: setup.counter("transitions", &["filter", "path"]),
            healthy: setup.gauge("healthy", &["filter", "path"]),
            endpoints: (0..endpoints).map(|_| endpoint()).collect(),
            due: AtomicU64::new(0),
        }
    }

    /// Counts a probe or a Check of an endpoint.
    pub fn count(&self, config: &Config, endpoint: usize, what: Counted, request: &dyn Request) {
        let place = COUNTED.iter().position(|(known, _)| *known == what);
        let stats = self.endpoints.get(endpoint);
        if let Some(waiting) = place.and_then(|place| stats?.waiting.get(place)) {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        let (now, due) = (now(), self.due.load(Ordering::Relaxed));
        let next = now + HAND_OVER;
        let mine = |due| {
            self.due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        if now >= due && mine(due).is_ok() {
            self.hand_over(config, request);
        }
    }

    fn hand_over(&self, config: &Config, request: &dyn Request) {
        for (endpoint, stats) in config.endpoints.iter().zip(&self.endpoints) {
            for ((what, label), waiting) in COUNTED.iter().zip(&stats.waiting) {
                if waiting.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                let counter = match what {
                    Counted::Probe(_) => self.probes,
                    Counted::Check(_) => self.checks,
                };
                let count = waiting.swap(0, Ordering::Relaxed);
                if let Some(counter) = counter {
                    let labels = [config.name.as_str(), &endpoint.path, label];
                    request.count(counter, &labels, count);
                }
            }
        }
    }

    /// Counts a transition of an endpoint.
    pub fn transition(&self, config: &Config, path: &str, request: &dyn Request) {
        if let Some(counter) = self.transitions {
            request.count(counter, &[config.name.as_str(), path], 1);
        }
    }

    /// Sets an endpoint's gauge, unless it shows this already or is no longer this configuration's. The
    /// counters begin with it, at 0.
    pub fn show(
        &self,
        config: &Config,
        endpoint: usize,
        health: Health,
        records: &Records,
        request: &dyn Request,
    ) {
        let value = u8::from(health == Health::Healthy);
        let (Some(stats), Some(shown)) = (self.endpoints.get(endpoint), records.shown(endpoint))
        else {
            return;
        };
        let new = value + 1;
        let is_old = |shown: &AtomicU8| shown.load(Ordering::Relaxed) != new;
        if !(is_old(&stats.shown) || is_old(shown)) || !records.are_newest(endpoint) {
            return;
        }
        let before = stats.shown.swap(new, Ordering::Relaxed);
        if shown.swap(new, Ordering::Relaxed) == new && before == new {
            return;
        }
        let Some(Endpoint { path, .. }) = config.endpoints.get(endpoint) else {
            return;
        };
        if let Some(gauge) = self.healthy {
            request.set(gauge, &[config.name.as_str(), path], u64::from(value));
        }
        if before == 0 {
            self.begin(config, endpoint, path, request);
        }
    }

    /// Makes an endpoint's counters. A series that begins with its first event hides it from `increase`.
    fn begin(&self, config: &Config, endpoint: usize, path: &str, request: &dyn Request) {
        if let Some(counter) = self.transitions {
            request.count(counter, &[config.name.as_str(), path], 0);
        }
        let is_checked = config.services.values().any(|&of| of == endpoint);
        for (what, label) in COUNTED {
            let counter = match what {
                Counted::Probe(_) => self.probes,
                Counted::Check(_) => self.checks.filter(|_| is_checked),
            };
            if let Some(counter) = counter {
                request.count(counter, &[config.name.as_str(), path, label], 0);
            }
        }
    }
}

/// Milliseconds since some time before the first probe.
pub fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX >> 3)
}
