//! `grpc.health.v1.Health`: a call's message, to what its caller is told.

use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, health};

use super::Filter;
use crate::envoy::{Answer, Request};
use crate::grpc::{Call, Method, ServingStatus, Status, is_protobuf, status, statuses};
use crate::source::WorkerView;
use crate::stats::Counted;
use crate::watch::{self, Key, WatchId};

/// The answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A message, with which the call has succeeded.
    Message(Vec<u8>),
    /// No message.
    Failed(Answer),
    /// A message; others follow, and the call does not end.
    Watch(Vec<u8>, Option<Watched>),
}

/// What a Watch follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Watched {
    /// Who is told the same.
    pub key: Key,
    /// What the first message says.
    pub told: Health,
}

impl Filter {
    /// The method that is called, if it is one of ours.
    pub(super) fn method(&self, target: &[u8], request: &dyn Request) -> Option<Method> {
        if self.config.services.is_empty() {
            return None;
        }
        let method = Method::of_path(target)?;
        let good =
            request.header(":method") == b"POST" && is_protobuf(request.header("content-type"));
        good.then_some(method)
    }

    /// Takes the piece of a call's body that has come, the last one if `end`; `None` while there is
    /// nothing to say.
    pub fn read(&self, call: &mut Call, end: bool, request: &dyn Request) -> Option<Reply> {
        let mut pieces = request.body().into_iter();
        let reply = match pieces.try_for_each(|piece| call.add(piece)) {
            Ok(()) if end => self.reply(call, request),
            Ok(()) => return None,
            Err(status) => Err(status),
        };
        Some(reply.unwrap_or_else(|status| Reply::Failed(status.into())))
    }

    fn reply(&self, call: &Call, request: &dyn Request) -> Result<Reply, Status> {
        match call.method() {
            Method::Check => {
                let service = call.service()?;
                let &endpoint = self.config.services.get(&service).ok_or(Status::NotFound)?;
                let health = self.health(endpoint, request);
                let counted = Counted::Check(health);
                self.stats.count(&self.config, endpoint, counted, request);
                Ok(Reply::Message(status(health.into())))
            }
            Method::List => {
                call.list()?;
                let services = self.config.services.iter();
                let services = services.map(|(name, &endpoint)| {
                    (name.as_str(), self.health(endpoint, request).into())
                });
                Ok(Reply::Message(statuses(services)))
            }
            Method::Watch => {
                let service = call.service()?;
                match self.config.services.get(&service) {
                    Some(&endpoint) => self.watch(endpoint, request),
                    // Services come only with another configuration, which other calls will meet.
                    None => Ok(Reply::Watch(status(ServingStatus::ServiceUnknown), None)),
                }
            }
        }
    }

    /// Begins a Watch of an endpoint.
    fn watch(&self, index: usize, request: &dyn Request) -> Result<Reply, Status> {
        let told = self.watched(index, request);
        let endpoint = self.config.endpoints.get(index);
        let blind = endpoint.is_none_or(|endpoint| WorkerView::new(request, endpoint).is_blind());
        // Its caller comes again.
        if blind || watch::start().is_err() {
            return Err(Status::Unavailable);
        }
        let key = Key {
            filter: std::ptr::from_ref(self).addr(),
            endpoint: index,
            route: request.route_cluster().map(<[u8]>::to_vec),
        };
        let watched = Watched { key, told };
        Ok(Reply::Watch(status(told.into()), Some(watched)))
    }

    /// Judges the endpoint of a Watch that leads its group, and tells the group.
    pub fn tick(&self, watch: WatchId, endpoint: usize, request: &dyn Request) {
        watch::tell(watch, self.watched(endpoint, request));
    }

    /// Judges an endpoint for Watches.
    pub(super) fn watched(&self, endpoint: usize, request: &dyn Request) -> Health {
        let health = self.health(endpoint, request);
        let endpoint = self.config.endpoints.get(endpoint);
        let drains = |endpoint: &Endpoint| self.records.drain.concerns(&endpoint.path);
        match endpoint.is_some_and(drains) {
            true => Health::Unhealthy,
            false => health,
        }
    }

    /// Judges an endpoint.
    fn health(&self, index: usize, request: &dyn Request) -> Health {
        let Some(endpoint) = self.config.endpoints.get(index) else {
            return Health::Unhealthy;
        };
        let view = WorkerView::new(request, endpoint);
        let health = health(endpoint, &view);
        self.note(index, endpoint, health, request, &view);
        health
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

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        let (code, message) = status.text();
        let mut answer = Self::grpc(code, Some(message));
        if status == Status::Unimplemented {
            let read = ("grpc-accept-encoding", "identity,gzip,deflate".into());
            answer.headers.push(read);
        }
        answer
    }
}
