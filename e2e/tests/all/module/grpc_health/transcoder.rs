//! Clients that send JSON: Envoy's `grpc_json_transcoder` before the module, in its own Envoy and in another
//! one before that.

use e2e::config::{Config, cluster, listener, listener_with_routes, with_http2};
use e2e::envoy::Envoy;
use e2e::grpc_health::{CHECK, LIST, descriptor_set};
use e2e::prober::{Answer, Prober};
use e2e::{free_port, module};
use reqwest::Method;
use serde_json::{Value, json};

/// The services `""` and `yages.Echo`, whose names a transcoder must find in each entry of `List`.
#[tokio::test]
async fn it_reads_what_the_module_answers() {
    module::folder();
    let [own, plain] = [(); 2].map(|()| free_port());
    let ours = module::filter(&json!({
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
        "grpc_health": {"services": {"": "/healthz", "yages.Echo": "/healthz"}},
    }));
    let with_network_filter =
        |port, filters: &[Value]| module::with_network_filter(listener(port, filters.to_vec()));
    let config = Config::new()
        .listener(with_network_filter(own, &[transcoder(), ours.clone()]))
        .listener(with_network_filter(plain, &[ours]))
        .cluster(cluster("c", &[1]));
    let mut sidecar = config.start().await;
    let mut front = front(plain).await;
    let serving = json!({"status": "SERVING"});
    let all = json!({"statuses": {"": serving, "yages.Echo": serving}});
    for port in [own, front.port] {
        sidecar.wait_for("/healthz", 200, "").await;
        assert_eq!(post(port, CHECK).await, serving, "{port}");
        assert_eq!(post(port, LIST).await, all, "{port}");
    }
    for envoy in [&mut sidecar, &mut front] {
        let exit = envoy.stop();
        assert!(exit.success(), "{exit}");
    }
}

fn transcoder() -> Value {
    json!({
        "name": "envoy.filters.http.grpc_json_transcoder",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
            "proto_descriptor_bin": descriptor_set(),
            "services": ["grpc.health.v1.Health"],
            "auto_mapping": true,
        },
    })
}

/// An Envoy that transcodes what it sends on to this port.
async fn front(sidecar: u16) -> Envoy {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "sidecar"}});
    let config = Config::new()
        .listener(listener_with_routes(
            free_port(),
            [transcoder()],
            vec![route],
        ))
        .cluster(with_http2(cluster("sidecar", &[sidecar])));
    config.start().await
}

async fn post(port: u16, path: &str) -> Value {
    let request = Prober::http(port).request(Method::POST, path);
    let request = request.header("content-type", "application/json");
    let answer = Answer::to(request.body("{}")).await.expect("Envoy lives");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}
