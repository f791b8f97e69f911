//! `grpc.health.v1.Health` answered by the module, asked by tonic's client.

use e2e::backend::{Backend, ping};
use e2e::config::{Cds, bootstrap, cluster, listener_with_routes, with_grpc_check};
use e2e::envoy::version;
use e2e::{eventually, free_port, module};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::Served;

/// How the module learns of the cluster.
#[derive(Clone, Copy)]
enum Way {
    NetworkFilter,
    Route,
}

/// An Envoy before the demo backend, which the module answers for as `""`; `live` needs nothing.
struct Health {
    served: Served,
    backend: u16,
    channel: Channel,
}

fn configuration(way: Way, admin: u16, port: u16, backend: u16) -> Value {
    let filter = module::filter(&json!({
        "endpoints": [
            {"path": "/healthz", "clusters": ["c"]},
            {"path": "/livez", "clusters": []},
        ],
        "grpc_health": {"services": {"": "/healthz", "live": "/livez"}},
    }));
    let routes = vec![
        module::route("/healthz", "c"),
        json!({"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s", "idle_timeout": "0s"}}),
    ];
    let (filters, listener): (_, fn(Value) -> Value) = match way {
        Way::NetworkFilter => (vec![filter], module::with_network_filter),
        Way::Route => {
            let mut filters = module::drain_filters();
            filters.push(filter);
            (filters, |listener| listener)
        }
    };
    let listener = listener(listener_with_routes(port, filters, routes));
    let cluster = with_grpc_check(cluster("c", &[("127.0.0.1", backend)]));
    bootstrap(admin, vec![listener], vec![cluster])
}

fn connect(port: u16) -> Channel {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    channel.connect_lazy()
}

impl Health {
    async fn start(way: Way) -> Self {
        let (admin, port, backend) = (free_port(), free_port(), free_port());
        let config = configuration(way, admin, port, backend);
        Self {
            served: Served::of(&config, admin, port).await,
            backend,
            channel: connect(port),
        }
    }

    /// Takes a new connection for what follows: Envoy asks clients to leave while it drains.
    fn reconnect(&mut self) {
        self.channel = connect(self.served.port);
    }

    async fn check(&self, service: &str) -> Result<ServingStatus, Status> {
        let service = service.to_owned();
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.check(HealthCheckRequest { service }).await?;
        Ok(answer.into_inner().status())
    }

    async fn watch(&self, service: &str) -> Result<Streaming<HealthCheckResponse>, Status> {
        let service = service.to_owned();
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.watch(HealthCheckRequest { service }).await?;
        Ok(answer.into_inner())
    }

