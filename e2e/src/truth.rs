//! Whether an answer was right: what Envoy itself knew when it was given.
//!
//! Envoy's own health_check filter, which reads that knowledge at every request, is asked beside
//! ours without pause. An answer of ours is right if some sample from `max_age_ms` before the probe
//! until its answer, or the sample before or after that time, agrees with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::prober::Prober;

/// A status, when it was asked for and when it came.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    asked: Instant,
    came: Instant,
    /// `None` if no answer came.
    pub status: Option<u16>,
}

impl Seen {
    /// Asks for `/healthz`.
    pub async fn ask(prober: &Prober) -> Self {
        let asked = Instant::now();
        let answer = prober.try_get("/healthz").await;
        Self {
            asked,
            came: Instant::now(),
            status: answer.ok().map(|answer| answer.status),
        }
    }

    /// Asks again and again, with this pause between, until it is told to stop.
    pub async fn keep_asking(prober: Prober, pause: Duration, stop: Arc<AtomicBool>) -> Vec<Self> {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            seen.push(Self::ask(&prober).await);
            tokio::time::sleep(pause).await;
        }
        seen
    }

    /// The samples of the time that this answer may speak of, if none of them agrees with it.
    pub fn refuted_by<'a>(&self, samples: &'a [Self], max_age: Duration) -> Option<&'a [Self]> {
        let from = self.asked - max_age;
        let first = samples
            .partition_point(|sample| sample.came < from)
            .saturating_sub(1);
        let last = samples.partition_point(|sample| sample.asked <= self.came);
        let known = &samples[first..(last + 1).min(samples.len())];
        let agrees = known.iter().any(|sample| sample.status == self.status);
        (!agrees || self.status.is_none()).then_some(known)
    }
}

/// How often the samples turn from one status to another.
pub fn turns(samples: &[Seen]) -> usize {
    let pairs = samples.windows(2);
    pairs.filter(|two| two[0].status != two[1].status).count()
}
