//! `make soak`: everything at once, for a while, with each build of the filter. Probers over TLS and in the clear, on connections
//! that stay and on new ones, clients that leave, floods, a gRPC backend that is stopped, killed,
//! hung and made unhealthy at random, and updates of the listeners with the filter's configuration.
//!
//! Ends with 0 only if no answer was wrong, no probe was left without one, and memory and file
//! descriptors did not grow.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::backend::Backend;
use e2e::config::{Config, cluster, health_check, listener, with_grpc_check, with_tls};
use e2e::envoy::{Envoy, version};
use e2e::prober::Prober;
use e2e::truth::{Sampler, Seen, Truth};
use e2e::xds::Lds;
use e2e::{Build, free_port};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Probes, floods, flaps and updates for a while."
)]
struct Options {
    /// How long with each build, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

const MAX_AGE: Duration = Duration::from_millis(250);
/// Between two probes of a prober.
const PAUSE: Duration = Duration::from_millis(25);
/// How often the listeners are updated.
const UPDATE: Duration = Duration::from_secs(5);
/// How often a flood begins, how long it lasts and how many probers it has.
const FLOOD: (Duration, Duration, usize) = (Duration::from_secs(20), Duration::from_secs(3), 50);
/// How often the process is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// What all tasks know.
struct Soak {
    build: Build,
    tls: u16,
    clear: u16,
    built_in: u16,
    stop: Arc<AtomicBool>,
    leavers: AtomicU32,
    updates: AtomicU32,
    changes: AtomicU32,
}

/// The process at one moment.
#[derive(Clone, Copy)]
struct Measure {
    resident_mb: f64,
    /// What Envoy has allocated on its heap.
    allocated_mb: f64,
    vm_kib: u64,
    descriptors: usize,
}

impl Soak {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps, but not after the end.
    async fn rest(&self, time: Duration) {
        let begun = Instant::now();
        while self.goes_on() && begun.elapsed() < time {
            let left = time.saturating_sub(begun.elapsed());
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Asks and does not wait for the answer.
    async fn leave(self: Arc<Self>) -> Vec<Seen> {
        while self.goes_on() {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.clear)).await
            {
                let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
                if stream.write_all(request).await.is_ok() {
                    self.leavers.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Vec::new()
    }

    /// Many at once, without a pause, now and then.
    async fn flood(self: Arc<Self>) -> Vec<Seen> {
        let (every, length, count) = FLOOD;
        let mut seen = Vec::new();
        while self.goes_on() {
            let begun = Instant::now();
            let mut flood = JoinSet::new();
            for _ in 0..count {
                let clear = self.clear;
                flood.spawn(async move {
                    let mut seen = Vec::new();
                    while begun.elapsed() < length {
                        let prober = Prober::http(clear);
                        for _ in 0..20 {
                            seen.push(Seen::probe(&prober).await);
                        }
                    }
                    seen
                });
            }
            for answers in flood.join_all().await {
                seen.extend(answers);
            }
            self.rest(every.saturating_sub(begun.elapsed())).await;
        }
        seen
    }

    /// Stops, kills and hangs the backend and changes its health, at random times.
    async fn change_backend(&self, port: u16) {
        let pause = async || {
            self.rest(Duration::from_millis(fastrand::u64(50..3050)))
                .await;
        };
        while self.goes_on() {
            let backend = Backend::start(port).await;
            pause().await;
            self.changes.fetch_add(1, Ordering::Relaxed);
            match fastrand::u8(..4) {
                0 => backend.stop(),
                1 => backend.kill(),
                2 => {
                    backend.hang();
                    pause().await;
                    backend.go_on();
                    pause().await;
                }
                _ => {
                    backend.turn_health_over();
                    pause().await;
                    backend.turn_health_over();
                    pause().await;
                }
            }
            pause().await;
        }
    }

    /// Gives Envoy the listeners anew, with another configuration of the filter.
    async fn update(self: Arc<Self>, lds: Lds) -> Vec<Seen> {
        while self.goes_on() {
            self.rest(UPDATE).await;
            let update = self.updates.fetch_add(1, Ordering::Relaxed) + 1;
            lds.replace(self.listeners(update));
        }
        Vec::new()
    }

    fn listeners(&self, update: u32) -> Vec<Value> {
        let config = |refresh: bool| {
            let mut config = json!({
                "max_age_ms": MAX_AGE.as_millis() as u64,
                "endpoints": [
                    {"path": "/healthz", "clusters": ["my_service"]},
                    // No two updates alike: what a configuration leaves behind adds up.
                    {"path": format!("/update/{update}"), "clusters": []},
                ],
            });
            if refresh {
                config["refresh_interval_ms"] = json!(100);
            }
            config
        };
        vec![
            with_tls(self.build.listener(self.tls, &config(false))),
            self.build.listener(self.clear, &config(true)),
        ]
    }

    async fn start_envoy(&self, backend: u16) -> (Envoy, Lds) {
        let built_in = listener(self.built_in, [health_check("/healthz", "my_service", 1.0)]);
        let mut my_service = with_grpc_check(cluster("my_service", &[backend]));
        // Otherwise workers, and with them the module, know of a change up to a second after Envoy's own
        // filter.
        my_service["common_lb_config"]["update_merge_window"] = json!("0s");
        let lds = Lds::new(self.listeners(0));
        let config = Config::new().lds(&lds).listener(built_in);
        let config = config.cluster(my_service);
        // Listeners that were replaced are gone before the next update.
        let envoy = config.start_with(&["--drain-time-s", "2"]).await;
        (envoy, lds)
    }
}

async fn measure(envoy: &Envoy) -> Measure {
    let memory = "wasmcustom.envoy_healthz.vm_memory_bytes";
    let allocated = envoy.stat("server.memory_allocated").await;
    Measure {
        resident_mb: envoy.resident_mb(),
        allocated_mb: allocated as f64 / 1024.0 / 1024.0,
        vm_kib: envoy.stat(memory).await / 1024,
        descriptors: envoy.descriptors(),
    }
}

/// The median of each quarter.
fn quarters<T: Copy + PartialOrd>(measures: &[Measure], value: fn(&Measure) -> T) -> [T; 4] {
    let quarter = measures.len() / 4;
    [0, 1, 2, 3].map(|nth| {
        let part = &measures[nth * quarter..(nth + 1) * quarter];
        let mut values: Vec<T> = part.iter().map(value).collect();
        values.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
        values[values.len() / 2]
    })
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let length = Duration::from_secs_f64(Options::parse().minutes * 60.0);
    let mut good = true;
    for build in [Build::Wasm, Build::Module] {
        good &= soak(build, length).await;
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one build for this long; says whether all was well.
async fn soak(build: Build, length: Duration) -> bool {
    let backend = free_port();
    let soak = Arc::new(Soak {
        build,
        tls: free_port(),
        clear: free_port(),
        built_in: free_port(),
        stop: Arc::new(AtomicBool::new(false)),
        leavers: AtomicU32::new(0),
        updates: AtomicU32::new(0),
        changes: AtomicU32::new(0),
    });
    let (envoy, lds) = soak.start_envoy(backend).await;
    let (tls, clear) = (soak.tls, soak.clear);
    let http1 = move || Prober::http(clear);
    let http2 = move || Prober::https2(tls);

    let begun = Instant::now();
    let sampler = Sampler::start(Prober::http(soak.built_in)).await;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        for prober in [http1(), http2()] {
            let stays = move || prober.clone();
            tasks.spawn(Seen::keep_probing(stays, PAUSE, Arc::clone(&soak.stop)));
        }
    }
    tasks.spawn(Seen::keep_probing(http1, PAUSE, Arc::clone(&soak.stop)));
    tasks.spawn(Seen::keep_probing(http2, PAUSE, Arc::clone(&soak.stop)));
    tasks.spawn(Arc::clone(&soak).leave());
    tasks.spawn(Arc::clone(&soak).flood());
    tasks.spawn(Arc::clone(&soak).update(lds));
    let measuring = async {
        let mut measures = Vec::new();
        while begun.elapsed() < length {
            measures.push(measure(&envoy).await);
            tokio::time::sleep(MEASURE).await;
        }
        soak.stop.store(true, Ordering::Relaxed);
        measures
    };
    let (measures, ()) = tokio::join!(measuring, soak.change_backend(backend));
    let answers: Vec<Seen> = tasks.join_all().await.into_iter().flatten().collect();
    let truth = sampler.stop().await;
    report(&soak, &envoy, begun.elapsed(), &answers, &truth, &measures)
}

/// Prints the figures, and whether they are good.
fn report(
    soak: &Soak,
    envoy: &Envoy,
    took: Duration,
    answers: &[Seen],
    truth: &Truth,
    measures: &[Measure],
) -> bool {
    let count = |status| {
        let of_this = |answer: &&Seen| answer.status == status;
        answers.iter().filter(of_this).count()
    };
    let answered = answers.iter().filter(|answer| answer.status.is_some());
    let judged = truth.judge(answered.copied(), MAX_AGE);
    let unanswered = count(None);
    let number = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    println!(
        "soak: {:?}, {:.1} min, Envoy {}",
        soak.build,
        took.as_secs_f64() / 60.0,
        version()
    );
    println!(
        "probes: {}: {} times 200, {} times 503, {unanswered} unanswered, {} wrong, {} with no sample \
         to compare with",
        answers.len(),
        count(Some(200)),
        count(Some(503)),
        judged.wrong.len(),
        judged.unknown
    );
    println!(
        "meanwhile: {} clients that left, {} listener updates, {} changes of the backend, {} of its \
         health",
        number(&soak.leavers),
        number(&soak.updates),
        number(&soak.changes),
        truth.changes()
    );
    let resident = quarters(measures, |measure| measure.resident_mb);
    let allocated = quarters(measures, |measure| measure.allocated_mb);
    let vm = quarters(measures, |measure| measure.vm_kib);
    let descriptors = quarters(measures, |measure| measure.descriptors);
    println!("the median of each quarter:");
    println!("  resident memory, MiB: {resident:.1?}");
    println!("  allocated by Envoy, MiB: {allocated:.1?}");
    if soak.build == Build::Wasm {
        println!("  VM memory, KiB: {vm:?}");
    }
    println!("  file descriptors: {descriptors:?}");

    let mut faults = Vec::from_iter(judged.fault());
    if unanswered > 0 {
        faults.push(format!("{unanswered} probes had no answer"));
    }
    if answers.is_empty() || truth.changes() == 0 || number(&soak.updates) == 0 {
        faults.push("too short: nothing changed, or no listener was updated".to_owned());
    }
    // What is there to grow has grown by the second quarter, up to the allocator's own to and fro.
    let [_, early, _, late] = resident;
    if late > early * 1.05 {
        faults.push("resident memory grew".to_owned());
    }
    let [_, early, _, late] = vm;
    if late > early {
        faults.push("VM memory grew".to_owned());
    }
    let [_, early, _, late] = descriptors;
    if late > early + 10 {
        faults.push("file descriptors grew".to_owned());
    }
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    if !faults.is_empty() {
        println!("--- Envoy's log\n{}---", envoy.log());
    }
    faults.is_empty()
}
