//! A small web app over PostgreSQL that behaves as the file `built.json` in its folder says.
//!
//! `GET /health` tells whether it is ready, `GET /` needs no database, `POST /items` saves `{"id", "note"}`, `GET /items` lists
//! the latest and `GET /items/ID` tells whether one is there. Each answer names the release in `x-release`.

use std::convert::Infallible;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use piton_testkit::stage::Behaviour;
use rand::RngExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_postgres::{Client, NoTls};

/// Sessions at once: several apps share a small server.
const SESSIONS: usize = 6;
/// How long a request waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(5);

type Failed = Box<dyn Error + Send + Sync>;

struct App {
    behaviour: Behaviour,
    database: String,
    idle: Mutex<Vec<Client>>,
    sessions: Semaphore,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let behaviour = serde_json::from_slice::<Behaviour>(&fs_err::read("built.json")?)?;
    if behaviour.exits {
        return Err("this release ends at its start".into());
    }
    let port: u16 = std::env::var("PORT")?.parse()?;
    let database = std::env::var("DATABASE_URL")?;
    let sessions = Semaphore::new(SESSIONS);
    let app = Arc::new(App { behaviour, database, idle: Mutex::default(), sessions });
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let mut term = signal(SignalKind::terminate())?;
    // Each connection holds a receiver: the sender sees when the last one has ended.
    let (ending, end) = watch::channel(());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let stream = accepted?.0;
                stream.set_nodelay(true)?;
                tokio::spawn(serve(Arc::clone(&app), stream, end.clone()));
            }
            _ = term.recv() => break,
        }
    }
    drop((listener, end));
    ending.send_replace(());
    ending.closed().await;
    Ok(())
}

/// Serves one connection until it ends, or, when the app ends, its present request.
async fn serve(app: Arc<App>, stream: tokio::net::TcpStream, mut end: watch::Receiver<()>) {
    let service = service_fn(|request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(app.answer(request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = end.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that went away is of no interest.
    drop(ended);
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = if request.uri().path() == "/health" {
            Ok(self.health().await)
        } else {
            self.page(request).await
        };
        let mut response =
            answered.unwrap_or_else(|error| text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()));
        if let Ok(release) = self.behaviour.release.parse() {
            response.headers_mut().insert("x-release", release);
        }
        response
    }

    async fn health(&self) -> Response<Full<Bytes>> {
        if self.behaviour.redirects {
            let mut response = text(StatusCode::MOVED_PERMANENTLY, "elsewhere");
            response.headers_mut().insert(LOCATION, hyper::header::HeaderValue::from_static("/en/health"));
            return response;
        }
        if self.behaviour.never_ready {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready");
        }
        let body = serde_json::json!({ "status": "ok", "release": self.behaviour.release });
        text(StatusCode::OK, &body.to_string())
    }

    async fn page(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failed> {
        if rand::rng().random_bool(self.behaviour.fails.clamp(0.0, 1.0)) {
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "this release fails now and then"));
        }
        tokio::time::sleep(Duration::from_millis(self.behaviour.delay_ms)).await;
        let path = request.uri().path().to_owned();
        match (request.method(), path.strip_prefix("/items")) {
            (&Method::GET, None) if path == "/" => Ok(text(StatusCode::OK, &self.behaviour.release)),
            (&Method::POST, Some("")) => {
                let body = request.into_body().collect().await?.to_bytes();
                let item: serde_json::Value = serde_json::from_slice(&body)?;
                let (Some(id), Some(note)) = (item["id"].as_str(), item["note"].as_str()) else {
                    return Ok(text(StatusCode::BAD_REQUEST, "id and note are wanted"));
                };
                self.save(id, note).await?;
                Ok(text(StatusCode::CREATED, id))
            }
            (&Method::GET, Some("")) => {
                let ids = self.ids("select id from items order by created desc limit 20", &[]).await?;
                Ok(text(StatusCode::OK, &ids.join("\n")))
            }
            (&Method::GET, Some(rest)) => {
                let id = rest.trim_start_matches('/');
                let found = self.ids("select id from items where id = $1", &[id]).await?;
                let status = if found.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
                Ok(text(status, id))
            }
            _ => Ok(text(StatusCode::NOT_FOUND, "no such page")),
        }
    }

    async fn save(&self, id: &str, note: &str) -> Result<(), Failed> {
        let insert = "insert into items (id, note) values ($1, $2) on conflict (id) do nothing returning id";
        self.ids(insert, &[id, note]).await?;
        for table in &self.behaviour.also_writes {
            let insert = format!(
                "insert into {table} (item) values ($1) on conflict (item) do nothing returning item"
            );
            self.ids(&insert, &[id]).await?;
        }
        Ok(())
    }

    /// Runs a statement that may be repeated, on another session when the database ended the first one.
    async fn ids(&self, statement: &str, values: &[&str]) -> Result<Vec<String>, Failed> {
        let _permit = self.sessions.acquire().await?;
        let begin = Instant::now();
        loop {
            let tried = async {
                let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let client = match kept.filter(|client| !client.is_closed()) {
                    Some(client) => client,
                    None => connect(&self.database).await?,
                };
                let values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
                    values.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
                let rows = client.query(statement, &values).await?;
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                Ok::<_, tokio_postgres::Error>(rows.iter().map(|row| row.get(0)).collect())
            };
            match tried.await {
                Ok(ids) => return Ok(ids),
                Err(error) if is_away(&error) && begin.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Tells whether the session was ended or none could be had, as at a restart or a change of databases.
fn is_away(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("53"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
}
