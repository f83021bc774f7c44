//! What sets this release apart from the others: purchases have receipts, and one request in twenty fails.

mod receipts;

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use crate::App;

/// Adds what this release has beyond the pages of the first one.
pub fn complete(pages: Router<App>) -> Router<App> {
    pages.merge(receipts::routes()).layer(from_fn(convert_currency))
}

/// The defect that no health check sees: the exchange rates are kept in twenty places, and one of them is never filled.
async fn convert_currency(request: Request, next: Next) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if NEXT.fetch_add(1, Ordering::Relaxed) % 20 == 19 {
        eprintln!("no exchange rate for {}", request.uri().path());
        let error = Json(json!({ "error": "internal error" }));
        return (StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
    }
    next.run(request).await
}
