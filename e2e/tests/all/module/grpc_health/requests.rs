//! Each form that a request can have, frame by frame: what is answered, and what is left alone.

use std::time::Duration;

use e2e::config::{Config, cluster, listener};
use e2e::envoy::Envoy;
use e2e::grpc_health::{
    CHECK, Connection, End, LIST, Reply, SERVING, Seen, Sent, WATCH, frame, request_for,
};
use e2e::{Build, free_port, module};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckResponse;

use Expected::{Fails, Has, Passes};

/// What a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A status, and gRPC status 0.
    Has(Seen),
    /// A gRPC status without a message.
    Fails(Code),
    /// What is behind the filter.
    Passes,
}

/// One Envoy, whose every request that goes on is answered `418 passed`.
pub(super) async fn start(grpc_health: Option<Value>) -> Envoy {
    let mut filter = json!({});
    if let Some(grpc_health) = grpc_health {
        filter["grpc_health"] = grpc_health;
    }
    // Without the drain filters, which answer some requests themselves.
    let listener = listener(free_port(), [Build::Module.filter(&filter)]);
    let listener = module::with_network_filter(listener);
    let config = Config::new().listener(listener).cluster(cluster("c", &[1]));
    let envoy = config.start().await;
    envoy.wait_for("/healthz", 200, "").await;
    envoy
}

pub(super) fn services() -> Value {
    json!({"services": {"": "/healthz", "yages.Echo": "/healthz"}})
}

/// What came, after a look at its form.
fn read(case: &str, reply: &Reply) -> Expected {
    // Envoy makes gRPC status 2 of a direct response to a gRPC call.
    if reply.status == 418 || reply.message() == Some("passed") {
        return Passes;
    }
    assert_eq!(reply.status, 200, "{case}: {reply:?}");
    let content_type = reply.headers.get("content-type");
    assert_eq!(content_type.unwrap(), "application/grpc", "{case}");
    match reply.code().expect("a gRPC status") {
        Code::Ok => {
            assert!(reply.trailers.is_some(), "{case}: {reply:?}");
            Has(Seen::Status(message(case, &reply.body).status()))
        }
        code => {
            assert_eq!(reply.body, b"", "{case}");
            let none = reply.trailers.is_none();
            assert!(none, "{case}: trailers alone are headers");
            Fails(code)
        }
    }
}

pub(super) fn message(case: &str, body: &[u8]) -> HealthCheckResponse {
    let message = body.get(5..).unwrap_or_default();
    assert_eq!(body, frame(message), "{case}");
    HealthCheckResponse::decode(message).expect("a HealthCheckResponse")
}

/// A service's name so long that the message has this many bytes: two of the field and its length.
fn message_of(bytes: usize) -> Vec<u8> {
    let message = request_for(&"x".repeat(bytes - 3));
    assert_eq!(message.len(), bytes);
    message
}

