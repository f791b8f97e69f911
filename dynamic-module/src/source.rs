//! What the worker knows of an endpoint's clusters, as the core's [`View`].
//!
//! Two ways lead to a cluster. A connection that has our network filter can ask for any cluster by its
//! name. Without one the request itself can ask for the cluster that its route leads to, and for no
//! other: enough for an endpoint of that one cluster. Either way the name is the
//! configuration's; nothing that a client sends chooses it.

use std::fmt;

use healthz_core::config::{ClusterRule, Endpoint};
use healthz_core::view::{ClusterView, Counts, Override, View};

use crate::envoy::Request;

/// The clusters as this worker's load balancers see them, while one hook runs.
pub struct WorkerView<'a> {
    request: &'a dyn Request,
    way: Result<Way, NoWay<'a>>,
}

/// How clusters are queried.
enum Way {
    NetworkFilter,
    Route,
}

/// Why a cluster cannot be queried.
struct NoWay<'a> {
    cluster: &'a str,
    route: Option<&'a [u8]>,
}

impl<'a> WorkerView<'a> {
    /// Finds the way to all clusters of this endpoint.
    pub fn new(request: &'a dyn Request, endpoint: &'a Endpoint) -> Self {
        let way = if endpoint.clusters.is_empty() || request.has_network_filter() {
            Ok(Way::NetworkFilter)
        } else {
            let route = request.route_cluster();
            let mut rules = endpoint.clusters.iter();
            match rules.find(|rule| route != Some(rule.name.as_bytes())) {
                None => Ok(Way::Route),
                Some(ClusterRule { name: cluster, .. }) => Err(NoWay { cluster, route }),
            }
        };
        Self { request, way }
    }

    /// Whether it can query each cluster. A request has the route that it began with, whatever becomes of
    /// the configuration: if it cannot now, it never will.
    pub fn reaches_clusters(&self) -> bool {
        self.way.is_ok()
    }
}

impl View for WorkerView<'_> {
    fn cluster(&self, name: &str) -> Option<ClusterView<'_>> {
        let counts = match self.way.as_ref().ok()? {
            Way::NetworkFilter => sum(|priority| self.request.hosts(name, priority)),
            Way::Route => sum(|priority| self.request.route_cluster_hosts(priority)),
        };
        let hosts = &[];
        counts.map(|counts| ClusterView { counts, hosts })
    }

    fn overridden(&self) -> Option<Override<'_>> {
        let why = self.way.as_ref().err()?;
        Some(Override::NoKnowledge(why))
    }
}

/// Adds up all priorities, which have no gaps; `None` if there is not even the first.
fn sum(hosts: impl Fn(u32) -> Option<Counts>) -> Option<Counts> {
    (0..=HIGHEST_PRIORITY)
        .map_while(hosts)
        .reduce(|sum, more| Counts {
            total: sum.total + more.total,
            healthy: sum.healthy + more.healthy,
            degraded: sum.degraded + more.degraded,
            excluded: 0,
        })
}

/// Envoy takes priorities up to this one.
const HIGHEST_PRIORITY: u32 = 128;

impl fmt::Display for NoWay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster;
        write!(f, "cannot read cluster {cluster:?}: this route leads to ")?;
        match self.route {
            None => f.write_str("no cluster that Envoy knows")?,
            Some(other) => write!(f, "{:?}", String::from_utf8_lossy(other))?,
        }
        f.write_str(". Add the network filter (docs/module.md, Several clusters)")
    }
}
