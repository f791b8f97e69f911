//! A verdict and the request's wishes, to status, headers and body.
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

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::config::Endpoint;
use crate::health::{Health, Verdict};

/// What a request for an endpoint's path wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
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
        headers: Vec<(&'static str, &'static str)>,
        /// The body.
        body: String,
    },
    /// gRPC status 0 or 14, which Envoy sends as HTTP 200 with `grpc-status`.
    Grpc(Health),
}

impl Wish {
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
    /// The answer to an HTTP request; `age` is that of the snapshot.
    pub fn http(format: Format, verdict: &Verdict<'_>, age: Duration) -> Self {
        let (content_type, body) = match format {
            Format::Plain => return Self::plain(verdict.health),
            Format::Verbose => (TEXT, verbose(verdict)),
            Format::Json => ("application/health+json", json(verdict, age)),
        };
        Self::Http {
            status: status(verdict.health),
            headers: vec![("content-type", content_type), NO_STORE],
            body,
        }
    }

    /// The answer that tells nothing but the health.
    pub fn plain(health: Health) -> Self {
        Self::text(
            status(health),
            match health {
                Health::Healthy => "ok",
                Health::Unhealthy => "unavailable",
            },
        )
    }

    /// The answer to any method but GET and HEAD.
    pub fn method_not_allowed() -> Self {
        let mut response = Self::text(405, "method not allowed");
        if let Self::Http { headers, .. } = &mut response {
            headers.push(("allow", "GET, HEAD"));
        }
        response
    }

