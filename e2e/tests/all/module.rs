//! The native module in a real Envoy.

mod answers;
mod configuration;
mod grpc;
mod grpc_health;
mod judgement;
mod listeners;
mod panics;
mod shipped;
mod signatures;
mod timing;

use e2e::config::{bootstrap, listener_with_filters, listener_with_routes};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{eventually, free_port, module};
use serde_json::{Value, json};

/// An Envoy with the module on one listener, its network filter before it.
pub(crate) struct Native {
    pub(crate) envoy: Envoy,
    pub(crate) prober: Prober,
    pub(crate) port: u16,
}

impl Native {
    /// With these endpoints; behind the filter every request is answered 418.
    pub(crate) async fn start(endpoints: Value, clusters: Vec<Value>) -> Self {
        Self::start_with(endpoints, clusters, |_| ()).await
    }

    /// The same with a change of Envoy's configuration.
    pub(crate) async fn start_with(
        endpoints: Value,
        clusters: Vec<Value>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let filter = module::filter(&json!({"endpoints": endpoints}));
        let (admin, port) = (free_port(), free_port());
        let listener = module::with_network_filter(listener_with_filters(port, vec![filter]));
        let mut config = bootstrap(admin, vec![listener], clusters);
        change(&mut config);
        Self::of(&config, admin, port).await
    }

    /// Without the network filter: routes of these paths to these clusters, and the drain filters.
    pub(crate) async fn start_on_routes(
        endpoints: Value,
        routes: &[(&str, &str)],
        clusters: Vec<Value>,
    ) -> Self {
        let (admin, port) = (free_port(), free_port());
        let mut filters = module::drain_filters();
        filters.push(module::filter(&json!({"endpoints": endpoints})));
        let routes = routes
            .iter()
            .map(|(path, cluster)| module::route(path, cluster));
        let listener = listener_with_routes(port, filters, routes.collect());
        let config = bootstrap(admin, vec![listener], clusters);
        Self::of(&config, admin, port).await
    }

    async fn of(config: &Value, admin: u16, port: u16) -> Self {
        module::folder();
        Self {
            envoy: Envoy::start(config, admin).await,
            prober: Prober::http(port),
            port,
        }
    }

    /// Waits until this path has this status, and this body if it is not empty.
    pub(crate) async fn wait_for(&self, path: &str, status: u16, body: &str) {
        let mut last = None;
        let what = format!("{path} answers {status} {body:?}");
        eventually(&what, async || {
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
