//! Log and gauge say what was last answered, by whichever listener, worker or generation of the
//! configuration.

mod admin;
mod causes;
mod module;
mod one_name;
mod updates;

use std::time::{Duration, Instant};

use e2e::config::{Config, cluster, manager, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{Build, TcpHost, until};
use serde_json::{Value, json};

/// For so long answers, log and gauge must say the same: what is recorded may change once a second.
const STEADY: Duration = Duration::from_secs(3);

/// An Envoy that takes its listeners from a file, and the host of its cluster `c`, whose health is
/// checked. Replaced listeners drain for ten minutes by default.
struct Sidecar {
    build: Build,
    envoy: Envoy,
    lds: Lds,
    host: Option<TcpHost>,
    host_port: u16,
}

impl Sidecar {
    async fn start(build: Build, listeners: Vec<Value>) -> Self {
        Self::start_with(build, listeners, Config::new(), &[]).await
    }

    /// The same with what else is in the configuration, and more arguments for Envoy.
    async fn start_with(
        build: Build,
        listeners: Vec<Value>,
        config: Config,
        arguments: &[&str],
    ) -> Self {
        let (host, host_port) = TcpHost::on_free_port().await;
        let lds = Lds::new(listeners);
        let config = config.lds(&lds).cluster(checked("c", &[host_port]));
        Self {
            build,
            envoy: config.start_with(arguments).await,
            lds,
            host: Some(host),
            host_port,
        }
    }

    fn update(&mut self, listeners: Vec<Value>) {
        self.lds.replace(listeners);
    }

    /// Its host stops.
    fn outage(&mut self) {
        self.host = None;
    }

    async fn recovery(&mut self) {
        self.host = Some(TcpHost::start(self.host_port).await);
    }

    /// Probes on connections of their own, until answers, log and gauge agree on this status.
    async fn agrees(&self, port: u16, status: u16) {
        let probe = async || Prober::http(port).get("/healthz").await.status;
        agree(self.build, &self.envoy, status, probe).await;
    }
}

/// Probes `/healthz` until each answer has had this status for [`STEADY`], and log and gauge have said
/// the same all the while.
async fn agree(build: Build, envoy: &Envoy, status: u16, mut probe: impl AsyncFnMut() -> u16) {
    let healthy = status == 200;
    let wanted = (status, Some(u64::from(healthy)), Some(healthy));
    let (mut last, mut since) = (None, Instant::now());
    let what = format!("status, gauge and the log's last line are {wanted:?} for {STEADY:?}");
    until(&what, async || {
        let answered = probe().await;
        let gauge = healthy_gauge(build, envoy).await;
        let seen = (answered, gauge, last_line(envoy));
        if last.replace(seen) != last {
            println!("status, gauge and the log's last line: {seen:?}");
            since = Instant::now();
        }
        seen == wanted && since.elapsed() >= STEADY
    })
    .await;
}

/// The gauge of `/healthz`, if it is there.
async fn healthy_gauge(build: Build, envoy: &Envoy) -> Option<u64> {
    let name = build.stat("healthy", &[("filter", "default"), ("path", "/healthz")]);
    let stats = envoy.admin.get("/stats").await.body;
    let mut lines = stats.lines().filter_map(|line| line.split_once(": "));
    let (_, value) = lines.find(|(stat, _)| *stat == name)?;
    Some(value.parse().expect("a number"))
}

/// Whether the last line on `/healthz` says that it is healthy.
fn last_line(envoy: &Envoy) -> Option<bool> {
    let lines = envoy.logged(&["envoy-healthz[default]: /healthz ", "healthy"]);
    Some(!lines.last()?.contains("unhealthy"))
}

/// A cluster with health checks.
fn checked(name: &str, ports: &[u16]) -> Value {
    with_tcp_check(cluster(name, ports))
}

/// `/healthz` for this cluster.
fn healthz_for(cluster: &str) -> Value {
    let endpoints = json!([{"path": "/healthz", "clusters": [cluster]}]);
    json!({"admin_timeout_ms": 30000, "endpoints": endpoints})
}

/// A listener with the filter, and behind it this text, by which [`in_force`] knows it.
fn listener(build: Build, port: u16, text: &str, config: &Value) -> Value {
    let mut listener = build.listener(port, config);
    manager(&mut listener)["route_config"]["virtual_hosts"][0]["routes"] = json!([{
        "match": {"prefix": "/"},
        "direct_response": {"status": 418, "body": {"inline_string": text}},
    }]);
    listener
}

/// Waits until the listener with this text answers new connections; the filter is not probed.
async fn in_force(port: u16, text: &str) {
    until(&format!("the listener of {text} is in force"), async || {
        let answer = Prober::http(port).try_get("/").await;
        answer.is_ok_and(|answer| answer.body == text)
    })
    .await;
}
