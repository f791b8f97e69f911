//! What was last answered, so that log, counter and gauge say the same.
//!
//! There is one [`State`] for each filter name and path of a process, whichever worker, listener or
//! configuration answers. [`update`] takes the last one and an answer to the next one, and says what else is
//! to be done. It does nothing itself: a host stores the state by compare-and-swap, and comes again if another
//! worker was faster.

use crate::config::FilterName;
use crate::judgement::{Health, Verdict};

/// What was last answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The health in that answer.
    pub health: Health,
    /// When it became that, in milliseconds by a clock that all workers share and nobody sets.
    pub since: u64,
    /// The kind of the cause that was last logged; see [`Verdict::cause_kind`].
    pub cause: u64,
    /// When a line said nothing but a new cause, by the same clock; 0 if never.
    pub cause_logged: u64,
    /// The configuration that answered last, by a number of the host's.
    pub by: u64,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// What it said.
    pub health: Health,
    /// The kind of its cause, if it said unhealthy.
    pub cause: u64,
    /// The configuration that gave it.
    pub by: u64,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// The state from now on; its health is what the gauge is to show.
    pub state: State,
    /// What is to be logged, once this state is stored; a transition is counted as well.
    pub news: Option<News>,
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something worth knowing.
    Info,
    /// An endpoint is unhealthy, or soon may be.
    Warn,
    /// A configuration is refused, or there is a fault in the filter.
    Error,
}

/// What the log has not said yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The first answer of all. It counts as a transition.
    First,
    /// A transition.
    Transition,
    /// It is still unhealthy, for another cause.
    Cause,
}

/// A transition that follows another one sooner than this waits for an answer after it, in milliseconds.
const SHORTEST: u64 = 1000;

/// Lines that say nothing but a new cause are at least this far apart, in milliseconds.
const CAUSE_PAUSE: u64 = 10_000;

/// The state after an answer at this time, in milliseconds.
pub fn update(last: Option<State>, answered: Answered, now: u64) -> Update {
    let Answered { health, cause, by } = answered;
    let Some(last) = last else {
        let state = State {
            health,
            since: now,
            cause,
            cause_logged: 0,
            by,
        };
        let news = Some(News::First);
        return Update { state, news };
    };
    let passed = |since: u64| now.saturating_sub(since);
    let recent_line = last.cause_logged > 0 && passed(last.cause_logged) < CAUSE_PAUSE;
    let mut state = State { by, ..last };
    let news = if health != last.health {
        if passed(last.since) < SHORTEST {
            return Update {
                state: last,
                news: None,
            };
        }
        (state.health, state.since, state.cause) = (health, now, cause);
        Some(News::Transition)
    } else if health == Health::Unhealthy && cause != last.cause && !recent_line {
        (state.cause, state.cause_logged) = (cause, now.max(1));
        Some(News::Cause)
    } else {
        None
    };
    Update { state, news }
}

impl Verdict<'_> {
    /// The answer that says this verdict.
    pub fn answered(&self, by: u64) -> Answered {
        Answered {
            health: self.health,
            cause: match self.health {
                Health::Healthy => 0,
                Health::Unhealthy => self.cause_kind(),
            },
            by,
        }
    }

    /// The line of the log that says this news of a filter's endpoint, and its level.
    pub fn line(&self, filter: &FilterName, news: News) -> (Level, String) {
        let path = &self.endpoint.path;
        let still = if news == News::Cause { "still " } else { "" };
        match self.health {
            Health::Healthy => (Level::Info, filter.line(format_args!("{path} is healthy"))),
            Health::Unhealthy => {
                let cause = self.cause();
                let line = filter.line(format_args!("{path} is {still}unhealthy: {cause}"));
                (Level::Warn, line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use Health::{Healthy, Unhealthy};
    use News::{Cause, First, Transition};

    use super::*;

    /// Each row: when, who answers what for which cause, the news, and the health that is recorded.
    #[test]
    fn answers_in_a_row() {
        let rows = [
            (5_000, 1, Healthy, 0, Some(First), Healthy),
            (5_001, 1, Healthy, 0, None, Healthy),
            // Too soon after the last change: not recorded, whoever answers so.
            (5_500, 1, Unhealthy, 7, None, Healthy),
            (5_999, 2, Unhealthy, 7, None, Healthy),
            (6_000, 2, Unhealthy, 7, Some(Transition), Unhealthy),
            (6_001, 1, Unhealthy, 7, None, Unhealthy),
            // Another cause is said at once, the next one ten seconds later.
            (6_002, 1, Unhealthy, 8, Some(Cause), Unhealthy),
            (6_003, 1, Unhealthy, 8, None, Unhealthy),
            (16_001, 1, Unhealthy, 9, None, Unhealthy),
            (16_002, 1, Unhealthy, 9, Some(Cause), Unhealthy),
            // The pause holds across transitions, whose own lines say their causes.
            (17_000, 1, Healthy, 0, Some(Transition), Healthy),
            (18_000, 1, Unhealthy, 9, Some(Transition), Unhealthy),
            (18_100, 1, Unhealthy, 8, None, Unhealthy),
            (26_002, 1, Unhealthy, 8, Some(Cause), Unhealthy),
            // The clock of another worker may be behind by a little.
            (26_001, 2, Healthy, 0, Some(Transition), Healthy),
            (26_000, 2, Unhealthy, 0, None, Healthy),
        ];
        let mut last = None;
        for (now, by, health, cause, news, recorded) in rows {
            let answered = Answered { health, cause, by };
            let update = update(last, answered, now);
            let found = (update.news, update.state.health);
            assert_eq!(found, (news, recorded), "at {now}");
            last = Some(update.state);
        }
    }

    /// Who repeats what is recorded takes the record over; who contradicts it too soon does not.
    #[test]
    fn whose_record_it_is() {
        let answered = |by, health| Answered {
            health,
            cause: 0,
            by,
        };
        let first = update(None, answered(1, Healthy), 10).state;
        let repeated = update(Some(first), answered(2, Healthy), 20).state;
        assert_eq!((repeated.by, repeated.since), (2, 10));
        let contradicted = update(Some(repeated), answered(1, Unhealthy), 30);
        assert_eq!(contradicted.state, repeated);
    }
}
