//! A refresh: the calls to the admin, their replies, and what workers share of them.
//!
//! Who shares is decided by what is read, the admin's cluster and the names, and not by the
//! configuration's text: a configuration that replaces another one of the same clusters goes on from the
//! snapshot and the lease that are there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use healthz_core::config::wasm::Config;

use crate::admin::clusters::Cluster;
use crate::admin::pages::{self, Fault, Page, Ready, Report};
use crate::admin::shared::{self, Lease};
use crate::admin::snapshots::{Completed, Knowledge, Outcome, Probe, Snapshots, Timing};
use crate::envoy::{CallError, Envoy, millis, update_shared};

/// How often a worker without a background refresh shares its snapshot with the others, and how often it
/// looks for one of theirs.
const SHARE_PERIOD: Duration = Duration::from_secs(1);
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// A snapshot older than this answers nobody: the bound of `max_stale_ms`, and more than that of `max_age_ms`.
const LONGEST_USE: Duration = Duration::from_secs(600);

/// The keys of all configurations that have shared a snapshot, a line each.
const SHARERS: &str = "envoy-healthz/sharers";

/// How soon a probe that waits is looked after should a wake-up or a reply be lost.
const RESCUE_PERIOD: Duration = Duration::from_millis(50);

/// What a worker knows by the admin, and how it comes by it. `W` is what a waiting probe is for.
pub struct Refresh<W> {
    admin_cluster: String,
    timeout: Duration,
    max_stale: Duration,
    interval: Option<Duration>,
    /// The clusters that are wanted: sorted, each once.
    names: Vec<String>,
    /// The path that asks the admin for them; `None` if there are none.
    clusters_path: Option<String>,
    /// What the keys of shared records begin with.
    key: String,
    snapshots: Snapshots<Report, Fault, W>,
    calls: Option<Calls>,
    /// Whether some refresh, of whichever worker, has been good.
    has_been_good: bool,
    /// When the shared snapshot was last looked at, and when this worker last shared one.
    looked: Option<Duration>,
    shared: Option<Duration>,
    /// When the lease is to be looked at; `None` without a background refresh.
    renewal: Option<Duration>,
}

/// The calls of one refresh.
struct Calls {
    sent: Duration,
    clusters: Reply<Vec<Cluster>>,
    ready: Reply<Ready>,
}

enum Reply<T> {
    /// Not there yet; the call's token.
    Due(u32),
    Came(Result<T, Fault>),
}

/// Probes that need not wait any longer.
pub struct Ended<W> {
    /// Who they are, and what they are answered from.
    pub completed: Completed<Report, Fault, W>,
    /// Whether a refresh has ended as well, and if so, whether it was good.
    pub refreshed: Option<bool>,
}

impl<T> Reply<T> {
    fn is_due(&self, token: u32) -> bool {
        matches!(self, Self::Due(due) if *due == token)
    }
}

impl<W> Refresh<W> {
    /// Begins without knowledge. No call is made if no endpoint needs one.
    pub fn new(config: &Config, now: Duration) -> Self {
        let names = config.cluster_names();
        let mut hash = DefaultHasher::new();
        (&config.admin_cluster, &names).hash(&mut hash);
        let in_background = config.refresh_interval.is_some() && config.asks_the_admin();
        Self {
            admin_cluster: config.admin_cluster.clone(),
            timeout: config.admin_timeout,
            max_stale: config.max_stale,
            interval: config.refresh_interval,
            clusters_path: (!names.is_empty()).then(|| pages::clusters_path(&names)),
            names,
            key: format!("envoy-healthz/{:x}", hash.finish()),
            snapshots: Snapshots::new(Timing {
                max_age: config.max_age,
                max_stale: config.max_stale,
                timeout: config.admin_timeout,
            }),
            calls: None,
            has_been_good: false,
            looked: None,
            shared: None,
            renewal: in_background.then_some(now),
        }
    }

    /// What answers a probe now; without that the probe waits, and is answered when something
    /// [`Ended`].
    pub fn probe(
        &mut self,
        envoy: &impl Envoy,
        id: u32,
        probe: W,
        now: Duration,
    ) -> Option<(W, Knowledge<Report, Fault>)> {
        self.adopt(envoy, now);
        match self.snapshots.probe(id, probe, now) {
            Probe::Answer(probe, knowledge) => Some((probe, knowledge)),
            Probe::Wait => None,
            Probe::Start => {
                envoy.wake();
                None
            }
        }
    }

    /// The client of a probe that waits has gone away.
    pub fn cancel(&mut self, id: u32) {
        self.snapshots.cancel(id);
    }

