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
//! Messages of one field or none are as `google.protobuf`'s `StringValue`, `Int32Value` and `Empty`, for which
//! prost takes Rust's own `String`, `i32` and `()`.
//!
//! A compressed message begins with 01, and the header `grpc-encoding` says how: `gzip`, or `deflate`,
//! which is zlib's format.
//!
//! The fuzz crate takes this file as it is: it uses nothing of the rest.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::{GzDecoder, ZlibDecoder};
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

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// With an answer.
    Ok,
    /// The message is none of the method's, or not the only one.
    InvalidArgument,
    /// No such service.
    NotFound,
    /// The message is too long.
    ResourceExhausted,
    /// The message is compressed in a way that is not read.
    Unimplemented,
    /// The message cannot be decompressed.
    Internal,
    /// A probe of an endpoint that is unhealthy, a Watch that would not hear of changes, or a fault.
    Unavailable,
}

/// A call whose message is being received.
#[derive(Debug)]
pub struct Call {
    method: Method,
    encoding: Encoding,
    body: Vec<u8>,
}

/// What a call's header `grpc-encoding` says of its compressed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// `identity`, or no such header: there are none.
    Identity,
    Gzip,
    Deflate,
    /// One that is not read.
    Other,
}

/// What is said of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ServingStatus {
    /// Send calls.
    Serving = 1,
    /// Do not.
    NotServing = 2,
    /// To a Watch alone: no such service.
    ServiceUnknown = 3,
}

/// What List is answered: on the wire a map from names to statuses.
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
    /// As Check and Watch are answered.
    #[prost(message, optional, tag = "2")]
    status: Option<i32>,
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
    /// The headers, or trailers, that say it.
    pub fn headers(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let (code, message) = match self {
            Self::Ok => ("0", None),
            Self::InvalidArgument => ("3", Some("not one message of this method")),
            Self::NotFound => ("5", Some("unknown service")),
            Self::ResourceExhausted => ("8", Some("longer than 4096 bytes")),
            Self::Unimplemented => ("12", Some("unknown grpc-encoding")),
            Self::Internal => ("13", Some("the message cannot be decompressed")),
            Self::Unavailable => ("14", Some("unavailable")),
        };
        let message = message.map(|message| ("grpc-message", message));
        let read = ("grpc-accept-encoding", "identity,gzip,deflate");
        let read = (self == Self::Unimplemented).then_some(read);
        [("grpc-status", code)]
            .into_iter()
            .chain(message)
            .chain(read)
    }
}

impl Call {
    /// A call of which nothing has come but its headers.
    pub fn new(method: Method, grpc_encoding: &[u8]) -> Self {
        let encoding = match grpc_encoding {
            b"" | b"identity" => Encoding::Identity,
            b"gzip" => Encoding::Gzip,
            b"deflate" => Encoding::Deflate,
            _ => Encoding::Other,
        };
        Self {
            method,
            encoding,
            body: Vec::new(),
        }
    }

