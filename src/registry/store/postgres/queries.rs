//! What is asked of the server, each inside a transaction that somebody else began.

use super::{Fail, counts, rows};
use crate::store::rows::{blob, number};
use crate::store::{
    Added, Event, Events, Found, Membrane, NewMembrane, NewTenant, Page, Position, Record, Rewrapped, Tenant,
    Watching,
};
use capability::{LookupId, Uid, Unit, UnitPair, Units};
use deadpool_postgres::ClientWrapper;
use std::collections::HashMap;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// How many membranes are looked at in one step of a listing.
const LISTING_STEP: usize = 256;

const SELECT_RECORD: &str = "SELECT lookup, sealed, kind, units, expires_at, created_at FROM records";
const SELECT_MEMBRANE: &str = "SELECT uid, tenant, id, units, expires_at, escrow, created_at FROM membranes
                               WHERE tenant = $1 AND NOT gone";

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) async fn query(tx: &ClientWrapper, sql: &str, with: Parameters<'_>) -> Result<Vec<Row>, Fail> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.query(&statement, with).await?)
}

/// How many rows were changed.
pub(super) async fn execute(tx: &ClientWrapper, sql: &str, with: Parameters<'_>) -> Result<u64, Fail> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.execute(&statement, with).await?)
}

pub(super) async fn head(tx: &ClientWrapper) -> Result<Position, Fail> {
    let statement = tx.prepare_cached("SELECT epoch, seq FROM head").await?;
    rows::position(&tx.query_one(&statement, &[]).await?)
}

pub(super) async fn find_at(tx: &ClientWrapper, lookup: LookupId) -> Result<(Option<Found>, Position), Fail> {
    let sql = "SELECT epoch, seq, lookup, sealed, kind, units, expires_at, created_at
               FROM head LEFT JOIN records ON lookup = $1";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_one(&statement, &[&&lookup.0[..]]).await?;
    let position = rows::position(&row)?;
    if row.try_get::<_, Option<&[u8]>>(2)?.is_none() {
        return Ok((None, position));
    }
    let found = with_dead_units(tx, vec![rows::record(&row, 2)?]).await?;
    Ok((found.into_iter().next(), position))
}

