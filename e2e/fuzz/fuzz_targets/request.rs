//! Any request and any page: an answer of a known form, and nothing internal without `details`.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use envoy_healthz::admin::clusters::Parser;
use envoy_healthz::admin::pages::{Fault, Ready, Report};
use healthz_core::answer::{Age, Content, Outcome, Response};
use healthz_core::config::wasm::Config;
use healthz_core::judgement::{Health, judge};
use healthz_core::request::{Form, Probe};
use healthz_core::view::View;
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
    let header = |name| match name {
        ":method" if input.post => b"POST",
        ":method" => b"GET".as_slice(),
        "content-type" => input.content_type,
        "accept" => input.accept,
        _ => b"",
    };
    for endpoint in &CONFIG.endpoints {
        let target = [endpoint.path.as_bytes(), b"?", input.query].concat();
        let probe = Probe::of(&CONFIG.endpoints, &target).expect("it is ours");
        let Some(form) = probe.form(header) else {
            assert!(input.post);
            continue;
        };
        assert!(endpoint.details || matches!(form, Form::Plain | Form::Grpc));
        let verdict = judge(endpoint, view);
        assert!(!verdict.cause().contains('\n'));
        let response = Response::of(&verdict, form, Age::Stale(Duration::from_millis(7)));
        assert_eq!(response.outcome, Outcome::Health(verdict.health));
        let Content::Http { body, .. } = response.content else {
            assert_eq!(form, Form::Grpc);
            continue;
        };
        let healthy = verdict.health == Health::Healthy;
        match form {
            Form::Plain => assert_eq!(body, if healthy { "ok" } else { "unavailable" }),
            Form::Verbose => {
                let end = if healthy { "passed" } else { "failed" };
                assert!(body.ends_with(&format!("healthz check {end}\n")));
            }
            Form::Json => {
                let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(json["status"] == "pass", healthy);
            }
            Form::Grpc => panic!("gRPC has no body"),
        }
    }
});
