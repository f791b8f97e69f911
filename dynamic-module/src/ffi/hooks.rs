//! What Envoy calls.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use healthz_core::answer::is_grpc;

use super::callbacks::{CALLBACKS, Callbacks, Loading, Scheduler, Stream, write_line};
use super::{Buffer, Pointer, guard};
use crate::connections;
use crate::envoy::{Answer, Level, Request, Waker, Watcher};
use crate::filter::{Action, Filter, Reply, Watched};
use crate::grpc::Call;
use crate::watch::{self, WatchId};

/// What Envoy 1.40 calls its ABI. 1.38 and 1.39 call theirs `v0.1.0` and say in a warning that it
/// differs; what is used here is the same in all three.
const ABI: &CStr = c"v0.2.0";

/// Answers of the hooks: the next filter, no next filter, and no next filter and no buffering.
const CONTINUE: c_int = 0;
const STOP: c_int = 1;
const DROP_BODY: c_int = 3;

/// One request: what Envoy holds for us from `http_filter_new` to `http_filter_destroy`. A hook that
/// answers holds a share of it, for the answer may end the request.
struct Held {
    filter: Arc<Filter>,
    stage: Cell<Stage>,
    /// The call that is being read.
    call: Cell<Option<Box<Call>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
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
    unsafe fn share(ours: Pointer) -> Rc<Self> {
        let held: *const Self = ours.cast();
        // SAFETY: `held` comes of `Rc::into_raw`, and Envoy gives it back only by `destroy`.
        unsafe {
            Rc::increment_strong_count(held);
            Rc::from_raw(held)
        }
    }

    /// Answers by headers and data: cheaper than Envoy's local reply, which would also choose the
    /// gRPC status.
    fn send(&self, request: &Stream<'_>, answer: &Answer) {
        self.stage.set(Stage::Answered);
        let headers = answer.headers.iter();
        let end = answer.body.is_empty();
        request.send_headers(headers.map(|(name, value)| (*name, value.as_ref())), end);
        if !end && self.is_there() {
            request.send_data(answer.body.as_bytes(), true);
        }
    }

    /// Answers a call.
    fn reply(self: &Rc<Self>, request: &Stream<'_>, reply: Reply) {
        let (message, watched, ends) = match reply {
            Reply::Failed(answer) => return self.send(request, &answer),
            Reply::Message(message) => (message, None, true),
            Reply::Watch(message, watched) => (message, watched, false),
        };
        self.stage.set(Stage::Answered);
        request.send_headers(GRPC_HEADERS.into_iter(), false);
        if self.is_there() {
            request.send_data(&message, false);
        }
        if self.is_there() && ends {
            request.send_trailers(GRPC_SUCCESS.into_iter());
        }
        if self.is_there()
            && let Some(Watched { key, told }) = watched
        {
            let endpoint = key.endpoint;
            let watcher = OpenStream {
                filter: request.0,
                held: Rc::clone(self),
            };
            let id = watch::join(key, told, Rc::new(watcher));
            self.stage.set(Stage::Watching(id, endpoint));
            // The others of its group may have been told something else, up to a tick ago.
            watch::tell(id, told);
        }
    }

    /// Ends a request after a fault.
    fn send_fault(&self, request: &Stream<'_>) {
        match self.stage.replace(Stage::Answered) {
            Stage::Watching(..) => request.send_trailers(GRPC_FAULT.into_iter()),
            // Envoy's local reply would say gRPC status 0.
            _ if is_grpc(request.header("content-type")) => {
                let headers = GRPC_HEADERS.into_iter().chain(GRPC_FAULT);
                request.send_headers(headers, true);
            }
            _ => request.send_local_reply(503, "unavailable", "envoy_healthz_fault"),
        }
    }

    /// Whether the request lives: a step of its answer can end it.
    fn is_there(&self) -> bool {
        self.stage.get() != Stage::Destroyed
    }

    /// Takes the piece of a call's body that has come, the last one if `end`.
    fn read(self: &Rc<Self>, request: &Stream<'_>, hook: &str, end: bool) {
        let mut call = self.call.take();
        let read = || {
            let call = call.as_mut();
            Ok(call.and_then(|call| self.filter.read(call, end, request)))
        };
        match guard(hook, || Err(Fault), read) {
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
    /// To be used while the stage is not `Destroyed`: till then Envoy's pointer is good.
    fn request(&self) -> Stream<'_> {
        Stream(self.filter, PhantomData)
    }
}

impl Watcher for OpenStream {
    fn send(&self, message: &[u8]) {
        if self.held.is_there() {
            self.request().send_data(message, false);
        }
    }

