//! `make bench`: the filter, Envoy's own health_check filter and the Lua script, side by side.
//!
//! All subjects are listeners of one Envoy with one worker, measured in turn, round after round,
//! with `wrk`. Two are in nobody's way: the background refresh has an Envoy of its own, and the script
//! a new one each round, for with a thousand clusters it leaves minutes of work on the main thread. A claim is a ratio of two subjects within a round; it fails if the median of the
//! rounds misses its limit and so do three quarters of the rounds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::config::{
    bootstrap, cluster, health_check, healthz, listener_with_filters, listener_with_routes, lua,
    with_tcp_check,
};
use e2e::envoy::{Envoy, version};
use e2e::prober::Prober;
use e2e::{DEADLINE, TcpHost, eventually, free_port, root};
use plotters::prelude::*;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Measures the filter beside Envoy's own and the Lua script."
)]
struct Options {
    /// Few and short rounds; checks answers and admin calls, makes no claim about time, and writes
    /// to target/bench instead of docs.
    #[arg(long)]
    quick: bool,
}

/// What is measured.
const SUBJECTS: [(&str, &str); 7] = [
    ("floor", "direct response (the floor)"),
    ("built_in", "Envoy's health_check filter"),
    ("age_0", "envoy-healthz, max_age_ms 0"),
    ("age_0_no_drain", "the same without the drain check"),
    ("age_250", "envoy-healthz, max_age_ms 250"),
    ("background", "envoy-healthz, background 100 ms"),
    ("lua", "the Lua script"),
];

const OTHERS: [usize; 2] = [0, 1000];
const CONNECTIONS: [usize; 2] = [1, 50];

/// Those that have an Envoy of their own.
const ALONE: [&str; 2] = ["background", "lua"];

struct Plan {
    rounds: usize,
    seconds: u32,
    quick: bool,
    out: PathBuf,
}

/// What one run of `wrk` found; times in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    p50: f64,
    p99: f64,
    per_second: f64,
    answers: u64,
    /// Not 200, or none at all: the backend is up.
    wrong: u64,
    admin_calls: u64,
    seconds: f64,
}

/// The rounds of one subject under one load.
struct Series {
    subject: &'static str,
    others: usize,
    connections: usize,
    rounds: Vec<Load>,
}

/// A number of design.md, section 7.
struct Claim {
    what: String,
    limit: String,
    found: String,
    met: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let quick = Options::parse().quick;
    let out = if quick { "target/bench" } else { "docs" };
    let plan = Plan {
        rounds: if quick { 2 } else { 7 },
        seconds: if quick { 1 } else { 2 },
        quick,
        out: root().join(out),
    };
    std::fs::create_dir_all(&plan.out).expect("the folder can be made");

    let mut series = Vec::new();
    for others in OTHERS {
        series.extend(measure_probes(&plan, others).await);
    }
    let traffic = measure_traffic(&plan).await;
    let delays = measure_delays(&plan).await;
    let background = measure_background(&plan).await;
    let costs = measure_costs(&plan).await;

    let mut claims = claims(&series, &traffic);
    claims.push(background);
    claims.push(measure_memory(&plan).await);
    claims.extend(delay_claim(&delays));
    claims.push(size_claim());
    let report = report(&plan, &series, &traffic, &delays, &costs, &claims);
    std::fs::write(plan.out.join("bench.md"), &report).expect("the report can be written");
    plot_all(&plan.out, &series, &delays).expect("the plots can be drawn");
    println!("{report}");

