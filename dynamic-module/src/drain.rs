//! Whether Envoy drains, for Watches that are open.
//!
//! The ABI does not say. Where Envoy's health_check filter is placed before ours, it answers probes and
//! Checks instead of us while Envoy drains (`/healthcheck/fail`), and that is all that they need. An open
//! Watch never passes it again: it follows what other requests find. A request that the filter has answered
//! says that Envoy drains, and that its route has the filter. From then on a request of such a route
//! that does reach us says that Envoy does not; one of another route says nothing. If nobody asks any
//! more, a drain is forgotten after [`LAPSE`]: it may have ended since.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::now;
use crate::shared::Shared;

/// How long it holds that Envoy drains, unless another request finds it so, in milliseconds. Probers come
/// more often.
const LAPSE: u64 = 60_000;

/// What a request is for, as far as routes tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The endpoint of this path.
    Endpoint(&'a str),
    /// A gRPC service.
    Grpc,
}

/// What requests have found, for the whole process and all configurations of one name: a Watch of a
/// listener that has been replaced follows a drain by requests to the new one.
#[derive(Debug, Default)]
pub struct Drain {
    /// Until when it holds that Envoy drains, by [`now`]; 0 if it does not.
    until: AtomicU64,
    /// The targets of routes that have the health_check filter.
    filtered: Mutex<BTreeSet<String>>,
}

static DRAINS: Shared<String, Drain> = Shared::empty();

impl Drain {
    /// That of all filters of this name.
    pub fn of(name: &str) -> Arc<Self> {
        DRAINS.of(name.to_owned())
    }

    /// The health_check filter has answered, for Envoy drains.
    pub fn answered_before(&self, target: Target<'_>) {
        self.answered_before_at(target, now());
    }

    fn answered_before_at(&self, target: Target<'_>, now: u64) {
        self.lock().insert(key(target).to_owned());
        self.until.store(now + LAPSE, Ordering::Relaxed);
    }

    /// A request has reached us.
    pub fn reached(&self, target: Target<'_>) {
        if self.until.load(Ordering::Relaxed) > 0 && self.filtered(target) {
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether Watches of the endpoint of this path are to say that it is unhealthy.
    pub fn covers(&self, path: &str) -> bool {
        // The usual case, without a look at the clock.
        self.until.load(Ordering::Relaxed) > 0 && self.covers_at(path, now())
    }

    fn covers_at(&self, path: &str, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
            && (self.filtered(Target::Grpc) || self.filtered(Target::Endpoint(path)))
    }

    fn filtered(&self, target: Target<'_>) -> bool {
        self.lock().contains(key(target))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.filtered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No path is the one for gRPC: they all begin with a slash.
fn key(target: Target<'_>) -> &str {
    match target {
        Target::Endpoint(path) => path,
        Target::Grpc => "gRPC",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_meet() {
        use Target::{Endpoint, Grpc};
        let drain = Drain::default();
        let covers = || ["/a", "/b"].map(|path| drain.covers(path));
        drain.reached(Endpoint("/a"));
        assert_eq!(covers(), [false, false]);
        drain.answered_before(Endpoint("/a"));
        assert_eq!(covers(), [true, false]);
        // Routes without the filter say nothing.
        drain.reached(Endpoint("/b"));
        drain.reached(Grpc);
        assert_eq!(covers(), [true, false]);
        drain.reached(Endpoint("/a"));
        assert_eq!(covers(), [false, false]);
        drain.answered_before(Grpc);
        assert_eq!(covers(), [true, true]);
        drain.reached(Endpoint("/b"));
        assert_eq!(covers(), [true, true]);
        // Whichever of those with the filter comes first.
        drain.reached(Endpoint("/a"));
        assert_eq!(covers(), [false, false]);
        drain.answered_before(Endpoint("/a"));
        drain.reached(Grpc);
        assert_eq!(covers(), [false, false]);
        // Routes that are known to have it need no request of their own to be told of the next drain.
        drain.answered_before(Endpoint("/c"));
        assert_eq!(covers(), [true, true]);
    }

    #[test]
    fn it_is_forgotten_if_nobody_asks() {
        let drain = Drain::default();
        let target = Target::Endpoint("/a");
        drain.answered_before_at(target, 1000);
        drain.answered_before_at(target, 5000);
        assert!(drain.covers_at("/a", 5000) && drain.covers_at("/a", 4999 + LAPSE));
        assert!(!drain.covers_at("/a", 5000 + LAPSE));
        drain.answered_before_at(target, 90_000);
        assert!(drain.covers_at("/a", 90_000));
        drain.reached(target);
        assert!(!drain.covers_at("/a", 90_000));
    }
}
