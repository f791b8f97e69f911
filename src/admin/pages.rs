//! What a refresh asks of Envoy's admin, and what the replies are worth.
//!
//! `GET /clusters?filter=^(?:my_service)$` lists the hosts (Envoy 1.36 and 1.37 do not know `filter`
//! and send every cluster), and `GET /ready` whether Envoy is draining:
//!
//! ```text
//! HTTP/1.1 503 Service Unavailable
//! DRAINING
//! ```
//!
//! A reply that is not a whole one of Envoy's is no knowledge: it becomes a [`Fault`]. Some faults are silence,
//! which says nothing of the backend: Envoy's admin runs on its main thread, and a scrape of a large
//! `/stats` or a large xDS update keeps that thread busy for seconds.

use std::fmt::{self, Write};

use healthz_core::view::{ClusterView, Override, View};

use crate::admin::clusters::{Cluster, ClustersError, Parser};

/// A page of the admin that a refresh asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/clusters`: the hosts and their health flags.
    Clusters,
    /// `/ready`: whether Envoy is live.
    Ready,
}

/// What one refresh learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The clusters that are wanted, sorted by name.
    pub clusters: Vec<Cluster>,
    /// Whether Envoy is live.
    pub ready: Ready,
}

/// What the admin's `/ready` said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ready {
    /// 200 `LIVE`.
    #[default]
    Yes,
    /// 503 and a state: `503 DRAINING`.
    No(String),
}

/// Why a refresh learned nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Envoy has no cluster of this name.
    NoCluster(String),
    /// Envoy would not send the call: the cluster has no host, or its circuit breaker is open.
    NotSent(String),
    /// The page was answered with this status. Envoy itself says 503 for a refused connection.
    Status(Page, u32),
    /// Envoy's own 503 for a call through the cluster of this name: see [`Fault::through`].
    Unreachable(Page, String),
    /// `/ready` said that its process is starting, and this state. No listener serves before its process
    /// is live: in a hot restart another process, the new one, answers in this one's place.
    Starting(String),
    /// No reply within `admin_timeout_ms`.
    TimedOut(Page),
    /// The connection ended, the time ran out or the reply passed 32 MiB after its headers came.
    CutOff(Page),
    /// 200, but with a text that Envoy does not write on this page: some other server answered.
    NotEnvoys(Page),
    /// The text of `/clusters` is Envoy's, but cannot be trusted.
    Clusters(ClustersError),
}

/// A longer filter is left out: the admin takes request headers of at most 60 KiB.
const LONGEST_FILTER: usize = 16 * 1024;

/// What to do if some other server answers.
const COMPARE: &str = "compare the address of admin_cluster with admin.address";

/// The longest state that `/ready` may give, in bytes (Envoy 1.40: `PRE_INITIALIZING`).
const LONGEST_STATE: usize = 32;

/// The path that asks `/clusters` for these clusters alone.
pub fn clusters_path(names: &[String]) -> String {
    let mut path = "/clusters?filter=%5E%28%3F%3A".to_owned();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            path.push_str("%7C");
        }
        for byte in name.bytes() {
            quote(byte, &mut path);
        }
        if path.len() > LONGEST_FILTER {
            return "/clusters".to_owned();
        }
    }
    path.push_str("%29%24");
    path
}

/// Escapes a byte of a name for RE2, and that for a URL's query.
fn quote(byte: u8, path: &mut String) {
    if byte.is_ascii_alphanumeric() || byte == b'_' {
        return path.push(char::from(byte));
    }
    // The operators of RE2; other bytes match themselves.
    if br"\.+*?()|[]{}^$".contains(&byte) {
        path.push_str("%5C");
    }
    // Writing to a String cannot fail.
    let _ = write!(path, "%{byte:02X}");
}

/// Reads the whole reply to `/clusters`, in chunks.
pub fn read_clusters(
    names: &[String],
    status: Option<u32>,
    body: impl Iterator<Item = Vec<u8>>,
) -> Result<Vec<Cluster>, Fault> {
    check_status(Page::Clusters, status, &[200])?;
    let mut parser = Parser::new(names);
    body.for_each(|chunk| parser.feed(&chunk));
    parser.finish().map_err(|error| match error {
        ClustersError::NotEnvoys => Fault::NotEnvoys(Page::Clusters),
        error => Fault::Clusters(error),
    })
}

/// Reads the reply to `/ready`; `body` is its beginning.
///
/// The admin's own 200 is exactly `LIVE`, and its 503 one word in capitals, like `DRAINING`. Envoy's 503
/// for a call that was refused, reset or held back by a circuit breaker is not, and says nothing of a
/// drain.
pub fn read_ready(status: Option<u32>, body: &[u8]) -> Result<Ready, Fault> {
    let status = check_status(Page::Ready, status, &[200, 503])?;
    if status == 200 {
        return match body {
            b"LIVE\n" | b"LIVE" => Ok(Ready::Yes),
            _ => Err(Fault::NotEnvoys(Page::Ready)),
        };
    }
    let state = body.trim_ascii();
    let capitals = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
    if !(1..=LONGEST_STATE).contains(&state.len()) || !state.iter().all(capitals) {
        return Err(Fault::Status(Page::Ready, status));
    }
    let text = String::from_utf8_lossy(state).into_owned();
    match state {
        b"PRE_INITIALIZING" | b"INITIALIZING" => Err(Fault::Starting(text)),
        _ => Ok(Ready::No(format!("{status} {text}"))),
    }
}

