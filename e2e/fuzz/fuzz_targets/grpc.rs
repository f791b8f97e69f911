//! Any body of a gRPC call, in random pieces and by each encoding: the same service or status as in one
//! piece; no more than its bound is unpacked; and any name, compressed or not, is read as it was written.
#![no_main]

use std::io::Read;

use flate2::Compression;
use flate2::bufread::{GzEncoder, ZlibEncoder};
use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../../dynamic-module/src/grpc/wire.rs"]
mod wire;

use wire::{Call, Method, Status};

const ENCODINGS: [&[u8]; 4] = [b"", b"gzip", b"deflate", b"zstd"];

fn read(
    method: Method,
    encoding: &[u8],
    pieces: impl Iterator<Item = impl AsRef<[u8]>>,
) -> (Result<String, Status>, bool) {
    let mut call = Call::new(method, encoding);
    for piece in pieces {
        if let Err(status) = call.add(piece.as_ref()) {
            return (Err(status), false);
        }
    }
    (call.service(), call.list().is_ok())
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, body)) = input.split_first() else {
        return;
    };
    for encoding in ENCODINGS {
        let whole = read(Method::Check, encoding, std::iter::once(body));
        let chunks = body.chunks(usize::from(size) + 1);
        assert_eq!(whole, read(Method::Check, encoding, chunks));
        let bytes = body.iter().map(|byte| [*byte]);
        assert_eq!(whole, read(Method::Check, encoding, bytes));
        if let (Ok(service), _) = &whole {
            assert!(service.len() <= 4096 && body.len() <= 5 + 4096);
            assert!(body.first() <= Some(&1));
        }
        let (watch, _) = read(Method::Watch, encoding, std::iter::once(body));
        match &whole.0 {
            Err(Status::Unimplemented) => assert_eq!(watch, Err(Status::Internal)),
            other => assert_eq!(watch, *other),
        }
        // The input as what is to be unpacked.
        let _ = read(Method::Check, encoding, framed(1, body));
    }

    // The input as a name: one message, which is read as it was written.
    let name = String::from_utf8_lossy(input);
    let field: Vec<u8> = [&[0x0a][..], &varint(name.len()), name.as_bytes()].concat();
    let gzip = bytes_of(GzEncoder::new(&field[..], Compression::default()));
    let zlib = bytes_of(ZlibEncoder::new(&field[..], Compression::default()));
    for (encoding, flag, message) in [
        (&b""[..], 0, &field),
        (b"gzip", 1, &gzip),
        (b"deflate", 1, &zlib),
    ] {
        match read(Method::Watch, encoding, framed(flag, message)).0 {
            Ok(service) => assert_eq!(service, name),
            Err(status) => assert!(
                status == Status::ResourceExhausted && field.len().max(message.len()) > 4096
            ),
        }
    }
});

/// A message behind its prefix.
fn framed(flag: u8, message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let length = u32::try_from(message.len()).expect("it is short");
    let prefix = [&[flag][..], &length.to_be_bytes()].concat();
    [prefix, message.to_vec()].into_iter()
}

fn bytes_of(mut encoder: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).expect("it is in memory");
    bytes
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
