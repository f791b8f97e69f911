//! The rows of the fault matrix that befall the process: a hot restart, and a clock that steps.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::config::{Config, cluster, with_grpc_check, with_tcp_check};
use e2e::envoy::{Envoy, version};
use e2e::fake_admin::{Does, FakeAdmin, HEALTHY, healthy};
use e2e::prober::{Prober, probe_at_once};
use e2e::truth::Probing;
use e2e::{Build, TcpHost, free_port, timed, until};
use serde_json::json;
use tempfile::TempDir;

both_builds! {
    hot_restart_leaves_no_probe_without_an_answer,
    clock_steps,
}

/// A new Envoy takes the listeners over while probes wait in the old one. It takes its time to start, and
/// the admin's port at once: meanwhile its admin is the one that the old one's workers reach.
async fn hot_restart_leaves_no_probe_without_an_answer(build: Build) {
    timed(async || hot_restart(build).await);
}

async fn hot_restart(build: Build) {
    let slow_admin = Does::Delay(Duration::from_secs(2), HEALTHY.to_vec());
    let slow_admin = FakeAdmin::start(slow_admin).await;
    let (port, slow) = (free_port(), free_port());
    let (_host, live) = TcpHost::on_free_port().await;
    let mut config = Config::new()
        .cluster(with_tcp_check(cluster("c", &[live])))
        .cluster(cluster("slow_admin", &[slow_admin.port]));
    for (port, admin_cluster) in [(port, "local_admin"), (slow, "slow_admin")] {
        let filter = json!({
            "admin_cluster": admin_cluster, "admin_timeout_ms": 20000, "max_age_ms": 0,
            "max_stale_ms": 60000,
        });
        config = config.listener(build.listener(port, &filter));
    }
    // Connections that stay open lead to the old process.
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let local_admin = &mut config["static_resources"]["clusters"][0];
    local_admin["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"max_requests_per_connection": 1},
    }});
    let base_id = free_port().to_string();
    let start = async |epoch: &str, config: &Config| {
        let times = ["--drain-time-s", "1", "--parent-shutdown-time-s", "5"];
        let epoch = ["--base-id", &base_id, "--restart-epoch", epoch];
        config.start_with(&[epoch, times].concat()).await
    };
    let old = start("0", &config).await;
    Prober::http(port).wait_for(200).await;

    let probing = Probing::start(move || Prober::http(port), Duration::ZERO);
    let waiting = tokio::spawn(probe_at_once(slow, 20));
    // With the module no probe waits.
    if build == Build::Wasm {
        until("they wait", async || {
            old.stat("http.e2e.downstream_rq_active").await >= 20
        })
        .await;
    }
    // Envoy is not live before the first check of each host has ended.
    let mute = FakeAdmin::start(Does::Hang).await;
    let mut late = with_grpc_check(cluster("late", &[mute.port]));
    late["health_checks"][0]["timeout"] = json!("3s");
    let new = start("1", &config.clone().cluster(late)).await;
    assert_eq!(waiting.await.unwrap(), [200; 20]);
    old.wait_for_log(&["exiting"]).await;
    let answers = probing.stop().await;
    assert!(answers.len() > 100, "only {} answers", answers.len());
    let good = answers.iter().all(|answer| answer.status == Some(200));
    assert!(good, "{answers:?}");
    assert_eq!(new.stat("server.hot_restart_epoch").await, 1);
    // Before 1.40 the new process may have named what the old one had, without its labels.
    let may_lose_labels = || matches!(version().get(..5), Some("1.38." | "1.39."));
    if build == Build::Module && !may_lose_labels() {
        let metrics = new.admin.get("/stats/prometheus").await.body;
        let healthy = r#"envoy_healthz_healthy{filter="default",path="/healthz"} 1"#;
        assert!(metrics.contains(healthy), "{metrics}");
    }
}

const MAX_AGE: Duration = Duration::from_millis(500);

/// A wall clock that a test steps.
struct Clock {
    dir: TempDir,
    file: File,
    library: PathBuf,
}

impl Clock {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock_step.c");
        let library = dir.path().join("clock_step.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.is_ok_and(|status| status.success()), "{source:?}");
        let file = File::create(dir.path().join("clock")).unwrap();
        let mut clock = Self { dir, file, library };
        clock.step_to(0);
        clock
    }

    /// From now on the clock is this far from the right time, in seconds.
    fn step_to(&mut self, seconds: i64) {
        // In place and of one length: Envoy reads it all the time.
        self.file.rewind().unwrap();
        self.file.write_all(&seconds.to_ne_bytes()).unwrap();
    }

