//! Whether Envoy drains, for Watches that are open.
//!
//! The ABI does not say. Where Envoy's health_check filter is placed before ours, it refuses probes and calls while
//! Envoy drains (`/healthcheck/fail`), and that is all that they need. An open Watch does not pass it again: it
//! follows what other requests find.
//!
//! - A request that the filter has refused says that Envoy drains.
//! - One to the same path that has passed it says that the drain is over. Those to paths of which none has been
//!   refused say nothing: their routes may lack the filter, as that of `/livez` does.
//! - One that began before another was refused says nothing either: it may have passed the filter before the drain.
//! - When no request has been refused for [`LAPSE`], the drain is taken for over: it may have ended while nobody
//!   probed, and Watches would stay NOT_SERVING for ever.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::now;
use crate::shared::Shared;

/// In milliseconds. Probers come more often.
const LAPSE: u64 = 60_000;

/// What requests have found, by their targets: what they are for, as far as routes differ. It is one for the whole
/// process and all configurations of one name: a Watch of a listener that has been replaced follows a drain by
/// requests to the new one. Routes of another name may lack the filter.
#[derive(Debug, Default)]
pub struct Drain {
    /// Until when it holds that Envoy drains, by [`now`]; 0 if it does not.
    until: AtomicU64,
    /// The targets that have been refused in this drain.
    refused: Mutex<BTreeSet<String>>,
}

/// What was known when a request began; it changes with each one that is refused.
#[derive(Debug, Clone, Copy)]
pub struct Known(u64);

static DRAINS: Shared<String, Drain> = Shared::empty();

impl Drain {
    /// That of all filters of this name.
    pub fn of(name: &str) -> Arc<Self> {
        DRAINS.of(name.to_owned())
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        Known(self.until.load(Ordering::Relaxed))
    }

    /// The health_check filter has refused a request.
    pub fn refused(&self, target: &str) {
        self.refused_at(target, now());
    }

    fn refused_at(&self, target: &str, now: u64) {
        let mut refused = self.lock();
        refused.insert(target.to_owned());
        self.until.store(now + LAPSE, Ordering::Relaxed);
    }

    /// A request has reached us, which knew this when it began.
    pub fn passed(&self, target: &str, Known(until): Known) {
        // The usual case.
        if until == 0 {
            return;
        }
        let mut refused = self.lock();
        if until == self.until.load(Ordering::Relaxed) && refused.contains(target) {
            refused.clear();
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether Watches are to say that their endpoints are unhealthy.
    pub fn is_under_way(&self) -> bool {
        // The usual case, without a look at the clock.
        self.until.load(Ordering::Relaxed) > 0 && self.is_under_way_at(now())
    }

    fn is_under_way_at(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that begins now and reaches us at once.
    fn passes(drain: &Drain, target: &str) -> bool {
        drain.passed(target, drain.known());
        !drain.is_under_way()
    }

    #[test]
    fn those_that_pass() {
        for (refused, passed, over) in [
            (&["/a"][..], "/a", true),
            (&["/a"], "/b", false),
            (&["/a"], "gRPC", false),
            (&["gRPC"], "/a", false),
            (&["gRPC"], "gRPC", true),
            // Whichever comes first.
            (&["gRPC", "/a"], "gRPC", true),
            (&["gRPC", "/a"], "/a", true),
        ] {
            let drain = Drain::default();
            assert!(passes(&drain, passed));
            refused.iter().for_each(|&target| drain.refused(target));
            assert!(drain.is_under_way());
            assert_eq!(passes(&drain, passed), over, "{refused:?}, {passed:?}");
        }
    }

    #[test]
    fn the_drain_before_says_nothing_of_this_one() {
        let drain = Drain::default();
        drain.refused("/a");
        assert!(passes(&drain, "/a"));
        drain.refused("gRPC");
        // Its route has lost the filter.
        assert!(!passes(&drain, "/a"));
        assert!(passes(&drain, "gRPC"));
    }

    #[test]
    fn those_that_began_before_another_was_refused() {
        let drain = Drain::default();
        let before = drain.known();
        drain.refused_at("gRPC", 1000);
        let between = drain.known();
        drain.refused_at("gRPC", 2000);
        for known in [before, between] {
            drain.passed("gRPC", known);
            assert!(drain.is_under_way_at(2000));
        }
        drain.passed("gRPC", drain.known());
        assert!(!drain.is_under_way_at(2000));
    }

    #[test]
    fn it_is_forgotten_if_nobody_asks() {
        let drain = Drain::default();
        let target = "/a";
        drain.refused_at(target, 1000);
        drain.refused_at(target, 5000);
        assert!(drain.is_under_way_at(4999 + LAPSE));
        assert!(!drain.is_under_way_at(5000 + LAPSE));
        drain.refused_at(target, 90_000);
        assert!(drain.is_under_way_at(90_000));
        drain.passed(target, drain.known());
        assert!(!drain.is_under_way_at(90_000));
    }
}
