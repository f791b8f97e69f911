//! A saved `/config_dump` gives the same findings as the file that Envoy was started with.

use e2e::{free_port, read};

use super::{Case, findings, findings_of_dump};

/// Configurations with more than one finding, and the shipped ones without any.
#[tokio::test]
async fn a_dump_gives_the_same_findings_as_the_file() {
    let local = ("address: app", "address: 127.0.0.1");
    for (file, change) in [
        ("doctor/tests/lua.yaml", local),
        ("envoy/envoy.yaml", local),
        ("envoy/module.yaml", local),
        ("envoy/recipes.yaml", ("port_value: 8081", "port_value: 0")),
        (
            "envoy/several-endpoints.yaml",
            ("port_value: 8082", "port_value: 0"),
        ),
    ] {
        let case = Case::of_text(&read(file), free_port(), &[change]);
        let envoy = case.start().await;
        let of_dump = findings_of_dump(&envoy).await;
        assert_eq!(of_dump, findings(&case.text), "{file}");
    }
}
