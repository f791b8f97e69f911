//! What all workers must agree on, in shared records: transitions that are logged once, unknown flags
//! that are logged once, and which configuration an endpoint's gauge belongs to.

use std::cell::Cell;
use std::time::Duration;

use healthz_core::judgement::{Health, Verdict, judge};
use healthz_core::transition::{self, Record, Transition};
use log::Level;

use super::Filter;
use super::metrics::label;
use crate::admin::pages::Report;
use crate::admin::shared::{read_transition, write_transition};
use crate::host::{Host, MetricKind};

/// How often a worker that finds nothing new looks whether another one has.
const COMPARE_PERIOD: Duration = Duration::from_secs(1);

/// Under a tight circuit breaker one worker's call fails while another's succeeds, many times a second.
const ADMIN_MOST_QUICK: u32 = 10;

/// Transitions that lie closer than this come in quick succession, in milliseconds.
const QUICK_MS: u64 = 1000;

/// How long after a probe the next one is waited for.
const STILL_ASKED: Duration = Duration::from_secs(60);

/// How often a record is tried to be written against other workers that write it too.
const TRIES: usize = 8;

/// How many unknown flags are logged, once each.
const UNKNOWN_FLAGS_LOGGED: usize = 16;

/// Something whose transitions are logged once for all workers: an endpoint's health, or the admin's.
pub(super) struct TransitionLog {
    /// Of its record.
    key: String,
    /// Of the record that says which configuration its gauge belongs to.
    owner: String,
    /// 1 healthy, 0 not.
    gauge: String,
    /// What this worker found last, and when it compared that with the record.
    seen: Cell<Option<(Health, Duration)>>,
    /// Whether this worker was asked.
    asked: Cell<bool>,
    /// How many transitions may come in quick succession; the next one waits.
    most_quick: u32,
}

/// Which configuration a gauge belongs to: the newest of its name that has the endpoint.
struct Owner {
    key: String,
    /// Whether some worker was asked for the endpoint, under this configuration or one before it.
    asked: bool,
}

impl TransitionLog {
    pub(super) fn of_endpoint(key: &str, name: &str, path: &str) -> Self {
        let gauge = format!("healthy.filter.{name}.path.{}", label(path));
        Self::new(key, name, path, gauge)
    }

    pub(super) fn of_admin(key: &str, name: &str) -> Self {
        // A path would begin with a slash.
        let log = Self::new(key, name, "admin", format!("admin_up.filter.{name}"));
        log.asked.set(true);
        Self {
            most_quick: ADMIN_MOST_QUICK,
            ..log
        }
    }

    fn new(key: &str, name: &str, what: &str, gauge: String) -> Self {
        Self {
            key: format!("{key}/{what}"),
            owner: format!("envoy-healthz/owner/{name}/{what}"),
            gauge,
            seen: Cell::new(None),
            asked: Cell::new(false),
            most_quick: u32::MAX,
        }
    }
}

impl<H: Host> Filter<H> {
    /// Compares a verdict with the last one of any worker, and logs and counts it if it differs.
    pub(super) fn note(&self, index: usize, verdict: &Verdict<'_>, asked: u64) {
        let (Some(endpoint), Some(log)) =
            (self.config.endpoints.get(index), self.endpoints.get(index))
        else {
            return;
        };
        if let Transition::Changed { .. } = self.compare(log, verdict.health, asked) {
            self.metrics.count_transition(index);
            let level = match verdict.health {
                Health::Healthy => Level::Info,
                Health::Unhealthy => Level::Warn,
            };
            self.log(level, &verdict.line(&endpoint.path));
        }
    }

    /// The same for an endpoint that needs nothing: it is healthy.
    pub(super) fn note_liveness(&self, index: usize) {
        if let Some(endpoint) = self.config.endpoints.get(index) {
            let verdict = judge(endpoint, &NOTHING);
            self.note(index, &verdict, self.host.wall_clock());
        }
    }

    /// Compares a verdict with the last one of any worker; of several that differ at once, one wins.
    /// While nothing changes, the record is looked at only now and then.
    pub(super) fn compare(&self, log: &TransitionLog, health: Health, asked: u64) -> Transition {
        let now = self.now();
        if let Some((seen, compared)) = log.seen.get()
            && seen == health
            && now.saturating_sub(compared) < COMPARE_PERIOD
        {
            return Transition::Same;
        }
        let transition = self.compare_shared(log, Record { health, asked });
        if transition != Transition::Outdated {
            log.seen.set(Some((health, now)));
            self.show(log, health);
        }
        transition
    }

    /// Sets a gauge, but not that of a newer configuration, and not of an endpoint that nobody has
    /// asked, on whichever worker: it is to raise no alert.
    fn show(&self, log: &TransitionLog, health: Health) {
        let owner = self.owner(log);
        let asked = log.asked.get() || owner.as_ref().is_some_and(|owner| owner.asked);
        if !asked || owner.as_ref().is_some_and(|owner| owner.key != self.key) {
            return;
        }
        if owner.is_none_or(|owner| !owner.asked) {
            self.own(log, asked);
        }
        let gauge = self.host.metric(MetricKind::Gauge, &log.gauge);
        self.host
            .record(gauge, u64::from(health == Health::Healthy));
    }

