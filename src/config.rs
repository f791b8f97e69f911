//! The filter's configuration: JSON text to a checked [`Config`], or a [`ConfigError`].
//!
//! Envoy hands the filter the text inside a `google.protobuf.StringValue`, for example
//!
//! ```json
//! {"admin_cluster": "local_admin", "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}
//! ```
//!
//! The raw types below are what serde reads; nothing but [`Config::parse`] makes a [`Config`],
//! so whoever holds one can trust its bounds.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};

/// A configuration whose every bound has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The Envoy cluster that reaches this Envoy's admin. Not empty.
    pub admin_cluster: String,
    /// How long one call to the admin may take: 1 ms to 60 s.
    pub admin_timeout: Duration,
    /// A snapshot younger than this answers a probe at once: 0 (never) to 60 s.
    pub max_age: Duration,
    /// How often the snapshot is renewed in the background: 50 ms to `max_age`, or not at all.
    pub refresh_interval: Option<Duration>,
    /// Whether endpoints are unhealthy while the admin's `/ready` is not 200.
    pub fail_when_draining: bool,
    /// The paths that are answered, 1 to 32, each path once.
    pub endpoints: Vec<Endpoint>,
}

/// One path that is answered, and the rule that decides its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The request path, without a query: starts with `/`.
    pub path: String,
    /// The clusters whose health decides, 1 to 64, each name once.
    pub clusters: Vec<ClusterRule>,
    /// How several clusters combine.
    pub require: Require,
    /// Whether answers may name clusters, hosts and causes.
    pub details: bool,
}

/// What one cluster needs in order to be healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRule {
    /// The cluster's name as in Envoy's configuration (not its `alt_stat_name`).
    pub name: String,
    /// How many usable hosts it takes.
    pub min_healthy: MinHealthy,
    /// Whether a degraded host is usable.
    pub degraded: Degraded,
}

/// How several clusters of an endpoint combine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// Why a configuration was refused: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    fault: String,
}

const MAX_ENDPOINTS: usize = 32;
const MAX_CLUSTERS: usize = 64;
const MIN_REFRESH_INTERVAL_MS: u64 = 50;

