//! The filter in a real Envoy. `../../src/lib.rs` says how these tests work.

mod admin;
mod answers;
mod backends;
mod balancers;
mod busy;
mod clients;
mod configuration;
mod dashboard;
mod endpoints;
mod flood;
mod from_lua;
mod judgement;
mod lua;
mod metrics;
mod module;
mod old_envoy;
mod operations;
mod process;
mod recipes;
mod rehearsal;
mod shipped;
mod trap;
mod waiting;
