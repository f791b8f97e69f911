//! The one file that names proxy-wasm: Envoy's callbacks in, host calls out. It decides nothing.
//!
//! A worker has one virtual machine. In it a [`Root`] belongs to a configuration, and a [`Stream`] to
//! an HTTP request. A root is woken through a queue of its own: the SDK drops the reply to a call of a
//! request that is gone, so only roots call.
//!
//! Nothing here panics, so the SDK's `String` getters, which do on a byte that is not UTF-8, are not
//! used.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use healthz_core::answer::Response;
use healthz_core::judgement::Health;
use log::{Level, error, log};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{
    Action, BufferType, Bytes, ContextType, GrpcStatusCode, LogLevel, MapType, MetricType, Status,
};

use crate::filter::{Filter, Reaction};
use crate::host::{CallError, Host, MetricKind, Shared};
use healthz_core::config::wasm::Config;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, filter: None }));
}}

/// How much of a reply is copied into the machine at a time, in bytes.
const CHUNK: usize = 64 * 1024;

struct Root {
    id: u32,
    filter: Option<Rc<Filter<Envoy>>>,
}

/// One HTTP request.
struct Stream {
    id: u32,
    filter: Option<Rc<Filter<Envoy>>>,
    waiting: bool,
}

/// The host of one root.
struct Envoy {
    root: u32,
    started: Instant,
    queue: Queue,
}

/// A queue of one root's own.
struct Queue {
    name: String,
    token: u32,
}

// Envoy forgets neither queues nor metrics while the machine lives, and this one may see thousands of
// roots: each update of a listener makes one. They take over what those before them had.
thread_local! {
    /// Names of queues whose roots are gone.
    static SPARE_QUEUES: Cell<Vec<String>> = const { Cell::new(Vec::new()) };
    /// Names and ids of all metrics.
    static METRICS: Cell<Vec<(String, u32)>> = const { Cell::new(Vec::new()) };
}

/// By `proxy_on_delete`. There is no `proxy_on_done`: Envoy would call it for each request as well.
impl Drop for Root {
    fn drop(&mut self) {
        // Envoy 1.40 forgets this context but not its tick, which `stop` turns off.
        if let Some(filter) = &self.filter {
            filter.stop();
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        #[cfg(trap)]
        trap_if(call_status(headers) == Some(599));
        if let Some(filter) = &self.filter {
            filter.replied(token, call_status(headers), &mut call_body(body));
        }
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
                let filter = Filter::new(config, &text, Envoy::new(self.id));
                filter.start();
                self.filter = Some(Rc::new(filter));
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
        if let Some(filter) = &self.filter {
            filter.woken();
        }
    }

    fn on_tick(&mut self) {
        if let Some(filter) = &self.filter {
            filter.tick();
        }
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

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(filter) = &self.filter else {
            return Action::Continue;
        };
        #[cfg(trap)]
        trap_if(header(":path").ends_with(b"?trap"));
        match filter.request(self.id, &header) {
            Reaction::PassOn => return Action::Continue,
            Reaction::Answer(response) => send(&response),
            Reaction::Wait => self.waiting = true,
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
        {
            filter.cancel(self.id);
        }
    }
}

impl Envoy {
    fn new(root: u32) -> Self {
        Self {
            root,
            started: Instant::now(),
            queue: Queue::register(),
        }
    }
}

impl Host for Envoy {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wall_clock(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
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
        hostcalls::dispatch_http_call(cluster, headers, None, vec![], timeout).map_err(|status| {
            match status {
                Status::BadArgument => CallError::NoCluster,
                _ => CallError::NotSent,
            }
        })
    }

    fn wake(&self) {
        let _ = hostcalls::enqueue_shared_queue(self.queue.token, Some(b"ask"));
    }

    fn set_tick(&self, period: Option<Duration>) {
        let _ = hostcalls::set_tick_period(period.unwrap_or(Duration::ZERO));
    }

    fn answer(&self, request: u32, response: &Response) {
        if hostcalls::set_effective_context(request).is_ok() {
            send(response);
            // A call made after this must be the root's: the reply to one of a request that is gone
            // is lost.
            let _ = hostcalls::set_effective_context(self.root);
        }
    }

    fn read_shared(&self, key: &str) -> Option<Shared> {
        let (value, version) = hostcalls::get_shared_data(key).ok()?;
        Some(Shared { value, version })
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

    fn metric(&self, kind: MetricKind, name: &str) -> u32 {
        let mut metrics = METRICS.take();
        let known = metrics.iter().find(|(known, _)| known == name);
        let id = known.map(|(_, id)| *id).unwrap_or_else(|| {
            let kind = match kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            let id = hostcalls::define_metric(kind, &format!("envoy_healthz.{name}")).unwrap_or(0);
            metrics.push((name.to_owned(), id));
            id
        });
        METRICS.set(metrics);
        id
    }

    fn add(&self, counter: u32, count: i64) {
        let _ = hostcalls::increment_metric(counter, count);
    }

    fn record(&self, gauge: u32, value: u64) {
        let _ = hostcalls::record_metric(gauge, value);
    }

    fn log(&self, level: Level, line: &str) {
        log!(level, "{line}");
    }
}

impl Queue {
    /// Of this machine alone, and of the root that registers it.
    fn register() -> Self {
        let mut spare = SPARE_QUEUES.take();
        let name = spare
            .pop()
            .unwrap_or_else(|| format!("envoy-healthz/{:x}", RandomState::new().hash_one(0)));
        SPARE_QUEUES.set(spare);
        Self {
            token: hostcalls::register_shared_queue(&name).unwrap_or(0),
            name,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut spare = SPARE_QUEUES.take();
        spare.push(std::mem::take(&mut self.name));
        SPARE_QUEUES.set(spare);
    }
}

/// Answers the request at hand.
fn send(response: &Response) {
    let _ = match response {
        Response::Http {
            status,
            headers,
            body,
        } => hostcalls::send_http_response(*status, headers.to_vec(), Some(body.as_bytes())),
        Response::Grpc(Health::Healthy) => {
            hostcalls::send_grpc_response(GrpcStatusCode::Ok, None, vec![])
        }
        Response::Grpc(Health::Unhealthy) => {
            let message = Some("unavailable");
            hostcalls::send_grpc_response(GrpcStatusCode::Unavailable, message, vec![])
        }
    };
}

/// A request header's value; empty when there is none.
fn header(name: &'static str) -> Bytes {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// The status of the reply at hand; `None` when it was lost, for then Envoy gives no header.
fn call_status(headers: usize) -> Option<u32> {
    if headers == 0 {
        return None;
    }
    let value = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
    std::str::from_utf8(&value.ok()??).ok()?.parse().ok()
}

/// The body of the reply at hand, `size` bytes of it, in chunks.
fn call_body(size: usize) -> impl Iterator<Item = Bytes> {
    (0..size).step_by(CHUNK).map_while(move |start| {
        hostcalls::get_buffer(
            BufferType::HttpCallResponseBody,
            start,
            CHUNK.min(size - start),
        )
        .ok()
        .flatten()
    })
}

/// Traps, in the build of `make trap` alone: for the tests of what a trap does.
#[cfg(trap)]
fn trap_if(wanted: bool) {
    if wanted {
        core::arch::wasm32::unreachable()
    }
}
