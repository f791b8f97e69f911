//! What the filter costs its Envoy: refreshes, memory, start-up.

use std::time::Instant;

use e2e::config::{bootstrap, cluster, listener_with_filters, listener_with_routes, lua};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{eventually, free_port};
use serde_json::Value;

use crate::Plan;
use crate::claims::Claim;
use crate::load::wrk;
use crate::numbers::median;
use crate::subjects::{filter, ok_route};

/// Eight workers, and a refresh every 100 ms for all of them.
pub async fn measure_background(plan: &Plan) -> Claim {
    let (admin, port) = (free_port(), free_port());
    let clusters = vec![
        cluster("my_service", &[("127.0.0.1", admin)]),
        cluster("admin_background", &[("127.0.0.1", admin)]),
    ];
    let listeners = vec![listener_with_filters(port, vec![filter("background")])];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let envoy = Envoy::start_text(&config, admin, &["--concurrency", "8"]).await;
    let refreshes = "wasmcustom.envoy_healthz.refreshes.filter.background.result.succeeded";
    eventually("it has begun", async || {
        (envoy.stat(refreshes).await > 3).then_some(())
    })
    .await;
    let (before, begun) = (envoy.stat(refreshes).await, Instant::now());
    let load = wrk(port, "/healthz", 50, if plan.quick { 2 } else { 10 });
    let made = envoy.stat(refreshes).await - before;
    let per_interval = made as f64 / (begun.elapsed().as_secs_f64() * 10.0);
    Claim {
        what: "background refresh, concurrency 8, 50 probers: refreshes per `refresh_interval_ms`"
            .to_owned(),
        limit: "at most 1.2, no wrong answer".to_owned(),
        found: format!(
            "{per_interval:.2}, {} wrong of {}",
            load.wrong, load.answers
        ),
        met: per_interval <= 1.2 && load.wrong == 0,
        timed: false,
    }
}

/// The memory of the VM after ten thousand probes, and after a million.
pub async fn measure_vm(plan: &Plan) -> Claim {
    let (admin, port) = (free_port(), free_port());
    let clusters = vec![
        cluster("my_service", &[("127.0.0.1", admin)]),
        cluster("admin_age_0", &[("127.0.0.1", admin)]),
    ];
    let listeners = vec![listener_with_filters(port, vec![filter("age_0")])];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
    let last = if plan.quick { 50_000 } else { 1_000_000 };
    let mut memory = Vec::new();
    for probes in [10_000, last] {
        let answered = "wasmcustom.envoy_healthz.probes.filter.age_0.code.200.path./healthz";
        while envoy.stat(answered).await < probes {
            wrk(port, "/healthz", 50, 1);
        }
        memory.push(envoy.stat("wasmcustom.envoy_healthz.vm_memory_bytes").await);
    }
    Claim {
        what: format!("memory of the VM after 10000 and after {last} probes, bytes"),
        limit: "the same".to_owned(),
        found: format!("{} and {}", memory[0], memory[1]),
        met: memory[0] == memory[1],
        timed: false,
    }
}

/// Start-up time in milliseconds and memory in MB: without, with the filter, with the script.
pub async fn measure_start_up(plan: &Plan) -> Vec<(&'static str, f64, f64)> {
    let mut costs = Vec::new();
    for (name, subject) in [
        ("no filter", "none"),
        ("envoy-healthz", "age_250"),
        ("the Lua script", "lua"),
    ] {
        let (mut starts, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds.min(5) {
            let (admin, port) = (free_port(), free_port());
            let filters = match subject {
                "none" => vec![],
                "lua" => vec![lua("my_service", "admin_lua")],
                subject => vec![filter(subject)],
            };
            let clusters = vec![
                cluster("my_service", &[("127.0.0.1", admin)]),
                cluster(&format!("admin_{subject}"), &[("127.0.0.1", admin)]),
            ];
            let listeners = vec![listener_with_filters(port, filters)];
            let config = bootstrap(admin, listeners, clusters).to_string();
            let begun = Instant::now();
            let envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
            starts.push(begun.elapsed().as_secs_f64() * 1e3);
            for _ in 0..100 {
                Prober::http(port).get("/healthz").await;
            }
            memory.push(envoy.resident_mb());
        }
        costs.push((name, median(starts), median(memory)));
    }
    costs
}

/// Workers that [`measure_workers`] tries.
const WORKERS: [usize; 3] = [1, 8, 32];

/// Envoy's memory at a number of workers, in MiB.
pub struct Memory {
    pub workers: usize,
    pub without: f64,
    pub with: f64,
}

/// Memory with and without the filter, after each worker has had probes and so has made its VM.
pub async fn measure_workers(plan: &Plan) -> Vec<Memory> {
    let mut all = Vec::new();
    for workers in WORKERS {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds.min(3) {
            without.push(resident(workers, vec![]).await);
            with.push(resident(workers, vec![filter("age_250")]).await);
        }
        all.push(Memory {
            workers,
            without: median(without),
            with: median(with),
        });
    }
    all
}

/// The memory of an Envoy with these filters that has answered on many connections.
async fn resident(workers: usize, filters: Vec<Value>) -> f64 {
    let (admin, port) = (free_port(), free_port());
    let clusters = vec![
        cluster("my_service", &[("127.0.0.1", admin)]),
        cluster("admin_age_250", &[("127.0.0.1", admin)]),
    ];
    let listeners = vec![listener_with_routes(
        port,
        filters,
        vec![ok_route("/healthz")],
    )];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let concurrency = workers.to_string();
    let envoy = Envoy::start_text(&config, admin, &["--concurrency", &concurrency]).await;
    // The kernel spreads connections over the workers: with so many, none is left out.
    wrk(port, "/healthz", 16 * workers, 1);
    envoy.resident_mb()
}
