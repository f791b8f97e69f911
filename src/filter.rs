//! The one file that knows proxy-wasm: Envoy's callbacks in, the core asked, host calls out.
//!
//! A worker has one virtual machine. In it the [`Root`] asks the admin and answers whoever waits;
//! a [`Stream`] is one HTTP request. A probe that finds no fresh snapshot wakes the root through a
//! queue of this machine's own, so that the admin call belongs to the root and not to a request
//! whose client may go away: the SDK drops the reply to a request that is gone.
//!
//! What all workers must agree on, such as who renews the snapshot in the background and whether a
//! turn of an endpoint has been logged, lies in shared data (see [`crate::shared`]).
//!
//! Two rules keep every probe answered. Nothing here panics, so the SDK's `String` getters, which
//! do on a byte that is not UTF-8, are not used. And while a probe waits the root's tick is on,
//! which answers it should a reply or a wake-up never come.

use std::cell::{Cell, RefCell, RefMut};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{error, info, warn};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{
    Action, BufferType, Bytes, ContextType, GrpcStatusCode, LogLevel, MapType, MetricType, Status,
};

use crate::admin::{self, Fault, Page, Ready, Report};
use crate::clusters::Cluster;
use crate::config::{Config, Endpoint};
use crate::health::{Health, judge};
use crate::response::{Request, Response, Wish};
use crate::shared::{self, Lease, Turn};
use crate::snapshot::{Ended, Probe, Snapshot, Snapshots, Timing};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { plugin: None }));
}}

/// How soon the root looks after probes that wait, and counts those that were answered.
const WATCH_PERIOD: Duration = Duration::from_millis(50);

/// How much of a reply is copied into the machine at a time, in bytes.
const CHUNK: usize = 64 * 1024;

/// How many flags that nobody knows are logged, once each.
const STRANGERS_LOGGED: usize = 16;

/// How often a worker that finds nothing new looks whether another one has.
const COMPARE_PERIOD: Duration = Duration::from_secs(1);

/// How often a record is tried to be written against other workers that write it too.
const TRIES: usize = 8;

struct Root {
    plugin: Option<Rc<Plugin>>,
}

/// One HTTP request.
struct Stream {
    id: u32,
    plugin: Option<Rc<Plugin>>,
    waiting: bool,
}

/// A checked configuration and what this worker knows under it.
struct Plugin {
    config: Config,
    /// The clusters to ask for: sorted, each once.
    names: Vec<String>,
    clusters_path: String,
    /// Wakes the root.
    queue: Queue,
    /// What the keys of this configuration's shared data begin with.
    key: String,
    stats: Stats,
    admin: Topic,
    /// In the configuration's order.
    endpoints: Vec<Topic>,
    started: Instant,
    /// When the root's tick comes next, if it is on.
    next_tick: Cell<Duration>,
    state: RefCell<State>,
}

