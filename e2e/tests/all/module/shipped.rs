//! `envoy/module.yaml` as users copy it.

use e2e::backend::{Backend, ping, tls_channel};
use e2e::envoy::Shipped;
use e2e::grpc_health::{NOT_SERVING, SERVING, Told, check};
use e2e::prober::Prober;
use tonic::Code;

#[tokio::test]
async fn module_yaml() {
    let shipped = Shipped::module_on_free_ports();
    let (port, backend) = (shipped.port, shipped.backend_port);
    let running = Backend::start(backend).await;
    let envoy = shipped.start().await;
    let channel = tls_channel(port, &shipped.certificate);
    for prober in [Prober::https1(port), Prober::https2(port)] {
        let answer = prober.wait_for(200).await;
        assert_eq!(answer.body, "ok");
        assert_eq!(prober.get("/healthz?x=1").await.status, 200);
    }
    assert_eq!(ping(&channel).await.unwrap(), "pong");
    let told = async || check(&tls_channel(port, &shipped.certificate), "").await;
    assert_eq!(told().await, SERVING);

    envoy.post("/healthcheck/fail").await;
    assert_eq!(told().await, Told::Ended(Code::Unavailable));
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
    assert_eq!(told().await, NOT_SERVING);
    let _back = Backend::start(backend).await;
    Prober::https2(port).wait_for(200).await;
    let prometheus = envoy.admin.get("/stats/prometheus").await.body;
    let gauge = "envoy_healthz_healthy{filter=\"default\",path=\"/healthz\"} 1\n";
    assert!(prometheus.contains(gauge), "{prometheus}");
}
