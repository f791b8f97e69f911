//! Reading JSON field by field, so that a refusal names the field, the fault and what would be right.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, Unexpected, Visitor};

use crate::config::MinHealthy;

/// Why a configuration was refused: the field, and what is wrong with it. One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// The field's path, like `endpoints[0].path`, and what is wrong with it.
    pub fn new(field: impl fmt::Display, fault: impl fmt::Display) -> Self {
        Self(on_one_line(&format!("{field}: {fault}")))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Escapes line breaks and their like: an unknown field's name may hold any, and a refusal is one
/// line of the log.
fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for char in text.chars() {
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    line
}

/// What a build says of text that is no configuration of its own.
pub struct Build {
    /// What the configuration should be, for one that is empty or no JSON at all.
    pub example: &'static str,
    /// Fields that only the other build has, and why.
    pub absent: &'static [(&'static str, &'static str)],
}

/// Reads the JSON text of a configuration.
pub fn read<T: DeserializeOwned>(text: &[u8], build: &Build) -> Result<T, ConfigError> {
    let whole = |fault: fmt::Arguments<'_>| ConfigError::new("configuration", fault);
    let example = build.example;
    if text.trim_ascii().is_empty() {
        return Err(whole(format_args!("is empty; give {example}")));
    }
    let json = &mut serde_json::Deserializer::from_slice(text);
    let raw = serde_path_to_error::deserialize(&mut *json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() && !is_like_json(text) {
            return whole(format_args!("is not JSON; give {example}"));
        }
        // Of what it cannot name, serde_path_to_error says `.` or `?`.
        match path.trim_end_matches(['.', '?']) {
            "" => ConfigError::new("configuration", fault(&error, build)),
            field => match build.absent.iter().find(|(absent, _)| *absent == field) {
                Some((_, reason)) => ConfigError::new(field, reason),
                None => ConfigError::new(field, fault(&error, build)),
            },
        }
    })?;
    json.end().map_err(|error| whole(format_args!("{error}")))?;
    Ok(raw)
}

/// Whether it could have been meant as a JSON object. A Struct's protobuf is full of control characters.
fn is_like_json(text: &[u8]) -> bool {
    let binary = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    text.trim_ascii_start().starts_with(b"{") && !text.iter().any(binary)
}

/// What serde_json says, without the place where the field is named: Envoy writes a Struct as JSON of its
/// own, whose columns nobody sees. A field that this build does not have is not offered.
fn fault(error: &serde_json::Error, build: &Build) -> String {
    let mut text = error.to_string();
    if error.is_data() {
        let place = format!(" at line {} column {}", error.line(), error.column());
        if let Some(fault) = text.strip_suffix(&place) {
            text.truncate(fault.len());
        }
        for (absent, _) in build.absent {
            text = text.replace(&format!("`{absent}`, "), "");
        }
    }
    text
}

/// Refuses a name that is empty or could forge a line of the log.
pub fn check_name(field: &str, what: &str, name: &str) -> Result<(), ConfigError> {
    let fault = if name.is_empty() {
        format!("must name {what}, got \"\"")
    } else if name.chars().any(char::is_control) {
        format!("must not contain a control character, got {name:?}")
    } else {
        return Ok(());
    };
    Err(ConfigError::new(field, fault))
}

/// Refuses a name that one before it has.
pub fn check_unique<'a>(
    field: &str,
    name: &str,
    mut before: impl Iterator<Item = &'a String>,
) -> Result<(), ConfigError> {
    if before.any(|other| other == name) {
        let fault = format!("must be unique, got {name:?} twice");
        return Err(ConfigError::new(field, fault));
    }
    Ok(())
}

/// Refuses a list or an object that has too few or too many entries.
pub fn check_count(
    field: &str,
    count: usize,
    bounds: RangeInclusive<usize>,
) -> Result<(), ConfigError> {
    if bounds.contains(&count) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    let fault = format!("must have {least} to {most} entries, got {count}");
    Err(ConfigError::new(field, fault))
}

/// Reads a field that may be left out, but not be `null`.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}

/// What identifies a filter among those of the same Envoy: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterName(String);

impl FilterName {
    /// As a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A line of the log that says this of the filter.
    pub fn line(&self, text: impl fmt::Display) -> String {
        format!("envoy-healthz[{self}]: {text}")
    }
}

impl Default for FilterName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for FilterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FilterName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let name = String::deserialize(input)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(Self(name));
        }
        let expected = &"1 to 64 of A-Z a-z 0-9 _ -";
        Err(D::Error::invalid_value(Unexpected::Str(&name), expected))
    }
}

/// Reads a field of milliseconds within bounds, which may be left out.
pub fn millis<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Duration>, D::Error> {
    let bounds = Bounds { min: MIN, max: MAX };
    let millis = input.deserialize_u64(bounds)?;
    Ok(Some(Duration::from_millis(millis)))
}

/// Reads a whole number, so that serde's own error names its bounds.
struct Bounds {
    min: u64,
    max: u64,
}

impl Visitor<'_> for Bounds {
    type Value = u64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an integer from {} to {}", self.min, self.max)
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        if (self.min..=self.max).contains(&value) {
            Ok(value)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(value), &self))
        }
    }
}

impl<'de> Deserialize<'de> for MinHealthy {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct MinHealthyVisitor;
        impl Visitor<'_> for MinHealthyVisitor {
            type Value = MinHealthy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of at least 1, or \"N%\" with N from 1 to 100")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                match value {
                    0 => Err(E::invalid_value(Unexpected::Unsigned(0), &self)),
                    hosts => Ok(MinHealthy::Hosts(hosts)),
                }
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                value
                    .strip_suffix('%')
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .filter(|percent| (1..=100).contains(percent))
                    .map(MinHealthy::Percent)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
            }
        }
        input.deserialize_any(MinHealthyVisitor)
    }
}
