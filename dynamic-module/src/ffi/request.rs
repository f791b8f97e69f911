//! What we hold for one request of Envoy's, and the steps of its answer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use healthz_core::answer::{Content, Outcome};
use healthz_core::judgement::Health;
use healthz_core::request::is_grpc;

use super::guard::{Fault, guard};
use super::stream::{Scheduler, Stream};
use super::types::Pointer;
use crate::drain::Known;
use crate::envoy::{Request, Waker, Watcher};
use crate::filter::{Answer, Filter};
use crate::grpc::calls::{Reply, Watched};
use crate::grpc::watch::{self, WatchId};
use crate::grpc::wire::{Call, Status};

/// One request: what Envoy holds for us from `http_filter_new` to `http_filter_destroy`. A hook that
/// answers holds a share of it, for the answer may end the request.
pub struct Held {
    pub filter: Arc<Filter>,
    pub stage: Cell<Stage>,
    /// What was known of a drain when it began.
    pub known: Known,
    /// The call that is being read.
    pub call: Cell<Option<Box<Call>>>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Stage {
    /// Not looked at yet.
    Open,
    /// There was a fault before the request was looked at.
    Faulty,
    /// None of ours.
    Passed,
    /// The body of a call is being read.
    Reading,
    /// A Watch of this endpoint.
    Watching(WatchId, usize),
    Answered,
    Destroyed,
}

impl Held {
    /// A share of what `http_filter_new` made.
    ///
    /// # Safety
    /// Envoy has given `ours` to a hook of this request, on the request's worker.
    pub unsafe fn share(ours: Pointer) -> Rc<Self> {
        let held: *const Self = ours.cast();
        // SAFETY: `held` comes of `Rc::into_raw`, and Envoy gives it back only by `destroy`.
        unsafe {
            Rc::increment_strong_count(held);
            Rc::from_raw(held)
        }
    }

    /// Answers by headers and data: cheaper than Envoy's local reply, which would also choose the
    /// gRPC status.
    pub fn send(&self, request: &Stream<'_>, Answer { response, head }: &Answer) {
        let Content::Http { headers, body } = &response.content else {
            let status = match response.outcome {
                Outcome::Health(Health::Healthy) => Status::Ok,
                _ => Status::Unavailable,
            };
            return self.send_status(request, status);
        };
        self.stage.set(Stage::Answered);
        let (mut status, mut length) = (itoa::Buffer::new(), itoa::Buffer::new());
        let status = [(":status", status.format(response.outcome.status()))];
        let headers = status.into_iter().chain(headers.iter().copied());
        let headers = headers.chain([("content-length", length.format(body.len()))]);
        let ends = *head || body.is_empty();
        request.send_headers(headers, ends);
        if !ends && self.is_there() {
            request.send_data(body.as_bytes(), true);
        }
    }

    /// Answers by a gRPC status without a message.
    pub fn send_status(&self, request: &Stream<'_>, status: Status) {
        self.stage.set(Stage::Answered);
        request.send_headers(GRPC_HEADERS.into_iter().chain(status.headers()), true);
    }

    /// Answers a call.
    fn reply(self: &Rc<Self>, request: &Stream<'_>, reply: Reply) {
        let (message, watched, ends) = match reply {
            Reply::Failed(status) => return self.send_status(request, status),
            Reply::Message(message) => (message, None, true),
            Reply::Watch(message, watched) => (message, watched, false),
        };
        self.stage.set(Stage::Answered);
        request.send_headers(GRPC_HEADERS.into_iter(), false);
        if self.is_there() {
            request.send_data(&message, false);
        }
        if self.is_there() && ends {
            request.send_trailers(Status::Ok.headers());
        }
        if self.is_there()
            && let Some(Watched { key, sent }) = watched
        {
            let endpoint = key.endpoint;
            let watcher = OpenStream {
                filter: request.pointer(),
                held: Rc::clone(self),
            };
            let id = watch::join(key, sent, Rc::new(watcher));
            self.stage.set(Stage::Watching(id, endpoint));
            // The others of its group may have been sent something else, up to a tick ago.
            watch::update(id, sent);
        }
    }

    /// Ends a request after a fault.
    pub fn send_fault(&self, request: &Stream<'_>) {
        match self.stage.replace(Stage::Answered) {
            Stage::Watching(..) => request.send_trailers(Status::Unavailable.headers()),
            // Envoy's local reply would say gRPC status 0.
            _ if is_grpc(request.header("content-type")) => {
                self.send_status(request, Status::Unavailable);
            }
            _ => request.send_local_reply(503, "unavailable", "envoy_healthz_fault"),
        }
    }

    /// Whether the request lives: a step of its answer can end it.
    fn is_there(&self) -> bool {
        self.stage.get() != Stage::Destroyed
    }

    /// Takes the piece of a call's body that has come, the last one if `end`.
    pub fn read(self: &Rc<Self>, request: &Stream<'_>, hook: &str, end: bool) {
        let mut call = self.call.take();
        let read = || self.filter.read(call.as_mut()?, end, request);
        match guard(hook, read) {
            Ok(Some(reply)) => self.reply(request, reply),
            Err(Fault) if call.is_some() => self.send_fault(request),
            Ok(None) | Err(Fault) => self.call.set(call),
        }
    }
}

/// The stream of a Watch.
struct OpenStream {
    filter: Pointer,
    held: Rc<Held>,
}

impl OpenStream {
    /// The request, unless Envoy has destroyed it.
    fn request(&self) -> Option<Stream<'_>> {
        // SAFETY: `filter` is of a request of this worker: no `OpenStream` leaves it, for an `Rc` is in it. It has
        // not been destroyed, and no use below outlasts that.
        self.held
            .is_there()
            .then(|| unsafe { Stream::new(self.filter) })
    }
}

impl Watcher for OpenStream {
    fn send(&self, message: &[u8]) {
        if let Some(request) = self.request() {
            request.send_data(message, false);
        }
    }

    fn fail(&self) {
        if let Some(request) = self.request() {
            self.held.send_fault(&request);
        }
    }

    fn waker(&self) -> Option<Box<dyn Waker>> {
        Some(Box::new(Scheduler::new(&self.request()?)))
    }
}

const GRPC_HEADERS: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
