//! What is said of answers: lines of the log, counters and gauges, once for all workers.
//!
//! Each endpoint, and the admin, has a [`State`] in the data that all workers share:
//!
//! | record | for example | |
//! |---|---|---|
//! | `envoy-healthz/state/default//healthz` | `u 81234567 9f3 81230000 7b1` | unhealthy since then; the cause that was logged; when a new cause was logged; the configuration that answered last |
//! | `envoy-healthz/unknown-flags` | a flag a line | unknown health flags that have been logged |
//!
//! Times are milliseconds since the machine started.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use healthz_core::answer::Outcome;
use healthz_core::config::wasm::Config;
use healthz_core::config::{Endpoint, FilterName};
use healthz_core::judgement::{Health, Verdict};
use healthz_core::state::{self, Answered, Level, News, State, Update};

use crate::admin::Known;
use crate::admin::pages::Report;
use crate::admin::snapshots::{Knowledge, Snapshot};
use crate::envoy::{Envoy, millis, update_shared};
use crate::metrics::{Counted, Metrics};

/// How often a worker that finds nothing new looks whether another one has.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How many unknown flags are logged, once each.
const UNKNOWN_FLAGS_LOGGED: usize = 16;

/// What this worker says of one configuration's answers.
pub struct Recorder {
    name: FilterName,
    /// The configuration's number in records.
    by: u64,
    max_stale: Duration,
    /// What is counted.
    pub metrics: Metrics,
    admin: Slot,
    /// In the configuration's order.
    endpoints: Vec<Slot>,
    /// Unknown health flags that this worker has seen.
    unknown_flags: Vec<String>,
}

/// Something that has a state: an endpoint, or the admin.
struct Slot {
    /// Of its record.
    key: String,
    /// 1 healthy, 0 not.
    gauge: String,
    /// What this worker found recorded last, and when.
    seen: Option<(Health, Duration)>,
}

impl Recorder {
    /// For a configuration and the text that it was read from. What others recorded of its name and paths is
    /// its own from now on: their end is not the end of these endpoints.
    pub fn new(config: &Config, text: &[u8], envoy: &impl Envoy) -> Self {
        let mut by = DefaultHasher::new();
        text.hash(&mut by);
        let name = config.name.as_str();
        let slot = |what: &str, gauge: String| Slot {
            key: format!("envoy-healthz/state/{name}/{what}"),
            gauge,
            seen: None,
        };
        let endpoint = |of: &Endpoint| {
            let gauge = format!("healthy.filter.{name}.path.{}", of.label());
            slot(&of.path, gauge)
        };
        let recorder = Self {
            name: config.name.clone(),
            by: by.finish(),
            max_stale: config.max_stale,
            metrics: Metrics::new(config),
            // A path would begin with a slash.
            admin: slot("admin", format!("admin_up.filter.{name}")),
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            unknown_flags: Vec::new(),
        };
        for slot in recorder.slots() {
            slot.take_over(envoy, recorder.by);
        }
        recorder
    }

    /// Records an answer to a probe of an endpoint, and logs what is new in it.
    pub fn answer(
        &mut self,
        envoy: &impl Envoy,
        index: usize,
        verdict: &Verdict<'_>,
        now: Duration,
    ) {
        let outcome = Outcome::Health(verdict.health);
        self.metrics.count(Counted::Probe(index, outcome), now);
        let Some(slot) = self.endpoints.get_mut(index) else {
            return;
        };
        let answered = || verdict.answered(self.by);
        if let Some(news) = slot.record(envoy, verdict.health, answered, now) {
            if news != News::Cause {
                self.metrics.count(Counted::Transition(index), now);
            }
            let (level, line) = verdict.line(&self.name, news);
            envoy.log(level, &line);
        }
    }

    /// Records whether an answer rests on a failed refresh, and logs if that is new. One that the admin is only
    /// slow for says nothing of that.
    pub fn admin(&mut self, envoy: &impl Envoy, known: &Known, now: Duration) {
        let (fault, bridged) = match known {
            Knowledge::Fresh(_) => (None, false),
            Knowledge::Stale(_, None) => return,
            Knowledge::Stale(_, Some(fault)) => (Some(fault), true),
            Knowledge::Nothing(fault) => (Some(fault), false),
        };
        let (health, by) = (Health::from(fault.is_none()), self.by);
        let answered = || Answered {
            health,
            cause: 0,
            by,
        };
        let news = self.admin.record(envoy, health, answered, now);
        match (news, fault) {
            (Some(_), Some(fault)) => {
                let mut line = format!("admin unavailable: {}", fault.cause());
                if bridged {
                    let limit = self.max_stale.as_millis();
                    line += &format!("; answering from the last snapshot for up to {limit} ms");
                }
                envoy.log(Level::Warn, &self.name.line(line));
            }
            (Some(News::Transition), None) => {
                envoy.log(Level::Info, &self.name.line("admin available again"));
            }
            _ => {}
        }
    }

