//! What all workers share: the last verdict on each endpoint, so that a change is logged once.
//!
//! A worker learns of a host's health when its turn comes; for a moment two of them can differ. So a
//! verdict counts as one that rests on knowledge [`WORKER_LAG`] old: within that time of a change
//! nobody changes it back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use healthz_core::config::Endpoint;
use healthz_core::judgement::Health;
use healthz_core::transition::{Record, Transition, compare};

use crate::config::Config;
use crate::drain::Drain;
use crate::stats::now;

/// How long a worker may take to learn what another one knows, in milliseconds.
const WORKER_LAG: u64 = 100;

/// The last verdicts of a configuration's endpoints, for the whole process.
#[derive(Debug)]
pub struct Records {
    config: Config,
    slots: Vec<Slot>,
    /// Whether Envoy drains.
    pub drain: Drain,
}

/// A [`Record`] in one word: the time, and below it two bits, which are 0 if there is none.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

/// Records by their configuration. Two listeners with one configuration share them, and a listener that
/// is replaced finds those of the old one. Not by the configuration's text: Envoy writes the fields of a
/// Struct in any order, which differs from one time to the next.
/// The one that was loaded last stands last.
static SHARED: Mutex<Vec<Weak<Records>>> = Mutex::new(Vec::new());

impl Records {
    /// Those of this configuration.
    pub fn of(config: &Config) -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = shared.iter().filter_map(Weak::upgrade);
        let known = known.find(|records| records.config == *config);
        let records = known.unwrap_or_else(|| {
            let endpoints = config.endpoints.len();
            Arc::new(Self {
                config: config.clone(),
                slots: (0..endpoints).map(|_| Slot::default()).collect(),
                drain: Drain::new(endpoints),
            })
        });
        let this = Arc::downgrade(&records);
        shared.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&this));
        shared.push(this);
        records
    }

    /// Whether no configuration that was loaded later has given a verdict on an endpoint of this name and
    /// path. A listener that is replaced goes on for as long as its streams do, Watches above all; what they
    /// find by its rule is then no longer what the gauge is to show.
    pub fn are_newest(&self, endpoint: usize) -> bool {
        let Some(Endpoint { path, .. }) = self.config.endpoints.get(endpoint) else {
            return false;
        };
        let shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newer = shared
            .iter()
            .rev()
            .filter_map(Weak::upgrade)
            .take_while(|other| !std::ptr::eq(&**other, self));
        !newer.any(|other| {
            let mut endpoints = other.config.endpoints.iter();
            let same = endpoints.position(|endpoint| endpoint.path == *path);
            other.config.name == self.config.name
                && same.is_some_and(|same| other.last(same).is_some())
        })
    }

    /// Compares a verdict on an endpoint with the last one, and records it if it differs.
    pub fn update(&self, endpoint: usize, health: Health) -> Transition {
        // Past the lag, so that the very first record does not look younger than what comes after it.
        self.update_at(endpoint, health, || WORKER_LAG + now())
    }

    fn update_at(&self, endpoint: usize, health: Health, now: impl Fn() -> u64) -> Transition {
        let Some(Slot(slot)) = self.slots.get(endpoint) else {
            return Transition::Same;
        };
        let mut word = slot.load(Ordering::Relaxed);
        loop {
            let last = unpack(word);
            // The usual case, without a look at the clock.
            if last.is_some_and(|last| last.health == health) {
                return Transition::Same;
            }
            let now = now();
            let asked = now.saturating_sub(WORKER_LAG);
            let transition = compare(last, Record { health, asked }, now);
            let Transition::Changed { .. } = transition else {
                return transition;
            };
            let new = pack(Record { health, asked: now });
            match slot.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return transition,
                Err(other) => word = other,
            }
        }
    }

    /// The last verdict on an endpoint.
    pub fn last(&self, endpoint: usize) -> Option<Health> {
        let Slot(slot) = self.slots.get(endpoint)?;
        Some(unpack(slot.load(Ordering::Relaxed))?.health)
    }
}

fn pack(record: Record) -> u64 {
    let health = match record.health {
        Health::Healthy => 1,
        Health::Unhealthy => 2,
    };
    record.asked << 2 | health
}

fn unpack(word: u64) -> Option<Record> {
    let health = match word & 3 {
        1 => Health::Healthy,
        2 => Health::Unhealthy,
        _ => return None,
    };
    let asked = word >> 2;
    Some(Record { health, asked })
}

#[cfg(test)]
mod tests {
    use Health::{Healthy, Unhealthy};

    use super::*;

    /// Those of a configuration of this name.
    fn of(name: &str) -> Arc<Records> {
        let endpoints = r#"[{"path": "/a", "clusters": []}, {"path": "/b", "clusters": []}]"#;
        parse(&format!(
            r#"{{"name": "{name}", "endpoints": {endpoints}}}"#
        ))
    }

    fn parse(text: &str) -> Arc<Records> {
        Records::of(&Config::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_change_is_one_for_all_workers() {
        let records = of("changes");
        let changed = |first| Transition::Changed { first };
        for (now, health, expected) in [
            (1000, Healthy, changed(true)),
            (1001, Healthy, Transition::Same),
            (5000, Unhealthy, changed(false)),
            (5000, Unhealthy, Transition::Same),
            // Another worker, which has not heard of it yet.
            (5001, Healthy, Transition::Outdated),
            (5099, Healthy, Transition::Outdated),
            (5100, Healthy, changed(false)),
            (5100, Unhealthy, Transition::Outdated),
        ] {
            assert_eq!(records.update_at(0, health, || now), expected, "{now}");
        }
        assert_eq!(records.last(0), Some(Healthy));
        assert_eq!(records.last(1), None);
        assert_eq!(records.update(2, Healthy), Transition::Same);
        assert_eq!(records.update(1, Unhealthy), changed(true));
    }

    #[test]
    fn one_configuration_shares_and_another_does_not() {
        let first = of("one");
        first.update(0, Healthy);
        assert_eq!(of("one").last(0), Some(Healthy));
        assert_eq!(of("other").last(0), None);
        // The same in another order.
        let text = r#"{"endpoints": [{"clusters": [], "path": "/a"}, {"clusters": [], "path": "/b"}], "name": "one"}"#;
        assert_eq!(parse(text).last(0), Some(Healthy));
        drop(first);
        assert_eq!(of("one").last(0), None);
    }

    #[test]
    fn the_newest_of_a_name_and_path() {
        let rule = |cluster: &str| {
            let endpoint = format!(r#"{{"path": "/r", "clusters": ["{cluster}"]}}"#);
            parse(&format!(r#"{{"name": "n", "endpoints": [{endpoint}]}}"#))
        };
        let (old, other) = (rule("old"), of("n"));
        old.update(0, Healthy);
        other.update(0, Healthy);
        let new = rule("new");
        // As long as it is warming, the old one is all there is.
        assert!(old.are_newest(0) && new.are_newest(0));
        new.update(0, Unhealthy);
        assert!(!old.are_newest(0) && new.are_newest(0));
        // Other paths, and what is not there.
        assert!(other.are_newest(0) && other.are_newest(1) && !other.are_newest(2));
        // Back to what was there before.
        rule("old");
        assert!(old.are_newest(0) && !new.are_newest(0));
        drop(old);
        assert!(new.are_newest(0));
    }
}
