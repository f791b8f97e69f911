//! A drain (`/healthcheck/fail`): what open Watches are sent, and what clients that watch do. The listeners have
//! `drain_type: MODIFY_ONLY`, as the shipped ones.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::config::{Config, manager};
use e2e::envoy::version;
use e2e::grpc_health::{
    CHECK, Connection, End, NOT_SERVING, PythonCaller, PythonChannel, SERVING, Seen, Sent, Watch,
    channel, check,
};
use e2e::prober::Prober;
use e2e::{timed, until};
use serde_json::{Value, json};
use tonic::Code;

use super::{LIVE, Sidecar, Way, by_lds, listener, listeners};

/// How long the drain lasts, and how often it is probed meanwhile.
const DRAIN: Duration = Duration::from_secs(10);
const PERIOD: Duration = Duration::from_secs(1);

/// Far longer than a worker's Watches wait for their next look at the drain.
const STEADY: Duration = Duration::from_secs(1);

/// Whether an open Watch can see a drain: not before Envoy 1.39, which says to a module why an answer was given.
fn sees_drains() -> bool {
    !version().starts_with("1.38.")
}

/// What a Watch is sent that is open for so many drains.
fn sent_in_drains(drains: usize) -> Vec<Seen> {
    let seen = if sees_drains() { drains } else { 0 };
    let mut sent = vec![SERVING];
    for _ in 0..seen {
        sent.extend([NOT_SERVING, SERVING]);
    }
    sent
}

fn modify_only(config: &mut Config) {
    for listener in listeners(config) {
        listener["drain_type"] = json!("MODIFY_ONLY");
    }
}

impl Sidecar {
    async fn post(&self, path: &str) {
        assert_eq!(self.envoy.post(path).await.status, 200);
    }

    /// Probes the route with the drain filter.
    async fn probe(&self, expected: u16) {
        let answer = Prober::https2(self.tls).get("/healthz").await;
        assert_eq!(answer.status, expected);
    }

    /// How many connections clients have opened in the clear.
    async fn connections(&self) -> u64 {
        let name = format!("listener.127.0.0.1_{}.downstream_cx_total", self.plain);
        self.envoy.stat(&name).await
    }

    /// How many calls have reached the backend.
    async fn calls(&self) -> u64 {
        self.envoy.stat("cluster.c.upstream_rq_total").await
    }

    async fn wait_for_calls(&self) {
        let before = self.calls().await;
        until("calls come by this Envoy", async || {
            self.calls().await > before
        })
        .await;
    }
}

/// Envoy's health_check filter refuses probes and calls, and open Watches, of whichever endpoint, hear of it by
/// those.
#[tokio::test]
async fn open_watches_hear_of_it() {
    let sidecar = Sidecar::start_with(Way::Route, modify_only).await;
    let host = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    let client = channel(sidecar.plain);
    let watches = ["", LIVE].map(|service| Watch::start(&client, service));
    let all_are_sent = async |status| {
        for watch in &watches {
            watch.wait_for(status).await;
        }
    };
    all_are_sent(SERVING).await;
    let refused = Seen::Ended(Code::Unavailable);
    for by_a_call in [false, true] {
        sidecar.post("/healthcheck/fail").await;
        match by_a_call {
            true => assert_eq!(check(&client, LIVE).await, refused),
            false => sidecar.probe(503).await,
        }
        if sees_drains() {
            all_are_sent(NOT_SERVING).await;
        }
        Watch::start(&client, "").wait_for(refused).await;
        sidecar.post("/healthcheck/ok").await;
        assert_eq!(check(&client, LIVE).await, SERVING);
        all_are_sent(SERVING).await;
    }
    let expected = sent_in_drains(2);
    drop(host);
    watches[0].wait_for(NOT_SERVING).await;
    assert_eq!(watches[0].seen(), [&expected[..], &[NOT_SERVING]].concat());
    assert_eq!(watches[1].seen(), expected);
    let checks = "healthz.grpc_checks.filter.default.path./livez.status.SERVING";
    assert_eq!(sidecar.envoy.stat(checks).await, 2);
}

/// A listener that is replaced goes on with its Watches: they see a drain by requests to the new one.
#[tokio::test]
async fn after_an_update_of_the_listener() {
    let mut lds = None;
    let sidecar = Sidecar::start_with(Way::Route, |config| {
        modify_only(config);
        lds = Some(by_lds(config));
    })
    .await;
    let lds = lds.unwrap();
    let _host = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    let watch = Watch::start(&channel(sidecar.plain), "");
    watch.wait_for(SERVING).await;
    let new = listener(Way::Route, sidecar.plain).to_string();
    let mut new: Value = serde_json::from_str(&new.replace("/livez", "/alive")).unwrap();
    new["drain_type"] = json!("MODIFY_ONLY");
    lds.replace(vec![new]);
    let updated = "listener_manager.listener_in_place_updated";
    sidecar.envoy.wait_for_stat(updated, 1).await;
    for _ in 0..2 {
        sidecar.post("/healthcheck/fail").await;
        Prober::http(sidecar.plain).wait_for(503).await;
        if sees_drains() {
            watch.wait_for(NOT_SERVING).await;
        }
        sidecar.post("/healthcheck/ok").await;
        Prober::http(sidecar.plain).wait_for(200).await;
        watch.wait_for(SERVING).await;
    }
    assert_eq!(watch.seen(), sent_in_drains(2));
}

