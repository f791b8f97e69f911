//! Every client is told what `/healthz` tells: while hosts stop and start, while Envoy drains, and of
//! thresholds.

use std::path::{Path, PathBuf};

use e2e::backend::tls_channel;
use e2e::certificate;
use e2e::config::{bootstrap, cluster, with_grpc_check};
use e2e::envoy::{Envoy, version};
use e2e::grpc_health::{
    NOT_SERVING, SERVING, Told, Watch, channel, channel_to_host, check, check_by_python,
    list_by_python,
};
use e2e::{eventually, free_port};
use serde_json::{Value, json};
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{APP, LIVE, SERVICES, Sidecar, Way};

/// Whoever asks a sidecar.
struct Clients {
    /// The sidecar's ports, and the certificate that one of them shows.
    ports: [(u16, Option<PathBuf>); 2],
    watches: Vec<(usize, Watch)>,
    balancer: Balancer,
}

impl Clients {
    async fn of(sidecar: &Sidecar) -> Self {
        let ca = certificate().join("tls.crt");
        let ports = [(sidecar.plain, None), (sidecar.tls, Some(ca))];
        let mut watches = Vec::new();
        for (nth, (service, _)) in SERVICES.into_iter().enumerate() {
            for (port, ca) in &ports {
                let channel = connect(*port, ca.as_deref());
                watches.push((nth, Watch::start(&channel, service)));
                watches.push((nth, Watch::start_python(*port, ca.as_deref(), service)));
            }
        }
        Self {
            ports,
            watches,
            balancer: Balancer::start(sidecar).await,
        }
    }

    /// Waits until each of them was told this of each of [`SERVICES`], by call.
    async fn asked_are_told(&self, expected: [Told; 2]) {
        for ((service, _), expected) in SERVICES.into_iter().zip(expected) {
            for (port, ca) in &self.ports {
                let what = format!("tonic-health is told {expected:?} of {service:?}");
                eventually(&what, async || {
                    let channel = connect(*port, ca.as_deref());
                    (check(&channel, service).await == expected).then_some(())
                })
                .await;
                let what = format!("Python is told {expected:?} of {service:?}");
                eventually(&what, async || {
                    let told = check_by_python(*port, ca.as_deref(), service).await;
                    (told == expected).then_some(())
                })
                .await;
            }
        }
        let each = SERVICES.map(|(service, _)| service).into_iter();
        let expected_list = match expected {
            [Told::Ended(code), _] => Err(code),
            statuses => {
                let each = each.zip(statuses).chain([(LIVE, SERVING)]);
                Ok(each
                    .map(|(service, told)| (service.to_owned(), told))
                    .collect())
            }
        };
        for (port, ca) in &self.ports {
            eventually("Python's List agrees", async || {
                let list = list_by_python(*port, ca.as_deref()).await;
                (list == expected_list).then_some(())
            })
            .await;
        }
        self.balancer
            .takes(expected.map(|told| told == SERVING))
            .await;
    }

    /// Waits until those that watch were told this last.
    async fn watchers_are_told(&self, expected: [Told; 2]) {
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

/// Another Envoy, whose own gRPC health checks ask the sidecar: a cluster for each service and listener.
struct Balancer {
    envoy: Envoy,
    /// Names of clusters, and which of [`SERVICES`] they ask for.
    clusters: Vec<(String, usize)>,
}

impl Balancer {
    async fn start(sidecar: &Sidecar) -> Self {
        let mut clusters = Vec::new();
        let mut names = Vec::new();
        for (nth, (service, _)) in SERVICES.into_iter().enumerate() {
            for (kind, port) in [("plain", sidecar.plain), ("tls", sidecar.tls)] {
                let name = format!("{kind}_{nth}");
                let mut pool = with_grpc_check(cluster(&name, &[port]));
                let check = &mut pool["health_checks"][0];
                check["grpc_health_check"] = json!({"service_name": service});
                check["timeout"] = json!("1s");
                if kind == "tls" {
                    pool["transport_socket"] = upstream_tls();
                }
                clusters.push(pool);
                names.push((name, nth));
            }
        }
        let admin = free_port();
        Self {
            envoy: Envoy::start(&bootstrap(admin, vec![], clusters).to_string(), &[]).await,
            clusters: names,
        }
    }

    /// Waits until it takes the sidecar for healthy or not, by each service.
    async fn takes(&self, healthy: [bool; 2]) {
        eventually(
            &format!("the balancer takes it for {healthy:?}"),
            async || {
                let page = self.envoy.admin.get("/clusters").await.body;
                let right = |(name, nth): &(String, usize)| {
                    let mut lines = page
                        .lines()
                        .filter(|line| line.starts_with(&format!("{name}::127.")));
                    let line = lines.find(|line| line.contains("::health_flags::"));
                    line.is_some_and(|line| line.ends_with("::healthy") == healthy[*nth])
                };
                self.clusters.iter().all(right).then_some(())
            },
        )
        .await;
    }
}

fn upstream_tls() -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"alpn_protocols": ["h2"]},
        },
    })
}

