//! What Envoy does to any local reply, and so to an answer to a probe: the lines of
//! `docs/local-replies.md`.

use e2e::config::{
    Config, address, cluster, cluster_of, host, listener_with_routes, manager, typed,
    with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, healthy};
use e2e::module::{drain_filters, route, with_network_filter};
use e2e::prober::Prober;
use e2e::xds::Eds;
use e2e::{Build, TcpHost, dead_port, eventually, free_port, timed, until};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

both_builds! {
    response_code_details,
    a_mapper_that_turns_503_into_200,
    a_custom_response_that_turns_503_into_200,
    what_counts_and_logs_probes,
    admission_control_takes_503_for_a_failure,
    what_envoy_refuses_by_itself_is_not_health,
    a_logical_dns_host_is_healthy_until_its_checks_have_failed,
}

/// An Envoy with the filter on for every route and these before it, its listener changed so: `/up` is
/// healthy, `/down` is not, `/live` needs nothing, and all else is answered 418.
async fn start(
    build: Build,
    mut filters: Vec<Value>,
    change: impl FnOnce(&mut Value),
) -> (Envoy, TcpHost) {
    let (host, live) = TcpHost::on_free_port().await;
    let mut filter = json!({
        "max_age_ms": 0,
        "admin_timeout_ms": 30000,
        "endpoints": [
            {"path": "/up", "clusters": ["up"]},
            {"path": "/down", "clusters": ["down"]},
        ],
    });
    if build == Build::Wasm {
        let live = json!({"path": "/live", "clusters": [], "fail_when_draining": false});
        filter["endpoints"].as_array_mut().unwrap().push(live);
    }
    filters.push(build.filter(&filter));
    let mut listener = e2e::config::listener(free_port(), filters);
    if build == Build::Module {
        listener = with_network_filter(listener);
    }
    change(&mut listener);
    let config = Config::new()
        .listener(listener)
        .cluster(with_tcp_check(cluster("up", &[live])))
        .cluster(with_tcp_check(cluster("down", &[dead_port()])));
    let envoy = config.start_with(&FLUSH).await;
    // Its first probes have been answered as they should be.
    envoy.wait_for("/up", 200, "ok").await;
    (envoy, host)
}

/// An access log in a file of this folder: the given line for each request, or those of a filter.
fn access_log(folder: &TempDir, line: &str, filter: Option<Value>) -> Value {
    let format = json!({"inline_string": format!("{line}\n")});
    let mut log = typed(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({"path": folder.path().join("access"), "log_format": {"text_format_source": format}}),
    );
    if let Some(filter) = filter {
        log["filter"] = filter;
    }
    log
}

/// Has Envoy write its access logs soon; its default is 10 s.
const FLUSH: [&str; 2] = ["--file-flush-interval-msec", "20"];

/// Polls until the access log has this line.
async fn wait_for_line(folder: &TempDir, line: &str) -> Vec<String> {
    eventually(&format!("the access log has {line:?}"), async || {
        let text = std::fs::read_to_string(folder.path().join("access")).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.iter().any(|found| found == line).then_some(lines)
    })
    .await
}

const DETAILS: &str =
    "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% [%RESPONSE_CODE_DETAILS%]";

