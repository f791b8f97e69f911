//! What answers an endpoint in a filter chain, before it is known whether a probe comes there.

use healthz_core::config::MinHealthy;
use regex_lite::Regex;

use crate::endpoint::{Build, Min, Target};
use crate::envoy::{Chain, Envoy};
use crate::filter::{Config, Filter};
use crate::matching::{self, Match, Request};
use crate::tree::Node;
use crate::walk::{self, Way};

/// Paths at which an answer that is always the same is taken for health.
pub const HEALTH_PATHS: [&str; 5] = ["/healthz", "/health", "/readyz", "/ready", "/livez"];

/// What answers a path in one chain, before it is known whether a probe comes there.
pub struct Answer<'t> {
    /// The path.
    pub path: String,
    /// What answers.
    pub build: Build,
    /// The entry of `http_filters`, or the route.
    pub node: &'t Node,
    /// From which clusters.
    pub targets: Vec<Target<'t>>,
    /// How old it may be, in seconds.
    pub max_age: f64,
}

/// What answers in a chain from clusters: ours, Envoy's health_check filter, Lua that searches `/clusters`.
pub fn answers<'t>(
    envoy: &Envoy<'t>,
    filters: &[Filter<'t>],
    chain: &'t Chain<'t>,
) -> Vec<Answer<'t>> {
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
pub fn script<'t>(filter: &'t Node, per_route: Option<&'t Node>) -> Option<&'t Node> {
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
pub fn is_bare_200(route: &Node) -> bool {
    let matcher = route.get("match");
    let meant = matcher.is_some_and(|matcher| matching::path(matcher, "/-other-path") == Match::No);
    meant && route.str("direct_response.status") == Some("200")
}