    /// Sends the calls of a refresh, unless one is under way.
    pub fn start(&mut self, envoy: &impl Envoy, now: Duration) -> Option<Ended<W>> {
        if !self.snapshots.send(now) {
            return None;
        }
        match self.send_calls(envoy, now) {
            Ok(calls) => {
                self.calls = Some(calls);
                None
            }
            Err(fault) => {
                self.calls = None;
                self.complete(envoy, Err(fault), now, now)
            }
        }
    }

    /// A reply has come: its status, `None` if it was lost after its headers, and its body in chunks.
    pub fn replied(
        &mut self,
        envoy: &impl Envoy,
        token: u32,
        status: Option<u32>,
        body: &mut dyn Iterator<Item = Vec<u8>>,
        now: Duration,
    ) -> Option<Ended<W>> {
        let mut calls = self.calls.take()?;
        if calls.clusters.is_due(token) {
            calls.clusters = Reply::Came(pages::read_clusters(&self.names, status, body));
        } else if calls.ready.is_due(token) {
            let beginning = body.next().unwrap_or_default();
            calls.ready = Reply::Came(pages::read_ready(status, &beginning));
        }
        // A refresh ends when both calls have: one that failed at once must not lead to another
        // refresh while the other call still hangs.
        match calls {
            Calls {
                sent,
                clusters: Reply::Came(clusters),
                ready: Reply::Came(ready),
            } => {
                let report = clusters.and_then(|clusters| {
                    let ready = ready?;
                    Ok(Report { clusters, ready })
                });
                self.complete(envoy, report, sent, now)
            }
            calls => {
                self.calls = Some(calls);
                None
            }
        }
    }

    /// Does what is due: gives up a lost call, ends waits, asks for those who wait, renews in the
    /// background.
    pub fn tick(&mut self, envoy: &impl Envoy, now: Duration) -> Vec<Ended<W>> {
        let lost = self.give_up_lost_call(envoy, now);
        self.adopt(envoy, now);
        let overdue = self.snapshots.overdue(now).map(|completed| Ended {
            completed,
            refreshed: None,
        });
        let renews = self.renews(envoy, now);
        let refused = match renews || self.snapshots.is_waiting() {
            true => self.start(envoy, now),
            false => None,
        };
        [lost, overdue, refused].into_iter().flatten().collect()
    }

