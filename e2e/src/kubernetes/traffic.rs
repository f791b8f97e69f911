//! Calls without pause, and the two ways to the pods: a load balancer that checks `/healthz` as Google's does, and a
//! Service as kube-proxy makes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::{Deployed, Pod};
use crate::backend::{ping, tls_channel};
use crate::config::{Config, address, listener_with_routes, with_https2};
use crate::envoy::Envoy;
use crate::{free_port, listen, replace_file, root};

/// How many seconds a call may take at first: what must cost no call must not fail because this machine is slow.
const CALL_LIMIT: u64 = 10;
/// Between the end of a call and the next: some 25 a second of each of the four callers.
const PAUSE: Duration = Duration::from_millis(40);

/// Calls and those of them that failed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    /// All calls.
    pub calls: usize,
    /// Those that failed or took too long.
    pub failed: usize,
}

/// Callers by both ways.
pub struct Traffic {
    balancer: Envoy,
    counts: [Arc<Mutex<Count>>; 2],
    limit: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts two callers each way.
    pub async fn start(deployed: &Arc<Deployed>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let endpoints = folder.path().join("pods.json");
        let pods = Arc::new(Mutex::new(deployed.pods()));
        replace_file(&endpoints, &assignment(&pods.lock().unwrap()));
        let balancer = balancer(&endpoints).start().await;
        let stop = Arc::new(AtomicBool::new(false));
        let limit = Arc::new(AtomicU64::new(CALL_LIMIT));
        let service = free_port();
        let listener = listen(service).await;
        let mut tasks = vec![tokio::spawn(serve(listener, Arc::clone(&pods)))];
        tasks.push(tokio::task::spawn_blocking({
            let (deployed, stop) = (Arc::clone(deployed), Arc::clone(&stop));
            move || follow(&deployed, &pods, folder.path(), &stop)
        }));
        let counts = [(); 2].map(|()| Arc::new(Mutex::new(Count::default())));
        for _ in 0..2 {
            let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", balancer.port));
            let channel = channel.expect("a valid address").connect_lazy();
            tasks.push(tokio::spawn(call(
                channel,
                Arc::clone(&counts[0]),
                Arc::clone(&limit),
                Arc::clone(&stop),
            )));
            let channel = tls_channel(service, &root().join("envoy/gke/generated/tls.crt"));
            tasks.push(tokio::spawn(call(
                channel,
                Arc::clone(&counts[1]),
                Arc::clone(&limit),
                Arc::clone(&stop),
            )));
        }
        Self {
            balancer,
            counts,
            limit,
            stop,
            tasks,
        }
    }

    /// By the load balancer, and by the Service, since the last call of this.
    pub fn take(&self) -> [Count; 2] {
        [0, 1].map(|way| std::mem::take(&mut *self.counts[way].lock().expect("no caller panics")))
    }

    /// From now on a call fails that takes longer than a second.
    pub fn expect_answers_within_a_second(&self) {
        self.limit.store(1, Ordering::Relaxed);
    }

    /// Whether the load balancer sends calls to this pod.
    pub async fn sends_to(&self, pod: &Pod) -> bool {
        let page = self.balancer.admin.get("/clusters").await.body;
        let line = format!("pods::{}:8080::health_flags::healthy", pod.ip);
        page.lines().any(|found| found == line)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

async fn call(
    channel: Channel,
    count: Arc<Mutex<Count>>,
    limit: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let limit = Duration::from_secs(limit.load(Ordering::Relaxed));
        let answer = tokio::time::timeout(limit, ping(&channel)).await;
        let fault = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => Some(format!("no answer within {limit:?}")),
        };
        // A fault that costs calls costs hundreds.
        if let Some(fault) = fault.as_ref().filter(|_| limit.as_secs() == CALL_LIMIT) {
            eprintln!("a call failed: {fault}");
        }
        {
            let mut count = count.lock().expect("nobody panics with it");
            count.calls += 1;
            count.failed += usize::from(fault.is_some());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Each second: the pods as the API server shows them.
fn follow(
    deployed: &Deployed,
    pods: &Mutex<Vec<Pod>>,
    folder: &std::path::Path,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(now) = deployed.try_pods() {
            let mut before = pods.lock().expect("nobody panics with it");
            if *before != now {
                replace_file(&folder.join("pods.json"), &assignment(&now));
                *before = now;
            }
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// As kube-proxy: each new connection goes to the next pod that is Ready, and stays there.
async fn serve(listener: TcpListener, pods: Arc<Mutex<Vec<Pod>>>) {
    let mut turn = 0;
    while let Ok((mut client, _)) = listener.accept().await {
        let ready: Vec<_> = {
            let pods = pods.lock().expect("nobody panics with it");
            pods.iter()
                .filter(|pod| pod.ready)
                .map(|pod| pod.ip.clone())
                .collect()
        };
        turn += 1;
        let Some(ip) = ready.get(turn % ready.len().max(1)).cloned() else {
            continue;
        };
        tokio::spawn(async move {
            if let Ok(mut pod) = TcpStream::connect((ip.as_str(), 8080)).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
            }
        });
    }
}

/// Every pod that has an address, those that end among them: only `/healthz` says which of them get calls.
fn assignment(pods: &[Pod]) -> Value {
    let hosts: Vec<_> = pods
        .iter()
        .map(|pod| json!({"endpoint": {"address": address(&pod.ip, 8080)}}))
        .collect();
    json!({"version_info": "", "resources": [{
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "pods",
        "endpoints": [{"lb_endpoints": hosts}],
    }]})
}

/// An Envoy that checks as the BackendConfig of `envoy/gke/ingress.yaml` says, and tries no call twice.
fn balancer(endpoints: &std::path::Path) -> Config {
    let pods = with_https2(json!({
        "name": "pods", "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"path_config_source": {"path": endpoints}}},
        "ignore_health_on_host_removal": true,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [{
            "timeout": "5s", "interval": "5s", "no_traffic_interval": "5s",
            "unhealthy_threshold": 2, "healthy_threshold": 1,
            "http_health_check": {"path": "/healthz", "codec_client_type": "HTTP2"},
        }],
    }));
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "pods", "timeout": "0s"}});
    let listener = listener_with_routes(free_port(), [], vec![route]);
    Config::new().cluster(pods).listener(listener)
}
