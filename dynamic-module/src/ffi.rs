//! Envoy's ABI for dynamic modules, as Envoy 1.38 to 1.40 have it: the one file with `unsafe`.
//!
//! Envoy calls the hooks (`envoy_dynamic_module_on_...`); they call what Envoy exports
//! (`envoy_dynamic_module_callback_...`). Rules that hold throughout:
//!
//! - No panic crosses into Envoy, which would end the process: each hook runs in [`guard`].
//! - No hook hands Envoy a null, but for a configuration that is refused.
//! - Pointers from Envoy to an HTTP filter live from `http_filter_new` to `http_filter_destroy`, on
//!   one worker; those to a network filter likewise. What Envoy lends (a header's value, a name) lives
//!   until the hook ends, and as long as headers are not changed.
//! - Our pointers: a configuration is an [`Arc`] that Envoy holds from `config_new` to
//!   `config_destroy`, a request a [`Box`] that it holds from `new` to `destroy`.
//! - `build.rs` has the linker mark the file as never to be unloaded.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::slice;
use std::sync::{Arc, OnceLock};

use healthz_core::view::Counts;

use crate::connections;
use crate::envoy::{Answer, Level, Metric, Request, Setup};
use crate::filter::Filter;

/// Text that one side lends to the other.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    start: *const u8,
    size: usize,
}

#[repr(C)]
struct Header {
    name: Buffer,
    value: Buffer,
}

/// What Envoy calls one of its objects, or we one of ours.
type Pointer = *mut c_void;

/// Declares what Envoy's executable exports, all with one prefix. Each is looked up by its name when
/// the module is loaded, so that an Envoy without it is told so and not only that it cannot load a file.
macro_rules! callbacks {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        struct Callbacks {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Callbacks {
            /// All of them, or the name of the first that Envoy lacks.
            fn find() -> Result<Self, &'static str> {
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
static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

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
}

/// What Envoy 1.40 calls its ABI. 1.38 and 1.39 call theirs `v0.1.0` and say in a warning that it
/// differs; what is used here is the same in all three.
const ABI: &CStr = c"v0.2.0";

const REQUEST_HEADER: c_int = 0;

/// Answers of the hooks: the next filter, no next filter, and no next filter and no buffering.
const CONTINUE: c_int = 0;
const STOP: c_int = 1;
const DROP_BODY: c_int = 3;

impl Buffer {
    /// Lends text to Envoy, which copies what it keeps.
    fn lend(text: &str) -> Self {
        Self {
            start: text.as_ptr(),
            size: text.len(),
        }
    }

    const EMPTY: Self = Self {
        start: null(),
        size: 0,
    };

    /// # Safety
    /// Envoy wrote this buffer, and what it leads to lives for `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; an empty text may come as a null, which is out by now.
        unsafe { slice::from_raw_parts(self.start, self.size) }
    }
}

/// Runs a hook's body; a panic in it ends here, and `fallback` says what Envoy is told.
fn guard<T>(hook: &str, fallback: impl FnOnce() -> T, body: impl FnOnce() -> T) -> T {
    let body = || {
        #[cfg(panic_test)]
        panic_if_wanted(hook);
        body()
    };
    // A panic can leave only what is shared half changed: locks, which are poisoned then, and cells,
    // which are set in one step.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        write_line(
            Level::Error,
            &format!("envoy-healthz: a fault in {hook}, see the panic above; please report it"),
        );
        fallback()
    })
}

/// Panics in the hook that the environment names, or in all: a build for tests alone.
#[cfg(panic_test)]
#[allow(clippy::panic)]
fn panic_if_wanted(hook: &str) {
    if std::env::var("ENVOY_HEALTHZ_PANIC").is_ok_and(|wanted| wanted == hook) {
        panic!("a deliberate panic in {hook}");
    }
}

fn write_line(level: Level, line: &str) {
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
struct Loading<'a>(Pointer, PhantomData<&'a ()>);

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
struct Stream<'a>(Pointer, PhantomData<&'a ()>);

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

