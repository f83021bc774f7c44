//! `/api/purchases/{id}/receipt`: what the vendor's receipt says.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::purchases::{json_row, one};

pub fn routes() -> Router<App> {
    Router::new().route("/api/purchases/{id}/receipt", get(show).post(set).delete(remove))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Receipt {
    token_number: Option<String>,
    account_number: Option<String>,
    kwh_purchased: f64,
    #[serde(rename = "energyCostZWG")]
    energy_cost: f64,
    #[serde(rename = "debtZWG", default)]
    debt: f64,
    #[serde(rename = "reaZWG")]
    rea: f64,
    #[serde(rename = "vatZWG")]
    vat: f64,
    #[serde(rename = "totalAmountZWG")]
    total_amount: f64,
    #[serde(rename = "tenderedZWG")]
    tendered: f64,
    transaction_date_time: String,
}

async fn show(State(app): State<App>, Path(purchase): Path<String>) -> Result<Response, ApiError> {
    let sql = r#"SELECT to_json(r)::text FROM "ReceiptData" r WHERE "purchaseId" = $1"#;
    one(app.database.query(sql, &[&purchase]).await?, "receipt")
}

/// Adds the receipt, or replaces the one that is there.
async fn set(
    State(app): State<App>,
    Path(purchase): Path<String>,
    body: Result<Json<Receipt>, JsonRejection>,
) -> Result<Response, ApiError> {
    let receipt = body?.0;
    if receipt.kwh_purchased <= 0.0 || receipt.tendered < receipt.total_amount {
        return Err(ApiError::Invalid("kWh are above zero, what was tendered covers the total".to_owned()));
    }
    let sql = r#"
        INSERT INTO "ReceiptData" AS r
            ("id", "purchaseId", "tokenNumber", "accountNumber", "kwhPurchased", "energyCostZWG", "debtZWG",
             "reaZWG", "vatZWG", "totalAmountZWG", "tenderedZWG", "transactionDateTime")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::timestamp)
        ON CONFLICT ("purchaseId") DO UPDATE
        SET ("tokenNumber", "accountNumber", "kwhPurchased", "energyCostZWG", "debtZWG", "reaZWG", "vatZWG",
             "totalAmountZWG", "tenderedZWG", "transactionDateTime", "updatedAt")
          = ($3, $4, $5, $6, $7, $8, $9, $10, $11, excluded."transactionDateTime", CURRENT_TIMESTAMP)
        RETURNING to_json(r)::text"#;
    let rows = app
        .database
        .query(
            sql,
            &[
                &Uuid::new_v4().to_string(),
                &purchase,
                &receipt.token_number,
                &receipt.account_number,
                &receipt.kwh_purchased,
                &receipt.energy_cost,
                &receipt.debt,
                &receipt.rea,
                &receipt.vat,
                &receipt.total_amount,
                &receipt.tendered,
                &receipt.transaction_date_time,
            ],
        )
        .await?;
    Ok(json_row(StatusCode::CREATED, &rows[0]))
}

async fn remove(State(app): State<App>, Path(purchase): Path<String>) -> Result<StatusCode, ApiError> {
    app.database.query(r#"DELETE FROM "ReceiptData" WHERE "purchaseId" = $1"#, &[&purchase]).await?;
    Ok(StatusCode::NO_CONTENT)
}
