//! The rows of the fault matrix in which the admin fails. Silence is told from a wrong reply: while
//! the admin is silent the last good snapshot answers until it is `max_stale_ms` old; a wrong reply
//! means 503 at once. Without a snapshot every probe is answered 503 in bounded time. The log says
//! why; when the admin is back, 200; the neighbours notice nothing.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use e2e::config::{bootstrap, cluster, healthz_with, listener};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, envoy_with_fake};
use e2e::prober::Prober;
use e2e::xds::Cds;
use e2e::{eventually, free_port};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};

/// The `/clusters` of some other Envoy: whole, with healthy hosts, but none of ours.
const ANOTHER: &[u8] = include_bytes!("../../../src/testdata/clusters-envoy-1.36.4.txt");

/// The cause where the admin answers well, but not about our cluster.
const UNKNOWN: &str = "Envoy knows no such cluster";

/// One row: what is broken, and the cause that the log must name.
struct Row {
    broken: &'static str,
    how: How,
    is: Is,
    cause: &'static str,
}

/// What the filter must take it for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Silence,
    Wrong,
}

/// How it is broken.
enum How {
    /// A server in the admin's place does this, before and after it is sound.
    Fake(Does),
    /// Nobody listens, before and after somebody did.
    Refused,
    /// Connections are neither taken nor refused.
    Mute,
    /// The admin cluster is like this.
    Cluster(Option<Value>),
}

