//! The wasm build's configuration: JSON text to a checked [`Config`], or a [`ConfigError`].
//!
//! Envoy hands the filter the text inside a `google.protobuf.StringValue`, for example
//!
//! ```json
//! {"admin_cluster": "local_admin", "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}
//! ```
//!
//! What both builds configure, the endpoints, is in [`super`].

use std::time::Duration;

use serde::Deserialize;

use super::fields::{Build, check_name, millis, present, read};
use super::{ConfigError, Endpoint, Endpoints, FilterName};

/// A configuration whose every bound has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Identifies this filter among those of the same Envoy, in logs and metrics.
    pub name: FilterName,
    /// The Envoy cluster that reaches this Envoy's admin. Not empty.
    pub admin_cluster: String,
    /// How long one call to the admin may take: 1 ms to 60 s.
    pub admin_timeout: Duration,
    /// How old the last good snapshot may answer while the admin is silent: 0 (never) to 10 min.
    pub max_stale: Duration,
    /// A snapshot younger than this answers a probe at once: 0 (never) to 60 s.
    pub max_age: Duration,
    /// How often the snapshot is renewed in the background: 50 ms to `max_age`, or not at all.
    pub refresh_interval: Option<Duration>,
    /// The paths that are answered, 1 to 32, each path once.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    name: FilterName,
    admin_cluster: String,
    #[serde(default, deserialize_with = "millis::<1, 60000, _>")]
    admin_timeout_ms: Option<Duration>,
    #[serde(default, deserialize_with = "millis::<0, 600_000, _>")]
    max_stale_ms: Option<Duration>,
    #[serde(default, deserialize_with = "millis::<0, 60000, _>")]
    max_age_ms: Option<Duration>,
    #[serde(default, deserialize_with = "millis::<50, 60000, _>")]
    refresh_interval_ms: Option<Duration>,
    #[serde(default, deserialize_with = "present")]
    fail_when_draining: Option<bool>,
    endpoints: Endpoints,
}

const BUILD: Build = Build {
    example: "a google.protobuf.StringValue of JSON with admin_cluster and endpoints (a Struct reaches a wasm filter as binary protobuf)",
    absent: &[("grpc_health", "needs the native module; remove it")],
};

