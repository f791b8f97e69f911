//! The cases in `cases/`: of each rule a bad file that trips it and nothing else, and a good twin that
//! trips nothing; and files that only look like a trap.

// As in any test, a fault is a panic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use healthz_doctor::report::Report;
use healthz_doctor::{Options, Prober, check, rules};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// The files of a folder whose name begins with this.
fn files(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(start)
        })
        .collect();
    files.sort();
    files
}

fn run(file: &Path, options: &Options) -> Report {
    let text = fs::read(file).unwrap();
    check("envoy.yaml", &text, options).unwrap_or_else(|refusal| panic!("{file:?}: {refusal}"))
}

fn ids(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|found| found.id).collect()
}

fn with_prober(prober: Option<Prober>) -> Options {
    Options {
        prober,
        ..Options::default()
    }
}

/// HZ217 needs to know who probes.
fn options(id: &str) -> Options {
    with_prober((id == "HZ217").then_some(Prober::GoogleHttp2))
}

#[test]
fn each_rule_trips_on_its_bad_file_alone_and_not_on_the_good_twin() {
    let mut seen = BTreeSet::new();
    for folder in files(&cases(), "HZ") {
        let id = folder.file_name().unwrap().to_str().unwrap();
        for bad in files(&folder, "bad") {
            let report = run(&bad, &options(id));
            assert_eq!(ids(&report), [id], "{bad:?}\n{}", report.text());
            let found = &report.findings[0];
            let of_root = ["HZ303", "HZ502"].contains(&id);
            assert!(
                found.line > 1 && found.at.is_empty() == of_root,
                "{bad:?}: {found:?}"
            );
            let good = bad.with_file_name(
                bad.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .replace("bad", "good"),
            );
            let report = run(&good, &options(id));
            assert!(report.findings.is_empty(), "{good:?}\n{}", report.text());
            assert_eq!(
                (report.endpoints.len(), report.not_walked),
                (1, 0),
                "{good:?}"
            );
        }
        seen.insert(id.to_owned());
    }
    let known: BTreeSet<String> = rules::all().map(|rule| rule.id.to_owned()).collect();
    assert_eq!(
        seen, known,
        "a rule without a case, or a case without a rule"
    );
    assert!(rules::all().map(|rule| rule.id).is_sorted());
}

#[test]
fn the_line_is_that_of_the_mistake() {
    for (case, line) in [
        ("HZ101/bad.yaml", "  - name: my_service"),
        (
            "HZ102/bad.yaml",
            "    - {timeout: 1s, interval: 1s, unhealthy_threshold: 2",
        ),
        ("HZ109/bad.yaml", "{\"admin_cluster\": \"local_admin\""),
        (
            "HZ109/bad.module.yaml",
            "  - {path: /healthz, clusters: [my-service]}",
        ),
        ("HZ204/bad.yaml", "- name: envoy.filters.http.jwt_authn"),
        ("HZ202/bad.yaml", "- match: {prefix: /}"),
        ("HZ404/bad.module.yaml", "cache_time: 30s"),
        ("HZ505/bad.yaml", "- match: {path: /stats/prometheus}"),
    ] {
        let path = cases().join(case);
        let text = fs::read_to_string(&path).unwrap();
        let found = &run(&path, &Options::default()).findings[0];
        let there = text.lines().nth(found.line - 1).unwrap();
        assert!(
            there.contains(line),
            "{case}: line {} is {there:?}",
            found.line
        );
    }
}

#[test]
fn what_only_looks_like_a_trap_is_silent() {
    let files = files(&cases().join("silent"), "");
    assert!(files.len() >= 5);
    for file in files {
        let report = run(&file, &Options::default());
        assert!(report.findings.is_empty(), "{file:?}\n{}", report.text());
        assert_eq!(report.not_walked, 0, "{file:?}");
    }
}

