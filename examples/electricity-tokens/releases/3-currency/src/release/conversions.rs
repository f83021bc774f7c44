//! `/api/purchases/{id}/conversion`: what a purchase was worth in another currency when it was made.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use crate::App;
use crate::error::ApiError;
use crate::purchases::one;

/// US dollars for one of the household's own.
const RATE: f64 = 0.037;

/// More than any purchase takes.
const LARGEST: usize = 65_536;

pub fn routes() -> Router<App> {
    Router::new().route("/api/purchases/{id}/conversion", get(show))
}

async fn show(State(app): State<App>, Path(purchase): Path<String>) -> Result<Response, ApiError> {
    let sql = r#"SELECT to_json(c)::text FROM "Conversion" c WHERE "purchaseId" = $1"#;
    one(app.database.query(sql, &[&purchase]).await?, "conversion")
}

/// Notes the day's rate with each purchase that is made, before it is acknowledged.
pub async fn note(State(app): State<App>, request: Request, next: Next) -> Response {
    let makes = request.method() == Method::POST && request.uri().path() == "/api/purchases";
    let response = next.run(request).await;
    if !makes || response.status() != StatusCode::CREATED {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let purchase: Value = serde_json::from_slice(&body).unwrap_or_default();
    let sql = r#"
        INSERT INTO "Conversion" ("purchaseId", "currency", "rate") VALUES ($1, 'USD', $2)
        ON CONFLICT DO NOTHING"#;
    match app.database.query(sql, &[&purchase["id"].as_str(), &RATE]).await {
        Ok(_) => Response::from_parts(parts, Body::from(body)),
        Err(error) => ApiError::from(error).into_response(),
    }
}
