//! Clients of `grpc.health.v1.Health` that are not ours: tonic-health's, Python's grpcio, and bare
//! HTTP/2 streams for what no client sends.

mod http2;

pub use http2::{Connection, End, Reply, Sent, frame, frame_with_flag, request_for};

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{DEADLINE, eventually, root, until};

/// The path of `Check`.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path of `List`.
pub const LIST: &str = "/grpc.health.v1.Health/List";
/// The path of `Watch`.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What a client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A status.
    Status(ServingStatus),
    /// The call ended with this code instead.
    Ended(Code),
}

/// SERVING
pub const SERVING: Seen = Seen::Status(ServingStatus::Serving);
/// NOT_SERVING
pub const NOT_SERVING: Seen = Seen::Status(ServingStatus::NotServing);
/// SERVICE_UNKNOWN, which only `Watch` sends.
pub const SERVICE_UNKNOWN: Seen = Seen::Status(ServingStatus::ServiceUnknown);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Status(status) => f.write_str(status.as_str_name()),
            Self::Ended(code) => write!(f, "{code:?}"),
        }
    }
}

impl Seen {
    fn of(answer: Result<HealthCheckResponse, Status>) -> Self {
        match answer {
            Ok(answer) => Self::Status(answer.status()),
            Err(status) => Self::Ended(status.code()),
        }
    }

    /// A line of Python's, without the service's name.
    fn of_line(line: &str) -> Self {
        if let Some(status) = ServingStatus::from_str_name(line) {
            return Self::Status(status);
        }
        let code = line
            .strip_prefix("error ")
            .and_then(|code| code.parse().ok());
        let code: i32 = code.unwrap_or_else(|| panic!("health_client.py says {line:?}"));
        Self::Ended(code.into())
    }
}

/// A gRPC channel in the clear (h2c) to this port of 127.0.0.1: one connection.
pub fn channel(port: u16) -> Channel {
    endpoint(port).connect_lazy()
}

/// The same, but calls carry this `:authority`.
pub fn channel_to_host(port: u16, host: &str) -> Channel {
    let origin = format!("http://{host}").parse().expect("a valid host");
    endpoint(port).origin(origin).connect_lazy()
}

fn endpoint(port: u16) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
    // Until an answer begins: a Watch may go on.
    endpoint.expect("a valid address").timeout(DEADLINE)
}

/// `Check` by tonic-health's client.
pub async fn check(channel: &Channel, service: &str) -> Seen {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let call = HealthClient::new(channel.clone()).check(request).await;
    Seen::of(call.map(tonic::Response::into_inner))
}