    // In a quick run only what does not depend on time counts.
    let failed = claims
        .iter()
        .any(|claim| !claim.met && (!quick || claim.limit.contains("wrong")));
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The Envoy under test and where each subject listens.
struct Bench {
    envoy: Envoy,
    ports: Vec<(&'static str, u16)>,
}

impl Bench {
    /// With these subjects; together, all but those that are alone.
    async fn start(others: usize, backend: u16, wanted: impl Fn(&str) -> bool) -> Self {
        let admin = free_port();
        let ports: Vec<_> = SUBJECTS
            .iter()
            .filter(|(subject, _)| wanted(subject))
            .map(|(subject, _)| (*subject, free_port()))
            .collect();
        let mut clusters: Vec<_> = (0..others)
            .map(|index| {
                let hosts: Vec<_> = (1..6).map(|port| ("127.0.0.1", port)).collect();
                cluster(&format!("other_{index}"), &hosts)
            })
            .collect();
        clusters.push(with_tcp_check(cluster(
            "my_service",
            &[("127.0.0.1", backend)],
        )));
        let mut listeners = Vec::new();
        for (subject, port) in &ports {
            // A way to the admin of its own, so that its calls can be counted.
            let mut way = cluster(&format!("admin_{subject}"), &[("127.0.0.1", admin)]);
            way["alt_stat_name"] = json!(format!("admin_{subject}"));
            clusters.push(way);
            let filters = match *subject {
                "floor" => {
                    listeners.push(listener_with_routes(
                        *port,
                        vec![],
                        vec![ok_route("/healthz")],
                    ));
                    continue;
                }
                "built_in" => vec![health_check("/healthz", "my_service", 1.0)],
                "lua" => vec![lua("my_service", "admin_lua")],
                subject => vec![filter(subject)],
            };
            listeners.push(listener_with_filters(*port, filters));
        }
        let config = bootstrap(admin, listeners, clusters).to_string();
        let envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
        for (_, port) in &ports {
            // With a thousand clusters the script rarely manages an answer: one will do.
            Prober::http(*port).wait_for(200).await;
        }
        Self { envoy, ports }
    }

