//! Envoy's ABI for dynamic modules, as Envoy 1.38 to 1.40 have it: this folder is the only one with
//! `unsafe`, and the only one with pointers.
//!
//! 1. [`types`]: what crosses by value.
//! 2. [`callbacks`]: what Envoy exports (`envoy_dynamic_module_callback_...`).
//! 3. [`guard`]: no panic crosses.
//! 4. [`connections`]: network filters, by which any cluster can be queried.
//! 5. [`stream`]: an HTTP request of Envoy's, as the filter sees it.
//! 6. [`request`]: what we hold for one, and the steps of its answer.
//! 7. [`hooks`]: what Envoy calls (`envoy_dynamic_module_on_...`).
//!
//! Rules that hold throughout:
//!
//! - No panic crosses into Envoy, which would end the process: each hook that can panic runs in a
//!   [`guard`](guard::guard).
//! - No hook hands Envoy a null, but for a configuration that is refused.
//! - Pointers from Envoy to an HTTP filter live from `http_filter_new` to `http_filter_destroy`, on
//!   one worker; those to a network filter likewise. What Envoy lends (a header's value, a name) lives
//!   until the hook ends, and as long as headers are not changed.
//! - Our pointers: a configuration is an [`Arc`](std::sync::Arc) that Envoy holds from `config_new` to
//!   `config_destroy`, a request an [`Rc`](std::rc::Rc) that it holds from `new` to `destroy`.
//! - `build.rs` has the linker mark the file as never to be unloaded.

#![allow(unsafe_code)]

mod callbacks;
mod connections;
mod guard;
mod hooks;
mod request;
mod stream;
mod types;
