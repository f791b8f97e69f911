//! `envoy/module.yaml` as users copy it: what it does beside what `../shipped.rs` says of both builds.

use e2e::backend::{Backend, ping, tls_channel};
use e2e::prober::Prober;
use e2e::shipped::Shipped;
use e2e::{Build, between, module, read, replaced};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::shipped::{follows, readme_with};

/// README's configuration, with the module instead of the wasm build as `docs/module.md` says.
#[tokio::test]
async fn the_one_in_its_page() {
    module::folder();
    let page = read("docs/module.md");
    let filter = between(&page, "```yaml\n# envoy/module.yaml\n", "```");
    let config = readme_with(filter);
    let [from, to] = [
        "direct_response: {status: 503}",
        "route: {cluster: my_service}",
    ];
    follows(&replaced(&config, from, to), "ok").await;
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
