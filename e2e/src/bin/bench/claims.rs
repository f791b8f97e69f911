//! The goals, and whether they are met.

use std::fmt;

use Limit::{AtLeast, AtMost};

use crate::busy::{Busy, SUBJECTS};
use crate::costs::{Background, Growth};
use crate::load::{CONNECTIONS, Load, Series, find};
use crate::probes::OTHERS;
use crate::statistics::{median, quantile, worst};
use crate::{Found, Plan};

pub struct Claim {
    pub what: String,
    pub goal: String,
    pub found: String,
    pub met: bool,
}

/// A number that a ratio must reach.
#[derive(Debug, Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// What is compared of two loads.
type Measure = (&'static str, fn(&Load) -> f64);

const P50: Measure = ("p50", |load| load.p50);
const RATE: Measure = ("answers a second", |load| load.per_second);
const CPU: Measure = ("worker's CPU an answer", |load| load.cpu);

/// A limit for a ratio of two subjects.
struct Goal {
    subject: &'static str,
    base: &'static str,
    others: usize,
    connections: usize,
    measure: Measure,
    limit: Limit,
}

/// Those about a snapshot at hand, of both ways to have one.
const AT_HAND: [&str; 2] = ["age_250", "background"];

/// The wasm file, in bytes.
const SIZE: u64 = 230_000;

/// The slowest probe while the main thread is busy, in milliseconds.
const SLOWEST: f64 = 500.0;

/// The same with the module, which does not need that thread.
const SLOWEST_MODULE: f64 = 50.0;

/// All of them; in a quick run, those that do not depend on time. Instructions do a little: counts are handed
/// over by the clock.
pub fn all(plan: &Plan, found: &Found) -> Vec<Claim> {
    let mut claims = Vec::new();
    if !plan.quick {
        claims.extend(goals().iter().map(|goal| goal.check(&found.probes)));
        let traffic = traffic_goals();
        claims.extend(traffic.iter().map(|goal| goal.check(&found.traffic)));
        claims.extend(check_goals().iter().map(|goal| goal.check(&found.checks)));
        claims.extend(detection(&found.delays));
        claims.extend(busy(&found.busy));
        claims.extend(instructions(&found.instructions));
    }
    claims.extend(wrong_answers(&found.probes));
    claims.push(wrong_checks(&found.checks));
    claims.extend(refreshes(&found.probes));
    claims.push(background(&found.background));
    claims.push(growth(&found.growth));
    claims.push(size());
    claims
}

fn goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    for subject in AT_HAND {
        goals.push(Goal::one(subject, "built_in", P50, AtMost(1.15)));
        goals.push(Goal::fifty(subject, "built_in", RATE, AtLeast(0.75)));
        goals.push(Goal::fifty(subject, "built_in", CPU, AtMost(1.4)));
    }
    // The floor sends the same bytes; Envoy's own filter sends neither a body nor headers.
    goals.push(Goal::one("module_no_drain", "floor", P50, AtMost(1.03)));
    goals.push(Goal::fifty("module_no_drain", "floor", RATE, AtLeast(0.97)));
    goals.push(Goal::fifty("module", "floor", RATE, AtLeast(0.92)));
    goals.push(Goal::one("age_250", "lua", P50, AtMost(0.4)));
    goals.push(Goal {
        others: 1000,
        ..Goal::one("age_250", "lua", P50, AtMost(0.01))
    });
    // One call, as the script makes.
    goals.push(Goal::one("age_0_no_drain", "lua", P50, AtMost(1.2)));
    goals
}

/// Requests that are not probes: within what the machine's noise allows.
fn traffic_goals() -> Vec<Goal> {
    let (p50, rate) = (AtMost(1.02), AtLeast(0.98));
    vec![
        Goal::one("per_route", "none", P50, p50),
        Goal::one("per_route", "none", RATE, rate),
        Goal::fifty("per_route", "none", P50, p50),
        Goal::fifty("per_route", "none", RATE, rate),
    ]
}

