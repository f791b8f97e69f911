//! The alerts of `docs/operations.md`, by what Prometheus gets from a real Envoy that has that page's
//! `stats_tags`.

use e2e::config::{bootstrap, cluster, healthz, listener, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{TcpHost, eventually, free_port, root};
use serde_json::{Value, json};

fn page() -> String {
    std::fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

/// The page's lines like `- {tag_name: filter, regex: "..."}`.
fn stats_tags() -> Vec<Value> {
    let page = page();
    let lines = page.lines().filter_map(|line| {
        let (name, regex) = line
            .trim()
            .strip_prefix("- {tag_name: ")?
            .strip_suffix('}')?
            .split_once(", regex: ")?;
        // As this is quoted, YAML and JSON agree on it.
        let regex: String = serde_json::from_str(regex).unwrap();
        Some(json!({"tag_name": name, "regex": regex}))
    });
    lines.collect()
}

/// The labels for which this alert's expression, which must be like `metric == 0`, holds.
fn firing(alert: &str, scrape: &str) -> Vec<String> {
    let page = page();
    let (_, rule) = page.split_once(&format!("- alert: {alert}\n")).unwrap();
    let expression = rule.trim_start().strip_prefix("expr: ").unwrap();
    let expression = expression.lines().next().unwrap();
    let metric = expression.strip_suffix(" == 0").unwrap();
    let series = scrape.lines().filter_map(|line| {
        let labels = line.strip_prefix(metric)?.strip_prefix('{')?;
        labels.strip_suffix("} 0").map(str::to_owned)
    });
    series.collect()
}

#[tokio::test]
async fn a_dead_backend_raises_one_and_a_filter_that_nobody_asks_none() {
    let (_live, live) = TcpHost::on_free_port().await;
    let (dead, port, unasked, admin) = (free_port(), free_port(), free_port(), free_port());
    let filter =
        |endpoints| healthz(&json!({"admin_cluster": "local_admin", "endpoints": endpoints}));
    let asked = filter(json!([
        {"path": "/healthz", "clusters": ["dead"]},
        {"path": "/healthz/live", "clusters": ["live"]},
    ]));
    let nobody_asks = filter(json!([{"path": "/unasked", "clusters": ["dead"]}]));
    let listeners = vec![listener(port, asked), listener(unasked, nobody_asks)];
    let with_host = |name, port| with_tcp_check(cluster(name, &[("127.0.0.1", port)]));
    let clusters = vec![with_host("dead", dead), with_host("live", live)];
    let mut config = bootstrap(admin, listeners, clusters);
    config["stats_config"] = json!({"stats_tags": stats_tags()});
    let envoy = Envoy::start(&config, admin).await;
    let prober = Prober::http(port);
    for (path, status) in [("/healthz", 503), ("/healthz/live", 200)] {
        eventually(path, async || {
            (prober.get(path).await.status == status).then_some(())
        })
        .await;
    }

    let both = [
        r#"envoy_healthz_healthy{filter="default",path="/healthz"} 0"#,
        r#"envoy_healthz_healthy{filter="default",path="/healthz/live"} 1"#,
    ];
    let scrape = eventually("both verdicts are in the metrics", async || {
        let scrape = envoy.admin.get("/stats/prometheus").await.body;
        let lines: Vec<_> = scrape.lines().collect();
        both.iter()
            .all(|line| lines.contains(line))
            .then_some(scrape)
    })
    .await;
    assert_eq!(
        firing("BackendUnhealthy", &scrape),
        [r#"filter="default",path="/healthz""#]
    );
    assert_eq!(firing("AdminUnavailable", &scrape), [""; 0]);
}
