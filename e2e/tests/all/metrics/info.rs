//! The gauges for 3 a.m.: which version answers, and from how old a snapshot.

use std::time::{SystemTime, UNIX_EPOCH};

use e2e::eventually;

use super::*;

both_builds! {
    the_version_is_shown_as_long_as_a_listener_has_it,
}

const BUILD_INFO: &str = concat!(
    "envoy_healthz_build_info{filter=\"default\",version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"}"
);

/// Also after a listener has been replaced, whose old configuration goes when the new one is there.
async fn the_version_is_shown_as_long_as_a_listener_has_it(build: Build) {
    let port = free_port();
    let listener = |path| named(build, port, "default", &[(path, "live")]);
    let scraped = Scraped::start(vec![listener("/old")]).await;
    assert_eq!(scraped.series().await.get(BUILD_INFO), None);
    let is_shown = async |path| {
        until("the version is shown", async || {
            let answer = Prober::http(port).get(path).await.status;
            answer == 200 && scraped.series().await.get(BUILD_INFO) == Some(&1)
        })
        .await;
    };
    is_shown("/old").await;

    scraped.lds.replace(vec![listener("/new")]);
    is_shown("/new").await;
    scraped
        .wait_for_end(build, &healthy("default", "/old"))
        .await;
    is_shown("/new").await;

    scraped.lds.replace(vec![]);
    until("the version is gone", async || {
        let last = scraped.series().await.get(BUILD_INFO).copied();
        // The wasm build's gauges go with the last virtual machine, a moment later.
        last.is_none() || build == Build::Wasm && last == Some(0)
    })
    .await;
}

/// By the machine's clock, and newer with each refresh.
#[tokio::test]
async fn the_last_good_snapshot_has_a_time() {
    let unix_time = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.expect("after 1970").as_secs()
    };
    let port = free_port();
    let listener = named(Build::Wasm, port, "a-b", &[("/healthz", "live")]);
    let before = unix_time();
    let scraped = Scraped::start(vec![listener]).await;
    let name = "envoy_healthz_snapshot_timestamp_seconds{filter=\"a-b\"}";
    assert_eq!(scraped.series().await.get(name), None);
    let taken_after = async |time| {
        eventually("a newer snapshot", async || {
            assert_eq!(Prober::http(port).get("/healthz").await.status, 200);
            let taken = scraped.series().await.get(name).copied();
            taken.filter(|&taken| taken > time)
        })
        .await
    };
    let first = taken_after(before - 1).await;
    assert!(first <= unix_time(), "{first}");
    let second = taken_after(first).await;
    assert!(second <= unix_time(), "{second}");
}
