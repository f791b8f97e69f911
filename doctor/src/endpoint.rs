//! The health endpoints of a configuration, whatever answers them, and how a plain probe reaches each.

use std::collections::HashSet;

use healthz_core::config::MinHealthy;
use regex_lite::Regex;

use crate::envoy::{Chain, Envoy, Listener};
use crate::filter::{Config, Filter};
use crate::matching::{self, Match, Request};
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

/// Paths at which an answer that is always the same is taken for health.
const HEALTH_PATHS: [&str; 5] = ["/healthz", "/health", "/readyz", "/ready", "/livez"];

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

/// What answers a path in one chain, before it is known whether a probe comes there.
struct Answer<'t> {
    path: String,
    build: Build,
    node: &'t Node,
    targets: Vec<Target<'t>>,
    max_age: f64,
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

fn answers<'t>(envoy: &Envoy<'t>, filters: &[Filter<'t>], chain: &'t Chain<'t>) -> Vec<Answer<'t>> {
    let ours = filters
        .iter()
        .filter(|filter| std::ptr::eq(filter.chain, chain));
    let mut answers: Vec<_> = ours.flat_map(of_ours).collect();
    for filter in chain.filters() {
        if filter.is_a("http.health_check.v3.HealthCheck") {
            answers.extend(of_health_check(filter));
        } else if filter.is_a("http.lua.v3.Lua") {
            answers.extend(of_lua(envoy, chain, filter));
        }
    }
    answers
}

fn of_ours<'f, 't: 'f>(filter: &'f Filter<'t>) -> impl Iterator<Item = Answer<'t>> + use<'f, 't> {
    let (build, max_age) = match &filter.config {
        Config::Wasm(config) => (Build::Wasm, config.max_age.as_secs_f64()),
        Config::Module(_) => (Build::Module, 0.0),
    };
    filter.config.endpoints().iter().map(move |endpoint| {
        let targets = endpoint.clusters.iter().map(|rule| Target {
            cluster: rule.name.clone(),
            min: match rule.min_healthy {
                MinHealthy::Hosts(hosts) => Min::Hosts(hosts),
                MinHealthy::Percent(percent) => Min::Percent(percent.into()),
            },
            text: filter.text,
        });
        let targets = targets.collect();
        Answer {
            path: endpoint.path.clone(),
            build,
            node: filter.node,
            targets,
            max_age,
        }
    })
}

fn of_health_check(filter: &Node) -> Option<Answer<'_>> {
    let config = filter.get("typed_config")?;
    let percentages = config.get("cluster_min_healthy_percentages")?;
    if config.is_true("pass_through_mode") {
        return None;
    }
    let targets = percentages.entries().map(|(cluster, percent)| Target {
        cluster: cluster.to_owned(),
        min: Min::Percent(percent.number("value").unwrap_or(0.0)),
        text: percent,
    });
    Some(Answer {
        path: asked_path(config).unwrap_or_else(|| "/healthz".to_owned()),
        build: Build::HealthCheck,
        node: filter,
        targets: targets.collect(),
        max_age: config.seconds("cache_time").unwrap_or(0.0),
    })
}

/// The path that a health_check filter answers, if its headers name one.
fn asked_path(config: &Node) -> Option<String> {
    let mut matchers = config.list("headers");
    let matcher = matchers.find(|matcher| matcher.str("name") == Some(":path"))?;
    let ways = [
        "string_match.exact",
        "string_match.prefix",
        "exact_match",
        "prefix_match",
    ];
    if let Some(path) = ways.iter().find_map(|way| matcher.str(way)) {
        return Some(path.to_owned());
    }
    let takes = |path: &&&str| {
        let request = Request::get(path, Vec::new());
        matching::header(matcher, &request) == Match::Yes
    };
    HEALTH_PATHS
        .iter()
        .find(takes)
        .map(|path| (*path).to_owned())
}

/// The script of a Lua filter that searches `/clusters`: its own, or that of a per-route configuration.
fn script<'t>(filter: &'t Node, per_route: Option<&'t Node>) -> Option<&'t Node> {
    let config = filter.get("typed_config")?;
    let source = match per_route.map(walk::unwrapped) {
        None => config
            .get("default_source_code")
            .or_else(|| config.get("inline_code")),
        Some(route) => match route.str("name") {
            Some(name) => config
                .get("source_codes")
                .and_then(|codes| codes.entry(name)),
            None => route.get("source_code"),
        },
    }?;
    let text = source.get("inline_string").unwrap_or(source);
    text.text()?.contains("/clusters").then_some(text)
}

