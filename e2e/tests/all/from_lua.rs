//! `docs/from-lua.md`: its steps, applied to the Lua script's configuration in the article's form. What is before
//! the steps and what is after them both run, both follow the backend, and each difference that the page names
//! shows.

use e2e::backend::Backend;
use e2e::envoy::Envoy;
use e2e::prober::{Prober, alpn};
use e2e::shipped::{on_ports, patient};
use e2e::{free_port, read, replaced, until};
use reqwest::Method;

/// The article's configuration.
const START: &str = include_str!("from_lua.yaml");

/// Starts it, or what the page makes of it, with its backend on this port.
async fn start(config: &str, backend: u16) -> Envoy {
    let config = config.replace("0.0.0.0", "127.0.0.1");
    let config = on_ports(
        &config,
        [
            ("127.0.0.1, port_value: 80 ", free_port()),
            ("127.0.0.1, port_value: 8001 ", free_port()),
            ("127.0.0.1, port_value: 9000 ", backend),
        ],
    );
    // Ten seconds are long for a test, and so is a minute, the default until the first call.
    let mut config = config.replace("interval: 10s\n", "interval: 1s\n");
    if !config.contains("no_traffic_interval") {
        let checks = "      interval: 1s\n";
        config = config.replace(checks, &format!("{checks}      no_traffic_interval: 1s\n"));
    }
    Envoy::start(&patient(&config), &[]).await
}

/// The page's blocks of changes.
fn steps() -> Vec<String> {
    let page = read("docs/from-lua.md");
    let blocks = page.split("\n```diff\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0.to_owned());
    blocks.collect()
}

/// Applies a block: its lines without a sign and with `-` are in the text once, and become those without a sign
/// and with `+`. A line `-…` is whatever is there up to the next line.
fn apply(config: &str, step: &str) -> String {
    let side = |sign: char| -> String {
        step.lines()
            .filter(|line| line.starts_with([' ', sign]))
            .map(|line| format!("{}\n", &line[1..]))
            .collect()
    };
    let (old, new) = (side('-'), side('+'));
    let Some((head, tail)) = old.split_once("…\n") else {
        assert_eq!(config.matches(&old).count(), 1, "in the file:\n{old}");
        return config.replace(&old, &new);
    };
    let (before, rest) = config.split_once(head).expect(head);
    let (_, after) = rest.split_once(tail).expect(tail);
    format!("{before}{new}{after}")
}

/// The configuration that all steps lead to.
fn end() -> String {
    let steps = steps();
    assert_eq!(steps.len(), 7);
    let steps = steps.iter();
    steps.fold(START.to_owned(), |config, step| apply(&config, step))
}

/// The doctor names what the steps change, and nothing once they are taken.
#[test]
fn the_doctor_names_what_the_steps_change() {
    let found = |config: &str| {
        let options = healthz_doctor::Options::default();
        let report = healthz_doctor::check("envoy.yaml", config.as_bytes(), &options).unwrap();
        let findings = report.findings.iter();
        findings.map(|found| found.id).collect::<Vec<_>>()
    };
    let start = ["HZ501", "HZ205", "HZ104", "HZ102", "HZ103", "HZ107"];
    assert_eq!(found(START), start);
    assert_eq!(found(&end()), [""; 0]);
}

#[tokio::test]
async fn both_run_and_differ_where_the_page_says() {
    let backend = free_port();
    // The one admin path more is for the row of the drain.
    let ready = "  - {exact: /ready}\n";
    let end = replaced(
        &end(),
        ready,
        &format!("{ready}  - {{exact: /healthcheck/fail}}\n"),
    );
    let [lua_envoy, envoy] = [start(START, backend).await, start(&end, backend).await];
    let [lua, filter] = [&lua_envoy, &envoy].map(|envoy| Prober::https1(envoy.port));

    // Both follow the backend.
    for prober in [&lua, &filter] {
        assert_eq!(prober.wait_for(503).await.body, "unavailable");
    }
    let backend = Backend::start(backend).await;
    for prober in [&lua, &filter] {
        assert_eq!(prober.wait_for(200).await.body, "ok");
    }

    // A query: the script lets it go upstream, where no /healthz is.
    assert_ne!(lua.get("/healthz?x=1").await.body, "ok");
    assert_eq!(filter.get("/healthz?x=1").await.body, "ok");

    let post = async |prober: &Prober| prober.send(Method::POST, "/healthz", &[]).await.status;
    // The script's 50 ms may be too short once; it does answer POST.
    until("the script answers POST with 200", async || {
        post(&lua).await == 200
    })
    .await;
    assert_eq!(post(&filter).await, 405);

    // Without ALPN a client that offers h2 does not get it.
    assert!(alpn(lua_envoy.port).contains("No ALPN negotiated"));
    assert!(alpn(envoy.port).contains("ALPN protocol: h2"));

    for envoy in [&lua_envoy, &envoy] {
        assert_eq!(envoy.post("/healthcheck/fail").await.status, 200);
    }
    filter.wait_for(503).await;
    assert_eq!(lua.wait_for(200).await.body, "ok");
    drop(backend);
}

/// The new route after the old one is never reached: the probe goes to the service.
#[tokio::test]
async fn an_appended_route_is_never_reached() {
    let backend = Backend::start(free_port()).await;
    let old = "              - match:\n                  prefix: \"/healthz\"\n                route:\n                  cluster: my_service\n";
    let new = "              - match: {path: /healthz}\n";
    let end = end();
    assert_eq!(end.matches(new).count(), 1);
    let envoy = start(&end.replace(new, &format!("{old}{new}")), backend.port).await;
    let prober = Prober::https1(envoy.port);
    until("the service answers", async || {
        prober.try_get("/healthz").await.is_ok_and(|answer| {
            let own = ["ok", "unavailable"].contains(&answer.body.as_str());
            !own && answer.header("grpc-status").is_some()
        })
    })
    .await;
    drop(backend);
}
