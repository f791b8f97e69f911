//! The two builds of the filter, for tests that say the same of both.

use serde_json::{Value, json};

use crate::config::{healthz_text, listener};
use crate::module;

/// A build of the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// `envoy_healthz.wasm`
    Wasm,
    /// `libenvoy_healthz.so`
    Module,
}

/// Fields of a configuration that only the wasm build has.
const OF_THE_ADMIN: [&str; 5] = [
    "admin_cluster",
    "admin_timeout_ms",
    "max_age_ms",
    "max_stale_ms",
    "refresh_interval_ms",
];

impl Build {
    /// The filter, on for every route. Without endpoints the configuration gets `/healthz` for the
    /// cluster `c`; the wasm build queries `local_admin` unless it says otherwise, and the module gets
    /// none of the fields that concern the admin.
    pub fn filter(self, config: &Value) -> Value {
        let mut config = config.clone();
        let fields = config.as_object_mut().expect("fields");
        let endpoints = fields.entry("endpoints");
        endpoints.or_insert_with(|| json!([{"path": "/healthz", "clusters": ["c"]}]));
        match self {
            Self::Wasm => {
                let admin = fields.entry("admin_cluster");
                admin.or_insert_with(|| json!("local_admin"));
            }
            Self::Module => fields.retain(|field, _| !OF_THE_ADMIN.contains(&field.as_str())),
        }
        self.filter_text(&config.to_string())
    }

    /// The same with the configuration's text, as it is.
    pub fn filter_text(self, config: &str) -> Value {
        match self {
            Self::Wasm => healthz_text(config),
            Self::Module => {
                module::folder();
                module::filter_text(config)
            }
        }
    }

    /// A listener with the filter, and behind it an answer 418 `passed`. The module has what it needs
    /// to know any cluster, and to fail while Envoy drains, which the wasm build does by itself.
    pub fn listener(self, port: u16, config: &Value) -> Value {
        let filter = self.filter(config);
        match self {
            Self::Wasm => listener(port, [filter]),
            Self::Module => {
                let filters = module::drain_filters().into_iter().chain([filter]);
                module::with_network_filter(listener(port, filters))
            }
        }
    }

    /// What is said of hosts one by one: the module knows their counts alone.
    pub fn of_hosts(self, text: &str) -> &str {
        match self {
            Self::Wasm => text,
            Self::Module => "",
        }
    }

    /// What `/stats` calls one of our metrics with these labels, of which the path comes last.
    pub fn stat(self, metric: &str, labels: &[(&str, &str)]) -> String {
        let label = |(label, value): &(&str, &str)| format!(".{label}.{value}");
        match self {
            Self::Wasm => {
                let labels: String = labels.iter().map(label).collect();
                format!("wasmcustom.envoy_healthz.{metric}{labels}")
            }
            Self::Module => {
                let mut labels = labels.to_vec();
                labels.sort_by_key(|(label, _)| *label == "code");
                let labels: String = labels.iter().map(label).collect();
                format!("healthz.{metric}{labels}")
            }
        }
    }
}
