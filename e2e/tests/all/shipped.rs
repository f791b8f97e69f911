// NOTE FROM THE LEAD to the vocab helper: vocab2 (/work/w-vocab2) is converting this file and all but module/*: read AAA-NOTE-FROM-LEAD.md, take this line out (git checkout this file).
//! `envoy/envoy.yaml` and `envoy/module.yaml` as users copy them: TLS, HTTP/1.1 and HTTP/2, a real
//! gRPC backend.

use e2e::backend::{Backend, ping, reverse, tls_channel};
use e2e::envoy::{Envoy, Shipped, at_home, validate};
use e2e::prober::{Answer, Prober};
use e2e::{Build, TcpHost, eventually, free_port, root};
use reqwest::{Method, Version};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::OTHER_METHODS;

both_builds! {
    follows_a_backend_that_stops_and_starts,
    follows_the_health_service_of_a_backend_that_goes_on_serving,
    answers_each_protocol_and_method,
}

/// Names and texts of the configurations that users copy.
fn examples() -> impl Iterator<Item = (&'static str, String)> {
    let files = [
        "envoy.yaml",
        "several-endpoints.yaml",
        "recipes.yaml",
        "balancer.yaml",
    ];
    let files = files.into_iter().map(|file| {
        let path = root().join("envoy").join(file);
        (file, std::fs::read_to_string(path).unwrap())
    });
    files.chain([("README.md", in_readme())])
}

/// The one in README.md, which is whole.
fn in_readme() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("```yaml\nadmin:").unwrap();
    let (config, _) = after.split_once("```").unwrap();
    format!("\nadmin:{config}")
}

/// The lines of `stats_config`, as they stand.
fn stats_tags(text: &str) -> Option<Vec<&str>> {
    let (_, block) = text.split_once("\nstats_config:\n")?;
    let lines = block.lines().take_while(|line| line.starts_with(' '));
    Some(lines.collect())
}

#[test]
fn the_examples_are_good() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let tags = stats_tags(&page);
    for (file, config) in examples() {
        let filters = config.matches("filters.http.wasm.v3.Wasm\n").count();
        if filters > 0 {
            assert!(
                stats_tags(&config).is_some(),
                "{file}: no labels in Prometheus"
            );
            assert_eq!(stats_tags(&config), tags, "{file}: other labels");
        }
        let reloads = config.matches("failure_policy: FAIL_RELOAD").count();
        assert_eq!(
            filters, reloads,
            "{file}: a trap would last until a restart"
        );
        let (good, log) = validate(&at_home(config));
        assert!(good, "{file}: {log}");
    }
}

/// README's eight lines for whom Envoy's own filter is enough, in its configuration.
#[tokio::test]
async fn envoys_own_filter_in_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("```yaml\n").unwrap();
    let (filter, _) = after.split_once("```").unwrap();
    let lines = filter.lines().map(|line| format!("          {line}\n"));
    let filter: String = lines.collect();
    let config = in_readme();
    let (before, rest) = config
        .split_once("          - name: envoy-healthz\n")
        .unwrap();
    let (_, after) = rest.split_once("          - name: envoy.filters").unwrap();
    let config = format!("{before}{filter}          - name: envoy.filters{after}");
    let (before, rest) = config
        .split_once("              - match: {path: /healthz}\n")
        .unwrap();
    let (_, after) = rest
        .split_once("              - match: {prefix: /}\n")
        .unwrap();
    let mut config = format!("{before}              - match: {{prefix: /}}\n{after}");
    let (port, admin, backend) = (free_port(), free_port(), free_port());
    for (from, to) in [
        (
            "0.0.0.0, port_value: 8080",
            format!("127.0.0.1, port_value: {port}"),
        ),
        ("port_value: 9901", format!("port_value: {admin}")),
        ("port_value: 9000", format!("port_value: {backend}")),
    ] {
        assert!(config.contains(from), "README has no {from:?}");
        config = config.replace(from, &to);
    }
    let _envoy = Envoy::start(&at_home(config), &[]).await;
    let prober = Prober::http(port);
    prober.wait_for(503).await;
    let _backend = Backend::start(backend).await;
    prober.wait_for(200).await;
}

