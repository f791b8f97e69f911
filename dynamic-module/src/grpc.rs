//! `grpc.health.v1.Health`, answered by the module.
//!
//! 1. [`wire`]: methods, messages and statuses as bytes, apart from any Envoy.
//! 2. [`watch`]: open Watches, and when each is sent a status.
//! 3. [`calls`]: a call's message, to its reply.

pub mod calls;
pub mod watch;
pub mod wire;