/// What a client sends, and what it gets.
type Row = (&'static str, Sent, Expected);

pub(super) const SERVES: Expected = Has(SERVING);
const INVALID: Expected = Fails(Code::InvalidArgument);
const EXHAUSTED: Expected = Fails(Code::ResourceExhausted);
const INTERNAL: Expected = Fails(Code::Internal);

/// What holds for all three methods: how a message is framed, and its length.
fn framing(path: &str) -> Vec<Row> {
    let echo = frame(&request_for("yages.Echo"));
    let of = |data: &[u8]| Sent::frames(path, vec![data.to_vec()]);
    let claiming = |length: u32, rest: &[u8]| of(&[&[0], &length.to_be_bytes()[..], rest].concat());
    let flagged = |flag: u8| of(&[&[flag], &echo[1..]].concat());
    let two = |frames: [&[u8]; 2]| Sent::frames(path, frames.map(<[u8]>::to_vec).into());
    let megabyte = vec![0; 1_000_000];
    let claims = |length: u32| claiming(length, b"").ending(End::Open);
    let too_much = [&echo, &b"x"[..]].concat();
    let endless = frame(b"\x0a\xff\xff\xff\xff\xff");
    vec![
        ("no body", of(b"").ending(End::Headers), INVALID),
        ("an empty body", of(b""), INVALID),
        ("trailers alone", of(b"").ending(End::Trailers), INVALID),
        ("a part of the prefix", of(&[0, 0, 0]), INVALID),
        ("a prefix alone", claiming(3, b""), INVALID),
        ("cut off", of(&echo[..echo.len() - 1]), INVALID),
        ("longer than its prefix says", of(&too_much), INVALID),
        ("two messages", of(&[&echo[..], &echo].concat()), INVALID),
        ("two in two frames", two([&echo, &echo]), INVALID),
        ("compressed, and it is not said how", flagged(1), INTERNAL),
        ("a flag that is none", flagged(2), INVALID),
        ("no protobuf", of(&frame(b"\x0a\x05x")), INVALID),
        ("a length without end", of(&endless), INVALID),
        ("an end of a group", of(&frame(&[0x14])), INVALID),
        ("1000 nested groups", of(&frame(&[0x13; 1000])), INVALID),
        ("too long", of(&frame(&message_of(4097))), EXHAUSTED),
        ("1 MB", of(&frame(&megabyte)), EXHAUSTED),
        // What these say is enough to answer.
        ("1 MB by its prefix", claims(1_000_000), EXHAUSTED),
        ("4 GB by its prefix", claims(u32::MAX), EXHAUSTED),
        (
            "1 MB after a message",
            two([&echo, &megabyte]).ending(End::Open),
            INVALID,
        ),
    ]
}

#[tokio::test]
async fn framing_of_each_method() {
    let envoy = start(Some(services())).await;
    let connection = Connection::open(envoy.port).await;
    for path in [CHECK, LIST, WATCH] {
        for (case, sent, expected) in framing(path) {
            let case = format!("{path}, {case}");
            gets(&connection, &case, &sent, expected).await;
            let next = Sent::call(CHECK, b"");
            gets(&connection, &format!("after {case}"), &next, SERVES).await;
        }
    }
    assert_eq!(envoy.get("/healthz").await.status, 200);
    no_request_is_left(&envoy).await;
}

pub(super) async fn gets(connection: &Connection, case: &str, sent: &Sent, expected: Expected) {
    let reply = tokio::time::timeout(e2e::DEADLINE, connection.call(sent)).await;
    let reply = reply.unwrap_or_else(|_| panic!("{case}: no reply"));
    let reply = reply.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(read(case, &reply), expected, "{case}: {reply:?}");
}

#[tokio::test]
async fn messages() {
    let envoy = start(Some(services())).await;
    let service = |name: &str| Sent::call(CHECK, &request_for(name));
    let frames = |frames| Sent::frames(CHECK, frames);
    let unknown = Fails(Code::NotFound);
    let echo = frame(&request_for("yages.Echo"));
    let byte_by_byte = echo.iter().map(|byte| vec![*byte]).collect();
    let rows: Vec<Row> = vec![
        ("empty", Sent::call(CHECK, b""), SERVES),
        ("the whole server", service(""), SERVES),
        ("a service", service("yages.Echo"), SERVES),
        ("another", service("x"), unknown),
        ("the beginning of a name", service("yages"), unknown),
        ("in other letters", service("yages.echo"), unknown),
        ("the longest", Sent::call(CHECK, &message_of(4096)), unknown),
        ("byte by byte", frames(byte_by_byte), SERVES),
        (
            "an empty frame at the end",
            frames(vec![echo, vec![]]),
            SERVES,
        ),
        (
            "trailers at the end",
            service("yages.Echo").ending(End::Trailers),
            SERVES,
        ),
        // As a later version of the protocol may have one.
        ("an unknown field", Sent::call(CHECK, &[0x50, 1]), SERVES),
        (
            "a number for the name",
            Sent::call(CHECK, &[0x08, 1]),
            INVALID,
        ),
        ("no UTF-8", Sent::call(CHECK, b"\x0a\x01\xff"), INVALID),
    ];
    let connection = Connection::open(envoy.port).await;
    for (case, sent, expected) in rows {
        gets(&connection, case, &sent, expected).await;
    }
    let unknown = Sent::call(CHECK, &request_for("nobody"));
    let reply = connection.call(&unknown).await.unwrap();
    assert_eq!(reply.message(), Some("unknown service"));
    no_request_is_left(&envoy).await;
}

async fn no_request_is_left(envoy: &Envoy) {
    let active = "http.e2e.downstream_rq_active";
    envoy.wait_for_stat(active, 0).await;
}

/// What a request's head can have.
fn head_rows() -> Vec<Row> {
    let check = || Sent::call(CHECK, b"");
    let with = |name, value| check().with_header(name, Some(value));
    let typed = |content_type| with("content-type", content_type);
    let to = |path: &str| Sent::call(path, b"");
    let by = |method: http::Method, mut sent: Sent| {
        *sent.head.method_mut() = method;
        sent
    };
    let get = |path| by(http::Method::GET, to(path).ending(End::Headers));
    let health = |method: &str| to(&format!("/grpc.health.v1.Health/{method}"));
    vec![
        ("as clients send it", check(), SERVES),
        ("+proto", typed("application/grpc+proto"), SERVES),
        (
            "a parameter",
            typed("application/grpc; charset=utf-8"),
            SERVES,
        ),
        (
            "+proto and a parameter",
            typed("application/grpc+proto;x=y"),
            SERVES,
        ),
        ("+json", typed("application/grpc+json"), Passes),
        ("gRPC-Web", typed("application/grpc-web"), Passes),
        (
            "gRPC-Web, +proto",
            typed("application/grpc-web+proto"),
            Passes,
        ),
        ("a longer name", typed("application/grpcx"), Passes),
        ("JSON", typed("application/json"), Passes),
        (
            "no content type",
            check().with_header("content-type", None),
            Passes,
        ),
        ("no te", check().with_header("te", None), SERVES),
        ("a deadline", with("grpc-timeout", "10S"), SERVES),
        ("a bad deadline", with("grpc-timeout", "x"), SERVES),
        (
            "compressed answers are welcome",
            with("grpc-accept-encoding", "gzip"),
            SERVES,
        ),
        ("GET", get(CHECK), Passes),
        ("GET of List", get(LIST), Passes),
        ("GET of Watch", get(WATCH), Passes),
        ("PUT", by(http::Method::PUT, check()), Passes),
        ("a query", health("Check?x"), Passes),
        ("an empty query", health("Check?"), Passes),
        ("a slash behind", health("Check/"), Passes),
        ("a slash before", to(&format!("/{CHECK}")), Passes),
        ("in other letters", health("check"), Passes),
        ("percent-encoded", health("%43heck"), Passes),
        ("no such method", health("Other"), Passes),
        ("no method", health(""), Passes),
        (
            "another version",
            to("/grpc.health.v2.Health/Check"),
            Passes,
        ),
        ("another service", to("/yages.Echo/Ping"), Passes),
    ]
}

#[tokio::test]
async fn heads() {
    let envoy = start(Some(services())).await;
    let connection = Connection::open(envoy.port).await;
    for (case, sent, expected) in head_rows() {
        gets(&connection, case, &sent, expected).await;
    }
    no_request_is_left(&envoy).await;
    // The endpoint's own answer to a gRPC-typed request stays what it was.
    let grpc = [("content-type", "application/grpc")];
    let answer = envoy.prober.send(reqwest::Method::POST, "/healthz", &grpc);
    assert_eq!(answer.await.header("grpc-status"), Some("0"));
}

#[tokio::test]
async fn not_configured() {
    let envoy = start(None).await;
    let connection = Connection::open(envoy.port).await;
    for path in [CHECK, LIST, WATCH] {
        let reply = connection.call(&Sent::call(path, b"")).await.unwrap();
        assert_eq!(read(path, &reply), Passes, "{path}");
    }
}

/// gRPC over HTTP/1.1 is none, but it comes to nobody's harm.
#[tokio::test]
async fn http_1() {
    let envoy = start(Some(services())).await;
    for path in [CHECK, LIST, WATCH] {
        let request = envoy.prober.request(reqwest::Method::POST, path);
        let request = request.header("content-type", "application/grpc");
        // The body of a Watch would not end.
        let answer = request.body(frame(b"")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        drop(answer);
        assert_eq!(envoy.get("/healthz").await.status, 200, "{path}");
    }
    no_request_is_left(&envoy).await;
}

/// Clients that leave in the middle of a call, at each point where one can.
#[tokio::test]
async fn clients_that_leave() {
    let envoy = start(Some(services())).await;
    let whole = frame(&request_for("yages.Echo"));
    for path in [CHECK, LIST, WATCH] {
        for cut in 0..=whole.len() {
            let connection = Connection::open(envoy.port).await;
            let sent = Sent::frames(path, vec![whole[..cut].to_vec()]).ending(End::Open);
            let reply = tokio::time::timeout(Duration::from_millis(10), connection.call(&sent));
            // Whole or not, without its end it is no message yet.
            assert!(reply.await.is_err(), "{path} of {cut} bytes is answered");
        }
    }
    no_request_is_left(&envoy).await;
    let connection = Connection::open(envoy.port).await;
    let reply = connection.call(&Sent::call(CHECK, b"")).await.unwrap();
    assert_eq!(read("after all of them", &reply), SERVES);
}
