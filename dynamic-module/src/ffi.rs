//! Envoy's ABI for dynamic modules, as Envoy 1.38 to 1.40 have it: this file and its folder are the only
//! ones with `unsafe`.
//!
//! 1. [`callbacks`]: what Envoy exports (`envoy_dynamic_module_callback_...`), and what the filter makes
//!    of it.
//! 2. [`hooks`]: what Envoy calls (`envoy_dynamic_module_on_...`).
//!
//! Rules that hold throughout:
//!
//! - No panic crosses into Envoy, which would end the process: each hook runs in [`guard`].
//! - No hook hands Envoy a null, but for a configuration that is refused.
//! - Pointers from Envoy to an HTTP filter live from `http_filter_new` to `http_filter_destroy`, on
//!   one worker; those to a network filter likewise. What Envoy lends (a header's value, a name) lives
//!   until the hook ends, and as long as headers are not changed.
//! - Our pointers: a configuration is an [`Arc`](std::sync::Arc) that Envoy holds from `config_new` to
//!   `config_destroy`, a request an [`Rc`](std::rc::Rc) that it holds from `new` to `destroy`.
//! - `build.rs` has the linker mark the file as never to be unloaded.

#![allow(unsafe_code)]

mod callbacks;
mod hooks;

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::slice;

use crate::envoy::Level;
use callbacks::write_line;

/// Text that one side lends to the other.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    start: *const u8,
    size: usize,
}

#[repr(C)]
struct Header {
    name: Buffer,
    value: Buffer,
}

/// What Envoy calls one of its objects, or we one of ours.
type Pointer = *mut c_void;

impl Buffer {
    /// Lends text to Envoy, which copies what it keeps.
    fn lend(text: &str) -> Self {
        Self::lend_bytes(text.as_bytes())
    }

    fn lend_bytes(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            size: bytes.len(),
        }
    }

    const EMPTY: Self = Self {
        start: null(),
        size: 0,
    };

    /// # Safety
    /// Envoy wrote this buffer, and what it leads to lives for `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; an empty text may come as a null, which is out by now.
        unsafe { slice::from_raw_parts(self.start, self.size) }
    }
}

/// Runs a hook's body; a panic in it ends here, and `fallback` says what Envoy is told.
fn guard<T>(hook: &str, fallback: impl FnOnce() -> T, body: impl FnOnce() -> T) -> T {
    let body = || {
        #[cfg(panic_test)]
        panic_if_wanted(hook);
        body()
    };
    // A panic can leave only what is shared half changed: locks, which are poisoned then, and cells,
    // which are set in one step.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        write_line(
            Level::Error,
            &format!("envoy-healthz: a fault in {hook}, see the panic above; please report it"),
        );
        fallback()
    })
}

/// Panics in the hook that the environment names, or in all: a build for tests alone.
#[cfg(panic_test)]
#[allow(clippy::panic)]
fn panic_if_wanted(hook: &str) {
    if std::env::var("ENVOY_HEALTHZ_PANIC").is_ok_and(|wanted| wanted == hook) {
        panic!("a deliberate panic in {hook}");
    }
}
