//! An endpoint's rule and a [`View`], to a [`Verdict`]. What is unknown is unhealthy.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::config::{ClusterRule, Degraded, Endpoint, MinHealthy, Require};
use crate::flags::Standing;
use crate::view::{ClusterView, Host, Override, View};

/// What a probe asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Send traffic.
    Healthy,
    /// Do not.
    Unhealthy,
}

/// An endpoint's health, and what it was judged by: causes are made when somebody asks for them.
#[derive(Clone, Copy)]
pub struct Verdict<'a> {
    /// The endpoint that was judged.
    pub endpoint: &'a Endpoint,
    /// The answer.
    pub health: Health,
    view: &'a dyn View,
}

/// One cluster of an endpoint.
pub struct Check<'a> {
    /// The cluster's rule.
    pub rule: &'a ClusterRule,
    /// Whether it has the usable hosts it needs.
    pub health: Health,
    /// Whether Envoy knows the cluster.
    pub known: bool,
    /// How many hosts there are.
    pub total: u64,
    /// How many hosts are usable.
    pub usable: u64,
    /// How many usable hosts it takes.
    pub required: u64,
    /// Every host, if the source can name them.
    pub hosts: &'a [Host],
}

/// At most this many hosts are named in one line.
const HOSTS_NAMED: usize = 5;

/// Judges an endpoint. Nothing is allocated.
pub fn judge<'a>(endpoint: &'a Endpoint, view: &'a dyn View) -> Verdict<'a> {
    let mut rules = endpoint.clusters.iter();
    let is_healthy = |rule| Check::new(rule, view).health == Health::Healthy;
    let healthy = match endpoint.require {
        _ if overridden(endpoint, view).is_some() => false,
        Require::Any if !endpoint.clusters.is_empty() => rules.any(is_healthy),
        // Also an endpoint without clusters.
        Require::All | Require::Any => rules.all(is_healthy),
    };
    Verdict {
        endpoint,
        health: healthy.into(),
        view,
    }
}

fn overridden<'a>(endpoint: &Endpoint, view: &'a dyn View) -> Option<Override<'a>> {
    if endpoint.needs_nothing() {
        return None;
    }
    view.overridden().filter(|overridden| match overridden {
        Override::NoKnowledge(_) => true,
        Override::NotReady(_) => endpoint.fail_when_draining,
    })
}

impl<'a> Verdict<'a> {
    /// What makes the endpoint unhealthy whatever its clusters are like.
    pub fn overridden(&self) -> Option<Override<'a>> {
        overridden(self.endpoint, self.view)
    }

    /// One entry a cluster, in the configuration's order; none without knowledge.
    pub fn checks(&self) -> impl Iterator<Item = Check<'a>> {
        let rules = match self.overridden() {
            Some(Override::NoKnowledge(_)) => &[][..],
            _ => &self.endpoint.clusters,
        };
        let view = self.view;
        rules.iter().map(move |rule| Check::new(rule, view))
    }

    /// Why the endpoint is unhealthy, on one line; empty when nothing is wrong.
    pub fn cause(&self) -> String {
        let overridden = self.overridden().map(|why| why.to_string());
        let failed = self.failed().map(|check| check.to_string());
        let causes: Vec<_> = overridden.into_iter().chain(failed).collect();
        causes.join("; ")
    }

    /// A number for the kind of cause: which fault, not ready, or which clusters fail. Hosts, flags, counts
    /// and ages do not change it.
    pub fn cause_kind(&self) -> u64 {
        let mut kind = DefaultHasher::new();
        match self.overridden() {
            Some(Override::NoKnowledge(why)) => why.to_string().hash(&mut kind),
            Some(Override::NotReady(_)) => 1.hash(&mut kind),
            None => self
                .failed()
                .for_each(|check| check.rule.name.hash(&mut kind)),
        }
        kind.finish()
    }

    fn failed(&self) -> impl Iterator<Item = Check<'a>> {
        self.checks()
            .filter(|check| check.health == Health::Unhealthy)
    }
}