/// The findings of a case with some of its text replaced.
fn changed(case: &str, changes: &[(&str, &str)], options: &Options) -> Vec<(&'static str, String)> {
    let mut text = fs::read_to_string(cases().join(case)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{case} has no {from:?}");
        text = text.replacen(from, to, 1);
    }
    let report = check("envoy.yaml", text.as_bytes(), options)
        .unwrap_or_else(|refusal| panic!("{changes:?}: {refusal}"));
    let found = report
        .findings
        .iter()
        .map(|found| (found.id, found.severity.to_string()));
    found.collect()
}

/// One row: a change of a good file, and the one finding that it makes; none if it is empty.
fn row(case: &str, changes: &[(&str, &str)], prober: Option<Prober>, expected: &[(&str, &str)]) {
    let found = changed(case, changes, &with_prober(prober));
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(id, severity)| (*id, severity.as_str()))
        .collect();
    assert_eq!(found, expected, "{case} with {changes:?} for {prober:?}");
}

const WASM: &str = "HZ101/good.yaml";
const MODULE: &str = "HZ101/good.module.yaml";
const TLS: &str = "HZ205/good.yaml";

#[test]
fn clusters_in_other_forms() {
    let cluster = "  - name: my_service\n";
    let check = "    health_checks:\n    - {timeout: 1s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {}}\n";
    let eds =
        "  - name: my_service\n    type: EDS\n    eds_cluster_config: {eds_config: {ads: {}}}\n";
    let ejecting = "    outlier_detection: {max_ejection_percent: 100}\n";
    let lenient = "    outlier_detection: {}\n";
    let dns = "  - name: my_service\n    cluster_type: {name: envoy.cluster.dns, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster}}\n";
    let logical = "  - name: my_service\n    cluster_type: {name: envoy.cluster.dns, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, all_addresses_in_single_endpoint: true}}\n";
    let panic = "healthy_panic_threshold: {value: 0}";
    let one = "\"clusters\": [\"my_service\"]";
    for (changes, expected) in [
        (
            &[(check, ""), (cluster, eds)][..],
            &[("HZ101", "warning")][..],
        ),
        (&[(check, ejecting)], &[("HZ101", "warning")]),
        (&[(check, lenient)], &[("HZ101", "error")]),
        (&[(panic, "healthy_panic_threshold: {}")], &[]),
        // One host alone cannot panic.
        (&[(panic, "healthy_panic_threshold: {value: 50}")], &[]),
        (
            &[
                (panic, "healthy_panic_threshold: {value: 50}"),
                (cluster, eds),
            ],
            &[("HZ104", "warning")],
        ),
        (
            &[
                (panic, "healthy_panic_threshold: {value: 50}"),
                (cluster, dns),
            ],
            &[("HZ104", "warning")],
        ),
        (
            &[
                (panic, "healthy_panic_threshold: {value: 50}"),
                (cluster, logical),
            ],
            &[],
        ),
        (
            &[
                (panic, "healthy_panic_threshold: {value: 50}"),
                (cluster, dns),
                (
                    one,
                    "\"clusters\": [{\"name\": \"my_service\", \"min_healthy\": \"50%\"}]",
                ),
            ],
            &[],
        ),
        (
            &[
                (panic, "healthy_panic_threshold: {value: 50}"),
                (cluster, dns),
                (
                    one,
                    "\"clusters\": [{\"name\": \"my_service\", \"min_healthy\": \"49%\"}]",
                ),
            ],
            &[("HZ104", "warning")],
        ),
        (
            &[
                (cluster, logical),
                (
                    one,
                    "\"clusters\": [{\"name\": \"my_service\", \"min_healthy\": 2}]",
                ),
            ],
            &[("HZ108", "error")],
        ),
        (
            &[("no_traffic_interval: 1s", "no_traffic_interval: 5s")],
            &[],
        ),
        (
            &[(
                "no_traffic_interval: 1s",
                "no_traffic_interval: 1s, no_traffic_healthy_interval: 6s",
            )],
            &[("HZ102", "warning")],
        ),
        (
            &[(
                "timeout: 1s, interval: 1s",
                "timeout: 1s, interval: 1s, unhealthy_interval: 20s",
            )],
            &[("HZ103", "warning")],
        ),
        (
            &[(
                "\"refresh_interval_ms\"",
                "\"max_age_ms\": 12000, \"refresh_interval_ms\"",
            )],
            &[("HZ103", "warning")],
        ),
        (
            &[(
                "grpc_health_check: {}",
                "http_health_check: {path: /, codec_client_type: HTTP2}",
            )],
            &[],
        ),
        (
            &[
                ("grpc_health_check: {}", "http_health_check: {path: /}"),
                (
                    "port_value: 9000}}",
                    "port_value: 9000}}, health_check_config: {port_value: 9001}",
                ),
            ],
            &[],
        ),
        (
            &[(
                "grpc_health_check: {}",
                "tcp_health_check: {receive: [{text: \"00\"}]}",
            )],
            &[],
        ),
        (
            &[
                ("http2_protocol_options: {}", "http_protocol_options: {}"),
                ("grpc_health_check: {}", "tcp_health_check: {}"),
            ],
            &[],
        ),
        (
            &[
                ("[\"my_service\"]", "[\"elsewhere\"]"),
                (
                    "static_resources:",
                    "dynamic_resources: {cds_config: {ads: {}}}\nstatic_resources:",
                ),
            ],
            &[],
        ),
    ] {
        row(WASM, changes, None, expected);
    }
}

