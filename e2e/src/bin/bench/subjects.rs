//! What is measured: each subject a listener, and the Envoys that hold them.

use std::time::Duration;

use e2e::config::{
    bootstrap, cluster, health_check, healthz, listener_with_filters, listener_with_routes, lua,
    with_tcp_check,
};
use e2e::envoy::Envoy;
use e2e::free_port;
use e2e::prober::Prober;
use serde_json::{Value, json};

use crate::load::{Load, wrk};

/// What is measured.
pub const SUBJECTS: [(&str, &str); 7] = [
    ("floor", "direct response (the floor)"),
    ("built_in", "Envoy's health_check filter"),
    ("age_0", "envoy-healthz, max_age_ms 0"),
    ("age_0_no_drain", "the same without the drain check"),
    ("age_250", "envoy-healthz, max_age_ms 250"),
    ("background", "envoy-healthz, background 100 ms"),
    ("lua", "the Lua script"),
];

pub const OTHERS: [usize; 2] = [0, 1000];

pub const CONNECTIONS: [usize; 2] = [1, 50];

/// Those that have an Envoy of their own.
pub const ALONE: [&str; 2] = ["background", "lua"];

/// The Envoy under test and where each subject listens.
pub struct Bench {
    pub envoy: Envoy,
    pub ports: Vec<(&'static str, u16)>,
}

impl Bench {
    /// With these subjects; together, all but those that are alone.
    pub async fn start(others: usize, backend: u16, wanted: impl Fn(&str) -> bool) -> Self {
        let admin = free_port();
        let ports: Vec<_> = SUBJECTS
            .iter()
            .filter(|(subject, _)| wanted(subject))
            .map(|(subject, _)| (*subject, free_port()))
            .collect();
        let mut clusters: Vec<_> = (0..others)
            .map(|index| {
                let hosts: Vec<_> = (1..6).map(|port| ("127.0.0.1", port)).collect();
                cluster(&format!("other_{index}"), &hosts)
            })
            .collect();
        clusters.push(with_tcp_check(cluster(
            "my_service",
            &[("127.0.0.1", backend)],
        )));
        let mut listeners = Vec::new();
        for (subject, port) in &ports {
            // A way to the admin of its own, so that its calls can be counted.
            let mut way = cluster(&format!("admin_{subject}"), &[("127.0.0.1", admin)]);
            way["alt_stat_name"] = json!(format!("admin_{subject}"));
            clusters.push(way);
            let filters = match *subject {
                "floor" => {
                    listeners.push(listener_with_routes(
                        *port,
                        vec![],
                        vec![ok_route("/healthz")],
                    ));
                    continue;
                }
                "built_in" => vec![health_check("/healthz", "my_service", 1.0)],
                "lua" => vec![lua("my_service", "admin_lua")],
                subject => vec![filter(subject)],
            };
            listeners.push(listener_with_filters(*port, filters));
        }
        let config = bootstrap(admin, listeners, clusters).to_string();
        let envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
        for (_, port) in &ports {
            // With a thousand clusters the script rarely manages an answer: one will do.
            Prober::http(*port).wait_for(200).await;
        }
        Self { envoy, ports }
    }

    /// Where a subject listens.
    pub fn port(&self, subject: &str) -> u16 {
        let found = self.ports.iter().find(|(name, _)| *name == subject);
        found.expect("a subject").1
    }

    /// Loads one subject for so long.
    pub async fn load(&self, subject: &str, connections: usize, seconds: u32) -> Load {
        let port = self.port(subject);
        let busy = self.envoy.worker_cpu();
        if subject == "lua" {
            let mut load = wrk(port, "/healthz", connections, seconds);
            load.cpu = per_answer(self.envoy.worker_cpu() - busy, &load);
            // A call per probe; the admin itself may be too busy to be asked.
            load.admin_calls = load.answers;
            return load;
        }
        let calls = format!("cluster.admin_{subject}.upstream_rq_total");
        let before = self.envoy.stat(&calls).await;
        let mut load = wrk(port, "/healthz", connections, seconds);
        load.cpu = per_answer(self.envoy.worker_cpu() - busy, &load);
        load.admin_calls = self.envoy.stat(&calls).await - before;
        load
    }
}

/// In microseconds.
fn per_answer(cpu: Duration, load: &Load) -> f64 {
    cpu.as_secs_f64() * 1e6 / load.answers.max(1) as f64
}

/// Our filter as this subject.
pub fn filter(subject: &str) -> Value {
    let mut config = json!({
        "name": subject,
        "admin_cluster": format!("admin_{subject}"),
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    });
    match subject {
        "age_0" => config["max_age_ms"] = json!(0),
        "age_0_no_drain" => {
            config["max_age_ms"] = json!(0);
            config["fail_when_draining"] = json!(false);
        }
        "background" => config["refresh_interval_ms"] = json!(100),
        _ => {}
    }
    healthz(&config)
}

pub fn ok_route(prefix: &str) -> Value {
    json!({"match": {"prefix": prefix}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}})
}

pub fn name<'a>(names: &[(&str, &'a str)], subject: &str) -> &'a str {
    names
        .iter()
        .find(|(key, _)| *key == subject)
        .map_or("", |(_, name)| name)
}
