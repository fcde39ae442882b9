//! The http door: `/health` and `/metrics`.
//!
//! It is for the operator's own tools and speaks plain http, so it belongs on a
//! loopback address or behind a proxy that adds TLS.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use crate::pg::DoorMetrics;

/// Tells whether the node can serve: `Ok`, or why not.
pub type Health = Arc<dyn Fn() -> Result<serde_json::Value, String> + Send + Sync>;

#[derive(Clone)]
struct Doors {
    registry: Arc<Mutex<Registry>>,
    health: Health,
}

/// Serves http on `listener` until `stopping` turns true.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Mutex<Registry>>,
    health: Health,
    mut stopping: watch::Receiver<bool>,
) {
    let routes = Router::new()
        .route("/health", get(show_health))
        .route("/metrics", get(show_metrics))
        .with_state(Doors { registry, health });
    let stop = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the http door closed");
    }
}

async fn show_health(State(doors): State<Doors>) -> impl IntoResponse {
    let (status, body) = match (doors.health)() {
        Ok(facts) => (StatusCode::OK, serde_json::json!({ "status": "ok", "node": facts })),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "status": "unavailable", "reason": why })),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn show_metrics(State(doors): State<Doors>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &doors.registry.lock());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