/// What `/healthz` says of it, and what clients are told.
fn statuses(healthy: [bool; 2]) -> ([u16; 2], [Told; 2]) {
    (
        healthy.map(|healthy| if healthy { 200 } else { 503 }),
        healthy.map(|healthy| if healthy { SERVING } else { NOT_SERVING }),
    )
}

async fn agree(sidecar: &Sidecar, clients: &Clients, healthy: [bool; 2]) {
    let (http, grpc) = statuses(healthy);
    sidecar.wait_for(http).await;
    clients.asked_are_told(grpc).await;
    clients.watchers_are_told(grpc).await;
    // Still so: nobody was told something in passing.
    sidecar.wait_for(http).await;
}

async fn through_stop_and_start(way: Way) {
    let sidecar = Sidecar::start(way).await;
    let clients = Clients::of(&sidecar).await;
    agree(&sidecar, &clients, [false, false]).await;
    let one = sidecar.start_host(0).await;
    agree(&sidecar, &clients, [true, false]).await;
    let other = sidecar.start_host(1).await;
    agree(&sidecar, &clients, [true, true]).await;
    // It goes on serving, and says that it is not well.
    one.turn_health_over();
    agree(&sidecar, &clients, [true, false]).await;
    other.kill();
    agree(&sidecar, &clients, [false, false]).await;
    one.turn_health_over();
    agree(&sidecar, &clients, [true, false]).await;
}

#[tokio::test]
async fn through_stop_and_start_by_the_route() {
    through_stop_and_start(Way::Route).await;
}

#[tokio::test]
async fn through_stop_and_start_by_the_network_filter() {
    through_stop_and_start(Way::NetworkFilter).await;
}

/// `/healthcheck/fail`: whoever asks is told that nobody is here, as `/healthz` does with 503; open
/// Watches hear of it from Envoy 1.39 on.
#[tokio::test]
async fn through_a_drain() {
    let sidecar = Sidecar::start(Way::Route).await;
    let _hosts = [sidecar.start_host(0).await, sidecar.start_host(1).await];
    let clients = Clients::of(&sidecar).await;
    agree(&sidecar, &clients, [true, true]).await;
    for _ in 0..2 {
        sidecar.envoy.post("/healthcheck/fail").await;
        sidecar.wait_for([503, 503]).await;
        clients
            .asked_are_told([Told::Ended(Code::Unavailable); 2])
            .await;
        let watched = match version().starts_with("1.38.") {
            true => SERVING,
            false => NOT_SERVING,
        };
        clients.watchers_are_told([watched; 2]).await;
        sidecar.envoy.post("/healthcheck/ok").await;
        agree(&sidecar, &clients, [true, true]).await;
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
            Ok(answer) => Told::Status(answer.into_inner().status()),
            Err(status) => Told::Ended(status.code()),
        }
    };
    let unknown = Told::Ended(Code::NotFound);
    let apps = async |whole: Told| {
        for told in [check(&by_host(), "").await, by_route("").await] {
            assert_eq!(told, whole);
        }
        for told in [
            check(&by_host(), "yages.Echo").await,
            by_route("yages.Echo").await,
        ] {
            assert_eq!(told, SERVING);
        }
        for told in [check(&by_host(), "both").await, by_route("both").await] {
            assert_eq!(told, unknown);
        }
    };
    apps(SERVING).await;
    assert_eq!(check(&ours(), "yages.Echo").await, unknown);
    assert_eq!(check(&ours(), "both").await, NOT_SERVING);

    let watched = Watch::start(&by_host(), "yages.Echo");
    watched.wait_for(SERVING).await;
    sidecar.envoy.post("/healthcheck/fail").await;
    assert_eq!(check(&ours(), "").await, Told::Ended(Code::Unavailable));
    apps(SERVING).await;
    sidecar.envoy.post("/healthcheck/ok").await;
    assert_eq!(check(&ours(), "").await, SERVING);
    assert_eq!(watched.told(), [SERVING]);
    // First, for the backend waits for whoever watches it.
    drop(watched);
    drop(app);
}
