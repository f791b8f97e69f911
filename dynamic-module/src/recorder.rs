//! What is said of answers: lines of the log, counters and the gauge, once for all workers.
//!
//! Each filter name and path has one state for the whole process, whichever listener or configuration answers.
//! It goes with the last configuration that has the path.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use healthz_core::answer::Outcome;
use healthz_core::config::module::Config;
use healthz_core::judgement::{Health, Verdict};
use healthz_core::state::{News, State, update};

use crate::clock::now;
use crate::envoy::{Request, Setup};
use crate::shared::Shared;
use crate::stats::{Counted, Stats};

/// How often the gauge is written again while somebody asks, in milliseconds: Envoy frees it with the last
/// configuration that has written it.
const SHOW_PERIOD: u64 = 1000;

/// What is said of one configuration's answers.
pub struct Recorder {
    stats: Stats,
    /// In the configuration's order.
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    slot: Arc<Slot>,
    /// When this configuration is to write the gauge next; 0 if it has not yet.
    show_at: AtomicU64,
}

/// What was last answered for a filter name and path.
#[derive(Default)]
struct Slot {
    state: Mutex<Option<State>>,
    /// Whether it is healthy, for a look without the lock.
    healthy: AtomicBool,
    /// The last message of a Watch came too soon after a change to be recorded, and nothing has been recorded
    /// since.
    postponed: AtomicBool,
}

static SLOTS: Shared<(String, String), Slot> = Shared::empty();

impl Recorder {
    /// Makes the metrics; none is shown before its first use.
    pub fn new(setup: &dyn Setup, config: &Config) -> Self {
        let endpoint = |path: &str| Endpoint {
            slot: SLOTS.of((config.name.to_string(), path.to_owned())),
            show_at: AtomicU64::new(0),
        };
        let endpoints = config.endpoints.iter();
        Self {
            stats: Stats::new(setup, config),
            endpoints: endpoints.map(|of| endpoint(&of.path)).collect(),
        }
    }

    /// Counts the answer to a method that is not answered otherwise.
    pub fn method_not_allowed(&self, index: usize, request: &dyn Request) {
        let counted = Counted::Probe(Outcome::MethodNotAllowed);
        self.stats.count(index, counted, request, now());
    }

    /// Counts and records the answer to a probe or a Check.
    pub fn answer(
        &self,
        index: usize,
        verdict: &Verdict<'_>,
        counted: Counted,
        request: &dyn Request,
    ) {
        let now = now();
        self.stats.count(index, counted, request, now);
        self.record(index, verdict, request, now);
    }

    /// Records a message of a Watch. One that comes too soon after a change waits for
    /// [`Self::postponed_message`].
    pub fn message(&self, index: usize, verdict: &Verdict<'_>, request: &dyn Request) {
        self.record(index, verdict, request, now());
        if let Some(Endpoint { slot, .. }) = self.endpoints.get(index) {
            let postponed = !slot.says(verdict.health);
            slot.postponed.store(postponed, Ordering::Relaxed);
        }
    }

    /// Records what a message of a Watch said that came too soon, unless something else has been recorded
    /// since. A Watch calls it at each tick.
    pub fn postponed_message(&self, index: usize, verdict: &Verdict<'_>, request: &dyn Request) {
        if let Some(Endpoint { slot, .. }) = self.endpoints.get(index)
            && slot.postponed.load(Ordering::Relaxed)
            && !slot.says(verdict.health)
        {
            self.message(index, verdict, request);
        }
    }

    fn record(&self, index: usize, verdict: &Verdict<'_>, request: &dyn Request, now: u64) {
        let Some(endpoint) = self.endpoints.get(index) else {
            return;
        };
        let slot = &endpoint.slot;
        let news = slot.record(verdict, now);
        if let Some(news) = news {
            if news != News::Cause {
                self.stats.transition(index, request);
            }
            let (level, line) = verdict.line(self.stats.name(), news);
            request.log(level, &line);
        }
        let show_at = endpoint.show_at.load(Ordering::Relaxed);
        if news.is_some() || now >= show_at {
            endpoint.show_at.store(now + SHOW_PERIOD, Ordering::Relaxed);
            let healthy = slot.says(Health::Healthy);
            self.stats.show(index, healthy, show_at == 0, request);
        }
    }
}

impl Slot {
    /// Takes an answer to the record; what is new in it.
    fn record(&self, verdict: &Verdict<'_>, now: u64) -> Option<News> {
        let mut news = None;
        // The usual case has no cause that could have changed.
        if verdict.health == Health::Unhealthy || !self.says(Health::Healthy) {
            let answered = verdict.answered(0);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let update = update(*state, answered, now);
            *state = Some(update.state);
            let healthy = update.state.health == Health::Healthy;
            self.healthy.store(healthy, Ordering::Relaxed);
            news = update.news;
        }
        // What was postponed is over. Not each answer writes what all workers read.
        if self.says(verdict.health) && self.postponed.load(Ordering::Relaxed) {
            self.postponed.store(false, Ordering::Relaxed);
        }
        news
    }

    /// Whether this is the health in the record, once there is one.
    fn says(&self, health: Health) -> bool {
        self.healthy.load(Ordering::Relaxed) == (health == Health::Healthy)
    }
}
