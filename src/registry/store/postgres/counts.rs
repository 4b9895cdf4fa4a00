//! What each tenant has, counted as it comes and goes, so that a limit costs the same whatever there is; and limits that hold however many
//! processes export at once.
//!
//! * **Counting** makes nobody wait who need not: each session adds to rows of its own ([`SLOTS`] for each tenant and membrane), and what a
//!   tenant has is their sum. A single one may be below zero.
//! * **A limit** is kept by an advisory lock of the tenant's. Far from it, exports share that lock: each of them sees all but what is
//!   under way, and that is no more than the server has connections. Closer than that they take turns ([`Hold::Alone`]), and see everything.
//! * **A membrane that is revoked** takes what it had out of its tenant's sum at once. An export that was under way has then counted what is
//!   dead; that is taken out when its record is cleared up.
//!
//! Rows are locked in the order of their units, so that nobody waits for somebody who waits for them.

use super::Fail;
use super::queries::{execute, query};
use crate::store::rows::{self as raw, blob, number};
use crate::store::{Limit, Limits, Record, Usage};
use capability::{Uid, Unit, UnitPair};
use deadpool_postgres::ClientWrapper;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::ToSql;

/// Rows for each tenant and membrane at most. More than a process has connections; they are summed up where there is a limit.
const SLOTS: i64 = 32;

/// How a tenant's limits are held while something is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// With others.
    Shared,
    /// By nobody else.
    Alone,
}

/// What came of asking for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Yes,
    /// There is none.
    Full(Limit),
    /// So close to the limit that only who is alone can tell.
    Unclear,
}

/// Whether there is room, until the transaction ends. To be asked under `READ COMMITTED`, before anything else that must see what others
/// did: with the lock, and each statement of its own, it sees all that came before it.
pub(super) async fn room(
    tx: &ClientWrapper,
    tenant: Uid,
    limits: Limits,
    more: Usage,
    now: u64,
    hold: Hold,
) -> Result<Room, Fail> {
    if limits == Limits::default() {
        return Ok(Room::Yes);
    }
    let (first, _) = tenant.0.split_at(8);
    let key = i64::from_be_bytes(first.try_into().unwrap_or_default());
    let lock = match hold {
        Hold::Shared => "SELECT pg_advisory_xact_lock_shared($1)",
        Hold::Alone => "SELECT pg_advisory_xact_lock($1)",
    };
    let sql = "SELECT COALESCE(sum(membranes), 0)::bigint, COALESCE(sum(capabilities), 0)::bigint,
                      current_setting('max_connections')::bigint
               FROM counted WHERE unit = $1";
    // Both are prepared before either is sent: they go in one go and in this order, and the server does one after the other, each with a
    // snapshot of its own.
    let (lock, sum) = (tx.prepare_cached(lock).await?, tx.prepare_cached(sql).await?);
    let unit = &tenant.0[..];
    let (with_key, with_unit): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&key], [&unit]);
    let (locked, counted) = tokio::join!(biased; tx.query(&lock, &with_key), tx.query(&sum, &with_unit));
    locked?;
    let counted = counted?;
    let Some(row) = counted.first() else { return Ok(Room::Unclear) };
    let has = raw::usage(row.try_get(0)?, row.try_get(1)?)?;
    let under_way = match hold {
        Hold::Alone => 0,
        Hold::Shared => raw::time(row.try_get(2)?)?.saturating_mul(more.capabilities.max(1)),
    };
    if let Some(most) = limits.membranes.filter(|_| more.membranes > 0) {
        if hold == Hold::Shared {
            return Ok(Room::Unclear);
        }
        // Those that have expired are counted only where it matters.
        if has.membranes + more.membranes > most
            && usage(tx, tenant, now).await?.membranes + more.membranes > most
        {
            return Ok(Room::Full(Limit::Membranes));
        }
    }
    if let Some(most) = limits.capabilities.filter(|_| more.capabilities > 0) {
        let wanted = has.capabilities + more.capabilities;
        if wanted > most {
            return Ok(Room::Full(Limit::Capabilities));
        }
        if wanted.saturating_add(under_way) > most {
            return Ok(Room::Unclear);
        }
    }
    Ok(Room::Yes)
}

pub(super) async fn usage(tx: &ClientWrapper, tenant: Uid, now: u64) -> Result<Usage, Fail> {
    let sql = "SELECT COALESCE(sum(membranes), 0)::bigint - (SELECT count(*) FROM membranes
                   WHERE tenant = $1 AND NOT gone AND expires_at <= $2), COALESCE(sum(capabilities), 0)::bigint
               FROM counted WHERE unit = $1";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_one(&statement, &[&&tenant.0[..], &number(now)]).await?;
    Ok(raw::usage(row.try_get(0)?, row.try_get(1)?)?)
}

/// What is to be added to the counts of units, by their bytes.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<[u8; 16], (i64, i64)>);

impl Changes {
    pub(super) fn membranes(&mut self, tenant: Uid, number: i64) {
        self.0.entry(tenant.0).or_default().0 += number;
    }

    pub(super) fn capabilities(&mut self, unit: Uid, number: i64) {
        self.0.entry(unit.0).or_default().1 += number;
    }

