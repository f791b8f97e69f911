//! What Envoy does to any local reply, and so to an answer to a probe: the lines of
//! `docs/local-replies.md`.

use e2e::config::{
    bootstrap, bootstrap_with_fake, cluster, listener_with_routes, manager, with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY};
use e2e::module::{drain_filters, route, with_network_filter};
use e2e::prober::{Answer, Prober};
use e2e::{Build, TcpHost, eventually, free_port, replace_file};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Served;

both_builds! {
    response_code_details,
    a_mapper_that_turns_503_into_200,
    a_custom_response_that_turns_503_into_200,
    what_counts_and_logs_probes,
    admission_control_takes_503_for_a_failure,
    what_envoy_refuses_by_itself_is_not_health,
    a_logical_dns_host_is_healthy_until_its_checks_have_failed,
}

/// A listener whose `/x/...` is answered 418, with the filter on for every route and these before it.
/// `/up` is healthy, `/down` is not, `/live` needs nothing.
fn listener(build: Build, port: u16, mut filters: Vec<Value>) -> Value {
    let mut config = json!({
        "max_age_ms": 0,
        "endpoints": [
            {"path": "/up", "clusters": ["up"]},
            {"path": "/down", "clusters": ["down"]},
        ],
    });
    if build == Build::Wasm {
        let live = json!({"path": "/live", "clusters": [], "fail_when_draining": false});
        config["endpoints"].as_array_mut().unwrap().push(live);
    }
    filters.push(build.filter(&config));
    let routes = vec![json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 418, "body": {"inline_string": "passed"}},
    })];
    let listener = listener_with_routes(port, filters, routes);
    match build {
        Build::Wasm => listener,
        Build::Module => with_network_filter(listener),
    }
}

/// An Envoy with that listener, changed so; its first probes have been answered as they should be.
async fn start(
    build: Build,
    filters: Vec<Value>,
    change: impl FnOnce(&mut Value),
) -> (Served, TcpHost) {
    let (host, live) = TcpHost::on_free_port().await;
    let (admin, port) = (free_port(), free_port());
    let mut listener = listener(build, port, filters);
    change(&mut listener);
    let clusters = vec![
        with_tcp_check(cluster("up", &[live])),
        with_tcp_check(cluster("down", &[free_port()])),
    ];
    let config = bootstrap(admin, vec![listener], clusters);
    let envoy = Envoy::start(&config.to_string(), &FLUSH).await;
    let served = Served {
        envoy,
        prober: Prober::http(port),
        port,
    };
    served.wait_for("/up", 200, "ok").await;
    (served, host)
}

