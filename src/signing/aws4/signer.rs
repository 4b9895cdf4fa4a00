use std::fmt;

use super::chunks::ChunkSigner;
use super::headers::{is_set_by_signing, is_unsigned_by_nature};
use super::key::{self, DayKey, HmacSha256};
use super::service::Service;
use super::stages::{self, PayloadText};
use super::transcript::Transcript;
use super::{Payload, Target};
use crate::encoding::{Text, ascii, hex32};
use crate::headers::Headers;
use crate::{Error, Secret, Timestamp};

/// What AWS calls credentials.
#[derive(Clone, Debug)]
pub struct Credential {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Option<SessionToken>,
}

/// The third part of temporary credentials, and thereby the header in which it travels.
#[derive(Clone, Debug)]
pub enum SessionToken {
    /// From STS and its kin: `x-amz-security-token`.
    Sts(Secret),
    /// From S3 Express' `CreateSession`: `x-amz-s3session-token`.
    S3Express(Secret),
}

impl SessionToken {
    fn header(&self) -> (&'static str, &str) {
        match self {
            Self::Sts(token) => ("x-amz-security-token", token.expose()),
            Self::S3Express(token) => ("x-amz-s3session-token", token.expose()),
        }
    }
}

/// Signs with one credential for one region and service: about 1.5 KiB, one for each grant. It remembers what it derived for the
/// present day, the present second and the last request, and derives anew what has changed; what it signs depends on its
/// arguments alone. It keeps the secret access key for that, until [`Signer::keep_day_key`] drops it.
#[derive(Clone)]
pub struct Signer {
    access_key_id: String,
    /// None: only the day's key is kept.
    secret_access_key: Option<Secret>,
    session_token: Option<SessionToken>,
    region: String,
    service: Service,
    day: Option<Day>,
    second: Option<Second>,
    transcript: Transcript,
}

/// What changes at midnight UTC.
#[derive(Clone)]
struct Day {
    key: DayKey,
    scope: String,
    /// `AWS4-HMAC-SHA256 Credential=<access key id>/<scope>, SignedHeaders=`
    authorization: String,
}

/// What changes once a second: a MAC that has taken in the string to sign as far as the canonical request's hash.
#[derive(Clone)]
struct Second {
    now: Timestamp,
    mac: HmacSha256,
}

/// The headers to set. Those that are `None` must not be sent.
pub struct Signed<'a> {
    pub authorization: &'a str,
    pub amz_date: &'a str,
    pub amz_content_sha256: Option<&'a str>,
    /// Name and value.
    pub session_token: Option<(&'static str, &'a str)>,
    /// In hexadecimal, as it stands in `authorization`; the seed of a signed aws-chunked body.
    pub signature: &'a str,
}

impl Signed<'_> {
    /// Names and values of the headers to set.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("authorization", self.authorization), ("x-amz-date", self.amz_date)]
            .into_iter()
            .chain(self.amz_content_sha256.map(|value| ("x-amz-content-sha256", value)))
            .chain(self.session_token)
    }
}

