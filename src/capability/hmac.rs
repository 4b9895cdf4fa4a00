//! How a grant's requests are signed: the `hmac` of an export body, and of a sealed record, which has the same form.

use crate::fields::{FieldError, Fields};
use crate::{Scheme, Secret, Target};
use serde_json::{Map, Value};

/// The longest session token. AWS states no bound; those of STS are around 1 KiB.
const MAX_SESSION_TOKEN: usize = 8_192;
/// The longest key of CAP1, in characters of base64url.
const MAX_CAP1_KEY: usize = 1_024;
/// S3, S3 Express, S3 on Outposts, S3 Object Lambda, as the credential scope names them. Their bodies may go unsigned over TLS,
/// or in signed chunks (Amazon S3 API Reference, "Signature Calculations for the Authorization Header").
const S3_FAMILY: [&str; 4] = ["s3", "s3express", "s3-outposts", "s3-object-lambda"];
/// VPC Lattice takes `UNSIGNED-PAYLOAD` and nothing else ("SigV4 authenticated requests for Amazon VPC Lattice").
const LATTICE: &str = "vpc-lattice-svcs";

/// Whether a signature must cover the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It must: to S3, a body whose hash is not known travels in signed chunks.
    Signed,
    /// It need not: the same as saying nothing, but refused where the service would not take it.
    Unsigned,
}

/// An AWS credential and where it is good.
pub struct Aws4Credential {
    /// `AKIA…`; not secret, it stands in every signed request.
    pub access_key_id: String,
    /// `us-east-1`.
    pub region: String,
    /// `lambda`.
    pub service: String,
    /// What signs.
    pub secret_access_key: Secret,
    /// For temporary credentials; sent as `x-amz-security-token`.
    pub session_token: Option<Secret>,
    /// What the grant says of bodies, if it does.
    pub payload: Option<Payload>,
}

/// A key of CAP1-HMAC-SHA512.
pub struct Cap1Credential {
    /// Not secret, it stands in every signed request.
    pub key_id: String,
    /// What signs: used as this text, not decoded.
    pub key: Secret,
}

/// How a grant's requests are signed.
pub enum Hmac {
    /// AWS Signature Version 4.
    Aws4(Aws4Credential),
    /// CAP1-HMAC-SHA512.
    Cap1(Cap1Credential),
}

impl Hmac {
    /// Takes `hmac` out of a grant's fields; what it asks of the grant's target is checked here too.
    pub(crate) fn take(fields: &mut Fields, target: &Target) -> Result<Option<Hmac>, FieldError> {
        let Some(mut hmac) = fields.object("hmac")? else { return Ok(None) };
        let (aws4, cap1) = (hmac.object("aws4-hmac-sha256")?, hmac.object("cap1-hmac-sha512")?);
        hmac.finish()?;
        match (aws4, cap1) {
            (Some(aws4), None) => Ok(Some(Hmac::Aws4(take_aws4(aws4, target)?))),
            (None, Some(cap1)) => {
                let credential = take_cap1(cap1)?;
                decodes_to_text(target).map_err(|rule| fields.error("uri", rule))?;
                Ok(Some(Hmac::Cap1(credential)))
            }
            _ => Err(fields.error("hmac", "must hold exactly one of aws4-hmac-sha256 and cap1-hmac-sha512")),
        }
    }

    /// The form that [`Hmac::take`] reads. It holds secrets: whoever asks for it wipes it.
    pub(crate) fn to_json(&self) -> Value {
        // Values are moved in, never interpolated by `json!`, which would copy them and leave the copies unwiped.
        let text = |secret: &Secret| Value::from(secret.expose_str().unwrap_or_default());
        let mut scheme = Map::new();
        let mut set = |field: &str, value: Value| {
            scheme.insert(field.to_owned(), value);
        };
        let name = match self {
            Hmac::Aws4(credential) => {
                set("awsAccessKeyId", credential.access_key_id.clone().into());
                set("region", credential.region.clone().into());
                set("service", credential.service.clone().into());
                set("secretAccessKey", text(&credential.secret_access_key));
                if let Some(token) = &credential.session_token {
                    set("sessionToken", text(token));
                }
                match credential.payload {
                    None => {}
                    Some(Payload::Signed) => set("payload", "signed".into()),
                    Some(Payload::Unsigned) => set("payload", "unsigned".into()),
                }
                "aws4-hmac-sha256"
            }
            Hmac::Cap1(credential) => {
                set("key", text(&credential.key));
                set("keyId", credential.key_id.clone().into());
                "cap1-hmac-sha512"
            }
        };
        let mut hmac = Map::new();
        hmac.insert(name.to_owned(), scheme.into());
        hmac.into()
    }
}

