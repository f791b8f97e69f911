//! The source of knowledge: Envoy's admin. What to ask, the text, when to ask, who waits, and what
//! workers share. It knows no host SDK and no clock.

pub mod pages;

pub mod clusters;
pub mod shared;
pub mod snapshots;

/// What probes are answered from.
pub type Known = snapshots::Knowledge<pages::Report, pages::Fault>;
