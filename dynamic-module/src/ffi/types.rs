//! What crosses the ABI by value.

use std::ffi::c_void;
use std::slice;

/// Text that one side lends to the other.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Buffer {
    start: *const u8,
    size: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Header {
    pub name: Buffer,
    pub value: Buffer,
}

impl Header {
    pub fn lend((name, value): (&str, &str)) -> Self {
        let (name, value) = (Buffer::lend(name), Buffer::lend(value));
        Self { name, value }
    }
}

/// What Envoy calls one of its objects, or we one of ours.
pub type Pointer = *mut c_void;

impl Buffer {
    /// Lends text to Envoy, which copies what it keeps.
    pub fn lend(text: &str) -> Self {
        Self::lend_bytes(text.as_bytes())
    }

    pub fn lend_bytes(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            size: bytes.len(),
        }
    }

    /// # Safety
    /// Envoy wrote this buffer, and what it leads to lives for `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; an empty text may come as a null, which is out by now.
        unsafe { slice::from_raw_parts(self.start, self.size) }
    }
}
