//! A refresh: the calls to the admin, their replies, and those who waited for them.

use std::time::Duration;

use healthz_core::judgement::judge;
use healthz_core::transition::Transition;
use log::Level;

use super::{Filter, PendingProbe, State, WATCH_PERIOD, view};
use crate::admin::clusters::Cluster;
use crate::admin::pages::{self, Fault, Page, Ready, Report};
use crate::admin::shared::{self, Lease};
use crate::admin::snapshots::{Completed, Knowledge, Outcome};
use crate::host::{CallError, Host};

/// How often a worker without a background refresh shares its snapshot with the others.
const SHARE_PERIOD: Duration = Duration::from_secs(1);

/// The calls of one refresh.
pub(super) struct Refresh {
    /// When it was sent, by the wall clock.
    asked: u64,
    clusters: Reply<Vec<Cluster>>,
    ready: Reply<Ready>,
}

enum Reply<T> {
    /// Not there yet; the call's token.
    Due(u32),
    Came(Result<T, Fault>),
}

impl<T> Reply<T> {
    fn is_due(&self, token: u32) -> bool {
        matches!(self, Self::Due(due) if *due == token)
    }
}

impl<H: Host> Filter<H> {
    /// Sends the calls of a refresh, unless one is under way.
    pub(super) fn ask(&self) {
        let Some(mut state) = self.state() else {
            return;
        };
        if !state.snapshots.send(self.now()) {
            return;
        }
        match self.send_calls() {
            Ok(refresh) => state.refresh = Some(refresh),
            Err(fault) => {
                state.refresh = None;
                drop(state);
                self.complete(Err(fault), self.host.wall_clock());
            }
        }
    }

    fn send_calls(&self) -> Result<Refresh, Fault> {
        let asked = self.host.wall_clock();
        let clusters = match &self.clusters_path {
            Some(path) => Reply::Due(self.call(path)?),
            None => Reply::Came(Ok(Vec::new())),
        };
        let ready = match self.config.asks_ready() {
            true => self
                .call("/ready")
                .map_or_else(|fault| Reply::Came(Err(fault)), Reply::Due),
            false => Reply::Came(Ok(Ready::NotAsked)),
        };
        Ok(Refresh {
            asked,
            clusters,
            ready,
        })
    }

    fn call(&self, path: &str) -> Result<u32, Fault> {
        let cluster = &self.config.admin_cluster;
        let sent = self.host.call(cluster, path, self.config.admin_timeout);
        sent.map_err(|error| match error {
            CallError::NoCluster => Fault::NoCluster(cluster.clone()),
            CallError::NotSent => Fault::NotSent(cluster.clone()),
        })
    }

    /// A reply has come: its status, `None` if it was lost after its headers, and its body in chunks.
    pub fn replied(
        &self,
        token: u32,
        status: Option<u32>,
        body: &mut dyn Iterator<Item = Vec<u8>>,
    ) {
        let Some(mut state) = self.state() else {
            return;
        };
        let Some(mut refresh) = state.refresh.take() else {
            return;
        };
        if refresh.clusters.is_due(token) {
            refresh.clusters = Reply::Came(pages::read_clusters(&self.names, status, body));
        } else if refresh.ready.is_due(token) {
            let beginning = body.next().unwrap_or_default();
            refresh.ready = Reply::Came(pages::read_ready(status, &beginning));
        }
        // A refresh ends when both calls have: one that failed at once must not lead to another
        // refresh while the other call still hangs.
        match refresh {
            Refresh {
                asked,
                clusters: Reply::Came(clusters),
                ready: Reply::Came(ready),
            } => {
                drop(state);
                let report = clusters.and_then(|clusters| {
                    let ready = ready?;
                    Ok(Report { clusters, ready })
                });
                self.complete(report, asked);
            }
            refresh => state.refresh = Some(refresh),
        }
    }

    /// A call whose end was never told counts as one that took too long.
    pub(super) fn give_up_lost_call(&self, now: Duration) {
        let lost = self.state().filter(|state| state.snapshots.is_lost(now));
        if let Some(mut state) = lost {
            let refresh = state.refresh.take();
            drop(state);
            let asked = refresh.map_or_else(|| self.host.wall_clock(), |refresh| refresh.asked);
            self.complete(Err(Fault::TimedOut(Page::Clusters)), asked);
        }
    }

    /// Keeps what a refresh learned, tells the other workers, and answers all who waited for it.
    /// It was `asked` for then, by the wall clock.
    fn complete(&self, outcome: Result<Report, Fault>, asked: u64) {
        let now = self.now();
        let Some(mut state) = self.state() else {
            return;
        };
        self.metrics.count_refresh(outcome.is_ok());
        if let Ok(report) = &outcome {
            self.log_unknown_flags(&mut state.unknown_flags, report);
            self.share(&mut state, report, asked, now);
        }
        let fault = outcome.as_ref().err().cloned();
        let outcome = match outcome {
            Ok(report) => Outcome::Good(report),
            Err(fault) if fault.is_silence() => {
                self.look_for_spare(&mut state, now);
                Outcome::Silence(fault)
            }
            Err(fault) => {
                self.forget_shared_snapshot();
                Outcome::Wrong(fault)
            }
        };
        let completed = state.snapshots.complete(outcome, now);
        drop(state);
        let Some(completed) = completed else {
            return;
        };
        self.note_admin(fault.as_ref(), &completed.knowledge, asked);
        if !matches!(completed.knowledge, Knowledge::Stale(_)) {
            self.note_endpoints(&completed.knowledge, asked);
        }
        self.answer_all(completed, now);
        // The tick may be off by now.
        self.metrics.flush(&self.host);
    }

