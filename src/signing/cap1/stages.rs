//! Each stage of a signature on its own, for tests and for explaining a refusal.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha512};

use super::Target;
use super::headers::{check, write_folded};
use crate::encoding::{Sink, is_token};
use crate::headers::Headers;
use crate::{Error, Timestamp};

/// A [`Target`] on a host that is not brought into the form in which we send it: the reference signs any.
///
/// # Errors
/// Those of [`Target::new`], but for the authority's.
pub fn target(host: &str, path: &[u8], query: &[u8]) -> Result<Target, Error> {
    Target::on_host(host.to_owned(), path, query)
}

/// The canonical request with exactly these headers (lower-case names, any order): `host` and `x-cap-date` have to be among them.
///
/// # Errors
/// [`Error::Method`], [`Error::HeaderName`], [`Error::HeaderValue`], [`Error::HeaderQuotes`], [`Error::TooManyHeaders`].
pub fn canonical_request<'a>(
    method: &str,
    target: &Target,
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<u8>, Error> {
    let mut signed = Headers::default();
    for (name, value) in headers {
        signed.insert(name, value)?;
        check(value)?;
    }
    let mut out = Vec::new();
    write_canonical_request(method, target, &signed, &mut out)?;
    Ok(out)
}

/// `<date>/<host in lower case>/cap1_request`.
pub fn credential_scope(now: &Timestamp, host: &str) -> String {
    [now.date(), &host.to_ascii_lowercase(), "cap1_request"].join("/")
}

pub fn string_to_sign(now: &Timestamp, host: &str, canonical_request: &[u8]) -> String {
    let mut text = string_to_sign_prefix(now, &credential_scope(now, host)).concat();
    base64url(&Sha512::digest(canonical_request).into(), &mut text);
    text
}

/// Everything before the hash of the canonical request: the same for a whole second.
pub(super) fn string_to_sign_prefix<'a>(now: &'a Timestamp, scope: &'a str) -> [&'a str; 5] {
    ["CAP1-HMAC-SHA512\n", now.amz(), "\n", scope, "\n"]
}

pub(super) fn write_canonical_request<S: Sink>(
    method: &str,
    target: &Target,
    headers: &Headers<'_>,
    out: &mut S,
) -> Result<(), Error> {
    if !is_token(method.as_bytes()) {
        return Err(Error::Method);
    }
    for byte in method.bytes() {
        out.put(&[byte.to_ascii_uppercase()]);
    }
    for part in ["\n", target.canonical_path(), "\n", target.canonical_query(), "\n"] {
        out.put(part.as_bytes());
    }
    // Node joins repeated headers so before the reference sees them (`message.headers`).
    headers.write_lines(", ", write_folded, out);
    out.put(b"\n");
    headers.write_names(out);
    Ok(())
}

/// Appends 64 bytes in unpadded base64url: 86 characters.
pub(super) fn base64url(bytes: &[u8; 64], out: &mut String) {
    BASE64_URL_SAFE_NO_PAD.encode_string(bytes, out);
}