/// What listens on an address other than loopback is a listener, never the admin.
#[test]
fn the_admin_is_for_nobody_outside() {
    for (file, config) in examples() {
        let (_, admin) = config.split_once("\nadmin:\n").unwrap();
        let (admin, _) = admin.split_once("\n\n").unwrap();
        assert!(admin.contains("address: 127.0.0.1,"), "{file}: {admin}");
        assert!(!config.contains("cluster: local_admin"), "{file}: a route");
    }
}

/// Calls that use up all connections do not shut out who asks the admin, and a drain does not have gRPC
/// clients reconnect with each response.
#[test]
fn each_listener_and_admin_is_ready_for_production() {
    let module = std::fs::read_to_string(root().join("envoy/module.yaml")).unwrap();
    for (file, config) in examples().chain([("module.yaml", module)]) {
        let (_, admin) = config.split_once("\nadmin:\n").unwrap();
        let (admin, _) = admin.split_once("\n\n").unwrap();
        let limit = "\n  ignore_global_conn_limit: true";
        assert!(admin.contains(limit), "{file}: {admin}");
        let listeners = config.matches("\n    filter_chains:\n").count();
        let drains = config.matches("\n    drain_type: MODIFY_ONLY\n").count();
        assert!(listeners > 0 && drains == listeners, "{file}: {drains}");
    }
}

/// Of the admin's pages, those that change or tell more are shut.
#[tokio::test]
async fn the_admin_does_no_more_than_the_filter_needs() {
    if e2e::envoy::version().starts_with("1.36.") {
        // It does not know allow_paths and says so.
        let config = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
        let (good, log) = validate(&config);
        assert!(!good && log.contains("allow_paths"), "{log}");
        return;
    }
    let shipped = Shipped::on_free_ports();
    let envoy = shipped.start().await;
    for path in ["/quitquitquit", "/healthcheck/fail", "/config_dump"] {
        assert_eq!(envoy.post(path).await.status, 403, "{path}");
        assert_eq!(envoy.admin.get(path).await.status, 403, "{path}");
    }
}

async fn follows_a_backend_that_stops_and_starts(build: Build) {
    let shipped = Shipped::of(build);
    let _envoy = shipped.start().await;
    let prober = Prober::https2(shipped.port);
    let channel = tls_channel(shipped.port, &shipped.certificate);
    assert_eq!(prober.wait_for(503).await.body, "unavailable");
    for _ in 0..2 {
        let backend = Backend::start(shipped.backend_port).await;
        assert_eq!(prober.wait_for(200).await.body, "ok");
        assert_eq!(ping(&channel).await.unwrap(), "pong");
        backend.stop();
        assert_eq!(prober.wait_for(503).await.body, "unavailable");
    }
}

async fn follows_the_health_service_of_a_backend_that_goes_on_serving(build: Build) {
    let shipped = Shipped::of(build);
    let backend = Backend::start(shipped.backend_port).await;
    let _envoy = shipped.start().await;
    let prober = Prober::https2(shipped.port);
    prober.wait_for(200).await;
    backend.turn_health_over();
    prober.wait_for(503).await;
    backend.turn_health_over();
    prober.wait_for(200).await;
}

