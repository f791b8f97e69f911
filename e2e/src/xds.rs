//! What Envoy takes from files, and anew whenever one is replaced: listeners, clusters, hosts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config::manager;
use crate::envoy::Envoy;
use crate::replace_file;

/// A file of resources.
struct Resources {
    dir: TempDir,
    kind: &'static str,
    version: AtomicU64,
}

impl Resources {
    fn new(kind: &'static str, resources: Vec<Value>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let version = AtomicU64::new(0);
        let file = Self { dir, kind, version };
        file.replace(resources);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("resources.json")
    }

    fn source(&self) -> Value {
        json!({"resource_api_version": "V3", "path_config_source": {"path": self.path()}})
    }

    fn replace(&self, mut resources: Vec<Value>) {
        for resource in &mut resources {
            let kind = self.kind;
            resource["@type"] = json!(format!("type.googleapis.com/envoy.config.{kind}"));
        }
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let content = json!({"version_info": version.to_string(), "resources": resources});
        replace_file(&self.path(), &content);
    }
}

/// Listeners (LDS).
pub struct Lds(Resources);

impl Lds {
    /// Begins with these.
    pub fn new(listeners: Vec<Value>) -> Self {
        Self(Resources::new("listener.v3.Listener", listeners))
    }

    /// Where Envoy finds them: `lds_config`.
    pub fn source(&self) -> Value {
        self.0.source()
    }

    /// Replaces them all.
    pub fn replace(&self, listeners: Vec<Value>) {
        self.0.replace(listeners);
    }

    /// Waits until Envoy has taken the last ones.
    pub async fn taken(&self, envoy: &Envoy) {
        let version = self.0.version.load(Ordering::Relaxed);
        let line = format!("listener_manager.lds.version_text: \"{version}\"");
        crate::until("the listeners are taken", async || {
            let stats = envoy.admin.get("/stats?filter=version_text").await.body;
            stats.lines().any(|found| found == line)
        })
        .await;
    }
}

/// Clusters (CDS).
pub struct Cds {
    file: Resources,
    clusters: Vec<Value>,
}

impl Cds {
    /// Begins with these.
    pub fn new(clusters: Vec<Value>) -> Self {
        let file = Resources::new("cluster.v3.Cluster", clusters.clone());
        Self { file, clusters }
    }

    /// Where Envoy finds them: `cds_config`.
    pub fn source(&self) -> Value {
        self.file.source()
    }

    /// Replaces the cluster of this name, or takes it away; says whether that changes anything.
    pub fn set(&mut self, name: &str, cluster: Option<Value>) -> bool {
        let before = self.clusters.clone();
        self.clusters.retain(|known| known["name"] != name);
        self.clusters.extend(cluster);
        let changed = self.clusters.iter().any(|known| !before.contains(known))
            || self.clusters.len() < before.len();
        if changed {
            self.file.replace(self.clusters.clone());
        }
        changed
    }
}

/// The routes of one listener (RDS).
pub struct Rds(Resources);

impl Rds {
    /// Has a listener take its routes from a file, which begins with these.
    pub fn of(listener: &mut Value, routes: Vec<Value>) -> Self {
        let rds = Self(Resources::new("route.v3.RouteConfiguration", vec![]));
        rds.replace(routes);
        let manager = manager(listener).as_object_mut().expect("fields");
        manager.remove("route_config");
        let source = json!({"route_config_name": "routes", "config_source": rds.0.source()});
        manager.insert("rds".to_owned(), source);
        rds
    }

    /// Replaces them all.
    pub fn replace(&self, routes: Vec<Value>) {
        let host = json!({"name": "all", "domains": ["*"], "routes": routes});
        let routes = json!({"name": "routes", "virtual_hosts": [host]});
        self.0.replace(vec![routes]);
    }
}

/// The hosts of one cluster (EDS).
pub struct Eds {
    name: &'static str,
    file: Resources,
}

impl Eds {
    /// Begins with these, each of [`crate::config::host`].
    pub fn new(name: &'static str, hosts: &[Value]) -> Self {
        let file = Resources::new("endpoint.v3.ClusterLoadAssignment", vec![]);
        let eds = Self { name, file };
        eds.replace(hosts);
        eds
    }

    /// The cluster.
    pub fn cluster(&self) -> Value {
        json!({
            "name": self.name,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": self.file.source()},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        })
    }

    /// Replaces them all.
    pub fn replace(&self, hosts: &[Value]) {
        self.replace_with(json!({"endpoints": [{"lb_endpoints": hosts}]}));
    }

    /// The same with these fields of a `ClusterLoadAssignment`.
    pub fn replace_with(&self, mut fields: Value) {
        fields["cluster_name"] = json!(self.name);
        self.file.replace(vec![fields]);
    }
}
