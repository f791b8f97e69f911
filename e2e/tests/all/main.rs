//! The filter in a real Envoy. `../../src/lib.rs` says how these tests work.
//!
//! What is true of both builds is one test, run as `FILE::wasm::NAME` and `FILE::module::NAME`. What
//! only the module has is in `module/`; the admin, waiting, traps and what is made of Lua are the wasm
//! build's.

use e2e::config::bootstrap;
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{Build, eventually, free_port};
use reqwest::Method;
use serde_json::Value;

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

/// An Envoy with the filter on one listener.
struct Served {
    envoy: Envoy,
    prober: Prober,
    port: u16,
}

impl Served {
    /// With this build and configuration of the filter; behind it every request is answered 418.
    async fn start(build: Build, config: &Value, clusters: Vec<Value>) -> Self {
        let (admin, port) = (free_port(), free_port());
        let listeners = vec![build.listener(port, config)];
        Self::of(&bootstrap(admin, listeners, clusters), admin, port).await
    }

    /// With this configuration of Envoy.
    async fn of(config: &Value, _admin: u16, port: u16) -> Self {
        Self {
            envoy: Envoy::start(&config.to_string(), &[]).await,
            prober: Prober::http(port),
            port,
        }
    }

    /// Waits until this path has this status, and this body if it is not empty.
    async fn wait_for(&self, path: &str, status: u16, body: &str) {
        let mut last = None;
        eventually(&format!("{path} answers {status} {body:?}"), async || {
            let answer = self.prober.try_get(path).await.ok()?;
            let good = answer.status == status && (body.is_empty() || answer.body == body);
            if !good && last.as_ref() != Some(&answer.body) {
                eprintln!("{path}: {} {:?}", answer.status, answer.body);
                last = Some(answer.body);
            }
            good.then_some(())
        })
        .await;
    }
}
