//! The filter, and on a listener beside it Envoy's own health_check filter: the same clusters, the same
//! rules, two answers.

use serde_json::{Value, json};

use crate::config::{Config, cluster_of_endpoints, health_check, host, listener};
use crate::envoy::Envoy;
use crate::prober::Prober;
use crate::{Build, free_port, until};

/// An Envoy with both filters: an endpoint a rule.
pub struct Pair {
    build: Build,
    /// The Envoy.
    pub envoy: Envoy,
    /// Leads to the filter.
    pub ours: Prober,
    /// Leads to Envoy's own.
    pub built_in: Prober,
}

/// A rule of ours, and the least percentage that Envoy's own filter has for it.
#[derive(Clone)]
pub struct Rule {
    path: &'static str,
    ours: Value,
    built_in: f64,
}

/// `/CLUSTER`: one usable host of this cluster is enough.
pub fn one_of(cluster: &'static str) -> Rule {
    // It takes whole percentages: 1 % is one host, up to a hundred of them.
    rule(cluster, json!({"clusters": [cluster]}), 1.0)
}

/// `/PATH`: these fields of an endpoint, of whose first cluster Envoy's own filter wants so many percent.
pub fn rule(path: &'static str, ours: Value, built_in: f64) -> Rule {
    Rule {
        path,
        ours,
        built_in,
    }
}

impl Rule {
    fn endpoint(&self) -> Value {
        let mut endpoint = self.ours.clone();
        endpoint["path"] = json!(format!("/{}", self.path));
        endpoint["details"] = json!(true);
        endpoint
    }

    fn health_check(&self) -> Option<Value> {
        let cluster = &self.ours["clusters"][0];
        let cluster = cluster["name"].as_str().or(cluster.as_str())?;
        let path = format!("/{}", self.path);
        Some(health_check(&path, cluster, self.built_in))
    }
}

impl Pair {
    /// With these rules, in an Envoy with this configuration.
    pub async fn start(
        build: Build,
        rules: impl IntoIterator<Item = Rule>,
        config: Config,
    ) -> Self {
        let rules: Vec<_> = rules.into_iter().collect();
        let endpoints: Vec<_> = rules.iter().map(Rule::endpoint).collect();
        // A slow machine gets no answer from an old snapshot.
        let filter = json!({
            "max_age_ms": 0, "max_stale_ms": 0, "admin_timeout_ms": 60000, "endpoints": endpoints,
        });
        let (ours, built_in) = (free_port(), free_port());
        let mut config = config
            .listener(build.listener(ours, &filter))
            .listener(listener(
                built_in,
                rules.iter().filter_map(Rule::health_check),
            ));
        // The module knows what its worker knows, which by default may be a second late.
        let clusters = config["static_resources"]["clusters"].as_array_mut();
        for cluster in clusters.expect("clusters") {
            cluster["common_lb_config"]["update_merge_window"] = json!("0s");
        }
        Self {
            build,
            envoy: config.start().await,
            ours: Prober::http(ours),
            built_in: Prober::http(built_in),
        }
    }

    /// Waits until the admin shows a host of this cluster with these flags.
    pub async fn wait_for_flags(&self, cluster: &str, flags: &str) {
        let (start, end) = (format!("{cluster}::"), format!("::health_flags::{flags}"));
        until(&format!("a host of {cluster} is {flags}"), async || {
            let page = self.envoy.admin.get("/clusters").await.body;
            let mut lines = page.lines();
            lines.any(|line| line.starts_with(&start) && line.ends_with(&end))
        })
        .await;
    }

    /// Checks the filter's status for a rule; gives the lines of `?verbose`.
    pub async fn check_ours(&self, path: &str, status: u16) -> String {
        let path = format!("/{path}?verbose");
        let answer = match self.build {
            Build::Wasm => self.ours.get(&path).await,
            // The worker hears of it a moment after the admin.
            Build::Module => self.ours.wait_through_answers(&path, status).await,
        };
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        answer.body
    }

    /// Checks the status of both; `intended` is the reason where they differ.
    pub async fn check(&self, path: &str, ours: u16, built_in: u16, intended: Option<&str>) {
        self.check_ours(path, ours).await;
        // The built-in filter counts from gauges that follow the flags a moment later.
        let path = format!("/{path}");
        self.built_in.wait_through_answers(&path, built_in).await;
        assert_eq!(ours != built_in, intended.is_some(), "{path}: {intended:?}");
    }

    /// Waits for these flags, and then checks that both have this status.
    pub async fn follows(&self, cluster: &str, flags: &str, status: u16) {
        self.wait_for_flags(cluster, flags).await;
        self.check(cluster, status, status, None).await;
    }
}

/// A cluster `c` of four hosts, some of them of another priority.
pub fn spread() -> Value {
    let hosts = |priority: u32, count: u16| {
        let hosts: Vec<_> = (1..=count).map(|port| host(port, "HEALTHY")).collect();
        json!({"priority": priority, "lb_endpoints": hosts})
    };
    let mut spread = cluster_of_endpoints("c", vec![]);
    // A gap: priority 1 has no host.
    spread["load_assignment"]["endpoints"] = json!([hosts(0, 1), hosts(2, 3)]);
    spread
}
