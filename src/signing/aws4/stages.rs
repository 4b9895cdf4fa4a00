//! Each stage of a signature on its own, for tests and for explaining a `SignatureDoesNotMatch`.
//!
//! A canonical request holds the session token: it belongs in no log.

use sha2::{Digest, Sha256};

use super::headers::write_folded;
use super::payload::EMPTY_SHA256;
use super::service::Service;
use super::{Payload, Target};
use crate::encoding::{Sink, ascii, hex32};
use crate::headers::Headers;
use crate::{Error, Scheme, Timestamp};

/// How a path becomes what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRules {
    /// Remove dot segments and empty segments.
    pub normalise: bool,
    /// Percent-encode the path as sent once more.
    pub encode_again: bool,
}

impl PathRules {
    pub fn of(service: &Service) -> Self {
        let opaque = service.is_s3_family();
        Self { normalise: !opaque, encode_again: !opaque }
    }
}

/// A [`Target`] by rules that need not be those of any service: AWS's own vectors mix them.
///
/// # Errors
/// Those of [`Target::new`].
pub fn target(
    rules: PathRules,
    scheme: Scheme,
    authority: &str,
    path: &[u8],
    query: &[u8],
) -> Result<Target, Error> {
    Target::with_rules(rules, scheme, authority, path, query)
}

/// The canonical request with exactly these headers (lower-case names, any order): `host` and `x-amz-date` have to be among them.
///
/// # Errors
/// [`Error::Method`], [`Error::HeaderName`], [`Error::HeaderValue`], [`Error::TooManyHeaders`].
pub fn canonical_request<'a>(
    method: &str,
    target: &Target,
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    payload: Payload,
) -> Result<Vec<u8>, Error> {
    let mut signed = Headers::default();
    for (name, value) in headers {
        signed.insert(name, value)?;
    }
    let mut out = Vec::new();
    write_canonical_request(method, target, &signed, PayloadText::of(payload).as_str(), &mut out)?;
    Ok(out)
}

/// `<date>/<region>/<service>/aws4_request`.
pub fn credential_scope(now: &Timestamp, region: &str, service: &Service) -> String {
    [now.date(), region, service.name(), "aws4_request"].join("/")
}

pub fn string_to_sign(now: &Timestamp, region: &str, service: &Service, canonical_request: &[u8]) -> String {
    let mut text = string_to_sign_prefix(now, &credential_scope(now, region, service)).concat();
    text.push_str(ascii(&hex32(&Sha256::digest(canonical_request).into())));
    text
}

/// Everything before the hash of the canonical request: the same for a whole second.
pub(super) fn string_to_sign_prefix<'a>(now: &'a Timestamp, scope: &'a str) -> [&'a str; 5] {
    ["AWS4-HMAC-SHA256\n", now.amz(), "\n", scope, "\n"]
}

pub(super) fn write_canonical_request(
    method: &str,
    target: &Target,
    headers: &Headers<'_>,
    payload: &str,
    out: &mut impl Sink,
) -> Result<(), Error> {
    if !crate::encoding::is_token(method.as_bytes()) {
        return Err(Error::Method);
    }
    for line in [method, target.canonical_uri(), target.canonical_query()] {
        out.put(line.as_bytes());
        out.put_byte(b'\n');
    }
    headers.write_lines(",", write_folded, out);
    out.put_byte(b'\n');
    headers.write_names(out);
    out.put_byte(b'\n');
    out.put(payload.as_bytes());
    Ok(())
}

/// A payload's text, on the stack.
pub(super) enum PayloadText {
    Fixed(&'static str),
    Hash([u8; 64]),
}

impl PayloadText {
    pub(super) fn of(payload: Payload) -> Self {
        match payload {
            Payload::Sha256(hash) => Self::Hash(hex32(&hash)),
            other => Self::Fixed(other.literal().unwrap_or(EMPTY_SHA256)),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Hash(digits) => ascii(digits),
        }
    }
}
