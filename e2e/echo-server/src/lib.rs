//! The messages, client and server of `yages.Echo`, made from `proto/yages.proto`; `tests/generated.rs` makes
//! them anew, so that no build of the backend waits for a compiler of proto files.

#[allow(missing_docs)]
mod generated {
    include!("generated/yages.rs");
}

pub use generated::*;

/// The encoded `FileDescriptorSet` of `yages.proto`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/yages.bin");
