//! The seam between the core and a source of knowledge: what is known of a cluster at one moment.
//!
//! The wasm filter's source is Envoy's admin, the dynamic module's the worker's own view. A source
//! that cannot name hosts gives counts alone.

use std::fmt::Display;

use crate::flags::{HealthFlags, Standing};

/// What a source knows at one moment. It says the same for as long as it is borrowed.
pub trait View {
    /// What is known of this cluster; `None` if Envoy does not know it or is still warming it.
    fn cluster(&self, name: &str) -> Option<ClusterView<'_>>;

    /// What makes endpoints unhealthy whatever their clusters are like.
    fn overridden(&self) -> Option<Override<'_>>;
}

/// One cluster that Envoy knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClusterView<'a> {
    /// How many hosts it has.
    pub counts: Counts,
    /// Every host, if the source can name them.
    pub hosts: &'a [Host],
}

/// How many hosts a cluster has. Made once a snapshot, not once a probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All hosts.
    pub total: u64,
    /// Usable hosts that are not degraded.
    pub healthy: u64,
    /// Usable hosts that are degraded.
    pub degraded: u64,
    /// Hosts that Envoy leaves out when it counts percentages.
    pub excluded: u64,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `127.0.0.1:9000`, `[::1]:9000`, `/run/app.sock`, `@abstract` or `envoy://listener/id`.
    pub address: String,
    /// Envoy's health flags.
    pub flags: HealthFlags,
}

/// What makes endpoints unhealthy whatever their clusters are like.
#[derive(Clone, Copy)]
pub enum Override<'a> {
    /// There is no knowledge that can be trusted; why.
    NoKnowledge(&'a dyn Display),
    /// Envoy is draining or still starting; holds what its admin's `/ready` said. Only for endpoints
    /// with `fail_when_draining`.
    NotReady(&'a str),
}

impl Counts {
    /// Counts a host with these flags.
    pub fn add(&mut self, flags: &HealthFlags) {
        self.total += 1;
        match flags.standing() {
            Standing::Healthy => self.healthy += 1,
            Standing::Degraded => self.degraded += 1,
            Standing::Unusable => {}
        }
        self.excluded += u64::from(flags.excluded());
    }

    /// Of all these hosts.
    pub fn of(hosts: &[Host]) -> Self {
        let mut counts = Self::default();
        hosts.iter().for_each(|host| counts.add(&host.flags));
        counts
    }
}
