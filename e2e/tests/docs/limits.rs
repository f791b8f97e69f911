//! Sentences with the limits, versions and statuses of the code and of what we ship.

use tonic::Code;

use crate::sources::{built, constant, found, makefile, row, schema};

pub fn configuration(oldest: &str) -> Vec<(&'static str, String)> {
    let page = "docs/configuration.md";
    let field = |name: &str, what| schema(name, what);
    let endpoints = constant("core/src/config.rs", "MAX_ENDPOINTS");
    let clusters = constant("core/src/config.rs", "MAX_CLUSTERS");
    let services = constant("core/src/config/module.rs", "MAX_SERVICES");
    let age = field("max_age_ms", "default");
    let retry = constant("src/admin/snapshots.rs", "LONGEST_FAILURE");
    let idle = found(
        "doctor/src/detection.rs",
        r"NO_TRAFFIC_INTERVAL: f64 = (\d+)",
    );
    let name = found(
        "envoy/config.schema.json",
        r#""\^\[A-Za-z0-9_-\]\{([\d,]+)\}\$""#,
    )
    .replace(',', "..=");
    vec![
        (page, format!("| `name` | {name} of")),
        (
            page,
            format!("| 1..={} | 1000 |", field("admin_timeout_ms", "maximum")),
        ),
        (
            page,
            format!(
                "| 0..={} | {} |",
                field("max_stale_ms", "maximum"),
                field("max_stale_ms", "default")
            ),
        ),
        (
            page,
            format!("| 0..={} | {age} |", field("max_age_ms", "maximum")),
        ),
        (
            page,
            format!(
                "| {}..=`max_age_ms` |",
                field("refresh_interval_ms", "minimum")
            ),
        ),
        (
            page,
            format!(r#"| `{{"services": {{NAME: PATH}}}}`, 1..={services} |"#),
        ),
        (page, format!("| `endpoints` | 1..={endpoints} |")),
        (page, format!("| 0..={clusters}, unique")),
        (page, format!("answers at most {age} ms old")),
        (page, format!("it waits `max_age_ms`, at most {retry} ms")),
        (page, format!("its default is {idle} s")),
        (
            page,
            format!("thousands of clusters on Envoy {oldest} or 1.37"),
        ),
        (
            page,
            format!(
                "gRPC status {} or {}.",
                Code::Ok as i32,
                Code::Unavailable as i32
            ),
        ),
        (
            "docs/troubleshooting.md",
            format!("`no_traffic_interval` is {idle} s"),
        ),
        (
            "docs/troubleshooting.md",
            format!(
                "is `max_stale_ms` old ({} s)",
                field("max_stale_ms", "default") / 1000
            ),
        ),
        (
            "docs/troubleshooting.md",
            format!(
                "waits at most {} ms",
                constant("src/admin/snapshots.rs", "LONGEST_WAIT")
            ),
        ),
        (
            "docs/troubleshooting.md",
            format!("glibc {} and", makefile("GLIBC")),
        ),
        (
            "docs/from-lua.md",
            format!("The filter needs {oldest} or later"),
        ),
        (
            "docs/from-lua.md",
            format!(
                "article's admin port, {},",
                found("e2e/tests/all/from_lua.yaml", r"port_value: (8\d+)")
            ),
        ),
    ]
}

pub fn local_replies_and_module(
    oldest: &str,
    newest: &str,
    module: &str,
) -> Vec<(&'static str, String)> {
    let page = "docs/module.md";
    let code = |name: &str, code: Code| (page, format!("`{name}` ({})", code as i32));
    let longest = constant("dynamic-module/src/grpc/wire.rs", "LONGEST");
    let tick = constant("dynamic-module/src/grpc/watch.rs", "TICK");
    let envoy = makefile("ENVOY_VERSION");
    let [first, second] = ["1.38", "1.39"].map(|minor| {
        found(
            "Makefile",
            &format!(r"MATRIX := .*\b({}\.\d+)", regex::escape(minor)),
        )
    });
    let wasm_most = found("docs/dev/bench.md", r"wasm file, bytes \| at most (\d+)000");
    let mut rows = vec![
        (
            "docs/local-replies.md",
            format!("Envoy {oldest} to {newest} (module: {module} to {newest})"),
        ),
        (
            "docs/local-replies.md",
            format!("gRPC status {} ", Code::Ok as i32),
        ),
        (
            "docs/local-replies.md",
            format!("gRPC status {} ", Code::Unavailable as i32),
        ),
        (page, format!("for Envoy {module} to {newest} (a")),
        (
            page,
            format!(
                "| {oldest} to {newest} with V8 ({first} from PyPI has none) | {module} to {newest}, one file |"
            ),
        ),
        (
            page,
            format!("{first}, {second} and {envoy} run the module's tests. {module} and 1.39 warn"),
        ),
        (page, format!("probe ({first}, {second}, {envoy})")),
        (page, format!("with glibc {} or later", makefile("GLIBC"))),
        (
            page,
            format!(
                "some {} streams",
                constant(
                    "e2e/tests/all/module/grpc_health/many_watches.rs",
                    "MOST_RESETS"
                )
            ),
        ),
        code("NOT_FOUND", Code::NotFound),
        code("UNAVAILABLE", Code::Unavailable),
        code("UNIMPLEMENTED", Code::Unimplemented),
        code("INTERNAL", Code::Internal),
        code("RESOURCE_EXHAUSTED", Code::ResourceExhausted),
        code("INVALID_ARGUMENT", Code::InvalidArgument),
        (
            page,
            format!("; {} if begun in a drain", Code::Unavailable as i32),
        ),
        (
            page,
            format!("closed** with {} if", Code::Unavailable as i32),
        ),
        (
            page,
            format!(
                "`Watch`: {}, because clients take {} for",
                Code::Internal as i32,
                Code::Unimplemented as i32
            ),
        ),
        (
            page,
            format!(
                "within about {} ms; `SERVICE_UNKNOWN`",
                constant("dynamic-module/src/grpc/watch.rs", "TICK")
            ),
        ),
        (
            page,
            format!(
                "within {:.1} s after the drain filter",
                tick as f64 / 1000.0
            ),
        ),
        (page, format!("longer than {longest} bytes")),
        (
            "docs/security.md",
            format!("messages of at most {longest} bytes"),
        ),
        (
            page,
            format!(
                "or {} s after the last refusal",
                constant("dynamic-module/src/drain.rs", "LAPSE") / 1000
            ),
        ),
        (page, format!("| under {wasm_most} KB |")),
    ];
    let about = match built("libenvoy_healthz.so") {
        Some(bytes) => format!("about {} KB", (bytes + 5000) / 10_000 * 10),
        None => {
            println!("the module's size: SKIPPED, it is not built; `make test` builds it");
            found("docs/gke.md", r"(about \d+ KB)")
        }
    };
    rows.extend([(page, about.clone()), ("docs/gke.md", about)]);
    if let Some(bytes) = built("envoy_healthz.wasm") {
        assert!(bytes < wasm_most.parse::<u64>().unwrap() * 1000);
    }
    rows
}

pub fn gke() -> Vec<(&'static str, String)> {
    let page = "docs/gke.md";
    let pod = |pattern: &str| found("envoy/gke/deployment.yaml", pattern);
    let killed = row(
        "docs/dev/kubernetes.md",
        "service killed, restarted by the kubelet",
    );
    let counts = |index: usize| -> Vec<u32> {
        let number = |cell: &String| cell.split([' ', ',']).nth(index).unwrap().parse().unwrap();
        killed[1..].iter().map(number).collect()
    };
    let (failed, calls) = (counts(0), counts(2));
    assert!(calls.iter().all(|calls| (550..700).contains(calls)));
    vec![
        (
            page,
            format!(
                "do not reach port {}:",
                found("envoy/gke/envoy.yaml", r"port_value: (8\d+)")
            ),
        ),
        (
            page,
            format!(
                "reach the port {} |",
                pod(r"name: metrics, containerPort: (\d+)")
            ),
        ),
        (
            page,
            format!("After {} s Envoy sends", pod(r"sleep (\d+); ask")),
        ),
        (
            page,
            format!(
                "{} s after that (`--drain-time-s`)",
                pod(r#"--drain-time-s, "(\d+)""#)
            ),
        ),
        (
            page,
            format!("takes longer than {} s to stop", pod(r"sleep (\d+); ask")),
        ),
        (
            page,
            format!(
                "wait the pod's {} s",
                pod(r"(?m)^      terminationGracePeriodSeconds: (\d+)")
            ),
        ),
        (
            page,
            format!(
                "{} to {} of some 600 calls",
                failed.iter().min().unwrap(),
                failed.iter().max().unwrap()
            ),
        ),
    ]
}

pub fn operations() -> Vec<(&'static str, String)> {
    let page = "docs/operations.md";
    let late = constant("src/metrics.rs", "LONGEST_WAIT");
    let waits = constant("dynamic-module/src/stats.rs", "HAND_OVER");
    vec![(
        page,
        format!(
            "as 200, {} as 503); wasm: up to {late} ms late; module: what comes within {waits} ms is counted with a later probe",
            Code::Unavailable as i32
        ),
    )]
}