impl<'a> Check<'a> {
    fn new(rule: &'a ClusterRule, view: &'a dyn View) -> Self {
        let found = view.cluster(&rule.name);
        let ClusterView { counts, hosts } = found.unwrap_or_default();
        let usable = match rule.degraded {
            Degraded::Healthy => counts.healthy + counts.degraded,
            Degraded::Unhealthy => counts.healthy,
        };
        let required = match rule.min_healthy {
            MinHealthy::Hosts(hosts) => hosts,
            MinHealthy::Percent(percent) => {
                let counted = counts.total.saturating_sub(counts.excluded);
                (counted * u64::from(percent)).div_ceil(100).max(1)
            }
        };
        Self {
            rule,
            health: (found.is_some() && usable >= required).into(),
            known: found.is_some(),
            total: counts.total,
            usable,
            required,
            hosts,
        }
    }

    /// Whether this host may take traffic by the cluster's rule.
    pub fn usable(&self, host: &Host) -> bool {
        match host.flags.standing() {
            Standing::Healthy => true,
            Standing::Degraded => self.rule.degraded == Degraded::Healthy,
            Standing::Unusable => false,
        }
    }
}

impl From<bool> for Health {
    fn from(healthy: bool) -> Self {
        if healthy {
            Self::Healthy
        } else {
            Self::Unhealthy
        }
    }
}

