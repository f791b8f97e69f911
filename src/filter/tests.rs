//! The filter natively, with a host whose clock, shared data, queue and replies these tests move.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use healthz_core::answer::Response;
use log::Level;

use super::{Filter, Reaction};
use crate::host::{CallError, Host, MetricKind, Shared};
use healthz_core::config::wasm::Config;

/// One Envoy: what all its workers share.
#[derive(Default)]
struct Process {
    now: Cell<Duration>,
    wall_clock: Cell<u64>,
    /// Values and their numbers.
    shared: RefCell<BTreeMap<String, (String, u32)>>,
    /// What another worker writes in the middle of the next replacement of a record.
    race: RefCell<Option<(String, String)>>,
    log: RefCell<Vec<String>>,
    metrics: RefCell<Vec<(String, i64)>>,
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
        process.wall_clock.set(1_800_000_000_000);
        Rc::new(process)
    }

    fn pass(&self, millis: u64) {
        self.now.set(self.now.get() + Duration::from_millis(millis));
        self.wall_clock.set(self.wall_clock.get() + millis);
    }

    fn logged(&self, text: &str) -> usize {
        let log = self.log.borrow();
        log.iter().filter(|line| line.contains(text)).count()
    }

    fn metric(&self, name: &str) -> Option<i64> {
        let metrics = self.metrics.borrow();
        let found = metrics.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
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

impl Host for Rc<Worker> {
    fn now(&self) -> Duration {
        self.process.now.get()
    }
    fn wall_clock(&self) -> u64 {
        self.process.wall_clock.get()
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
    fn answer(&self, request: u32, response: &Response) {
        self.answers.borrow_mut().push((request, response.code()));
    }
    fn read_shared(&self, key: &str) -> Option<Shared> {
        let shared = self.process.shared.borrow();
        let record = shared.get(key);
        Some(Shared {
            value: record.map(|(value, _)| value.clone().into_bytes()),
            version: record.map(|(_, version)| *version),
        })
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
        let same = self.read_shared(key).is_some_and(|now| now == *read);
        if same {
            self.process.write(key, value);
        }
        same
    }
    fn write_shared(&self, key: &str, value: &str) {
        self.process.write(key, value);
    }
    fn metric(&self, _: MetricKind, name: &str) -> u32 {
        let mut metrics = self.process.metrics.borrow_mut();
        let known = metrics.iter().position(|(known, _)| known == name);
        let id = known.unwrap_or_else(|| {
            metrics.push((name.to_owned(), 0));
            metrics.len() - 1
        });
        u32::try_from(id).unwrap()
    }
    fn add(&self, counter: u32, count: i64) {
        self.process.metrics.borrow_mut()[counter as usize].1 += count;
    }
    fn record(&self, gauge: u32, value: u64) {
        self.process.metrics.borrow_mut()[gauge as usize].1 = i64::try_from(value).unwrap();
    }
    fn log(&self, level: Level, line: &str) {
        let line = format!("{level} {line}");
        self.process.log.borrow_mut().push(line);
    }
}

/// A worker with the filter in it.
struct World {
    process: Rc<Process>,
    worker: Rc<Worker>,
    filter: Filter<Rc<Worker>>,
    next_id: Cell<u32>,
}

const UP: &str = "c::127.0.0.1:9000::health_flags::healthy\n";
const DOWN: &str = "c::127.0.0.1:9000::health_flags::/failed_active_hc\n";

/// A worker of this Envoy, with these fields in the configuration. `/healthz` asks one page.
fn worker(process: &Rc<Process>, fields: &str) -> World {
    let text = format!(
        r#"{{"admin_cluster": "admin", "fail_when_draining": false{fields},
            "endpoints": [{{"path": "/healthz", "clusters": ["c"]}}, {{"path": "/livez", "clusters": []}}]}}"#
    );
    worker_with(process, &text)
}

/// The same with two endpoints of the one cluster.
fn worker_of_two(process: &Rc<Process>) -> World {
    let text = r#"{"admin_cluster": "admin", "fail_when_draining": false,
        "endpoints": [{"path": "/healthz", "clusters": ["c"]}, {"path": "/unasked", "clusters": ["c"]}]}"#;
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
    filter.start();
    World {
        process: Rc::clone(process),
        worker,
        filter,
        next_id: Cell::new(1),
    }
}

