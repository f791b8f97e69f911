//! The snapshot state machine against a simple model: a list of those who wait.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use envoy_healthz::admin::snapshots::{
    GRACE, Knowledge, LONGEST_WAIT, Outcome, Probe, Snapshots, Timing,
};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Event {
    Probe,
    Leave(u8),
    Send,
    Good,
    Silence,
    Wrong,
    Tick,
    Adopt(u16),
    Keep(u16),
    Pass(u16),
}

fuzz_target!(|input: (u8, u16, Vec<Event>)| {
    let (max_age, max_stale, events) = input;
    let max_age = Duration::from_millis(u64::from(max_age));
    let max_stale = Duration::from_millis(u64::from(max_stale));
    let timeout = Duration::from_millis(300);
    let timing = Timing {
        max_age,
        max_stale,
        timeout,
    };
    let mut snapshots = Snapshots::<Duration, (), ()>::new(timing);
    let mut now = Duration::ZERO;
    let mut next = 0;
    let mut waiting: Vec<(u32, Duration)> = Vec::new();
    let mut sent: Option<Duration> = None;
    // What is answered from is young enough; `asked` is when a reply that came just now was asked for.
    let check = |knowledge: &Knowledge<Duration, ()>, asked: Option<Duration>, now: Duration| {
        let (snapshot, limit) = match knowledge {
            Knowledge::Fresh(snapshot) => (snapshot, max_age),
            Knowledge::Stale(snapshot) => (snapshot, max_stale),
            Knowledge::Nothing(_) => return,
        };
        assert_eq!(*snapshot.report, snapshot.asked);
        assert!(asked.is_some_and(|asked| asked <= snapshot.asked) || now - snapshot.asked < limit);
    };
    for event in events {
        match event {
            Event::Probe => {
                match snapshots.probe(next, (), now) {
                    Probe::Answer((), knowledge) => check(&knowledge, None, now),
                    Probe::Ask | Probe::Wait => waiting.push((next, now)),
                }
                next += 1;
            }
            Event::Leave(nth) => {
                if let Some((id, _)) = waiting.get(usize::from(nth)).copied() {
                    waiting.retain(|(other, _)| *other != id);
                    snapshots.cancel(id);
                }
            }
            Event::Send => {
                let may = snapshots.send(now);
                assert_eq!(may, sent.is_none());
                if may {
                    sent = Some(now);
                }
            }
            Event::Good | Event::Silence | Event::Wrong => {
                let outcome = match (event, sent) {
                    (Event::Good, Some(asked)) => Outcome::Good(asked),
                    (Event::Wrong, _) => Outcome::Wrong(()),
                    _ => Outcome::Silence(()),
                };
                let completed = snapshots.complete(outcome, now);
                assert_eq!(completed.is_some(), sent.is_some());
                if let (Some(completed), Some(asked)) = (completed, sent.take()) {
                    check(&completed.knowledge, Some(asked), now);
                    let ids: Vec<_> = completed.waiting.iter().map(|(id, ())| *id).collect();
                    let expected: Vec<_> = waiting.drain(..).map(|(id, _)| id).collect();
                    assert_eq!(ids, expected);
                }
            }
            Event::Tick => {
                let over = |since: Duration| now - since >= timeout + GRACE;
                assert_eq!(snapshots.is_lost(now), sent.is_some_and(over));
                let at_hand = snapshots.has_fallback(now);
                if let Some(overdue) = snapshots.overdue(now) {
                    check(&overdue.knowledge, None, now);
                    for (id, ()) in overdue.waiting {
                        waiting.retain(|(other, _)| *other != id);
                    }
                }
                let longest = |since: Duration| now - since >= LONGEST_WAIT;
                assert!(!at_hand || !waiting.iter().any(|(_, since)| longest(*since)));
            }
            Event::Adopt(age) | Event::Keep(age) => {
                let asked = now.saturating_sub(Duration::from_millis(u64::from(age)));
                if matches!(event, Event::Adopt(_)) {
                    snapshots.adopt(asked, asked);
                } else {
                    snapshots.keep_spare(asked, asked);
                }
            }
            Event::Pass(time) => now += Duration::from_millis(u64::from(time % 2000)),
        }
        assert_eq!(snapshots.is_waiting(), !waiting.is_empty());
    }
});
