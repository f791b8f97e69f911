//! Open Watches, and when each is sent a status.
//!
//! Envoy gives an HTTP filter no timer. One thread of the module's wakes workers ten times a second, and
//! it sleeps while nobody watches. Those Watches of a worker that follow the same make a [`Group`]. One
//! of them, its leader, is woken, judges, and if the status has changed sends it to the others, whose
//! streams are of the same worker. So a thousand Watches of an endpoint cost a worker one wake-up a tick.
//!
//! Nothing here is borrowed or locked while Envoy sends something, for that can end a stream, which
//! then leaves from in there. The lock of the thread is held while it wakes workers: so nobody is
//! woken who has left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use healthz_core::judgement::Health;

use super::wire::status;
use crate::envoy::{Waker, Watcher};

/// How often workers are woken.
const TICK: Duration = Duration::from_millis(100);

/// What makes Watches of one worker the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The filter's configuration, by its address.
    pub filter: usize,
    /// The endpoint's place in it.
    pub endpoint: usize,
    /// The cluster that the request's route leads to.
    pub route: Option<Vec<u8>>,
}

/// A Watch of this worker. No other of the process has this number; later ones have higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchId(u64);

/// Watches of a worker that follow the same. The first of them leads.
struct Group {
    key: Key,
    /// Never empty.
    members: BTreeMap<WatchId, Member>,
    /// What all were sent last; `None` if one that has joined was sent something else.
    sent: Option<Health>,
    /// Whether what was sent last was for a drain, which is not recorded.
    drained: bool,
    /// The leader's.
    _wake_up: WakeUp,
}

struct Member {
    watcher: Rc<dyn Watcher>,
    sent: Health,
}

thread_local! {
    static GROUPS: RefCell<Vec<Group>> = const { RefCell::new(Vec::new()) };
}

static LAST: AtomicU64 = AtomicU64::new(0);

/// Takes up a Watch that has been sent this.
pub fn join(key: Key, sent: Health, watcher: Rc<dyn Watcher>) -> WatchId {
    let id = WatchId(LAST.fetch_add(1, Ordering::Relaxed));
    with_groups(|groups| {
        let member = Member { watcher, sent };
        match groups.iter_mut().find(|group| group.key == key) {
            Some(group) => {
                group.sent = group.sent.filter(|&all| all == sent);
                group.members.insert(id, member);
            }
            None => groups.push(Group {
                key,
                sent: Some(sent),
                drained: false,
                _wake_up: WakeUp::new(id, member.watcher.waker()),
                members: [(id, member)].into(),
            }),
        }
        Some(())
    });
    id
}

/// Forgets a Watch whose stream ends. If it led its group, another one does so from now on.
pub fn leave(id: WatchId) {
    with_group(id, |group| {
        let led = group.members.keys().next() == Some(&id);
        group.members.remove(&id);
        if let Some((&next, member)) = group.members.first_key_value()
            && led
        {
            group._wake_up = WakeUp::new(next, member.watcher.waker());
        }
    });
}

/// Makes a Watch's group say that it is unhealthy, for Envoy drains.
pub fn drain(id: WatchId) {
    update(id, Health::Unhealthy);
    with_group(id, |group| group.drained = true);
}

/// Sends this health to those of a Watch's group that were sent another one last; whether it is news, also
/// because what was sent before was for a drain.
pub fn update(id: WatchId, health: Health) -> bool {
    let found = with_group(id, |group| {
        let drained = std::mem::take(&mut group.drained);
        // The usual case, however many they are.
        if group.sent.replace(health) == Some(health) {
            return (drained, Vec::new());
        }
        let others = group.members.values_mut();
        let others = others.filter(|member| member.sent != health);
        let others = others.map(|member| {
            member.sent = health;
            Rc::clone(&member.watcher)
        });
        (drained, others.collect())
    });
    let (drained, others) = found.unwrap_or_default();
    if !others.is_empty() {
        let message = status(health.into());
        others.iter().for_each(|watcher| watcher.send(&message));
    }
    drained || !others.is_empty()
}

/// Ends a Watch's group after a fault: better no answer than an old one.
pub fn fail(id: WatchId) {
    let members = with_group(id, |group| std::mem::take(&mut group.members));
    for member in members.unwrap_or_default().values() {
        member.watcher.fail();
    }
}

/// The group of this Watch, if that is still open. It ends with its last member.
fn with_group<T>(id: WatchId, body: impl FnOnce(&mut Group) -> T) -> Option<T> {
    with_groups(|groups| {
        let mut all = groups.iter_mut();
        let group = all.find(|group| group.members.contains_key(&id))?;
        let result = body(group);
        groups.retain(|group| !group.members.is_empty());
        Some(result)
    })
}

