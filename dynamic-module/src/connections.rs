//! The network filters of this worker's connections. Any of them can be asked for any cluster.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_void;

/// What Envoy calls a network filter.
pub type NetworkFilter = *mut c_void;

thread_local! {
    static LIVE: RefCell<BTreeSet<NetworkFilter>> = const { RefCell::new(BTreeSet::new()) };
}

// While a thread ends the list may be gone; then nobody asks for it.

/// Takes up one that Envoy has made.
pub fn add(filter: NetworkFilter) {
    let _ = LIVE.try_with(|live| live.borrow_mut().insert(filter));
}

/// Forgets one that Envoy destroys.
pub fn remove(filter: NetworkFilter) {
    let _ = LIVE.try_with(|live| live.borrow_mut().remove(&filter));
}

/// One that lives.
pub fn any() -> Option<NetworkFilter> {
    LIVE.try_with(|live| live.borrow().first().copied()).ok()?
}
