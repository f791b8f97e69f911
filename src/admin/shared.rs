//! What the workers of one Envoy share of the admin through proxy-wasm's shared data, as text.
//!
//! | record | for example | meaning |
//! |---|---|---|
//! | lease | `81795312` | lease held until then, in milliseconds: some worker renews the snapshot |
//! | snapshot | `81795312345 +`, and lines as the admin's | the latest snapshot, when its call was sent, in microseconds, and `/ready` |
//!
//! Times count from the machine's start, by a clock that all workers share.

use std::fmt::Write;
use std::time::Duration;

use crate::admin::clusters::{self, Parser};
use crate::admin::pages::{Ready, Report};

/// Who renews the snapshot in the background.
#[derive(Debug, PartialEq, Eq)]
pub enum Lease {
    /// Whoever gets this record written.
    Free(String),
    /// Somebody does; the next time comes in so many milliseconds.
    Taken(u64),
}

/// How much earlier than the holder of the lease a worker may have read the clock, in milliseconds.
const CLOCKS: u64 = 50;

/// Whether the snapshot is due, if it is to be renewed every `interval` milliseconds.
pub fn lease(record: &[u8], now: u64, interval: u64) -> Lease {
    let due = std::str::from_utf8(record).ok();
    match due.and_then(|due| due.parse::<u64>().ok()) {
        // Further ahead it is of a configuration with a longer interval.
        Some(due) if due > now && due - now <= interval + CLOCKS => Lease::Taken(due - now),
        // A little late: the next one comes when it would have come.
        Some(due) if due <= now && now - due < interval => {
            Lease::Free((due + interval).to_string())
        }
        _ => Lease::Free((now + interval).to_string()),
    }
}

/// Writes a snapshot whose call was `sent` then.
pub fn write_snapshot(report: &Report, sent: Duration) -> String {
    let sent = sent.as_micros();
    let ready = match &report.ready {
        Ready::Yes => "+",
        Ready::No(state) => state,
    };
    let mut text = format!("{sent} {ready}\n");
    // Writing to a String cannot fail.
    for cluster in report.clusters.iter().filter(|cluster| cluster.listed) {
        let _ = writeln!(text, "{}::observability_name::", cluster.name);
        for host in &cluster.hosts {
            if !clusters::is_ip(host.address.as_bytes()) {
                let _ = writeln!(text, "{}::{}::hostname::", cluster.name, host.address);
            }
            let flags: String = host.flags.names().flat_map(|flag| ["/", flag]).collect();
            let flags = if flags.is_empty() { "healthy" } else { &flags };
            let (name, address) = (&cluster.name, &host.address);
            let _ = writeln!(text, "{name}::{address}::health_flags::{flags}");
        }
    }
    text
}

/// Reads a snapshot of these clusters, and when its call was sent.
pub fn read_snapshot(text: &[u8], names: &[String]) -> Option<(Duration, Report)> {
    let end = text.iter().position(|&byte| byte == b'\n')?;
    let (head, lines) = text.split_at(end);
    let (sent, ready) = std::str::from_utf8(head).ok()?.split_once(' ')?;
    let mut parser = Parser::new(names);
    parser.feed(lines);
    let report = Report {
        clusters: parser.finish().ok()?,
        ready: match ready {
            "+" => Ready::Yes,
            state => Ready::No(state.to_owned()),
        },
    };
    Some((Duration::from_micros(sent.parse().ok()?), report))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::clusters::Cluster;

    #[test]
    fn leases() {
        let free = |record: &str| Lease::Free(record.to_owned());
        for (record, now, expected) in [
            ("", 1000, free("1100")),
            ("1060", 1000, Lease::Taken(60)),
            ("1100", 1000, Lease::Taken(100)),
            ("1000", 1000, free("1100")),
            ("990", 1000, free("1090")),
            ("900", 1000, free("1100")),
            ("1", 1000, free("1100")),
            // By a worker that has read the clock later.
            ("1101", 1000, Lease::Taken(101)),
            ("1150", 1000, Lease::Taken(150)),
            // Of another configuration, whose interval is longer.
            ("1151", 1000, free("1100")),
        ] {
            assert_eq!(lease(record.as_bytes(), now, 100), expected, "{record:?}");
        }
    }

    proptest! {
        /// Whatever workers look when, and read the clock how long before, there are no more refreshes than
        /// intervals, and one by two of them.
        #[test]
        fn one_refresh_an_interval(steps in proptest::collection::vec((0..40_u64, 0..50_u64), 1..400)) {
            let (mut now, mut record, mut refreshes, mut last) = (1_000_000, String::new(), 0_u64, 1_000_000);
            for (step, late) in steps {
                now += step;
                let read = (now - late).max(1_000_000);
                if let Lease::Free(next) = lease(record.as_bytes(), read, 100) {
                    record = next;
                    refreshes += 1;
                    last = now;
                }
                prop_assert!(now - last < 200);
            }
            prop_assert!(refreshes <= (now - 1_000_000) / 100 + 1);
        }

        /// What is written is read again.
        #[test]
        fn snapshots(
            names in proptest::collection::btree_set("[a-z:]{1,6}", 1..4),
            flags in proptest::collection::vec("healthy|/failed_active_hc|/new|/pending_active_hc/active_hc_timeout|", 0..5),
            sockets in proptest::collection::vec("[a-z:/@.]{1,9}", 5),
            ready in prop_oneof![Just(Ready::Yes), Just(Ready::No("503 DRAINING".to_owned()))],
            sent in any::<u64>().prop_map(Duration::from_micros),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut parser = Parser::new(&names);
            for (port, flags) in flags.iter().enumerate() {
                parser.feed(format!("{}::127.0.0.1:{port}::health_flags::{flags}\n", names[0]).as_bytes());
            }
            let name = names.last().expect("a name");
            parser.feed(format!("{name}::observability_name::{name}\n").as_bytes());
            for (address, flags) in sockets.iter().zip(&flags) {
                parser.feed(format!("{name}::{address}::hostname::h\n").as_bytes());
                parser.feed(format!("{name}::{address}::health_flags::{flags}\n").as_bytes());
            }
            let report = Report { clusters: parser.finish().unwrap(), ready };
            let text = write_snapshot(&report, sent);
            let (read_asked, read) = read_snapshot(text.as_bytes(), &names).expect("readable");
            prop_assert_eq!(read_asked, sent);
            prop_assert_eq!(read, report);
        }

        #[test]
        fn any_bytes_are_no_snapshot_or_one(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((_, report)) = read_snapshot(&text, &["a".to_owned()]) {
                let nothing = Cluster { name: "a".to_owned(), ..Cluster::default() };
                prop_assert_eq!(report.clusters, [nothing]);
            }
        }
    }

    #[test]
    fn cut_snapshots_are_none() {
        assert_eq!(read_snapshot(b"", &[]), None);
        assert_eq!(read_snapshot(b"12 +", &[]), None);
        assert_eq!(read_snapshot(b"x +\n", &[]), None);
        assert_eq!(
            read_snapshot(
                b"12 +\na::127.0.0.1:1::health_flags::heal",
                &["a".to_owned()]
            ),
            None
        );
    }
}
