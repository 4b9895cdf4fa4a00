//! Answers as JSON.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use zeroize::Zeroizing;

/// An answer whose memory is wiped once it is sent: many hold capabilities. Never to be kept by a cache.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let (status, body) = match to_wiped_json(value) {
        Some(body) => (status, Body::from(Bytes::from_owner(body))),
        None => (StatusCode::INTERNAL_SERVER_ERROR, Body::empty()),
    };
    with_body(status, body)
}

/// An answer whose JSON is at hand.
pub(crate) fn with_body(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// JSON in memory that leaves no copy behind: it is measured first, so that the buffer never grows.
pub(crate) fn to_wiped_json(value: &impl Serialize) -> Option<Zeroizing<Vec<u8>>> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).ok()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *bytes, value).ok()?;
    Some(bytes)
}
