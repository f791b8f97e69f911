//! What Envoy exports, and by it what the filter asks of Envoy.

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::mem::transmute;
use std::ptr::{null, null_mut};
use std::sync::{LazyLock, OnceLock};

use healthz_core::view::Counts;

use super::{Buffer, Header, Pointer};
use crate::connections;
use crate::envoy::{Level, Metric, Request, Setup, Waker};

/// Declares what Envoy's executable exports, all with one prefix. Each is looked up by its name when
/// the module is loaded, so that an Envoy without it is told so and not only that it cannot load a file.
macro_rules! callbacks {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        pub struct Callbacks {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Callbacks {
            /// All of them, or the name of the first that Envoy lacks.
            pub fn find() -> Result<Self, &'static str> {
                Ok(Self { $($name: {
                    let symbol = concat!("envoy_dynamic_module_callback_", stringify!($name), "\0");
                    // SAFETY: the name ends with a zero; nothing is called.
                    let found = unsafe { dlsym(null_mut(), symbol.as_ptr().cast()) };
                    if found.is_null() {
                        return Err(stringify!($name));
                    }
                    // SAFETY: Envoy's function of this name has had this signature since 1.38.
                    unsafe {
                        transmute::<Pointer, unsafe extern "C" fn($($type),*) $(-> $result)?>(found)
                    }
                },)* })
            }
        }

        $(unsafe fn $name($($argument: $type),*) $(-> $result)? {
            match CALLBACKS.get() {
                // SAFETY: the caller's promise.
                Some(callbacks) => unsafe { (callbacks.$name)($($argument),*) },
                // The module was never loaded; then nothing calls this either.
                None => Default::default(),
            }
        })*
    };
}

/// Set when the module is loaded.
pub static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Whether HTTP filters are told the details of a response. 1.38 knows the attribute's number, and if
/// asked logs an error; 1.39 brought it together with attributes for network filters.
static HAS_DETAILS: LazyLock<bool> = LazyLock::new(|| {
    let symbol = c"envoy_dynamic_module_callback_network_filter_get_attribute_string";
    // SAFETY: the name ends with a zero; nothing is called.
    !unsafe { dlsym(null_mut(), symbol.as_ptr()) }.is_null()
});

unsafe extern "C" {
    /// The C library's: a null for `library` looks among what the executable exports.
    fn dlsym(library: Pointer, symbol: *const c_char) -> Pointer;
}

// Enums are C ints. `config` is what `config_new` is given, `filter` what `new` is given.
callbacks! {
    log(level: c_int, text: Buffer);
    http_filter_config_define_counter(
        config: Pointer, name: Buffer, labels: *const Buffer, count: usize, id: *mut usize) -> c_int;
    http_filter_config_define_gauge(
        config: Pointer, name: Buffer, labels: *const Buffer, count: usize, id: *mut usize) -> c_int;
    http_filter_increment_counter(
        filter: Pointer, id: usize, labels: *const Buffer, count: usize, value: u64) -> c_int;
    http_filter_set_gauge(
        filter: Pointer, id: usize, labels: *const Buffer, count: usize, value: u64) -> c_int;
    http_get_header(
        filter: Pointer, kind: c_int, name: Buffer, value: *mut Buffer, index: usize, count: *mut usize
    ) -> bool;
    http_get_cluster_name(filter: Pointer, name: *mut Buffer) -> bool;
    http_get_cluster_host_count(
        filter: Pointer, priority: u32, total: *mut usize, healthy: *mut usize, degraded: *mut usize
    ) -> bool;
    network_filter_get_cluster_host_count(
        filter: Pointer, name: Buffer, priority: u32,
        total: *mut usize, healthy: *mut usize, degraded: *mut usize) -> bool;
    http_send_response(
        filter: Pointer, status: u32, headers: *const Header, count: usize, body: Buffer, details: Buffer);
    http_send_response_headers(filter: Pointer, headers: *const Header, count: usize, end: bool);
    http_send_response_data(filter: Pointer, body: Buffer, end: bool);
    http_send_response_trailers(filter: Pointer, trailers: *const Header, count: usize);
    http_filter_get_attribute_string(filter: Pointer, id: c_int, value: *mut Buffer) -> bool;
    http_filter_scheduler_new(filter: Pointer) -> Pointer;
    http_filter_scheduler_commit(scheduler: Pointer, event: u64);
    http_filter_scheduler_delete(scheduler: Pointer);
    http_get_body_chunks_size(filter: Pointer, kind: c_int) -> usize;
    http_get_body_chunks(filter: Pointer, kind: c_int, chunks: *mut Buffer) -> bool;
}

