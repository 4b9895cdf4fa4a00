//! What a row of any backend holds. What cannot be read is an error, never a default.

use super::{Epoch, Event, Membrane, Position, Record, Row, StoreError, Tenant, Usage, Watching};
use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, UnitPair, Units};

/// SQL's integers are signed; times and sequence numbers stay far below their largest.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A unit's bytes.
pub(super) fn blob(unit: &Unit) -> &[u8] {
    match unit {
        Unit::Uid(uid) => &uid.0,
        Unit::Lookup(lookup) => &lookup.0,
    }
}

pub(super) fn uid(bytes: &[u8]) -> Result<Uid, StoreError> {
    bytes.try_into().map(Uid).map_err(|_| StoreError::Damaged("uid"))
}

pub(super) fn time(seconds: i64) -> Result<u64, StoreError> {
    u64::try_from(seconds).map_err(|_| StoreError::Damaged("time"))
}

/// Of what is counted. Below zero it can only be if somebody edited it.
pub(super) fn usage(membranes: i64, capabilities: i64) -> Result<Usage, StoreError> {
    let count = |number: i64| u64::try_from(number).map_err(|_| StoreError::Damaged("count"));
    Ok(Usage { membranes: count(membranes)?, capabilities: count(capabilities)? })
}

pub(super) fn unit(bytes: &[u8]) -> Result<Unit, StoreError> {
    match <[u8; 32]>::try_from(bytes) {
        Ok(lookup) => Ok(Unit::Lookup(LookupId(lookup))),
        Err(_) => uid(bytes).map(Unit::Uid),
    }
}

pub(super) fn position(epoch: &[u8], seq: i64) -> Result<Position, StoreError> {
    let epoch = Epoch(epoch.try_into().map_err(|_| StoreError::Damaged("epoch"))?);
    Ok(Position { epoch, seq: time(seq)? })
}

pub(super) fn event(seq: i64, bytes: &[u8]) -> Result<Event, StoreError> {
    Ok(Event { seq: time(seq)?, unit: unit(bytes)? })
}

pub(super) fn watching(watcher: &[u8], lease: i64, until: i64) -> Result<Watching, StoreError> {
    Ok(Watching { watcher: uid(watcher)?, lease: time(lease)?, until: time(until)? })
}

pub(super) fn tenant(bytes: &[u8], id: String, created_at: i64) -> Result<Tenant, StoreError> {
    Ok(Tenant { uid: uid(bytes)?, id, created_at: time(created_at)? })
}

/// The columns of `records`, as SQL has them.
pub(super) struct RawRecord<'a> {
    pub(super) lookup: &'a [u8],
    pub(super) sealed: Vec<u8>,
    pub(super) kind: i64,
    pub(super) units: &'a [u8],
    pub(super) expires_at: Option<i64>,
    pub(super) created_at: i64,
}

impl RawRecord<'_> {
    pub(super) fn read(self) -> Result<Record, StoreError> {
        let kind = u8::try_from(self.kind).ok().and_then(Kind::from_number);
        Ok(Record {
            lookup: LookupId(self.lookup.try_into().map_err(|_| StoreError::Damaged("lookup id"))?),
            sealed: self.sealed,
            kind: kind.ok_or(StoreError::Damaged("kind"))?,
            units: Units::from_bytes(self.units).ok_or(StoreError::Damaged("list of units"))?,
            expires_at: self.expires_at.map(time).transpose()?,
            created_at: time(self.created_at)?,
        })
    }
}

/// The columns of `membranes`, as SQL has them.
pub(super) struct RawMembrane<'a> {
    pub(super) uid: &'a [u8],
    pub(super) tenant: &'a [u8],
    pub(super) id: &'a str,
    pub(super) units: &'a [u8],
    pub(super) expires_at: Option<i64>,
    pub(super) escrow: Option<Vec<u8>>,
    pub(super) created_at: i64,
}

impl RawMembrane<'_> {
    pub(super) fn read(self) -> Result<Membrane, StoreError> {
        let (uid, tenant) = (uid(self.uid)?, uid(self.tenant)?);
        let units = Units::from_bytes(self.units).ok_or(StoreError::Damaged("list of units"))?;
        // A row is revoked by its uid where its units are dead: that must not be another's, whoever edited it.
        if units.iter().next() != Some(UnitPair { tenant, membrane: Some(uid) }) {
            return Err(StoreError::Damaged("membrane with another's units"));
        }
        Ok(Membrane {
            uid,
            tenant,
            id: MembraneId::parse(self.id).map_err(|_| StoreError::Damaged("membrane id"))?,
            units,
            expires_at: self.expires_at.map(time).transpose()?,
            escrow: self.escrow.unwrap_or_default(),
            created_at: time(self.created_at)?,
        })
    }
}

pub(super) fn unit_row(bytes: &[u8], revoked_at: Option<i64>) -> Result<Row, StoreError> {
    Ok(Row::Unit { unit: unit(bytes)?, revoked_at: revoked_at.map(time).transpose()? })
}
