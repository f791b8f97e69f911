//! Any request and any page: an answer of a known form, and nothing internal without `details`.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use envoy_healthz::admin::clusters::Parser;
use envoy_healthz::admin::pages::{Fault, Ready, Report};
use healthz_core::answer::{Age, Format, Request, RequestKind, Response};
use healthz_core::judgement::{Health, judge};
use healthz_core::view::View;
use healthz_core::config::wasm::Config;
use libfuzzer_sys::fuzz_target;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = br#"{"admin_cluster": "admin", "endpoints": [
        {"path": "/healthz", "clusters": ["a"]},
        {"path": "/readyz", "clusters": ["a", {"name": "a::b", "min_healthy": "50%"}], "details": true}
    ]}"#;
    Config::parse(text).expect("it is good")
});

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    post: bool,
    query: &'a [u8],
    content_type: &'a [u8],
    accept: &'a [u8],
    page: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let request = Request {
        method: if input.post { b"POST" } else { b"GET" },
        query: input.query,
        content_type: input.content_type,
        accept: input.accept,
    };
    let names = CONFIG.cluster_names();
    let mut parser = Parser::new(&names);
    parser.feed(input.page);
    let (report, fault);
    let view: &dyn View = match parser.finish() {
        Ok(clusters) => {
            report = Report {
                clusters,
                ready: Ready::Yes,
            };
            &report
        }
        Err(_) => {
            fault = Fault::NoCluster("admin".to_owned());
            &fault
        }
    };
    for endpoint in &CONFIG.endpoints {
        let kind = RequestKind::of(&request, endpoint);
        let RequestKind::Http(format) = kind else {
            continue;
        };
        assert!(endpoint.details || format == Format::Plain);
        let verdict = judge(endpoint, view);
        assert!(!verdict.cause().contains('\n'));
        let Response::Http { status, body, .. } =
            Response::to(kind, endpoint, view, Age::Stale(Duration::from_millis(7)))
        else {
            panic!("{kind:?} is answered as gRPC");
        };
        assert_eq!(verdict.health == Health::Healthy, status == 200);
        match format {
            Format::Plain => assert_eq!(body, if status == 200 { "ok" } else { "unavailable" }),
            Format::Verbose => {
                let end = if status == 200 { "passed" } else { "failed" };
                assert!(body.ends_with(&format!("healthz check {end}\n")));
            }
            Format::Json => {
                let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(json["status"] == "pass", status == 200);
            }
        }
    }
});
