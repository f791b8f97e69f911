//! One clock for all workers.

use std::sync::LazyLock;
use std::time::Instant;

/// Milliseconds since some time before the first probe; never 0, and never set back.
pub fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).map_or(u64::MAX >> 1, |millis| millis + 1)
}
