//! The configurations that we ship, on this machine.

use std::path::PathBuf;

use crate::envoy::{Envoy, version};
use crate::{Build, certificate, free_port, module, read, replaced, root, wasm};

/// The address of the admin in each of them.
pub const ADMIN: &str = "127.0.0.1, port_value: 9901";

/// One of our configurations with the files of this machine instead of the container's.
pub fn at_home(config: String) -> String {
    let tls = certificate();
    let mut config = config.replace("/etc/envoy/tls", &tls.display().to_string());
    let file = "/etc/envoy/envoy_healthz.wasm";
    if config.contains(file) {
        config = config.replace(file, &wasm().display().to_string());
    }
    if version().starts_with("1.36.")
        && let Some((before, rest)) = config.split_once("  allow_paths:")
    {
        // Envoy 1.36 does not know allow_paths.
        let (_, after) = rest.split_once("\n\n").expect("an empty line after admin");
        config = format!("{before}\n{after}");
    }
    config
}

/// The same with these ports of 127.0.0.1 instead of addresses that it must have, as in
/// `("0.0.0.0, port_value: 8080", 12345)`.
pub fn on_ports<const N: usize>(config: &str, ports: [(&str, u16); N]) -> String {
    let config = at_home(config.to_owned());
    ports.into_iter().fold(config, |config, (address, port)| {
        let to = format!("127.0.0.1, port_value: {port}");
        replaced(&config, address, &to)
    })
}

/// A configuration, but that a backend or an admin is waited for longer: one that a slow machine holds up is not
/// unhealthy.
pub fn patient(config: &str) -> String {
    let patient = config
        .replace("{timeout: 1s,", "{timeout: 20s,")
        .replace(" timeout: 1s\n", " timeout: 20s\n")
        .replace(
            "\"admin_cluster\": \"local_admin\",",
            "\"admin_cluster\": \"local_admin\", \"admin_timeout_ms\": 30000,",
        );
    assert_ne!(patient, config, "nothing in it waits");
    patient
}

/// The same with a free port for each address; gives those too.
pub fn on_free_ports<const N: usize>(config: &str, addresses: [&str; N]) -> (String, [u16; N]) {
    let ports = addresses.map(|address| (address, free_port()));
    let config = patient(&on_ports(config, ports));
    (config, ports.map(|(_, port)| port))
}

/// `envoy/envoy.yaml` or `envoy/module.yaml` as users copy it, moved to free ports and this machine's
/// files.
pub struct Shipped {
    /// The text of the configuration.
    pub config: String,
    /// Where Envoy listens, with TLS.
    pub port: u16,
    /// Where its admin listens.
    pub admin_port: u16,
    /// Where it expects the backend.
    pub backend_port: u16,
    /// The certificate that it shows.
    pub certificate: PathBuf,
}

impl Shipped {
    /// Moves the wasm build's to free ports, with more patience.
    pub fn on_free_ports() -> Self {
        Self::of(Build::Wasm)
    }

    /// Moves a build's to free ports, with more patience.
    pub fn of(build: Build) -> Self {
        let mut shipped = Self::as_it_is(build);
        shipped.config = patient(&shipped.config);
        shipped
    }

    /// The same with the timeouts that users have.
    pub fn as_it_is(build: Build) -> Self {
        Self::move_to(build, free_port(), free_port(), free_port())
    }

    /// Moves a build's to these ports.
    pub fn move_to(build: Build, port: u16, admin_port: u16, backend_port: u16) -> Self {
        let file = match build {
            Build::Wasm => "envoy/envoy.yaml",
            Build::Module => "envoy/module.yaml",
        };
        let ports = [
            ("0.0.0.0, port_value: 8080", port),
            ("app, port_value: 9000", backend_port),
            (ADMIN, admin_port),
        ];
        Self {
            config: on_ports(&read(file), ports),
            port,
            admin_port,
            backend_port,
            certificate: root().join("envoy/tls/tls.crt"),
        }
    }

    /// Starts Envoy with it.
    pub async fn start(&self) -> Envoy {
        Envoy::start(&self.config, &[]).await
    }
}

/// An Envoy with the file of `envoy/gke` for a build, on free ports.
pub struct Pod {
    /// With this file.
    pub envoy: Envoy,
    /// Where TLS is spoken.
    pub port: u16,
    /// What Prometheus scrapes.
    pub metrics: u16,
    /// Where the service is expected.
    pub backend: u16,
}

impl Pod {
    /// Starts it.
    pub async fn start(build: Build) -> Self {
        let file = match build {
            Build::Wasm => "envoy/gke/envoy.yaml",
            Build::Module => "envoy/gke/module/envoy.yaml",
        };
        let addresses = [
            "0.0.0.0, port_value: 8080",
            "0.0.0.0, port_value: 9902",
            "127.0.0.1, port_value: 9000",
            ADMIN,
        ];
        let (config, [port, metrics, backend, _]) = on_free_ports(&read(file), addresses);
        module::folder();
        Self {
            envoy: Envoy::start(&config, &[]).await,
            port,
            metrics,
            backend,
        }
    }
}