/// An access log in a file of this folder: the given line for each request, or those of a filter.
fn access_log(folder: &TempDir, line: &str, filter: Option<Value>) -> Value {
    let mut log = json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": folder.path().join("access"),
            "log_format": {"text_format_source": {"inline_string": format!("{line}\n")}},
        },
    });
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
    let (served, _host) = start(build, vec![], |listener| {
        manager(listener)["access_log"] = json!([log]);
    })
    .await;
    served.wait_for("/down", 503, "unavailable").await;
    let grpc = ("content-type", "application/grpc");
    let plain = ("accept", "*/*");
    let (healthy, unhealthy) = ("envoy_healthz_healthy", "envoy_healthz_unhealthy");
    let mut rows = vec![
        // max_age_ms is 0: each of the wasm build's probes waits for the admin.
        (Method::GET, "/up?a", plain, 200, healthy),
        (Method::HEAD, "/up?b", plain, 200, healthy),
        (Method::GET, "/down?c", plain, 503, unhealthy),
        (Method::HEAD, "/down?d", plain, 503, unhealthy),
        (Method::POST, "/up?e", grpc, 200, healthy),
        (Method::POST, "/down?f", grpc, 200, unhealthy),
        (
            Method::PUT,
            "/up?g",
            plain,
            405,
            "envoy_healthz_method_not_allowed",
        ),
        (Method::GET, "/other", plain, 418, "direct_response"),
    ];
    if build == Build::Wasm {
        rows.push((Method::GET, "/live?h", plain, 200, healthy));
    }
    let http2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    for (method, path, (name, value), status, details) in rows {
        let details = match build {
            Build::Module if details.starts_with("envoy_healthz_") => "",
            _ => details,
        };
        let request = served.prober.request(method.clone(), path);
        let answer = Answer::to(request.header(name, value)).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
        let url = format!("http://127.0.0.1:{}{path}", served.port);
        let request = http2.request(method.clone(), url).header(name, value);
        assert_eq!(Answer::to(request).await.unwrap().status, status);
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
    let fake = FakeAdmin::start(Does::Answer(200, HEALTHY.to_vec())).await;
    let (admin, port) = (free_port(), free_port());
    let config = json!({
        "max_age_ms": 60000, "admin_timeout_ms": 100,
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}],
    });
    let mut listener = Build::Wasm.listener(port, &config);
    manager(&mut listener)["access_log"] = json!([access_log(&folder, DETAILS, None)]);
    let start = async || {
        let config = bootstrap_with_fake(admin, fake.port, vec![listener.clone()], vec![]);
        let arguments = [&["--concurrency", "1"][..], &FLUSH].concat();
        Envoy::start(&config.to_string(), &arguments).await
    };
    let prober = Prober::http(port);
    let envoy = start().await;
    prober.wait_for(200).await;
    let asked = fake.requests();
    assert_eq!(prober.get("/healthz?hand").await.status, 200);
    assert_eq!(fake.requests(), asked);
    let line = "GET /healthz?hand HTTP/1.1 200 [envoy_healthz_healthy]";
    wait_for_line(&folder, line).await;
    drop(envoy);
    fake.change_to(Does::Hang);
    let _envoy = start().await;
    let prober = Prober::http(port);
    prober.wait_for(503).await;
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
    let pretty = || {
        mapper(
            None,
            json!({"status_code": 200, "body": {"inline_string": "we are sorry"}}),
        )
    };
    let with = async |mappers: Vec<Value>| {
        start(build, vec![], |listener| {
            manager(listener)["local_reply_config"] = json!({"mappers": mappers});
        })
        .await
    };
    let (served, _host) = with(vec![pretty()]).await;
    match build {
        Build::Wasm => served.wait_for("/down", 200, "we are sorry").await,
        Build::Module => served.wait_for("/down", 503, "unavailable").await,
    }
    // The cure: the first mapper that matches is the last.
    let (served, _host) = with(vec![mapper(Some("/down"), json!({})), pretty()]).await;
    served.wait_for("/down", 503, "unavailable").await;
    for _ in 0..20 {
        let answer = served.prober.get("/down").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "unavailable"));
    }
}