/// `None` also while the worker's thread ends, when no stream of it is left; or if Envoy came back in here
/// from below, which it does not.
fn with_groups<T>(body: impl FnOnce(&mut Vec<Group>) -> Option<T>) -> Option<T> {
    let with = |groups: &RefCell<Vec<Group>>| body(&mut *groups.try_borrow_mut().ok()?);
    GROUPS.try_with(with).ok().flatten()
}

/// The thread, and whom it wakes: one for each group of each worker.
static THREAD: Mutex<Thread> = Mutex::new(Thread {
    started: false,
    wakers: BTreeMap::new(),
});

/// Somebody is to be woken.
static ANYBODY: Condvar = Condvar::new();

struct Thread {
    started: bool,
    /// By the Watches that lead.
    wakers: BTreeMap<WatchId, Box<dyn Waker>>,
}

fn lock() -> MutexGuard<'static, Thread> {
    THREAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread, if that has not been done.
pub fn start() -> io::Result<()> {
    let mut thread = lock();
    if !thread.started {
        let name = "healthz-watch".to_owned();
        thread::Builder::new().name(name).spawn(wake_all)?;
        thread.started = true;
    }
    Ok(())
}

fn wake_all() {
    loop {
        let nobody = |thread: &mut Thread| thread.wakers.is_empty();
        let thread = ANYBODY
            .wait_while(lock(), nobody)
            .unwrap_or_else(PoisonError::into_inner);
        thread.wakers.values().for_each(|waker| waker.wake());
        drop(thread);
        thread::sleep(TICK);
    }
}

/// A place among those whom the thread wakes, up to its end.
struct WakeUp(WatchId);

impl WakeUp {
    fn new(leader: WatchId, waker: Option<Box<dyn Waker>>) -> Self {
        lock().wakers.extend(waker.map(|waker| (leader, waker)));
        ANYBODY.notify_one();
        Self(leader)
    }
}

