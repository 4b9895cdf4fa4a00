//! Revoking, and the log that remembers what a server may have lost.

use super::queries::{execute, query};
use super::{Fail, PostgresStore, connect, counts, rows};
use crate::revocation_log::{Entry, RevocationLog};
use crate::store::rows::{self as raw, blob, number};
use crate::store::{EVENTS_KEPT, Epoch, Events, Position, Revoked, StoreError};
use capability::Unit;
use deadpool_postgres::ClientWrapper;
use std::collections::{BTreeMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

/// Units looked at or marked in one statement.
const BATCH: usize = 10_000;

/// This process's log, and how far it is known to agree with the server.
pub(super) struct Log {
    file: RevocationLog,
    /// The epoch in which it was last found to agree.
    epoch: Option<Epoch>,
    /// All events of the epoch up to here are in the file.
    up_to: u64,
    /// Beyond that: those that this process wrote itself. One whose commit failed has left its number to another's.
    own: BTreeMap<u64, Unit>,
}

impl Log {
    pub(super) fn new(file: RevocationLog) -> Log {
        Log { file, epoch: None, up_to: 0, own: BTreeMap::new() }
    }
}

impl PostgresStore {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn revoke_in(&self, tx: &ClientWrapper, unit: Unit, now: u64) -> Result<Revoked, Fail> {
        if mark(tx, unit, now).await? == 0 {
            let there = query(tx, "SELECT 1 FROM units WHERE unit = $1", &[&blob(&unit)]).await?;
            return Ok(if there.is_empty() { Revoked::Unknown } else { Revoked::Already });
        }
        // Late, since its lock is held until the commit: whoever is next waits here, and commits later.
        let sql = "UPDATE head SET seq = seq + 1 RETURNING epoch, seq";
        let statement = tx.prepare_cached(sql).await?;
        let position = rows::position(&tx.query_one(&statement, &[]).await?)?;
        let sql = "INSERT INTO events (seq, unit) VALUES ($1, $2)";
        execute(tx, sql, &[&number(position.seq), &blob(&unit)]).await?;
        let oldest = number(position.seq.saturating_sub(EVENTS_KEPT));
        execute(tx, "DELETE FROM events WHERE seq <= $1", &[&oldest]).await?;
        // The log first: a revocation that is in the log alone was not acknowledged, and is made good at the next start.
        let mut log = self.log();
        log.file.append(&[Entry { position, unit: Some(unit) }]).map_err(StoreError::Log)?;
        if log.epoch == Some(position.epoch) {
            log.own.insert(position.seq, unit);
        }
        Ok(Revoked::Now(position))
    }

    /// Puts entries into the log, and takes the epoch that they end in for one that is not known yet.
    pub(super) fn write_down(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut log = self.log();
        log.epoch = None;
        log.file.append(entries).map_err(StoreError::Log)
    }

    /// Writes down what others revoked. False: this process's log must be compared with the store first.
    pub(super) fn note(&self, read: &Events) -> Result<bool, StoreError> {
        let mut log = self.log();
        let contiguous = read.events.first().is_none_or(|event| event.seq <= log.up_to + 1);
        if log.epoch != Some(read.head.epoch) || !contiguous {
            return Ok(false);
        }
        let (up_to, epoch) = (log.up_to, read.head.epoch);
        let new = read
            .events
            .iter()
            .filter(|event| event.seq > up_to && log.own.get(&event.seq) != Some(&event.unit));
        let new: Vec<Entry> = new
            .map(|event| Entry { position: Position { epoch, seq: event.seq }, unit: Some(event.unit) })
            .collect();
        if !new.is_empty() {
            log.file.append(&new).map_err(StoreError::Log)?;
        }
        if let Some(last) = read.events.last() {
            let up_to = up_to.max(last.seq);
            log.up_to = up_to;
            log.own.retain(|seq, _| *seq > up_to);
        }
        Ok(true)
    }

    /// Whether a server that has just been connected to is in the history that this process knows; if not, see
    /// [`PostgresStore::reconcile`].
    pub(super) async fn check_history(&self, client: &ClientWrapper) -> Result<(), Fail> {
        let current = connect::stamp(client, &connect::system(client).await?).await?;
        let statement = client.prepare_cached("SELECT epoch, seq, stamp FROM head").await?;
        let row = client.query_one(&statement, &[]).await?;
        let (head, stamp): (_, String) = (rows::position(&row)?, row.try_get(2)?);
        let known = self.log().epoch;
        if known == Some(head.epoch) && stamp == current { Ok(()) } else { self.reconcile(client).await }
    }

    /// Compares this process's log with the store, while nobody revokes. If the server is in another history than the store was
    /// written in, or if the log knows of something that the store does not, then something was lost, or may have been: all that the
    /// log holds is revoked and a new epoch begins. What only the store holds is written to the log.
    pub(super) async fn reconcile(&self, client: &ClientWrapper) -> Result<(), Fail> {
        let current = connect::stamp(client, &connect::system(client).await?).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE").await?;
        let done = self.reconcile_in(client, &current).await;
        match done {
            Ok((head, entries)) => {
                if !entries.is_empty() {
                    self.log().file.append(&entries).map_err(StoreError::Log)?;
                }
                client.batch_execute("COMMIT").await.map_err(Fail::Commit)?;
                let mut log = self.log();
                (log.epoch, log.up_to) = (Some(head.epoch), head.seq);
                log.own.clear();
                Ok(())
            }
            Err(fail) => {
                // If this fails too, so will the next use of the connection.
                let _ = client.batch_execute("ROLLBACK").await;
                Err(fail)
            }
        }
    }

    async fn reconcile_in(&self, tx: &ClientWrapper, current: &str) -> Result<(Position, Vec<Entry>), Fail> {
        let row = tx.query_one("SELECT epoch, seq, stamp FROM head FOR UPDATE", &[]).await?;
        let (before, stamp): (_, String) = (rows::position(&row)?, row.try_get(2)?);
        let logged = self.log().file.entries().map_err(StoreError::Log)?;
        let known: HashSet<Unit> = logged.iter().filter_map(|entry| entry.unit).collect();
        let lost = lost(tx, &known).await?;
        let ahead = |entry: &Entry| entry.position.epoch == before.epoch && entry.position.seq > before.seq;
        let mut head = before;
        if stamp != current || !lost.is_empty() || logged.iter().any(ahead) {
            head.epoch = (self.fresh)();
            head.seq = logged.iter().map(|entry| entry.position.seq).fold(before.seq, u64::max);
            for unit in &lost {
                // A unit that the store does not have is marked as well: a later restore may bring its records back.
                let sql = "INSERT INTO units (unit, revoked_at) VALUES ($1, 0) ON CONFLICT DO NOTHING";
                execute(tx, sql, &[&blob(unit)]).await?;
                mark(tx, *unit, 0).await?;
            }
            // Watchers start over in a new epoch, so that the old one's events have no reader.
            execute(tx, "DELETE FROM events", &[]).await?;
            let sql = "UPDATE head SET epoch = $1, seq = $2, stamp = $3";
            execute(tx, sql, &[&&head.epoch.0[..], &number(head.seq), &current]).await?;
            tracing::warn!(
                lost = lost.len(),
                "the store is another one than before, or lost something: the log was replayed and a new epoch begins"
            );
        }
        let revoked = query(tx, "SELECT unit FROM units WHERE revoked_at IS NOT NULL", &[]).await?;
        let revoked = revoked.iter().map(rows::unit).collect::<Result<Vec<Unit>, Fail>>()?;
        let missing = revoked.into_iter().filter(|unit| !known.contains(unit));
        let mut entries: Vec<Entry> =
            missing.map(|unit| Entry { position: head, unit: Some(unit) }).collect();
        if !entries.is_empty() || logged.last().is_none_or(|last| last.position != head) {
            entries.push(Entry { position: head, unit: None });
        }
        Ok((head, entries))
    }
}

/// Those of the units that the store does not have as revoked.
async fn lost(tx: &ClientWrapper, known: &HashSet<Unit>) -> Result<Vec<Unit>, Fail> {
    let known: Vec<Unit> = known.iter().copied().collect();
    let mut lost = Vec::new();
    for batch in known.chunks(BATCH) {
        let units: Vec<&[u8]> = batch.iter().map(blob).collect();
        let sql = "SELECT known FROM unnest($1::bytea[]) AS known
                   WHERE NOT EXISTS (SELECT 1 FROM units WHERE unit = known AND revoked_at IS NOT NULL)";
        for row in query(tx, sql, &[&units]).await? {
            lost.push(rows::unit(&row)?);
        }
    }
    Ok(lost)
}

/// Marks the unit if it is there and not revoked, and its membrane or tenant as gone; a membrane's escrow has nothing left to
/// give back. How many units were marked: one, or none.
async fn mark(tx: &ClientWrapper, unit: Unit, now: u64) -> Result<u64, Fail> {
    if let Unit::Lookup(lookup) = unit {
        // A record has no unit of its own until it is revoked.
        let sql = "INSERT INTO units (unit, revoked_at) SELECT lookup, NULL FROM records WHERE lookup = $1
                   ON CONFLICT DO NOTHING";
        execute(tx, sql, &[&&lookup.0[..]]).await?;
    }
    let sql = "UPDATE units SET revoked_at = $2 WHERE unit = $1 AND revoked_at IS NULL";
    let marked = execute(tx, sql, &[&blob(&unit), &number(now)]).await?;
    if let Unit::Uid(uid) = unit {
        let sql =
            "UPDATE membranes SET gone = TRUE, escrow = NULL WHERE uid = $1 AND NOT gone RETURNING tenant";
        if let Some(row) = query(tx, sql, &[&&uid.0[..]]).await?.first() {
            counts::membrane_gone(tx, raw::uid(row.try_get(0)?)?, uid).await?;
        }
        let sql = "UPDATE tenants SET gone = TRUE WHERE uid = $1 AND NOT gone";
        if execute(tx, sql, &[&&uid.0[..]]).await? > 0 {
            counts::tenant_gone(tx, uid).await?;
        }
    }
    Ok(marked)
}
