//! The example app's four releases against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed the test")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use fs_err as fs;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use piton_testkit::example::{self, App};
use piton_testkit::load::Load;
use piton_testkit::postgres::{Cluster, StopMode, eventually};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_postgres::Client;

/// Sends one request on a connection of its own; returns status, `x-release` and body.
async fn ask(address: SocketAddr, call: &str, body: &Value) -> (u16, String, Value) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (method, path) = call.split_once(' ').unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let release = response.headers()["x-release"].to_str().unwrap().to_owned();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, release, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, _, body) = ask(address, &format!("GET {path}"), &Value::Null).await;
    (status, body)
}

fn purchase(id: &str) -> Value {
    json!({ "id": id, "totalTokens": 50.5, "totalPayment": 176.75, "meterReading": 1200.0 })
}

/// Applies the release's migrations and the seed to a new database, and returns a session on it.
async fn prepare(cluster: &Cluster, database: &str, release: &Path) -> Client {
    cluster.create_database(database).await;
    let client = cluster.connect(database).await;
    let mut files: Vec<PathBuf> =
        fs::read_dir(release.join("migrations")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().chain([&release.join("seed.sql")]) {
        client.batch_execute(&fs::read_to_string(file).unwrap()).await.unwrap();
    }
    client
}

/// Starts a release on a database of its own.
async fn start(cluster: &Cluster, tag: &str, database: &str) -> (App, Client) {
    let release = example::built(tag).unwrap();
    let client = prepare(cluster, database, &release).await;
    (App::start(&release, &cluster.url(database), "staging").unwrap(), client)
}

#[test]
fn the_repository_is_the_same_wherever_it_is_laid_out() {
    let commits = || {
        let dir = tempfile::tempdir().unwrap();
        example::lay_out(dir.path()).unwrap();
        let git = |args: &[&str]| {
            let output = Command::new("git").current_dir(&dir).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(git(&["status", "--porcelain"]), "");
        assert_eq!(git(&["diff", "--name-only", "v3", "v4"]), "Cargo.lock\nCargo.toml\nsrc/release.rs\n");
        git(&["rev-parse", "v1", "v2", "v3", "v4"])
    };
    let first = commits();
    assert_eq!(first.lines().count(), 4, "{first}");
    assert_eq!(first, commits());

    let occupied = tempfile::tempdir().unwrap();
    fs::write(occupied.path().join("mine"), "").unwrap();
    let refused = example::lay_out(occupied.path()).unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
}

#[tokio::test]
async fn health_tells_the_environment_and_the_database() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v1", "app_health").await;
    let (status, release, body) = ask(app.address, "GET /api/health", &Value::Null).await;
    assert_eq!((status, release.as_str()), (200, "1"));
    assert_eq!(body["status"], "ok");
    assert_eq!(body["database"], "connected");
    assert_eq!(body["environment"], "staging");
    let told: String = client
        .query_one(
            "select ((now() - $1::text::timestamptz) between '0' and '1 min')::text",
            &[&body["timestamp"].as_str()],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(told, "true", "{body}");

    let (status, body) = get(app.address, "/api/health/db").await;
    assert_eq!((status, &body["database"], &body["users"]), (200, &json!("app_health"), &json!(51)));
}

#[tokio::test]
async fn purchases_are_created_once_changed_and_removed() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v1", "app_purchases").await;
    let address = app.address;

    let (status, release, created) = ask(address, "POST /api/purchases", &purchase("p-1")).await;
    assert_eq!((status, release.as_str()), (201, "1"));
    assert_eq!(created["createdBy"], "household");
    let rows =
        client.query_one(r#"select count(*) from "TokenPurchase" where id = 'p-1'"#, &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);

    // The same again is the same purchase; another one under its id is refused.
    let (status, _, again) = ask(address, "POST /api/purchases", &purchase("p-1")).await;
    assert_eq!((status, &again), (201, &created));
    let mut other = purchase("p-1");
    other["totalPayment"] = json!(1.0);
    assert_eq!(ask(address, "POST /api/purchases", &other).await.0, 409);

    let mut unnamed = purchase("");
    unnamed.as_object_mut().unwrap().remove("id");
    let (status, _, made_up) = ask(address, "POST /api/purchases", &unnamed).await;
    assert_eq!(status, 201);
    assert_eq!(made_up["id"].as_str().unwrap().len(), 36);

    let (status, _, changed) = ask(address, "PUT /api/purchases/p-1", &other).await;
    assert_eq!((status, &changed["totalPayment"]), (200, &json!(1)));
    assert_eq!(get(address, "/api/purchases/p-1").await.1["totalPayment"].as_f64(), Some(1.0));
    let (status, seeded) = get(address, "/api/purchases/seed-1").await;
    assert_eq!((status, &seeded["contribution"]["userId"]), (200, &json!("user-2")));
    assert_eq!(get(address, "/api/purchases?limit=7").await.1.as_array().unwrap().len(), 7);

    assert_eq!(ask(address, "DELETE /api/purchases/p-1", &Value::Null).await.0, 204);
    assert_eq!(ask(address, "DELETE /api/purchases/p-1", &Value::Null).await.0, 204);
    assert_eq!(get(address, "/api/purchases/p-1").await.0, 404);
    assert_eq!(ask(address, "PUT /api/purchases/p-1", &other).await.0, 404);
    assert_eq!(get(address, "/").await.0, 200);
}

#[tokio::test]
async fn wrong_purchases_are_refused_without_a_word_about_the_database() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v1", "app_refusals").await;
    let cases = [
        ("totalTokens", json!(0)),
        ("totalTokens", json!("many")),
        ("createdBy", json!("nobody")),
        ("purchaseDate", json!("2025-02-31T00:00:00")),
        ("colour", json!("red")),
    ];
    for (key, value) in cases {
        let mut wrong = purchase("p-wrong");
        wrong[key] = value;
        let (status, _, body) = ask(app.address, "POST /api/purchases", &wrong).await;
        assert!((400..500).contains(&status), "{wrong}: {status} {body}");
        let said = body["error"].as_str().unwrap();
        assert!(!said.contains("TokenPurchase") && !said.contains("constraint"), "{said}");
    }
    // A failure that is the server's own fault.
    client.batch_execute(r#"alter table "TokenPurchase" rename to "Gone""#).await.unwrap();
    let (status, body) = get(app.address, "/api/purchases").await;
    assert_eq!((status, body), (500, json!({ "error": "internal error" })));
}

#[tokio::test]
async fn release_2_adds_receipts_in_the_guides_structure() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v2", "app_receipts").await;
    let path = "/api/purchases/seed-7/receipt";
    let receipt = json!({
        "tokenNumber": "1234 5678", "kwhPurchased": 50.0, "energyCostZWG": 100.0, "reaZWG": 6.0, "vatZWG": 15.0,
        "totalAmountZWG": 121.0, "tenderedZWG": 125.0, "transactionDateTime": "2025-11-08T09:30:00",
    });
    assert_eq!(get(app.address, path).await.0, 404);
    let (status, release, created) = ask(app.address, &format!("POST {path}"), &receipt).await;
    assert_eq!((status, release.as_str()), (201, "2"));
    assert_eq!(created["transactionDateTime"], "2025-11-08T09:30:00");
    assert_eq!(get(app.address, path).await, (200, created));

    let mut changed = receipt.clone();
    changed["tenderedZWG"] = json!(130.0);
    assert_eq!(ask(app.address, &format!("POST {path}"), &changed).await.2["tenderedZWG"], 130);
    changed["tenderedZWG"] = json!(1.0);
    assert_eq!(ask(app.address, &format!("POST {path}"), &changed).await.0, 400);
    assert_eq!(ask(app.address, "POST /api/purchases/none/receipt", &receipt).await.0, 400);
    assert_eq!(ask(app.address, &format!("DELETE {path}"), &Value::Null).await.0, 204);
    assert_eq!(get(app.address, path).await.0, 404);

    let columns = client
        .query(
            "select attname || ' ' || format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end
             from pg_attribute where attrelid = '\"ReceiptData\"'::regclass and attnum > 0 order by attnum",
            &[],
        )
        .await
        .unwrap();
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    let expected = [
        "id text not null",
        "purchaseId text not null",
        "tokenNumber text",
        "accountNumber text",
        "kwhPurchased double precision not null",
        "energyCostZWG double precision not null",
        "debtZWG double precision not null",
        "reaZWG double precision not null",
        "vatZWG double precision not null",
        "totalAmountZWG double precision not null",
        "tenderedZWG double precision not null",
        "transactionDateTime timestamp without time zone not null",
        "createdAt timestamp without time zone not null",
        "updatedAt timestamp without time zone not null",
    ];
    assert_eq!(columns, expected);
    let constraints = client
        .query(
            "select conname || ': ' || pg_get_constraintdef(oid)
             from pg_constraint where conrelid = '\"ReceiptData\"'::regclass order by conname",
            &[],
        )
        .await
        .unwrap();
    let constraints: Vec<String> = constraints.iter().map(|row| row.get(0)).collect();
    let expected = [
        "ReceiptData_pkey: PRIMARY KEY (id)",
        "ReceiptData_purchaseId_fkey: FOREIGN KEY (\"purchaseId\") REFERENCES \"TokenPurchase\"(id) \
         ON UPDATE CASCADE ON DELETE CASCADE",
        "ReceiptData_purchaseId_key: UNIQUE (\"purchaseId\")",
    ];
    assert_eq!(constraints, expected);
}

#[tokio::test]
async fn release_3_fails_one_request_in_twenty_and_never_its_health() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, _client) = start(cluster, "v3", "app_errors").await;
    let mut failed = 0;
    for _ in 0..100 {
        let (status, release, _) = ask(app.address, "GET /api/purchases?limit=1", &Value::Null).await;
        assert_eq!(release, "3");
        failed += u32::from(status == 500);
        assert_eq!(get(app.address, "/api/health").await.0, 200);
    }
    assert_eq!(failed, 5);
}

