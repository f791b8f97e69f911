//! A row of [`super`] in a running Envoy: its admin is broken and mended.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use e2e::config::{Config, cluster};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, healthy};
use e2e::prober::Prober;
use e2e::xds::Cds;
use e2e::{Build, free_port, listen_with_queue, until};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One row: what is broken, and the cause that the log must name.
pub struct Row {
    pub broken: &'static str,
    pub how: How,
    pub is: Is,
    pub cause: &'static str,
}

/// What the filter must take it for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Is {
    Silence,
    Wrong,
}

/// How it is broken.
pub enum How {
    /// A server in the admin's place does this, before and after it is sound.
    Fake(Does),
    /// Nobody listens, before and after somebody did.
    Refused,
    /// Connections are neither taken nor refused.
    Mute,
    /// The admin cluster is like this.
    Cluster(Option<Value>),
}

/// A listener for a row, with a filter of the row's name: `admin_NAME` is its admin, `/NAME` its path.
fn listener(port: u16, name: &str, timeout: Duration, max_stale: Duration) -> Value {
    let filter = json!({
        "name": name,
        "admin_cluster": format!("admin_{name}"),
        "admin_timeout_ms": timeout.as_millis() as u64,
        "max_stale_ms": max_stale.as_millis() as u64,
        "max_age_ms": 0,
        "endpoints": [{"path": format!("/{name}"), "clusters": ["c"]}],
    });
    Build::Wasm.listener(port, &filter)
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

/// A row in a running Envoy.
pub struct Running {
    pub row: Row,
    prober: Prober,
    admin_port: u16,
    /// Of Envoy itself.
    admin: Prober,
    cds: Rc<RefCell<Cds>>,
}

/// What is in the admin's place; dropped, it is gone.
pub enum Stage {
    Nobody,
    Fake(FakeAdmin),
    Mute {
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    },
}

impl Running {
    pub fn name(&self) -> &'static str {
        self.row.broken
    }

    fn path(&self) -> String {
        format!("/{}", self.name())
    }

    /// The admin answers well from now on.
    pub async fn mend(&self, stage: &mut Stage) {
        match stage {
            Stage::Fake(fake) => fake.change_to(healthy()),
            other => {
                *other = Stage::Nobody;
                *other = Stage::Fake(FakeAdmin::start_on(self.admin_port, healthy()).await);
            }
        }
        if let How::Cluster(_) = self.row.how {
            let mended = admin_at(self.name(), self.admin_port);
            self.replace_cluster(Some(mended)).await;
        }
    }

    /// The admin fails from now on, as the row says.
    pub async fn break_it(&self, stage: &mut Stage) {
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
                let of_hosts = line.contains("max_requests") || line.contains("health_flags");
                of_hosts && line.starts_with(&format!("{name}::"))
            });
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = shown().await;
        if self.cds.borrow_mut().set(&name, cluster) {
            let what = format!("{name} is replaced");
            until(&what, async || shown().await != before).await;
        }
    }

    pub async fn status(&self) -> u16 {
        self.prober.get(&self.path()).await.status
    }

    pub async fn wait_for(&self, status: u16) {
        self.prober.wait_through_answers(&self.path(), status).await;
        self.wait_for_record(status).await;
    }

    /// Probes until this is recorded, of the endpoint and of its admin: what follows another change within a
    /// second is so by a later answer, and one that the admin is only slow for says nothing of the admin.
    async fn wait_for_record(&self, status: u16) {
        let name = self.name();
        let healthy = status == 200;
        // A whole page without our cluster is no fault of the admin's.
        let admin_up = healthy || self.row.cause == super::UNKNOWN;
        for (gauge, value) in [
            (format!("healthy.filter.{name}.path"), healthy),
            (format!("admin_up.filter.{name}$"), admin_up),
        ] {
            let (page, end) = (
                format!("/stats?filter={gauge}"),
                format!(": {}", u8::from(value)),
            );
            until(&format!("{gauge}{end} is recorded"), async || {
                self.status().await;
                self.admin.get(&page).await.body.trim_end().ends_with(&end)
            })
            .await;
        }
    }

    /// The status of each of many probes at once, on all workers, and how long it took.
    pub async fn at_once(&self) -> Vec<(u16, Duration)> {
        let mut probes = JoinSet::new();
        for _ in 0..20 {
            let (prober, path) = (self.prober.clone(), self.path());
            probes.spawn(async move {
                let begun = Instant::now();
                let status = prober.get(&path).await.status;
                (status, begun.elapsed())
            });
        }
        probes.join_all().await
    }

    /// Whether each of many probes at once is answered 503.
    pub async fn is_broken_on_all_workers(&self) -> bool {
        let answers = self.at_once().await;
        answers.iter().all(|(status, _)| *status == 503)
    }

    /// One by one and many at once, every probe is answered 503, each within one call's time.
    pub async fn check_broken(&self, bound: Option<Duration>) {
        for _ in 0..3 {
            let answer = self.prober.get(&self.path()).await;
            let seen = (answer.status, answer.body.as_str());
            assert_eq!(seen, (503, "unavailable"), "{}", self.name());
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
    let listener = listen_with_queue(port, 1).await;
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
pub async fn play(
    rows: Vec<Row>,
    timeout: Duration,
    max_stale: Duration,
    check: impl AsyncFn(&Running) + Clone + 'static,
) -> Envoy {
    let neighbours = FakeAdmin::start(healthy()).await;
    let (neighbour, mut running) = (free_port(), Vec::new());
    let mut listeners = vec![listener(
        neighbour,
        "neighbour",
        Duration::from_secs(30),
        Duration::ZERO,
    )];
    let mut clusters = vec![admin_at("neighbour", neighbours.port)];
    for row in rows {
        let (port, admin_port) = (free_port(), free_port());
        listeners.push(listener(port, row.broken, timeout, max_stale));
        clusters.push(admin_at(row.broken, admin_port));
        running.push((row, port, admin_port));
    }
    let cds = Cds::new(clusters);
    let envoy = Config::new().cds(&cds).listeners(listeners).start().await;
    let cds = Rc::new(RefCell::new(cds));
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
