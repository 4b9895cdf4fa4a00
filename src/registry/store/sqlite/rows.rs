//! Rows as SQLite gives them.

use crate::store::rows::{self, RawMembrane, RawRecord};
use crate::store::{self, Event, Membrane, Position, Record, StoreError, Tenant, Watching};
use capability::Unit;
use rusqlite::Row;

/// What the row could not be read as is SQLite's error; what it held, ours.
type Parsed<T> = Result<Result<T, StoreError>, rusqlite::Error>;

pub(super) fn unit(row: &Row<'_>) -> Parsed<Unit> {
    Ok(rows::unit(row.get_ref(0)?.as_blob()?))
}

pub(super) fn position(row: &Row<'_>) -> Parsed<Position> {
    Ok(rows::position(row.get_ref(0)?.as_blob()?, row.get(1)?))
}

pub(super) fn event(row: &Row<'_>) -> Parsed<Event> {
    Ok(rows::event(row.get(0)?, row.get_ref(1)?.as_blob()?))
}

pub(super) fn watching(row: &Row<'_>) -> Parsed<Watching> {
    Ok(rows::watching(row.get_ref(0)?.as_blob()?, row.get(1)?, row.get(2)?))
}

pub(super) fn tenant(row: &Row<'_>) -> Parsed<Tenant> {
    Ok(rows::tenant(row.get_ref(0)?.as_blob()?, row.get(1)?, row.get(2)?))
}

pub(super) fn record(row: &Row<'_>) -> Parsed<Record> {
    let raw = RawRecord {
        lookup: row.get_ref(0)?.as_blob()?,
        sealed: row.get(1)?,
        kind: row.get(2)?,
        units: row.get_ref(3)?.as_blob()?,
        expires_at: row.get(4)?,
        created_at: row.get(5)?,
    };
    Ok(raw.read())
}

pub(super) fn membrane(row: &Row<'_>) -> Parsed<Membrane> {
    let raw = RawMembrane {
        uid: row.get_ref(0)?.as_blob()?,
        tenant: row.get_ref(1)?.as_blob()?,
        id: row.get_ref(2)?.as_str()?,
        units: row.get_ref(3)?.as_blob()?,
        expires_at: row.get(4)?,
        escrow: row.get(5)?,
        created_at: row.get(6)?,
    };
    Ok(raw.read())
}

pub(super) fn unit_row(row: &Row<'_>) -> Parsed<store::Row> {
    Ok(rows::unit_row(row.get_ref(0)?.as_blob()?, row.get(1)?))
}

pub(super) fn tenant_row(row: &Row<'_>) -> Parsed<store::Row> {
    let gone = row.get(3)?;
    Ok(tenant(row)?.map(|tenant| store::Row::Tenant { tenant, gone }))
}

pub(super) fn membrane_row(row: &Row<'_>) -> Parsed<store::Row> {
    let gone = row.get(7)?;
    Ok(membrane(row)?.map(|membrane| store::Row::Membrane { membrane, gone }))
}

pub(super) fn record_row(row: &Row<'_>) -> Parsed<store::Row> {
    Ok(record(row)?.map(store::Row::Record))
}
