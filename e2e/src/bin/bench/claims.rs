//! The numbers to reach, and whether they were.

use crate::load::{Load, Series, find};
use crate::numbers::quantile;
use crate::subjects::{CONNECTIONS, OTHERS};

/// The largest wasm file, so that a ConfigMap (1 MiB) holds it with room to spare.
const WASM_BYTES: u64 = 230_000;

/// One number to reach.
pub struct Claim {
    pub what: String,
    pub limit: String,
    pub found: String,
    pub met: bool,
    /// Depends on the machine's speed: a quick run does not fail by it.
    pub timed: bool,
}

/// What a ratio may be.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}
use Limit::{AtLeast, AtMost};

/// A number of a load.
type Figure = fn(&Load) -> f64;

const P50: Figure = |load| load.p50;
const RATE: Figure = |load| load.per_second;
const CPU: Figure = |load| load.cpu;

/// What is claimed, subject, base, other clusters, connections, figure and limit.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    usize,
    usize,
    Figure,
    Limit,
);

const PROBES: [Row; 9] = [
    (
        "p50, snapshot at hand, against the built-in filter (max_age_ms 250)",
        "age_250",
        "built_in",
        0,
        1,
        P50,
        AtMost(1.15),
    ),
    (
        "p50, snapshot at hand, against the built-in filter (background)",
        "background",
        "built_in",
        0,
        1,
        P50,
        AtMost(1.15),
    ),
    (
        "requests per second, 50 connections, against the built-in filter (max_age_ms 250)",
        "age_250",
        "built_in",
        0,
        50,
        RATE,
        AtLeast(0.75),
    ),
    (
        "requests per second, 50 connections, against the built-in filter (background)",
        "background",
        "built_in",
        0,
        50,
        RATE,
        AtLeast(0.75),
    ),
    (
        "worker's CPU per probe, 50 connections, against the built-in filter (max_age_ms 250)",
        "age_250",
        "built_in",
        0,
        50,
        CPU,
        AtMost(1.45),
    ),
    (
        "worker's CPU per probe, 50 connections, against the built-in filter (background)",
        "background",
        "built_in",
        0,
        50,
        CPU,
        AtMost(1.45),
    ),
    (
        "p50 against the Lua script, small configuration",
        "age_250",
        "lua",
        0,
        1,
        P50,
        AtMost(0.4),
    ),
    (
        "p50 against the Lua script, 1000 other clusters",
        "age_250",
        "lua",
        1000,
        1,
        P50,
        AtMost(0.01),
    ),
    (
        "p50 of max_age_ms 0, one call as the Lua script makes, against it, small configuration",
        "age_0_no_drain",
        "lua",
        0,
        1,
        P50,
        AtMost(1.2),
    ),
];

/// The claims about the cost of a probe.
pub fn of_probes(all: &[Series]) -> Vec<Claim> {
    PROBES
        .iter()
        .map(|&(what, subject, base, others, connections, of, limit)| {
            let series = |name| find(all, name, others, connections);
            ratio(what, series(subject), series(base), of, limit)
        })
        .collect()
}

/// The claims about all other traffic.
pub fn of_traffic(all: &[Series]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for connections in CONNECTIONS {
        let series = |subject| find(all, subject, 0, connections);
        for (figure, of, limit) in [
            ("p50", P50, AtMost(1.02)),
            ("requests per second", RATE, AtLeast(0.98)),
        ] {
            let what = format!(
                "other traffic, filter per route, against none: {figure}, connections: {connections}"
            );
            let (filter, none) = (series("per_route"), series("none"));
            claims.push(ratio(&what, filter, none, of, limit));
        }
    }
    claims
}

/// The claims about answers and admin calls, which hold on any machine.
pub fn of_answers(all: &[Series]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for others in OTHERS {
        for subject in ["age_0", "age_250", "background"] {
            let rounds = CONNECTIONS
                .into_iter()
                .flat_map(|count| &find(all, subject, others, count).rounds);
            let (wrong, answers) = rounds.fold((0, 0), |(wrong, answers), load| {
                (wrong + load.wrong, answers + load.answers)
            });
            claims.push(Claim {
                what: format!("{subject}, {others} other clusters, backend up: wrong answers"),
                limit: "none".to_owned(),
                found: format!("{wrong} of {answers}"),
                met: wrong == 0 && answers > 0,
                timed: false,
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
                "50 probes at once, {others} other clusters: refreshes per worker and `max_age_ms`"
            ),
            limit: "at most 1".to_owned(),
            found: format!("{most:.2}"),
            met: most <= 1.0,
            timed: false,
        });
    }
    claims
}

/// The claim about the file.
pub fn of_size() -> Claim {
    let size = std::fs::metadata(e2e::wasm())
        .expect("the wasm is built")
        .len();
    Claim {
        what: "wasm file, bytes".to_owned(),
        limit: format!("at most {WASM_BYTES}"),
        found: size.to_string(),
        met: size <= WASM_BYTES,
        timed: false,
    }
}

/// The ratio of two subjects, round by round, against a limit.
fn ratio(what: &str, subject: &Series, base: &Series, of: Figure, limit: Limit) -> Claim {
    let rounds = subject.rounds.iter().zip(&base.rounds);
    let mut ratios: Vec<f64> = rounds.map(|(one, other)| of(one) / of(other)).collect();
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&mut ratios, share));
    let (met, limit) = match limit {
        AtMost(most) => (low <= most, format!("at most {most}")),
        AtLeast(least) => (high >= least, format!("at least {least}")),
    };
    Claim {
        what: what.to_owned(),
        limit,
        found: format!("{middle:.3} ({low:.3} to {high:.3})"),
        met,
        timed: true,
    }
}