impl Signer {
    /// # Errors
    /// [`Error::KeyId`], [`Error::SecretKey`], [`Error::SessionToken`], [`Error::Region`].
    pub fn new(credential: Credential, region: impl Into<String>, service: Service) -> Result<Self, Error> {
        let region = region.into();
        let key_id = &credential.access_key_id;
        let in_key_id = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b',' | b'=');
        if key_id.is_empty() || !key_id.bytes().all(in_key_id) {
            return Err(Error::KeyId);
        }
        if credential.secret_access_key.expose().is_empty() {
            return Err(Error::SecretKey);
        }
        let in_region = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
        if region.is_empty() || !region.bytes().all(in_region) {
            return Err(Error::Region);
        }
        if let Some((_, token)) = credential.session_token.as_ref().map(SessionToken::header)
            && (token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Error::SessionToken);
        }
        let Credential { access_key_id, secret_access_key, session_token } = credential;
        Ok(Self {
            access_key_id,
            secret_access_key: Some(secret_access_key),
            session_token,
            region,
            service,
            day: None,
            second: None,
            transcript: Transcript::default(),
        })
    }

    /// Derives the key for the day of `now`, which signs for this region and service alone, and drops the secret that signs for
    /// all of them for ever. On another day the signer then signs nothing until [`Signer::renew`].
    pub fn keep_day_key(&mut self, now: &Timestamp) {
        if let Some(secret) = self.secret_access_key.take() {
            self.renew(&secret, now);
        }
    }

    /// Derives the key for the day of `now` from the secret that the signer was made with, which is not kept.
    pub fn renew(&mut self, secret_access_key: &Secret, now: &Timestamp) {
        self.day =
            Some(Day::derive(secret_access_key, &self.access_key_id, now, &self.region, &self.service));
        self.second = None;
    }

    /// Whether it can sign at `now`: it has the secret, or the key of that day.
    pub fn is_ready(&self, now: &Timestamp) -> bool {
        self.secret_access_key.is_some() || self.day.as_ref().is_some_and(|day| day.key.covers(now))
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Signs a request and writes the result into `out`, which is cleared and may be used again and again: once it has grown
    /// to the size of an `Authorization` header, nothing is allocated but a new day's key.
    ///
    /// `headers` (lower-case names) are those that the grant pins and those that [`super::is_signed_by_default`] names, as they
    /// will be sent. Skipped are the ones that [`is_set_by_signing`] or [`is_unsigned_by_nature`] names.
    ///
    /// # Errors
    /// [`Error::Method`], [`Error::HeaderName`], [`Error::HeaderValue`], [`Error::TooManyHeaders`]; [`Error::AnotherDay`] unless
    /// [`Signer::is_ready`].
    pub fn sign<'a, 'h>(
        &'a mut self,
        now: &Timestamp,
        method: &str,
        target: &Target,
        headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
        payload: Payload,
        out: &'a mut String,
    ) -> Result<Signed<'a>, Error> {
        let payload = if self.service.is_always_unsigned() { Payload::Unsigned } else { payload };
        let payload_text = PayloadText::of(payload);
        let content_sha256 = (self.service.requires_content_sha256() || payload.literal().is_some())
            .then_some(payload_text.as_str());
        let token = self.session_token.as_ref().map(SessionToken::header);

        let mut signed = Headers::default();
        signed.insert_own(b"host", target.authority().as_bytes())?;
        signed.insert_own(b"x-amz-date", now.amz().as_bytes())?;
        if let Some(value) = content_sha256 {
            signed.insert_own(b"x-amz-content-sha256", value.as_bytes())?;
        }
        if let Some((name, value)) = token {
            signed.insert_own(name.as_bytes(), value.as_bytes())?;
        }
        for (name, value) in headers {
            if !is_set_by_signing(name) && !is_unsigned_by_nature(name) {
                signed.insert(name, value)?;
            }
        }
        if !self.day.as_ref().is_some_and(|day| day.key.covers(now)) {
            let secret = self.secret_access_key.as_ref().ok_or(Error::AnotherDay)?;
            self.day = Some(Day::derive(secret, &self.access_key_id, now, &self.region, &self.service));
            self.second = None;
        }
        let Some(day) = &self.day else { return Err(Error::AnotherDay) };
        let (authorization, mac) = (&*day.authorization, refresh(&mut self.second, day, now));
        let signature = self.transcript.signature(
            |out| stages::write_canonical_request(method, target, &signed, payload_text.as_str(), out),
            |hash| hex32(&key::digest(mac.clone(), hash)),
        )?;
        Ok(write_signed(authorization, &signed, now, content_sha256, token, &signature, out))
    }

    /// For the body of the request that was signed last, if that was signed with [`Payload::Streaming`] or
    /// [`Payload::StreamingTrailer`]. `None` before there is one.
    pub fn chunk_signer(&self) -> Option<ChunkSigner> {
        let (day, second) = (self.day.as_ref()?, self.second.as_ref()?);
        let seed = self.transcript.last_signature()?;
        Some(ChunkSigner::new(&day.key, &second.now, &self.region, &self.service, seed))
    }
}

impl Day {
    fn derive(secret: &Secret, key_id: &str, now: &Timestamp, region: &str, service: &Service) -> Day {
        let scope = stages::credential_scope(now, region, service);
        Day {
            key: DayKey::derive(secret, now, region, service),
            authorization: format!("AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders="),
            scope,
        }
    }
}

/// The present second's MAC, derived anew if it is outdated.
fn refresh<'a>(second: &'a mut Option<Second>, day: &Day, now: &Timestamp) -> &'a HmacSha256 {
    if second.as_ref().is_some_and(|second| second.now != *now) {
        *second = None;
    }
    let second = second.get_or_insert_with(|| Second {
        now: *now,
        mac: day.key.begin(&stages::string_to_sign_prefix(now, &day.scope)),
    });
    &second.mac
}

/// Lays the texts out in `out` one after another and hands out the pieces.
fn write_signed<'a>(
    authorization: &str,
    headers: &Headers<'_>,
    now: &Timestamp,
    content_sha256: Option<&str>,
    session_token: Option<(&'static str, &'a str)>,
    signature: &[u8; 64],
    out: &'a mut String,
) -> Signed<'a> {
    out.clear();
    out.push_str(authorization);
    headers.write_names(&mut Text(out));
    out.push_str(", Signature=");
    let signature_start = out.len();
    out.push_str(ascii(signature));
    let authorization_end = out.len();
    out.push_str(now.amz());
    let date_end = out.len();
    out.push_str(content_sha256.unwrap_or_default());
    let out: &'a str = out;
    let piece = |range: std::ops::Range<usize>| out.get(range).unwrap_or_default();
    Signed {
        authorization: piece(0..authorization_end),
        amz_date: piece(authorization_end..date_end),
        amz_content_sha256: content_sha256.map(|_| piece(date_end..out.len())),
        session_token,
        signature: piece(signature_start..authorization_end),
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("access_key_id", &self.access_key_id)
            .field("region", &self.region)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}