/// The wasm says by whom and how a probe was answered. The module's call to Envoy takes no such words:
/// there it is an empty text, no `-`.
async fn response_code_details(build: Build) {
    let folder = tempfile::tempdir().unwrap();
    let log = access_log(&folder, DETAILS, None);
    let (envoy, _host) = start(build, vec![], |listener| {
        manager(listener)["access_log"] = json!([log]);
    })
    .await;
    envoy.wait_for("/down", 503, "unavailable").await;
    let grpc = ("content-type", "application/grpc");
    let plain = ("accept", "*/*");
    let (healthy, unhealthy) = ("envoy_healthz_healthy", "envoy_healthz_unhealthy");
    let not_allowed = "envoy_healthz_method_not_allowed";
    let mut rows = vec![
        // max_age_ms is 0: each of the wasm build's probes waits for the admin.
        (Method::GET, "/up?a", plain, 200, healthy),
        (Method::HEAD, "/up?b", plain, 200, healthy),
        (Method::GET, "/down?c", plain, 503, unhealthy),
        (Method::HEAD, "/down?d", plain, 503, unhealthy),
        (Method::POST, "/up?e", grpc, 200, healthy),
        (Method::POST, "/down?f", grpc, 200, unhealthy),
        (Method::PUT, "/up?g", plain, 405, not_allowed),
        (Method::GET, "/other", plain, 418, "direct_response"),
    ];
    if build == Build::Wasm {
        rows.push((Method::GET, "/live?h", plain, 200, healthy));
    }
    let http2 = Prober::http2(envoy.port);
    for (method, path, (name, value), status, details) in rows {
        let details = match build {
            Build::Module if details.starts_with("envoy_healthz_") => "",
            _ => details,
        };
        for prober in [&envoy.prober, &http2] {
            let answer = prober.send(method.clone(), path, &[(name, value)]).await;
            assert_eq!(answer.status, status, "{method} {path}");
        }
        for protocol in ["HTTP/1.1", "HTTP/2"] {
            let line = format!("{method} {path} {protocol} {status} [{details}]");
            wait_for_line(&folder, &line).await;
        }
    }
}

/// The same of a probe that was answered from a snapshot at hand, and of one that got no answer from the
/// admin.
#[tokio::test]
async fn response_code_details_of_a_snapshot_and_of_a_silent_admin() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeAdmin::start(healthy()).await;
    let filter = json!({"max_age_ms": 60000, "admin_timeout_ms": 100});
    let mut listener = Build::Wasm.listener(free_port(), &filter);
    manager(&mut listener)["access_log"] = json!([access_log(&folder, DETAILS, None)]);
    let config = Config::new().fake_admin(fake.port).listener(listener);
    let one_worker = [&["--concurrency", "1"][..], &FLUSH].concat();
    let envoy = config.start_with(&one_worker).await;
    envoy.prober.wait_for(200).await;
    let before = fake.requests();
    assert_eq!(envoy.get("/healthz?hand").await.status, 200);
    assert_eq!(fake.requests(), before);
    let line = "GET /healthz?hand HTTP/1.1 200 [envoy_healthz_healthy]";
    wait_for_line(&folder, line).await;
    drop(envoy);
    fake.change_to(Does::Hang);
    let envoy = config.start_with(&one_worker).await;
    envoy.prober.wait_for(503).await;
    let line = "GET /healthz HTTP/1.1 503 [envoy_healthz_unhealthy]";
    wait_for_line(&folder, line).await;
}

/// A `mappers` entry: what has this status, and this path if one is given.
fn mapper(path: Option<&str>, change: Value) -> Value {
    let status = json!({"status_code_filter": {"comparison": {
        "op": "EQ", "value": {"default_value": 503, "runtime_key": "e2e.none"},
    }}});
    let filter = match path {
        None => status,
        Some(path) => {
            let header = json!({"name": ":path", "string_match": {"prefix": path}});
            json!({"and_filter": {"filters": [status, {"header_filter": {"header": header}}]}})
        }
    };
    let mut mapper = change;
    mapper["filter"] = filter;
    mapper
}

async fn a_mapper_that_turns_503_into_200(build: Build) {
    let sorry = json!({"status_code": 200, "body": {"inline_string": "we are sorry"}});
    let pretty = || mapper(None, sorry.clone());
    let with = async |mappers: Vec<Value>| {
        start(build, vec![], |listener| {
            manager(listener)["local_reply_config"] = json!({"mappers": mappers});
        })
        .await
    };
    let (envoy, _host) = with(vec![pretty()]).await;
    match build {
        Build::Wasm => envoy.wait_for("/down", 200, "we are sorry").await,
        Build::Module => envoy.wait_for("/down", 503, "unavailable").await,
    }
    // The cure: the first mapper that matches is the last.
    let (envoy, _host) = with(vec![mapper(Some("/down"), json!({})), pretty()]).await;
    envoy.wait_for("/down", 503, "unavailable").await;
    for _ in 0..20 {
        let answer = envoy.get("/down").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "unavailable"));
    }
}