fn rows() -> Vec<Row> {
    let row = |broken, how, is, cause| Row {
        broken,
        how,
        is,
        cause,
    };
    let silent = |broken, does, cause| row(broken, How::Fake(does), Is::Silence, cause);
    let wrong = |broken, status, body: &[u8], cause| {
        let does = Does::Answer(status, body.to_vec());
        row(broken, How::Fake(does), Is::Wrong, cause)
    };
    let timeout = "/clusters did not answer within admin_timeout_ms";
    let cut_off = "the reply to /clusters was lost after its headers: cut off";
    let refused = "cannot reach the admin through admin_cluster (/clusters: 503)";
    let foreign = "/clusters answered 200 with a text that is not Envoy's";
    let not_sent = "has no host, or its circuit breaker is open";
    let part = b"c::127.0.0.1:9000::health_fl";
    let inside = "ends inside a line";
    let other = b"other_c::127.0.0.1:9000::health_flags::healthy\n";
    let mut no_requests = cluster("", &[1]);
    no_requests["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    let changed = |given| How::Cluster(Some(given));
    vec![
        row("refused", How::Refused, Is::Silence, refused),
        // Either page, whichever Envoy gives up first.
        row(
            "mute",
            How::Mute,
            Is::Silence,
            "did not answer within admin_timeout_ms",
        ),
        silent("hangs", Does::Hang, timeout),
        silent("hangs_in_body", Does::HangInBody(HEALTHY.into()), cut_off),
        silent("cut_off", Does::CutOff(HEALTHY.into()), cut_off),
        silent("trickles", Does::Trickle(HEALTHY.into()), cut_off),
        silent("closes", Does::Close, refused),
        silent(
            "ready_hangs",
            Does::HangWhenReady(HEALTHY.into()),
            "/ready did not answer within admin_timeout_ms",
        ),
        row(
            "cluster_empty",
            changed(cluster("", &[])),
            Is::Silence,
            not_sent,
        ),
        row(
            "circuit_breaker",
            changed(no_requests),
            Is::Silence,
            refused,
        ),
        row(
            "cluster_missing",
            How::Cluster(None),
            Is::Wrong,
            "Envoy has no cluster",
        ),
        wrong("empty", 200, b"", UNKNOWN),
        wrong("garbage", 200, b"<html>healthy</html>\n", foreign),
        wrong("not_utf8", 200, b"\xff\xfe\0 healthy\n", foreign),
        wrong("another_cluster", 200, other, UNKNOWN),
        wrong("another_envoy", 200, ANOTHER, UNKNOWN),
        wrong("truncated_line", 200, part, inside),
        wrong("truncated_end", 200, HEALTHY.trim_ascii_end(), inside),
        wrong("403", 403, HEALTHY, "403: allow_paths must have"),
        wrong("404", 404, HEALTHY, "/clusters answered 404"),
        wrong("500", 500, HEALTHY, "/clusters answered 500"),
    ]
}

impl Row {
    fn path(&self) -> String {
        format!("/{}", self.broken)
    }
}

/// A filter of its own for a row, of the row's name: `admin_NAME` is its admin, `/NAME` its path.
fn filter(name: &str, timeout: Duration, max_stale: Duration) -> Value {
    healthz_with(&json!({
        "name": name,
        "admin_cluster": format!("admin_{name}"),
        "admin_timeout_ms": timeout.as_millis() as u64,
        "max_stale_ms": max_stale.as_millis() as u64,
        "max_age_ms": 0,
        "endpoints": [{"path": format!("/{name}"), "clusters": ["c"]}],
    }))
}

fn named(name: &str, mut cluster: Value) -> Value {
    cluster["name"] = json!(format!("admin_{name}"));
    cluster["load_assignment"]["cluster_name"] = cluster["name"].clone();
    cluster
}

fn admin_at(name: &str, port: u16) -> Value {
    let mut admin = named(name, cluster("", &[port]));
    // The call's own timeout comes first.
    admin["connect_timeout"] = json!("60s");
    admin
}

fn sound() -> Does {
    Does::Answer(200, HEALTHY.to_vec())
}

/// A row in a running Envoy.
struct Running {
    row: Row,
    prober: Prober,
    admin_port: u16,
    /// Of Envoy itself.
    admin: Prober,
    cds: Rc<RefCell<Cds>>,
}

/// What stands in the admin's place; dropped, it is gone.
enum Stage {
    Nobody,
    Fake(FakeAdmin),
    Mute {
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    },
}

impl Running {
    fn name(&self) -> &'static str {
        self.row.broken
    }

    /// The admin answers well from now on.
    async fn mend(&self, stage: &mut Stage) {
        match stage {
            Stage::Fake(fake) => fake.change_to(sound()),
            other => {
                *other = Stage::Nobody;
                *other = Stage::Fake(FakeAdmin::start_on(self.admin_port, sound()).await);
            }
        }
        if let How::Cluster(_) = self.row.how {
            let mended = admin_at(self.name(), self.admin_port);
            self.replace_cluster(Some(mended)).await;
        }
    }

    /// The admin fails from now on, as the row says.
    async fn break_it(&self, stage: &mut Stage) {
        match &self.row.how {
            How::Fake(does) => match stage {
                Stage::Fake(fake) => fake.change_to(does.clone()),
                _ => {
                    let fake = FakeAdmin::start_on(self.admin_port, does.clone()).await;
                    *stage = Stage::Fake(fake);
                }
            },
            How::Refused => *stage = Stage::Nobody,
            How::Mute => {
                *stage = Stage::Nobody;
                *stage = mute(self.admin_port).await;
            }
            How::Cluster(given) => {
                let given = given.clone().map(|given| named(self.name(), given));
                self.replace_cluster(given).await;
            }
        }
    }

    /// Replaces the admin cluster, or takes it away; nobody probes before Envoy has done so, for a call
    /// under way would be cut off.
    async fn replace_cluster(&self, cluster: Option<Value>) {
        let name = format!("admin_{}", self.name());
        let shown = async || {
            let page = self.admin.get("/clusters").await.body;
            let ours = page.lines().filter(|line| {
                let told = line.contains("max_requests") || line.contains("health_flags");
                told && line.starts_with(&format!("{name}::"))
            });
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = shown().await;
        if self.cds.borrow_mut().set(&name, cluster) {
            eventually(&format!("{name} is replaced"), async || {
                (shown().await != before).then_some(())
            })
            .await;
        }
    }

    async fn status(&self) -> u16 {
        self.prober.get(&self.row.path()).await.status
    }

    async fn wait_for(&self, status: u16) {
        eventually(&format!("{} answers {status}", self.name()), async || {
            (self.status().await == status).then_some(())
        })
        .await;
        self.wait_for_record(status).await;
    }

    /// Probes until this is recorded: what follows another change within a second is so by a later answer.
    async fn wait_for_record(&self, status: u16) {
        let name = self.name();
        let page = format!("/stats?filter=healthy.filter.{name}.path");
        let end = format!(": {}", u8::from(status == 200));
        eventually(&format!("{name}: {status} is recorded"), async || {
            self.status().await;
            let gauge = self.admin.get(&page).await.body;
            gauge.trim_end().ends_with(&end).then_some(())
        })
        .await;
    }

    /// The status of each of many probes at once, on all workers, and how long it took.
    async fn at_once(&self) -> Vec<(u16, Duration)> {
        let mut probes = JoinSet::new();
        for _ in 0..20 {
            let (prober, path) = (self.prober.clone(), self.row.path());
            probes.spawn(async move {
                let begun = Instant::now();
                let status = prober.get(&path).await.status;
                (status, begun.elapsed())
            });
        }
        probes.join_all().await
    }

    /// One by one and many at once, every probe is answered 503, each within one call's time.
    async fn check_broken(&self, bound: Option<Duration>) {
        for _ in 0..3 {
            let answer = self.prober.get(&self.row.path()).await;
            let told = (answer.status, answer.body.as_str());
            assert_eq!(told, (503, "unavailable"), "{}", self.name());
        }
        for (status, took) in self.at_once().await {
            assert_eq!(status, 503, "{}", self.name());
            let within = bound.is_none_or(|bound| took < bound);
            assert!(within, "{}: a probe took {took:?}", self.name());
        }
        self.wait_for_record(503).await;
    }
}

/// The queue of a listener that takes nobody is full: the kernel drops what comes.
async fn mute(port: u16) -> Stage {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Who listened there before may be about to stop.
    let listener = eventually("the port is free", async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).ok()?;
        socket.listen(1).ok()
    })
    .await;
    let mut queued = Vec::new();
    let patience = Duration::from_millis(300);
    while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        queued.push(stream);
    }
    Stage::Mute {
        _listener: listener,
        _queued: queued,
    }
}

