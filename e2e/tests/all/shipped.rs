//! `envoy/envoy.yaml` and `envoy/module.yaml` as users copy them: TLS, HTTP/1.1 and HTTP/2, a real
//! gRPC backend.

use e2e::backend::{Backend, ping, reverse, tls_channel};
use e2e::envoy::{Envoy, validate};
use e2e::prober::Prober;
use e2e::shipped::{ADMIN, Shipped, at_home, on_free_ports};
use e2e::{Build, TcpHost, between, eventually, read, replaced, until};
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
    let files = ["envoy", "several-endpoints", "recipes", "balancer"];
    let files = files.map(|file| (file, read(&format!("envoy/{file}.yaml"))));
    files.into_iter().chain([("README.md", in_readme())])
}

/// The one in README.md, which is whole.
fn in_readme() -> String {
    let readme = read("README.md");
    format!("\nadmin:{}", between(&readme, "```yaml\nadmin:", "```"))
}

/// The same with these lines instead of the filter's.
pub fn readme_with(filter: &str) -> String {
    let config = in_readme();
    let lines = filter.lines().map(|line| format!("          {line}\n"));
    let (start, end) = (
        "          - name: envoy-healthz\n",
        "          - name: envoy.filters",
    );
    let ours = between(&config, start, end);
    replaced(
        &config,
        &format!("{start}{ours}"),
        &lines.collect::<String>(),
    )
}

/// Checks that a configuration of README's follows its backend; of a healthy one it says this.
pub async fn follows(config: &str, healthy: &str) {
    let backend = "127.0.0.1, port_value: 9000";
    let addresses = ["0.0.0.0, port_value: 8080", backend, ADMIN];
    let (config, [_, backend, _]) = on_free_ports(config, addresses);
    let envoy = Envoy::start(&config, &[]).await;
    envoy.wait_for("/healthz", 503, "").await;
    let _backend = Backend::start(backend).await;
    envoy.wait_for("/healthz", 200, healthy).await;
}

/// The lines of `stats_config`, as they are.
fn stats_tags(text: &str) -> Option<Vec<&str>> {
    let (_, block) = text.split_once("\nstats_config:\n")?;
    let lines = block.lines().take_while(|line| line.starts_with(' '));
    Some(lines.collect())
}

#[test]
fn the_examples_are_good() {
    let page = read("README.md");
    let tags = stats_tags(&page);
    for (file, config) in examples() {
        let filters = config.matches("filters.http.wasm.v3.Wasm\n").count();
        if filters > 0 {
            let own = stats_tags(&config);
            assert!(own.is_some(), "{file}: no labels in Prometheus");
            assert_eq!(own, tags, "{file}: other labels");
        }
        let reloads = config.matches("failure_policy: FAIL_RELOAD").count();
        let until_a_restart = "a trap would last until a restart";
        assert_eq!(filters, reloads, "{file}: {until_a_restart}");
        let (good, log) = validate(&at_home(config));
        assert!(good, "{file}: {log}");
    }
}

/// README's eight lines for whom Envoy's own filter is enough, in its configuration.
#[tokio::test]
async fn envoys_own_filter_in_readme() {
    let readme = read("README.md");
    let config = readme_with(between(&readme, "```yaml\n", "```"));
    let (start, end) = (
        "              - match: {path: /healthz}\n",
        "              - match: {prefix: /}\n",
    );
    let route = between(&config, start, end);
    follows(&replaced(&config, &format!("{start}{route}"), ""), "").await;
}

/// The block `admin` of a configuration.
fn admin(config: &str) -> &str {
    between(config, "\nadmin:\n", "\n\n")
}

/// What listens on an address other than loopback is a listener, never the admin.
#[test]
fn the_admin_is_for_nobody_outside() {
    for (file, config) in examples() {
        let admin = admin(&config);
        assert!(admin.contains("address: 127.0.0.1,"), "{file}: {admin}");
        assert!(!config.contains("cluster: local_admin"), "{file}: a route");
    }
}

/// Calls that use up all connections do not shut out the admin's callers, and a drain does not have gRPC
/// clients reconnect with each response.
#[test]
fn each_listener_and_admin_is_ready_for_production() {
    for (file, config) in examples().chain([("module", read("envoy/module.yaml"))]) {
        let admin = admin(&config);
        let limit = "\n  ignore_global_conn_limit: true";
        assert!(admin.contains(limit), "{file}: {admin}");
        let listeners = config.matches("\n    filter_chains:\n").count();
        let drains = config.matches("\n    drain_type: MODIFY_ONLY\n").count();
        assert!(listeners > 0 && drains == listeners, "{file}: {drains}");
    }
}

/// Of the admin's pages, those that change or show more are shut.
#[tokio::test]
async fn the_admin_does_no_more_than_the_filter_needs() {
    if e2e::envoy::version().starts_with("1.36.") {
        // It does not know allow_paths and says so.
        let (good, log) = validate(&read("envoy/envoy.yaml"));
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
            let expected = "cache-control content-length content-type date server";
            assert_eq!(names.join(" "), expected, "{path}");
            let content_type = answer.header("content-type");
            assert_eq!(content_type, Some("text/plain; charset=utf-8"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }

        let head = prober.send(Method::HEAD, "/healthz", &[]).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));

        for method in OTHER_METHODS {
            let answer = prober.send(method.clone(), "/healthz", &[]).await;
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

/// `envoy/several-endpoints.yaml`: what each endpoint fails for, and which one shows details.
#[tokio::test]
async fn several_endpoints_mean_one_thing_each() {
    let addresses = [
        "127.0.0.1, port_value: 8082",
        "app, port_value: 9000",
        "database, port_value: 5432",
        "0.0.0.0, port_value: 8080",
        ADMIN,
    ];
    let config = read("envoy/several-endpoints.yaml");
    let (mut config, [internal, service, database, ..]) = on_free_ports(&config, addresses);
    if config.contains("allow_paths") {
        // So that a request can have it drain.
        let ready = "- {exact: /ready}\n";
        config = replaced(
            &config,
            ready,
            &format!("{ready}  - {{prefix: /healthcheck/}}\n"),
        );
    }
    let envoy = Envoy::start(&config, &[]).await;
    let people = Prober::http(internal);
    let paths = ["/livez", "/readyz", "/healthz"];
    let say = async |expected: [u16; 3]| {
        until(&format!("{paths:?} say {expected:?}"), async || {
            let mut statuses = [0; 3];
            for (status, path) in statuses.iter_mut().zip(paths) {
                *status = envoy.get(path).await.status;
            }
            statuses == expected
        })
        .await;
    };

    say([200, 503, 503]).await;
    let _backend = Backend::start(service).await;
    say([200, 200, 200]).await;
    // The database, of which one host of two is needed more, is not the load balancer's business.
    let _database = TcpHost::start(database).await;
    let details = eventually("details show the database", async || {
        let answer = people.get("/healthz?verbose").await;
        let lines = [
            "[+]my_service 1/1 healthy",
            "[-]my_database 1/1 healthy, 2 needed",
        ];
        let all = lines.iter().all(|line| answer.body.contains(line));
        (answer.status == 503 && all).then_some(answer.body)
    })
    .await;
    say([200, 200, 200]).await;
    for path in paths {
        let answer = envoy.get(&format!("{path}?verbose")).await;
        assert_eq!(answer.body, "ok", "{path} shows what {details:?} shows");
    }

    envoy.post("/healthcheck/fail").await;
    say([200, 503, 503]).await;
    envoy.post("/healthcheck/ok").await;
    say([200, 200, 200]).await;
}
