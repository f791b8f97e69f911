//! A probe that waits for a slow admin: whatever it sends meanwhile, none of it reaches the route.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use e2e::config::{Config, cluster, listener_with_routes, manager};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY};
use e2e::prober::Connection;
use e2e::{Build, free_port, listen, until};
use http_body::{Frame, SizeHint};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Body, Client, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

/// How late the admin answers: with `max_age_ms: 0` each probe waits as long.
const LATE: Duration = Duration::from_millis(250);

/// Between two pieces of a body.
const PAUSE: Duration = Duration::from_millis(10);

/// A server that counts the requests that it gets, and answers 418 to all.
struct Route {
    port: u16,
    requests: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Route {
    async fn start() -> Self {
        let port = free_port();
        let listener = listen(port).await;
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut some = [0; 65536];
                    while let Ok(1..) = stream.read(&mut some).await {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let passed =
                            b"HTTP/1.1 418 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                        let _ = stream.write_all(passed).await;
                    }
                });
            }
        });
        Self {
            port,
            requests,
            server,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An Envoy in which all but probes goes to the route.
struct Waiting {
    envoy: Envoy,
    fake: FakeAdmin,
    route: Route,
}

impl Waiting {
    /// With this value of `allow_on_headers_stop_iteration` in the plugin's configuration.
    async fn start(stop_iteration: bool) -> Self {
        Self::start_with(stop_iteration, |_| ()).await
    }

    /// The same with a change of the listener.
    async fn start_with(stop_iteration: bool, change: impl FnOnce(&mut Value)) -> Self {
        let fake = FakeAdmin::start(Does::Delay(LATE, HEALTHY.to_vec())).await;
        let route = Route::start().await;
        // What of a snapshot is at hand would answer after 100 ms: without one, each waits.
        let filter = json!({"admin_timeout_ms": 60000, "max_age_ms": 0, "max_stale_ms": 0});
        let mut filter = Build::Wasm.filter(&filter);
        filter["typed_config"]["config"]["allow_on_headers_stop_iteration"] = json!(stop_iteration);
        let to_route = json!({"match": {"prefix": "/"}, "route": {"cluster": "route"}});
        let mut listener = listener_with_routes(free_port(), [filter], vec![to_route]);
        // For the trailers of HTTP/1.1, which Envoy drops otherwise.
        manager(&mut listener)["http_protocol_options"] = json!({"enable_trailers": true});
        change(&mut listener);
        let config = Config::new().fake_admin(fake.port).listener(listener);
        let config = config.cluster(cluster("route", &[route.port]));
        let envoy = config.start().await;
        let waiting = Self { envoy, fake, route };
        // So that a count of 0 tells something.
        let passed = Client::new().get(waiting.url("/other")).send().await;
        assert_eq!(passed.unwrap().status(), 418);
        assert_eq!(waiting.route.requests(), 1);
        waiting
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.envoy.port)
    }
}

/// How a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Its length is said in advance, and it comes in this many pieces.
    Length(usize),
    /// The same in HTTP/1.1's chunks, its length not said.
    Chunked(usize),
    /// The same, and trailers after it.
    Trailers(usize),
}

const SHAPES: [Shape; 6] = [
    Shape::Length(1),
    Shape::Length(5),
    Shape::Chunked(1),
    Shape::Chunked(5),
    Shape::Trailers(1),
    Shape::Trailers(5),
];

const SIZES: [usize; 5] = [0, 1, 64 << 10, 1 << 20, 2 << 20];

/// What Envoy keeps of a body by default.
const BUFFER: usize = 1 << 20;

static ZEROS: [u8; 2 << 20] = [0; 2 << 20];

/// A body of zeros that comes piece by piece.
struct Zeros {
    left: usize,
    piece: usize,
    shape: Shape,
    pause: Pin<Box<Sleep>>,
    trailers: bool,
}

impl Zeros {
    fn body(size: usize, shape: Shape) -> Body {
        let (Shape::Length(pieces) | Shape::Chunked(pieces) | Shape::Trailers(pieces)) = shape;
        Body::wrap(Self {
            left: size,
            piece: size.div_ceil(pieces),
            shape,
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
            trailers: matches!(shape, Shape::Trailers(_)),
        })
    }
}

impl http_body::Body for Zeros {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<&'static [u8]>, Infallible>>> {
        ready!(self.pause.as_mut().poll(context));
        let next = Instant::now() + PAUSE;
        self.pause.as_mut().reset(next);
        let frame = if self.left > 0 {
            let size = self.piece.min(self.left);
            self.left -= size;
            Frame::data(&ZEROS[..size])
        } else if std::mem::take(&mut self.trailers) {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-trailer", HeaderValue::from_static("x"));
            Frame::trailers(trailers)
        } else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.shape {
            Shape::Length(_) => SizeHint::with_exact(self.left as u64),
            _ => SizeHint::new(),
        }
    }
}