#[test]
fn an_aggregate_is_one_finding() {
    // Its members are fine, and itself has no checks and no load_assignment.
    let report = run(&cases().join("HZ110/bad.yaml"), &Options::default());
    assert!(report.findings[0].what.contains("an aggregate cluster"));
}

#[test]
fn unconditional_answers() {
    let case = "HZ119/good.yaml";
    let route = "              - match: {prefix: /}\n";
    let livez = "              - match: {path: /livez}\n                direct_response: {status: 200}\n              - match: {prefix: /}\n";
    row(case, &[(route, livez)], None, &[]);
    row(
        "HZ119/bad.yaml",
        &[(route, livez)],
        None,
        &[("HZ119", "warning"), ("HZ119", "warning")],
    );
    let ready = livez.replace("/livez", "/ready");
    row(case, &[(route, &ready)], None, &[("HZ119", "warning")]);
    let fails = ready.replace("200", "503");
    row(case, &[(route, &fails)], None, &[]);
    // An answer for all paths is no health endpoint.
    row(
        case,
        &[(
            "route: {cluster: my_service, timeout: 0s}",
            "direct_response: {status: 200}",
        )],
        None,
        &[],
    );
}

#[test]
fn routes_and_hosts() {
    let on = "envoy-healthz: {\"@type\"";
    let route = "              - match: {path: /healthz}\n";
    for (changes, expected) in [
        (
            &[(on, "envoy_healthz: {\"@type\"")][..],
            &[("HZ201", "error")][..],
        ),
        (
            &[("FilterConfig, config: {}", "FilterConfig, disabled: true")],
            &[("HZ201", "error")],
        ),
        (
            &[("match: {path: /healthz}", "match: {path: /other}")],
            &[("HZ202", "error")][..0],
        ),
        (
            &[(
                "match: {path: /healthz}",
                "match: {safe_regex: {regex: \"/health(z|y)\"}}",
            )],
            &[],
        ),
        (
            &[(
                "match: {path: /healthz}",
                "match: {path_separated_prefix: /healthz}",
            )],
            &[],
        ),
        (
            &[(
                "match: {path: /healthz}",
                "match: {path: /HEALTHZ, case_sensitive: false}",
            )],
            &[],
        ),
        (
            &[(
                route,
                "              - match: {prefix: /, grpc: {}}\n                route: {cluster: my_service}\n              - match: {path: /healthz}\n",
            )],
            &[],
        ),
        (
            &[(
                route,
                "              - match: {prefix: /h}\n                route: {cluster: my_service}\n              - match: {path: /healthz}\n",
            )],
            &[("HZ202", "error")],
        ),
        (
            &[(
                route,
                "              - match: {prefix: /, headers: [{name: x-key, present_match: true}]}\n                route: {cluster: my_service}\n              - match: {path: /healthz}\n",
            )],
            &[],
        ),
        (&[("domains: [\"*\"]", "domains: [\"192.0.2.*\"]")], &[]),
        (
            &[("domains: [\"*\"]", "domains: [\"*.example.com\"]")],
            &[("HZ203", "warning")],
        ),
    ] {
        if changes[0].1.ends_with("/other}") {
            // The path goes to the next route, which does not switch the filter on.
            row(WASM, changes, None, &[("HZ201", "error")]);
            continue;
        }
        row(WASM, changes, None, expected);
    }
    let options = Options {
        host: Some("grpc.example.com".to_owned()),
        ..Options::default()
    };
    assert!(changed("HZ203/bad.yaml", &[], &options).is_empty());
    row(
        "HZ203/bad.yaml",
        &[],
        Some(Prober::Kubelet),
        &[("HZ203", "error")],
    );
}

