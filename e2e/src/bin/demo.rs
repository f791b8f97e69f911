//! `make demo`: the article's experiment, with the filter in the place of its Lua script.
//!
//! A prober GETs `/healthz` over HTTP/2 twice a second while the backend is started, stopped and
//! started again. Ends with 0 only if it saw 200, then 503, then 200, and both gRPC calls worked. With
//! the native module another one calls `grpc.health.v1.Health/Check`, whose answer must agree.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use e2e::Build;
use e2e::backend::{Backend, ping, tls_channel};
use e2e::envoy::Envoy;
use e2e::grpc_health::{NOT_SERVING, SERVING, check};
use e2e::prober::Prober;
use e2e::shipped::Shipped;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Channel;

#[derive(Parser)]
#[command(
    name = "demo",
    about = "Shows /healthz follow a gRPC backend that stops and starts."
)]
struct Options {
    /// Which build of the filter.
    #[arg(long, value_enum, default_value = "wasm")]
    filter: Filter,
    /// Leave Envoy and the backend running until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Filter {
    Wasm,
    /// Checked by gRPC as well.
    Module,
}

impl Filter {
    /// How often a line is shown.
    fn interval(self) -> Duration {
        match self {
            Self::Wasm => Duration::from_millis(500),
            Self::Module => Duration::from_secs(1),
        }
    }
}

const PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9901;
const BACKEND_PORT: u16 = 9000;

/// How many answers of the expected status are shown before the next step.
const SHOWN: u32 = 4;
/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
    let played = async {
        if options.stay {
            stay(options.filter).await
        } else {
            play(options.filter).await
        }
    };
    // Leaving `played` drops Envoy and the backend, which stops them.
    let ended = tokio::select! {
        ended = played => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        _ = terminate.recv() => Err("terminated".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn play(filter: Filter) -> Result<(), String> {
    let mut stage = Stage::set(filter).await?;
    say("the backend is started");
    let backend = Backend::start(BACKEND_PORT).await;
    stage.expect(200).await?;
    stage.call().await?;
    say("the backend is stopped");
    backend.stop();
    stage.expect(503).await?;
    say("the backend is started again");
    let _backend = Backend::start(BACKEND_PORT).await;
    stage.expect(200).await?;
    stage.call().await?;
    match filter {
        Filter::Wasm => say("200, 503, 200: /healthz followed the backend"),
        Filter::Module => say("200, 503, 200: /healthz and Check followed the backend together"),
    }
    Ok(())
}

async fn stay(filter: Filter) -> Result<(), String> {
    let mut stage = Stage::set(filter).await?;
    let _backend = Backend::start(BACKEND_PORT).await;
    stage.expect(200).await?;
    println!("\nRunning until Ctrl-C. In another terminal:");
    println!("  curl -k https://localhost:{PORT}/healthz");
    println!("  grpcurl -insecure localhost:{PORT} yages.Echo/Ping");
    if filter == Filter::Module {
        println!("  grpcurl -insecure localhost:{PORT} grpc.health.v1.Health/Watch");
    }
    println!("  pkill -USR1 -x echo-server    # changes the backend's health");
    std::future::pending().await
}

/// Envoy, and its probers.
struct Stage {
    filter: Filter,
    envoy: Envoy,
    prober: Prober,
    channel: Channel,
    /// How many of the filter's log lines have been shown.
    logged: usize,
}

impl Stage {
    async fn set(filter: Filter) -> Result<Self, String> {
        for port in [PORT, ADMIN_PORT, BACKEND_PORT] {
            std::net::TcpListener::bind(("127.0.0.1", port))
                .map_err(|error| format!("port {port} is needed: {error}"))?;
        }
        let shipped = match filter {
            Filter::Wasm => Shipped::move_to(Build::Wasm, PORT, ADMIN_PORT, BACKEND_PORT),
            Filter::Module => Shipped::move_to(Build::Module, PORT, ADMIN_PORT, BACKEND_PORT),
        };
        say(&format!("Envoy is started, on https://localhost:{PORT}"));
        Ok(Self {
            filter,
            envoy: shipped.start().await,
            prober: Prober::https2(PORT),
            channel: tls_channel(PORT, &shipped.certificate),
            logged: 0,
        })
    }

    /// Probes until this status has come several times running.
    async fn expect(&mut self, status: u16) -> Result<(), String> {
        let start = Instant::now();
        let mut seen = 0;
        while seen < SHOWN {
            if start.elapsed() > LIMIT {
                return Err(format!("/healthz did not answer {status}"));
            }
            let (good, line) = self.probe(status).await;
            seen = if good { seen + 1 } else { 0 };
            say(&format!("  {line}"));
            let lines = self.envoy.logged(&["envoy-healthz["]);
            for line in lines.iter().skip(self.logged) {
                let (_, text) = line.split_once("]: ").unwrap_or(("", line));
                say(&format!("  Envoy's log: {text}"));
            }
            self.logged = lines.len();
            tokio::time::sleep(self.filter.interval()).await;
        }
        Ok(())
    }

    /// Probes once: whether all answers are this one, and a line of them.
    async fn probe(&self, status: u16) -> (bool, String) {
        let (mut good, mut line) = match self.prober.try_get("/healthz").await {
            Ok(answer) => (
                answer.status == status,
                format!("{:?}  {}  {}", answer.version, answer.status, answer.body),
            ),
            Err(error) => (false, format!("no answer: {error}")),
        };
        if self.filter == Filter::Module {
            let seen = check(&self.channel, "").await;
            good &= seen == if status == 200 { SERVING } else { NOT_SERVING };
            line = format!("{line:<29}  gRPC  {seen}");
        }
        (good, line)
    }

    async fn call(&self) -> Result<(), String> {
        let answer = ping(&self.channel)
            .await
            .map_err(|status| status.to_string())?;
        say(&format!(
            "a gRPC call through Envoy: yages.Echo/Ping answers {answer:?}"
        ));
        Ok(())
    }
}

fn say(text: &str) {
    println!("{}  {text}", jiff::Zoned::now().strftime("%H:%M:%S%.3f"));
}
