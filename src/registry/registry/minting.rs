//! Making records: a new token, and what it stands for sealed under it.

use crate::error::ApiError;
use crate::ports::{Random, draw};
use crate::store::Record;
use capability::record::{self, Header, Keks, Kind, RecordError};
use capability::{CapabilityUri, Content, Export, Exported, Grant, Scheme, Token, Units};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

/// What minting needs.
pub(super) struct Mint<'a> {
    pub(super) keks: &'a Keks,
    pub(super) random: &'a dyn Random,
    pub(super) now: u64,
}

impl Mint<'_> {
    /// A token and its record.
    pub(super) fn record(
        &self,
        content: &Content,
        units: &Units,
        expires_at: Option<u64>,
    ) -> Result<(Token, Record), ApiError> {
        self.sealed(content.kind(), content.to_json().expose(), units, expires_at)
    }

    /// A token and its record, of content that is JSON already.
    pub(super) fn sealed(
        &self,
        kind: Kind,
        json: &[u8],
        units: &Units,
        expires_at: Option<u64>,
    ) -> Result<(Token, Record), ApiError> {
        let token = Token::mint(draw(self.random));
        let lookup = token.lookup_id();
        let header = Header { kind, lookup, expires_at, units };
        let sealed = record::seal(&token, &header, json, draw(self.random))
            .and_then(|inner| self.keks.wrap(lookup, &inner, draw(self.random)))
            .map_err(|error| match error {
                RecordError::TooLarge => ApiError::TooLarge,
                RecordError::Unreadable | RecordError::DoesNotOpen => ApiError::Internal,
            })?;
        let record = Record { lookup, sealed, kind, units: units.clone(), expires_at, created_at: self.now };
        Ok((token, record))
    }
}

/// The earlier of two times, where none is never.
pub(super) fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// Another authority's capability as a grant: its holder's requests go there with its bearer. Method, query, allowed headers
/// and body are the requester's.
pub(super) fn forward(uri: &CapabilityUri, allow_private_targets: bool) -> Result<Box<Grant>, ApiError> {
    let refuse = |rule: &str| ApiError::BadRequest(format!("capability: {rule}"));
    let authority = uri.authority();
    if uri.scheme() != Scheme::Https {
        return Err(refuse("another authority must be spoken to over https"));
    }
    if authority.ip().is_some() {
        return Err(refuse("another authority must be a DNS name"));
    }
    if authority.is_private_literal() && !allow_private_targets {
        return Err(refuse("another authority must not be this machine (the operator may allow it)"));
    }
    let mut bearer = Zeroizing::new(String::with_capacity("Bearer ".len() + Token::MAX_TEXT_LEN));
    bearer.push_str("Bearer ");
    bearer.push_str(uri.token().expose());
    let mut body = json!({
        "uri": format!("https://{authority}/"),
        "allowQuery": true,
        "headers": {"authorization": bearer.as_str()},
    });
    let text = Zeroizing::new(body.to_string());
    if let Some(serde_json::Value::String(copy)) = body.pointer_mut("/headers/authorization") {
        copy.zeroize();
    }
    match Export::parse(text.as_bytes())?.what {
        Exported::Grant(grant) => Ok(grant),
        Exported::Capability(_) => Err(ApiError::Internal),
    }
}
