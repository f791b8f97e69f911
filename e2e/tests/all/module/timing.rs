//! A worker's own view knows what the worker's calls know.

use e2e::config::{Config, host, listener_with_routes, with_tcp_check};
use e2e::fake_admin::{Does, FakeAdmin};
use e2e::xds::Eds;
use e2e::{Build, free_port, module, until};
use serde_json::json;

/// New hosts with the default `update_merge_window`, by which workers learn of some of them a second
/// after the admin: whenever a probe is answered 200, a call through the same worker succeeds.
#[tokio::test]
async fn a_new_host_is_not_announced_before_it_takes_calls() {
    let eds = Eds::new("c", &[]);
    let filter = Build::Module.filter(&json!({}));
    let routes = vec![module::route("/", "c")];
    let listener = listener_with_routes(free_port(), [filter], routes);
    let config = Config::new()
        .cluster(with_tcp_check(eds.cluster()))
        .listener(module::with_network_filter(listener));
    let envoy = config.start_with(&["--concurrency", "1"]).await;
    let mut before_us = 0;
    for _ in 0..6 {
        let answers = FakeAdmin::start(Does::Answer(200, b"hello".to_vec())).await;
        eds.replace(&[host(answers.port, "UNKNOWN")]);
        let line = format!("c::127.0.0.1:{}::health_flags::healthy", answers.port);
        until("a probe is answered 200", async || {
            if envoy.get("/healthz").await.status == 200 {
                assert_eq!(envoy.get("/").await.status, 200, "the first call");
                return true;
            }
            let page = envoy.admin.get("/clusters").await.body;
            before_us += usize::from(page.contains(&line));
            false
        })
        .await;
        drop(answers);
        eds.replace(&[]);
        envoy.wait_for("/healthz", 503, "").await;
    }
    println!("the admin knew of a host {before_us} times before the worker did");
}
