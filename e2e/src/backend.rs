//! The demo backend as a process, and gRPC calls to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use echo_server::echo_client::EchoClient;
use echo_server::{Content, Empty};
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::prober::PATIENCE;
use crate::{Signal, end, eventually, root, send_signal};

/// A running `echo-server`.
pub struct Backend {
    child: Child,
    /// The port it listens on.
    pub port: u16,
}

impl Backend {
    /// Starts it on this port of 127.0.0.1 and waits until it takes connections.
    pub async fn start(port: u16) -> Self {
        // Beside the test's own binary: target/debug/deps/TEST or target/debug/demo.
        let here = std::env::current_exe().expect("the test has a path");
        let binary = here
            .ancestors()
            .map(|folder| folder.join("echo-server"))
            .find(|path| path.is_file())
            .expect("echo-server is not built: run cargo build --workspace");
        Self::start_binary(&binary, port).await
    }

    /// The same with the optimized one, where its speed matters.
    pub async fn start_release(port: u16) -> Self {
        Self::start_binary(&root().join("target/release/echo-server"), port).await
    }

    async fn start_binary(binary: &Path, port: u16) -> Self {
        let child = Command::new(binary)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .spawn()
            .expect("echo-server starts");
        let backend = Self { child, port };
        eventually("the backend takes connections", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()
        })
        .await;
        backend
    }

    /// Changes its health status to the other one.
    pub fn turn_health_over(&self) {
        send_signal(&self.child, Signal::User1);
    }

    /// Freezes it: connections are taken, nothing is answered.
    pub fn hang(&self) {
        send_signal(&self.child, Signal::Stop);
    }

    /// Ends [`Backend::hang`].
    pub fn go_on(&self) {
        send_signal(&self.child, Signal::Continue);
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        let _ = self.child.kill();
    }

    /// Stops it with SIGTERM, which lets calls under way end.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A gRPC channel to an Envoy with our self-signed certificate on this port of 127.0.0.1.
pub fn tls_channel(port: u16, certificate: &Path) -> Channel {
    let pem = std::fs::read(certificate).expect("the certificate can be read");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem))
        .domain_name("localhost");
    Endpoint::from_shared(format!("https://127.0.0.1:{port}"))
        .expect("a valid address")
        .tls_config(tls)
        .expect("a valid certificate")
        .timeout(PATIENCE)
        .connect_lazy()
}

/// `yages.Echo/Ping`: the answer's text.
pub async fn ping(channel: &Channel) -> Result<String, Status> {
    let answer = EchoClient::new(channel.clone()).ping(Empty {}).await?;
    Ok(answer.into_inner().text)
}

/// `yages.Echo/Reverse`: the answer's text.
pub async fn reverse(channel: &Channel, text: &str) -> Result<String, Status> {
    let text = text.to_owned();
    let answer = EchoClient::new(channel.clone())
        .reverse(Content { text })
        .await?;
    Ok(answer.into_inner().text)
}
