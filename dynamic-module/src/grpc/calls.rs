//! A call's message, to its reply.

use healthz_core::config::Endpoint;
use healthz_core::judgement::{Health, health};

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
                    Some(&endpoint) => self.begin_watch(endpoint, request),
                    // Services come only with another configuration, which other calls will reach.
                    None => Ok(Reply::Watch(status(ServingStatus::ServiceUnknown), None)),
                }
            }
        }
    }

    /// Begins a Watch of an endpoint.
    fn begin_watch(&self, index: usize, request: &dyn Request) -> Result<Reply, Status> {
        let sent = self.health_for_watches(index, request);
        let endpoint = self.config.endpoints.get(index);
        let knows =
            endpoint.is_some_and(|endpoint| WorkerView::new(request, endpoint).reaches_clusters());
        // Its caller comes again.
        if !knows || watch::start().is_err() {
            return Err(Status::Unavailable);
        }
        let key = Key {
            filter: std::ptr::from_ref(self).addr(),
            endpoint: index,
            route: request.route_cluster().map(<[u8]>::to_vec),
        };
        let watched = Watched { key, sent };
        Ok(Reply::Watch(status(sent.into()), Some(watched)))
    }

    /// Judges the endpoint of a Watch that leads its group, and sends each of the group a health that is new
    /// to it.
    pub fn update_watches(&self, watch: WatchId, endpoint: usize, request: &dyn Request) {
        watch::update(watch, self.health_for_watches(endpoint, request));
    }

    /// Judges an endpoint; while Envoy drains it is unhealthy.
    pub fn health_for_watches(&self, endpoint: usize, request: &dyn Request) -> Health {
        let health = self.health(endpoint, request);
        let endpoint = self.config.endpoints.get(endpoint);
        let drains = |endpoint: &Endpoint| self.records.drain.covers(&endpoint.path);
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
