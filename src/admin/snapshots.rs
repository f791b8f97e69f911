//! When to call the admin, who waits for the reply, and who is answered from what.
//!
//! A state machine for one worker, with no clock and no host of its own: time comes in as a
//! [`Duration`] since some start and never goes back, what to do comes out as values.
//!
//! ```text
//! probe ──► snapshot younger than max_age ──────────────────► answer
//!       └─► wait; the first one starts a call ──► reply ──────► answer all who wait
//!                                             ├─► 100 ms ─────► answer from the last good snapshot,
//!                                             │                 if it is younger than max_stale
//!                                             └─► silence ────► the same, or answer that nothing is known
//! ```
//!
//! At most one call is under way, however many probes wait, and a failed call answers for a
//! `max_age` like any other, but for 250 ms at most: probes cannot make this worker call more often.

use std::rc::Rc;
use std::time::Duration;

/// The bounds that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A snapshot younger than this answers at once.
    pub max_age: Duration,
    /// While the admin is silent, the last good snapshot answers if it is younger than this.
    pub max_stale: Duration,
    /// How long a call may take.
    pub timeout: Duration,
}

/// How long a failed call answers at most, whatever `max_age` says: the next one may be good.
pub const LONGEST_FAILURE: Duration = Duration::from_millis(250);

/// How much later than its timeout a call may report before it is taken for lost.
pub const GRACE: Duration = Duration::from_millis(100);

/// How long a probe waits while a good snapshot younger than `max_stale` is at hand. Kubernetes gives
/// a probe one second in all.
pub const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What this worker knows, the call under way, and the probes that wait for it.
///
/// `T` is what a good reply yields, `F` why there was none, `W` what a waiting probe wants.
#[derive(Debug)]
pub struct Snapshots<T, F, W> {
    /// The bounds.
    pub timing: Timing,
    /// The last good one.
    good: Option<Rc<Snapshot<T>>>,
    /// When the last call was sent, if it failed, and why it did.
    failure: Option<(Duration, Rc<F>)>,
    /// When the call was sent that had a wrong reply: nothing older is trusted.
    distrusted: Option<Duration>,
    /// When the call under way was sent.
    call: Option<Duration>,
    /// Whether a probe has started a call that is not sent yet.
    started: bool,
    /// As they came.
    waiting: Vec<Waiting<W>>,
}

/// What a good reply yielded, and when the call was sent.
#[derive(Debug)]
pub struct Snapshot<T> {
    /// When the call was sent: what the admin said can be no older.
    pub sent: Duration,
    /// What it said.
    pub report: T,
}

/// What a probe is answered from.
#[derive(Debug)]
pub enum Knowledge<T, F> {
    /// A snapshot that is young enough, or that came just now.
    Fresh(Rc<Snapshot<T>>),
    /// The last good snapshot, because the admin is silent or slow; why, if a refresh has failed since.
    Stale(Rc<Snapshot<T>>, Option<Rc<F>>),
    /// Nothing is known; why.
    Nothing(Rc<F>),
}

/// How a call ended.
#[derive(Debug)]
pub enum Outcome<T, F> {
    /// With a good reply.
    Good(T),
    /// Without a reply of the admin's own.
    Silence(F),
    /// With a wrong reply: what was known before is no longer trusted.
    Wrong(F),
}

/// Probes that need not wait any longer.
#[derive(Debug)]
pub struct Completed<T, F, W> {
    /// What is known now, and what they are answered from.
    pub knowledge: Knowledge<T, F>,
    /// Who they are.
    pub waiting: Vec<Waiting<W>>,
    /// Whether a call has ended as well, and if so, whether it was good.
    pub refreshed: Option<bool>,
}

/// A probe that waits.
#[derive(Debug)]
pub struct Waiting<W> {
    /// Its own as long as it waits.
    pub id: u32,
    /// When it came.
    pub since: Duration,
    /// What it wants.
    pub probe: W,
}

impl<T> Snapshot<T> {
    /// How old it is.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.sent)
    }
}