impl World {
    /// A probe: its answer's status, `None` if it waits.
    fn probe(&self, path: &str) -> Option<u32> {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let header = |name: &'static str| match name {
            ":path" => path.as_bytes().to_vec(),
            ":method" => b"GET".to_vec(),
            _ => Vec::new(),
        };
        match self.filter.request(id, &header) {
            Reaction::Answer(response) => Some(response.code()),
            Reaction::Wait => None,
            Reaction::PassOn => panic!("{path} is passed on"),
        }
    }

    /// The oldest call under way ends.
    fn reply(&self, status: Option<u32>, body: &str) {
        let (token, _) = self.worker.calls.borrow_mut().pop_front().expect("a call");
        let mut body = [body.as_bytes().to_vec()].into_iter();
        self.filter.replied(token, status, &mut body);
    }

    /// A probe that waits, and the admin's reply to its refresh; the answer's status.
    fn probe_and_reply(&self, status: Option<u32>, body: &str) -> u32 {
        assert_eq!(self.probe("/healthz"), None);
        self.filter.woken();
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
            self.filter.tick();
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
    world.filter.woken();
    world.filter.woken();
    assert_eq!(world.worker.calls.borrow().len(), 1);
    world.filter.cancel(3);
    world.reply(Some(200), UP);
    let answers: Vec<_> = world.worker.answers.borrow().clone();
    assert_eq!(answers, [(1, 200), (2, 200), (4, 200), (5, 200)]);
    world.pass(50);
    let probes = "probes.filter.default.code.200.path./healthz";
    assert_eq!(world.process.metric(probes), Some(4));
}

#[test]
fn a_lost_wake_up_is_made_good_by_the_tick() {
    let world = worker(&Process::new(), "");
    assert_eq!(world.probe("/healthz"), None);
    world.pass(60);
    assert_eq!(world.worker.calls.borrow().len(), 1);
    world.reply(Some(200), UP);
    assert_eq!(world.last_answer(), 200);
}

#[test]
fn a_lost_reply_is_an_answer_in_bounded_time_and_a_line_of_the_log() {
    let world = worker(&Process::new(), "");
    assert_eq!(world.probe("/healthz"), None);
    world.filter.woken();
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
        world.filter.woken();
        assert_eq!(world.last_answer(), 503);
        assert_eq!(world.process.logged(cause), 2, "{cause}");
    }
}

#[test]
fn silence_answers_from_the_last_good_snapshot_within_100_ms() {
    let world = worker(&Process::new(), "");
    assert_eq!(world.probe_and_reply(Some(200), UP), 200);
    world.pass(1000);
    // The admin hangs.
    assert_eq!(world.probe("/healthz"), None);
    world.filter.woken();
    world.pass(99);
    assert_eq!(world.worker.answers.borrow().len(), 1);
    world.pass(1);
    assert_eq!(*world.worker.answers.borrow(), [(1, 200), (2, 200)]);
    // Envoy ends the call: 504.
    world.pass(900);
    world.reply(Some(504), "upstream request timeout");
    assert_eq!(world.process.logged("admin unavailable"), 1);
    assert_eq!(world.process.logged("until it is 5000 ms old"), 1);
    assert_eq!(world.process.metric("admin_up.filter.default"), Some(0));
    assert_eq!(world.process.logged("/healthz is unhealthy"), 0);
    // Too old.
    world.pass(3000);
    assert_eq!(world.probe_and_reply(Some(503), "connection refused"), 503);
    assert_eq!(world.process.logged("/healthz is unhealthy: admin: "), 1);
    world.pass(1000);
    assert_eq!(world.probe_and_reply(Some(200), UP), 200);
    assert_eq!(
        world
            .process
            .logged("INFO envoy-healthz[default]: admin available again"),
        1
    );
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
fn another_workers_snapshot_answers_when_the_admin_is_silent() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    assert_eq!(one.probe_and_reply(Some(200), UP), 200);
    process.pass(10);
    // It answers nobody who could ask,
    assert_eq!(two.probe("/healthz"), None);
    two.pass(99);
    assert_eq!(*two.worker.answers.borrow(), []);
    // and nobody is left waiting for longer.
    two.pass(1);
    assert_eq!(two.last_answer(), 200);
    // Never from one that is too old.
    let late = worker(&process, "");
    process.pass(5000);
    assert_eq!(late.probe("/healthz"), None);
    late.pass(1200);
    assert_eq!(late.last_answer(), 503);
}