/// Envoy's custom_response filter, which makes 200 of each 503.
fn custom_response() -> Value {
    let any = |name: &str, config: Value| json!({"name": name, "typed_config": config});
    let input = any(
        "status",
        json!({"@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput"}),
    );
    let action = any(
        "action",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
            "status_code": 200,
            "body": {"inline_string": "we are sorry"},
        }),
    );
    any(
        "custom-response",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.custom_response.v3.CustomResponse",
            "custom_response_matcher": {"matcher_list": {"matchers": [{
                "predicate": {"single_predicate": {"input": input, "value_match": {"exact": "503"}}},
                "on_match": {"action": action},
            }]}},
        }),
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
    let (served, _host) = start(build, vec![custom_response()], |_| {}).await;
    served.wait_for("/down", 200, "we are sorry").await;
    let (served, _host) = start(build, vec![custom_response()], |listener| {
        switch_off(listener, "custom-response");
    })
    .await;
    served.wait_for("/down", 503, "unavailable").await;
    for _ in 0..20 {
        assert_eq!(served.prober.get("/down").await.status, 503);
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
        let (served, _host) = start(build, filters, |listener| {
            manager(listener)["access_log"] = json!([log]);
        })
        .await;
        let counted = async || served.envoy.stat("http.e2e.downstream_rq_2xx").await;
        let before = counted().await;
        for _ in 0..10 {
            assert_eq!(served.prober.get("/up?x").await.status, 200);
        }
        // One more, whose count and line come later.
        assert_eq!(served.prober.get("/end").await.status, 418);
        // The drain filter takes every path for a probe's.
        match drain {
            false => {
                let lines = wait_for_line(&folder, "/end").await;
                let probes = lines.iter().filter(|line| *line == "/up?x").count();
                assert_eq!(probes, 10);
                eventually("ten are counted", async || {
                    (counted().await == before + 10).then_some(())
                })
                .await;
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
    json!({
        "name": "admission-control",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
            "success_criteria": {
                "http_criteria": {"http_success_status": [{"start": 100, "end": 500}]},
                "grpc_criteria": {"grpc_success_status": [0]},
            },
            "sampling_window": "10s",
        },
    })
}

async fn admission_control_takes_503_for_a_failure(build: Build) {
    for off in [false, true] {
        let (served, _host) = start(build, vec![], |listener| {
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
        let before = served.envoy.stat(failures).await;
        for _ in 0..20 {
            assert_eq!(served.prober.get("/down").await.status, 503);
        }
        let expected = if off { 0 } else { before + 20 };
        eventually("failures are counted", async || {
            (served.envoy.stat(failures).await == expected).then_some(())
        })
        .await;
        if !off {
            eventually("a call is refused", async || {
                (served.prober.get("/call").await.status == 503).then_some(())
            })
            .await;
        }
    }
}

/// A cluster whose calls Envoy refuses, but whose host is healthy.
async fn what_envoy_refuses_by_itself_is_not_health(build: Build) {
    let (_host, live) = TcpHost::on_free_port().await;
    let dir = tempfile::tempdir().unwrap();
    let endpoint =
        |live: u16| json!({"endpoint": {"address": e2e::config::address("127.0.0.1", live)}});
    let dropped = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "dropped",
        "endpoints": [{"lb_endpoints": [endpoint(live)]}],
        "policy": {"drop_overloads": [
            {"category": "e2e", "drop_percentage": {"numerator": 100, "denominator": "HUNDRED"}},
        ]},
    });
    let eds = dir.path().join("eds.json");
    replace_file(&eds, &json!({"version_info": "0", "resources": [dropped]}));
    let dropped = with_tcp_check(json!({
        "name": "dropped", "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": eds},
        }},
    }));
    let mut broken = with_tcp_check(cluster("broken", &[live]));
    broken["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    let (admin, port) = (free_port(), free_port());
    let endpoints: Vec<_> = ["dropped", "broken"]
        .map(|name| json!({"path": format!("/healthz/{name}"), "clusters": [name]}))
        .into();
    let filter = build.filter(&json!({"endpoints": endpoints}));
    let routes = ["dropped", "broken"].map(|name| {
        let mut route = route("/", name);
        route["match"] = json!({"safe_regex": {"regex": format!("/[a-z]*/?{name}")}});
        route
    });
    let listener = listener_with_routes(port, vec![filter], routes.into());
    let config = bootstrap(admin, vec![listener], vec![dropped, broken]);
    let served = Served::of(&config, admin, port).await;
    for (name, body) in [("dropped", "drop overload"), ("broken", "overflow")] {
        let healthz = format!("/healthz/{name}");
        served.wait_for(&healthz, 200, "ok").await;
        for _ in 0..5 {
            let call = served.prober.get(&format!("/{name}")).await;
            assert_eq!(call.status, 503, "{name}");
            assert!(call.body.contains(body), "{name}: {}", call.body);
            assert_eq!(served.prober.get(&healthz).await.status, 200, "{name}");
        }
    }
}

/// Envoy takes it for healthy before its first check; a host of STRICT_DNS or STATIC it does not.
async fn a_logical_dns_host_is_healthy_until_its_checks_have_failed(build: Build) {
    let (admin, port) = (free_port(), free_port());
    let dead = free_port();
    let cluster_of = |name: &str, kind: &str| {
        let mut cluster = with_tcp_check(e2e::config::cluster_of(
            name,
            vec![e2e::config::address("localhost", dead)],
        ));
        cluster["type"] = json!(kind);
        cluster["health_checks"][0]["interval"] = json!("1s");
        cluster["health_checks"][0]["no_traffic_interval"] = json!("1s");
        cluster["health_checks"][0]["unhealthy_threshold"] = json!(6);
        cluster["dns_lookup_family"] = json!("V4_ONLY");
        cluster
    };
    let clusters = vec![
        cluster_of("logical", "LOGICAL_DNS"),
        cluster_of("strict", "STRICT_DNS"),
    ];
    let config = json!({
        "max_age_ms": 0,
        "endpoints": [
            {"path": "/logical", "clusters": ["logical"]},
            {"path": "/strict", "clusters": ["strict"]},
        ],
    });
    let config = bootstrap(admin, vec![build.listener(port, &config)], clusters);
    let served = Served::of(&config, admin, port).await;
    assert_eq!(served.prober.get("/strict").await.status, 503);
    assert_eq!(served.prober.get("/logical").await.status, 200);
    eventually("six checks have failed", async || {
        assert_eq!(served.prober.get("/strict").await.status, 503);
        (served.prober.get("/logical").await.status == 503).then_some(())
    })
    .await;
}
