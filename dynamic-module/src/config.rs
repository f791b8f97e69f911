//! The module's configuration: the shared half, less what concerns the admin.
//!
//! ```json
//! {"endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}
//! ```
//!
//! Envoy hands over a StringValue as it is and a Struct as JSON.

use healthz_core::config::{ConfigError, Endpoint, Endpoints, FilterName, read, refuse};
use serde::{Deserialize, Deserializer};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tells this filter from others of the same Envoy.
    pub name: FilterName,
    /// The endpoints, each path once.
    pub endpoints: Vec<Endpoint>,
}

const EXAMPLE: &str = r#"{"endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]}"#;

const NO_ADMIN: &str = "is not for the dynamic module: it asks no admin, it sees its worker's own view of the clusters; leave it out";
const NO_SNAPSHOT: &str = "is not for the dynamic module: it has no snapshot that could be old, each probe sees the clusters as they are; leave it out";
const NO_DRAIN: &str = "is not for the dynamic module, which cannot tell a drain; leave it out and put Envoy's health_check filter with pass_through_mode: true before it on the routes that are to fail when draining";

/// What serde reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    name: FilterName,
    endpoints: Endpoints,
    #[serde(default, rename = "admin_cluster", deserialize_with = "no_admin")]
    _admin_cluster: (),
    #[serde(default, rename = "admin_timeout_ms", deserialize_with = "no_admin")]
    _admin_timeout: (),
    #[serde(default, rename = "max_age_ms", deserialize_with = "no_snapshot")]
    _max_age: (),
    #[serde(default, rename = "max_stale_ms", deserialize_with = "no_snapshot")]
    _max_stale: (),
    #[serde(
        default,
        rename = "refresh_interval_ms",
        deserialize_with = "no_snapshot"
    )]
    _refresh_interval: (),
    #[serde(default, rename = "fail_when_draining", deserialize_with = "no_drain")]
    _fail_when_draining: (),
}

impl Config {
    /// Reads and checks the JSON text of a configuration.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = read(text, EXAMPLE)?;
        if let Some(field) = raw.endpoints.drain_field() {
            return Err(ConfigError::new(field, NO_DRAIN));
        }
        Ok(Self {
            name: raw.name,
            endpoints: raw.endpoints.check(false)?,
        })
    }
}

fn no_admin<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    refuse(input, NO_ADMIN)
}

fn no_snapshot<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    refuse(input, NO_SNAPSHOT)
}

fn no_drain<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    refuse(input, NO_DRAIN)
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
