//! The rules. One is one entry of one table, of which `--explain` and `docs/doctor.md` are made too.

mod admin;
mod clusters;
mod connection;
mod health_checks;
mod module;
mod operations;
mod reach;
mod refused;

use std::fmt;

use crate::Options;
use crate::endpoint::Endpoint;
use crate::envoy::Envoy;
use crate::filter::Filter;
use crate::tree::Node;
use crate::walk::Way;

/// A rule: how a configuration lies, and how that is found.
pub struct Rule {
    /// `HZ101`
    pub id: &'static str,
    /// What it is about, in a few words.
    pub title: &'static str,
    /// Its severity, with what changes it.
    pub severity: &'static str,
    /// The exact condition.
    pub when: &'static str,
    /// What a prober sees then: the finding's line `then`, if that says nothing else.
    pub then: &'static str,
    /// What was measured.
    pub measured: &'static str,
    /// Where a finding may be untrue, and when to ignore it; may be empty.
    pub unless: &'static str,
    /// What to change: the finding's line `set`, if that says nothing else.
    pub set: &'static str,
    /// How it is found.
    pub check: Check,
}

/// How a rule is found.
pub enum Check {
    /// In the configuration.
    Whole(for<'t> fn(&Case<'t>) -> Vec<Finding<'t>>),
    /// On the way to one endpoint. Nothing is found if a prober can ask another listener.
    Reach(for<'t> fn(&Case<'t>, &'t Endpoint<'t>) -> Vec<Finding<'t>>),
}

/// What rules look at.
pub struct Case<'t> {
    /// The configuration.
    pub envoy: &'t Envoy<'t>,
    /// Our filters in it.
    pub filters: &'t [Filter<'t>],
    /// The endpoints in it.
    pub endpoints: &'t [Endpoint<'t>],
    /// What is known of the prober.
    pub options: &'t Options,
}

/// How bad a finding is; an error is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It lies under a condition that production meets.
    Warning,
    /// It lies, or can never pass.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One place where a rule applies.
pub struct Finding<'t> {
    /// How bad it is here.
    pub severity: Severity,
    /// Where.
    pub node: &'t Node,
    /// Line and column, from 1.
    pub place: (usize, usize),
    /// What is there.
    pub what: String,
    /// What follows, if not the rule's own words.
    pub then: Option<String>,
    /// What to change, if not the rule's own words.
    pub set: Option<String>,
}

impl<'t> Finding<'t> {
    fn new(severity: Severity, node: &'t Node, what: String) -> Self {
        let place = (node.line, node.column);
        Self {
            severity,
            node,
            place,
            what,
            then: None,
            set: None,
        }
    }

    fn error(node: &'t Node, what: String) -> Self {
        Self::new(Severity::Error, node, what)
    }

    fn warning(node: &'t Node, what: String) -> Self {
        Self::new(Severity::Warning, node, what)
    }

    fn note(node: &'t Node, what: String) -> Self {
        Self::new(Severity::Note, node, what)
    }

    fn then(mut self, then: impl Into<String>) -> Self {
        self.then = Some(then.into());
        self
    }

    fn set(mut self, set: impl Into<String>) -> Self {
        self.set = Some(set.into());
        self
    }

    /// Moves it to where the text says this.
    fn at_text(mut self, text: &str) -> Self {
        self.place = self.node.line_of(text);
        self
    }
}

/// All rules, in the order of their ids.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let parts: [&'static [Rule]; 7] = [
        &clusters::RULES,
        &health_checks::RULES,
        &reach::RULES,
        &connection::RULES,
        &admin::RULES,
        &module::RULES,
        &operations::RULES,
    ];
    let mut all: Vec<&'static Rule> = parts.into_iter().flatten().collect();
    all.sort_by_key(|rule| rule.id);
    all.into_iter()
}

/// What all rules find, each thing once: the worst first, then by line.
pub fn findings<'t>(case: &Case<'t>) -> Vec<(&'static Rule, Finding<'t>)> {
    let mut found: Vec<(&'static Rule, Finding<'t>)> = Vec::new();
    for rule in all() {
        if let Check::Whole(check) = rule.check {
            found.extend(check(case).into_iter().map(|finding| (rule, finding)));
        }
    }
    found.extend(on_the_way(case));
    let mut once: Vec<(&'static Rule, Finding<'t>)> = Vec::new();
    for (rule, finding) in found {
        let same = |(other, known): &(&Rule, Finding<'t>)| {
            other.id == rule.id
                && known.what == finding.what
                && std::ptr::eq(known.node, finding.node)
        };
        if !once.iter().any(same) {
            once.push((rule, finding));
        }
    }
    once.sort_by_key(|(rule, finding)| {
        (std::cmp::Reverse(finding.severity), finding.place, rule.id)
    });
    once
}

/// What is found on the ways to the endpoints, less what does not matter because the same path is
/// answered on another listener, to which no error is on the way.
fn on_the_way<'t>(case: &Case<'t>) -> Vec<(&'static Rule, Finding<'t>)> {
    let ways: Vec<Vec<(&'static Rule, Finding<'t>)>> = case
        .endpoints
        .iter()
        .map(|endpoint| on_the_way_to(case, endpoint))
        .collect();
    let is_clear = |index: usize, rule: &Rule| {
        let found = ways.get(index).into_iter().flatten();
        !matches!(
            case.endpoints.get(index).map(|endpoint| &endpoint.way),
            Some(Way::NotWalked)
        ) && found
            .clone()
            .all(|(other, finding)| other.id != rule.id && finding.severity < Severity::Error)
    };
    let spared = |endpoint: &Endpoint<'t>, rule: &Rule| {
        case.endpoints.iter().enumerate().any(|(index, other)| {
            other.path == endpoint.path
                && !std::ptr::eq(other.listener, endpoint.listener)
                && (endpoint.listener.is_local() || !other.listener.is_local())
                && is_clear(index, rule)
        })
    };
    let spared: Vec<Vec<bool>> = case
        .endpoints
        .iter()
        .zip(&ways)
        .map(|(endpoint, found)| {
            found
                .iter()
                .map(|(rule, _)| spared(endpoint, rule))
                .collect()
        })
        .collect();
    let each = ways.into_iter().flatten().zip(spared.into_iter().flatten());
    each.filter(|(_, spared)| !spared)
        .map(|(found, _)| found)
        .collect()
}

fn on_the_way_to<'t>(
    case: &Case<'t>,
    endpoint: &'t Endpoint<'t>,
) -> Vec<(&'static Rule, Finding<'t>)> {
    let mut found = Vec::new();
    for rule in all() {
        if let Check::Reach(check) = rule.check {
            found.extend(
                check(case, endpoint)
                    .into_iter()
                    .map(|finding| (rule, finding)),
            );
        }
    }
    found
}