    pub(super) fn records<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) {
        for own in records.into_iter().filter_map(Record::own) {
            if let UnitPair { tenant, membrane: Some(membrane) } = own {
                self.capabilities(membrane, 1);
                self.capabilities(tenant, 1);
            }
        }
    }

    pub(super) async fn write(self, tx: &ClientWrapper) -> Result<(), Fail> {
        if self.0.is_empty() {
            return Ok(());
        }
        let units: Vec<&[u8]> = self.0.keys().map(|unit| &unit[..]).collect();
        let (membranes, capabilities): (Vec<i64>, Vec<i64>) = self.0.values().copied().unzip();
        let sql = "INSERT INTO counted (unit, slot, membranes, capabilities)
                   SELECT unit, pg_backend_pid() % $4::bigint, membranes, capabilities
                       FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS more (unit, membranes, capabilities)
                   ON CONFLICT (unit, slot) DO UPDATE SET
                       membranes = counted.membranes + excluded.membranes,
                       capabilities = counted.capabilities + excluded.capabilities";
        execute(tx, sql, &[&units, &membranes, &capabilities, &SLOTS]).await?;
        Ok(())
    }
}

/// A membrane of the tenant is gone, and all that it had with it. Its unit is locked.
pub(super) async fn membrane_gone(tx: &ClientWrapper, tenant: Uid, membrane: Uid) -> Result<(), Fail> {
    let mut changes = Changes::default();
    changes.membranes(tenant, -1);
    release(tx, &[(tenant, membrane)], &mut changes).await?;
    changes.write(tx).await
}

/// Takes out of the tenants' sums what membranes that are gone still have in them.
async fn release(tx: &ClientWrapper, gone: &[(Uid, Uid)], changes: &mut Changes) -> Result<(), Fail> {
    let units: Vec<&[u8]> = gone.iter().map(|(_, membrane)| &membrane.0[..]).collect();
    let sql = "SELECT unit, sum(capabilities)::bigint FROM counted WHERE unit = ANY($1) GROUP BY unit";
    let mut had = BTreeMap::new();
    for row in query(tx, sql, &[&units]).await? {
        had.insert(raw::uid(row.try_get(0)?)?.0, row.try_get::<_, i64>(1)?);
    }
    for (tenant, membrane) in gone {
        if let Some(had) = had.get(&membrane.0).filter(|had| **had != 0) {
            changes.capabilities(*tenant, -had);
            changes.capabilities(*membrane, -had);
        }
    }
    Ok(())
}

/// Records were cleared up: what they counted as goes, or went when their membrane did. The membranes' units are locked.
pub(super) async fn removed(tx: &ClientWrapper, own: &[UnitPair]) -> Result<(), Fail> {
    let mut pairs: BTreeMap<[u8; 16], (Uid, i64)> = BTreeMap::new();
    for pair in own {
        if let UnitPair { tenant, membrane: Some(membrane) } = *pair {
            pairs.entry(membrane.0).or_insert((tenant, 0)).1 += 1;
        }
    }
    let units: Vec<&[u8]> = pairs.keys().map(|unit| &unit[..]).collect();
    let sql = "SELECT unit FROM units WHERE unit = ANY($1) AND revoked_at IS NOT NULL";
    let mut gone = Vec::new();
    for row in query(tx, sql, &[&units]).await? {
        let membrane = raw::uid(row.try_get(0)?)?;
        gone.extend(pairs.remove(&membrane.0).map(|(tenant, _)| (tenant, membrane)));
    }
    let mut changes = Changes::default();
    for (membrane, (tenant, number)) in pairs {
        changes.capabilities(tenant, -number);
        changes.capabilities(Uid(membrane), -number);
    }
    release(tx, &gone, &mut changes).await?;
    changes.write(tx).await
}

/// Nobody revokes these membranes until the transaction ends.
pub(super) async fn lock(tx: &ClientWrapper, own: &[UnitPair]) -> Result<(), Fail> {
    let membranes: BTreeSet<[u8; 16]> =
        own.iter().filter_map(|pair| pair.membrane).map(|membrane| membrane.0).collect();
    let units: Vec<&[u8]> = membranes.iter().map(|unit| &unit[..]).collect();
    query(tx, "SELECT 1 FROM units WHERE unit = ANY($1) ORDER BY unit FOR UPDATE", &[&units]).await?;
    Ok(())
}

/// A tenant is gone: nobody asks any more what it has.
pub(super) async fn tenant_gone(tx: &ClientWrapper, tenant: Uid) -> Result<(), Fail> {
    execute(tx, "DELETE FROM counted WHERE unit = $1", &[&blob(&Unit::Uid(tenant))]).await?;
    Ok(())
}

/// Counts everything: a store that was not counted yet, or into which rows were brought. Some seconds for a million records. The first
/// pair of `capability::Units::to_bytes` stands behind a byte that says how many there are.
pub(super) const ALL: &str = "
DELETE FROM counted;
INSERT INTO counted (unit, slot, membranes, capabilities)
    SELECT uid, 0, 0, number FROM
        (SELECT substr(units, 18, 16) AS own, count(*) AS number FROM records GROUP BY own) AS of_records
        JOIN membranes ON uid = own AND NOT gone;
INSERT INTO counted (unit, slot, membranes, capabilities)
    SELECT tenant, 0, count(*), sum(coalesce(capabilities, 0)) FROM membranes
        JOIN tenants ON tenants.uid = tenant AND NOT tenants.gone
        LEFT JOIN counted ON unit = membranes.uid
        WHERE NOT membranes.gone GROUP BY tenant;
";
