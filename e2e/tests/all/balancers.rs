//! What each load balancer's health check sends, to `envoy/envoy.yaml` and `envoy/module.yaml` with TLS: the
//! rows of `docs/load-balancers.md`, with the backend up and down.

use e2e::backend::Backend;
use e2e::prober::Prober;
use e2e::shipped::Shipped;
use e2e::{Build, until};
use reqwest::{Method, Version};

both_builds! { each_reads_what_it_takes_for_healthy_and_for_not }

type Headers = [(&'static str, &'static str)];

/// How the prober reaches Envoy, and what it sends; a POST is a gRPC call.
struct Row {
    who: &'static str,
    version: Version,
    method: Method,
    headers: &'static Headers,
}

const fn row(
    who: &'static str,
    version: Version,
    method: Method,
    headers: &'static Headers,
) -> Row {
    Row {
        who,
        version,
        method,
        headers,
    }
}

impl Row {
    /// Whether the prober reads gRPC's status, not HTTP's.
    fn grpc(&self) -> bool {
        self.method == Method::POST
    }
}

fn rows() -> Vec<Row> {
    const ALB: &Headers = &[("user-agent", "ELB-HealthChecker/2.0")];
    const ALB_GRPC: &Headers = &[
        ALB[0],
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    const KUBELET: &Headers = &[("user-agent", "kube-probe/1.31"), ("accept", "*/*")];
    const GOOGLE: &Headers = &[("user-agent", "GoogleHC/1.0")];
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    vec![
        row("Google HTTP2", two, Method::GET, GOOGLE),
        row("Google HTTPS", one, Method::GET, GOOGLE),
        row("ALB HTTP1", one, Method::GET, ALB),
        row("ALB HTTP2", two, Method::GET, ALB),
        row("ALB gRPC", two, Method::POST, ALB_GRPC),
        row("Azure Front Door", one, Method::HEAD, &[]),
        row("Azure Application Gateway", one, Method::GET, &[]),
        row("kubelet", one, Method::GET, KUBELET),
        row("HAProxy, httpchk GET", one, Method::GET, &[]),
    ]
}

/// The status that the prober reads: HTTP's, or gRPC's.
async fn probe(port: u16, row: &Row) -> u16 {
    let prober = match row.version {
        Version::HTTP_2 => Prober::https2(port),
        _ => Prober::https1(port),
    };
    let answer = prober
        .send(row.method.clone(), "/healthz", row.headers)
        .await;
    assert_eq!(answer.version, row.version, "{}", row.who);
    if !row.grpc() {
        return answer.status;
    }
    assert_eq!(answer.status, 200, "{}: gRPC is HTTP 200", row.who);
    answer.header("grpc-status").unwrap().parse().unwrap()
}

async fn each_reads_what_it_takes_for_healthy_and_for_not(build: Build) {
    let shipped = Shipped::of(build);
    let _envoy = shipped.start().await;
    let prober = Prober::https1(shipped.port);
    let all_read = async |http: u16, grpc: u16| {
        prober.wait_for(http).await;
        for row in rows() {
            let expected = if row.grpc() { grpc } else { http };
            // Another worker's snapshot may be older by `max_age_ms`.
            until(&format!("{}: {expected}", row.who), async || {
                probe(shipped.port, &row).await == expected
            })
            .await;
        }
    };
    all_read(503, 14).await;
    let _backend = Backend::start(shipped.backend_port).await;
    all_read(200, 0).await;
    // HAProxy's default method is not one of these.
    let options = row("HAProxy's default", Version::HTTP_11, Method::OPTIONS, &[]);
    assert_eq!(probe(shipped.port, &options).await, 405);
}
