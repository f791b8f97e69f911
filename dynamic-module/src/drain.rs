//! Whether Envoy drains, for Watches that are open.
//!
//! The ABI does not tell. Where Envoy's health_check filter stands before ours, it answers probes and
//! Checks in our place while Envoy drains (`/healthcheck/fail`), and that is all that they need. An open
//! Watch never passes it again: it is told by what others meet. A request that the filter has answered
//! says that Envoy drains, and that its route has the filter. From then on a request of such a route
//! that does reach us says that Envoy does not; one of another route says nothing.

use std::sync::atomic::{AtomicBool, Ordering};

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
    draining: AtomicBool,
    /// Whether the route has the health_check filter: one for gRPC, then one for each endpoint.
    minds: Box<[AtomicBool]>,
}

impl Drain {
    /// Of a configuration with so many endpoints.
    pub fn new(endpoints: usize) -> Self {
        Self {
            draining: AtomicBool::new(false),
            minds: (0..=endpoints).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// The health_check filter has answered, for Envoy drains.
    pub fn answered_before(&self, asked: Asked) {
        if let Some(minds) = self.minds.get(place(asked)) {
            minds.store(true, Ordering::Relaxed);
            self.draining.store(true, Ordering::Relaxed);
        }
    }

    /// A request has reached us.
    pub fn reached(&self, asked: Asked) {
        if self.draining.load(Ordering::Relaxed) && self.minds(asked) {
            self.draining.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a Watch of this endpoint is to be told that it is unhealthy.
    pub fn concerns(&self, endpoint: usize) -> bool {
        self.draining.load(Ordering::Relaxed)
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
}
