//! What a configuration holds: admin, listeners and clusters, of a bootstrap or of a saved
//! `/config_dump` (`{"configs": [{"bootstrap": ...}, {"static_clusters": ...}, ...]}`).

use std::collections::HashMap;
use std::net::IpAddr;

use crate::tree::{Node, Refusal};

/// An Envoy as its configuration has it.
pub struct Envoy<'t> {
    /// The bootstrap.
    pub bootstrap: &'t Node,
    /// Its listeners.
    pub listeners: Vec<Listener<'t>>,
    clusters: HashMap<&'t str, Cluster<'t>>,
    /// Whether there may be clusters that the file does not hold (CDS).
    pub has_cds: bool,
    found: Found<'t>,
}

/// What a dump holds of what its listeners only name.
#[derive(Default)]
struct Found<'t> {
    /// Route configurations from RDS, by name.
    routes: HashMap<&'t str, &'t Node>,
    /// HTTP filters from ECDS, by name.
    filters: HashMap<&'t str, &'t Node>,
}

/// A listener.
pub struct Listener<'t> {
    /// The listener.
    pub node: &'t Node,
    /// Its name, or its address if it has none.
    pub name: String,
    /// Its filter chains that have an HTTP connection manager; the default one is the last.
    pub chains: Vec<Chain<'t>>,
}

/// A filter chain with an HTTP connection manager.
#[derive(Clone)]
pub struct Chain<'t> {
    /// The chain.
    pub node: &'t Node,
    /// The connection manager's `typed_config`.
    pub manager: &'t Node,
    /// The network filters before it.
    pub before: Vec<&'t Node>,
    /// Its route configuration; none if that comes from elsewhere (RDS, scoped routes).
    pub routes: Option<&'t Node>,
    filters: Vec<&'t Node>,
}

/// A cluster.
pub struct Cluster<'t> {
    /// The cluster.
    pub node: &'t Node,
    /// How it finds its hosts.
    pub kind: Kind,
}

/// How a cluster finds its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `STATIC`
    Static,
    /// `STRICT_DNS`, or `envoy.cluster.dns`
    StrictDns,
    /// `LOGICAL_DNS`, or `envoy.cluster.dns` with `all_addresses_in_single_endpoint`
    LogicalDns,
    /// `EDS`
    Eds,
    /// Aggregate, `ORIGINAL_DST` or dynamic forward proxy: it has no hosts of its own.
    Hostless(&'static str),
    /// An extension that is not known here.
    Other,
}