const REQUEST_HEADER: c_int = 0;
const RECEIVED_REQUEST_BODY: c_int = 0;
const RESPONSE_CODE_DETAILS: c_int = 16;

/// Writes a line to Envoy's log.
pub fn write_line(level: Level, line: &str) {
    if CALLBACKS.get().is_none() {
        // While the module is loaded, or where it cannot be: Envoy's log goes there too.
        eprintln!("{line}");
    }
    let level = match level {
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
    };
    // SAFETY: any thread may log; Envoy copies the line.
    unsafe { log(level, Buffer::lend(line)) }
}

/// Runs a query of Envoy's that writes how many hosts a cluster has at one priority.
fn hosts_by(ask: impl FnOnce(*mut usize, *mut usize, *mut usize) -> bool) -> Option<Counts> {
    let (mut total, mut healthy, mut degraded) = (0, 0, 0);
    ask(&raw mut total, &raw mut healthy, &raw mut degraded).then_some(Counts {
        total: total as u64,
        healthy: healthy as u64,
        degraded: degraded as u64,
        excluded: 0,
    })
}

/// A configuration being loaded; lives for the hook.
pub struct Loading<'a>(pub Pointer, pub PhantomData<&'a ()>);

impl Setup for Loading<'_> {
    fn counter(&self, name: &str, labels: &[&str]) -> Option<Metric> {
        define(http_filter_config_define_counter, self.0, name, labels)
    }

    fn gauge(&self, name: &str, labels: &[&str]) -> Option<Metric> {
        define(http_filter_config_define_gauge, self.0, name, labels)
    }

    fn log(&self, level: Level, line: &str) {
        write_line(level, line);
    }
}

type Define = unsafe fn(Pointer, Buffer, *const Buffer, usize, *mut usize) -> c_int;

fn define(define: Define, config: Pointer, name: &str, labels: &[&str]) -> Option<Metric> {
    let mut id = 0;
    let result = with_labels(labels, |labels, count| {
        // SAFETY: `config` is of the configuration whose hook runs; Envoy copies all text.
        unsafe { define(config, Buffer::lend(name), labels, count, &raw mut id) }
    });
    (result == 0).then_some(Metric(id))
}

/// An HTTP request of this worker; lives for the hook.
pub struct Stream<'a>(pub Pointer, pub PhantomData<&'a ()>);

