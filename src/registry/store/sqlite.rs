//! The store in one SQLite file: the default, embedded backend.
//!
//! WAL with `synchronous=FULL`, so that what was answered survives a power cut; one writer in this process ([`writer`]), and a
//! busy timeout for the operator's commands, which work on the same file beside a running server. The SQL is plain, so that
//! a second backend can share its shape.

mod counts;
mod rows;
mod schema;
mod whole;
mod writer;

use super::rows::{blob, number};
use super::{
    Added, Collected, EVENTS_KEPT, Epoch, Event, Events, Found, Limits, Loaded, Membrane, NewMembrane,
    NewTenant, Page, Position, Record, Revoked, Rewrapped, Rows, Store, StoreError, Tenant, Usage, Watching,
};
use crate::revocation_log::{Entry, RevocationLog};
use crate::store;
use capability::record::Kind;
use capability::{LookupId, Uid, Unit, Units};
pub use whole::{close_for_good, copy, look, verify};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use writer::Writer;

/// How long a writer waits for another process's. Writes take milliseconds; a backup tool may hold the lock for longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections for reading that are kept open: as many as [`crate::workers`] lets run at once.
const READERS: usize = crate::workers::RUNNING;
/// How many membranes are looked at in one step of a listing.
const LISTING_STEP: usize = 256;
/// Statements that each connection keeps prepared: all that there are.
const STATEMENTS: usize = 64;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError::Backend(Box::new(error))
    }
}

/// An open store.
pub struct SqliteStore {
    path: PathBuf,
    log: PathBuf,
    readers: Mutex<Vec<Connection>>,
    lost_track: bool,
    /// Dropped last: whoever closes last takes what the WAL holds into the database, and readers cannot.
    writer: Writer,
}

impl SqliteStore {
    /// Opens the database at `path`, or makes it (readable by its owner alone), and compares it with the revocation log at
    /// `log`. If they disagree, what the log holds is revoked again and `fresh` becomes the epoch; a new store takes `fresh` too.
    pub fn open(path: &Path, log: &Path, fresh: Epoch) -> Result<SqliteStore, StoreError> {
        crate::files::create_private(path).map_err(|error| StoreError::Backend(Box::new(error)))?;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let path_of_log = log.to_owned();
        let mut log = RevocationLog::open(log).map_err(StoreError::Log)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let older = schema::bring_up_to_date(&tx, fresh)?;
        let restored = reconcile(&tx, &mut log, fresh)?;
        tx.commit()?;
        let writer = Writer::start(connection, log)?;
        let (readers, lost_track) = (Mutex::new(Vec::new()), older || restored);
        Ok(SqliteStore { path: path.to_owned(), log: path_of_log, readers, lost_track, writer })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let pooled = lock(&self.readers).pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let result = connection.transaction().map_err(StoreError::from).and_then(|tx| work(&tx));
        let mut readers = lock(&self.readers);
        if readers.len() < READERS {
            readers.push(connection);
        }
        result
    }
}

/// A thread that panicked left no transaction open, since those end when they are dropped.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

