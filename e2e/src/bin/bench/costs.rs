//! Start-up time and memory, and what a worker's snapshots cost whatever the load.

use std::time::Instant;

use e2e::eventually;
use e2e::prober::probe_at_once;

use crate::Plan;
use crate::load::load;
use crate::statistics::median;
use crate::subjects::start_alone;

const REFRESHES: &str = "wasmcustom.envoy_healthz.refreshes.filter.background.result.succeeded";
const PROBES: &str = "wasmcustom.envoy_healthz.probes.filter.age_0.code.200.path./healthz";
const MEMORY: &str = "wasmcustom.envoy_healthz.vm_memory_bytes";

const SUBJECTS: [(&str, &str); 4] = [
    ("none", "no filter"),
    ("age_250", "envoy-healthz"),
    ("module", "the native module"),
    ("lua", "the Lua script"),
];
const WORKERS: [usize; 3] = [1, 8, 32];

/// What an Envoy with so many workers costs.
pub struct Cost {
    pub name: &'static str,
    pub workers: usize,
    /// Until it is live, in milliseconds.
    pub start: f64,
    /// Resident, in MiB.
    pub memory: f64,
    /// How much more than without a filter, in MiB.
    pub more: f64,
}

pub async fn measure(plan: &Plan) -> Vec<Cost> {
    let mut costs = Vec::new();
    for workers in WORKERS {
        let mut without = None;
        for (subject, name) in SUBJECTS {
            let (mut starts, mut memories) = (Vec::new(), Vec::new());
            for _ in 0..plan.rounds.min(5) {
                let begun = Instant::now();
                let envoy = start_alone(subject, workers).await;
                let port = envoy.port;
                starts.push(begun.elapsed().as_secs_f64() * 1e3);
                probe_at_once(port, 8 * workers).await;
                memories.push(envoy.resident_mb());
            }
            let memory = median(memories);
            costs.push(Cost {
                name,
                workers,
                start: median(starts),
                memory,
                more: memory - *without.get_or_insert(memory),
            });
        }
        eprintln!("bench: start-up and memory with {workers} workers");
    }
    costs
}

/// What a background refresh made with eight workers under load.
pub struct Background {
    /// Refreshes of the whole process in one `refresh_interval_ms`.
    pub per_interval: f64,
    pub wrong: u64,
    pub answers: u64,
}

pub async fn background(plan: &Plan) -> Background {
    let envoy = start_alone("background", 8).await;
    let port = envoy.port;
    eventually("it has begun", async || {
        (envoy.stat(REFRESHES).await > 3).then_some(())
    })
    .await;
    let (before, begun) = (envoy.stat(REFRESHES).await, Instant::now());
    let seconds = if plan.quick { 2 } else { 10 };
    let load = load(&envoy, port, "/healthz", 50, seconds);
    let made = envoy.stat(REFRESHES).await - before;
    Background {
        per_interval: made as f64 / (begun.elapsed().as_secs_f64() * 10.0),
        wrong: load.wrong,
        answers: load.answers,
    }
}

/// The memory of the VM after so many probes, each with a snapshot of its own or of those beside it.
pub struct Growth {
    /// The number of probes, and bytes.
    pub early: (u64, u64),
    pub late: (u64, u64),
}

pub async fn growth(plan: &Plan) -> Growth {
    let envoy = start_alone("age_0", 1).await;
    let port = envoy.port;
    let after = async |probes: u64| {
        while envoy.stat(PROBES).await < probes {
            load(&envoy, port, "/healthz", 50, 1);
        }
        (probes, envoy.stat(MEMORY).await)
    };
    Growth {
        early: after(10_000).await,
        late: after(if plan.quick { 50_000 } else { 1_000_000 }).await,
    }
}
