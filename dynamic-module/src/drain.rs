//! Whether Envoy drains, for Watches that are open.
//!
//! The ABI does not tell. Where Envoy's health_check filter stands before ours, it answers probes and
//! Checks in our place while Envoy drains (`/healthcheck/fail`), and that is all that they need. An open
//! Watch never passes it again: it is told by what others meet. A request that the filter has answered
//! says that Envoy drains, and that its route has the filter. From then on a request of such a route
//! that does reach us says that Envoy does not; one of another route says nothing. If nobody asks any
//! more, a drain is forgotten after [`LAPSE`]: it may have ended since.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::stats::now;

/// How long it holds that Envoy drains, unless another request meets it, in milliseconds. Probers ask
/// more often.
const LAPSE: u64 = 60_000;

/// What a request asks for, as far as routes tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The endpoint of this path.
    Endpoint(&'a str),
    /// A gRPC service.
    Grpc,
}

/// What requests have met, for the whole process and all configurations of one name: a Watch of a
/// listener that has been replaced hears of a drain by those who ask the new one.
#[derive(Debug, Default)]
pub struct Drain {
    /// Until when it holds that Envoy drains, by [`now`]; 0 if it does not.
    until: AtomicU64,
    /// What is asked for by routes that have the health_check filter.
    minds: Mutex<BTreeSet<String>>,
}

impl Drain {
    /// The health_check filter has answered, for Envoy drains.
    pub fn answered_before(&self, asked: Asked<'_>) {
        self.answered_before_at(asked, now());
    }

    fn answered_before_at(&self, asked: Asked<'_>, now: u64) {
        self.lock().insert(key(asked).to_owned());
        self.until.store(now + LAPSE, Ordering::Relaxed);
    }

    /// A request has reached us.
    pub fn reached(&self, asked: Asked<'_>) {
        if self.until.load(Ordering::Relaxed) > 0 && self.minds(asked) {
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a Watch of the endpoint of this path is to be told that it is unhealthy.
    pub fn concerns(&self, path: &str) -> bool {
        // The usual case, without a look at the clock.
        self.until.load(Ordering::Relaxed) > 0 && self.concerns_at(path, now())
    }

    fn concerns_at(&self, path: &str, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
            && (self.minds(Asked::Grpc) || self.minds(Asked::Endpoint(path)))
    }

    fn minds(&self, asked: Asked<'_>) -> bool {
        self.lock().contains(key(asked))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.minds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No path is the one for gRPC: they all begin with a slash.
fn key(asked: Asked<'_>) -> &str {
    match asked {
        Asked::Endpoint(path) => path,
        Asked::Grpc => "gRPC",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_meet() {
        use Asked::{Endpoint, Grpc};
        let drain = Drain::default();
        let concerns = || ["/a", "/b"].map(|path| drain.concerns(path));
        drain.reached(Endpoint("/a"));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Endpoint("/a"));
        assert_eq!(concerns(), [true, false]);
        // Routes without the filter say nothing.
        drain.reached(Endpoint("/b"));
        drain.reached(Grpc);
        assert_eq!(concerns(), [true, false]);
        drain.reached(Endpoint("/a"));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Grpc);
        assert_eq!(concerns(), [true, true]);
        drain.reached(Endpoint("/b"));
        assert_eq!(concerns(), [true, true]);
        // Whichever of those with the filter comes first.
        drain.reached(Endpoint("/a"));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Endpoint("/a"));
        drain.reached(Grpc);
        assert_eq!(concerns(), [false, false]);
        // Routes that are known to have it need no request of their own to be told of the next drain.
        drain.answered_before(Endpoint("/c"));
        assert_eq!(concerns(), [true, true]);
    }

    #[test]
    fn it_is_forgotten_if_nobody_asks() {
        let drain = Drain::default();
        let asked = Asked::Endpoint("/a");
        drain.answered_before_at(asked, 1000);
        drain.answered_before_at(asked, 5000);
        assert!(drain.concerns_at("/a", 5000) && drain.concerns_at("/a", 4999 + LAPSE));
        assert!(!drain.concerns_at("/a", 5000 + LAPSE));
        drain.answered_before_at(asked, 90_000);
        assert!(drain.concerns_at("/a", 90_000));
        drain.reached(asked);
        assert!(!drain.concerns_at("/a", 90_000));
    }
}
