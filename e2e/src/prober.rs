//! HTTP probers.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Version};

use crate::eventually;

/// A prober: every request that it makes asks one origin in one protocol.
#[derive(Clone)]
pub struct Prober {
    client: Client,
    origin: String,
}

/// What a prober was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The protocol it came in.
    pub version: Version,
    /// The status.
    pub status: u16,
    /// Names and values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Prober {
    /// HTTP/1.1 in the clear.
    pub fn http(port: u16) -> Self {
        Self::new(
            format!("http://127.0.0.1:{port}"),
            Client::builder().http1_only(),
        )
    }

    /// HTTP/1.1 over TLS, the certificate not validated, as Google's probers do.
    pub fn https1(port: u16) -> Self {
        Self::new(
            format!("https://localhost:{port}"),
            Client::builder().http1_only(),
        )
    }

    /// HTTP/2 over TLS by ALPN, the certificate not validated, as Google's probers do.
    pub fn https2(port: u16) -> Self {
        let client = Client::builder().http2_prior_knowledge();
        Self::new(format!("https://localhost:{port}"), client)
    }

    fn new(origin: String, client: reqwest::ClientBuilder) -> Self {
        let client = client
            .danger_accept_invalid_certs(true)
            .no_proxy()
            .resolve("localhost", std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
            .timeout(Duration::from_secs(10))
            .build()
            .expect("a client");
        Self { client, origin }
    }

    /// A request for this path, to be changed and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.origin))
    }

    /// GETs this path.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("an answer")
    }

    /// GETs this path; an error when no answer comes.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// Polls `/healthz` until it has this status.
    pub async fn wait_for(&self, status: u16) -> Answer {
        let what = format!("{}/healthz answers {status}", self.origin);
        eventually(&what, async || {
            self.try_get("/healthz")
                .await
                .ok()
                .filter(|answer| answer.status == status)
        })
        .await
    }
}

impl Answer {
    /// Sends a request and reads its answer.
    pub async fn to(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let headers = response.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Ok(Self {
            version: response.version(),
            status: response.status().as_u16(),
            headers: headers.collect(),
            body: response.text().await?,
        })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Probes `/healthz` in the clear on connections of their own, all at once; gives the statuses.
pub async fn probe_at_once(port: u16, count: usize) -> Vec<u16> {
    let probes: Vec<_> = (0..count)
        .map(|_| tokio::spawn(async move { Prober::http(port).get("/healthz").await.status }))
        .collect();
    let mut answers = Vec::new();
    for probe in probes {
        answers.push(probe.await.expect("an answer"));
    }
    answers
}
