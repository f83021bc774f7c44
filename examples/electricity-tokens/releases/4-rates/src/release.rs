//! What sets this release apart from the others: purchases have receipts and conversions.

mod conversions;
mod receipts;

use axum::Router;
use axum::middleware::from_fn_with_state;

use crate::App;

/// Adds what this release has beyond the pages of the first one.
pub fn complete(pages: Router<App>, app: &App) -> Router<App> {
    pages
        .merge(receipts::routes())
        .merge(conversions::routes())
        .layer(from_fn_with_state(app.clone(), conversions::note))
}
