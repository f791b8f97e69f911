//! The way of a probe as Envoy walks it: filter chain, virtual host, routes in order, and which filters
//! are on for the route that takes it.

use crate::envoy::{Chain, Listener};
use crate::matching::{self, Match, Request};
use crate::tree::Node;

/// Where a request comes to in a filter chain.
#[derive(Clone, Copy)]
pub enum Way<'t> {
    /// It cannot be said from the file: routes from elsewhere, matchers that are not walked.
    NotWalked,
    /// No virtual host takes the host.
    NoHost,
    /// No route of the virtual host takes the path.
    NoRoute(&'t Node),
    /// This route of this virtual host takes it.
    Route(&'t Node, &'t Node),
}

/// Which filter chain takes a connection without a server name (SNI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// These chains may, by what speaks on them; of those the default one.
    Chains,
    /// None: each wants a server name.
    None,
    /// It depends on addresses or protocols, or on a matcher that is not walked.
    NotWalked,
}

/// Where a connection without a server name enters a listener.
pub fn entry(listener: &Node) -> Entry {
    if listener.get("filter_chain_matcher").is_some() {
        return Entry::NotWalked;
    }
    let mut entry = Entry::None;
    for chain in listener.list("filter_chains") {
        match wants(chain) {
            Wants::Nothing => entry = Entry::Chains,
            Wants::ServerName => {}
            Wants::More => return Entry::NotWalked,
        }
    }
    if listener.get("default_filter_chain").is_some() {
        entry = Entry::Chains;
    }
    entry
}

/// What a filter chain asks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing, or TLS or none.
    Nothing,
    /// A server name.
    ServerName,
    /// Something that is not walked.
    More,
}

/// What this filter chain asks of a connection.
pub fn wants(chain: &Node) -> Wants {
    let mut wants = Wants::Nothing;
    let criteria = chain.get("filter_chain_match");
    for (key, value) in criteria.into_iter().flat_map(Node::entries) {
        match matching::snake(key).as_str() {
            "transport_protocol" => {}
            "server_names" if value.items().len() == 0 => {}
            "server_names" => wants = Wants::ServerName,
            _ => return Wants::More,
        }
    }
    wants
}

/// The hosts that a prober may name: this one, or some address.
pub fn hosts(listener: &Listener<'_>, host: Option<&str>) -> Vec<String> {
    let host = host.unwrap_or("192.0.2.1");
    let with_port = listener.port().map(|port| format!("{host}:{port}"));
    std::iter::once(host.to_owned()).chain(with_port).collect()
}

/// Walks a request through a chain's routes.
pub fn walk<'t>(chain: &Chain<'t>, request: &Request) -> Way<'t> {
    let Some(routes) = chain.routes else {
        return Way::NotWalked;
    };
    if routes.get("vhds").is_some() {
        return Way::NotWalked;
    }
    let hosts = request.hosts.iter();
    let Some(host) = hosts.filter_map(|host| virtual_host(routes, host)).next() else {
        return Way::NoHost;
    };
    if host.get("matcher").is_some() {
        return Way::NotWalked;
    }
    for route in host.list("routes") {
        let taken = route
            .get("match")
            .map(|matcher| matching::route(matcher, request));
        match taken.unwrap_or(Match::Maybe) {
            Match::Yes => return Way::Route(host, route),
            Match::Maybe => return Way::NotWalked,
            Match::No => {}
        }
    }
    Way::NoRoute(host)
}

/// The virtual host that takes a host: the whole name, then `*.b`, then `a.*`, each the longest, then `*`.
fn virtual_host<'t>(routes: &'t Node, host: &str) -> Option<&'t Node> {
    let host = host.to_ascii_lowercase();
    let mut best = None;
    for candidate in routes.list("virtual_hosts") {
        for domain in candidate.list("domains").filter_map(Node::text) {
            let domain = domain.to_ascii_lowercase();
            let rank = rank(&domain, &host);
            if rank > best.map_or(0, |(rank, _)| rank) {
                best = Some((rank, candidate));
            }
        }
    }
    best.map(|(_, found)| found)
}

/// 0 if a domain does not take a host; the higher, the sooner.
fn rank(domain: &str, host: &str) -> usize {
    if domain == host {
        return usize::MAX;
    }
    if domain == "*" {
        return 1;
    }
    if let Some(suffix) = domain.strip_prefix('*') {
        let takes = host.len() > suffix.len() && host.ends_with(suffix);
        return if takes { (1 << 32) + suffix.len() } else { 0 };
    }
    match domain.strip_suffix('*') {
        Some(prefix) if host.len() > prefix.len() && host.starts_with(prefix) => 2 + prefix.len(),
        _ => 0,
    }
}

impl<'t> Way<'t> {
    /// The route that takes the request.
    pub fn route(&self) -> Option<&'t Node> {
        match self {
            Self::Route(_, route) => Some(route),
            _ => None,
        }
    }

    /// What `typed_per_filter_config` has for a filter: of the route, else the virtual host, else all.
    pub fn per_route(&self, chain: &Chain<'t>, filter: &str) -> Option<&'t Node> {
        let (host, route) = match self {
            Self::Route(host, route) => (Some(*host), Some(*route)),
            // A request without a route has no virtual host's configuration either.
            _ => return None,
        };
        let levels = [route, host, chain.routes];
        let mut levels = levels.into_iter().flatten();
        levels.find_map(|level| level.get("typed_per_filter_config")?.entry(filter))
    }

    /// Whether this entry of `http_filters` is on for the request.
    pub fn is_on(&self, chain: &Chain<'t>, filter: &Node) -> bool {
        let name = filter.str("name").unwrap_or_default();
        match self.per_route(chain, name) {
            Some(config) => !(is_filter_config(config) && config.is_true("disabled")),
            None => !filter.is_true("disabled"),
        }
    }
}

fn is_filter_config(config: &Node) -> bool {
    config.is_a("config.route.v3.FilterConfig")
}

/// A per-route configuration without the `FilterConfig` around it.
pub fn unwrapped(config: &Node) -> &Node {
    match is_filter_config(config) {
        true => config.get("config").unwrap_or(config),
        false => config,
    }
}

/// Whether this route switches a filter on.
pub fn switches_on(route: &Node, filter: &str) -> bool {
    let config = route
        .get("typed_per_filter_config")
        .and_then(|configs| configs.entry(filter));
    config.is_some_and(|config| !(is_filter_config(config) && config.is_true("disabled")))
}
