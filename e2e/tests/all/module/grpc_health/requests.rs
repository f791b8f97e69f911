//! Each form that a request can have, frame by frame: what is answered, and what is left alone.

use std::time::Duration;

use e2e::config::{bootstrap, cluster, listener};
use e2e::envoy::Envoy;
use e2e::grpc_health::{
    CHECK, Connection, End, LIST, Reply, SERVING, Sent, Told, WATCH, frame, request_for,
};
use e2e::prober::{Answer, Prober};
use e2e::{eventually, free_port, module};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckResponse;

use Expected::{Fails, Passes, Tells};

/// What a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A status, and gRPC status 0.
    Tells(Told),
    /// A gRPC status without a message.
    Fails(Code),
    /// What is behind the filter.
    Passes,
}

/// One Envoy, whose every request that goes on is answered `418 passed`.
pub(super) async fn start(grpc_health: Option<Value>) -> (Envoy, u16) {
    module::folder();
    let (admin, port) = (free_port(), free_port());
    let mut config = json!({"endpoints": [{"path": "/healthz", "clusters": ["c"]}]});
    if let Some(grpc_health) = grpc_health {
        config["grpc_health"] = grpc_health;
    }
    let listener = listener(port, vec![module::filter(&config)]);
    let listener = module::with_network_filter(listener);
    let clusters = vec![cluster("c", &[1])];
    let envoy = Envoy::start(&bootstrap(admin, vec![listener], clusters).to_string(), &[]).await;
    Prober::http(port).wait_for(200).await;
    (envoy, port)
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
            Tells(Told::Status(message(case, &reply.body).status()))
        }
        code => {
            assert_eq!(reply.body, b"", "{case}");
            assert!(
                reply.trailers.is_none(),
                "{case}: trailers alone are headers"
            );
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

const INVALID: Expected = Fails(Code::InvalidArgument);
const EXHAUSTED: Expected = Fails(Code::ResourceExhausted);

/// What holds for all three methods: how a message is framed, and its length.
fn framing(path: &str) -> Vec<Row> {
    let echo = frame(&request_for("yages.Echo"));
    let of = |data: &[u8]| Sent::frames(path, vec![data.to_vec()]);
    let claiming = |length: u32, rest: &[u8]| of(&[&[0], &length.to_be_bytes()[..], rest].concat());
    let flagged = |flag: u8| of(&[&[flag], &echo[1..]].concat());
    let two = |frames: [&[u8]; 2]| Sent::frames(path, frames.map(<[u8]>::to_vec).into());
    let megabyte = vec![0; 1_000_000];
    vec![
        ("no body", of(b"").ending(End::Headers), INVALID),
        ("an empty body", of(b""), INVALID),
        ("trailers alone", of(b"").ending(End::Trailers), INVALID),
        ("a part of the prefix", of(&[0, 0, 0]), INVALID),
        ("a prefix alone", claiming(3, b""), INVALID),
        ("cut off", of(&echo[..echo.len() - 1]), INVALID),
        (
            "longer than its prefix says",
            of(&[&echo, &b"x"[..]].concat()),
            INVALID,
        ),
        ("two messages", of(&[&echo[..], &echo].concat()), INVALID),
        ("two in two frames", two([&echo, &echo]), INVALID),
        (
            "compressed, and it is not said how",
            flagged(1),
            Fails(Code::Internal),
        ),
        ("a flag that is none", flagged(2), INVALID),
        ("no protobuf", of(&frame(b"\x0a\x05x")), INVALID),
        (
            "a length without end",
            of(&frame(b"\x0a\xff\xff\xff\xff\xff")),
            INVALID,
        ),
        ("an end of a group", of(&frame(&[0x14])), INVALID),
        (
            "a thousand groups in each other",
            of(&frame(&[0x13; 1000])),
            INVALID,
        ),
        ("too long", of(&frame(&message_of(4097))), EXHAUSTED),
        ("1 MB", of(&frame(&megabyte)), EXHAUSTED),
        // What these say is enough to answer.
        (
            "1 MB by its prefix",
            claiming(1_000_000, b"").ending(End::Open),
            EXHAUSTED,
        ),
        (
            "4 GB by its prefix",
            claiming(u32::MAX, b"").ending(End::Open),
            EXHAUSTED,
        ),
        (
            "1 MB after a message",
            two([&echo, &megabyte]).ending(End::Open),
            INVALID,
        ),
    ]
}

#[tokio::test]
async fn framing_of_each_method() {
    let (envoy, port) = start(Some(services())).await;
    let connection = Connection::open(port).await;
    for path in [CHECK, LIST, WATCH] {
        for (case, sent, expected) in framing(path) {
            let case = format!("{path}, {case}");
            asks(&connection, &case, &sent, expected).await;
            let next = Sent::call(CHECK, b"");
            asks(&connection, &format!("after {case}"), &next, Tells(SERVING)).await;
        }
    }
    assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
    no_request_is_left(&envoy).await;
}

pub(super) async fn asks(connection: &Connection, case: &str, sent: &Sent, expected: Expected) {
    let reply = tokio::time::timeout(e2e::DEADLINE, connection.ask(sent)).await;
    let reply = reply.unwrap_or_else(|_| panic!("{case}: no reply"));
    let reply = reply.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(read(case, &reply), expected, "{case}: {reply:?}");
}

#[tokio::test]
async fn messages() {
    let (envoy, port) = start(Some(services())).await;
    let service = |name: &str| Sent::call(CHECK, &request_for(name));
    let unknown = Fails(Code::NotFound);
    let echo = frame(&request_for("yages.Echo"));
    let byte_by_byte = echo.iter().map(|byte| vec![*byte]).collect();
    let rows: Vec<Row> = vec![
        ("empty", Sent::call(CHECK, b""), Tells(SERVING)),
        ("the whole server", service(""), Tells(SERVING)),
        ("a service", service("yages.Echo"), Tells(SERVING)),
        ("another", service("x"), unknown),
        ("the beginning of a name", service("yages"), unknown),
        ("in other letters", service("yages.echo"), unknown),
        ("the longest", Sent::call(CHECK, &message_of(4096)), unknown),
        (
            "byte by byte",
            Sent::frames(CHECK, byte_by_byte),
            Tells(SERVING),
        ),
        (
            "an empty frame at the end",
            Sent::frames(CHECK, vec![echo, vec![]]),
            Tells(SERVING),
        ),
        (
            "trailers at the end",
            service("yages.Echo").ending(End::Trailers),
            Tells(SERVING),
        ),
        // As a later version of the protocol may have one.
        (
            "an unknown field",
            Sent::call(CHECK, &[0x50, 1]),
            Tells(SERVING),
        ),
        (
            "a number for the name",
            Sent::call(CHECK, &[0x08, 1]),
            INVALID,
        ),
        ("no UTF-8", Sent::call(CHECK, b"\x0a\x01\xff"), INVALID),
    ];
    let connection = Connection::open(port).await;
    for (case, sent, expected) in rows {
        asks(&connection, case, &sent, expected).await;
    }
    let unknown = Sent::call(CHECK, &request_for("nobody"));
    let reply = connection.ask(&unknown).await.unwrap();
    assert_eq!(reply.message(), Some("unknown service"));
    no_request_is_left(&envoy).await;
}

async fn no_request_is_left(envoy: &Envoy) {
    eventually("no request is left", async || {
        (envoy.stat("http.e2e.downstream_rq_active").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn heads() {
    let (envoy, port) = start(Some(services())).await;
    let check = || Sent::call(CHECK, b"");
    let typed = |content_type| check().with_header("content-type", content_type);
    let to = |path: &str| Sent::call(path, b"");
    let get = |path: &str| {
        let mut sent = to(path).ending(End::Headers);
        *sent.head.method_mut() = http::Method::GET;
        sent
    };
    let put = || {
        let mut sent = check();
        *sent.head.method_mut() = http::Method::PUT;
        sent
    };
    let rows: Vec<Row> = vec![
        ("as clients send it", check(), Tells(SERVING)),
        (
            "+proto",
            typed(Some("application/grpc+proto")),
            Tells(SERVING),
        ),
        (
            "a parameter",
            typed(Some("application/grpc; charset=utf-8")),
            Tells(SERVING),
        ),
        (
            "+proto and a parameter",
            typed(Some("application/grpc+proto;x=y")),
            Tells(SERVING),
        ),
        ("+json", typed(Some("application/grpc+json")), Passes),
        ("gRPC-Web", typed(Some("application/grpc-web")), Passes),
        (
            "gRPC-Web, +proto",
            typed(Some("application/grpc-web+proto")),
            Passes,
        ),
        ("a longer name", typed(Some("application/grpcx")), Passes),
        ("JSON", typed(Some("application/json")), Passes),
        ("no content type", typed(None), Passes),
        ("no te", check().with_header("te", None), Tells(SERVING)),
        (
            "a deadline",
            check().with_header("grpc-timeout", Some("10S")),
            Tells(SERVING),
        ),
        (
            "a deadline that nobody can keep, or none at all",
            check().with_header("grpc-timeout", Some("x")),
            Tells(SERVING),
        ),
        (
            "compressed answers are welcome",
            check().with_header("grpc-accept-encoding", Some("gzip")),
            Tells(SERVING),
        ),
        ("GET", get(CHECK), Passes),
        ("GET of List", get(LIST), Passes),
        ("GET of Watch", get(WATCH), Passes),
        ("PUT", put(), Passes),
        ("a query", to(&format!("{CHECK}?x")), Passes),
        ("an empty query", to(&format!("{CHECK}?")), Passes),
        ("a slash behind", to(&format!("{CHECK}/")), Passes),
        ("a slash before", to(&format!("/{CHECK}")), Passes),
        (
            "in other letters",
            to("/grpc.health.v1.Health/check"),
            Passes,
        ),
        (
            "percent-encoded",
            to("/grpc.health.v1.Health/%43heck"),
            Passes,
        ),
        ("no such method", to("/grpc.health.v1.Health/Other"), Passes),
        ("no method", to("/grpc.health.v1.Health/"), Passes),
        (
            "another version",
            to("/grpc.health.v2.Health/Check"),
            Passes,
        ),
        ("another service", to("/yages.Echo/Ping"), Passes),
    ];
    let connection = Connection::open(port).await;
    for (case, sent, expected) in rows {
        asks(&connection, case, &sent, expected).await;
    }
    no_request_is_left(&envoy).await;
    // The endpoint's own answer to a gRPC-typed request stays what it was.
    let request = Prober::http(port).request(reqwest::Method::POST, "/healthz");
    let answer = Answer::to(request.header("content-type", "application/grpc")).await;
    assert_eq!(answer.unwrap().header("grpc-status"), Some("0"));
}

#[tokio::test]
async fn not_configured() {
    let (_envoy, port) = start(None).await;
    let connection = Connection::open(port).await;
    for path in [CHECK, LIST, WATCH] {
        let reply = connection.ask(&Sent::call(path, b"")).await.unwrap();
        assert_eq!(read(path, &reply), Passes, "{path}");
    }
}

/// gRPC over HTTP/1.1 is none, but it comes to nobody's harm.
#[tokio::test]
async fn http_1() {
    let (envoy, port) = start(Some(services())).await;
    for path in [CHECK, LIST, WATCH] {
        let request = Prober::http(port).request(reqwest::Method::POST, path);
        let request = request.header("content-type", "application/grpc");
        // The body of a Watch would not end.
        let answer = request.body(frame(b"")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        drop(answer);
        let next = Prober::http(port).get("/healthz").await;
        assert_eq!(next.status, 200, "{path}");
    }
    no_request_is_left(&envoy).await;
}

/// Clients that leave in the middle of a call, at each point where one can.
#[tokio::test]
async fn clients_that_leave() {
    let (envoy, port) = start(Some(services())).await;
    let whole = frame(&request_for("yages.Echo"));
    for path in [CHECK, LIST, WATCH] {
        for cut in 0..=whole.len() {
            let connection = Connection::open(port).await;
            let sent = Sent::frames(path, vec![whole[..cut].to_vec()]).ending(End::Open);
            let asked = tokio::time::timeout(Duration::from_millis(10), connection.ask(&sent));
            // Whole or not, without its end it is no message yet.
            assert!(asked.await.is_err(), "{path} of {cut} bytes is answered");
        }
    }
    no_request_is_left(&envoy).await;
    let connection = Connection::open(port).await;
    let reply = connection.ask(&Sent::call(CHECK, b"")).await.unwrap();
    assert_eq!(read("after all of them", &reply), Tells(SERVING));
}
