//! When to ask the admin, who waits for the reply, and who is answered from what.
//!
//! A state machine for one worker, with no clock and no host of its own: time comes in as a
//! [`Duration`] since some start and never goes back, what to do comes out as values.
//!
//! ```text
//! probe ──► snapshot younger than max_age ──────────────► answer
//!       └─► wait; the first to wait asks ──► outcome ───► answer all who wait
//!                                        └─► nothing ───► tick: answer whose time is up
//! ```
//!
//! At most one call is under way, however many probes wait, and a failed call is a snapshot like
//! any other: probes cannot make this worker ask more than once a `max_age`.

use std::rc::Rc;
use std::time::Duration;

/// The bounds that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A snapshot younger than this answers at once.
    pub max_age: Duration,
    /// How long a call may take.
    pub timeout: Duration,
}

/// The latest snapshot, the call under way, and the probes that wait for it.
///
/// `T` is what a refresh yields on success, `F` why it failed, `W` what a waiting probe asked.
#[derive(Debug)]
pub struct Snapshots<T, F, W> {
    timing: Timing,
    latest: Option<Snapshot<T, F>>,
    call: Call,
    /// Sorted by id.
    waiting: Vec<Waiting<W>>,
}

/// What a refresh yielded, and when it was asked for.
#[derive(Debug)]
pub struct Snapshot<T, F> {
    /// When the admin was asked: what it said can be no older.
    pub asked: Duration,
    /// What it said.
    pub outcome: Rc<Result<T, F>>,
}

/// What becomes of a probe.
#[derive(Debug)]
pub enum Probe<T, F, W> {
    /// It is answered now.
    Answer(W, Snapshot<T, F>),
    /// It waits, and a refresh must be started.
    Ask,
    /// It waits for a refresh that somebody else has started.
    Wait,
}

/// What the end of a call leads to.
#[derive(Debug)]
pub struct Ended<T, F, W> {
    /// What those who waited are answered from.
    pub snapshot: Snapshot<T, F>,
    /// Whether that is an older success, still fresh, because the call failed.
    pub kept: bool,
    /// Those who waited: their ids and what they asked.
    pub waiting: Vec<(u32, W)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    None,
    /// Asked for at this time, not sent yet.
    Wanted(Duration),
    /// Sent at this time.
    Sent(Duration),
}

#[derive(Debug)]
struct Waiting<W> {
    id: u32,
    since: Duration,
    probe: W,
}

/// How much later than its timeout a call may report before it is taken for lost.
pub const GRACE: Duration = Duration::from_millis(100);

impl<T, F, W> Snapshots<T, F, W> {
    /// Starts without a snapshot.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            latest: None,
            call: Call::None,
            waiting: Vec::new(),
        }
    }

    /// A probe has come; `id` is its own as long as it waits.
    pub fn probe(&mut self, id: u32, probe: W, now: Duration) -> Probe<T, F, W> {
        if let Some(snapshot) = self.fresh(now) {
            return Probe::Answer(probe, snapshot.clone());
        }
        let place = self.place(id).unwrap_or_else(|free| free);
        let since = now;
        self.waiting.insert(place, Waiting { id, since, probe });
        if self.call == Call::None {
            self.call = Call::Wanted(now);
            Probe::Ask
        } else {
            Probe::Wait
        }
    }

    /// The probe's client has gone away.
    pub fn left(&mut self, id: u32) {
        if let Ok(place) = self.place(id) {
            self.waiting.remove(place);
        }
    }

    /// Whether a call may be sent now; if so, it counts as sent.
    pub fn send(&mut self, now: Duration) -> bool {
        if matches!(self.call, Call::Sent(_)) {
            return false;
        }
        self.call = Call::Sent(now);
        true
    }

    /// The call that was sent has ended: everybody who waits is answered.
    ///
    /// A failure does not push out a success that is still fresh.
    pub fn ended(&mut self, outcome: Result<T, F>, now: Duration) -> Option<Ended<T, F, W>> {
        let Call::Sent(asked) = self.call else {
            return None;
        };
        self.call = Call::None;
        let waiting = self.take_waiting(|_| true);
        let good = self.fresh(now).filter(|kept| kept.outcome.is_ok());
        let (snapshot, kept) = match good {
            Some(good) if outcome.is_err() => (good.clone(), true),
            _ => (Snapshot::new(asked, outcome), false),
        };
        self.latest = Some(snapshot.clone());
        Some(Ended {
            snapshot,
            kept,
            waiting,
        })
    }

    /// Takes over a snapshot that another worker has made, if it is younger than our own.
    pub fn adopt(&mut self, asked: Duration, outcome: Result<T, F>) {
        if self.latest.as_ref().is_none_or(|own| own.asked < asked) {
            self.latest = Some(Snapshot::new(asked, outcome));
        }
    }

    /// Whether our own snapshot is this old, or there is none.
    pub fn is_older_than(&self, age: Duration, now: Duration) -> bool {
        self.latest
            .as_ref()
            .is_none_or(|own| now.saturating_sub(own.asked) >= age)
    }

    /// Takes out the probes that have waited longer than a call may take, whatever became of it.
    pub fn expired(&mut self, now: Duration) -> Vec<(u32, W)> {
        let limit = self.timing.timeout + GRACE;
        if let Call::Wanted(since) | Call::Sent(since) = self.call
            && now.saturating_sub(since) >= limit
        {
            self.call = Call::None;
        }
        self.take_waiting(|waiting| now.saturating_sub(waiting.since) >= limit)
    }

    /// Whether somebody waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn take_waiting(&mut self, wanted: impl Fn(&Waiting<W>) -> bool) -> Vec<(u32, W)> {
        self.waiting
            .extract_if(.., |waiting| wanted(waiting))
            .map(|waiting| (waiting.id, waiting.probe))
            .collect()
    }

    /// Where this probe waits, or where it would.
    fn place(&self, id: u32) -> Result<usize, usize> {
        self.waiting.binary_search_by_key(&id, |waiting| waiting.id)
    }

    fn fresh(&self, now: Duration) -> Option<&Snapshot<T, F>> {
        self.latest
            .as_ref()
            .filter(|snapshot| now.saturating_sub(snapshot.asked) < self.timing.max_age)
    }
}

