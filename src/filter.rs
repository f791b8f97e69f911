//! The wasm filter's logic behind the [`Envoy`] trait: one worker, one configuration.
//!
//! A probe is answered from what is at hand, or it waits and the root is woken to ask the admin: the
//! call belongs to the root and not to a request whose client may go away. While a probe waits the
//! root's tick is on, which answers it should a reply or a wake-up never come.
//!
//! Each answer is made in one place, from a verdict that is recorded there as well.

#[cfg(test)]
mod tests;

use std::time::Duration;

use healthz_core::answer::{Age, Outcome, Response};
use healthz_core::config::wasm::Config;
use healthz_core::judgement::judge;
use healthz_core::request::{Form, Probe};
use healthz_core::view::View;

use crate::admin::Known;
use crate::admin::pages::Report;
use crate::admin::snapshots::{Knowledge, Waiting};
use crate::envoy::Envoy;
use crate::metrics::Counted;
use crate::recorder::Recorder;
use crate::refresh::{Ended, Refresh};

/// One worker's filter of one configuration.
pub struct Filter<E> {
    envoy: E,
    config: Config,
    refresh: Refresh<Pending>,
    recorder: Recorder,
    /// When the root's tick comes next; [`Duration::MAX`] if it is off.
    next_tick: Duration,
}

/// What a probe wants: the endpoint's place in the configuration, and the form of the answer.
#[derive(Debug, Clone, Copy)]
struct Pending {
    index: usize,
    form: Form,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Action {
    /// It goes on to its route.
    PassOn,
    /// It is answered now.
    Answer(Response),
    /// It waits; a later call returns its answer.
    Wait,
}

/// Answers to requests that waited, each with the request's id.
pub type Answers = Vec<(u32, Response)>;

impl<E: Envoy> Filter<E> {
    /// For a configuration and the text that it was read from.
    pub fn new(config: Config, text: &[u8], envoy: E) -> Self {
        let now = envoy.now();
        let mut filter = Self {
            refresh: Refresh::new(&config, now),
            recorder: Recorder::new(&config, text, &envoy),
            next_tick: Duration::MAX,
            config,
            envoy,
        };
        filter.schedule(now);
        filter
    }

    /// The configuration is gone: nothing of it may go on, raise an alert or take memory.
    pub fn stop(&mut self) {
        self.recorder.stop(&self.envoy);
        self.envoy.set_tick(None);
    }

    /// Whether a request for this `:path` is answered here.
    pub fn is_ours(&self, target: &[u8]) -> bool {
        Probe::of(&self.config.endpoints, target).is_some()
    }

    /// A request has come; `header` gives the value of one of its headers, empty if there is none.
    pub fn request<'h>(&mut self, id: u32, header: impl Fn(&'static str) -> &'h [u8]) -> Action {
        let Some(probe) = Probe::of(&self.config.endpoints, header(":path")) else {
            return Action::PassOn;
        };
        let now = self.envoy.now();
        let index = probe.index;
        let action = match probe.form(header) {
            None => {
                let counted = Counted::Probe(index, Outcome::MethodNotAllowed);
                self.recorder.metrics.count(counted, now);
                Action::Answer(Response::method_not_allowed())
            }
            Some(form) if probe.endpoint.needs_nothing() => {
                Action::Answer(self.answer(Pending { index, form }, None, now))
            }
            Some(form) => {
                let pending = Pending { index, form };
                match self.refresh.probe(&self.envoy, id, pending, now) {
                    Some(known) => Action::Answer(self.answer(pending, Some(&known), now)),
                    None => Action::Wait,
                }
            }
        };
        self.schedule(now);
        action
    }

    /// The client of a request that waits has gone away.
    pub fn cancel(&mut self, id: u32) {
        self.refresh.cancel(id);
    }

    /// The root was woken.
    pub fn woken(&mut self) -> Answers {
        let now = self.envoy.now();
        let ended = self.refresh.start(&self.envoy, now);
        self.answer_all(ended, now)
    }

    /// A reply of the admin has come: its status, `None` if it was lost after its headers, and its body in
    /// chunks.
    pub fn replied(
        &mut self,
        token: u32,
        status: Option<u32>,
        body: &mut dyn Iterator<Item = Vec<u8>>,
    ) -> Answers {
        let now = self.envoy.now();
        let ended = self.refresh.replied(&self.envoy, token, status, body, now);
        self.answer_all(ended, now)
    }

    /// The root's tick.
    pub fn tick(&mut self) -> Answers {
        let now = self.envoy.now();
        let ended = self.refresh.tick(&self.envoy, now);
        let answers = self.answer_all(ended, now);
        self.recorder.metrics.flush(&self.envoy);
        // Envoy repeats the tick as it was set last, until it is set again.
        self.next_tick = Duration::MAX;
        self.schedule(now);
        if self.next_tick == Duration::MAX {
            self.envoy.set_tick(None);
        }
        answers
    }

    fn answer_all(
        &mut self,
        ended: impl IntoIterator<Item = Ended<Pending>>,
        now: Duration,
    ) -> Answers {
        let mut answers = Vec::new();
        for ended in ended {
            let known = ended.knowledge;
            if let Some(succeeded) = ended.refreshed {
                self.recorder
                    .metrics
                    .count(Counted::Refresh(succeeded), now);
                if let Knowledge::Fresh(snapshot) = &known {
                    self.recorder.snapshot(&self.envoy, snapshot);
                }
            }
            for Waiting { id, probe, .. } in ended.waiting {
                answers.push((id, self.answer(probe, Some(&known), now)));
            }
        }
        self.schedule(now);
        answers
    }

    /// Answers a probe from what is known, and records the verdict; `None` is for an endpoint that needs
    /// none.
    fn answer(
        &mut self,
        Pending { index, form }: Pending,
        known: Option<&Known>,
        now: Duration,
    ) -> Response {
        let nothing = Report::default();
        let (view, age): (&dyn View, _) = match known {
            None => (&nothing, Age::Live),
            Some(Knowledge::Fresh(good)) => (&good.report, Age::Fresh(good.age(now))),
            Some(Knowledge::Stale(good, _)) => (&good.report, Age::Stale(good.age(now))),
            Some(Knowledge::Nothing(fault)) => (&**fault, Age::Live),
        };
        if let Some(known) = known {
            self.recorder.admin(&self.envoy, known, now);
        }
        let Some(endpoint) = self.config.endpoints.get(index) else {
            return Response::fault();
        };
        let verdict = judge(endpoint, view);
        self.recorder.answer(&self.envoy, index, &verdict, now);
        Response::of(&verdict, form, age)
    }

    /// Makes the tick come when something is next due, if it would come later.
    fn schedule(&mut self, now: Duration) {
        let due = [self.refresh.deadline(now), self.recorder.metrics.deadline()];
        let Some(due) = due.into_iter().flatten().min() else {
            return;
        };
        if due < self.next_tick {
            let period = due.saturating_sub(now).max(Duration::from_millis(1));
            self.next_tick = now + period;
            self.envoy.set_tick(Some(period));
        }
    }
}
