//! The store as a whole: every row out, every row in.

use super::rows;
use crate::revocation_log::Entry;
use crate::store::rows::{blob, number};
use crate::store::{Epoch, Loaded, Position, Row, Rows, StoreError};
use rusqlite::{Connection, OpenFlags, params};
use std::path::Path;

type Reader = fn(&rusqlite::Row<'_>) -> Result<Result<Row, StoreError>, rusqlite::Error>;

const TABLES: [(&str, Reader); 4] = [
    ("SELECT unit, revoked_at FROM units ORDER BY unit", rows::unit_row),
    ("SELECT uid, id, created_at, gone FROM tenants ORDER BY uid", rows::tenant_row),
    (
        "SELECT uid, tenant, id, units, expires_at, escrow, created_at, gone FROM membranes ORDER BY uid",
        rows::membrane_row,
    ),
    (
        "SELECT lookup, sealed, kind, units, expires_at, created_at FROM records ORDER BY lookup",
        rows::record_row,
    ),
];

pub(super) fn scan(
    tx: &Connection,
    each: &mut dyn FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    each(Row::Head(super::head(tx)?))?;
    for (sql, read) in TABLES {
        let mut statement = tx.prepare(sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            each(read(row)??)?;
        }
    }
    Ok(())
}

/// Inside a transaction. What goes into the log is added to `log`.
pub(super) fn load(
    tx: &Connection,
    rows: &mut Rows<'_>,
    fresh: Epoch,
    log: &mut Vec<Entry>,
) -> Result<Loaded, StoreError> {
    let empty: bool = tx.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM tenants) AND NOT EXISTS (SELECT 1 FROM records)",
        [],
        |row| row.get(0),
    )?;
    if !empty {
        return Ok(Loaded::NotEmpty);
    }
    let mut head = Position { epoch: fresh, seq: 0 };
    let mut count = 0;
    for row in rows {
        insert(tx, &mut head, log, &row?)?;
        count += 1;
    }
    super::counts::all(tx)?;
    super::set_head(tx, head)?;
    tx.execute("DELETE FROM events", [])?;
    log.push(Entry { position: head, unit: None });
    Ok(Loaded::Yes(count))
}

fn insert(tx: &Connection, head: &mut Position, log: &mut Vec<Entry>, row: &Row) -> Result<(), StoreError> {
    match row {
        Row::Head(position) => head.seq = position.seq,
        Row::Unit { unit, revoked_at } => {
            // What the log knew is there already.
            tx.prepare_cached(
                "INSERT INTO units (unit, revoked_at) VALUES (?1, ?2)
                 ON CONFLICT (unit) DO UPDATE SET revoked_at = COALESCE(units.revoked_at, excluded.revoked_at)",
            )?
                .execute(params![blob(unit), revoked_at.map(number)])?;
            if revoked_at.is_some() {
                log.push(Entry { position: *head, unit: Some(*unit) });
            }
        }
        Row::Tenant { tenant, gone } => {
            tx.prepare_cached("INSERT INTO tenants (uid, id, created_at, gone) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![tenant.uid.0, tenant.id, number(tenant.created_at), gone])?;
        }
        Row::Membrane { membrane, gone } => {
            super::insert_membrane(tx, membrane)?;
            if *gone {
                tx.prepare_cached("UPDATE membranes SET gone = 1, escrow = NULL WHERE uid = ?1")?
                    .execute(params![membrane.uid.0])?;
            }
        }
        Row::Record(record) => super::insert_record(tx, record)?,
    }
    Ok(())
}

/// Every row of a store that is looked at and not opened: nothing is compared with the log, nothing is written.
pub fn look(
    path: &Path,
    each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send),
) -> Result<(), StoreError> {
    let mut connection = super::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let tx = connection.transaction()?;
    let found: String = tx.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::Damaged("page"));
    }
    scan(&tx, each)
}

/// A consistent copy of a store that may be in use, in an empty file. (`VACUUM INTO` reads one snapshot; the backup API begins
/// anew with every write of somebody else's.)
pub fn copy(path: &Path, to: &Path) -> Result<(), StoreError> {
    let connection = super::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let to = to.to_str().ok_or_else(|| StoreError::Backend("the file's name must be UTF-8".into()))?;
    connection.execute("VACUUM INTO ?1", params![to])?;
    Ok(())
}

/// Whether a file is a whole store that this program can open.
pub fn verify(path: &Path) -> Result<(), StoreError> {
    let connection = super::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::Damaged("page"));
    }
    super::schema::check_version(&connection)?;
    super::head(&connection)?;
    Ok(())
}

/// Takes everything into the one file; an error while anybody else has the store open.
pub fn close_for_good(path: &Path) -> Result<(), StoreError> {
    let connection = super::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => Ok(()),
        Ok(_) | Err(_) => Err(StoreError::Backend("it is in use: stop the server first".into())),
    }
}
