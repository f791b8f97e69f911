//! A request, to its answer; and what is logged and counted of it.

use std::borrow::Cow;
use std::sync::Arc;

use healthz_core::answer::{self, Age, RequestKind, Response};
use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, judge};
use healthz_core::transition::Transition;

use crate::config::Config;
use crate::envoy::{Answer, Level, Request, Setup};
use crate::record::Records;
use crate::source::WorkerView;
use crate::stats::Stats;

/// A checked configuration and what belongs to it, shared by all workers.
pub struct Filter {
    config: Config,
    records: Arc<Records>,
    stats: Stats,
}

/// One request for an endpoint's path.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    index: usize,
    endpoint: &'a Endpoint,
    query: &'a [u8],
}

impl Filter {
    /// Reads a configuration; logs why if it is refused.
    pub fn new(setup: &dyn Setup, text: &[u8]) -> Option<Self> {
        match Config::parse(text) {
            Ok(config) => Some(Self {
                records: Records::of(text, config.endpoints.len()),
                stats: Stats::new(setup, config.endpoints.len()),
                config,
            }),
            Err(fault) => {
                setup.log(Level::Error, &format!("envoy-healthz: {fault}"));
                None
            }
        }
    }

    /// The endpoint that this request is for, if it is for one of ours.
    pub fn probe<'a>(&'a self, request: &'a dyn Request) -> Option<Probe<'a>> {
        let mut target = request.header(":path").splitn(2, |&byte| byte == b'?');
        let path = target.next().unwrap_or_default();
        let mut endpoints = self.config.endpoints.iter().enumerate();
        let (index, endpoint) = endpoints.find(|(_, endpoint)| endpoint.path.as_bytes() == path)?;
        Some(Probe {
            index,
            endpoint,
            query: target.next().unwrap_or_default(),
        })
    }

    /// The answer to this request; `None` if it is none of ours.
    pub fn answer(&self, request: &dyn Request) -> Option<Answer> {
        let probe = self.probe(request)?;
        let method = request.header(":method");
        let kind = probe.kind(method, request);
        let view = WorkerView::new(request, probe.endpoint);
        let response = Response::to(kind, probe.endpoint, &view, Age::Live);
        let code = response.code();
        if kind != RequestKind::OtherMethod {
            self.note(&probe, Health::from(code == 200), request, &view);
        }
        self.stats.probe(&self.config, probe.index, code, request);
        Some(Answer::new(response, method == b"HEAD"))
    }

    /// Logs and shows a verdict if it differs from the last one.
    fn note(
        &self,
        probe: &Probe<'_>,
        health: Health,
        request: &dyn Request,
        view: &WorkerView<'_>,
    ) {
        if let Transition::Changed { .. } = self.records.update(probe.index, health) {
            let line = judge(probe.endpoint, view).line(&probe.endpoint.path);
            let level = match health {
                Health::Healthy => Level::Info,
                Health::Unhealthy => Level::Warn,
            };
            request.log(
                level,
                &format!("envoy-healthz[{}]: {line}", self.config.name),
            );
            let path = &probe.endpoint.path;
            self.stats.transition(&self.config, path, request);
        }
        if let Some(last) = self.records.last(probe.index) {
            self.stats.show(&self.config, probe.index, last, request);
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
    /// The headers and the body that say this; to a HEAD the body is left out, its length is not.
    fn new(response: Response, head: bool) -> Self {
        match response {
            Response::Http {
                status,
                headers,
                body,
            } => {
                let length = body.len().to_string();
                let mut all = Vec::with_capacity(headers.len() + 2);
                all.push((":status", Cow::Borrowed(text_of(status))));
                all.extend(
                    headers
                        .iter()
                        .map(|&(name, value)| (name, Cow::Borrowed(value))),
                );
                all.push(("content-length", Cow::Owned(length)));
                Self {
                    headers: all,
                    body: if head { "".into() } else { body },
                }
            }
            Response::Grpc(health) => {
                let (status, message) = match health {
                    Health::Healthy => ("0", None),
                    Health::Unhealthy => ("14", Some("unavailable")),
                };
                let mut headers = vec![
                    (":status", "200".into()),
                    ("content-type", "application/grpc".into()),
                    ("grpc-status", status.into()),
                ];
                headers.extend(message.map(|message| ("grpc-message", message.into())));
                Self {
                    headers,
                    body: "".into(),
                }
            }
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
