//! The filter natively, with an Envoy whose clock, shared data, queue and replies these tests move.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use healthz_core::config::wasm::Config;
use healthz_core::state::Level;

use super::{Action, Answers, Filter};
use crate::envoy::{CallError, Envoy, Shared, millis};

/// One Envoy: what all its workers share.
#[derive(Default)]
struct Process {
    now: Cell<Duration>,
    /// Values and their numbers.
    shared: RefCell<BTreeMap<String, (String, u32)>>,
    /// What another worker writes in the middle of the next replacement of a record.
    race: RefCell<Option<(String, String)>>,
    log: RefCell<Vec<String>>,
    metrics: RefCell<BTreeMap<String, i64>>,
}

/// One worker.
struct Worker {
    process: Rc<Process>,
    wakes: Cell<u32>,
    /// When the tick comes next, and its period.
    tick: Cell<Option<(Duration, Duration)>>,
    calls: RefCell<VecDeque<(u32, String)>>,
    refuses_calls: Cell<Option<CallError>>,
    next_token: Cell<u32>,
    answers: RefCell<Vec<(u32, u32)>>,
}

impl Process {
    fn new() -> Rc<Self> {
        let process = Self::default();
        process.now.set(Duration::from_secs(100));
        Rc::new(process)
    }

    fn pass(&self, millis: u64) {
        self.now.set(self.now.get() + Duration::from_millis(millis));
    }

    fn logged(&self, text: &str) -> usize {
        let log = self.log.borrow();
        log.iter().filter(|line| line.contains(text)).count()
    }

    fn metric(&self, name: &str) -> Option<i64> {
        self.metrics.borrow().get(name).copied()
    }

    fn write(&self, key: &str, value: &str) {
        let mut shared = self.shared.borrow_mut();
        let record = shared.entry(key.to_owned()).or_default();
        *record = (value.to_owned(), record.1 + 1);
    }

    /// The record whose key ends so.
    fn record(&self, end: &str) -> Option<String> {
        let shared = self.shared.borrow();
        let found = shared.iter().find(|(key, _)| key.ends_with(end));
        found.map(|(_, (value, _))| value.clone())
    }
}

impl Envoy for Rc<Worker> {
    fn now(&self) -> Duration {
        self.process.now.get()
    }
    fn unix_time(&self) -> Duration {
        START + self.process.now.get()
    }
    fn memory(&self) -> u64 {
        65536
    }
    fn call(&self, cluster: &str, path: &str, _: Duration) -> Result<u32, CallError> {
        assert_eq!(cluster, "admin");
        if let Some(error) = self.refuses_calls.get() {
            return Err(error);
        }
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        self.calls.borrow_mut().push_back((token, path.to_owned()));
        Ok(token)
    }
    fn wake(&self) {
        self.wakes.set(self.wakes.get() + 1);
    }
    fn set_tick(&self, period: Option<Duration>) {
        self.tick
            .set(period.map(|period| (self.now() + period, period)));
    }
    fn read_shared(&self, key: &str) -> Shared {
        let shared = self.process.shared.borrow();
        let record = shared.get(key);
        Shared {
            value: record.map_or_else(Vec::new, |(value, _)| value.clone().into_bytes()),
            version: record.map(|(_, version)| *version),
        }
    }
    fn replace_shared(&self, key: &str, value: &str, read: &Shared) -> bool {
        let race = self.process.race.take();
        if let Some((end, value)) = race {
            if key.ends_with(&end) {
                self.process.write(key, &value);
            } else {
                self.process.race.replace(Some((end, value)));
            }
        }
        let same = self.read_shared(key) == *read;
        if same {
            self.process.write(key, value);
        }
        same
    }
    fn write_shared(&self, key: &str, value: &str) {
        self.process.write(key, value);
    }
    fn add(&self, counter: &str, count: i64) {
        let mut metrics = self.process.metrics.borrow_mut();
        *metrics.entry(counter.to_owned()).or_default() += count;
    }
    fn set(&self, gauge: &str, value: u64) {
        let mut metrics = self.process.metrics.borrow_mut();
        metrics.insert(gauge.to_owned(), i64::try_from(value).unwrap());
    }
    fn log(&self, level: Level, line: &str) {
        let level = format!("{level:?}").to_uppercase();
        let line = format!("{level} {line}");
        self.process.log.borrow_mut().push(line);
    }
}

