//! A real Envoy as a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::prober::{Answer, Prober};
use crate::{Signal, end, eventually, module, root, send_signal, until};

/// A running Envoy; its log is printed if the test that holds it panics.
pub struct Envoy {
    child: Child,
    /// Its admin.
    pub admin: Prober,
    /// Its first listener on a port, over HTTP/1.1 in the clear.
    pub prober: Prober,
    /// The port of that listener.
    pub port: u16,
    dir: TempDir,
}

/// The Envoy to test: `$ENVOY`, or the one that `make` has fetched.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("ENVOY")
        .map(PathBuf::from)
        .unwrap_or_else(|| root().join(".tools/envoy-1.40.0/envoy/_bin/envoy"));
    assert!(path.exists(), "{path:?} is missing: run make envoy");
    path
}

/// Its version, like `1.40.0`.
pub fn version() -> String {
    let output = Command::new(binary()).arg("--version").output();
    let text = String::from_utf8(output.expect("envoy runs").stdout).expect("text");
    let (_, version) = text
        .split_once("version: ")
        .expect("version: ID/VERSION/...");
    let version = version.split('/').nth(1).expect("ID/VERSION/...");
    version.to_owned()
}

impl Envoy {
    /// Starts Envoy with this text of a configuration and more arguments, and waits until it is live.
    pub async fn start(config: &str, arguments: &[&str]) -> Self {
        Self::start_in(config, arguments, &[]).await
    }

    /// The same in an environment with these variables.
    pub async fn start_in(config: &str, arguments: &[&str], variables: &[(&str, &Path)]) -> Self {
        Self::run(Command::new(binary()), config, arguments, variables).await
    }

    /// The same under a tool, which is called with these arguments before Envoy's own.
    pub async fn start_under(tool: &[&str], config: &str, arguments: &[&str]) -> Self {
        let (tool, before) = tool.split_first().expect("a tool");
        let mut command = Command::new(tool);
        command.args(before).arg(binary());
        Self::run(command, config, arguments, &[]).await
    }

    async fn run(
        mut command: Command,
        config: &str,
        arguments: &[&str],
        variables: &[(&str, &Path)],
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // JSON is YAML.
        let path = dir.path().join("envoy.yaml");
        fs::write(&path, config).expect("the configuration can be written");
        let unless = |argument: &str, default: &'static [&str]| match arguments.contains(&argument)
        {
            true => &[],
            false => default,
        };
        let log = File::create(dir.path().join("log")).expect("the log can be made");
        let child = command
            .arg("-c")
            .arg(&path)
            .args(["-l", "info"])
            .args(unless("--concurrency", &["--concurrency", "2"]))
            .args(unless("--restart-epoch", &["--disable-hot-restart"]))
            .args(arguments)
            .env(module::SEARCH_PATH, module::search_path())
            .envs(variables.iter().copied())
            // Of its own, for unix sockets with a relative path.
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("envoy starts");
        let (admin, port) = ports(config);
        let mut envoy = Self {
            child,
            admin: Prober::http(admin),
            prober: Prober::http(port),
            port,
            dir,
        };
        eventually("Envoy is live", async || {
            if let Ok(Some(status)) = envoy.child.try_wait() {
                panic!("Envoy ended with {status}");
            }
            let ready = envoy.admin.try_get("/ready").await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
        envoy
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged, less the list of all its extensions.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines = log.lines().filter(|line| !line.contains("]   "));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// The lines of its log that hold all of these texts.
    pub fn logged(&self, texts: &[&str]) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| texts.iter().all(|text| line.contains(text)))
            .map(str::to_owned)
            .collect()
    }

    /// The value of a counter or gauge; 0 if there is none of this name.
    pub async fn stat(&self, name: &str) -> u64 {
        let stats = self.admin.get("/stats").await.body;
        let prefix = format!("{name}: ");
        let value = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        value.map_or(0, |value| value.parse().expect("a number"))
    }

    /// Polls until a counter or gauge has this value.
    pub async fn wait_for_stat(&self, name: &str, value: u64) {
        let what = format!("{name} is {value}");
        until(&what, async || self.stat(name).await == value).await;
    }

    /// Polls until a line of its log holds all of these texts.
    pub async fn wait_for_log(&self, texts: &[&str]) {
        let what = format!("the log has {texts:?}");
        until(&what, async || !self.logged(texts).is_empty()).await;
    }

    /// GETs this path of its first listener.
    pub async fn get(&self, path: &str) -> Answer {
        self.prober.get(path).await
    }

    /// Polls until this path of its first listener has this status, and this body if it is not empty.
    pub async fn wait_for(&self, path: &str, status: u16, body: &str) {
        self.prober.wait_for_answer(path, status, body).await;
    }

    /// POSTs to its admin.
    pub async fn post(&self, path: &str) -> Answer {
        Answer::to(self.admin.request(reqwest::Method::POST, path))
            .await
            .expect("the admin answers")
    }

    /// Freezes it: none of its threads runs.
    pub fn stand_still(&self) {
        send_signal(&self.child, Signal::Stop);
    }

    /// Ends [`Envoy::stand_still`].
    pub fn go_on(&self) {
        send_signal(&self.child, Signal::Continue);
    }

    /// Ends it with SIGTERM.
    pub fn stop(&mut self) -> ExitStatus {
        end(&mut self.child)
    }

    /// Ends it at once, whatever it is busy with.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its resident memory, in MiB.
    pub fn resident_mb(&self) -> f64 {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        status_of(&folder, "VmRSS").expect("a process") as f64 / 1024.0
    }

    /// How often its threads have gone to sleep, which is how often something has woken them.
    pub fn sleeps(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("a process").flatten();
        // A thread that has ended meanwhile counts for nothing.
        let sleeps =
            threads.filter_map(|thread| status_of(&thread.path(), "voluntary_ctxt_switches"));
        sleeps.sum::<u64>()
    }

    /// The CPU time that its workers have taken, in steps of 10 ms.
    pub fn worker_cpu(&self) -> Duration {
        self.cpu_of(|name| name.starts_with("wrk:worker_"))
    }

    /// The same of its main thread.
    pub fn main_thread_cpu(&self) -> Duration {
        let id = self.child.id();
        cpu_of(&PathBuf::from(format!("/proc/{id}/task/{id}")), |_| true).expect("a process")
    }

    /// The same of all its threads.
    pub fn cpu(&self) -> Duration {
        self.cpu_of(|_| true)
    }

    fn cpu_of(&self, wanted: impl Fn(&str) -> bool) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("a process").flatten();
        threads
            .filter_map(|thread| cpu_of(&thread.path(), &wanted))
            .sum()
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        folder.expect("a process").count()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- log of {:?}\n{}---", self.dir.path(), self.log());
        }
    }
}

