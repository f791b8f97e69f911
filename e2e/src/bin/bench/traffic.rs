//! Requests that are not probes, through Envoy to an upstream.

use e2e::config::{Config, cluster, listener_with_routes};
use e2e::free_port;
use serde_json::{Value, json};

use crate::Plan;
use crate::load::{Series, in_any_order, load, unmeasured};
use crate::subjects::{admin_cluster, filter, ok_route};

pub const TRAFFIC: [(&str, &str); 3] = [
    ("none", "no filter"),
    ("every_route", "the filter on every route"),
    ("per_route", "the filter on the route of /healthz"),
];

pub async fn measure(plan: &Plan) -> Vec<Series> {
    let upstream = free_port();
    let ports = TRAFFIC.map(|(subject, _)| (subject, free_port()));
    let config = Config::new();
    let admin = admin_cluster("traffic", config.admin_port());
    let config = config
        .listener(listener_with_routes(upstream, [], vec![ok_route("/")]))
        .listeners(ports.map(|(subject, port)| listener(subject, port)))
        .clusters(["upstream", "my_service"].map(|name| cluster(name, &[upstream])))
        .cluster(admin);
    let envoy = config.start_with(&["--concurrency", "1"]).await;
    let mut all = unmeasured(&TRAFFIC, 0);
    let rounds = if plan.quick { 1 } else { 2 * plan.rounds };
    for round in 0..rounds {
        for series in in_any_order(&mut all) {
            let found = ports.iter().find(|(key, _)| *key == series.subject);
            let (_, port) = found.expect("a port");
            let seconds = plan.seconds(series.connections);
            let measured = load(&envoy, *port, "/", series.connections, seconds);
            series.rounds.push(measured);
        }
        plan.progress("other traffic", round);
    }
    all
}

fn listener(subject: &str, port: u16) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
    let mut probe = ok_route("/healthz");
    let mut filters = match subject {
        "none" => vec![],
        _ => vec![filter("traffic")],
    };
    if subject == "per_route" {
        probe["typed_per_filter_config"] = json!({"envoy-healthz": {
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
        }});
        filters[0]["disabled"] = json!(true);
    }
    listener_with_routes(port, filters, vec![probe, route])
}
