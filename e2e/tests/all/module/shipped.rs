//! `envoy/module.yaml` as users copy it.

use e2e::backend::{Backend, ping, tls_channel};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{certificate, free_port, module, root};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn module_yaml() {
    module::folder();
    let (port, admin, backend) = (free_port(), free_port(), free_port());
    let config = std::fs::read_to_string(root().join("envoy/module.yaml")).unwrap();
    let tls = certificate().display().to_string();
    let mut config = config.replace("/etc/envoy/tls", &tls);
    for (from, to) in [
        (
            "{address: 0.0.0.0, port_value: 8080}",
            format!("{{address: 127.0.0.1, port_value: {port}}}"),
        ),
        (
            "{address: app, port_value: 9000}",
            format!("{{address: 127.0.0.1, port_value: {backend}}}"),
        ),
        ("port_value: 9901", format!("port_value: {admin}")),
    ] {
        assert!(config.contains(from), "module.yaml has no {from:?}");
        config = config.replace(from, &to);
    }
    let running = Backend::start(backend).await;
    let envoy = Envoy::start_text(&config, admin, &[]).await;
    let channel = tls_channel(port, &root().join("envoy/tls/tls.crt"));
    for prober in [Prober::https1(port), Prober::https2(port)] {
        let answer = prober.wait_for(200).await;
        assert_eq!(answer.body, "ok");
        assert_eq!(prober.get("/healthz?x=1").await.status, 200);
    }
    assert_eq!(ping(&channel).await.unwrap(), "pong");
    let check = async || {
        let channel = tls_channel(port, &root().join("envoy/tls/tls.crt"));
        let answer = HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await;
        answer.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check().await.unwrap(), ServingStatus::Serving);

    envoy.post("/healthcheck/fail").await;
    assert_eq!(check().await.unwrap_err().code(), Code::Unavailable);
    let answer = Prober::https2(port).get("/healthz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, ""));
    for (name, _) in &answer.headers {
        assert!(!name.starts_with("x-"), "{name} is for nobody outside");
    }
    assert_eq!(ping(&channel).await.unwrap(), "pong");
    envoy.post("/healthcheck/ok").await;
    assert_eq!(Prober::https1(port).get("/healthz").await.status, 200);

    running.stop();
    let answer = Prober::https2(port).wait_for(503).await;
    assert_eq!(answer.body, "unavailable");
    assert_eq!(check().await.unwrap(), ServingStatus::NotServing);
    let _back = Backend::start(backend).await;
    Prober::https2(port).wait_for(200).await;
    let prometheus = envoy.admin.get("/stats/prometheus").await.body;
    let gauge = "envoy_healthz_healthy{filter=\"default\",path=\"/healthz\"} 1\n";
    assert!(prometheus.contains(gauge), "{prometheus}");
}
