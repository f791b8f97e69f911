//! The filter as a native Envoy dynamic module, `libenvoy_healthz.so`.
//!
//! In the order of a probe's way:
//!
//! 1. `ffi`: Envoy's ABI, the one folder with `unsafe`.
//! 2. [`envoy`]: what the filter needs of Envoy, free of pointers.
//! 3. [`config`]: the shared configuration less what concerns the admin.
//! 4. [`filter`]: a request, to its answer, stats and log lines.
//! 5. [`grpc`]: `grpc.health.v1.Health`: its wire format, calls and open Watches.
//! 6. [`source`]: what the worker knows of the clusters, as the core's view.
//! 7. [`stats`]: what is counted and shown of it.
//! 8. [`record`]: what all workers share: the last verdict of each endpoint, and
//! 9. [`drain`]: whether Envoy drains.

mod ffi;

pub mod config;
pub mod drain;
pub mod envoy;
pub mod filter;
pub mod grpc;
pub mod record;
pub mod source;
pub mod stats;
