//! What both builds of envoy-healthz share: a rule and what is known of a cluster, to an answer.
//!
//! In the order of the walk:
//!
//! 1. [`config`]: endpoints and their rules, read from JSON and checked.
//! 2. [`view`]: the seam to a source of knowledge, which tells a cluster's counts and hosts.
//! 3. [`flags`]: Envoy's health flags, and what each means for traffic.
//! 4. [`judgement`]: a rule and a view, to healthy or unhealthy and the cause.
//! 5. [`answer`]: a request and a verdict, to status, headers and body.
//! 6. [`transition`]: whether a verdict differs from the last one, so that it is logged once.
//!
//! Nothing here does IO or knows a clock, a host SDK or Envoy's admin.

pub mod config;
pub mod view;

pub mod flags;
pub mod judgement;

pub mod answer;
pub mod transition;
