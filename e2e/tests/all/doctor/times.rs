//! The seconds that the doctor adds up are the seconds that Envoy takes.

use std::time::Instant;

use e2e::backend::Backend;
use e2e::config::{Config, cluster, health_check, listener_with_routes, with_grpc_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{DEADLINE, free_port};
use healthz_doctor::{Options, check};
use serde_json::{Value, json};

/// Settings whose times are well apart, and whether a call is made before: without one, the
/// no_traffic_intervals count.
fn settings() -> [(&'static str, Value, bool); 4] {
    [
        (
            "quick",
            json!({"interval": "0.4s", "unhealthy_threshold": 2}),
            true,
        ),
        (
            "seldom",
            json!({"interval": "2s", "unhealthy_threshold": 2}),
            true,
        ),
        (
            "suspicious",
            json!({"interval": "0.4s", "unhealthy_interval": "7s", "unhealthy_threshold": 2}),
            true,
        ),
        (
            "idle",
            json!({"interval": "0.4s", "no_traffic_interval": "6s", "unhealthy_threshold": 3}),
            false,
        ),
    ]
}

/// An Envoy with a cluster and an endpoint of each setting, all of one backend; and what the doctor says.
struct Timed {
    _envoy: Envoy,
    probers: Vec<(String, f64, f64)>,
    prober: Prober,
}

async fn start(backend: u16, trouble: &str) -> Timed {
    let port = free_port();
    let mut clusters = Vec::new();
    let (mut filters, mut routes) = (Vec::new(), Vec::new());
    for (name, fields, _) in settings() {
        let mut cluster = with_grpc_check(cluster(name, &[backend]));
        let check = &mut cluster["health_checks"][0];
        check["no_traffic_interval"] = fields["interval"].clone();
        for (field, value) in fields.as_object().unwrap() {
            check[field] = value.clone();
        }
        clusters.push(cluster);
        filters.push(health_check(&format!("/{name}"), name, 100.0));
        let path = format!("/call/{name}");
        routes.push(json!({"match": {"path": path}, "route": {"cluster": name}}));
    }
    let config = Config::new()
        .clusters(clusters)
        .listener(listener_with_routes(port, filters, routes));
    let text = config.to_string();
    let report = check("envoy.yaml", text.as_bytes(), &Options::default()).unwrap();
    let said = report.endpoints.iter().map(|endpoint| {
        let times = &endpoint.clusters[0].1[0];
        let name = endpoint.clusters[0].0.clone();
        let called = settings()
            .iter()
            .any(|(other, _, called)| *other == name && *called);
        let (stop, hang) = match called {
            true => (times.stop, times.hang),
            false => (times.idle_stop, times.idle_hang),
        };
        let seconds = if trouble == "stop" {
            stop
        } else {
            hang.unwrap()
        };
        let interval = if called {
            times.interval
        } else {
            times.idle_interval
        };
        (name, seconds, interval)
    });
    let probers = said.collect();
    let envoy = Envoy::start(&config.to_string(), &[]).await;
    Timed {
        _envoy: envoy,
        probers,
        prober: Prober::http(port),
    }
}

/// When each endpoint has come to this status, in seconds from now.
async fn times(timed: &Timed, status: u16) -> Vec<f64> {
    let start = Instant::now();
    let mut times = vec![None; timed.probers.len()];
    while times.iter().any(Option::is_none) {
        for ((name, ..), time) in timed.probers.iter().zip(&mut times) {
            if time.is_none() && timed.prober.get(&format!("/{name}")).await.status == status {
                *time = Some(start.elapsed().as_secs_f64());
            }
        }
        assert!(
            start.elapsed() < 2 * DEADLINE,
            "{:?}: {times:?}",
            timed.probers
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    times.into_iter().flatten().collect()
}

async fn measured_as_said(trouble: &str, make: impl AsyncFnOnce(Backend) -> Option<Backend>) {
    let backend = Backend::start(free_port()).await;
    let timed = start(backend.port, trouble).await;
    times(&timed, 200).await;
    for (name, _, called) in settings() {
        if called {
            let _ = timed.prober.try_get(&format!("/call/{name}")).await;
        }
    }
    let _backend = make(backend).await;
    let times = times(&timed, 503).await;
    let mut order: Vec<_> = timed.probers.iter().zip(&times).collect();
    order.sort_by(|((_, one, _), _), ((_, other, _), _)| one.total_cmp(other));
    println!("{trouble}: {order:?}");
    // Not before, but that each was up to one interval into the next check; and one after the other.
    for ((name, said, interval), seen) in &order {
        assert!(
            **seen > said - interval - 0.5,
            "{name}: said {said} s, seen {seen} s"
        );
    }
    assert!(
        order.is_sorted_by(|(_, one), (_, other)| one < other),
        "{order:?}"
    );
}

#[tokio::test]
async fn a_stop_is_found_when_the_doctor_says() {
    measured_as_said("stop", async |backend| {
        backend.kill();
        None
    })
    .await;
}

#[tokio::test]
async fn a_hang_is_found_when_the_doctor_says() {
    measured_as_said("hang", async |backend| {
        backend.hang();
        Some(backend)
    })
    .await;
}
