//! `grpc.health.v1.Health` on the wire, apart from any Envoy.
//!
//! A call is a POST to `/grpc.health.v1.Health/` and the method's name. Its body is one message behind
//! five bytes, and so is each message of the answer: whether it is compressed, and its length,
//! big-endian. `Check` of the service `a`, and the answer `SERVING`:
//!
//! ```text
//! 00 00000003 0a0161
//! 00 00000002 0801
//! ```
//!
//! The fuzz crate takes this file as it is: it uses nothing of the rest.

use prost::Message;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The status of one service.
    Check,
    /// That of all services.
    List,
    /// That of one service, and each change of it.
    Watch,
}

/// How a call ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The message is none of the method's, or not the only one.
    InvalidArgument,
    /// No such service.
    NotFound,
    /// The message is too long.
    ResourceExhausted,
    /// The message is compressed.
    Unimplemented,
    /// A Watch that would not hear of changes.
    Unavailable,
}

/// A message that is being received.
#[derive(Debug, Default)]
pub struct Incoming(Vec<u8>);

/// What a service is told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// Not used; the protocol has it.
    Unknown = 0,
    /// Send calls.
    Serving = 1,
    /// Do not.
    NotServing = 2,
    /// To a Watch alone: no such service.
    ServiceUnknown = 3,
}

/// What Check and Watch ask.
#[derive(Clone, PartialEq, Eq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

/// What List asks.
#[derive(Clone, PartialEq, Eq, Message)]
struct ListRequest {}

/// What Check and Watch are told.
#[derive(Clone, PartialEq, Eq, Message)]
struct Response {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// What List is told: on the wire a map from names to statuses.
#[derive(Clone, PartialEq, Eq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<ListEntry>,
}

/// An entry of that map. The key is written even if it is empty, as other servers do (prost's own maps do
/// not): Envoy's `grpc_json_transcoder` crashes on an entry without one.
#[derive(Clone, PartialEq, Eq, Message)]
struct ListEntry {
    #[prost(string, optional, tag = "1")]
    service: Option<String>,
    #[prost(message, optional, tag = "2")]
    response: Option<Response>,
}

/// The bytes before a message.
const PREFIX: usize = 5;

/// The longest message that is read.
const LONGEST: usize = 4096;

impl Method {
    /// The method of a request to this path.
    pub fn of_path(path: &[u8]) -> Option<Self> {
        match path.strip_prefix(b"/grpc.health.v1.Health/")? {
            b"Check" => Some(Self::Check),
            b"List" => Some(Self::List),
            b"Watch" => Some(Self::Watch),
            _ => None,
        }
    }
}

/// Whether messages of this content type are protobuf.
pub fn is_protobuf(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|&byte| byte == b';');
    let name = parts.next().unwrap_or_default().trim_ascii();
    matches!(name, b"application/grpc" | b"application/grpc+proto")
}

impl Status {
    /// The values of `grpc-status` and `grpc-message`.
    pub fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidArgument => ("3", "not one message of this method"),
            Self::NotFound => ("5", "unknown service"),
            Self::ResourceExhausted => ("8", "longer than 4096 bytes"),
            Self::Unimplemented => ("12", "compressed messages are not read"),
            Self::Unavailable => ("14", "unavailable"),
        }
    }
}

impl Incoming {
    /// Takes a piece of the body. Whatever comes, no more is kept than one message may have.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), Status> {
        // Enough to see a message's length, or that it is not the only one.
        let room = (PREFIX + LONGEST + 1).saturating_sub(self.0.len());
        self.0.extend(piece.iter().take(room));
        let Some((compressed, length, message)) = self.split() else {
            return Ok(());
        };
        match compressed {
            0 => {}
            1 => return Err(Status::Unimplemented),
            _ => return Err(Status::InvalidArgument),
        }
        if length > LONGEST {
            return Err(Status::ResourceExhausted);
        }
        if message.len() > length {
            return Err(Status::InvalidArgument);
        }
        Ok(())
    }

    /// The service that the whole body asks for.
    pub fn service(&self) -> Result<String, Status> {
        self.decode().map(|Request { service }| service)
    }

    /// Whether the whole body is what List asks.
    pub fn list(&self) -> Result<(), Status> {
        self.decode().map(|ListRequest {}| ())
    }

    fn decode<T: Message + Default>(&self) -> Result<T, Status> {
        match self.split() {
            Some((0, length, message)) if length == message.len() => {
                T::decode(message).map_err(|_| Status::InvalidArgument)
            }
            _ => Err(Status::InvalidArgument),
        }
    }

    /// Whether the message is compressed, its length, and what is there of it.
    fn split(&self) -> Option<(u8, usize, &[u8])> {
        let (prefix, message) = self.0.split_first_chunk::<PREFIX>()?;
        let [compressed, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Some((compressed, length, message))
    }
}

/// The message that tells a service's status to Check and Watch.
pub fn status(status: ServingStatus) -> Vec<u8> {
    let status = status.into();
    frame(&Response { status })
}

