//! What crosses the ABI by value.

use std::ffi::c_void;
use std::ptr::null;
use std::slice;

/// Text that one side lends to the other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    start: *const u8,
    size: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub name: Buffer,
    pub value: Buffer,
}

impl Header {
    pub const EMPTY: Self = Self {
        name: Buffer::EMPTY,
        value: Buffer::EMPTY,
    };
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

    pub const EMPTY: Self = Self {
        start: null(),
        size: 0,
    };

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