/// Plays these rows in one Envoy, at the same time: each has a filter and an admin of its own. Beside
/// them a neighbour's probes are all answered 200.
async fn play(
    rows: Vec<Row>,
    timeout: Duration,
    max_stale: Duration,
    check: impl AsyncFn(&Running) + Clone + 'static,
) -> Envoy {
    let (admin, neighbour) = (free_port(), free_port());
    let neighbours = FakeAdmin::start(sound()).await;
    let filter_of_neighbour = filter("neighbour", e2e::DEADLINE, Duration::ZERO);
    let mut listeners = vec![listener(neighbour, [filter_of_neighbour])];
    let mut clusters = vec![admin_at("neighbour", neighbours.port)];
    let mut running = Vec::new();
    for row in rows {
        let (port, admin_port) = (free_port(), free_port());
        listeners.push(listener(port, [filter(row.broken, timeout, max_stale)]));
        clusters.push(admin_at(row.broken, admin_port));
        running.push((row, port, admin_port));
    }
    let mut config = bootstrap(admin, listeners, vec![]);
    let cds = Rc::new(RefCell::new(Cds::add_to(&mut config, clusters)));
    let envoy = Envoy::start(&config.to_string(), &[]).await;
    let mut checks = JoinSet::new();
    for (row, port, admin_port) in running {
        let (check, cds) = (check.clone(), Rc::clone(&cds));
        let admin = envoy.admin.clone();
        checks.spawn_local(async move {
            let prober = Prober::http(port);
            let running = Running {
                row,
                prober,
                admin_port,
                admin,
                cds,
            };
            check(&running).await;
        });
    }
    let prober = Prober::http(neighbour);
    let mut probes = 0;
    while !checks.is_empty() || probes <= 20 {
        while let Some(done) = checks.try_join_next() {
            done.unwrap();
        }
        assert_eq!(prober.get("/neighbour").await.status, 200);
        probes += 1;
    }
    envoy
}

