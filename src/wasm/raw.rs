//! The host calls that proxy-wasm's SDK lacks: all headers at once, a local reply's details, the clocks. They
//! need `unsafe`, which stays in here.

#![allow(unsafe_code)]

use std::time::Duration;

use crate::pairs;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, start: *mut *mut u8, size: *mut usize) -> u32;

    #[allow(clippy::too_many_arguments)]
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanoseconds: *mut u64) -> u16;
}

/// All headers of the request at hand, as [`pairs`] reads them. The SDK's function for it panics on a byte that
/// is not UTF-8.
pub fn request_headers() -> Vec<u8> {
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: Envoy writes both. Its memory comes from the SDK's `proxy_on_memory_allocate`: a boxed slice of
    // this size, which nobody else owns.
    unsafe {
        match proxy_get_header_map_pairs(0, &raw mut start, &raw mut size) {
            0 if !start.is_null() => Vec::from_raw_parts(start, size, size),
            _ => Vec::new(),
        }
    }
}

/// Answers the request at hand; access logs show `details`, for which the SDK has no argument.
pub fn send_local_response(
    status: u32,
    details: &str,
    headers: &[(&str, &str)],
    body: &str,
    grpc: Option<i32>,
) {
    let headers = pairs::write(headers);
    // SAFETY: Envoy reads these texts during the call and keeps none of them.
    unsafe {
        proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc.unwrap_or(-1),
        );
    }
}

/// WASI's numbers of its clocks: since 1970, and since the machine's start. std's `Instant` does not give its base.
pub const REALTIME: u32 = 0;
pub const MONOTONIC: u32 = 1;

pub fn clock(id: u32) -> Duration {
    let mut nanoseconds = 0;
    // SAFETY: Envoy writes one number.
    let _ = unsafe { clock_time_get(id, 1, &raw mut nanoseconds) };
    Duration::from_nanos(nanoseconds)
}
