//! What all workers share: the last verdict on each endpoint, so that a change is logged once.
//!
//! A worker learns of a host's health when its turn comes; for a moment two of them can differ. So a
//! verdict counts as one that rests on knowledge [`WORKER_LAG`] old: within that time of a change
//! nobody changes it back.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use healthz_core::config::Endpoint;
use healthz_core::judgement::Health;
use healthz_core::transition::{Record, Transition, compare};

use crate::drain::Drain;
use crate::stats::now;
use healthz_core::config::module::Config;

/// How long a worker may take to learn what another one knows, in milliseconds.
const WORKER_LAG: u64 = 100;

/// How long after a request has found a way to an endpoint's clusters those that find none tell nothing
/// of it, in milliseconds.
const SIGHT: u64 = 60_000;

/// The last verdicts of a configuration's endpoints, for the whole process.
#[derive(Debug)]
pub struct Records {
    config: Config,
    slots: Vec<Slot>,
    /// Whether Envoy drains.
    pub drain: Arc<Drain>,
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct Slot {
    /// A [`Record`] in one word: the time, and below it two bits, which are 0 if there is none.
    verdict: AtomicU64,
    /// Until when requests that find no way to its clusters tell nothing of it, by [`now`].
    seen_until: AtomicU64,
    /// Whether one of those has been logged.
    blind_logged: AtomicBool,
    /// What its gauge was set to last, and 1 more, by whichever configuration of this name; 0 if never.
    shown: Arc<AtomicU8>,
}

/// Records by their configuration. Two listeners with one configuration share them, and a listener that
/// is replaced finds those of the old one. Not by the configuration's text: Envoy writes the fields of a
/// Struct in any order, which differs from one time to the next.
/// The one that was loaded last stands last.
static SHARED: Mutex<Vec<Weak<Records>>> = Mutex::new(Vec::new());

impl Records {
    /// Those of this configuration.
    pub fn of(config: &Config) -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let live: Vec<_> = shared.iter().filter_map(Weak::upgrade).collect();
        let known = live.iter().find(|records| records.config == *config);
        let records = known.map(Arc::clone).unwrap_or_else(|| {
            let same_name = |records: &&Arc<Self>| records.config.name == config.name;
            let others: Vec<_> = live.iter().filter(same_name).collect();
            let slot = |endpoint: &Endpoint| {
                let mut slots = others.iter().filter_map(|other| other.slot(&endpoint.path));
                Slot {
                    shown: slots
                        .next()
                        .map(|slot| Arc::clone(&slot.shown))
                        .unwrap_or_default(),
                    ..Slot::default()
                }
            };
            let drain = others.first().map(|other| Arc::clone(&other.drain));
            Arc::new(Self {
                config: config.clone(),
                slots: config.endpoints.iter().map(slot).collect(),
                drain: drain.unwrap_or_default(),
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
            other.config.name == self.config.name
                && other.slot(path).is_some_and(|same| same.last().is_some())
        })
    }

    /// What the gauge of an endpoint's name and path shows.
    pub fn shown(&self, endpoint: usize) -> Option<&AtomicU8> {
        Some(&*self.slots.get(endpoint)?.shown)
    }

    /// A request has found a way to an endpoint's clusters, or none: whether its verdict is the endpoint's.
    /// One without a way, by another host or another route, tells of itself while others find one.
    pub fn counts(&self, endpoint: usize, blind: bool) -> bool {
        self.counts_at(endpoint, blind, now())
    }

    fn counts_at(&self, endpoint: usize, blind: bool, now: u64) -> bool {
        let Some(slot) = self.slots.get(endpoint) else {
            return false;
        };
        let until = slot.seen_until.load(Ordering::Relaxed);
        if blind {
            return now >= until;
        }
        // Not each probe writes what all workers read.
        if now + SIGHT >= until + SIGHT / 60 {
            slot.seen_until.store(now + SIGHT, Ordering::Relaxed);
        }
        true
    }

    /// Whether this is the first time that this is asked.
    pub fn log_blind(&self, endpoint: usize) -> bool {
        let slot = self.slots.get(endpoint);
        slot.is_some_and(|slot| !slot.blind_logged.swap(true, Ordering::Relaxed))
    }

    /// Compares a verdict on an endpoint with the last one, and records it if it differs.
    pub fn update(&self, endpoint: usize, health: Health) -> Transition {
        // Past the lag, so that the very first record does not look younger than what comes after it.
        self.update_at(endpoint, health, || WORKER_LAG + now())
    }

    fn update_at(&self, endpoint: usize, health: Health, now: impl Fn() -> u64) -> Transition {
        let Some(Slot { verdict: slot, .. }) = self.slots.get(endpoint) else {
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
        self.slots.get(endpoint)?.last()
    }

    fn slot(&self, path: &str) -> Option<&Slot> {
        let mut slots = self.config.endpoints.iter().zip(&self.slots);
        let (_, slot) = slots.find(|(endpoint, _)| endpoint.path == path)?;
        Some(slot)
    }
}

impl Slot {
    fn last(&self) -> Option<Health> {
        Some(unpack(self.verdict.load(Ordering::Relaxed))?.health)
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
    fn a_request_without_a_way_counts_if_there_is_no_other() {
        let records = of("ways");
        for (now, blind, expected) in [
            (0, true, true),
            (10, false, true),
            (11, true, false),
            (60_009, true, false),
            (60_010, true, true),
            (60_020, false, true),
            (60_500, false, true),
            (120_019, true, false),
            (120_500, true, true),
        ] {
            assert_eq!(records.counts_at(0, blind, now), expected, "{now}");
        }
        assert!(records.counts_at(1, true, 11));
        assert!(records.log_blind(0) && !records.log_blind(0));
    }

    /// A listener that is replaced hears of a drain by those who ask the new one.
    #[test]
    fn a_name_shares_the_drain_and_the_gauge() {
        let endpoint = r#"[{"path": "/b", "clusters": ["c"]}]"#;
        let old = of("shares");
        let new = parse(&format!(r#"{{"name": "shares", "endpoints": {endpoint}}}"#));
        let other = of("shares_not");
        assert!(Arc::ptr_eq(&old.drain, &new.drain));
        assert!(!Arc::ptr_eq(&old.drain, &other.drain));
        let gauge = |records: &Records, place| std::ptr::from_ref(records.shown(place).unwrap());
        assert_eq!(gauge(&old, 1), gauge(&new, 0));
        assert_ne!(gauge(&old, 0), gauge(&new, 0));
        assert_ne!(gauge(&old, 1), gauge(&other, 1));
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
