//! The filter as a native Envoy dynamic module, `libenvoy_healthz.so`.
//!
//! In the order of a probe's way:
//!
//! 1. `ffi`: Envoy's ABI, the one folder with `unsafe`.
//! 2. [`envoy`]: what the filter needs of Envoy, free of pointers.
//! 3. [`filter`]: a request, to its answer. Its configuration is [`healthz_core::config::module`].
//! 4. [`grpc`]: `grpc.health.v1.Health`: its wire format, calls and open Watches.
//! 5. [`source`]: what the worker knows of the clusters, as the core's view.
//! 6. [`drain`]: whether Envoy drains, for open Watches only. In a drain Envoy's own health_check filter refuses
//!    probes and calls before they reach us: [`filter`] notes each refusal, and [`grpc`] tells the open Watches.
//! 7. [`recorder`]: what is said of answers, once for all workers: in the log, and by [`stats`].
//! 8. [`shared`] and [`clock`]: what configurations of one name share, and the one clock.
//!
//! What to change where: the table in .github/CONTRIBUTING.md.

mod ffi;

pub mod envoy;
pub mod filter;

pub mod grpc;
pub mod source;

pub mod drain;
pub mod recorder;
pub mod stats;

pub mod clock;
pub mod shared;
