//! The text of Envoy's admin page `/clusters`, fed in chunks, to hosts and their health flags.
//!
//! The page has one fact a line, `cluster::field::value` or `cluster::address::field::value`. The lines
//! of a cluster form one block, and the blocks come in no useful order. Four kinds of line matter here
//! (Envoy 1.36 to 1.40 agree on them):
//!
//! ```text
//! my_service::observability_name::my_service
//! my_service::default_priority::max_connections::1024
//! my_service::127.0.0.1:9000::hostname::
//! my_service::127.0.0.1:9000::health_flags::/failed_active_hc/active_hc_timeout
//! ```
//!
//! The first is the head of its block, the second always follows it, and so does the fourth the third.
//!
//! Nothing is escaped: a cluster may be called `a::b`, a host `/run/a::b.sock`, and host names and
//! localities hold any text. So a cluster is ours only if its name is to the last byte. A host's address
//! is an IP address and port, or whatever Envoy writes in both the `hostname` line and the
//! `health_flags` line directly after it, in our cluster's block.
//! Memory is bounded by the clusters that are wanted: other lines are looked at where they lie.

use std::fmt;
use std::net::SocketAddr;

use healthz_core::flags::HealthFlags;
use healthz_core::view::{Counts, Host};

/// One cluster that is wanted, as the admin described it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The name that is wanted.
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
    /// There is text, and no line of it is like Envoy's: some other server answered.
    NotEnvoys,
    /// The text ends inside a line or a host.
    CutOff,
    /// A line that begins like one of ours is longer than any that Envoy writes.
    LineTooLong,
}

/// What a line of ours may need beyond its cluster's name: an address, a field and flags.
const LINE_ROOM: usize = 4096;

/// Reads `/clusters` text chunk by chunk and keeps what concerns the clusters that are wanted.
#[derive(Debug)]
pub struct Parser {
    /// Sorted by name.
    clusters: Vec<Cluster>,
    /// The cluster in whose block of lines the reader is.
    block: Option<usize>,
    /// The line before, if it begins with a name that is wanted.
    before: Vec<u8>,
    /// The beginning of a line whose end has not come yet, at most `longest_line` bytes.
    partial: Vec<u8>,
    longest_line: usize,
    /// Set while the rest of an overlong line is passed over.
    skipping: bool,
    /// Whether there is any text so far.
    has_text: bool,
    /// Whether a line of it is like Envoy's.
    is_envoys: bool,
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
            block: None,
            before: Vec::new(),
            partial: Vec::new(),
            longest_line: names.iter().map(String::len).max().unwrap_or(0) + LINE_ROOM,
            skipping: false,
            has_text: false,
            is_envoys: false,
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
                if !std::mem::take(&mut self.skipping) {
                    self.line(&whole);
                }
            }
            chunk = rest.get(1..).unwrap_or_default();
        }
        self.keep(chunk);
    }

    /// Ends the page and gives the clusters, in the order of their names.
    pub fn finish(mut self) -> Result<Vec<Cluster>, ClustersError> {
        let partial = std::mem::take(&mut self.partial);
        self.look(&partial);
        let cut_off = !partial.is_empty() || self.skipping || self.is_inside_a_host();
        match self.error {
            Some(error) => Err(error),
            None if self.has_text && !self.is_envoys => Err(ClustersError::NotEnvoys),
            None if cut_off => Err(ClustersError::CutOff),
            None => Ok(self.clusters),
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping {
            return;
        }
        let room = self.longest_line - self.partial.len();
        self.partial.extend(piece.iter().take(room));
        if piece.len() > room {
            let start = std::mem::take(&mut self.partial);
            self.too_long(&start);
            self.skipping = true;
        }
    }

    /// Passes over a line that begins so.
    fn too_long(&mut self, start: &[u8]) {
        self.look(start);
        let mut clusters = self.clusters.iter();
        if clusters.any(|cluster| after(start, &cluster.name).is_some()) {
            self.error = Some(ClustersError::LineTooLong);
        }
        self.block = None;
        self.before.clear();
    }

    fn line(&mut self, line: &[u8]) {
        if line.len() > self.longest_line {
            return self.too_long(line.get(..self.longest_line).unwrap_or_default());
        }
        self.look(line);
        let (subject, rest) = common(&self.before, line);
        if rest.starts_with(b"::observability_name::") {
            let clusters = &self.clusters;
            let found = clusters.binary_search_by_key(&subject, |of| of.name.as_bytes());
            self.block = found.ok();
        }
        let name = self.block.and_then(|index| self.clusters.get(index));
        let name = name.map_or("", |cluster| &cluster.name);
        // Most lines are of the same host as the line before, and do not say its health.
        let same = self.block.is_some() && subject.len() > name.len();
        if after(line, name).is_none() {
            self.block = None;
        }
        let ours = same && health(line).is_none() || self.read(line);
        self.before.clear();
        if ours {
            self.before.extend_from_slice(line);
        }
    }

    /// Notes what a line says of our clusters; whether it begins with the name of one.
    fn read(&mut self, line: &[u8]) -> bool {
        let Some(first) = cuts(line).next().and_then(|at| line.get(..at)) else {
            return false;
        };
        let mut ours = false;
        let from = self
            .clusters
            .partition_point(|cluster| cluster.name.as_bytes() < first);
        for (index, cluster) in self.clusters.iter_mut().enumerate().skip(from) {
            if !cluster.name.as_bytes().starts_with(first) {
                break;
            }
            let Some(rest) = after(line, &cluster.name) else {
                continue;
            };
            ours = true;
            if let Some((subject, flags)) = health(line)
                && let Some(address) = after(subject, &cluster.name)
                && (is_ip(address)
                    || self.block == Some(index) && is_hostname(&self.before, subject))
            {
                let host = Host {
                    address: String::from_utf8_lossy(address).into_owned(),
                    flags: HealthFlags::parse(flags),
                };
                cluster.listed = true;
                cluster.counts.add(&host.flags);
                cluster.hosts.push(host);
            } else if rest.starts_with(b"observability_name::") {
                cluster.listed = true;
            }
        }
        ours
    }

    /// Whether the page so far ends after the first line of a host and before that of its health. Without
    /// this host the others might be a higher percentage.
    fn is_inside_a_host(&self) -> bool {
        let Some(cluster) = self.block.and_then(|index| self.clusters.get(index)) else {
            return false;
        };
        let last = cluster.hosts.last().map(|host| host.address.as_bytes());
        let rest = after(&self.before, &cluster.name).unwrap_or_default();
        // A line of the last host, whose address may look like several fields.
        if last.is_some_and(|last| after(rest, last).is_some()) {
            return false;
        }
        cuts(rest).any(|at| {
            let (address, field) = rest.split_at(at);
            is_ip(address) || field.starts_with(b"::hostname::")
        })
    }

    /// A line like Envoy's is `name::field::value` at least.
    fn look(&mut self, line: &[u8]) {
        self.has_text |= !line.is_empty();
        self.is_envoys = self.is_envoys || cuts(line).nth(1).is_some();
    }
}

