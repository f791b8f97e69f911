//! Compressed messages: read by either encoding, and never answered so that a client takes a dead backend for
//! one without health checks.

use std::io::Read;

use e2e::grpc_health::{
    CHECK, Connection, LIST, NOT_SERVING, PythonChannel, SERVING, Seen, Sent, WATCH, Watch,
    channel, frame, frame_with_flag, request_for,
};
use e2e::replaced;
use flate2::Compression;
use flate2::bufread::{GzEncoder, ZlibEncoder};
use tonic::Code;

use super::requests::Expected::Fails;
use super::requests::{SERVES, gets, message, services, start};
use super::{Sidecar, Way};

/// A service of a name that compression makes shorter: grpcio compresses nothing else.
const SERVICE: &str = "shop.cart.cart.cart.cart.cart.cart.cart.cart.cart.cart.cart.cart.Cart";

fn gzip(message: &[u8]) -> Vec<u8> {
    read(GzEncoder::new(message, Compression::default()))
}

fn zlib(message: &[u8]) -> Vec<u8> {
    read(ZlibEncoder::new(message, Compression::default()))
}

fn read(mut encoder: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A call of this message, whose flag says that it is compressed.
fn call(path: &str, encoding: Option<&'static str>, message: &[u8]) -> Sent {
    Sent::frames(path, vec![frame_with_flag(1, message)]).with_header("grpc-encoding", encoding)
}

#[tokio::test]
async fn what_is_read() {
    let envoy = start(Some(services())).await;
    let connection = Connection::open(envoy.port).await;
    let echo = request_for("yages.Echo");
    for (encoding, message) in [("gzip", gzip(&echo)), ("deflate", zlib(&echo))] {
        let check = call(CHECK, Some(encoding), &message);
        gets(&connection, encoding, &check, SERVES).await;
        let plain = Sent::call(CHECK, &echo).with_header("grpc-encoding", Some(encoding));
        gets(&connection, encoding, &plain, SERVES).await;
        // A Watch goes on after its first message.
        let watch = call(WATCH, Some(encoding), &message);
        let (_, mut body, _request) = connection.begin(&watch).await.unwrap();
        let first = tokio::time::timeout(e2e::DEADLINE, body.data()).await;
        let first = first.expect("a message").expect("a message").unwrap();
        assert_eq!(message_status(&first), SERVING, "{encoding}");
        let list = connection.call(&call(LIST, Some(encoding), &message)).await;
        assert_eq!(list.unwrap().code(), Some(Code::Ok), "{encoding}");
    }
}

fn message_status(frame: &[u8]) -> Seen {
    Seen::Status(message("the first of a Watch", frame).status())
}

#[tokio::test]
async fn what_is_not() {
    let envoy = start(Some(services())).await;
    let connection = Connection::open(envoy.port).await;
    let echo = gzip(&request_for("yages.Echo"));
    for path in [CHECK, LIST, WATCH] {
        let unread = match path {
            WATCH => Fails(Code::Internal),
            _ => Fails(Code::Unimplemented),
        };
        let (invalid, long) = (Fails(Code::InvalidArgument), Fails(Code::ResourceExhausted));
        let (internal, bad) = (Fails(Code::Internal), gzip(b"\x0a\x05x"));
        for (case, encoding, message, expected) in [
            ("zstd", Some("zstd"), &echo[..], unread),
            ("an encoding of other letters", Some("GZIP"), &echo, unread),
            ("no encoding", None, &echo, internal),
            ("identity", Some("identity"), &echo, internal),
            ("no gzip", Some("gzip"), b"\x0a\x01x", internal),
            ("gzip, not zlib", Some("deflate"), &echo, internal),
            ("cut off", Some("gzip"), &echo[..9], internal),
            ("no message in it", Some("gzip"), &bad, invalid),
            ("4097 bytes in it", Some("gzip"), &gzip(&[0; 4097]), long),
            ("2 MB in it", Some("deflate"), &zlib(&[0; 2 << 20]), long),
        ] {
            let case = format!("{path}, {case}");
            gets(&connection, &case, &call(path, encoding, message), expected).await;
            let next = Sent::frames(CHECK, vec![frame(b"")]);
            gets(&connection, &case, &next, SERVES).await;
        }
    }
    let reply = connection.call(&call(CHECK, Some("zstd"), b"")).await;
    let read = reply.unwrap().headers.get("grpc-accept-encoding").cloned();
    assert_eq!(read.unwrap(), "identity,gzip,deflate");
}

/// Python's grpcio with `healthCheckConfig` and `compression=Gzip`: it calls nobody while the backend is dead.
#[tokio::test]
async fn a_client_that_compresses_and_watches() {
    let sidecar = Sidecar::start_with(Way::Route, |config| {
        let [from, to] = ["both", SERVICE].map(|name| format!("\\\"{name}\\\""));
        let text = replaced(&config.to_string(), &from, &to);
        config.0 = serde_json::from_str(&text).unwrap();
    })
    .await;
    sidecar.wait_for([503, 503]).await;
    let both = Watch::start(&channel(sidecar.plain), SERVICE);
    both.wait_for(NOT_SERVING).await;
    let client = PythonChannel::connect(sidecar.plain, SERVICE);
    let state = client.wait_for(&["READY", "TRANSIENT_FAILURE"]).await;
    assert_eq!(state, "TRANSIENT_FAILURE");
    let hosts = [sidecar.start_host(0).await, sidecar.start_host(1).await];
    client.wait_for(&["READY"]).await;
    drop(hosts);
    client.wait_for(&["TRANSIENT_FAILURE"]).await;
}