    fn fail(&self) {
        if self.held.is_there() {
            self.held.send_fault(&self.request());
        }
    }

    fn waker(&self) -> Box<dyn Waker> {
        // `watch` asks only those that have not left, which they do when they are destroyed.
        Box::new(Scheduler::new(&self.request()))
    }
}

const GRPC_HEADERS: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
const GRPC_SUCCESS: [(&str, &str); 1] = [("grpc-status", "0")];
const GRPC_FAULT: [(&str, &str); 2] = [("grpc-status", "14"), ("grpc-message", "unavailable")];

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
    let held = Held {
        filter,
        stage: Cell::new(stage),
        call: Cell::new(None),
    };
    Rc::into_raw(Rc::new(held)).cast_mut().cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(ours: Pointer) {
    // SAFETY: made by `http_filter_new`; Envoy gives it back once, and calls no hook for it after.
    let held = unsafe { Rc::from_raw(ours.cast::<Held>()) };
    // Whatever happens, nobody may use Envoy's pointer from now on.
    if let Stage::Watching(id, _) = held.stage.replace(Stage::Destroyed) {
        watch::leave(id);
    }
    guard("http_filter_destroy", || (), || drop(held));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    filter: Pointer,
    ours: Pointer,
    end: bool,
) -> c_int {
    // SAFETY: this is a hook of the request.
    let held = unsafe { Held::share(ours) };
    let request = Stream(filter, PhantomData);
    let begin = || match held.stage.get() {
        Stage::Faulty => Err(Fault),
        _ => Ok(held.filter.begin(&request, end)),
    };
    match guard("http_filter_request_headers", || Err(Fault), begin) {
        Ok(Action::Pass) => {
            held.stage.set(Stage::Passed);
            return CONTINUE;
        }
        Ok(Action::Answer(answer)) => held.send(&request, &answer),
        Ok(Action::Read(call)) => {
            held.call.set(Some(call));
            held.stage.set(Stage::Reading);
        }
        Err(Fault) => {
            // Other requests go on even now; if that cannot be told, this one is answered.
            let ours = || held.filter.is_for_us(&request);
            if !catch_unwind(AssertUnwindSafe(ours)).unwrap_or(true) {
                held.stage.set(Stage::Passed);
                return CONTINUE;
            }
            held.send_fault(&request);
        }
    }
    STOP
}

/// A panic that was caught.
struct Fault;

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    filter: Pointer,
    ours: Pointer,
    end: bool,
) -> c_int {
    // SAFETY: this is a hook of the request.
    unsafe { go_on(filter, ours, "http_filter_request_body", end, DROP_BODY) }
}

/// A call's body may end with trailers.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    filter: Pointer,
    ours: Pointer,
) -> c_int {
    // SAFETY: this is a hook of the request.
    unsafe { go_on(filter, ours, "http_filter_request_trailers", true, STOP) }
}

/// What comes after a request's headers: a call is read, and all that is ours goes no further.
///
/// # Safety
/// Envoy has given both pointers to the hook of this request.
unsafe fn go_on(filter: Pointer, ours: Pointer, hook: &str, end: bool, stop: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let held = unsafe { Held::share(ours) };
    held.read(&Stream(filter, PhantomData), hook, end);
    match held.stage.get() {
        Stage::Open | Stage::Faulty | Stage::Passed => CONTINUE,
        Stage::Reading | Stage::Watching(..) | Stage::Answered | Stage::Destroyed => stop,
    }
}

/// A request that a filter before ours has answered was never shown to us.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    filter: Pointer,
    ours: Pointer,
    _end: bool,
) -> c_int {
    let look = || {
        // SAFETY: this is a hook of the request, and nothing in it ends the request.
        let held = unsafe { &*ours.cast::<Held>() };
        if held.stage.get() == Stage::Open {
            held.filter.answered_before(&Stream(filter, PhantomData));
        }
        CONTINUE
    };
    guard("http_filter_response_headers", || CONTINUE, look)
}

/// The module's thread has woken a Watch that leads its group.
#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    filter: Pointer,
    ours: Pointer,
    _event: u64,
) {
    // SAFETY: this is a hook of the request.
    let held = unsafe { Held::share(ours) };
    let request = Stream(filter, PhantomData);
    let tick = || {
        if let Stage::Watching(id, endpoint) = held.stage.get() {
            held.filter.tick(id, endpoint, &request);
        }
        Ok(())
    };
    if let Err(Fault) = guard("http_filter_scheduled", || Err(Fault), tick)
        && let Stage::Watching(id, _) = held.stage.get()
    {
        watch::fail(id);
    }
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
