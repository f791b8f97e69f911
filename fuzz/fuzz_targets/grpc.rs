//! Any body of a gRPC call, in random pieces: the same service or status as in one piece; and any name,
//! read as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../dynamic-module/src/grpc.rs"]
mod grpc;

use grpc::{Incoming, Status};

fn read(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> (Result<String, Status>, bool) {
    let mut incoming = Incoming::default();
    for piece in pieces {
        if let Err(status) = incoming.add(piece.as_ref()) {
            return (Err(status), false);
        }
    }
    (incoming.service(), incoming.list().is_ok())
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, body)) = input.split_first() else {
        return;
    };
    let whole = read(std::iter::once(body));
    assert_eq!(whole, read(body.chunks(usize::from(size) + 1)));
    assert_eq!(whole, read(body.iter().map(|byte| [*byte])));
    if let (Ok(service), _) = &whole {
        assert!(service.len() <= 4096 && body.len() <= 5 + 4096);
        assert_eq!(body.first(), Some(&0));
    }

    // The input as a name: one message, which is read as it was written.
    let name = String::from_utf8_lossy(input);
    let field: Vec<u8> = [&[0x0a][..], &varint(name.len()), name.as_bytes()].concat();
    let length = u32::try_from(field.len())
        .expect("it is short")
        .to_be_bytes();
    let (service, _) = read([&[0][..], &length, &field].into_iter());
    match service {
        Ok(service) => assert_eq!(service, name),
        Err(status) => assert!(status == Status::ResourceExhausted && field.len() > 4096),
    }
});

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