#[test]
fn a_root_younger_than_the_shared_snapshot_takes_it_all_the_same() {
    for fields in ["", r#", "refresh_interval_ms": 250"#] {
        let process = Process::new();
        let first = worker(&process, fields);
        assert_eq!(first.probe_and_reply(Some(200), UP), 200);
        // Another worker's root is made 400 ms later: its clock begins there.
        process.pass(400);
        process.now.set(Duration::ZERO);
        let second = worker(&process, fields);
        assert_eq!(second.probe("/healthz"), None);
        second.pass(100);
        assert_eq!(*second.worker.answers.borrow(), [(1, 200)], "{fields}");
    }
}

#[test]
fn an_old_shared_snapshot_does_not_become_young_when_the_clock_is_set_back() {
    for fields in ["", r#", "refresh_interval_ms": 100"#] {
        let process = Process::new();
        let (one, two) = (worker(&process, fields), worker(&process, fields));
        assert_eq!(one.probe_and_reply(Some(200), UP), 200);
        assert_eq!(two.probe("/healthz").is_none(), fields.is_empty());
        process.pass(6000);
        process.wall_clock.set(process.wall_clock.get() - 6000);
        two.worker.refuses_calls.set(Some(CallError::NotSent));
        assert_eq!(two.probe("/healthz"), None);
        two.filter.woken();
        assert_eq!(two.last_answer(), 503, "{fields}");
    }
}

#[test]
fn two_workers_hold_one_lease() {
    let process = Process::new();
    let fields = r#", "refresh_interval_ms": 100"#;
    let (one, two) = (worker(&process, fields), worker(&process, fields));
    // The other worker's write comes between this one's read and write.
    let theirs = (process.wall_clock.get() + 100).to_string();
    process.race.replace(Some(("/lease".to_owned(), theirs)));
    one.filter.tick();
    assert_eq!(one.worker.calls.borrow().len(), 0);
    for _ in 0..100 {
        process.pass(10);
        for world in [&one, &two] {
            world.filter.tick();
            while !world.worker.calls.borrow().is_empty() {
                world.reply(Some(200), UP);
            }
        }
    }
    process.pass(50);
    one.filter.tick();
    two.filter.tick();
    let refreshes = process.metric("refreshes.filter.default.result.succeeded");
    let refreshes = refreshes.unwrap();
    assert!((9..=11).contains(&refreshes), "{refreshes}");
    // A clock that is set back holds nothing up.
    process.wall_clock.set(process.wall_clock.get() - 3_600_000);
    process.pass(1);
    one.filter.tick();
    assert_eq!(one.worker.calls.borrow().len(), 1);
}

#[test]
fn a_transition_is_logged_once_for_all_workers() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    // Both are the first: the other's record comes between this one's read and write.
    let theirs = format!("h {}", process.wall_clock.get());
    process.race.replace(Some(("/healthz".to_owned(), theirs)));
    assert_eq!(one.probe_and_reply(Some(200), UP), 200);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    assert_eq!(process.logged("/healthz is healthy"), 0, "the other's");
    process.pass(300);
    for world in [&one, &two] {
        assert_eq!(world.probe_and_reply(Some(200), DOWN), 503);
    }
    assert_eq!(process.logged("/healthz is unhealthy: c 0/1"), 1);
    // A verdict from older knowledge does not undo it.
    process.pass(300);
    assert_eq!(one.probe("/healthz"), None);
    one.filter.woken();
    process.pass(10);
    assert_eq!(two.probe_and_reply(Some(200), DOWN), 503);
    let before = process.log.borrow().len();
    process.pass(1000);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    one.reply(Some(200), DOWN);
    assert_eq!(one.last_answer(), 503);
    let new = process.log.borrow()[before..].to_vec();
    assert_eq!(new, ["INFO envoy-healthz[default]: /healthz is healthy"]);
}