impl Request for Stream<'_> {
    fn header(&self, name: &str) -> &[u8] {
        let mut value = Buffer::EMPTY;
        // SAFETY: the pointer is of the request whose hook runs. What Envoy writes lives until the
        // headers change or the hook ends; we change none, and `self` ends with the hook.
        unsafe {
            let found = http_get_header(
                self.0,
                REQUEST_HEADER,
                Buffer::lend(name),
                &raw mut value,
                0,
                null_mut(),
            );
            if found { value.bytes() } else { &[] }
        }
    }

    fn response_details(&self) -> &[u8] {
        let mut details = Buffer::EMPTY;
        // SAFETY: the pointer is of the request whose hook runs; the details are the request's, and nothing
        // changes them before the hook ends.
        unsafe {
            let found = *HAS_DETAILS
                && http_filter_get_attribute_string(
                    self.0,
                    RESPONSE_CODE_DETAILS,
                    &raw mut details,
                );
            if found { details.bytes() } else { &[] }
        }
    }

    fn body(&self) -> Vec<&[u8]> {
        // SAFETY: the pointer is of the request whose hook runs. Envoy writes as many pieces as it has
        // just said, and they live until the hook ends; in other hooks it has none.
        unsafe {
            let count = http_get_body_chunks_size(self.0, RECEIVED_REQUEST_BODY);
            let mut pieces = vec![Buffer::EMPTY; count];
            let found = http_get_body_chunks(self.0, RECEIVED_REQUEST_BODY, pieces.as_mut_ptr());
            pieces.truncate(if found { count } else { 0 });
            pieces.into_iter().map(|piece| piece.bytes()).collect()
        }
    }

    fn route_cluster(&self) -> Option<&[u8]> {
        let mut name = Buffer::EMPTY;
        // SAFETY: as for a header; the name is the route's and lives as long as the request.
        unsafe { http_get_cluster_name(self.0, &raw mut name).then(|| name.bytes()) }
    }

    fn route_cluster_hosts(&self, priority: u32) -> Option<Counts> {
        hosts_by(|total, healthy, degraded| {
            // SAFETY: the pointer is of the request whose hook runs; Envoy writes the three numbers.
            unsafe { http_get_cluster_host_count(self.0, priority, total, healthy, degraded) }
        })
    }

    fn has_network_filter(&self) -> bool {
        connections::any().is_some()
    }

    fn hosts(&self, cluster: &str, priority: u32) -> Option<Counts> {
        let connection = connections::any()?;
        let name = Buffer::lend(cluster);
        hosts_by(|total, healthy, degraded| {
            // SAFETY: `connections` holds network filters of this worker that Envoy has made and not
            // yet destroyed; both happen on this thread, and not during this call.
            unsafe {
                network_filter_get_cluster_host_count(
                    connection, name, priority, total, healthy, degraded,
                )
            }
        })
    }

    fn count(&self, counter: Metric, labels: &[&str], value: u64) {
        with_labels(labels, |labels, count| {
            // SAFETY: the pointer is of the request whose hook runs; Envoy checks id and labels.
            unsafe { http_filter_increment_counter(self.0, counter.0, labels, count, value) }
        });
    }

    fn set(&self, gauge: Metric, labels: &[&str], value: u64) {
        with_labels(labels, |labels, count| {
            // SAFETY: as for a counter.
            unsafe { http_filter_set_gauge(self.0, gauge.0, labels, count, value) }
        });
    }

    fn log(&self, level: Level, line: &str) {
        write_line(level, line);
    }
}

/// Lends labels to Envoy.
fn with_labels<T>(labels: &[&str], lend: impl FnOnce(*const Buffer, usize) -> T) -> T {
    let mut buffers = [Buffer::EMPTY; MOST_LABELS];
    for (buffer, label) in buffers.iter_mut().zip(labels) {
        *buffer = Buffer::lend(label);
    }
    lend(buffers.as_ptr(), labels.len().min(MOST_LABELS))
}

const MOST_LABELS: usize = 4;

/// The steps of an answer. With the last one Envoy may call `http_filter_destroy`, from in here; after
/// that no other step may be taken.
impl Stream<'_> {
    pub fn send_headers<'a>(&self, headers: impl Iterator<Item = (&'a str, &'a str)>, end: bool) {
        let headers = lend_headers(headers);
        // SAFETY: the pointer is of a request that lives. Envoy copies the headers, and frees its filter
        // only when the hook has ended.
        unsafe { http_send_response_headers(self.0, headers.as_ptr(), headers.len(), end) };
    }

    pub fn send_data(&self, data: &[u8], end: bool) {
        // SAFETY: as for headers.
        unsafe { http_send_response_data(self.0, Buffer::lend_bytes(data), end) };
    }

    pub fn send_trailers<'a>(&self, trailers: impl Iterator<Item = (&'a str, &'a str)>) {
        let trailers = lend_headers(trailers);
        // SAFETY: as for headers.
        unsafe { http_send_response_trailers(self.0, trailers.as_ptr(), trailers.len()) };
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

fn lend_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Header> {
    let lend = |(name, value)| Header {
        name: Buffer::lend(name),
        value: Buffer::lend(value),
    };
    headers.map(lend).collect()
}
