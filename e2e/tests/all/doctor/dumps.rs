//! A saved `/config_dump` gives the same findings as the file that Envoy was started with.

use e2e::free_port;

use super::{Case, findings, findings_of_dump};

/// Configurations with more than one finding, and the shipped ones without any.
#[tokio::test]
async fn a_dump_gives_the_same_findings_as_the_file() {
    let lua = std::fs::read_to_string(e2e::root().join("doctor/tests/lua.yaml")).unwrap();
    let shipped =
        |name: &str| std::fs::read_to_string(e2e::root().join("envoy").join(name)).unwrap();
    let local = &[("address: app", "address: 127.0.0.1")][..];
    for (name, text, changes) in [
        ("lua.yaml", lua, local),
        ("envoy.yaml", shipped("envoy.yaml"), local),
        ("module.yaml", shipped("module.yaml"), local),
        (
            "recipes.yaml",
            shipped("recipes.yaml"),
            &[("port_value: 8081", "port_value: 0")],
        ),
        (
            "several-endpoints.yaml",
            shipped("several-endpoints.yaml"),
            &[("port_value: 8082", "port_value: 0")],
        ),
    ] {
        let case = Case::of_text(&text, free_port(), changes);
        let envoy = case.start().await;
        assert_eq!(
            findings_of_dump(&envoy).await,
            findings(&case.text),
            "{name}"
        );
    }
}