    /// What is called.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Takes a piece of the body. Whatever comes, no more is kept than one message may have.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), Status> {
        // Enough to see a message's length, or that it is not the only one.
        let room = (PREFIX + LONGEST + 1).saturating_sub(self.body.len());
        self.body.extend(piece.iter().take(room));
        let Some((flag, length, message)) = self.split() else {
            return Ok(());
        };
        self.check(flag)?;
        if length > LONGEST {
            return Err(Status::ResourceExhausted);
        }
        if message.len() > length {
            return Err(Status::InvalidArgument);
        }
        Ok(())
    }

    /// Whether a message with this flag can be read.
    fn check(&self, flag: u8) -> Result<(), Status> {
        match (flag, self.encoding) {
            (0, _) | (1, Encoding::Gzip | Encoding::Deflate) => Ok(()),
            (1, Encoding::Identity) => Err(Status::Internal),
            // Clients take 12 for "no health checks here", and call a backend that may be dead.
            (1, Encoding::Other) if self.method == Method::Watch => Err(Status::Internal),
            (1, Encoding::Other) => Err(Status::Unimplemented),
            _ => Err(Status::InvalidArgument),
        }
    }

    /// The service that the whole body asks for.
    pub fn service(&self) -> Result<String, Status> {
        self.decode()
    }

    /// Whether the whole body is what List asks.
    pub fn list(&self) -> Result<(), Status> {
        self.decode()
    }

    fn decode<T: Message + Default>(&self) -> Result<T, Status> {
        let whole = self
            .split()
            .filter(|(_, length, message)| message.len() == *length);
        let (flag, _, message) = whole.ok_or(Status::InvalidArgument)?;
        self.check(flag)?;
        let message = match flag {
            0 => Cow::Borrowed(message),
            _ => decompress(self.encoding, message)?.into(),
        };
        T::decode(&*message).map_err(|_| Status::InvalidArgument)
    }

    /// Whether the message is compressed, its length, and what is there of it.
    fn split(&self) -> Option<(u8, usize, &[u8])> {
        let (prefix, message) = self.body.split_first_chunk::<PREFIX>()?;
        let [flag, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Some((flag, length, message))
    }
}

/// What is compressed in this, if that is no longer than a message may be and nothing is behind it.
fn decompress(encoding: Encoding, mut packed: &[u8]) -> Result<Vec<u8>, Status> {
    let mut message = Vec::new();
    let most = LONGEST as u64 + 1;
    let read = match encoding {
        Encoding::Gzip => GzDecoder::new(&mut packed)
            .take(most)
            .read_to_end(&mut message),
        Encoding::Deflate => ZlibDecoder::new(&mut packed)
            .take(most)
            .read_to_end(&mut message),
        Encoding::Identity | Encoding::Other => return Err(Status::Internal),
    };
    match read {
        _ if message.len() > LONGEST => Err(Status::ResourceExhausted),
        Ok(_) if packed.is_empty() => Ok(message),
        _ => Err(Status::Internal),
    }
}

/// The message of Check and Watch that has a service's status.
pub fn status(status: ServingStatus) -> Vec<u8> {
    frame(&(status as i32))
}

