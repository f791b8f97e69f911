//! `envoy/gke` on the cluster of the current kubectl context, for `make test-kubernetes`.
//!
//! The addresses of pods must be reachable from here, and the processes of the nodes be this machine's (as with kind),
//! for they are stopped and killed by their ids.

pub mod traffic;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::root;

/// How long the cluster may take for what must come.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// A change of a file of `envoy/gke`: its name, what is there, what comes instead.
pub type Change<'a> = (&'a str, &'a str, &'a str);

/// Our Deployment in a namespace of its own, which is deleted with it.
pub struct Deployed {
    namespace: String,
    name: String,
}

/// A pod, as the API server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Its node.
    pub node: String,
    /// Whether it is Ready and not being deleted: what a Service sends to.
    pub ready: bool,
    /// Whether it is being deleted.
    pub ending: bool,
    /// How often Envoy has been restarted.
    pub restarts: u64,
    /// Names and ids of its containers.
    containers: Vec<(String, String)>,
}

/// `$KUBECTL`, or `kubectl`, with these arguments and this input; its complaint if it fails.
pub fn kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("kubectl: {error}"))?;
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut pipe, input.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let _ = writer.join();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// What `kubectl kustomize` makes of `envoy/gke` in this namespace after these changes, less the kinds that the cluster
/// does not know, which are Google's and the operators'.
fn render(namespace: &str, changes: &[Change]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(root().join("envoy/gke/."))
        .arg(folder.path())
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cp");
    let namespace = format!("namespace: {namespace} ");
    let mut changes = changes.to_vec();
    changes.push(("kustomization.yaml", "namespace: default ", &namespace));
    for (file, before, after) in changes {
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).expect("it can be read");
        assert!(text.contains(before), "{file} has no {before:?}");
        fs::write(path, text.replace(before, after)).expect("it can be written");
    }
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(folder.path())
        .output()
        .expect("kubectl runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let known = kubectl(&["api-resources", "--no-headers"], "").expect("the cluster answers");
    let known: Vec<_> = known
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let documents = String::from_utf8(output.stdout).expect("text");
    let documents = documents.split("\n---\n").filter(|document| {
        let mut lines = document.lines();
        let kind = lines
            .find_map(|line| line.strip_prefix("kind: "))
            .expect("a kind");
        if !known.contains(&kind) {
            println!("  (the cluster does not know the kind {kind})");
        }
        known.contains(&kind)
    });
    documents.collect::<Vec<_>>().join("\n---\n")
}

