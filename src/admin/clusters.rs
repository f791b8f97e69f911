//! The text of Envoy's admin page `/clusters`, fed in chunks, to hosts and their health flags.
//!
//! The page has one fact a line, `cluster::field::value` or `cluster::address::field::value`, in no
//! useful order of clusters. Two kinds of line matter here (Envoy 1.36 to 1.40 agree on them):
//!
//! ```text
//! my_service::observability_name::my_service
//! my_service::127.0.0.1:9000::health_flags::/failed_active_hc/active_hc_timeout
//! ```
//!
//! Names are not escaped: a cluster may be called `a::b`. So a name is taken for ours only if it is
//! ours to the last byte and what stands between it and `::health_flags::` is exactly one address.
//! Memory is bounded by the clusters asked for: other lines are looked at where they lie.

use std::fmt;
use std::net::SocketAddr;

use healthz_core::flags::HealthFlags;
use healthz_core::view::{Counts, Host};

/// One cluster that was asked for, as the admin described it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The name that was asked for.
    pub name: String,
    /// Whether the admin mentioned it at all: an unknown or still warming cluster is not there.
    pub listed: bool,
    /// How many hosts it has.
    pub counts: Counts,
    /// Its hosts, in the admin's order.
    pub hosts: Vec<Host>,
}

/// Why a reply cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClustersError {
    /// The text ends inside a line.
    CutOff,
    /// A line that begins like one of ours is longer than any that Envoy writes.
    LineTooLong,
}

/// What a line of ours may need beyond its cluster's name: an address, a field and flags.
const LINE_ROOM: usize = 4096;

/// Reads `/clusters` text chunk by chunk and keeps what concerns the clusters asked for.
#[derive(Debug)]
pub struct Parser {
    /// Sorted by name.
    clusters: Vec<Cluster>,
    /// The beginning of a line whose end has not come yet, at most `longest_line` bytes.
    partial: Vec<u8>,
    longest_line: usize,
    /// Set while the rest of an overlong line is passed over.
    skipping: bool,
    error: Option<ClustersError>,
}

impl Parser {
    /// Makes a parser for these clusters; `names` is sorted and has each name once.
    pub fn new(names: &[String]) -> Self {
        Self {
            clusters: names
                .iter()
                .map(|name| Cluster {
                    name: name.clone(),
                    ..Cluster::default()
                })
                .collect(),
            partial: Vec::new(),
            longest_line: names.iter().map(String::len).max().unwrap_or(0) + LINE_ROOM,
            skipping: false,
            error: None,
        }
    }

    /// Takes the next piece of the page, cut anywhere.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        while let Some(end) = chunk.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = chunk.split_at(end);
            if self.partial.is_empty() && !self.skipping {
                self.line(line);
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole);
                self.skipping = false;
            }
            chunk = rest.get(1..).unwrap_or_default();
        }
        self.keep(chunk);
    }

    /// Ends the page and gives the clusters, in the order of their names.
    pub fn finish(self) -> Result<Vec<Cluster>, ClustersError> {
        match self.error {
            Some(error) => Err(error),
            None if self.partial.is_empty() && !self.skipping => Ok(self.clusters),
            None => Err(ClustersError::CutOff),
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping {
            return;
        }
        if self.partial.len() + piece.len() <= self.longest_line {
            self.partial.extend_from_slice(piece);
            return;
        }
        let room = self.longest_line.saturating_sub(self.partial.len());
        self.partial.extend(piece.iter().take(room));
        self.too_long();
        self.partial.clear();
        self.skipping = true;
    }

    fn too_long(&mut self) {
        let ours = self.clusters.iter().any(|cluster| {
            self.partial
                .strip_prefix(cluster.name.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"::"))
        });
        if ours {
            self.error = Some(ClustersError::LineTooLong);
        }
    }

    fn line(&mut self, line: &[u8]) {
        for (name, rest) in splits(line) {
            let Some(cluster) = self.cluster(name) else {
                continue;
            };
            if rest.starts_with(b"observability_name::") {
                cluster.listed = true;
            } else if let Some((address, flags)) = rsplit(rest, b"::health_flags::")
                && let Some(host) = host(address, flags)
            {
                cluster.listed = true;
                cluster.counts.add(&host.flags);
                cluster.hosts.push(host);
            }
        }
    }

    fn cluster(&mut self, name: &[u8]) -> Option<&mut Cluster> {
        let found = self
            .clusters
            .binary_search_by(|cluster| cluster.name.as_bytes().cmp(name));
        self.clusters.get_mut(found.ok()?)
    }
}