/// What two lines are of, `name` or `name::address`, and what the first of them says of it.
fn common<'a>(first: &'a [u8], second: &[u8]) -> (&'a [u8], &'a [u8]) {
    let same = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let start = first.get(..same).unwrap_or_default();
    first.split_at(cuts(start).next_back().unwrap_or_default())
}

/// What a line of health is of, `name::address`, and the flags. No flag has `::` in it.
fn health(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (start, flags) = line.split_at(cuts(line).next_back()?);
    Some((start.strip_suffix(b"::health_flags")?, flags.get(2..)?))
}

/// Whether a line gives the host name of `subject`, a `name::address`.
fn is_hostname(line: &[u8], subject: &[u8]) -> bool {
    after(line, subject).is_some_and(|rest| rest.starts_with(b"hostname::"))
}

/// Whether this is an IP address and port, as in `127.0.0.1:80` or `[::1]:80`: a host in any line of
/// health.
pub fn is_ip(address: &[u8]) -> bool {
    let text = std::str::from_utf8(address);
    text.is_ok_and(|text| text.parse::<SocketAddr>().is_ok())
}

/// What a line says of this, `name` or `name::address`, if it is of it.
fn after(line: &[u8], subject: impl AsRef<[u8]>) -> Option<&[u8]> {
    line.strip_prefix(subject.as_ref())?.strip_prefix(b"::")
}

/// Where a line has `::`.
fn cuts(line: &[u8]) -> impl DoubleEndedIterator<Item = usize> {
    let windows = line.windows(2).enumerate();
    windows.filter_map(|(at, window)| (window == b"::").then_some(at))
}