    /// Notes what a good refresh has brought: when it was, and each unknown flag, which is logged once for all
    /// workers.
    pub fn snapshot(&mut self, envoy: &impl Envoy, snapshot: &Snapshot<Report>) {
        self.metrics.snapshot(snapshot.sent);
        let clusters = snapshot.report.clusters.iter();
        for host in clusters.flat_map(|cluster| &cluster.hosts) {
            if let Some(flag) = host.flags.unknown()
                && self.unknown_flags.len() < UNKNOWN_FLAGS_LOGGED
                && !self.unknown_flags.iter().any(|known| known == flag)
            {
                self.unknown_flags.push(flag.to_owned());
                if is_first_to_log(envoy, flag) {
                    let line = self.name.line(format_args!(
                        "unknown health flag {flag:?} at {}: host treated as unhealthy; \
                         this Envoy is newer than the filter",
                        host.address
                    ));
                    envoy.log(Level::Warn, &line);
                }
            }
        }
    }

    /// The configuration is gone: what it recorded last raises no alert any more.
    pub fn stop(&mut self, envoy: &impl Envoy) {
        self.metrics.stop(envoy);
        for slot in self.slots() {
            slot.forget(envoy, self.by);
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.endpoints.iter().chain([&self.admin])
    }
}

impl Slot {
    /// Takes an answer to the record, and shows what is recorded then; what is new in it. While nothing
    /// changes, the record is looked at only now and then.
    fn record(
        &mut self,
        envoy: &impl Envoy,
        health: Health,
        answered: impl FnOnce() -> Answered,
        now: Duration,
    ) -> Option<News> {
        if let Some((seen, looked)) = self.seen
            && seen == health
            && now.saturating_sub(looked) < LOOK_PERIOD
        {
            return None;
        }
        let answered = answered();
        let mut update = None;
        let written = update_shared(envoy, &self.key, |record| {
            let last = read(record);
            let next = state::update(last, answered, millis(now));
            update = Some(next);
            (last != Some(next.state)).then(|| write(&next.state))
        });
        let Update { state, news } = update?;
        if news.is_some() && !written {
            // Others were always faster: it is new again at the next answer.
            return None;
        }
        self.seen = Some((state.health, now));
        envoy.set(&self.gauge, u64::from(state.health == Health::Healthy));
        news
    }

    /// Makes this configuration the one that answered last; nothing else changes.
    fn take_over(&self, envoy: &impl Envoy, by: u64) {
        update_shared(envoy, &self.key, |record| {
            let others = read(record).filter(|last| last.by != by);
            others.map(|last| write(&State { by, ..last }))
        });
    }

    /// A gauge cannot be taken back: it says healthy. What another configuration recorded since stays.
    fn forget(&self, envoy: &impl Envoy, by: u64) {
        let forgotten = update_shared(envoy, &self.key, |record| {
            let ours = read(record).is_some_and(|last| last.by == by);
            ours.then(String::new)
        });
        if forgotten {
            envoy.set(&self.gauge, 1);
        }
    }
}

fn write(state: &State) -> String {
    let letter = match state.health {
        Health::Healthy => 'h',
        Health::Unhealthy => 'u',
    };
    format!(
        "{letter} {} {:x} {} {:x}",
        state.since, state.cause, state.cause_logged, state.by
    )
}

fn read(text: &[u8]) -> Option<State> {
    let mut fields = std::str::from_utf8(text).ok()?.split(' ');
    let health = match fields.next()? {
        "h" => Health::Healthy,
        "u" => Health::Unhealthy,
        _ => return None,
    };
    let mut number = |radix| u64::from_str_radix(fields.next()?, radix).ok();
    Some(State {
        health,
        since: number(10)?,
        cause: number(16)?,
        cause_logged: number(10)?,
        by: number(16)?,
    })
}

fn is_first_to_log(envoy: &impl Envoy, flag: &str) -> bool {
    update_shared(envoy, "envoy-healthz/unknown-flags", |record| {
        let logged = String::from_utf8_lossy(record);
        let first = !logged.lines().any(|known| known == flag);
        first.then(|| format!("{logged}{flag}\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        for health in [Health::Healthy, Health::Unhealthy] {
            let state = State {
                health,
                since: 1,
                cause: u64::MAX,
                cause_logged: 2,
                by: 0xabc,
            };
            assert_eq!(read(write(&state).as_bytes()), Some(state));
        }
        for none in [
            b"".as_slice(),
            b"u",
            b"u 1 2 3",
            b"x 1 2 3 4",
            b"\xff 1",
            b"h 1 x 3 4",
        ] {
            assert_eq!(read(none), None);
        }
    }
}