/// The message that tells List all services.
pub fn statuses<'a>(services: impl Iterator<Item = (&'a str, ServingStatus)>) -> Vec<u8> {
    let entry = |(service, status): (&str, ServingStatus)| ListEntry {
        service: Some(service.to_owned()),
        response: Some(Response {
            status: status.into(),
        }),
    };
    frame(&ListResponse {
        statuses: services.map(entry).collect(),
    })
}

fn frame(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    // The names of a configuration's 64 services are far from 4 GiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole body in one piece, and byte by byte.
    fn check(body: &[u8], expected: Result<&str, Status>) {
        for size in [body.len().max(1), 1, 3] {
            let mut incoming = Incoming::default();
            let mut pieces = body.chunks(size);
            let read = pieces.try_for_each(|piece| incoming.add(piece));
            let service = read.and_then(|()| incoming.service());
            assert_eq!(
                service.as_deref(),
                expected.as_deref(),
                "{body:x?} by {size}"
            );
            assert!(incoming.0.len() <= PREFIX + LONGEST + 1);
        }
    }

    fn body(length: u32, message: &[u8]) -> Vec<u8> {
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    #[test]
    fn requests() {
        use Status::{InvalidArgument, ResourceExhausted, Unimplemented};
        check(&body(3, b"\x0a\x01a"), Ok("a"));
        check(&body(0, b""), Ok(""));
        check(&body(2, b"\x0a\0"), Ok(""));
        // Fields that nobody knows are left alone, of one that comes twice the last one counts.
        check(&body(8, b"\x10\x05\x0a\x01a\x0a\x01b"), Ok("b"));
        // A name of 4093 bytes, with what says so, is the longest; one byte more is too long.
        let name = "n".repeat(4093);
        let longest = [b"\x0a\xfd\x1f", name.as_bytes()].concat();
        check(&body(4096, &longest), Ok(name.as_str()));
        check(&body(4097, &[]), Err(ResourceExhausted));
        check(&body(4097, &[7; 8192]), Err(ResourceExhausted));
        check(&body(u32::MAX, &[7; 8192]), Err(ResourceExhausted));
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            &body(4, b"\x0a\x01a"),
            &body(2, b"\x0a\x01a"),
            &body(3, b"\x0a\x01\xff"),
            &body(3, b"\x0a\x05a"),
            &body(2, b"\x08\x01"),
            &body(1, b"\x0b"),
            &[body(3, b"\x0a\x01a"), body(3, b"\x0a\x01a")].concat(),
            &[body(0, b""), vec![0; 9000]].concat(),
            b"\x02\0\0\0\0",
            b"\x80\0\0\0\0",
        ] {
            check(bad, Err(InvalidArgument));
        }
        check(b"\x01\0\0\0\0", Err(Unimplemented));
        check(b"\x01\xff\xff\xff\xff", Err(Unimplemented));
    }

    #[test]
    fn the_whole_list() {
        let list = |body: &[u8]| {
            let mut incoming = Incoming::default();
            incoming.add(body).and_then(|()| incoming.list())
        };
        assert_eq!(list(&body(0, b"")), Ok(()));
        assert_eq!(list(&body(3, b"\x0a\x01a")), Ok(()));
        for bad in [&b""[..], &body(1, b""), &body(1, b"\x0f")] {
            assert_eq!(list(bad), Err(Status::InvalidArgument), "{bad:x?}");
        }
    }

    #[test]
    fn responses() {
        use ServingStatus::{NotServing, ServiceUnknown, Serving};
        assert_eq!(status(Serving), b"\0\0\0\0\x02\x08\x01");
        assert_eq!(status(NotServing), b"\0\0\0\0\x02\x08\x02");
        assert_eq!(status(ServiceUnknown), b"\0\0\0\0\x02\x08\x03");
        let list = statuses([("", Serving), ("b", NotServing)].into_iter());
        let entries = b"\x0a\x06\x0a\0\x12\x02\x08\x01\x0a\x07\x0a\x01b\x12\x02\x08\x02";
        assert_eq!(list, [&b"\0\0\0\0\x11"[..], entries].concat());
    }

    #[test]
    fn methods() {
        for (path, expected) in [
            ("/grpc.health.v1.Health/Check", Some(Method::Check)),
            ("/grpc.health.v1.Health/List", Some(Method::List)),
            ("/grpc.health.v1.Health/Watch", Some(Method::Watch)),
            ("/grpc.health.v1.Health/Check?x", None),
            ("/grpc.health.v1.Health/check", None),
            ("/grpc.health.v1.Health/", None),
            ("/grpc.health.v1.Health", None),
            ("grpc.health.v1.Health/Check", None),
            ("/x/grpc.health.v1.Health/Check", None),
            ("", None),
        ] {
            assert_eq!(Method::of_path(path.as_bytes()), expected, "{path}");
        }
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc; charset=utf-8",
            "application/grpc+proto ;x=y",
        ] {
            assert!(is_protobuf(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "application/grpc+json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/json",
            "application/grp",
            "text/plain; application/grpc",
        ] {
            assert!(!is_protobuf(bad.as_bytes()), "{bad}");
        }
    }
}