    /// Starts an Envoy by this clock.
    async fn start(&self, config: &Config) -> Envoy {
        let file = self.dir.path().join("clock");
        let variables: [(&str, &Path); 2] = [("LD_PRELOAD", &self.library), ("CLOCK_STEP", &file)];
        Envoy::start_in(&config.to_string(), &[], &variables).await
    }
}

/// The wall clock, by which workers of the wasm build agree on who refreshes and on who saw a transition
/// last, steps: the answers stay right, the refreshes go on, and the transitions are logged.
async fn clock_steps(build: Build) {
    let host = free_port();
    let filter = json!({
        "admin_timeout_ms": 30000, "max_age_ms": MAX_AGE.as_millis() as u64,
        "refresh_interval_ms": 50,
    });
    let config = Config::new()
        .cluster(with_tcp_check(cluster("c", &[host])))
        .listener(build.listener(free_port(), &filter));
    let mut clock = Clock::new();
    let envoy = clock.start(&config).await;
    let port = envoy.port;
    let labels = [("filter", "default"), ("result", "succeeded")];
    let refreshes = build.stat("refreshes", &labels);
    let refreshes = async || envoy.stat(&refreshes).await;
    let lines = || envoy.logged(&["envoy-healthz[default]: /healthz is "]);
    let changed = async |status, word: &str| {
        until(&format!("the log's last line is {word}"), async || {
            // The module takes a verdict so soon after the last change for one of a worker that lags;
            // the next probe shows it.
            Prober::http(port).wait_for(status).await;
            lines().last().is_some_and(|line| line.contains(word))
        })
        .await;
    };
    let mut up = Some(TcpHost::start(host).await);
    changed(200, "is healthy").await;
    let mut logged = lines().len();
    for step in [3600, 0, -3600, 86400, -86400, -86399, -86400] {
        // No worker has a snapshot from before the last transition.
        tokio::time::sleep(MAX_AGE).await;
        clock.step_to(step);
        // Nothing has changed, on whichever worker.
        for _ in 0..20 {
            let answer = Prober::http(port).get("/healthz").await;
            assert_eq!(answer.status, 200, "{step}");
        }
        if build == Build::Wasm {
            let before = refreshes().await;
            let what = format!("{step}: it refreshes without a probe");
            until(&what, async || refreshes().await >= before + 10).await;
        }
        drop(up.take());
        changed(503, "is unhealthy: c 0/1").await;
        up = Some(TcpHost::start(host).await);
        changed(200, "is healthy").await;
        logged += 2;
        assert_eq!(lines().len(), logged, "{step}: one line per state change");
    }
    // It did step.
    let today = jiff::Timestamp::now().strftime("[%Y-%m-%d").to_string();
    let yesterday = envoy.logged(&["is healthy"]).pop().unwrap();
    assert!(!yesterday.starts_with(&today), "{yesterday}");
}

/// The admin falls silent and the clock is set back: what the workers have shared grows old all the
/// same, though by the clock it becomes young once more.
#[tokio::test]
async fn clock_set_back_while_the_admin_is_silent() {
    for (seconds, max_stale) in [
        (-2, Duration::ZERO),
        (-3600, Duration::ZERO),
        (-3600, 2 * MAX_AGE),
    ] {
        let fake = FakeAdmin::start(healthy()).await;
        let filter = json!({
            "admin_timeout_ms": 200,
            "max_age_ms": MAX_AGE.as_millis() as u64, "refresh_interval_ms": 50,
            "max_stale_ms": max_stale.as_millis() as u64,
        });
        let listener = Build::Wasm.listener(free_port(), &filter);
        let config = Config::new().fake_admin(fake.port).listener(listener);
        let mut clock = Clock::new();
        let envoy = clock.start(&config).await;
        let port = envoy.port;
        for _ in 0..20 {
            Prober::http(port).wait_for(200).await;
        }
        fake.change_to(Does::Hang);
        clock.step_to(seconds);
        let begun = Instant::now();
        Prober::http(port).wait_for(503).await;
        // The other worker's snapshot may be of the same age.
        tokio::time::sleep(MAX_AGE + max_stale).await;
        while begun.elapsed() < Duration::from_secs(5) {
            let answer = Prober::http(port).get("/healthz").await;
            assert_eq!(answer.status, 503, "{seconds} s, {:?}", begun.elapsed());
        }
        fake.change_to(healthy());
        Prober::http(port).wait_for(200).await;
    }
}