impl Stream<'_> {
    /// Answers by headers and data: cheaper than Envoy's local reply, which would also choose the
    /// gRPC status. With the last piece Envoy may call `http_filter_destroy`, from in here.
    fn send(&self, answer: &Answer, held: &Held) {
        held.stage.set(Stage::Answered);
        let headers = answer.headers.iter().map(|(name, value)| Header {
            name: Buffer::lend(name),
            value: Buffer::lend(value),
        });
        let headers: Vec<Header> = headers.collect();
        let end = answer.body.is_empty();
        // SAFETY: the pointer is of the request whose hook runs, which is answered once. Envoy copies
        // headers and body, and frees its filter only when the hook has ended.
        unsafe { http_send_response_headers(self.0, headers.as_ptr(), headers.len(), end) };
        if !end && held.stage.get() == Stage::Answered {
            // SAFETY: the same; the request has not ended with its headers.
            unsafe { http_send_response_data(self.0, Buffer::lend(&answer.body), true) };
        }
    }

    /// Answers 503 after a fault, by Envoy's own local reply: as little of ours as can be.
    fn send_fault(&self, held: &Held) {
        held.stage.set(Stage::Answered);
        let (body, details) = (
            Buffer::lend("unavailable"),
            Buffer::lend("envoy_healthz_fault"),
        );
        // SAFETY: as in `send`. Should headers have been sent before the fault, Envoy resets the stream.
        unsafe { http_send_response(self.0, 503, null(), 0, body, details) };
    }
}

/// One request: what Envoy holds for us from `http_filter_new` to `http_filter_destroy`. A hook that
/// answers holds a share of it, for the answer may end the request.
struct Held {
    filter: Arc<Filter>,
    stage: Cell<Stage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Not looked at yet, or none of ours.
    Open,
    /// There was a fault before the request was looked at.
    Faulty,
    Answered,
    Destroyed,
}

impl Held {
    /// A share of what `http_filter_new` made.
    ///
    /// # Safety
    /// Envoy has given `ours` to a hook of this request, on the request's worker.
    unsafe fn share(ours: Pointer) -> Rc<Self> {
        let held: *const Self = ours.cast();
        // SAFETY: `held` comes of `Rc::into_raw`, and Envoy gives it back only by `destroy`.
        unsafe {
            Rc::increment_strong_count(held);
            Rc::from_raw(held)
        }
    }
}

/// Says which ABI this module speaks; a null refuses an Envoy that lacks what is used here.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    guard("program_init", null, || match Callbacks::find() {
        Ok(found) => {
            CALLBACKS.get_or_init(|| found);
            ABI.as_ptr()
        }
        Err(missing) => {
            let need = "take Envoy 1.38 or later, or the wasm build";
            let line = format!("envoy-healthz: this Envoy has no {missing} for modules: {need}");
            write_line(Level::Error, &line);
            null()
        }
    })
}

