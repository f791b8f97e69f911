//! A worker's own view knows what the worker's calls know.

use e2e::config::{bootstrap, listener_with_routes, with_tcp_check};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::prober::Prober;
use e2e::{free_port, module};

use e2e::config::host;
use e2e::xds::Eds;

/// New hosts with the default `update_merge_window`, by which workers learn of some of them a second
/// after the admin: whenever a probe says 200, a call through the same worker succeeds.
#[tokio::test]
async fn a_new_host_is_not_announced_before_it_takes_calls() {
    let eds = Eds::new("c", &[]);
    let (admin, port) = (free_port(), free_port());
    let filters = vec![module::filter_for("c")];
    let routes = vec![module::route("/", "c")];
    let listener = module::with_network_filter(listener_with_routes(port, filters, routes));
    let config = bootstrap(admin, vec![listener], vec![with_tcp_check(eds.cluster())]);
    let one_worker = ["--concurrency", "1"];
    let envoy = Envoy::start(&config.to_string(), &one_worker).await;
    let prober = Prober::http(port);
    let mut before_us = 0;
    for _ in 0..6 {
        let answers = FakeAdmin::start(Does::Answer(200, b"hello".to_vec())).await;
        eds.replace(&[host(answers.port, "UNKNOWN")]);
        let line = format!("c::127.0.0.1:{}::health_flags::healthy", answers.port);
        e2e::eventually("a probe says 200", async || {
            if prober.get("/healthz").await.status == 200 {
                assert_eq!(prober.get("/").await.status, 200, "the first call");
                return Some(());
            }
            let page = envoy.admin.get("/clusters").await.body;
            before_us += usize::from(page.contains(&line));
            None
        })
        .await;
        drop(answers);
        eds.replace(&[]);
        prober.wait_for(503).await;
    }
    println!("the admin knew of a host {before_us} times before the worker did");
}