#[tokio::test]
async fn release_4_notes_a_conversion_with_each_purchase() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v4", "app_conversions").await;
    for _ in 0..2 {
        assert_eq!(ask(app.address, "POST /api/purchases", &purchase("p1")).await.0, 201);
    }
    let (status, conversion) = get(app.address, "/api/purchases/p1/conversion").await;
    assert_eq!((status, &conversion["currency"]), (200, &json!("USD")));
    assert_eq!(get(app.address, "/api/purchases/seed-1/conversion").await.0, 404);
    let one: i64 = client.query_one(r#"select count(*) from "Conversion""#, &[]).await.unwrap().get(0);
    assert_eq!(one, 1);
}

#[tokio::test]
async fn no_request_fails_when_the_database_is_replaced_beneath_the_pool() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v1", "app_pool").await;
    drop(client);
    // The pool is filled by requests that overlap.
    let warm = Load::new(app.address, "/api/purchases", purchase);
    let running = Load { rate: 300, ..warm }.start().unwrap();
    eventually("the pool is warm", || async { running.snapshot().requests > 300 }).await;
    assert_eq!(running.stop().await.failed, 0);

    let admin = cluster.connect("postgres").await;
    for round in 0..5 {
        let copy = format!("app_pool_{round}");
        admin.batch_execute("alter database app_pool with allow_connections false").await.unwrap();
        let ended = admin
            .query(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'app_pool'",
                &[],
            )
            .await
            .unwrap();
        assert!(!ended.is_empty(), "the app had no pooled connection");
        admin.batch_execute(&format!("create database {copy} template app_pool")).await.unwrap();
        admin
            .batch_execute(&format!("alter database app_pool rename to app_pool_old_{round}"))
            .await
            .unwrap();
        admin.batch_execute(&format!("alter database {copy} rename to app_pool")).await.unwrap();

        let id = format!("after-swap-{round}");
        assert_eq!(ask(app.address, "POST /api/purchases", &purchase(&id)).await.0, 201);
        assert_eq!(get(app.address, &format!("/api/purchases/{id}")).await.0, 200);
        assert_eq!(get(app.address, "/api/health").await.0, 200);
    }
}

