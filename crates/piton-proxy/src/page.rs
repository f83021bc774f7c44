//! The answers the proxy gives itself.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::body::Reply;
use crate::control::Maintenance;
use crate::slot::Slot;

const BUILT_IN_PAGE: &str = include_str!("maintenance.html");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why the proxy answers a request itself.
#[derive(Clone)]
pub(crate) enum Refusal {
    Maintenance(Arc<MaintenancePage>),
    HoldExpired,
    NoUpstream(Slot),
    Unreachable(Slot),
    TimedOut(Slot),
    Reset(Slot),
    ClientStalled,
    Host,
    Tunnel,
}

/// A maintenance page, ready to be sent.
pub(crate) struct MaintenancePage {
    html: Bytes,
    json: Bytes,
    retry_after: HeaderValue,
}

impl MaintenancePage {
    pub(crate) fn new(order: &Maintenance) -> MaintenancePage {
        let html = order.html.clone().unwrap_or_else(|| BUILT_IN_PAGE.to_owned());
        let json = format!(r#"{{"error":"maintenance","retry_after":{}}}"#, order.retry_after);
        MaintenancePage { html: html.into(), json: json.into(), retry_after: order.retry_after.into() }
    }
}

/// Which form of a page a client can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Html,
    Json,
}

impl Form {
    /// Browsers ask for HTML by name; whoever does not is an API client.
    pub(crate) fn of(accept: Option<&HeaderValue>) -> Form {
        let html = accept.is_some_and(|accept| {
            accept.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html"))
        });
        if html { Form::Html } else { Form::Json }
    }
}

impl Refusal {
    /// Builds the answer.
    pub(crate) fn answer(&self, form: Form) -> Response<Reply> {
        let (status, code, text) = match self {
            Refusal::Maintenance(page) => return page.answer(form),
            Refusal::HoldExpired => {
                (StatusCode::SERVICE_UNAVAILABLE, "held", "The app is being switched over.".to_owned())
            }
            Refusal::NoUpstream(slot) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_upstream", format!("The {slot} slot has no app."))
            }
            Refusal::Unreachable(slot) => (
                StatusCode::BAD_GATEWAY,
                "unreachable",
                format!("The app in the {slot} slot is not reachable."),
            ),
            Refusal::TimedOut(slot) => (
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                format!("The app in the {slot} slot did not answer."),
            ),
            Refusal::Reset(slot) => {
                (StatusCode::BAD_GATEWAY, "reset", format!("The app in the {slot} slot broke off."))
            }
            Refusal::ClientStalled => {
                (StatusCode::REQUEST_TIMEOUT, "stalled", "The request did not arrive whole.".to_owned())
            }
            Refusal::Host => {
                (StatusCode::BAD_REQUEST, "host", "The request does not name one host.".to_owned())
            }
            Refusal::Tunnel => {
                (StatusCode::NOT_IMPLEMENTED, "tunnel", "This server opens no tunnels.".to_owned())
            }
        };
        let (body, kind) = match form {
            Form::Html => (format!("<!doctype html><title>{status}</title><p>{text}</p>\n"), HTML),
            Form::Json => (format!(r#"{{"error":"{code}","message":"{text}"}}"#), JSON),
        };
        let mut response = page(status, body.into(), kind);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl MaintenancePage {
    fn answer(&self, form: Form) -> Response<Reply> {
        let mut response = match form {
            Form::Html => page(StatusCode::SERVICE_UNAVAILABLE, self.html.clone(), HTML),
            Form::Json => page(StatusCode::SERVICE_UNAVAILABLE, self.json.clone(), JSON),
        };
        response.headers_mut().insert(RETRY_AFTER, self.retry_after.clone());
        response
    }
}

fn page(status: StatusCode, body: Bytes, kind: HeaderValue) -> Response<Reply> {
    let mut response = Response::new(Reply::page(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
