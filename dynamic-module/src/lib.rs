//! The filter as a native Envoy dynamic module, `libenvoy_healthz.so`.
//!
//! In the order of a probe's way:
//!
//! 1. `ffi`: Envoy's ABI, the one folder with `unsafe`.
//! 2. [`envoy`]: what the filter asks of Envoy, free of pointers.
//! 3. [`healthz_core::config::module`]: the configuration.
//! 4. [`filter`]: a request, to its answer, stats and log lines.
//! 5. [`grpc`]: `grpc.health.v1.Health` on the wire.
//! 6. [`watch`]: open Watches, and who is told when.
//! 7. [`source`]: what the worker knows of the clusters, as the core's view.
//! 8. [`connections`]: the network filters by which any cluster can be asked for.
//! 9. [`stats`]: what is counted and shown of it.
//! 10. [`record`]: what all workers share: the last verdict of each endpoint, and
//! 11. [`drain`]: whether Envoy drains.

mod ffi;

pub mod connections;
pub mod drain;
pub mod envoy;
pub mod filter;
pub mod grpc;
pub mod record;
pub mod source;
pub mod stats;
pub mod watch;