impl fmt::Display for ClustersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnvoys => "the reply to /clusters is not Envoy's text",
            Self::CutOff => "the reply to /clusters ends inside a line or a host",
            Self::LineTooLong => "the reply to /clusters has a line too long to be Envoy's",
        })
    }
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

    /// Addresses of every form, and host names and localities that look like hosts or heads. 1.37 writes
    /// the same lines as 1.36, 1.39 the same as 1.40.
    const ADDRESSES: [(&str, &str); 2] = [
        (
            "1.36.4",
            include_str!("../testdata/addresses-envoy-1.36.4.txt"),
        ),
        (
            "1.40.0",
            include_str!("../testdata/addresses-envoy-1.40.0.txt"),
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

    fn parse_cut(
        text: &str,
        mut cuts: Vec<usize>,
        names: &[&str],
    ) -> Result<Vec<Cluster>, ClustersError> {
        cuts.retain(|cut| *cut <= text.len());
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
        parse_chunks(chunks, names)
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
    fn addresses() {
        let rows: [(&str, Option<&[&str]>); 18] = [
            (
                "internal_v6",
                Some(&[
                    "envoy://connect_originate/[fd00::1]:8080 ",
                    "envoy://connect_originate/[fd00::2]:8080 failed_eds_health",
                ]),
            ),
            (
                "pipe",
                Some(&["/run/a::b.sock ", "/run/app.sock failed_eds_health"]),
            ),
            (
                "relative",
                Some(&["backend.sock ", "./x.sock ", "a::127.0.0.1:80 "]),
            ),
            ("abstract", Some(&["@a::b "])),
            ("scoped", Some(&["[fe80::1%1]:80 "])),
            (
                "fakes",
                Some(&[
                    "/x.sock failed_eds_health",
                    "y.sock ",
                    "127.0.0.1:1 eds_status_draining",
                    "z.sock ",
                ]),
            ),
            (
                "hostile",
                Some(&[
                    "x::hostname::y ",
                    "x::health_flags::healthy failed_eds_health",
                    "observability_name::x ",
                ]),
            ),
            ("alt", Some(&["x.sock "])),
            ("long", Some(&["x.sock failed_eds_health"])),
            ("long::more", Some(&["x.sock "])),
            ("long::/more", Some(&["/x.sock "])),
            ("none", None),
            ("none::more", Some(&["x.sock "])),
            ("observability_name", Some(&["x.sock "])),
            ("x::observability_name", Some(&["x.sock "])),
            ("x", Some(&["y.sock failed_eds_health"])),
            ("empty", Some(&[])),
            ("fakes::/x.sock", None),
        ];
        for (version, text) in ADDRESSES {
            for (name, expected) in rows {
                let expected =
                    expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
                assert_eq!(hosts(text, name), expected, "{name}, Envoy {version}");
            }
            // All at once, so that those whose names begin alike are wanted together.
            let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
            for cluster in parse(text.as_bytes(), &names).unwrap() {
                let row = rows.iter().find(|(name, _)| *name == cluster.name);
                let expected = row.and_then(|(_, hosts)| hosts.map(<[_]>::len));
                let found = cluster.listed.then_some(cluster.hosts.len());
                assert_eq!(found, expected, "{}, Envoy {version}", cluster.name);
            }
        }
    }

    /// What is around a line of health.
    #[test]
    fn blocks() {
        let head = "a::observability_name::a";
        let hostname = "a::b::x.sock::hostname::";
        let health = "a::b::x.sock::health_flags::healthy";
        let rows: [(&[&str], Option<&[&str]>); 9] = [
            (&[head, hostname, health], Some(&["b::x.sock "])),
            (
                &["a::observability_name::", hostname, health],
                Some(&["b::x.sock "]),
            ),
            (
                &[head, "a::added_via_api::false", hostname, health],
                Some(&["b::x.sock "]),
            ),
            (&[hostname, health], None),
            (&[head, health], Some(&[])),
            (&[head, hostname, "a::b::weight::1", health], Some(&[])),
            (&[head, "a::b::y.sock::hostname::", health], Some(&[])),
            (
                &[head, "a::b::observability_name::a::b", hostname, health],
                Some(&[]),
            ),
            (
                &[
                    head,
                    "a::added_via_api::false",
                    "other::observability_name::other",
                    hostname,
                    health,
                ],
                Some(&[]),
            ),
        ];
        for (lines, expected) in rows {
            let text = lines.join("\n") + "\n";
            let expected = expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
            assert_eq!(hosts(&text, "a"), expected, "{text}");
        }
    }

    /// A page that ends too early is refused, or has the first hosts of the whole one. What ends after
    /// one host and before the next looks like a whole page: of a reply that was cut off Envoy
    /// gives a filter nothing at all.
    #[test]
    fn cut_anywhere() {
        for (version, text) in [CAPTURES[0], CAPTURES[3], ADDRESSES[0], ADDRESSES[1]] {
            let lines = text.lines();
            let names = lines.filter_map(|line| line.strip_suffix("::added_via_api::false"));
            let mut names: Vec<_> = names.collect();
            names.sort_unstable();
            let whole = parse(text.as_bytes(), &names).unwrap();
            let mut first_line_of_host = false;
            let ends = text.match_indices('\n').map(|(end, _)| end);
            for (line, end) in text.lines().zip(ends) {
                // In the middle of this line, and after it.
                let inside = parse(&text.as_bytes()[..end], &names);
                assert_eq!(inside, Err(ClustersError::CutOff), "{version}");
                let after = parse(&text.as_bytes()[..=end], &names);
                if let Ok(clusters) = &after {
                    for (cut, whole) in clusters.iter().zip(&whole) {
                        assert!(whole.hosts.starts_with(&cut.hosts), "{version}: {line}");
                    }
                }
                first_line_of_host |= line.ends_with("::cx_active::0")
                    && line.contains("::127.0.")
                    && !line.starts_with("relative::");
                if first_line_of_host || line.ends_with("::hostname::") {
                    let health =
                        line.contains("::health_flags::") && !line.contains("::hostname::");
                    assert_eq!(after.is_ok(), health, "{version}: {line}");
                    first_line_of_host &= !health;
                }
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
            ("a::/x::127.0.0.1:80::health_flags::healthy", "a", None),
        ];
        for (line, name, expected) in rows {
            let expected = expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
            assert_eq!(hosts(&format!("{line}\n"), name), expected, "{line}");
        }
    }

    /// An address may look like several fields: a page that ends with its host is whole.
    #[test]
    fn the_last_hosts_address() {
        let page = "a::observability_name::a\na::default_priority::max_connections::1\n\
            a::/x::hostname::y::hostname::\na::/x::hostname::y::health_flags::healthy\n\
            a::/x::hostname::y::priority::0\n";
        assert_eq!(hosts(page, "a"), Some(vec!["/x::hostname::y ".to_owned()]));
    }

    #[test]
    fn what_cannot_be_trusted() {
        let cut = b"a::127.0.0.1:80::health_flags::healthy";
        assert_eq!(parse(cut, &["a"]), Err(ClustersError::CutOff));
        let long = format!("a::{}::\n", "x".repeat(LINE_ROOM));
        let halves = long.split_at(2000);
        let halves = [halves.0.as_bytes(), halves.1.as_bytes()];
        for chunks in [&halves[..], &[long.as_bytes()]] {
            let too_long = Err(ClustersError::LineTooLong);
            assert_eq!(parse_chunks(chunks.iter().copied(), &["a"]), too_long);
        }
        let others = format!("{long}c::d::e\n");
        assert_eq!(parse(others.as_bytes(), &["b"]).unwrap()[0].hosts, []);
        let unended = "a::b::".to_owned() + long.trim_end();
        assert_eq!(
            parse(unended.as_bytes(), &["b"]),
            Err(ClustersError::CutOff)
        );
        for text in ["ok", "\n\n\0\u{ff}\n", "<p>a::b</p>\n", "{}"] {
            let error = Err(ClustersError::NotEnvoys);
            assert_eq!(parse(text.as_bytes(), &["a"]), error, "{text}");
        }
        assert!(parse(b"", &["a"]).is_ok());
        assert!(parse(b"\n\n", &["a"]).is_ok());
    }

    proptest! {
        /// However the page is cut into chunks, the result is the same.
        #[test]
        fn chunks_do_not_matter(cuts in proptest::collection::vec(0..29_000_usize, 0..60)) {
            let (_, text) = CAPTURES[3];
            let names = ["my_service", "a", "a::b::c", "eds_status", "ipv6", "no_hosts", "absent"];
            prop_assert_eq!(parse_cut(text, cuts.clone(), &names), parse(text.as_bytes(), &names));
            let (_, text) = ADDRESSES[1];
            let names = ["relative", "long", "long::more", "fakes", "hostile", "internal_v6", "x"];
            prop_assert_eq!(parse_cut(text, cuts, &names), parse(text.as_bytes(), &names));
        }

        /// Nor of a page that is none.
        #[test]
        fn chunks_of_anything_do_not_matter(
            pieces in proptest::collection::vec(prop_oneof![
                8 => Just("::".to_owned()),
                4 => Just("\n".to_owned()),
                2 => Just("\na::observability_name::a\na::b.sock::hostname::\n".to_owned()),
                2 => Just("a::b.sock::health_flags::healthy".to_owned()),
                6 => "(a|b|:|127.0.0.1:1|/x|observability_name|hostname|health_flags|healthy)",
                1 => "x{3000}",
            ], 0..40),
            cuts in proptest::collection::vec(0..9000_usize, 0..20),
        ) {
            let text = pieces.concat();
            let names = ["a", "a::b", "b"];
            prop_assert_eq!(parse_cut(&text, cuts, &names), parse(text.as_bytes(), &names));
        }

        /// No input brings it down, and what it keeps is bounded by the clusters that are wanted.
        #[test]
        fn any_bytes(chunks in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b':'), Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            0..20,
        )) {
            let mut parser = Parser::new(&["a".to_owned()]);
            for chunk in &chunks {
                parser.feed(chunk);
                prop_assert!(parser.partial.len() <= 1 + LINE_ROOM);
                prop_assert!(parser.before.len() <= 1 + LINE_ROOM);
            }
            let _ = parser.finish();
        }
    }
}
