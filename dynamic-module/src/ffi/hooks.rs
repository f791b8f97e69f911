//! What Envoy calls.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use super::callbacks::{CALLBACKS, Callbacks, write_line};
use super::connections;
use super::guard::{Fault, guard};
use super::request::{Held, Stage};
use super::stream::{Loading, Stream};
use super::types::{Buffer, Pointer};
use crate::filter::{Action, Filter};
use crate::grpc::watch;
use healthz_core::state::Level;

/// What Envoy 1.40 calls its ABI. 1.38 and 1.39 call theirs `v0.1.0` and say in a warning that it
/// differs; what is used here is the same in all three.
const ABI: &CStr = c"v0.2.0";

/// Answers of the hooks: the next filter, no next filter, and no next filter and no buffering.
const CONTINUE: c_int = 0;
const STOP: c_int = 1;
const DROP_BODY: c_int = 3;

/// Says which ABI this module speaks; a null refuses an Envoy that lacks what is used here.
#[unsafe(export_name = "envoy_dynamic_module_on_program_init")]
extern "C" fn program_init() -> *const c_char {
    guard("program_init", || match Callbacks::find() {
        Ok(found) => {
            CALLBACKS.get_or_init(|| found);
            ABI.as_ptr()
        }
        Err(missing) => {
            let line = format!(
                "envoy-healthz: this Envoy is too old (no {missing}): use 1.38 or later, or wasm"
            );
            write_line(Level::Error, &line);
            null()
        }
    })
    .unwrap_or(null())
}

/// Reads the configuration; a null refuses it.
#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_config_new")]
extern "C" fn http_filter_config_new(config: Pointer, _name: Buffer, text: Buffer) -> Pointer {
    guard("http_filter_config_new", || {
        // SAFETY: Envoy lends both for this call.
        let (loading, text) = unsafe { (Loading::new(config), text.bytes()) };
        match Filter::new(&loading, text) {
            Ok(filter) => Arc::into_raw(Arc::new(filter)).cast_mut().cast(),
            Err(fault) => {
                write_line(Level::Error, &format!("envoy-healthz: {fault}"));
                null_mut()
            }
        }
    })
    .unwrap_or(null_mut())
}

#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_config_destroy")]
extern "C" fn http_filter_config_destroy(ours: Pointer) {
    let _ = guard("http_filter_config_destroy", || {
        // SAFETY: made by `config_new`; Envoy gives it back once. Requests hold shares of their own.
        drop(unsafe { Arc::from_raw(ours.cast::<Filter>()) });
    });
}

#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_new")]
extern "C" fn http_filter_new(ours: Pointer, _filter: Pointer) -> Pointer {
    let stage = guard("http_filter_new", || Stage::Open).unwrap_or(Stage::Faulty);
    // SAFETY: made by `config_new` and not yet given back: Envoy makes requests of live
    // configurations only. This takes a share of it for the request.
    let filter = unsafe {
        Arc::increment_strong_count(ours.cast::<Filter>());
        Arc::from_raw(ours.cast::<Filter>())
    };
    let held = Held {
        known: filter.drain.known(),
        filter,
        stage: Cell::new(stage),
        call: Cell::new(None),
    };
    Rc::into_raw(Rc::new(held)).cast_mut().cast()
}

#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_destroy")]
extern "C" fn http_filter_destroy(ours: Pointer) {
    // SAFETY: made by `http_filter_new`; Envoy gives it back once, and calls no hook for it after.
    let held = unsafe { Rc::from_raw(ours.cast::<Held>()) };
    // Whatever happens, nobody may use Envoy's pointer from now on.
    if let Stage::Watching(id, _) = held.stage.replace(Stage::Destroyed) {
        watch::leave(id);
    }
    let _ = guard("http_filter_destroy", || drop(held));
}

#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_request_headers")]
extern "C" fn http_filter_request_headers(filter: Pointer, ours: Pointer, end: bool) -> c_int {
    // SAFETY: this is a hook of the request.
    let (held, request) = unsafe { (Held::share(ours), Stream::new(filter)) };
    let begin = || held.filter.begin(&request, end, held.known);
    let begun = match held.stage.get() {
        Stage::Faulty => Err(Fault),
        _ => guard("http_filter_request_headers", begin),
    };
    // Other requests go on even after a fault; if that cannot be found out, this one is answered.
    let ours = AssertUnwindSafe(|| held.filter.is_for_us(&request));
    match begun {
        Ok(Action::Answer(answer)) => held.send(&request, &answer),
        Ok(Action::Fail(status)) => held.send_status(&request, status),
        Ok(Action::Read(call)) => {
            held.call.set(Some(call));
            held.stage.set(Stage::Reading);
        }
        Err(Fault) if catch_unwind(ours).unwrap_or(true) => held.send_fault(&request),
        Ok(Action::Pass) | Err(Fault) => {
            held.stage.set(Stage::Passed);
            return CONTINUE;
        }
    }
    STOP
}