/// The message of List that has all services.
pub fn statuses<'a>(services: impl Iterator<Item = (&'a str, ServingStatus)>) -> Vec<u8> {
    let entry = |(service, status): (&str, ServingStatus)| ListEntry {
        service: Some(service.to_owned()),
        status: Some(status as i32),
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
    use flate2::Compression;
    use flate2::bufread::{GzEncoder, ZlibEncoder};

    use super::*;

    /// The whole body in one piece, and byte by byte.
    fn check(body: &[u8], expected: Result<&str, Status>) {
        check_encoded(Method::Check, "", body, expected);
    }

    fn check_encoded(method: Method, encoding: &str, body: &[u8], expected: Result<&str, Status>) {
        for size in [body.len().max(1), 1, 3] {
            let mut call = Call::new(method, encoding.as_bytes());
            let mut pieces = body.chunks(size);
            let read = pieces.try_for_each(|piece| call.add(piece));
            let service = read.and_then(|()| call.service());
            assert_eq!(
                service.as_deref(),
                expected.as_deref(),
                "{method:?} {encoding} {body:x?} by {size}"
            );
            assert!(call.body.len() <= PREFIX + LONGEST + 1);
        }
    }

    fn body(length: u32, message: &[u8]) -> Vec<u8> {
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    #[test]
    fn requests() {
        use Status::{InvalidArgument, ResourceExhausted};
        check(&body(3, b"\x0a\x01a"), Ok("a"));
        check(&body(0, b""), Ok(""));
        check(&body(2, b"\x0a\0"), Ok(""));
        // Unknown fields are left alone, of one that comes twice the last one counts.
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
    }

    fn compressed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[1], &length.to_be_bytes()[..], message].concat()
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = GzEncoder::new(message, Compression::best());
        encoder.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn zlib(message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = ZlibEncoder::new(message, Compression::best());
        encoder.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn compressed_requests() {
        use Status::{Internal, InvalidArgument, ResourceExhausted};
        let name = "n".repeat(4093);
        let longest = [b"\x0a\xfd\x1f", name.as_bytes()].concat();
        type Compress = fn(&[u8]) -> Vec<u8>;
        for (encoding, compress) in [("gzip", gzip as Compress), ("deflate", zlib)] {
            let check = |message: &[u8], expected| {
                check_encoded(Method::Check, encoding, &compressed(message), expected);
                check_encoded(Method::Watch, encoding, &compressed(message), expected);
            };
            let plain = body(3, b"\x0a\x01a");
            check_encoded(Method::Watch, encoding, &plain, Ok("a"));
            let good = compress(b"\x0a\x01a");
            check(&good, Ok("a"));
            check(&compress(b""), Ok(""));
            check(&compress(&longest), Ok(name.as_str()));
            check(
                &compress(&[&longest[..], b"\x0a"].concat()),
                Err(ResourceExhausted),
            );
            // A thousand times what it is on the wire.
            check(&compress(&[0; 1 << 20]), Err(ResourceExhausted));
            check(&compress(b"\x0a\x01\xff"), Err(InvalidArgument));
            check(b"", Err(Internal));
            check(b"\x0a\x01a", Err(Internal));
            check(&[&good[..], b"x"].concat(), Err(Internal));
            check(&[&good[..], &good].concat(), Err(Internal));
            for cut in 1..good.len() {
                check(&good[..cut], Err(Internal));
            }
            let mut wrong_sum = good.clone();
            *wrong_sum.last_mut().unwrap() ^= 1;
            check(&wrong_sum, Err(Internal));
        }
        check_encoded(
            Method::Check,
            "gzip",
            &compressed(&zlib(b"")),
            Err(Internal),
        );
        check_encoded(
            Method::Check,
            "deflate",
            &compressed(&gzip(b"")),
            Err(Internal),
        );
        // Of these the prefix says enough.
        check_encoded(
            Method::Check,
            "gzip",
            b"\x01\0\0\x10\x01",
            Err(ResourceExhausted),
        );
        check_encoded(Method::Check, "gzip", b"\x02\0\0\0\0", Err(InvalidArgument));
    }

    /// A Watch never ends with 12.
    #[test]
    fn what_cannot_be_decompressed() {
        use Method::{Check, List, Watch};
        use Status::{Internal, Unimplemented};
        for (encoding, method, expected) in [
            ("", Check, Internal),
            ("", Watch, Internal),
            ("identity", List, Internal),
            ("identity", Watch, Internal),
            ("zstd", Check, Unimplemented),
            ("GZIP", List, Unimplemented),
            ("gzip, deflate", Check, Unimplemented),
            ("zstd", Watch, Internal),
        ] {
            check_encoded(method, encoding, b"\x01\0\0\0\0", Err(expected));
            check_encoded(method, encoding, b"\x01\xff\xff\xff\xff", Err(expected));
            // Its encoding does not matter to a message that is not compressed.
            check_encoded(method, encoding, &body(3, b"\x0a\x01a"), Ok("a"));
        }
    }

    #[test]
    fn the_whole_list() {
        let list = |body: &[u8]| {
            let mut call = Call::new(Method::List, b"gzip");
            call.add(body).and_then(|()| call.list())
        };
        assert_eq!(list(&body(0, b"")), Ok(()));
        assert_eq!(list(&body(3, b"\x0a\x01a")), Ok(()));
        assert_eq!(list(&compressed(&gzip(b""))), Ok(()));
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
    fn statuses_as_headers() {
        let of = |status: Status| status.headers().collect::<Vec<_>>();
        assert_eq!(of(Status::Ok), [("grpc-status", "0")]);
        let unknown = [("grpc-status", "5"), ("grpc-message", "unknown service")];
        assert_eq!(of(Status::NotFound), unknown);
        let read = ("grpc-accept-encoding", "identity,gzip,deflate");
        assert_eq!(of(Status::Unimplemented)[2..], [read]);
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
