//! What the Membrane API does: present a control, then create, query, export, revoke or deleteSelf.
//!
//! Nothing here knows HTTP. Every method blocks (store and cryptography); callers keep it off the network's threads.

mod minting;

use crate::audit::Audit;
use crate::error::ApiError;
use crate::ports::{Clock, Random, Rng, draw};
use crate::reply::to_wiped_json;
pub use crate::store::Limits;
use crate::store::{
    Added, Found, Limit, Membrane, NewMembrane, NewTenant, Page, Position, Record, Revoked, Store,
};
use capability::record::{self, Header, Keks, Kind};
use capability::{
    Authority, CapabilityUri, Content, Control, Export, Exported, LookupId, MembraneId, Role, Token, Uid,
    Unit, UnitPair, Units, escrow,
};
use minting::{Mint, earlier};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most membranes in one answer; a larger `limit` is taken as this one, and `completed` says that there is more.
pub const MAX_LIMIT: usize = 1_000;

/// The registry over its store.
pub struct Registry {
    /// What is kept.
    pub store: Arc<dyn Store>,
    /// The outer keys.
    pub keks: Keks,
    /// The names under which our capabilities are honoured; the first goes into URIs that are minted.
    pub authorities: Authorities,
    /// Whether grants may lead to this machine and to private networks by literal address.
    pub allow_private_targets: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Who did what.
    pub audit: Audit,
    /// What a tenant may have.
    pub limits: Limits,
}

/// At least one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// What is minted into URIs.
    pub first: Authority,
    /// Other names that are ours.
    pub others: Vec<Authority>,
}

impl Authorities {
    fn are(&self, authority: &Authority) -> bool {
        // `host` and `host:443` are one place for HTTPS.
        let same = |ours: &Authority| {
            ours.host() == authority.host() && ours.port().unwrap_or(443) == authority.port().unwrap_or(443)
        };
        same(&self.first) || self.others.iter().any(same)
    }
}

/// A control that was presented, opened, and may be used.
#[derive(Debug)]
pub struct Presented {
    /// What it may do.
    pub control: Control,
    record: Record,
}

/// A secret as text, for answers and escrow: a capability's URI.
pub type SecretText = Zeroizing<String>;

/// What `create` gives.
#[derive(Debug, Serialize)]
pub struct Created {
    /// The id that was asked for.
    pub id: String,
    /// The membrane's controls.
    pub capabilities: MembraneUris,
    /// By which logs speak of it.
    #[serde(skip)]
    pub uid: Uid,
}

/// The URIs of a membrane's controls.
#[derive(Debug, Serialize)]
pub struct MembraneUris {
    /// The export control.
    pub export: SecretText,
    /// The revoke control.
    pub revoke: SecretText,
}

/// What `query` gives.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// In the order of their ids.
    pub membranes: Vec<Created>,
    /// Whether there are no more after these.
    pub completed: bool,
}

/// What `export` gives.
#[derive(Debug, Serialize)]
pub struct Minted {
    /// The new capability.
    pub capability: SecretText,
    /// By which logs speak of it.
    #[serde(skip)]
    pub lookup: LookupId,
}

/// What the operator hands to a new tenant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantUris {
    /// The tenant's name.
    pub id: String,
    /// Makes membranes.
    pub create: SecretText,
    /// Lists them.
    pub query: SecretText,
    /// Ends the tenant.
    pub delete_self: SecretText,
    /// By which logs speak of it.
    #[serde(skip)]
    pub uid: Uid,
}

/// What came of a revocation.
#[derive(Debug, Clone, Copy)]
pub struct RevokedAt {
    /// What was revoked.
    pub target: Uid,
    /// What it ended was alive until now.
    pub now: bool,
    /// A position that holds it.
    pub position: Position,
}

/// What a membrane's escrow holds. The id stands in it so that two rows' ids cannot be swapped.
#[derive(Serialize, Deserialize)]
struct Escrowed {
    id: String,
    export: SecretText,
    revoke: SecretText,
}

