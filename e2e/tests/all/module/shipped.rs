//! `envoy/module.yaml` as users copy it: what it does beside what `../shipped.rs` says of both builds.

use e2e::backend::{Backend, ping, tls_channel};
use e2e::envoy::{Envoy, Shipped};
use e2e::prober::Prober;
use e2e::{Build, free_port, module, root};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// README's configuration, with the module instead of the wasm build as `docs/module.md` says.
#[tokio::test]
async fn the_one_in_its_page() {
    module::folder();
    let block = |page: &str, beginning: &str| {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let (_, after) = text.split_once(&format!("```yaml\n{beginning}")).unwrap();
        format!("{beginning}{}", after.split_once("```").unwrap().0)
    };
    let config = block("README.md", "admin:");
    let filter = block("docs/module.md", "# envoy/module.yaml\n");
    let (before, after) = config
        .split_once("          - name: envoy-healthz\n")
        .unwrap();
    let (_, after) = after.split_once("          - name: envoy.filters").unwrap();
    let filter: String = filter
        .lines()
        .map(|line| format!("          {line}\n"))
        .collect();
    let mut config = format!("{before}{filter}          - name: envoy.filters{after}");
    let (port, admin, backend) = (free_port(), free_port(), free_port());
    for (from, to) in [
        (
            "direct_response: {status: 503}",
            "route: {cluster: my_service}",
        ),
        (
            "0.0.0.0, port_value: 8080",
            &format!("127.0.0.1, port_value: {port}"),
        ),
        ("port_value: 9901", &format!("port_value: {admin}")),
        ("port_value: 9000", &format!("port_value: {backend}")),
    ] {
        assert!(config.contains(from), "README has no {from:?}");
        config = config.replace(from, to);
    }
    let _envoy = Envoy::start(&config, &[]).await;
    let prober = Prober::http(port);
    prober.wait_for(503).await;
    let _backend = Backend::start(backend).await;
    assert_eq!(prober.wait_for(200).await.body, "ok");
}

#[tokio::test]
async fn drains_and_shows_metrics() {
    let shipped = Shipped::of(Build::Module);
    let backend = Backend::start(shipped.backend_port).await;
    let envoy = shipped.start().await;
    let channel = tls_channel(shipped.port, &shipped.certificate);
    let prober = Prober::https2(shipped.port);
    prober.wait_for(200).await;
    let check = async || {
        let mut client = HealthClient::new(channel.clone());
        let answer = client.check(HealthCheckRequest::default()).await;
        answer.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check().await.unwrap(), ServingStatus::Serving);
    envoy.post("/healthcheck/fail").await;
    assert_eq!(check().await.unwrap_err().code(), Code::Unavailable);
    let answer = prober.get("/healthz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, ""));
    for (name, _) in &answer.headers {
        assert!(!name.starts_with("x-"), "{name} is for nobody outside");
    }
    assert_eq!(ping(&channel).await.unwrap(), "pong");
    envoy.post("/healthcheck/ok").await;
    prober.wait_for(200).await;
    backend.stop();
    prober.wait_for(503).await;
    assert_eq!(check().await.unwrap(), ServingStatus::NotServing);
    let _back = Backend::start(shipped.backend_port).await;
    prober.wait_for(200).await;
    let prometheus = envoy.admin.get("/stats/prometheus").await.body;
    let gauge = "envoy_healthz_healthy{filter=\"default\",path=\"/healthz\"} 1\n";
    assert!(prometheus.contains(gauge), "{prometheus}");
}