#[test]
fn an_unknown_flag_is_logged_once_for_all_workers() {
    let process = Process::new();
    let page = "c::127.0.0.1:9000::health_flags::/brand_new\n";
    for _ in 0..8 {
        let world = worker(&process, "");
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
fn an_endpoint_that_nobody_asks_has_no_gauge() {
    let process = Process::new();
    let (one, two) = (worker_of_two(&process), worker_of_two(&process));
    let gauge = |path: &str| process.metric(&format!("healthy.filter.default.path.{path}"));
    let ask = |world: &World| {
        process.pass(1100);
        assert_eq!(world.probe_and_reply(Some(200), DOWN), 503);
    };
    ask(&one);
    assert_eq!((gauge("/healthz"), gauge("/unasked")), (Some(0), None));
    assert_eq!(process.logged("/unasked is unhealthy"), 1);
    // A snapshot is at hand when it is asked.
    assert_eq!(one.probe("/unasked"), Some(503));
    assert_eq!(gauge("/unasked"), Some(0));
    // From then on each worker sets it.
    process.pass(1100);
    assert_eq!(two.probe_and_reply(Some(200), UP), 200);
    assert_eq!(gauge("/unasked"), Some(1));
    assert_eq!(process.logged("/unasked is "), 2);
}

#[test]
fn a_configuration_that_is_gone_leaves_nothing_behind() {
    let process = Process::new();
    let old = worker(&process, r#", "max_age_ms": 0"#);
    assert_eq!(old.probe_and_reply(Some(200), DOWN), 503);
    let gauge = || process.metric("healthy.filter.default.path./healthz");
    assert_eq!(gauge(), Some(0));
    assert!(
        process
            .record("/snapshot")
            .is_some_and(|text| text.contains("failed_active_hc"))
    );
    // A newer configuration has the endpoint: its gauge is not the old one's any more.
    let new = worker(&process, r#", "max_age_ms": 1"#);
    old.filter.stop();
    assert_eq!(gauge(), Some(0));
    assert_eq!(process.record("/snapshot").as_deref(), Some(""));
    assert_eq!(old.worker.tick.get(), None);
    // Removed: no alert.
    assert_eq!(new.probe_and_reply(Some(200), DOWN), 503);
    new.filter.stop();
    assert_eq!(gauge(), Some(1));
}

/// Envoy keeps a replaced listener until it has drained, ten minutes by default.
#[test]
fn a_configuration_that_was_replaced_goes_quiet_while_it_drains() {
    let process = Process::new();
    let gauge = || process.metric("healthy.filter.default.path./healthz");
    let refreshes = |world: &World, page: &str| {
        let mut count = 0;
        for _ in 0..10 {
            process.pass(110);
            world.filter.tick();
            while !world.worker.calls.borrow().is_empty() {
                world.reply(Some(200), page);
                count += 1;
            }
        }
        count
    };
    let old = worker(&process, r#", "refresh_interval_ms": 100"#);
    refreshes(&old, DOWN);
    assert_eq!(old.probe("/healthz"), Some(503));
    assert_eq!(gauge(), Some(0));
    let new = worker(&process, r#", "refresh_interval_ms": 101"#);
    assert!(refreshes(&new, UP) >= 9);
    assert_eq!(gauge(), Some(1));
    assert!(refreshes(&old, DOWN) >= 9, "it is still asked");
    process.pass(60_000);
    assert_eq!(refreshes(&old, DOWN), 0);
    // A connection of before still asks it.
    assert_eq!(old.probe_and_reply(Some(200), DOWN), 503);
    assert_eq!(gauge(), Some(1), "the newer configuration's");
    // The newer one was refused: the old one goes on.
    new.filter.stop();
    assert!(refreshes(&old, DOWN) >= 9);
    assert_eq!(gauge(), Some(0));
}

#[test]
fn an_admin_that_comes_and_goes_floods_no_log() {
    let process = Process::new();
    let (one, two) = (worker(&process, ""), worker(&process, ""));
    two.worker.refuses_calls.set(Some(CallError::NotSent));
    for _ in 0..20 {
        process.pass(250);
        assert_eq!(one.probe_and_reply(Some(200), UP), 200);
        assert_eq!(two.probe("/healthz"), None);
        two.filter.woken();
        assert_eq!(two.last_answer(), 200);
    }
    // Twenty outages in five seconds.
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
    world.filter.woken();
    world.reply(Some(403), "");
    world.pass(100);
    assert_eq!(world.worker.calls.borrow().len(), 1);
    assert_eq!(*world.worker.answers.borrow(), []);
    world.reply(Some(200), "LIVE\n");
    assert_eq!(world.last_answer(), 503);
    assert_eq!(process.logged("/clusters answered 403: allow_paths"), 2);
}