impl Config {
    /// Reads and checks the JSON text that Envoy passes.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.trim_ascii().is_empty() {
            return Err(ConfigError::new(
                "configuration",
                "is empty; give a google.protobuf.StringValue of JSON with admin_cluster and endpoints",
            ));
        }
        let json = &mut serde_json::Deserializer::from_slice(text);
        let raw: RawConfig = serde_path_to_error::deserialize(&mut *json).map_err(|error| {
            let path = error.path().to_string();
            // Of what it cannot name, serde_path_to_error says `.` or `?`.
            let field = match path.trim_end_matches(['.', '?']) {
                "" => "configuration",
                field => field,
            };
            ConfigError::new(field, error.into_inner())
        })?;
        json.end()
            .map_err(|error| ConfigError::new("configuration", error))?;
        raw.check()
    }

    /// Every cluster that some endpoint asks for: sorted, each name once.
    pub fn cluster_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .endpoints
            .iter()
            .flat_map(|endpoint| endpoint.clusters.iter().map(|cluster| cluster.name.clone()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl ConfigError {
    fn new(field: impl Into<String>, fault: impl ToString) -> Self {
        Self {
            field: on_one_line(&field.into()),
            fault: on_one_line(&fault.to_string()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.fault)
    }
}

impl std::error::Error for ConfigError {}

/// Escapes line breaks and their like: an unknown field's name may hold any, and a refusal is one
/// line of the log.
fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for char in text.chars() {
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    line
}

/// The configuration of the envoy-healthz filter.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "envoy-healthz"))]
#[serde(deny_unknown_fields)]
struct RawConfig {
    /// The Envoy cluster that reaches this Envoy's admin.
    #[cfg_attr(test, schemars(length(min = 1)))]
    admin_cluster: String,
    /// How long one admin call may take, in milliseconds.
    #[serde(default = "millis::<1, 60000, 1000>")]
    #[cfg_attr(test, schemars(extend("default" = 1000)))]
    admin_timeout_ms: Int<1, 60000>,
    /// A probe is answered from a snapshot of at most this age, in milliseconds; 0: every probe asks.
    #[serde(default = "millis::<0, 60000, 250>")]
    #[cfg_attr(test, schemars(extend("default" = 250)))]
    max_age_ms: Int<0, 60000>,
    /// Renew the snapshot in the background this often, in milliseconds; at most max_age_ms.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Int<MIN_REFRESH_INTERVAL_MS, 60000>"))]
    refresh_interval_ms: Option<Int<MIN_REFRESH_INTERVAL_MS, 60000>>,
    /// Answer 503 while the admin's /ready is not 200.
    #[serde(default = "yes")]
    #[cfg_attr(test, schemars(extend("default" = true)))]
    fail_when_draining: bool,
    /// The paths that are answered, each with its own rule; paths are unique.
    #[cfg_attr(test, schemars(length(min = 1, max = MAX_ENDPOINTS)))]
    endpoints: Vec<RawEndpoint>,
}

/// One path that is answered.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Endpoint"))]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    /// Matched exactly; the request's query is ignored.
    #[cfg_attr(test, schemars(regex(pattern = r"^/[^?# \x00-\x1f\x7f]*$")))]
    path: String,
    /// The clusters whose health decides; names are unique.
    #[cfg_attr(test, schemars(length(min = 1, max = MAX_CLUSTERS)))]
    clusters: Vec<RawCluster>,
    /// How several clusters combine.
    #[serde(default)]
    require: Require,
    /// Whether answers may name clusters, hosts and causes.
    #[serde(default)]
    details: bool,
}

/// A cluster: its name alone, or with what it takes to be healthy.
#[cfg_attr(
    test,
    derive(schemars::JsonSchema),
    schemars(untagged, rename = "Cluster")
)]
#[cfg_attr(test, allow(dead_code))]
enum RawCluster {
    /// The cluster's name.
    Name(#[cfg_attr(test, schemars(length(min = 1)))] String),
    /// The cluster's name and rule.
    Rule(RawClusterRule),
}

/// What one cluster needs in order to be healthy.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "ClusterRule"))]
#[serde(deny_unknown_fields)]
struct RawClusterRule {
    /// The cluster's name in Envoy's configuration.
    #[cfg_attr(test, schemars(length(min = 1)))]
    name: String,
    /// How many usable hosts it takes: a number, or a percentage like "50%".
    #[serde(default)]
    #[cfg_attr(test, schemars(extend("default" = 1)))]
    min_healthy: MinHealthy,
    /// Whether degraded hosts count as usable.
    #[serde(default)]
    degraded: Degraded,
}

impl RawConfig {
    fn check(self) -> Result<Config, ConfigError> {
        if self.admin_cluster.is_empty() {
            return Err(ConfigError::new(
                "admin_cluster",
                "must name the cluster that reaches Envoy's admin, got \"\"",
            ));
        }
        if let Some(Int(interval)) = self.refresh_interval_ms
            && interval > self.max_age_ms.0
        {
            return Err(ConfigError::new(
                "refresh_interval_ms",
                format!(
                    "must be at most max_age_ms ({}), got {interval}",
                    self.max_age_ms.0
                ),
            ));
        }
        check_count("endpoints", self.endpoints.len(), MAX_ENDPOINTS)?;
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(self.endpoints.len());
        for (index, endpoint) in self.endpoints.into_iter().enumerate() {
            let endpoint = endpoint.check(&format!("endpoints[{index}]"))?;
            if endpoints.iter().any(|other| other.path == endpoint.path) {
                return Err(ConfigError::new(
                    format!("endpoints[{index}].path"),
                    format!("must be unique, got {:?} twice", endpoint.path),
                ));
            }
            endpoints.push(endpoint);
        }
        Ok(Config {
            admin_cluster: self.admin_cluster,
            admin_timeout: Duration::from_millis(self.admin_timeout_ms.0),
            max_age: Duration::from_millis(self.max_age_ms.0),
            refresh_interval: self
                .refresh_interval_ms
                .map(|interval| Duration::from_millis(interval.0)),
            fail_when_draining: self.fail_when_draining,
            endpoints,
        })
    }
}

impl RawEndpoint {
    fn check(self, field: &str) -> Result<Endpoint, ConfigError> {
        let path_field = format!("{field}.path");
        if !self.path.starts_with('/') {
            let fault = format!("must start with '/', got {:?}", self.path);
            return Err(ConfigError::new(path_field, fault));
        }
        if let Some(bad) = self
            .path
            .chars()
            .find(|&c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control())
        {
            let fault = format!("must not contain {bad:?}, got {:?}", self.path);
            return Err(ConfigError::new(path_field, fault));
        }
        check_count(
            &format!("{field}.clusters"),
            self.clusters.len(),
            MAX_CLUSTERS,
        )?;
        let mut clusters: Vec<ClusterRule> = Vec::with_capacity(self.clusters.len());
        for (index, cluster) in self.clusters.into_iter().enumerate() {
            let cluster = ClusterRule::from(cluster);
            let fault = if cluster.name.is_empty() {
                "must name a cluster, got \"\"".to_owned()
            } else if clusters.iter().any(|other| other.name == cluster.name) {
                format!("must be unique, got {:?} twice", cluster.name)
            } else {
                clusters.push(cluster);
                continue;
            };
            return Err(ConfigError::new(
                format!("{field}.clusters[{index}]"),
                fault,
            ));
        }
        Ok(Endpoint {
            path: self.path,
            clusters,
            require: self.require,
            details: self.details,
        })
    }
}

impl From<RawCluster> for ClusterRule {
    fn from(raw: RawCluster) -> Self {
        match raw {
            RawCluster::Name(name) => Self {
                name,
                min_healthy: MinHealthy::default(),
                degraded: Degraded::default(),
            },
            RawCluster::Rule(rule) => Self {
                name: rule.name,
                min_healthy: rule.min_healthy,
                degraded: rule.degraded,
            },
        }
    }
}

impl Default for MinHealthy {
    fn default() -> Self {
        Self::Hosts(1)
    }
}

fn check_count(field: &str, count: usize, most: usize) -> Result<(), ConfigError> {
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format!("must have 1 to {most} entries, got {count}"),
    ))
}

