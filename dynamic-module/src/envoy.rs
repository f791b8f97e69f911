//! What the filter needs of Envoy, free of pointers: [`crate::ffi`] implements it for a real Envoy, the
//! tests for one of their own.

use healthz_core::state::Level;
use healthz_core::view::Counts;

/// What Envoy calls a counter or a gauge; its labels' values come with each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric(pub usize);

/// A filter's configuration while Envoy loads it.
pub trait Setup {
    /// Makes a counter with these labels. It appears with its first use.
    fn counter(&self, name: &str, labels: &[&str]) -> Metric;
    /// Makes a gauge with these labels. It appears with its first use.
    fn gauge(&self, name: &str, labels: &[&str]) -> Metric;
}

/// One HTTP request, while one of its hooks runs. All answers are this worker's own view.
pub trait Request {
    /// The value of a request header; empty if there is none.
    fn header(&self, name: &str) -> &[u8];
    /// In the hook of the answer's headers, why Envoy has given that answer, like `health_check_failed`;
    /// empty before Envoy 1.39.
    fn response_details(&self) -> &[u8];
    /// The piece of the body that has just come; nothing outside of the hook for it.
    fn body(&self) -> Vec<&[u8]>;
    /// The name of the cluster that the request's route leads to.
    fn route_cluster(&self) -> Option<&[u8]>;
    /// How many hosts that cluster has at one priority; `None` if it has no such priority.
    fn route_cluster_hosts(&self, priority: u32) -> Option<Counts>;
    /// Whether some connection of this worker has our network filter, by which any cluster can be
    /// asked for.
    fn has_network_filter(&self) -> bool;
    /// How many hosts the cluster of this name has at one priority; `None` if it has no such priority,
    /// if Envoy does not know it or is still warming it, or without a network filter.
    fn hosts(&self, cluster: &str, priority: u32) -> Option<Counts>;
    /// Adds to a counter.
    fn count(&self, counter: Metric, labels: &[&str], value: u64);
    /// Sets a gauge.
    fn set(&self, gauge: Metric, labels: &[&str], value: u64);
    /// Writes a line to Envoy's log.
    fn log(&self, level: Level, line: &str);
}

/// The stream of a Watch, on its worker.
pub trait Watcher {
    /// Sends a message more, if the stream still lives.
    fn send(&self, message: &[u8]);
    /// Ends the stream after a fault.
    fn fail(&self);
    /// What wakes this Watch; `None` if its stream has ended.
    fn waker(&self) -> Option<Box<dyn Waker>>;
}

/// Has Envoy call the module for one Watch, on the worker of its stream, from any thread.
pub trait Waker: Send {
    /// Once for each call of this.
    fn wake(&self);
}
