//! A request and a verdict, to status, headers and body.
//!
//! Without `details` the body is `ok` or `unavailable`. With it, `?verbose` gives lines as
//! Kubernetes does,
//!
//! ```text
//! [-]my_service 0/1 healthy: 127.0.0.1:9000 failed_active_hc
//! healthz check failed
//! ```
//!
//! and `?format=json` or an `Accept` for it an object of draft-inadarei-api-health-check-06.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::config::Endpoint;
use crate::judgement::{Health, Verdict, health, judge};
use crate::view::View;

/// What a request for an endpoint's path wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// GET or HEAD: status and body.
    Http(Format),
    /// A gRPC content type: a gRPC status.
    Grpc,
    /// A method that is not answered.
    OtherMethod,
}

/// The form of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `ok` or `unavailable`.
    Plain,
    /// A line a cluster.
    Verbose,
    /// `application/health+json`.
    Json,
}

/// The parts of a request that decide its answer's form.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `:method`
    pub method: &'a [u8],
    /// What stands behind the `?` of `:path`; empty without one.
    pub query: &'a [u8],
    /// `content-type`; empty without one.
    pub content_type: &'a [u8],
    /// `accept`; empty without one.
    pub accept: &'a [u8],
}

/// An answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// An HTTP answer.
    Http {
        /// 200, 405 or 503.
        status: u32,
        /// All headers but those that Envoy adds itself.
        headers: &'static [(&'static str, &'static str)],
        /// The body.
        body: Cow<'static, str>,
    },
    /// gRPC status 0 or 14, which Envoy sends as HTTP 200 with `grpc-status`.
    Grpc(Health),
}

/// How old the knowledge behind an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Of this moment.
    Live,
    /// A snapshot of this age, which is young enough.
    Fresh(Duration),
    /// A snapshot of this age: no newer one was to be had.
    Stale(Duration),
}

impl RequestKind {
    /// Reads a request for `endpoint`'s path.
    pub fn of(request: &Request<'_>, endpoint: &Endpoint) -> Self {
        if is_grpc(request.content_type) {
            return Self::Grpc;
        }
        if !matches!(request.method, b"GET" | b"HEAD") {
            return Self::OtherMethod;
        }
        let parameters = || request.query.split(|&byte| byte == b'&');
        let verbose =
            |parameter: &[u8]| parameter == b"verbose" || parameter.starts_with(b"verbose=");
        Self::Http(if !endpoint.details {
            Format::Plain
        } else if parameters().any(|parameter| parameter == b"format=json") {
            Format::Json
        } else if parameters().any(verbose) {
            Format::Verbose
        } else if prefers_json(request.accept) {
            Format::Json
        } else {
            Format::Plain
        })
    }
}

impl Response {
    /// The answer to a request for `endpoint`'s path.
    pub fn to(kind: RequestKind, endpoint: &Endpoint, view: &dyn View, age: Age) -> Self {
        match kind {
            RequestKind::OtherMethod => Self::method_not_allowed(),
            RequestKind::Grpc => Self::Grpc(health(endpoint, view)),
            RequestKind::Http(Format::Plain) => Self::plain(health(endpoint, view)),
            RequestKind::Http(Format::Verbose) => {
                let verdict = judge(endpoint, view);
                Self::text(verdict.health, verbose(&verdict, age))
            }
            RequestKind::Http(Format::Json) => {
                let verdict = judge(endpoint, view);
                Self::Http {
                    status: status(verdict.health),
                    headers: &[("content-type", "application/health+json"), NO_STORE],
                    body: json(&verdict, age).into(),
                }
            }
        }
    }

    /// The answer that tells nothing but the health.
    pub fn plain(health: Health) -> Self {
        let body = match health {
            Health::Healthy => "ok",
            Health::Unhealthy => "unavailable",
        };
        Self::text(health, body)
    }

    /// The answer to any method but GET and HEAD.
    pub fn method_not_allowed() -> Self {
        Self::Http {
            status: 405,
            headers: &[TEXT, NO_STORE, ("allow", "GET, HEAD")],
            body: "method not allowed".into(),
        }
    }

    /// 200, 405 or 503, for a gRPC answer that of its health: what is counted.
    pub fn code(&self) -> u32 {
        match self {
            Self::Http { status, .. } => *status,
            Self::Grpc(health) => status(*health),
        }
    }

