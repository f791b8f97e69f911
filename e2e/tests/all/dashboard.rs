//! `envoy/monitoring/dashboard.json`: each metric and label of its queries is one that a real Envoy shows.

use std::collections::BTreeSet;

use e2e::backend::Backend;
use e2e::prober::Prober;
use e2e::shipped::Pod;
use e2e::{Build, read, until};
use regex::Regex;

const OF_PROMETHEUS: [&str; 2] = ["instance", "namespace"];

/// Each metric of its queries, with the labels beside it.
fn queried(dashboard: &str) -> BTreeSet<(String, String)> {
    let metric = Regex::new(r"envoy_\w+").unwrap();
    let label = Regex::new(r"by \(([\w, ]+)\)|(\w+)=~|\{\{(\w+)\}\}|, (\w+)\)").unwrap();
    let document: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut found = BTreeSet::new();
    for panel in document["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let text = format!("{} {}", target["expr"], target["legendFormat"]);
            for name in metric.find_iter(&text) {
                found.insert((name.as_str().to_owned(), String::new()));
                for labels in label.captures_iter(&text) {
                    let labels = labels.iter().skip(1).flatten().next().unwrap().as_str();
                    // Prometheus itself sets two of them.
                    let labels = labels.split(", ");
                    let ours = labels.filter(|label| !OF_PROMETHEUS.contains(label));
                    found.extend(ours.map(|label| (name.as_str().to_owned(), label.to_owned())));
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn every_metric_and_label_is_there() {
    // Through the listener that Prometheus scrapes, and so its filter.
    let pod = Pod::start(Build::Wasm).await;
    let _backend = Backend::start(pod.backend).await;
    Prober::https2(pod.port).wait_for(200).await;
    let scraped = Prober::http(pod.metrics);
    let queried = queried(&read("envoy/monitoring/dashboard.json"));
    assert!(queried.len() > 12, "{queried:?}");
    for (metric, label) in queried {
        let there = |scrape: &str| {
            scrape.lines().any(|line| {
                let rest = line.strip_prefix(&metric).unwrap_or("");
                rest.starts_with(['{', ' '])
                    && (label.is_empty() || rest.contains(&format!("{label}=\"")))
            })
        };
        until(&format!("{metric} with {label:?}"), async || {
            there(&scraped.get("/stats/prometheus").await.body)
        })
        .await;
    }
}
