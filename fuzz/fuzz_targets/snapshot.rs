//! The snapshot state machine against a simple model: a list of those who wait.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use envoy_healthz::snapshot::{GRACE, Probe, Snapshots, Timing};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Event {
    Probe,
    Leave(u8),
    Send,
    End(bool),
    Expire,
    Share(u16),
    Pass(u16),
}

fuzz_target!(|input: (u8, Vec<Event>)| {
    let (max_age, events) = input;
    let max_age = Duration::from_millis(u64::from(max_age));
    let timeout = Duration::from_millis(300);
    let mut snapshots = Snapshots::<Duration, (), ()>::new(Timing { max_age, timeout });
    let mut now = Duration::ZERO;
    let mut next = 0;
    let mut waiting: Vec<(u32, Duration)> = Vec::new();
    let mut sent: Option<Duration> = None;
    for event in events {
        match event {
            Event::Probe => {
                match snapshots.probe(next, (), now) {
                    Probe::Answer((), snapshot) => assert!(now - snapshot.asked < max_age),
                    Probe::Ask | Probe::Wait => waiting.push((next, now)),
                }
                next += 1;
            }
            Event::Leave(nth) => {
                if let Some((id, _)) = waiting.get(usize::from(nth)).copied() {
                    waiting.retain(|(other, _)| *other != id);
                    snapshots.left(id);
                }
            }
            Event::Send => {
                let may = snapshots.send(now);
                assert_eq!(may, sent.is_none());
                if may {
                    sent = Some(now);
                }
            }
            Event::End(good) => {
                let outcome = if good { Ok(now) } else { Err(()) };
                let ended = snapshots.ended(outcome, now);
                assert_eq!(ended.is_some(), sent.is_some());
                if let (Some(ended), Some(asked)) = (ended, sent.take()) {
                    let ids: Vec<_> = ended.waiting.iter().map(|(id, ())| *id).collect();
                    let expected: Vec<_> = waiting.drain(..).map(|(id, _)| id).collect();
                    assert_eq!(ids, expected);
                    assert!(ended.kept || ended.snapshot.asked == asked);
                    assert!(!ended.kept || now - ended.snapshot.asked < max_age);
                }
            }
            Event::Expire => {
                let ids: Vec<_> = snapshots
                    .expired(now)
                    .into_iter()
                    .map(|(id, ())| id)
                    .collect();
                let limit = timeout + GRACE;
                let over = |since: Duration| now - since >= limit;
                let expected: Vec<_> = waiting
                    .iter()
                    .filter(|(_, since)| over(*since))
                    .map(|(id, _)| *id)
                    .collect();
                assert_eq!(ids, expected);
                waiting.retain(|(_, since)| !over(*since));
                if sent.is_some_and(over) {
                    sent = None;
                }
            }
            Event::Share(age) => {
                let asked = now.saturating_sub(Duration::from_millis(u64::from(age)));
                snapshots.adopt(asked, Ok(asked));
            }
            Event::Pass(time) => now += Duration::from_millis(u64::from(time % 2000)),
        }
        assert_eq!(snapshots.is_waiting(), !waiting.is_empty());
    }
});
