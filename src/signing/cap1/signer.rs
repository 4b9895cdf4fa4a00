use std::fmt;

use sha2::{Digest, Sha512};

use super::Target;
use super::headers::{check, is_set_by_signing, is_unsigned_by_nature};
use super::key::{self, DayKey, HmacSha512};
use super::stages::{self, base64url};
use crate::encoding::Text;
use crate::headers::Headers;
use crate::{Error, Secret, Timestamp};

/// Signs with one key. It remembers what it derived for the present day and second (and host), and derives it anew when these
/// change; what it signs depends on its arguments alone.
#[derive(Clone)]
pub struct Signer {
    key_id: String,
    key: Secret,
    day: Option<Day>,
    second: Option<Second>,
}

/// What changes at midnight UTC.
#[derive(Clone)]
struct Day {
    date: [u8; 8],
    host: String,
    key: DayKey,
    scope: String,
    /// `CAP1-HMAC-SHA512 Credential=<key id>/<scope>,SignedHeaders=`
    authorization: String,
}

/// What changes once a second: a MAC that has taken in the string to sign as far as the canonical request's hash.
#[derive(Clone)]
struct Second {
    now: Timestamp,
    mac: HmacSha512,
}

/// The headers to set.
pub struct Signed<'a> {
    pub authorization: &'a str,
    pub cap_date: &'a str,
    /// In base64url, as it stands in `authorization`.
    pub signature: &'a str,
}

impl Signed<'_> {
    /// Names and values of the headers to set.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("authorization", self.authorization), ("x-cap-date", self.cap_date)].into_iter()
    }
}

impl Signer {
    /// `key` is used as it is given, not decoded.
    ///
    /// # Errors
    /// [`Error::KeyId`]: the `Authorization` header separates by `/` and `,`. [`Error::SecretKey`].
    pub fn new(key_id: impl Into<String>, key: Secret) -> Result<Self, Error> {
        let key_id = key_id.into();
        let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b',');
        if key_id.is_empty() || !key_id.bytes().all(allowed) {
            return Err(Error::KeyId);
        }
        if key.expose().is_empty() {
            return Err(Error::SecretKey);
        }
        Ok(Self { key_id, key, day: None, second: None })
    }

    /// Signs a request and writes the result into `out`, which is cleared and may be used again and again.
    ///
    /// `headers` (lower-case names) are all that will be sent. Skipped are the ones that [`is_set_by_signing`] or
    /// [`is_unsigned_by_nature`] names. A method in lower case is signed as if in upper case.
    ///
    /// # Errors
    /// [`Error::Method`], [`Error::HeaderName`], [`Error::HeaderValue`], [`Error::HeaderQuotes`], [`Error::TooManyHeaders`].
    pub fn sign<'a, 'h>(
        &mut self,
        now: &Timestamp,
        method: &str,
        target: &Target,
        headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
        out: &'a mut String,
    ) -> Result<Signed<'a>, Error> {
        let mut signed = Headers::default();
        signed.insert(b"host", target.authority().as_bytes())?;
        signed.insert(b"x-cap-date", now.amz().as_bytes())?;
        for (name, value) in headers {
            if !is_set_by_signing(name) && !is_unsigned_by_nature(name) {
                signed.insert(name, value)?;
                check(value)?;
            }
        }
        let mut canonical_request = Sha512::new();
        stages::write_canonical_request(method, target, &signed, &mut canonical_request)?;
        out.clear();
        base64url(&canonical_request.finalize().into(), out);

        let (authorization, mac) = self.refresh(now, target.authority());
        let signature = key::digest(mac, out.as_bytes());
        out.clear();
        out.push_str(authorization);
        signed.write_names(&mut Text(out));
        out.push_str(",Signature=");
        let signature_start = out.len();
        base64url(&signature, out);
        let authorization_end = out.len();
        out.push_str(now.amz());
        let (authorization, cap_date) = out.split_at(authorization_end);
        Ok(Signed { authorization, cap_date, signature: authorization.split_at(signature_start).1 })
    }

    /// The present day's authorization prefix and the present second's MAC, derived anew if either is outdated.
    fn refresh(&mut self, now: &Timestamp, host: &str) -> (&str, HmacSha512) {
        if self.day.as_ref().is_some_and(|day| day.date != now.date().as_bytes() || day.host != host) {
            self.day = None;
            self.second = None;
        }
        let day = self.day.get_or_insert_with(|| {
            let scope = stages::credential_scope(now, host);
            let mut date = [0; 8];
            date.copy_from_slice(now.date().as_bytes());
            Day {
                date,
                host: host.to_owned(),
                key: DayKey::derive(&self.key, now, host),
                authorization: format!("CAP1-HMAC-SHA512 Credential={}/{scope},SignedHeaders=", self.key_id),
                scope,
            }
        });
        if self.second.as_ref().is_some_and(|second| second.now != *now) {
            self.second = None;
        }
        let second = self.second.get_or_insert_with(|| Second {
            now: *now,
            mac: day.key.begin(&stages::string_to_sign_prefix(now, &day.scope)),
        });
        (&day.authorization, second.mac.clone())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