/// A worker with the filter in it.
struct World {
    process: Rc<Process>,
    worker: Rc<Worker>,
    filter: RefCell<Filter<Rc<Worker>>>,
    next_id: Cell<u32>,
}

/// When the machine of these tests was started, since 1970.
const START: Duration = Duration::from_secs(1_700_000_000);

const UP: &str = "c::127.0.0.1:9000::health_flags::healthy\n";
const DOWN: &str = "c::127.0.0.1:9000::health_flags::/failed_active_hc\n";

/// A worker of this Envoy, with these fields in the configuration. `/livez` needs nothing.
fn worker(process: &Rc<Process>, fields: &str) -> World {
    let text = format!(
        r#"{{"admin_cluster": "admin"{fields},
            "endpoints": [{{"path": "/healthz", "clusters": ["c"]}}, {{"path": "/livez", "clusters": [], "fail_when_draining": false}}]}}"#
    );
    worker_with(process, &text)
}

/// The same with two endpoints of the one cluster.
fn worker_of_two(process: &Rc<Process>) -> World {
    let text = r#"{"admin_cluster": "admin",
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}, {"path": "/idle", "clusters": ["c"]}]}"#;
    worker_with(process, text)
}

fn worker_with(process: &Rc<Process>, text: &str) -> World {
    let worker = Rc::new(Worker {
        process: Rc::clone(process),
        wakes: Cell::new(0),
        tick: Cell::new(None),
        calls: RefCell::default(),
        refuses_calls: Cell::new(None),
        next_token: Cell::new(1),
        answers: RefCell::default(),
    });
    let config = Config::parse(text.as_bytes()).unwrap();
    let filter = Filter::new(config, text.as_bytes(), Rc::clone(&worker));
    World {
        process: Rc::clone(process),
        worker,
        filter: RefCell::new(filter),
        next_id: Cell::new(1),
    }
}

impl World {
    /// A probe: its answer's status, `None` if it waits.
    fn probe(&self, path: &str) -> Option<u32> {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let header = |name: &'static str| match name {
            ":path" => path.as_bytes(),
            ":method" => b"GET",
            _ => b"",
        };
        let action = self.filter.borrow_mut().request(id, header);
        match action {
            Action::Answer(response) => Some(response.outcome.status()),
            Action::Wait => None,
            Action::PassOn => panic!("{path} is passed on"),
        }
    }

    /// The refresh under way ends: `/clusters` so, and `/ready` with LIVE.
    fn reply(&self, status: Option<u32>, body: &str) {
        self.reply_to_one(status, body);
        self.reply_to_one(Some(200), "LIVE\n");
    }

    /// The oldest call under way ends.
    fn reply_to_one(&self, status: Option<u32>, body: &str) {
        let (token, _) = self.worker.calls.borrow_mut().pop_front().expect("a call");
        let mut body = [body.as_bytes().to_vec()].into_iter();
        let mut filter = self.filter.borrow_mut();
        self.answer(filter.replied(token, status, &mut body));
    }

    fn woken(&self) {
        self.answer(self.filter.borrow_mut().woken());
    }

    fn tick(&self) {
        self.answer(self.filter.borrow_mut().tick());
    }

    fn stop(&self) {
        self.filter.borrow_mut().stop();
    }

    fn answer(&self, answers: Answers) {
        let answers = answers.into_iter();
        let answers = answers.map(|(id, response)| (id, response.outcome.status()));
        self.worker.answers.borrow_mut().extend(answers);
    }

    /// A probe that waits, and the admin's reply to its refresh; the answer's status.
    fn probe_and_reply(&self, status: Option<u32>, body: &str) -> u32 {
        assert_eq!(self.probe("/healthz"), None);
        self.woken();
        self.reply(status, body);
        self.last_answer()
    }

    fn last_answer(&self) -> u32 {
        self.worker.answers.borrow().last().expect("an answer").1
    }

    /// Time passes, and the tick comes when it was set to; the calls are cut off in time, unless the
    /// host has forgotten them.
    fn pass(&self, millis: u64) {
        let end = self.process.now.get() + Duration::from_millis(millis);
        while let Some((due, period)) = self.worker.tick.get()
            && due <= end
        {
            let late = due.saturating_sub(self.process.now.get());
            self.process.pass(u64::try_from(late.as_millis()).unwrap());
            self.worker.tick.set(Some((due + period, period)));
            self.tick();
        }
        let rest = end - self.process.now.get();
        self.process.pass(u64::try_from(rest.as_millis()).unwrap());
    }
}