impl Registry {
    /// Finds the control that `token` stands for and opens it.
    ///
    /// A revoked membrane's revoke control and a revoked tenant's deleteSelf control go on being presentable: of what they act on,
    /// the liveness is ignored, of everything else it is not.
    pub fn present(&self, token: &Token) -> Result<Presented, ApiError> {
        let (found, _) = self.store.find(token.lookup_id())?;
        let found = found.filter(|found| found.record.kind == Kind::Control).ok_or(ApiError::Unauthorized)?;
        let Content::Control(control) = self.open(token, &found.record)? else {
            return Err(ApiError::Unauthorized);
        };
        let target = match control.role {
            Role::Revoke => control.membrane,
            Role::DeleteSelf => Some(control.tenant),
            Role::Create | Role::Query | Role::Export => None,
        };
        let counts = |unit: &Unit| target.is_none_or(|target| *unit != Unit::Uid(target));
        if found.is_expired(self.clock.now()) || found.dead.iter().any(counts) {
            return Err(ApiError::Unauthorized);
        }
        Ok(Presented { control, record: found.record })
    }

    /// Opens a record with the token presented for it. One that does not open was tampered with, or its KEK is missing: that is
    /// an operator's business, and no holder's.
    fn open(&self, token: &Token, record: &Record) -> Result<Content, ApiError> {
        let json = self.open_json(token, record)?;
        Content::from_json(record.kind, &json).map_err(|error| {
            tracing::error!(%error, "a record cannot be read");
            ApiError::Internal
        })
    }

