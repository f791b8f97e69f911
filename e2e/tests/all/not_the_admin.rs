//! An admin cluster that leads to something else than Envoy's admin: a web server that answers 200 to
//! every path, in the words of many a server. Nothing that it says is believed, and the log says what to
//! compare.

use e2e::config::{Config, cluster};
use e2e::envoy::Envoy;
use e2e::fake_admin::{Does, FakeAdmin, healthy};
use e2e::prober::Prober;
use e2e::{Build, free_port, until};
use serde_json::{Value, json};

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

/// A filter of an Envoy that has several, and what is in the place of its admin.
struct Row {
    name: String,
    prober: Prober,
    fake: FakeAdmin,
}

/// An Envoy with one worker and so many filters with these fields, each with a fake of its own that does this.
async fn start(count: usize, does: &Does, fields: &Value) -> (Envoy, Vec<Row>) {
    let (mut config, mut rows) = (Config::new(), Vec::new());
    for nth in 0..count {
        let (name, port) = (format!("row_{nth}"), free_port());
        let fake = FakeAdmin::start(does.clone()).await;
        let mut filter = fields.clone();
        filter["name"] = json!(name);
        filter["admin_cluster"] = json!(name);
        filter["max_age_ms"] = json!(0);
        filter["max_stale_ms"] = json!(600_000);
        filter["admin_timeout_ms"] = json!(30000);
        config = config
            .cluster(cluster(&name, &[fake.port]))
            .listener(Build::Wasm.listener(port, &filter));
        let prober = Prober::http(port);
        rows.push(Row { name, prober, fake });
    }
    (config.start_with(&["--concurrency", "1"]).await, rows)
}

impl Row {
    /// From the first on that rests on the reply of now, all probes are answered with this status: a reply that
    /// comes too late, on a machine that stands still, is silence, and the last snapshot answers.
    async fn check(&self, status: u16, why: &str) {
        let path = "/healthz";
        self.prober.wait_through_answers(path, status).await;
        for _ in 0..3 {
            assert_eq!(self.prober.get(path).await.status, status, "{why}");
        }
    }

    /// Probes until the log has this line: a change within a second of the last one is recorded by a later
    /// answer. It is there once.
    async fn wait_for_line(&self, envoy: &Envoy, line: &str) {
        let line = format!("envoy-healthz[{}]: {line}", self.name);
        until(&line, async || {
            assert_eq!(self.prober.get("/healthz").await.status, 503);
            !envoy.logged(&[&line]).is_empty()
        })
        .await;
        assert_eq!(envoy.logged(&[&line]).len(), 1, "{line}");
    }
}

/// A liveness endpoint that respects drains queries `/ready` alone.
#[tokio::test]
async fn ready_is_believed_only_if_it_is_envoys_own() {
    let other = |status| format!("/ready answered {status}, which Envoy's admin does not: compare");
    let rows: [(Respond, String); 7] = [
        (
            |_| answer(200, "<html>It works!</html>\n"),
            foreign("/ready"),
        ),
        (|_| answer(200, ""), foreign("/ready")),
        (|_| answer(200, "ok"), foreign("/ready")),
        (|_| answer(200, "LIVELY\n"), foreign("/ready")),
        (|_| answer(200, "DRAINING\n"), foreign("/ready")),
        (|_| answer(404, "LIVE\n"), other(404)),
        (|_| answer(204, ""), other(204)),
    ];
    let live = || Does::Respond(|_| answer(200, "LIVE\n"));
    let fields = json!({"endpoints": [{"path": "/healthz", "clusters": []}]});
    let (envoy, filters) = start(rows.len(), &live(), &fields).await;
    for ((respond, cause), row) in rows.into_iter().zip(filters) {
        row.prober.wait_for(200).await;
        row.fake.change_to(Does::Respond(respond));
        // A wrong reply is not bridged by the last good snapshot.
        row.check(503, &respond("/ready")).await;
        let line = format!("admin unavailable: {cause}");
        row.wait_for_line(&envoy, &line).await;
        row.fake.change_to(live());
        row.prober.wait_for(200).await;
    }
}

/// Any other 503 than a state of Envoy's is silence: the last good snapshot answers.
#[tokio::test]
async fn a_503_in_other_words_is_silence() {
    let live = Does::Respond(|_| answer(200, "LIVE\n"));
    let fields = json!({"endpoints": [{"path": "/healthz", "clusters": []}]});
    let (_envoy, filters) = start(1, &live, &fields).await;
    let [row] = &filters[..] else { unreachable!() };
    row.prober.wait_for(200).await;
    let rows: [(Respond, u16); 7] = [
        (|_| answer(503, "<html>Service Unavailable</html>"), 200),
        (|_| answer(503, ""), 200),
        (|_| answer(503, "INITIALIZING\n"), 200),
        (|_| answer(503, "PRE_INITIALIZING\n"), 200),
        (|_| answer(504, "DRAINING\n"), 200),
        (|_| answer(503, "BRAND_NEW\n"), 503),
        (|_| answer(503, "DRAINING\n"), 503),
    ];
    for (respond, status) in rows {
        row.fake.change_to(Does::Respond(respond));
        row.check(status, &respond("/ready")).await;
    }
}

/// `/clusters` in other words: the cause is not that Envoy knows no such cluster.
#[tokio::test]
async fn clusters_in_no_text_of_envoys() {
    let texts = [
        "<!DOCTYPE html>\n<html>healthy</html>\n",
        "<html>no end of a line</html>",
        "{\"status\": \"healthy\"}\n",
        "c healthy\n",
    ];
    let (envoy, filters) = start(texts.len(), &healthy(), &json!({})).await;
    for (text, row) in texts.into_iter().zip(filters) {
        row.prober.wait_for(200).await;
        row.fake.change_to(Does::Answer(200, text.into()));
        row.check(503, text).await;
        for line in ["admin unavailable: ", "/healthz is unhealthy: admin: "] {
            let line = format!("{line}{}", foreign("/clusters"));
            row.wait_for_line(&envoy, &line).await;
        }
        row.fake.change_to(healthy());
        row.prober.wait_for(200).await;
    }
}
