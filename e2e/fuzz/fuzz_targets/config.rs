//! Any bytes are a configuration within its bounds, or an error of one line.
#![no_main]

use envoy_healthz::admin::pages::clusters_path;
use healthz_core::config::wasm::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match Config::parse(text) {
        Ok(config) => {
            let names = config.cluster_names();
            for name in names.iter().chain([&config.admin_cluster]) {
                assert!(!name.is_empty() && !name.chars().any(char::is_control));
            }
            assert!((1..=32).contains(&config.endpoints.len()));
            assert!(
                config
                    .refresh_interval
                    .is_none_or(|interval| interval <= config.max_age)
            );
            for endpoint in &config.endpoints {
                assert!(endpoint.path.starts_with('/'));
                assert!(endpoint.clusters.len() <= 64);
            }
            let path = clusters_path(&names);
            assert!(path.len() < 60 * 1024 && path.is_ascii());
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
        }
    }
});
