//! `grpc.health.v1.Health/Check`, answered by the module, beside the same call through Envoy to a backend
//! that answers it by tonic-health.

use std::process::Command;

use e2e::backend::Backend;
use e2e::config::{Config, cluster, listener_with_routes, with_grpc_check};
use e2e::grpc_health::{CHECK, SERVING, channel, check, frame};
use e2e::{eventually, free_port, module};
use serde_json::{Value, json};

use crate::Plan;
use crate::load::{Load, Series, in_any_order, measured, unmeasured};
use crate::statistics::quantile;

pub const CHECKS: [(&str, &str); 2] = [
    ("check_module", "answered by the native module"),
    ("check_backend", "answered by a tonic-health backend"),
];

/// A status: five bytes before the message, and its one field.
const ANSWER: u64 = 7;

pub async fn measure(plan: &Plan) -> Vec<Series> {
    let backend = free_port();
    let _backend = match plan.quick {
        true => Backend::start(backend).await,
        false => Backend::start_release(backend).await,
    };
    let ports = CHECKS.map(|(subject, _)| (subject, free_port()));
    let listeners = ports.map(|(subject, port)| listener(subject, port));
    let mut cluster = with_grpc_check(cluster("my_service", &[backend]));
    // The load must not make it unhealthy.
    cluster["health_checks"][0]["timeout"] = json!("20s");
    let config = Config::new().cluster(cluster).listeners(listeners);
    let envoy = config.start_with(&["--concurrency", "1"]).await;
    for (subject, port) in ports {
        let channel = channel(port);
        eventually(&format!("{subject} is SERVING"), async || {
            (check(&channel, "").await == SERVING).then_some(())
        })
        .await;
    }
    let mut all = unmeasured(&CHECKS, 0);
    for round in 0..plan.rounds {
        for series in in_any_order(&mut all) {
            let found = ports.iter().find(|(key, _)| *key == series.subject);
            let (_, port) = found.expect("a port");
            let seconds = plan.seconds(series.connections);
            let load = measured(&envoy, || h2load(*port, series.connections, seconds));
            series.rounds.push(load);
        }
        plan.progress("gRPC checks", round);
    }
    all
}

fn listener(subject: &str, port: u16) -> Value {
    let route = json!({
        "match": {"prefix": "/grpc.health.v1.Health/"},
        "route": {"cluster": "my_service", "timeout": "0s"},
    });
    let mut filters = Vec::new();
    if subject == "check_module" {
        // As in envoy/module.yaml.
        filters.extend(module::drain_filters());
        filters.push(module::filter(&json!({
            "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
            "grpc_health": {"services": {"": "/healthz"}},
        })));
    }
    listener_with_routes(port, filters, vec![route])
}

/// Runs `h2load`, one call at a time on each connection.
fn h2load(port: u16, connections: usize, seconds: u32) -> Load {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (message, log) = (dir.path().join("message"), dir.path().join("log"));
    std::fs::write(&message, frame(b"")).expect("the message can be written");
    let output = Command::new("h2load")
        .args(["-t1", "-m1", "-H", "content-type: application/grpc"])
        .args(["-H", "te: trailers", "-d"])
        .arg(&message)
        .arg(format!("--log-file={}", log.display()))
        .args([format!("-c{connections}"), format!("-D{seconds}")])
        .arg(format!("http://127.0.0.1:{port}{CHECK}"))
        .output()
        .expect("h2load runs");
    let text = String::from_utf8_lossy(&output.stdout);
    // `requests: 10 total, 10 started, 9 done, ...`, `traffic: ... 63B (63) data`
    let before = |what: &str| {
        let (start, _) = text.split_once(what)?;
        let number = start.rsplit(' ').next()?;
        number.trim_matches(['(', ')']).parse::<u64>().ok()
    };
    let (Some(answers), Some(data)) = (before(" done, "), before(" data\n")) else {
        panic!("h2load says {text}");
    };
    // A line a call: when it began, the status, and microseconds.
    let log = std::fs::read_to_string(log).expect("h2load has written its log");
    let times = log.lines().filter_map(|line| line.split('\t').nth(2));
    let times: Vec<f64> = times.map(|time| time.parse().expect("a number")).collect();
    Load {
        p50: quantile(times.iter().copied(), 0.5),
        p99: quantile(times, 0.99),
        per_second: answers as f64 / f64::from(seconds),
        answers,
        // An answer without a status has no data.
        wrong: answers.saturating_sub(data / ANSWER),
        ..Load::default()
    }
}