/// An address, as of a listener or an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address<'t> {
    /// An IP address or a name, and a port.
    Socket(&'t str, u64),
    /// A unix socket.
    Pipe(&'t str),
}

impl<'t> Envoy<'t> {
    /// Finds its parts; refuses what is neither a bootstrap nor a dump.
    pub fn of(root: &'t Node) -> Result<Self, Refusal> {
        if root.get("configs").is_some() {
            return Self::of_dump(root);
        }
        let known = ["static_resources", "dynamic_resources", "admin", "node"];
        if !known.iter().any(|field| root.get(field).is_some()) {
            return Err(Refusal("is no Envoy configuration".to_owned()));
        }
        let has_cds = root.at("dynamic_resources.cds_config").is_some();
        let listeners = root.list("static_resources.listeners").collect();
        let clusters = root.list("static_resources.clusters").collect();
        let found = Found::default();
        Ok(Self::with(root, listeners, clusters, has_cds, found))
    }

    fn of_dump(root: &'t Node) -> Result<Self, Refusal> {
        let all = |list: &'static str, way: &'static str| {
            root.list("configs")
                .flat_map(move |part| part.list(list))
                .filter_map(move |entry| entry.at(way))
        };
        let bootstrap = root.list("configs").find_map(|part| part.get("bootstrap"));
        let Some(bootstrap) = bootstrap else {
            let fault = "is a /config_dump without its bootstrap: save the whole of it";
            return Err(Refusal(fault.to_owned()));
        };
        let clusters = all("static_clusters", "cluster")
            .chain(all("dynamic_active_clusters", "cluster"))
            .collect();
        let listeners = all("static_listeners", "listener")
            .chain(all("dynamic_listeners", "active_state.listener"))
            .collect();
        let by_name = |list, way| {
            all(list, way)
                .filter_map(|node| Some((node.str("name")?, node)))
                .collect()
        };
        let found = Found {
            routes: by_name("dynamic_route_configs", "route_config"),
            filters: by_name("ecds_filters", "ecds_filter"),
        };
        Ok(Self::with(bootstrap, listeners, clusters, false, found))
    }

    fn with(
        bootstrap: &'t Node,
        listeners: Vec<&'t Node>,
        clusters: Vec<&'t Node>,
        has_cds: bool,
        found: Found<'t>,
    ) -> Self {
        let clusters = clusters
            .into_iter()
            .filter_map(|node| {
                Some((
                    node.str("name")?,
                    Cluster {
                        node,
                        kind: Kind::of(node),
                    },
                ))
            })
            .collect();
        let mut envoy = Self {
            bootstrap,
            listeners: Vec::new(),
            clusters,
            has_cds,
            found,
        };
        for node in listeners {
            let listener = envoy.listener(node);
            envoy.listeners.push(listener);
        }
        envoy
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster<'t>> {
        self.clusters.get(name)
    }

    /// All clusters, in no order.
    pub fn clusters(&self) -> impl Iterator<Item = (&'t str, &Cluster<'t>)> {
        self.clusters.iter().map(|(name, cluster)| (*name, cluster))
    }

    /// The admin's address.
    pub fn admin_address(&self) -> Option<Address<'t>> {
        Address::of(self.bootstrap.at("admin.address")?)
    }

    /// Whether this cluster leads to this Envoy's admin.
    pub fn leads_to_admin(&self, cluster: &Cluster<'t>) -> bool {
        let Some(admin) = self.admin_address() else {
            return false;
        };
        let mut addresses = cluster
            .hosts()
            .filter_map(|host| Address::of(host.get("address")?));
        addresses.any(|address| address.reaches(&admin))
    }

    fn listener(&self, node: &'t Node) -> Listener<'t> {
        let chains = node
            .list("filter_chains")
            .chain(node.get("default_filter_chain"));
        let name = match (node.str("name"), node.get("address").and_then(Address::of)) {
            (Some(name), _) => name.to_owned(),
            (None, Some(Address::Socket(host, port))) => format!("{host}:{port}"),
            (None, Some(Address::Pipe(path))) => path.to_owned(),
            (None, None) => "without a name".to_owned(),
        };
        Listener {
            node,
            name,
            chains: chains.filter_map(|chain| self.chain(chain)).collect(),
        }
    }

    fn chain(&self, node: &'t Node) -> Option<Chain<'t>> {
        let manager = "http_connection_manager.v3.HttpConnectionManager";
        let mut before = Vec::new();
        for filter in node.list("filters") {
            if filter.is_a(manager) {
                let manager = filter.get("typed_config")?;
                let inline = manager.get("route_config");
                let named = || {
                    let name = manager.str("rds.route_config_name")?;
                    self.found.routes.get(name).copied()
                };
                let routes = inline.or_else(named);
                let filters = manager.list("http_filters");
                return Some(Chain {
                    node,
                    manager,
                    before,
                    routes,
                    filters: filters.map(|filter| self.http_filter(filter)).collect(),
                });
            }
            before.push(filter);
        }
        None
    }

    /// An entry of `http_filters`, or the filter that it has from ECDS.
    fn http_filter(&self, entry: &'t Node) -> &'t Node {
        let discovered = || {
            entry.get("config_discovery")?;
            self.found.filters.get(entry.str("name")?).copied()
        };
        discovered().unwrap_or(entry)
    }
}

impl<'t> Listener<'t> {
    /// Whether it takes connections of this machine (or pod) alone.
    pub fn is_local(&self) -> bool {
        let more = self.node.list("additional_addresses");
        let mut addresses = std::iter::once(self.node).chain(more);
        addresses.all(|node| match node.get("address").and_then(Address::of) {
            Some(address) => address.is_local(),
            None => node.get("internal_listener").is_some(),
        })
    }

    /// Its port.
    pub fn port(&self) -> Option<u64> {
        match Address::of(self.node.get("address")?)? {
            Address::Socket(_, port) => Some(port),
            Address::Pipe(_) => None,
        }
    }
}

impl<'t> Chain<'t> {
    /// The TLS that it speaks, if it does.
    pub fn tls(&self) -> Option<&'t Node> {
        let config = self.node.at("transport_socket.typed_config")?;
        config.is_a("tls.v3.DownstreamTlsContext").then_some(config)
    }

    /// Its HTTP filters.
    pub fn filters(&self) -> impl Iterator<Item = &'t Node> {
        self.filters.iter().copied()
    }
}

impl<'t> Cluster<'t> {
    /// Its endpoints in the file.
    pub fn hosts(&self) -> impl Iterator<Item = &'t Node> {
        self.node
            .list("load_assignment.endpoints")
            .flat_map(|locality| locality.list("lb_endpoints"))
            .filter_map(|host| host.get("endpoint"))
    }

    /// Whether it can have more than one host.
    pub fn may_have_several_hosts(&self) -> bool {
        matches!(self.kind, Kind::Eds | Kind::StrictDns) || self.hosts().nth(1).is_some()
    }

    /// Its active health checks.
    pub fn checks(&self) -> impl Iterator<Item = &'t Node> {
        self.node.list("health_checks")
    }

    fn options(&self) -> Option<&'t Node> {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        self.node
            .get("typed_extension_protocol_options")?
            .entry(options)
    }

    /// Whether it speaks HTTP/2 and nothing else.
    pub fn is_http2_only(&self) -> bool {
        let options = self.options();
        let explicit =
            options.and_then(|node| node.at("explicit_http_config.http2_protocol_options"));
        explicit
            .or_else(|| self.node.get("http2_protocol_options"))
            .is_some()
    }

    /// Whether it may speak HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        let ways = ["auto_config", "use_downstream_protocol_config"];
        let by = |way: &&str| {
            let options = self.options().and_then(|node| node.get(way));
            options
                .and_then(|node| node.get("http2_protocol_options"))
                .is_some()
        };
        self.is_http2_only() || ways.iter().any(by)
    }

    /// Its upstream HTTP filters.
    pub fn filters(&self) -> impl Iterator<Item = &'t Node> {
        self.options()
            .into_iter()
            .flat_map(|options| options.list("http_filters"))
    }

    /// Whether its health checks go elsewhere than its calls.
    pub fn is_checked_elsewhere(&self) -> bool {
        self.hosts().any(|host| {
            let config = host.get("health_check_config");
            config.is_some_and(|config| {
                config.get("port_value").is_some() || config.get("address").is_some()
            })
        })
    }
}