    fn open_json(&self, token: &Token, record: &Record) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let header = Header {
            kind: record.kind,
            lookup: token.lookup_id(),
            expires_at: record.expires_at,
            units: &record.units,
        };
        self.keks
            .unwrap(header.lookup, &record.sealed)
            .and_then(|inner| record::open(token, &header, inner.as_bytes()))
            .map_err(|error| {
                tracing::error!(%error, "a record does not open: a row was edited, or its KEK is not loaded");
                ApiError::Internal
            })
    }

    fn mint(&self) -> Mint<'_> {
        Mint { keks: &self.keks, random: &*self.random, now: self.clock.now() }
    }

    fn uri(&self, token: Token) -> SecretText {
        CapabilityUri::new(self.authorities.first.clone(), token).to_secret_string()
    }

    /// Makes a tenant with its three controls; the operator's business. None if a tenant has the id.
    pub fn create_tenant(&self, id: &MembraneId) -> Result<Option<TenantUris>, ApiError> {
        let mint = self.mint();
        let uid = Uid(draw(&*self.random));
        let units = Units::own(UnitPair { tenant: uid, membrane: None });
        let ikm = Zeroizing::new(draw(&*self.random));
        let (private, public) = escrow::keypair(&ikm);
        let control = |role, escrow| Content::Control(Control { role, tenant: uid, membrane: None, escrow });
        let (create, create_record) = mint.record(&control(Role::Create, Some(public)), &units, None)?;
        let (query, query_record) = mint.record(&control(Role::Query, Some(private)), &units, None)?;
        let (delete_self, delete_record) = mint.record(&control(Role::DeleteSelf, None), &units, None)?;
        let tenant = NewTenant {
            uid,
            id: id.as_str().to_owned(),
            records: vec![create_record, query_record, delete_record],
            created_at: mint.now,
        };
        match self.store.add_tenant(&tenant)? {
            Added::Yes => Ok(Some(TenantUris {
                id: tenant.id,
                create: self.uri(create),
                query: self.uri(query),
                delete_self: self.uri(delete_self),
                uid,
            })),
            Added::Taken | Added::Dead(_) | Added::Full(_) => Ok(None),
        }
    }

    /// Makes a membrane of the control's tenant.
    pub fn create(&self, presented: &Presented, id: &MembraneId) -> Result<Created, ApiError> {
        let (mint, control) = (self.mint(), &presented.control);
        let public = control.escrow.as_ref().ok_or(ApiError::Internal)?;
        let (tenant, uid) = (control.tenant, Uid(draw(&*self.random)));
        let units = Units::join(UnitPair { tenant, membrane: Some(uid) }, &[&presented.record.units])
            .map_err(|error| ApiError::BadRequest(format!("this control was {error}")))?;
        let expires_at = presented.record.expires_at;
        let content = |role| Content::Control(Control { role, tenant, membrane: Some(uid), escrow: None });
        let (export, export_record) = mint.record(&content(Role::Export), &units, expires_at)?;
        let (revoke, revoke_record) = mint.record(&content(Role::Revoke), &units, expires_at)?;
        let uris =
            Escrowed { id: id.as_str().to_owned(), export: self.uri(export), revoke: self.uri(revoke) };
        let plaintext = to_wiped_json(&uris).ok_or(ApiError::Internal)?;
        let escrow =
            escrow::seal(public, tenant, uid, &plaintext, &mut Rng(&*self.random)).map_err(|error| {
                tracing::error!(%error, "a membrane's escrow could not be sealed");
                ApiError::Internal
            })?;
        let membrane =
            Membrane { uid, tenant, id: id.clone(), units, expires_at, escrow, created_at: mint.now };
        let new = NewMembrane { membrane, records: vec![export_record, revoke_record] };
        match self.store.add_membrane(&[presented.record.lookup], mint.now, &new, self.limits)? {
            Added::Yes => Ok(Created {
                id: uris.id,
                capabilities: MembraneUris { export: uris.export, revoke: uris.revoke },
                uid,
            }),
            Added::Taken => Err(ApiError::Conflict),
            Added::Full(limit) => Err(self.full(limit)),
            Added::Dead(_) => Err(ApiError::Unauthorized),
        }
    }

    /// Lists membranes of the control's tenant, with the URIs that `create` gave.
    pub fn query(&self, presented: &Presented, page: &Page) -> Result<Listed, ApiError> {
        let private = presented.control.escrow.as_ref().ok_or(ApiError::Internal)?;
        let (tenant, now) = (presented.control.tenant, self.clock.now());
        let limit = page.limit.min(MAX_LIMIT);
        let mut found = self.store.membranes(tenant, now, &Page { limit: limit + 1, ..page.clone() })?;
        let completed = found.len() <= limit;
        found.truncate(limit);
        let mut membranes = Vec::with_capacity(found.len());
        for membrane in found {
            let uris = escrow::open(private, tenant, membrane.uid, &membrane.escrow)
                .ok()
                .and_then(|json| serde_json::from_slice::<Escrowed>(&json).ok())
                .filter(|uris| uris.id == membrane.id.as_str())
                .ok_or_else(|| tampered("its escrow does not open"))?;
            let alive = self.is_control(&uris.export, Role::Export, &membrane)?
                && self.is_control(&uris.revoke, Role::Revoke, &membrane)?;
            // Revoked or expired since it was listed: as gone as one revoked a moment earlier.
            if alive {
                let capabilities = MembraneUris { export: uris.export, revoke: uris.revoke };
                membranes.push(Created { id: uris.id, capabilities, uid: membrane.uid });
            }
        }
        Ok(Listed { membranes, completed })
    }

    /// Whether the record behind a URI from escrow is there; an error if it is not the control that it is given out as.
    fn is_control(&self, uri: &str, role: Role, membrane: &Membrane) -> Result<bool, ApiError> {
        let uri = CapabilityUri::parse(uri).map_err(|_| tampered("its escrow holds no URI"))?;
        let (Some(Found { record, .. }), _) = self.store.find(uri.token().lookup_id())? else {
            return Ok(false);
        };
        match self.open(uri.token(), &record)? {
            Content::Control(control)
                if control.role == role
                    && control.tenant == membrane.tenant
                    && control.membrane == Some(membrane.uid) =>
            {
                Ok(true)
            }
            _ => Err(tampered("its escrow holds another control")),
        }
    }

    /// Mints a capability through the control's membrane.
    pub fn export(&self, presented: &Presented, export: Export) -> Result<Minted, ApiError> {
        match export.what {
            Exported::Grant(grant) => {
                if grant.target.authority.is_private_literal() && !self.allow_private_targets {
                    let rule =
                        "uri: must not lead to this machine or a private network (the operator may allow it)";
                    return Err(ApiError::BadRequest(rule.into()));
                }
                self.export_content(presented, &Content::Grant(grant), export.expires_at)
            }
            Exported::Capability(uri) if self.authorities.are(uri.authority()) => {
                self.re_export(presented, uri.token(), export.expires_at)
            }
            Exported::Capability(uri) => {
                let grant = minting::forward(&uri, self.allow_private_targets)?;
                self.export_content(presented, &Content::Grant(grant), export.expires_at)
            }
        }
    }

    fn export_content(
        &self,
        presented: &Presented,
        content: &Content,
        expires_at: Option<u64>,
    ) -> Result<Minted, ApiError> {
        let (mint, through) = (self.mint(), &presented.record);
        let units = self.join(presented, &[&through.units])?;
        let (token, record) = mint.record(content, &units, earlier(through.expires_at, expires_at))?;
        match self.store.add_record(&[through.lookup], mint.now, &record, self.limits)? {
            Added::Yes => Ok(Minted { capability: self.uri(token), lookup: record.lookup }),
            Added::Full(limit) => Err(self.full(limit)),
            Added::Taken | Added::Dead(_) => Err(ApiError::Unauthorized),
        }
    }

    /// One of ours again: the same content under a new token, dying with this membrane and with all that the old one depends on.
    fn re_export(
        &self,
        presented: &Presented,
        token: &Token,
        expires_at: Option<u64>,
    ) -> Result<Minted, ApiError> {
        // One answer for unknown, expired and revoked.
        let dead = || ApiError::BadRequest("capability: must be a capability that can be used".into());
        let (mint, through) = (self.mint(), &presented.record);
        let (source, _) = self.store.find(token.lookup_id())?;
        let source = source.filter(|found| found.is_alive(mint.now)).ok_or_else(dead)?.record;
        let json = self.open_json(token, &source)?;
        let units = self.join(presented, &[&through.units, &source.units])?;
        let units = units.re_exporting(source.lookup).map_err(too_deep)?;
        let expires_at = earlier(earlier(through.expires_at, source.expires_at), expires_at);
        let (new, record) = mint.sealed(source.kind, &json, &units, expires_at)?;
        match self.store.add_record(&[through.lookup, source.lookup], mint.now, &record, self.limits)? {
            Added::Yes => Ok(Minted { capability: self.uri(new), lookup: record.lookup }),
            Added::Full(limit) => Err(self.full(limit)),
            Added::Dead(lookup) if lookup == source.lookup => Err(dead()),
            Added::Taken | Added::Dead(_) => Err(ApiError::Unauthorized),
        }
    }

    fn full(&self, limit: Limit) -> ApiError {
        let most = match limit {
            Limit::Membranes => self.limits.membranes,
            Limit::Capabilities => self.limits.capabilities,
        };
        ApiError::Quota { limit, most: most.unwrap_or_default() }
    }

    fn join(&self, presented: &Presented, inherited: &[&Units]) -> Result<Units, ApiError> {
        let own = UnitPair { tenant: presented.control.tenant, membrane: presented.control.membrane };
        Units::join(own, inherited).map_err(too_deep)
    }

    /// Revokes what a revoke or deleteSelf control acts on.
    pub fn revoke(&self, presented: &Presented) -> Result<RevokedAt, ApiError> {
        let control = &presented.control;
        let target = match control.role {
            Role::DeleteSelf => Some(control.tenant),
            Role::Revoke => control.membrane,
            Role::Create | Role::Query | Role::Export => None,
        };
        let target = target.ok_or(ApiError::Internal)?;
        match self.store.revoke(Some(presented.record.lookup), Unit::Uid(target), self.clock.now())? {
            Revoked::Now(position) => {
                tracing::info!(unit = %target, seq = position.seq, role = control.role.as_str(), "revoked");
                Ok(RevokedAt { target, now: true, position })
            }
            // At whatever position it was: the head is not before it.
            Revoked::Already => Ok(RevokedAt { target, now: false, position: self.store.head()? }),
            Revoked::Dead => Err(ApiError::Unauthorized),
            Revoked::Unknown => Err(tampered("its unit is missing")),
        }
    }
}

fn too_deep(_: capability::TooDeep) -> ApiError {
    let limit = capability::MAX_UNIT_PAIRS;
    ApiError::BadRequest(format!("capability: can be delegated at most {limit} times"))
}

fn tampered(what: &'static str) -> ApiError {
    tracing::error!("a membrane cannot be given back: {what}");
    ApiError::Internal
}
