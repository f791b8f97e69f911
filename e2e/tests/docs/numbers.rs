//! Each number in the prose of README and `docs/*.md` is in a sentence whose number is made here from its source, or
//! in [`MEASURED`], or it is a name.

use e2e::{read, root};
use regex::Regex;

use crate::costs::costs;
use crate::documents;
use crate::limits::{configuration, gke, local_replies_and_module, operations};
use crate::measured::MEASURED;
use crate::sources::{envoys, found, makefile};

/// Words with numbers that state nothing: an HTTP status, a protocol, a step of a list.
const NAMES: &str = r"\bp50\b|\b(200|40[01345]|413|42[69]|431|50[03])s?\b|HTTP/?[\d.]+|x86-64|arm64|IPv6|UTF-8|API v2|H2|step [1-5]";

/// Pages and their sentences, each with the number of its source in it.
fn derived() -> Vec<(&'static str, String)> {
    let ((oldest, newest), (module, _)) = (envoys(false), envoys(true));
    let envoy = makefile("ENVOY_VERSION");
    let readme = "README.md";
    let [interval, unhealthy] = [r", interval: (\d)s", r"unhealthy_threshold: (\d)"]
        .map(|field| found(readme, field).parse::<u32>().unwrap());
    let ja = "docs/README.ja.md";
    vec![
        (readme, format!("Envoy {oldest} to {newest}, sandboxed")),
        (
            readme,
            format!("about {} s after it stops", interval * unhealthy),
        ),
        (readme, format!("Envoy {module} to {newest} on Linux")),
        (ja, format!("Envoy {envoy} は PyPI から")),
        (ja, format!("{oldest} 以降が必要")),
        (ja, format!("Envoy {module} 以降")),
    ]
    .into_iter()
    .chain(configuration(&oldest))
    .chain(local_replies_and_module(&oldest, &newest, &module))
    .chain(gke())
    .chain(costs())
    .chain(operations())
    .collect()
}

/// A page's prose on one line, without what links lead to.
fn prose(page: &str) -> String {
    let rest = Regex::new(r"(?ms)^```.*?^```$|^\[[^\]]+\]:[^\n]*$").unwrap();
    let target = Regex::new(r"\]\([^)]*\)").unwrap();
    let text = rest.replace_all(&read(page), "").into_owned();
    target.replace_all(&text, "]").into_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn each_number_has_a_source() {
    let measured = MEASURED.iter().flat_map(|(_, rows)| *rows);
    let measured = measured.map(|(page, sentence)| (*page, (*sentence).to_owned()));
    let sentences: Vec<_> = derived().into_iter().chain(measured).collect();
    let mut faults = Vec::new();
    for (page, sentence) in &sentences {
        if !one_line(&prose(page)).contains(sentence) {
            faults.push(format!("{page}: does not say {sentence:?}"));
        }
    }
    let names = Regex::new(&format!("``.+?``|`[^`]+`|{NAMES}")).unwrap();
    let number = Regex::new(r"\d[\d.,]*").unwrap();
    let steps = Regex::new(r"(?m)^ *(\*\*)?\d\. ").unwrap();
    for document in documents() {
        let page = document.strip_prefix(root()).unwrap().to_str().unwrap();
        let is_counted = page == "README.md" || document.parent().unwrap().ends_with("docs");
        // Made by a program.
        if !is_counted || page == "docs/doctor.md" || page == "docs/SUMMARY.md" {
            continue;
        }
        let mut text = one_line(&steps.replace_all(&prose(page), ""));
        for (_, sentence) in sentences.iter().filter(|(of, _)| *of == page) {
            text = text.replace(sentence, "");
        }
        let text = names.replace_all(&text, "");
        for found in number.find_iter(&text) {
            let before: String = text[..found.start()].chars().rev().take(50).collect();
            let before: String = before.chars().rev().collect();
            let after: String = text[found.start()..].chars().take(40).collect();
            faults.push(format!(
                "{page}: no source for {} in {before}{after}",
                found.as_str()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
