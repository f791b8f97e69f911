//! `make test-kubernetes`: each variant of `envoy/gke` on the cluster of the current kubectl context, under calls.
//!
//! Prints a table of what each event costs callers behind a load balancer and through a Service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::kubernetes::traffic::{Count, Traffic};
use e2e::kubernetes::{Change, Deployed, Pod, kubectl, wait_for};

#[derive(Parser)]
#[command(about = "envoy/gke on the cluster of the current kubectl context")]
struct Options {
    /// Only variants whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

const NAME: &str = "my-service";
const MODULE: Change = (
    "kustomization.yaml",
    "#components:\n#- module\n",
    "components:\n- module\n",
);
/// The changes that a user makes.
const VARIANTS: [(&str, &[Change]); 3] = [
    ("wasm", &[]),
    ("module", &[MODULE]),
    (
        "init-container",
        &[
            MODULE,
            (
                "module/kustomization.yaml",
                "  - generated/libenvoy_healthz.so\n",
                "",
            ),
            (
                "module/kustomization.yaml",
                "#- path: init-container.yaml",
                "- path: init-container.yaml",
            ),
            (
                "module/init-container.yaml",
                "image: REGISTRY",
                "image: registry.local",
            ),
        ],
    ),
];
/// A service on another port.
const OTHER_PORT: Change = (
    "deployment.yaml",
    "        image: my-grpc-service\n",
    "        image: my-grpc-service\n        args: [--listen, \"0.0.0.0:50051\"]\n",
);

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let mut passed = 0;
    println!(
        "| what happens | variant | by the load balancer | by the Service | |\n|---|---|---|---|---|"
    );
    for (variant, changes) in VARIANTS {
        if variant.contains(&options.only) {
            under_calls(variant, changes).await;
            passed += 1;
        }
    }
    if "changes".contains(&options.only) {
        changed_as_the_comments_say().await;
        passed += 1;
    }
    assert!(passed > 0, "no variant is called {:?}", options.only);
    println!("{passed} passed, 0 failed");
}

/// A row of the table, of the calls since the last one.
fn row(what: &str, variant: &str, traffic: &Traffic, note: &str) -> [Count; 2] {
    let counts = traffic.take();
    let [balancer, service] = counts.map(|count| format!("{} of {}", count.failed, count.calls));
    println!("| {what} | {variant} | {balancer} | {service} | {note} |");
    counts
}

/// What must cost no call.
fn nothing_lost(what: &str, variant: &str, traffic: &Traffic) {
    let counts = row(what, variant, traffic, "");
    assert!(
        counts
            .iter()
            .all(|count| count.calls > 0 && count.failed == 0),
        "{what}, {variant}: {counts:?}"
    );
}

