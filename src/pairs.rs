//! Header maps as proxy-wasm writes them: how many pairs, the sizes of each name and value, and then each of
//! them with a zero behind it. Numbers are 32 bits, little-endian. The header `a: bc`:
//!
//! ```text
//! 01000000 01000000 02000000 61 00 6263 00
//! ```

/// The value of the first header of this name; `None` if there is none, or the bytes are no such map.
pub fn find<'m>(map: &'m [u8], wanted: &[u8]) -> Option<&'m [u8]> {
    let (count, rest) = number(map)?;
    let (mut sizes, mut rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    for _ in 0..count {
        let (name_size, more) = number(sizes)?;
        let (value_size, more) = number(more)?;
        sizes = more;
        let (name, more) = rest.split_at_checked(name_size)?;
        let (value, more) = more.get(1..)?.split_at_checked(value_size)?;
        if name == wanted {
            return Some(value);
        }
        rest = more.get(1..)?;
    }
    None
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u32::from_le_bytes(*number)).ok()?, rest))
}

/// Writes headers so.
pub fn write(headers: &[(&str, &str)]) -> Vec<u8> {
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(0).to_le_bytes();
    let mut map = Vec::with_capacity(128);
    map.extend(u32::try_from(headers.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in headers {
        map.extend(size(name));
        map.extend(size(value));
    }
    for (name, value) in headers {
        map.extend(name.bytes());
        map.push(0);
        map.extend(value.bytes());
        map.push(0);
    }
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let headers = [(":path", "/healthz"), ("a", ""), ("", "b"), ("a", "second")];
        let map = write(&headers);
        for (name, value) in [(":path", "/healthz"), ("a", ""), ("", "b")] {
            assert_eq!(find(&map, name.as_bytes()), Some(value.as_bytes()));
        }
        assert_eq!(find(&map, b"accept"), None);
        assert_eq!(find(&write(&[]), b"a"), None);
        let example = b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0";
        assert_eq!(write(&[("a", "bc")]), example);
        // Cut anywhere, it is found whole or not at all.
        for end in 0..example.len() {
            let found = find(&example[..end], b"a");
            assert!(found.is_none_or(|value| value == b"bc"), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(map in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = find(&map, b"a");
        }
    }
}