impl Config {
    /// Reads and checks the JSON text that Envoy passes.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = read(text, &BUILD)?;
        let cluster = "the cluster that reaches Envoy's admin";
        check_name("admin_cluster", cluster, &raw.admin_cluster)?;
        let max_age = raw.max_age_ms.unwrap_or(Duration::from_millis(250));
        if let Some(interval) = raw.refresh_interval_ms
            && interval > max_age
        {
            let (most, got) = (max_age.as_millis(), interval.as_millis());
            let fault = format!("must be at most max_age_ms ({most}), got {got}");
            return Err(ConfigError::new("refresh_interval_ms", fault));
        }
        Ok(Self {
            name: raw.name,
            admin_cluster: raw.admin_cluster,
            admin_timeout: raw.admin_timeout_ms.unwrap_or(Duration::from_millis(1000)),
            max_stale: raw.max_stale_ms.unwrap_or(Duration::from_millis(5000)),
            max_age,
            refresh_interval: raw.refresh_interval_ms,
            endpoints: raw
                .endpoints
                .check(raw.fail_when_draining.unwrap_or(true))?,
        })
    }

    /// Every cluster that some endpoint asks for: sorted, each name once.
    pub fn cluster_names(&self) -> Vec<String> {
        let rules = self
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.clusters);
        let mut names: Vec<_> = rules.map(|rule| rule.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether some endpoint needs what the admin knows.
    pub fn asks_the_admin(&self) -> bool {
        !self.endpoints.iter().all(Endpoint::needs_nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::config::{ClusterRule, Degraded, MinHealthy, Require};

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
                name: FilterName::default(),
                admin_cluster: "local_admin".to_owned(),
                admin_timeout: Duration::from_millis(1000),
                max_stale: Duration::from_millis(5000),
                max_age: Duration::from_millis(250),
                refresh_interval: None,
                endpoints: vec![Endpoint {
                    path: "/healthz".to_owned(),
                    clusters: vec![ClusterRule {
                        name: "my_service".to_owned(),
                        min_healthy: MinHealthy::Hosts(1),
                        degraded: Degraded::Healthy,
                    }],
                    require: Require::All,
                    fail_when_draining: true,
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
        for (name, max_stale) in [("a", 0), ("Az_9-", 600_000)] {
            let fields = format!(r#", "name": "{name}", "max_stale_ms": {max_stale}"#);
            let config = top(&fields).unwrap();
            assert_eq!(config.name.as_str(), name);
            assert_eq!(config.max_stale, millis(max_stale));
        }
        for (top, own, expected) in [
            ("", "", true),
            (r#", "fail_when_draining": false"#, "", false),
            ("", r#", "fail_when_draining": false"#, false),
            (
                r#", "fail_when_draining": false"#,
                r#", "fail_when_draining": true"#,
                true,
            ),
        ] {
            let config = Config::parse(with(top, own, "").as_bytes()).unwrap();
            assert_eq!(
                config.endpoints[0].fail_when_draining, expected,
                "{top} {own}"
            );
        }
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
        let no_json = "configuration: is not JSON; give a google.protobuf.StringValue of JSON";
        // `name: x` and a Struct with `admin_cluster: a`, as Envoy writes them.
        let a_struct = b"\x0a\x14\x0a\x0dadmin_cluster\x12\x03\x1a\x01a";
        for text in [b"\xff".as_slice(), b"name: x", a_struct, b"\n{\x0a\x03"] {
            refused(Config::parse(text), no_json);
        }
        refused(
            Config::parse(b"{\"admin_cluster\": }"),
            "admin_cluster: expected value at line 1 column 19",
        );
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
            "max_age: unknown field `max_age`, expected one of `name`, `admin_cluster`",
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
        let liveness = Config::parse(clusters(&[]).as_bytes()).unwrap();
        assert_eq!(liveness.endpoints[0].clusters, []);
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
            "endpoints[0].clusters: must have 0 to 64 entries, got 65",
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
        refused(
            path("/é"),
            "endpoints[0].path: must not contain 'é', got \"/é\"",
        );
        assert_eq!(path("/").unwrap().endpoints[0].path, "/");
    }

    #[test]
    fn who_needs_the_admin() {
        for (endpoint, expected) in [
            (r#""clusters": ["c"], "fail_when_draining": false"#, true),
            (r#""clusters": []"#, true),
            (r#""clusters": [], "fail_when_draining": false"#, false),
        ] {
            let text =
                format!(r#"{{"admin_cluster": "a", "endpoints": [{{"path": "/", {endpoint}}}]}}"#);
            let config = Config::parse(text.as_bytes()).unwrap();
            assert_eq!(config.asks_the_admin(), expected, "{endpoint}");
        }
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

    #[test]
    fn names_that_could_forge_a_line() {
        let control = "must not contain a control character";
        for bad in [
            "\\n", "\\r", "\\t", "\\u0000", "\\u001b", "\\u007f", "\\u0085",
        ] {
            refused(
                Config::parse(clusters(&[format!("\"c{bad}x\"")]).as_bytes()),
                &format!("endpoints[0].clusters[0]: {control}"),
            );
            let admin = format!(r#"{{"admin_cluster": "a{bad}", "endpoints": []}}"#);
            refused(
                Config::parse(admin.as_bytes()),
                &format!("admin_cluster: {control}"),
            );
        }
        let long = format!("\"{}\"", "x".repeat(65));
        for bad in [
            "\"\"",
            "\"a b\"",
            "\"a.b\"",
            "\"a\\n\"",
            "\"\u{e4}\"",
            &long,
        ] {
            refused(
                top(&format!(r#", "name": {bad}"#)),
                "name: invalid value: string ",
            );
        }
    }

    /// Only fields that this build has are offered, and no place in a text that nobody sees.
    #[test]
    fn what_an_unknown_field_could_have_been() {
        let line = |fields| top(fields).unwrap_err().to_string();
        let offered = "`name`, `admin_cluster`, `admin_timeout_ms`, `max_stale_ms`, `max_age_ms`, `refresh_interval_ms`, `fail_when_draining`, `endpoints`";
        let expected = format!("x: unknown field `x`, expected one of {offered}");
        assert_eq!(line(r#", "x": 1"#), expected);
        assert_eq!(
            line(r#", "max_age_ms": true"#),
            "max_age_ms: invalid type: boolean `true`, expected an integer from 0 to 60000"
        );
    }

    #[test]
    fn what_only_the_dynamic_module_has() {
        for value in [r#"{"services": {"": "/healthz"}}"#, "{}", "null"] {
            refused(
                top(&format!(r#", "grpc_health": {value}"#)),
                "grpc_health: needs the native module",
            );
        }
    }

    /// `envoy/config.schema.json` takes what the filter takes, and refuses what it refuses, as far
    /// as a schema can say it.
    #[test]
    fn the_schema_agrees() {
        let schema = include_str!("../../../envoy/config.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let check = |text: String, good: bool| {
            let value = serde_json::from_str(&text).unwrap();
            assert_eq!(schema.is_valid(&value), good, "the schema, of {text}");
            assert_eq!(
                Config::parse(text.as_bytes()).is_ok(),
                good,
                "the filter, of {text}"
            );
        };
        check(SMALLEST.to_owned(), true);
        for (field, good, bad) in [
            (
                "name",
                &[r#""a""#, r#""A-z_0""#][..],
                &[r#""""#, r#""a.b""#, "1"][..],
            ),
            (
                "admin_timeout_ms",
                &["1", "60000"],
                &["0", "60001", "-1", "1.5", "null"],
            ),
            ("max_stale_ms", &["0", "600000"], &["600001", "\"1\""]),
            ("max_age_ms", &["0", "60000"], &["60001", "null"]),
            (
                "refresh_interval_ms",
                &["50", "250"],
                &["49", "60001", "null"],
            ),
            ("fail_when_draining", &["true", "false"], &["1", "null"]),
            ("grpc_health", &[], &["{}", "null"]),
            ("max_age", &[], &["1"]),
        ] {
            let text = |value: &&str| with(&format!(r#", "{field}": {value}"#), "", "");
            good.iter().for_each(|value| check(text(value), true));
            bad.iter().for_each(|value| check(text(value), false));
        }
        for (field, good, bad) in [
            (
                "require",
                &[r#""all""#, r#""any""#][..],
                &[r#""most""#, "null"][..],
            ),
            ("fail_when_draining", &["true"], &["1", "null"]),
            ("details", &["true"], &["1"]),
            ("cluster", &[], &[r#""c""#]),
        ] {
            let text = |value: &&str| with("", &format!(r#", "{field}": {value}"#), "");
            good.iter().for_each(|value| check(text(value), true));
            bad.iter().for_each(|value| check(text(value), false));
        }
        for (field, good, bad) in [
            (
                "min_healthy",
                &["1", "7", r#""1%""#, r#""100%""#, r#""05%""#][..],
                &["0", "-1", "1.5", r#""0%""#, r#""101%""#, r#""50""#, "null"][..],
            ),
            (
                "degraded",
                &[r#""healthy""#, r#""unhealthy""#],
                &[r#""maybe""#],
            ),
            ("percent", &[], &["5"]),
        ] {
            let text = |value: &&str| with("", "", &format!(r#", "{field}": {value}"#));
            good.iter().for_each(|value| check(text(value), true));
            bad.iter().for_each(|value| check(text(value), false));
        }
        for (path, good) in [
            ("/", true),
            ("/a.b/%20", true),
            ("", false),
            ("a", false),
            ("/a?b", false),
            ("/a#b", false),
            ("/a b", false),
            ("/a\\tb", false),
        ] {
            let text = r#"{"admin_cluster": "a", "endpoints": [{"path": "P", "clusters": []}]}"#;
            check(text.replace("P", path), good);
        }
        for (name, good) in [
            ("a::b", true),
            ("\u{e4}", true),
            ("", false),
            ("a\\nb", false),
        ] {
            check(clusters(&[format!("\"{name}\"")]), good);
            let admin = SMALLEST.replace("local_admin", name);
            check(admin, good);
        }
        for (count, good) in [(0, false), (1, true), (32, true), (33, false)] {
            let many: Vec<_> = (0..count).map(|index| format!("/{index}")).collect();
            check(paths(&many), good);
        }
        for (count, good) in [(0, true), (64, true), (65, false)] {
            let many: Vec<_> = (0..count).map(|index| format!("\"c{index}\"")).collect();
            check(clusters(&many), good);
        }
        for field in ["admin_cluster", "endpoints"] {
            let mut value: serde_json::Value = serde_json::from_str(SMALLEST).unwrap();
            value.as_object_mut().unwrap().remove(field);
            check(value.to_string(), false);
        }
    }
}
