//! Records purchases of prepaid electricity and who paid for them.
//!
//! `DATABASE_URL` names the database, `PORT` the port (3000), `APP_ENV` the environment that `/api/health` tells
//! (`development`). SIGTERM ends the process after the requests that are under way.

mod database;
mod error;
mod health;
mod purchases;
mod release;

use std::error::Error;
use std::net::Ipv4Addr;

use axum::Router;
use axum::http::HeaderValue;
use axum::middleware::map_response;
use axum::response::{Html, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::database::Database;

/// The number that every answer tells in its `x-release` header.
const RELEASE: &str = env!("CARGO_PKG_VERSION_MAJOR");

#[derive(Clone)]
struct App {
    database: Database,
    environment: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let environment = std::env::var("APP_ENV").unwrap_or_else(|_| "development".to_owned());

    let app = App { database: Database::new(&url)?, environment };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("release {} for {} listens on {}", RELEASE, app.environment, listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, routes(app))
        .with_graceful_shutdown(async move { _ = terminate.recv().await })
        .await?;
    println!("stopped");
    Ok(())
}

fn routes(app: App) -> Router {
    let pages = Router::new().route("/", get(start_page)).merge(purchases::routes());
    release::complete(pages, &app).merge(health::routes()).layer(map_response(name_release)).with_state(app)
}

async fn name_release(mut response: Response) -> Response {
    response.headers_mut().insert("x-release", HeaderValue::from_static(RELEASE));
    response
}

async fn start_page() -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Electricity tokens</title>\
         <h1>Electricity tokens</h1><p>Release {}. <a href=\"/api/purchases\">Latest purchases</a></p></html>\n",
        RELEASE
    ))
}
