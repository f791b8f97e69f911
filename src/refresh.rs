//! A refresh: the calls to the admin, their replies, and what workers share of them.
//!
//! Who shares is decided by what is read, the admin's cluster and the names, and not by the
//! configuration's text: a configuration that replaces another one of the same clusters goes on from the
//! snapshot and the lease that are there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use healthz_core::config::wasm::Config;

use crate::admin::Known;
use crate::admin::clusters::Cluster;
use crate::admin::pages::{self, Fault, Page, Ready, Report};
use crate::admin::shared::{self, Lease};
use crate::admin::snapshots::{Completed, Knowledge, Outcome, Snapshot, Snapshots, Timing};
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
    interval: Option<Duration>,
    /// How old our own snapshot may be before another worker's is wanted: with a background refresh until it
    /// is due, without one as long as it answers while the admin is silent. Zero: none is shared.
    lifetime: Duration,
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

/// The calls of one refresh, and what has come of them.
struct Calls {
    /// Those that have not ended: their tokens.
    due: Vec<(u32, Page)>,
    clusters: Result<Vec<Cluster>, Fault>,
    ready: Result<Ready, Fault>,
}

/// Probes that need not wait any longer, and whether a refresh has ended as well.
pub type Ended<W> = Completed<Report, Fault, W>;

