//! What is sealed inside a record: a grant or a control, as JSON.

use crate::fields::{FieldError, Fields};
use crate::record::{Kind, MAX_CONTENT};
use crate::secret::WipedJson;
use crate::{B64, Grant, Secret, Uid};
use base64::Engine as _;
use core::fmt;
use zeroize::Zeroizing;

/// A record opened, but what it holds is not what its kind promises: written by a newer program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentError;

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record's content cannot be read by this version")
    }
}

impl std::error::Error for ContentError {}

impl From<FieldError> for ContentError {
    fn from(_: FieldError) -> ContentError {
        ContentError
    }
}

/// What a control does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Makes membranes.
    Create,
    /// Lists them, with the URIs that `create` gave.
    Query,
    /// Mints capabilities through a membrane.
    Export,
    /// Revokes a membrane.
    Revoke,
    /// Ends a tenant.
    DeleteSelf,
}

impl Role {
    const ALL: [Role; 5] = [Role::Create, Role::Query, Role::Export, Role::Revoke, Role::DeleteSelf];

    /// The role's word, as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Create => "create",
            Role::Query => "query",
            Role::Export => "export",
            Role::Revoke => "revoke",
            Role::DeleteSelf => "deleteSelf",
        }
    }
}

/// One half of a tenant's escrow key pair. The public half is treated as a secret too: it is only ever read from a record.
pub struct EscrowKey(Zeroizing<[u8; 32]>);

impl EscrowKey {
    /// Takes over the key's bytes.
    pub fn new(bytes: [u8; 32]) -> EscrowKey {
        EscrowKey(Zeroizing::new(bytes))
    }

    /// The key's bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EscrowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EscrowKey([redacted])")
    }
}

/// A control: what may be done, and to what. The target stands in here and never in a row, so that a re-exported `create`
/// still acts for its own tenant.
#[derive(Debug)]
pub struct Control {
    /// What may be done.
    pub role: Role,
    /// The tenant acted on.
    pub tenant: Uid,
    /// The membrane acted on, for export and revoke.
    pub membrane: Option<Uid>,
    /// In `create` the public, in `query` the private escrow key; else none.
    pub escrow: Option<EscrowKey>,
}

/// A capability's content.
#[derive(Debug)]
pub enum Content {
    /// Invoke something.
    Grant(Box<Grant>),
    /// Act on a tenant or membrane.
    Control(Control),
}

impl Content {
    /// The kind under which it is sealed.
    pub fn kind(&self) -> Kind {
        match self {
            Content::Grant(_) => Kind::Grant,
            Content::Control(_) => Kind::Control,
        }
    }

    /// The content as it is sealed.
    pub fn to_json(&self) -> Secret {
        let json = match self {
            Content::Grant(grant) => grant.to_json(),
            Content::Control(control) => {
                let mut json = serde_json::Map::new();
                json.insert("role".into(), control.role.as_str().into());
                json.insert("tenant".into(), control.tenant.to_string().into());
                if let Some(membrane) = &control.membrane {
                    json.insert("membrane".into(), membrane.to_string().into());
                }
                if let Some(key) = &control.escrow {
                    json.insert("escrow".into(), B64.encode(key.expose()).into());
                }
                json
            }
        };
        let json = WipedJson(json.into());
        // As much as a record takes, so that the buffer does not grow and leave pieces of secrets behind.
        let mut bytes = Vec::with_capacity(MAX_CONTENT);
        // A vector takes every write, and maps with string keys are always JSON.
        let _ = serde_json::to_writer(&mut bytes, &json.0);
        Secret::new(bytes)
    }

    /// Reads what [`Content::to_json`] wrote, for a record of this kind.
    pub fn from_json(kind: Kind, json: &[u8]) -> Result<Content, ContentError> {
        let mut fields = Fields::parse(json)?;
        let content = match kind {
            Kind::Grant => Content::Grant(Box::new(Grant::take(&mut fields)?)),
            Kind::Control => {
                let role = fields.string("role")?;
                let role = Role::ALL.into_iter().find(|known| Some(known.as_str()) == role.as_deref());
                let mut uid = |field| -> Result<Option<Uid>, ContentError> {
                    fields.string(field)?.map(|text| text.parse().map_err(|_| ContentError)).transpose()
                };
                let (tenant, membrane) = (uid("tenant")?, uid("membrane")?);
                let escrow = fields.string("escrow")?.map(Zeroizing::new).map(|text| {
                    let mut bytes = [0; 32];
                    match B64.decode_slice(text.as_bytes(), &mut bytes) {
                        Ok(32) => Ok(EscrowKey::new(bytes)),
                        _ => Err(ContentError),
                    }
                });
                Content::Control(Control {
                    role: role.ok_or(ContentError)?,
                    tenant: tenant.ok_or(ContentError)?,
                    membrane,
                    escrow: escrow.transpose()?,
                })
            }
            Kind::Credential => return Err(ContentError),
        };
        fields.finish()?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_come_back_as_they_were() {
        for role in Role::ALL {
            let control = Control {
                role,
                tenant: Uid([1; 16]),
                membrane: Some(Uid([2; 16])),
                escrow: Some(EscrowKey::new([3; 32])),
            };
            let json = Content::Control(control).to_json();
            let Content::Control(back) = Content::from_json(Kind::Control, json.expose()).unwrap() else {
                panic!()
            };
            assert_eq!((back.role, back.tenant, back.membrane), (role, Uid([1; 16]), Some(Uid([2; 16]))));
            assert_eq!(back.escrow.unwrap().expose(), &[3; 32]);
            assert!(Content::from_json(Kind::Grant, json.expose()).is_err());
            assert!(Content::from_json(Kind::Credential, json.expose()).is_err());
        }
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused() {
        let json = br#"{"role":"create","tenant":"AQEBAQEBAQEBAQEBAQEBAQ","new":1}"#;
        assert!(Content::from_json(Kind::Control, json).is_err());
    }
}