fn take_aws4(mut aws4: Fields, target: &Target) -> Result<Aws4Credential, FieldError> {
    let access_key_id = word(&mut aws4, "awsAccessKeyId", b"_")?;
    let region = word(&mut aws4, "region", b"_-")?;
    let service = word(&mut aws4, "service", b"_-")?;
    let secret_access_key = Secret::from_string(required(&mut aws4, "secretAccessKey")?);
    if !(1..=256).contains(&secret_access_key.expose().len()) {
        return Err(aws4.error("secretAccessKey", "must have 1 to 256 characters"));
    }
    let session_token = aws4.string("sessionToken")?.map(Secret::from_string);
    if let Some(token) = &session_token {
        let well_formed = (1..=MAX_SESSION_TOKEN).contains(&token.expose().len())
            && token.expose().iter().all(|b| b.is_ascii_graphic());
        if !well_formed {
            return Err(aws4.error("sessionToken", "must have 1 to 8192 visible ASCII characters"));
        }
    }
    let is_s3 = S3_FAMILY.contains(&service.as_str());
    let payload = match aws4.string("payload")?.as_deref() {
        None => None,
        Some("signed") if service == LATTICE => {
            return Err(aws4.error("payload", "must not be signed: VPC Lattice takes unsigned bodies alone"));
        }
        Some("signed") => Some(Payload::Signed),
        Some("unsigned") if service == LATTICE || (is_s3 && target.scheme == Scheme::Https) => {
            Some(Payload::Unsigned)
        }
        Some("unsigned") => {
            return Err(aws4.error("payload", "can be unsigned for S3 over https and for VPC Lattice alone"));
        }
        Some(_) => return Err(aws4.error("payload", "must be signed or unsigned")),
    };
    aws4.finish()?;
    Ok(Aws4Credential { access_key_id, region, service, secret_access_key, session_token, payload })
}

fn take_cap1(mut cap1: Fields) -> Result<Cap1Credential, FieldError> {
    let key_id = required(&mut cap1, "keyId")?;
    // The Authorization header separates by `/` and `,`: with them in it nobody could say where the id ends.
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b',');
    if !(1..=256).contains(&key_id.len()) || !key_id.bytes().all(plain) {
        return Err(cap1.error("keyId", "must have 1 to 256 visible ASCII characters other than / and ,"));
    }
    let key = Secret::from_string(required(&mut cap1, "key")?);
    let base64url = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !(1..=MAX_CAP1_KEY).contains(&key.expose().len()) || !key.expose().iter().all(base64url) {
        let rule = format!("must have 1 to {MAX_CAP1_KEY} characters of base64url, without padding");
        return Err(cap1.error("key", rule));
    }
    cap1.finish()?;
    Ok(Cap1Credential { key_id, key })
}

/// CAP1 signs path and query decoded, as text (JavaScript's `decodeURIComponent`): what does not decode cannot be signed.
fn decodes_to_text(target: &Target) -> Result<(), String> {
    let query = target.query.as_deref().unwrap_or_default();
    let all_text = core::iter::once(target.path.as_str()).chain(query.split(['&', '='])).all(|part| {
        let mut decoded = Vec::with_capacity(part.len());
        let mut bytes = part.bytes();
        while let Some(byte) = bytes.next() {
            let digit =
                |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
            // Every % is followed by two digits: `Target::parse` saw to it.
            decoded.push(if byte == b'%' {
                digit(bytes.next()).unwrap_or_default() * 16 + digit(bytes.next()).unwrap_or_default()
            } else {
                byte
            });
        }
        core::str::from_utf8(&decoded).is_ok()
    });
    if all_text {
        Ok(())
    } else {
        Err("must decode to UTF-8, in each name and value of its query too, to be signed with CAP1".into())
    }
}

fn required(fields: &mut Fields, field: &str) -> Result<String, FieldError> {
    fields.string(field)?.ok_or_else(|| fields.error(field, "is missing"))
}

/// A part of the credential scope, which is joined by `/` inside a header joined by `,`: letters, digits and `more`.
fn word(fields: &mut Fields, field: &str, more: &[u8]) -> Result<String, FieldError> {
    let text = required(fields, field)?;
    let well_formed = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    if well_formed {
        Ok(text)
    } else {
        let more: Vec<String> = more.iter().map(|b| format!("'{}'", char::from(*b))).collect();
        Err(fields.error(field, format!("must have 1 to 128 letters, digits or {}", more.join(" or "))))
    }
}