fn client(version: Version) -> Client {
    let builder = Client::builder().no_proxy().timeout(e2e::DEADLINE);
    let builder = match version {
        Version::HTTP_2 => builder.http2_prior_knowledge(),
        _ => builder.http1_only(),
    };
    builder.build().expect("a client")
}

impl Waiting {
    /// The status of a probe with a body, which waits for the admin.
    async fn probe(
        &self,
        row: &str,
        client: &Client,
        version: Version,
        size: usize,
        shape: Shape,
    ) -> u16 {
        let before = self.fake.requests();
        let mut probe = client.get(self.url("/healthz")).version(version);
        // A client sends what a GET has of a body only with this header.
        if version == Version::HTTP_11 && !matches!(shape, Shape::Length(_)) {
            probe = probe.header("transfer-encoding", "chunked");
        }
        if matches!(shape, Shape::Trailers(_)) {
            probe = probe.header("trailer", "x-trailer");
        }
        let answer = probe.body(Zeros::body(size, shape)).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{row}: {error:?}"));
        let status = answer.status().as_u16();
        assert_eq!(answer.version(), version, "{row}");
        if status == 200 {
            assert_eq!(answer.text().await.unwrap(), "ok", "{row}");
            assert!(self.fake.requests() > before, "{row}: it did not wait");
        }
        // Its connection goes on: another method is answered at once.
        let next = client.post(self.url("/healthz")).send().await;
        let next = next.unwrap_or_else(|error| panic!("after {row}: {error:?}"));
        assert_eq!(next.status(), 405, "after {row}");
        self.check_route(row).await;
        status
    }

    /// Nothing has reached the route but one request at the beginning.
    async fn check_route(&self, row: &str) {
        let sent = self.envoy.stat("cluster.route.upstream_rq_total").await;
        assert_eq!((sent, self.route.requests()), (1, 1), "{row}");
    }

    async fn check_all(&self, stop_iteration: bool) {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let shapes = |size| SHAPES.map(|shape| (size, shape));
            for (size, shape) in SIZES.into_iter().flat_map(shapes) {
                let row = format!("{version:?}, {size} bytes, {shape:?}");
                // More than its buffer holds Envoy does not read while the filter is not shown it; and
                // it ends a connection of HTTP/1.1 whose request it has not read.
                let large = version == Version::HTTP_11 && size > BUFFER;
                let may_end = !stop_iteration && large;
                // See `a_piece_that_the_buffer_cannot_hold`.
                let may_be_refused = stop_iteration && large;
                until(&format!("its connection goes on: {row}"), async || {
                    let connections = "http.e2e.downstream_cx_total";
                    let before = self.envoy.stat(connections).await;
                    let client = client(version);
                    match self.probe(&row, &client, version, size, shape).await {
                        200 => (),
                        413 if may_be_refused => {
                            // The next probe would wait for the call that this one began.
                            let active = "cluster.local_admin.upstream_rq_active";
                            self.envoy.wait_for_stat(active, 0).await;
                            return false;
                        }
                        status => panic!("{row}: {status}"),
                    }
                    // On a busy machine the answer may go out before all of the body has come.
                    self.envoy.stat(connections).await == before + 1 || may_end
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_body_stays_here_when_the_host_stops_iteration() {
    Waiting::start(true).await.check_all(true).await;
}

#[tokio::test]
async fn a_body_stays_here_when_the_host_does_not_stop_iteration() {
    Waiting::start(false).await.check_all(false).await;
}

/// Where the host stops iteration, Envoy adds each piece of a body, as it reads it, to its buffer before
/// the filter can drop it: one that the buffer cannot hold it refuses itself.
#[tokio::test]
async fn a_piece_that_the_buffer_cannot_hold() {
    for (stop_iteration, expected) in [(true, "413 Payload Too Large"), (false, "200 OK")] {
        let small = |listener: &mut Value| {
            listener["per_connection_buffer_limit_bytes"] = json!(1024);
        };
        let waiting = Waiting::start_with(stop_iteration, small).await;
        let mut connection = Connection::open(waiting.envoy.port).await;
        let head = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 8193\r\n\r\nx";
        connection.send(head).await;
        until("the probe waits", async || waiting.fake.requests() > 0).await;
        connection.send(&ZEROS[..8192]).await;
        let answer = connection.receive().await;
        let expected = format!("HTTP/1.1 {expected}\r\n");
        assert!(answer.starts_with(&expected), "{answer}");
        assert_eq!(waiting.route.requests(), 1);
    }
}

/// A gRPC probe is a POST with a body, and waits like all others.
#[tokio::test]
async fn a_grpc_probe_stays_here() {
    for stop_iteration in [true, false] {
        let waiting = Waiting::start(stop_iteration).await;
        let probe = client(Version::HTTP_2).post(waiting.url("/healthz"));
        let probe = probe
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = probe
            .version(Version::HTTP_2)
            .body(Zeros::body(5, Shape::Length(1)))
            .send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "0", "{stop_iteration}");
        waiting.check_route("gRPC").await;
    }
}
