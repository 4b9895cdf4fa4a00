//! A store as a stream of lines: how it goes from one backend to another.
//!
//! JSON lines: `{"export":1}`, then each row as [`Store::scan`] gives it, then `{"end":<rows>}`, without which the file was cut off. Sealed
//! parts stay sealed, so that such a file opens as little as the database does; bytes are base64url without padding.

use crate::store::{Epoch, Loaded, Membrane, Position, Record, Row, Store, StoreError, Tenant};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, Units};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};

/// The format's version.
const VERSION: u32 = 1;
/// Longer than the longest line, a record of 64 KiB with its units: some 96 KiB.
const MAX_LINE: u64 = 262_144;

/// A stream that cannot be read, or cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Reading or writing.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A line is not what it must be. Never repeats it.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// There is something in the store.
    #[error(
        "the store is not empty: import into one that init has just made, and into which nothing was put"
    )]
    NotEmpty,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Export(u32),
    Head {
        seq: u64,
    },
    Unit {
        unit: String,
        revoked: Option<u64>,
    },
    Tenant {
        uid: String,
        id: String,
        created: u64,
        gone: bool,
    },
    Membrane {
        uid: String,
        tenant: String,
        id: String,
        units: String,
        expires: Option<u64>,
        escrow: String,
        created: u64,
        gone: bool,
    },
    Record {
        lookup: String,
        sealed: String,
        kind: u8,
        units: String,
        expires: Option<u64>,
        created: u64,
    },
    End(u64),
}

impl From<&Row> for Line {
    fn from(row: &Row) -> Line {
        match row {
            Row::Head(position) => Line::Head { seq: position.seq },
            Row::Unit { unit, revoked_at } => Line::Unit { unit: unit.to_string(), revoked: *revoked_at },
            Row::Tenant { tenant, gone } => Line::Tenant {
                uid: tenant.uid.to_string(),
                id: tenant.id.clone(),
                created: tenant.created_at,
                gone: *gone,
            },
            Row::Membrane { membrane, gone } => Line::Membrane {
                uid: membrane.uid.to_string(),
                tenant: membrane.tenant.to_string(),
                id: membrane.id.as_str().to_owned(),
                units: B64.encode(membrane.units.to_bytes()),
                expires: membrane.expires_at,
                escrow: B64.encode(&membrane.escrow),
                created: membrane.created_at,
                gone: *gone,
            },
            Row::Record(record) => Line::Record {
                lookup: record.lookup.to_string(),
                sealed: B64.encode(&record.sealed),
                kind: record.kind as u8,
                units: B64.encode(record.units.to_bytes()),
                expires: record.expires_at,
                created: record.created_at,
            },
        }
    }
}

impl Line {
    fn row(self) -> Option<Row> {
        let uid = |text: String| text.parse::<Uid>().ok();
        let units = |text: String| Units::from_bytes(&B64.decode(text).ok()?);
        Some(match self {
            // The epoch is the new store's.
            Line::Head { seq } => Row::Head(Position { epoch: Epoch([0; 16]), seq }),
            Line::Unit { unit, revoked } => {
                Row::Unit { unit: unit.parse::<Unit>().ok()?, revoked_at: revoked }
            }
            Line::Tenant { uid: text, id, created, gone } => {
                Row::Tenant { tenant: Tenant { uid: uid(text)?, id, created_at: created }, gone }
            }
            Line::Membrane { uid: own, tenant, id, units: text, expires, escrow, created, gone } => {
                let membrane = Membrane {
                    uid: uid(own)?,
                    tenant: uid(tenant)?,
                    id: MembraneId::parse(&id).ok()?,
                    units: units(text)?,
                    expires_at: expires,
                    escrow: B64.decode(escrow).ok()?,
                    created_at: created,
                };
                Row::Membrane { membrane, gone }
            }
            Line::Record { lookup, sealed, kind, units: text, expires, created } => Row::Record(Record {
                lookup: lookup.parse::<LookupId>().ok()?,
                sealed: B64.decode(sealed).ok()?,
                kind: Kind::from_number(kind)?,
                units: units(text)?,
                expires_at: expires,
                created_at: created,
            }),
            Line::Export(_) | Line::End(_) => return None,
        })
    }
}

/// Writes every row; how many there were. `progress` hears of them now and then.
pub fn export(
    store: &dyn Store,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, TransferError> {
    let mut rows = 0;
    write_line(out, &Line::Export(VERSION))?;
    store.scan(&mut |row| {
        write_line(out, &Line::from(&row)).map_err(|error| StoreError::Backend(Box::new(error)))?;
        rows += 1;
        progress(rows);
        Ok(())
    })?;
    write_line(out, &Line::End(rows))?;
    out.flush()?;
    Ok(rows)
}

fn write_line(out: &mut (dyn Write + Send), line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Reads what [`export`] wrote into a store that holds nothing; how many rows there were.
pub fn import(
    store: &dyn Store,
    input: &mut (dyn BufRead + Send),
    fresh: Epoch,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, TransferError> {
    let mut lines = Lines { input, line: 0, failed: None, rows: 0, progress, ended: false };
    match lines.read() {
        Ok(Line::Export(VERSION)) => {}
        Ok(Line::Export(_)) => return Err(lines.error("it was written by another version of this program")),
        Ok(_) => return Err(lines.error("this is no export")),
        Err(error) => return Err(error),
    }
    let loaded = store.load(&mut lines, fresh);
    match (lines.failed, loaded) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(Loaded::NotEmpty)) => Err(TransferError::NotEmpty),
        (None, Ok(Loaded::Yes(rows))) => Ok(rows),
    }
}

struct Lines<'a> {
    input: &'a mut (dyn BufRead + Send),
    line: u64,
    /// Why the rows broke off: the store is told only that they did.
    failed: Option<TransferError>,
    rows: u64,
    progress: &'a mut (dyn FnMut(u64) + Send),
    ended: bool,
}

impl Lines<'_> {
    fn error(&self, what: &'static str) -> TransferError {
        TransferError::Line { line: self.line, what }
    }

    fn read(&mut self) -> Result<Line, TransferError> {
        self.line += 1;
        let mut text = Vec::new();
        io::Read::take(&mut *self.input, MAX_LINE).read_until(b'\n', &mut text)?;
        if text.last() != Some(&b'\n') {
            return Err(self.error("the file breaks off here, or the line is too long"));
        }
        serde_json::from_slice(&text).map_err(|_| self.error("this is no row of an export"))
    }

    fn row(&mut self) -> Result<Option<Row>, TransferError> {
        match self.read()? {
            Line::End(rows) if rows == self.rows => Ok(None),
            Line::End(_) => Err(self.error("rows are missing")),
            line => {
                let row = line.row().ok_or_else(|| self.error("this row cannot be read"))?;
                self.rows += 1;
                (self.progress)(self.rows);
                Ok(Some(row))
            }
        }
    }
}

impl Iterator for Lines<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Result<Row, StoreError>> {
        if self.ended {
            return None;
        }
        match self.row() {
            Ok(Some(row)) => Some(Ok(row)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                self.failed = Some(error);
                Some(Err(StoreError::Damaged("file")))
            }
        }
    }
}
