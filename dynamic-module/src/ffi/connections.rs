//! The network filters of this worker's connections. Any of them can be queried for any cluster.

use std::cell::RefCell;
use std::collections::BTreeSet;

use healthz_core::view::Counts;

use super::callbacks::{hosts_by, network_filter_get_cluster_host_count};
use super::types::{Buffer, Pointer};

thread_local! {
    static LIVE: RefCell<BTreeSet<Pointer>> = const { RefCell::new(BTreeSet::new()) };
}

// While a thread ends the list may be gone; then nobody needs it.

/// Takes up a network filter.
///
/// # Safety
/// Envoy is making it on this worker, and destroys it on this worker, after [`remove`].
pub unsafe fn add(filter: Pointer) {
    let _ = LIVE.try_with(|live| live.borrow_mut().insert(filter));
}

/// Forgets one that Envoy destroys.
pub fn remove(filter: Pointer) {
    let _ = LIVE.try_with(|live| live.borrow_mut().remove(&filter));
}

/// One of them, if there is any.
pub fn first() -> Option<Pointer> {
    LIVE.try_with(|live| live.borrow().first().copied()).ok()?
}

/// How many hosts the cluster of this name has at one priority; `None` if it has no such priority, if Envoy
/// does not know it or is still warming it, or without a network filter.
pub fn hosts(cluster: &str, priority: u32) -> Option<Counts> {
    let connection = first()?;
    let name = Buffer::lend(cluster);
    hosts_by(|total, healthy, degraded| {
        // SAFETY: `LIVE` holds what Envoy has made on this worker and not yet destroyed, by the promise to
        // `add`; neither happens during this call.
        unsafe {
            network_filter_get_cluster_host_count(
                connection, name, priority, total, healthy, degraded,
            )
        }
    })
}
