//! The filter in a real Envoy. `../../src/lib.rs` says how these tests work.

mod admin;
mod configuration;
mod lua;
mod shipped;
