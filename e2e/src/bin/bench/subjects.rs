//! What is measured, and an Envoy with a listener for each of them.

use e2e::config::{Config, cluster, health_check, listener_with_routes, lua, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::prober::Prober;
use e2e::{Build, free_port, module};
use serde_json::{Value, json};

use crate::load::{self, Load};

/// Their keys and names; those that are compared are measured one after the other.
pub const SUBJECTS: [(&str, &str); 9] = [
    ("floor", "direct response of the same bytes (the floor)"),
    ("built_in", "Envoy's health_check filter"),
    ("age_250", "envoy-healthz, max_age_ms 250"),
    ("background", "envoy-healthz, background 100 ms"),
    ("module", "envoy-healthz, native module"),
    ("module_no_drain", "the same without the drain filters"),
    ("age_0", "envoy-healthz, max_age_ms 0"),
    ("age_0_no_drain", "the same without its drain check"),
    ("lua", "the Lua script"),
];

/// The name of a subject.
pub fn name<'a>(names: &[(&str, &'a str)], subject: &str) -> &'a str {
    let found = names.iter().find(|(key, _)| *key == subject);
    found.expect("a subject").1
}

/// An Envoy with one worker, and where each subject listens.
pub struct Bench {
    pub envoy: Envoy,
    pub ports: Vec<(&'static str, u16)>,
}

impl Bench {
    /// With these subjects, whose backend listens on this port, and so many other clusters of five
    /// hosts.
    pub async fn start(others: usize, backend: u16, wanted: impl Fn(&str) -> bool) -> Self {
        let keys = SUBJECTS.iter().map(|&(subject, _)| subject);
        let ports: Vec<_> = keys
            .filter(|subject| wanted(subject))
            .map(|subject| (subject, free_port()))
            .collect();
        let mut config = Config::new()
            .clusters((0..others).map(other_cluster))
            .cluster(with_tcp_check(cluster("my_service", &[backend])));
        for (subject, port) in &ports {
            let admin = admin_cluster(subject, config.admin_port());
            config = config.cluster(admin).listener(listener(subject, *port));
        }
        let envoy = config.start_with(&["--concurrency", "1"]).await;
        for (_, port) in &ports {
            // With a thousand clusters the script rarely manages an answer: one will do.
            Prober::http(*port).wait_for(200).await;
        }
        Self { envoy, ports }
    }

    pub fn port(&self, subject: &str) -> u16 {
        let found = self.ports.iter().find(|(key, _)| *key == subject);
        found.expect("a subject").1
    }

    /// Probes a subject for so many seconds.
    pub async fn load(&self, subject: &str, connections: usize, seconds: u32) -> Load {
        let measured = || {
            load::load(
                &self.envoy,
                self.port(subject),
                "/healthz",
                connections,
                seconds,
            )
        };
        if subject == "lua" {
            // A call a probe; the admin itself may be too busy to answer.
            let load = measured();
            return Load {
                admin_calls: load.answers,
                ..load
            };
        }
        let calls = format!("cluster.admin_{subject}.upstream_rq_total");
        let before = self.envoy.stat(&calls).await;
        let load = measured();
        let admin_calls = self.envoy.stat(&calls).await - before;
        Load {
            admin_calls,
            ..load
        }
    }
}

fn other_cluster(index: usize) -> Value {
    cluster(&format!("other_{index}"), &[1, 2, 3, 4, 5])
}

/// A way to the admin for one subject alone, so that its calls can be counted.
pub fn admin_cluster(subject: &str, admin: u16) -> Value {
    cluster(&format!("admin_{subject}"), &[admin])
}

/// A listener where this subject answers `/healthz` for `my_service`; `none` is one without a filter.
fn listener(subject: &str, port: u16) -> Value {
    let module = || module::filter_for("my_service");
    let route = || vec![module::route("/healthz", "my_service")];
    let filter = match subject {
        "none" => return e2e::config::listener(port, []),
        "floor" => return listener_with_routes(port, vec![], vec![floor_route()]),
        "module_no_drain" => return listener_with_routes(port, vec![module()], route()),
        // As in envoy/module.yaml.
        "module" => {
            let mut filters = module::drain_filters();
            filters.push(module());
            return listener_with_routes(port, filters, route());
        }
        "built_in" => health_check("/healthz", "my_service", 1.0),
        "lua" => lua("my_service", "admin_lua"),
        subject => filter(subject),
    };
    e2e::config::listener(port, [filter])
}

/// The wasm filter, as this subject has it.
pub fn filter(subject: &str) -> Value {
    let more = match subject {
        "age_0" => json!({"max_age_ms": 0}),
        "age_0_no_drain" => json!({"max_age_ms": 0, "fail_when_draining": false}),
        "background" => json!({"refresh_interval_ms": 100}),
        "from_memory" => json!({"max_age_ms": 60000}),
        _ => json!({}),
    };
    let mut config = json!({
        "name": subject,
        "admin_cluster": format!("admin_{subject}"),
        "endpoints": [{"path": "/healthz", "clusters": ["my_service"]}],
    });
    for (field, value) in more.as_object().expect("fields") {
        config[field] = value.clone();
    }
    Build::Wasm.filter(&config)
}

/// The same bytes as ours, without any filter.
fn floor_route() -> Value {
    let header = |key, value| json!({"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let mut route = ok_route("/healthz");
    route["response_headers_to_add"] = json!([
        header("content-type", "text/plain; charset=utf-8"),
        header("cache-control", "no-store"),
    ]);
    route
}

pub fn ok_route(prefix: &str) -> Value {
    json!({"match": {"prefix": prefix}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}})
}

/// An Envoy with this subject alone and so many workers; `my_service` is its admin.
pub async fn start_alone(subject: &str, workers: usize) -> Envoy {
    let workers = workers.to_string();
    let config = alone(subject);
    config.start_with(&["--concurrency", &workers]).await
}

/// The same under a tool.
pub async fn start_under(tool: &[&str], subject: &str, workers: usize) -> Envoy {
    let workers = workers.to_string();
    let config = alone(subject).to_string();
    Envoy::start_under(tool, &config, &["--concurrency", &workers]).await
}

fn alone(subject: &str) -> Config {
    let config = Config::new();
    let admin = config.admin_port();
    config
        .clusters([
            cluster("my_service", &[admin]),
            admin_cluster(subject, admin),
        ])
        .listener(listener(subject, free_port()))
}