    async fn wait_for(&self, expected: ServingStatus) {
        eventually("Check is told what is expected", async || {
            (self.check("").await.ok()? == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn check() {
    for way in [Way::NetworkFilter, Way::Route] {
        let health = Health::start(way).await;
        health.wait_for(ServingStatus::NotServing).await;
        assert_eq!(health.check("live").await.unwrap(), ServingStatus::Serving);
        let unknown = health.check("other").await.unwrap_err();
        assert_eq!(
            (unknown.code(), unknown.message()),
            (Code::NotFound, "unknown service")
        );
        let backend = Backend::start(health.backend).await;
        health.wait_for(ServingStatus::Serving).await;
        health.served.wait_for("/healthz", 200, "ok").await;
        assert_eq!(ping(&health.channel).await.unwrap(), "pong");
        backend.stop();
        health.wait_for(ServingStatus::NotServing).await;
        let counter = "healthz.grpc_checks.filter.default.path./livez.status.SERVING";
        assert_eq!(health.served.envoy.stat(counter).await, 1);
    }
}

/// The next message of a Watch.
pub(super) async fn next(
    watch: &mut Streaming<HealthCheckResponse>,
) -> Result<ServingStatus, Status> {
    let message = tokio::time::timeout(e2e::DEADLINE, watch.message()).await;
    let message = message.expect("a message within the deadline")?;
    Ok(message.expect("the stream goes on").status())
}

/// Each Watch hears of each change once, whoever of its group has gone by then.
#[tokio::test]
async fn watch() {
    use ServingStatus::{NotServing, ServiceUnknown, Serving};
    for way in [Way::NetworkFilter, Way::Route] {
        let health = Health::start(way).await;
        health.wait_for(NotServing).await;
        let mut watches = Vec::new();
        for _ in 0..5 {
            watches.push(health.watch("").await.unwrap());
        }
        let mut live = health.watch("live").await.unwrap();
        let mut unknown = health.watch("other").await.unwrap();
        assert_eq!(next(&mut live).await.unwrap(), Serving);
        assert_eq!(next(&mut unknown).await.unwrap(), ServiceUnknown);
        for watch in &mut watches {
            assert_eq!(next(watch).await.unwrap(), NotServing);
        }
        let mut backend = None;
        for expected in [Serving, NotServing, Serving, NotServing] {
            // The first of those that are left goes, the one that leads among them.
            watches.remove(0);
            drop(backend.take());
            if expected == Serving {
                backend = Some(Backend::start(health.backend).await);
            }
            for watch in &mut watches {
                assert_eq!(next(watch).await.unwrap(), expected);
            }
            assert_eq!(health.check("").await.unwrap(), expected);
        }
        assert_eq!(health.check("live").await.unwrap(), Serving);
        for watch in [&mut live, &mut unknown] {
            let more = tokio::time::timeout(std::time::Duration::ZERO, watch.message()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }
}

/// While Envoy drains, Envoy's health_check filter refuses probes and Checks, and open Watches hear of it
/// by those: not before Envoy 1.39, which tells a module why an answer was given.
#[tokio::test]
async fn drain() {
    use ServingStatus::{NotServing, Serving};
    let mut health = Health::start(Way::Route).await;
    let backend = Backend::start(health.backend).await;
    health.wait_for(Serving).await;
    let mut watch = health.watch("").await.unwrap();
    let mut live = health.watch("live").await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), Serving);
    assert_eq!(next(&mut live).await.unwrap(), Serving);
    let hears = !version().starts_with("1.38.");

    for _ in 0..2 {
        health.served.envoy.post("/healthcheck/fail").await;
        assert_eq!(health.served.prober.get("/healthz").await.status, 503);
        if hears {
            assert_eq!(next(&mut watch).await.unwrap(), NotServing);
        }
        health.reconnect();
        let refused = health.check("live").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        health.reconnect();
        let refused = health.watch("").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        if hears {
            // Only now it is known that the route of gRPC minds a drain.
            assert_eq!(next(&mut live).await.unwrap(), NotServing);
        }
        health.served.envoy.post("/healthcheck/ok").await;
        health.reconnect();
        assert_eq!(health.check("live").await.unwrap(), Serving);
        if hears {
            assert_eq!(next(&mut watch).await.unwrap(), Serving);
            assert_eq!(next(&mut live).await.unwrap(), Serving);
        }
    }
    // Whatever else was sent would come first.
    backend.stop();
    assert_eq!(next(&mut watch).await.unwrap(), NotServing);
}

/// A cluster that comes, goes and comes again. A Watch by a route to a cluster that Envoy does not know
/// would never hear of it: it ends, and its caller comes again.
#[tokio::test]
async fn a_cluster_that_comes_and_goes() {
    use ServingStatus::{NotServing, Serving};
    for way in [Way::NetworkFilter, Way::Route] {
        let (admin, port) = (free_port(), free_port());
        let mut config = configuration(way, admin, port, 1);
        let clusters = &mut config["static_resources"]["clusters"];
        clusters.as_array_mut().unwrap().remove(0);
        // Envoy refuses such a route otherwise.
        let manager = "/static_resources/listeners/0/filter_chains/0/filters";
        let filters = config.pointer_mut(manager).unwrap().as_array_mut().unwrap();
        filters.last_mut().unwrap()["typed_config"]["route_config"]["validate_clusters"] =
            json!(false);
        let mut cds = Cds::add_to(&mut config, vec![]);
        let cluster = || Some(cluster("c", &[("127.0.0.1", 1)]));
        let health = Health {
            served: Served::of(&config, admin, port).await,
            backend: 1,
            channel: connect(port),
        };
        let mut watch = None;
        match (way, health.watch("").await) {
            (Way::NetworkFilter, Ok(stream)) => {
                let stream = watch.insert(stream);
                assert_eq!(next(stream).await.unwrap(), NotServing);
            }
            (Way::Route, Err(status)) => assert_eq!(status.code(), Code::Unavailable),
            (_, other) => panic!("{other:?}"),
        }
        assert_eq!(health.check("").await.unwrap(), NotServing);
        cds.set("c", cluster());
        health.wait_for(Serving).await;
        let mut watch = match watch {
            Some(watch) => watch,
            None => health.watch("").await.unwrap(),
        };
        assert_eq!(next(&mut watch).await.unwrap(), Serving);
        for (cluster, expected) in [(None, NotServing), (cluster(), Serving), (None, NotServing)] {
            cds.set("c", cluster);
            assert_eq!(next(&mut watch).await.unwrap(), expected);
        }
    }
}