fn of_lua<'t>(envoy: &Envoy<'t>, chain: &'t Chain<'t>, filter: &'t Node) -> Vec<Answer<'t>> {
    let answer = |path, script| Answer {
        path,
        build: Build::Lua,
        node: filter,
        targets: clusters_of(envoy, script),
        max_age: 0.0,
    };
    if let Some(script) = script(filter, None) {
        let path = literal_path(script).unwrap_or_else(|| "/healthz".to_owned());
        return vec![answer(path, script)];
    }
    let name = filter.str("name").unwrap_or_default();
    let hosts = chain
        .routes
        .into_iter()
        .flat_map(|routes| routes.list("virtual_hosts"));
    let routes = hosts.flat_map(|host| host.list("routes"));
    routes
        .filter_map(|route| {
            let config = route.get("typed_per_filter_config")?.entry(name)?;
            let script = script(filter, Some(config))?;
            let matcher = route.get("match")?;
            let ways = ["path", "prefix", "path_separated_prefix"];
            let path = ways
                .iter()
                .find_map(|way| matcher.str(way))
                .map(str::to_owned);
            Some(answer(path.or_else(|| literal_path(script))?, script))
        })
        .collect()
}

/// The first path in quotes that is none of the admin's.
fn literal_path(script: &Node) -> Option<String> {
    let path = Regex::new(r#"["']\^?(/[\w./-]*)\$?["']"#).ok()?;
    let admin = ["/clusters", "/ready", "/stats", "/server_info"];
    let paths = path
        .captures_iter(script.text()?)
        .filter_map(|found| found.get(1));
    paths
        .map(|found| found.as_str())
        .find(|path| !admin.iter().any(|page| path.starts_with(page)))
        .map(str::to_owned)
}

/// The configured clusters that a script names, less the one by which it asks the admin.
fn clusters_of<'t>(envoy: &Envoy<'t>, script: &'t Node) -> Vec<Target<'t>> {
    // In a Lua pattern, `my-service` is `my%-service`.
    let text = script.text().unwrap_or_default().replace('%', "");
    let mut names: Vec<_> = envoy
        .clusters()
        .filter(|(name, cluster)| names_whole(&text, name) && !envoy.leads_to_admin(cluster))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    let target = |name: &str| Target {
        cluster: name.to_owned(),
        min: Min::Hosts(1),
        text: script,
    };
    names.into_iter().map(target).collect()
}

/// Whether a text has a name that does not go on before or after.
fn names_whole(text: &str, name: &str) -> bool {
    let goes_on =
        |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || "_-".contains(char));
    !name.is_empty()
        && text.match_indices(name).any(|(start, found)| {
            let before = text.get(..start).and_then(|text| text.chars().next_back());
            let after = text
                .get(start + found.len()..)
                .and_then(|text| text.chars().next());
            !goes_on(before) && !goes_on(after)
        })
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

/// Whether a health_check filter answers this request itself, without a look at clusters.
pub fn answers_always<'t>(
    filter: &Node,
    way: &Way<'t>,
    chain: &Chain<'t>,
    request: &Request,
) -> bool {
    answers_itself(filter, way, chain, request)
        && filter
            .at("typed_config.cluster_min_healthy_percentages")
            .is_none()
}

/// Whether a health_check filter answers this request itself.
pub fn answers_itself<'t>(
    filter: &Node,
    way: &Way<'t>,
    chain: &Chain<'t>,
    request: &Request,
) -> bool {
    let Some(config) = filter.get("typed_config") else {
        return false;
    };
    let headers = config.get("headers");
    filter.is_a("http.health_check.v3.HealthCheck")
        && !config.is_true("pass_through_mode")
        && headers.is_none_or(|headers| matching::headers(headers, request) == Match::Yes)
        && way.is_on(chain, filter)
}

/// Whether a route that is not for all paths answers 200 itself.
fn is_bare_200(route: &Node) -> bool {
    let matcher = route.get("match");
    let meant = matcher.is_some_and(|matcher| matching::path(matcher, "/-other-path") == Match::No);
    meant && route.str("direct_response.status") == Some("200")
}