struct State {
    snapshots: Snapshots<Report, Fault, Asked>,
    refresh: Option<Refresh>,
    strangers: Vec<String>,
    /// When the snapshot in shared data was last looked at.
    looked: Duration,
    /// When the one that was found then was asked for, by the wall clock.
    found: u64,
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

/// Our metrics; Envoy shows them as `wasmcustom.envoy_healthz.…`.
struct Stats {
    answered_200: Counter,
    answered_503: Counter,
    answered_405: Counter,
    refreshed: Counter,
    refresh_failed: Counter,
    turned: Counter,
    /// A gauge: the memory of the machine that counted last, in bytes.
    memory: u32,
}

/// A counter's id, and what is still to be added to it: a host call for each probe would show in how
/// many probes can be answered.
struct Counter(u32, Cell<i64>);

/// Something whose turns are logged once for all workers: an endpoint's health, or the admin's.
struct Topic {
    /// Of its record in shared data.
    key: String,
    /// A gauge: 1 healthy, 0 not.
    gauge: u32,
    /// What this worker found last, and when it compared that with the record.
    seen: Cell<Option<(Health, Duration)>>,
}

/// What a probe asked: the endpoint's place in the configuration, and the form of the answer.
type Asked = (usize, Wish);

/// The calls of one refresh.
struct Refresh {
    /// When it was sent, by the wall clock.
    asked: u64,
    clusters: Reply<Vec<Cluster>>,
    ready: Reply<Ready>,
}

enum Reply<T> {
    /// Not there yet; the call's token.
    Due(u32),
    Came(T),
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        if let Some(plugin) = &self.plugin {
            plugin.stats.add_up();
        }
        // When a listener is replaced, Envoy 1.40 forgets this context but not its tick.
        let _ = hostcalls::set_tick_period(Duration::ZERO);
        true
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        if let Some(plugin) = &self.plugin {
            plugin.replied(token, headers, body);
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
                let plugin = Plugin::new(config, &text);
                if plugin.config.refresh_interval.is_some() {
                    plugin.set_tick(Duration::from_millis(1), plugin.now());
                }
                self.plugin = Some(Rc::new(plugin));
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
        if let Some(plugin) = &self.plugin {
            plugin.ask();
        }
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.tick();
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream {
            id,
            plugin: self.plugin.clone(),
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
        let Some(plugin) = &self.plugin else {
            return Action::Continue;
        };
        let target = header(":path");
        let (path, query) = split_query(&target);
        let Some((index, endpoint)) = plugin.endpoint(path) else {
            return Action::Continue;
        };
        #[cfg(trap)]
        trap_if(query == b"trap");
        let wish = wish(endpoint, query);
        match plugin.probe(self.id, (index, wish)) {
            Some(response) => plugin.send(&response),
            None => self.waiting = true,
        }
        // From here on Envoy 1.36 to 1.40 keep the body to themselves, and stop reading it at their
        // buffer's limit.
        Action::Pause
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.waiting
            && let Some(plugin) = &self.plugin
            && let Some(mut state) = plugin.state()
        {
            state.snapshots.left(self.id);
        }
    }
}

impl Plugin {
    fn new(config: Config, text: &[u8]) -> Self {
        let names = config.cluster_names();
        let mut hash = DefaultHasher::new();
        text.hash(&mut hash);
        let key = format!("envoy-healthz/{:x}", hash.finish());
        Self {
            clusters_path: admin::clusters_path(&names),
            names,
            admin: Topic::new(&key, "admin"),
            endpoints: config
                .endpoints
                .iter()
                .map(|endpoint| Topic::new(&key, &endpoint.path))
                .collect(),
            key,
            stats: Stats::new(),
            queue: Queue::register(),
            started: Instant::now(),
            next_tick: Cell::new(Duration::MAX),
            state: RefCell::new(State {
                snapshots: Snapshots::new(Timing {
                    max_age: config.max_age,
                    timeout: config.admin_timeout,
                }),
                refresh: None,
                strangers: Vec::new(),
                looked: Duration::ZERO,
                found: 0,
            }),
            config,
        }
    }

    fn endpoint(&self, path: &[u8]) -> Option<(usize, &Endpoint)> {
        let mut endpoints = self.config.endpoints.iter().enumerate();
        endpoints.find(|(_, endpoint)| endpoint.path.as_bytes() == path)
    }

    /// Answers a probe, or has it wait.
    fn probe(&self, id: u32, asked: Asked) -> Option<Response> {
        let now = self.now();
        self.watch(now);
        if asked.1 == Wish::OtherMethod {
            return Some(Response::method_not_allowed());
        }
        let Some(mut state) = self.state() else {
            return Some(Response::plain(Health::Unhealthy));
        };
        self.adopt(&mut state, now);
        match state.snapshots.probe(id, asked, now) {
            Probe::Answer(asked, snapshot) => Some(self.answer(asked, &snapshot, now)),
            Probe::Wait => None,
            Probe::Ask => {
                let _ = hostcalls::enqueue_shared_queue(self.queue.token, Some(b"ask"));
                None
            }
        }
    }

    fn answer(
        &self,
        (index, wish): Asked,
        snapshot: &Snapshot<Report, Fault>,
        now: Duration,
    ) -> Response {
        let Some(endpoint) = self.config.endpoints.get(index) else {
            return Response::plain(Health::Unhealthy);
        };
        let verdict = judge(endpoint, &snapshot.outcome);
        match wish {
            Wish::OtherMethod => Response::method_not_allowed(),
            Wish::Grpc => Response::Grpc(verdict.health),
            Wish::Http(format) => {
                Response::http(format, &verdict, now.saturating_sub(snapshot.asked))
            }
        }
    }

    /// Sends the calls of a refresh, unless one is under way.
    fn ask(&self) {
        let Some(mut state) = self.state() else {
            return;
        };
        if !state.snapshots.send(self.now()) {
            return;
        }
        let clusters = self.call(&self.clusters_path);
        let ready = if self.config.fail_when_draining {
            self.call("/ready").map(Reply::Due)
        } else {
            Ok(Reply::Came(Ready::NotAsked))
        };
        let sent = clusters.and_then(|token| {
            Ok(Refresh {
                asked: wall_clock(),
                clusters: Reply::Due(token),
                ready: ready?,
            })
        });
        match sent {
            Ok(refresh) => state.refresh = Some(refresh),
            Err(fault) => self.ended(state, Err(fault)),
        }
    }

