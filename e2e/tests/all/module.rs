//! What the native module alone has.

mod configuration;
mod grpc_health;
mod local_replies;
mod panics;
mod route;
mod shipped;
mod signatures;
mod timing;

use std::collections::BTreeSet;

use e2e::config::{bootstrap, listener_with_routes};
use e2e::{Build, free_port, module};
use serde_json::{Value, json};

use crate::Served;

/// An Envoy without the network filter: routes of these paths to these clusters, and the drain filters.
async fn on_routes(endpoints: Value, routes: &[(&str, &str)], clusters: Vec<Value>) -> Served {
    let (admin, port) = (free_port(), free_port());
    let mut filters = module::drain_filters();
    filters.push(Build::Module.filter(&json!({"endpoints": endpoints})));
    let routes = routes
        .iter()
        .map(|(path, cluster)| module::route(path, cluster));
    let listener = listener_with_routes(port, filters, routes.collect());
    let config = bootstrap(admin, vec![listener], clusters);
    Served::of(&config, admin, port).await
}

/// What begins with this prefix in the module's file, which names nothing but what it exports and what
/// it asks Envoy for; the prefix is left out.
fn names_in_the_file(prefix: &str) -> BTreeSet<String> {
    let file = std::fs::read(module::folder().join("libenvoy_healthz.so")).unwrap();
    let names = file.windows(prefix.len()).enumerate();
    let starts = names.filter(|(_, window)| *window == prefix.as_bytes());
    let name = |start: usize| {
        let name = file[start + prefix.len()..].iter();
        name.map(|byte| char::from(*byte))
            .take_while(|char| char.is_ascii_lowercase() || *char == '_')
            .collect()
    };
    starts.map(|(start, _)| name(start)).collect()
}
