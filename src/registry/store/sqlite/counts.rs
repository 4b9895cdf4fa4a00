//! What each tenant has, counted as it comes and goes, so that a limit costs the same whatever there is.
//!
//! A row of `counted` is a membrane's or a tenant's. A membrane's ends with it, and its capabilities leave the tenant's at that moment: records
//! of a membrane without a row are not counted any more, and clearing them up changes nothing.

use crate::store::rows::number;
use crate::store::{Limit, Limits, Record, StoreError, Usage, rows};
use capability::{Uid, UnitPair};
use rusqlite::{Connection, OptionalExtension as _, params};

/// Which limit there is no room under for so much more. To be asked in the transaction that adds it.
pub(super) fn full(
    tx: &Connection,
    tenant: Uid,
    limits: Limits,
    more: Usage,
    now: u64,
) -> Result<Option<Limit>, StoreError> {
    if limits == Limits::default() {
        return Ok(None);
    }
    let standing = standing(tx, tenant)?;
    let exceeds =
        |limit: Option<u64>, has: u64, more: u64| more > 0 && limit.is_some_and(|most| has + more > most);
    // Those that have expired are counted only where it matters.
    if exceeds(limits.membranes, standing.membranes, more.membranes)
        && exceeds(limits.membranes, usage(tx, tenant, now)?.membranes, more.membranes)
    {
        return Ok(Some(Limit::Membranes));
    }
    let full = exceeds(limits.capabilities, standing.capabilities, more.capabilities);
    Ok(full.then_some(Limit::Capabilities))
}

/// What is counted, the membranes that have expired among it.
fn standing(tx: &Connection, tenant: Uid) -> Result<Usage, StoreError> {
    let row = tx
        .prepare_cached("SELECT membranes, capabilities FROM counted WHERE unit = ?1")?
        .query_row(params![tenant.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map_or(Ok(Usage::default()), |(membranes, capabilities)| rows::usage(membranes, capabilities))
}

pub(super) fn usage(tx: &Connection, tenant: Uid, now: u64) -> Result<Usage, StoreError> {
    let standing = standing(tx, tenant)?;
    let expired: i64 = tx
        .prepare_cached("SELECT count(*) FROM membranes WHERE tenant = ?1 AND gone = 0 AND expires_at <= ?2")?
        .query_row(params![tenant.0, number(now)], |row| row.get(0))?;
    let membranes = standing.membranes.saturating_sub(rows::time(expired)?);
    Ok(Usage { membranes, ..standing })
}

/// A membrane is there.
pub(super) fn membrane(tx: &Connection, tenant: Uid) -> Result<(), StoreError> {
    add(tx, tenant, 1, 0)
}

/// A record is there.
pub(super) fn record(tx: &Connection, record: &Record) -> Result<(), StoreError> {
    if let Some(UnitPair { tenant, membrane: Some(membrane) }) = record.own() {
        add(tx, membrane, 0, 1)?;
        add(tx, tenant, 0, 1)?;
    }
    Ok(())
}

fn add(tx: &Connection, unit: Uid, membranes: i64, capabilities: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO counted (unit, membranes, capabilities) VALUES (?1, ?2, ?3)
         ON CONFLICT (unit) DO UPDATE SET
             membranes = membranes + excluded.membranes, capabilities = capabilities + excluded.capabilities",
    )?
    .execute(params![unit.0, membranes, capabilities])?;
    Ok(())
}

/// A record was cleared up.
pub(super) fn removed(tx: &Connection, own: Option<UnitPair>) -> Result<(), StoreError> {
    let Some(UnitPair { tenant, membrane: Some(membrane) }) = own else { return Ok(()) };
    let mut less = tx.prepare_cached("UPDATE counted SET capabilities = capabilities - 1 WHERE unit = ?1")?;
    if less.execute(params![membrane.0])? > 0 {
        less.execute(params![tenant.0])?;
    }
    Ok(())
}

/// A membrane of the tenant is gone, and all that it had with it.
pub(super) fn membrane_gone(tx: &Connection, tenant: Uid, membrane: Uid) -> Result<(), StoreError> {
    let had: Option<i64> = tx
        .prepare_cached("DELETE FROM counted WHERE unit = ?1 RETURNING capabilities")?
        .query_row(params![membrane.0], |row| row.get(0))
        .optional()?;
    tx.prepare_cached(
        "UPDATE counted SET membranes = membranes - 1, capabilities = capabilities - ?2 WHERE unit = ?1",
    )?
    .execute(params![tenant.0, had.unwrap_or_default()])?;
    Ok(())
}

/// A tenant is gone: nobody asks any more what it has.
pub(super) fn tenant_gone(tx: &Connection, tenant: Uid) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM counted WHERE unit = ?1")?.execute(params![tenant.0])?;
    Ok(())
}

/// Counts everything: a store that was not counted yet, or into which rows were brought. Some seconds for a million records.
pub(super) fn all(tx: &Connection) -> Result<(), StoreError> {
    // The first pair of `capability::Units::to_bytes`, behind a byte that says how many there are.
    tx.execute_batch(
        "DELETE FROM counted;
         INSERT INTO counted (unit, membranes, capabilities)
             SELECT uid, 0, number FROM
                 (SELECT substr(units, 18, 16) AS own, count(*) AS number FROM records GROUP BY own)
                 JOIN membranes ON uid = own AND gone = 0;
         INSERT INTO counted (unit, membranes, capabilities)
             SELECT tenant, count(*), sum(coalesce(capabilities, 0)) FROM membranes
                 JOIN tenants ON tenants.uid = tenant AND tenants.gone = 0
                 LEFT JOIN counted ON unit = membranes.uid
                 WHERE membranes.gone = 0 GROUP BY tenant;",
    )?;
    Ok(())
}
