//! Rows as PostgreSQL gives them.

use super::Fail;
use crate::store::rows::{self, RawMembrane, RawRecord};
use crate::store::{Event, Membrane, Position, Record, Tenant, Watching};
use capability::Unit;
use tokio_postgres::Row;

pub(super) fn unit(row: &Row) -> Result<Unit, Fail> {
    Ok(rows::unit(row.try_get(0)?)?)
}

pub(super) fn position(row: &Row) -> Result<Position, Fail> {
    Ok(rows::position(row.try_get(0)?, row.try_get(1)?)?)
}

pub(super) fn event(row: &Row) -> Result<Event, Fail> {
    Ok(rows::event(row.try_get(0)?, row.try_get(1)?)?)
}

pub(super) fn watching(row: &Row) -> Result<Watching, Fail> {
    Ok(rows::watching(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?)
}

pub(super) fn tenant(row: &Row) -> Result<Tenant, Fail> {
    Ok(rows::tenant(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?)
}

/// The columns of a record, from the one numbered `first` on.
pub(super) fn record(row: &Row, first: usize) -> Result<Record, Fail> {
    let raw = RawRecord {
        lookup: row.try_get(first)?,
        sealed: row.try_get(first + 1)?,
        kind: row.try_get(first + 2)?,
        units: row.try_get(first + 3)?,
        expires_at: row.try_get(first + 4)?,
        created_at: row.try_get(first + 5)?,
    };
    Ok(raw.read()?)
}

pub(super) fn membrane(row: &Row) -> Result<Membrane, Fail> {
    let raw = RawMembrane {
        uid: row.try_get(0)?,
        tenant: row.try_get(1)?,
        id: row.try_get(2)?,
        units: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        escrow: row.try_get(5)?,
        created_at: row.try_get(6)?,
    };
    Ok(raw.read()?)
}
