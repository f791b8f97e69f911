//! What a request asks for: the endpoint of its path, and the form of the answer.

use crate::config::Endpoint;

/// A request for the path of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// The endpoint's place in the configuration.
    pub index: usize,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// What is behind the `?` of `:path`; empty without one.
    query: &'a [u8],
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `ok` or `unavailable`.
    Plain,
    /// A line a cluster.
    Verbose,
    /// `application/health+json`.
    Json,
    /// A gRPC status.
    Grpc,
}

impl<'a> Probe<'a> {
    /// Finds the endpoint that `:path` names; `None` if it is none of these.
    pub fn of(endpoints: &'a [Endpoint], target: &'a [u8]) -> Option<Self> {
        let mut parts = target.splitn(2, |&byte| byte == b'?');
        let path = parts.next().unwrap_or_default();
        let query = parts.next().unwrap_or_default();
        let mut endpoints = endpoints.iter().enumerate();
        let (index, endpoint) = endpoints.find(|(_, endpoint)| endpoint.path.as_bytes() == path)?;
        Some(Self {
            index,
            endpoint,
            query,
        })
    }

    /// The form that the request wants; `None` for a method that is not answered. `header` gives the value
    /// of a request header, empty if there is none.
    pub fn form<'h>(&self, header: impl Fn(&'static str) -> &'h [u8]) -> Option<Form> {
        if is_grpc(header("content-type")) {
            return Some(Form::Grpc);
        }
        if !matches!(header(":method"), b"GET" | b"HEAD") {
            return None;
        }
        if !self.endpoint.details {
            return Some(Form::Plain);
        }
        let has =
            |wanted: &dyn Fn(&[u8]) -> bool| self.query.split(|&byte| byte == b'&').any(wanted);
        Some(if has(&|parameter| parameter == b"format=json") {
            Form::Json
        } else if has(&|parameter| parameter == b"verbose" || parameter.starts_with(b"verbose=")) {
            Form::Verbose
        } else if prefers_json(header("accept")) {
            Form::Json
        } else {
            Form::Plain
        })
    }
}

/// `application/grpc`, whole or with `+` or `;` behind, as gRPC's servers take it. To Envoy (1.36 to 1.40,
/// `Grpc::Common::hasGrpcContentType`) the last is no gRPC.
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
    let quality = str::from_utf8(quality).unwrap_or_default();
    let (whole, fraction) = quality.split_once('.').unwrap_or((quality, ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 {
        return 0;
    }
    let thousandths = format!("{whole}{fraction:0<3}").parse().unwrap_or(0);
    thousandths.min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoints;

    fn endpoints(details: bool) -> Vec<Endpoint> {
        let text = format!(
            r#"[{{"path": "/livez", "clusters": []}}, {{"path": "/healthz", "clusters": ["a"], "details": {details}}}]"#
        );
        let endpoints: Endpoints = serde_json::from_str(&text).unwrap();
        endpoints.check(true).unwrap()
    }

    /// The form of a request for `/healthz?query` with one more header.
    fn form(details: bool, method: &[u8], query: &str, header: (&str, &[u8])) -> Option<Form> {
        let endpoints = endpoints(details);
        let target = format!("/healthz?{query}");
        let probe = Probe::of(&endpoints, target.as_bytes()).unwrap();
        probe.form(|name| match name {
            ":method" => method,
            _ if name == header.0 => header.1,
            _ => b"",
        })
    }

    #[test]
    fn paths() {
        let endpoints = endpoints(false);
        for (target, expected) in [
            ("/livez", Some((0, ""))),
            ("/healthz", Some((1, ""))),
            ("/healthz?", Some((1, ""))),
            ("/healthz?a?b", Some((1, "a?b"))),
            ("/healthz/", None),
            ("/healthz%20", None),
            ("", None),
            ("/", None),
            ("/HEALTHZ", None),
        ] {
            let found = Probe::of(&endpoints, target.as_bytes());
            let found = found.map(|probe| (probe.index, probe.query));
            let expected = expected.map(|(index, query): (_, &str)| (index, query.as_bytes()));
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn methods_and_grpc() {
        let grpc = ("content-type", b"application/grpc".as_slice());
        for method in [b"GET".as_slice(), b"HEAD"] {
            assert_eq!(form(false, method, "", ("", b"")), Some(Form::Plain));
        }
        for method in [b"POST".as_slice(), b"get", b"PUT", b"OPTIONS", b"\xff"] {
            assert_eq!(form(true, method, "", ("", b"")), None);
            assert_eq!(form(false, method, "", grpc), Some(Form::Grpc));
        }
        for (content_type, expected) in [
            (b"application/grpc".as_slice(), Form::Grpc),
            (b"application/grpc+proto", Form::Grpc),
            (b"application/grpc;x=y", Form::Grpc),
            (b"application/grpc-web", Form::Plain),
            (b"text/plain", Form::Plain),
            (b"\xff", Form::Plain),
        ] {
            let header = ("content-type", content_type);
            assert_eq!(form(false, b"GET", "", header), Some(expected));
        }
    }

    #[test]
    fn queries() {
        for (query, expected) in [
            ("", Form::Plain),
            ("x=1", Form::Plain),
            ("verbose", Form::Verbose),
            ("verbose=1", Form::Verbose),
            ("x&verbose&y", Form::Verbose),
            ("verbosely", Form::Plain),
            ("format=json", Form::Json),
            ("verbose&format=json", Form::Json),
            ("format=xml", Form::Plain),
        ] {
            assert_eq!(
                form(true, b"GET", query, ("", b"")),
                Some(expected),
                "{query}"
            );
            let plain = Some(Form::Plain);
            assert_eq!(form(false, b"GET", query, ("", b"")), plain, "{query}");
        }
    }

    #[test]
    fn accept_headers() {
        for (accept, expected) in [
            ("", Form::Plain),
            ("*/*", Form::Plain),
            ("text/plain", Form::Plain),
            ("application/json", Form::Json),
            ("application/health+json", Form::Json),
            ("APPLICATION/JSON", Form::Json),
            ("application/json, text/plain, */*", Form::Json),
            ("text/plain, application/json", Form::Plain),
            ("text/plain;q=0.5, application/json", Form::Json),
            ("application/json;q=0.5, text/plain", Form::Plain),
            ("application/json;q=0.5, text/plain;q=0.500", Form::Json),
            ("application/json;q=0", Form::Plain),
            (
                "application/json; charset=utf-8; q=0.9, */*;q=0.1",
                Form::Json,
            ),
            ("application/json;q=x", Form::Plain),
            ("application/json;q=1.000", Form::Json),
            ("application/json;q=0.0001", Form::Plain),
            ("application/json;q=+.5", Form::Plain),
            ("application/json;q=0.+5", Form::Plain),
            ("application/json;q=5", Form::Plain),
            ("application/json;q=1., text/plain;q=0.9", Form::Json),
            ("image/png", Form::Plain),
            (
                "application/xml, application/health+json;q=0.9, */*;q=0.8",
                Form::Json,
            ),
        ] {
            let header = ("accept", accept.as_bytes());
            assert_eq!(form(true, b"GET", "", header), Some(expected), "{accept}");
            assert_eq!(
                form(false, b"GET", "", header),
                Some(Form::Plain),
                "{accept}"
            );
        }
    }
}
