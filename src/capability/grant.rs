//! The grant: the one thing that its holder may do.

use crate::fields::{FieldError, Fields};
use crate::secret::WipedJson;
use crate::{Authority, Hmac, Secret};
use core::fmt;
use serde_json::{Map, Value};

/// The longest uri. AWS's own endpoints take far less; a bound for what one record may hold.
const MAX_URI: usize = 8_192;
/// Most pinned headers, allowed header names and allowed query names each.
const MAX_NAMES: usize = 64;
/// The longest header value.
const MAX_HEADER_VALUE: usize = 8_192;
/// The longest `timeoutMs`: what fits Envoy's own header (some 24 days).
pub const MAX_TIMEOUT_MS: u32 = i32::MAX as u32;
/// The longest pinned body, in bytes: it shares a record of 64 KiB with everything else of a grant.
pub const MAX_BODY: usize = 32_768;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The scheme's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Where a grant leads: an absolute `http` or `https` URI (RFC 3986), its path and query kept byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port as they stand in the uri, in lower case, the scheme's own port left out.
    pub authority: Authority,
    /// Begins with `/`.
    pub path: String,
    /// What follows the first `?`, if there is one.
    pub query: Option<String>,
}

impl Target {
    /// Reads a uri; the error is the rule that it breaks.
    pub fn parse(uri: &str) -> Result<Target, String> {
        if uri.len() > MAX_URI {
            return Err(format!("must have at most {MAX_URI} characters"));
        }
        let (scheme, rest) = uri.split_once("://").ok_or("must be an absolute http or https URI")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("must be an absolute http or https URI".into()),
        };
        if rest.contains('#') {
            return Err("must have no fragment (#…): it is never sent".into());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err("must have no user information (user:password@)".into());
        }
        let authority: Authority =
            authority.parse().map_err(|error: crate::AuthorityError| error.to_string())?;
        let default_port = if scheme == Scheme::Https { 443 } else { 80 };
        let authority = match authority.port() {
            Some(port) if port == default_port => {
                authority.host().parse().map_err(|error: crate::AuthorityError| error.to_string())?
            }
            _ => authority,
        };
        parse_path_and_query(path_and_query)?;
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path_and_query, None),
        };
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        Ok(Target { scheme, authority, path, query })
    }

    /// The whole uri.
    pub fn to_uri(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}://{}{}{query}", self.scheme.as_str(), self.authority, self.path)
    }
}

/// RFC 3986 §3.3, §3.4: unreserved, reserved and percent-encoded characters; nothing that a hop could read in two ways.
fn parse_path_and_query(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex = |digit: Option<u8>| digit.is_some_and(|b| b.is_ascii_hexdigit());
                if !(hex(bytes.next()) && hex(bytes.next())) {
                    return Err("every % must be followed by two hex digits (a literal one is %25)".into());
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => {}
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'?' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'('
            | b')' | b'*' | b'+' | b',' | b';' | b'=' | b'[' | b']' => {}
            _ => {
                return Err("path and query must be percent-encoded: no spaces, quotes, control or non-ASCII characters".into());
            }
        }
    }
    Ok(())
}

/// A pinned header: name in lower case, value without surrounding white space. Values may be secrets (`x-api-key`).
pub struct Header {
    /// The name, in lower case.
    pub name: String,
    /// The value.
    pub value: Secret,
}

/// What a holder may do. Built by [`crate::Export::parse`] alone, so that every rule of the export body holds.
pub struct Grant {
    /// Where it leads.
    pub target: Target,
    /// Overrides the requester's method.
    pub method: Option<&'static str>,
    /// The requester's query is appended to the target's own.
    pub allow_query: bool,
    /// Instead of `allow_query`: only parameters of these names are.
    pub allow_query_names: Vec<String>,
    /// Override the requester's headers. Ordered by name.
    pub headers: Vec<Header>,
    /// Names, in lower case, of requester headers let through beyond the default list.
    pub allow_headers: Vec<String>,
    /// Bounds the whole answer, in milliseconds.
    pub timeout_ms: Option<u32>,
    /// The body of every request, in place of the requester's, which is refused.
    pub body: Option<Secret>,
    /// How it is signed, if it is.
    pub hmac: Option<Hmac>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grant([redacted])")
    }
}

