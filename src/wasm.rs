//! The one file that names proxy-wasm: Envoy's callbacks in, host calls out. It decides nothing.
//!
//! A worker has one virtual machine. In it a [`Root`] belongs to a configuration, and a [`Stream`] to
//! an HTTP request. A root is woken through a queue of its own: the SDK drops the reply to a call of a
//! request that is gone, so only roots call. Each callback borrows the filter once, and sends the answers
//! that it returns when that has ended.
//!
//! Nothing here panics, so the SDK's `String` getters, which do on a byte that is not UTF-8, are not
//! used. The host calls that the SDK lacks are in [`raw`].

mod raw;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::Duration;

use healthz_core::answer::{Content, Outcome, Response};
use healthz_core::config::wasm::Config;
use healthz_core::judgement::Health;
use healthz_core::state::Level;
use log::{error, log};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{
    Action, BufferType, Bytes, ContextType, GrpcStatusCode, LogLevel, MapType, MetricType, Status,
};

use crate::envoy::{CallError, Envoy, Shared};
use crate::filter::{self, Answers};
use crate::pairs;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, filter: None }));
}}

/// How much of a reply is copied into the machine at a time, in bytes.
const CHUNK: usize = 64 * 1024;

/// As many headers as probers send. For each single value Envoy enters the machine once more to
/// get memory: it is cheaper to be given so many at once.
const FEW_HEADERS: usize = 16;

/// The filter of a root, and of its requests.
type Filter = Rc<RefCell<filter::Filter<HostCalls>>>;

struct Root {
    id: u32,
    filter: Option<Filter>,
}

/// One HTTP request.
struct Stream {
    id: u32,
    filter: Option<Filter>,
    waiting: bool,
}

/// The Envoy of one root, which has a queue of its own.
struct HostCalls {
    queue_name: String,
    queue: u32,
}

// Envoy forgets neither queues nor metrics while the machine lives, and this one may see thousands of
// roots: each update of a listener makes one. They take over what those before them had.
thread_local! {
    /// Names of queues whose roots are gone.
    static SPARE_QUEUES: Cell<Vec<String>> = const { Cell::new(Vec::new()) };
    /// Names and ids of all metrics.
    static METRICS: Cell<Vec<(String, u32)>> = const { Cell::new(Vec::new()) };
}

impl Root {
    /// Has the filter do something, and sends the answers that come of it. A filter that is borrowed would
    /// mean that Envoy called back during a host call, which it does not.
    fn run(&self, body: impl FnOnce(&mut filter::Filter<HostCalls>) -> Answers) {
        let Some(Ok(mut filter)) = self.filter.as_ref().map(|filter| filter.try_borrow_mut())
        else {
            return;
        };
        let answers = body(&mut filter);
        drop(filter);
        for (request, response) in &answers {
            if hostcalls::set_effective_context(*request).is_ok() {
                send(response);
            }
        }
        // A call that is made after this must be the root's.
        if !answers.is_empty() {
            let _ = hostcalls::set_effective_context(self.id);
        }
    }
}

