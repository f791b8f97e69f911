//! Clients of `grpc.health.v1.Health` that are not ours: tonic-health's, Python's grpcio, and bare
//! HTTP/2 streams for what no client sends.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request};
use prost::Message as _;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{DEADLINE, eventually, root};

/// The path of `Check`.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path of `List`.
pub const LIST: &str = "/grpc.health.v1.Health/List";
/// The path of `Watch`.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A status.
    Status(ServingStatus),
    /// The call ended with this code instead.
    Ended(Code),
}

/// SERVING
pub const SERVING: Told = Told::Status(ServingStatus::Serving);
/// NOT_SERVING
pub const NOT_SERVING: Told = Told::Status(ServingStatus::NotServing);
/// SERVICE_UNKNOWN, which only `Watch` tells.
pub const SERVICE_UNKNOWN: Told = Told::Status(ServingStatus::ServiceUnknown);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Status(status) => f.write_str(status.as_str_name()),
            Self::Ended(code) => write!(f, "{code:?}"),
        }
    }
}

impl Told {
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
pub async fn check(channel: &Channel, service: &str) -> Told {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let call = HealthClient::new(channel.clone()).check(request).await;
    Told::of(call.map(tonic::Response::into_inner))
}

/// The same by Python's.
pub async fn check_by_python(port: u16, ca: Option<&Path>, service: &str) -> Told {
    let lines = run_python(port, ca, "check", service).await;
    Told::of_line(&lines)
}

/// `List` by Python's client, for tonic-health's has none yet: each service and its status.
pub async fn list_by_python(port: u16, ca: Option<&Path>) -> Result<BTreeMap<String, Told>, Code> {
    let text = run_python(port, ca, "list", "").await;
    text.lines()
        .map(|line| match line.rsplit_once('=') {
            Some((service, status)) => Ok((service.to_owned(), Told::of_line(status))),
            None => match Told::of_line(line) {
                Told::Ended(code) => Err(code),
                Told::Status(_) => panic!("health_client.py says {line:?}"),
            },
        })
        .collect()
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

/// What the script prints, less the last end of line.
async fn run_python(port: u16, ca: Option<&Path>, method: &str, service: &str) -> String {
    let output = python(port, ca, method, service).output().await;
    let text = String::from_utf8(output.expect("python3 runs").stdout).expect("text");
    text.trim_end().to_owned()
}

fn python_packages() -> PathBuf {
    let packages = root().join(".tools/grpc-python");
    assert!(
        packages.exists(),
        "{packages:?} is missing: run make grpc-python"
    );
    packages
}

fn python(port: u16, ca: Option<&Path>, method: &str, service: &str) -> Command {
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

type History = Arc<Mutex<Vec<Told>>>;

/// An open `Watch`, and all that it has been told. The client goes when this is dropped.
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
        let client = tokio::spawn(watch_by_python(command, Arc::clone(&history)));
        Self { history, client }
    }

    /// All that it has been told, in order.
    pub fn told(&self) -> Vec<Told> {
        self.history.lock().expect("no panic").clone()
    }

    /// What it was told last.
    pub fn last(&self) -> Option<Told> {
        self.history.lock().expect("no panic").last().copied()
    }

    /// Waits until it was told this last.
    pub async fn wait_for(&self, expected: Told) {
        let what = format!("a Watch is told {expected:?}");
        eventually(&what, async || {
            (self.last() == Some(expected)).then_some(())
        })
        .await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.abort();
    }
}

async fn watch(mut client: HealthClient<Channel>, request: HealthCheckRequest, history: History) {
    let tell = |told| history.lock().expect("no panic").push(told);
    let mut answers = match client.watch(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return tell(Told::Ended(status.code())),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => tell(Told::Status(answer.status())),
            Ok(None) => return tell(Told::Ended(Code::Ok)),
            Err(status) => return tell(Told::Ended(status.code())),
        }
    }
}

async fn watch_by_python(mut command: Command, history: History) {
    let mut child = command.spawn().expect("python3 starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    while let Some(line) = lines.next_line().await.expect("text") {
        let told = Told::of_line(&line);
        history.lock().expect("no panic").push(told);
    }
}

