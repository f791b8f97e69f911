//! Answers `/healthz` in Envoy from what Envoy itself knows of its clusters' health: the wasm filter.
//!
//! The walk of one probe:
//!
//! 1. `wasm` gets the request's headers from Envoy ([`pairs`] reads them); it alone names proxy-wasm, and decides
//!    nothing.
//!    The rest sees Envoy through the trait in [`envoy`].
//! 2. [`filter`] finds the endpoint of that path in the [`Config`](healthz_core::config::wasm::Config).
//!    Any other path goes on to its route at once.
//! 3. [`refresh`] has knowledge at hand, or makes the probe wait while the admin is queried:
//!    [`admin::pages`] says what, [`admin::clusters`] reads the reply, [`admin::snapshots`] says when and
//!    who waits, [`admin::shared`] is what the workers of one Envoy share.
//! 4. [`healthz_core`] makes a verdict of the endpoint's rule and that knowledge, and an answer of the
//!    verdict. It knows nothing of the admin: the dynamic module judges and answers by it as well.
//! 5. [`recorder`] keeps what was answered last, and says what is new: in the log, and by [`metrics`].
//!
//! What to change where: the table in .github/CONTRIBUTING.md.

pub mod envoy;

pub mod filter;
pub mod refresh;

pub mod admin;

pub mod metrics;
pub mod recorder;

pub mod pairs;
#[cfg(target_arch = "wasm32")]
mod wasm;