/// Where the admin of this configuration listens, and its first listener on a port; 0 if there is none.
fn ports(config: &str) -> (u16, u16) {
    let config = serde_json::from_str(config).unwrap_or_else(|_| {
        let tree = healthz_doctor::tree::parse(config.as_bytes());
        tree.expect("YAML").to_json()
    });
    let port = |of: &Value| of["address"]["socket_address"]["port_value"].as_u64();
    let admin = port(&config["admin"]).expect("an admin");
    let listeners = config["static_resources"]["listeners"].as_array();
    let first = listeners.into_iter().flatten().find_map(port);
    let number = |port: u64| u16::try_from(port).expect("a port");
    (number(admin), number(first.unwrap_or_default()))
}

/// A number in the `status` of a process's or a thread's folder in `/proc`.
fn status_of(folder: &Path, name: &str) -> Option<u64> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let (_, value) = status.split_once(&format!("\n{name}:"))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The CPU time of a thread, by its folder in `/proc`, if its name is wanted.
fn cpu_of(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<Duration> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // `TID (wrk:worker_0) R ...`: utime and stime are the 12th and 13th after the name, in
    // hundredths of a second.
    let (name, fields) = stat.rsplit_once(") ")?;
    let (_, name) = name.split_once('(')?;
    wanted(name).then_some(())?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_millis(10 * ticks))
}

/// What `envoy --mode validate` says of a configuration: whether it is good, and the log.
pub fn validate(config: &str) -> (bool, String) {
    let (exit, log) = validate_in(config, &[]);
    (exit.success(), log)
}

/// The same in an environment with these variables, with how Envoy ended.
pub fn validate_in(config: &str, variables: &[(&str, &Path)]) -> (ExitStatus, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("envoy.yaml");
    fs::write(&path, config).expect("the configuration can be written");
    let output = Command::new(binary())
        .arg("-c")
        .arg(&path)
        .args(["--mode", "validate", "-l", "error"])
        .env(module::SEARCH_PATH, module::search_path())
        .envs(variables.iter().copied())
        .output()
        .expect("envoy runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status, log)
}
