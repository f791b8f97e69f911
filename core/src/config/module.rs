//! The dynamic module's configuration: the shared half, less what concerns the admin, and gRPC.
//!
//! ```json
//! {"endpoints": [{"path": "/healthz", "clusters": ["my_service"]}], "grpc_health": {"services": {"": "/healthz"}}}
//! ```
//!
//! Envoy hands over a StringValue as it is and a Struct as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::fields::{Build, check_count, present, read};
use super::{ConfigError, Endpoint, Endpoints, FilterName};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Identifies this filter among those of the same Envoy.
    pub name: FilterName,
    /// The endpoints, each path once.
    pub endpoints: Vec<Endpoint>,
    /// gRPC services, each with the index of the endpoint that decides for it, at most 64; empty
    /// without `grpc_health`.
    pub services: BTreeMap<String, usize>,
}

const MAX_SERVICES: usize = 64;

/// The paths of the calls that `grpc_health` has the filter answer.
const GRPC_PATHS: [&str; 3] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
];

const EXAMPLE: &str = r#"{"endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}"#;

const NO_ADMIN: &str = "not supported by the module, which reads host counts itself; remove it";
const NO_SNAPSHOT: &str = "not supported by the module, which has no snapshot; remove it";
const NO_DRAIN: &str = "not supported by the module, which cannot see a drain; remove it and put Envoy's health_check filter before the module (envoy/module.yaml)";

/// What serde reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    name: FilterName,
    endpoints: Endpoints,
    #[serde(default, deserialize_with = "present")]
    grpc_health: Option<RawGrpcHealth>,
}

const BUILD: Build = Build {
    example: EXAMPLE,
    absent: &[
        ("admin_cluster", NO_ADMIN),
        ("admin_timeout_ms", NO_ADMIN),
        ("max_age_ms", NO_SNAPSHOT),
        ("max_stale_ms", NO_SNAPSHOT),
        ("refresh_interval_ms", NO_SNAPSHOT),
        ("fail_when_draining", NO_DRAIN),
    ],
};