    /// Logs when the admin becomes unavailable, and when it is available again.
    fn note_admin(&self, fault: Option<&Fault>, known: &Knowledge<Report, Fault>, asked: u64) {
        let transition = self.compare(&self.admin, fault.is_none().into(), asked);
        match (transition, fault) {
            (Transition::Changed { .. }, Some(fault)) => {
                let mut line = format!("admin unavailable: {}", fault.cause());
                if !matches!(known, Knowledge::Nothing(_)) {
                    let limit = self.config.max_stale.as_millis();
                    line += &format!("; the last snapshot answers until it is {limit} ms old");
                }
                self.log(Level::Warn, &line);
            }
            (Transition::Changed { first: false }, None) => {
                self.log(Level::Info, "admin available again");
            }
            _ => {}
        }
    }

    /// Logs and counts each endpoint whose health has changed.
    fn note_endpoints(&self, knowledge: &Knowledge<Report, Fault>, asked: u64) {
        let endpoints = self.config.endpoints.iter().enumerate();
        for (index, endpoint) in endpoints.filter(|(_, endpoint)| !endpoint.needs_nothing()) {
            self.note(index, &judge(endpoint, view(knowledge)), asked);
        }
    }

    /// The first verdict that an endpoint is asked for, when the snapshot is at hand.
    pub(super) fn note_at_hand(
        &self,
        index: usize,
        knowledge: &Knowledge<Report, Fault>,
        now: Duration,
    ) {
        let age = u64::try_from(knowledge.age(now).as_millis()).unwrap_or(u64::MAX);
        if let Some(endpoint) = self.config.endpoints.get(index) {
            let asked = self.host.wall_clock().saturating_sub(age);
            self.note(index, &judge(endpoint, view(knowledge)), asked);
        }
    }

    /// Answers probes that waited.
    pub(super) fn answer_all(
        &self,
        completed: Completed<Report, Fault, PendingProbe>,
        now: Duration,
    ) {
        for (id, pending) in completed.waiting {
            let response = self.response(pending, &completed.knowledge, now);
            self.metrics.count_probe(pending.0, &response);
            self.host.answer(id, &response);
        }
    }

    /// With a background refresh: takes the snapshot that some worker has shared, if ours is old.
    /// Without one: keeps it for when the admin is silent, if we have none.
    pub(super) fn adopt(&self, state: &mut State, now: Duration) {
        let Some(interval) = self.config.refresh_interval else {
            return self.look_for_spare(state, now);
        };
        if state.snapshots.is_older_than(interval, now)
            && let Some((asked, report)) = self.find_shared(state, interval / 8, now)
        {
            state.snapshots.adopt(asked, report);
        }
    }

    fn look_for_spare(&self, state: &mut State, now: Duration) {
        if !self.config.max_stale.is_zero()
            && !state.snapshots.has_fallback(now)
            && let Some((asked, report)) = self.find_shared(state, WATCH_PERIOD, now)
        {
            state.snapshots.keep_spare(asked, report);
        }
    }

    /// The shared snapshot, if it was not looked at within this pause, and is another one than then:
    /// when the wall clock is set back, an old one seems young again.
    fn find_shared(
        &self,
        state: &mut State,
        pause: Duration,
        now: Duration,
    ) -> Option<(Duration, Report)> {
        let looked = state.looked;
        if looked.is_some_and(|looked| now.saturating_sub(looked) < pause) {
            return None;
        }
        state.looked = Some(now);
        let text = self.host.read_shared(&self.key_of("snapshot"))?.value?;
        let (asked, report) = shared::read_snapshot(&text, &self.names)?;
        if asked == std::mem::replace(&mut state.found, asked) {
            return None;
        }
        let age = self.host.wall_clock().checked_sub(asked)?;
        Some((now.checked_sub(Duration::from_millis(age))?, report))
    }

    /// Shares a snapshot with the other workers.
    fn share(&self, state: &mut State, report: &Report, asked: u64, now: Duration) {
        let shared = state.shared;
        let lately = shared.is_some_and(|shared| now.saturating_sub(shared) < SHARE_PERIOD);
        let background = self.config.refresh_interval.is_some();
        if background || (!self.config.max_stale.is_zero() && !lately) {
            state.shared = Some(now);
            let text = shared::write_snapshot(report, asked);
            self.host.write_shared(&self.key_of("snapshot"), &text);
        }
    }

    /// Empties the shared snapshot, if there is one.
    pub(super) fn forget_shared_snapshot(&self) {
        let key = self.key_of("snapshot");
        let found = self.host.read_shared(&key).and_then(|found| found.value);
        if found.is_some_and(|text| !text.is_empty()) {
            self.host.write_shared(&key, "");
        }
    }

    /// Renews the snapshot in the background if it is due and no other worker holds the lease; gives
    /// the time until the next.
    pub(super) fn renew_in_background(&self) -> Option<Duration> {
        let interval = self.config.refresh_interval?;
        if !self.asks_the_admin() {
            return None;
        }
        let key = self.key_of("lease");
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let Some(record) = self.host.read_shared(&key) else {
            return Some(WATCH_PERIOD);
        };
        let now = self.host.wall_clock();
        let wait = match shared::lease(record.value.as_deref(), now, interval) {
            Lease::Taken(wait) => wait,
            Lease::Free(_) if self.is_replaced() => interval,
            Lease::Free(lease) => {
                if self.host.replace_shared(&key, &lease, &record) {
                    self.ask();
                }
                interval
            }
        };
        Some(Duration::from_millis(wait + 1))
    }
}
