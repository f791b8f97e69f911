//! Whether Envoy drains, for Watches that are open.
//!
//! The ABI does not tell. Where Envoy's health_check filter stands before ours, it answers probes and
//! Checks in our place while Envoy drains (`/healthcheck/fail`), and that is all that they need. An open
//! Watch never passes it again: it is told by what others meet. A request that the filter has answered
//! says that Envoy drains, and that its route has the filter. From then on a request of such a route
//! that does reach us says that Envoy does not; one of another route says nothing. If nobody asks any
//! more, a drain is forgotten after [`LAPSE`]: it may have ended since.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::stats::now;

/// How long it holds that Envoy drains, unless another request meets it, in milliseconds. Probers ask
/// more often.
const LAPSE: u64 = 60_000;

/// What a request asks for, as far as routes tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The endpoint at this place.
    Endpoint(usize),
    /// A gRPC service.
    Grpc,
}

/// What requests have met, for the whole process.
#[derive(Debug)]
pub struct Drain {
    /// Until when it holds that Envoy drains, by [`now`]; 0 if it does not.
    until: AtomicU64,
    /// Whether the route has the health_check filter: one for gRPC, then one for each endpoint.
    minds: Box<[AtomicBool]>,
}

impl Drain {
    /// Of a configuration with so many endpoints.
    pub fn new(endpoints: usize) -> Self {
        Self {
            until: AtomicU64::new(0),
            minds: (0..=endpoints).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// The health_check filter has answered, for Envoy drains.
    pub fn answered_before(&self, asked: Asked) {
        self.answered_before_at(asked, now());
    }

    fn answered_before_at(&self, asked: Asked, now: u64) {
        if let Some(minds) = self.minds.get(place(asked)) {
            minds.store(true, Ordering::Relaxed);
            self.until.store(now + LAPSE, Ordering::Relaxed);
        }
    }

    /// A request has reached us.
    pub fn reached(&self, asked: Asked) {
        if self.until.load(Ordering::Relaxed) > 0 && self.minds(asked) {
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a Watch of this endpoint is to be told that it is unhealthy.
    pub fn concerns(&self, endpoint: usize) -> bool {
        // The usual case, without a look at the clock.
        self.until.load(Ordering::Relaxed) > 0 && self.concerns_at(endpoint, now())
    }

    fn concerns_at(&self, endpoint: usize, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
            && (self.minds(Asked::Grpc) || self.minds(Asked::Endpoint(endpoint)))
    }

    fn minds(&self, asked: Asked) -> bool {
        let minds = self.minds.get(place(asked));
        minds.is_some_and(|minds| minds.load(Ordering::Relaxed))
    }
}

fn place(asked: Asked) -> usize {
    match asked {
        Asked::Grpc => 0,
        Asked::Endpoint(index) => index + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_meet() {
        use Asked::{Endpoint, Grpc};
        let drain = Drain::new(2);
        let concerns = || [drain.concerns(0), drain.concerns(1)];
        drain.reached(Endpoint(0));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Endpoint(0));
        assert_eq!(concerns(), [true, false]);
        // Routes without the filter say nothing.
        drain.reached(Endpoint(1));
        drain.reached(Grpc);
        assert_eq!(concerns(), [true, false]);
        drain.reached(Endpoint(0));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Grpc);
        assert_eq!(concerns(), [true, true]);
        drain.reached(Endpoint(1));
        assert_eq!(concerns(), [true, true]);
        // Whichever of those with the filter comes first.
        drain.reached(Endpoint(0));
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Endpoint(0));
        drain.reached(Grpc);
        assert_eq!(concerns(), [false, false]);
        drain.answered_before(Endpoint(2));
        assert_eq!(concerns(), [false, false]);
    }

    #[test]
    fn it_is_forgotten_if_nobody_asks() {
        let drain = Drain::new(1);
        let asked = Asked::Endpoint(0);
        drain.answered_before_at(asked, 1000);
        drain.answered_before_at(asked, 5000);
        assert!(drain.concerns_at(0, 5000) && drain.concerns_at(0, 4999 + LAPSE));
        assert!(!drain.concerns_at(0, 5000 + LAPSE));
        drain.answered_before_at(asked, 90_000);
        assert!(drain.concerns_at(0, 90_000));
        drain.reached(asked);
        assert!(!drain.concerns_at(0, 90_000));
    }
}
