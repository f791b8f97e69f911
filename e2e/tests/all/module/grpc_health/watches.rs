//! `Watch`: the first status at once, each change once, until the client goes or Envoy does.

use e2e::config::manager;
use e2e::grpc_health::{
    Connection, End, NOT_SERVING, SERVICE_UNKNOWN, SERVING, Seen, Sent, WATCH, Watch, channel,
    check,
};
use e2e::prober::Prober;
use e2e::until;
use e2e::xds::Cds;
use serde_json::json;
use tonic::Code;

use super::{SERVICES, Sidecar, Way, backends, by_lds, listener, listeners};

#[tokio::test]
async fn each_change_once() {
    let sidecar = Sidecar::start(Way::Route).await;
    let (one, two) = (channel(sidecar.plain), channel(sidecar.plain));
    let whole = [Watch::start(&one, ""), Watch::start(&two, "")];
    let both = Watch::start(&one, "both");
    let unknown = Watch::start(&one, "nobody");
    for watch in &whole {
        watch.wait_for(NOT_SERVING).await;
    }
    both.wait_for(NOT_SERVING).await;
    unknown.wait_for(SERVICE_UNKNOWN).await;
    let mut expected = vec![NOT_SERVING];
    for _ in 0..3 {
        let host = sidecar.start_host(0).await;
        for watch in &whole {
            watch.wait_for(SERVING).await;
        }
        // A second host: nothing new for `""`.
        let other = sidecar.start_host(1).await;
        both.wait_for(SERVING).await;
        drop(other);
        both.wait_for(NOT_SERVING).await;
        drop(host);
        for watch in &whole {
            watch.wait_for(NOT_SERVING).await;
        }
        expected.extend([SERVING, NOT_SERVING]);
    }
    for watch in [&whole[0], &whole[1], &both] {
        assert_eq!(watch.seen(), expected);
    }
    assert_eq!(unknown.seen(), [SERVICE_UNKNOWN]);
}

/// Whoever came first goes first: the others of its worker go on.
#[tokio::test]
async fn the_first_goes() {
    for way in [Way::Route, Way::NetworkFilter] {
        let sidecar = Sidecar::start(way).await;
        let one = channel(sidecar.plain);
        let mut watches = Vec::new();
        for _ in 0..5 {
            let watch = Watch::start(&one, "");
            watch.wait_for(NOT_SERVING).await;
            watches.push(watch);
        }
        let mut host = None;
        while !watches.is_empty() {
            watches.remove(0);
            let expected = match host.take() {
                Some(_) => NOT_SERVING,
                None => {
                    host = Some(sidecar.start_host(0).await);
                    SERVING
                }
            };
            for watch in &watches {
                watch.wait_for(expected).await;
            }
        }
        sidecar.wait_until_idle().await;
    }
}

/// A client that reads nothing for a while: when it reads again, the last that it sees is the state of
/// that moment.
#[tokio::test]
async fn a_client_that_does_not_read() {
    let sidecar = Sidecar::start_with(Way::Route, |config| {
        for listener in listeners(config) {
            listener["per_connection_buffer_limit_bytes"] = json!(1);
        }
    })
    .await;
    // One message fits.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(7);
    let connection = Connection::open_with(sidecar.plain, &settings).await;
    let (_, mut body, _request) = connection.begin(&Sent::call(WATCH, b"")).await.unwrap();
    let other = channel(sidecar.plain);
    let other = Watch::start(&other, "");
    for _ in 0..4 {
        other.wait_for(NOT_SERVING).await;
        let host = sidecar.start_host(0).await;
        other.wait_for(SERVING).await;
        drop(host);
    }
    other.wait_for(NOT_SERVING).await;
    let _host = sidecar.start_host(0).await;
    other.wait_for(SERVING).await;
    let mut seen = Vec::new();
    let read = async {
        // An answer ends with the status: 1 is SERVING, 2 is NOT_SERVING.
        while seen.len() < 7 * 2 || seen.last() != Some(&1) {
            let data = body.data().await.expect("the Watch goes on").unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            seen.extend_from_slice(&data);
        }
    };
    let read = tokio::time::timeout(e2e::DEADLINE, read).await;
    read.unwrap_or_else(|_| panic!("it has seen {seen:?}"));
    assert!(seen.len() <= 7 * 10, "{seen:?}");
}

/// Minutes without a change: what ends other idle streams does not end this one, if the route says so.
#[tokio::test]
async fn idle() {
    let sidecar = Sidecar::start_with(Way::Route, |config| {
        for manager in listeners(config).map(manager) {
            manager["stream_idle_timeout"] = json!("0.3s");
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            for route in routes.as_array_mut().unwrap() {
                if route["match"]["prefix"] == "/grpc.health.v1.Health/" {
                    route["route"]["idle_timeout"] = json!("0s");
                }
            }
        }
    })
    .await;
    let host = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    let watch = Watch::start(&channel(sidecar.plain), "");
    watch.wait_for(SERVING).await;
    // A call without the line ends when the limit has passed.
    let connection = Connection::open(sidecar.plain).await;
    let sent = Sent::call("/yages.Echo/Ping", b"").ending(End::Open);
    let _ = tokio::time::timeout(e2e::DEADLINE, connection.call(&sent)).await;
    let ended = "http.e2e.downstream_rq_idle_timeout";
    assert!(sidecar.envoy.stat(ended).await > 0);
    drop(host);
    watch.wait_for(NOT_SERVING).await;
    assert_eq!(watch.seen(), [SERVING, NOT_SERVING]);
}