/// `my_service 0/1 healthy: 127.0.0.1:9000 failed_active_hc`
impl fmt::Display for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.rule.name;
        write!(f, "{name} {}/{} healthy", self.usable, self.total)?;
        if self.required > 1 {
            write!(f, ", {} needed", self.required)?;
        }
        if self.health == Health::Healthy {
            return Ok(());
        }
        if !self.known {
            return f.write_str(": Envoy knows no such cluster, or is still warming it");
        }
        if self.total == 0 {
            return f
                .write_str(": the cluster has no host (its name does not resolve, or it is an aggregate: list its members)");
        }
        let mut unusable = self.hosts.iter().filter(|host| !self.usable(host));
        for (index, host) in unusable.by_ref().take(HOSTS_NAMED).enumerate() {
            let flags: Vec<_> = host.flags.names().collect();
            let separator = if index == 0 { ": " } else { ", " };
            write!(f, "{separator}{} {}", host.address, flags.join("/"))?;
        }
        match unusable.count() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Override<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKnowledge(why) => why.fmt(f),
            Self::NotReady(state) => write!(f, "Envoy is not ready (/ready: {state})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use Health::{Healthy, Unhealthy};

    use super::*;
    use crate::config::Endpoints;
    use crate::flags::HealthFlags;
    use crate::view::Counts;

    /// A source whose clusters have hosts with these flags.
    #[derive(Default)]
    struct Known {
        clusters: Vec<(&'static str, Vec<Host>)>,
        draining: bool,
        fault: Option<&'static str>,
    }

    impl View for Known {
        fn cluster(&self, name: &str) -> Option<ClusterView<'_>> {
            let (_, hosts) = self.clusters.iter().find(|(known, _)| *known == name)?;
            let counts = Counts::of(hosts);
            Some(ClusterView { counts, hosts })
        }

        fn overridden(&self) -> Option<Override<'_>> {
            let fault = self.fault.as_ref();
            fault
                .map(|fault| Override::NoKnowledge(fault))
                .or(self.draining.then_some(Override::NotReady("503 DRAINING")))
        }
    }

    fn known(clusters: &[(&'static str, &[&str])]) -> Known {
        let host = |(index, flags): (usize, &&str)| Host {
            address: format!("127.0.0.1:{}", index + 1),
            flags: HealthFlags::parse(flags.as_bytes()),
        };
        let hosts = |hosts: &[&str]| hosts.iter().enumerate().map(host).collect();
        let clusters = clusters.iter().map(|(name, list)| (*name, hosts(list)));
        Known {
            clusters: clusters.collect(),
            ..Known::default()
        }
    }

    fn endpoint(clusters: &str, more: &str) -> Endpoint {
        let text = format!(r#"[{{"path": "/", "clusters": {clusters}{more}}}]"#);
        let endpoints: Endpoints = serde_json::from_str(&text).unwrap();
        endpoints.check(true).unwrap().remove(0)
    }

    /// Whether a cluster with this rule and these hosts is healthy, and the numbers that led there.
    fn check(rule: &str, hosts: &[&str], expected: Health, usable: u64, required: u64) {
        let endpoint = endpoint(&format!(r#"[{{"name": "c"{rule}}}]"#), "");
        let view = known(&[("c", hosts)]);
        let verdict = judge(&endpoint, &view);
        let check = verdict.checks().next().unwrap();
        let found = (verdict.health, check.usable, check.required);
        assert_eq!(found, (expected, usable, required), "{rule} {hosts:?}");
    }

    #[test]
    fn each_flag_alone() {
        check("", &["healthy"], Healthy, 1, 1);
        for flag in [
            "/failed_active_hc",
            "/failed_outlier_check",
            "/failed_eds_health",
            "/eds_status_draining",
            "/excluded_via_immediate_hc_fail",
            "/pending_active_hc",
            "/brand_new_flag",
            "garbage",
        ] {
            check("", &[flag], Unhealthy, 0, 1);
            check(r#", "degraded": "unhealthy""#, &[flag], Unhealthy, 0, 1);
        }
        for flag in ["/active_hc_timeout", "/pending_dynamic_removal"] {
            check(r#", "degraded": "unhealthy""#, &[flag], Healthy, 1, 1);
        }
        for flag in [
            "/degraded_active_hc",
            "/degraded_eds_health",
            "/degraded_outlier_detection",
        ] {
            check("", &[flag], Healthy, 1, 1);
            check(r#", "degraded": "healthy""#, &[flag], Healthy, 1, 1);
            check(r#", "degraded": "unhealthy""#, &[flag], Unhealthy, 0, 1);
        }
    }

    #[test]
    fn flags_together() {
        for (flags, expected, usable) in [
            ("/failed_active_hc/active_hc_timeout", Unhealthy, 0),
            ("/degraded_eds_health/active_hc_timeout", Healthy, 1),
            ("/degraded_eds_health/failed_active_hc", Unhealthy, 0),
            ("/degraded_eds_health/pending_active_hc", Unhealthy, 0),
            ("/active_hc_timeout/brand_new_flag", Unhealthy, 0),
        ] {
            check("", &[flags], expected, usable, 1);
        }
    }

    const UP: &str = "healthy";
    const DOWN: &str = "/failed_active_hc";

    #[test]
    fn absolute_thresholds() {
        let two = r#", "min_healthy": 2"#;
        check(two, &[UP, DOWN, DOWN], Unhealthy, 1, 2);
        check(two, &[UP, UP, DOWN], Healthy, 2, 2);
        check(two, &[UP, UP, UP], Healthy, 3, 2);
        check("", &[], Unhealthy, 0, 1);
    }

    #[test]
    fn percentages() {
        let percent = |share: &str| format!(r#", "min_healthy": "{share}%""#);
        for (share, hosts, expected, usable, required) in [
            ("50", &[UP, DOWN, DOWN][..], Unhealthy, 1, 2),
            ("50", &[UP, UP, DOWN], Healthy, 2, 2),
            ("50", &[UP, DOWN], Healthy, 1, 1),
            // A percentage of nothing, and of next to nothing, is still one host.
            ("50", &[], Unhealthy, 0, 1),
            ("1", &[DOWN, DOWN], Unhealthy, 0, 1),
            ("100", &[UP, UP, DOWN], Unhealthy, 2, 3),
            ("100", &[UP, UP], Healthy, 2, 2),
            // Rounded up.
            ("34", &[UP, DOWN, DOWN], Unhealthy, 1, 2),
            ("33", &[UP, DOWN, DOWN], Healthy, 1, 1),
        ] {
            check(&percent(share), hosts, expected, usable, required);
        }
        // What Envoy leaves out of its counts is not in ours.
        for excluded in [
            "/eds_status_draining",
            "/excluded_via_immediate_hc_fail/failed_active_hc",
            "/pending_active_hc/failed_active_hc",
        ] {
            check(&percent("100"), &[UP, excluded], Healthy, 1, 1);
            check(&percent("100"), &[excluded], Unhealthy, 0, 1);
        }
    }

    #[test]
    fn several_clusters() {
        for (require, a, b, expected) in [
            ("all", UP, UP, Healthy),
            ("all", UP, DOWN, Unhealthy),
            ("all", DOWN, DOWN, Unhealthy),
            ("any", UP, UP, Healthy),
            ("any", DOWN, UP, Healthy),
            ("any", DOWN, DOWN, Unhealthy),
        ] {
            let endpoint = endpoint(r#"["b", "a"]"#, &format!(r#", "require": "{require}""#));
            let view = known(&[("a", &[a]), ("b", &[b])]);
            assert_eq!(
                judge(&endpoint, &view).health,
                expected,
                "{require} {a} {b}"
            );
        }
    }

    #[test]
    fn what_overrides() {
        let mut view = known(&[("a", &[UP])]);
        let fault = Some("admin: /clusters answered 500");
        let respects = r#", "fail_when_draining": true"#;
        let respects_not = r#", "fail_when_draining": false"#;
        for (clusters, more, draining, fault, expected) in [
            (r#"["a"]"#, respects, false, None, Healthy),
            (r#"["a"]"#, respects, true, None, Unhealthy),
            (r#"["a"]"#, respects_not, true, None, Healthy),
            (r#"["a"]"#, respects_not, false, fault, Unhealthy),
            ("[]", respects, false, None, Healthy),
            ("[]", respects, true, None, Unhealthy),
            ("[]", respects, false, fault, Unhealthy),
            // Nothing can make this one unhealthy but the end of Envoy.
            ("[]", respects_not, true, fault, Healthy),
            (
                "[]",
                r#", "fail_when_draining": false, "require": "any""#,
                true,
                fault,
                Healthy,
            ),
        ] {
            (view.draining, view.fault) = (draining, fault);
            let endpoint = endpoint(clusters, more);
            let row = format!("{clusters} {more} {draining} {fault:?}");
            assert_eq!(judge(&endpoint, &view).health, expected, "{row}");
        }
    }

    /// Rows: what is known, and whether its cause is of the same kind as the row's above.
    #[test]
    fn kinds_of_causes() {
        let endpoint = endpoint(r#"["a", "b"]"#, "");
        let draining = |state| {
            let mut view = known(&[("a", &[UP]), ("b", &[UP])]);
            (view.draining, view.fault) = (true, state);
            view
        };
        let mut last = None;
        for (row, (view, same)) in [
            (known(&[("a", &[DOWN]), ("b", &[UP])]), false),
            (
                known(&[("a", &["/failed_eds_health", DOWN]), ("b", &[UP])]),
                true,
            ),
            (known(&[("b", &[UP])]), true),
            (known(&[("a", &[UP]), ("b", &[DOWN])]), false),
            (known(&[("a", &[DOWN]), ("b", &[DOWN])]), false),
            (draining(None), false),
            (draining(Some("admin: a")), false),
            (draining(Some("admin: b")), false),
        ]
        .iter()
        .enumerate()
        {
            let kind = Some(judge(&endpoint, view).cause_kind());
            assert_eq!(kind == last, *same, "row {row}");
            last = kind;
        }
    }

    #[test]
    fn causes() {
        let endpoint = endpoint(r#"["a", "b", "c"]"#, "");
        let mut all_up = known(&[("a", &[UP]), ("b", &[UP]), ("c", &[UP])]);
        assert_eq!(judge(&endpoint, &all_up).cause(), "");
        all_up.draining = true;
        let cause = "Envoy is not ready (/ready: 503 DRAINING)";
        assert_eq!(judge(&endpoint, &all_up).cause(), cause);
        all_up.fault = Some("admin: no");
        assert_eq!(judge(&endpoint, &all_up).cause(), "admin: no");

        let bad = known(&[("a", &[DOWN, UP]), ("b", &[])]);
        let cause = "b 0/0 healthy: the cluster has no host (its name does not resolve, or it is an aggregate: list its members); \
                     c 0/0 healthy: Envoy knows no such cluster, or is still warming it";
        assert_eq!(judge(&endpoint, &bad).cause(), cause);

        let many = ["/failed_active_hc/active_hc_timeout"; 8];
        let bad = known(&[("a", &many), ("b", &[UP]), ("c", &[UP])]);
        let cause = judge(&endpoint, &bad).cause();
        let start = "a 0/8 healthy: 127.0.0.1:1 failed_active_hc/active_hc_timeout, 127.0.0.1:2 ";
        assert!(cause.starts_with(start), "{cause}");
        let end = "127.0.0.1:5 failed_active_hc/active_hc_timeout and 3 more";
        assert!(cause.ends_with(end), "{cause}");
    }
}
