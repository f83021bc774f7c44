//! The answers to requests that cannot be fulfilled.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use deadpool_postgres::PoolError;
use serde_json::json;
use tokio_postgres::error::SqlState;

pub enum ApiError {
    Invalid(String),
    NotFound(&'static str),
    Conflict(&'static str),
    /// The database, told to the log; the client learns no more than that.
    Database(PoolError),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, message),
            Self::NotFound(what) => (StatusCode::NOT_FOUND, format!("no such {what}")),
            Self::Conflict(message) => (StatusCode::CONFLICT, message.to_owned()),
            Self::Database(error) => {
                eprintln!("database: {error:?}");
                if matches!(&error, PoolError::Backend(refused) if refused.as_db_error().is_some()) {
                    (StatusCode::INTERNAL_SERVER_ERROR, "internal error".to_owned())
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "the database is away, try again later".to_owned())
                }
            }
        };
        (status, Json(json!({ "error": message }))).into_response()
    }
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> Self {
        let code = match &error {
            PoolError::Backend(error) => error.code(),
            _ => None,
        };
        match code {
            Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION => {
                Self::Invalid("a user or purchase that is named does not exist".to_owned())
            }
            // Class 22: a value that the column's type cannot hold, such as the 31st of February.
            Some(code) if code.code().starts_with("22") => {
                Self::Invalid("a value is out of range".to_owned())
            }
            _ => Self::Database(error),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}
