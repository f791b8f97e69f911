//! No panic crosses into Envoy.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::callbacks::write_line;
use healthz_core::state::Level;

/// Runs a hook's body; a panic in it ends here, and is logged.
pub fn guard<T>(hook: &str, body: impl FnOnce() -> T) -> Result<T, Fault> {
    let body = || {
        #[cfg(panic_test)]
        panic_if_wanted(hook);
        body()
    };
    // A panic can leave only what is shared half changed: locks, which are poisoned then, and cells,
    // which are set in one step.
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| {
        write_line(
            Level::Error,
            &format!("envoy-healthz: bug: panic in {hook} (above); please report it"),
        );
        Fault
    })
}

/// A panic that was caught.
pub struct Fault;

/// Panics in the hook that the environment names, or in all: a build for tests alone.
#[cfg(panic_test)]
#[allow(clippy::panic)]
fn panic_if_wanted(hook: &str) {
    if std::env::var("ENVOY_HEALTHZ_PANIC").is_ok_and(|wanted| wanted == hook) {
        panic!("a deliberate panic in {hook}");
    }
}
