//! What the filter asks of the Envoy it runs in. `wasm` makes the real host calls; the tests have an Envoy of
//! their own, whose clock, shared data and replies they move.

use std::time::Duration;

use healthz_core::state::Level;

/// The Envoy of one root: one worker's filter of one configuration.
pub trait Envoy {
    /// The time since this machine started. It never goes back, and all workers of a process share it.
    fn now(&self) -> Duration;

    /// The time since 1970 by the machine's clock, which may be set.
    fn unix_time(&self) -> Duration;

    /// The memory that this worker's virtual machine has, in bytes.
    fn memory(&self) -> u64;

    /// Sends `GET path` to a cluster; the reply comes with this token, also when there is none in
    /// time.
    fn call(&self, cluster: &str, path: &str, timeout: Duration) -> Result<u32, CallError>;

    /// Calls this root back soon, outside of any request.
    fn wake(&self);

    /// Makes the tick come every `period` from now on, or no more.
    fn set_tick(&self, period: Option<Duration>);

    /// Reads a record that all workers share.
    fn read_shared(&self, key: &str) -> Shared;

    /// Writes a shared record, unless another worker has written it since it was read.
    fn replace_shared(&self, key: &str, value: &str, read: &Shared) -> bool;

    /// Writes a shared record.
    fn write_shared(&self, key: &str, value: &str);

    /// Adds to a counter.
    fn add(&self, counter: &str, count: i64);

    /// Sets a gauge.
    fn set(&self, gauge: &str, value: u64);

    /// Writes a line of the log.
    fn log(&self, level: Level, line: &str);
}

/// Why a call could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// Envoy has no cluster of this name.
    NoCluster,
    /// The cluster has no host, or its circuit breaker is open.
    NotSent,
}

/// A shared record as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// Its value; empty if it is not there.
    pub value: Vec<u8>,
    /// Its number, which changes with each write; `None` if it is not there.
    pub version: Option<u32>,
}

/// How often a record is tried to be written against other workers that write it too.
const TRIES: usize = 8;

/// Writes what `next` makes of a shared record's value, if anything. Of several workers that do so at once one
/// wins, and the others look again. Whether it was written: not if there is nothing to write, or others were
/// always faster.
pub fn update_shared(
    envoy: &impl Envoy,
    key: &str,
    mut next: impl FnMut(&[u8]) -> Option<String>,
) -> bool {
    for _ in 0..TRIES {
        let read = envoy.read_shared(key);
        let Some(value) = next(&read.value) else {
            return false;
        };
        if envoy.replace_shared(key, &value, &read) {
            return true;
        }
    }
    false
}

/// A time in whole milliseconds, as shared records hold it.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
