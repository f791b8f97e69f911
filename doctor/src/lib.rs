//! `healthz-doctor`: names what makes a health endpoint of an Envoy configuration lie to its prober,
//! although Envoy takes the file.
//!
//! | | |
//! |---|---|
//! | [`tree`] | the text as a tree with lines and columns |
//! | [`envoy`] | what a bootstrap or a `/config_dump` holds |
//! | [`matching`], [`walk`] | the way of a probe through it |
//! | [`filter`], [`answer`], [`endpoint`] | what answers, and from which clusters |
//! | [`detection`] | what the health checks' fields add up to |
//! | [`rules`] | one table: how it lies, and how that is found |
//! | [`report`], [`page`] | what is printed, and what is said of a rule |
//!
//! ```
//! let file = "static_resources: {listeners: []}";
//! let refused = healthz_doctor::check("envoy.yaml", file.as_bytes(), &Default::default());
//! assert!(refused.is_err_and(|refusal| refusal.to_string().contains("no health endpoint")));
//! ```

pub mod tree;

pub mod envoy;
pub mod matching;
pub mod walk;

pub mod filter;

pub mod answer;
pub mod endpoint;

pub mod detection;

pub mod rules;

pub mod page;
pub mod report;

use envoy::Envoy;
use report::Report;
use rules::Case;
use tree::Refusal;
use walk::Way;

/// What is known of who probes, and what is to be left out.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kind of prober, if it is known.
    pub prober: Option<Prober>,
    /// The `Host` that it sends; an address if it is not known.
    pub host: Option<String>,
    /// How long a hang may take to be found, in seconds.
    pub max_detection: f64,
    /// The rules that are not to be looked at.
    pub ignore: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        // GKE's own interval between checks, with NEGs.
        Self {
            prober: None,
            host: None,
            max_detection: 15.0,
            ignore: Vec::new(),
        }
    }
}

/// Kinds of probers, by what they can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prober {
    /// Google's HTTP2 check: TLS with ALPN `h2`.
    GoogleHttp2,
    /// Google's HTTPS check.
    GoogleHttps,
    /// Google's HTTP check.
    GoogleHttp,
    /// AWS's Application Load Balancer, target groups HTTP1.
    AlbHttp1,
    /// The same, target groups GRPC.
    AlbGrpc,
    /// Kubernetes' kubelet.
    Kubelet,
}

impl Prober {
    /// All of them by name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("google-http2", Self::GoogleHttp2),
        ("google-https", Self::GoogleHttps),
        ("google-http", Self::GoogleHttp),
        ("alb-http1", Self::AlbHttp1),
        ("alb-grpc", Self::AlbGrpc),
        ("kubelet", Self::Kubelet),
    ];

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, prober)| *prober)
    }
}

/// Checks the text of one file; refused if there is nothing to check in it.
pub fn check(file: &str, text: &[u8], options: &Options) -> Result<Report, Refusal> {
    let root = tree::parse(text)?;
    let envoy = Envoy::of(&root)?;
    let filters = filter::find(&envoy)?;
    let endpoints = endpoint::find(&envoy, &filters, options.host.as_deref());
    let case = Case {
        envoy: &envoy,
        filters: &filters,
        endpoints: &endpoints,
        options,
    };
    let mut findings = rules::findings(&case);
    // Envoy dies of a module among upstream filters, which is no endpoint.
    if endpoints.is_empty() && !findings.iter().any(|(rule, _)| rule.id == "HZ405") {
        return Err(Refusal("has no health endpoint in it".to_owned()));
    }
    let ignores = Ignores::of(text);
    findings.retain(|(rule, finding)| {
        !options.ignore.iter().any(|id| id == rule.id) && !ignores.take(rule.id, finding.place.0)
    });
    let not_walked = endpoints
        .iter()
        .filter(|endpoint| matches!(endpoint.way, Way::NotWalked))
        .count();
    Ok(Report {
        file: file.to_owned(),
        endpoints: endpoints
            .iter()
            .map(|endpoint| report::endpoint(&case, endpoint))
            .collect(),
        findings: report::findings(&root, findings),
        not_walked,
    })
}

/// `# doctor: ignore HZ107 why`, on the line of a finding or the one above.
struct Ignores(Vec<(usize, String)>);

impl Ignores {
    fn of(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut ignores = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let Some((_, rest)) = line.split_once("# doctor: ignore ") else {
                continue;
            };
            let ids = rest.split_whitespace().next().unwrap_or_default();
            ignores.extend(ids.split(',').map(|id| (index + 1, id.to_owned())));
        }
        Self(ignores)
    }

    fn take(&self, id: &str, line: usize) -> bool {
        self.0
            .iter()
            .any(|(at, ignored)| ignored == id && (*at == line || at + 1 == line))
    }
}