#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_request_body")]
extern "C" fn http_filter_request_body(filter: Pointer, ours: Pointer, end: bool) -> c_int {
    // SAFETY: this is a hook of the request.
    unsafe { go_on(filter, ours, "http_filter_request_body", end, DROP_BODY) }
}

/// A call's body may end with trailers.
#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_request_trailers")]
extern "C" fn http_filter_request_trailers(filter: Pointer, ours: Pointer) -> c_int {
    // SAFETY: this is a hook of the request.
    unsafe { go_on(filter, ours, "http_filter_request_trailers", true, STOP) }
}

/// What comes after a request's headers: a call is read, and all that is ours goes no further.
///
/// # Safety
/// Envoy has given both pointers to the hook of this request.
unsafe fn go_on(filter: Pointer, ours: Pointer, hook: &str, end: bool, stop: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let (held, request) = unsafe { (Held::share(ours), Stream::new(filter)) };
    held.read(&request, hook, end);
    match held.stage.get() {
        Stage::Open | Stage::Faulty | Stage::Passed => CONTINUE,
        Stage::Reading | Stage::Watching(..) | Stage::Answered | Stage::Destroyed => stop,
    }
}

/// A request that a filter before ours has answered was never shown to us.
#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_response_headers")]
extern "C" fn http_filter_response_headers(filter: Pointer, ours: Pointer, _end: bool) -> c_int {
    let _ = guard("http_filter_response_headers", || {
        // SAFETY: this is a hook of the request, and nothing in it ends the request.
        let (held, request) = unsafe { (&*ours.cast::<Held>(), Stream::new(filter)) };
        if held.stage.get() == Stage::Open {
            held.filter.answered_before(&request);
        }
    });
    CONTINUE
}

/// The module's thread has woken a Watch that leads its group.
#[unsafe(export_name = "envoy_dynamic_module_on_http_filter_scheduled")]
extern "C" fn http_filter_scheduled(filter: Pointer, ours: Pointer, _event: u64) {
    // SAFETY: this is a hook of the request.
    let (held, request) = unsafe { (Held::share(ours), Stream::new(filter)) };
    if let Stage::Watching(id, endpoint) = held.stage.get() {
        let update = || held.filter.update_watches(id, endpoint, &request);
        if let Err(Fault) = guard("http_filter_scheduled", update) {
            watch::fail(id);
        }
    }
}

/// The network filter has no configuration; any pointer but a null will do.
#[unsafe(export_name = "envoy_dynamic_module_on_network_filter_config_new")]
extern "C" fn network_filter_config_new(config: Pointer, _name: Buffer, _text: Buffer) -> Pointer {
    guard("network_filter_config_new", || config).unwrap_or(null_mut())
}

/// Envoy's pointer serves as ours.
#[unsafe(export_name = "envoy_dynamic_module_on_network_filter_new")]
extern "C" fn network_filter_new(_ours: Pointer, filter: Pointer) -> Pointer {
    // SAFETY: Envoy is making it, and calls `destroy` on the same worker before it frees it.
    let _ = guard("network_filter_new", || unsafe { connections::add(filter) });
    filter
}

#[unsafe(export_name = "envoy_dynamic_module_on_network_filter_destroy")]
extern "C" fn network_filter_destroy(ours: Pointer) {
    connections::remove(ours);
}

/// Defines hooks that must exist and do nothing.
macro_rules! idle_hooks {
    ($($name:ident($($type:ty),*) $(-> $result:ident)?;)*) => { $(
        #[unsafe(export_name = concat!("envoy_dynamic_module_on_", stringify!($name)))]
        extern "C" fn $name($(_: $type),*) $(-> idle_hooks!(@type $result))? { $($result)? }
    )* };
    (@type CONTINUE) => { c_int };
}

idle_hooks! {
    http_filter_response_body(Pointer, Pointer, bool) -> CONTINUE;
    http_filter_response_trailers(Pointer, Pointer) -> CONTINUE;
    http_filter_stream_complete(Pointer, Pointer);
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