    /// When the next tick is due; `None` if nothing waits for one.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let rescue = self.snapshots.is_waiting().then(|| now + RESCUE_PERIOD);
        let timers = [self.renewal, rescue, self.snapshots.next_overdue(now)];
        timers.into_iter().flatten().min()
    }

    fn send_calls(&self, envoy: &impl Envoy, now: Duration) -> Result<Calls, Fault> {
        let clusters = match &self.clusters_path {
            Some(path) => Reply::Due(self.call(envoy, path)?),
            None => Reply::Came(Ok(Vec::new())),
        };
        let ready = match self.call(envoy, "/ready") {
            Ok(token) => Reply::Due(token),
            Err(fault) => Reply::Came(Err(fault)),
        };
        // Without a call under way nothing would end this.
        if let (Reply::Came(_), Reply::Came(Err(fault))) = (&clusters, &ready) {
            return Err(fault.clone());
        }
        Ok(Calls {
            sent: now,
            clusters,
            ready,
        })
    }

    fn call(&self, envoy: &impl Envoy, path: &str) -> Result<u32, Fault> {
        let cluster = &self.admin_cluster;
        let sent = envoy.call(cluster, path, self.timeout);
        sent.map_err(|error| match error {
            CallError::NoCluster => Fault::NoCluster(cluster.clone()),
            CallError::NotSent => Fault::NotSent(cluster.clone()),
        })
    }

    /// A call that has not ended long after its timeout counts as one that took too long.
    fn give_up_lost_call(&mut self, envoy: &impl Envoy, now: Duration) -> Option<Ended<W>> {
        if !self.snapshots.is_lost(now) {
            return None;
        }
        let sent = self.calls.take().map_or(now, |calls| calls.sent);
        self.complete(envoy, Err(Fault::TimedOut(Page::Clusters)), sent, now)
    }

    /// Keeps what a refresh has learned and shares it with the other workers; it ends all waits.
    fn complete(
        &mut self,
        envoy: &impl Envoy,
        outcome: Result<Report, Fault>,
        sent: Duration,
        now: Duration,
    ) -> Option<Ended<W>> {
        let outcome = outcome.map_err(|fault| fault.through(&self.admin_cluster));
        let mut refreshed = Some(outcome.is_ok());
        let mut starting = false;
        let outcome = match outcome {
            Ok(report) => {
                self.has_been_good = true;
                self.share(envoy, &report, sent, now);
                Outcome::Good(report)
            }
            Err(fault) if fault.is_silence() => {
                self.adopt(envoy, now);
                starting = !self.has_been_good && matches!(fault, Fault::Starting(_));
                Outcome::Silence(fault)
            }
            Err(fault) => {
                self.forget_shared_snapshot(envoy);
                Outcome::Wrong(fault)
            }
        };
        let completed = self.snapshots.complete(outcome, now)?;
        // Envoy starts, and no listener is open yet: nothing has failed.
        if starting {
            refreshed = None;
            if completed.waiting.is_empty() {
                self.snapshots.forget_failure();
            }
        }
        Some(Ended {
            completed,
            refreshed,
        })
    }

    /// Takes the snapshot that some worker has shared: with a background refresh if ours is due, without
    /// one if we have none that answers while the admin is silent.
    fn adopt(&mut self, envoy: &impl Envoy, now: Duration) {
        let (wanted, pause) = match self.interval {
            Some(interval) => (self.snapshots.is_older_than(interval, now), interval / 8),
            None => {
                let wanted = !self.max_stale.is_zero() && !self.snapshots.has_fallback(now);
                (wanted, LOOK_PERIOD)
            }
        };
        let lately = |looked| now.saturating_sub(looked) < pause;
        if !wanted || self.looked.is_some_and(lately) {
            return;
        }
        self.looked = Some(now);
        // A page of many hosts is read only if it is newer than what is here.
        let newer = |sent| self.snapshots.has_none_younger_than(sent);
        if shared_at(envoy, &self.key).is_some_and(newer)
            && let text = envoy.read_shared(&self.key_of("snapshot")).value
            && let Some((sent, report)) = shared::read_snapshot(&text, &self.names)
        {
            self.has_been_good = true;
            self.snapshots.adopt(sent, report);
        }
    }

    /// Shares a snapshot with the other workers.
    fn share(&mut self, envoy: &impl Envoy, report: &Report, sent: Duration, now: Duration) {
        let lately = |shared| now.saturating_sub(shared) < SHARE_PERIOD;
        let due = !self.max_stale.is_zero() && !self.shared.is_some_and(lately);
        if self.interval.is_some() || due {
            let before = self.shared.replace(now);
            let text = shared::write_snapshot(report, sent);
            envoy.write_shared(&self.key_of("snapshot"), &text);
            envoy.write_shared(&self.key_of("sent"), &sent.as_micros().to_string());
            if before.is_none_or(|before| now.saturating_sub(before) > LONGEST_USE) {
                self.forget_old_snapshots(envoy, now);
            }
        }
    }

    /// Empties what configurations have shared that nobody uses any more, and takes this one into their list.
    /// Envoy never frees shared data; a configuration that goes leaves its snapshot to others of the same clusters.
    fn forget_old_snapshots(&self, envoy: &impl Envoy, now: Duration) {
        let is_used = |key: &&str| {
            let sent = shared_at(envoy, key).unwrap_or_default();
            let used = now.saturating_sub(sent) <= LONGEST_USE;
            if !used {
                envoy.write_shared(&format!("{key}/snapshot"), "");
            }
            used
        };
        update_shared(envoy, SHARERS, |record| {
            let listed = String::from_utf8_lossy(record);
            let others = listed.lines().filter(|key| *key != self.key);
            let used = others.filter(is_used).chain([self.key.as_str()]);
            (Some(used.map(|key| format!("{key}\n")).collect()), ())
        });
    }

    /// Empties the shared snapshot, if there is one.
    fn forget_shared_snapshot(&self, envoy: &impl Envoy) {
        let key = self.key_of("snapshot");
        if !envoy.read_shared(&key).value.is_empty() {
            envoy.write_shared(&key, "");
        }
    }

    /// Whether this worker is to renew the snapshot in the background now: it is due, and no other worker
    /// holds the lease.
    fn renews(&mut self, envoy: &impl Envoy, now: Duration) -> bool {
        let (Some(interval), Some(due)) = (self.interval, self.renewal) else {
            return false;
        };
        if now < due {
            return false;
        }
        let lease = update_shared(envoy, &self.key_of("lease"), |record| {
            match shared::lease(record, millis(now), millis(interval)) {
                Lease::Taken(wait) => (None, (Duration::from_millis(wait), false)),
                Lease::Free(lease) => (Some(lease), (interval, true)),
            }
        });
        let (wait, renews) = lease.unwrap_or((LOOK_PERIOD, false));
        self.renewal = Some(now + wait + Duration::from_millis(1));
        renews
    }

    fn key_of(&self, what: &str) -> String {
        format!("{}/{what}", self.key)
    }
}

/// When the call was sent of the snapshot that is shared under this key; `None` if there is none.
fn shared_at(envoy: &impl Envoy, key: &str) -> Option<Duration> {
    let sent = envoy.read_shared(&format!("{key}/sent")).value;
    let sent = std::str::from_utf8(&sent).ok()?.parse().ok()?;
    Some(Duration::from_micros(sent))
}
