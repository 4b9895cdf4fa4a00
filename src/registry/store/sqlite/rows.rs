//! Rows, and what they hold. What cannot be read is an error, never a default.

use crate::store::{Epoch, Event, Membrane, Position, Record, StoreError, Tenant, Watching};
use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, UnitPair, Units};
use rusqlite::Row;

/// SQLite's integers are signed; times and sequence numbers stay far below its largest.
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

fn to_units(bytes: &[u8]) -> Result<Units, StoreError> {
    Units::from_bytes(bytes).ok_or(StoreError::Damaged("list of units"))
}

fn uid(bytes: Vec<u8>) -> Result<Uid, StoreError> {
    bytes.try_into().map(Uid).map_err(|_| StoreError::Damaged("uid"))
}

fn time(seconds: i64) -> Result<u64, StoreError> {
    u64::try_from(seconds).map_err(|_| StoreError::Damaged("time"))
}

fn to_unit(bytes: Vec<u8>) -> Result<Unit, StoreError> {
    match <[u8; 32]>::try_from(bytes) {
        Ok(lookup) => Ok(Unit::Lookup(LookupId(lookup))),
        Err(bytes) => uid(bytes).map(Unit::Uid),
    }
}

type Parsed<T> = Result<Result<T, StoreError>, rusqlite::Error>;

pub(super) fn unit(row: &Row<'_>) -> Parsed<Unit> {
    Ok(to_unit(row.get(0)?))
}

pub(super) fn position(row: &Row<'_>) -> Parsed<Position> {
    let (epoch, seq): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
    Ok((|| {
        let epoch = Epoch(epoch.try_into().map_err(|_| StoreError::Damaged("epoch"))?);
        Ok(Position { epoch, seq: time(seq)? })
    })())
}

pub(super) fn event(row: &Row<'_>) -> Parsed<Event> {
    let (seq, unit): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
    Ok((|| Ok(Event { seq: time(seq)?, unit: to_unit(unit)? }))())
}

pub(super) fn watching(row: &Row<'_>) -> Parsed<Watching> {
    let (watcher, lease, until): (Vec<u8>, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok((|| Ok(Watching { watcher: uid(watcher)?, lease: time(lease)?, until: time(until)? }))())
}

pub(super) fn tenant(row: &Row<'_>) -> Parsed<Tenant> {
    let (bytes, id, created_at): (Vec<u8>, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok((|| Ok(Tenant { uid: uid(bytes)?, id, created_at: time(created_at)? }))())
}

pub(super) fn record(row: &Row<'_>) -> Parsed<Record> {
    let (lookup, sealed, kind): (Vec<u8>, Vec<u8>, u8) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (units, expires_at, created_at): (Vec<u8>, Option<i64>, i64) =
        (row.get(3)?, row.get(4)?, row.get(5)?);
    Ok((|| {
        Ok(Record {
            lookup: LookupId(lookup.try_into().map_err(|_| StoreError::Damaged("lookup id"))?),
            sealed,
            kind: Kind::from_number(kind).ok_or(StoreError::Damaged("kind"))?,
            units: to_units(&units)?,
            expires_at: expires_at.map(time).transpose()?,
            created_at: time(created_at)?,
        })
    })())
}

pub(super) fn membrane(row: &Row<'_>) -> Parsed<Membrane> {
    let (bytes, tenant, id): (Vec<u8>, Vec<u8>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (units, expires_at): (Vec<u8>, Option<i64>) = (row.get(3)?, row.get(4)?);
    let (escrow, created_at): (Option<Vec<u8>>, i64) = (row.get(5)?, row.get(6)?);
    Ok((|| {
        let (uid, tenant, units) = (uid(bytes)?, uid(tenant)?, to_units(&units)?);
        // A row is revoked by its uid where its units are dead: that must not be another's, whoever edited it.
        if units.iter().next() != Some(UnitPair { tenant, membrane: Some(uid) }) {
            return Err(StoreError::Damaged("membrane with another's units"));
        }
        Ok(Membrane {
            uid,
            tenant,
            id: MembraneId::parse(&id).map_err(|_| StoreError::Damaged("membrane id"))?,
            units,
            expires_at: expires_at.map(time).transpose()?,
            escrow: escrow.unwrap_or_default(),
            created_at: time(created_at)?,
        })
    })())
}
