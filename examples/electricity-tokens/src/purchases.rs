//! `/api/purchases`: what was bought, and who paid.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/purchases", get(list).post(create))
        .route("/api/purchases/{id}", get(show).put(update).delete(remove))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Purchase {
    /// Chosen by a client that may send the purchase twice; made up otherwise.
    id: Option<String>,
    total_tokens: f64,
    total_payment: f64,
    meter_reading: f64,
    #[serde(default)]
    is_emergency: bool,
    purchase_date: Option<String>,
    #[serde(default = "household")]
    created_by: String,
}

fn household() -> String {
    "household".to_owned()
}

impl Purchase {
    fn check(self) -> Result<Self, ApiError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if positive(self.total_tokens) && positive(self.total_payment) && self.meter_reading >= 0.0 {
            Ok(self)
        } else {
            Err(ApiError::Invalid(
                "tokens and payment are above zero, the meter reading is not below".to_owned(),
            ))
        }
    }
}

#[derive(Deserialize)]
struct Page {
    limit: Option<u16>,
}

async fn list(State(app): State<App>, Query(page): Query<Page>) -> Result<Response, ApiError> {
    let sql = r#"
        SELECT coalesce(json_agg(p), '[]')::text
        FROM (SELECT * FROM "TokenPurchase" ORDER BY "purchaseDate" DESC, "id" LIMIT $1) p"#;
    let limit = i64::from(page.limit.unwrap_or(20).min(100));
    let rows = app.database.query(sql, &[&limit]).await?;
    Ok(json_row(StatusCode::OK, &rows[0]))
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let sql = r#"
        SELECT (to_jsonb(p) || jsonb_build_object('contribution', to_jsonb(c)))::text
        FROM "TokenPurchase" p LEFT JOIN "UserContribution" c ON c."purchaseId" = p."id"
        WHERE p."id" = $1"#;
    one(app.database.query(sql, &[&id]).await?, "purchase")
}

async fn create(
    State(app): State<App>,
    body: Result<Json<Purchase>, JsonRejection>,
) -> Result<Response, ApiError> {
    let mut purchase = body?.0.check()?;
    let id = purchase.id.take().unwrap_or_else(|| Uuid::new_v4().to_string());
    let insert = r#"
        INSERT INTO "TokenPurchase" AS p
            ("id", "totalTokens", "totalPayment", "meterReading", "isEmergency", "createdBy", "purchaseDate")
        VALUES ($1, $2, $3, $4, $5, $6, coalesce($7::text::timestamp, CURRENT_TIMESTAMP))
        ON CONFLICT ("id") DO NOTHING
        RETURNING to_json(p)::text"#;
    let Purchase {
        total_tokens, total_payment, meter_reading, is_emergency, created_by, purchase_date, ..
    } = &purchase;
    let inserted = app
        .database
        .query(
            insert,
            &[&id, total_tokens, total_payment, meter_reading, is_emergency, created_by, purchase_date],
        )
        .await?;
    if let [row] = &inserted[..] {
        return Ok(json_row(StatusCode::CREATED, row));
    }
    // Sent twice: the second time is as good as the first, unless it says something else.
    let same = r#"
        SELECT to_json(p)::text FROM "TokenPurchase" p
        WHERE ("id", "totalTokens", "totalPayment", "meterReading") = ($1, $2, $3, $4)"#;
    match &app.database.query(same, &[&id, total_tokens, total_payment, meter_reading]).await?[..] {
        [row] => Ok(json_row(StatusCode::CREATED, row)),
        _ => Err(ApiError::Conflict("another purchase has this id")),
    }
}

async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Result<Json<Purchase>, JsonRejection>,
) -> Result<Response, ApiError> {
    let purchase = body?.0.check()?;
    let sql = r#"
        UPDATE "TokenPurchase" AS p
        SET "totalTokens" = $2, "totalPayment" = $3, "meterReading" = $4, "isEmergency" = $5,
            "purchaseDate" = coalesce($6::text::timestamp, "purchaseDate"), "updatedAt" = CURRENT_TIMESTAMP
        WHERE "id" = $1
        RETURNING to_json(p)::text"#;
    let Purchase { total_tokens, total_payment, meter_reading, is_emergency, purchase_date, .. } = &purchase;
    let rows = app
        .database
        .query(sql, &[&id, total_tokens, total_payment, meter_reading, is_emergency, purchase_date])
        .await?;
    one(rows, "purchase")
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    app.database.query(r#"DELETE FROM "TokenPurchase" WHERE "id" = $1"#, &[&id]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers with the one row's JSON, or says what was not found.
pub fn one(rows: Vec<Row>, what: &'static str) -> Result<Response, ApiError> {
    rows.first().map(|row| json_row(StatusCode::OK, row)).ok_or(ApiError::NotFound(what))
}

/// Answers with JSON that the database has written.
pub fn json_row(status: StatusCode, row: &Row) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], row.get::<_, String>(0)).into_response()
}
