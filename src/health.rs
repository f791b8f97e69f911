//! An endpoint's rule and what the admin said, to a [`Verdict`].
//!
//! The flags mean what they mean to Envoy 1.40's own load balancer at a panic threshold of 0:
//! `failed_*` and `eds_status_draining` hosts get no traffic, `degraded_*` and
//! `pending_dynamic_removal` hosts do. What nobody knows is unhealthy.

use std::fmt;

use crate::admin::{Fault, Ready, Report};
use crate::clusters::{Effect, Host};
use crate::config::{ClusterRule, Degraded, Endpoint, MinHealthy, Require};

/// What a probe is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Send traffic.
    Healthy,
    /// Do not.
    Unhealthy,
}

/// An endpoint's health and all that led to it.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// The answer.
    pub health: Health,
    /// What makes the endpoint unhealthy whatever its clusters are like.
    pub overruled: Option<Overruled<'a>>,
    /// One entry a cluster, in the configuration's order; none without a trustworthy snapshot.
    pub checks: Vec<Check<'a>>,
}

/// What makes an endpoint unhealthy whatever its clusters are like.
#[derive(Debug)]
pub enum Overruled<'a> {
    /// There is no trustworthy snapshot.
    Fault(&'a Fault),
    /// Envoy is not ready: draining, or still starting. Holds what `/ready` said.
    NotReady(&'a str),
}

/// One cluster of an endpoint.
#[derive(Debug)]
pub struct Check<'a> {
    /// The cluster's rule.
    pub rule: &'a ClusterRule,
    /// Whether it has the usable hosts it needs.
    pub health: Health,
    /// Whether the admin knows the cluster.
    pub listed: bool,
    /// How many hosts are usable.
    pub usable: u64,
    /// How many usable hosts it takes.
    pub required: u64,
    /// Every host that the admin listed.
    pub hosts: &'a [Host],
}

/// At most this many hosts are named in one line.
const HOSTS_NAMED: usize = 5;

/// Judges an endpoint by what one refresh learned.
pub fn judge<'a>(endpoint: &'a Endpoint, outcome: &'a Result<Report, Fault>) -> Verdict<'a> {
    let report = match outcome {
        Ok(report) => report,
        Err(fault) => {
            return Verdict {
                health: Health::Unhealthy,
                overruled: Some(Overruled::Fault(fault)),
                checks: Vec::new(),
            };
        }
    };
    let checks: Vec<_> = endpoint
        .clusters
        .iter()
        .map(|rule| Check::new(rule, report))
        .collect();
    let mut healthy = checks.iter().map(|check| check.health == Health::Healthy);
    let enough = match endpoint.require {
        Require::All => healthy.all(|healthy| healthy),
        Require::Any => healthy.any(|healthy| healthy),
    };
    let overruled = match &report.ready {
        Ready::NotAsked | Ready::Yes => None,
        Ready::No(state) => Some(Overruled::NotReady(state)),
    };
    Verdict {
        health: (enough && overruled.is_none()).into(),
        overruled,
        checks,
    }
}

impl Verdict<'_> {
    /// Why the endpoint is unhealthy, on one line; empty when nothing is wrong.
    pub fn cause(&self) -> String {
        let failed = self
            .checks
            .iter()
            .filter(|check| check.health == Health::Unhealthy);
        let causes: Vec<String> = self
            .overruled
            .iter()
            .map(Overruled::to_string)
            .chain(failed.map(Check::to_string))
            .collect();
        causes.join("; ")
    }
}

impl<'a> Check<'a> {
    fn new(rule: &'a ClusterRule, report: &'a Report) -> Self {
        let cluster = report.cluster(&rule.name);
        let hosts = cluster.map_or(&[][..], |cluster| &cluster.hosts);
        let usable = count(hosts, |host| usable(host, rule.degraded));
        let required = match rule.min_healthy {
            MinHealthy::Hosts(hosts) => hosts,
            MinHealthy::Percent(percent) => {
                let counted = count(hosts, |host| !host.flags.has(Effect::Excluded));
                (counted * u64::from(percent)).div_ceil(100).max(1)
            }
        };
        Self {
            rule,
            health: (usable >= required).into(),
            listed: cluster.is_some_and(|cluster| cluster.listed),
            usable,
            required,
            hosts,
        }
    }