impl<W> Refresh<W> {
    /// Begins without knowledge. No call is made if no endpoint needs one.
    pub fn new(config: &Config, now: Duration) -> Self {
        let names = config.cluster_names();
        let mut hash = DefaultHasher::new();
        (&config.admin_cluster, &names).hash(&mut hash);
        let in_background = config.refresh_interval.is_some() && config.asks_the_admin();
        Self {
            admin_cluster: config.admin_cluster.clone(),
            interval: config.refresh_interval,
            lifetime: config.refresh_interval.unwrap_or(config.max_stale),
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
    pub fn probe(&mut self, envoy: &impl Envoy, id: u32, probe: W, now: Duration) -> Option<Known> {
        self.adopt(envoy, now);
        let known = self.snapshots.at_hand(now);
        if known.is_none() && self.snapshots.wait(id, probe, now) {
            envoy.wake();
        }
        known
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
        let mut calls = Calls {
            due: Vec::new(),
            clusters: Ok(Vec::new()),
            ready: Ok(Ready::Yes),
        };
        if let Some(path) = &self.clusters_path {
            match self.call(envoy, path) {
                Ok(token) => calls.due.push((token, Page::Clusters)),
                Err(fault) => calls.clusters = Err(fault),
            }
        }
        if calls.clusters.is_ok() {
            match self.call(envoy, "/ready") {
                Ok(token) => calls.due.push((token, Page::Ready)),
                Err(fault) => calls.ready = Err(fault),
            }
        }
        self.calls = Some(calls);
        self.end(envoy, now)
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
        let calls = self.calls.as_mut()?;
        let place = calls.due.iter().position(|(due, _)| *due == token)?;
        match calls.due.remove(place) {
            (_, Page::Clusters) => {
                calls.clusters = pages::read_clusters(&self.names, status, body);
            }
            (_, Page::Ready) => {
                let beginning = body.next().unwrap_or_default();
                calls.ready = pages::read_ready(status, &beginning);
            }
        }
        self.end(envoy, now)
    }

    /// Does what is due: gives up a lost call, ends waits, asks for those who wait, renews in the
    /// background.
    pub fn tick(&mut self, envoy: &impl Envoy, now: Duration) -> Vec<Ended<W>> {
        let lost = self.give_up_lost_call(envoy, now);
        self.adopt(envoy, now);
        let overdue = self.snapshots.overdue(now);
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

    fn call(&self, envoy: &impl Envoy, path: &str) -> Result<u32, Fault> {
        let cluster = &self.admin_cluster;
        let sent = envoy.call(cluster, path, self.snapshots.timing.timeout);
        sent.map_err(|error| match error {
            CallError::NoCluster => Fault::NoCluster(cluster.clone()),
            CallError::NotSent => Fault::NotSent(cluster.clone()),
        })
    }

    /// A refresh ends when all its calls have: one that failed at once must not lead to another refresh
    /// while the other call still hangs.
    fn end(&mut self, envoy: &impl Envoy, now: Duration) -> Option<Ended<W>> {
        let calls = self.calls.take_if(|calls| calls.due.is_empty())?;
        let report = match (calls.clusters, calls.ready) {
            (Ok(clusters), Ok(ready)) => Ok(Report { clusters, ready }),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        };
        self.complete(envoy, report, now)
    }

    /// A call that has not ended long after its timeout counts as one that took too long.
    fn give_up_lost_call(&mut self, envoy: &impl Envoy, now: Duration) -> Option<Ended<W>> {
        if !self.snapshots.is_lost(now) {
            return None;
        }
        self.calls = None;
        self.complete(envoy, Err(Fault::TimedOut(Page::Clusters)), now)
    }

    /// Keeps what a refresh has learned and shares it with the other workers; it ends all waits.
    fn complete(
        &mut self,
        envoy: &impl Envoy,
        report: Result<Report, Fault>,
        now: Duration,
    ) -> Option<Ended<W>> {
        let mut starting = false;
        let outcome = match report.map_err(|fault| fault.through(&self.admin_cluster)) {
            Ok(report) => Outcome::Good(report),
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
        let mut ended = self.snapshots.complete(outcome, now)?;
        if let (Some(true), Knowledge::Fresh(good)) = (ended.refreshed, &ended.knowledge) {
            self.has_been_good = true;
            self.share(envoy, good, now);
        }
        // Envoy starts, and no listener is open yet: nothing has failed.
        if starting {
            ended.refreshed = None;
            if ended.waiting.is_empty() {
                self.snapshots.forget_failure();
            }
        }
        Some(ended)
    }

    /// Takes the snapshot that some worker has shared, if ours is too old and theirs is newer.
    fn adopt(&mut self, envoy: &impl Envoy, now: Duration) {
        let own = self.snapshots.sent();
        if self.lifetime.is_zero() || !is_over(self.lifetime, own, now) {
            return;
        }
        let pause = self.interval.map_or(LOOK_PERIOD, |interval| interval / 8);
        if !is_over(pause, self.looked, now) {
            return;
        }
        self.looked = Some(now);
        // A page of many hosts is read only if it is newer than what is here.
        if shared_at(envoy, &self.key) > own
            && let text = envoy.read_shared(&self.key_of("snapshot")).value
            && let Some((sent, report)) = shared::read_snapshot(&text, &self.names)
        {
            self.has_been_good = true;
            self.snapshots.adopt(sent, report);
        }
    }

    /// Shares a snapshot with the other workers.
    fn share(&mut self, envoy: &impl Envoy, snapshot: &Snapshot<Report>, now: Duration) {
        let pause = self.interval.map_or(SHARE_PERIOD, |_| Duration::ZERO);
        if self.lifetime.is_zero() || !is_over(pause, self.shared, now) {
            return;
        }
        let before = self.shared.replace(now);
        let Snapshot { sent, report } = snapshot;
        let text = shared::write_snapshot(report, *sent);
        envoy.write_shared(&self.key_of("snapshot"), &text);
        envoy.write_shared(&self.key_of("sent"), &sent.as_micros().to_string());
        if is_over(LONGEST_USE, before, now) {
            self.forget_old_snapshots(envoy, now);
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
            Some(used.map(|key| format!("{key}\n")).collect())
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
        let mut wait = LOOK_PERIOD;
        let renews = update_shared(envoy, &self.key_of("lease"), |record| {
            match shared::lease(record, millis(now), millis(interval)) {
                Lease::Taken(left) => {
                    wait = Duration::from_millis(left);
                    None
                }
                Lease::Free(lease) => Some(lease),
            }
        });
        if renews {
            wait = interval;
        }
        self.renewal = Some(now + wait + Duration::from_millis(1));
        renews
    }

    fn key_of(&self, what: &str) -> String {
        format!("{}/{what}", self.key)
    }
}

/// Whether this much time has passed since then, or it never was.
fn is_over(time: Duration, since: Option<Duration>, now: Duration) -> bool {
    since.is_none_or(|since| now.saturating_sub(since) >= time)
}

/// When the call was sent of the snapshot that is shared under this key; `None` if there is none.
fn shared_at(envoy: &impl Envoy, key: &str) -> Option<Duration> {
    let sent = envoy.read_shared(&format!("{key}/sent")).value;
    let sent = std::str::from_utf8(&sent).ok()?.parse().ok()?;
    Some(Duration::from_micros(sent))
}