/// Which of these units are there, and whether each is revoked.
async fn units(tx: &ClientWrapper, wanted: &[&[u8]]) -> Result<HashMap<Vec<u8>, bool>, Fail> {
    let rows =
        query(tx, "SELECT unit, revoked_at IS NOT NULL FROM units WHERE unit = ANY($1)", &[&wanted]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn dead_units(units: &Units, there: &HashMap<Vec<u8>, bool>) -> Vec<Unit> {
    let revoked = |unit: &Unit| there.get(blob(unit)).copied();
    let uids = units.uids().map(Unit::Uid).filter(|unit| revoked(unit) != Some(false));
    // A capability has a row only once it was revoked by itself.
    let sources = units.sources().map(Unit::Lookup).filter(|unit| revoked(unit) == Some(true));
    uids.chain(sources).collect()
}

pub(super) async fn with_dead_units(tx: &ClientWrapper, records: Vec<Record>) -> Result<Vec<Found>, Fail> {
    let all: Vec<Unit> = records
        .iter()
        .flat_map(|record| record.units.all().chain([Unit::Lookup(record.lookup)]))
        .collect::<std::collections::HashSet<_>>()
        .into_iter()
        .collect();
    let there = units(tx, &all.iter().map(blob).collect::<Vec<_>>()).await?;
    let found = records.into_iter().map(|record| {
        let mut dead = dead_units(&record.units, &there);
        if there.get(&record.lookup.0[..]) == Some(&true) {
            dead.push(Unit::Lookup(record.lookup));
        }
        Found { record, dead }
    });
    Ok(found.collect())
}

pub(super) async fn is_alive(tx: &ClientWrapper, membrane: &Membrane, now: u64) -> Result<bool, Fail> {
    if membrane.expires_at.is_some_and(|at| at <= now) {
        return Ok(false);
    }
    let all: Vec<Unit> = membrane.units.all().collect();
    let there = units(tx, &all.iter().map(blob).collect::<Vec<_>>()).await?;
    Ok(dead_units(&membrane.units, &there).is_empty())
}

pub(super) async fn first_dead(
    tx: &ClientWrapper,
    guards: &[LookupId],
    now: u64,
) -> Result<Option<LookupId>, Fail> {
    for guard in guards {
        if !find_at(tx, *guard).await?.0.is_some_and(|found| found.is_alive(now)) {
            return Ok(Some(*guard));
        }
    }
    Ok(None)
}

pub(super) async fn add_tenant(tx: &ClientWrapper, tenant: &NewTenant) -> Result<Added, Fail> {
    let taken = query(tx, "SELECT 1 FROM tenants WHERE id = $1 AND NOT gone", &[&tenant.id]).await?;
    if !taken.is_empty() {
        return Ok(Added::Taken);
    }
    insert_unit(tx, tenant.uid).await?;
    let sql = "INSERT INTO tenants (uid, id, created_at, gone) VALUES ($1, $2, $3, FALSE)";
    execute(tx, sql, &[&&tenant.uid.0[..], &tenant.id, &number(tenant.created_at)]).await?;
    for record in &tenant.records {
        insert_record(tx, record).await?;
    }
    Ok(Added::Yes)
}

pub(super) async fn membrane(tx: &ClientWrapper, tenant: Uid, id: &str) -> Result<Option<Membrane>, Fail> {
    let sql = format!("{SELECT_MEMBRANE} AND id = $2");
    query(tx, &sql, &[&&tenant.0[..], &id]).await?.first().map(rows::membrane).transpose()
}

pub(super) async fn insert_membrane(tx: &ClientWrapper, new: &NewMembrane) -> Result<(), Fail> {
    insert_unit(tx, new.membrane.uid).await?;
    insert_membrane_row(tx, &new.membrane).await?;
    for record in &new.records {
        insert_record(tx, record).await?;
    }
    let mut changes = counts::Changes::default();
    changes.membranes(new.membrane.tenant, 1);
    changes.records(&new.records);
    changes.write(tx).await
}

pub(super) async fn insert_counted_record(tx: &ClientWrapper, record: &Record) -> Result<(), Fail> {
    let mut changes = counts::Changes::default();
    changes.records([record]);
    // In one go. What is counted last is waited for the shortest.
    let (inserted, counted) = tokio::join!(biased; insert_record(tx, record), changes.write(tx));
    inserted.and(counted)
}

pub(super) async fn insert_membrane_row(tx: &ClientWrapper, membrane: &Membrane) -> Result<(), Fail> {
    let sql = "INSERT INTO membranes (uid, tenant, id, units, expires_at, escrow, created_at, gone)
               VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE)";
    let with: Parameters<'_> = &[
        &&membrane.uid.0[..],
        &&membrane.tenant.0[..],
        &membrane.id.as_str(),
        &membrane.units.to_bytes(),
        &membrane.expires_at.map(number),
        &membrane.escrow,
        &number(membrane.created_at),
    ];
    execute(tx, sql, with).await?;
    Ok(())
}

async fn insert_unit(tx: &ClientWrapper, uid: Uid) -> Result<(), Fail> {
    execute(tx, "INSERT INTO units (unit, revoked_at) VALUES ($1, NULL)", &[&&uid.0[..]]).await?;
    Ok(())
}

pub(super) async fn insert_record(tx: &ClientWrapper, record: &Record) -> Result<(), Fail> {
    let sql = "INSERT INTO records (lookup, sealed, kind, units, expires_at, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    let with: Parameters<'_> = &[
        &&record.lookup.0[..],
        &record.sealed,
        &i64::from(record.kind as u8),
        &record.units.to_bytes(),
        &record.expires_at.map(number),
        &number(record.created_at),
    ];
    execute(tx, sql, with).await?;
    Ok(())
}

pub(super) async fn membranes(
    tx: &ClientWrapper,
    tenant: Uid,
    now: u64,
    page: &Page,
) -> Result<Vec<Membrane>, Fail> {
    let mut listed = Vec::new();
    // No id is empty, so that the empty string stands before all of them.
    let mut after = page.after.as_ref().map_or(String::new(), |id| id.as_str().to_owned());
    let id = page.id.as_ref().map(|id| id.as_str());
    let sql = format!(
        "{SELECT_MEMBRANE} AND id > $2 AND ($3::text IS NULL OR id = $3) ORDER BY id LIMIT {LISTING_STEP}"
    );
    loop {
        let batch = query(tx, &sql, &[&&tenant.0[..], &after, &id]).await?;
        let batch = batch.iter().map(rows::membrane).collect::<Result<Vec<Membrane>, Fail>>()?;
        let last = batch.len() < LISTING_STEP;
        let all: Vec<Unit> = batch
            .iter()
            .flat_map(|membrane| membrane.units.all())
            .collect::<std::collections::HashSet<_>>()
            .into_iter()
            .collect();
        let there = units(tx, &all.iter().map(blob).collect::<Vec<_>>()).await?;
        for membrane in batch {
            membrane.id.as_str().clone_into(&mut after);
            let expired = membrane.expires_at.is_some_and(|at| at <= now);
            if !expired && dead_units(&membrane.units, &there).is_empty() {
                listed.push(membrane);
            }
            if listed.len() >= page.limit {
                return Ok(listed);
            }
        }
        if last {
            return Ok(listed);
        }
    }
}

