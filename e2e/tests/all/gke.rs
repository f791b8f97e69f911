//! `envoy/gke/envoy.yaml` and `envoy/gke/module/envoy.yaml`: what they have more than the files of `envoy/`, and the
//! listener for Prometheus.

use e2e::backend::Backend;
use e2e::prober::Prober;
use e2e::shipped::Pod;
use e2e::{Build, exchange_to_end, read};

both_builds! {
    the_metrics_listener_takes_one_request,
    livez_stays_in_a_drain_and_without_a_backend,
}

/// The file of `envoy/` and the one of `envoy/gke`.
fn files(build: Build) -> [&'static str; 2] {
    match build {
        Build::Wasm => ["envoy/envoy.yaml", "envoy/gke/envoy.yaml"],
        Build::Module => ["envoy/module.yaml", "envoy/gke/module/envoy.yaml"],
    }
}

/// Lines of the first text that the second has not, and the other way round, both in order.
fn differences<'a>(before: &'a str, after: &'a str) -> [Vec<&'a str>; 2] {
    let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    // The longest common subsequence of what follows each pair of lines.
    let mut longest = vec![vec![0; after.len() + 1]; before.len() + 1];
    for (i, one) in before.iter().enumerate().rev() {
        for (j, other) in after.iter().enumerate().rev() {
            longest[i][j] = match one == other {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let [mut gone, mut new] = [vec![], vec![]];
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || i < before.len() && longest[i + 1][j] >= longest[i][j + 1] {
            gone.push(before[i].trim_start());
            i += 1;
        } else {
            new.push(after[j].trim_start());
            j += 1;
        }
    }
    [gone, new]
}

/// Without comments, empty lines, and the block from one line to another.
fn relevant(text: &str, from: &str, to: &str) -> String {
    let text = match text.split_once(from) {
        Some((before, rest)) => format!("{before}{}", &rest[rest.find(to).unwrap()..]),
        None => text.to_owned(),
    };
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        // To be set in `envoy/` as well.
        !line.is_empty() && !line.starts_with('#')
    });
    let lines = lines.map(|line| line.split(" # ").next().unwrap_or_default());
    lines.map(|line| format!("{line}\n")).collect()
}

/// The listener `metrics`, as it is.
fn metrics_listener(text: &str) -> &str {
    let start = text.find("  - name: metrics\n").unwrap();
    &text[start..][..text[start..].find("\n\n").unwrap()]
}

const ADMIN: [&str; 3] = [
    r#"- {exact: "/stats/prometheus?filter=healthz%7Cserver.(live%7Cuptime)%7Cmembership_"}"#,
    "- {exact: /healthcheck/fail}",
    r#"- {exact: "/drain_listeners?graceful"}"#,
];
const BACKEND: [&str; 2] = [
    "socket_address: {address: app, port_value: 9000}",
    "socket_address: {address: 127.0.0.1, port_value: 9000}",
];

#[test]
fn the_wasm_file_is_envoy_yaml_but_for_these_lines() {
    let [gone, new] = [
        vec![
            r#""endpoints": [{"path": "/healthz", "clusters": ["my_service"]}]"#,
            BACKEND[0],
        ],
        vec![
            r#""endpoints": ["#,
            r#"{"path": "/healthz", "clusters": ["my_service"]},"#,
            r#"{"path": "/livez", "clusters": [], "fail_when_draining": false}"#,
            "]",
            "- match: {path: /livez}",
            "direct_response: {status: 503}",
            "typed_per_filter_config:",
            "envoy-healthz:",
            r#""@type": type.googleapis.com/envoy.config.route.v3.FilterConfig"#,
            "config: {}",
            BACKEND[1],
        ],
    ];
    let new = [ADMIN.to_vec(), new].concat();
    compare(Build::Wasm, gone, new);
}