    async fn load(&self, subject: &str, connections: usize, seconds: u32) -> Load {
        let (_, port) = self
            .ports
            .iter()
            .find(|(name, _)| *name == subject)
            .expect("a subject");
        if subject == "lua" {
            let load = wrk(*port, "/healthz", connections, seconds);
            // A call a probe; the admin itself may be too busy to be asked.
            let admin_calls = load.answers;
            return Load {
                admin_calls,
                ..load
            };
        }
        let calls = format!("cluster.admin_{subject}.upstream_rq_total");
        let before = self.envoy.stat(&calls).await;
        let mut load = wrk(*port, "/healthz", connections, seconds);
        load.admin_calls = self.envoy.stat(&calls).await - before;
        load
    }
}

fn filter(subject: &str) -> Value {
    let mut config = json!({
        "admin_cluster": format!("admin_{subject}"),
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    });
    match subject {
        "age_0" => config["max_age_ms"] = json!(0),
        "age_0_no_drain" => {
            config["max_age_ms"] = json!(0);
            config["fail_when_draining"] = json!(false);
        }
        "background" => config["refresh_interval_ms"] = json!(100),
        _ => {}
    }
    healthz(&config)
}

fn ok_route(prefix: &str) -> Value {
    json!({"match": {"prefix": prefix}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}})
}

/// A series for each subject and number of connections.
fn unmeasured(subjects: &[(&'static str, &str)], others: usize) -> Vec<Series> {
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        all.extend(subjects.iter().map(|&(subject, _)| Series {
            subject,
            others,
            connections,
            rounds: Vec::new(),
        }));
    }
    all
}

async fn measure_probes(plan: &Plan, others: usize) -> Vec<Series> {
    let backend = free_port();
    let _host = TcpHost::start(backend).await;
    let together = Bench::start(others, backend, |subject| !ALONE.contains(&subject)).await;
    let background = Bench::start(others, backend, |subject| subject == "background").await;
    let mut all = unmeasured(&SUBJECTS, others);
    for round in 0..plan.rounds {
        for series in &mut all {
            // The claim about fifty probes is one about three seconds.
            let seconds = plan.seconds + u32::from(series.connections > 1 && !plan.quick);
            let load = match series.subject {
                "lua" => {
                    let script = Bench::start(others, backend, |subject| subject == "lua").await;
                    let load = script.load("lua", series.connections, seconds).await;
                    script.envoy.kill();
                    load
                }
                "background" => {
                    background
                        .load("background", series.connections, seconds)
                        .await
                }
                subject => together.load(subject, series.connections, seconds).await,
            };
            series.rounds.push(load);
        }
        eprintln!(
            "bench: {others} other clusters, round {} of {}",
            round + 1,
            plan.rounds
        );
    }
    all
}

const TRAFFIC: [(&str, &str); 3] = [
    ("none", "no filter"),
    ("every_route", "the filter on every route"),
    ("per_route", "the filter on the route of /healthz"),
];

/// Requests that are not probes, through Envoy to an upstream.
async fn measure_traffic(plan: &Plan) -> Vec<Series> {
    let (admin, upstream) = (free_port(), free_port());
    let ports = TRAFFIC.map(|(subject, _)| (subject, free_port()));
    let mut listeners = vec![listener_with_routes(upstream, vec![], vec![ok_route("/")])];
    for (subject, port) in ports {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
        let mut probe = ok_route("/healthz");
        let filters = match subject {
            "none" => vec![],
            "every_route" => vec![filter("traffic")],
            _ => {
                probe["typed_per_filter_config"] = json!({"envoy-healthz": {
                    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
                }});
                let mut filter = filter("traffic");
                filter["disabled"] = json!(true);
                vec![filter]
            }
        };
        listeners.push(listener_with_routes(port, filters, vec![probe, route]));
    }
    let clusters = vec![
        cluster("upstream", &[("127.0.0.1", upstream)]),
        cluster("admin_traffic", &[("127.0.0.1", admin)]),
        cluster("my_service", &[("127.0.0.1", upstream)]),
    ];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let _envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
    let mut all = unmeasured(&TRAFFIC, 0);
    for round in 0..2 * plan.rounds {
        // Turn about, so that whatever drifts on the machine meets each of them alike.
        let mut order: Vec<_> = (0..all.len()).collect();
        order.rotate_left(round % TRAFFIC.len());
        for index in order {
            let series = &mut all[index];
            let (_, port) = ports
                .iter()
                .find(|(name, _)| *name == series.subject)
                .expect("a port");
            series
                .rounds
                .push(wrk(*port, "/", series.connections, plan.seconds));
        }
        eprintln!(
            "bench: other traffic, round {} of {}",
            round + 1,
            2 * plan.rounds
        );
    }
    all
}

/// Runs `wrk` for so long; its own report is replaced by a line of numbers.
fn wrk(port: u16, path: &str, connections: usize, seconds: u32) -> Load {
    const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %f %f %d %f %d %d\n", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
"#;
    let script =
        std::env::temp_dir().join(format!("envoy-healthz-bench-{}.lua", std::process::id()));
    std::fs::write(&script, REPORT).expect("the script can be written");
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "10s",
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .expect("wrk runs");
    let _ = std::fs::remove_file(&script);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = line
        .unwrap_or_else(|| panic!("wrk says {text}"))
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let &[p50, p99, requests, microseconds, status, lost] = numbers.as_slice() else {
        panic!("wrk says {text}");
    };
    let seconds = microseconds / 1e6;
    Load {
        p50,
        p99,
        per_second: requests / seconds,
        answers: requests as u64,
        wrong: (status + lost) as u64,
        admin_calls: 0,
        seconds,
    }
}

/// From the backend's stop to the first 503 of each subject, in milliseconds, a list a round.
async fn measure_delays(plan: &Plan) -> Vec<(&'static str, Vec<f64>)> {
    let backend = free_port();
    let mut host = Some(TcpHost::start(backend).await);
    let bench = Bench::start(0, backend, |_| true).await;
    let ports = &bench.ports;
    let subjects = ["built_in", "age_0", "age_250", "background", "lua"];
    let mut delays: Vec<_> = subjects
        .iter()
        .map(|subject| (*subject, Vec::new()))
        .collect();
    for _ in 0..plan.rounds {
        for (_, port) in ports {
            Prober::http(*port).wait_for(200).await;
        }
        // A moment in the life of a snapshot that differs from round to round.
        tokio::time::sleep(Duration::from_millis(
            u64::from(std::process::id() % 97) + 130,
        ))
        .await;
        let pollers: Vec<_> = subjects
            .iter()
            .map(|subject| {
                let (_, port) = ports
                    .iter()
                    .find(|(name, _)| name == subject)
                    .expect("a port");
                let prober = Prober::http(*port);
                tokio::spawn(async move {
                    let begun = Instant::now();
                    while prober.get("/healthz").await.status != 503 {
                        assert!(begun.elapsed() < DEADLINE, "the stop is not seen");
                    }
                    Instant::now()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stopped = Instant::now();
        drop(host.take());
        for (poller, (_, delays)) in pollers.into_iter().zip(&mut delays) {
            let seen = poller.await.expect("a poller");
            delays.push(seen.saturating_duration_since(stopped).as_secs_f64() * 1e3);
        }
        host = Some(TcpHost::start(backend).await);
    }
    delays
}

/// Eight workers, and a refresh every 100 ms for all of them.
async fn measure_background(plan: &Plan) -> Claim {
    let (admin, port) = (free_port(), free_port());
    let clusters = vec![
        cluster("my_service", &[("127.0.0.1", admin)]),
        cluster("admin_background", &[("127.0.0.1", admin)]),
    ];
    let listeners = vec![listener_with_filters(port, vec![filter("background")])];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let envoy = Envoy::start_text(&config, admin, &["--concurrency", "8"]).await;
    let refreshes = "wasmcustom.envoy_healthz.refreshes.succeeded";
    eventually("it has begun", async || {
        (envoy.stat(refreshes).await > 3).then_some(())
    })
    .await;
    let (before, begun) = (envoy.stat(refreshes).await, Instant::now());
    let load = wrk(port, "/healthz", 50, if plan.quick { 2 } else { 10 });
    let made = envoy.stat(refreshes).await - before;
    let per_interval = made as f64 / (begun.elapsed().as_secs_f64() * 10.0);
    Claim {
        what: "background refresh, concurrency 8, 50 probers: refreshes a `refresh_interval_ms`"
            .to_owned(),
        limit: "at most 1.2, none wrong".to_owned(),
        found: format!(
            "{per_interval:.2}, {} wrong of {}",
            load.wrong, load.answers
        ),
        met: per_interval <= 1.2 && load.wrong == 0,
    }
}

/// The memory of the VM after ten thousand probes, and after a million.
async fn measure_memory(plan: &Plan) -> Claim {
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
        let answered = "wasmcustom.envoy_healthz.probes.200";
        while envoy.stat(answered).await < probes {
            wrk(port, "/healthz", 50, 1);
        }
        memory.push(envoy.stat("wasmcustom.envoy_healthz.vm_memory_bytes").await);
    }
    Claim {
        what: format!("memory of the VM after 10000 and after {last} probes, bytes"),
        limit: "the same, none wrong".to_owned(),
        found: format!("{} and {}", memory[0], memory[1]),
        met: memory[0] == memory[1],
    }
}

/// Start-up time in milliseconds and memory in MB: without, with the filter, with the script.
async fn measure_costs(plan: &Plan) -> Vec<(&'static str, f64, f64)> {
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

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let (low, high) = (
        values[place.floor() as usize],
        values[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

fn find<'a>(all: &'a [Series], subject: &str, others: usize, connections: usize) -> &'a Series {
    all.iter()
        .find(|series| {
            (series.subject, series.others, series.connections) == (subject, others, connections)
        })
        .expect("it was measured")
}

/// The ratio of two subjects, round by round, against a limit.
fn ratio(
    what: &str,
    (subject, base): (&Series, &Series),
    of: fn(&Load) -> f64,
    limit: f64,
    at_most: bool,
) -> Claim {
    let rounds = subject.rounds.iter().zip(&base.rounds);
    let mut ratios: Vec<f64> = rounds.map(|(one, other)| of(one) / of(other)).collect();
    let quartiles = [0.25, 0.5, 0.75].map(|share| quantile(&mut ratios, share));
    let best = if at_most { quartiles[0] } else { quartiles[2] };
    let met = if at_most {
        best <= limit
    } else {
        best >= limit
    };
    Claim {
        what: what.to_owned(),
        limit: format!("{} {limit}", if at_most { "at most" } else { "at least" }),
        found: format!(
            "{:.3} ({:.3} to {:.3})",
            quartiles[1], quartiles[0], quartiles[2]
        ),
        met,
    }
}

fn claims(all: &[Series], traffic: &[Series]) -> Vec<Claim> {
    let p50 = |load: &Load| load.p50;
    let rate = |load: &Load| load.per_second;
    let pair = |subject: &str, base: &str, others, connections| {
        (
            find(all, subject, others, connections),
            find(all, base, others, connections),
        )
    };
    let mut claims = vec![
        ratio(
            "p50, snapshot at hand, against the built-in filter (max_age_ms 250)",
            pair("age_250", "built_in", 0, 1),
            p50,
            1.3,
            true,
        ),
        ratio(
            "p50, snapshot at hand, against the built-in filter (background)",
            pair("background", "built_in", 0, 1),
            p50,
            1.3,
            true,
        ),
        ratio(
            "requests per second, 50 connections, against the built-in filter (max_age_ms 250)",
            pair("age_250", "built_in", 0, 50),
            rate,
            0.75,
            false,
        ),
        ratio(
            "requests per second, 50 connections, against the built-in filter (background)",
            pair("background", "built_in", 0, 50),
            rate,
            0.75,
            false,
        ),
        ratio(
            "p50 against the Lua script, small configuration",
            pair("age_250", "lua", 0, 1),
            p50,
            0.4,
            true,
        ),
        ratio(
            "p50 against the Lua script, 1000 other clusters",
            pair("age_250", "lua", 1000, 1),
            p50,
            0.01,
            true,
        ),
        ratio(
            "p50 of max_age_ms 0, one call as the Lua script makes, against it, small configuration",
            pair("age_0_no_drain", "lua", 0, 1),
            p50,
            1.2,
            true,
        ),
    ];
    for connections in CONNECTIONS {
        let traffic = |subject: &str| find(traffic, subject, 0, connections);
        let pair = (traffic("per_route"), traffic("none"));
        claims.push(ratio(
            &format!(
                "other traffic, filter per route, against none: p50, {connections} connections"
            ),
            pair,
            p50,
            1.02,
            true,
        ));
        claims.push(ratio(&format!("other traffic, filter per route, against none: requests per second, {connections} connections"), pair, rate, 0.98, false));
    }
    for others in OTHERS {
        for subject in ["age_0", "age_250", "background"] {
            let rounds = || {
                CONNECTIONS
                    .into_iter()
                    .flat_map(|count| &find(all, subject, others, count).rounds)
            };
            let wrong: u64 = rounds().map(|load| load.wrong).sum();
            let answers: u64 = rounds().map(|load| load.answers).sum();
            claims.push(Claim {
                what: format!("{subject}, {others} other clusters, backend up: wrong answers"),
                limit: "none wrong".to_owned(),
                found: format!("{wrong} of {answers}"),
                met: wrong == 0 && answers > 0,
            });
        }
        // A refresh is two calls, /clusters and /ready.
        let flood = &find(all, "age_250", others, 50).rounds;
        let most = flood
            .iter()
            .map(|load| load.admin_calls as f64 / 2.0 / (load.seconds * 4.0 + 1.0))
            .fold(0.0, f64::max);
        claims.push(Claim {
            what: format!(
                "50 probes at once, {others} other clusters: refreshes a worker and `max_age_ms`"
            ),
            limit: "at most 1, none wrong".to_owned(),
            found: format!("{most:.2}"),
            met: most <= 1.0,
        });
    }
    claims
}

/// The first 503 of each subject, measured from that of the built-in filter, which shows Envoy's
/// own detection.
fn delay_claim(delays: &[(&str, Vec<f64>)]) -> Vec<Claim> {
    let of = |name: &str| {
        &delays
            .iter()
            .find(|(subject, _)| *subject == name)
            .expect("measured")
            .1
    };
    let detection = of("built_in");
    [("age_0", 0.0), ("age_250", 250.0), ("background", 250.0)]
        .into_iter()
        .map(|(subject, max_age)| {
            let mut later: Vec<f64> = of(subject)
                .iter()
                .zip(detection)
                .map(|(one, other)| one - other)
                .collect();
            let typical = quantile(&mut later, 0.75);
            Claim {
                what: format!(
                    "backend stops: first 503 of {subject} after Envoy's own detection, ms"
                ),
                limit: format!("at most {}", max_age + 100.0),
                found: format!(
                    "{:.0} (at worst {:.0})",
                    quantile(&mut later, 0.5),
                    quantile(&mut later, 1.0)
                ),
                met: typical <= max_age + 100.0,
            }
        })
        .collect()
}

fn size_claim() -> Claim {
    let size = std::fs::metadata(e2e::wasm())
        .expect("the wasm is built")
        .len();
    Claim {
        what: "wasm file, bytes".to_owned(),
        limit: "at most 250000".to_owned(),
        found: size.to_string(),
        met: size <= 250_000,
    }
}

fn report(
    plan: &Plan,
    series: &[Series],
    traffic: &[Series],
    delays: &[(&str, Vec<f64>)],
    costs: &[(&str, f64, f64)],
    claims: &[Claim],
) -> String {
    let mut text = String::from("# Benchmark\n\n");
    let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = machine
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let _ = writeln!(
        text,
        "Made by `make bench` on {} with Envoy {}, one worker, on {cores} shared cores of {}. \
         {} rounds of {} s (3 s with 50 connections), in turn; medians, and the quartiles in brackets. \
         Absolute times are this machine's; the ratios are what is claimed.\n",
        jiff::Zoned::now().strftime("%Y-%m-%d"),
        version(),
        model.unwrap_or("an unknown kind"),
        plan.rounds,
        plan.seconds,
    );
    let _ = writeln!(
        text,
        "## Claims\n\n| what | reach | found | |\n|---|---|---|---|"
    );
    for claim in claims {
        let met = if claim.met { "met" } else { "**missed**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {met} |",
            claim.what, claim.limit, claim.found
        );
    }
    let _ = writeln!(
        text,
        "\n## Probes\n\n| other clusters | connections | | p50 µs | p99 µs | requests/s | wrong answers | admin calls/s |\n|---|---|---|---|---|---|---|---|"
    );
    for series in series {
        let _ = writeln!(text, "| {} {}", series.others, row(series, &SUBJECTS, true));
    }
    let _ = writeln!(
        text,
        "\n## Other traffic\n\n| connections | | p50 µs | p99 µs | requests/s |\n|---|---|---|---|---|"
    );
    for series in traffic {
        let _ = writeln!(text, "{}", row(series, &TRAFFIC, false));
    }
    let _ = writeln!(
        text,
        "\n## From the backend's stop to the first 503\n\nHealth checks every 100 ms.\n\n| | ms, median | at worst |\n|---|---|---|"
    );
    for (subject, delays) in delays {
        let mut delays = delays.clone();
        let (typical, worst) = (quantile(&mut delays, 0.5), quantile(&mut delays, 1.0));
        let _ = writeln!(
            text,
            "| {} | {typical:.0} | {worst:.0} |",
            name(&SUBJECTS, subject)
        );
    }
    let _ = writeln!(
        text,
        "\n## Cost\n\n| | start-up ms | resident MB |\n|---|---|---|"
    );
    for (name, start, memory) in costs {
        let _ = writeln!(text, "| {name} | {start:.0} | {memory:.0} |");
    }
    text
}

fn row(series: &Series, names: &[(&str, &str)], probes: bool) -> String {
    let of = |value: fn(&Load) -> f64| median(series.rounds.iter().map(value).collect());
    let mut row = format!(
        "| {} | {} | {:.0} | {:.0} | {:.0} |",
        series.connections,
        name(names, series.subject),
        of(|load| load.p50),
        of(|load| load.p99),
        of(|load| load.per_second),
    );
    if probes {
        let wrong: u64 = series.rounds.iter().map(|load| load.wrong).sum();
        let answers: u64 = series.rounds.iter().map(|load| load.answers).sum();
        let calls = of(|load| load.admin_calls as f64 / load.seconds);
        let _ = write!(row, " {wrong} of {answers} | {calls:.0} |");
    }
    row
}

fn name<'a>(names: &[(&str, &'a str)], subject: &str) -> &'a str {
    names
        .iter()
        .find(|(key, _)| *key == subject)
        .map_or("", |(_, name)| name)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn plot_all(out: &Path, series: &[Series], delays: &[(&str, Vec<f64>)]) -> Drawn {
    let bars = |connections: usize, of: fn(&Load) -> f64| -> Vec<(&str, Vec<f64>)> {
        SUBJECTS
            .iter()
            .map(|(subject, name)| {
                let values = OTHERS
                    .iter()
                    .map(|&others| {
                        let rounds = &find(series, subject, others, connections).rounds;
                        median(rounds.iter().map(of).collect())
                    })
                    .collect();
                (*name, values)
            })
            .collect()
    };
    let groups = ["no other clusters", "1000 other clusters of 5 hosts"];
    let latency = bars(1, |load| load.p50);
    plot(
        &out.join("latency.svg"),
        "p50 of a probe, one connection, µs (log scale)",
        &latency,
        &groups,
    )?;
    let rate = bars(50, |load| load.per_second);
    plot(
        &out.join("rate.svg"),
        "probes answered a second, 50 connections (log scale)",
        &rate,
        &groups,
    )?;
    let wrong = bars(50, |load| {
        0.1 + 100.0 * load.wrong as f64 / load.answers.max(1) as f64
    });
    plot(
        &out.join("wrong.svg"),
        "wrong answers, 50 connections, % (log scale; 0.1 is none)",
        &wrong,
        &groups,
    )?;
    let delays: Vec<_> = delays
        .iter()
        .map(|(subject, delays)| (name(&SUBJECTS, subject), vec![median(delays.clone())]))
        .collect();
    plot(
        &out.join("detection.svg"),
        "from the backend's stop to the first 503, ms (log scale)",
        &delays,
        &["checks every 100 ms"],
    )
}

/// Horizontal bars on a log scale, a group a row.
fn plot(path: &Path, title: &str, rows: &[(&str, Vec<f64>)], groups: &[&str]) -> Drawn {
    const COLORS: [RGBColor; 2] = [RGBColor(49, 104, 142), RGBColor(253, 141, 60)];
    let height = 90 + 44 * rows.len() as u32;
    let area = SVGBackend::new(path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let values = || rows.iter().flat_map(|(_, values)| values).copied();
    let (low, high) = (
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
    );
    let range = (low / 2.0..high * 3.0).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(26)
        .y_label_area_size(250)
        .build_cartesian_2d(range, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|value| format!("{value}"))
        .draw()?;
    let thick = 0.8 / groups.len() as f64;
    for (index, (name, values)) in rows.iter().enumerate() {
        let top = (rows.len() - index) as f64 - 0.1;
        let middle = chart.backend_coord(&(low / 2.0, top - 0.4));
        let style = ("sans-serif", 14).into_font();
        area.draw(&Text::new(name.to_string(), (16, middle.1 - 7), style))?;
        for (group, value) in values.iter().enumerate() {
            let (from, to) = (
                top - thick * group as f64,
                top - thick * (group as f64 + 0.9),
            );
            let bar = Rectangle::new([(low / 2.0, to), (*value, from)], COLORS[group].filled());
            chart.draw_series([bar])?;
            let end = chart.backend_coord(&(*value, (from + to) / 2.0));
            let label = if *value < 10.0 {
                format!("{value:.1}")
            } else {
                format!("{value:.0}")
            };
            area.draw(&Text::new(
                label,
                (end.0 + 4, end.1 - 6),
                ("sans-serif", 12).into_font(),
            ))?;
        }
    }
    if groups.len() > 1 {
        for (group, name) in groups.iter().enumerate() {
            let y = 34 + 15 * group as i32;
            area.draw(&Rectangle::new(
                [(600, y), (612, y + 10)],
                COLORS[group].filled(),
            ))?;
            area.draw(&Text::new(
                name.to_string(),
                (618, y),
                ("sans-serif", 12).into_font(),
            ))?;
        }
    }
    area.present()?;
    Ok(())
}
