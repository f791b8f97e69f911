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

use e2e::config::{Config, listener_with_routes};
use e2e::{Build, free_port, module};
use serde_json::{Value, json};

/// A configuration without the network filter: routes of these paths to these clusters, and the drain filters.
fn on_routes(endpoints: Value, routes: &[(&str, &str)]) -> Config {
    let filter = Build::Module.filter(&json!({"endpoints": endpoints}));
    let filters = module::drain_filters().into_iter().chain([filter]);
    let routes = routes
        .iter()
        .map(|(path, cluster)| module::route(path, cluster));
    Config::new().listener(listener_with_routes(free_port(), filters, routes.collect()))
}

/// What begins with this prefix in the module's file, which names nothing but what it exports and what
/// it needs of Envoy; the prefix is left out.
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