/// A bare HTTP/2 connection in the clear.
pub struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

/// A request as it is sent, frame by frame.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its headers.
    pub head: Request<()>,
    /// Its data frames.
    pub frames: Vec<Vec<u8>>,
    /// How it ends.
    pub end: End,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its headers; no frame follows.
    Headers,
    /// With its last data frame.
    Data,
    /// With trailers.
    Trailers,
    /// It does not: the client waits for the answer first.
    Open,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// HTTP's status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The data of all frames.
    pub body: Vec<u8>,
    /// The trailers, if there were some.
    pub trailers: Option<HeaderMap>,
}

impl Sent {
    /// A gRPC call with this message.
    pub fn call(path: &str, message: &[u8]) -> Self {
        Self::frames(path, vec![frame(message)])
    }

    /// A gRPC call of these data frames.
    pub fn frames(path: &str, frames: Vec<Vec<u8>>) -> Self {
        let head = Request::post(format!("http://envoy.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        Self {
            head: head.body(()).expect("a valid request"),
            frames,
            end: End::Data,
        }
    }

    /// The same with another end.
    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// The same with this header, or without it.
    pub fn with_header(mut self, name: &'static str, value: Option<&'static str>) -> Self {
        let headers = self.head.headers_mut();
        headers.remove(name);
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_static(value));
        }
        self
    }
}

/// A message with its prefix: not compressed, and its length.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// `HealthCheckRequest` for this service, encoded.
pub fn request_for(service: &str) -> Vec<u8> {
    let service = service.to_owned();
    HealthCheckRequest { service }.encode_to_vec()
}

impl Connection {
    /// Connects to this port of 127.0.0.1.
    pub async fn open(port: u16) -> Self {
        Self::open_with(port, &h2::client::Builder::new()).await
    }

    /// The same with settings of its own.
    pub async fn open_with(port: u16, settings: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let handshake = settings.handshake(stream.expect("a connection"));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        let driver = tokio::spawn(async move {
            // What ends it shows in the streams.
            let _ = connection.await;
        });
        Self { sender, driver }
    }

    /// Sends a request and reads all of the reply.
    pub async fn ask(&self, sent: &Sent) -> Result<Reply, h2::Error> {
        let (head, mut body, _request) = self.begin(sent).await?;
        let mut reply = Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: Vec::new(),
            trailers: None,
        };
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            reply.body.extend_from_slice(&data);
        }
        reply.trailers = body.trailers().await?;
        Ok(reply)
    }

    /// Sends a request and reads the reply's headers. The request is cancelled when the last of what
    /// this gives is dropped, if it has not ended.
    pub async fn begin(
        &self,
        sent: &Sent,
    ) -> Result<(Parts, RecvStream, SendStream<Bytes>), h2::Error> {
        let sender = self.sender.clone().ready().await;
        let only_headers = sent.end == End::Headers;
        let (reply, mut stream) = sender?.send_request(sent.head.clone(), only_headers)?;
        for (nth, data) in sent.frames.iter().enumerate() {
            let last = sent.end == End::Data && nth + 1 == sent.frames.len();
            // The reply may have come before the end: then nobody takes the rest.
            if only_headers || stream.send_data(data.clone().into(), last).is_err() {
                break;
            }
        }
        if sent.end == End::Trailers {
            let _ = stream.send_trailers(HeaderMap::new());
        }
        let (head, body) = reply.await?.into_parts();
        Ok((head, body, stream))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Reply {
    /// The gRPC status, in trailers or, where there is no message, in headers.
    pub fn code(&self) -> Option<Code> {
        let value = self.of_grpc("grpc-status")?;
        Some(Code::from_bytes(value.as_bytes()))
    }

    /// What is said beside it.
    pub fn message(&self) -> Option<&str> {
        self.of_grpc("grpc-message")?.to_str().ok()
    }

    fn of_grpc(&self, name: &str) -> Option<&HeaderValue> {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        headers.get(name)
    }
}
