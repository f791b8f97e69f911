//! Every client sees what `/healthz` answers: while hosts stop and start, while Envoy drains, and of
//! thresholds.

use std::path::{Path, PathBuf};

use e2e::backend::tls_channel;
use e2e::config::{Config, cluster, with_grpc_check, with_https2};
use e2e::envoy::{Envoy, version};
use e2e::grpc_health::{
    NOT_SERVING, PythonCalls, SERVING, Seen, Watch, channel, channel_to_host, check,
};
use e2e::{certificate, until};
use serde_json::json;
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{APP, LIVE, SERVICES, Sidecar, Way};

/// All clients of a sidecar.
struct Clients {
    /// Of each port of the sidecar, with the certificate that it shows.
    ports: [(u16, Option<PathBuf>, PythonCalls); 2],
    /// Each with its place in [`SERVICES`].
    watches: Vec<(usize, Watch)>,
    balancer: Balancer,
}

impl Clients {
    async fn of(sidecar: &Sidecar) -> Self {
        let ca = certificate().join("tls.crt");
        let ports = [(sidecar.plain, None), (sidecar.tls, Some(ca))]
            .map(|(port, ca)| (port, ca.clone(), PythonCalls::start(port, ca.as_deref())));
        let mut watches = Vec::new();
        for (nth, (service, _)) in SERVICES.into_iter().enumerate() {
            for (port, ca, _) in &ports {
                let channel = connect(*port, ca.as_deref());
                watches.push((nth, Watch::start(&channel, service)));
                watches.push((nth, Watch::start_python(*port, ca.as_deref(), service)));
            }
        }
        let balancer = Balancer::start(sidecar).await;
        Self {
            ports,
            watches,
            balancer,
        }
    }

    /// Waits until calls and another Envoy's checks see this of each of [`SERVICES`].
    async fn calls_see(&mut self, expected: [Seen; 2]) {
        for ((service, _), expected) in SERVICES.into_iter().zip(expected) {
            for (port, ca, python) in &mut self.ports {
                let what = format!("tonic-health sees {expected:?} of {service:?}");
                until(&what, async || {
                    check(&connect(*port, ca.as_deref()), service).await == expected
                })
                .await;
                let what = format!("Python sees {expected:?} of {service:?}");
                until(&what, async || python.check(service).await == expected).await;
            }
        }
        let list = match expected {
            [Seen::Ended(code), _] => Err(code),
            [whole, both] => Ok([("", whole), ("both", both), (LIVE, SERVING)]
                .map(|(service, seen)| (service.to_owned(), seen))
                .into()),
        };
        for (_, _, python) in &mut self.ports {
            until("Python's List agrees", async || python.list().await == list).await;
        }
        let healthy = expected.map(|seen| seen == SERVING);
        self.balancer.finds(healthy).await;
    }

    /// Waits until those that watch have seen this last.
    async fn watches_see(&self, expected: [Seen; 2]) {
        for (nth, watch) in &self.watches {
            watch.wait_for(expected[*nth]).await;
        }
    }
}

/// A connection of its own: while Envoy drains, it ends those that it has.
fn connect(port: u16, ca: Option<&Path>) -> Channel {
    match ca {
        Some(ca) => tls_channel(port, ca),
        None => channel(port),
    }
}

/// Another Envoy, whose own gRPC health checks go to the sidecar: a cluster for each service and listener.
struct Balancer {
    envoy: Envoy,
    /// Names of clusters, and which of [`SERVICES`] they check.
    clusters: Vec<(String, usize)>,
}

impl Balancer {
    async fn start(sidecar: &Sidecar) -> Self {
        let (mut config, mut clusters) = (Config::new(), Vec::new());
        for (nth, (service, _)) in SERVICES.into_iter().enumerate() {
            for (kind, port) in [("plain", sidecar.plain), ("tls", sidecar.tls)] {
                let name = format!("{kind}_{nth}");
                let mut pool = with_grpc_check(cluster(&name, &[port]));
                let check = &mut pool["health_checks"][0];
                check["grpc_health_check"] = json!({"service_name": service});
                check["timeout"] = json!("1s");
                if kind == "tls" {
                    pool = with_https2(pool);
                }
                config = config.cluster(pool);
                clusters.push((name, nth));
            }
        }
        let envoy = config.start().await;
        Self { envoy, clusters }
    }

    /// Waits until it finds the sidecar healthy or not, by each service.
    async fn finds(&self, healthy: [bool; 2]) {
        until(&format!("the balancer finds {healthy:?}"), async || {
            let page = self.envoy.admin.get("/clusters").await.body;
            self.clusters.iter().all(|(name, nth)| {
                let start = format!("{name}::127.");
                let mut lines = page.lines().filter(|line| line.starts_with(&start));
                let line = lines.find(|line| line.contains("::health_flags::"));
                line.is_some_and(|line| line.ends_with("::healthy") == healthy[*nth])
            })
        })
        .await;
    }
}

