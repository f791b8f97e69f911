//! `docs/from-lua.md`: its first configuration, with the Lua script, and the one that it leads to both
//! run, both follow the backend, and each difference that the page names shows.

use e2e::backend::Backend;
use e2e::envoy::{Envoy, Shipped, at_home};
use e2e::prober::{Answer, Prober};
use e2e::{eventually, free_port, root};
use reqwest::Method;

/// The page's first configuration on free ports, as [`Shipped`] has the last.
fn start_of_the_page(backend: u16) -> (String, u16, u16) {
    let page = std::fs::read_to_string(root().join("docs/from-lua.md")).unwrap();
    let (_, block) = page.split_once("```yaml\n").unwrap();
    let (config, _) = block.split_once("```").unwrap();
    let (port, admin) = (free_port(), free_port());
    let mut config = at_home(config.to_owned());
    for (from, to) in [
        (
            "address: app, port_value: 9000",
            format!("address: 127.0.0.1, port_value: {backend}"),
        ),
        ("port_value: 8080", format!("port_value: {port}")),
        ("port_value: 9901", format!("port_value: {admin}")),
        ("0.0.0.0", "127.0.0.1".to_owned()),
    ] {
        assert!(config.contains(from), "the page has no {from:?}");
        config = config.replace(from, &to);
    }
    (config, port, admin)
}

/// What openssl says of a handshake that offers `h2`.
pub fn alpn(port: u16) -> String {
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-alpn", "h2", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn both_run_and_differ_where_the_page_says() {
    let mut shipped = Shipped::on_free_ports();
    // The page's steps end in envoy.yaml; the one admin path more is for the row of the drain.
    shipped.config = shipped.config.replace(
        "  - {exact: /ready}\n",
        "  - {exact: /ready}\n  - {exact: /healthcheck/fail}\n",
    );
    let (config, lua_port, lua_admin) = start_of_the_page(shipped.backend_port);
    let lua_envoy = Envoy::start_text(&config, lua_admin, &[]).await;
    let envoy = shipped.start().await;
    let lua = Prober::https1(lua_port);
    let filter = Prober::https1(shipped.port);

    // Both follow the backend.
    for prober in [&lua, &filter] {
        assert_eq!(prober.wait_for(503).await.body, "unavailable");
    }
    let backend = Backend::start(shipped.backend_port).await;
    for prober in [&lua, &filter] {
        assert_eq!(prober.wait_for(200).await.body, "ok");
    }

    // A query: the script lets it go upstream, where no /healthz is.
    assert_ne!(lua.get("/healthz?x=1").await.body, "ok");
    assert_eq!(filter.get("/healthz?x=1").await.body, "ok");

    let post = async |prober: &Prober| {
        let answer = Answer::to(prober.request(Method::POST, "/healthz")).await;
        answer.unwrap().status
    };
    // The script's 50 ms may be too short once; it does answer POST.
    eventually("the script answers POST with 200", async || {
        (post(&lua).await == 200).then_some(())
    })
    .await;
    assert_eq!(post(&filter).await, 405);

    // Without ALPN a client that asks for h2 does not get it.
    assert!(alpn(lua_port).contains("No ALPN negotiated"));
    assert!(alpn(shipped.port).contains("ALPN protocol: h2"));

    for envoy in [&lua_envoy, &envoy] {
        assert_eq!(envoy.post("/healthcheck/fail").await.status, 200);
    }
    filter.wait_for(503).await;
    assert_eq!(lua.wait_for(200).await.body, "ok");
    drop(backend);
}
