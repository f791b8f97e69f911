//! Ports of 127.0.0.1 that nobody else takes: neither another test of this process nor another process of ours,
//! as when `make soak` or `make demo` runs beside `make test`.
//!
//! A process locks a file for each block of ports that it takes, until it ends.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};

use crate::eventually;

/// From below the range that the kernel gives to clients.
const ALL: Range<u16> = 10_000..30_000;
/// How many a file stands for.
const BLOCK: u16 = 100;

static OURS: Mutex<Ports> = Mutex::new(Ports::none());

/// What a process has taken.
struct Ports {
    locks: Vec<File>,
    /// What is left of the last block.
    left: Range<u16>,
    /// Bound, so that nobody else binds them, and deaf.
    dead: Vec<TcpSocket>,
}

/// A port that nobody listens on, to listen on it now or later.
pub fn free_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    ours.next(&folder())
}

/// Listens on a port. Who listened there before may be about to stop, and a process that begins holds a copy of each
/// of our sockets for a moment.
pub async fn listen(port: u16) -> TcpListener {
    listen_with_queue(port, 1024).await
}

/// The same with room for so many connections that nobody has taken yet.
pub async fn listen_with_queue(port: u16, queue: u32) -> TcpListener {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually(&format!("port {port} is free"), async || {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(address).ok()?;
        socket.listen(queue).ok()
    })
    .await
}

/// A port that nobody will ever listen on: connections are refused.
pub fn dead_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = ours.next(&folder());
        let socket = TcpSocket::new_v4().expect("a socket");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if socket.bind(address).is_ok() {
            ours.dead.push(socket);
            return port;
        }
    }
}

/// The same for all processes of this machine.
fn folder() -> std::path::PathBuf {
    std::env::temp_dir().join("envoy-healthz-ports")
}

impl Ports {
    const fn none() -> Self {
        Self {
            locks: Vec::new(),
            left: 0..0,
            dead: Vec::new(),
        }
    }

    fn next(&mut self, folder: &Path) -> u16 {
        loop {
            let Some(port) = self.left.next() else {
                self.lock_a_block(folder);
                continue;
            };
            // Not bound to see it: a process that begins just then would hold a copy of the socket.
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let found = TcpStream::connect_timeout(&address, Duration::from_secs(1));
            if found.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                return port;
            }
        }
    }

    /// One after the other from some block on, so that a port is not taken anew soon.
    fn lock_a_block(&mut self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder for locks");
        let blocks = ALL.len() as u16 / BLOCK;
        let first = fastrand::u16(..blocks);
        for nth in 0..blocks {
            let start = ALL.start + (first + nth) % blocks * BLOCK;
            // One that another user has made cannot be opened: it is taken.
            let Ok(lock) = File::create(folder.join(start.to_string())) else {
                continue;
            };
            if lock.try_lock().is_ok() {
                self.locks.push(lock);
                self.left = start..start + BLOCK;
                return;
            }
        }
        panic!("all ports from {ALL:?} are taken: {folder:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A lock is one of the open file, not of the process: these two are to each other what two processes are.
    #[test]
    fn two_processes_share_no_port() {
        let folder = tempfile::tempdir().unwrap();
        let [mut one, mut other] = [Ports::none(), Ports::none()];
        let count = 20 * usize::from(BLOCK);
        let mut seen = BTreeSet::new();
        for _ in 0..count {
            for ports in [&mut one, &mut other] {
                seen.insert(ports.next(folder.path()));
            }
        }
        assert_eq!(seen.len(), 2 * count);
        // What one had is free again once it has ended.
        drop(one);
        let all = |ports: &mut Ports| ports.lock_a_block(folder.path());
        for _ in 0..ALL.len() / usize::from(BLOCK) - other.locks.len() {
            all(&mut other);
        }
        let full = std::panic::catch_unwind(move || all(&mut other));
        assert!(full.is_err());
    }

    /// A process that begins has a copy of each of our sockets for a moment.
    #[test]
    fn a_process_that_begins_takes_no_port() {
        let mut ports = Ports::none();
        let busy = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while busy.load(Ordering::Relaxed) {
                    let begun = Command::new("true").current_dir("/").status();
                    assert!(begun.unwrap().success());
                }
            });
            let taken = (0..2000).find_map(|_| {
                let address = (Ipv4Addr::LOCALHOST, ports.next(&folder()));
                TcpListener::bind(address).err()
            });
            busy.store(false, Ordering::Relaxed);
            assert_eq!(taken.map(|error| error.kind()), None);
        });
    }

    #[test]
    fn nobody_can_listen_on_a_dead_port() {
        let port = dead_port();
        let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let taken = TcpListener::bind((address, port)).unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        }
    }
}