async fn agree(sidecar: &Sidecar, clients: &mut Clients, healthy: [bool; 2]) {
    let http = healthy.map(|healthy| if healthy { 200 } else { 503 });
    let grpc = healthy.map(|healthy| if healthy { SERVING } else { NOT_SERVING });
    sidecar.wait_for(http).await;
    clients.calls_see(grpc).await;
    clients.watches_see(grpc).await;
    // Still so: nobody has seen something in passing.
    sidecar.wait_for(http).await;
}

async fn through_stop_and_start(way: Way) {
    let sidecar = Sidecar::start(way).await;
    let mut clients = Clients::of(&sidecar).await;
    agree(&sidecar, &mut clients, [false, false]).await;
    let one = sidecar.start_host(0).await;
    agree(&sidecar, &mut clients, [true, false]).await;
    let other = sidecar.start_host(1).await;
    agree(&sidecar, &mut clients, [true, true]).await;
    // It goes on serving, and says that it is not well.
    one.turn_health_over();
    agree(&sidecar, &mut clients, [true, false]).await;
    other.kill();
    agree(&sidecar, &mut clients, [false, false]).await;
    one.turn_health_over();
    agree(&sidecar, &mut clients, [true, false]).await;
}

#[tokio::test]
async fn through_stop_and_start_by_the_route() {
    through_stop_and_start(Way::Route).await;
}

#[tokio::test]
async fn through_stop_and_start_by_the_network_filter() {
    through_stop_and_start(Way::NetworkFilter).await;
}

/// `/healthcheck/fail`: calls end as unavailable, as `/healthz` answers 503; open Watches see it from Envoy
/// 1.39 on.
#[tokio::test]
async fn through_a_drain() {
    let sidecar = Sidecar::start(Way::Route).await;
    let _hosts = [sidecar.start_host(0).await, sidecar.start_host(1).await];
    let mut clients = Clients::of(&sidecar).await;
    agree(&sidecar, &mut clients, [true, true]).await;
    for _ in 0..2 {
        sidecar.envoy.post("/healthcheck/fail").await;
        sidecar.wait_for([503, 503]).await;
        let unavailable = Seen::Ended(Code::Unavailable);
        clients.calls_see([unavailable; 2]).await;
        let watched = match version().starts_with("1.38.") {
            true => SERVING,
            false => NOT_SERVING,
        };
        clients.watches_see([watched; 2]).await;
        sidecar.envoy.post("/healthcheck/ok").await;
        agree(&sidecar, &mut clients, [true, true]).await;
    }
}

/// What the application itself says of its health is reached by another host or route, whatever the
/// sidecar says; it knows a service that the sidecar does not, and not the sidecar's `both`.
#[tokio::test]
async fn the_application_s_own() {
    let sidecar = Sidecar::start(Way::Route).await;
    let app = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    // A connection of its own for each: while Envoy drains, it ends those that it has.
    let ours = || channel(sidecar.plain);
    let by_host = || channel_to_host(sidecar.plain, APP);
    let by_route = async |service: &str| {
        let mark = |mut request: tonic::Request<()>| {
            let value = MetadataValue::from_static("1");
            request.metadata_mut().insert("x-app", value);
            Ok(request)
        };
        let mut client = HealthClient::with_interceptor(ours(), mark);
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        match client.check(request).await {
            Ok(answer) => Seen::Status(answer.into_inner().status()),
            Err(status) => Seen::Ended(status.code()),
        }
    };
    let unknown = Seen::Ended(Code::NotFound);
    let apps = async |whole: Seen| {
        for (service, expected) in [("", whole), ("yages.Echo", SERVING), ("both", unknown)] {
            assert_eq!(check(&by_host(), service).await, expected, "{service}");
            assert_eq!(by_route(service).await, expected, "{service}");
        }
    };
    apps(SERVING).await;
    assert_eq!(check(&ours(), "yages.Echo").await, unknown);
    assert_eq!(check(&ours(), "both").await, NOT_SERVING);

    let watched = Watch::start(&by_host(), "yages.Echo");
    watched.wait_for(SERVING).await;
    sidecar.envoy.post("/healthcheck/fail").await;
    assert_eq!(check(&ours(), "").await, Seen::Ended(Code::Unavailable));
    apps(SERVING).await;
    sidecar.envoy.post("/healthcheck/ok").await;
    assert_eq!(check(&ours(), "").await, SERVING);
    assert_eq!(watched.seen(), [SERVING]);
    // First, for the backend waits for whoever watches it.
    drop(watched);
    drop(app);
}
