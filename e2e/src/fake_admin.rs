//! HTTP servers that misbehave: in the place of Envoy's admin, or of a host.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::Config;
use crate::envoy::Envoy;
use crate::{Build, free_port, listen};

/// What a [`FakeAdmin`] does with each request.
#[derive(Debug, Clone)]
pub enum Does {
    /// Answers with this status and body.
    Answer(u16, Vec<u8>),
    /// Answers 200 with this body, this late.
    Delay(Duration, Vec<u8>),
    /// Answers 200 with this body, once it is told to.
    WhenTold(watch::Receiver<bool>, Vec<u8>),
    /// Reads the request and says nothing.
    Hang,
    /// Sends headers and this much of the body, then nothing.
    HangInBody(Vec<u8>),
    /// Promises more than this body, sends it and closes.
    CutOff(Vec<u8>),
    /// Sends the body one byte every half second.
    Trickle(Vec<u8>),
    /// Answers each path, `/ready` as well, with what this gives: a whole answer, headers and all.
    Respond(fn(&str) -> String),
    /// Closes the connection without an answer.
    Close,
    /// Answers 200 with this body, but does not answer `/ready`.
    HangWhenReady(Vec<u8>),
}

/// What an admin says of a cluster `c` with one host, which is healthy.
pub const HEALTHY: &[u8] = b"c::127.0.0.1:9000::health_flags::healthy\n";

/// Answers [`HEALTHY`].
pub fn healthy() -> Does {
    Does::Answer(200, HEALTHY.to_vec())
}

/// A server in the admin's place; stopped when dropped.
pub struct FakeAdmin {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    now: Arc<Now>,
    server: JoinHandle<()>,
}

/// An Envoy with so many workers and a fake admin, with these fields in the filter's configuration.
pub async fn envoy_with_fake(does: Does, workers: &str, fields: Value) -> (Envoy, FakeAdmin) {
    let fake = FakeAdmin::start(does).await;
    let listener = Build::Wasm.listener(free_port(), &fields);
    let config = Config::new().fake_admin(fake.port).listener(listener);
    let envoy = config.start_with(&["--concurrency", workers]).await;
    (envoy, fake)
}

struct Now {
    does: Mutex<Does>,
    requests: AtomicUsize,
    ready_requests: AtomicUsize,
}

impl FakeAdmin {
    /// Starts one that answers `/ready` with 200 `LIVE` and does this with all other requests.
    pub async fn start(does: Does) -> Self {
        Self::start_on(free_port(), does).await
    }

    /// The same on this port.
    pub async fn start_on(port: u16, does: Does) -> Self {
        let listener = listen(port).await;
        let now = Arc::new(Now {
            does: Mutex::new(does),
            requests: AtomicUsize::new(0),
            ready_requests: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&now);
        let server = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, now, server }
    }

    /// From the next request on it does this.
    pub fn change_to(&self, does: Does) {
        *self.now.does.lock().unwrap_or_else(PoisonError::into_inner) = does;
    }

    /// How many requests for other pages than `/ready` it has had.
    pub fn requests(&self) -> usize {
        self.now.requests.load(Ordering::Relaxed)
    }

    /// How many requests for `/ready` it has had.
    pub fn ready_requests(&self) -> usize {
        self.now.ready_requests.load(Ordering::Relaxed)
    }
}

impl Drop for FakeAdmin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, now: Arc<Now>) {
    while let Some(request) = read_request(&mut stream).await {
        let does = now
            .does
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if request.starts_with(b"GET /ready ") {
            now.ready_requests.fetch_add(1, Ordering::Relaxed);
            if matches!(does, Does::HangWhenReady(_)) {
                std::future::pending::<()>().await;
            }
            let live = match does {
                Does::Respond(respond) => respond("/ready").into_bytes(),
                _ => answer("200 OK", b"LIVE\n".len(), b"LIVE\n"),
            };
            if stream.write_all(&live).await.is_err() {
                return;
            }
            continue;
        }
        now.requests.fetch_add(1, Ordering::Relaxed);
        let sent = match &does {
            Does::Answer(status, body) => {
                let whole = answer(&format!("{status} X"), body.len(), body);
                stream.write_all(&whole).await
            }
            Does::Delay(time, body) => {
                tokio::time::sleep(*time).await;
                stream.write_all(&answer("200 OK", body.len(), body)).await
            }
            Does::WhenTold(told, body) => {
                let _ = told.clone().wait_for(|told| *told).await;
                stream.write_all(&answer("200 OK", body.len(), body)).await
            }
            Does::Hang => std::future::pending().await,
            Does::HangInBody(body) => {
                let part = answer("200 OK", body.len() + 1, body);
                let _ = stream.write_all(&part).await;
                std::future::pending().await
            }
            Does::CutOff(body) => {
                let part = answer("200 OK", body.len() + 1, body);
                let _ = stream.write_all(&part).await;
                return;
            }
            Does::Trickle(body) => trickle(&mut stream, body).await,
            Does::Respond(respond) => {
                let request = String::from_utf8_lossy(&request);
                let path = request.split(' ').nth(1).unwrap_or_default();
                stream.write_all(respond(path).as_bytes()).await
            }
            Does::Close => return,
            Does::HangWhenReady(body) => {
                stream.write_all(&answer("200 OK", body.len(), body)).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn trickle(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    stream.write_all(&answer("200 OK", body.len(), b"")).await?;
    for byte in body {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    Some(request)
}

fn answer(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}
