//! An admin cluster that leads to something else than Envoy's admin: a web server that answers 200 to
//! every path, in the words of many a server. Nothing that it says is believed, and the log says what to
//! compare.

use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::fake_admin::{Does, HEALTHY, envoy_with_fake};
use e2e::prober::Prober;
use serde_json::json;

/// Gives the whole answer to a path.
type Respond = fn(&str) -> String;

/// A whole answer with this status and body.
fn answer(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the log says of a page with a text like this.
fn foreign(page: &str) -> String {
    format!(
        "{page} answered 200 with a text that is not Envoy's: compare the address of admin_cluster with admin.address"
    )
}

/// Probes until the log has this line: a change within a second of the last one is recorded by a later answer.
/// It is there once.
async fn wait_for_line(envoy: &Envoy, prober: &Prober, line: &str) {
    eventually(line, async || {
        assert_eq!(prober.get("/healthz").await.status, 503);
        (!envoy.logged(&[line]).is_empty()).then_some(())
    })
    .await;
    assert_eq!(envoy.logged(&[line]).len(), 1, "{line}");
}

/// A liveness endpoint that respects drains asks `/ready` alone.
#[tokio::test]
async fn ready_is_believed_only_if_it_is_envoys_own() {
    let rows: [(Respond, &str); 7] = [
        (|_| answer(200, "<html>It works!</html>\n"), "200"),
        (|_| answer(200, ""), "200"),
        (|_| answer(200, "ok"), "200"),
        (|_| answer(200, "LIVELY\n"), "200"),
        (|_| answer(200, "DRAINING\n"), "200"),
        (|_| answer(404, "LIVE\n"), "404"),
        (|_| answer(204, ""), "204"),
    ];
    let live = || Does::Respond(|_| answer(200, "LIVE\n"));
    for (respond, status) in rows {
        let fields = json!({"max_age_ms": 0, "endpoints": [{"path": "/healthz", "clusters": []}]});
        let (envoy, fake) = envoy_with_fake(live(), "1", fields).await;
        let port = envoy.port;
        let prober = Prober::http(port);
        prober.wait_for(200).await;
        fake.change_to(Does::Respond(respond));
        for _ in 0..3 {
            // A wrong reply is not bridged by the last good snapshot.
            let answer = prober.get("/healthz").await;
            assert_eq!(answer.status, 503, "{:?}", respond("/ready"));
        }
        let cause = match status {
            "200" => foreign("/ready"),
            _ => format!("/ready answered {status}, which Envoy's admin does not: compare"),
        };
        let line = format!("admin unavailable: {cause}");
        wait_for_line(&envoy, &prober, &line).await;
        fake.change_to(live());
        prober.wait_for(200).await;
    }
}

/// Any other 503 than a state of Envoy's is silence: the last good snapshot answers.
#[tokio::test]
async fn a_503_in_other_words_is_silence() {
    let live = Does::Respond(|_| answer(200, "LIVE\n"));
    let fields = json!({
        "max_age_ms": 0, "max_stale_ms": 600_000,
        "endpoints": [{"path": "/healthz", "clusters": []}],
    });
    let (_envoy, fake) = envoy_with_fake(live, "1", fields).await;
    let port = _envoy.port;
    let prober = Prober::http(port);
    prober.wait_for(200).await;
    for (respond, status) in [
        (
            (|_| answer(503, "<html>Service Unavailable</html>")) as Respond,
            200,
        ),
        (|_| answer(503, ""), 200),
        (|_| answer(503, "INITIALIZING\n"), 200),
        (|_| answer(503, "PRE_INITIALIZING\n"), 200),
        (|_| answer(504, "DRAINING\n"), 200),
        (|_| answer(503, "BRAND_NEW\n"), 503),
        (|_| answer(503, "DRAINING\n"), 503),
    ] {
        fake.change_to(Does::Respond(respond));
        for _ in 0..3 {
            let answer = prober.get("/healthz").await;
            assert_eq!(answer.status, status, "{:?}", respond("/ready"));
        }
    }
}

/// `/clusters` in other words: the cause is not that Envoy knows no such cluster.
#[tokio::test]
async fn clusters_in_no_text_of_envoys() {
    let good = || Does::Answer(200, HEALTHY.to_vec());
    for text in [
        "<!DOCTYPE html>\n<html>healthy</html>\n",
        "<html>no end of a line</html>",
        "{\"status\": \"healthy\"}\n",
        "c healthy\n",
    ] {
        let fields = json!({"max_age_ms": 0});
        let (envoy, fake) = envoy_with_fake(good(), "1", fields).await;
        let port = envoy.port;
        let prober = Prober::http(port);
        prober.wait_for(200).await;
        fake.change_to(Does::Answer(200, text.into()));
        for _ in 0..3 {
            assert_eq!(prober.get("/healthz").await.status, 503, "{text}");
        }
        for line in ["admin unavailable: ", "/healthz is unhealthy: admin: "] {
            let line = format!("{line}{}", foreign("/clusters"));
            wait_for_line(&envoy, &prober, &line).await;
        }
        fake.change_to(good());
        prober.wait_for(200).await;
    }
}
