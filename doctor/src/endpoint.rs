//! The health endpoints of a configuration, whatever answers them, and how a plain probe reaches each.

use std::collections::HashSet;

use crate::answer::{Answer, HEALTH_PATHS, answers, answers_always, is_bare_200, script};
use crate::envoy::{Chain, Envoy, Listener};
use crate::filter::Filter;
use crate::matching::Request;
use crate::tree::Node;
use crate::walk::{self, Entry, Wants, Way};

/// A path that answers from the health of clusters, or says that it does.
pub struct Endpoint<'t> {
    /// The request path.
    pub path: String,
    /// What answers it.
    pub build: Build,
    /// The entry of `http_filters` that answers, or the route if that answers itself.
    pub node: &'t Node,
    /// Its name, or `route`.
    pub name: &'t str,
    /// The listener.
    pub listener: &'t Listener<'t>,
    /// The filter chain that a prober without a server name comes to.
    pub chain: &'t Chain<'t>,
    /// The clusters whose health decides.
    pub targets: Vec<Target<'t>>,
    /// Where a plain probe comes to.
    pub way: Way<'t>,
    /// Whether what answers is on there.
    pub is_on: bool,
    /// How old the answer may be, in seconds.
    pub max_age: f64,
}

/// What answers an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// This filter as wasm.
    Wasm,
    /// This filter as a dynamic module.
    Module,
    /// Envoy's own health_check filter.
    HealthCheck,
    /// A Lua script that searches `/clusters`.
    Lua,
    /// An answer that is always the same.
    Unconditional,
}

/// A cluster that an endpoint names.
#[derive(Clone)]
pub struct Target<'t> {
    /// Its name.
    pub cluster: String,
    /// What it needs.
    pub min: Min,
    /// Where the endpoint says so.
    pub text: &'t Node,
}

/// How many hosts must be healthy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Min {
    /// So many.
    Hosts(u64),
    /// So many percent.
    Percent(f64),
}

impl Build {
    /// As in the JSON report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Module => "module",
            Self::HealthCheck => "health_check",
            Self::Lua => "lua",
            Self::Unconditional => "unconditional",
        }
    }
}

/// All endpoints: of each listener, each path and build once.
pub fn find<'t>(
    envoy: &'t Envoy<'t>,
    filters: &[Filter<'t>],
    host: Option<&str>,
) -> Vec<Endpoint<'t>> {
    let mut endpoints = Vec::new();
    for listener in &envoy.listeners {
        let hosts = walk::hosts(listener, host);
        let entry = walk::entry(listener.node);
        let mut seen = HashSet::new();
        // The chains that a prober without a server name may come to are looked at first.
        let (open, other): (Vec<_>, Vec<_>) = listener
            .chains
            .iter()
            .partition(|chain| is_open(listener, chain));
        for chain in open.iter().chain(&other) {
            let walked = entry == Entry::None || entry == Entry::Chains && is_open(listener, chain);
            for answer in answers(envoy, filters, chain) {
                if seen.insert((answer.path.clone(), answer.build)) {
                    let request = Request::get(&answer.path, hosts.clone());
                    endpoints.push(endpoint(answer, listener, chain, walked, &request));
                }
            }
            if walked {
                let taken: HashSet<&str> = seen.iter().map(|(path, _)| path.as_str()).collect();
                let more = unconditional(listener, chain, &taken, &hosts);
                endpoints.extend(more);
            }
        }
    }
    endpoints
}

/// Whether a connection without a server name may come to this chain.
fn is_open(listener: &Listener<'_>, chain: &Chain<'_>) -> bool {
    let default = listener.node.get("default_filter_chain");
    default.is_some_and(|default| std::ptr::eq(default, chain.node))
        || walk::wants(chain.node) == Wants::Nothing
}

fn endpoint<'t>(
    answer: Answer<'t>,
    listener: &'t Listener<'t>,
    chain: &'t Chain<'t>,
    walked: bool,
    request: &Request,
) -> Endpoint<'t> {
    let Answer {
        path,
        build,
        node,
        targets,
        max_age,
    } = answer;
    let way = if walked {
        walk::walk(chain, request)
    } else {
        Way::NotWalked
    };
    let name = node.str("name").unwrap_or("route");
    let is_on = match build {
        Build::Lua if script(node, None).is_none() => {
            // A script for routes alone.
            let on = |config| script(node, Some(config)).is_some();
            way.per_route(chain, name).is_some_and(on)
        }
        Build::Unconditional => true,
        _ => way.is_on(chain, node),
    };
    Endpoint {
        path,
        build,
        node,
        name,
        listener,
        chain,
        targets,
        way,
        is_on,
        max_age,
    }
}

/// Answers that are always 200, at paths that nothing else answers.
fn unconditional<'t>(
    listener: &'t Listener<'t>,
    chain: &'t Chain<'t>,
    taken: &HashSet<&str>,
    hosts: &[String],
) -> Vec<Endpoint<'t>> {
    let mut found: Vec<Endpoint<'t>> = Vec::new();
    for path in HEALTH_PATHS
        .into_iter()
        .filter(|path| !taken.contains(path))
    {
        let request = Request::get(path, hosts.to_vec());
        let way = walk::walk(chain, &request);
        let filter = chain
            .filters()
            .find(|filter| answers_always(filter, &way, chain, &request));
        let Some(node) = filter.or_else(|| way.route().filter(|route| is_bare_200(route))) else {
            continue;
        };
        if !found.iter().any(|other| std::ptr::eq(other.node, node)) {
            let answer = Answer {
                path: path.to_owned(),
                build: Build::Unconditional,
                node,
                targets: Vec::new(),
                max_age: 0.0,
            };
            found.push(endpoint(answer, listener, chain, true, &request));
        }
    }
    found
}
