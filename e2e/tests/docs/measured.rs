//! Numbers that no program of ours knows, by where they come from: `facts.md` is the project's record of what was
//! measured.

/// Where from, and the sentences: page and words.
pub const MEASURED: [(&str, &[(&str, &str)]); 8] = [
    (
        "tests in e2e/tests/all: metrics, judgement, answers, lua, configuration",
        &[
            ("docs/operations.md", "gauge: 1 healthy, 0 not"),
            ("docs/operations.md", "(gRPC status 0 counts"),
            ("docs/operations.md", "gauge: 1 while the admin responds"),
            (
                "docs/operations.md",
                "gauge: 1; wasm: 0 for a replaced version",
            ),
            ("docs/operations.md", "its gauge becomes 1 (wasm)"),
            ("docs/operations.md", "In a drain `envoy_server_live` is 0"),
            ("docs/comparison.md", "| 1000 other clusters | 200 |"),
            (
                "docs/comparison.md",
                "grpc-status 0 | grpc-status 2 (unknown) | grpc-status 2 |",
            ),
            ("docs/comparison.md", "2 for each worker and `max_age_ms`"),
            ("docs/README.ja.md", "クラスターが 1000 個"),
            (
                "docs/configuration.md",
                "how many usable hosts it takes; a percentage is rounded up, never under 1",
            ),
            (
                "docs/configuration.md",
                "| at least 1, or `\"N%\"`, N 1..=100 | 1 |",
            ),
            ("docs/configuration.md", "; 0: none"),
            ("docs/configuration.md", "0: every probe calls the admin"),
            ("docs/configuration.md", "`max_age_ms` 0: two calls"),
            ("docs/configuration.md", "`max_age_ms` 1000 or more"),
        ],
    ),
    (
        "the shipped configurations and manifests",
        &[
            ("docs/README.ja.md", "ポートは 8001 のまま"),
            (
                "docs/README.ja.md",
                "`no_traffic_interval` を 1s、`healthy_panic_threshold` を 0、`update_merge_window` を 0s",
            ),
            ("docs/README.ja.md", "ポート 80 のまま"),
            ("docs/from-lua.md", "instead of 80"),
            (
                "docs/meshes.md",
                "`istio-traffic-extension.yaml` (1.30) and `istio-wasm-plugin.yaml` (1.27)",
            ),
            ("docs/meshes.md", "port 19001 | port 19001"),
        ],
    ),
    (
        "the machines that .ci/run ran on",
        &[
            ("README.md", "Python 3.11"),
            ("docs/README.ja.md", "Python 3.11"),
            ("docs/security.md", "Python 3.11"),
        ],
    ),
    (
        "Envoy's documentation, and which of its versions refuse a field: e2e on each",
        &[
            (
                "docs/configuration.md",
                "on Envoy 1.36 or 1.37, which send all",
            ),
            ("docs/configuration.md", "a panic threshold of 0."),
            (
                "docs/configuration.md",
                "workers learn up to 1 s after the admin",
            ),
            ("docs/from-lua.md", "(Envoy 1.36: without"),
            ("docs/module.md", "**On Envoy 1.38** leave"),
            (
                "docs/module.md",
                "Envoy 1.36 and 1.37 refuse `metrics_namespace`",
            ),
            ("docs/module.md", "A hot restart of Envoy 1.38 or 1.39 can"),
            ("docs/module.md", "use Envoy 1.40 there"),
            ("docs/operations.md", "the module on Envoy 1.38"),
            (
                "docs/troubleshooting.md",
                "Envoy 1.36 and 1.37 send all clusters",
            ),
            (
                "docs/troubleshooting.md",
                "need Envoy 1.38 and 1.37 respectively",
            ),
            (
                "docs/troubleshooting.md",
                "1.38 and 1.39 say so of the module",
            ),
        ],
    ),
    (
        "Kubernetes', Google's, AWS's, Azure's, HAProxy's and Istio's documentation",
        &[
            ("docs/configuration.md", "GKE's default is every 15 s"),
            ("docs/from-lua.md", "a port above 1023"),
            ("docs/gke.md", "GKE 1.30 or newer"),
            ("docs/gke.md", "refused above 256 KiB"),
            ("docs/gke.md", "a ConfigMap holds 1 MiB"),
            ("docs/gke.md", "Kubernetes 1.35, the release's"),
            ("docs/gke.md", "35.191.0.0/16 and 130.211.0.0/22"),
            ("docs/load-balancers.md", "as of 2026"),
            (
                "docs/load-balancers.md",
                "| the gRPC codes of the matcher, 12 by default |",
            ),
            (
                "docs/load-balancers.md",
                "(14 is unhealthy). With 12, healthy targets",
            ),
            ("docs/load-balancers.md", "is status 0, which passes"),
            ("docs/load-balancers.md", "| 200 to 399 | probe path"),
            (
                "docs/load-balancers.md",
                "| 200 to 399 | [endpoints for kubelet]",
            ),
            ("docs/load-balancers.md", "| 200 to 399 | method"),
            ("docs/load-balancers.md", "a range like 200 to 399 is"),
            ("docs/meshes.md", "ports 15020, 15090"),
            ("docs/meshes.md", "(8443 for 443 if"),
            ("docs/security.md", "need cosign 3,"),
        ],
    ),
    (
        "facts.md, 4: the article",
        &[("docs/comparison.md", "with a timeout of 50 ms")],
    ),
    (
        "facts.md, 8 to 11 and 14: Envoy, Kubernetes, Envoy Gateway, Istio",
        &[
            ("docs/meshes.md", "Envoy Gateway 1.8, module"),
            (
                "docs/meshes.md",
                "after 6 to 8 s | Envoy's gRPC checks (4 s)",
            ),
            (
                "docs/meshes.md",
                "Envoy Gateway 1.8.0 on Kubernetes 1.34 with its own proxies, and Istio 1.31's",
            ),
            ("docs/meshes.md", "volume before Kubernetes 1.35 is dropped"),
            ("docs/operations.md", "for over 1 s at 4000 clusters"),
            (
                "docs/troubleshooting.md",
                "is over 32 MiB (17,000 to 45,000 hosts",
            ),
        ],
    ),
    (
        "facts.md, 13: gRPC clients; by hand, once: HAProxy (the commit of docs/load-balancers.md), grpc_health_probe",
        &[
            (
                "docs/load-balancers.md",
                "about 1.6 s after a kill, 3.6 s after a hang",
            ),
            (
                "docs/load-balancers.md",
                "exit status 0 healthy, 4 `NOT_SERVING`, 3 in a drain",
            ),
            (
                "docs/load-balancers.md",
                "run with HAProxy 2.6.12, Envoy 1.40.0",
            ),
            ("docs/operations.md", "reconnects 100 to 540 times a second"),
        ],
    ),
];
