//! Envoy's health flags, and what each means for the traffic that a host gets.
//!
//! Envoy's admin writes `healthy`, or flags run together:
//!
//! ```text
//! /failed_active_hc/active_hc_timeout
//! ```
//!
//! They mean what they mean to Envoy 1.40's own load balancer at a panic threshold of 0: `failed_*`
//! and `eds_status_draining` hosts get no traffic, `degraded_*` and `pending_dynamic_removal` hosts
//! do. A host with an unknown flag is not usable.

/// The health flags of a host: those that Envoy 1.36 to 1.40 know, and what else was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthFlags {
    /// Bit N stands for entry N of [`FLAGS`].
    known: u16,
    /// A flag that is in no list, or text that is no flag at all.
    unknown: Option<String>,
}

/// Whether a host may take traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Healthy,
    /// It may, when no better host is left.
    Degraded,
    /// It may not.
    Unusable,
}

/// What one flag means for the traffic that Envoy's load balancer sends to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// No traffic.
    Failed,
    /// No traffic, and Envoy leaves the host out when it counts percentages.
    Excluded,
    /// Traffic, when no better host is left.
    Degraded,
    /// Nothing by itself.
    Neutral,
}

/// All flags, from `HEALTH_FLAG_ENUM_VALUES` in Envoy 1.40's `envoy/upstream/upstream.h`.
const FLAGS: [(&str, Effect); 11] = [
    ("failed_active_hc", Effect::Failed),
    ("failed_outlier_check", Effect::Failed),
    ("failed_eds_health", Effect::Failed),
    ("degraded_active_hc", Effect::Degraded),
    ("degraded_eds_health", Effect::Degraded),
    ("degraded_outlier_detection", Effect::Degraded),
    ("pending_dynamic_removal", Effect::Neutral),
    ("pending_active_hc", Effect::Excluded),
    ("excluded_via_immediate_hc_fail", Effect::Excluded),
    ("active_hc_timeout", Effect::Neutral),
    ("eds_status_draining", Effect::Excluded),
];

const _: () = assert!(
    FLAGS.len() <= u16::BITS as usize,
    "HealthFlags::known is too narrow"
);

impl HealthFlags {
    /// Reads `healthy` or flags run together, each behind a `/`.
    pub fn parse(text: &[u8]) -> Self {
        if text == b"healthy" {
            return Self::default();
        }
        let text = String::from_utf8_lossy(text);
        let Some(names) = text.strip_prefix('/') else {
            return Self {
                known: 0,
                unknown: Some(text.into_owned()),
            };
        };
        let mut flags = Self::default();
        for name in names.split('/') {
            match FLAGS.iter().position(|(known, _)| *known == name) {
                Some(bit) => flags.known |= 1 << bit,
                None => flags.unknown = Some(name.to_owned()),
            }
        }
        flags
    }

    /// Whether the host may take traffic.
    pub fn standing(&self) -> Standing {
        if self.unknown.is_some() || self.has(Effect::Failed) || self.has(Effect::Excluded) {
            Standing::Unusable
        } else if self.has(Effect::Degraded) {
            Standing::Degraded
        } else {
            Standing::Healthy
        }
    }

    /// Whether Envoy leaves the host out when it counts percentages.
    pub fn excluded(&self) -> bool {
        self.has(Effect::Excluded)
    }

    /// The unknown flag, if there is one.
    pub fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    /// The flags' names, the unknown one last; none for a host that is simply healthy.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known().map(|(name, _)| *name).chain(self.unknown())
    }

    fn has(&self, effect: Effect) -> bool {
        self.known().any(|(_, of)| *of == effect)
    }

    fn known(&self) -> impl Iterator<Item = &'static (&'static str, Effect)> {
        let flags = FLAGS.iter().enumerate();
        flags.filter_map(|(bit, flag)| (self.known & (1 << bit) != 0).then_some(flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_flag_makes_a_host_unusable() {
        for flags in [
            "",
            "Healthy",
            "failed_active_hc",
            "/",
            "/brand_new",
            "/failed_active_hc/x",
        ] {
            let flags = HealthFlags::parse(flags.as_bytes());
            assert!(flags.unknown().is_some(), "{flags:?}");
            assert_eq!(flags.standing(), Standing::Unusable, "{flags:?}");
        }
        for (name, effect) in FLAGS {
            let flags = HealthFlags::parse(format!("/{name}").as_bytes());
            assert_eq!(flags.unknown(), None, "{name}");
            assert!(flags.has(effect), "{name}");
            assert_eq!(flags.names().collect::<Vec<_>>(), [name]);
        }
    }
}