    fn call(&self, path: &str) -> Result<u32, Fault> {
        let cluster = &self.config.admin_cluster;
        let headers = vec![
            (":method", "GET"),
            (":path", path),
            (":authority", "envoy-healthz"),
        ];
        hostcalls::dispatch_http_call(cluster, headers, None, vec![], self.config.admin_timeout)
            .map_err(|status| match status {
                Status::BadArgument => Fault::NoCluster(cluster.clone()),
                _ => Fault::NotSent(cluster.clone()),
            })
    }

    /// Takes in the reply to one of the calls.
    fn replied(&self, token: u32, headers: usize, body: usize) {
        let Some(mut state) = self.state() else {
            return;
        };
        let Some(refresh) = &mut state.refresh else {
            return;
        };
        #[cfg(trap)]
        trap_if(call_status(headers) == Some(599));
        let fault = if matches!(refresh.clusters, Reply::Due(due) if due == token) {
            admin::read_clusters(&self.names, call_status(headers), call_body(body))
                .map(|clusters| refresh.clusters = Reply::Came(clusters))
        } else if matches!(refresh.ready, Reply::Due(due) if due == token) {
            let beginning = call_body(body.min(CHUNK)).next().unwrap_or_default();
            admin::read_ready(call_status(headers), &beginning)
                .map(|ready| refresh.ready = Reply::Came(ready))
        } else {
            return;
        };
        let outcome = match (fault, &mut refresh.clusters, &mut refresh.ready) {
            (Err(fault), _, _) => Err(fault),
            (Ok(()), Reply::Came(clusters), Reply::Came(ready)) => Ok(Report {
                clusters: std::mem::take(clusters),
                ready: std::mem::take(ready),
            }),
            _ => return,
        };
        self.ended(state, outcome);
    }

    /// Keeps what a refresh learned, tells the other workers, and answers all who waited for it.
    fn ended(&self, mut state: RefMut<'_, State>, outcome: Result<Report, Fault>) {
        let asked = state
            .refresh
            .take()
            .map_or_else(wall_clock, |refresh| refresh.asked);
        self.admin_turned(&outcome, asked);
        let now = self.now();
        let Some(ended) = state.snapshots.ended(outcome, now) else {
            return;
        };
        let Ended {
            snapshot,
            kept,
            waiting,
        } = ended;
        if let (Ok(report), false) = (snapshot.outcome.as_ref(), kept) {
            log_strangers(&mut state.strangers, report);
            if self.config.refresh_interval.is_some() {
                let text = shared::write_snapshot(report, asked);
                let _ = hostcalls::set_shared_data(
                    &self.key_of("snapshot"),
                    Some(text.as_bytes()),
                    None,
                );
            }
        }
        drop(state);
        if !kept {
            self.endpoints_turned(&snapshot, asked);
        }
        for (id, asked) in waiting {
            self.answer_waiting(id, &self.answer(asked, &snapshot, now));
        }
    }

    /// Counts a refresh, and logs when the admin stops or begins again to be of use.
    fn admin_turned(&self, outcome: &Result<Report, Fault>, asked: u64) {
        let (counter, health) = match outcome {
            Ok(_) => (&self.stats.refreshed, Health::Healthy),
            Err(_) => (&self.stats.refresh_failed, Health::Unhealthy),
        };
        counter.count();
        match (self.turn(&self.admin, health, asked), outcome) {
            (Turn::Turned { .. }, Err(fault)) => {
                warn!("envoy-healthz: admin is of no use: {fault}")
            }
            (Turn::Turned { first: false, .. }, Ok(_)) => info!("envoy-healthz: admin is back"),
            _ => {}
        }
    }

    /// Logs and counts each endpoint whose health has turned.
    fn endpoints_turned(&self, snapshot: &Snapshot<Report, Fault>, asked: u64) {
        for (endpoint, topic) in self.config.endpoints.iter().zip(&self.endpoints) {
            let verdict = judge(endpoint, &snapshot.outcome);
            if let Turn::Turned { .. } = self.turn(topic, verdict.health, asked) {
                self.stats.turned.count();
                let path = &endpoint.path;
                match verdict.health {
                    Health::Healthy => info!("envoy-healthz: {path} is healthy"),
                    Health::Unhealthy => {
                        warn!("envoy-healthz: {path} is unhealthy: {}", verdict.cause());
                    }
                }
            }
        }
    }