/// Listeners of one configuration share the gauge: what a Watch of one has found, a probe of the other
/// mends.
#[tokio::test]
async fn the_gauge_is_one_for_all_listeners() {
    let sidecar = Sidecar::start(Way::Route).await;
    let (plain, tls) = (Prober::http(sidecar.plain), Prober::https2(sidecar.tls));
    let shows = async |prober: &Prober, status: u16| {
        until(&format!("the gauge shows {status}"), async || {
            let answer = prober.get("/healthz").await;
            let gauge = "healthz.healthy.filter.default.path./healthz";
            let gauge = sidecar.envoy.stat(gauge).await;
            answer.status == status && gauge == u64::from(status == 200)
        })
        .await;
    };
    for _ in 0..2 {
        let host = sidecar.start_host(0).await;
        shows(&plain, 200).await;
        shows(&tls, 200).await;
        let watch = Watch::start(&channel(sidecar.plain), "");
        watch.wait_for(SERVING).await;
        drop(host);
        watch.wait_for(NOT_SERVING).await;
        drop(watch);
        sidecar.wait_until_idle().await;
        let _host = sidecar.start_host(0).await;
        // Nobody probes before that.
        let healthy = "cluster.c.membership_healthy";
        sidecar.envoy.wait_for_stat(healthy, 1).await;
        shows(&tls, 200).await;
    }
}

/// A cluster that comes, goes and comes again. A Watch by a route to a cluster that Envoy does not know
/// would never see it: it ends, and its caller comes again.
#[tokio::test]
async fn the_cluster_goes() {
    for way in [Way::NetworkFilter, Way::Route] {
        let mut cds = None;
        let sidecar = Sidecar::start_with(way, |config| {
            let clusters = config["static_resources"]["clusters"].as_array_mut();
            clusters.unwrap().retain(|cluster| cluster["name"] != "c");
            for manager in listeners(config).map(manager) {
                manager["route_config"]["validate_clusters"] = json!(false);
            }
            let empty = Cds::new(vec![]);
            config["dynamic_resources"]["cds_config"] = empty.source();
            cds = Some(empty);
        })
        .await;
        let mut cds = cds.unwrap();
        let _host = sidecar.start_host(0).await;
        let one = channel(sidecar.plain);
        let start = || SERVICES.map(|(service, _)| Watch::start(&one, service));
        let mut watches = start();
        let at_first = match way {
            Way::NetworkFilter => NOT_SERVING,
            Way::Route => Seen::Ended(Code::Unavailable),
        };
        for watch in &watches {
            watch.wait_for(at_first).await;
        }
        assert_eq!(check(&one, "").await, NOT_SERVING);
        let cluster = || Some(backends(&sidecar.hosts));
        cds.set("c", cluster());
        sidecar.wait_for([200, 503]).await;
        if way == Way::Route {
            watches = start();
        }
        for (before, cluster, expected) in [
            (SERVING, None, NOT_SERVING),
            (NOT_SERVING, cluster(), SERVING),
            (SERVING, None, NOT_SERVING),
        ] {
            watches[0].wait_for(before).await;
            cds.set("c", cluster);
            watches[0].wait_for(expected).await;
        }
        watches[1].wait_for(NOT_SERVING).await;
        assert_eq!(watches[1].seen(), [NOT_SERVING]);
    }
}

/// Its listener is replaced and taken away under open Watches, again and again: they end, and Envoy
/// goes on.
#[tokio::test]
async fn the_listener_goes() {
    let mut lds = None;
    let arguments = ["--drain-time-s", "1"];
    let sidecar = Sidecar::start_with_arguments(Way::NetworkFilter, &arguments, |config| {
        lds = Some(by_lds(config));
    })
    .await;
    let lds = lds.unwrap();
    let _host = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    for version in 1..4 {
        let watches: Vec<_> = (0..20)
            .map(|_| Watch::start(&channel(sidecar.plain), ""))
            .collect();
        for watch in &watches {
            watch.wait_for(SERVING).await;
        }
        let mut listeners = match version {
            // None at all: nothing calls the module any more.
            2 => vec![],
            _ => vec![listener(Way::NetworkFilter, sidecar.plain)],
        };
        for listener in &mut listeners {
            listener["per_connection_buffer_limit_bytes"] = json!(100_000 + version);
        }
        lds.replace(listeners);
        for watch in &watches {
            until("the Watch ends with its listener", async || {
                matches!(watch.last(), Some(Seen::Ended(_)))
            })
            .await;
        }
        if version == 2 {
            lds.replace(vec![listener(Way::NetworkFilter, sidecar.plain)]);
        }
        Prober::http(sidecar.plain).wait_for(200).await;
    }
    let draining = "listener_manager.total_listeners_draining";
    sidecar.envoy.wait_for_stat(draining, 0).await;
    let watch = Watch::start(&channel(sidecar.plain), "");
    watch.wait_for(SERVING).await;
}

/// SIGTERM under open Watches.
#[tokio::test]
async fn envoy_goes() {
    for way in [Way::Route, Way::NetworkFilter] {
        let mut sidecar = Sidecar::start(way).await;
        let watches: Vec<_> = (0..50)
            .map(|_| Watch::start(&channel(sidecar.plain), ""))
            .collect();
        for watch in &watches {
            watch.wait_for(NOT_SERVING).await;
        }
        let exit = sidecar.envoy.stop();
        assert!(exit.success(), "{exit}");
        for watch in &watches {
            until(
                "the Watch ends",
                async || matches!(watch.last(), Some(Seen::Ended(code)) if code != Code::Ok),
            )
            .await;
        }
    }
}