async fn answers_each_protocol_and_method(build: Build) {
    let shipped = Shipped::of(build);
    let _backend = Backend::start(shipped.backend_port).await;
    let _envoy = shipped.start().await;
    for (prober, version) in [
        (Prober::https1(shipped.port), Version::HTTP_11),
        (Prober::https2(shipped.port), Version::HTTP_2),
    ] {
        prober.wait_for(200).await;
        for path in ["/healthz", "/healthz?", "/healthz?x=1", "/healthz?verbose"] {
            let answer = prober.get(path).await;
            assert_eq!((answer.version, answer.status), (version, 200), "{path}");
            assert_eq!(answer.body, "ok", "{path}");
            let mut names: Vec<_> = answer
                .headers
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            names.sort_unstable();
            let expected = [
                "cache-control",
                "content-length",
                "content-type",
                "date",
                "server",
            ];
            assert_eq!(names, expected, "{path}");
            assert_eq!(
                answer.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }

        let head = Answer::to(prober.request(Method::HEAD, "/healthz"))
            .await
            .unwrap();
        assert_eq!((head.status, head.body.as_str()), (200, ""));

        for method in OTHER_METHODS {
            let answer = Answer::to(prober.request(method.clone(), "/healthz"))
                .await
                .unwrap();
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{method}");
        }
    }
}

#[tokio::test]
async fn leaves_grpc_calls_alone() {
    let shipped = Shipped::on_free_ports();
    let backend = Backend::start(shipped.backend_port).await;
    let envoy = Envoy::start(&shipped.config, &["--component-log-level", "wasm:trace"]).await;
    let prober = Prober::https2(shipped.port);
    prober.wait_for(200).await;

    // Each request that the filter sees makes a context, which this log level shows.
    let contexts = || envoy.logged(&["proxy_on_request_headers"]).len();
    let before = contexts();
    prober.get("/healthz").await;
    let seen = eventually("the probe's context is logged", async || {
        Some(contexts()).filter(|&now| now > before)
    })
    .await;

    let channel = tls_channel(shipped.port, &shipped.certificate);
    assert_eq!(ping(&channel).await.unwrap(), "pong");
    assert_eq!(reverse(&channel, "healthz").await.unwrap(), "zhtlaeh");
    let request = HealthCheckRequest::default();
    let mut watch = HealthClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let mut status = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(status().await, ServingStatus::Serving);
    backend.turn_health_over();
    assert_eq!(status().await, ServingStatus::NotServing);
    backend.turn_health_over();
    assert_eq!(status().await, ServingStatus::Serving);

    assert_eq!(contexts(), seen, "a gRPC call went through the filter");
    prober.wait_for(200).await;
    assert!(contexts() > seen, "the log does not show contexts any more");
}

/// `envoy/several-endpoints.yaml`: what each endpoint fails for, and who is told details.
#[tokio::test]
async fn several_endpoints_mean_one_thing_each() {
    let ports: [u16; 5] = std::array::from_fn(|_| free_port());
    let [grpc, internal, admin, service, database] = ports;
    let path = root().join("envoy/several-endpoints.yaml");
    let mut config = at_home(std::fs::read_to_string(path).unwrap());
    for (from, to) in [
        ("0.0.0.0, port_value: 8080", grpc),
        ("127.0.0.1, port_value: 8082", internal),
        ("127.0.0.1, port_value: 9901", admin),
        ("app, port_value: 9000", service),
        ("database, port_value: 5432", database),
    ] {
        assert!(config.contains(from), "no {from:?}");
        config = config.replace(from, &format!("127.0.0.1, port_value: {to}"));
    }
    // So that it can be told to drain.
    let ready = "- {exact: /ready}\n";
    config = config.replace(ready, &format!("{ready}  - {{prefix: /healthcheck/}}\n"));
    let envoy = Envoy::start(&config, &[]).await;
    let (prober, people) = (Prober::http(grpc), Prober::http(internal));
    let told = async |expected: [u16; 3]| {
        eventually(
            &format!("/livez, /readyz, /healthz say {expected:?}"),
            async || {
                let mut statuses = [0; 3];
                for (status, path) in statuses.iter_mut().zip(["/livez", "/readyz", "/healthz"]) {
                    *status = prober.get(path).await.status;
                }
                (statuses == expected).then_some(())
            },
        )
        .await;
    };

    told([200, 503, 503]).await;
    let _backend = Backend::start(service).await;
    told([200, 200, 200]).await;
    // The database, of which one host of two is needed more, is nothing that the balancer hears of.
    let _database = TcpHost::start(database).await;
    let details = eventually("people are told of the database", async || {
        let answer = people.get("/healthz?verbose").await;
        let lines = [
            "[+]my_service 1/1 healthy",
            "[-]my_database 1/1 healthy, 2 needed",
        ];
        let all = lines.iter().all(|line| answer.body.contains(line));
        (answer.status == 503 && all).then_some(answer.body)
    })
    .await;
    told([200, 200, 200]).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        let answer = prober.get(&format!("{path}?verbose")).await;
        assert_eq!(answer.body, "ok", "{path} tells what {details:?} tells");
    }

    envoy.post("/healthcheck/fail").await;
    told([200, 503, 503]).await;
    envoy.post("/healthcheck/ok").await;
    told([200, 200, 200]).await;
}
