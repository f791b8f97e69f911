//! Whether a verdict differs from the last one that any worker gave, so that it is logged once.
//!
//! Verdicts of several workers come in any order. Each rests on what was asked at some time, in
//! milliseconds since 1970 by the wall clock, the only one that all workers share. A verdict from
//! older knowledge does not undo one from younger. The clock can be set: a record from the future
//! is void.

use crate::judgement::Health;

/// The last transition of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What it became.
    pub health: Health,
    /// When what the verdict rests on was asked for.
    pub asked: u64,
}

/// What a verdict is beside the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It differs, or is the first of all: [`Record`] it and log it.
    Changed {
        /// Whether it is the first of all.
        first: bool,
    },
    /// It is the same.
    Same,
    /// It differs, but the last one rests on younger knowledge.
    Outdated,
}

/// Compares a verdict with the last one; `now` is the wall clock.
pub fn compare(last: Option<Record>, verdict: Record, now: u64) -> Transition {
    match last {
        Some(last) if last.health == verdict.health => Transition::Same,
        Some(last) if verdict.asked < last.asked && last.asked <= now => Transition::Outdated,
        last => Transition::Changed {
            first: last.is_none(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        use Health::{Healthy, Unhealthy};
        let changed = |first| Transition::Changed { first };
        for (last, health, expected) in [
            (None, Healthy, changed(true)),
            (Some((Healthy, 90)), Healthy, Transition::Same),
            (Some((Healthy, 90)), Unhealthy, changed(false)),
            (Some((Unhealthy, 90)), Healthy, changed(false)),
            (Some((Unhealthy, 101)), Healthy, Transition::Outdated),
            (Some((Unhealthy, 100)), Healthy, changed(false)),
            // The clock was set back: a record from the future binds nobody.
            (Some((Unhealthy, 999)), Healthy, changed(false)),
        ] {
            let record = last.map(|(health, asked)| Record { health, asked });
            let verdict = Record { health, asked: 100 };
            assert_eq!(compare(record, verdict, 110), expected, "{last:?}");
        }
    }
}
