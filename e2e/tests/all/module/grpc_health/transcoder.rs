//! Clients that send JSON: Envoy's `grpc_json_transcoder` before the module, in its own Envoy and in another
//! one before that.

use e2e::config::{bootstrap, cluster, listener, listener_with_routes, with_grpc_check};
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
    let [admin, own, plain] = [(); 3].map(|()| free_port());
    let ours = module::filter(&json!({
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
        "grpc_health": {"services": {"": "/healthz", "yages.Echo": "/healthz"}},
    }));
    let listeners = [vec![transcoder(), ours.clone()], vec![ours]];
    let listeners = listeners.into_iter().zip([own, plain]);
    let listeners =
        listeners.map(|(filters, port)| module::with_network_filter(listener(port, filters)));
    let clusters = vec![cluster("c", &[1])];
    let config = bootstrap(admin, listeners.collect(), clusters);
    let mut sidecar = Envoy::start(&config.to_string(), &[]).await;
    let front_port = free_port();
    let mut front = front(front_port, plain).await;
    for port in [own, front_port] {
        Prober::http(own).wait_for(200).await;
        assert_eq!(
            post(port, CHECK).await,
            json!({"status": "SERVING"}),
            "{port}"
        );
        let expected = json!({"statuses": {
            "": {"status": "SERVING"}, "yages.Echo": {"status": "SERVING"},
        }});
        assert_eq!(post(port, LIST).await, expected, "{port}");
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
async fn front(port: u16, sidecar: u16) -> Envoy {
    let mut to_sidecar = with_grpc_check(cluster("sidecar", &[sidecar]));
    to_sidecar["health_checks"] = json!([]);
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "sidecar"}});
    let listener = listener_with_routes(port, vec![transcoder()], vec![route]);
    let admin = free_port();
    Envoy::start(
        &bootstrap(admin, vec![listener], vec![to_sidecar]).to_string(),
        &[],
    )
    .await
}

async fn post(port: u16, path: &str) -> Value {
    let request = Prober::http(port).request(Method::POST, path);
    let request = request
        .header("content-type", "application/json")
        .body("{}");
    let answer = Answer::to(request).await.expect("Envoy lives");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}