#[test]
fn one_call_answers_all_who_wait() {
    let world = worker(&Process::new(), "");
    for _ in 0..5 {
        assert_eq!(world.probe("/healthz"), None);
    }
    assert_eq!(world.worker.wakes.get(), 1);
    world.woken();
    world.woken();
    assert_eq!(world.worker.calls.borrow().len(), 2);
    world.filter.borrow_mut().cancel(3);
    world.reply(Some(200), UP);
    let answers: Vec<_> = world.worker.answers.borrow().clone();
    assert_eq!(answers, [(1, 200), (2, 200), (4, 200), (5, 200)]);
    world.pass(50);
    let probes = "probes.filter.default.code.200.path./healthz";
    assert_eq!(world.process.metric(probes), Some(4));
}

#[test]
fn probes_that_come_and_go_wake_the_root_once() {
    let world = worker(&Process::new(), "");
    for id in 1..=5 {
        assert_eq!(world.probe("/healthz"), None);
        world.filter.borrow_mut().cancel(id);
    }
    assert_eq!(world.worker.wakes.get(), 1);
    world.woken();
    world.reply(Some(200), DOWN);
    assert_eq!(*world.worker.answers.borrow(), []);
}

#[test]
fn a_lost_wake_up_is_made_good_by_the_tick() {
    let world = worker(&Process::new(), "");
    assert_eq!(world.probe("/healthz"), None);
    world.pass(60);
    assert_eq!(world.worker.calls.borrow().len(), 2);
    world.reply(Some(200), UP);
    assert_eq!(world.last_answer(), 200);
}

#[test]
fn a_lost_reply_is_an_answer_in_bounded_time_and_a_line_of_the_log() {
    let world = worker(&Process::new(), "");
    assert_eq!(world.probe("/healthz"), None);
    world.woken();
    world.pass(1000);
    assert_eq!(*world.worker.answers.borrow(), []);
    world.pass(200);
    assert_eq!(world.last_answer(), 503);
    let cause = "/clusters did not answer within admin_timeout_ms";
    let line = format!("WARN envoy-healthz[default]: admin unavailable: {cause}");
    assert_eq!(world.process.logged(&line), 1);
    let line = format!("WARN envoy-healthz[default]: /healthz is unhealthy: admin: {cause}");
    assert_eq!(world.process.logged(&line), 1);
    // All of it is counted, though the tick is off now.
    assert_eq!(world.worker.tick.get(), None);
    let probes = "probes.filter.default.code.503.path./healthz";
    assert_eq!(world.process.metric(probes), Some(1));
    let transitions = "transitions.filter.default.path./healthz";
    assert_eq!(world.process.metric(transitions), Some(1));
    // It comes after all: nobody is answered twice.
    world.reply(Some(200), UP);
    assert_eq!(world.worker.answers.borrow().len(), 1);
}

#[test]
fn a_call_that_cannot_be_sent() {
    for (error, cause) in [
        (CallError::NoCluster, "Envoy has no cluster \"admin\""),
        (CallError::NotSent, "has no host, or its circuit breaker"),
    ] {
        let world = worker(&Process::new(), "");
        world.worker.refuses_calls.set(Some(error));
        assert_eq!(world.probe("/healthz"), None);
        world.woken();
        assert_eq!(world.last_answer(), 503);
        assert_eq!(world.process.logged(cause), 2, "{cause}");
    }
}