    /// Whether this host may take traffic by the cluster's rule.
    pub fn usable(&self, host: &Host) -> bool {
        usable(host, self.rule.degraded)
    }
}

fn usable(host: &Host, degraded: Degraded) -> bool {
    let flags = &host.flags;
    !(flags.stranger().is_some()
        || flags.has(Effect::Failed)
        || flags.has(Effect::Excluded)
        || (degraded == Degraded::Unhealthy && flags.has(Effect::Degraded)))
}

fn count(hosts: &[Host], wanted: impl Fn(&Host) -> bool) -> u64 {
    hosts.iter().filter(|host| wanted(host)).count() as u64
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
        write!(f, "{name} {}/{} healthy", self.usable, self.hosts.len())?;
        if self.required > 1 {
            write!(f, ", {} needed", self.required)?;
        }
        if self.health == Health::Healthy {
            return Ok(());
        }
        if !self.listed {
            return f.write_str(": Envoy knows no such cluster, or is still warming it");
        }
        if self.hosts.is_empty() {
            return f.write_str(": the cluster has no host");
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

impl fmt::Display for Overruled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "admin: {fault}"),
            Self::NotReady(state) => write!(f, "envoy: not ready, /ready says {state}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Page;
    use crate::clusters::{ClustersError, Parser};
    use crate::config::Config;

    /// What `/clusters` says of a cluster whose hosts have these flags.
    fn page(name: &str, hosts: &[&str]) -> String {
        let mut page = format!("{name}::observability_name::{name}\n");
        for (index, flags) in hosts.iter().enumerate() {
            page += &format!("{name}::127.0.0.1:{}::health_flags::{flags}\n", index + 1);
        }
        page
    }

    fn outcome(names: &[String], text: &str) -> Result<Report, Fault> {
        let mut parser = Parser::new(names);
        parser.feed(text.as_bytes());
        let clusters = parser.finish().map_err(Fault::Clusters)?;
        Ok(Report {
            clusters,
            ready: Ready::Yes,
        })
    }

    /// Whether a cluster with this rule and these hosts is healthy, and the numbers that led there.
    fn check(rule: &str, hosts: &[&str], expected: Health, usable: u64, required: u64) {
        let config = format!(
            r#"{{"admin_cluster": "x", "endpoints": [{{"path": "/", "clusters": [{{"name": "c"{rule}}}]}}]}}"#
        );
        let config = Config::parse(config.as_bytes()).unwrap();
        let outcome = outcome(&config.cluster_names(), &page("c", hosts));
        let verdict = judge(&config.endpoints[0], &outcome);
        let check = &verdict.checks[0];
        let found = (verdict.health, check.usable, check.required);
        assert_eq!(found, (expected, usable, required), "{rule} {hosts:?}");
    }

    use Health::{Healthy, Unhealthy};

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
        check(
            "",
            &["/failed_active_hc/active_hc_timeout"],
            Unhealthy,
            0,
            1,
        );
        check(
            "",
            &["/degraded_eds_health/active_hc_timeout"],
            Healthy,
            1,
            1,
        );
        check(
            "",
            &["/degraded_eds_health/failed_active_hc"],
            Unhealthy,
            0,
            1,
        );
        check("", &["/active_hc_timeout/brand_new_flag"], Unhealthy, 0, 1);
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
        let half = r#", "min_healthy": "50%""#;
        check(half, &[UP, DOWN, DOWN], Unhealthy, 1, 2);
        check(half, &[UP, UP, DOWN], Healthy, 2, 2);
        check(half, &[UP, DOWN], Healthy, 1, 1);
        // A percentage of nothing, and of next to nothing, is still one host.
        check(half, &[], Unhealthy, 0, 1);
        check(r#", "min_healthy": "1%""#, &[DOWN, DOWN], Unhealthy, 0, 1);
        check(
            r#", "min_healthy": "100%""#,
            &[UP, UP, DOWN],
            Unhealthy,
            2,
            3,
        );
        check(r#", "min_healthy": "100%""#, &[UP, UP], Healthy, 2, 2);
        // What Envoy leaves out of its counts is not in ours.
        for excluded in [
            "/eds_status_draining",
            "/excluded_via_immediate_hc_fail/failed_active_hc",
            "/pending_active_hc/failed_active_hc",
        ] {
            check(r#", "min_healthy": "100%""#, &[UP, excluded], Healthy, 1, 1);
            check(r#", "min_healthy": "100%""#, &[excluded], Unhealthy, 0, 1);
        }
        // Rounded up.
        check(
            r#", "min_healthy": "34%""#,
            &[UP, DOWN, DOWN],
            Unhealthy,
            1,
            2,
        );
        check(
            r#", "min_healthy": "33%""#,
            &[UP, DOWN, DOWN],
            Healthy,
            1,
            1,
        );
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
            let config = format!(
                r#"{{"admin_cluster": "x", "endpoints": [{{"path": "/", "clusters": ["b", "a"], "require": "{require}"}}]}}"#
            );
            let config = Config::parse(config.as_bytes()).unwrap();
            let text = page("a", &[a]) + &page("b", &[b]);
            let outcome = outcome(&config.cluster_names(), &text);
            let verdict = judge(&config.endpoints[0], &outcome);
            assert_eq!(verdict.health, expected, "{require} {a} {b}");
        }
    }

    #[test]
    fn what_overrules_and_why() {
        let config =
            br#"{"admin_cluster": "x", "endpoints": [{"path": "/", "clusters": ["a", "b", "c"]}]}"#;
        let config = Config::parse(config).unwrap();
        let endpoint = &config.endpoints[0];
        let names = config.cluster_names();
        let all_up = page("a", &[UP]) + &page("b", &[UP]) + &page("c", &[UP]);

        let good = outcome(&names, &all_up);
        assert_eq!(judge(endpoint, &good).health, Healthy);
        assert_eq!(judge(endpoint, &good).cause(), "");

        let draining = good.clone().map(|report| Report {
            ready: Ready::No("503 DRAINING".to_owned()),
            ..report
        });
        assert_eq!(judge(endpoint, &draining).health, Unhealthy);
        assert_eq!(
            judge(endpoint, &draining).cause(),
            "envoy: not ready, /ready says 503 DRAINING"
        );

        let not_asked = good.map(|report| Report {
            ready: Ready::NotAsked,
            ..report
        });
        assert_eq!(judge(endpoint, &not_asked).health, Healthy);

        for (fault, cause) in [
            (
                Fault::TimedOut(Page::Clusters),
                "admin: /clusters did not answer within admin_timeout_ms",
            ),
            (
                Fault::Clusters(ClustersError::CutOff),
                "admin: the admin's reply to /clusters ends inside a line",
            ),
        ] {
            let fault = Err(fault);
            let verdict = judge(endpoint, &fault);
            assert_eq!(
                (verdict.health, verdict.cause().as_str()),
                (Unhealthy, cause)
            );
        }

        let text = page("a", &[DOWN, UP]) + &page("b", &[]);
        let bad = outcome(&names, &text);
        let cause = "b 0/0 healthy: the cluster has no host; \
                     c 0/0 healthy: Envoy knows no such cluster, or is still warming it";
        assert_eq!(judge(endpoint, &bad).cause(), cause);

        let text = page("a", &["/failed_active_hc/active_hc_timeout"; 8])
            + &page("b", &[UP])
            + &page("c", &[UP]);
        let bad = outcome(&names, &text);
        let cause = judge(endpoint, &bad).cause();
        assert!(
            cause.starts_with(
                "a 0/8 healthy: 127.0.0.1:1 failed_active_hc/active_hc_timeout, 127.0.0.1:2 "
            ),
            "{cause}"
        );
        assert!(
            cause.ends_with("127.0.0.1:5 failed_active_hc/active_hc_timeout and 3 more"),
            "{cause}"
        );
    }
}
