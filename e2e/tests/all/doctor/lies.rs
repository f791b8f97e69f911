//! Each bad file answers untruly, and its good twin truly, to the same prober beside the same backend.

use e2e::backend::Backend;
use e2e::envoy::Envoy;
use e2e::grpc_health::{self, NOT_SERVING, SERVING};
use e2e::prober::{Answer, Prober, alpn};
use e2e::{eventually, free_port, replaced, until};

use super::{Case, findings_of_dump};

/// How the prober connects.
#[derive(Clone, Copy)]
enum By {
    Http,
    Https1,
    Https2,
}

/// What the bad file does. The good twin answers 503 beside a dead backend, and 200 beside one alive.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// The backend is dead, and the answer is 200.
    Healthy,
    /// The backend is alive, and the answer is this.
    Refused(u16),
    /// The backend is alive, and there is no answer.
    Silent,
    /// The backend is alive, and somebody else answers.
    NotOurs,
}

use By::{Http, Https1, Https2};
use Lie::{Healthy, NotOurs, Refused, Silent};

/// The overload manager takes any heap for too large a one.
const OVERLOADED: &[(&str, &str)] =
    &[("max_heap_size_bytes: 1073741824", "max_heap_size_bytes: 1")];

/// Another cluster of the backend, which no endpoint has.
const APP: &str = r#"  - name: app
    load_assignment:
      cluster_name: app
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, PORT}}}}]}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

type Row = (
    &'static str,
    By,
    Lie,
    &'static [(&'static str, &'static str)],
);

#[tokio::test]
async fn clusters_lie() {
    check_rows(&[
        ("HZ101/bad.yaml", Http, Healthy, &[]),
        ("HZ101/bad.module.yaml", Http, Healthy, &[]),
        ("HZ106/bad.yaml", Http, Refused(503), &[]),
        ("HZ108/bad.yaml", Http, Refused(503), &[]),
        ("HZ109/bad.module.yaml", Http, Refused(503), &[]),
        ("HZ110/bad.yaml", Http, Refused(503), &[]),
        ("HZ111/bad.yaml", Http, Healthy, &[]),
        ("HZ120/bad.yaml", Http, Refused(503), &[]),
    ])
    .await;
}

#[tokio::test]
async fn routes_and_filters_lie() {
    check_rows(&[
        ("HZ119/bad.yaml", Http, Healthy, &[]),
        ("HZ201/bad.yaml", Http, Refused(503), &[]),
        ("HZ202/bad.yaml", Http, NotOurs, &[]),
        ("HZ203/bad.yaml", Http, Refused(404), &[]),
        ("HZ204/bad.yaml", Http, Refused(401), &[]),
        ("HZ210/bad.yaml", Http, Healthy, &[]),
        ("HZ401/bad.module.yaml", Http, Refused(503), &[]),
    ])
    .await;
}

#[tokio::test]
async fn connections_lie() {
    check_rows(&[
        ("HZ206/bad.yaml", Https1, Silent, &[]),
        ("HZ207/bad.yaml", Https1, Silent, &[]),
        ("HZ208/bad.yaml", Http, Silent, &[]),
        ("HZ211/bad.yaml", Http, Refused(503), OVERLOADED),
        ("HZ217/bad.yaml", Https2, Silent, &[]),
    ])
    .await;
}

#[tokio::test]
async fn ways_to_the_admin_lie() {
    check_rows(&[
        ("HZ301/bad.yaml", Http, Refused(503), &[]),
        ("HZ302/bad.yaml", Http, Refused(503), &[]),
        ("HZ304/bad.yaml", Http, Refused(503), &[]),
    ])
    .await;
}

async fn check_rows(rows: &[Row]) {
    let alive = Backend::start(free_port()).await;
    for row in rows {
        check_row(*row, alive.port).await;
    }
}

async fn check_row((file, by, lie, changes): Row, alive: u16) {
    let backend = if lie == Healthy { free_port() } else { alive };
    let truth = if lie == Healthy { 503 } else { 200 };
    // The good twin first: what it needs to come to the truth, the bad file has had as well.
    let good = Case::of(&twin(file), backend, changes);
    let _good_envoy = good.start().await;
    let bad = Case::of(file, backend, changes);
    let bad_envoy = bad.start().await;
    let what = format!("the good twin of {file} answers {truth}");
    eventually(&what, async || {
        let answer = probe(by, good.port).await?;
        (answer.status == truth && is_ours(file, &answer)).then_some(())
    })
    .await;
    until(&format!("{file} lies"), async || {
        match (lie, probe(by, bad.port).await) {
            (Healthy, Some(answer)) => answer.status == 200,
            (Refused(status), Some(answer)) => answer.status == status,
            (NotOurs, Some(answer)) => !is_ours(file, &answer),
            (Silent, None) => true,
            _ => false,
        }
    })
    .await;
    if file != "HZ217/bad.yaml" {
        let found = bad.findings();
        assert_eq!(found.len(), 1, "{file}: {found:?}");
        let of_dump = findings_of_dump(&bad_envoy).await;
        assert_eq!(of_dump, found, "{file} and its dump");
    }
}

fn twin(file: &str) -> String {
    file.replace("bad", "good")
}