impl<T, F> Snapshot<T, F> {
    /// What was asked for at this time, and what came of it.
    pub fn new(asked: Duration, outcome: Result<T, F>) -> Self {
        let outcome = Rc::new(outcome);
        Self { asked, outcome }
    }
}

impl<T, F> Clone for Snapshot<T, F> {
    fn clone(&self) -> Self {
        Self {
            asked: self.asked,
            outcome: Rc::clone(&self.outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MAX_AGE: u64 = 250;
    const TIMEOUT: u64 = 1000;
    /// The root's tick while a probe waits.
    const TICK: u64 = 50;

    #[derive(Debug, Clone)]
    enum Event {
        Probe,
        /// The client of the nth waiting probe goes away.
        Leave(usize),
        /// The root is woken.
        Wake,
        /// The call ends well, or not.
        Reply(bool),
        /// The call will never end.
        Lose,
        /// Another worker shares a snapshot of this age.
        Share(u64),
        /// Time passes, in steps of at most a tick.
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Probe),
            1 => (0..8_usize).prop_map(Event::Leave),
            3 => Just(Event::Wake),
            3 => any::<bool>().prop_map(Event::Reply),
            1 => Just(Event::Lose),
            1 => (0..600_u64).prop_map(Event::Share),
            3 => prop_oneof![0..20_u64, 0..400_u64, Just(86_400_000)].prop_map(Event::Pass),
        ]
    }

    /// One worker and its admin. `T` is the time at which the admin was asked.
    struct World {
        snapshots: Snapshots<u64, (), ()>,
        now: u64,
        next_id: u32,
        /// Those who wait, and since when.
        waiting: BTreeMap<u32, u64>,
        answered: Vec<u32>,
        left: Vec<u32>,
        /// When the call under way was sent.
        call: Option<u64>,
        lost: bool,
        sent: Vec<u64>,
    }

    impl World {
        fn new(max_age: u64) -> Self {
            let timing = Timing {
                max_age: Duration::from_millis(max_age),
                timeout: Duration::from_millis(TIMEOUT),
            };
            Self {
                snapshots: Snapshots::new(timing),
                now: 0,
                next_id: 0,
                waiting: BTreeMap::new(),
                answered: Vec::new(),
                left: Vec::new(),
                call: None,
                lost: false,
                sent: Vec::new(),
            }
        }

        fn time(&self) -> Duration {
            Duration::from_millis(self.now)
        }

        fn happen(&mut self, event: Event) {
            match event {
                Event::Probe => self.probe(),
                Event::Leave(nth) => {
                    if let Some(id) = self.waiting.keys().nth(nth).copied() {
                        self.waiting.remove(&id);
                        self.left.push(id);
                        self.snapshots.left(id);
                    }
                }
                Event::Wake => self.wake(),
                Event::Reply(good) if !self.lost => self.reply(good),
                Event::Reply(_) => {}
                Event::Lose => self.lost = self.call.is_some(),
                Event::Share(age) => {
                    let asked = self.now.saturating_sub(age);
                    self.snapshots
                        .adopt(Duration::from_millis(asked), Ok(asked));
                }
                Event::Pass(time) if time > 1000 && !self.waiting.is_empty() => {}
                Event::Pass(mut time) if time <= 1000 => {
                    while time > 0 {
                        let step = time.min(TICK);
                        self.now += step;
                        time -= step;
                        self.tick();
                    }
                }
                Event::Pass(time) => {
                    self.now += time;
                    self.tick();
                }
            }
        }

        fn probe(&mut self) {
            let id = self.next_id;
            self.next_id += 1;
            match self.snapshots.probe(id, (), self.time()) {
                Probe::Answer((), snapshot) => {
                    let age = self.time() - snapshot.asked;
                    assert!(
                        age < Duration::from_millis(MAX_AGE),
                        "answered from {age:?} ago"
                    );
                    self.answered.push(id);
                }
                Probe::Ask | Probe::Wait => {
                    self.waiting.insert(id, self.now);
                }
            }
        }

        fn wake(&mut self) {
            if self.snapshots.send(self.time()) {
                assert!(self.call.is_none() || self.lost, "two calls at once");
                self.call = Some(self.now);
                self.lost = false;
                self.sent.push(self.now);
            }
        }

        fn reply(&mut self, good: bool) {
            let Some(asked) = self.call.take() else {
                return;
            };
            let outcome = if good { Ok(asked) } else { Err(()) };
            let Some(ended) = self.snapshots.ended(outcome, self.time()) else {
                // Too late: it was given up.
                return;
            };
            assert!(!good || !ended.kept, "a success was thrown away");
            if ended.kept {
                assert!(self.time() - ended.snapshot.asked < Duration::from_millis(MAX_AGE));
            } else {
                assert_eq!(ended.snapshot.asked, Duration::from_millis(asked));
            }
            self.answer(ended.waiting);
            assert!(self.waiting.is_empty(), "somebody was forgotten");
        }

        fn tick(&mut self) {
            let expired = self.snapshots.expired(self.time());
            for (id, ()) in &expired {
                assert!(self.now - self.waiting[id] >= TIMEOUT, "given up too early");
            }
            self.answer(expired);
            // Envoy ends every call by its timeout, unless it is lost.
            if self.call.is_some_and(|sent| self.now - sent >= TIMEOUT) {
                if self.lost {
                    self.call = None;
                    self.lost = false;
                } else {
                    self.reply(false);
                }
            }
            if self.snapshots.is_waiting() {
                self.wake();
            }
            let limit = TIMEOUT + GRACE.as_millis() as u64 + TICK;
            for (id, since) in &self.waiting {
                assert!(
                    self.now - since <= limit,
                    "{id} waits since {since}, now {}",
                    self.now
                );
            }
        }

        fn answer(&mut self, probes: Vec<(u32, ())>) {
            for (id, ()) in probes {
                assert!(self.waiting.remove(&id).is_some(), "{id} does not wait");
                self.answered.push(id);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// For any order of events, every probe still there is answered exactly once, in bounded
        /// time, and never from a snapshot older than allowed.
        #[test]
        fn every_probe_is_answered_once(
            max_age in prop_oneof![Just(0), Just(MAX_AGE)],
            events in proptest::collection::vec(event(), 0..120),
        ) {
            let mut world = World::new(max_age);
            events.into_iter().for_each(|event| world.happen(event));
            for _ in 0..(2 * TIMEOUT / TICK) {
                world.now += TICK;
                world.tick();
            }
            prop_assert!(world.waiting.is_empty());
            let mut ended = [world.answered, world.left].concat();
            ended.sort_unstable();
            prop_assert_eq!(ended, (0..world.next_id).collect::<Vec<_>>());
        }

        /// Probes alone, and an admin that answers at once, well or badly: one call a max_age.
        #[test]
        fn probes_cannot_flood_the_admin(steps in proptest::collection::vec((0..60_u64, any::<bool>()), 1..300)) {
            let mut world = World::new(MAX_AGE);
            for (step, good) in steps {
                world.now += step;
                world.probe();
                if !world.waiting.is_empty() {
                    world.wake();
                    world.reply(good);
                }
            }
            prop_assert!(world.sent.windows(2).all(|two| two[1] - two[0] >= MAX_AGE));
        }
    }

    #[test]
    fn max_age_0_never_answers_from_memory() {
        let mut world = World::new(0);
        world.probe();
        world.wake();
        world.reply(true);
        world.probe();
        assert_eq!(world.waiting.len(), 1);
    }

    #[test]
    fn of_two_snapshots_the_younger_counts() {
        let mut world = World::new(MAX_AGE);
        let asked = |world: &mut World| match world.snapshots.probe(0, (), world.time()) {
            Probe::Answer((), snapshot) => snapshot.asked.as_millis(),
            _ => panic!("no fresh snapshot"),
        };
        world.now = 100;
        world.wake();
        world.reply(true);
        world.happen(Event::Share(50));
        assert_eq!(asked(&mut world), 100);
        world.now = 200;
        world.happen(Event::Share(50));
        assert_eq!(asked(&mut world), 150);
    }

    #[test]
    fn a_failure_leaves_a_fresh_success_in_place() {
        let mut world = World::new(MAX_AGE);
        world.wake();
        world.reply(true);
        world.now = MAX_AGE - 1;
        world.wake();
        world.reply(false);
        world.probe();
        assert_eq!(world.answered, [0]);
        world.now = MAX_AGE;
        world.probe();
        assert_eq!(world.waiting.len(), 1);
    }
}