#[test]
fn who_is_refused_before_the_filter() {
    let first = "          - name: envoy-healthz\n";
    let extension = "type.googleapis.com/envoy.extensions.filters.http";
    for (filter, expected) in [
        (
            "basic_auth.v3.BasicAuth, users: {inline_string: \"u:{SHA}x\"}",
            Some("error"),
        ),
        (
            "api_key_auth.v3.ApiKeyAuth, credentials: [{key: k, client: c}], key_sources: [{header: x-key}]",
            Some("error"),
        ),
        (
            "rbac.v3.RBAC, rules: {policies: {a: {permissions: [{any: true}], principals: [{header: {name: x-key, string_match: {exact: k}}}]}}}",
            Some("error"),
        ),
        (
            "rbac.v3.RBAC, rules: {policies: {a: {permissions: [{any: true}], principals: [{authenticated: {}}]}}}",
            Some("error"),
        ),
        (
            "rbac.v3.RBAC, rules: {policies: {a: {permissions: [{any: true}], principals: [{remote_ip: {address_prefix: 10.0.0.0}}]}}}",
            None,
        ),
        ("rbac.v3.RBAC, rules: {action: LOG, policies: {}}", None),
        (
            "rbac.v3.RBAC, rules: {policies: {a: {permissions: [{not_rule: {url_path: {path: {prefix: /admin}}}}], principals: [{any: true}]}}}",
            None,
        ),
        (
            "oauth2.v3.OAuth2, config: {pass_through_matcher: [{name: authorization, present_match: true}]}",
            Some("error"),
        ),
        (
            "oauth2.v3.OAuth2, config: {pass_through_matcher: [{name: \":path\", string_match: {prefix: /healthz}}]}",
            None,
        ),
        (
            "fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 100}}",
            Some("error"),
        ),
        (
            "fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 10}}",
            Some("warning"),
        ),
        ("fault.v3.HTTPFault, abort: {http_status: 503}", None),
        (
            "ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: a}}",
            Some("warning"),
        ),
        (
            "local_ratelimit.v3.LocalRateLimit, filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}",
            Some("warning"),
        ),
        (
            "local_ratelimit.v3.LocalRateLimit, filter_enabled: {default_value: {numerator: 100}}",
            None,
        ),
        ("ratelimit.v3.RateLimit, domain: d", None),
        ("cors.v3.Cors", None),
    ] {
        let with = format!(
            "          - {{name: before, typed_config: {{\"@type\": {extension}.{filter}}}}}\n{first}"
        );
        let expected: Vec<_> = expected
            .map(|severity| ("HZ204", severity))
            .into_iter()
            .collect();
        row(WASM, &[(first, &with)], None, &expected);
        let off = with.replace("{name: before,", "{name: before, disabled: true,");
        row(WASM, &[(first, &off)], None, &[]);
    }
    let rules = "rules: [{match: {prefix: /}, requires: {provider_name: p}}]";
    for (changed, refuses) in [
        (
            "rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{provider_name: p}, {allow_missing: {}}]}}}]",
            false,
        ),
        (
            "rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{provider_name: p}, {provider_name: q}]}}}]",
            true,
        ),
        (
            "rules: [{match: {path: /other}, requires: {provider_name: p}}]",
            false,
        ),
        (
            "rules: [{match: {prefix: /}, requirement_name: r}]\n              requirement_map: {r: {provider_name: p}}",
            true,
        ),
    ] {
        let expected = if refuses {
            &[("HZ204", "error")][..]
        } else {
            &[]
        };
        row("HZ204/bad.yaml", &[(rules, changed)], None, expected);
    }
}