pub(super) async fn tenants(tx: &ClientWrapper) -> Result<Vec<Tenant>, Fail> {
    let rows = query(tx, "SELECT uid, id, created_at FROM tenants WHERE NOT gone ORDER BY id", &[]).await?;
    rows.iter().map(rows::tenant).collect()
}

pub(super) async fn events(tx: &ClientWrapper, after: Option<Position>) -> Result<Events, Fail> {
    // The head, and the oldest event that is kept: both by an index, the usual answer without a further question.
    let sql = "SELECT epoch, seq, (SELECT min(seq) FROM events) FROM head";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_one(&statement, &[]).await?;
    let head = rows::position(&row)?;
    let first: Option<i64> = row.try_get(2)?;
    let oldest = first.and_then(|seq| u64::try_from(seq).ok()).map_or(head.seq, |seq| seq.saturating_sub(1));
    let after = after
        .filter(|position| position.epoch == head.epoch && (oldest..=head.seq).contains(&position.seq))
        .map_or(oldest, |position| position.seq);
    if after == head.seq {
        return Ok(Events { head, events: Vec::new() });
    }
    let rows =
        query(tx, "SELECT seq, unit FROM events WHERE seq > $1 ORDER BY seq", &[&number(after)]).await?;
    Ok(Events { head, events: rows.iter().map(rows::event).collect::<Result<Vec<Event>, Fail>>()? })
}

pub(super) async fn note_watchers(tx: &ClientWrapper, watching: &[Watching], now: u64) -> Result<(), Fail> {
    // In one order, so that two processes that write the same ones wait for each other and never both.
    let mut sorted: Vec<&Watching> = watching.iter().collect();
    sorted.sort_by_key(|watching| watching.watcher.0);
    let sql = "INSERT INTO watchers (watcher, lease, until) VALUES ($1, $2, $3)
               ON CONFLICT (watcher) DO UPDATE SET
                   lease = GREATEST(watchers.lease, excluded.lease), until = GREATEST(watchers.until, excluded.until)";
    for Watching { watcher, lease, until } in sorted {
        execute(tx, sql, &[&&watcher.0[..], &number(*lease), &number(*until)]).await?;
    }
    execute(tx, "DELETE FROM watchers WHERE until < $1", &[&number(now)]).await?;
    Ok(())
}

pub(super) async fn watchers(tx: &ClientWrapper, now: u64) -> Result<Vec<Watching>, Fail> {
    let sql = "SELECT watcher, lease, until FROM watchers WHERE until >= $1";
    query(tx, sql, &[&number(now)]).await?.iter().map(rows::watching).collect()
}

pub(super) async fn records(
    tx: &ClientWrapper,
    after: Option<LookupId>,
    limit: usize,
) -> Result<Vec<Record>, Fail> {
    let sql = format!("{SELECT_RECORD} WHERE lookup > $1 ORDER BY lookup LIMIT $2");
    let after = after.map_or(Vec::new(), |lookup| lookup.0.to_vec());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query(tx, &sql, &[&after, &limit]).await?.iter().map(|row| rows::record(row, 0)).collect()
}

pub(super) async fn delete_records(tx: &ClientWrapper, dead: &[(LookupId, UnitPair)]) -> Result<(), Fail> {
    let own: Vec<UnitPair> = dead.iter().map(|(_, own)| *own).collect();
    counts::lock(tx, &own).await?;
    let lookups: Vec<&[u8]> = dead.iter().map(|(lookup, _)| &lookup.0[..]).collect();
    // Another process may have been here meanwhile.
    let sql = "DELETE FROM records WHERE lookup = ANY($1) RETURNING lookup";
    let mut removed = Vec::new();
    for row in query(tx, sql, &[&lookups]).await? {
        let lookup: &[u8] = row.try_get(0)?;
        removed.extend(dead.iter().filter(|(dead, _)| dead.0 == lookup).map(|(_, own)| *own));
    }
    counts::removed(tx, &removed).await
}

pub(super) async fn rewrap(tx: &ClientWrapper, records: &[Rewrapped]) -> Result<usize, Fail> {
    let mut done = 0;
    for record in records {
        let sql = "UPDATE records SET sealed = $3 WHERE lookup = $1 AND sealed = $2";
        let changed = execute(tx, sql, &[&&record.lookup.0[..], &record.before, &record.after]).await?;
        done += usize::try_from(changed).unwrap_or(usize::MAX);
    }
    Ok(done)
}