async fn under_calls(variant: &str, changes: &[Change<'_>]) {
    let deployed = Arc::new(Deployed::apply(variant, NAME, changes));
    deployed.rolled_out();
    let pods = deployed.settled(2).await;
    let traffic = Traffic::start(&deployed).await;
    for pod in &pods {
        in_balancer(&traffic, pod, true).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The callers start before the balancer has checked its pods.
    traffic.take();

    planned(&deployed, &traffic, variant).await;
    faults(&deployed, &traffic, variant).await;
}

/// Rollout, drain of a node, scaling, a bad version: no call is lost by either way.
async fn planned(deployed: &Deployed, traffic: &Traffic, variant: &str) {
    let deployment = deployed.deployment();
    deployed.kubectl(&["rollout", "restart", &deployment]);
    deployed.rolled_out();
    deployed.settled(2).await;
    nothing_lost("rollout", variant, traffic);

    let node = deployed.pods()[0].node.clone();
    let selector = format!("--pod-selector=app={NAME}");
    let drain = [
        "drain",
        &node,
        &selector,
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=180s",
    ];
    let drained = kubectl(&drain, "");
    if let Err(fault) = drained {
        let _ = kubectl(&["uncordon", &node], "");
        panic!("{fault}");
    }
    deployed.settled(2).await;
    kubectl(&["uncordon", &node], "").expect("the node takes pods again");
    nothing_lost("node drained", variant, traffic);

    deployed.kubectl(&["rollout", "restart", &deployment]);
    deployed.rolled_out();
    let pods = deployed.settled(2).await;
    nothing_lost("rollout after that", variant, traffic);
    if nodes() > 1 {
        assert_ne!(pods[0].node, pods[1].node, "both pods are on one node");
    }

    deployed.kubectl(&["scale", &deployment, "--replicas=1"]);
    deployed.settled(1).await;
    deployed.kubectl(&["scale", &deployment, "--replicas=2"]);
    for pod in deployed.settled(2).await {
        in_balancer(traffic, &pod, true).await;
    }
    nothing_lost("scaled to one and back", variant, traffic);

    let bad = r#"{"spec": {"template": {"spec": {"containers": [{"name": "service", "args": ["--listen", "127.0.0.1:1234"]}]}}}}"#;
    deployed.kubectl(&["patch", &deployment, "-p", bad]);
    tokio::time::sleep(Duration::from_secs(40)).await;
    let good = deployed.pods().iter().filter(|pod| pod.ready).count();
    assert_eq!(
        good, 2,
        "a bad version is Ready, or has replaced a good pod"
    );
    deployed.kubectl(&["rollout", "undo", &deployment]);
    deployed.settled(2).await;
    nothing_lost("bad version, undone", variant, traffic);
}

/// What costs the calls until it is noticed.
async fn faults(deployed: &Deployed, traffic: &Traffic, variant: &str) {
    traffic.expect_answers_within_a_second();
    let pod = deployed.settled(2).await.remove(0);
    pod.signal("service", "KILL");
    in_balancer(traffic, &pod, true).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    deployed.settled(2).await;
    row("service killed", variant, traffic, "");

    let pod = deployed.settled(2).await.remove(0);
    in_balancer(traffic, &pod, true).await;
    traffic.take();
    pod.signal("service", "STOP");
    let begun_hang = Instant::now();
    in_balancer(traffic, &pod, false).await;
    let note = format!("out after {:.1} s", begun_hang.elapsed().as_secs_f64());
    let before = traffic.take();
    tokio::time::sleep(Duration::from_secs(25).saturating_sub(begun_hang.elapsed())).await;
    let after = traffic.take();
    pod.signal("service", "CONT");
    assert_eq!(
        after[0].failed, 0,
        "{variant}: calls were lost after the balancer had taken the pod out"
    );
    deployed.settled(2).await;
    in_balancer(traffic, &pod, true).await;
    let back = traffic.take();
    let sum = |way: usize| {
        let counts = [before[way], after[way], back[way]];
        let failed: usize = counts.iter().map(|count| count.failed).sum();
        let calls: usize = counts.iter().map(|count| count.calls).sum();
        format!("{failed} of {calls}")
    };
    println!(
        "| service hung for 25 s | {variant} | {} | {} | {note} |",
        sum(0),
        sum(1)
    );

    let pod = deployed.settled(2).await.remove(0);
    traffic.take();
    pod.signal("envoy", "STOP");
    let hung = Instant::now();
    wait_for("the kubelet restarts an Envoy that hangs", || {
        let now = deployed
            .try_pods()?
            .into_iter()
            .find(|now| now.name == pod.name)?;
        (now.restarts > pod.restarts).then_some(())
    })
    .await;
    let restarted = hung.elapsed();
    deployed.settled(2).await;
    in_balancer(traffic, &pod, true).await;
    let note = format!("restarted after {:.0} s", restarted.as_secs_f64());
    row("Envoy hung", variant, traffic, &note);
}

/// Waits until the load balancer sends calls to a pod, or does not.
async fn in_balancer(traffic: &Traffic, pod: &Pod, inside: bool) {
    let start = Instant::now();
    while traffic.sends_to(pod).await != inside {
        let limit = e2e::kubernetes::DEADLINE;
        assert!(
            start.elapsed() < limit,
            "the load balancer's view of {pod:?} is not {inside}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many nodes take pods.
fn nodes() -> usize {
    let nodes = kubectl(
        &[
            "get",
            "nodes",
            "-o",
            "jsonpath={range .items[*]}{.spec.taints[*].effect}|{end}",
        ],
        "",
    );
    let nodes = nodes.expect("the cluster answers");
    nodes
        .split_terminator('|')
        .filter(|taints| !taints.contains("NoSchedule"))
        .count()
}

/// Another port and another name, as kustomization.yaml says; and the port forgotten, which Envoy's log says.
async fn changed_as_the_comments_say() {
    let forgotten = Deployed::apply("forgotten", NAME, &[OTHER_PORT]);
    let said = wait_for("Envoy's log says which address does not answer", || {
        let pod = forgotten.try_pods()?.into_iter().next()?;
        let log = forgotten.envoy_log(&pod.name);
        let mut lines = log.lines();
        lines
            .find(|line| line.contains("/healthz is unhealthy") && line.contains("127.0.0.1:9000"))
            .map(str::to_owned)
    })
    .await;
    println!("| port forgotten | wasm | | | `{said}` |");
    assert!(
        forgotten.pods().iter().all(|pod| !pod.ready),
        "a pod whose service is not reached is Ready"
    );
    drop(forgotten);

    let files = ["deployment.yaml", "disruption.yaml", "ingress.yaml"];
    let mut changes: Vec<Change> = files.iter().map(|file| (*file, NAME, "orders")).collect();
    changes.push(OTHER_PORT);
    changes.push(("envoy.yaml", "port_value: 9000}", "port_value: 50051}"));
    let changed = Deployed::apply("changed", "orders", &changes);
    changed.rolled_out();
    changed.settled(2).await;
    println!("| port 50051, name `orders` | wasm | | | Ready |");
}
