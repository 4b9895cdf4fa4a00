//! The operator's side: tenants, membranes and leaked tokens, on the store beside a running server.

use crate::audit::Event;
use crate::error::ApiError;
use crate::registry::{Registry, TenantUris};
use crate::store::{Page, Revoked, StoreError, Tenant, Usage};
use capability::{IdError, MembraneId, Token, TokenError, Uid, Unit};
use serde::Serialize;

/// An operator's command that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The id breaks a rule.
    #[error("--id {0}")]
    Id(#[from] IdError),
    /// There is a tenant of this id.
    #[error("there is a tenant with this id: choose another one, or revoke it first")]
    Taken,
    /// There is no tenant of this id.
    #[error("there is no tenant with this id: see membrane-registry tenant list")]
    NoTenant,
    /// There is no membrane of this id.
    #[error("the tenant has no membrane with this id: see membrane-registry membrane list")]
    NoMembrane,
    /// What was given is no token.
    #[error("what was given is no token: {0}")]
    Token(#[from] TokenError),
    /// There is no capability of this token.
    #[error("no capability of this registry has this token")]
    NoCapability,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] ApiError),
}

/// A tenant or membrane in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The id that people gave it.
    pub id: String,
    /// Its uid, by which logs speak of it.
    pub uid: Uid,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// A tenant in a list, and what it has of what limits count.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantLine {
    /// The tenant itself.
    #[serde(flatten)]
    pub tenant: Line,
    /// How many membranes.
    pub membranes: u64,
    /// How many capabilities.
    pub capabilities: u64,
}

/// What a command that revokes did.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Whether it was alive until now.
    pub revoked: bool,
}

/// How many membranes are read at once.
const STEP: usize = 1_000;

/// Makes a tenant.
pub fn create_tenant(registry: &Registry, id: &str) -> Result<TenantUris, OperatorError> {
    let uris = registry.create_tenant(&MembraneId::parse(id)?)?.ok_or(OperatorError::Taken)?;
    let tenant = Some(uris.uid);
    registry.audit.write(&Event { tenant, ..Event::new(registry.clock.now(), "operator.tenant.create") });
    Ok(uris)
}

/// The tenants that are not revoked.
pub fn tenants(registry: &Registry) -> Result<Vec<TenantLine>, OperatorError> {
    let now = registry.clock.now();
    let line = |tenant: Tenant| {
        let Usage { membranes, capabilities } = registry.store.usage(tenant.uid, now)?;
        let tenant = Line { id: tenant.id, uid: tenant.uid, created_at: tenant.created_at };
        Ok(TenantLine { tenant, membranes, capabilities })
    };
    registry.store.tenants()?.into_iter().map(line).collect()
}

fn tenant(registry: &Registry, id: &str) -> Result<Uid, OperatorError> {
    let found = registry.store.tenants()?.into_iter().find(|tenant| tenant.id == id);
    found.map(|tenant| tenant.uid).ok_or(OperatorError::NoTenant)
}

/// Ends a tenant: every membrane and capability of it is dead.
pub fn revoke_tenant(registry: &Registry, id: &str) -> Result<Outcome, OperatorError> {
    let uid = tenant(registry, id)?;
    revoke(registry, Unit::Uid(uid), OperatorError::NoTenant)
}

/// A tenant's membranes that are alive, `each` as it is read.
pub fn membranes(registry: &Registry, id: &str, mut each: impl FnMut(Line)) -> Result<(), OperatorError> {
    let tenant = tenant(registry, id)?;
    let mut after = None;
    loop {
        let page = Page { id: None, after: after.take(), limit: STEP };
        let membranes = registry.store.membranes(tenant, registry.clock.now(), &page)?;
        let more = membranes.len() == STEP;
        for membrane in membranes {
            let (uid, created_at) = (membrane.uid, membrane.created_at);
            each(Line { id: membrane.id.as_str().to_owned(), uid, created_at });
            after = Some(membrane.id);
        }
        if !more {
            return Ok(());
        }
    }
}

/// Revokes a membrane.
pub fn revoke_membrane(registry: &Registry, tenant_id: &str, id: &str) -> Result<Outcome, OperatorError> {
    let tenant = tenant(registry, tenant_id)?;
    let page = Page { id: Some(MembraneId::parse(id)?), after: None, limit: 1 };
    let membranes = registry.store.membranes(tenant, registry.clock.now(), &page)?;
    let uid = membranes.first().ok_or(OperatorError::NoMembrane)?.uid;
    revoke(registry, Unit::Uid(uid), OperatorError::NoMembrane)
}

/// Revokes the one capability that a leaked token stands for. `text` may be the token alone or a capability URI around it.
pub fn revoke_token(registry: &Registry, text: &str) -> Result<Outcome, OperatorError> {
    let text = text.trim();
    let token = match capability::CapabilityUri::parse(text) {
        Ok(uri) => uri.token().lookup_id(),
        Err(_) => Token::parse(text.as_bytes())?.lookup_id(),
    };
    revoke(registry, Unit::Lookup(token), OperatorError::NoCapability)
}

fn revoke(registry: &Registry, unit: Unit, unknown: OperatorError) -> Result<Outcome, OperatorError> {
    let now = registry.clock.now();
    match registry.store.revoke(None, unit, now)? {
        Revoked::Now(position) => {
            let (unit, position) = (Some(unit), Some(position.into()));
            registry.audit.write(&Event { unit, position, ..Event::new(now, "operator.revoke") });
            Ok(Outcome { revoked: true })
        }
        Revoked::Already => Ok(Outcome { revoked: false }),
        // Without a guard nothing can be dead before it.
        Revoked::Unknown | Revoked::Dead => Err(unknown),
    }
}