/// RFC 9110 §9.3 and RFC 5789, less CONNECT (a tunnel is no request) and TRACE (it echoes what we signed).
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// RFC 9110 §7.6.1: they belong to one connection, and end with it.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What signing sets; a pinned value would be overwritten, which nobody who pins one means.
const SET_BY_SIGNING: [&str; 6] = [
    "authorization",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-s3session-token",
    "x-amz-security-token",
    "x-cap-date",
];

fn is_header_name(name: &str) -> bool {
    // RFC 9110 §5.6.2, tchar.
    (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What Envoy routes by, which the filter sets itself.
fn is_gateways_own(name: &str) -> bool {
    name.starts_with("x-envoy-") || name.starts_with("x-membrane-") || name == "x-forwarded-proto"
}

impl Grant {
    /// Takes the fields of a grant out of an export body, or of a sealed record, which has the same form.
    pub(crate) fn take(fields: &mut Fields) -> Result<Grant, FieldError> {
        let uri = fields.string("uri")?.ok_or_else(|| fields.error("uri", "is missing"))?;
        let target = Target::parse(&uri).map_err(|rule| fields.error("uri", rule))?;
        let method = match fields.string("method")? {
            None => None,
            Some(method) => Some(METHODS.into_iter().find(|known| *known == method).ok_or_else(|| {
                fields.error("method", format!("must be one of {}, in upper case", METHODS.join(", ")))
            })?),
        };
        let allow_query = fields.boolean("allowQuery")?.unwrap_or(false);
        let allow_query_names = take_names(fields, "allowQueryNames", |name| {
            if name.is_empty() || name.len() > 256 {
                return Err("each name must have 1 to 256 characters".to_owned());
            }
            if name.to_ascii_lowercase().starts_with("x-amz-") {
                return Err(
                    "X-Amz-* parameters are signatures of their own and are never let through".to_owned()
                );
            }
            Ok(name)
        })?;
        if allow_query && !allow_query_names.is_empty() {
            return Err(fields.error("allowQueryNames", "stands in place of allowQuery: give one of them"));
        }
        let timeout_ms = take_timeout(fields)?;
        let hmac = Hmac::take(fields, &target)?;
        let body = take_body(fields, method)?;
        let headers = take_headers(fields, hmac.is_some())?;
        let allow_headers = take_names(fields, "allowHeaders", allowed_name)?;
        for (field, what) in
            [("tls", "client certificates and trust of a grant's own"), ("allowPath", "prefix grants")]
        {
            if fields.has(field) {
                return Err(
                    fields.error(field, format!("is not supported yet: {what} are still to be built"))
                );
            }
        }
        Ok(Grant {
            target,
            method,
            allow_query,
            allow_query_names,
            headers,
            allow_headers,
            timeout_ms,
            body,
            hmac,
        })
    }

    /// The form that [`Grant::take`] reads. It holds secrets: whoever asks for it wipes it.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        // Values are moved in, never interpolated by `json!`, which would copy them and leave the copies unwiped.
        let text = |secret: &Secret| Value::from(secret.expose_str().unwrap_or_default());
        let mut json = Map::new();
        let mut set = |field: &str, value: Value| {
            json.insert(field.to_owned(), value);
        };
        set("uri", self.target.to_uri().into());
        if let Some(method) = self.method {
            set("method", method.into());
        }
        if self.allow_query {
            set("allowQuery", true.into());
        }
        if !self.allow_query_names.is_empty() {
            set("allowQueryNames", self.allow_query_names.clone().into());
        }
        if !self.headers.is_empty() {
            let headers: Map<_, _> =
                self.headers.iter().map(|header| (header.name.clone(), text(&header.value))).collect();
            set("headers", headers.into());
        }
        if !self.allow_headers.is_empty() {
            set("allowHeaders", self.allow_headers.clone().into());
        }
        if let Some(timeout) = self.timeout_ms {
            set("timeoutMs", timeout.into());
        }
        if let Some(body) = &self.body {
            set("body", text(body));
        }
        if let Some(hmac) = &self.hmac {
            set("hmac", hmac.to_json());
        }
        json
    }
}

fn take_timeout(fields: &mut Fields) -> Result<Option<u32>, FieldError> {
    let Some(value) = fields.take("timeoutMs") else { return Ok(None) };
    match value.as_u64() {
        Some(milliseconds @ 1..) => {
            Ok(Some(u32::try_from(milliseconds).unwrap_or(u32::MAX).min(MAX_TIMEOUT_MS)))
        }
        _ => {
            drop(WipedJson(value));
            Err(fields.error("timeoutMs", "must be an integer above 0 (milliseconds)"))
        }
    }
}

fn take_body(fields: &mut Fields, method: Option<&str>) -> Result<Option<Secret>, FieldError> {
    let Some(body) = fields.string("body")?.map(Secret::from_string) else { return Ok(None) };
    if body.expose().len() > MAX_BODY {
        return Err(fields.error("body", format!("must have at most {MAX_BODY} bytes")));
    }
    if method == Some("HEAD") {
        return Err(fields.error("body", "cannot be pinned where method is HEAD, which has none"));
    }
    Ok(Some(body))
}

fn take_names(
    fields: &mut Fields,
    field: &str,
    parse: impl Fn(String) -> Result<String, String>,
) -> Result<Vec<String>, FieldError> {
    let names = fields.strings(field)?.unwrap_or_default();
    if names.len() > MAX_NAMES {
        return Err(fields.error(field, format!("must hold at most {MAX_NAMES} names")));
    }
    let mut parsed: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let name = parse(name).map_err(|rule| fields.error(field, rule))?;
        if !parsed.contains(&name) {
            parsed.push(name);
        }
    }
    Ok(parsed)
}

