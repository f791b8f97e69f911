//! Answers `/healthz` in Envoy from what Envoy itself knows of its clusters' health.
//!
//! The walk of one probe:
//!
//! 1. `filter` gets the request's headers from Envoy, finds the endpoint of
//!    that path in the [`config::Config`], and reads what the request wants
//!    ([`response::Wish`]). Any other path goes on to its route at once.
//! 2. [`snapshot::Snapshots`] has an answer at hand, or has the probe wait while the admin is asked:
//!    [`admin`] says what, [`clusters`] reads the reply.
//! 3. [`health::judge`] makes a verdict of the endpoint's rule and the snapshot, and
//!    [`response::Response`] makes that an answer.
//!
//! [`shared`] holds what the workers of one Envoy tell each other. All of it but `filter` does no
//! IO and knows no clock and no host, so that it can be tested natively and used elsewhere.

pub mod config;

pub mod admin;
pub mod clusters;
pub mod health;
pub mod response;
pub mod shared;
pub mod snapshot;

#[cfg(target_arch = "wasm32")]
mod filter;