fn yes() -> bool {
    true
}

fn millis<const MIN: u64, const MAX: u64, const DEFAULT: u64>() -> Int<MIN, MAX> {
    Int(DEFAULT)
}

/// Reads a field that may be left out, but not be `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}

/// A whole number whose bounds stand in its type, so that serde's own error names them.
#[derive(Clone, Copy)]
struct Int<const MIN: u64, const MAX: u64>(u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct IntVisitor<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for IntVisitor<MIN, MAX> {
            type Value = Int<MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer from {MIN} to {MAX}")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&value) {
                    Ok(Int(value))
                } else {
                    Err(E::invalid_value(Unexpected::Unsigned(value), &self))
                }
            }
        }
        input.deserialize_u64(IntVisitor)
    }
}

#[cfg(test)]
impl<const MIN: u64, const MAX: u64> schemars::JsonSchema for Int<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Integer_{MIN}_to_{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

#[cfg(test)]
impl schemars::JsonSchema for MinHealthy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MinHealthy".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^0*([1-9][0-9]?|100)%$"},
        ]})
    }
}

impl<'de> Deserialize<'de> for MinHealthy {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct MinHealthyVisitor;
        impl Visitor<'_> for MinHealthyVisitor {
            type Value = MinHealthy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of at least 1, or \"N%\" with N from 1 to 100")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                match value {
                    0 => Err(E::invalid_value(Unexpected::Unsigned(0), &self)),
                    hosts => Ok(MinHealthy::Hosts(hosts)),
                }
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                value
                    .strip_suffix('%')
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .filter(|percent| (1..=100).contains(percent))
                    .map(MinHealthy::Percent)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
            }
        }
        input.deserialize_any(MinHealthyVisitor)
    }
}

