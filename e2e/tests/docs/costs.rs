//! Sentences with what docs/dev/bench.md and docs/dev/rehearsal.md say: after a new run the old ones are red.

use crate::sources::{bench, claim, found, lost, probes, thousands};

/// What docs/dev/bench.md and docs/dev/rehearsal.md say.
pub fn costs() -> Vec<(&'static str, String)> {
    const BUILT_IN: &str = "Envoy's health_check filter";
    let (page, how) = ("docs/comparison.md", "docs/dev/performance.md");
    let ratio = |what: &str| format!("{:.2} times", claim(what));
    let p50 = |who: &str| ratio(&format!("p50: {who}, 0 other clusters, 1 connections"));
    let rate = |who: &str| {
        ratio(&format!(
            "answers a second: {who}, 0 other clusters, 50 connections"
        ))
    };
    let cpu = |who: &str| {
        ratio(&format!(
            "worker's CPU an answer: {who}, 0 other clusters, 50 connections"
        ))
    };
    let age = "age_250 / built_in";
    let (wasm, native) = (
        "envoy-healthz, max_age_ms 250",
        "envoy-healthz, native module",
    );
    let instructions = |who: &str| claim(&format!("instructions of a probe: {who} / floor"));
    let a_second = |who| thousands((probes(50, who, 5) / 1000.0).round() as u64 * 1000);
    let micros = |who| probes(50, who, 6);
    let more = |who| format!("{:.0}", micros(who) - micros(BUILT_IN));
    let memory = |workers: u32| format!("{:.0}", bench(&format!("{workers} | envoy-healthz"), 4));
    let module_memory =
        [1, 8, 32].map(|workers| bench(&format!("{workers} | the native module"), 4));
    let module_memory = format!(
        "under {:.0} MB",
        module_memory.into_iter().fold(0.0, f64::max).ceil()
    );
    let beside = |who, connections, cell| {
        let part = probes(connections, who, cell) / probes(connections, BUILT_IN, cell);
        format!("{part:.2} times")
    };
    let without_drain = "the same without the drain filters";
    let many = "p50: age_250 / lua, 1000 other clusters, 1 connections";
    let date = found("docs/dev/bench.md", r"on (\d{4}-\d\d-\d\d) with");
    let envoy = found("docs/dev/bench.md", r"with Envoy ([\d.]+),");
    assert_eq!(found("docs/dev/bench.md", r"on (\d+) cores"), "2");
    let lua = found(
        "docs/dev/bench.md",
        r"\| 1000 \| 50 \| the Lua script \|.* (\d+ of \d+) \|",
    );
    let (wrong, all) = lua.split_once(" of ").unwrap();
    assert_eq!(wrong, all);
    let row = |event: &str| {
        [
            "envoy-healthz",
            "its native module, asked by gRPC",
            "the Lua script",
            "always 200",
        ]
        .map(|answer| lost(event, answer))
    };
    let hang = row("backend hung for 8 s");
    let drain = row("pod drained: `/healthcheck/fail`, 4 s, SIGTERM");
    vec![
        (page, format!("two cores with Envoy {envoy}")),
        (
            page,
            format!(
                "`direct_response` | {:.2} times | {:.2} times; {:.2} without the drain filters |",
                instructions("from_memory"),
                instructions("module"),
                instructions("module_no_drain")
            ),
        ),
        (
            page,
            format!("one connection | {} | {} |", p50(age), beside(native, 1, 3)),
        ),
        (
            page,
            format!(
                "50 connections | {}, about {} | {}, about {} |",
                rate(age),
                a_second(wasm),
                beside(native, 50, 5),
                a_second(native)
            ),
        ),
        (
            page,
            format!(
                "{:.0} µs, {} more | {:.0} µs, {} more |",
                micros(wasm),
                more(wasm),
                micros(native),
                more(native)
            ),
        ),
        (
            page,
            format!(
                "with 1, 8, 32 workers | {}, {}, {} MB | {module_memory} |",
                memory(1),
                memory(8),
                memory(32)
            ),
        ),
        (
            page,
            format!(
                "against Lua | {}; {:.3} times with 1000",
                p50("age_250 / lua"),
                claim(many)
            ),
        ),
        (
            page,
            format!(
                "hangs for 8 s | {} calls | {} |",
                hang[0],
                hang[1..].join(" | ")
            ),
        ),
        (
            page,
            format!("drains 4 s, then stops | {} |", drain.join(" | ")),
        ),
        (
            "docs/module.md",
            format!("| {} MB and more | {module_memory} |", memory(1)),
        ),
        (
            "docs/operations.md",
            format!(
                "on Envoy {envoy} ([measured]): {} MB with one worker, {} MB with 8, {} MB with 32. The module: {module_memory}.",
                memory(1),
                memory(8),
                memory(32)
            ),
        ),
        (how, format!("In the run of {date}, against")),
        (
            how,
            format!(
                "| this filter | {} | {} | {} ({} µs more) |",
                p50(age),
                rate(age),
                cpu(age),
                more(wasm)
            ),
        ),
        (
            how,
            format!(
                "| the native module | {} | {} | {} ({} µs more) |",
                beside(native, 1, 3),
                beside(native, 50, 5),
                beside(native, 50, 6),
                more(native)
            ),
        ),
        (
            how,
            format!(
                "| the same without the drain filters | {} | {} | {} |",
                beside(without_drain, 1, 3),
                beside(without_drain, 50, 5),
                beside(without_drain, 50, 6)
            ),
        ),
        (how, format!("took {} as long", p50("age_250 / lua"))),
        (
            how,
            format!("{:.3} times with 1000 other clusters", claim(many)),
        ),
        (
            how,
            format!("all of {} simultaneous", thousands(all.parse().unwrap())),
        ),
        (
            how,
            format!(
                "{:.1} times what the script takes",
                probes(1, "envoy-healthz, max_age_ms 0", 3) / probes(1, "the Lua script", 3)
            ),
        ),
        (
            how,
            format!(
                "{} with `fail_when_draining` false",
                p50("age_0_no_drain / lua")
            ),
        ),
    ]
}