/// `status` is `None` when the reply was lost after its headers.
fn check_status(page: Page, status: Option<u32>, good: &[u32]) -> Result<u32, Fault> {
    match status {
        None => Err(Fault::CutOff(page)),
        Some(504) => Err(Fault::TimedOut(page)),
        Some(status) if good.contains(&status) => Ok(status),
        Some(status) => Err(Fault::Status(page, status)),
    }
}

impl View for Report {
    fn cluster(&self, name: &str) -> Option<ClusterView<'_>> {
        let clusters = &self.clusters;
        let found = clusters.binary_search_by_key(&name, |cluster| &cluster.name);
        let cluster = clusters.get(found.ok()?)?;
        cluster.listed.then_some(ClusterView {
            counts: cluster.counts,
            hosts: &cluster.hosts,
        })
    }

    fn overridden(&self) -> Option<Override<'_>> {
        match &self.ready {
            Ready::Yes => None,
            Ready::No(state) => Some(Override::NotReady(state)),
        }
    }
}

impl View for Fault {
    fn cluster(&self, _: &str) -> Option<ClusterView<'_>> {
        None
    }

    fn overridden(&self) -> Option<Override<'_>> {
        Some(Override::NoKnowledge(self))
    }
}

impl Fault {
    /// Whether this process's admin was silent, rather than wrong: no reply of its own came.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Starting(_) | Self::TimedOut(_) | Self::CutOff(_) => true,
            Self::Status(_, 503) | Self::Unreachable(..) => true,
            Self::NoCluster(_) | Self::Status(..) | Self::NotEnvoys(_) | Self::Clusters(_) => false,
        }
    }

    /// Names the cluster that does not reach the admin, for the log.
    pub fn through(self, cluster: &str) -> Self {
        match self {
            Self::Status(page, 503) => Self::Unreachable(page, cluster.to_owned()),
            other => other,
        }
    }

    /// What is wrong with the admin.
    pub fn cause(&self) -> String {
        match self {
            Self::NoCluster(name) => {
                format!("Envoy has no cluster {name:?}: add it, or correct admin_cluster")
            }
            Self::NotSent(name) => format!(
                "cluster {name:?} (admin_cluster) has no host, or its circuit breaker is open"
            ),
            Self::Unreachable(page, name) => format!(
                "cannot reach the admin through cluster {name:?} ({page}: 503): compare its address with \
                 admin.address, and see its circuit breakers"
            ),
            Self::Status(Page::Clusters, 403) => {
                "/clusters answered 403: allow_paths must have \"prefix: /clusters\" (\"exact\" does not \
                 match its query)"
                    .to_owned()
            }
            Self::Status(page, 403) => {
                format!("{page} answered 403: allow_paths must have \"exact: {page}\"")
            }
            Self::Status(page, status) => {
                format!("{page} answered {status}, which Envoy's admin does not: {COMPARE}")
            }
            Self::NotEnvoys(page) => {
                format!("{page} answered 200 with a text that is not Envoy's: {COMPARE}")
            }
            Self::Starting(state) => format!(
                "/ready answered {state}: Envoy is starting, or it is the new process of a hot restart"
            ),
            Self::TimedOut(page) => format!("{page} did not answer within admin_timeout_ms"),
            Self::CutOff(Page::Clusters) => {
                "the reply to /clusters was lost after its headers: cut off, too slow, or over 32 MiB, \
                 which is the most that Envoy gives a filter"
                    .to_owned()
            }
            Self::CutOff(page) => {
                format!("the reply to {page} was lost after its headers: cut off or too slow")
            }
            Self::Clusters(error) => error.to_string(),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clusters => "/clusters",
            Self::Ready => "/ready",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "admin: {}", self.cause())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Envoy makes of the path: the filter's expression. `regex` reads what RE2 does.
    fn expression(names: &[String]) -> regex::Regex {
        let path = clusters_path(names);
        let query = path.strip_prefix("/clusters?filter=").expect("a filter");
        assert!(
            query
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"%_".contains(&byte))
        );
        let mut bytes = query.bytes();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            decoded.push(if byte == b'%' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            } else {
                byte
            });
        }
        regex::Regex::new(std::str::from_utf8(&decoded).unwrap()).expect("a good expression")
    }

    #[test]
    fn filters() {
        let one = ["my_service".to_owned()];
        let path = "/clusters?filter=%5E%28%3F%3Amy_service%29%24";
        assert_eq!(clusters_path(&one), path);
        let two = ["a.b".to_owned(), "c".to_owned()];
        let path = "/clusters?filter=%5E%28%3F%3Aa%5C%2Eb%7Cc%29%24";
        assert_eq!(clusters_path(&two), path);
        assert_eq!(clusters_path(&["x".repeat(LONGEST_FILTER)]), "/clusters");
    }

    proptest! {
        #[test]
        fn filters_match_the_names_and_no_other(
            names in proptest::collection::vec("[ -~äß€]{1,12}", 1..5),
            other in "[ -~äß€]{0,14}",
        ) {
            let expression = expression(&names);
            for name in &names {
                prop_assert!(expression.is_match(name), "{name:?}");
            }
            prop_assert_eq!(expression.is_match(&other), names.contains(&other), "{:?}", other);
        }
    }

    #[test]
    fn replies_to_clusters() {
        let read = |status, text: &str| {
            let body = [text.as_bytes().to_vec()].into_iter();
            read_clusters(&["a".to_owned()], status, body)
        };
        let healthy = "a::127.0.0.1:80::health_flags::healthy\n";
        assert_eq!(read(Some(200), healthy).unwrap()[0].hosts.len(), 1);
        assert!(!read(Some(200), "").unwrap()[0].listed);
        for (status, fault) in [
            (None, Fault::CutOff(Page::Clusters)),
            (Some(504), Fault::TimedOut(Page::Clusters)),
            (Some(503), Fault::Status(Page::Clusters, 503)),
            (Some(500), Fault::Status(Page::Clusters, 500)),
            (Some(204), Fault::Status(Page::Clusters, 204)),
            (Some(403), Fault::Status(Page::Clusters, 403)),
        ] {
            assert_eq!(read(status, healthy), Err(fault));
        }
        let cut = Fault::Clusters(ClustersError::CutOff);
        assert_eq!(read(Some(200), healthy.trim_end()), Err(cut));
        for text in [
            "<html>healthy</html>",
            "ok",
            "{\"status\": \"ok\"}\n",
            "a\nb\n",
        ] {
            let fault = Fault::NotEnvoys(Page::Clusters);
            assert_eq!(read(Some(200), text), Err(fault), "{text}");
        }
    }

    #[test]
    fn replies_to_ready() {
        let no = |text: &str| Ok(Ready::No(text.to_owned()));
        assert_eq!(read_ready(Some(200), b"LIVE\n"), Ok(Ready::Yes));
        assert_eq!(read_ready(Some(200), b"LIVE"), Ok(Ready::Yes));
        for text in [
            "",
            "\n",
            "ok",
            "live\n",
            "LIVELY\n",
            " LIVE\n",
            "LIVE\n\n",
            "LIVE and kicking\n",
            "DRAINING\n",
            "<html>LIVE</html>\n",
        ] {
            let fault = Err(Fault::NotEnvoys(Page::Ready));
            assert_eq!(read_ready(Some(200), text.as_bytes()), fault, "{text:?}");
        }
        for state in ["DRAINING", "LIVE", "BRAND_NEW"] {
            let body = format!("{state}\n");
            let read = read_ready(Some(503), body.as_bytes());
            assert_eq!(read, no(&format!("503 {state}")));
        }
        for starting in ["PRE_INITIALIZING", "INITIALIZING"] {
            let fault = Err(Fault::Starting(starting.to_owned()));
            let body = format!("{starting}\n");
            assert_eq!(read_ready(Some(503), body.as_bytes()), fault);
        }
        for not_the_admin in [
            b"".as_slice(),
            b"\xff",
            b"upstream connect error or disconnect/reset before headers",
            b"Draining\n",
            b"<html>DRAINING</html>\n",
            b"SERVICE UNAVAILABLE\n",
            &[b'X'; 99],
        ] {
            let fault = Err(Fault::Status(Page::Ready, 503));
            assert_eq!(read_ready(Some(503), not_the_admin), fault);
        }
        assert_eq!(read_ready(None, b""), Err(Fault::CutOff(Page::Ready)));
        for status in [403, 404, 500, 204] {
            let fault = Err(Fault::Status(Page::Ready, status));
            assert_eq!(read_ready(Some(status), b"LIVE\n"), fault);
        }
        assert_eq!(
            read_ready(Some(504), b""),
            Err(Fault::TimedOut(Page::Ready))
        );
    }

    #[test]
    fn silence_is_no_wrong_reply() {
        let admin = "local_admin".to_owned();
        for silence in [
            Fault::NotSent(admin.clone()),
            Fault::TimedOut(Page::Ready),
            Fault::Starting("INITIALIZING".to_owned()),
            Fault::CutOff(Page::Clusters),
            Fault::Status(Page::Clusters, 503),
            Fault::Status(Page::Ready, 503),
        ] {
            assert!(silence.is_silence(), "{silence}");
        }
        for wrong in [
            Fault::NoCluster(admin),
            Fault::Status(Page::Clusters, 403),
            Fault::Status(Page::Clusters, 404),
            Fault::Status(Page::Ready, 500),
            Fault::Clusters(ClustersError::CutOff),
            Fault::Clusters(ClustersError::LineTooLong),
            Fault::NotEnvoys(Page::Clusters),
            Fault::NotEnvoys(Page::Ready),
        ] {
            assert!(!wrong.is_silence(), "{wrong}");
        }
    }
}
