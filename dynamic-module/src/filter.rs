//! A request, to its answer; and what is logged and counted of it.

use std::sync::Arc;

use healthz_core::answer::{self, Age, RequestKind, Response};
use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, judge};
use healthz_core::transition::Transition;
use healthz_core::view::{Override, View};

use crate::config::Config;
use crate::drain::Target;
use crate::envoy::{Answer, Level, Request, Setup};
use crate::grpc::wire::{Call, Method, Status, is_protobuf};
use crate::record::Records;
use crate::source::WorkerView;
use crate::stats::{Counted, Stats};

/// A checked configuration and what belongs to it, shared by all workers.
pub struct Filter {
    pub(crate) config: Config,
    pub(crate) records: Arc<Records>,
    pub(crate) stats: Stats,
}

/// What becomes of a request when its headers have come.
pub enum Action {
    /// It is none of ours.
    Pass,
    /// It is answered.
    Answer(Answer),
    /// Its body decides.
    Read(Box<Call>),
}

/// One request for an endpoint's path.
#[derive(Clone, Copy)]
struct Probe<'a> {
    index: usize,
    endpoint: &'a Endpoint,
    query: &'a [u8],
}

impl Filter {
    /// Reads a configuration; logs why if it is refused.
    pub fn new(setup: &dyn Setup, text: &[u8]) -> Option<Self> {
        match Config::parse(text) {
            Ok(config) => Some(Self {
                records: Records::of(&config),
                stats: Stats::new(setup, config.endpoints.len()),
                config,
            }),
            Err(fault) => {
                setup.log(Level::Error, &format!("envoy-healthz: {fault}"));
                None
            }
        }
    }

    /// Whether this request is for us.
    pub fn is_for_us(&self, request: &dyn Request) -> bool {
        let target = request.header(":path");
        self.probe(target).is_some() || self.method(target, request).is_some()
    }

    /// Looks at a request's headers; `end` if there is no more of it.
    pub fn begin(&self, request: &dyn Request, end: bool) -> Action {
        let target = request.header(":path");
        if let Some(probe) = self.probe(target) {
            self.records
                .drain
                .reached(Target::Endpoint(&probe.endpoint.path));
            return Action::Answer(self.answer(&probe, request));
        }
        match self.method(target, request) {
            None => Action::Pass,
            Some(_) if end => Action::Answer(Answer::Grpc(Status::InvalidArgument)),
            Some(method) => {
                self.records.drain.reached(Target::Grpc);
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
        let path = request.header(":path");
        let target = match self.probe(path) {
            Some(probe) => Target::Endpoint(&probe.endpoint.path),
            None if self.method(path, request).is_some() => Target::Grpc,
            None => return,
        };
        // Envoy's own word for it: no client and no backend can give it.
        if request.response_details() == b"health_check_failed" {
            self.records.drain.answered_before(target);
        }
    }

    /// The endpoint that is probed, if it is one of ours.
    fn probe<'a>(&'a self, target: &'a [u8]) -> Option<Probe<'a>> {
        let mut target = target.splitn(2, |&byte| byte == b'?');
        let path = target.next().unwrap_or_default();
        let mut endpoints = self.config.endpoints.iter().enumerate();
        let (index, endpoint) = endpoints.find(|(_, endpoint)| endpoint.path.as_bytes() == path)?;
        Some(Probe {
            index,
            endpoint,
            query: target.next().unwrap_or_default(),
        })
    }

    /// The method that is called, if it is one of ours.
    fn method(&self, target: &[u8], request: &dyn Request) -> Option<Method> {
        if self.config.services.is_empty() {
            return None;
        }
        let method = Method::of_path(target)?;
        let good =
            request.header(":method") == b"POST" && is_protobuf(request.header("content-type"));
        good.then_some(method)
    }

    fn answer(&self, probe: &Probe<'_>, request: &dyn Request) -> Answer {
        let method = request.header(":method");
        let kind = probe.kind(method, request);
        let view = WorkerView::new(request, probe.endpoint);
        let response = Response::to(kind, probe.endpoint, &view, Age::Live);
        let code = response.code();
        if kind != RequestKind::OtherMethod {
            let health = Health::from(code == 200);
            self.note(probe.index, probe.endpoint, health, request, &view);
        }
        let counted = Counted::Probe(code);
        self.stats
            .count(&self.config, probe.index, counted, request);
        Answer::new(response, method == b"HEAD")
    }

    /// Logs and shows a verdict if it differs from the last one. The gauge is the newest configuration's.
    /// That of a request which has no way to the clusters counts only if none has.
    pub(crate) fn note(
        &self,
        index: usize,
        endpoint: &Endpoint,
        health: Health,
        request: &dyn Request,
        view: &WorkerView<'_>,
    ) {
        if !self.records.counts(index, !view.reaches_clusters()) {
            if let Some(Override::NoKnowledge(why)) = view.overridden()
                && self.records.log_blind(index)
            {
                let Self { config, .. } = self;
                let line = format!(
                    "envoy-healthz[{}]: {} is unhealthy for one request while others find a way (logged once): {why}",
                    config.name, endpoint.path
                );
                request.log(Level::Warn, &line);
            }
            return;
        }
        if let Transition::Changed { .. } = self.records.update(index, health) {
            let line = judge(endpoint, view).line(&endpoint.path);
            let level = match health {
                Health::Healthy => Level::Info,
                Health::Unhealthy => Level::Warn,
            };
            request.log(
                level,
                &format!("envoy-healthz[{}]: {line}", self.config.name),
            );
            self.stats.transition(&self.config, &endpoint.path, request);
        }
        if let Some(last) = self.records.last(index) {
            self.stats
                .show(&self.config, index, last, &self.records, request);
        }
    }
}

impl Probe<'_> {
    fn kind(&self, method: &[u8], request: &dyn Request) -> RequestKind {
        let accept = if self.endpoint.details {
            request.header("accept")
        } else {
            &[]
        };
        let request = answer::Request {
            method,
            query: self.query,
            content_type: request.header("content-type"),
            accept,
        };
        RequestKind::of(&request, self.endpoint)
    }
}

impl Answer {
    /// The answer that says this; to a HEAD the body is left out, its length is not.
    fn new(response: Response, head: bool) -> Self {
        match response {
            Response::Http {
                status,
                headers,
                body,
            } => Self::Http {
                status: text_of(status),
                headers,
                length: body.len(),
                body: if head { "".into() } else { body },
            },
            Response::Grpc(Health::Healthy) => Self::Grpc(Status::Ok),
            Response::Grpc(Health::Unhealthy) => Self::Grpc(Status::Unavailable),
        }
    }
}

fn text_of(status: u32) -> &'static str {
    match status {
        200 => "200",
        405 => "405",
        _ => "503",
    }
}

#[cfg(test)]
mod tests;
