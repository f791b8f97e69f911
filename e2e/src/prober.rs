//! HTTP probers.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Version};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use crate::{DEADLINE, eventually, until};

/// How long a prober waits for an answer, where a test does not say otherwise: an Envoy that stands still with
/// its machine for a while goes on and answers.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A prober: every request that it makes goes to one origin in one protocol.
#[derive(Clone)]
pub struct Prober {
    client: Client,
    origin: String,
    /// Where it leads to.
    pub port: u16,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The protocol it came in.
    pub version: Version,
    /// The status.
    pub status: u16,
    /// Names and values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Prober {
    /// HTTP/1.1 in the clear.
    pub fn http(port: u16) -> Self {
        Self::new("http://127.0.0.1", port, Client::builder().http1_only())
    }

    /// HTTP/2 in the clear.
    pub fn http2(port: u16) -> Self {
        let client = Client::builder().http2_prior_knowledge();
        Self::new("http://127.0.0.1", port, client)
    }

    /// HTTP/1.1 over TLS, the certificate not validated, as Google's probers do.
    pub fn https1(port: u16) -> Self {
        Self::new("https://localhost", port, Client::builder().http1_only())
    }

    /// HTTP/2 over TLS by ALPN, the certificate not validated, as Google's probers do.
    pub fn https2(port: u16) -> Self {
        let client = Client::builder().http2_prior_knowledge();
        Self::new("https://localhost", port, client)
    }

    fn new(host: &str, port: u16, client: reqwest::ClientBuilder) -> Self {
        let client = client
            .danger_accept_invalid_certs(true)
            .no_proxy()
            .resolve("localhost", std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        let origin = format!("{host}:{port}");
        Self {
            client,
            origin,
            port,
        }
    }

    /// A request for this path, to be changed and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.origin))
    }

    /// GETs this path.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("an answer")
    }

    /// Sends a request with these headers.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.request(method, path);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        Answer::to(request).await.expect("an answer")
    }

    /// GETs this path; an error when no answer comes.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// Polls until this path has this status, and this body if it is not empty: on one connection, so that
    /// it stays with the listener that took it.
    pub async fn wait_for_answer(&self, path: &str, status: u16, body: &str) -> Answer {
        let mut last = None;
        let what = format!("{}{path} answers {status} {body:?}", self.origin);
        eventually(&what, async || {
            let answer = self.try_get(path).await.ok()?;
            let seen = (answer.status, answer.body.clone());
            let good = answer.status == status && (body.is_empty() || answer.body == body);
            if !good && last.as_ref() != Some(&seen) {
                eprintln!("{path}: {seen:?}");
                last = Some(seen);
            }
            good.then_some(answer)
        })
        .await
    }

    /// The same, but that each probe must be answered.
    pub async fn wait_through_answers(&self, path: &str, status: u16) -> Answer {
        eventually(&format!("{path} answers {status}"), async || {
            Some(self.get(path).await).filter(|answer| answer.status == status)
        })
        .await
    }

    /// Polls `/healthz` until it has this status.
    pub async fn wait_for(&self, status: u16) -> Answer {
        self.wait_for_answer("/healthz", status, "").await
    }
}

impl Answer {
    /// Sends a request and reads its answer.
    pub async fn to(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let headers = response.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Ok(Self {
            version: response.version(),
            status: response.status().as_u16(),
            headers: headers.collect(),
            body: response.text().await?,
        })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Probes `/healthz` in the clear on connections of their own, all at once; gives the statuses.
pub async fn probe_at_once(port: u16, count: usize) -> Vec<u16> {
    let probes: Vec<_> = (0..count)
        .map(|_| tokio::spawn(async move { Prober::http(port).get("/healthz").await.status }))
        .collect();
    let mut answers = Vec::new();
    for probe in probes {
        answers.push(probe.await.expect("an answer"));
    }
    answers
}

/// Polls `/healthz` in the clear until all workers give this status: one that was told of a change first
/// answers for itself alone.
pub async fn wait_on_all_workers(port: u16, status: u16) {
    let what = format!("/healthz on port {port} is {status} on all workers");
    until(&what, async || {
        probe_at_once(port, 20).await == [status; 20]
    })
    .await;
}

/// A connection to a port of 127.0.0.1, for requests byte by byte and for a prober that stays on the
/// listener that took it.
pub struct Connection(BufStream<TcpStream>);

impl Connection {
    /// Opens it.
    pub async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        Self(BufStream::new(stream.expect("somebody listens")))
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("an open connection");
        self.0.flush().await.expect("an open connection");
    }

    /// Reads one answer of HTTP/1: its head, and as much of a body as that promises; without a promise,
    /// all that comes until the connection ends.
    pub async fn receive(&mut self) -> String {
        let mut answer = Vec::new();
        let read = self.read_answer(&mut answer);
        let _ = tokio::time::timeout(4 * DEADLINE, read)
            .await
            .expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn read_answer(&mut self, answer: &mut Vec<u8>) -> std::io::Result<()> {
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8_lossy(answer).to_ascii_lowercase();
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        match headers.find(|(name, _)| *name == "content-length") {
            Some((_, length)) => {
                let length = length.parse().expect("a number");
                (&mut self.0).take(length).read_to_end(answer).await?
            }
            None => self.0.read_to_end(answer).await?,
        };
        Ok(())
    }

    /// GETs this path; the status and the body.
    pub async fn get(&mut self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        self.send(request.as_bytes()).await;
        let answer = self.receive().await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }
}

/// Sends these bytes on a connection of their own, and gives the answer as it comes.
pub async fn exchange(port: u16, request: &[u8]) -> String {
    let mut connection = Connection::open(port).await;
    connection.send(request).await;
    connection.receive().await
}

/// The same, and all else that comes until Envoy ends the connection in order.
pub async fn exchange_to_end(port: u16, request: &[u8]) -> String {
    let mut connection = Connection::open(port).await;
    connection.send(request).await;
    let mut answer = Vec::new();
    let read = connection.0.read_to_end(&mut answer);
    let read = tokio::time::timeout(DEADLINE, read).await;
    read.expect("an end").expect("an end in order");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What openssl says of a handshake that offers `h2`.
pub fn alpn(port: u16) -> String {
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-alpn", "h2", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
