//! Answers `/healthz` in Envoy from what Envoy itself knows of its clusters' health: the wasm filter.
//!
//! The walk of one probe:
//!
//! 1. `wasm` gets the request's headers from Envoy; it alone names proxy-wasm, and decides nothing.
//! 2. [`filter`] finds the endpoint of that path in the [`Config`](healthz_core::config::wasm::Config). Any other path goes on to
//!    its route at once. It sees Envoy through the trait in [`host`].
//! 3. [`admin::snapshots`] has knowledge at hand, or has the probe wait while the admin is asked:
//!    [`admin::pages`] says what, [`admin::clusters`] reads the reply, [`admin::shared`] is what the
//!    workers of one Envoy tell each other.
//! 4. [`healthz_core`] makes a verdict of the endpoint's rule and that knowledge, and an answer of the
//!    verdict. It knows nothing of the admin: the dynamic module judges and answers by it as well.
//!
//! | to change | look at |
//! |---|---|
//! | a health flag | `core/src/flags.rs` |
//! | a configuration field | `core/src/config.rs` for endpoints, `core/src/config/{wasm,module}.rs` for the rest |
//! | the form of an answer | `core/src/answer.rs` |
//! | a source of counts | the trait in `core/src/view.rs`; the admin's is in `src/admin/pages.rs` |

pub mod host;

pub mod filter;

pub mod admin;

#[cfg(target_arch = "wasm32")]
mod wasm;