impl Store for SqliteStore {
    fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), StoreError> {
        self.read(|tx| Ok((find(tx, lookup)?, head(tx)?)))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn add_tenant(&self, tenant: &NewTenant) -> Result<Added, StoreError> {
        let tenant = tenant.clone();
        self.writer.write(move |tx, _| {
            let taken = tx
                .prepare_cached("SELECT 1 FROM tenants WHERE id = ?1 AND gone = 0")?
                .exists(params![tenant.id])?;
            if taken {
                return Ok(Added::Taken);
            }
            tx.prepare_cached("INSERT INTO tenants (uid, id, created_at, gone) VALUES (?1, ?2, ?3, 0)")?
                .execute(params![tenant.uid.0, tenant.id, number(tenant.created_at)])?;
            insert_unit(tx, tenant.uid)?;
            tenant.records.iter().try_for_each(|record| insert_record(tx, record))?;
            Ok(Added::Yes)
        })
    }

    fn add_membrane(
        &self,
        guards: &[LookupId],
        now: u64,
        new: &NewMembrane,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        let (guards, new) = (guards.to_vec(), new.clone());
        self.writer.write(move |tx, log| {
            if let Some(dead) = first_dead(tx, &guards, now)? {
                return Ok(Added::Dead(dead));
            }
            let membrane = &new.membrane;
            let standing = tx
                .prepare_cached(&format!("{SELECT_MEMBRANE} AND id = ?2"))?
                .query_row(params![membrane.tenant.0, membrane.id.as_str()], rows::membrane)
                .optional()?
                .transpose()?;
            if let Some(standing) = standing {
                if is_alive(tx, &standing, now)? {
                    return Ok(Added::Taken);
                }
                let _ = revoke(tx, log, Unit::Uid(standing.uid), now)?;
            }
            let more = Usage { membranes: 1, capabilities: super::count(new.records.len()) };
            if let Some(limit) = counts::full(tx, membrane.tenant, limits, more, now)? {
                return Ok(Added::Full(limit));
            }
            insert_membrane(tx, membrane)?;
            insert_unit(tx, membrane.uid)?;
            counts::membrane(tx, membrane.tenant)?;
            new.records.iter().try_for_each(|record| insert_counted_record(tx, record))?;
            Ok(Added::Yes)
        })
    }

    fn add_record(
        &self,
        guards: &[LookupId],
        now: u64,
        record: &Record,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        let (guards, record) = (guards.to_vec(), record.clone());
        self.writer.write(move |tx, _| {
            if let Some(dead) = first_dead(tx, &guards, now)? {
                return Ok(Added::Dead(dead));
            }
            if let Some(own) = record.own() {
                let more = Usage { membranes: 0, capabilities: 1 };
                if let Some(limit) = counts::full(tx, own.tenant, limits, more, now)? {
                    return Ok(Added::Full(limit));
                }
            }
            insert_counted_record(tx, &record)?;
            Ok(Added::Yes)
        })
    }

    fn membranes(&self, tenant: Uid, now: u64, page: &Page) -> Result<Vec<Membrane>, StoreError> {
        self.read(|tx| {
            let mut listed = Vec::new();
            let mut after = page.after.as_ref().map_or(String::new(), |id| id.as_str().to_owned());
            loop {
                // No id is empty, so that the empty string stands before all of them.
                let sql =
                    format!("{SELECT_MEMBRANE} AND id > ?2 AND (?3 IS NULL OR id = ?3) ORDER BY id LIMIT ?4");
                let mut statement = tx.prepare_cached(&sql)?;
                let id = page.id.as_ref().map(|id| id.as_str());
                let step = i64::try_from(LISTING_STEP).unwrap_or(i64::MAX);
                let batch = statement
                    .query_map(params![tenant.0, after, id, step], rows::membrane)?
                    .collect::<Result<Vec<_>, _>>()?;
                let last = batch.len() < LISTING_STEP;
                for membrane in batch {
                    let membrane = membrane?;
                    membrane.id.as_str().clone_into(&mut after);
                    if is_alive(tx, &membrane, now)? {
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
        })
    }

    fn usage(&self, tenant: Uid, now: u64) -> Result<Usage, StoreError> {
        self.read(|tx| counts::usage(tx, tenant, now))
    }

    fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read(|tx| {
            tx.prepare_cached("SELECT uid, id, created_at FROM tenants WHERE gone = 0 ORDER BY id")?
                .query_map([], rows::tenant)?
                .map(|row| row?)
                .collect()
        })
    }

    fn revoke(&self, guard: Option<LookupId>, unit: Unit, now: u64) -> Result<Revoked, StoreError> {
        self.writer.write(move |tx, log| {
            if let Some(guard) = guard {
                let alive =
                    |found: &Found| !found.is_expired(now) && found.dead.iter().all(|dead| *dead == unit);
                if !find(tx, guard)?.as_ref().is_some_and(alive) {
                    return Ok(Revoked::Dead);
                }
            }
            revoke(tx, log, unit, now)
        })
    }

    fn head(&self) -> Result<Position, StoreError> {
        self.read(head)
    }

    fn events(&self, after: Option<Position>) -> Result<Events, StoreError> {
        self.read(|tx| {
            let head = head(tx)?;
            let first: Option<i64> =
                tx.prepare_cached("SELECT MIN(seq) FROM events")?.query_row([], |row| row.get(0))?;
            let oldest =
                first.and_then(|seq| u64::try_from(seq).ok()).map_or(head.seq, |seq| seq.saturating_sub(1));
            let after = after
                .filter(|position| {
                    position.epoch == head.epoch && (oldest..=head.seq).contains(&position.seq)
                })
                .map_or(oldest, |position| position.seq);
            let events = tx
                .prepare_cached("SELECT seq, unit FROM events WHERE seq > ?1 ORDER BY seq")?
                .query_map(params![number(after)], rows::event)?
                .map(|row| row?)
                .collect::<Result<Vec<Event>, StoreError>>()?;
            Ok(Events { head, events })
        })
    }

    fn note_watchers(&self, watching: &[Watching], now: u64) -> Result<(), StoreError> {
        let watching = watching.to_vec();
        self.writer.write(move |tx, _| {
            let mut statement = tx.prepare_cached(
                "INSERT INTO watchers (watcher, lease, until) VALUES (?1, ?2, ?3)
                 ON CONFLICT (watcher) DO UPDATE SET
                     lease = MAX(lease, excluded.lease), until = MAX(until, excluded.until)",
            )?;
            for Watching { watcher, lease, until } in watching {
                statement.execute(params![watcher.0, number(lease), number(until)])?;
            }
            tx.prepare_cached("DELETE FROM watchers WHERE until < ?1")?.execute(params![number(now)])?;
            Ok(())
        })
    }

    fn watchers(&self, now: u64) -> Result<Vec<Watching>, StoreError> {
        self.read(|tx| {
            tx.prepare_cached("SELECT watcher, lease, until FROM watchers WHERE until >= ?1")?
                .query_map(params![number(now)], rows::watching)?
                .map(|row| row?)
                .collect()
        })
    }

    fn has_lost_track(&self) -> bool {
        self.lost_track
    }

    fn collect(&self, after: Option<LookupId>, limit: usize, now: u64) -> Result<Collected, StoreError> {
        // Found while reading, so that the writer is held only where there is something to remove; a dead record stays dead.
        let (dead, next) = self.read(|tx| {
            let batch = records(tx, after, limit)?;
            let next = batch.last().map(|record| record.lookup).filter(|_| batch.len() == limit);
            let mut dead = Vec::new();
            for record in batch {
                let found = with_dead_units(tx, record)?;
                if found.is_expired(now) || (found.record.kind == Kind::Grant && !found.dead.is_empty()) {
                    dead.push((found.record.lookup, found.record.own()));
                }
            }
            Ok((dead, next))
        })?;
        let removed = dead.len();
        if !dead.is_empty() {
            self.writer.write(move |tx, _| {
                let mut statement = tx.prepare_cached("DELETE FROM records WHERE lookup = ?1")?;
                for (lookup, own) in dead {
                    // Another process may have been here meanwhile.
                    if statement.execute(params![lookup.0])? > 0 {
                        counts::removed(tx, own)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(Collected { removed, next })
    }

    fn scan(
        &self,
        each: &mut (dyn FnMut(store::Row) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        self.read(|tx| whole::scan(tx, each))
    }

    fn load(&self, rows: &mut Rows<'_>, fresh: Epoch) -> Result<Loaded, StoreError> {
        // Another connection than the writer's, since rows may be borrowed; SQLite has them wait for each other.
        let mut connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut entries = Vec::new();
        let loaded = whole::load(&tx, rows, fresh, &mut entries)?;
        if let Loaded::Yes(_) = loaded {
            RevocationLog::open(&self.log)
                .and_then(|mut log| log.append(&entries))
                .map_err(StoreError::Log)?;
            tx.commit()?;
        }
        Ok(loaded)
    }

    fn records(&self, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.read(|tx| records(tx, after, limit))
    }

    fn rewrap(&self, records: &[Rewrapped]) -> Result<usize, StoreError> {
        let records = records.to_vec();
        self.writer.write(move |tx, _| {
            let mut statement =
                tx.prepare_cached("UPDATE records SET sealed = ?3 WHERE lookup = ?1 AND sealed = ?2")?;
            records.iter().try_fold(0, |done, record| {
                Ok(done + statement.execute(params![record.lookup.0, record.before, record.after])?)
            })
        })
    }
}

fn records(tx: &Connection, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError> {
    let after = after.map_or(Vec::new(), |lookup| lookup.0.to_vec());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.prepare_cached(&format!("{SELECT_RECORD} WHERE lookup > ?1 ORDER BY lookup LIMIT ?2"))?
        .query_map(params![after, limit], rows::record)?
        .map(|row| row?)
        .collect()
}

const SELECT_RECORD: &str = "SELECT lookup, sealed, kind, units, expires_at, created_at FROM records";
const SELECT_MEMBRANE: &str = "SELECT uid, tenant, id, units, expires_at, escrow, created_at FROM membranes
                               WHERE tenant = ?1 AND gone = 0";

fn head(tx: &Connection) -> Result<Position, StoreError> {
    tx.prepare_cached("SELECT epoch, seq FROM head")?.query_row([], rows::position)?
}

fn find(tx: &Connection, lookup: LookupId) -> Result<Option<Found>, StoreError> {
    let record = tx
        .prepare_cached(&format!("{SELECT_RECORD} WHERE lookup = ?1"))?
        .query_row(params![lookup.0], rows::record)
        .optional()?
        .transpose()?;
    record.map(|record| with_dead_units(tx, record)).transpose()
}

fn with_dead_units(tx: &Connection, record: Record) -> Result<Found, StoreError> {
    let mut dead = dead_units(tx, &record.units)?;
    if is_revoked(tx, &record.lookup.0)? == Some(true) {
        dead.push(Unit::Lookup(record.lookup));
    }
    Ok(Found { record, dead })
}

fn dead_units(tx: &Connection, units: &Units) -> Result<Vec<Unit>, StoreError> {
    let mut dead = Vec::new();
    for uid in units.uids() {
        if is_revoked(tx, &uid.0)? != Some(false) {
            dead.push(Unit::Uid(uid));
        }
    }
    // A capability has a row only once it was revoked by itself.
    for source in units.sources() {
        if is_revoked(tx, &source.0)? == Some(true) {
            dead.push(Unit::Lookup(source));
        }
    }
    Ok(dead)
}

/// `None` where the unit is missing.
fn is_revoked(tx: &Connection, unit: &[u8]) -> Result<Option<bool>, StoreError> {
    let revoked = tx
        .prepare_cached("SELECT revoked_at IS NOT NULL FROM units WHERE unit = ?1")?
        .query_row(params![unit], |row: &Row<'_>| row.get(0))
        .optional()?;
    Ok(revoked)
}

fn is_alive(tx: &Connection, membrane: &Membrane, now: u64) -> Result<bool, StoreError> {
    Ok(membrane.expires_at.is_none_or(|at| at > now) && dead_units(tx, &membrane.units)?.is_empty())
}

fn first_dead(tx: &Connection, guards: &[LookupId], now: u64) -> Result<Option<LookupId>, StoreError> {
    for guard in guards {
        if !find(tx, *guard)?.is_some_and(|found| found.is_alive(now)) {
            return Ok(Some(*guard));
        }
    }
    Ok(None)
}

fn insert_membrane(tx: &Connection, membrane: &Membrane) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO membranes (uid, tenant, id, units, expires_at, escrow, created_at, gone)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
    )?
    .execute(params![
        membrane.uid.0,
        membrane.tenant.0,
        membrane.id.as_str(),
        membrane.units.to_bytes(),
        membrane.expires_at.map(number),
        membrane.escrow,
        number(membrane.created_at),
    ])?;
    Ok(())
}

fn insert_unit(tx: &Connection, uid: Uid) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO units (unit, revoked_at) VALUES (?1, NULL)")?.execute(params![uid.0])?;
    Ok(())
}

fn insert_record(tx: &Connection, record: &Record) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO records (lookup, sealed, kind, units, expires_at, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        record.lookup.0,
        record.sealed,
        record.kind as u8,
        record.units.to_bytes(),
        record.expires_at.map(number),
        number(record.created_at),
    ])?;
    Ok(())
}

fn insert_counted_record(tx: &Connection, record: &Record) -> Result<(), StoreError> {
    insert_record(tx, record)?;
    counts::record(tx, record)
}

fn revoke(tx: &Connection, log: &mut Vec<Entry>, unit: Unit, now: u64) -> Result<Revoked, StoreError> {
    match is_revoked(tx, blob(&unit))? {
        Some(true) => return Ok(Revoked::Already),
        Some(false) => {}
        None => match unit {
            // A record has no unit of its own until it is revoked.
            Unit::Lookup(lookup) if find(tx, lookup)?.is_some() => {}
            _ => return Ok(Revoked::Unknown),
        },
    }
    let before = head(tx)?;
    let position = Position { seq: before.seq + 1, ..before };
    mark(tx, unit, now)?;
    set_head(tx, position)?;
    tx.prepare_cached("INSERT INTO events (seq, unit) VALUES (?1, ?2)")?
        .execute(params![number(position.seq), blob(&unit)])?;
    tx.prepare_cached("DELETE FROM events WHERE seq <= ?1")?
        .execute(params![number(position.seq.saturating_sub(EVENTS_KEPT))])?;
    log.push(Entry { position, unit: Some(unit) });
    Ok(Revoked::Now(position))
}

/// Marks the unit, and its membrane or tenant as gone; a membrane's escrow has nothing left to give back.
fn mark(tx: &Connection, unit: Unit, now: u64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO units (unit, revoked_at) VALUES (?1, ?2)
         ON CONFLICT (unit) DO UPDATE SET revoked_at = excluded.revoked_at",
    )?
    .execute(params![blob(&unit), number(now)])?;
    if let Unit::Uid(uid) = unit {
        let tenant: Option<Vec<u8>> = tx
            .prepare_cached(
                "UPDATE membranes SET gone = 1, escrow = NULL WHERE uid = ?1 AND gone = 0 RETURNING tenant",
            )?
            .query_row(params![uid.0], |row| row.get(0))
            .optional()?;
        if let Some(tenant) = tenant {
            counts::membrane_gone(tx, super::rows::uid(&tenant)?, uid)?;
        }
        if tx.prepare_cached("UPDATE tenants SET gone = 1 WHERE uid = ?1")?.execute(params![uid.0])? > 0 {
            counts::tenant_gone(tx, uid)?;
        }
    }
    Ok(())
}

fn set_head(tx: &Connection, position: Position) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE head SET epoch = ?1, seq = ?2")?
        .execute(params![position.epoch.0, number(position.seq)])?;
    Ok(())
}

/// Compares the log with the store: its last line with the head, and what it says was revoked with what is. Where they differ, one of them has lost something: all that the log holds is
/// revoked, what only the store holds is written to the log, and a new epoch begins. `true`: that was so.
fn reconcile(tx: &Connection, log: &mut RevocationLog, fresh: Epoch) -> Result<bool, StoreError> {
    let before = head(tx)?;
    let last = log.last().map_err(StoreError::Log)?;
    let logged = log.entries().map_err(StoreError::Log)?;
    // What was logged and then not committed can be followed by what was both.
    let mut unmarked = logged.iter().filter_map(|entry| entry.unit).map(|unit| is_revoked(tx, blob(&unit)));
    let all_marked =
        unmarked.try_fold(true, |all, marked| marked.map(|marked| all && marked == Some(true)))?;
    if all_marked && last.is_some_and(|entry| entry.position == before) {
        return Ok(false);
    }
    let is_new = last.is_none() && before.seq == 0;
    let mut seq = logged.iter().map(|entry| entry.position.seq).fold(before.seq, u64::max);
    let known: std::collections::HashSet<Unit> = logged.iter().filter_map(|entry| entry.unit).collect();
    // A unit that the store does not have is marked as well: a later restore may bring its records back.
    for unit in &known {
        if is_revoked(tx, blob(unit))? != Some(true) {
            mark(tx, *unit, 0)?;
        }
    }
    let mut statement = tx.prepare("SELECT unit FROM units WHERE revoked_at IS NOT NULL")?;
    let revoked =
        statement.query_map([], rows::unit)?.map(|row| row?).collect::<Result<Vec<Unit>, StoreError>>()?;
    let epoch = if last.is_none() && before.seq == 0 { before.epoch } else { fresh };
    let mut entries = vec![];
    for unit in revoked.into_iter().filter(|unit| !known.contains(unit)) {
        seq += 1;
        entries.push(Entry { position: Position { epoch, seq }, unit: Some(unit) });
    }
    entries.push(Entry { position: Position { epoch, seq }, unit: None });
    if last.is_some() || before.seq > 0 {
        tracing::warn!(
            units = known.len(),
            "the store and the revocation log disagree: the log was replayed and a new epoch begins"
        );
    }
    // Watchers start over in a new epoch, so that the old one's events have no reader.
    tx.execute("DELETE FROM events", [])?;
    set_head(tx, Position { epoch, seq })?;
    log.append(&entries).map_err(StoreError::Log)?;
    Ok(!is_new)
}