/// Envoy's custom_response filter, which makes 200 of each 503.
fn custom_response() -> Value {
    let input = "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput";
    let policy =
        "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
    let sorry = json!({"status_code": 200, "body": {"inline_string": "we are sorry"}});
    let matcher = json!({
        "predicate": {"single_predicate": {
            "input": typed("status", input, json!({})), "value_match": {"exact": "503"},
        }},
        "on_match": {"action": typed("action", policy, sorry)},
    });
    typed(
        "custom-response",
        "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
        json!({"custom_response_matcher": {"matcher_list": {"matchers": [matcher]}}}),
    )
}

/// Has a filter off on every route.
fn switch_off(listener: &mut Value, filter: &str) {
    let route = &mut manager(listener)["route_config"]["virtual_hosts"][0]["routes"][0];
    route["typed_per_filter_config"] = json!({filter: {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
        "disabled": true,
    }});
}

async fn a_custom_response_that_turns_503_into_200(build: Build) {
    let (envoy, _host) = start(build, vec![custom_response()], |_| {}).await;
    envoy.wait_for("/down", 200, "we are sorry").await;
    let (envoy, _host) = start(build, vec![custom_response()], |listener| {
        switch_off(listener, "custom-response");
    })
    .await;
    envoy.wait_for("/down", 503, "unavailable").await;
    for _ in 0..20 {
        assert_eq!(envoy.get("/down").await.status, 503);
    }
}

/// Envoy's own filter takes a probe out of the counts of requests and of logs with
/// `not_health_check_filter`; before the module, in pass-through mode, it does so as well.
async fn what_counts_and_logs_probes(build: Build) {
    let not_probes = || Some(json!({"not_health_check_filter": {}}));
    for drain in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = access_log(&folder, "%REQ(:PATH)%", not_probes());
        let filters = match drain {
            true => drain_filters(),
            false => vec![],
        };
        let (envoy, _host) = start(build, filters, |listener| {
            manager(listener)["access_log"] = json!([log]);
        })
        .await;
        let counted = async || envoy.stat("http.e2e.downstream_rq_2xx").await;
        let before = counted().await;
        for _ in 0..10 {
            assert_eq!(envoy.get("/up?x").await.status, 200);
        }
        // One more, whose count and line come later.
        assert_eq!(envoy.get("/end").await.status, 418);
        // The drain filter takes every path for a probe's.
        match drain {
            false => {
                let lines = wait_for_line(&folder, "/end").await;
                let probes = lines.iter().filter(|line| *line == "/up?x").count();
                assert_eq!(probes, 10);
                let what = "ten are counted";
                until(what, async || counted().await == before + 10).await;
            }
            true => {
                assert_eq!(counted().await, 0);
                let text = std::fs::read_to_string(folder.path().join("access"));
                assert_eq!(text.unwrap_or_default(), "");
            }
        }
    }
}

/// Envoy's admission_control, which refuses requests once one of twenty has failed.
fn admission_control() -> Value {
    typed(
        "admission-control",
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
        json!({
            "success_criteria": {
                "http_criteria": {"http_success_status": [{"start": 100, "end": 500}]},
                "grpc_criteria": {"grpc_success_status": [0]},
            },
            "sampling_window": "10s",
        }),
    )
}

