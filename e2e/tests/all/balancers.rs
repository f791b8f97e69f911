// NOTE FROM THE LEAD to the vocab helper: vocab2 (/work/w-vocab2) is converting this file and all but module/*: read AAA-NOTE-FROM-LEAD.md, take this line out (git checkout this file).
//! What each load balancer's health check sends, to `envoy/envoy.yaml` and `envoy/module.yaml`
//! with TLS: the rows of
//! `docs/load-balancers.md`, with the backend up and down.

use e2e::Build;
use e2e::backend::Backend;
use e2e::envoy::Shipped;
use e2e::prober::{Answer, Prober};
use reqwest::{Method, Version};

both_builds! { each_reads_what_it_takes_for_healthy_and_for_not }

/// How the prober reaches Envoy, what it sends, and whether it reads HTTP's status or gRPC's.
struct Row {
    who: &'static str,
    version: Version,
    method: Method,
    headers: &'static [(&'static str, &'static str)],
    grpc: bool,
}

const fn row(who: &'static str, version: Version, method: Method) -> Row {
    let headers = &[];
    Row {
        who,
        version,
        method,
        headers,
        grpc: false,
    }
}

fn rows() -> Vec<Row> {
    let alb: &[_] = &[("user-agent", "ELB-HealthChecker/2.0")];
    let alb_grpc: &[_] = &[
        ("user-agent", "ELB-HealthChecker/2.0"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let kubelet: &[_] = &[("user-agent", "kube-probe/1.31"), ("accept", "*/*")];
    let google: &[_] = &[("user-agent", "GoogleHC/1.0")];
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    vec![
        Row {
            headers: google,
            ..row("Google HTTP2", two, Method::GET)
        },
        Row {
            headers: google,
            ..row("Google HTTPS", one, Method::GET)
        },
        Row {
            headers: alb,
            ..row("ALB HTTP1", one, Method::GET)
        },
        Row {
            headers: alb,
            ..row("ALB HTTP2", two, Method::GET)
        },
        Row {
            headers: alb_grpc,
            grpc: true,
            ..row("ALB gRPC", two, Method::POST)
        },
        row("Azure Front Door", one, Method::HEAD),
        row("Azure Application Gateway", one, Method::GET),
        Row {
            headers: kubelet,
            ..row("kubelet", one, Method::GET)
        },
        row("HAProxy, httpchk GET", one, Method::GET),
    ]
}

/// The status that the prober reads: HTTP's, or gRPC's.
async fn ask(port: u16, row: &Row) -> u16 {
    let prober = match row.version {
        Version::HTTP_2 => Prober::https2(port),
        _ => Prober::https1(port),
    };
    let mut request = prober.request(row.method.clone(), "/healthz");
    for (name, value) in row.headers {
        request = request.header(*name, *value);
    }
    let answer = Answer::to(request).await.unwrap();
    assert_eq!(answer.version, row.version, "{}", row.who);
    if !row.grpc {
        return answer.status;
    }
    assert_eq!(answer.status, 200, "{}: gRPC is HTTP 200", row.who);
    answer.header("grpc-status").unwrap().parse().unwrap()
}

async fn each_reads_what_it_takes_for_healthy_and_for_not(build: Build) {
    let shipped = Shipped::of(build);
    let _envoy = shipped.start().await;
    let prober = Prober::https1(shipped.port);
    prober.wait_for(503).await;
    for row in rows() {
        let expected = if row.grpc { 14 } else { 503 };
        reads(shipped.port, &row, expected).await;
    }
    let _backend = Backend::start(shipped.backend_port).await;
    prober.wait_for(200).await;
    for row in rows() {
        let expected = if row.grpc { 0 } else { 200 };
        reads(shipped.port, &row, expected).await;
    }
    // HAProxy's default method is not one of these.
    let options = row("HAProxy's default", Version::HTTP_11, Method::OPTIONS);
    assert_eq!(ask(shipped.port, &options).await, 405);
}

/// Another worker's snapshot may be older by `max_age_ms`.
async fn reads(port: u16, row: &Row, expected: u16) {
    e2e::eventually(&format!("{}: {expected}", row.who), async || {
        (ask(port, row).await == expected).then_some(())
    })
    .await;
}
