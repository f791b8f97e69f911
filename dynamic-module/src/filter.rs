//! A request, to its answer, which is recorded where it is made.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use healthz_core::answer::{Age, Outcome, Response};
use healthz_core::config::ConfigError;
use healthz_core::config::module::Config;
use healthz_core::judgement::judge;
use healthz_core::request::Probe;

use crate::drain::{Drain, Known};
use crate::envoy::{Request, Setup};
use crate::grpc::wire::{Call, Method, Status, is_protobuf};
use crate::recorder::Recorder;
use crate::source::WorkerView;
use crate::stats::Counted;

/// A checked configuration and what belongs to it, shared by all workers.
pub struct Filter {
    pub(crate) config: Config,
    pub(crate) recorder: Recorder,
    pub(crate) drain: Arc<Drain>,
}

/// What a request of ours is for.
enum Ours<'a> {
    Probe(Probe<'a>),
    Call(Method),
}

/// What becomes of a request when its headers have come.
pub enum Action {
    /// It is none of ours.
    Pass,
    /// It is answered.
    Answer(Answer),
    /// It is a call that fails.
    Fail(Status),
    /// Its body decides.
    Read(Box<Call>),
}

/// The answer to a probe.
#[derive(Debug)]
pub struct Answer {
    /// What it is.
    pub response: Response,
    /// Whether the body is left out; its length is not.
    pub head: bool,
}

impl Filter {
    /// Reads a configuration.
    pub fn new(setup: &dyn Setup, text: &[u8]) -> Result<Self, ConfigError> {
        let config = Config::parse(text)?;
        Ok(Self {
            recorder: Recorder::new(setup, &config),
            drain: Drain::of(config.name.as_str()),
            config,
        })
    }

    /// Whether this request is for us.
    pub fn is_for_us(&self, request: &dyn Request) -> bool {
        self.ours(request).is_some()
    }

    /// Looks at a request's headers; `end` if there is no more of it. `known` is of the time before it passed
    /// the filters before ours.
    pub fn begin(&self, request: &dyn Request, end: bool, known: Known) -> Action {
        let Some(ours) = self.ours(request) else {
            return Action::Pass;
        };
        self.drain.passed(ours.target(), known);
        match ours {
            Ours::Probe(probe) => Action::Answer(self.answer(&probe, request)),
            Ours::Call(_) if end => Action::Fail(Status::InvalidArgument),
            Ours::Call(method) => {
                let encoding = request.header("grpc-encoding");
                Action::Read(Box::new(Call::new(method, encoding)))
            }
        }
    }

    /// Looks at a request that a filter before ours has answered: does Envoy drain?
    pub fn answered_before(&self, request: &dyn Request) {
        if self.config.services.is_empty() {
            return;
        }
        // Envoy's own word for it: no client and no backend can give it.
        if let Some(ours) = self.ours(request)
            && request.response_details() == b"health_check_failed"
        {
            self.drain.refused(ours.target());
        }
    }

    fn ours<'a>(&'a self, request: &'a dyn Request) -> Option<Ours<'a>> {
        let target = request.header(":path");
        if let Some(probe) = Probe::of(&self.config.endpoints, target) {
            return Some(Ours::Probe(probe));
        }
        if self.config.services.is_empty() {
            return None;
        }
        let method = Method::of_path(target)?;
        let good =
            request.header(":method") == b"POST" && is_protobuf(request.header("content-type"));
        good.then_some(Ours::Call(method))
    }

    fn answer(&self, probe: &Probe<'_>, request: &dyn Request) -> Answer {
        let method = request.header(":method");
        let header = |name| match name {
            ":method" => method,
            name => request.header(name),
        };
        let response = match probe.form(header) {
            None => {
                self.recorder.method_not_allowed(probe.index, request);
                Response::method_not_allowed()
            }
            Some(form) => {
                let view = WorkerView::new(request, probe.endpoint);
                let verdict = judge(probe.endpoint, &view);
                let counted = Counted::Probe(Outcome::Health(verdict.health));
                self.recorder
                    .answer(probe.index, &verdict, counted, request);
                Response::of(&verdict, form, Age::Live)
            }
        };
        Answer {
            response,
            head: method == b"HEAD",
        }
    }
}

impl Ours<'_> {
    /// What it is to a [`Drain`]. No path is the one for gRPC: they all begin with a slash.
    fn target(&self) -> &str {
        match self {
            Self::Probe(probe) => &probe.endpoint.path,
            Self::Call(_) => "gRPC",
        }
    }
}
