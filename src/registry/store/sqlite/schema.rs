//! The tables, and how an older store is brought up to date.

use crate::store::{Epoch, StoreError};
use rusqlite::{Connection, Transaction, params};

/// The version that this program writes, kept in `user_version`.
const VERSION: i64 = 3;

// Ids are compared bytewise: SQLite's default collation (BINARY) does that. `units` is as `capability::Units` writes it,
// bound by its seal. A membrane or tenant that is gone stays as a tombstone: its uid is never used again, its id may be.
const FIRST: &str = "
CREATE TABLE head (only INTEGER PRIMARY KEY CHECK (only = 1), epoch BLOB NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE units (unit BLOB PRIMARY KEY NOT NULL, revoked_at INTEGER);
CREATE TABLE tenants (
    uid BLOB PRIMARY KEY NOT NULL REFERENCES units (unit) DEFERRABLE INITIALLY DEFERRED,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    gone INTEGER NOT NULL
);
CREATE UNIQUE INDEX tenants_by_id ON tenants (id) WHERE gone = 0;
CREATE TABLE membranes (
    uid BLOB PRIMARY KEY NOT NULL REFERENCES units (unit) DEFERRABLE INITIALLY DEFERRED,
    tenant BLOB NOT NULL REFERENCES tenants (uid),
    id TEXT NOT NULL,
    units BLOB NOT NULL,
    expires_at INTEGER,
    escrow BLOB,
    created_at INTEGER NOT NULL,
    gone INTEGER NOT NULL
);
CREATE UNIQUE INDEX membranes_by_id ON membranes (tenant, id) WHERE gone = 0;
CREATE TABLE records (
    lookup BLOB PRIMARY KEY NOT NULL,
    sealed BLOB NOT NULL,
    kind INTEGER NOT NULL,
    units BLOB NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL
);
CREATE TABLE events (seq INTEGER PRIMARY KEY NOT NULL, unit BLOB NOT NULL);
";

/// Since version 2.
const WATCHERS: &str = "
CREATE TABLE watchers (watcher BLOB PRIMARY KEY NOT NULL, lease INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE INDEX watchers_by_until ON watchers (until);
";

/// Since version 3. `unit` is a tenant's or a membrane's uid (`super::counts`).
const COUNTED: &str = "
CREATE TABLE counted (
    unit BLOB PRIMARY KEY NOT NULL,
    membranes INTEGER NOT NULL,
    capabilities INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX membranes_by_expiry ON membranes (tenant, expires_at) WHERE gone = 0 AND expires_at IS NOT NULL;
";

/// Makes the tables of a new store. A store of a newer program is refused rather than misread. `true`: it is an older one that did not
/// note who follows the feed.
pub(super) fn bring_up_to_date(tx: &Transaction<'_>, fresh: Epoch) -> Result<bool, StoreError> {
    let found: i64 = tx.query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0))?;
    if found == 0 {
        tx.execute_batch(FIRST)?;
        tx.execute("INSERT INTO head (only, epoch, seq) VALUES (1, ?1, 0)", params![fresh.0])?;
    }
    if !(0..=VERSION).contains(&found) {
        return Err(StoreError::Newer { found, known: VERSION });
    }
    if found < 2 {
        tx.execute_batch(WATCHERS)?;
    }
    if found < 3 {
        tx.execute_batch(COUNTED)?;
        super::counts::all(tx)?;
    }
    if found < VERSION {
        tx.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(found == 1)
}

/// Refuses a store that this program does not know.
pub(super) fn check_version(connection: &Connection) -> Result<(), StoreError> {
    let found: i64 =
        connection.query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0))?;
    match found {
        1..=VERSION => Ok(()),
        0 => Err(StoreError::Damaged("database of something else")),
        _ => Err(StoreError::Newer { found, known: VERSION }),
    }
}
