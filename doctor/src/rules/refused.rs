//! HZ204: filters before the endpoint's that refuse a plain probe.

use crate::endpoint::{Build, Endpoint};
use crate::matching::{self, Match, Request};
use crate::rules::reach;
use crate::rules::{Case, Finding};
use crate::tree::Node;
use crate::walk;

/// Why a filter refuses a probe, and what the prober gets.
enum Refuses {
    Always(&'static str, &'static str),
    Sometimes(&'static str, &'static str),
}

/// What a filter before is looked at with.
struct Visit<'t, 'r> {
    /// Its `typed_config`.
    config: &'t Node,
    /// What the route, the virtual host or all routes have for it.
    per_route: Option<&'t Node>,
    route: Option<&'t Node>,
    request: &'r Request,
}

type Look = fn(&Visit<'_, '_>) -> Option<Refuses>;

const FILTERS: [(&str, Look); 9] = [
    ("http.jwt_authn.v3.JwtAuthentication", jwt_authn),
    ("http.basic_auth.v3.BasicAuth", |_| {
        Some(Refuses::Always(
            "refuses requests without a password",
            "401 for ever",
        ))
    }),
    ("http.api_key_auth.v3.ApiKeyAuth", |_| {
        Some(Refuses::Always(
            "refuses requests without a key",
            "401 for ever",
        ))
    }),
    ("http.rbac.v3.RBAC", rbac),
    ("http.oauth2.v3.OAuth2", oauth2),
    ("http.fault.v3.HTTPFault", fault),
    ("http.ext_authz.v3.ExtAuthz", ext_authz),
    ("http.local_ratelimit.v3.LocalRateLimit", local_ratelimit),
    ("http.ratelimit.v3.RateLimit", ratelimit),
];

/// What comes before the endpoint's filter and refuses a plain probe.
pub fn before<'t>(_: &Case<'t>, endpoint: &'t Endpoint<'t>) -> Vec<Finding<'t>> {
    let mut found = Vec::new();
    let not_walked = matches!(endpoint.way, walk::Way::NotWalked);
    if not_walked || endpoint.build == Build::Unconditional {
        return found;
    }
    let request = Request::get(&endpoint.path, Vec::new());
    let filters =
        reach::before(endpoint).filter(|filter| endpoint.way.is_on(endpoint.chain, filter));
    for filter in filters {
        let name = filter.str("name").unwrap_or_default();
        let look = FILTERS.iter().find(|(kind, _)| filter.is_a(kind));
        let (Some((_, look)), Some(config)) = (look, filter.get("typed_config")) else {
            continue;
        };
        let per_route = endpoint
            .way
            .per_route(endpoint.chain, name)
            .map(walk::unwrapped);
        let route = endpoint.way.route();
        let visit = Visit {
            config,
            per_route,
            route,
            request: &request,
        };
        let what = |refuses| {
            format!(
                "{}: {name} is placed before the filter and {refuses}",
                endpoint.path
            )
        };
        let finding = match look(&visit) {
            None => continue,
            Some(Refuses::Always(refuses, then)) => {
                Finding::error(filter, what(refuses)).then(then)
            }
            Some(Refuses::Sometimes(refuses, then)) => {
                Finding::warning(filter, what(refuses)).then(then)
            }
        };
        found.push(finding.set(format!(
            "move it between {:?} and the router in http_filters",
            endpoint.name
        )));
    }
    found
}

fn jwt_authn(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let refuses = Refuses::Always("refuses requests without a JWT", "401 for ever");
    if let Some(route) = visit.per_route {
        if route.is_true("disabled") {
            return None;
        }
        if let Some(name) = route.str("requirement_name") {
            let requirement = visit.config.get("requirement_map")?.entry(name)?;
            return wants_token(requirement).then_some(refuses);
        }
    }
    for rule in visit.config.list("rules") {
        match matching::route(rule.get("match")?, visit.request) {
            Match::No => {}
            Match::Maybe => return None,
            Match::Yes => {
                let named = || {
                    visit
                        .config
                        .get("requirement_map")?
                        .entry(rule.str("requirement_name")?)
                };
                let requirement = rule.get("requires").or_else(named)?;
                return wants_token(requirement).then_some(refuses);
            }
        }
    }
    None
}

/// Whether a `JwtRequirement` refuses a request without a token.
fn wants_token(requirement: &Node) -> bool {
    let Some((kind, value)) = requirement.entries().next() else {
        return false;
    };
    match matching::snake(kind).as_str() {
        "allow_missing" | "allow_missing_or_failed" | "extract_only_without_validation" => false,
        "requires_any" => value.list("requirements").all(wants_token),
        "requires_all" => value.list("requirements").any(wants_token),
        _ => true,
    }
}