/// Reads the configuration; a null refuses it.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: Pointer,
    _name: Buffer,
    text: Buffer,
) -> Pointer {
    guard("http_filter_config_new", null_mut, || {
        // SAFETY: Envoy lends the text for this call.
        let text = unsafe { text.bytes() };
        match Filter::new(&Loading(config, PhantomData), text) {
            Some(filter) => Arc::into_raw(Arc::new(filter)).cast_mut().cast(),
            None => null_mut(),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(ours: Pointer) {
    guard(
        "http_filter_config_destroy",
        || (),
        || {
            // SAFETY: made by `config_new`; Envoy gives it back once. Requests hold shares of their own.
            drop(unsafe { Arc::from_raw(ours.cast::<Filter>()) });
        },
    );
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_new(ours: Pointer, _filter: Pointer) -> Pointer {
    let stage = guard("http_filter_new", || Stage::Faulty, || Stage::Open);
    // SAFETY: made by `config_new` and not yet given back: Envoy makes requests of live
    // configurations only. This takes a share of it for the request.
    let filter = unsafe {
        Arc::increment_strong_count(ours.cast::<Filter>());
        Arc::from_raw(ours.cast::<Filter>())
    };
    let stage = Cell::new(stage);
    Rc::into_raw(Rc::new(Held { filter, stage }))
        .cast_mut()
        .cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(ours: Pointer) {
    guard(
        "http_filter_destroy",
        || (),
        || {
            // SAFETY: made by `http_filter_new`; Envoy gives it back once, and calls no hook for it after.
            let held = unsafe { Rc::from_raw(ours.cast::<Held>()) };
            held.stage.set(Stage::Destroyed);
        },
    );
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    filter: Pointer,
    ours: Pointer,
    _end: bool,
) -> c_int {
    // SAFETY: this is a hook of the request.
    let held = unsafe { Held::share(ours) };
    let request = Stream(filter, PhantomData);
    let judge = || match held.stage.get() {
        Stage::Faulty => Err(Fault),
        _ => Ok(held.filter.answer(&request)),
    };
    match guard("http_filter_request_headers", || Err(Fault), judge) {
        Ok(None) => return CONTINUE,
        Ok(Some(answer)) => request.send(&answer, &held),
        Err(Fault) => {
            // Other requests go on even now; if that cannot be told, this one is answered.
            let ours = || held.filter.probe(&request).is_some();
            if !catch_unwind(AssertUnwindSafe(ours)).unwrap_or(true) {
                return CONTINUE;
            }
            request.send_fault(&held);
        }
    }
    STOP
}

/// A panic that was caught.
struct Fault;

/// The rest of a request that has been answered is dropped.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    _filter: Pointer,
    ours: Pointer,
    _end: bool,
) -> c_int {
    guard(
        "http_filter_request_body",
        || CONTINUE,
        || {
            // SAFETY: this is a hook of the request.
            let held = unsafe { Held::share(ours) };
            match held.stage.get() {
                Stage::Answered => DROP_BODY,
                _ => CONTINUE,
            }
        },
    )
}

/// The network filter has no configuration; any pointer but a null will do.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    config: Pointer,
    _name: Buffer,
    _text: Buffer,
) -> Pointer {
    guard("network_filter_config_new", null_mut, || config)
}

/// Envoy's pointer serves as ours.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_network_filter_new(
    _ours: Pointer,
    filter: Pointer,
) -> Pointer {
    guard("network_filter_new", || (), || connections::add(filter));
    filter
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_network_filter_destroy(ours: Pointer) {
    connections::remove(ours);
    guard("network_filter_destroy", || (), || ());
}

/// Defines hooks that must exist and do nothing.
macro_rules! idle_hooks {
    ($($name:ident($($type:ty),*) $(-> $result:ident)?;)*) => { $(
        #[unsafe(export_name = concat!("envoy_dynamic_module_on_", stringify!($name)))]
        extern "C" fn $name($(_: $type),*) $(-> idle_hooks!(@type $result))? {
            guard(stringify!($name), || idle_hooks!(@value $($result)?), || idle_hooks!(@value $($result)?))
        }
    )* };
    (@type CONTINUE) => { c_int };
    (@value CONTINUE) => { CONTINUE };
    (@value) => { () };
}

idle_hooks! {
    http_filter_request_trailers(Pointer, Pointer) -> CONTINUE;
    http_filter_response_headers(Pointer, Pointer, bool) -> CONTINUE;
    http_filter_response_body(Pointer, Pointer, bool) -> CONTINUE;
    http_filter_response_trailers(Pointer, Pointer) -> CONTINUE;
    http_filter_stream_complete(Pointer, Pointer);
    http_filter_scheduled(Pointer, Pointer, u64);
    http_filter_downstream_above_write_buffer_high_watermark(Pointer, Pointer);
    http_filter_downstream_below_write_buffer_low_watermark(Pointer, Pointer);
    // These come only of calls that we never make.
    http_filter_http_callout_done(Pointer, Pointer, u64, c_int, Pointer, usize, Pointer, usize);
    http_filter_http_stream_headers(Pointer, Pointer, u64, Pointer, usize, bool);
    http_filter_http_stream_data(Pointer, Pointer, u64, Pointer, usize, bool);
    http_filter_http_stream_trailers(Pointer, Pointer, u64, Pointer, usize);
    http_filter_http_stream_complete(Pointer, Pointer, u64);
    http_filter_http_stream_reset(Pointer, Pointer, u64, c_int);
    network_filter_config_destroy(Pointer);
    network_filter_new_connection(Pointer, Pointer) -> CONTINUE;
    network_filter_read(Pointer, Pointer, usize, bool) -> CONTINUE;
    network_filter_write(Pointer, Pointer, usize, bool) -> CONTINUE;
    network_filter_event(Pointer, Pointer, c_int);
    network_filter_scheduled(Pointer, Pointer, u64);
    network_filter_above_write_buffer_high_watermark(Pointer, Pointer);
    network_filter_below_write_buffer_low_watermark(Pointer, Pointer);
    network_filter_http_callout_done(Pointer, Pointer, u64, c_int, Pointer, usize, Pointer, usize);
}
