//! What the filter answers by itself. The only place of the filter where a status code is written.

use std::borrow::Cow;

/// An answer of ours, in the API's error form. Its message never holds a token, a key, a value of a header or another's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    error: &'static str,
    message: Cow<'static, str>,
    header: Option<(&'static str, &'static str)>,
    /// Under which outcome it is counted.
    pub outcome: Outcome,
}

/// How a request ended, as counted in `membrane_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Rewritten, signed and forwarded.
    Granted,
    /// Forwarded to the control listener.
    Control,
    /// Without a bearer, let through by `on_missing: pass`.
    Passed,
    /// 401.
    Unauthorized,
    /// 400, 404, 405, 411, 413: refused for its form.
    Refused,
    /// 503: the registry could not be asked.
    Unavailable,
    /// 429: too many tokens that nobody knows.
    Limited,
    /// 500 and 408: a fault of the configuration, or of ours.
    Failed,
}

impl Reply {
    fn new(
        status: u16,
        error: &'static str,
        outcome: Outcome,
        message: impl Into<Cow<'static, str>>,
    ) -> Reply {
        Reply { status, error, message: message.into(), header: None, outcome }
    }

    /// 401: one answer for missing, malformed, unknown, expired and revoked bearers alike.
    pub fn unauthorized() -> Reply {
        let mut reply = Reply::new(401, "Unauthorized", Outcome::Unauthorized, capability::UNAUTHORIZED);
        reply.header = Some(("www-authenticate", "Bearer"));
        reply
    }

    /// 400.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Reply {
        Reply::new(400, "Bad Request", Outcome::Refused, message)
    }

    /// 400: the body is the grant's.
    pub fn pinned_body() -> Reply {
        Reply::bad_request("this capability's body is its own: send none")
    }

    /// 400: a framed body that is not what its headers announce.
    pub fn broken_body(fault: signing::aws4::Fault) -> Reply {
        Reply::bad_request(format!("the body is not what its headers announce: {fault}"))
    }

    /// 404: the capability names the path, and dropping part of what somebody asked is dangerous.
    pub fn not_found() -> Reply {
        let message = "a capability names its own path: the request's path must be /";
        Reply::new(404, "Not Found", Outcome::Refused, message)
    }

    /// 405.
    pub fn method_not_allowed(message: &'static str, allow: Option<&'static str>) -> Reply {
        let mut reply = Reply::new(405, "Method Not Allowed", Outcome::Refused, message);
        reply.header = allow.map(|methods| ("allow", methods));
        reply
    }

    /// 408: a body was announced and did not come.
    pub fn body_missing() -> Reply {
        Reply::new(408, "Request Timeout", Outcome::Failed, "the request's body did not arrive in time")
    }

    /// 411.
    pub fn length_required() -> Reply {
        let message = "S3 needs the body's length: send content-length (or x-amz-decoded-content-length with aws-chunked)";
        Reply::new(411, "Length Required", Outcome::Refused, message)
    }

    /// 413.
    pub fn body_too_large(max_body: usize) -> Reply {
        let message = format!(
            "a body that must be hashed before it is signed may have at most {max_body} bytes here: the filter's setting max_body \
             (and above it Envoy's per_connection_buffer_limit_bytes) raises that; a request with x-amz-content-sha256 streams"
        );
        Reply::new(413, "Payload Too Large", Outcome::Refused, message)
    }

    /// 429 (RFC 6585 §4).
    pub fn too_many_unknown() -> Reply {
        let message = "too many tokens from this address were not known: try again later (the filter's setting registry.max_unknown)";
        let mut reply = Reply::new(429, "Too Many Requests", Outcome::Limited, message);
        reply.header = Some(("retry-after", "1"));
        reply
    }

    /// 500: the answer for what only an operator can mend; the log says more.
    pub fn misconfigured(message: &'static str) -> Reply {
        Reply::new(500, "Internal Server Error", Outcome::Failed, message)
    }

    /// 503: whether the capability is alive cannot be known, so it is refused.
    pub fn unavailable() -> Reply {
        let message = "the membrane registry cannot be asked at the moment: try again";
        let mut reply = Reply::new(503, "Service Unavailable", Outcome::Unavailable, message);
        reply.header = Some(("retry-after", "1"));
        reply
    }

    /// 503: too many requests are being held.
    pub fn overloaded() -> Reply {
        let mut reply = Reply::unavailable();
        reply.message = "the gateway holds too many unfinished requests at the moment: try again".into();
        reply
    }

    /// Its headers.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
        [("content-type", "application/json"), ("cache-control", "no-store")].into_iter().chain(self.header)
    }

    /// `{"statusCode", "error", "message"}`.
    pub fn body(&self) -> String {
        // The message alone may hold characters that JSON escapes.
        let message = serde_json::Value::from(self.message.as_ref());
        format!(r#"{{"statusCode":{},"error":"{}","message":{message}}}"#, self.status, self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_published_form() {
        for reply in [
            Reply::unauthorized(),
            Reply::bad_request("a \"quoted\" name\n"),
            Reply::not_found(),
            Reply::body_too_large(1_000_000),
            Reply::unavailable(),
        ] {
            let json: serde_json::Value = serde_json::from_str(&reply.body()).unwrap();
            assert_eq!(json["statusCode"], reply.status);
            assert_eq!(json.as_object().unwrap().len(), 3);
        }
        assert!(Reply::body_too_large(7).body().contains("max_body"));
        assert!(Reply::unavailable().headers().any(|header| header == ("retry-after", "1")));
    }
}
