//! Envoy's matchers, applied to one request. What cannot be known from a file is [`Match::Maybe`].

use regex_lite::Regex;

use crate::tree::Node;

/// A request as a prober sends it: no header but those that HTTP wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, or `POST` of a gRPC call.
    pub method: &'static str,
    /// The path, without a query.
    pub path: String,
    /// The hosts that it may name, without and with a port.
    pub hosts: Vec<String>,
}

/// Whether a matcher takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It depends on what the file does not say.
    Maybe,
}

impl Match {
    fn of(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    /// One of both.
    pub fn or(self, other: Self) -> Self {
        self.negated().and(other.negated()).negated()
    }

    /// The opposite.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }

    /// All of them.
    pub fn all(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::Yes, Self::and)
    }

    /// One of them.
    pub fn any(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::No, Self::or)
    }
}

impl Request {
    /// A prober's `GET`.
    pub fn get(path: &str, hosts: Vec<String>) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
            hosts,
        }
    }

    /// A gRPC call.
    pub fn grpc(path: &str, hosts: Vec<String>) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            hosts,
        }
    }

    fn header(&self, name: &str) -> Header<'_> {
        match name {
            ":method" => Header::Is(self.method),
            ":path" => Header::Is(&self.path),
            "content-type" if self.method == "POST" => Header::Is("application/grpc"),
            ":authority" | "host" | ":scheme" | "user-agent" | "accept" | "te" => Header::Unknown,
            // Envoy adds these itself.
            name if name.starts_with("x-forwarded-")
                || name.starts_with("x-envoy-")
                || name == "x-request-id" =>
            {
                Header::Unknown
            }
            _ => Header::Absent,
        }
    }
}

enum Header<'r> {
    Is(&'r str),
    Absent,
    Unknown,
}

/// `type.matcher.v3.StringMatcher`, and the fields of the same names in older places.
pub fn string(matcher: &Node, value: &str) -> Match {
    let fold = |text: &str| match matcher.is_true("ignore_case") {
        true => text.to_ascii_lowercase(),
        false => text.to_owned(),
    };
    let value = fold(value);
    for (field, test) in [
        ("exact", str::eq as fn(&str, &str) -> bool),
        ("prefix", |value, text| value.starts_with(text)),
        ("suffix", |value, text| value.ends_with(text)),
        ("contains", |value, text| value.contains(text)),
    ] {
        if let Some(text) = matcher.str(field) {
            return Match::of(test(&value, &fold(text)));
        }
    }
    match matcher.get("safe_regex") {
        Some(regex) => whole(regex, &value),
        None => Match::Maybe,
    }
}

/// Whether a regex matcher takes all of a value.
fn whole(matcher: &Node, value: &str) -> Match {
    let Some(regex) = matcher.str("regex") else {
        return Match::Maybe;
    };
    match Regex::new(&format!("^(?:{regex})$")) {
        Ok(regex) => Match::of(regex.is_match(value)),
        Err(_) => Match::Maybe,
    }
}

/// `config.route.v3.HeaderMatcher`.
pub fn header(matcher: &Node, request: &Request) -> Match {
    let name = matcher.str("name").unwrap_or_default().to_ascii_lowercase();
    let value = match request.header(&name) {
        Header::Unknown => return Match::Maybe,
        Header::Is(value) => Some(value),
        Header::Absent if matcher.is_true("treat_missing_header_as_empty") => Some(""),
        Header::Absent => None,
    };
    let inverted = |found: Match| match matcher.is_true("invert_match") {
        true => found.negated(),
        false => found,
    };
    // With nothing but a name it is enough that the header is there.
    let only_name = || {
        matcher
            .entries()
            .all(|(key, _)| matches!(snake(key).as_str(), "name" | "invert_match"))
    };
    match matcher.str("present_match") {
        Some(_) => inverted(Match::of(
            value.is_some() == matcher.is_true("present_match"),
        )),
        None if only_name() => inverted(Match::of(value.is_some())),
        // Of a header that is not there no value matches, inverted or not.
        None => value.map_or(Match::No, |value| inverted(header_value(matcher, value))),
    }
}

fn header_value(matcher: &Node, value: &str) -> Match {
    if let Some(matcher) = matcher.get("string_match") {
        return string(matcher, value);
    }
    if let Some(exact) = matcher.str("exact_match") {
        return Match::of(value == exact);
    }
    if let Some(prefix) = matcher.str("prefix_match") {
        return Match::of(value.starts_with(prefix));
    }
    match matcher.get("safe_regex_match") {
        Some(regex) => whole(regex, value),
        None => Match::Maybe,
    }
}

/// All of these `HeaderMatcher`s.
pub fn headers(matchers: &Node, request: &Request) -> Match {
    Match::all(matchers.items().map(|matcher| header(matcher, request)))
}

/// `config.route.v3.RouteMatch`.
pub fn route(matcher: &Node, request: &Request) -> Match {
    let conditions = matcher
        .entries()
        .map(|(key, node)| match snake(key).as_str() {
            "prefix" | "path" | "path_separated_prefix" | "safe_regex" | "case_sensitive" => {
                Match::Yes
            }
            "headers" => headers(node, request),
            // A probe has no query.
            "query_parameters" => Match::all(node.items().map(query_parameter)),
            "grpc" => Match::of(request.method == "POST"),
            "connect_matcher" => Match::No,
            "runtime_fraction" => fraction(node.get("default_value")),
            _ => Match::Maybe,
        });
    path(matcher, &request.path).and(Match::all(conditions))
}

/// The part of a `RouteMatch` that looks at the path.
pub fn path(matcher: &Node, path: &str) -> Match {
    let fold = |text: &str| match matcher.str("case_sensitive") {
        Some(_) if !matcher.is_true("case_sensitive") => text.to_ascii_lowercase(),
        _ => text.to_owned(),
    };
    let requested = fold(path);
    if let Some(exact) = matcher.str("path") {
        return Match::of(requested == fold(exact));
    }
    if let Some(prefix) = matcher.str("prefix") {
        return Match::of(requested.starts_with(&fold(prefix)));
    }
    if let Some(prefix) = matcher.str("path_separated_prefix") {
        let rest = requested.strip_prefix(&fold(prefix));
        return Match::of(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    }
    match matcher.get("safe_regex") {
        Some(regex) => whole(regex, path),
        None if matcher.get("connect_matcher").is_some() => Match::No,
        // A dump leaves out an empty prefix.
        None if matcher.get("path_match_policy").is_none() => Match::Yes,
        None => Match::Maybe,
    }
}

fn query_parameter(matcher: &Node) -> Match {
    match matcher.str("present_match") {
        Some(_) => Match::of(!matcher.is_true("present_match")),
        None => Match::No,
    }
}

/// Whether something with this `type.v3.FractionalPercent` happens; 100 % if nothing is said.
pub fn fraction(percent: Option<&Node>) -> Match {
    let Some(percent) = percent else {
        return Match::Yes;
    };
    let most = match percent.str("denominator") {
        Some("TEN_THOUSAND") => 10_000.0,
        Some("MILLION") => 1_000_000.0,
        _ => 100.0,
    };
    match percent.number("numerator").unwrap_or(0.0) {
        0.0 => Match::No,
        some if some >= most => Match::Yes,
        _ => Match::Maybe,
    }
}

/// A field's name in snake case, as these pages have it.
pub fn snake(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for char in key.chars() {
        if char.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(char.to_ascii_lowercase());
    }
    name
}
