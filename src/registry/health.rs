//! For operators: `/healthz` (the process answers), `/readyz` (the store answers too), `/metrics` (Prometheus).

use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::Store;
use crate::workers::Workers;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the listener works with.
#[derive(Clone)]
pub struct Health {
    /// What must answer for the registry to be ready.
    pub store: Arc<dyn Store>,
    /// Where it is asked.
    pub workers: Arc<Workers>,
    /// Who writes down who did what, and whether that fails.
    pub registry: Arc<Registry>,
    /// What is shown.
    pub metrics: Arc<Metrics>,
    /// Set once the server drains: from then on it is not ready.
    pub draining: Arc<AtomicBool>,
}

/// The listener as a router.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    let store = Arc::clone(&health.store);
    // Any lookup will do: it reads the head.
    let asked = health.workers.run(move || store.find(capability::LookupId([0; 32])).map(|_| ())).await;
    let ready = matches!(asked, Ok(Ok(()))) && !health.draining.load(Ordering::Acquire);
    if ready {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let name = "membrane_registry_audit_failures_total";
    let audit = format!(
        "# HELP {name} Audit events that could not be written.\n# TYPE {name} counter\n{name} {}\n",
        health.registry.audit.failures()
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], format!("{}{}", health.metrics.render(), audit))
        .into_response()
}
