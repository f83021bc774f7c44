//! What sets this release apart from the others.

use axum::Router;

use crate::App;

/// Adds what this release has beyond the pages of the first one.
pub fn complete(pages: Router<App>, _app: &App) -> Router<App> {
    pages
}