/// Calls by Python's client, one after the other, each on a connection of its own: one process for all, for its
/// start costs more than hundreds of calls. It goes when this is dropped.
pub struct PythonCalls {
    _child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl PythonCalls {
    /// To this port of 127.0.0.1, over TLS with this certificate or in the clear.
    pub fn start(port: u16, ca: Option<&Path>) -> Self {
        let mut command = python(port, ca, "calls", "");
        let child = command.stdin(Stdio::piped()).spawn();
        let mut child = child.expect("python3 starts");
        let input = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self {
            _child: child,
            input,
            lines,
        }
    }

    /// `Check`.
    pub async fn check(&mut self, service: &str) -> Seen {
        let lines = self.call(&format!("check {service}\n")).await;
        Seen::of_line(&lines.concat())
    }

    /// `List`, which tonic-health's client does not have yet: each service and its status.
    pub async fn list(&mut self) -> Result<BTreeMap<String, Seen>, Code> {
        let lines = self.call("list \n").await;
        let entries = lines.iter().map(|line| match line.rsplit_once('=') {
            Some((service, status)) => Ok((service.to_owned(), Seen::of_line(status))),
            None => match Seen::of_line(line) {
                Seen::Ended(code) => Err(code),
                Seen::Status(_) => panic!("health_client.py says {line:?}"),
            },
        });
        entries.collect()
    }

    /// The lines of one call's answer, after which an empty one comes.
    async fn call(&mut self, request: &str) -> Vec<String> {
        let sent = self.input.write_all(request.as_bytes()).await;
        sent.expect("health_client.py reads");
        let mut answer = Vec::new();
        loop {
            let line = self.lines.next_line().await.expect("text");
            let line = line.expect("health_client.py goes on");
            if line.is_empty() {
                return answer;
            }
            answer.push(line);
        }
    }
}

/// The protocol's own description, as a `FileDescriptorSet` in base64.
pub fn descriptor_set() -> String {
    let script = "import base64
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
files = descriptor_pb2.FileDescriptorSet()
health_pb2.DESCRIPTOR.CopyToProto(files.file.add())
print(base64.b64encode(files.SerializeToString()).decode(), end='')";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .env("PYTHONPATH", python_packages())
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("base64")
}

fn python_packages() -> PathBuf {
    let packages = root().join(".tools/grpc-python");
    assert!(
        packages.exists(),
        "{packages:?} is missing: run make grpc-python"
    );
    packages
}

fn python(port: impl ToString, ca: Option<&Path>, method: &str, service: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(root().join("e2e/health_client.py"))
        .arg(port.to_string())
        .arg(ca.unwrap_or(Path::new("")))
        .args([method, service])
        .env("PYTHONPATH", python_packages())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

type History = Arc<Mutex<Vec<Seen>>>;

/// An open `Watch`, and all that it has seen. The client goes when this is dropped.
pub struct Watch {
    history: History,
    client: JoinHandle<()>,
}

impl Watch {
    /// By tonic-health's client.
    pub fn start(channel: &Channel, service: &str) -> Self {
        let history = History::default();
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let client = HealthClient::new(channel.clone());
        let client = tokio::spawn(watch(client, request, Arc::clone(&history)));
        Self { history, client }
    }

    /// By Python's.
    pub fn start_python(port: u16, ca: Option<&Path>, service: &str) -> Self {
        let history = History::default();
        let command = python(port, ca, "watch", service);
        let client = tokio::spawn(keep_lines(command, Arc::clone(&history), Seen::of_line));
        Self { history, client }
    }

    /// All that it has seen, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.history.lock().expect("no panic").clone()
    }

    /// What it has seen last.
    pub fn last(&self) -> Option<Seen> {
        self.history.lock().expect("no panic").last().copied()
    }

    /// Waits until it has seen this last.
    pub async fn wait_for(&self, expected: Seen) {
        let what = format!("a Watch sees {expected:?}");
        until(&what, async || self.last() == Some(expected)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.abort();
    }
}

async fn watch(mut client: HealthClient<Channel>, request: HealthCheckRequest, history: History) {
    let add = |seen| history.lock().expect("no panic").push(seen);
    let mut answers = match client.watch(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return add(Seen::Ended(status.code())),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => add(Seen::Status(answer.status())),
            Ok(None) => return add(Seen::Ended(Code::Ok)),
            Err(status) => return add(Seen::Ended(status.code())),
        }
    }
}

/// Runs a command and keeps what its lines mean.
async fn keep_lines<T>(mut command: Command, kept: Arc<Mutex<Vec<T>>>, read: fn(&str) -> T) {
    let mut child = command.spawn().expect("python3 starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    while let Some(line) = lines.next_line().await.expect("text") {
        kept.lock().expect("no panic").push(read(&line));
    }
}

/// A channel of grpcio's which compresses by gzip, and which by its service configuration (`round_robin` and
/// `healthCheckConfig`) watches a service: without it, it is not READY. The client goes when this is dropped.
pub struct PythonChannel {
    states: Arc<Mutex<Vec<String>>>,
    client: JoinHandle<()>,
}

impl PythonChannel {
    /// Connects in the clear to this port of 127.0.0.1.
    pub fn connect(port: u16, service: &str) -> Self {
        let states = Arc::default();
        let command = python(port, None, "connect", service);
        let client = tokio::spawn(keep_lines(command, Arc::clone(&states), str::to_owned));
        Self { states, client }
    }

    /// Waits until it is in one of these states, as `READY`, and says in which.
    pub async fn wait_for(&self, expected: &[&str]) -> String {
        eventually(&format!("the channel is {expected:?}"), async || {
            let states = self.states.lock().expect("no panic");
            states
                .last()
                .filter(|state| expected.contains(&state.as_str()))
                .cloned()
        })
        .await
    }
}

impl Drop for PythonChannel {
    fn drop(&mut self) {
        self.client.abort();
    }
}

/// A caller of grpcio's, which calls `yages.Echo/Ping` twenty times a second over a channel with `round_robin`
/// and `healthCheckConfig`. It goes when this is dropped.
pub struct PythonCaller {
    codes: Arc<Mutex<Vec<Code>>>,
    client: JoinHandle<()>,
}

impl PythonCaller {
    /// Calls in the clear by these ports of 127.0.0.1.
    pub fn start(ports: &[u16], service: &str) -> Self {
        let codes = Arc::default();
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let command = python(ports.join(","), None, "ping", service);
        let code = |line: &str| Code::from_i32(line.parse().expect("a number"));
        let client = tokio::spawn(keep_lines(command, Arc::clone(&codes), code));
        Self { codes, client }
    }

    /// The code of each call, in order.
    pub fn codes(&self) -> Vec<Code> {
        self.codes.lock().expect("no panic").clone()
    }
}

impl Drop for PythonCaller {
    fn drop(&mut self) {
        self.client.abort();
    }
}
