//! The messages, client and server of `yages.Echo`, made from `proto/yages.proto`.

#[allow(missing_docs)]
mod generated {
    tonic::include_proto!("yages");
}

pub use generated::*;

/// The encoded `FileDescriptorSet` of `yages.proto`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/yages.bin"));