    /// Compares a verdict with the last one of any worker; of several that differ at once, one wins.
    /// While nothing turns, the record is looked at only now and then.
    fn turn(&self, topic: &Topic, health: Health, asked: u64) -> Turn {
        let now = self.now();
        if let Some((seen, compared)) = topic.seen.get()
            && seen == health
            && now.saturating_sub(compared) < COMPARE_PERIOD
        {
            return Turn::Same;
        }
        let turn = compare(&topic.key, health, asked);
        if turn != Turn::Outdated {
            topic.seen.set(Some((health, now)));
            let _ = hostcalls::record_metric(topic.gauge, u64::from(health == Health::Healthy));
        }
        turn
    }

    /// With a background refresh: takes the snapshot that some worker has shared, if ours is old.
    ///
    /// Each shared snapshot is looked at once: when the wall clock is set back, it seems young again.
    fn adopt(&self, state: &mut State, now: Duration) {
        let Some(interval) = self.config.refresh_interval else {
            return;
        };
        let looked_lately = now.saturating_sub(state.looked) < interval / 8;
        if looked_lately || !state.snapshots.is_older_than(interval, now) {
            return;
        }
        state.looked = now;
        let Ok((Some(text), _)) = hostcalls::get_shared_data(&self.key_of("snapshot")) else {
            return;
        };
        let Some((asked, report)) = shared::read_snapshot(&text, &self.names) else {
            return;
        };
        if asked != std::mem::replace(&mut state.found, asked)
            && let Some(age) = wall_clock().checked_sub(asked)
            && let Some(asked) = now.checked_sub(Duration::from_millis(age))
        {
            state.snapshots.adopt(asked, Ok(report));
        }
    }

    /// Renews the snapshot if it is due and no other worker does; gives the time until the next.
    fn refresh(&self, interval: Duration) -> Duration {
        let key = self.key_of("lease");
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let Ok((record, cas)) = hostcalls::get_shared_data(&key) else {
            return WATCH_PERIOD;
        };
        let wait = match shared::lease(record.as_deref(), wall_clock(), interval) {
            Lease::Taken(wait) => wait,
            Lease::Free(lease) => {
                if replace(&key, &lease, cas) {
                    self.ask();
                }
                interval
            }
        };
        Duration::from_millis(wait + 1)
    }

    fn key_of(&self, what: &str) -> String {
        format!("{}/{what}", self.key)
    }

    /// Has the tick come soon.
    fn watch(&self, now: Duration) {
        if self.next_tick.get() > now + WATCH_PERIOD {
            self.set_tick(WATCH_PERIOD, now);
        }
    }

    fn set_tick(&self, period: Duration, now: Duration) {
        self.next_tick.set(now + period);
        let _ = hostcalls::set_tick_period(period);
    }

    fn tick(&self) {
        let now = self.now();
        self.stats.add_up();
        let Some(mut state) = self.state() else {
            return;
        };
        self.adopt(&mut state, now);
        let expired = state.snapshots.expired(now);
        let waiting = state.snapshots.is_waiting();
        drop(state);
        if !expired.is_empty() {
            let snapshot = Snapshot::new(now, Err(Fault::TimedOut(Page::Clusters)));
            for (id, asked) in expired {
                self.answer_waiting(id, &self.answer(asked, &snapshot, now));
            }
        }
        if waiting {
            self.ask();
        }
        let due = self
            .config
            .refresh_interval
            .map(|interval| self.refresh(interval));
        match due {
            Some(due) if waiting => self.set_tick(due.min(WATCH_PERIOD), now),
            Some(due) => self.set_tick(due, now),
            None if waiting => self.set_tick(WATCH_PERIOD, now),
            None => {
                self.next_tick.set(Duration::MAX);
                let _ = hostcalls::set_tick_period(Duration::ZERO);
            }
        }
    }

    /// Answers another request of this machine.
    fn answer_waiting(&self, id: u32, response: &Response) {
        if hostcalls::set_effective_context(id).is_ok() {
            self.send(response);
        }
    }