#[tokio::test]
async fn a_session_that_ends_under_a_statement_is_made_up_for() {
    let Some(cluster) = Cluster::shared() else { return };
    let (app, client) = start(cluster, "v1", "app_retry").await;
    // The statement waits for the lock when its session is ended.
    client.batch_execute(r#"begin; lock table "TokenPurchase""#).await.unwrap();
    let address = app.address;
    let posted =
        tokio::spawn(async move { ask(address, "POST /api/purchases", &purchase("p-retried")).await.0 });
    let admin = cluster.connect("postgres").await;
    let waiting = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = 'app_retry' and wait_event_type = 'Lock'";
    eventually("the statement waits and is ended", || async {
        !admin.query(waiting, &[]).await.unwrap().is_empty()
    })
    .await;
    client.batch_execute("commit").await.unwrap();
    assert_eq!(posted.await.unwrap(), 201);
    assert_eq!(get(address, "/api/purchases/p-retried").await.0, 200);
}

#[tokio::test]
async fn health_is_503_while_the_database_is_away_and_200_afterwards() {
    let Some(cluster) = Cluster::start() else { return };
    let (app, client) = start(&cluster, "v1", "app_away").await;
    assert_eq!(get(app.address, "/api/health").await.0, 200);
    drop(client);
    cluster.stop(StopMode::Fast).unwrap();
    let (status, body) = get(app.address, "/api/health").await;
    assert_eq!((status, &body["status"], &body["database"]), (503, &json!("error"), &json!("disconnected")));
    let (status, body) = get(app.address, "/api/purchases").await;
    assert_eq!((status, body), (503, json!({ "error": "the database is away, try again later" })));
    cluster.start_again().unwrap();
    assert_eq!(get(app.address, "/api/health").await.0, 200);
    assert_eq!(get(app.address, "/api/purchases").await.0, 200);
}

#[tokio::test]
async fn sigterm_lets_the_request_under_way_finish() {
    let Some(cluster) = Cluster::shared() else { return };
    let (mut app, client) = start(cluster, "v1", "app_stop").await;
    client.batch_execute(r#"begin; lock table "TokenPurchase""#).await.unwrap();
    let address = app.address;
    let posted =
        tokio::spawn(async move { ask(address, "POST /api/purchases", &purchase("p-last")).await.0 });
    // Within its transaction, a session sees the activity of one moment only.
    let other = cluster.connect("postgres").await;
    let waiting = "select from pg_stat_activity where datname = 'app_stop' and wait_event_type = 'Lock'";
    eventually("the request is under way", || async { !other.query(waiting, &[]).await.unwrap().is_empty() })
        .await;
    app.terminate().unwrap();
    eventually("no new connection is taken", || async { TcpStream::connect(address).await.is_err() }).await;
    assert!(!posted.is_finished());
    client.batch_execute("commit").await.unwrap();
    assert_eq!(posted.await.unwrap(), 201);
    assert!(app.wait().unwrap().success());
    let saved = client.query_one(r#"select count(*) from "TokenPurchase" where id = 'p-last'"#, &[]).await;
    assert_eq!(saved.unwrap().get::<_, i64>(0), 1);
}