async fn probe(by: By, port: u16) -> Option<Answer> {
    let prober = match by {
        Http => Prober::http(port),
        Https1 => Prober::https1(port),
        Https2 => Prober::https2(port),
    };
    prober.try_get("/healthz").await.ok()
}

/// Whether the filter, or in its place Envoy's health_check filter, has answered.
fn is_ours(file: &str, answer: &Answer) -> bool {
    file.starts_with("HZ119") || ["ok", "unavailable"].contains(&answer.body.as_str())
}

/// A bad file and its good twin beside a backend of their own.
async fn twins(bad: &str) -> (Backend, [Envoy; 2]) {
    let backend = Backend::start(free_port()).await;
    let start = async |file: &str| Case::of(file, backend.port, &[]).start().await;
    let twins = [start(bad).await, start(&twin(bad)).await];
    (backend, twins)
}

/// Both answer 200; then this happens, and only the good twin answers 503.
async fn only_the_good_one_sees(
    bad: &str,
    trouble: impl AsyncFnOnce(Backend, &[Envoy; 2]) -> Option<Backend>,
) {
    let (backend, twins) = twins(bad).await;
    for twin in &twins {
        twin.prober.wait_for(200).await;
    }
    let _backend = trouble(backend, &twins).await;
    let [bad, good] = &twins;
    good.prober.wait_for(503).await;
    assert_eq!(Prober::http(bad.port).get("/healthz").await.status, 200);
}

#[tokio::test]
async fn hz107_a_port_check_does_not_see_a_hang() {
    only_the_good_one_sees("HZ107/bad.yaml", async |backend, _| {
        backend.hang();
        Some(backend)
    })
    .await;
}

#[tokio::test]
async fn hz102_a_start_is_seen_late() {
    let port = free_port();
    let start = async |file| Case::of(file, port, &[]).start().await;
    let (bad, good) = (
        start("HZ102/bad.yaml").await,
        start("HZ102/good.yaml").await,
    );
    for twin in [&bad, &good] {
        twin.prober.wait_for(503).await;
    }
    let _backend = Backend::start(port).await;
    good.prober.wait_for(200).await;
    assert_eq!(Prober::http(bad.port).get("/healthz").await.status, 503);
}

#[tokio::test]
async fn hz402_without_the_drain_filter_a_drain_is_not_seen() {
    only_the_good_one_sees("HZ402/bad.module.yaml", async |backend, twins| {
        for twin in twins {
            assert_eq!(twin.post("/healthcheck/fail").await.status, 200);
        }
        Some(backend)
    })
    .await;
}

#[tokio::test]
async fn hz404_a_cached_answer_outlives_the_backend() {
    only_the_good_one_sees("HZ404/bad.module.yaml", async |backend, _| {
        backend.stop();
        None
    })
    .await;
}

#[tokio::test]
async fn hz407_the_application_answers_for_itself() {
    // The clusters of the twins' endpoints have a port where nobody listens; the calls' has the backend.
    let backend = Backend::start(free_port()).await;
    let alive = format!("port_value: {}", backend.port);
    let app = replaced(APP, "PORT", &alive);
    let changes: &[(&str, &str)] = &[
        (
            "route: {cluster: my_service, timeout: 0s}",
            "route: {cluster: app, timeout: 0s}",
        ),
        ("  clusters:\n", &format!("  clusters:\n{app}")),
    ];
    for (file, expected) in [
        ("HZ407/bad.module.yaml", SERVING),
        ("HZ407/good.module.yaml", NOT_SERVING),
    ] {
        let envoy = Case::of(file, free_port(), changes).start().await;
        envoy.prober.wait_for(503).await;
        let seen = grpc_health::check(&grpc_health::channel(envoy.port), "").await;
        assert_eq!(seen, expected, "{file}");
    }
}

#[tokio::test]
async fn hz205_without_alpn_there_is_no_http2() {
    let (_backend, [bad, good]) = twins("HZ205/bad.yaml").await;
    assert!(alpn(bad.port).contains("No ALPN negotiated"));
    assert!(alpn(good.port).contains("ALPN protocol: h2"));
}

#[tokio::test]
async fn hz505_the_query_is_the_askers() {
    let metrics = free_port().to_string();
    let changes: &[(&str, &str)] = &[("port_value: 9100", &format!("port_value: {metrics}"))];
    for (file, status) in [("HZ505/bad.yaml", 200), ("HZ505/good.yaml", 404)] {
        let case = Case::of(file, free_port(), changes);
        let _envoy = case.start().await;
        let scraper = Prober::http(metrics.parse().unwrap());
        assert_eq!(scraper.get("/stats/prometheus").await.status, 200, "{file}");
        let answer = scraper.get("/stats/prometheus?filter=(a|b)*").await;
        assert_eq!(answer.status, status, "{file}");
    }
}

#[tokio::test]
async fn hz405_envoy_dies_of_the_module_among_upstream_filters() {
    let backend = Backend::start(free_port()).await;
    let case = Case::of("HZ405/bad.module.yaml", backend.port, &[]);
    let envoy = case.start().await;
    until("Envoy dies", async || {
        let _ = envoy.prober.try_get("/healthz").await;
        envoy.admin.try_get("/ready").await.is_err()
    })
    .await;
}
