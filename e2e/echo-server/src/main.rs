//! The demo backend: `yages.Echo` as in the article, with the health service that yages lacks.
//!
//! SIGUSR1 turns the health status over (SERVING, NOT_SERVING) while the server goes on serving;
//! SIGTERM and SIGINT stop it: NOT_SERVING at once, and calls under way have five seconds to end.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;

use echo_server::echo_server::{Echo, EchoServer};
use echo_server::{Content, Empty, FILE_DESCRIPTOR_SET};

#[derive(Parser)]
#[command(
    about = "Demo gRPC backend: yages.Echo, grpc.health.v1.Health, reflection. \
                   SIGUSR1 turns the health status over."
)]
struct Options {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
}

struct Yages;

#[tonic::async_trait]
impl Echo for Yages {
    async fn ping(&self, _: Request<Empty>) -> Result<Response<Content>, Status> {
        Ok(Response::new(Content {
            text: "pong".to_owned(),
        }))
    }

    async fn reverse(&self, request: Request<Content>) -> Result<Response<Content>, Status> {
        Ok(Response::new(Content {
            text: request.into_inner().text.chars().rev().collect(),
        }))
    }
}

const STOP_LIMIT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_serving::<EchoServer<Yages>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;

    let listener = TcpListener::bind(options.listen).await?;
    println!("echo-server: listening on {}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Server::builder()
        .add_service(health_service)
        .add_service(reflection)
        .add_service(EchoServer::new(Yages))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            let _ = stopped.await;
        });
    let mut serving = tokio::spawn(serving);

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut turn_over = signal(SignalKind::user_defined1())?;
    let mut status = ServingStatus::Serving;
    loop {
        tokio::select! {
            _ = turn_over.recv() => {
                status = match status {
                    ServingStatus::Serving => ServingStatus::NotServing,
                    _ => ServingStatus::Serving,
                };
                println!("echo-server: health is now {status}");
                health.set_service_status("", status).await;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut serving => return Ok(ended??),
        }
    }
    println!("echo-server: stopping");
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
    let _ = stop.send(());
    // A client that watches the health service never ends its call.
    match tokio::time::timeout(STOP_LIMIT, serving).await {
        Ok(ended) => Ok(ended??),
        Err(_) => Ok(()),
    }
}
