//! The seconds that the doctor adds up are the seconds that Envoy takes.

use std::time::Instant;

use e2e::backend::Backend;
use e2e::config::{Config, cluster, health_check, listener_with_routes, with_grpc_check};
use e2e::envoy::Envoy;
use e2e::{DEADLINE, free_port, timed};
use healthz_doctor::{Options, check};
use serde_json::{Value, json};

/// Settings whose times are well apart: names, intervals, other fields, thresholds, and whether a call is
/// made before; without one, the no_traffic_intervals count.
fn settings() -> [(&'static str, &'static str, Value, u32, bool); 4] {
    [
        ("quick", "0.4s", json!({}), 2, true),
        ("seldom", "2s", json!({}), 2, true),
        (
            "suspicious",
            "0.4s",
            json!({"unhealthy_interval": "7s"}),
            2,
            true,
        ),
        (
            "idle",
            "0.4s",
            json!({"no_traffic_interval": "6s"}),
            3,
            false,
        ),
    ]
}

/// An Envoy with a cluster and an endpoint of each setting, all of one backend; and what the doctor says.
struct Timed {
    envoy: Envoy,
    /// Of each endpoint: its name, the seconds until it fails, and the interval of its checks.
    said: Vec<(String, f64, f64)>,
}

async fn start(backend: u16, trouble: &str) -> Timed {
    let mut config = Config::new();
    let (mut filters, mut routes) = (Vec::new(), Vec::new());
    for (name, interval, fields, threshold, _) in settings() {
        let mut cluster = with_grpc_check(cluster(name, &[backend]));
        let check = &mut cluster["health_checks"][0];
        check["timeout"] = json!("0.3s");
        check["interval"] = json!(interval);
        check["no_traffic_interval"] = json!(interval);
        check["unhealthy_threshold"] = json!(threshold);
        for (field, value) in fields.as_object().unwrap() {
            check[field] = value.clone();
        }
        config = config.cluster(cluster);
        filters.push(health_check(&format!("/{name}"), name, 100.0));
        let path = format!("/call/{name}");
        routes.push(json!({"match": {"path": path}, "route": {"cluster": name}}));
    }
    let config = config.listener(listener_with_routes(free_port(), filters, routes));
    let text = config.to_string();
    let report = check("envoy.yaml", text.as_bytes(), &Options::default()).unwrap();
    let said = report.endpoints.iter().map(|endpoint| {
        let (name, times) = &endpoint.clusters[0];
        let times = &times[0];
        let idle = settings()
            .iter()
            .any(|(other, .., called)| other == name && !called);
        let (stop, hang, interval) = match idle {
            false => (times.stop, times.hang, times.interval),
            true => (times.idle_stop, times.idle_hang, times.idle_interval),
        };
        let seconds = match trouble {
            "stop" => stop,
            _ => hang.unwrap(),
        };
        (name.clone(), seconds, interval)
    });
    let said = said.collect();
    let envoy = config.start().await;
    Timed { envoy, said }
}

/// When each endpoint has come to this status, in seconds from now.
async fn times(timed: &Timed, status: u16) -> Vec<f64> {
    let start = Instant::now();
    let mut times = vec![None; timed.said.len()];
    while times.iter().any(Option::is_none) {
        for ((name, ..), time) in timed.said.iter().zip(&mut times) {
            if time.is_none() && timed.envoy.get(&format!("/{name}")).await.status == status {
                *time = Some(start.elapsed().as_secs_f64());
            }
        }
        let said = &timed.said;
        assert!(start.elapsed() < DEADLINE, "{said:?}: {times:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    times.into_iter().flatten().collect()
}

fn measured_as_said(trouble: &str, make: impl AsyncFn(Backend) -> Option<Backend> + Sync) {
    timed(async || measure(trouble, &make).await);
}

async fn measure(trouble: &str, make: &impl AsyncFn(Backend) -> Option<Backend>) {
    let backend = Backend::start(free_port()).await;
    let timed = start(backend.port, trouble).await;
    times(&timed, 200).await;
    for (name, .., called) in settings() {
        if called {
            let _ = timed.envoy.prober.try_get(&format!("/call/{name}")).await;
        }
    }
    let _backend = make(backend).await;
    let times = times(&timed, 503).await;
    let mut order: Vec<_> = timed.said.iter().zip(&times).collect();
    order.sort_by(|((_, one, _), _), ((_, other, _), _)| one.total_cmp(other));
    println!("{trouble}: {order:?}");
    // Not before, but that each was up to one interval into the next check; and one after the other.
    for ((name, said, interval), seen) in &order {
        let late = **seen > said - interval - 0.5;
        assert!(late, "{name}: said {said} s, seen {seen} s");
    }
    let sorted = order.is_sorted_by(|(_, one), (_, other)| one < other);
    assert!(sorted, "{order:?}");
}

#[test]
fn a_stop_is_found_when_the_doctor_says() {
    measured_as_said("stop", async |backend| {
        backend.kill();
        None
    });
}

#[test]
fn a_hang_is_found_when_the_doctor_says() {
    measured_as_said("hang", async |backend| {
        backend.hang();
        Some(backend)
    });
}