#[test]
fn the_last_good_snapshot_has_a_time_and_no_age() {
    let process = Process::new();
    let (world, other) = (worker(&process, ""), worker(&process, ""));
    let shown = || process.metric("snapshot_timestamp_seconds.filter.default");
    let at = |seconds: u64| i64::try_from((START + Duration::from_secs(seconds)).as_secs()).ok();
    assert_eq!(world.probe_and_reply(Some(200), UP), 200);
    assert_eq!(shown(), None);
    // Shown at the tick, that is later than it was taken.
    world.pass(1000);
    assert_eq!(shown(), at(100));
    // The admin falls silent: time goes on, the snapshot's stays.
    world.pass(1000);
    assert_eq!(world.probe_and_reply(Some(504), ""), 200);
    world.pass(1000);
    assert_eq!(shown(), at(100));
    // Another worker has a newer one.
    assert_eq!(other.probe_and_reply(Some(200), UP), 200);
    other.pass(50);
    assert_eq!(shown(), at(103));
    // A worker that only adopts it shows nothing older.
    world.pass(950);
    assert_eq!(world.probe_and_reply(Some(504), ""), 200);
    world.pass(50);
    assert_eq!(shown(), at(103));
}

/// As long as a configuration of this version is probed, whichever other one has gone.
#[test]
fn the_version_is_shown_until_it_is_gone() {
    let process = Process::new();
    let (world, other) = (
        worker(&process, ""),
        worker(&process, r#", "max_age_ms": 300"#),
    );
    let shown = || {
        let version = env!("CARGO_PKG_VERSION");
        process.metric(&format!("build_info.filter.default.version.{version}"))
    };
    assert_eq!(shown(), None);
    world.probe("/livez");
    world.pass(50);
    assert_eq!(shown(), Some(1));
    world.stop();
    assert_eq!(shown(), Some(0));
    other.probe("/livez");
    other.pass(50);
    assert_eq!(shown(), Some(1));
    other.stop();
    assert_eq!(shown(), Some(0));
}

#[test]
fn silence_answers_from_the_last_good_snapshot_within_100_ms() {
    let world = worker(&Process::new(), "");
    let admin_up = || world.process.metric("admin_up.filter.default");
    assert_eq!(world.probe_and_reply(Some(200), UP), 200);
    world.pass(1000);
    // The admin hangs.
    assert_eq!(world.probe("/healthz"), None);
    world.woken();
    world.pass(99);
    assert_eq!(world.worker.answers.borrow().len(), 1);
    world.pass(1);
    assert_eq!(*world.worker.answers.borrow(), [(1, 200), (2, 200)]);
    // It may only be slow: nothing has failed yet.
    assert_eq!(admin_up(), Some(1));
    // Envoy ends the call: 504. The next answer rests on that.
    world.pass(900);
    world.reply(Some(504), "upstream request timeout");
    assert_eq!(world.process.logged("admin unavailable"), 0);
    assert_eq!(world.probe_and_reply(Some(504), ""), 200);
    assert_eq!(world.process.logged("admin unavailable"), 1);
    assert_eq!(world.process.logged("snapshot for up to 5000 ms"), 1);
    assert_eq!(admin_up(), Some(0));
    assert_eq!(world.process.logged("/healthz is unhealthy"), 0);
    // Too old.
    world.pass(3000);
    assert_eq!(world.probe_and_reply(Some(503), "connection refused"), 503);
    assert_eq!(world.process.logged("/healthz is unhealthy: admin: "), 1);
    world.pass(1000);
    assert_eq!(world.probe_and_reply(Some(200), UP), 200);
    let again = "INFO envoy-healthz[default]: admin available again";
    assert_eq!((world.process.logged(again), admin_up()), (1, Some(1)));
    assert_eq!(world.process.logged("/healthz is healthy"), 2);
}

#[test]
fn a_wrong_reply_is_a_503_at_once() {
    for (status, body) in [(403, ""), (404, UP), (500, UP), (200, "c::127.0.0.1:90")] {
        let world = worker(&Process::new(), "");
        assert_eq!(world.probe_and_reply(Some(200), UP), 200);
        world.pass(300);
        assert_eq!(world.probe_and_reply(Some(status), body), 503, "{status}");
        assert_eq!(world.probe("/healthz"), Some(503));
        // And what was known before is gone.
        world.pass(300);
        assert_eq!(world.probe_and_reply(None, ""), 503);
    }
}

#[test]
fn another_workers_snapshot_is_as_good_as_ones_own() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    assert_eq!(one.probe_and_reply(Some(200), UP), 200);
    process.pass(10);
    assert_eq!(two.probe("/healthz"), Some(200));
    // Older than max_age: the probe asks,
    process.pass(300);
    assert_eq!(two.probe("/healthz"), None);
    two.pass(99);
    assert_eq!(*two.worker.answers.borrow(), []);
    // and is not left waiting for longer.
    two.pass(1);
    assert_eq!(two.last_answer(), 200);
    // Never from one that is too old.
    let late = worker(&process, "");
    process.pass(5000);
    assert_eq!(late.probe("/healthz"), None);
    late.pass(1200);
    assert_eq!(late.last_answer(), 503);
}