impl<T, F, W> Snapshots<T, F, W> {
    /// Starts without a snapshot.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            good: None,
            failure: None,
            distrusted: None,
            call: None,
            started: false,
            waiting: Vec::new(),
        }
    }

    /// What answers a probe at once; without that it waits.
    pub fn at_hand(&self, now: Duration) -> Option<Knowledge<T, F>> {
        if let Some(good) = self.good.as_ref()
            && self.is_young(good, now)
        {
            return Some(Knowledge::Fresh(Rc::clone(good)));
        }
        let (sent, fault) = self.failure.as_ref()?;
        if now.saturating_sub(*sent) >= self.timing.max_age.min(LONGEST_FAILURE) {
            return None;
        }
        // After a wrong reply there is nothing to fall back to.
        let nothing = || Knowledge::Nothing(Rc::clone(fault));
        Some(self.fallback(now).unwrap_or_else(nothing))
    }

    /// Makes a probe wait; whether a call is to be started for it.
    pub fn wait(&mut self, id: u32, probe: W, now: Duration) -> bool {
        let since = now;
        self.waiting.push(Waiting { id, since, probe });
        self.call.is_none() && !std::mem::replace(&mut self.started, true)
    }

    /// The probe's client has gone away.
    pub fn cancel(&mut self, id: u32) {
        let place = self.waiting.iter().rposition(|waiting| waiting.id == id);
        if let Some(place) = place {
            self.waiting.remove(place);
        }
    }

    /// Whether a call may be sent now; if so, it counts as sent.
    pub fn send(&mut self, now: Duration) -> bool {
        let may = self.call.is_none();
        self.call.get_or_insert(now);
        self.started = false;
        may
    }

    /// The call that was sent has ended: everybody who waits is answered. `None` if it was given up.
    pub fn complete(
        &mut self,
        outcome: Outcome<T, F>,
        now: Duration,
    ) -> Option<Completed<T, F, W>> {
        let sent = self.call.take()?;
        let refreshed = Some(matches!(outcome, Outcome::Good(_)));
        let younger = self.good.as_ref().filter(|good| good.sent > sent);
        let knowledge = match (outcome, younger) {
            (Outcome::Good(_), Some(younger)) => Knowledge::Fresh(Rc::clone(younger)),
            (Outcome::Wrong(_), Some(younger)) if self.is_young(younger, now) => {
                Knowledge::Fresh(Rc::clone(younger))
            }
            (Outcome::Good(report), None) => {
                let good = Rc::new(Snapshot { sent, report });
                self.good = Some(Rc::clone(&good));
                self.failure = None;
                Knowledge::Fresh(good)
            }
            (Outcome::Silence(fault), _) => self.fail(sent, fault, now),
            (Outcome::Wrong(fault), _) => {
                self.good = None;
                self.distrusted = Some(sent);
                self.fail(sent, fault, now)
            }
        };
        Some(Completed {
            knowledge,
            waiting: std::mem::take(&mut self.waiting),
            refreshed,
        })
    }

    /// Takes over a snapshot that another worker has made, if it is younger than our own, and than the last
    /// wrong reply.
    pub fn adopt(&mut self, sent: Duration, report: T) {
        if Some(sent) > self.sent() && Some(sent) > self.distrusted {
            self.good = Some(Rc::new(Snapshot { sent, report }));
        }
    }

    /// Lets the next probe start a call, although the last call has just failed.
    pub fn forget_failure(&mut self) {
        self.failure = None;
    }

    /// When the call of our own snapshot was sent; `None` without one.
    pub fn sent(&self) -> Option<Duration> {
        self.good.as_ref().map(|good| good.sent)
    }

    /// Whether the call that was sent has been silent for so long that its end will never come.
    pub fn is_lost(&self, now: Duration) -> bool {
        let limit = self.timing.timeout + GRACE;
        self.call
            .is_some_and(|sent| now.saturating_sub(sent) >= limit)
    }

    /// Takes out the probes that need not wait any longer, and what they are answered from.
    pub fn overdue(&mut self, now: Duration) -> Option<Completed<T, F, W>> {
        let (knowledge, wait) = match self.at_hand(now) {
            Some(knowledge) => (knowledge, Duration::ZERO),
            None => (self.fallback(now)?, LONGEST_WAIT),
        };
        let over = |waiting: &mut Waiting<W>| now.saturating_sub(waiting.since) >= wait;
        Some(Completed {
            knowledge,
            waiting: self.waiting.extract_if(.., over).collect(),
            refreshed: None,
        })
    }

    /// When the next waiting probe becomes overdue; `None` if none waits or none ever will.
    pub fn next_overdue(&self, now: Duration) -> Option<Duration> {
        self.fallback(now)?;
        Some(self.waiting.first()?.since + LONGEST_WAIT)
    }

    /// Whether somebody waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn is_young(&self, good: &Snapshot<T>, now: Duration) -> bool {
        good.age(now) < self.timing.max_age
    }

    /// The last good snapshot, if it may answer while the admin is silent.
    fn fallback(&self, now: Duration) -> Option<Knowledge<T, F>> {
        let good = self.good.as_ref()?;
        if good.age(now) >= self.timing.max_stale {
            return None;
        }
        if self.is_young(good, now) {
            return Some(Knowledge::Fresh(Rc::clone(good)));
        }
        let failure = self.failure.as_ref();
        let failure = failure.filter(|(sent, _)| *sent >= good.sent);
        let fault = failure.map(|(_, fault)| Rc::clone(fault));
        Some(Knowledge::Stale(Rc::clone(good), fault))
    }

    fn fail(&mut self, sent: Duration, fault: F, now: Duration) -> Knowledge<T, F> {
        let fault = Rc::new(fault);
        self.failure = Some((sent, Rc::clone(&fault)));
        self.fallback(now).unwrap_or(Knowledge::Nothing(fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MAX_AGE: u64 = 250;
    const MAX_STALE: u64 = 2000;
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
        /// The call ends.
        Reply(End),
        /// The call will never end.
        Lose,
        /// Another worker shares a snapshot of this age.
        Share(u64),
        /// Time passes, in steps of at most a tick.
        Pass(u64),
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Good,
        Silence,
        Wrong,
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![3 => Just(End::Good), 2 => Just(End::Silence), 1 => Just(End::Wrong)]
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Probe),
            1 => (0..8_usize).prop_map(Event::Leave),
            3 => Just(Event::Wake),
            3 => end().prop_map(Event::Reply),
            1 => Just(Event::Lose),
            1 => (0..3000_u64).prop_map(Event::Share),
            3 => prop_oneof![0..20_u64, 0..400_u64, Just(86_400_000)].prop_map(Event::Pass),
        ]
    }

    /// One worker and its admin. `T` is the time at which the call was sent.
    struct World {
        snapshots: Snapshots<u64, (), ()>,
        max_age: u64,
        max_stale: u64,
        now: u64,
        next_tick: u64,
        next_id: u32,
        /// Those who wait, since when, and since when a good snapshot has been at hand.
        waiting: BTreeMap<u32, (u64, Option<u64>)>,
        answered: Vec<u32>,
        left: Vec<u32>,
        /// When the call under way was sent.
        call: Option<u64>,
        lost: bool,
        sent: Vec<u64>,
        last_wrong: Option<u64>,
    }

    impl World {
        fn new(max_age: u64, max_stale: u64) -> Self {
            let timing = Timing {
                max_age: Duration::from_millis(max_age),
                max_stale: Duration::from_millis(max_stale),
                timeout: Duration::from_millis(TIMEOUT),
            };
            Self {
                snapshots: Snapshots::new(timing),
                max_age,
                max_stale,
                now: 0,
                next_tick: TICK,
                next_id: 0,
                waiting: BTreeMap::new(),
                answered: Vec::new(),
                left: Vec::new(),
                call: None,
                lost: false,
                sent: Vec::new(),
                last_wrong: None,
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
                        self.snapshots.cancel(id);
                    }
                }
                Event::Wake => self.wake(),
                Event::Reply(end) if !self.lost => self.reply(end),
                Event::Reply(_) => {}
                Event::Lose => self.lost = self.call.is_some(),
                Event::Share(age) => {
                    let sent = self.now.saturating_sub(age);
                    self.snapshots.adopt(Duration::from_millis(sent), sent);
                }
                Event::Pass(time) if time > 1000 && !self.waiting.is_empty() => {}
                Event::Pass(time) if time <= 1000 => self.pass(time),
                Event::Pass(time) => {
                    self.now += time;
                    self.tick();
                }
            }
            self.note_fallback();
        }

        /// As the filter: the tick comes each 50 ms, and when the next probe becomes overdue.
        fn pass(&mut self, time: u64) {
            let end = self.now + time;
            loop {
                let due = self.snapshots.next_overdue(self.time());
                let due = due.map_or(u64::MAX, |due| due.as_millis() as u64);
                let next = self.next_tick.min(due).max(self.now);
                if next > end {
                    break;
                }
                self.now = next;
                self.tick();
            }
            self.now = end;
        }

        fn note_fallback(&mut self) {
            let at_hand = self.snapshots.fallback(self.time()).is_some();
            for (_, since) in self.waiting.values_mut() {
                *since = match (at_hand, *since) {
                    (true, None) => Some(self.now),
                    (true, since) => since,
                    (false, _) => None,
                };
            }
        }

        /// Whatever is answered from is young enough, and not older than a wrong reply.
        fn check_age(&self, knowledge: &Knowledge<u64, ()>, just_sent: Option<u64>) {
            let (sent, limit) = match knowledge {
                Knowledge::Fresh(snapshot) => (snapshot.report, self.max_age),
                Knowledge::Stale(snapshot, _) => (snapshot.report, self.max_stale),
                Knowledge::Nothing(_) => return,
            };
            let age = self.now - sent;
            assert!(
                just_sent.is_some_and(|just| just <= sent) || age < limit,
                "from {age} ms ago"
            );
            assert!(
                self.last_wrong.is_none_or(|wrong| wrong <= sent),
                "distrusted"
            );
        }

        fn probe(&mut self) {
            let id = self.next_id;
            self.next_id += 1;
            if let Some(knowledge) = self.snapshots.at_hand(self.time()) {
                self.check_age(&knowledge, None);
                self.answered.push(id);
            } else {
                self.snapshots.wait(id, (), self.time());
                self.waiting.insert(id, (self.now, None));
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

        fn reply(&mut self, end: End) {
            let Some(sent) = self.call.take() else {
                return;
            };
            let outcome = match end {
                End::Good => Outcome::Good(sent),
                End::Silence => Outcome::Silence(()),
                End::Wrong => Outcome::Wrong(()),
            };
            let had_fallback = self.snapshots.fallback(self.time()).is_some();
            let Some(completed) = self.snapshots.complete(outcome, self.time()) else {
                // Too late: it was given up.
                return;
            };
            let nothing = matches!(completed.knowledge, Knowledge::Nothing(_));
            match end {
                End::Good => assert!(!nothing, "a success was thrown away"),
                End::Silence => assert_eq!(nothing, !had_fallback),
                End::Wrong if nothing => self.last_wrong = Some(sent),
                End::Wrong => {}
            }
            self.check_age(&completed.knowledge, Some(sent));
            self.answer(completed.waiting);
            assert!(self.waiting.is_empty(), "somebody was forgotten");
        }

        fn tick(&mut self) {
            if self.now >= self.next_tick {
                self.next_tick = self.now + TICK;
            }
            if self.snapshots.is_lost(self.time()) {
                self.lost = false;
                self.reply(End::Silence);
            }
            if let Some(overdue) = self.snapshots.overdue(self.time()) {
                self.check_age(&overdue.knowledge, None);
                self.answer(overdue.waiting);
            }
            // Envoy ends every call by its timeout, unless it is lost.
            if self.call.is_some_and(|sent| self.now - sent >= TIMEOUT) && !self.lost {
                self.reply(End::Silence);
            }
            if self.snapshots.is_waiting() {
                self.wake();
            }
            self.note_fallback();
            let limit = TIMEOUT + GRACE.as_millis() as u64 + 2 * TICK;
            let longest = LONGEST_WAIT.as_millis() as u64;
            for (id, (since, at_hand)) in &self.waiting {
                let waited = self.now - since;
                assert!(waited <= limit, "{id} waits for {waited} ms");
                if let Some(at_hand) = at_hand {
                    let waited = self.now - since.max(at_hand);
                    assert!(
                        waited < longest,
                        "{id} waits for {waited} ms beside a snapshot"
                    );
                }
            }
        }

        fn answer(&mut self, probes: Vec<Waiting<()>>) {
            for Waiting { id, .. } in probes {
                assert!(self.waiting.remove(&id).is_some(), "{id} does not wait");
                self.answered.push(id);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// For any order of events, every probe still there is answered exactly once, in bounded
        /// time, within 100 ms while a good snapshot is at hand, and never from one too old.
        #[test]
        fn every_probe_is_answered_once(
            max_age in prop_oneof![Just(0), Just(MAX_AGE)],
            max_stale in prop_oneof![Just(0), Just(100), Just(MAX_STALE)],
            events in proptest::collection::vec(event(), 0..120),
        ) {
            let mut world = World::new(max_age, max_stale);
            events.into_iter().for_each(|event| world.happen(event));
            world.pass(2 * TIMEOUT);
            prop_assert!(world.waiting.is_empty());
            let mut ended = [world.answered, world.left].concat();
            ended.sort_unstable();
            prop_assert_eq!(ended, (0..world.next_id).collect::<Vec<_>>());
        }

        /// Probes alone, and an admin that answers at once, well or badly: one call a max_age.
        #[test]
        fn probes_cannot_flood_the_admin(steps in proptest::collection::vec((0..60_u64, end()), 1..300)) {
            let mut world = World::new(MAX_AGE, MAX_STALE);
            for (step, end) in steps {
                world.now += step;
                world.probe();
                if !world.waiting.is_empty() {
                    world.wake();
                    world.reply(end);
                }
            }
            prop_assert!(world.sent.windows(2).all(|two| two[1] - two[0] >= MAX_AGE));
        }
    }

    impl World {
        /// Sends a call that ends so.
        fn refresh(&mut self, end: End) {
            self.wake();
            self.reply(end);
        }

        /// What a probe is answered from: when its call was sent, `None` if nothing is known.
        /// `Err` if it waits.
        fn at_hand(&mut self) -> Result<Option<u64>, ()> {
            match self.snapshots.at_hand(self.time()).ok_or(())? {
                Knowledge::Fresh(snapshot) | Knowledge::Stale(snapshot, _) => {
                    Ok(Some(snapshot.report))
                }
                Knowledge::Nothing(_) => Ok(None),
            }
        }
    }

    #[test]
    fn max_age_0_never_answers_from_memory() {
        let mut world = World::new(0, MAX_STALE);
        world.refresh(End::Good);
        assert_eq!(world.at_hand(), Err(()));
        world.probe();
        assert_eq!(world.waiting.len(), 1);
    }

    #[test]
    fn of_two_snapshots_the_younger_counts() {
        let mut world = World::new(MAX_AGE, MAX_STALE);
        world.now = 100;
        world.refresh(End::Good);
        world.happen(Event::Share(50));
        assert_eq!(world.at_hand(), Ok(Some(100)));
        world.now = 200;
        world.happen(Event::Share(50));
        assert_eq!(world.at_hand(), Ok(Some(150)));
        // Another worker's answers as one's own does.
        world.now = 399;
        assert_eq!(world.at_hand(), Ok(Some(150)));
        world.now = 400;
        assert_eq!(world.at_hand(), Err(()));
    }

    #[test]
    fn silence_leaves_a_fresh_success_in_place() {
        let mut world = World::new(MAX_AGE, 0);
        world.refresh(End::Good);
        world.now = MAX_AGE - 1;
        world.refresh(End::Silence);
        assert_eq!(world.at_hand(), Ok(Some(0)));
        world.now = MAX_AGE;
        assert_eq!(world.at_hand(), Ok(None));
        world.now = 2 * MAX_AGE;
        assert_eq!(world.at_hand(), Err(()));
    }

    #[test]
    fn silence_answers_from_the_last_good_snapshot_and_a_wrong_reply_does_not() {
        for (end, expected) in [(End::Silence, Ok(Some(0))), (End::Wrong, Ok(None))] {
            let mut world = World::new(MAX_AGE, MAX_STALE);
            world.refresh(End::Good);
            world.now = MAX_STALE - 1;
            world.refresh(end);
            assert_eq!(world.at_hand(), expected, "{end:?}");
            world.now = MAX_STALE;
            assert_eq!(world.at_hand(), Ok(None), "{end:?}");
        }
    }

    #[test]
    fn a_failure_does_not_answer_for_long() {
        for end in [End::Silence, End::Wrong] {
            let mut world = World::new(60_000, 0);
            world.refresh(end);
            world.now = 249;
            assert_eq!(world.at_hand(), Ok(None), "{end:?}");
            world.now = 250;
            assert_eq!(world.at_hand(), Err(()), "{end:?}");
        }
    }

    #[test]
    fn nothing_older_than_a_wrong_reply_is_trusted() {
        let mut world = World::new(MAX_AGE, MAX_STALE);
        world.now = 500;
        world.refresh(End::Wrong);
        world.happen(Event::Share(1));
        assert!(world.snapshots.fallback(world.time()).is_none());
        world.now = 600;
        world.happen(Event::Share(1));
        assert!(world.snapshots.fallback(world.time()).is_some());
    }

    /// A stale answer rests on a failed refresh only if one has failed since: a slow one has not.
    #[test]
    fn why_an_answer_is_stale() {
        let mut world = World::new(MAX_AGE, MAX_STALE);
        world.refresh(End::Good);
        let why = |world: &World| match world.snapshots.fallback(world.time()) {
            Some(Knowledge::Stale(_, fault)) => Some(fault.is_some()),
            _ => None,
        };
        assert_eq!(why(&world), None);
        world.now = 300;
        world.wake();
        assert_eq!(why(&world), Some(false));
        world.reply(End::Silence);
        assert_eq!(why(&world), Some(true));
        // Another worker had a good reply meanwhile.
        world.now = 1000;
        world.happen(Event::Share(690));
        assert_eq!(why(&world), Some(false));
    }
}