#[test]
fn probers_differ() {
    use Prober::{AlbGrpc, AlbHttp1, GoogleHttp, GoogleHttp2, GoogleHttps, Kubelet};
    for (case, prober, expected) in [
        ("HZ205/bad.yaml", GoogleHttp2, Some(("HZ205", "error"))),
        ("HZ205/bad.yaml", AlbGrpc, Some(("HZ205", "error"))),
        ("HZ205/bad.yaml", GoogleHttps, None),
        ("HZ205/bad.yaml", Kubelet, None),
        ("HZ208/bad.yaml", Kubelet, Some(("HZ208", "error"))),
        ("HZ216/bad.yaml", Kubelet, Some(("HZ216", "error"))),
        (WASM, GoogleHttp2, Some(("HZ217", "error"))),
        (WASM, GoogleHttps, Some(("HZ217", "error"))),
        (WASM, GoogleHttp, None),
        (WASM, Kubelet, None),
        (TLS, GoogleHttp2, None),
        (TLS, GoogleHttp, Some(("HZ217", "error"))),
        (TLS, AlbHttp1, Some(("HZ217", "error"))),
        (TLS, Kubelet, None),
    ] {
        let expected: Vec<_> = expected.into_iter().collect();
        row(case, &[], Some(prober), &expected);
    }
}

#[test]
fn what_surrounds_the_filter() {
    let allow = "  - {prefix: /clusters}\n";
    let admin = "{exact: /ready}";
    let at = "address: 127.0.0.1, port_value: 9901";
    for (changes, expected) in [
        (
            &[(
                allow,
                "  - {safe_regex: {regex: \"/clusters\\\\?filter=.*\"}}\n",
            )][..],
            &[][..],
        ),
        (&[(allow, "  - {prefix: \"/clusters?filter=\"}\n")], &[]),
        (&[(admin, "{prefix: /stats}")], &[("HZ304", "error")]),
        (
            &[
                (admin, "{prefix: /stats}"),
                (
                    "\"refresh_interval_ms\"",
                    "\"fail_when_draining\": false, \"refresh_interval_ms\"",
                ),
            ],
            // It is asked whatever the endpoint makes of a drain.
            &[("HZ304", "error")],
        ),
        (
            &[(at, "address: \"::1\", port_value: 9901")],
            &[("HZ302", "error")],
        ),
        (
            &[(at, "address: 0.0.0.0, port_value: 9901")],
            &[("HZ501", "warning")],
        ),
        (
            &[("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_OPEN")],
            &[("HZ309", "error")],
        ),
        (
            &[("failure_policy: FAIL_RELOAD", "fail_open: true")],
            &[("HZ309", "error")],
        ),
    ] {
        row(WASM, changes, None, expected);
    }
    row(
        "HZ305/bad.yaml",
        &[(
            "type: STRICT_DNS",
            "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY",
        )],
        None,
        &[],
    );
    let monitor = (
        "envoy.resource_monitors.fixed_heap",
        "envoy.resource_monitors.global_downstream_max_connections",
    );
    row(
        "HZ211/good.yaml",
        &[monitor],
        None,
        &[("HZ211", "warning"), ("HZ211", "warning")],
    );
    let listener = (
        "    bypass_overload_manager: true\n",
        "    bypass_overload_manager: true\n    ignore_global_conn_limit: true\n",
    );
    row(
        "HZ211/good.yaml",
        &[monitor, listener],
        None,
        &[("HZ211", "warning")],
    );
    let admin = ("admin:\n", "admin:\n  ignore_global_conn_limit: true\n");
    row("HZ211/good.yaml", &[monitor, listener, admin], None, &[]);
}