    fn text(health: Health, body: impl Into<Cow<'static, str>>) -> Self {
        Self::Http {
            status: status(health),
            headers: &[TEXT, NO_STORE],
            body: body.into(),
        }
    }
}

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NO_STORE: (&str, &str) = ("cache-control", "no-store");

fn status(health: Health) -> u32 {
    match health {
        Health::Healthy => 200,
        Health::Unhealthy => 503,
    }
}

/// As Envoy's `Grpc::Common::hasGrpcContentType`: `application/grpc`, alone or with `+` or `;` behind.
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether an `Accept` header asks for JSON by name, and for text neither more nor first.
fn prefers_json(accept: &[u8]) -> bool {
    let (mut json, mut text) = (0, 0);
    for range in accept.split(|&byte| byte == b',') {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts
            .find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")))
            .map_or(1000, thousandths);
        // Of two equal qualities the first one counts.
        if quality > json.max(text) {
            match kind.as_slice() {
                b"application/health+json" | b"application/json" => json = quality,
                b"text/plain" | b"text/*" | b"*/*" => text = quality,
                _ => {}
            }
        }
    }
    json > text
}

/// A quality value of RFC 9110, section 12.4.2, in thousandths; 0 for what is none.
fn thousandths(quality: &[u8]) -> u32 {
    let (whole, fraction) = match quality {
        [whole] | [whole, b'.'] => (*whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return 0,
    };
    let digits = (0..3).map(|place| fraction.get(place).copied().unwrap_or(b'0'));
    let value = std::iter::once(whole)
        .chain(digits)
        .try_fold(0, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u32::from(digit - b'0'))
        });
    value.unwrap_or(0).min(1000)
}

fn verbose(verdict: &Verdict<'_>, age: Age) -> String {
    let mut body = String::new();
    // Writing to a String cannot fail.
    if let Age::Stale(age) = age {
        let age = age.as_millis();
        let _ = writeln!(body, "[+]snapshot: {age} ms old, no newer one yet");
    }
    if let Some(overridden) = &verdict.overridden {
        let _ = writeln!(body, "[-]{overridden}");
    }
    for check in &verdict.checks {
        let sign = match check.health {
            Health::Healthy => '+',
            Health::Unhealthy => '-',
        };
        let _ = writeln!(body, "[{sign}]{check}");
    }
    body.push_str(match verdict.health {
        Health::Healthy => "healthz check passed\n",
        Health::Unhealthy => "healthz check failed\n",
    });
    body
}

#[derive(Serialize)]
struct HealthJson<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(serialize_with = "as_map")]
    checks: Vec<(&'a str, [CheckJson<'a>; 1])>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckJson<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    healthy: u64,
    total: u64,
    required: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    /// As many as the source can name.
    hosts: Vec<HostJson<'a>>,
}

#[derive(Serialize)]
struct HostJson<'a> {
    address: &'a str,
    status: &'static str,
    flags: Vec<&'a str>,
}

fn json(verdict: &Verdict<'_>, age: Age) -> String {
    let age_ms = match age {
        Age::Live => None,
        Age::Fresh(age) | Age::Stale(age) => u64::try_from(age.as_millis()).ok(),
    };
    let body = HealthJson {
        status: word(verdict.health),
        output: verdict.overridden.as_ref().map(ToString::to_string),
        checks: verdict
            .checks
            .iter()
            .map(|check| {
                let failed = check.health == Health::Unhealthy;
                let entry = CheckJson {
                    status: word(check.health),
                    output: failed.then(|| check.to_string()),
                    healthy: check.usable,
                    total: check.total,
                    required: check.required,
                    age_ms,
                    hosts: check
                        .hosts
                        .iter()
                        .map(|host| HostJson {
                            address: &host.address,
                            status: word(check.usable(host).into()),
                            flags: host.flags.names().collect(),
                        })
                        .collect(),
                };
                (check.rule.name.as_str(), [entry])
            })
            .collect(),
    };
    // Strings and numbers alone: this cannot fail, and if it did the status still tells the truth.
    serde_json::to_string(&body).unwrap_or_default()
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "pass",
        Health::Unhealthy => "fail",
    }
}

