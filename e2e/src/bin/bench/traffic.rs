//! Requests that are no probes: what the filter costs them.

use e2e::config::{bootstrap, cluster, listener_with_routes};
use e2e::envoy::Envoy;
use e2e::free_port;
use serde_json::json;

use crate::Plan;
use crate::load::{Series, unmeasured, wrk};
use crate::subjects::{filter, ok_route};

pub const TRAFFIC: [(&str, &str); 3] = [
    ("none", "no filter"),
    ("every_route", "the filter on every route"),
    ("per_route", "the filter on the route of /healthz"),
];

/// Requests that are not probes, through Envoy to an upstream.
pub async fn measure(plan: &Plan) -> Vec<Series> {
    let (admin, upstream) = (free_port(), free_port());
    let ports = TRAFFIC.map(|(subject, _)| (subject, free_port()));
    let mut listeners = vec![listener_with_routes(upstream, vec![], vec![ok_route("/")])];
    for (subject, port) in ports {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
        let mut probe = ok_route("/healthz");
        let filters = match subject {
            "none" => vec![],
            "every_route" => vec![filter("traffic")],
            _ => {
                probe["typed_per_filter_config"] = json!({"envoy-healthz": {
                    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
                }});
                let mut filter = filter("traffic");
                filter["disabled"] = json!(true);
                vec![filter]
            }
        };
        listeners.push(listener_with_routes(port, filters, vec![probe, route]));
    }
    let clusters = vec![
        cluster("upstream", &[("127.0.0.1", upstream)]),
        cluster("admin_traffic", &[("127.0.0.1", admin)]),
        cluster("my_service", &[("127.0.0.1", upstream)]),
    ];
    let config = bootstrap(admin, listeners, clusters).to_string();
    let _envoy = Envoy::start_text(&config, admin, &["--concurrency", "1"]).await;
    let mut all = unmeasured(&TRAFFIC, 0);
    for round in 0..2 * plan.rounds {
        // Turn about, so that whatever drifts on the machine meets each of them alike.
        let mut order: Vec<_> = (0..all.len()).collect();
        order.rotate_left(round % TRAFFIC.len());
        for index in order {
            let series = &mut all[index];
            let (_, port) = ports
                .iter()
                .find(|(name, _)| *name == series.subject)
                .expect("a port");
            series
                .rounds
                .push(wrk(*port, "/", series.connections, plan.seconds));
        }
        eprintln!(
            "bench: other traffic, round {} of {}",
            round + 1,
            2 * plan.rounds
        );
    }
    all
}