/// The module answers sooner than a backend does through Envoy.
fn check_goals() -> Vec<Goal> {
    let (subject, base) = ("check_module", "check_backend");
    vec![
        Goal::one(subject, base, P50, AtMost(1.0)),
        Goal::fifty(subject, base, RATE, AtLeast(1.0)),
        Goal::fifty(subject, base, CPU, AtMost(1.0)),
    ]
}

impl Goal {
    /// With one connection.
    fn one(subject: &'static str, base: &'static str, measure: Measure, limit: Limit) -> Self {
        Self {
            subject,
            base,
            others: 0,
            connections: 1,
            measure,
            limit,
        }
    }

    /// With fifty connections.
    fn fifty(subject: &'static str, base: &'static str, measure: Measure, limit: Limit) -> Self {
        Self {
            connections: 50,
            ..Self::one(subject, base, measure, limit)
        }
    }

    fn check(&self, all: &[Series]) -> Claim {
        let series = |subject| find(all, subject, self.others, self.connections);
        let (subject, base) = (series(self.subject), series(self.base));
        let (measure, of) = self.measure;
        let rounds = subject.rounds.iter().zip(&base.rounds);
        let ratios: Vec<_> = rounds.map(|(one, other)| of(one) / of(other)).collect();
        let [low, middle, high] =
            [0.25, 0.5, 0.75].map(|share| quantile(ratios.iter().copied(), share));
        Claim {
            what: format!(
                "{measure}: {} / {}, {} other clusters, {} connections",
                self.subject, self.base, self.others, self.connections
            ),
            goal: self.limit.to_string(),
            found: format!("{middle:.3} ({low:.3} to {high:.3})"),
            met: self.limit.holds(middle),
        }
    }
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            AtMost(limit) => value <= limit,
            AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            AtMost(limit) => write!(f, "at most {limit}"),
            AtLeast(limit) => write!(f, "at least {limit}"),
        }
    }
}

/// The first 503 of each subject, measured from that of the built-in filter.
fn detection(delays: &[(&str, Vec<f64>)]) -> impl Iterator<Item = Claim> {
    let of = |name: &str| {
        let found = delays.iter().find(|(subject, _)| *subject == name);
        &found.expect("it was measured").1
    };
    let max_ages = [
        ("module", 0.0),
        ("age_0", 0.0),
        ("age_250", 250.0),
        ("background", 250.0),
    ];
    max_ages.into_iter().map(move |(subject, max_age)| {
        let pairs = of(subject).iter().zip(of("built_in"));
        let later: Vec<_> = pairs.map(|(one, other)| one - other).collect();
        let (typical, longest) = (median(later.iter().copied()), worst(later));
        let limit = max_age + 100.0;
        Claim {
            what: format!("backend stops: first 503 of {subject} after built_in's, ms"),
            goal: AtMost(limit).to_string(),
            found: format!("{typical:.0} (at worst {longest:.0})"),
            met: typical <= limit,
        }
    })
}

fn busy(busy: &Busy) -> impl Iterator<Item = Claim> {
    let probes = SUBJECTS.into_iter().zip(&busy.probes);
    let ours = probes.filter(|(subject, _)| *subject != "built_in");
    ours.map(|(subject, probes)| {
        let slowest = match subject {
            "module" => SLOWEST_MODULE,
            _ => SLOWEST,
        };
        Claim {
            what: format!("main thread busy with scrapes, backend up: {subject}"),
            goal: format!("none wrong, none over {slowest} ms"),
            found: format!(
                "{} wrong of {}, at worst {:.0} ms",
                probes.wrong, probes.answers, probes.slowest
            ),
            met: probes.wrong == 0 && probes.slowest <= slowest,
        }
    })
}

