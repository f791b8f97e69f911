//! What the tests, the demo and the benchmark share: a real Envoy, a real gRPC backend, and probers.
//!
//! Everything listens on ports of 127.0.0.1 that no other process of ours takes, waits by polling with a
//! deadline, and is stopped when it is dropped. When a test fails, the log of each of its Envoys is printed. A
//! machine that stands still for seconds makes no test fail: what is about times runs under [`timed`].

pub mod backend;
mod build;
pub mod config;
pub mod envoy;
pub mod fake_admin;
pub mod grpc_health;
pub mod kubernetes;
pub mod module;
pub mod pair;
mod ports;
pub mod prober;
pub mod prometheus;
pub mod rehearsal;
pub mod shipped;
mod stalls;
pub mod truth;
pub mod xds;

pub use build::Build;
pub use ports::{dead_port, free_port, listen, listen_with_queue};
pub use prober::{exchange, exchange_to_end};
pub use stalls::timed;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a test waits for what must come: far more than it takes, for CI machines are shared, and stand
/// still for seconds.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the repository")
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The compiled filter.
pub fn wasm() -> PathBuf {
    let path = root().join("dist/envoy_healthz.wasm");
    assert!(path.exists(), "{path:?} is missing: run ./wasm-build.sh");
    path
}

/// The folder of our self-signed certificate, `tls.crt` and `tls.key`; makes it if it is missing.
pub fn certificate() -> PathBuf {
    let made = Command::new(root().join("envoy/make-cert.sh")).status();
    assert!(made.is_ok_and(|status| status.success()), "make-cert.sh");
    root().join("envoy/tls")
}

/// Writes a file that Envoy watches: whole, by a move.
pub fn replace_file(path: &Path, content: &serde_json::Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, content.to_string()).expect("the file can be written");
    std::fs::rename(new, path).expect("the file can be moved");
}

/// Polls until `probe` gives a value; panics with `what` when [`DEADLINE`] has passed.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(pause).await;
        // To poll costs what other tests could use.
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Polls until this is so; panics with `what` when [`DEADLINE`] has passed.
pub async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    eventually(what, async || probe().await.then_some(())).await;
}

/// A text with another one instead of this one, which must be there.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the text:\n{text}");
    text.replace(from, to)
}

/// What is between these two in a text, of which the first must be there and the second follow.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?} in\n{text}"));
    let (inside, _) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("no {end:?} in\n{rest}"));
    inside
}

/// A host that takes every connection and says nothing: enough for a TCP health check.
pub struct TcpHost(tokio::task::JoinHandle<()>);

impl TcpHost {
    /// Starts it on a free port, and says which.
    pub async fn on_free_port() -> (Self, u16) {
        let port = free_port();
        (Self::start(port).await, port)
    }

    /// Starts it on this port of 127.0.0.1; it stops when it is dropped.
    pub async fn start(port: u16) -> Self {
        let listener = listen(port).await;
        Self(tokio::spawn(async move {
            while let Ok(connection) = listener.accept().await {
                drop(connection);
            }
        }))
    }
}

impl Drop for TcpHost {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a signal to a process that we started and that has not been waited for.
pub fn send_signal(child: &Child, signal: Signal) {
    let name = match signal {
        Signal::Terminate => "-TERM",
        Signal::User1 => "-USR1",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    let done = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(done.is_ok_and(|status| status.success()), "kill {name}");
}

/// A signal that tests send.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// SIGTERM
    Terminate,
    /// SIGUSR1
    User1,
    /// SIGSTOP
    Stop,
    /// SIGCONT
    Continue,
}

/// Ends a process, frozen or not, with SIGTERM, or SIGKILL when that has not helped within [`DEADLINE`].
pub fn end(child: &mut Child) -> ExitStatus {
    if let Ok(Some(status)) = child.try_wait() {
        return status;
    }
    send_signal(child, Signal::Terminate);
    send_signal(child, Signal::Continue);
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Ok(Some(status)) = child.try_wait() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().expect("a killed child can be waited for")
}