/// A call that has passed the drain filter before the drain, and is held up between it and the module, says nothing
/// of the drain when it comes.
#[tokio::test]
async fn a_call_from_before_it() {
    let sidecar = Sidecar::start_with(Way::Route, |config| {
        modify_only(config);
        for listener in listeners(config) {
            let filters = &mut manager(listener)["http_filters"];
            let filters = filters.as_array_mut().unwrap();
            // Lets nothing of a request through before its end has come.
            let wait_for_the_end = json!({
                "name": "envoy.filters.http.buffer",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": 1000,
                },
            });
            let ours = filters
                .iter()
                .position(|filter| filter["name"] == "envoy-healthz");
            filters.insert(ours.unwrap(), wait_for_the_end);
        }
    })
    .await;
    let _host = sidecar.start_host(0).await;
    sidecar.wait_for([200, 503]).await;
    let client = channel(sidecar.plain);
    let watch = Watch::start(&client, "");
    watch.wait_for(SERVING).await;
    let connection = Connection::open(sidecar.plain).await;
    let held_up = Sent::call(CHECK, b"").ending(End::Open);
    let (reply, mut request) = connection.send(&held_up).await.unwrap();
    let active = "http.e2e.downstream_rq_active";
    sidecar.envoy.wait_for_stat(active, 2).await;
    sidecar.post("/healthcheck/fail").await;
    let refused = Seen::Ended(Code::Unavailable);
    assert_eq!(check(&client, "").await, refused);
    if sees_drains() {
        watch.wait_for(NOT_SERVING).await;
    }
    request.send_data(Bytes::new(), true).unwrap();
    let reply = tokio::time::timeout(e2e::DEADLINE, reply).await;
    assert_eq!(reply.expect("a reply").unwrap().status(), 200);
    let seen = watch.seen();
    let answered = Instant::now();
    while answered.elapsed() < STEADY {
        assert_eq!(watch.seen(), seen);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sidecar.post("/healthcheck/ok").await;
    assert_eq!(check(&client, "").await, SERVING);
    watch.wait_for(SERVING).await;
    assert_eq!(watch.seen(), sent_in_drains(1));
}

/// Probes once a second until [`DRAIN`] is over; gives the longest time of a probe.
async fn probe_through_the_drain(drained: &Sidecar) -> Duration {
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    // Until the first probe clients do not know of it: with DEFAULT the response to a call would send them away.
    drained.wait_for_calls().await;
    while begun.elapsed() < DRAIN {
        tokio::time::sleep(PERIOD).await;
        let sent = Instant::now();
        drained.probe(503).await;
        slowest = slowest.max(sent.elapsed());
    }
    slowest
}

/// Clients of grpcio's that call by two Envoys, one of which drains for ten seconds and is probed once a second.
///
/// With `drain_type: DEFAULT` Envoy sends GOAWAY with each response of a drain, and the two callers opened 9,000 to
/// 17,000 connections here (1.40.0; 13,600 with 1.39.3, 12,700 with 1.38.3); no call was lost.
#[test]
fn clients_keep_their_connections() {
    timed(keep_their_connections);
}

async fn keep_their_connections() {
    let start = async || Sidecar::start_with(Way::Route, modify_only).await;
    let (drained, other) = (start().await, start().await);
    let _hosts = [drained.start_host(0).await, other.start_host(0).await];
    for sidecar in [&drained, &other] {
        sidecar.wait_for([200, 503]).await;
    }
    let ports = [drained.plain, other.plain];
    let callers = [(); 2].map(|()| PythonCaller::start(&ports, ""));
    // By this Envoy only: whether it is READY shows.
    let alone = PythonChannel::connect(drained.plain, "");
    alone.wait_for(&["READY"]).await;
    let watch = Watch::start(&channel(drained.plain), "");
    watch.wait_for(SERVING).await;
    for sidecar in [&drained, &other] {
        sidecar.wait_for_calls().await;
    }

    let connections = drained.connections().await;
    assert!(connections > 0);
    drained.post("/healthcheck/fail").await;
    let slowest = probe_through_the_drain(&drained).await;
    let opened = drained.connections().await - connections;
    let clients = callers.len() as u64 + 2;
    let few = opened <= 2 * clients;
    assert!(few, "{opened} connections of {clients} clients");
    if sees_drains() {
        assert_eq!(watch.seen(), [SERVING, NOT_SERVING]);
        alone.wait_for(&["TRANSIENT_FAILURE"]).await;
        let calls = drained.calls().await;
        other.wait_for_calls().await;
        assert_eq!(drained.calls().await, calls);
    }

    drained.post("/healthcheck/ok").await;
    let back = Instant::now();
    // The prober has probed just before that.
    tokio::time::sleep(PERIOD).await;
    drained.probe(200).await;
    watch.wait_for(SERVING).await;
    alone.wait_for(&["READY"]).await;
    let back = back.elapsed();
    let soon = back < 2 * PERIOD + 10 * slowest;
    assert!(soon, "{back:?}, probes up to {slowest:?}");
    drained.wait_for_calls().await;
    assert_eq!(watch.seen(), sent_in_drains(1));
    for caller in callers {
        let codes = caller.codes();
        let lost = codes.iter().filter(|&&code| code != Code::Ok).count();
        let none = lost == 0 && !codes.is_empty();
        assert!(none, "{lost} of {} calls lost", codes.len());
    }
}