#[test]
fn the_module_file_is_module_yaml_but_for_these_lines() {
    let allowed = ["allow_paths:", "- {exact: /ready}"];
    let new = [
        &allowed[..],
        &ADMIN,
        &[
            "- {path: /livez, clusters: []}",
            "- match: {path: /livez}",
            "direct_response: {status: 503}",
            "typed_per_filter_config:",
            "envoy-healthz: *on",
            BACKEND[1],
        ],
    ];
    compare(Build::Module, vec![BACKEND[0]], new.concat());
    let [wasm, module] = [Build::Wasm, Build::Module].map(|build| read(files(build)[1]));
    assert_eq!(metrics_listener(&wasm), metrics_listener(&module));
    // How that listener reaches the admin; the wasm needs it without it.
    let admin = |text: &str| text[text.find("  - name: local_admin\n").unwrap()..].to_owned();
    assert_eq!(admin(&wasm), admin(&module));
}

fn compare(build: Build, gone: Vec<&str>, mut new: Vec<&str>) {
    let [before, after] = files(build).map(read);
    let before = relevant(&before, "\0", "");
    let mut after = relevant(&after, "  - name: metrics\n", "  clusters:\n");
    if build == Build::Module {
        let (rest, _) = after.split_once("  - name: local_admin\n").unwrap();
        after = rest.to_owned();
    }
    let [found_gone, mut found_new] = differences(&before, &after);
    assert_eq!(found_gone, gone);
    // Which of two equal lines is the new one nobody can say.
    found_new.sort_unstable();
    new.sort_unstable();
    assert_eq!(found_new, new);
}

/// The admin can stop Envoy, and a regular expression in a query can keep its main thread busy: only the one request
/// that Prometheus makes comes through, whatever else is in it.
async fn the_metrics_listener_takes_one_request(build: Build) {
    let pod = Pod::start(build).await;
    let send = async |request: &str| exchange_to_end(pod.metrics, request.as_bytes()).await;
    let end = "host: x\r\nconnection: close\r\n\r\n";
    let scrape = "GET /stats/prometheus HTTP/1.1\r\n";
    let good = send(&format!("{scrape}{end}")).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    assert!(good.contains("\nenvoy_server_live{"), "{good}");
    assert!(!good.contains("envoy_server_concurrency"), "it is filtered");
    for line in [
        "GET /stats/prometheus?usedonly",
        "GET /stats/prometheus?filter=(a%2b)%2b%24",
        "GET /stats/prometheus?",
        "GET /stats/prometheus/",
        "GET //stats/prometheus",
        "GET /stats/../stats/prometheus",
        "GET /stats/prometheus/../../quitquitquit",
        "GET /stats/prometheus%3f",
        "GET /stats",
        "GET /clusters",
        "GET /healthz",
        "POST /stats/prometheus",
        "HEAD /stats/prometheus",
        "POST /healthcheck/fail",
        "POST /quitquitquit",
        "POST http://127.0.0.1:9901/quitquitquit",
    ] {
        let length = match line.starts_with("POST") {
            true => "content-length: 0\r\n",
            false => "",
        };
        let answer = send(&format!("{line} HTTP/1.1\r\n{length}{end}")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{line}: {answer}");
    }
    let two_lengths = "content-length: 4\r\ntransfer-encoding: chunked\r\n";
    let smuggled = "POST /quitquitquit HTTP/1.1\r\ncontent-length: 0\r\n";
    for request in [
        format!("{scrape}x-envoy-original-path: /quitquitquit\r\n{end}"),
        format!("{scrape}host: x\r\n\r\n{smuggled}{end}"),
        format!("{scrape}{two_lengths}host: x\r\n\r\n0\r\n\r\n{smuggled}{end}"),
    ] {
        send(&request).await;
        let ready = pod.envoy.admin.get("/ready").await.body;
        assert_eq!(ready, "LIVE\n", "{request}");
    }
}

/// What the kubelet probes before it restarts Envoy.
async fn livez_stays_in_a_drain_and_without_a_backend(build: Build) {
    let pod = Pod::start(build).await;
    let prober = Prober::https2(pod.port);
    prober.wait_for(503).await;
    assert_eq!(prober.get("/livez").await.status, 200);
    let _backend = Backend::start(pod.backend).await;
    prober.wait_for(200).await;
    pod.envoy.post("/healthcheck/fail").await;
    prober.wait_for(503).await;
    assert_eq!(prober.get("/livez").await.status, 200);
    let graceful = pod.envoy.post("/drain_listeners?graceful").await;
    assert_eq!(graceful.status, 200);
    assert_eq!(prober.get("/livez").await.status, 200);
}