/// The log says when this began and when it ended, once each, and the cause.
async fn check_log(envoy: &Envoy, name: &str, cause: &str) {
    let own = format!("envoy-healthz[{name}]: ");
    let mut lines = vec![(format!("/{name} is unhealthy: "), cause)];
    // A whole page without our cluster is no fault of the admin's.
    if cause != UNKNOWN {
        lines.push(("admin unavailable: ".to_owned(), cause));
        lines.push(("admin available again".to_owned(), ""));
    }
    for (text, cause) in lines {
        let line = format!("{own}{text}");
        eventually(&format!("the log says {line}{cause}"), async || {
            (!envoy.logged(&[&line, cause]).is_empty()).then_some(())
        })
        .await;
        let count = envoy.logged(&[&line]).len();
        assert_eq!(count, 1, "{line}");
    }
}

/// With `max_stale_ms: 0`, every probe is told 503 within one call's time.
#[tokio::test]
async fn every_row_without_a_snapshot() {
    /// So long that a busy machine's delays are small beside it.
    const TIMEOUT: Duration = Duration::from_secs(4);
    /// More than one call takes, less than two in a row.
    const BOUND: Duration = Duration::from_millis(7500);
    let check = async |running: &Running| {
        let mut stage = Stage::Nobody;
        running.mend(&mut stage).await;
        running.wait_for(200).await;
        let asked = |stage: &Stage| match stage {
            Stage::Fake(fake) => fake.requests(),
            _ => 0,
        };
        running.break_it(&mut stage).await;
        if let How::Cluster(_) = running.row.how {
            // The workers follow a moment later.
            running.wait_for(503).await;
        }
        let before = asked(&stage);
        running.check_broken(Some(BOUND)).await;
        if let How::Fake(_) = running.row.how {
            assert!(asked(&stage) > before, "{}: not asked", running.name());
        }
        running.mend(&mut stage).await;
        running.wait_for(200).await;
    };
    let causes: Vec<_> = rows().iter().map(|row| (row.broken, row.cause)).collect();
    let played = play(rows(), TIMEOUT, Duration::ZERO, check);
    let envoy = LocalSet::new().run_until(played).await;
    for (name, cause) in causes {
        check_log(&envoy, name, cause).await;
    }
}

/// A row of silence, with a good snapshot at hand: it answers until it is `max_stale_ms` old.
#[tokio::test]
async fn silence_is_bridged_by_the_last_snapshot() {
    const MAX_STALE: Duration = Duration::from_secs(3);
    /// Of the clocks: the filter counts in milliseconds.
    const CLOCKS: Duration = Duration::from_millis(50);
    let check = async |running: &Running| {
        let mut stage = Stage::Nobody;
        running.mend(&mut stage).await;
        let sound_from = Instant::now();
        running.wait_for(200).await;
        running.break_it(&mut stage).await;
        let silent_from = Instant::now();
        let name = running.name();
        // The admin cluster's change reaches the workers a moment later: until then the admin answers.
        let exactly = !matches!(running.row.how, How::Cluster(_));
        let mut bridged = 0;
        loop {
            let asked = silent_from.elapsed();
            let status = running.status().await;
            if status == 503 {
                break;
            }
            assert_eq!(status, 200, "{name}");
            let too_old = exactly && asked > MAX_STALE + CLOCKS;
            assert!(!too_old, "{name}: 200 to a probe {asked:?} after");
            assert!(asked < e2e::DEADLINE, "{name}: 200 for ever");
            bridged += 1;
        }
        let since_sound = sound_from.elapsed();
        assert!(
            since_sound + CLOCKS >= MAX_STALE,
            "{name}: 503 though the snapshot was at most {since_sound:?} old"
        );
        assert!(bridged > 0, "{name}: the snapshot answered nobody");
        running.check_broken(None).await;
        running.mend(&mut stage).await;
        running.wait_for(200).await;
    };
    let silent = || rows().into_iter().filter(|row| row.is == Is::Silence);
    let causes: Vec<_> = silent().map(|row| (row.broken, row.cause)).collect();
    let timeout = Duration::from_millis(300);
    let played = play(silent().collect(), timeout, MAX_STALE, check);
    let envoy = LocalSet::new().run_until(played).await;
    for (name, cause) in causes {
        check_log(&envoy, name, cause).await;
    }
}