fn as_map<S: serde::Serializer>(
    checks: &[(&str, [CheckJson<'_>; 1])],
    output: S,
) -> Result<S::Ok, S::Error> {
    output.collect_map(checks.iter().map(|(name, entry)| (name, entry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoints;
    use crate::flags::HealthFlags;
    use crate::view::{ClusterView, Counts, Host, Override};

    fn endpoint(details: bool) -> Endpoint {
        let text =
            format!(r#"[{{"path": "/healthz", "clusters": ["a", "b"], "details": {details}}}]"#);
        let endpoints: Endpoints = serde_json::from_str(&text).unwrap();
        endpoints.check(true).unwrap().remove(0)
    }

    fn kind(details: bool, request: Request<'_>) -> RequestKind {
        let method = if request.method.is_empty() {
            b"GET"
        } else {
            request.method
        };
        RequestKind::of(&Request { method, ..request }, &endpoint(details))
    }

    #[test]
    fn methods_and_grpc() {
        for method in [b"GET".as_slice(), b"HEAD"] {
            let request = Request {
                method,
                ..Request::default()
            };
            assert_eq!(kind(false, request), RequestKind::Http(Format::Plain));
        }
        for method in [b"POST".as_slice(), b"get", b"PUT", b"OPTIONS", b"\xff"] {
            let request = Request {
                method,
                ..Request::default()
            };
            assert_eq!(kind(true, request), RequestKind::OtherMethod);
            let content_type = b"application/grpc";
            assert_eq!(
                kind(
                    false,
                    Request {
                        content_type,
                        ..request
                    }
                ),
                RequestKind::Grpc
            );
        }
        for (content_type, expected) in [
            (b"application/grpc".as_slice(), RequestKind::Grpc),
            (b"application/grpc+proto", RequestKind::Grpc),
            (b"application/grpc;x=y", RequestKind::Grpc),
            (b"application/grpc-web", RequestKind::Http(Format::Plain)),
            (b"text/plain", RequestKind::Http(Format::Plain)),
            (b"\xff", RequestKind::Http(Format::Plain)),
        ] {
            assert_eq!(
                kind(
                    false,
                    Request {
                        content_type,
                        ..Request::default()
                    }
                ),
                expected
            );
        }
    }

    #[test]
    fn queries() {
        for (query, expected) in [
            ("", Format::Plain),
            ("x=1", Format::Plain),
            ("verbose", Format::Verbose),
            ("verbose=1", Format::Verbose),
            ("x&verbose&y", Format::Verbose),
            ("verbosely", Format::Plain),
            ("format=json", Format::Json),
            ("verbose&format=json", Format::Json),
            ("format=xml", Format::Plain),
        ] {
            let request = Request {
                query: query.as_bytes(),
                ..Request::default()
            };
            assert_eq!(kind(true, request), RequestKind::Http(expected), "{query}");
            assert_eq!(
                kind(false, request),
                RequestKind::Http(Format::Plain),
                "{query}"
            );
        }
    }

    #[test]
    fn accept_headers() {
        for (accept, expected) in [
            ("", Format::Plain),
            ("*/*", Format::Plain),
            ("text/plain", Format::Plain),
            ("application/json", Format::Json),
            ("application/health+json", Format::Json),
            ("APPLICATION/JSON", Format::Json),
            ("application/json, text/plain, */*", Format::Json),
            ("text/plain, application/json", Format::Plain),
            ("text/plain;q=0.5, application/json", Format::Json),
            ("application/json;q=0.5, text/plain", Format::Plain),
            ("application/json;q=0.5, text/plain;q=0.500", Format::Json),
            ("application/json;q=0", Format::Plain),
            (
                "application/json; charset=utf-8; q=0.9, */*;q=0.1",
                Format::Json,
            ),
            ("application/json;q=x", Format::Plain),
            ("application/json;q=1.000", Format::Json),
            ("application/json;q=0.0001", Format::Plain),
            ("image/png", Format::Plain),
            (
                "application/xml, application/health+json;q=0.9, */*;q=0.8",
                Format::Json,
            ),
        ] {
            let request = Request {
                accept: accept.as_bytes(),
                ..Request::default()
            };
            assert_eq!(kind(true, request), RequestKind::Http(expected), "{accept}");
            assert_eq!(
                kind(false, request),
                RequestKind::Http(Format::Plain),
                "{accept}"
            );
        }
    }

    fn body(response: Response) -> (u32, &'static str, String) {
        match response {
            Response::Http {
                status,
                headers,
                body,
            } => {
                assert_eq!(headers[1], ("cache-control", "no-store"));
                (status, headers[0].1, body.into_owned())
            }
            Response::Grpc(_) => panic!("not HTTP"),
        }
    }

    /// Clusters `a`, which is healthy, and `b`, or nothing but a fault.
    struct Known {
        a: [Host; 1],
        b: [Host; 1],
        names_hosts: bool,
        fault: Option<&'static str>,
    }

    impl View for Known {
        fn cluster(&self, name: &str) -> Option<ClusterView<'_>> {
            let hosts = if name == "a" { &self.a } else { &self.b };
            let counts = Counts::of(hosts);
            let hosts = if self.names_hosts { &hosts[..] } else { &[] };
            Some(ClusterView { counts, hosts })
        }

        fn overridden(&self) -> Option<Override<'_>> {
            let fault = self.fault.as_ref()?;
            Some(Override::NoKnowledge(fault))
        }
    }

    fn known(b: &str) -> Known {
        let host = |address: &str, flags: &str| Host {
            address: address.to_owned(),
            flags: HealthFlags::parse(flags.as_bytes()),
        };
        Known {
            a: [host("127.0.0.1:1", "healthy")],
            b: [host("[::1]:2", b)],
            names_hosts: true,
            fault: None,
        }
    }

    #[test]
    fn bodies() {
        let endpoint = endpoint(true);
        let millis = Duration::from_millis;
        let fresh = Age::Fresh(millis(12));
        let (good, bad) = (known("healthy"), known("/failed_active_hc"));
        let fault = Known {
            fault: Some("admin: /ready did not answer"),
            ..known("healthy")
        };
        let nameless = Known {
            names_hosts: false,
            ..known("/failed_active_hc")
        };
        let text = "text/plain; charset=utf-8";
        let json = "application/health+json";
        for (view, format, age, status, kind, expected) in [
            (&good, Format::Plain, fresh, 200, text, "ok"),
            (&bad, Format::Plain, fresh, 503, text, "unavailable"),
            (
                &good,
                Format::Verbose,
                fresh,
                200,
                text,
                "[+]a 1/1 healthy\n[+]b 1/1 healthy\nhealthz check passed\n",
            ),
            (
                &good,
                Format::Verbose,
                Age::Stale(millis(1234)),
                200,
                text,
                "[+]snapshot: 1234 ms old, no newer one yet\n[+]a 1/1 healthy\n[+]b 1/1 healthy\nhealthz check passed\n",
            ),
            (
                &bad,
                Format::Verbose,
                fresh,
                503,
                text,
                "[+]a 1/1 healthy\n[-]b 0/1 healthy: [::1]:2 failed_active_hc\nhealthz check failed\n",
            ),
            (
                &nameless,
                Format::Verbose,
                Age::Live,
                503,
                text,
                "[+]a 1/1 healthy\n[-]b 0/1 healthy\nhealthz check failed\n",
            ),
            (
                &fault,
                Format::Verbose,
                fresh,
                503,
                text,
                "[-]admin: /ready did not answer\nhealthz check failed\n",
            ),
            (
                &fault,
                Format::Json,
                fresh,
                503,
                json,
                r#"{"status":"fail","output":"admin: /ready did not answer","checks":{}}"#,
            ),
            (
                &bad,
                Format::Json,
                fresh,
                503,
                json,
                r#"{"status":"fail","checks":{"a":[{"status":"pass","healthy":1,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"127.0.0.1:1","status":"pass","flags":[]}]}],"b":[{"status":"fail","output":"b 0/1 healthy: [::1]:2 failed_active_hc","healthy":0,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"[::1]:2","status":"fail","flags":["failed_active_hc"]}]}]}}"#,
            ),
            (
                &nameless,
                Format::Json,
                Age::Live,
                503,
                json,
                r#"{"status":"fail","checks":{"a":[{"status":"pass","healthy":1,"total":1,"required":1,"hosts":[]}],"b":[{"status":"fail","output":"b 0/1 healthy","healthy":0,"total":1,"required":1,"hosts":[]}]}}"#,
            ),
        ] {
            let response = Response::to(RequestKind::Http(format), &endpoint, view, age);
            assert_eq!(body(response), (status, kind, expected.to_owned()));
        }
        let (status, _, _) = body(Response::method_not_allowed());
        assert_eq!(status, 405);
        for (view, code) in [(&good, 200), (&bad, 503)] {
            let grpc = Response::to(RequestKind::Grpc, &endpoint, view, fresh);
            assert_eq!(grpc.code(), code);
        }
    }
}
