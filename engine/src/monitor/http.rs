//! The admin port: `/metrics`, `/livez`, `/readyz`, `/api/status`, `/api/conflicts`. Runs on the helper thread, never on a loop thread.
//!
//! Strangers cost little here: each connection carries one request, ends after `CONNECTION_LIFE` whatever it does, and at
//! most `CONNECTIONS_MAX` are open; others wait in the kernel's backlog.

#![allow(clippy::disallowed_methods, reason = "the admin port")]

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::conflicts::{Conflict, ConflictsReply};
use super::metrics;
use super::starting::StartBoard;
use crate::control::status::{Status, StatusBoard};
use crate::node::{GODWIT_VERSION, NodeFacts};

/// A control thread that has not refreshed the status for this long is stuck. It refreshes ten times a second.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Connections at once, over all addresses.
const CONNECTIONS_MAX: usize = 64;

/// A connection that is older than this ends.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// The content type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port answers from: at first how far the start is, then the running node.
#[derive(Clone, Default)]
pub struct Monitor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    start: StartBoard,
    running: OnceLock<Running>,
}

struct Running {
    facts: Arc<NodeFacts>,
    status: StatusBoard,
    registry: Registry,
}

/// What `/api/status` answers: who this is, and how it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReply {
    /// Of the software.
    pub version: String,
    /// Of the process; tells a restarted or a foreign daemon at this address apart.
    pub pid: u32,
    /// The region's name.
    pub region: String,
    /// The node's id, eight hexadecimal digits.
    pub node: String,
    /// The run, sixteen hexadecimal digits.
    pub incarnation: String,
    /// Core threads.
    pub cores: u16,
    /// `uring` or `epoll`.
    pub io_backend: String,
    /// Readable keys.
    pub live_keys: u64,
    /// Records originated in this run.
    pub originated: u64,
    /// Records of other nodes appended in this run.
    pub followed: u64,
    /// The rest.
    pub status: Status,
}

impl Monitor {
    /// How far the start is.
    #[must_use]
    pub fn start(&self) -> &StartBoard {
        &self.0.start
    }

    /// From now on the answers are those of a node with these facts and this status.
    pub fn run(&self, facts: Arc<NodeFacts>, status: StatusBoard) {
        let registry = metrics::registry(Arc::clone(&facts), status.clone());
        // A process runs one node.
        let _ = self.0.running.set(Running { facts, status, registry });
    }

    /// The routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics_text))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/api/status", get(api_status))
            .route("/api/conflicts", get(api_conflicts))
            .layer(map_response(close_after))
            .with_state(Arc::clone(&self.0))
    }
}

impl Shared {
    /// What to answer while there is no running node.
    fn starting(&self) -> Response {
        unavailable(&self.start.text())
    }
}

/// Serves `router` on every listener until `end` resolves.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, end: impl Future<Output = ()>) {
    let mut servers = Vec::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for listener in listeners {
        let router = router.clone();
        let permits = Arc::clone(&permits);
        let server = async move {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(Bounded { listener, permits }, router).await
        };
        servers.push(tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the admin port has ended");
            }
        }));
    }
    end.await;
    servers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A client that kept its connection would keep others out.
async fn close_after(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A listener that takes a connection only when it may open one more.
struct Bounded {
    listener: tokio::net::TcpListener,
    permits: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Mortal;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Mortal, SocketAddr) {
        // Nobody closes the semaphore, so there always is a permit in the end.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, addr) = axum::serve::Listener::accept(&mut self.listener).await;
        (Mortal { stream, end: Box::pin(tokio::time::sleep(CONNECTION_LIFE)), _permit: permit }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is over, whether it waits to read or to write.
struct Mortal {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Mortal {
    /// The stream while there is time; otherwise the error. Wakes the caller when the time is over.
    fn living(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Mortal {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.living(context)?.poll_read(context, into)
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.living(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.living(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let Some(running) = shared.running.get() else { return shared.starting() };
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &running.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {error}\n")).into_response()
        }
    }
}

/// Whether the process still does its work, of which a start is part. A failed log ends the process, so a 503 here is rare and short.
async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    let Some(running) = shared.running.get() else { return "ok\n".into_response() };
    match (running.status.read().failed, running.status.age()) {
        (Some(failed), _) => unavailable(&format!("the log failed: {failed}")),
        (None, Some(age)) if age > STUCK_AFTER => {
            unavailable(&format!("the control thread has not moved for {} s", age.as_secs()))
        }
        _ => "ok\n".into_response(),
    }
}

/// Whether clients should be sent here.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let Some(running) = shared.running.get() else { return shared.starting() };
    let status = running.status.read();
    match status.failed {
        Some(failed) => unavailable(&format!("the log failed: {failed}")),
        None if status.removed => unavailable(crate::control::status::REMOVED),
        None if status.bootstrap.under_way => unavailable(crate::control::status::BOOTSTRAPPING),
        None if !status.ready => unavailable("the log is not open yet"),
        None => "ok\n".into_response(),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn api_status(State(shared): State<Arc<Shared>>) -> Response {
    let Some(Running { facts, status, .. }) = shared.running.get() else { return shared.starting() };
    let reply = StatusReply {
        version: GODWIT_VERSION.to_owned(),
        pid: std::process::id(),
        region: facts.region.clone(),
        node: facts.node.to_string(),
        incarnation: facts.incarnation.to_string(),
        cores: facts.cores,
        io_backend: facts.io_backend.clone(),
        live_keys: facts.sum(|core| &core.live_keys),
        originated: facts.sum(|core| &core.originated),
        followed: facts.sum(|core| &core.followed),
        status: status.read(),
    };
    json(&reply)
}

async fn api_conflicts(State(shared): State<Arc<Shared>>) -> Response {
    let Some(Running { facts, status, .. }) = shared.running.get() else { return shared.starting() };
    let members = status.read().members;
    json(&ConflictsReply {
        region: facts.region.clone(),
        node: facts.node.to_string(),
        counted: facts.sum(|core| &core.concurrent),
        conflicts: facts.lost.read().iter().map(|lost| Conflict::of(lost, &members)).collect(),
    })
}

fn json(reply: &impl Serialize) -> Response {
    match serde_json::to_string(reply) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