/// An update keeps the bridge if it asks for the same clusters, and begins anew if it does not.
#[test]
fn what_a_snapshot_is_of_decides_who_shares_it() {
    let endpoint = |path, cluster| format!(r#"{{"path": "{path}", "clusters": ["{cluster}"]}}"#);
    let text = |name: &str, endpoints: &[String]| {
        let endpoints = endpoints.join(", ");
        format!(r#"{{"admin_cluster": "admin", "name": "{name}", "endpoints": [{endpoints}]}}"#)
    };
    let old = text("a", &[endpoint("/healthz", "c")]);
    for (new, expected) in [
        (
            text("a", &[endpoint("/healthz", "c"), endpoint("/more", "c")]),
            200,
        ),
        (text("other", &[endpoint("/healthz", "c")]), 200),
        (
            text("a", &[endpoint("/healthz", "c"), endpoint("/more", "d")]),
            503,
        ),
        (text("a", &[endpoint("/healthz", "d")]), 503),
    ] {
        let process = Process::new();
        let before = worker_with(&process, &old);
        assert_eq!(before.probe_and_reply(Some(200), UP), 200);
        before.stop();
        process.pass(1000);
        // The update comes, and the admin is silent.
        let after = worker_with(&process, &new);
        after.worker.refuses_calls.set(Some(CallError::NotSent));
        assert_eq!(after.probe("/healthz"), None, "{new}");
        after.woken();
        assert_eq!(after.last_answer(), expected, "{new}");
    }
}

#[test]
fn two_workers_hold_one_lease() {
    let process = Process::new();
    let fields = r#", "refresh_interval_ms": 100"#;
    let (one, two) = (worker(&process, fields), worker(&process, fields));
    // The other worker's write comes between this one's read and write.
    let theirs = (millis(process.now.get()) + 100).to_string();
    process.race.replace(Some(("/lease".to_owned(), theirs)));
    one.tick();
    assert_eq!(one.worker.calls.borrow().len(), 0);
    for _ in 0..100 {
        process.pass(10);
        for world in [&one, &two] {
            world.tick();
            while !world.worker.calls.borrow().is_empty() {
                world.reply(Some(200), UP);
            }
        }
    }
    process.pass(50);
    one.tick();
    two.tick();
    let refreshes = process.metric("refreshes.filter.default.result.succeeded");
    let refreshes = refreshes.unwrap();
    assert!((9..=11).contains(&refreshes), "{refreshes}");
}

#[test]
fn a_transition_is_logged_once_for_all_workers() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    // Both are the first: the other's record comes between this one's read and write.
    let theirs = format!("h {} 0 0 1", millis(process.now.get()));
    process.race.replace(Some(("/healthz".to_owned(), theirs)));
    assert_eq!(one.probe_and_reply(Some(200), UP), 200);
    assert_eq!(two.probe("/healthz"), Some(200));
    assert_eq!(process.logged("/healthz is healthy"), 0, "the other's");
    process.pass(1000);
    for world in [&one, &two] {
        assert_eq!(world.probe_and_reply(Some(200), DOWN), 503);
    }
    assert_eq!(process.logged("/healthz is unhealthy: c 0/1"), 1);
    let transitions = || {
        process.pass(50);
        two.tick();
        one.tick();
        process.metric("transitions.filter.default.path./healthz")
    };
    assert_eq!(transitions(), Some(1));
    // A change within a second of the last one waits for an answer after that.
    process.pass(250);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    assert_eq!(
        (process.logged("/healthz is healthy"), transitions()),
        (0, Some(1))
    );
    process.pass(700);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    assert_eq!(
        (process.logged("/healthz is healthy"), transitions()),
        (1, Some(2))
    );
}

/// Rows of what is done, and of the gauge and the log's last word after it.
#[test]
fn gauge_and_log_follow_what_was_answered_last() {
    let process = Process::new();
    let said = |health: i64| {
        let log = process.log.borrow();
        let word = ["is unhealthy", "is healthy"][health as usize];
        let last = log.iter().rev().find(|line| line.contains("/healthz is"));
        let gauge = process.metric("healthy.filter.default.path./healthz");
        gauge == Some(health) && last.is_some_and(|line| line.contains(word))
    };
    let ask = |world: &World, page| {
        process.pass(1001);
        world.probe_and_reply(Some(200), page)
    };
    let other =
        r#"{"admin_cluster": "admin", "endpoints": [{"path": "/healthz", "clusters": ["typo"]}]}"#;
    let a = worker(&process, "");
    assert_eq!(ask(&a, UP), 200);
    assert!(said(1));
    // A replacement with a typo, and back: Envoy keeps A's root as long as its listener drains.
    let b = worker_with(&process, other);
    assert_eq!(ask(&b, UP), 503);
    assert!(said(0));
    assert_eq!(ask(&a, UP), 200);
    assert!(said(1));
    // An outage then, while B has not gone yet.
    assert_eq!(ask(&a, DOWN), 503);
    assert!(said(0));
    assert_eq!(ask(&a, UP), 200);
    // B goes: the last word was not its own.
    b.stop();
    assert!(said(1));
    // One that is loaded and probed by nobody says nothing.
    let c = worker_with(&process, other);
    c.pass(5000);
    assert!(said(1));
    assert_eq!(ask(&c, UP), 503);
    c.stop();
    assert_eq!(
        process.metric("healthy.filter.default.path./healthz"),
        Some(1)
    );
    // The end of another configuration is healed by the next answer, here of what it said as well.
    assert_eq!(ask(&a, DOWN), 503);
    assert!(said(0));
}

#[test]
fn a_new_cause_is_logged_while_it_stays_unhealthy() {
    let process = Process::new();
    let world = worker(&process, "");
    let ask = |millis, status, page| {
        world.pass(millis);
        world.probe_and_reply(Some(status), page)
    };
    let causes = || process.logged("/healthz is still unhealthy: ");
    assert_eq!(ask(1001, 200, DOWN), 503);
    // Another flag, and another host: the same cluster fails.
    let other = "c::127.0.0.2:9000::health_flags::/failed_eds_health\n";
    assert_eq!(ask(1001, 200, other), 503);
    assert_eq!(causes(), 0);
    assert_eq!(ask(1001, 403, ""), 503);
    assert_eq!(causes(), 1);
    // Ten seconds for the next one.
    for _ in 0..8 {
        assert_eq!(ask(1100, 404, ""), 503);
    }
    assert_eq!(causes(), 1);
    assert_eq!(ask(2000, 404, ""), 503);
    assert_eq!(causes(), 2);
    assert_eq!(process.logged("/healthz is unhealthy"), 1);
}

/// A start asks while Envoy is not live yet: that is no fault of anybody's.
#[test]
fn a_start_says_nothing_of_itself() {
    let process = Process::new();
    let world = worker(&process, r#", "refresh_interval_ms": 250"#);
    let failed = || process.metric("refreshes.filter.default.result.failed");
    for _ in 0..3 {
        world.pass(260);
        world.reply_to_one(Some(200), "");
        world.reply_to_one(Some(503), "PRE_INITIALIZING\n");
    }
    assert_eq!((process.log.borrow().len(), failed()), (0, None));
    // The listener opens: the first probe asks, and its answer is the truth.
    assert_eq!(world.probe("/healthz"), None);
    world.woken();
    world.reply(Some(200), DOWN);
    assert_eq!(world.last_answer(), 503);
    assert_eq!(process.logged("/healthz is unhealthy: c 0/1 healthy"), 1);
    assert_eq!(process.logged("admin"), 0);
    // Later it is another process's, of a hot restart: a fault that is bridged.
    world.pass(260);
    world.reply_to_one(Some(200), DOWN);
    world.reply_to_one(Some(503), "INITIALIZING\n");
    world.pass(60);
    assert_eq!(failed(), Some(1));
}

#[test]
fn an_unknown_flag_is_logged_once_for_all_workers() {
    let process = Process::new();
    let page = "c::127.0.0.1:9000::health_flags::/brand_new\n";
    // Of whichever configuration.
    for name in ["a", "b", "a", "c"] {
        let world = worker(&process, &format!(r#", "name": "{name}""#));
        process.pass(300);
        assert_eq!(world.probe_and_reply(Some(200), page), 503);
    }
    assert_eq!(process.logged("unknown health flag \"brand_new\""), 1);
}

#[test]
fn a_liveness_endpoint_asks_nothing() {
    let world = worker(&Process::new(), r#", "name": "inner""#);
    world.worker.refuses_calls.set(Some(CallError::NoCluster));
    assert_eq!(world.probe("/livez"), Some(200));
    assert_eq!(world.worker.wakes.get(), 0);
    assert_eq!(
        world
            .process
            .logged("envoy-healthz[inner]: /livez is healthy"),
        1
    );
    let gauge = |path: &str| {
        world
            .process
            .metric(&format!("healthy.filter.inner.path.{path}"))
    };
    assert_eq!(gauge("/livez"), Some(1));
    assert_eq!(gauge("/healthz"), None, "no gauge before the first verdict");
}

#[test]
fn an_endpoint_that_nobody_asks_says_nothing() {
    let process = Process::new();
    let (one, two) = (worker_of_two(&process), worker_of_two(&process));
    let gauge = |path: &str| process.metric(&format!("healthy.filter.default.path.{path}"));
    assert_eq!(one.probe_and_reply(Some(200), DOWN), 503);
    assert_eq!((gauge("/healthz"), gauge("/idle")), (Some(0), None));
    assert_eq!(process.logged("/idle"), 0);
    // A snapshot is at hand when it is probed.
    assert_eq!(one.probe("/idle"), Some(503));
    assert_eq!(gauge("/idle"), Some(0));
    // Probes of other endpoints do not change it.
    process.pass(1100);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    assert_eq!((gauge("/healthz"), gauge("/idle")), (Some(1), Some(0)));
    assert_eq!(process.logged("/idle is "), 1);
}

#[test]
fn a_configuration_that_is_gone_leaves_nothing_behind() {
    let process = Process::new();
    let old = worker(&process, r#", "max_age_ms": 0"#);
    assert_eq!(old.probe_and_reply(Some(200), DOWN), 503);
    let gauge = || process.metric("healthy.filter.default.path./healthz");
    assert_eq!(gauge(), Some(0));
    let snapshot = || process.record("/snapshot").unwrap();
    assert!(snapshot().contains("failed_active_hc"));
    // A newer configuration has repeated the answer: its end is no longer this one's.
    let new = worker(&process, r#", "max_age_ms": 1"#);
    process.pass(1001);
    assert_eq!(new.probe_and_reply(Some(200), DOWN), 503);
    old.stop();
    assert_eq!(gauge(), Some(0));
    assert_eq!(old.worker.tick.get(), None);
    // The snapshot is of the same clusters: the newer one needs it.
    assert!(snapshot().contains("failed_active_hc"));
    // Removed: no alert.
    new.stop();
    assert_eq!(gauge(), Some(1));
    assert_eq!(process.record("/healthz").as_deref(), Some(""));
    // Ten minutes later nobody can use the snapshot: the next configuration that shares one empties it.
    let other = r#"{"admin_cluster": "admin", "endpoints": [{"path": "/healthz", "clusters": ["CLUSTER"]}]}"#;
    for (minutes, used) in [(9, true), (2, false)] {
        process.pass(minutes * 60_000);
        let text = other.replace("CLUSTER", &format!("z{minutes}"));
        assert_eq!(
            worker_with(&process, &text).probe_and_reply(Some(200), ""),
            503
        );
        let shared = process.shared.borrow();
        let kept = shared
            .values()
            .any(|(text, _)| text.contains("failed_active_hc"));
        assert_eq!(kept, used, "after {minutes} minutes more");
    }
}

/// A configuration that ends leaves the snapshot to another one of the same clusters, whatever its own bounds.
#[test]
fn the_end_of_one_does_not_take_the_bridge_from_another() {
    let process = Process::new();
    let a = worker(&process, r#", "name": "a", "max_stale_ms": 0"#);
    let b = worker(&process, r#", "name": "b""#);
    assert_eq!(b.probe_and_reply(Some(200), UP), 200);
    process.pass(300);
    a.stop();
    // Another worker's B, which has none of its own, in a silence of the admin's.
    let b = worker(&process, r#", "name": "b""#);
    b.worker.refuses_calls.set(Some(CallError::NotSent));
    assert_eq!(b.probe("/healthz"), None);
    b.woken();
    assert_eq!(b.last_answer(), 200);
}

/// Envoy may end a configuration before its replacement is probed, as in ECDS: nothing has changed.
#[test]
fn the_end_of_a_replaced_configuration_is_no_news() {
    let process = Process::new();
    let gauge = || process.metric("healthy.filter.default.path./healthz");
    let mut last = worker(&process, "");
    for (page, status) in [(UP, 200), (DOWN, 503)] {
        process.pass(1001);
        assert_eq!(last.probe_and_reply(Some(200), page), status);
        let lines = process.log.borrow().len();
        for nth in 0..3 {
            let next = worker(&process, &format!(r#", "max_stale_ms": {}"#, 5001 + nth));
            last.stop();
            assert_eq!(gauge(), Some(i64::from(status == 200)));
            process.pass(1001);
            assert_eq!(next.probe_and_reply(Some(200), page), status);
            last = next;
        }
        assert_eq!(process.log.borrow().len(), lines);
    }
}

/// Envoy keeps a replaced listener until it has drained, ten minutes by default: two configurations that ask
/// for the same hold one lease, and either goes on alone.
#[test]
fn a_configuration_and_its_replacement_hold_one_lease() {
    let process = Process::new();
    let interval = r#", "refresh_interval_ms": 100"#;
    let old = worker(&process, interval);
    let new = worker(&process, &format!(r#"{interval}, "name": "new""#));
    let refreshes = |worlds: &[&World]| {
        let mut count = 0;
        for _ in 0..20 {
            process.pass(55);
            for world in worlds {
                world.tick();
                while !world.worker.calls.borrow().is_empty() {
                    world.reply(Some(200), UP);
                    count += 1;
                }
            }
        }
        count
    };
    let both = refreshes(&[&old, &new]);
    assert!((9..=12).contains(&both), "{both}");
    // Nobody asks for a minute; then it is rolled back, and the old one is all there is.
    process.pass(60_000);
    new.stop();
    assert!(refreshes(&[&old]) >= 9);
}

#[test]
fn an_admin_that_comes_and_goes_floods_no_log() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    two.worker.refuses_calls.set(Some(CallError::NotSent));
    for _ in 0..20 {
        process.pass(300);
        assert_eq!(one.probe_and_reply(Some(200), UP), 200);
        process.pass(300);
        assert_eq!(two.probe("/healthz"), None);
        two.woken();
        assert_eq!(two.last_answer(), 200);
    }
    // Twenty outages in twelve seconds.
    let lines = process.logged("admin ");
    assert!((2..=12).contains(&lines), "{:?}", process.log.borrow());
}

/// Of two calls one fails at once and the other hangs: no refresh comes on top of it.
#[test]
fn a_refresh_ends_when_both_calls_have() {
    let process = Process::new();
    let text = r#"{"admin_cluster": "admin", "max_age_ms": 0, "endpoints": [{"path": "/healthz", "clusters": ["c"]}]}"#;
    let world = worker_with(&process, text);
    assert_eq!(world.probe("/healthz"), None);
    world.woken();
    world.reply_to_one(Some(403), "");
    world.pass(100);
    assert_eq!(world.worker.calls.borrow().len(), 1);
    assert_eq!(*world.worker.answers.borrow(), []);
    world.reply_to_one(Some(200), "LIVE\n");
    assert_eq!(world.last_answer(), 503);
    assert_eq!(process.logged("/clusters answered 403: allow_paths"), 2);
}
