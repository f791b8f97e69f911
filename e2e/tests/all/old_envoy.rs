//! The native module in an Envoy that is too old for it: one line says so, and Envoy does not crash.

use e2e::Build;
use e2e::config::{Config, listener};
use e2e::envoy::{validate_in, version};
use serde_json::json;

#[test]
fn refuses_the_module() {
    if !version().starts_with("1.36.") && !version().starts_with("1.37.") {
        println!("SKIPPED: Envoy {} is not too old for the module", version());
        return;
    }
    let mut filter = Build::Module.filter(&json!({}));
    // It does not know this field either, and would refuse the configuration for it.
    filter["typed_config"]["dynamic_module_config"] = json!({"name": "envoy_healthz"});
    let config = Config::new().listener(listener(10_000, [filter]));
    let (exit, log) = validate_in(&config.to_string(), &[]);
    assert_eq!(exit.code(), Some(1), "{log}");
    let ours: Vec<_> = log
        .lines()
        .filter(|line| line.contains("envoy-healthz: "))
        .collect();
    assert_eq!(ours.len(), 1, "{log}");
    for part in ["this Envoy is too old (no http_get_", "use 1.38 or later"] {
        assert!(ours[0].contains(part), "{}", ours[0]);
    }
}
