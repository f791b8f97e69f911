//! Bare HTTP/2 streams, frame by frame.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

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
    frame_with_flag(0, message)
}

/// A message with this flag, 1 for a compressed one, and its length.
pub fn frame_with_flag(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[flag], &length.to_be_bytes()[..], message].concat()
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
    pub async fn call(&self, sent: &Sent) -> Result<Reply, h2::Error> {
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
        let (reply, request) = self.send(sent).await?;
        let (head, body) = reply.await?.into_parts();
        Ok((head, body, request))
    }

    /// Sends a request.
    pub async fn send(
        &self,
        sent: &Sent,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
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
        Ok((reply, stream))
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
