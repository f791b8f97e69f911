//! Our own filter in a configuration, its JSON read by the same code as in Envoy.

use healthz_core::config::{Endpoint, module, wasm};

use crate::envoy::{Chain, Envoy, Listener};
use crate::tree::{Node, Refusal};

/// One of the two builds in a chain's `http_filters`.
pub struct Filter<'t> {
    /// Where.
    pub listener: &'t Listener<'t>,
    /// Where in it.
    pub chain: &'t Chain<'t>,
    /// The entry of `http_filters`.
    pub node: &'t Node,
    /// Its configuration: a text, or an object of the module.
    pub text: &'t Node,
    /// The configuration as read.
    pub config: Config,
}

/// A build and its configuration.
pub enum Config {
    /// `envoy_healthz.wasm`
    Wasm(wasm::Config),
    /// `libenvoy_healthz.so`
    Module(module::Config),
}

impl Config {
    /// The endpoints.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Wasm(config) => &config.endpoints,
            Self::Module(config) => &config.endpoints,
        }
    }
}

/// All of them; refused where the filter would refuse, in its words.
pub fn find<'t>(envoy: &'t Envoy<'t>) -> Result<Vec<Filter<'t>>, Refusal> {
    let mut found = Vec::new();
    for listener in &envoy.listeners {
        for chain in &listener.chains {
            for node in chain.filters() {
                let read = if is_wasm(node) {
                    read_wasm(node)?
                } else if is_module(node) {
                    read_module(node)?
                } else {
                    continue;
                };
                let (text, config) = read;
                found.push(Filter {
                    listener,
                    chain,
                    node,
                    text,
                    config,
                });
            }
        }
    }
    Ok(found)
}

/// Whether this is our wasm: by its file's or its own name, or by what it is configured with.
fn is_wasm(filter: &Node) -> bool {
    let config = match filter.at("typed_config.config") {
        Some(config) if filter.is_a("http.wasm.v3.Wasm") => config,
        _ => return false,
    };
    let names = [
        filter.str("name"),
        config.str("name"),
        config.str("vm_config.code.local.filename"),
        config.str("vm_config.code.remote.http_uri.uri"),
    ];
    let ours = |text: &str| text.contains("admin_cluster") && text.contains("endpoints");
    names.into_iter().flatten().any(is_our_name)
        || config.str("configuration.value").is_some_and(ours)
}

/// Whether this is our module, as an HTTP filter.
pub fn is_module(filter: &Node) -> bool {
    filter.is_a("http.dynamic_modules.v3.DynamicModuleFilter") && names_our_module(filter)
}

/// Whether this is our module, as a network filter.
pub fn is_network_module(filter: &Node) -> bool {
    filter.is_a("network.dynamic_modules.v3.DynamicModuleNetworkFilter") && names_our_module(filter)
}

fn names_our_module(filter: &Node) -> bool {
    let module = filter.at("typed_config.dynamic_module_config");
    let name = |module: &Node| {
        let names = [module.str("name"), module.str("module.local.filename")];
        names.into_iter().flatten().any(is_our_name)
    };
    module.is_some_and(name)
}

fn is_our_name(name: &str) -> bool {
    name.contains("envoy_healthz") || name.contains("envoy-healthz")
}

fn read_wasm(filter: &Node) -> Result<(&Node, Config), Refusal> {
    let config = filter.at("typed_config.config.configuration");
    let text = config.and_then(|config| config.get("value"));
    let place = text.or(config).unwrap_or(filter);
    let read = match text.map(Node::text) {
        None => wasm::Config::parse(b"").map_err(|error| error.to_string()),
        Some(Some(text)) if !config.is_some_and(|config| config.is_a("protobuf.BytesValue")) => {
            wasm::Config::parse(text.as_bytes()).map_err(|error| error.to_string())
        }
        Some(_) => Err("configuration: is no google.protobuf.StringValue of JSON".to_owned()),
    };
    match read {
        Ok(config) => Ok((place, Config::Wasm(config))),
        Err(error) => Err(refused(place, &error)),
    }
}

fn read_module(filter: &Node) -> Result<(&Node, Config), Refusal> {
    let config = filter.at("typed_config.filter_config");
    let value = config.and_then(|config| config.get("value"));
    let place = value.or(config).unwrap_or(filter);
    let text = match value {
        None => String::new(),
        Some(value) => match value.text() {
            Some(text) => text.to_owned(),
            None => value.to_json().to_string(),
        },
    };
    match module::Config::parse(text.as_bytes()) {
        Ok(config) => Ok((place, Config::Module(config))),
        Err(error) => Err(refused(place, &error.to_string())),
    }
}

fn refused(place: &Node, error: &str) -> Refusal {
    Refusal(format!(
        "line {}: the filter refuses its configuration: {error}",
        place.line
    ))
}
