//! The wasm filter's logic behind the [`Host`] trait: one worker, one configuration.
//!
//! A probe is answered from what is at hand, or it waits and the root is woken to ask the admin: the
//! call belongs to the root and not to a request whose client may go away. While a probe waits the
//! root's tick is on, which answers it should a reply or a wake-up never come.
//!
//! [`refresh`] asks the admin and takes in the replies, [`records`] is what all workers must agree
//! on, [`metrics`] counts.

mod metrics;
mod records;
mod refresh;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell, RefMut};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use healthz_core::answer::{Age, Request, RequestKind, Response};
use healthz_core::config::Endpoint;
use healthz_core::judgement::Health;
use healthz_core::view::View;
use log::Level;

use crate::admin::pages::{self, Fault, Report};
use crate::admin::snapshots::{Knowledge, Probe, Snapshots, Timing};
use crate::host::Host;
use healthz_core::config::wasm::Config;
use metrics::Metrics;
use records::TransitionLog;
use refresh::Refresh;

/// One worker's filter of one configuration.
pub struct Filter<H> {
    host: H,
    config: Config,
    /// The clusters to ask for: sorted, each once.
    names: Vec<String>,
    /// What asks the admin for them; `None` if there are none.
    clusters_path: Option<String>,
    /// What the keys of this configuration's shared records begin with.
    key: String,
    metrics: Metrics,
    admin: TransitionLog,
    /// In the configuration's order.
    endpoints: Vec<TransitionLog>,
    /// When the root's tick comes next, if it is on.
    next_tick: Cell<Duration>,
    /// When this worker was last asked.
    last_probe: Cell<Option<Duration>>,
    state: RefCell<State>,
}

struct State {
    snapshots: Snapshots<Report, Fault, PendingProbe>,
    refresh: Option<Refresh>,
    /// Unknown health flags that this worker has seen.
    unknown_flags: Vec<String>,
    /// When the shared snapshot was last looked at.
    looked: Option<Duration>,
    /// When the one that was found then was asked for, by the wall clock.
    found: u64,
    /// When this worker last shared a snapshot.
    shared: Option<Duration>,
}

/// What a probe asked: the endpoint's place in the configuration, and the form of the answer.
type PendingProbe = (usize, RequestKind);

/// What becomes of a request.
#[derive(Debug)]
pub enum Reaction {
    /// It goes on to its route.
    PassOn,
    /// It is answered now.
    Answer(Response),
    /// It waits; [`Host::answer`] will answer it.
    Wait,
}

/// Longer than the longest `max_stale_ms` and `max_age_ms`.
const CLOCK_START: Duration = Duration::from_secs(3600);

/// How soon the root looks after probes that wait, and counts those that were answered.
const WATCH_PERIOD: Duration = Duration::from_millis(50);

impl<H: Host> Filter<H> {
    /// For a configuration and the text that it was read from.
    pub fn new(config: Config, text: &[u8], host: H) -> Self {
        let names = config.cluster_names();
        let mut hash = DefaultHasher::new();
        text.hash(&mut hash);
        let key = format!("envoy-healthz/{:x}", hash.finish());
        let name = config.name.as_str();
        let paths = || {
            let endpoints = config.endpoints.iter();
            endpoints.map(|endpoint| endpoint.path.as_str())
        };
        Self {
            clusters_path: (!names.is_empty()).then(|| pages::clusters_path(&names)),
            names,
            metrics: Metrics::new(name, paths()),
            admin: TransitionLog::of_admin(&key, name),
            endpoints: paths()
                .map(|path| TransitionLog::of_endpoint(&key, name, path))
                .collect(),
            key,
            next_tick: Cell::new(Duration::MAX),
            last_probe: Cell::new(None),
            state: RefCell::new(State {
                snapshots: Snapshots::new(Timing {
                    max_age: config.max_age,
                    max_stale: config.max_stale,
                    timeout: config.admin_timeout,
                }),
                refresh: None,
                unknown_flags: Vec::new(),
                looked: None,
                found: 0,
                shared: None,
            }),
            config,
            host,
        }
    }

    /// The configuration is in force.
    pub fn start(&self) {
        for log in self.logs() {
            self.claim(log);
        }
        if self.config.refresh_interval.is_some() && self.asks_the_admin() {
            self.set_tick(Duration::from_millis(1), self.now());
        }
    }

    /// The configuration is gone: nothing of it may go on, raise an alert or take memory.
    pub fn stop(&self) {
        self.metrics.flush(&self.host);
        self.host.set_tick(None);
        for log in self.logs() {
            self.release(log);
        }
        self.forget_shared_snapshot();
    }