    /// Answers the request at hand.
    fn send(&self, response: &Response) {
        let status = match response {
            Response::Http { status, .. } => *status,
            Response::Grpc(Health::Healthy) => 200,
            Response::Grpc(Health::Unhealthy) => 503,
        };
        let _ = match response {
            Response::Http { headers, body, .. } => {
                hostcalls::send_http_response(status, headers.clone(), Some(body.as_bytes()))
            }
            Response::Grpc(Health::Healthy) => {
                hostcalls::send_grpc_response(GrpcStatusCode::Ok, None, vec![])
            }
            Response::Grpc(Health::Unhealthy) => {
                let message = Some("unavailable");
                hostcalls::send_grpc_response(GrpcStatusCode::Unavailable, message, vec![])
            }
        };
        match status {
            200 => self.stats.answered_200.count(),
            503 => self.stats.answered_503.count(),
            _ => self.stats.answered_405.count(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The state; `None` would mean that a host call came back into this machine, which Envoy's
    /// never do.
    fn state(&self) -> Option<RefMut<'_, State>> {
        self.state.try_borrow_mut().ok()
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

impl Stats {
    fn new() -> Self {
        let counter = |name: &str| Counter(metric(MetricType::Counter, name), Cell::new(0));
        Self {
            answered_200: counter("probes.200"),
            answered_503: counter("probes.503"),
            answered_405: counter("probes.405"),
            refreshed: counter("refreshes.succeeded"),
            refresh_failed: counter("refreshes.failed"),
            turned: counter("transitions"),
            memory: metric(MetricType::Gauge, "vm_memory_bytes"),
        }
    }

    /// Adds to the counters what has come since the last time.
    fn add_up(&self) {
        for Counter(id, pending) in [
            &self.answered_200,
            &self.answered_503,
            &self.answered_405,
            &self.refreshed,
            &self.refresh_failed,
            &self.turned,
        ] {
            let count = pending.take();
            if count > 0 {
                let _ = hostcalls::increment_metric(*id, count);
            }
        }
        let pages = core::arch::wasm32::memory_size::<0>() as u64;
        let _ = hostcalls::record_metric(self.memory, pages * 65536);
    }
}

impl Counter {
    fn count(&self) {
        self.1.set(self.1.get() + 1);
    }
}

impl Topic {
    fn new(key: &str, what: &str) -> Self {
        Self {
            key: format!("{key}/{what}"),
            gauge: metric(MetricType::Gauge, &format!("healthy.{what}")),
            seen: Cell::new(None),
        }
    }
}

fn metric(kind: MetricType, name: &str) -> u32 {
    let mut metrics = METRICS.take();
    let id = match metrics.iter().find(|(known, _)| known == name) {
        Some((_, id)) => *id,
        None => {
            let id = hostcalls::define_metric(kind, &format!("envoy_healthz.{name}")).unwrap_or(0);
            metrics.push((name.to_owned(), id));
            id
        }
    };
    METRICS.set(metrics);
    id
}

fn wish(endpoint: &Endpoint, query: &[u8]) -> Wish {
    let (method, content_type) = (header(":method"), header("content-type"));
    let accept = if endpoint.details {
        header("accept")
    } else {
        Bytes::new()
    };
    let request = Request {
        method: &method,
        query,
        content_type: &content_type,
        accept: &accept,
    };
    Wish::of(&request, endpoint)
}

/// A request header's value; empty when there is none.
fn header(name: &str) -> Bytes {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name)
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = target.splitn(2, |&byte| byte == b'?');
    let path = parts.next().unwrap_or_default();
    (path, parts.next().unwrap_or_default())
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

fn log_strangers(logged: &mut Vec<String>, report: &Report) {
    for host in report.clusters.iter().flat_map(|cluster| &cluster.hosts) {
        if let Some(flag) = host.flags.stranger()
            && logged.len() < STRANGERS_LOGGED
            && !logged.iter().any(|known| known == flag)
        {
            let address = &host.address;
            warn!(
                "envoy-healthz: unknown health flag {flag:?} at {address}: not counted as healthy"
            );
            logged.push(flag.to_owned());
        }
    }
}

/// Traps, in the build of `make trap` alone: for the tests of what a trap does.
#[cfg(trap)]
fn trap_if(wanted: bool) {
    if wanted {
        core::arch::wasm32::unreachable()
    }
}

/// Milliseconds since 1970.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Compares a verdict with its record, and writes the record anew if it is this worker that turns it.
fn compare(key: &str, health: Health, asked: u64) -> Turn {
    for _ in 0..TRIES {
        let Ok((last, cas)) = hostcalls::get_shared_data(key) else {
            return Turn::Same;
        };
        let turn = shared::turn(last.as_deref(), health, asked, wall_clock());
        let Turn::Turned { record, .. } = &turn else {
            return turn;
        };
        if replace(key, record, cas) {
            return turn;
        }
    }
    Turn::Same
}

/// Writes a shared record, unless another worker has written it since it was read.
///
/// One that was not there has no compare-and-swap number. Envoy (proxy-wasm-cpp-host's
/// `SharedData::set`) heeds a number only if the record is there by now; then this one, which it
/// gives last of four billion, differs.
fn replace(key: &str, record: &str, read: Option<u32>) -> bool {
    let cas = read.unwrap_or(u32::MAX);
    hostcalls::set_shared_data(key, Some(record.as_bytes()), Some(cas)).is_ok()
}