async fn admission_control_takes_503_for_a_failure(build: Build) {
    for off in [false, true] {
        let (envoy, _host) = start(build, vec![], |listener| {
            let filters = manager(listener)["http_filters"].as_array_mut().unwrap();
            // As recipes do: our filter first.
            let router = filters.len() - 1;
            filters.insert(router, admission_control());
            if off {
                switch_off(listener, "admission-control");
            }
        })
        .await;
        let failures = "http.e2e.admission_control.rq_failure";
        let before = envoy.stat(failures).await;
        for _ in 0..20 {
            assert_eq!(envoy.get("/down").await.status, 503);
        }
        let expected = if off { 0 } else { before + 20 };
        envoy.wait_for_stat(failures, expected).await;
        if !off {
            envoy.wait_for("/call", 503, "").await;
        }
    }
}

/// A cluster whose calls Envoy refuses, but whose host is healthy.
async fn what_envoy_refuses_by_itself_is_not_health(build: Build) {
    let (_host, live) = TcpHost::on_free_port().await;
    let eds = Eds::new("dropped", &[]);
    eds.replace_with(json!({
        "endpoints": [{"lb_endpoints": [host(live, "UNKNOWN")]}],
        "policy": {"drop_overloads": [
            {"category": "e2e", "drop_percentage": {"numerator": 100, "denominator": "HUNDRED"}},
        ]},
    }));
    let mut broken = with_tcp_check(cluster("broken", &[live]));
    broken["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    let names = ["dropped", "broken"];
    let of = |name| json!({"path": format!("/healthz/{name}"), "clusters": [name]});
    let filter = json!({"admin_timeout_ms": 30000, "endpoints": names.map(of)});
    let filter = build.filter(&filter);
    let routes = names.map(|name| {
        let mut route = route("/", name);
        route["match"] = json!({"safe_regex": {"regex": format!("/[a-z]*/?{name}")}});
        route
    });
    let config = Config::new()
        .clusters([with_tcp_check(eds.cluster()), broken])
        .listener(listener_with_routes(free_port(), [filter], routes.into()));
    let envoy = config.start().await;
    for (name, body) in [("dropped", "drop overload"), ("broken", "overflow")] {
        let healthz = format!("/healthz/{name}");
        envoy.wait_for(&healthz, 200, "ok").await;
        for _ in 0..5 {
            let call = envoy.get(&format!("/{name}")).await;
            assert_eq!(call.status, 503, "{name}");
            assert!(call.body.contains(body), "{name}: {}", call.body);
            assert_eq!(envoy.get(&healthz).await.status, 200, "{name}");
        }
    }
}

/// Envoy takes it for healthy before its first check; a host of STRICT_DNS or STATIC it does not.
async fn a_logical_dns_host_is_healthy_until_its_checks_have_failed(build: Build) {
    timed(async || logical_dns(build).await);
}

async fn logical_dns(build: Build) {
    let dead = dead_port();
    let resolved = |name: &str, kind: &str| {
        let mut cluster = with_tcp_check(cluster_of(name, vec![address("localhost", dead)]));
        cluster["type"] = json!(kind);
        cluster["health_checks"][0]["interval"] = json!("1s");
        cluster["health_checks"][0]["no_traffic_interval"] = json!("1s");
        cluster["health_checks"][0]["unhealthy_threshold"] = json!(6);
        cluster["dns_lookup_family"] = json!("V4_ONLY");
        cluster
    };
    let filter = json!({
        "max_age_ms": 0,
        "endpoints": [
            {"path": "/logical", "clusters": ["logical"]},
            {"path": "/strict", "clusters": ["strict"]},
        ],
    });
    let config = Config::new()
        .cluster(resolved("logical", "LOGICAL_DNS"))
        .cluster(resolved("strict", "STRICT_DNS"))
        .listener(build.listener(free_port(), &filter));
    let envoy = config.start().await;
    assert_eq!(envoy.get("/strict").await.status, 503);
    assert_eq!(envoy.get("/logical").await.status, 200);
    until("six checks have failed", async || {
        assert_eq!(envoy.get("/strict").await.status, 503);
        envoy.get("/logical").await.status == 503
    })
    .await;
}
