//! An HTTP request of Envoy's, as the filter sees it; and a configuration while Envoy loads it.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

use healthz_core::state::Level;
use healthz_core::view::Counts;

use super::callbacks::*;
use super::connections;
use super::types::{Buffer, Header, Pointer};
use crate::envoy::{Metric, Request, Setup, Waker};

/// A configuration being loaded; lives for the hook.
pub struct Loading<'a>(Pointer, PhantomData<&'a ()>);

impl Loading<'_> {
    /// # Safety
    /// Envoy has given `config` to `config_new`, which has not ended while this lives.
    pub unsafe fn new(config: Pointer) -> Self {
        Self(config, PhantomData)
    }
}

impl Setup for Loading<'_> {
    fn counter(&self, name: &str, labels: &[&str]) -> Metric {
        define(http_filter_config_define_counter, self.0, name, labels)
    }

    fn gauge(&self, name: &str, labels: &[&str]) -> Metric {
        define(http_filter_config_define_gauge, self.0, name, labels)
    }
}

type Define = unsafe fn(Pointer, Buffer, *const Buffer, usize, *mut usize) -> c_int;

fn define(define: Define, config: Pointer, name: &str, labels: &[&str]) -> Metric {
    let mut id = 0;
    let labels = labels.iter().copied().map(Buffer::lend);
    let result = lend(labels, |labels, count| {
        // SAFETY: `config` is of the configuration whose hook runs; Envoy copies all text.
        unsafe { define(config, Buffer::lend(name), labels, count, &raw mut id) }
    });
    // Envoy refuses what is done with a number that it has not given.
    Metric(if result == 0 { id } else { usize::MAX })
}

/// An HTTP request of this worker, as long as its pointer is good.
pub struct Stream<'a>(Pointer, PhantomData<&'a ()>);

impl Stream<'_> {
    /// # Safety
    /// `filter` is what Envoy calls an HTTP filter of this worker, and its `http_filter_destroy` has not been
    /// called when this is used. That hook can come while an answer is sent; Envoy frees what `filter` leads
    /// to only when the hook in which it was sent has ended.
    pub unsafe fn new(filter: Pointer) -> Self {
        Self(filter, PhantomData)
    }

    /// What Envoy calls it.
    pub fn pointer(&self) -> Pointer {
        self.0
    }
}

impl Request for Stream<'_> {
    fn header(&self, name: &str) -> &[u8] {
        let (kind, name) = (REQUEST_HEADER, Buffer::lend(name));
        // SAFETY: the pointer is of the request whose hook runs. What Envoy writes lives until the
        // headers change or the hook ends; we change none, and `self` ends with the hook.
        let value =
            unsafe { lent(|value| http_get_header(self.0, kind, name, value, 0, null_mut())) };
        value.unwrap_or_default()
    }

    fn response_details(&self) -> &[u8] {
        if !*HAS_DETAILS {
            return &[];
        }
        let id = RESPONSE_CODE_DETAILS;
        // SAFETY: the pointer is of the request whose hook runs; the details are the request's, and nothing
        // changes them before the hook ends.
        let details =
            unsafe { lent(|details| http_filter_get_attribute_string(self.0, id, details)) };
        details.unwrap_or_default()
    }

    fn body(&self) -> Vec<&[u8]> {
        // SAFETY: the pointer is of the request whose hook runs. Envoy writes as many pieces as it has
        // just said, and they live until the hook ends; in other hooks it has none.
        unsafe {
            let count = http_get_body_chunks_size(self.0, RECEIVED_REQUEST_BODY);
            let mut pieces = vec![Buffer::default(); count];
            let found = http_get_body_chunks(self.0, RECEIVED_REQUEST_BODY, pieces.as_mut_ptr());
            pieces.truncate(if found { count } else { 0 });
            pieces.into_iter().map(|piece| piece.bytes()).collect()
        }
    }

    fn route_cluster(&self) -> Option<&[u8]> {
        // SAFETY: as for a header; the name is the route's and lives as long as the request.
        unsafe { lent(|name| http_get_cluster_name(self.0, name)) }
    }

    fn route_cluster_hosts(&self, priority: u32) -> Option<Counts> {
        hosts_by(|total, healthy, degraded| {
            // SAFETY: the pointer is of the request whose hook runs; Envoy writes the three numbers.
            unsafe { http_get_cluster_host_count(self.0, priority, total, healthy, degraded) }
        })
    }

    fn has_network_filter(&self) -> bool {
        connections::first().is_some()
    }

    fn hosts(&self, cluster: &str, priority: u32) -> Option<Counts> {
        connections::hosts(cluster, priority)
    }

    fn count(&self, counter: Metric, labels: &[&str], value: u64) {
        lend(labels.iter().copied().map(Buffer::lend), |labels, count| {
            // SAFETY: the pointer is of the request whose hook runs; Envoy checks id and labels.
            unsafe { http_filter_increment_counter(self.0, counter.0, labels, count, value) }
        });
    }

    fn set(&self, gauge: Metric, labels: &[&str], value: u64) {
        lend(labels.iter().copied().map(Buffer::lend), |labels, count| {
            // SAFETY: as for a counter.
            unsafe { http_filter_set_gauge(self.0, gauge.0, labels, count, value) }
        });
    }

    fn log(&self, level: Level, line: &str) {
        write_line(level, line);
    }
}

