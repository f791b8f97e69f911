// NOTE FROM THE LEAD to the vocab helper: vocab2 (/work/w-vocab2) is converting this file and all but module/*: read AAA-NOTE-FROM-LEAD.md, take this line out (git checkout this file).
//! `envoy/monitoring/dashboard.json`: each metric and label that it asks for is one that a real Envoy shows.

use std::collections::BTreeSet;

use e2e::backend::Backend;
use e2e::prober::Prober;
use e2e::{Build, eventually, root};
use regex::Regex;

use crate::gke::Pod;

const OF_PROMETHEUS: [&str; 2] = ["instance", "namespace"];

/// Each metric of these texts, with the labels that are asked for beside it.
fn asked_for(dashboard: &str) -> BTreeSet<(String, String)> {
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
                    for one in labels
                        .split(", ")
                        .filter(|one| !OF_PROMETHEUS.contains(one))
                    {
                        found.insert((name.as_str().to_owned(), one.to_owned()));
                    }
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn every_metric_and_label_is_there() {
    // Through the listener that Prometheus asks, and so its filter.
    let pod = Pod::start(Build::Wasm).await;
    let _backend = Backend::start(pod.backend).await;
    Prober::https2(pod.port).wait_for(200).await;
    let scraped = Prober::http(pod.metrics);
    let dashboard = root().join("envoy/monitoring/dashboard.json");
    let asked = asked_for(&std::fs::read_to_string(dashboard).unwrap());
    assert!(asked.len() > 12, "{asked:?}");
    for (metric, label) in asked {
        let there = |scrape: &str| {
            scrape.lines().any(|line| {
                let rest = line.strip_prefix(&metric).unwrap_or("");
                rest.starts_with(['{', ' '])
                    && (label.is_empty() || rest.contains(&format!("{label}=\"")))
            })
        };
        eventually(&format!("{metric} with {label:?}"), async || {
            let scrape = scraped.get("/stats/prometheus").await.body;
            there(&scrape).then_some(())
        })
        .await;
    }
}
