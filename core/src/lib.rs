//! What both builds of envoy-healthz share: a rule and what is known of a cluster, to an answer.
//!
//! In the order of the walk:
//!
//! 1. [`config`]: what each build is configured with, read from JSON and checked.
//! 2. [`request`]: a request, to the endpoint of its path and the form of the answer.
//! 3. [`view`]: the seam to a source of knowledge, which gives a cluster's counts and hosts.
//! 4. [`flags`]: Envoy's health flags, and what each means for traffic.
//! 5. [`judgement`]: a rule and a view, to a verdict: healthy or unhealthy, and why.
//! 6. [`answer`]: a verdict, to status, headers and body.
//! 7. [`state`]: the last state and a verdict, to the next one and what is to be logged and counted.
//!
//! Nothing here does IO or knows a clock, a host SDK or Envoy's admin.

#![forbid(unsafe_code)]

pub mod config;
pub mod request;
pub mod view;

pub mod flags;
pub mod judgement;

pub mod answer;
pub mod state;