impl Drop for WakeUp {
    fn drop(&mut self) {
        // Its waker goes with the lock held.
        lock().wakers.remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use Health::{Healthy, Unhealthy};

    use super::*;

    /// A stream of the tests' own.
    #[derive(Default)]
    struct Fake {
        id: Cell<Option<WatchId>>,
        sent: RefCell<Vec<Vec<u8>>>,
        failed: Cell<u32>,
        /// Whom sending ends too, as a broken connection does.
        ends: RefCell<Vec<Rc<Fake>>>,
        woken: Arc<AtomicUsize>,
        wakers: Arc<AtomicUsize>,
    }

    struct FakeWaker {
        woken: Arc<AtomicUsize>,
        wakers: Arc<AtomicUsize>,
    }

    impl Watcher for Fake {
        fn send(&self, message: &[u8]) {
            if self.id.get().is_some() {
                self.sent.borrow_mut().push(message.to_owned());
                self.ends.take().iter().for_each(|other| other.leave());
            }
        }

        fn fail(&self) {
            self.failed.set(self.failed.get() + 1);
            self.leave();
        }

        fn waker(&self) -> Option<Box<dyn Waker>> {
            self.wakers.fetch_add(1, Ordering::Relaxed);
            Some(Box::new(FakeWaker {
                woken: Arc::clone(&self.woken),
                wakers: Arc::clone(&self.wakers),
            }))
        }
    }

    impl Waker for FakeWaker {
        fn wake(&self) {
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Drop for FakeWaker {
        fn drop(&mut self) {
            self.wakers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Fake {
        fn join(endpoint: usize, sent: Health) -> Rc<Self> {
            let fake = Rc::new(Self::default());
            fake.id.set(Some(join(key(endpoint), sent, fake.clone())));
            fake
        }

        fn leave(&self) {
            if let Some(id) = self.id.take() {
                leave(id);
            }
        }

        fn update(&self, health: Health) {
            update(self.id.get().unwrap(), health);
        }

        fn leads(&self) -> bool {
            self.wakers.load(Ordering::Relaxed) == 1
        }

        fn expect(&self, expected: &[Health]) {
            let expected = expected.iter().map(|health| status((*health).into()));
            assert_eq!(*self.sent.borrow(), expected.collect::<Vec<_>>());
        }
    }

    fn key(endpoint: usize) -> Key {
        Key {
            filter: 1,
            endpoint,
            route: None,
        }
    }

    fn groups() -> usize {
        with_groups(|groups| Some(groups.len())).unwrap()
    }

    #[test]
    fn each_is_sent_each_change_once() {
        let (first, second) = (Fake::join(0, Healthy), Fake::join(0, Healthy));
        let other = Fake::join(1, Healthy);
        first.update(Healthy);
        first.update(Unhealthy);
        first.update(Unhealthy);
        // One that comes after a change that the group has not seen yet.
        let late = Fake::join(0, Healthy);
        late.update(Healthy);
        first.update(Unhealthy);
        first.expect(&[Unhealthy, Healthy, Unhealthy]);
        second.expect(&[Unhealthy, Healthy, Unhealthy]);
        late.expect(&[Unhealthy]);
        other.expect(&[]);
        [first, second, other, late]
            .iter()
            .for_each(|fake| fake.leave());
        assert_eq!(groups(), 0);
    }

    /// What a drain has said is not recorded: the first verdict after it is news, also if it says the same.
    #[test]
    fn the_truth_after_a_drain_is_news() {
        for health in [Healthy, Unhealthy] {
            let fake = Fake::join(0, Healthy);
            let id = fake.id.get().unwrap();
            assert!(!update(id, Healthy));
            drain(id);
            drain(id);
            assert!(update(id, health), "{health:?}");
            assert!(!update(id, health), "{health:?}");
            fake.leave();
        }
    }

    #[test]
    fn somebody_always_leads() {
        let members: Vec<_> = (0..4).map(|_| Fake::join(0, Healthy)).collect();
        let leaders = || members.iter().map(|fake| fake.leads()).collect::<Vec<_>>();
        assert_eq!(leaders(), [true, false, false, false]);
        members[1].leave();
        assert_eq!(leaders(), [true, false, false, false]);
        members[0].leave();
        assert_eq!(leaders(), [false, false, true, false]);
        members[2].leave();
        assert_eq!(leaders(), [false, false, false, true]);
        members[3].update(Unhealthy);
        members[3].leave();
        assert_eq!(leaders(), [false; 4]);
        assert_eq!(groups(), 0);
        members[3].expect(&[Unhealthy]);
        members[0].expect(&[]);
    }

    /// To send to one of them ends others, the leader among them.
    #[test]
    fn streams_end_while_others_are_sent_to() {
        let members: Vec<_> = (0..4).map(|_| Fake::join(0, Healthy)).collect();
        let ends = [Rc::clone(&members[0]), Rc::clone(&members[2])];
        *members[0].ends.borrow_mut() = ends.into();
        members[0].update(Unhealthy);
        members[0].expect(&[Unhealthy]);
        members[1].expect(&[Unhealthy]);
        members[2].expect(&[]);
        members[3].expect(&[Unhealthy]);
        assert!(members[1].leads() && !members[0].leads());
        members.iter().for_each(|fake| fake.leave());
        assert_eq!(groups(), 0);
    }

    #[test]
    fn a_fault_ends_the_group() {
        let members: Vec<_> = (0..3).map(|_| Fake::join(0, Healthy)).collect();
        let other = Fake::join(1, Healthy);
        fail(members[1].id.get().unwrap());
        for member in &members {
            assert_eq!(member.failed.get(), 1);
            assert!(!member.leads());
        }
        assert_eq!((other.failed.get(), groups()), (0, 1));
        other.leave();
    }

    #[test]
    fn what_makes_a_group() {
        let of = |filter, endpoint, route: &str| {
            let fake = Rc::new(Fake::default());
            let route = Some(route.as_bytes().to_owned());
            let key = Key {
                filter,
                endpoint,
                route,
            };
            fake.id.set(Some(join(key, Healthy, fake.clone())));
            fake
        };
        let all = [
            of(1, 0, "a"),
            of(1, 0, "a"),
            of(2, 0, "a"),
            of(1, 1, "a"),
            of(1, 0, "b"),
        ];
        let leaders = all.iter().map(|fake| fake.leads());
        assert!(leaders.eq([true, false, true, true, true]));
        all.iter().for_each(|fake| fake.leave());
    }

    #[test]
    fn the_leader_alone_is_woken() {
        start().unwrap();
        start().unwrap();
        let (first, second) = (Fake::join(0, Healthy), Fake::join(0, Healthy));
        let deadline = Instant::now() + Duration::from_secs(30);
        let woken = |fake: &Fake| fake.woken.load(Ordering::Relaxed);
        while woken(&first) < 3 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert_eq!(woken(&second), 0);
        first.leave();
        let last = woken(&first);
        while woken(&second) < 3 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert_eq!(woken(&first), last);
        second.leave();
    }
}