    fn text(status: u32, body: &str) -> Self {
        Self::Http {
            status,
            headers: vec![("content-type", TEXT), NO_STORE],
            body: body.to_owned(),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const NO_STORE: (&str, &str) = ("cache-control", "no-store");

fn status(health: Health) -> u32 {
    match health {
        Health::Healthy => 200,
        Health::Unhealthy => 503,
    }
}

/// As Envoy's `Grpc::Common::hasGrpcContentType`: `application/grpc`, alone or with `+` or `;` behind.
fn is_grpc(content_type: &[u8]) -> bool {
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
        // Of two equal wishes the first one counts.
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

fn verbose(verdict: &Verdict<'_>) -> String {
    let mut body = String::new();
    // Writing to a String cannot fail.
    if let Some(overruled) = &verdict.overruled {
        let _ = writeln!(body, "[-]{overruled}");
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
    total: usize,
    required: u64,
    age_ms: u64,
    hosts: Vec<HostJson<'a>>,
}

#[derive(Serialize)]
struct HostJson<'a> {
    address: &'a str,
    status: &'static str,
    flags: Vec<&'a str>,
}

fn json(verdict: &Verdict<'_>, age: Duration) -> String {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let body = HealthJson {
        status: word(verdict.health),
        output: verdict.overruled.as_ref().map(ToString::to_string),
        checks: verdict
            .checks
            .iter()
            .map(|check| {
                let failed = check.health == Health::Unhealthy;
                let entry = CheckJson {
                    status: word(check.health),
                    output: failed.then(|| check.to_string()),
                    healthy: check.usable,
                    total: check.hosts.len(),
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
    use crate::admin::{Fault, Page, Ready, Report};
    use crate::clusters::Parser;
    use crate::config::Config;
    use crate::health::judge;

    fn endpoint(details: bool) -> Endpoint {
        let config = format!(
            r#"{{"admin_cluster": "x", "endpoints": [{{"path": "/healthz", "clusters": ["a", "b"], "details": {details}}}]}}"#
        );
        Config::parse(config.as_bytes()).unwrap().endpoints[0].clone()
    }

    fn wish(details: bool, request: Request<'_>) -> Wish {
        let method = if request.method.is_empty() {
            b"GET"
        } else {
            request.method
        };
        Wish::of(&Request { method, ..request }, &endpoint(details))
    }

    #[test]
    fn methods_and_grpc() {
        for method in [b"GET".as_slice(), b"HEAD"] {
            let request = Request {
                method,
                ..Request::default()
            };
            assert_eq!(wish(false, request), Wish::Http(Format::Plain));
        }
        for method in [b"POST".as_slice(), b"get", b"PUT", b"OPTIONS", b"\xff"] {
            let request = Request {
                method,
                ..Request::default()
            };
            assert_eq!(wish(true, request), Wish::OtherMethod);
            let content_type = b"application/grpc";
            assert_eq!(
                wish(
                    false,
                    Request {
                        content_type,
                        ..request
                    }
                ),
                Wish::Grpc
            );
        }
        for (content_type, expected) in [
            (b"application/grpc".as_slice(), Wish::Grpc),
            (b"application/grpc+proto", Wish::Grpc),
            (b"application/grpc;x=y", Wish::Grpc),
            (b"application/grpc-web", Wish::Http(Format::Plain)),
            (b"text/plain", Wish::Http(Format::Plain)),
            (b"\xff", Wish::Http(Format::Plain)),
        ] {
            assert_eq!(
                wish(
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
            assert_eq!(wish(true, request), Wish::Http(expected), "{query}");
            assert_eq!(wish(false, request), Wish::Http(Format::Plain), "{query}");
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
            assert_eq!(wish(true, request), Wish::Http(expected), "{accept}");
            assert_eq!(wish(false, request), Wish::Http(Format::Plain), "{accept}");
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
                (status, headers[0].1, body)
            }
            Response::Grpc(_) => panic!("not HTTP"),
        }
    }

    fn outcome(b: &str) -> Result<Report, Fault> {
        let mut parser = Parser::new(&["a".to_owned(), "b".to_owned()]);
        parser.feed(b"a::127.0.0.1:1::health_flags::healthy\n");
        parser.feed(format!("b::[::1]:2::health_flags::{b}\n").as_bytes());
        Ok(Report {
            clusters: parser.finish().unwrap(),
            ready: Ready::Yes,
        })
    }

    #[test]
    fn bodies() {
        let endpoint = endpoint(true);
        let age = Duration::from_millis(12);
        let (good, bad) = (outcome("healthy"), outcome("/failed_active_hc"));
        let fault = Err(Fault::TimedOut(Page::Ready));
        let text = "text/plain; charset=utf-8";
        let json = "application/health+json";
        for (outcome, format, status, kind, expected) in [
            (&good, Format::Plain, 200, text, "ok"),
            (&bad, Format::Plain, 503, text, "unavailable"),
            (
                &good,
                Format::Verbose,
                200,
                text,
                "[+]a 1/1 healthy\n[+]b 1/1 healthy\nhealthz check passed\n",
            ),
            (
                &bad,
                Format::Verbose,
                503,
                text,
                "[+]a 1/1 healthy\n[-]b 0/1 healthy: [::1]:2 failed_active_hc\nhealthz check failed\n",
            ),
            (
                &fault,
                Format::Verbose,
                503,
                text,
                "[-]admin: /ready did not answer within admin_timeout_ms\nhealthz check failed\n",
            ),
            (
                &fault,
                Format::Json,
                503,
                json,
                r#"{"status":"fail","output":"admin: /ready did not answer within admin_timeout_ms","checks":{}}"#,
            ),
            (
                &bad,
                Format::Json,
                503,
                json,
                r#"{"status":"fail","checks":{"a":[{"status":"pass","healthy":1,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"127.0.0.1:1","status":"pass","flags":[]}]}],"b":[{"status":"fail","output":"b 0/1 healthy: [::1]:2 failed_active_hc","healthy":0,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"[::1]:2","status":"fail","flags":["failed_active_hc"]}]}]}}"#,
            ),
        ] {
            let response = Response::http(format, &judge(&endpoint, outcome), age);
            assert_eq!(body(response), (status, kind, expected.to_owned()));
        }
        let (status, _, _) = body(Response::method_not_allowed());
        assert_eq!(status, 405);
    }
}