impl<'de> Deserialize<'de> for RawCluster {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ClusterVisitor<'de>(PhantomData<&'de ()>);
        impl<'de> Visitor<'de> for ClusterVisitor<'de> {
            type Value = RawCluster;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cluster's name, or an object with name, min_healthy and degraded")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                String::deserialize(StrDeserializer::new(name)).map(RawCluster::Name)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                RawClusterRule::deserialize(MapAccessDeserializer::new(map)).map(RawCluster::Rule)
            }
        }
        input.deserialize_any(ClusterVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"{"admin_cluster": "local_admin", "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}"#;

    /// The smallest configuration with more fields at its top, in its endpoint, or in its cluster.
    fn with(top: &str, endpoint: &str, cluster: &str) -> String {
        format!(
            r#"{{"admin_cluster": "a"{top}, "endpoints": [{{"path": "/healthz"{endpoint}, "clusters": [{{"name": "c"{cluster}}}]}}]}}"#
        )
    }

    fn top(fields: &str) -> Result<Config, ConfigError> {
        Config::parse(with(fields, "", "").as_bytes())
    }

    fn endpoint(fields: &str) -> Result<Endpoint, ConfigError> {
        Config::parse(with("", fields, "").as_bytes()).map(|config| config.endpoints[0].clone())
    }

    fn cluster(fields: &str) -> Result<ClusterRule, ConfigError> {
        let config = Config::parse(with("", "", fields).as_bytes());
        config.map(|config| config.endpoints[0].clusters[0].clone())
    }

    fn refused<T: fmt::Debug>(parsed: Result<T, ConfigError>, line: &str) {
        let error = parsed.expect_err(line).to_string();
        assert!(
            error.starts_with(line),
            "{error:?} does not begin with {line:?}"
        );
    }

    fn paths(paths: &[String]) -> String {
        let endpoints: Vec<_> = paths
            .iter()
            .map(|path| format!(r#"{{"path": {path:?}, "clusters": ["c"]}}"#))
            .collect();
        format!(
            r#"{{"admin_cluster": "a", "endpoints": [{}]}}"#,
            endpoints.join(",")
        )
    }

    fn clusters(clusters: &[String]) -> String {
        let clusters = clusters.join(",");
        format!(
            r#"{{"admin_cluster": "a", "endpoints": [{{"path": "/healthz", "clusters": [{clusters}]}}]}}"#
        )
    }

    #[test]
    fn defaults() {
        let config = Config::parse(SMALLEST.as_bytes()).unwrap();
        assert_eq!(
            config,
            Config {
                admin_cluster: "local_admin".to_owned(),
                admin_timeout: Duration::from_millis(1000),
                max_age: Duration::from_millis(250),
                refresh_interval: None,
                fail_when_draining: true,
                endpoints: vec![Endpoint {
                    path: "/healthz".to_owned(),
                    clusters: vec![ClusterRule {
                        name: "my_service".to_owned(),
                        min_healthy: MinHealthy::Hosts(1),
                        degraded: Degraded::Healthy,
                    }],
                    require: Require::All,
                    details: false,
                }],
            }
        );
        assert_eq!(cluster("").unwrap().min_healthy, MinHealthy::Hosts(1));
        assert_eq!(cluster("").unwrap().degraded, Degraded::Healthy);
    }

    #[test]
    fn every_field_is_read_up_to_its_bounds() {
        let millis = Duration::from_millis;
        assert_eq!(
            top(r#", "admin_timeout_ms": 1"#).unwrap().admin_timeout,
            millis(1)
        );
        assert_eq!(
            top(r#", "admin_timeout_ms": 60000"#).unwrap().admin_timeout,
            millis(60000)
        );
        assert_eq!(top(r#", "max_age_ms": 0"#).unwrap().max_age, millis(0));
        assert_eq!(
            top(r#", "max_age_ms": 60000"#).unwrap().max_age,
            millis(60000)
        );
        let interval = |fields| top(fields).unwrap().refresh_interval;
        assert_eq!(interval(r#", "refresh_interval_ms": 50"#), Some(millis(50)));
        assert_eq!(
            interval(r#", "refresh_interval_ms": 250"#),
            Some(millis(250))
        );
        assert!(
            !top(r#", "fail_when_draining": false"#)
                .unwrap()
                .fail_when_draining
        );
        assert_eq!(
            endpoint(r#", "require": "any""#).unwrap().require,
            Require::Any
        );
        assert_eq!(
            endpoint(r#", "require": "all""#).unwrap().require,
            Require::All
        );
        assert!(endpoint(r#", "details": true"#).unwrap().details);
        let healthy = |fields| cluster(fields).unwrap().min_healthy;
        assert_eq!(healthy(r#", "min_healthy": 7"#), MinHealthy::Hosts(7));
        assert_eq!(healthy(r#", "min_healthy": "1%""#), MinHealthy::Percent(1));
        assert_eq!(
            healthy(r#", "min_healthy": "100%""#),
            MinHealthy::Percent(100)
        );
        let degraded = |fields| cluster(fields).unwrap().degraded;
        assert_eq!(
            degraded(r#", "degraded": "unhealthy""#),
            Degraded::Unhealthy
        );
        assert_eq!(degraded(r#", "degraded": "healthy""#), Degraded::Healthy);
        let many: Vec<_> = (0..32).map(|index| format!("/{index}")).collect();
        assert_eq!(
            Config::parse(paths(&many).as_bytes())
                .unwrap()
                .endpoints
                .len(),
            32
        );
        let many: Vec<_> = (0..64).map(|index| format!("\"c{index}\"")).collect();
        assert_eq!(
            Config::parse(clusters(&many).as_bytes())
                .unwrap()
                .cluster_names()
                .len(),
            64
        );
    }

    #[test]
    fn numbers_out_of_bounds() {
        let timeout =
            "admin_timeout_ms: invalid value: integer `0`, expected an integer from 1 to 60000";
        refused(top(r#", "admin_timeout_ms": 0"#), timeout);
        refused(
            top(r#", "admin_timeout_ms": 60001"#),
            "admin_timeout_ms: invalid value: integer `60001`",
        );
        refused(
            top(r#", "admin_timeout_ms": -1"#),
            "admin_timeout_ms: invalid type: integer `-1`, expected an integer from 1 to 60000",
        );
        refused(
            top(r#", "admin_timeout_ms": 1.5"#),
            "admin_timeout_ms: invalid type: floating point",
        );
        refused(
            top(r#", "max_age_ms": 60001"#),
            "max_age_ms: invalid value: integer `60001`, expected an integer from 0 to 60000",
        );
        refused(
            top(r#", "max_age_ms": null"#),
            "max_age_ms: invalid type: null",
        );
        refused(
            top(r#", "refresh_interval_ms": 49"#),
            "refresh_interval_ms: invalid value: integer `49`, expected an integer from 50 to 60000",
        );
        refused(
            top(r#", "refresh_interval_ms": null"#),
            "refresh_interval_ms: invalid type: null",
        );
        refused(
            top(r#", "refresh_interval_ms": 251"#),
            "refresh_interval_ms: must be at most max_age_ms (250), got 251",
        );
        refused(
            top(r#", "max_age_ms": 0, "refresh_interval_ms": 50"#),
            "refresh_interval_ms: must be at most max_age_ms (0), got 50",
        );
        for bad in [
            "0", "-1", "1.5", "\"0%\"", "\"101%\"", "\"50\"", "\"%\"", "\"+5%\"", "\"1.5%\"",
            "\" 5%\"", "null", "true", "[1]",
        ] {
            refused(
                cluster(&format!(r#", "min_healthy": {bad}"#)),
                "endpoints[0].clusters[0].min_healthy: invalid ",
            );
        }
    }

    #[test]
    fn wrong_types_and_unknown_words() {
        refused(Config::parse(b"[]"), "configuration: invalid");
        refused(Config::parse(b"3"), "configuration: invalid type");
        refused(Config::parse(b"\xff"), "configuration: ");
        refused(
            Config::parse(format!("{SMALLEST} x").as_bytes()),
            "configuration: trailing characters",
        );
        refused(
            top(r#", "fail_when_draining": 1"#),
            "fail_when_draining: invalid type: integer `1`, expected a boolean",
        );
        refused(
            endpoint(r#", "details": "yes""#),
            "endpoints[0].details: invalid type: string \"yes\", expected a boolean",
        );
        refused(
            endpoint(r#", "require": "most""#),
            "endpoints[0].require: unknown variant `most`, expected `all` or `any`",
        );
        refused(
            cluster(r#", "degraded": "maybe""#),
            "endpoints[0].clusters[0].degraded: unknown variant `maybe`",
        );
        refused(
            Config::parse(clusters(&["3".to_owned()]).as_bytes()),
            "endpoints[0].clusters[0]: invalid type: integer `3`, expected a cluster's name",
        );
        refused(
            Config::parse(br#"{"admin_cluster": 3, "endpoints": []}"#),
            "admin_cluster: invalid type",
        );
    }

    #[test]
    fn unknown_missing_and_repeated_fields() {
        refused(
            top(r#", "max_age": 1"#),
            "max_age: unknown field `max_age`, expected one of `admin_cluster`",
        );
        refused(
            endpoint(r#", "cluster": "c""#),
            "endpoints[0].cluster: unknown field",
        );
        refused(
            cluster(r#", "percent": 5"#),
            "endpoints[0].clusters[0].percent: unknown field",
        );
        refused(
            top(r#", "max_age_ms": 1, "max_age_ms": 2"#),
            "configuration: duplicate field `max_age_ms`",
        );
        // Found by the fuzzer: still one line of the log.
        refused(
            top(r#", "max\nage": 1"#),
            r"max\nage: unknown field `max\nage`, expected",
        );
        refused(
            Config::parse(br#"{"endpoints": []}"#),
            "configuration: missing field `admin_cluster`",
        );
        refused(
            Config::parse(br#"{"admin_cluster": "a"}"#),
            "configuration: missing field `endpoints`",
        );
        refused(
            Config::parse(br#"{"admin_cluster": "a", "endpoints": [{"path": "/"}]}"#),
            "endpoints[0]: missing field `clusters`",
        );
        refused(
            Config::parse(br#"{"admin_cluster": "a", "endpoints": [{"clusters": ["c"]}]}"#),
            "endpoints[0]: missing field `path`",
        );
        refused(
            Config::parse(clusters(&["{}".to_owned()]).as_bytes()),
            "endpoints[0].clusters[0]: missing field `name`",
        );
    }

    #[test]
    fn empty_things() {
        for nothing in ["", " \n\t"] {
            refused(
                Config::parse(nothing.as_bytes()),
                "configuration: is empty; give a google.protobuf.StringValue",
            );
        }
        refused(
            Config::parse(br#"{"admin_cluster": "", "endpoints": []}"#),
            "admin_cluster: must name the cluster",
        );
        refused(
            Config::parse(br#"{"admin_cluster": "a", "endpoints": []}"#),
            "endpoints: must have 1 to 32 entries, got 0",
        );
        refused(
            Config::parse(clusters(&[]).as_bytes()),
            "endpoints[0].clusters: must have 1 to 64 entries, got 0",
        );
        refused(
            Config::parse(clusters(&["\"\"".to_owned()]).as_bytes()),
            "endpoints[0].clusters[0]: must name a cluster",
        );
    }

    #[test]
    fn too_many_and_twice() {
        let many: Vec<_> = (0..33).map(|index| format!("/{index}")).collect();
        refused(
            Config::parse(paths(&many).as_bytes()),
            "endpoints: must have 1 to 32 entries, got 33",
        );
        let many: Vec<_> = (0..65).map(|index| format!("\"c{index}\"")).collect();
        refused(
            Config::parse(clusters(&many).as_bytes()),
            "endpoints[0].clusters: must have 1 to 64 entries, got 65",
        );
        let twice = ["/a", "/b", "/a"].map(str::to_owned);
        refused(
            Config::parse(paths(&twice).as_bytes()),
            "endpoints[2].path: must be unique, got \"/a\" twice",
        );
        let twice = [r#""c""#, r#"{"name": "c"}"#].map(str::to_owned);
        refused(
            Config::parse(clusters(&twice).as_bytes()),
            "endpoints[0].clusters[1]: must be unique, got \"c\" twice",
        );
    }

    #[test]
    fn paths_that_no_request_could_have() {
        let path = |path: &str| Config::parse(paths(&[path.to_owned()]).as_bytes());
        refused(
            path("healthz"),
            "endpoints[0].path: must start with '/', got \"healthz\"",
        );
        refused(path(""), "endpoints[0].path: must start with '/', got \"\"");
        refused(
            path("/healthz?x"),
            "endpoints[0].path: must not contain '?', got \"/healthz?x\"",
        );
        refused(
            path("/healthz#x"),
            "endpoints[0].path: must not contain '#'",
        );
        refused(path("/health z"), "endpoints[0].path: must not contain ' '");
        refused(
            path("/healthz\n"),
            "endpoints[0].path: must not contain '\\n'",
        );
        assert_eq!(path("/").unwrap().endpoints[0].path, "/");
    }

    #[test]
    fn cluster_names_are_sorted_and_unique() {
        let config = br#"{"admin_cluster": "a", "endpoints": [
            {"path": "/b", "clusters": ["y", "x"]}, {"path": "/a", "clusters": ["x", "w"]}]}"#;
        assert_eq!(
            Config::parse(config).unwrap().cluster_names(),
            ["w", "x", "y"]
        );
    }

    /// `envoy/config.schema.json` is what the raw types say; with `UPDATE=1` the test writes it.
    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/config.schema.json");
        let schema = schemars::schema_for!(RawConfig);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(committed, text, "run: UPDATE=1 cargo test schema");
    }
}
