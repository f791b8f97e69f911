//! What a `curl` line asks is served by the configuration that its page talks of: the port, the path, TLS.

use e2e::{between, read};
use healthz_doctor::tree::{self, Node, Value};

/// The whole configuration in README.
pub fn in_readme() -> String {
    let readme = read("README.md");
    format!("admin:{}", between(&readme, "```yaml\nadmin:", "```"))
}

/// Which configurations a page talks of.
fn configurations(page: &str) -> Vec<String> {
    let files: &[&str] = match page {
        "README.md" | "docs/troubleshooting.md" => return vec![in_readme()],
        "docs/configuration.md" => &["envoy/several-endpoints.yaml"],
        "docs/operations.md" => &["envoy/recipes.yaml"],
        "docs/docker.md" | ".github/CONTRIBUTING.md" => &["envoy/envoy.yaml"],
        "docs/meshes.md" => &[
            "envoy/mesh/istio-wasm-plugin.yaml",
            "envoy/mesh/envoy-gateway.yaml",
        ],
        _ => &[],
    };
    files.iter().map(|file| read(file)).collect()
}

/// Fails if this host's port and path are in none of the page's configurations.
pub fn is_served(page: &str, arguments: &[&str]) -> Result<(), String> {
    let url = arguments.iter().find(|word| word.contains("localhost:"));
    let Some(url) = url else { return Ok(()) };
    let (scheme, url) = url.split_once("://").unwrap_or(("http", url));
    let (_, url) = url.split_once(':').ok_or("no port")?;
    let (port, path) = url.split_once('/').ok_or("no path")?;
    let path = format!("/{}", path.split('?').next().unwrap());
    // The doctor's page says that the shipped files refuse this one.
    if page == "docs/doctor.md" {
        let refused = !serves(&read("envoy/envoy.yaml"), "http", port, &path);
        return refused
            .then_some(())
            .ok_or("envoy/envoy.yaml serves it".to_owned());
    }
    let configurations = configurations(page);
    let mut known = configurations.iter();
    let served = known.any(|text| serves(text, scheme, port, &path));
    served.then_some(()).ok_or(format!(
        "no configuration of {page} serves {scheme} {port} {path}"
    ))
}

/// Whether the admin or a listener of this port has this path.
fn serves(text: &str, scheme: &str, port: &str, path: &str) -> bool {
    // Of a mesh the listeners are in no file: the port and the path are named.
    if text.contains("\nkind: ") {
        let has = |name: &str| {
            text.split(|c: char| !c.is_alphanumeric() && c != '/')
                .any(|word| word == name)
        };
        return has(port) && has(path);
    }
    let tree = tree::parse(text.as_bytes()).unwrap();
    let admin = tree.get("admin").into_iter();
    let listeners = tree.list("static_resources.listeners");
    admin.chain(listeners).any(|one| {
        let is_tls = has_text(one, &|text| text.ends_with("DownstreamTlsContext"));
        one.str("address.socket_address.port_value") == Some(port)
            && has_text(one, &|text| {
                text == path || text.contains(&format!("\"path\": \"{path}\""))
            })
            && (scheme == "https") == is_tls
    })
}

fn has_text(node: &Node, wanted: &dyn Fn(&str) -> bool) -> bool {
    match &node.value {
        Value::Null => false,
        Value::Scalar(text) | Value::Block(text) => wanted(text),
        Value::List(items) => items.iter().any(|item| has_text(item, wanted)),
        Value::Map(entries) => entries.iter().any(|(_, node)| has_text(node, wanted)),
    }
}