#[test]
fn what_surrounds_the_module() {
    let route =
        "              - match: {path: /healthz}\n                route: {cluster: my_service}\n";
    let network = "    - filters:\n      - name: network\n        typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter, dynamic_module_config: {name: envoy_healthz}, filter_name: healthz}\n";
    let weighted = route.replace("{cluster: my_service}", "{weighted_clusters: {clusters: [{name: my_service, weight: 1}, {name: other, weight: 1}]}}");
    let header = route.replace("{cluster: my_service}", "{cluster_header: x-cluster}");
    row(MODULE, &[(route, &weighted)], None, &[("HZ401", "error")]);
    row(MODULE, &[(route, &header)], None, &[]);
    row(
        MODULE,
        &[(route, &weighted), ("    - filters:\n", network)],
        None,
        &[],
    );
    row(
        "HZ401/bad.module.yaml",
        &[("    - filters:\n", network)],
        None,
        &[],
    );
    row(
        MODULE,
        &[(", metrics_namespace: healthz", "")],
        None,
        &[("HZ502", "note")],
    );
    row(
        "HZ402/bad.module.yaml",
        &[("clusters: [my_service]", "clusters: []")],
        None,
        &[],
    );
}

#[test]
fn a_listener_for_probers_makes_up_for_the_other() {
    // The same endpoint on a listener of its own, on which nothing refuses.
    let text = fs::read_to_string(cases().join("HZ204/bad.yaml")).unwrap();
    let good = fs::read_to_string(cases().join(WASM)).unwrap();
    let listener = |text: &str| {
        let (_, rest) = text.split_once("  listeners:\n").unwrap();
        rest.split_once("\n  clusters:").unwrap().0.to_owned()
    };
    let second = |host: &str| {
        let second = listener(&good)
            .replace("name: grpc\n", "name: probes\n")
            .replace(
                "address: 0.0.0.0, port_value: 8080",
                &format!("address: {host}, port_value: 8081"),
            );
        text.replacen("\n  clusters:\n", &format!("{second}\n  clusters:\n"), 1)
    };
    for (host, expected) in [("0.0.0.0", &[][..]), ("127.0.0.1", &["HZ204"])] {
        let report = check("envoy.yaml", second(host).as_bytes(), &Options::default()).unwrap();
        assert_eq!(ids(&report), expected, "{host}\n{}", report.text());
    }
}

#[test]
fn lua_and_the_article() {
    let start = fs::read_to_string(cases().join("../tests/lua.yaml")).unwrap();
    let report = check("envoy.yaml", start.as_bytes(), &Options::default()).unwrap();
    assert_eq!(ids(&report), ["HZ501", "HZ205", "HZ104", "HZ107"]);
    let endpoint = &report.endpoints[0];
    assert_eq!(
        (endpoint.path.as_str(), endpoint.build.as_str()),
        ("/healthz", "lua")
    );
    assert_eq!(endpoint.clusters[0].0, "my_service");

    // The same script on a route alone, and after a route that takes the path.
    let script = start
        .split_once("inline_string: |\n")
        .unwrap()
        .1
        .split_once("          - name: envoy.filters.http.router")
        .unwrap()
        .0;
    let indented: String = script
        .lines()
        .map(|line| format!("          {line}\n"))
        .collect();
    let per_route = format!(
        "              - match: {{prefix: /healthz}}\n                route: {{cluster: my_service}}\n                typed_per_filter_config:\n                  envoy.filters.http.lua:\n                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute\n                    source_code:\n                      inline_string: |\n{indented}"
    );
    let all = "              - match: {prefix: /}\n                route: {cluster: my_service}\n";
    let without = start.replace(script, "                  -- nothing\n");
    for (routes, expected) in [
        (
            format!("{per_route}{all}"),
            &["HZ501", "HZ205", "HZ104", "HZ107"][..],
        ),
        (
            format!("{all}{per_route}"),
            &["HZ202", "HZ501", "HZ205", "HZ104", "HZ107"],
        ),
    ] {
        let text = without.replace(all, &routes);
        let report = check("envoy.yaml", text.as_bytes(), &Options::default()).unwrap();
        assert_eq!(ids(&report), expected, "{}", report.text());
    }
}
