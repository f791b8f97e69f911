//! A request, to its answer; and what is logged and counted of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use healthz_core::answer::{self, Age, RequestKind, Response};
use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, judge};
use healthz_core::transition::Transition;

use crate::config::Config;
use crate::envoy::{Answer, Level, Metric, Request, Setup};
use crate::record::Records;
use crate::source::WorkerView;

/// A checked configuration and what belongs to it, shared by all workers.
pub struct Filter {
    config: Config,
    records: Arc<Records>,
    stats: Stats,
    /// What the gauge of each endpoint was set to last under this configuration: its stats are its own.
    shown: Vec<AtomicU8>,
}

/// Our metrics. Prometheus shows them as `envoy_healthz_...` if the module's `metrics_namespace` is
/// `healthz`.
struct Stats {
    probes: Option<Metric>,
    transitions: Option<Metric>,
    healthy: Option<Metric>,
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
                stats: Stats::new(setup),
                shown: config
                    .endpoints
                    .iter()
                    .map(|_| AtomicU8::new(NOT_SHOWN))
                    .collect(),
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
        self.count(self.stats.probes, &probe, Some(code), request);
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
            self.count(self.stats.transitions, probe, None, request);
        }
        let (Some(shown), Some(last)) =
            (self.shown.get(probe.index), self.records.last(probe.index))
        else {
            return;
        };
        let value = u8::from(last == Health::Healthy);
        if shown.load(Ordering::Relaxed) != value
            && let Some(gauge) = self.stats.healthy
        {
            shown.store(value, Ordering::Relaxed);
            let labels = [self.config.name.as_str(), &probe.endpoint.path];
            request.set(gauge, &labels, u64::from(value));
        }
    }

    fn count(
        &self,
        counter: Option<Metric>,
        probe: &Probe<'_>,
        code: Option<u32>,
        request: &dyn Request,
    ) {
        let Some(counter) = counter else { return };
        let (name, path) = (self.config.name.as_str(), probe.endpoint.path.as_str());
        match code {
            None => request.count(counter, &[name, path]),
            Some(200) => request.count(counter, &[name, path, "200"]),
            Some(405) => request.count(counter, &[name, path, "405"]),
            Some(_) => request.count(counter, &[name, path, "503"]),
        }
    }
}

/// No value that a gauge has.
const NOT_SHOWN: u8 = u8::MAX;

impl Stats {
    fn new(setup: &dyn Setup) -> Self {
        Self {
            probes: setup.counter("probes", &["filter", "path", "code"]),
            transitions: setup.counter("transitions", &["filter", "path"]),
            healthy: setup.gauge("healthy", &["filter", "path"]),
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
                let mut all = vec![(":status", Cow::Borrowed(text_of(status)))];
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
