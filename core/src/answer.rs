//! A verdict, to status, headers and body.
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

use crate::judgement::{Health, Verdict};
use crate::request::Form;

/// An answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it says.
    pub outcome: Outcome,
    /// How it says so.
    pub content: Content,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint's health.
    Health(Health),
    /// The method is not answered.
    MethodNotAllowed,
    /// Nothing, for a fault of the filter's own.
    Fault,
}

/// What an answer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The outcome's status, with this.
    Http {
        /// All headers but those that Envoy adds itself.
        headers: &'static [(&'static str, &'static str)],
        /// The body.
        body: Cow<'static, str>,
    },
    /// gRPC status 0 or 14, which Envoy sends as HTTP 200 with `grpc-status`.
    Grpc,
}

/// How old the knowledge behind an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Of this moment.
    Live,
    /// A snapshot of this age, which is young enough.
    Fresh(Duration),
    /// A snapshot of this age: no newer one was available.
    Stale(Duration),
}

impl Response {
    /// The answer that says this verdict in this form.
    pub fn of(verdict: &Verdict<'_>, form: Form, age: Age) -> Self {
        let content = match form {
            Form::Grpc => Content::Grpc,
            Form::Plain => text(match verdict.health {
                Health::Healthy => "ok",
                Health::Unhealthy => "unavailable",
            }),
            Form::Verbose => text(verbose(verdict, age)),
            Form::Json => Content::Http {
                headers: &[("content-type", "application/health+json"), NO_STORE],
                body: json(verdict, age).into(),
            },
        };
        Self {
            outcome: Outcome::Health(verdict.health),
            content,
        }
    }

    /// The answer after a fault of the filter's own.
    pub fn fault() -> Self {
        Self {
            outcome: Outcome::Fault,
            content: text("unavailable"),
        }
    }

    /// The answer to any method but GET and HEAD.
    pub fn method_not_allowed() -> Self {
        Self {
            outcome: Outcome::MethodNotAllowed,
            content: Content::Http {
                headers: &[TEXT, NO_STORE, ("allow", "GET, HEAD")],
                body: "method not allowed".into(),
            },
        }
    }
}

impl Outcome {
    /// The HTTP status: 200, 405 or 503. It is what is counted, also for gRPC.
    pub fn status(self) -> u32 {
        match self {
            Self::Health(Health::Healthy) => 200,
            Self::Health(Health::Unhealthy) | Self::Fault => 503,
            Self::MethodNotAllowed => 405,
        }
    }
}

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NO_STORE: (&str, &str) = ("cache-control", "no-store");

fn text(body: impl Into<Cow<'static, str>>) -> Content {
    Content::Http {
        headers: &[TEXT, NO_STORE],
        body: body.into(),
    }
}

fn verbose(verdict: &Verdict<'_>, age: Age) -> String {
    let mut body = String::new();
    // Writing to a String cannot fail.
    if let Age::Stale(age) = age {
        let age = age.as_millis();
        let _ = writeln!(body, "[+]snapshot: {age} ms old, no newer one yet");
    }
    if let Some(overridden) = verdict.overridden() {
        let _ = writeln!(body, "[-]{overridden}");
    }
    for check in verdict.checks() {
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
        output: verdict.overridden().map(|why| why.to_string()),
        checks: verdict
            .checks()
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
    // Only strings and numbers: this cannot fail, and if it did the status would still be true.
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
    use crate::config::{Endpoint, Endpoints};
    use crate::flags::HealthFlags;
    use crate::judgement::judge;
    use crate::view::{ClusterView, Counts, Host, Override, View};

    fn endpoint() -> Endpoint {
        let text = r#"[{"path": "/healthz", "clusters": ["a", "b"], "details": true}]"#;
        let endpoints: Endpoints = serde_json::from_str(text).unwrap();
        endpoints.check(true).unwrap().remove(0)
    }

    fn body(response: Response) -> (u32, &'static str, String) {
        match response.content {
            Content::Http { headers, body } => {
                assert_eq!(headers[1], ("cache-control", "no-store"));
                (response.outcome.status(), headers[0].1, body.into_owned())
            }
            Content::Grpc => panic!("not HTTP"),
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
        let endpoint = endpoint();
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
            (&good, Form::Plain, fresh, 200, text, "ok"),
            (&bad, Form::Plain, fresh, 503, text, "unavailable"),
            (
                &good,
                Form::Verbose,
                fresh,
                200,
                text,
                "[+]a 1/1 healthy\n[+]b 1/1 healthy\nhealthz check passed\n",
            ),
            (
                &good,
                Form::Verbose,
                Age::Stale(millis(1234)),
                200,
                text,
                "[+]snapshot: 1234 ms old, no newer one yet\n[+]a 1/1 healthy\n[+]b 1/1 healthy\nhealthz check passed\n",
            ),
            (
                &bad,
                Form::Verbose,
                fresh,
                503,
                text,
                "[+]a 1/1 healthy\n[-]b 0/1 healthy: [::1]:2 failed_active_hc\nhealthz check failed\n",
            ),
            (
                &nameless,
                Form::Verbose,
                Age::Live,
                503,
                text,
                "[+]a 1/1 healthy\n[-]b 0/1 healthy\nhealthz check failed\n",
            ),
            (
                &fault,
                Form::Verbose,
                fresh,
                503,
                text,
                "[-]admin: /ready did not answer\nhealthz check failed\n",
            ),
            (
                &fault,
                Form::Json,
                fresh,
                503,
                json,
                r#"{"status":"fail","output":"admin: /ready did not answer","checks":{}}"#,
            ),
            (
                &bad,
                Form::Json,
                fresh,
                503,
                json,
                r#"{"status":"fail","checks":{"a":[{"status":"pass","healthy":1,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"127.0.0.1:1","status":"pass","flags":[]}]}],"b":[{"status":"fail","output":"b 0/1 healthy: [::1]:2 failed_active_hc","healthy":0,"total":1,"required":1,"ageMs":12,"hosts":[{"address":"[::1]:2","status":"fail","flags":["failed_active_hc"]}]}]}}"#,
            ),
            (
                &nameless,
                Form::Json,
                Age::Live,
                503,
                json,
                r#"{"status":"fail","checks":{"a":[{"status":"pass","healthy":1,"total":1,"required":1,"hosts":[]}],"b":[{"status":"fail","output":"b 0/1 healthy","healthy":0,"total":1,"required":1,"hosts":[]}]}}"#,
            ),
        ] {
            let response = Response::of(&judge(&endpoint, view), format, age);
            assert_eq!(body(response), (status, kind, expected.to_owned()));
        }
        let (status, _, _) = body(Response::method_not_allowed());
        assert_eq!(status, 405);
        for (view, code) in [(&good, 200), (&bad, 503)] {
            let grpc = Response::of(&judge(&endpoint, view), Form::Grpc, fresh);
            assert_eq!((grpc.outcome.status(), grpc.content), (code, Content::Grpc));
        }
    }
}
