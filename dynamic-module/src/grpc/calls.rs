//! A call's message, to its reply.

use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, judge};

use super::watch::{self, Key, WatchId};
use super::wire::{Call, Method, ServingStatus, Status, status, statuses};
use crate::envoy::Request;
use crate::filter::Filter;
use crate::source::WorkerView;
use crate::stats::Counted;

/// The answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A message, with which the call has succeeded.
    Message(Vec<u8>),
    /// No message.
    Failed(Status),
    /// A message; others follow, and the call does not end.
    Watch(Vec<u8>, Option<Watched>),
}

/// What a Watch follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Watched {
    /// The Watches that follow the same.
    pub key: Key,
    /// What the first message says.
    pub sent: Health,
}

impl Filter {
    /// Takes the piece of a call's body that has come, the last one if `end`; `None` while there is
    /// nothing to say.
    pub fn read(&self, call: &mut Call, end: bool, request: &dyn Request) -> Option<Reply> {
        let mut pieces = request.body().into_iter();
        let reply = match pieces.try_for_each(|piece| call.add(piece)) {
            Ok(()) if end => self.reply(call, request),
            Ok(()) => return None,
            Err(status) => Err(status),
        };
        Some(reply.unwrap_or_else(Reply::Failed))
    }

    fn reply(&self, call: &Call, request: &dyn Request) -> Result<Reply, Status> {
        match call.method() {
            Method::Check => {
                let (index, endpoint) = self.service(&call.service()?).ok_or(Status::NotFound)?;
                let view = WorkerView::new(request, endpoint);
                let verdict = judge(endpoint, &view);
                let counted = Counted::Check(verdict.health);
                self.recorder.answer(index, &verdict, counted, request);
                Ok(Reply::Message(status(verdict.health.into())))
            }
            Method::List => {
                call.list()?;
                let services = self.config.services.keys();
                let services = services.filter_map(|name| {
                    let (_, endpoint) = self.service(name)?;
                    let health = judge(endpoint, &WorkerView::new(request, endpoint)).health;
                    Some((name.as_str(), health.into()))
                });
                Ok(Reply::Message(statuses(services)))
            }
            Method::Watch => match self.service(&call.service()?) {
                Some((index, endpoint)) => self.begin_watch(index, endpoint, request),
                // Services come only with another configuration, which other calls will reach.
                None => Ok(Reply::Watch(status(ServingStatus::ServiceUnknown), None)),
            },
        }
    }

    /// The endpoint of a service, and its place in the configuration.
    fn service(&self, name: &str) -> Option<(usize, &Endpoint)> {
        let &index = self.config.services.get(name)?;
        Some((index, self.config.endpoints.get(index)?))
    }

    /// Begins a Watch of an endpoint.
    fn begin_watch(
        &self,
        index: usize,
        endpoint: &Endpoint,
        request: &dyn Request,
    ) -> Result<Reply, Status> {
        let view = WorkerView::new(request, endpoint);
        // Its caller comes again.
        if !view.reaches_clusters() || watch::start().is_err() {
            return Err(Status::Unavailable);
        }
        let sent = match self.drain.is_under_way() {
            true => Health::Unhealthy,
            false => {
                let verdict = judge(endpoint, &view);
                self.recorder.message(index, &verdict, request);
                verdict.health
            }
        };
        let key = Key {
            filter: std::ptr::from_ref(self).addr(),
            endpoint: index,
            route: request.route_cluster().map(<[u8]>::to_vec),
        };
        let watched = Watched { key, sent };
        Ok(Reply::Watch(status(sent.into()), Some(watched)))
    }

    /// Judges the endpoint of a Watch that leads its group, and sends each of the group a health that is new
    /// to it. While Envoy drains it is unhealthy, which is not recorded.
    pub fn update_watches(&self, watch: WatchId, index: usize, request: &dyn Request) {
        let Some(endpoint) = self.config.endpoints.get(index) else {
            return;
        };
        if self.drain.is_under_way() {
            return watch::drain(watch);
        }
        let view = WorkerView::new(request, endpoint);
        let verdict = judge(endpoint, &view);
        match watch::update(watch, verdict.health) {
            true => self.recorder.message(index, &verdict, request),
            false => self.recorder.postponed_message(index, &verdict, request),
        }
    }
}

impl From<Health> for ServingStatus {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy => Self::Serving,
            Health::Unhealthy => Self::NotServing,
        }
    }
}
