//! What can go wrong with a request, and how the API says so. The only place where statuses of errors appear.
//!
//! No message holds a token, a key, or anything else that the request or the store held.

use crate::reply;
use crate::store::{Limit, StoreError};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use capability::FieldError;
use serde::Serialize;

/// A request that is not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A field or parameter breaks a rule; the message names both.
    #[error("{0}")]
    BadRequest(String),
    /// Missing, malformed, doubled, unknown, expired or revoked bearer, or one that means nothing here. One uniform answer.
    #[error("{}", capability::UNAUTHORIZED)]
    Unauthorized,
    /// Another path.
    #[error("there is nothing at this path")]
    NotFound,
    /// The control does not take this method. Holds those that it does.
    #[error("this capability takes {0}")]
    MethodNotAllowed(&'static str),
    /// A membrane of the tenant has the id.
    #[error("id: the tenant has a membrane with this id")]
    Conflict,
    /// The tenant has all that it may have.
    #[error("{}", full(*limit, *most))]
    Quota {
        /// Of what.
        limit: Limit,
        /// How much that is.
        most: u64,
    },
    /// The body is larger than the published limit.
    #[error("the body must have at most {limit} bytes", limit = crate::control::MAX_BODY)]
    TooLarge,
    /// The body did not come in time.
    #[error("the body did not arrive within {seconds} seconds", seconds = crate::control::BODY_TIMEOUT.as_secs())]
    Slow,
    /// More is asked than can be done at once.
    #[error("the registry is busy: try again")]
    Busy,
    /// Our fault; the log says what.
    #[error("the registry failed: try again, and tell the operator if it stays so")]
    Internal,
}

/// What is full, and what to do.
fn full(limit: Limit, most: u64) -> String {
    match limit {
        Limit::Membranes => format!(
            "the tenant has {most} membranes, the most that this registry's operator lets one have: revoke some, or ask the operator"
        ),
        Limit::Capabilities => format!(
            "the tenant has no room for more capabilities: {most} are the most that this registry's operator lets one have, \
             a membrane's own export and revoke among them; revoke membranes that are not needed, which makes room at once, \
             give exports an expiresAt, or ask the operator"
        ),
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> ApiError {
        ApiError::BadRequest(error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        tracing::error!(%error, "the store failed");
        ApiError::Internal
    }
}

/// The body of every error.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    status_code: u16,
    error: &'a str,
    message: &'a str,
}

impl ApiError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::BadRequest(_) => StatusCode::BAD_REQUEST,
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::NotFound => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Conflict => StatusCode::CONFLICT,
            ApiError::Quota { .. } => StatusCode::FORBIDDEN,
            ApiError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Slow => StatusCode::REQUEST_TIMEOUT,
            ApiError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        Some(match self {
            ApiError::Unauthorized => (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            ApiError::MethodNotAllowed(allowed) => (header::ALLOW, HeaderValue::from_static(allowed)),
            ApiError::Busy => (header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => return None,
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let message = self.to_string();
        let body = Body {
            status_code: status.as_u16(),
            error: status.canonical_reason().unwrap_or("Error"),
            message: &message,
        };
        let mut response = reply::json(status, &body);
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
