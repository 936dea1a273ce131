//! The admin port: `/metrics`, `/livez`, `/readyz`, `/api/status`. Runs on the helper thread, never on a loop thread.

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use super::metrics;
use crate::control::status::{Status, StatusBoard};
use crate::node::{GODWIT_VERSION, NodeFacts};

/// A control thread that has not refreshed the status for this long is stuck. It refreshes ten times a second.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The content type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Shared {
    facts: Arc<NodeFacts>,
    status: StatusBoard,
    registry: Registry,
}

/// What `/api/status` answers: who this is, and how it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReply {
    /// Of the software.
    pub version: String,
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

/// The routes over a node's facts and status.
pub fn router(facts: Arc<NodeFacts>, status: StatusBoard) -> Router {
    let registry = metrics::registry(Arc::clone(&facts), status.clone());
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .with_state(Arc::new(Shared { facts, status, registry }))
}

/// Serves `router` on every listener until `end` resolves.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, end: impl Future<Output = ()>) {
    let mut servers = Vec::new();
    for listener in listeners {
        let router = router.clone();
        let server = async move {
            listener.set_nonblocking(true)?;
            axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
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

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {error}\n")).into_response()
        }
    }
}

/// Whether the process still does its work. A failed log ends the process, so a 503 here is rare and short.
async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    match (shared.status.read().failed, shared.status.age()) {
        (Some(failed), _) => unavailable(&format!("the log failed: {failed}")),
        (None, Some(age)) if age > STUCK_AFTER => {
            unavailable(&format!("the control thread has not moved for {} s", age.as_secs()))
        }
        _ => "ok\n".into_response(),
    }
}

/// Whether clients should be sent here.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.status.read();
    match status.failed {
        Some(failed) => unavailable(&format!("the log failed: {failed}")),
        None if !status.ready => unavailable("the log is not open yet"),
        None => "ok\n".into_response(),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn api_status(State(shared): State<Arc<Shared>>) -> Response {
    let facts = &shared.facts;
    let reply = StatusReply {
        version: GODWIT_VERSION.to_owned(),
        region: facts.region.clone(),
        node: facts.node.to_string(),
        incarnation: facts.incarnation.to_string(),
        cores: facts.cores,
        io_backend: facts.io_backend.clone(),
        live_keys: facts.sum(|core| &core.live_keys),
        originated: facts.sum(|core| &core.originated),
        followed: facts.sum(|core| &core.followed),
        status: shared.status.read(),
    };
    match serde_json::to_string(&reply) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