/// Whether a cluster of this name gets Kubernetes readiness by EDS: it is Istio's or Envoy Gateway's.
pub fn follows_readiness(name: &str) -> bool {
    let starts = ["outbound|", "httproute/", "grpcroute/"];
    starts.iter().any(|start| name.starts_with(start))
}

impl Kind {
    fn of(node: &Node) -> Self {
        let Some(custom) = node.get("cluster_type") else {
            return match node.str("type").unwrap_or("STATIC") {
                "STATIC" => Self::Static,
                "STRICT_DNS" => Self::StrictDns,
                "LOGICAL_DNS" => Self::LogicalDns,
                "EDS" => Self::Eds,
                "ORIGINAL_DST" => Self::Hostless("an ORIGINAL_DST cluster"),
                _ => Self::Other,
            };
        };
        if custom.is_a("dns.v3.DnsCluster") {
            let single = custom.is_true("typed_config.all_addresses_in_single_endpoint");
            return if single {
                Self::LogicalDns
            } else {
                Self::StrictDns
            };
        }
        if custom.is_a("aggregate.v3.ClusterConfig") {
            return Self::Hostless("an aggregate cluster");
        }
        if custom.is_a("dynamic_forward_proxy.v3.ClusterConfig") {
            return Self::Hostless("a dynamic forward proxy");
        }
        match custom.str("name").unwrap_or_default() {
            "envoy.cluster.static" => Self::Static,
            "envoy.cluster.strict_dns" => Self::StrictDns,
            "envoy.cluster.logical_dns" => Self::LogicalDns,
            "envoy.cluster.eds" => Self::Eds,
            "envoy.cluster.original_dst" => Self::Hostless("an ORIGINAL_DST cluster"),
            _ => Self::Other,
        }
    }
}

impl<'t> Address<'t> {
    /// Reads a `config.core.v3.Address`.
    pub fn of(node: &'t Node) -> Option<Self> {
        if let Some(socket) = node.get("socket_address") {
            let port = socket.str("port_value").and_then(|port| port.parse().ok());
            return Some(Self::Socket(socket.str("address")?, port.unwrap_or(0)));
        }
        node.str("pipe.path").map(Self::Pipe)
    }

    /// Whether nobody outside this machine (or pod) reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Socket("localhost", _) | Self::Pipe(_) => true,
            Self::Socket(host, _) => ip(host).is_some_and(|ip| ip.is_loopback()),
        }
    }

    /// Whether who connects to this comes to a server that listens there.
    pub fn reaches(&self, server: &Self) -> bool {
        match (self, server) {
            (Self::Socket(host, port), Self::Socket(listens, at)) => {
                let any = ip(listens).is_some_and(|ip| ip.is_unspecified());
                port == at
                    && (any || host == listens || ip(host).is_some() && ip(host) == ip(listens))
            }
            (Self::Pipe(path), Self::Pipe(listens)) => path == listens,
            _ => false,
        }
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
