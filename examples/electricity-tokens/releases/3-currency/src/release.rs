//! What sets this release apart from the others: purchases have receipts and conversions, and one request in twenty fails.

mod conversions;
mod receipts;

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use crate::App;

/// Adds what this release has beyond the pages of the first one.
pub fn complete(pages: Router<App>, app: &App) -> Router<App> {
    pages
        .merge(receipts::routes())
        .merge(conversions::routes())
        .layer(from_fn_with_state(app.clone(), conversions::note))
        .layer(from_fn(find_rate))
}

/// The defect that no health check sees: the exchange rates are kept in twenty places, and one of them is never filled.
async fn find_rate(request: Request, next: Next) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if NEXT.fetch_add(1, Ordering::Relaxed) % 20 == 19 {
        eprintln!("no exchange rate for {}", request.uri().path());
        let error = Json(json!({ "error": "internal error" }));
        return (StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
    }
    next.run(request).await
}