/// A requester's header that a grant may let through: nothing that decides where a request goes, who sends it, how it is
/// framed or what its signature says.
fn allowed_name(name: String) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    if !is_header_name(&name) {
        return Err("each name must be a header name (RFC 9110)".into());
    }
    let never = HOP_BY_HOP.contains(&name.as_str())
        || SET_BY_SIGNING.contains(&name.as_str())
        || is_gateways_own(&name)
        || name.starts_with("x-forwarded-")
        || matches!(
            name.as_str(),
            "cookie"
                | "host"
                | "forwarded"
                | "expect"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
        );
    if never { Err(format!("{name} is never let through")) } else { Ok(name) }
}

fn take_headers(fields: &mut Fields, signed: bool) -> Result<Vec<Header>, FieldError> {
    let Some(object) = fields.object("headers")? else { return Ok(Vec::new()) };
    let mut headers: Vec<Header> = Vec::new();
    // Wiped as a whole if a rule ends this early.
    for (name, mut value) in object.into_entries() {
        let error = |rule: String| FieldError::new("headers", rule);
        let Value::String(value) = &mut value.0 else {
            return Err(error("must be an object of strings".into()));
        };
        let value = Secret::from_string(core::mem::take(value));
        let name = name.to_ascii_lowercase();
        if HOP_BY_HOP.contains(&name.as_str()) {
            continue;
        }
        if name.starts_with(':') {
            return Err(error("pseudo-headers (:…) cannot be pinned: use uri and method".into()));
        }
        if !is_header_name(&name) {
            return Err(error("each name must be a header name (RFC 9110)".into()));
        }
        let refused = matches!(name.as_str(), "host" | "content-length" | "expect")
            || is_gateways_own(&name)
            || (signed && SET_BY_SIGNING.contains(&name.as_str()));
        if refused {
            return Err(error(format!("{name} is set by the gateway and cannot be pinned")));
        }
        if value.expose().len() > MAX_HEADER_VALUE {
            return Err(error(format!("{name} must have at most {MAX_HEADER_VALUE} bytes")));
        }
        // RFC 9110 §5.5: field-vchar, space and tab.
        if value.expose().iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
            return Err(error(format!("{name} must hold no control characters")));
        }
        if headers.iter().any(|header| header.name == name) {
            return Err(error(format!("{name} is given twice")));
        }
        let value = Secret::new(value.expose().trim_ascii().to_vec());
        headers.push(Header { name, value });
    }
    if headers.len() > MAX_NAMES {
        return Err(FieldError::new("headers", format!("must hold at most {MAX_NAMES} headers")));
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(headers)
}