impl Config {
    /// Reads and checks the JSON text of a configuration.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = read(text, &BUILD)?;
        if let Some(field) = raw.endpoints.drain_field() {
            return Err(ConfigError::new(field, NO_DRAIN));
        }
        let endpoints = raw.endpoints.check(false)?;
        Ok(Self {
            name: raw.name,
            services: match raw.grpc_health {
                Some(grpc_health) => grpc_health.check(&endpoints)?,
                None => BTreeMap::new(),
            },
            endpoints,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrpcHealth {
    services: RawServices,
}

/// Names and paths, in the order of the text.
struct RawServices(Vec<(String, String)>);

impl RawGrpcHealth {
    fn check(self, endpoints: &[Endpoint]) -> Result<BTreeMap<String, usize>, ConfigError> {
        let RawServices(raw) = self.services;
        check_count("grpc_health.services", raw.len(), 1..=MAX_SERVICES)?;
        let taken = |endpoint: &&Endpoint| GRPC_PATHS.contains(&endpoint.path.as_str());
        if let Some(endpoint) = endpoints.iter().find(taken) {
            let fault = format!(
                "conflicts with endpoint {:?}: grpc_health already answers that path",
                endpoint.path
            );
            return Err(ConfigError::new("grpc_health", fault));
        }
        let mut services = BTreeMap::new();
        for (name, path) in raw {
            let field = format!("grpc_health.services[{name:?}]");
            let Some(index) = endpoints.iter().position(|endpoint| endpoint.path == path) else {
                let fault = format!("must be the path of one of the endpoints, got {path:?}");
                return Err(ConfigError::new(field, fault));
            };
            if services.insert(name, index).is_some() {
                return Err(ConfigError::new(field, "must be unique, got it twice"));
            }
        }
        Ok(services)
    }
}

impl<'de> Deserialize<'de> for RawServices {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ServicesVisitor;
        impl<'de> Visitor<'de> for ServicesVisitor {
            type Value = RawServices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of gRPC service names and paths of endpoints")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut services = Vec::new();
                while let Some(service) = map.next_entry()? {
                    services.push(service);
                }
                Ok(RawServices(services))
            }
        }
        input.deserialize_map(ServicesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, line: &str) {
        let error = Config::parse(text.as_bytes()).expect_err(line).to_string();
        assert!(
            error.starts_with(line),
            "{error:?} does not begin with {line:?}"
        );
    }

    #[test]
    fn the_smallest_one() {
        let config = Config::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(config.name.as_str(), "default");
        assert_eq!(config.endpoints.len(), 1);
        assert_eq!(config.endpoints[0].clusters[0].name, "my_service");
    }

    #[test]
    fn what_concerns_the_admin_is_refused_with_the_reason() {
        for (field, value, reason) in [
            ("admin_cluster", r#""a""#, NO_ADMIN),
            ("admin_timeout_ms", "1000", NO_ADMIN),
            ("max_age_ms", "250", NO_SNAPSHOT),
            ("max_stale_ms", "5000", NO_SNAPSHOT),
            ("refresh_interval_ms", "null", NO_SNAPSHOT),
            ("fail_when_draining", "false", NO_DRAIN),
        ] {
            let text = format!(
                r#"{{"{field}": {value}, "endpoints": [{{"path": "/", "clusters": []}}]}}"#
            );
            refused(&text, &format!("{field}: {reason}"));
        }
        let endpoint = r#"{"path": "/a", "clusters": []}, {"path": "/b", "clusters": [], "fail_when_draining": true}"#;
        let field = format!("endpoints[1].fail_when_draining: {NO_DRAIN}");
        refused(&format!(r#"{{"endpoints": [{endpoint}]}}"#), &field);
    }

    fn with_services(services: &str) -> String {
        let endpoints = r#"[{"path": "/a", "clusters": []}, {"path": "/b", "clusters": []}]"#;
        format!(r#"{{"endpoints": {endpoints}, "grpc_health": {{"services": {services}}}}}"#)
    }

    #[test]
    fn services_lead_to_endpoints() {
        let text = with_services(r#"{"": "/b", "yages.Echo": "/a", "é": "/b"}"#);
        let config = Config::parse(text.as_bytes()).unwrap();
        let expected = [("", 1), ("yages.Echo", 0), ("é", 1)];
        let expected = expected.map(|(name, index)| (name.to_owned(), index));
        assert_eq!(config.services, expected.into());

        let many = |count| {
            let services: Vec<_> = (0..count).map(|n| format!(r#""{n}": "/a""#)).collect();
            with_services(&format!("{{{}}}", services.join(",")))
        };
        let config = Config::parse(many(64).as_bytes()).unwrap();
        assert_eq!(config.services.len(), 64);
        refused(
            &many(65),
            "grpc_health.services: must have 1 to 64 entries, got 65",
        );
    }

    #[test]
    fn what_is_wrong_with_services() {
        for (services, line) in [
            (
                "{}",
                "grpc_health.services: must have 1 to 64 entries, got 0",
            ),
            (
                r#"{"x": "/c"}"#,
                r#"grpc_health.services["x"]: must be the path of one of the endpoints, got "/c""#,
            ),
            (
                r#"{"": ""}"#,
                r#"grpc_health.services[""]: must be the path of one of the endpoints, got """#,
            ),
            (
                r#"{"x": "/a", "y": "/a", "x": "/b"}"#,
                r#"grpc_health.services["x"]: must be unique, got it twice"#,
            ),
            (
                r#"{"x": 1}"#,
                "grpc_health.services.x: invalid type: integer `1`, expected a string",
            ),
            (
                r#"["/a"]"#,
                "grpc_health.services: invalid type: sequence, expected an object of gRPC",
            ),
            ("null", "grpc_health.services: invalid type: null"),
        ] {
            refused(&with_services(services), line);
        }
        let endpoint = r#"{"path": "/grpc.health.v1.Health/Check", "clusters": []}"#;
        for (text, line) in [
            (
                r#"{"endpoints": [], "grpc_health": null}"#.to_owned(),
                "grpc_health: invalid type: null",
            ),
            (
                r#"{"endpoints": [], "grpc_health": {"service": {}}}"#.to_owned(),
                "grpc_health.service: unknown field `service`",
            ),
            (
                r#"{"endpoints": [], "grpc_health": {}}"#.to_owned(),
                "grpc_health: missing field `services`",
            ),
            (
                format!(
                    r#"{{"endpoints": [{endpoint}], "grpc_health": {{"services": {{"": "/grpc.health.v1.Health/Check"}}}}}}"#
                ),
                r#"grpc_health: conflicts with endpoint "/grpc.health.v1.Health/Check""#,
            ),
        ] {
            refused(&text, line);
        }
        // Without it the path is like any other.
        let alone = format!(r#"{{"endpoints": [{endpoint}]}}"#);
        assert!(Config::parse(alone.as_bytes()).is_ok());
    }

    /// What is offered in an unknown field's place is not refused in turn.
    #[test]
    fn what_an_unknown_field_could_have_been() {
        for (text, line) in [
            (
                r#"{"x": 1}"#,
                "x: unknown field `x`, expected one of `name`, `endpoints`, `grpc_health`",
            ),
            (
                r#"{"endpoints": [{"x": 1}]}"#,
                "endpoints[0].x: unknown field `x`, expected one of `path`, `clusters`, `require`, `details`",
            ),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), line);
        }
    }

    #[test]
    fn what_else_is_wrong_is_refused_as_in_the_wasm_build() {
        refused("", "configuration: is empty; give {");
        refused("{}", "configuration: missing field `endpoints`");
        refused(r#"{"endpoints": [], "x": 1}"#, "x: unknown field `x`");
        refused(
            r#"{"endpoints": []}"#,
            "endpoints: must have 1 to 32 entries, got 0",
        );
        refused(
            r#"{"endpoints": [{"path": "x", "clusters": []}]}"#,
            "endpoints[0].path: must start with '/', got \"x\"",
        );
    }
}