    /// Notes that an endpoint is asked; whether it is for the first time on this worker, whose gauge
    /// is then to be set by the next verdict.
    pub(super) fn is_first_asked(&self, index: usize) -> bool {
        let Some(log) = self.endpoints.get(index) else {
            return false;
        };
        let first = !log.asked.replace(true);
        if first {
            log.seen.set(None);
        }
        first
    }

    /// Compares a verdict with its record, and writes the record anew if it is this worker that
    /// changes it.
    fn compare_shared(&self, log: &TransitionLog, verdict: Record) -> Transition {
        for _ in 0..TRIES {
            let Some(record) = self.host.read_shared(&log.key) else {
                return Transition::Same;
            };
            let last = record.value.as_deref().and_then(read_transition);
            let (last, quick) = last.map_or((None, 0), |(last, quick)| (Some(last), quick));
            let transition = transition::compare(last, verdict, self.host.wall_clock());
            let since = last.map(|last| verdict.asked.saturating_sub(last.asked));
            let quick = match since {
                Some(since) if since < QUICK_MS => quick.saturating_add(1),
                _ => 0,
            };
            if transition != Transition::Same && quick > log.most_quick {
                return Transition::Outdated;
            }
            let changed = matches!(transition, Transition::Changed { .. });
            let text = write_transition(verdict, quick);
            if !changed || self.host.replace_shared(&log.key, &text, &record) {
                return transition;
            }
        }
        Transition::Same
    }

    /// Takes a gauge over from the configuration before this one.
    pub(super) fn claim(&self, log: &TransitionLog) {
        let asked = self.owner(log).is_some_and(|owner| owner.asked);
        self.own(log, asked);
    }

    /// A gauge cannot be taken back: so that an endpoint that is gone raises no alert, its gauge says
    /// healthy, unless it belongs to another configuration by now.
    pub(super) fn release(&self, log: &TransitionLog) {
        let Some(owner) = self.owner(log).filter(|owner| owner.key == self.key) else {
            return;
        };
        if owner.asked {
            let gauge = self.host.metric(MetricKind::Gauge, &log.gauge);
            self.host.record(gauge, 1);
        }
        self.host.write_shared(&log.owner, "");
    }

    /// Whether newer configurations of the same name have all endpoints of this one, and nobody asks
    /// it: Envoy keeps a replaced listener until it has drained, ten minutes by default.
    pub(super) fn is_replaced(&self) -> bool {
        let now = self.now();
        let asked = self.last_probe.get();
        if asked.is_some_and(|asked| now.saturating_sub(asked) < STILL_ASKED) {
            return false;
        }
        self.endpoints.iter().all(|log| {
            let owner = self.owner(log);
            owner.is_some_and(|owner| owner.key != self.key)
        })
    }

    fn own(&self, log: &TransitionLog, asked: bool) {
        let asked = if asked { " asked" } else { "" };
        let record = format!("{}{asked}", self.key);
        self.host.write_shared(&log.owner, &record);
    }

    /// The configuration that a gauge belongs to; `None` if there is none, or it is gone.
    fn owner(&self, log: &TransitionLog) -> Option<Owner> {
        let record = self.host.read_shared(&log.owner)?.value?;
        let record = String::from_utf8(record).ok()?;
        let key = record.split(' ').next()?;
        (!key.is_empty()).then(|| Owner {
            asked: record.len() > key.len(),
            key: key.to_owned(),
        })
    }

    /// Logs each unknown flag once for all workers; `seen` are those that this worker has looked at.
    pub(super) fn log_unknown_flags(&self, seen: &mut Vec<String>, report: &Report) {
        for host in report.clusters.iter().flat_map(|cluster| &cluster.hosts) {
            if let Some(flag) = host.flags.unknown()
                && seen.len() < UNKNOWN_FLAGS_LOGGED
                && !seen.iter().any(|known| known == flag)
            {
                seen.push(flag.to_owned());
                if self.is_first_to_log(flag) {
                    let address = &host.address;
                    let line = format!(
                        "unknown health flag {flag:?} at {address}: not counted as healthy"
                    );
                    self.log(Level::Warn, &line);
                }
            }
        }
    }

    fn is_first_to_log(&self, flag: &str) -> bool {
        let key = self.key_of("unknown-flags");
        for _ in 0..TRIES {
            let Some(record) = self.host.read_shared(&key) else {
                return true;
            };
            let logged = record.value.as_deref().map(String::from_utf8_lossy);
            let logged = logged.unwrap_or_default();
            if logged.lines().any(|known| known == flag) {
                return false;
            }
            let more = format!("{logged}{flag}\n");
            if self.host.replace_shared(&key, &more, &record) {
                return true;
            }
        }
        false
    }

    pub(super) fn key_of(&self, what: &str) -> String {
        format!("{}/{what}", self.key)
    }

    /// The admin's log and those of all endpoints.
    pub(super) fn logs(&self) -> impl Iterator<Item = &TransitionLog> {
        std::iter::once(&self.admin).chain(&self.endpoints)
    }
}

/// What is known where nothing needs to be.
static NOTHING: Report = Report {
    clusters: Vec::new(),
    ready: crate::admin::pages::Ready::NotAsked,
};
