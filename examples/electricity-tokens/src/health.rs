//! `/api/health` and `/api/health/db`.

use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::App;
use crate::error::ApiError;

/// A health check has to answer sooner than those who ask lose patience.
const LIMIT: Duration = Duration::from_secs(2);

pub fn routes() -> Router<App> {
    Router::new().route("/api/health", get(health)).route("/api/health/db", get(database))
}

async fn health(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let connected = matches!(timeout(LIMIT, app.database.query("SELECT 1", &[])).await, Ok(Ok(_)));
    let (code, status, database) = if connected {
        (StatusCode::OK, "ok", "connected")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "error", "disconnected")
    };
    let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let body = json!({
        "status": status,
        "timestamp": timestamp,
        "database": database,
        "environment": app.environment,
    });
    (code, Json(body))
}

async fn database(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let start = Instant::now();
    let sql = r#"SELECT current_database(), current_setting('server_version'), count(*) FROM "User""#;
    let rows = app.database.query(sql, &[]).await?;
    let row = &rows[0];
    Ok(Json(json!({
        "status": "ok",
        "database": row.get::<_, &str>(0),
        "server": row.get::<_, &str>(1),
        "users": row.get::<_, i64>(2),
        "latencyMs": start.elapsed().as_secs_f64() * 1000.0,
    })))
}
