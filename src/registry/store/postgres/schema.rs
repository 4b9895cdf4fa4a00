//! The tables, and how an older store is brought up to date.

use super::{Fail, connect, counts};
use crate::store::{Epoch, StoreError};
use tokio_postgres::Client;

/// The version that this program writes, kept in the table `version`.
const VERSION: i64 = 2;
/// Two programs that begin at once make the tables one after the other. An arbitrary number of ours.
const LOCK: i64 = 0x6d65_6d62_7261_6e65;

// Ids are compared bytewise: that is what collation "C" does. `units` is as `capability::Units` writes it, bound by its seal. A
// membrane or tenant that is gone stays as a tombstone: its uid is never used again, its id may be. `head` and `units` are updated in
// place; the space left in their pages keeps those updates off the indexes.
const FIRST: &str = r#"
CREATE TABLE version (one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one), version BIGINT NOT NULL);
CREATE TABLE head (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    epoch BYTEA NOT NULL,
    seq BIGINT NOT NULL,
    stamp TEXT NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE units (unit BYTEA PRIMARY KEY, revoked_at BIGINT) WITH (fillfactor = 90);
CREATE TABLE tenants (
    uid BYTEA PRIMARY KEY REFERENCES units (unit) DEFERRABLE INITIALLY DEFERRED,
    id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    gone BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX tenants_by_id ON tenants (id) WHERE NOT gone;
CREATE TABLE membranes (
    uid BYTEA PRIMARY KEY REFERENCES units (unit) DEFERRABLE INITIALLY DEFERRED,
    tenant BYTEA NOT NULL REFERENCES tenants (uid),
    id TEXT COLLATE "C" NOT NULL,
    units BYTEA NOT NULL,
    expires_at BIGINT,
    escrow BYTEA,
    created_at BIGINT NOT NULL,
    gone BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX membranes_by_id ON membranes (tenant, id) WHERE NOT gone;
CREATE TABLE records (
    lookup BYTEA PRIMARY KEY,
    sealed BYTEA NOT NULL,
    kind BIGINT NOT NULL,
    units BYTEA NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE TABLE events (seq BIGINT PRIMARY KEY, unit BYTEA NOT NULL);
CREATE TABLE watchers (watcher BYTEA PRIMARY KEY, lease BIGINT NOT NULL, until BIGINT NOT NULL);
CREATE INDEX watchers_by_until ON watchers (until);
INSERT INTO version (version) VALUES (1);
"#;

/// Since version 2. `unit` is a tenant's or a membrane's uid (`super::counts`).
const COUNTED: &str = "
CREATE TABLE counted (
    unit BYTEA,
    slot BIGINT,
    membranes BIGINT NOT NULL,
    capabilities BIGINT NOT NULL,
    PRIMARY KEY (unit, slot)
) WITH (fillfactor = 50);
CREATE INDEX membranes_by_expiry ON membranes (tenant, expires_at) WHERE NOT gone AND expires_at IS NOT NULL;
";

/// Makes the tables of a new store. A store of a newer program is refused rather than misread.
pub(super) async fn bring_up_to_date(client: &mut Client, fresh: Epoch) -> Result<(), Fail> {
    let system = connect::system(client).await?;
    let tx = client.transaction().await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let there: bool = tx.query_one("SELECT to_regclass('version') IS NOT NULL", &[]).await?.try_get(0)?;
    if !there {
        tx.batch_execute(FIRST).await?;
        let stamp = connect::stamp(tx.client(), &system).await?;
        let first = "INSERT INTO head (epoch, seq, stamp) VALUES ($1, 0, $2)";
        tx.execute(first, &[&&fresh.0[..], &stamp]).await?;
    }
    let found: i64 = tx.query_one("SELECT version FROM version", &[]).await?.try_get(0)?;
    if !(1..=VERSION).contains(&found) {
        return Err(StoreError::Newer { found, known: VERSION }.into());
    }
    if found < 2 {
        // Counting a million records takes longer than a statement of a session otherwise may.
        tx.batch_execute("SET LOCAL statement_timeout = 0").await?;
        tx.batch_execute("LOCK TABLE tenants, membranes, records IN SHARE ROW EXCLUSIVE MODE").await?;
        tx.batch_execute(COUNTED).await?;
        tx.batch_execute(counts::ALL).await?;
    }
    if found < VERSION {
        tx.execute("UPDATE version SET version = $1", &[&VERSION]).await?;
    }
    Ok(tx.commit().await?)
}