/// `None` when `address` is not exactly one address.
fn host(address: &[u8], flags: &[u8]) -> Option<Host> {
    let text = String::from_utf8_lossy(address);
    let flags = if text.parse::<SocketAddr>().is_ok() {
        HealthFlags::parse(flags)
    } else if !(text.starts_with(['/', '@']) || text.starts_with("envoy://")) {
        return None;
    } else if splits(address).next().is_some() {
        // Either a socket path with `::` in it, or a host of some cluster `ours::/...`:
        // nothing in the line tells them apart, so this host may not make us healthy.
        HealthFlags::unrecognized("ambiguous_address")
    } else {
        HealthFlags::parse(flags)
    };
    Some(Host {
        address: text.into_owned(),
        flags,
    })
}

impl fmt::Display for ClustersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutOff => "the admin's reply to /clusters ends inside a line",
            Self::LineTooLong => "the admin's reply to /clusters has a line too long to be Envoy's",
        })
    }
}

/// The parts before and after the last `separator`.
fn rsplit<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line
        .windows(separator.len())
        .rposition(|window| window == separator)?;
    let (head, tail) = line.split_at(at);
    Some((head, tail.get(separator.len()..)?))
}

/// Every way to cut a line in two at a `::`: what a name may be, and what is then said of it.
fn splits(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    line.windows(2)
        .enumerate()
        .filter(|(_, window)| window == b"::")
        .filter_map(|(at, _)| Some((line.get(..at)?, line.get(at + 2..)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same Envoy configuration, captured from each version.
    const CAPTURES: [(&str, &str); 4] = [
        (
            "1.36.4",
            include_str!("../testdata/clusters-envoy-1.36.4.txt"),
        ),
        (
            "1.37.0",
            include_str!("../testdata/clusters-envoy-1.37.0.txt"),
        ),
        (
            "1.39.3",
            include_str!("../testdata/clusters-envoy-1.39.3.txt"),
        ),
        (
            "1.40.0",
            include_str!("../testdata/clusters-envoy-1.40.0.txt"),
        ),
    ];

    fn parse(text: &[u8], names: &[&str]) -> Result<Vec<Cluster>, ClustersError> {
        parse_chunks([text], names)
    }

    fn parse_chunks<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
        names: &[&str],
    ) -> Result<Vec<Cluster>, ClustersError> {
        let mut names: Vec<_> = names.iter().map(ToString::to_string).collect();
        names.sort();
        let mut parser = Parser::new(&names);
        chunks.into_iter().for_each(|chunk| parser.feed(chunk));
        parser.finish()
    }

    /// A cluster's hosts as `address flag/flag`; `None` if the page does not mention the cluster.
    fn hosts(text: &str, name: &str) -> Option<Vec<String>> {
        let clusters = parse(text.as_bytes(), &[name]).unwrap();
        clusters[0].listed.then(|| {
            let show = |host: &Host| {
                let flags: Vec<_> = host.flags.names().collect();
                format!("{} {}", host.address, flags.join("/"))
            };
            clusters[0].hosts.iter().map(show).collect()
        })
    }

    #[test]
    fn real_pages() {
        let rows: [(&str, Option<&[&str]>); 23] = [
            ("my_service", Some(&["127.0.0.1:20101 "])),
            ("other_my_service", Some(&["127.0.0.1:20101 "])),
            ("my_service_v2", Some(&["127.0.0.1:20999 failed_active_hc"])),
            ("my-service", Some(&["127.0.0.1:20101 "])),
            ("down", Some(&["127.0.0.1:20999 failed_active_hc"])),
            (
                "mixed",
                Some(&["127.0.0.1:20101 ", "127.0.0.1:20999 failed_active_hc"]),
            ),
            ("ipv6", Some(&["[::1]:20108 "])),
            ("pipe", Some(&["/tmp/cap/app.sock "])),
            ("abstract", Some(&["@abstract "])),
            ("internal", Some(&["envoy://inner/e1 "])),
            ("a::b::c", Some(&["127.0.0.1:20101 "])),
            ("a", Some(&["127.0.0.1:20999 failed_active_hc"])),
            ("b::c", Some(&["127.0.0.1:20999 failed_active_hc"])),
            ("re.*+?(x)[y]{2}|^$\\d", Some(&["127.0.0.1:20101 "])),
            (
                "eds_status",
                Some(&[
                    "127.0.0.1:20101 ",
                    "127.0.0.2:20101 failed_eds_health",
                    "127.0.0.3:20101 eds_status_draining",
                    "127.0.0.4:20101 degraded_eds_health",
                    "127.0.0.5:20101 failed_eds_health",
                ]),
            ),
            ("no_hosts", Some(&[])),
            ("dns", Some(&["127.0.0.1:20101 "])),
            ("alt", Some(&["127.0.0.1:20101 "])),
            ("alternative", None),
            ("named_host", Some(&["127.0.0.1:20101 "])),
            (
                "timeout",
                Some(&["127.0.0.1:20109 failed_active_hc/active_hc_timeout"]),
            ),
            ("my_servic", None),
            ("c", None),
        ];
        for (version, text) in CAPTURES {
            for (name, expected) in rows {
                let expected =
                    expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
                assert_eq!(hosts(text, name), expected, "{name}, Envoy {version}");
            }
        }
    }

    #[test]
    fn odd_lines() {
        let rows: [(&str, &str, Option<&[&str]>); 13] = [
            (
                "a::127.0.0.1:80::health_flags::healthy",
                "a",
                Some(&["127.0.0.1:80 "]),
            ),
            (
                "a::127.0.0.1:80::health_flags::/",
                "a",
                Some(&["127.0.0.1:80 "]),
            ),
            (
                "a::127.0.0.1:80::health_flags::Healthy",
                "a",
                Some(&["127.0.0.1:80 Healthy"]),
            ),
            (
                "a::127.0.0.1:80::health_flags::/brand_new",
                "a",
                Some(&["127.0.0.1:80 brand_new"]),
            ),
            (
                "a::127.0.0.1:80::health_flags::/failed_active_hc/",
                "a",
                Some(&["127.0.0.1:80 failed_active_hc/"]),
            ),
            ("a::127.0.0.1::health_flags::healthy", "a", None),
            ("a::256.0.0.1:80::health_flags::healthy", "a", None),
            ("a::localhost:80::health_flags::healthy", "a", None),
            ("a:127.0.0.1:80::health_flags::healthy", "a", None),
            ("xa::127.0.0.1:80::health_flags::healthy", "a", None),
            ("::127.0.0.1:80::health_flags::healthy", "a", None),
            (
                "a::[fe80::1%2]:80::health_flags::healthy",
                "a",
                Some(&["[fe80::1%2]:80 "]),
            ),
            (
                "a::/x::127.0.0.1:80::health_flags::healthy",
                "a",
                Some(&["/x::127.0.0.1:80 ambiguous_address"]),
            ),
        ];
        for (line, name, expected) in rows {
            let expected = expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
            assert_eq!(hosts(&format!("{line}\n"), name), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_trusted() {
        let cut = b"a::127.0.0.1:80::health_flags::healthy";
        assert_eq!(parse(cut, &["a"]), Err(ClustersError::CutOff));
        let long = format!("a::{}\n", "x".repeat(LINE_ROOM));
        assert_eq!(parse(long.as_bytes(), &["a"]).unwrap()[0].hosts, []);
        let halves = long.split_at(2000);
        let chunks = [halves.0.as_bytes(), halves.1.as_bytes()];
        assert_eq!(
            parse_chunks(chunks, &["a"]),
            Err(ClustersError::LineTooLong)
        );
        assert_eq!(parse_chunks(chunks, &["b"]).unwrap()[0].hosts, []);
        let unended = long.trim_end().as_bytes();
        assert_eq!(parse(unended, &["b"]), Err(ClustersError::CutOff));
        assert!(parse(b"", &["a"]).is_ok());
        assert!(parse(b"\n\n\0\xff\n", &["a"]).is_ok());
    }

    proptest! {
        /// However the page is cut into chunks, the result is the same.
        #[test]
        fn chunks_do_not_matter(cuts in proptest::collection::vec(0..29_000_usize, 0..60)) {
            let (_, text) = CAPTURES[3];
            let names = ["my_service", "a", "a::b::c", "eds_status", "ipv6", "no_hosts", "absent"];
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
            prop_assert_eq!(parse_chunks(chunks, &names), parse(text.as_bytes(), &names));
        }

        /// No input brings it down, and what it keeps is bounded by the clusters asked for.
        #[test]
        fn any_bytes(chunks in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b':'), Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            0..20,
        )) {
            let mut parser = Parser::new(&["a".to_owned()]);
            for chunk in &chunks {
                parser.feed(chunk);
                prop_assert!(parser.partial.len() <= 1 + LINE_ROOM);
            }
            let _ = parser.finish();
        }
    }
}