    /// A request has come; `header` gives the value of one of its headers, empty if there is none.
    pub fn request(&self, id: u32, header: &dyn Fn(&'static str) -> Vec<u8>) -> Reaction {
        let target = header(":path");
        let (path, query) = split_query(&target);
        let Some((index, endpoint)) = self.endpoint(path) else {
            return Reaction::PassOn;
        };
        let kind = request_kind(endpoint, query, header);
        let now = self.now();
        self.last_probe.set(Some(now));
        self.watch(now);
        let response = if kind == RequestKind::OtherMethod {
            Some(Response::method_not_allowed())
        } else if endpoint.needs_nothing() {
            self.is_first_asked(index);
            self.note_liveness(index);
            Some(Response::to(kind, endpoint, &Report::default(), Age::Live))
        } else {
            self.probe(id, (index, kind), now)
        };
        match response {
            Some(response) => {
                self.metrics.count_probe(index, &response);
                Reaction::Answer(response)
            }
            None => Reaction::Wait,
        }
    }

    /// The client of a request that waits has gone away.
    pub fn cancel(&self, id: u32) {
        if let Some(mut state) = self.state() {
            state.snapshots.cancel(id);
        }
    }

    /// The root was woken.
    pub fn woken(&self) {
        self.ask();
    }

    /// The root's tick.
    pub fn tick(&self) {
        let now = self.now();
        self.give_up_lost_call(now);
        let Some(mut state) = self.state() else {
            return;
        };
        self.adopt(&mut state, now);
        let overdue = state.snapshots.overdue(now);
        let waiting = state.snapshots.is_waiting();
        drop(state);
        if let Some(overdue) = overdue {
            self.answer_all(overdue, now);
        }
        if waiting {
            self.ask();
        }
        let due = self.renew_in_background();
        self.metrics.flush(&self.host);
        self.schedule(due, now);
    }

    /// Answers a probe, or has it wait.
    fn probe(&self, id: u32, pending: PendingProbe, now: Duration) -> Option<Response> {
        let Some(mut state) = self.state() else {
            return Some(Response::plain(Health::Unhealthy));
        };
        self.adopt(&mut state, now);
        let first = self.is_first_asked(pending.0);
        match state.snapshots.probe(id, pending, now) {
            Probe::Answer(pending, knowledge) => {
                drop(state);
                if first {
                    self.note_at_hand(pending.0, &knowledge, now);
                }
                Some(self.response(pending, &knowledge, now))
            }
            Probe::Wait => None,
            Probe::Ask => {
                self.host.wake();
                None
            }
        }
    }

    fn response(
        &self,
        (index, kind): PendingProbe,
        knowledge: &Knowledge<Report, Fault>,
        now: Duration,
    ) -> Response {
        let Some(endpoint) = self.config.endpoints.get(index) else {
            return Response::plain(Health::Unhealthy);
        };
        let age = match knowledge {
            Knowledge::Fresh(_) => Age::Fresh(knowledge.age(now)),
            Knowledge::Stale(_) => Age::Stale(knowledge.age(now)),
            Knowledge::Nothing(_) => Age::Live,
        };
        Response::to(kind, endpoint, view(knowledge), age)
    }

    fn endpoint(&self, path: &[u8]) -> Option<(usize, &Endpoint)> {
        let mut endpoints = self.config.endpoints.iter().enumerate();
        endpoints.find(|(_, endpoint)| endpoint.path.as_bytes() == path)
    }

    /// Whether some endpoint needs what the admin knows.
    fn asks_the_admin(&self) -> bool {
        let endpoints = &self.config.endpoints;
        !endpoints.iter().all(Endpoint::needs_nothing)
    }

    /// Has the tick come soon.
    fn watch(&self, now: Duration) {
        if self.next_tick.get() > now + WATCH_PERIOD {
            self.set_tick(WATCH_PERIOD, now);
        }
    }

    /// Has the tick come when it is next needed: for the background refresh, or for those who wait.
    fn schedule(&self, refresh: Option<Duration>, now: Duration) {
        let Some(state) = self.state() else {
            return;
        };
        let watch = state.snapshots.is_waiting().then_some(WATCH_PERIOD);
        let overdue = state.snapshots.next_overdue(now);
        let overdue = overdue.map(|due| due.saturating_sub(now).max(Duration::from_millis(1)));
        drop(state);
        match [refresh, watch, overdue].into_iter().flatten().min() {
            Some(period) => self.set_tick(period, now),
            None => {
                self.next_tick.set(Duration::MAX);
                self.host.set_tick(None);
            }
        }
    }

    fn set_tick(&self, period: Duration, now: Duration) {
        self.next_tick.set(now + period);
        self.host.set_tick(Some(period));
    }

    /// A time that never goes back. Another worker's snapshot may be older than this root, and no
    /// time is below zero: so it begins at more than the oldest one that answers.
    fn now(&self) -> Duration {
        self.host.now() + CLOCK_START
    }

    /// Writes a line of the log, with the filter's name.
    fn log(&self, level: Level, line: &str) {
        let name = &self.config.name;
        self.host
            .log(level, &format!("envoy-healthz[{name}]: {line}"));
    }

    /// The state; `None` would mean that a host call came back into this machine, which Envoy's
    /// never do.
    fn state(&self) -> Option<RefMut<'_, State>> {
        self.state.try_borrow_mut().ok()
    }
}

fn view(knowledge: &Knowledge<Report, Fault>) -> &dyn View {
    match knowledge {
        Knowledge::Fresh(snapshot) | Knowledge::Stale(snapshot) => &*snapshot.report,
        Knowledge::Nothing(fault) => &**fault,
    }
}

fn request_kind(
    endpoint: &Endpoint,
    query: &[u8],
    header: &dyn Fn(&'static str) -> Vec<u8>,
) -> RequestKind {
    let (method, content_type) = (header(":method"), header("content-type"));
    let accept = match endpoint.details {
        true => header("accept"),
        false => Vec::new(),
    };
    let request = Request {
        method: &method,
        query,
        content_type: &content_type,
        accept: &accept,
    };
    RequestKind::of(&request, endpoint)
}

fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = target.splitn(2, |&byte| byte == b'?');
    let path = parts.next().unwrap_or_default();
    (path, parts.next().unwrap_or_default())
}