/// What Envoy lends by a query; `None` if there is none.
///
/// # Safety
/// What the query writes, if it says true, lives for `'a`.
unsafe fn lent<'a>(query: impl FnOnce(*mut Buffer) -> bool) -> Option<&'a [u8]> {
    let mut found = Buffer::default();
    // SAFETY: the caller's promise.
    query(&raw mut found).then(|| unsafe { found.bytes() })
}

/// Lends labels or headers to Envoy, without the heap: a probe is answered by this.
fn lend<T: Copy + Default, R>(
    all: impl Iterator<Item = T>,
    call: impl FnOnce(*const T, usize) -> R,
) -> R {
    let mut lent = [T::default(); MOST];
    let mut count = 0;
    for (place, one) in lent.iter_mut().zip(all) {
        *place = one;
        count += 1;
    }
    call(lent.as_ptr(), count)
}

/// No metric has as many labels, no answer as many headers.
const MOST: usize = 8;

/// The steps of an answer. With the last one Envoy may call `http_filter_destroy`, from in here; after
/// that no other step may be taken.
impl Stream<'_> {
    pub fn send_headers<'a>(&self, headers: impl Iterator<Item = (&'a str, &'a str)>, end: bool) {
        lend(headers.map(Header::lend), |headers, count| {
            // SAFETY: the pointer is of a request that lives. Envoy copies the headers, and frees its filter
            // only when the hook has ended.
            unsafe { http_send_response_headers(self.0, headers, count, end) }
        });
    }

    pub fn send_data(&self, data: &[u8], end: bool) {
        // SAFETY: as for headers.
        unsafe { http_send_response_data(self.0, Buffer::lend_bytes(data), end) };
    }

    pub fn send_trailers<'a>(&self, trailers: impl Iterator<Item = (&'a str, &'a str)>) {
        lend(trailers.map(Header::lend), |trailers, count| {
            // SAFETY: as for headers.
            unsafe { http_send_response_trailers(self.0, trailers, count) }
        });
    }

    /// Answers by Envoy's own local reply; if headers have been sent, Envoy resets the stream.
    pub fn send_local_reply(&self, status: u32, body: &str, details: &str) {
        let (body, details) = (Buffer::lend(body), Buffer::lend(details));
        // SAFETY: as for headers.
        unsafe { http_send_response(self.0, status, null(), 0, body, details) };
    }
}

/// Has Envoy call `http_filter_scheduled` for a request, on the request's worker.
pub struct Scheduler(Pointer);

// SAFETY: Envoy lets any thread use it, one at a time; that of the module's does so with a lock held.
unsafe impl Send for Scheduler {}

impl Scheduler {
    pub fn new(request: &Stream<'_>) -> Self {
        // SAFETY: the pointer is of a request of this worker that lives. What Envoy makes is ours.
        Self(unsafe { http_filter_scheduler_new(request.0) })
    }
}

impl Waker for Scheduler {
    fn wake(&self) {
        // SAFETY: made by `new` and not yet deleted. Its worker lives: it is deleted at the latest with
        // its request. If the request ends before the worker gets to it, Envoy drops the event.
        unsafe { http_filter_scheduler_commit(self.0, 0) };
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and deleted once.
        unsafe { http_filter_scheduler_delete(self.0) };
    }
}