impl Deployed {
    /// Applies `envoy/gke` with these changes in a new namespace in which Kubernetes enforces the pod security standard
    /// "restricted".
    pub fn apply(namespace: &str, name: &str, changes: &[Change]) -> Self {
        let deployed = Self {
            namespace: format!("healthz-{namespace}"),
            name: name.to_owned(),
        };
        let manifests = render(&deployed.namespace, changes);
        let _ = kubectl(
            &[
                "delete",
                "namespace",
                &deployed.namespace,
                "--ignore-not-found",
            ],
            "",
        );
        let wanted = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"name\": \"{}\", \
             \"labels\": {{\"pod-security.kubernetes.io/enforce\": \"restricted\"}}}}}}",
            deployed.namespace
        );
        for input in [&wanted, &manifests] {
            kubectl(&["apply", "--server-side", "-f", "-"], input).expect("it is applied");
        }
        deployed
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let arguments = [&["-n", &self.namespace], arguments].concat();
        kubectl(&arguments, "").unwrap()
    }

    /// The Deployment, as kubectl calls it.
    pub fn deployment(&self) -> String {
        format!("deployment/{}", self.name)
    }

    /// Waits until the Deployment is rolled out.
    pub fn rolled_out(&self) {
        let limit = format!("--timeout={}s", DEADLINE.as_secs());
        self.kubectl(&["rollout", "status", &self.deployment(), &limit]);
    }

    /// Its pods, those that end among them. None if the API server does not answer.
    pub fn try_pods(&self) -> Option<Vec<Pod>> {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector=app%3D{}",
            self.namespace, self.name
        );
        let list: Value =
            serde_json::from_str(&kubectl(&["get", "--raw", &path], "").ok()?).ok()?;
        let pods = list["items"].as_array()?.iter();
        Some(pods.filter_map(Pod::read).collect())
    }

    /// The same; panics if it does not answer.
    pub fn pods(&self) -> Vec<Pod> {
        self.try_pods().expect("the API server answers")
    }

    /// Waits until there are so many pods, all of them Ready and none ending.
    pub async fn settled(&self, count: usize) -> Vec<Pod> {
        let what = format!("{count} pods are Ready, and no other is there");
        wait_for(&what, || {
            let pods = self.try_pods()?;
            (pods.len() == count && pods.iter().all(|pod| pod.ready)).then_some(pods)
        })
        .await
    }

    /// What Envoy has logged in a pod.
    pub fn envoy_log(&self, pod: &str) -> String {
        self.kubectl(&["logs", pod, "-c", "envoy"])
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [
                &["get", "pods", "-o", "wide"][..],
                &["get", "events"],
                &["describe", "pods"],
            ] {
                let arguments = [&["-n", &self.namespace], arguments].concat();
                eprintln!("--- {arguments:?}\n{:?}", kubectl(&arguments, ""));
            }
        }
        let _ = kubectl(
            &["delete", "namespace", &self.namespace, "--wait=false"],
            "",
        );
    }
}

/// Polls until `probe` gives a value; panics when [`DEADLINE`] has passed.
pub async fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

impl Pod {
    /// None before it has an address, and after its end.
    fn read(pod: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let status = &pod["status"];
        if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return None;
        }
        // Envoy is an init container that goes on.
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let statuses = statuses
            .iter()
            .filter_map(|list| status[*list].as_array())
            .flatten();
        let ending = !pod["metadata"]["deletionTimestamp"].is_null();
        let conditions = status["conditions"].as_array()?;
        let ready = conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Some(Self {
            name: text(&pod["metadata"]["name"])?,
            ip: text(&status["podIP"])?,
            node: text(&pod["spec"]["nodeName"])?,
            ready: ready && !ending,
            ending,
            restarts: statuses
                .clone()
                .filter(|container| container["name"] == "envoy")
                .filter_map(|container| container["restartCount"].as_u64())
                .sum(),
            containers: statuses
                .filter_map(|container| {
                    let id = container["containerID"].as_str()?.rsplit_once('/')?.1;
                    Some((text(&container["name"])?, id.to_owned()))
                })
                .collect(),
        })
    }

    /// Sends a signal (`STOP`, `CONT`, `KILL`) to all processes of a container.
    pub fn signal(&self, container: &str, signal: &str) {
        let id = self.containers.iter().find(|(name, _)| name == container);
        let (_, id) = id.unwrap_or_else(|| panic!("{} has no {container}", self.name));
        let processes: Vec<_> = fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter(|process| is_in(&process.path(), id))
            .map(|process| process.file_name().to_string_lossy().into_owned())
            .collect();
        assert!(
            !processes.is_empty(),
            "no process of {container} is on this machine"
        );
        let kill = match fs::metadata("/proc/self")
            .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
        {
            true => Command::new("kill"),
            false => {
                let mut sudo = Command::new("sudo");
                sudo.arg("kill");
                sudo
            }
        };
        let mut kill = kill;
        let done = kill.arg(format!("-{signal}")).args(processes).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -{signal}");
    }
}

/// Whether a process, by its folder in `/proc`, is of the container with this id.
fn is_in(process: &Path, id: &str) -> bool {
    fs::read_to_string(process.join("cgroup")).is_ok_and(|groups| groups.contains(id))
}
