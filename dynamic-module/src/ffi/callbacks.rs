//! What Envoy exports.

use std::ffi::{c_char, c_int};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::{LazyLock, OnceLock};

use healthz_core::view::Counts;

use super::types::{Buffer, Header, Pointer};
use healthz_core::state::Level;

/// Declares what Envoy's executable exports, all with one prefix. Each is looked up by its name when
/// the module is loaded, so that the log says what an Envoy lacks, and not only that a file cannot be loaded.
macro_rules! callbacks {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        pub struct Callbacks {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Callbacks {
            /// All of them, or the name of the first that Envoy lacks.
            pub fn find() -> Result<Self, &'static str> {
                Ok(Self { $($name: {
                    let symbol = concat!("envoy_dynamic_module_callback_", stringify!($name), "\0");
                    // SAFETY: the name ends with a zero; nothing is called.
                    let found = unsafe { dlsym(null_mut(), symbol.as_ptr().cast()) };
                    if found.is_null() {
                        return Err(stringify!($name));
                    }
                    // SAFETY: Envoy's function of this name has had this signature since 1.38.
                    unsafe {
                        transmute::<Pointer, unsafe extern "C" fn($($type),*) $(-> $result)?>(found)
                    }
                },)* })
            }
        }

        $(pub unsafe fn $name($($argument: $type),*) $(-> $result)? {
            match CALLBACKS.get() {
                // SAFETY: the caller's promise.
                Some(callbacks) => unsafe { (callbacks.$name)($($argument),*) },
                // The module was never loaded; then nothing calls this either.
                None => Default::default(),
            }
        })*
    };
}

/// Set when the module is loaded.
pub static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Whether HTTP filters get the details of a response. 1.38 has the attribute's number, and logs
/// an error if it is read; 1.39 brought it together with attributes for network filters.
pub static HAS_DETAILS: LazyLock<bool> = LazyLock::new(|| {
    let symbol = c"envoy_dynamic_module_callback_network_filter_get_attribute_string";
    // SAFETY: the name ends with a zero; nothing is called.
    !unsafe { dlsym(null_mut(), symbol.as_ptr()) }.is_null()
});

unsafe extern "C" {
    /// The C library's: a null for `library` looks among what the executable exports.
    fn dlsym(library: Pointer, symbol: *const c_char) -> Pointer;
}

// Enums are C ints. `config` is what `config_new` is given, `filter` what `new` is given.
callbacks! {
    log(level: c_int, text: Buffer);
    http_filter_config_define_counter(
        config: Pointer, name: Buffer, labels: *const Buffer, count: usize, id: *mut usize) -> c_int;
    http_filter_config_define_gauge(
        config: Pointer, name: Buffer, labels: *const Buffer, count: usize, id: *mut usize) -> c_int;
    http_filter_increment_counter(
        filter: Pointer, id: usize, labels: *const Buffer, count: usize, value: u64) -> c_int;
    http_filter_set_gauge(
        filter: Pointer, id: usize, labels: *const Buffer, count: usize, value: u64) -> c_int;
    http_get_header(
        filter: Pointer, kind: c_int, name: Buffer, value: *mut Buffer, index: usize, count: *mut usize
    ) -> bool;
    http_get_cluster_name(filter: Pointer, name: *mut Buffer) -> bool;
    http_get_cluster_host_count(
        filter: Pointer, priority: u32, total: *mut usize, healthy: *mut usize, degraded: *mut usize
    ) -> bool;
    network_filter_get_cluster_host_count(
        filter: Pointer, name: Buffer, priority: u32,
        total: *mut usize, healthy: *mut usize, degraded: *mut usize) -> bool;
    http_send_response(
        filter: Pointer, status: u32, headers: *const Header, count: usize, body: Buffer, details: Buffer);
    http_send_response_headers(filter: Pointer, headers: *const Header, count: usize, end: bool);
    http_send_response_data(filter: Pointer, body: Buffer, end: bool);
    http_send_response_trailers(filter: Pointer, trailers: *const Header, count: usize);
    http_filter_get_attribute_string(filter: Pointer, id: c_int, value: *mut Buffer) -> bool;
    http_filter_scheduler_new(filter: Pointer) -> Pointer;
    http_filter_scheduler_commit(scheduler: Pointer, event: u64);
    http_filter_scheduler_delete(scheduler: Pointer);
    http_get_body_chunks_size(filter: Pointer, kind: c_int) -> usize;
    http_get_body_chunks(filter: Pointer, kind: c_int, chunks: *mut Buffer) -> bool;
}

pub const REQUEST_HEADER: c_int = 0;
pub const RECEIVED_REQUEST_BODY: c_int = 0;
pub const RESPONSE_CODE_DETAILS: c_int = 16;

/// Writes a line to Envoy's log.
pub fn write_line(level: Level, line: &str) {
    if CALLBACKS.get().is_none() {
        // While the module is loaded, or where it cannot be: Envoy's log goes there too.
        eprintln!("{line}");
    }
    let level = match level {
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
    };
    // SAFETY: any thread may log; Envoy copies the line.
    unsafe { log(level, Buffer::lend(line)) }
}

/// Runs a query of Envoy's that writes how many hosts a cluster has at one priority.
pub fn hosts_by(query: impl FnOnce(*mut usize, *mut usize, *mut usize) -> bool) -> Option<Counts> {
    let (mut total, mut healthy, mut degraded) = (0, 0, 0);
    query(&raw mut total, &raw mut healthy, &raw mut degraded).then_some(Counts {
        total: total as u64,
        healthy: healthy as u64,
        degraded: degraded as u64,
        excluded: 0,
    })
}