/// By `proxy_on_delete`. There is no `proxy_on_done`: Envoy would call it for each request as well.
impl Drop for Root {
    fn drop(&mut self) {
        // Envoy 1.40 forgets this context but not its tick, which `stop` turns off.
        self.run(|filter| {
            filter.stop();
            Vec::new()
        });
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        #[cfg(trap)]
        trap_if(call_status(headers) == Some(599));
        self.run(|filter| filter.replied(token, call_status(headers), &mut call_body(body)));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let text = match hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size) {
            Ok(text) => text.unwrap_or_default(),
            Err(status) => {
                error!("envoy-healthz: configuration: cannot be read: {status:?}");
                return false;
            }
        };
        match Config::parse(&text) {
            Ok(config) => {
                let filter = filter::Filter::new(config, &text, HostCalls::new());
                self.filter = Some(Rc::new(RefCell::new(filter)));
                true
            }
            Err(fault) => {
                error!("envoy-healthz: {fault}");
                false
            }
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(_)) = hostcalls::dequeue_shared_queue(queue) {}
        self.run(filter::Filter::woken);
    }

    fn on_tick(&mut self) {
        self.run(filter::Filter::tick);
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream {
            id,
            filter: self.filter.clone(),
            waiting: false,
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Stream {
    fn request(&mut self, count: usize) -> filter::Action {
        let Some(filter) = &self.filter else {
            return filter::Action::PassOn;
        };
        let Ok(mut filter) = filter.try_borrow_mut() else {
            return filter::Action::Answer(Response::fault());
        };
        #[cfg(trap)]
        trap_if(
            header_of(MapType::HttpRequestHeaders, ":path")
                .is_some_and(|path| path.ends_with(b"?trap")),
        );
        if count > FEW_HEADERS {
            // Hardly a probe: its path is enough to let it pass.
            let path = header_of(MapType::HttpRequestHeaders, ":path");
            if !path.is_some_and(|path| filter.is_ours(&path)) {
                return filter::Action::PassOn;
            }
        }
        let headers = raw::request_headers();
        filter.request(self.id, |name| {
            pairs::find(&headers, name.as_bytes()).unwrap_or_default()
        })
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, count: usize, _: bool) -> Action {
        match self.request(count) {
            filter::Action::PassOn => return Action::Continue,
            filter::Action::Answer(response) => send(&response),
            filter::Action::Wait => self.waiting = true,
        }
        Action::Pause
    }

    fn on_http_request_body(&mut self, size: usize, _: bool) -> Action {
        if !self.waiting {
            return Action::Continue;
        }
        // Nobody reads it: kept, it would fill Envoy's buffer, and end the probe with a 413.
        let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, b"");
        Action::Pause
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        match self.waiting {
            true => Action::Pause,
            false => Action::Continue,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.waiting
            && let Some(filter) = &self.filter
            && let Ok(mut filter) = filter.try_borrow_mut()
        {
            filter.cancel(self.id);
        }
    }
}

impl HostCalls {
    /// Registers a queue of this machine alone, and of the root that does it.
    fn new() -> Self {
        let mut spare = SPARE_QUEUES.take();
        let queue_name = spare
            .pop()
            .unwrap_or_else(|| format!("envoy-healthz/{:x}", RandomState::new().hash_one(0)));
        SPARE_QUEUES.set(spare);
        Self {
            queue: hostcalls::register_shared_queue(&queue_name).unwrap_or(0),
            queue_name,
        }
    }
}

impl Drop for HostCalls {
    fn drop(&mut self) {
        let mut spare = SPARE_QUEUES.take();
        spare.push(std::mem::take(&mut self.queue_name));
        SPARE_QUEUES.set(spare);
    }
}

impl Envoy for HostCalls {
    fn now(&self) -> Duration {
        raw::clock(raw::MONOTONIC)
    }

    fn unix_time(&self) -> Duration {
        raw::clock(raw::REALTIME)
    }

    fn memory(&self) -> u64 {
        core::arch::wasm32::memory_size::<0>() as u64 * 65536
    }

    fn call(&self, cluster: &str, path: &str, timeout: Duration) -> Result<u32, CallError> {
        let headers = vec![
            (":method", "GET"),
            (":path", path),
            (":authority", "envoy-healthz"),
        ];
        let sent = hostcalls::dispatch_http_call(cluster, headers, None, vec![], timeout);
        sent.map_err(|status| match status {
            Status::BadArgument => CallError::NoCluster,
            _ => CallError::NotSent,
        })
    }

    fn wake(&self) {
        let _ = hostcalls::enqueue_shared_queue(self.queue, Some(b"ask"));
    }

    fn set_tick(&self, period: Option<Duration>) {
        let _ = hostcalls::set_tick_period(period.unwrap_or(Duration::ZERO));
    }

    fn read_shared(&self, key: &str) -> Shared {
        let (value, version) = hostcalls::get_shared_data(key).unwrap_or_default();
        let value = value.unwrap_or_default();
        Shared { value, version }
    }

    /// A record that was not there has no number. Envoy (proxy-wasm-cpp-host's `SharedData::set`)
    /// heeds a number only if the record is there by now; then this one, which it gives last of four
    /// billion, differs.
    fn replace_shared(&self, key: &str, value: &str, read: &Shared) -> bool {
        let version = read.version.unwrap_or(u32::MAX);
        hostcalls::set_shared_data(key, Some(value.as_bytes()), Some(version)).is_ok()
    }

    fn write_shared(&self, key: &str, value: &str) {
        let _ = hostcalls::set_shared_data(key, Some(value.as_bytes()), None);
    }

    fn add(&self, counter: &str, count: i64) {
        let _ = hostcalls::increment_metric(metric(MetricType::Counter, counter), count);
    }

    fn set(&self, gauge: &str, value: u64) {
        let _ = hostcalls::record_metric(metric(MetricType::Gauge, gauge), value);
    }

    fn log(&self, level: Level, line: &str) {
        let level = match level {
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log!(level, "{line}");
    }
}

/// A metric's id, by its name.
fn metric(kind: MetricType, name: &str) -> u32 {
    let mut metrics = METRICS.take();
    let known = metrics.iter().find(|(known, _)| known == name);
    let id = known.map(|(_, id)| *id).unwrap_or_else(|| {
        let id = hostcalls::define_metric(kind, &format!("envoy_healthz.{name}")).unwrap_or(0);
        metrics.push((name.to_owned(), id));
        id
    });
    METRICS.set(metrics);
    id
}

/// Answers the request at hand.
fn send(response: &Response) {
    let details = match response.outcome {
        Outcome::Health(Health::Healthy) => "envoy_healthz_healthy",
        Outcome::Health(Health::Unhealthy) => "envoy_healthz_unhealthy",
        Outcome::MethodNotAllowed => "envoy_healthz_method_not_allowed",
        Outcome::Fault => "envoy_healthz_fault",
    };
    match &response.content {
        Content::Http { headers, body } => {
            let status = response.outcome.status();
            raw::send_local_response(status, details, headers, body, None);
        }
        Content::Grpc => {
            let (status, message) = match response.outcome {
                Outcome::Health(Health::Healthy) => (GrpcStatusCode::Ok, ""),
                _ => (GrpcStatusCode::Unavailable, "unavailable"),
            };
            // Envoy makes a gRPC status of it, with 200, but not for `application/grpc;…`: there the HTTP status
            // speaks.
            let http = response.outcome.status();
            raw::send_local_response(http, details, &[], message, Some(status as i32));
        }
    }
}

/// A header's value; `None` when there is none.
fn header_of(map: MapType, name: &str) -> Option<Bytes> {
    hostcalls::get_map_value_bytes(map, name).ok()?
}

/// The status of the reply at hand; `None` when it was lost, for then Envoy gives no header.
fn call_status(headers: usize) -> Option<u32> {
    if headers == 0 {
        return None;
    }
    let value = header_of(MapType::HttpCallResponseHeaders, ":status")?;
    std::str::from_utf8(&value).ok()?.parse().ok()
}

/// The body of the reply at hand, `size` bytes of it, in chunks.
fn call_body(size: usize) -> impl Iterator<Item = Bytes> {
    (0..size).step_by(CHUNK).map_while(move |start| {
        let length = CHUNK.min(size - start);
        hostcalls::get_buffer(BufferType::HttpCallResponseBody, start, length).ok()?
    })
}

/// Traps, in the build of `make trap` alone: for the tests of what a trap does.
#[cfg(trap)]
fn trap_if(wanted: bool) {
    if wanted {
        core::arch::wasm32::unreachable()
    }
}