fn wrong_answers(all: &[Series]) -> impl Iterator<Item = Claim> {
    let ours = ["module", "age_0", "age_250", "background"];
    let cases = OTHERS
        .into_iter()
        .flat_map(move |others| ours.map(|subject| (subject, others)));
    cases.map(|(subject, others)| {
        let rounds = CONNECTIONS
            .into_iter()
            .flat_map(|connections| &find(all, subject, others, connections).rounds);
        let (wrong, answers) = rounds.fold((0, 0), |(wrong, answers), load| {
            (wrong + load.wrong, answers + load.answers)
        });
        Claim {
            what: format!("backend up: {subject}, {others} other clusters"),
            goal: "none wrong".to_owned(),
            found: format!("{wrong} wrong of {answers}"),
            met: wrong == 0 && answers > 0,
        }
    })
}

fn wrong_checks(all: &[Series]) -> Claim {
    let ours = all.iter().filter(|series| series.subject == "check_module");
    let rounds = ours.flat_map(|series| &series.rounds);
    let (wrong, answers) = rounds.fold((0, 0), |(wrong, answers), load| {
        (wrong + load.wrong, answers + load.answers)
    });
    Claim {
        what: "backend up: check_module".to_owned(),
        goal: "none wrong".to_owned(),
        found: format!("{wrong} wrong of {answers}"),
        met: wrong == 0 && answers > 0,
    }
}

/// A refresh is two calls, `/clusters` and `/ready`; one more may be due when the load begins.
fn refreshes(all: &[Series]) -> impl Iterator<Item = Claim> {
    OTHERS.into_iter().map(|others| {
        let rounds = &find(all, "age_250", others, 50).rounds;
        let most = worst(
            rounds
                .iter()
                .map(|load| load.admin_calls as f64 / 2.0 / (load.seconds * 4.0 + 1.0)),
        );
        Claim {
            what: format!(
                "refreshes of a worker in `max_age_ms`, {others} other clusters, 50 connections"
            ),
            goal: AtMost(1.0).to_string(),
            found: format!("{most:.2}"),
            met: most <= 1.0,
        }
    })
}

fn background(found: &Background) -> Claim {
    Claim {
        what: "refreshes of 8 workers in `refresh_interval_ms`, 50 connections".to_owned(),
        goal: "at most 1.2, none wrong".to_owned(),
        found: format!(
            "{:.2}, {} wrong of {}",
            found.per_interval, found.wrong, found.answers
        ),
        met: found.per_interval <= 1.2 && found.wrong == 0,
    }
}

/// Against a direct response of the same bytes.
fn instructions(counted: &[(&str, f64)]) -> impl Iterator<Item = Claim> {
    let of = |subject: &str| {
        let found = counted.iter().find(|(key, _)| *key == subject);
        found.expect("it was counted").1
    };
    let limits = [
        ("from_memory", 1.48),
        ("module_no_drain", 1.03),
        ("module", 1.12),
    ];
    limits.into_iter().map(move |(subject, limit)| {
        let (ours, floor) = (of(subject), of("floor"));
        Claim {
            what: format!("instructions of a probe: {subject} / floor"),
            goal: AtMost(limit).to_string(),
            found: format!("{:.3} ({ours:.0} / {floor:.0})", ours / floor),
            met: ours / floor <= limit,
        }
    })
}

fn growth(found: &Growth) -> Claim {
    let ((early, before), (late, after)) = (found.early, found.late);
    Claim {
        what: format!("memory of the VM after {early} and after {late} probes, bytes"),
        goal: "the same".to_owned(),
        found: format!("{before} and {after}"),
        met: before == after && before > 0,
    }
}

fn size() -> Claim {
    let file = std::fs::metadata(e2e::wasm());
    let size = file.expect("the wasm is built").len();
    Claim {
        what: "wasm file, bytes".to_owned(),
        goal: format!("at most {SIZE}"),
        found: size.to_string(),
        met: size <= SIZE,
    }
}
