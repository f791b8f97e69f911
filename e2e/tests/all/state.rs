//! Log and gauge say what askers were last told, by whichever listener, worker or generation of the
//! configuration.

mod admin;
mod causes;
mod module;
mod one_name;
mod updates;

use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, manager, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::xds::Lds;
use e2e::{Build, TcpHost, eventually, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// For so long answers, log and gauge must say the same: what is recorded may change once a second.
const STEADY: Duration = Duration::from_secs(3);

/// An Envoy that takes its listeners from a file, and the host of its cluster `c`, whose health is
/// checked. Replaced listeners drain for ten minutes if the arguments do not say otherwise.
struct Sidecar {
    build: Build,
    envoy: Envoy,
    lds: Lds,
    version: u64,
    host: Option<TcpHost>,
    host_port: u16,
}

impl Sidecar {
    async fn start(build: Build, listeners: Vec<Value>) -> Self {
        Self::start_with(build, listeners, &[], |_| ()).await
    }

    /// The same with more arguments for Envoy, and a change of its configuration.
    async fn start_with(
        build: Build,
        listeners: Vec<Value>,
        arguments: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let (host, host_port) = TcpHost::on_free_port().await;
        let admin = free_port();
        let c = patient(with_tcp_check(cluster("c", &[host_port])));
        let mut config = bootstrap(admin, vec![], vec![c]);
        change(&mut config);
        let lds = Lds::add_to(&mut config, listeners);
        Self {
            build,
            envoy: Envoy::start(&config.to_string(), arguments).await,
            lds,
            version: 0,
            host: Some(host),
            host_port,
        }
    }

    fn update(&mut self, listeners: Vec<Value>) {
        self.version += 1;
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
        let ask = async || Prober::http(port).get("/healthz").await.status;
        agree(self.build, &self.envoy, status, ask).await;
    }
}

/// Asks for `/healthz` until each answer has had this status for [`STEADY`], and log and gauge have said
/// the same all the while.
async fn agree(build: Build, envoy: &Envoy, status: u16, mut ask: impl AsyncFnMut() -> u16) {
    let healthy = status == 200;
    let wanted = (status, Some(u64::from(healthy)), Some(healthy));
    let (mut last, mut since) = (None, Instant::now());
    let what = format!("status, gauge and the log's last line are {wanted:?} for {STEADY:?}");
    eventually(&what, async || {
        let answered = ask().await;
        let gauge = healthy_gauge(build, envoy).await;
        let seen = (answered, gauge, last_line(envoy));
        if last.replace(seen) != last {
            println!("status, gauge and the log's last line: {seen:?}");
            since = Instant::now();
        }
        (seen == wanted && since.elapsed() >= STEADY).then_some(())
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

/// A slow machine must not make a host of this cluster unhealthy.
fn patient(mut cluster: Value) -> Value {
    cluster["health_checks"][0]["timeout"] = json!("20s");
    cluster
}

/// `/healthz` for this cluster.
fn healthz_for(cluster: &str) -> Value {
    json!({"endpoints": [{"path": "/healthz", "clusters": [cluster]}]})
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

/// Waits until the listener with this text answers new connections; the filter is not asked.
async fn in_force(port: u16, text: &str) {
    eventually(&format!("the listener of {text} is in force"), async || {
        let answer = Prober::http(port).try_get("/").await.ok()?;
        (answer.body == text).then_some(())
    })
    .await;
}

/// A prober that stays on its connection, and so on the listener that took it.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        Self(BufReader::new(stream.expect("Envoy listens")))
    }

    /// GETs this path; the status and the body.
    async fn get(&mut self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("open");
        let mut head = Vec::new();
        while head.last().is_none_or(|line: &String| !line.is_empty()) {
            let mut line = String::new();
            let length = self.0.read_line(&mut line).await.expect("text");
            assert!(length > 0, "the connection was closed: {head:?}");
            head.push(line.trim_end().to_owned());
        }
        let status = head[0].split(' ').nth(1).expect("a status");
        let mut headers = head.iter().filter_map(|line| line.split_once(": "));
        let length = headers.find(|(name, _)| *name == "content-length");
        let (_, length) = length.expect("content-length");
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body).await.expect("a body");
        let body = String::from_utf8(body).expect("text");
        (status.parse().expect("a number"), body)
    }
}