fn rbac(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let config = match visit.per_route {
        // An empty RBACPerRoute switches it off.
        Some(route) => route.get("rbac")?,
        None => visit.config,
    };
    let rules = config.get("rules")?;
    if config.get("matcher").is_some() || !matches!(rules.str("action"), None | Some("ALLOW")) {
        return None;
    }
    let policies = rules.get("policies").into_iter().flat_map(Node::entries);
    let allowed = Match::any(policies.map(|(_, policy)| allows(policy, visit.request)));
    (allowed == Match::No).then_some(Refuses::Always(
        "allows nobody without a key or a certificate",
        "403 for ever",
    ))
}

fn allows(policy: &Node, request: &Request) -> Match {
    if policy.get("condition").is_some() || policy.get("checked_condition").is_some() {
        return Match::Maybe;
    }
    let permissions = policy
        .list("permissions")
        .map(|permission| rbac_rule(permission, request));
    let principals = policy
        .list("principals")
        .map(|principal| rbac_rule(principal, request));
    Match::any(permissions).and(Match::any(principals))
}

/// A `Permission` or a `Principal` of rbac.
fn rbac_rule(rule: &Node, request: &Request) -> Match {
    let Some((kind, value)) = rule.entries().next() else {
        return Match::Maybe;
    };
    let each = |field| value.list(field).map(|rule| rbac_rule(rule, request));
    match matching::snake(kind).as_str() {
        "any" => Match::Yes,
        "header" => matching::header(value, request),
        "url_path" => value
            .get("path")
            .map_or(Match::Maybe, |path| matching::string(path, &request.path)),
        "and_rules" => Match::all(each("rules")),
        "or_rules" => Match::any(each("rules")),
        "and_ids" => Match::all(each("ids")),
        "or_ids" => Match::any(each("ids")),
        "not_rule" | "not_id" => rbac_rule(value, request).negated(),
        // A certificate; what jwt_authn leaves of a JWT.
        "authenticated" | "metadata" | "sourced_metadata" => Match::No,
        _ => Match::Maybe,
    }
}

fn oauth2(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let mut matchers = visit.config.list("config.pass_through_matcher");
    let passes = matchers.any(|matcher| matching::header(matcher, visit.request) != Match::No);
    (!passes).then_some(Refuses::Always(
        "redirects who is not logged in",
        "302 for ever",
    ))
}

fn fault(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let config = visit.per_route.unwrap_or(visit.config);
    let headers = config.get("headers");
    if headers.is_some_and(|headers| matching::headers(headers, visit.request) != Match::Yes) {
        return None;
    }
    let abort = config.get("abort")?;
    if abort.get("header_abort").is_some() {
        return None;
    }
    // A share that is not said is 0 here.
    match matching::fraction(Some(abort.get("percentage")?)) {
        Match::No => None,
        Match::Maybe => Some(Refuses::Sometimes(
            "aborts some requests",
            "some probes fail",
        )),
        Match::Yes => Some(Refuses::Always(
            "aborts each request",
            "the fault's status for ever",
        )),
    }
}

fn ext_authz(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let off = visit
        .per_route
        .is_some_and(|route| route.is_true("disabled"));
    let enabled = visit.config.at("filter_enabled.default_value");
    let never = matching::fraction(enabled) == Match::No;
    (!off && !never).then_some(Refuses::Sometimes(
        "has a service decide, which knows no key of a prober",
        "403 for ever, unless that service lets the path through",
    ))
}

fn local_ratelimit(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let config = visit.per_route.unwrap_or(visit.config);
    let over_0 = |field| {
        let share = config
            .get(field)
            .and_then(|share: &Node| share.get("default_value"));
        share.is_some_and(|share| matching::fraction(Some(share)) != Match::No)
    };
    let limits = over_0("filter_enabled") && over_0("filter_enforced");
    limits.then_some(Refuses::Sometimes(
        "counts probes with calls",
        "429 once the bucket is empty, backend alive",
    ))
}

fn ratelimit(visit: &Visit<'_, '_>) -> Option<Refuses> {
    let action = visit.route?.get("route")?;
    action.list("rate_limits").next()?;
    Some(Refuses::Sometimes(
        "counts probes with calls",
        "429 once the limit is reached, backend alive",
    ))
}
