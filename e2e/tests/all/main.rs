//! The filter in a real Envoy. `../../src/lib.rs` says how these tests work.
//!
//! | what a user sees | where |
//! |---|---|
//! | answers: their forms, which requests get one, and what becomes of it | [`answers`], [`headers`], [`clients`], [`waiting`], [`local_replies`] |
//! | judgement: which answer it is | [`judgement`], [`addresses`], [`endpoints`] |
//! | faults: of hosts, of the admin, of Envoy itself | [`backends`], [`flood`], [`admin`], [`not_the_admin`], [`busy`], [`trap`], [`process`], [`module`]`::panics` |
//! | drains | [`endpoints`], [`judgement`], [`gke`], [`module`]`::grpc_health::drains` |
//! | updates | [`listeners`], [`state`], [`process`] |
//! | logs and metrics | [`operations`], [`state`], [`metrics`], [`dashboard`] |
//! | configurations: refused ones, and those that we ship | [`configuration`], [`old_envoy`], [`shipped`], [`gke`], [`meshes`], [`recipes`], [`balancers`] |
//! | gRPC, answered by the module | [`module`]`::grpc_health` |
//! | other ways: the Lua script, the page that leads from it, what a load balancer costs callers | [`lua`], [`from_lua`], [`rehearsal`] |
//! | `healthz-doctor` | [`doctor`] |
//!
//! What is true of both builds is one test, run as `FILE::wasm::NAME` and `FILE::module::NAME`. What
//! only the module has is in `module/`; the admin, waiting, traps and what is made of Lua are the wasm
//! build's.
//!
//! These take a minute or more, and why (the Makefile's `LONG` skips most on old Envoys):
//! - [`flood`]: a host stops and starts at random times for 60 s.
//! - [`doctor`]: `times` waits for health checks of whole seconds, and each file runs with its twin.
//! - [`rehearsal`]: pods of a load balancer are killed, hung and drained, one way after the other.
//! - [`busy`]: Envoy with 2,000 clusters starts, and writes all its stats several times.
//! - [`clients`]`::clients_that_leave_leave_nothing_behind`: 30,000 connections.
//! - [`listeners`]`::replaced_listeners_leave_nothing_behind`: 60 updates, and memory that settles.
//! - [`state`]: answers, log and gauge have to agree for 3 s each time, and `causes` waits for lines of which
//!   there is one in ten seconds.
//! - [`module`]`::panics::in_each_hook_of_the_way`: an Envoy for each hook.
//! - [`module`]`::grpc_health::many_watches`: thousands of streams.

use reqwest::Method;

/// Makes a test of each build of these functions, which take the build.
macro_rules! both_builds {
    ($($name:ident),* $(,)?) => {
        both_builds!(@ wasm, Wasm, $($name),*);
        both_builds!(@ module, Module, $($name),*);
    };
    (@ $mod:ident, $build:ident, $($name:ident),*) => {
        mod $mod {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(e2e::Build::$build).await;
                }
            )*
        }
    };
}

mod addresses;
mod admin;
mod answers;
mod backends;
mod balancers;
mod busy;
mod clients;
mod configuration;
mod dashboard;
mod doctor;
mod endpoints;
mod flood;
mod from_lua;
mod gke;
mod headers;
mod judgement;
mod listeners;
mod local_replies;
mod lua;
mod meshes;
mod metrics;
mod module;
mod not_the_admin;
mod old_envoy;
mod operations;
mod process;
mod recipes;
mod rehearsal;
mod shipped;
mod state;
mod trap;
mod waiting;

/// Methods that are answered 405.
const OTHER_METHODS: [Method; 5] = [
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::OPTIONS,
    Method::PATCH,
];
