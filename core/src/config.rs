//! What a user configures of endpoints and their rules, read from JSON and checked.
//!
//! Each build has a configuration of its own, [`wasm`] and [`module`], around this shared half:
//!
//! ```json
//! {"endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}
//! ```
//!
//! The raw types below are what serde reads; nothing but [`Endpoints::check`] makes an [`Endpoint`],
//! so whoever holds one can trust its bounds.

mod fields;
pub mod module;
pub mod wasm;

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

pub use fields::{ConfigError, FilterName};
use fields::{check_count, check_name, check_unique, present};

/// One path that is answered, and the rule that decides its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The request path, without a query: starts with `/`.
    pub path: String,
    /// The clusters whose health decides, 0 to 64, each name once. None: a liveness endpoint.
    pub clusters: Vec<ClusterRule>,
    /// How several clusters combine.
    pub require: Require,
    /// Whether the endpoint is unhealthy while Envoy is draining or starting.
    pub fail_when_draining: bool,
    /// Whether answers may name clusters, hosts and causes.
    pub details: bool,
}

/// What one cluster needs in order to be healthy. It is read from its name only, or from an object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct ClusterRule {
    /// The cluster's name as in Envoy's configuration (not its `alt_stat_name`).
    pub name: String,
    /// How many usable hosts it takes.
    #[serde(default)]
    pub min_healthy: MinHealthy,
    /// Whether a degraded host is usable.
    #[serde(default)]
    pub degraded: Degraded,
}

/// How several clusters of an endpoint combine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Every cluster must be healthy.
    #[default]
    All,
    /// One healthy cluster is enough.
    Any,
}

/// What a degraded host counts as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Degraded {
    /// Usable, as for Envoy's own load balancer.
    #[default]
    Healthy,
    /// Not usable.
    Unhealthy,
}

/// How many usable hosts a cluster needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinHealthy {
    /// At least this many, 1 or more.
    Hosts(u64),
    /// At least this share of the hosts that count, 1 to 100 percent.
    Percent(u8),
}

const MAX_ENDPOINTS: usize = 32;
const MAX_CLUSTERS: usize = 64;

/// The field `endpoints` as read, not checked yet.
#[derive(Deserialize)]
pub struct Endpoints(Vec<RawEndpoint>);

/// One path that is answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    path: String,
    clusters: Vec<ClusterRule>,
    #[serde(default)]
    require: Require,
    #[serde(default, deserialize_with = "present")]
    fail_when_draining: Option<bool>,
    #[serde(default)]
    details: bool,
}

impl Endpoint {
    /// The path as a label of metrics. Envoy drops dots at its end, and no two paths have the same label: one
    /// that could be taken for another with its dots escaped is escaped itself.
    pub fn label(&self) -> String {
        let path = &self.path;
        if !path.ends_with('.') && !path.ends_with("2E") {
            return path.clone();
        }
        let escaped = path.replace('%', "%25");
        let kept = escaped.trim_end_matches('.');
        let dots = escaped.len() - kept.len();
        format!("{kept}{}", "%2E".repeat(dots))
    }

    /// Whether the endpoint is healthy whatever is known: a liveness endpoint that does not respect
    /// draining.
    pub fn needs_nothing(&self) -> bool {
        self.clusters.is_empty() && !self.fail_when_draining
    }
}

impl Endpoints {
    /// Checks every bound; an endpoint without `fail_when_draining` gets this one.
    pub fn check(self, fail_when_draining: bool) -> Result<Vec<Endpoint>, ConfigError> {
        check_count("endpoints", self.0.len(), 1..=MAX_ENDPOINTS)?;
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(self.0.len());
        for (index, endpoint) in self.0.into_iter().enumerate() {
            let field = format!("endpoints[{index}]");
            let endpoint = endpoint.check(&field, fail_when_draining)?;
            let before = endpoints.iter().map(|other| &other.path);
            check_unique(&format!("{field}.path"), &endpoint.path, before)?;
            endpoints.push(endpoint);
        }
        Ok(endpoints)
    }

    /// The field of the first endpoint that says `fail_when_draining`: for a build that does not see drains.
    pub fn drain_field(&self) -> Option<String> {
        let index = self
            .0
            .iter()
            .position(|endpoint| endpoint.fail_when_draining.is_some())?;
        Some(format!("endpoints[{index}].fail_when_draining"))
    }
}

impl RawEndpoint {
    fn check(self, field: &str, fail_when_draining: bool) -> Result<Endpoint, ConfigError> {
        check_path(&format!("{field}.path"), &self.path)?;
        let field = format!("{field}.clusters");
        check_count(&field, self.clusters.len(), 0..=MAX_CLUSTERS)?;
        let names = self.clusters.iter().map(|cluster| &cluster.name);
        for (index, name) in names.clone().enumerate() {
            let field = format!("{field}[{index}]");
            check_name(&field, "a cluster", name)?;
            check_unique(&field, name, names.clone().take(index))?;
        }
        Ok(Endpoint {
            path: self.path,
            clusters: self.clusters,
            require: self.require,
            fail_when_draining: self.fail_when_draining.unwrap_or(fail_when_draining),
            details: self.details,
        })
    }
}

fn check_path(field: &str, path: &str) -> Result<(), ConfigError> {
    // Envoy answers a request whose path has a byte above 127 itself, with a 400.
    let bad =
        |c: &char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control() || !c.is_ascii();
    let fault = if !path.starts_with('/') {
        format!("must start with '/', got {path:?}")
    } else if let Some(bad) = path.chars().find(bad) {
        format!("must not contain {bad:?}, got {path:?}")
    } else {
        return Ok(());
    };
    Err(ConfigError::new(field, fault))
}

impl Default for MinHealthy {
    fn default() -> Self {
        Self::Hosts(1)
    }
}

impl<'de> Deserialize<'de> for ClusterRule {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ClusterVisitor;
        impl<'de> Visitor<'de> for ClusterVisitor {
            type Value = ClusterRule;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cluster's name, or an object with name, min_healthy and degraded")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(ClusterRule {
                    name: name.to_owned(),
                    min_healthy: MinHealthy::default(),
                    degraded: Degraded::default(),
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                // What serde derives from the fields above.
                ClusterRule::deserialize(MapAccessDeserializer::new(map))
            }
        }
        input.deserialize_any(ClusterVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (path, expected) in [
            ("/healthz", "/healthz"),
            ("/a.b", "/a.b"),
            ("/a%20b", "/a%20b"),
            ("/a.", "/a%2E"),
            ("/a..", "/a%2E%2E"),
            ("/a%2E", "/a%252E"),
            ("/a%252E", "/a%25252E"),
            ("/a%2E.", "/a%252E%2E"),
            ("/12E", "/12E"),
        ] {
            let text = format!(r#"[{{"path": "{path}", "clusters": []}}]"#);
            let endpoints: Endpoints = serde_json::from_str(&text).unwrap();
            let endpoints = endpoints.check(true).unwrap();
            assert_eq!(endpoints[0].label(), expected);
        }
    }
}
