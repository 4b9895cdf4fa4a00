//! The store as a whole: every row out, every row in. By cursors and batches, so that memory does not grow with it.

use super::queries::{self, execute, query};
use super::{Fail, counts, rows};
use crate::revocation_log::Entry;
use crate::store::rows::{self as raw, blob, number};
use crate::store::{Epoch, Loaded, Position, Row, Rows, StoreError};
use deadpool_postgres::ClientWrapper;

/// Rows fetched at once: some hundred KiB.
const STEP: usize = 500;

type Reader = fn(&tokio_postgres::Row) -> Result<Row, Fail>;

const TABLES: [(&str, Reader); 4] = [
    ("SELECT unit, revoked_at FROM units ORDER BY unit", |row| {
        Ok(raw::unit_row(row.try_get(0)?, row.try_get(1)?)?)
    }),
    ("SELECT uid, id, created_at, gone FROM tenants ORDER BY uid", |row| {
        Ok(Row::Tenant { tenant: rows::tenant(row)?, gone: row.try_get(3)? })
    }),
    (
        "SELECT uid, tenant, id, units, expires_at, escrow, created_at, gone FROM membranes ORDER BY uid",
        |row| Ok(Row::Membrane { membrane: rows::membrane(row)?, gone: row.try_get(7)? }),
    ),
    ("SELECT lookup, sealed, kind, units, expires_at, created_at FROM records ORDER BY lookup", |row| {
        Ok(Row::Record(rows::record(row, 0)?))
    }),
];

pub(super) async fn scan(
    tx: &ClientWrapper,
    each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send),
) -> Result<(), Fail> {
    each(Row::Head(queries::head(tx).await?))?;
    for (sql, read) in TABLES {
        tx.batch_execute(&format!("DECLARE whole NO SCROLL CURSOR FOR {sql}")).await?;
        loop {
            let found = tx.query(&format!("FETCH {STEP} FROM whole"), &[]).await?;
            for row in &found {
                each(read(row)?)?;
            }
            if found.len() < STEP {
                break;
            }
        }
        tx.batch_execute("CLOSE whole").await?;
    }
    Ok(())
}

/// Inside a transaction. What is to go into the log is added to `log`.
pub(super) async fn load(
    tx: &ClientWrapper,
    rows: &mut Rows<'_>,
    fresh: Epoch,
    log: &mut Vec<Entry>,
) -> Result<Loaded, Fail> {
    // Nobody else adds anything meanwhile.
    tx.batch_execute("LOCK TABLE tenants, records IN SHARE ROW EXCLUSIVE MODE").await?;
    let found =
        query(tx, "SELECT 1 WHERE EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM records)", &[]);
    if !found.await?.is_empty() {
        return Ok(Loaded::NotEmpty);
    }
    let mut head = Position { epoch: fresh, seq: 0 };
    let mut count = 0;
    for row in rows {
        insert(tx, &mut head, log, &row?).await?;
        count += 1;
    }
    tx.batch_execute(counts::ALL).await?;
    execute(tx, "DELETE FROM events", &[]).await?;
    execute(tx, "UPDATE head SET epoch = $1, seq = $2", &[&&head.epoch.0[..], &number(head.seq)]).await?;
    log.push(Entry { position: head, unit: None });
    Ok(Loaded::Yes(count))
}

async fn insert(
    tx: &ClientWrapper,
    head: &mut Position,
    log: &mut Vec<Entry>,
    row: &Row,
) -> Result<(), Fail> {
    match row {
        Row::Head(position) => head.seq = position.seq,
        Row::Unit { unit, revoked_at } => {
            // What the log knew is there already.
            let sql = "INSERT INTO units (unit, revoked_at) VALUES ($1, $2)
                       ON CONFLICT (unit) DO UPDATE SET revoked_at = COALESCE(units.revoked_at, excluded.revoked_at)";
            execute(tx, sql, &[&blob(unit), &revoked_at.map(number)]).await?;
            if revoked_at.is_some() {
                log.push(Entry { position: *head, unit: Some(*unit) });
            }
        }
        Row::Tenant { tenant, gone } => {
            let sql = "INSERT INTO tenants (uid, id, created_at, gone) VALUES ($1, $2, $3, $4)";
            execute(tx, sql, &[&&tenant.uid.0[..], &tenant.id, &number(tenant.created_at), gone]).await?;
        }
        Row::Membrane { membrane, gone } => {
            queries::insert_membrane_row(tx, membrane).await?;
            if *gone {
                let sql = "UPDATE membranes SET gone = TRUE, escrow = NULL WHERE uid = $1";
                execute(tx, sql, &[&&membrane.uid.0[..]]).await?;
            }
        }
        Row::Record(record) => queries::insert_record(tx, record).await?,
    }
    Ok(())
}