/// A wrong reply, with a good snapshot at hand that might answer for minutes: 503 all the same.
#[tokio::test]
async fn a_wrong_reply_is_not_bridged() {
    let check = async |running: &Running| {
        let mut stage = Stage::Nobody;
        running.mend(&mut stage).await;
        running.wait_for(200).await;
        running.break_it(&mut stage).await;
        // A reply that is late is silence until it comes, for each worker.
        eventually("no worker goes on with its snapshot", async || {
            let answers = running.at_once().await;
            answers
                .iter()
                .all(|(status, _)| *status == 503)
                .then_some(())
        })
        .await;
        running.check_broken(None).await;
        running.mend(&mut stage).await;
        running.wait_for(200).await;
    };
    let wrong = || rows().into_iter().filter(|row| row.is == Is::Wrong);
    let causes: Vec<_> = wrong().map(|row| (row.broken, row.cause)).collect();
    let max_stale = Duration::from_secs(600);
    let played = play(wrong().collect(), e2e::DEADLINE, max_stale, check);
    let envoy = LocalSet::new().run_until(played).await;
    for (name, cause) in causes {
        check_log(&envoy, name, cause).await;
    }
}

/// While a snapshot is at hand no probe waits for as long as the call may take, on any worker.
#[tokio::test]
async fn with_a_snapshot_at_hand_a_probe_does_not_wait_for_the_timeout() {
    for max_age_ms in [0, 50] {
        let fields = json!({
            "admin_timeout_ms": 60000, "max_stale_ms": 600_000, "max_age_ms": max_age_ms,
        });
        let (envoy, fake) = envoy_with_fake(sound(), "2", fields).await;
        let port = envoy.port;
        assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
        fake.change_to(Does::Hang);
        // A prober gives up after 10 s. Each has a connection of its own, to either worker.
        for _ in 0..10 {
            assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
        }
        let statuses = e2e::prober::probe_at_once(port, 20).await;
        assert_eq!(statuses, [200; 20], "{max_age_ms}");
        // The endpoint's health has not changed.
        assert_eq!(envoy.logged(&["/healthz is unhealthy"]).len(), 0);
    }
}

/// Envoy gives up on a reply of more than 32 MiB.
#[tokio::test]
async fn sixty_four_mib() {
    let line = [b'x'; 1023].into_iter().chain([b'\n']);
    let body: Vec<u8> = line.cycle().take(64 << 20).collect();
    let fields = json!({"admin_timeout_ms": 30000, "max_age_ms": 0, "max_stale_ms": 0});
    let (envoy, fake) = envoy_with_fake(Does::Answer(200, body), "2", fields).await;
    let port = envoy.port;
    let prober = Prober::http(port);
    for _ in 0..3 {
        assert_eq!(prober.get("/healthz").await.status, 503);
    }
    let cause = "/healthz is unhealthy: admin: the reply to /clusters was lost after its headers: cut off, \
                 too slow, or over 32 MiB";
    assert_eq!(envoy.logged(&[cause]).len(), 1);
    fake.change_to(sound());
    prober.wait_for(200).await;
}
