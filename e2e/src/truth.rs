//! Whether an answer was right: what Envoy itself knew when it was given.
//!
//! Envoy's own health_check filter, which reads that knowledge at every request, is probed beside
//! ours without pause. An answer of ours is right if some sample from `max_age_ms` before the probe
//! until its answer, or the sample before or after that time, agrees with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::prober::Prober;

/// Between two samples.
const PAUSE: Duration = Duration::from_millis(2);

/// A host's health lasts at least this long: a little less than the 100 ms between two checks.
/// Samples that lie further apart, for Envoy or the sampler was held up, may have missed a change.
const SHORTEST: Duration = Duration::from_millis(90);

/// The status of a probe, and its time.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When the probe was sent.
    pub sent: Instant,
    /// When its answer came.
    pub came: Instant,
    /// `None` if no answer came.
    pub status: Option<u16>,
}

/// Probes until it is stopped.
pub struct Probing {
    stop: Arc<AtomicBool>,
    answers: JoinHandle<Vec<Seen>>,
}

/// Probes Envoy's own filter until it is stopped, which is after all answers to be judged have come.
pub struct Sampler {
    built_in: Prober,
    first: Seen,
    probing: Probing,
}

/// What Envoy knew, sample by sample.
pub struct Truth(Vec<Seen>);

/// How many answers were what, beside the truth.
#[derive(Debug, Default)]
pub struct Judged {
    /// Envoy knew the same.
    pub right: usize,
    /// Nobody can tell: there was no sample in time.
    pub unknown: usize,
    /// Envoy knew otherwise, or there was no answer; each with what Envoy knew.
    pub wrong: Vec<(Seen, Vec<Seen>)>,
}

impl Seen {
    /// Probes `/healthz`.
    pub async fn probe(prober: &Prober) -> Self {
        let sent = Instant::now();
        let answer = prober.try_get("/healthz").await;
        Self {
            sent,
            came: Instant::now(),
            status: answer.ok().map(|answer| answer.status),
        }
    }

    /// Probes again and again, with this pause between, until `stop`: by a clone of one prober each time
    /// to keep its connection, or by a new one.
    pub async fn keep_probing(
        prober: impl Fn() -> Prober,
        pause: Duration,
        stop: Arc<AtomicBool>,
    ) -> Vec<Self> {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            seen.push(Self::probe(&prober()).await);
            tokio::time::sleep(pause).await;
        }
        seen
    }
}

impl Probing {
    /// Begins: see [`Seen::keep_probing`].
    pub fn start(prober: impl Fn() -> Prober + Send + 'static, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = tokio::spawn(Seen::keep_probing(prober, pause, Arc::clone(&stop)));
        Self { stop, answers }
    }

    /// Ends; gives all answers.
    pub async fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.answers.await.expect("it ends")
    }
}

impl Sampler {
    /// Begins to probe Envoy's own filter.
    pub async fn start(built_in: Prober) -> Self {
        let first = Seen::probe(&built_in).await;
        let prober = built_in.clone();
        let probing = Probing::start(move || prober.clone(), PAUSE);
        Self {
            built_in,
            first,
            probing,
        }
    }

    /// Ends; gives what Envoy knew.
    pub async fn stop(self) -> Truth {
        let mut samples = vec![self.first];
        samples.extend(self.probing.stop().await);
        samples.push(Seen::probe(&self.built_in).await);
        Truth(samples)
    }
}

impl Truth {
    /// How often it changed from one status to another.
    pub fn changes(&self) -> usize {
        let pairs = self.0.windows(2);
        pairs.filter(|two| two[0].status != two[1].status).count()
    }

    /// Checks answers that may be as old as this against it.
    pub fn judge(&self, answers: impl IntoIterator<Item = Seen>, max_age: Duration) -> Judged {
        let mut judged = Judged::default();
        for answer in answers {
            let known = self.around(answer.sent - max_age, answer.came);
            let agrees = known.iter().any(|sample| sample.status == answer.status);
            let mut pairs = known.windows(2);
            let missed = pairs.any(|two| two[1].came - two[0].sent > SHORTEST);
            if answer.status.is_some() && agrees {
                judged.right += 1;
            } else if answer.status.is_some() && missed {
                judged.unknown += 1;
            } else {
                judged.wrong.push((answer, known.to_vec()));
            }
        }
        judged
    }

    /// The samples of this time, the one before and the one after it.
    fn around(&self, from: Instant, to: Instant) -> &[Seen] {
        let before = self.0.partition_point(|sample| sample.came < from);
        let after = self.0.partition_point(|sample| sample.sent <= to);
        let end = self.0.len().min(after + 1);
        &self.0[before.saturating_sub(1)..end]
    }
}

impl Judged {
    /// What is bad about them: an answer is wrong, or too many cannot be judged.
    pub fn fault(&self) -> Option<String> {
        let Self { right, unknown, .. } = self;
        if let Some((answer, known)) = self.wrong.first() {
            return Some(format!("wrong: {answer:?} beside {known:?}"));
        }
        (unknown * 5 > *right)
            .then(|| format!("{right} answers are right, {unknown} cannot be judged"))
    }
}
