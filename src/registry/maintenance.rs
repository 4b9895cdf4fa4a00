//! What operators do to a store as a whole: check it, change the key that seals it, bring it somewhere else and back.

use crate::files;
use crate::ports::{Random, draw};
use crate::revocation_log::{Entry, RevocationLog};
use crate::store::sqlite;
use crate::store::{Epoch, Position, Rewrapped, Row, Store, StoreError};
use capability::Unit;
use capability::record::{Keks, Kind};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Records re-wrapped in one transaction: some ten milliseconds, in which a writer may have to wait.
const BATCH: usize = 256;

/// A backup or restore that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be overwritten.
    #[error("{0} is there already: remove it, or name another file")]
    Exists(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// What [`check`] found.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Tenants, tombstones among them.
    pub tenants: u64,
    /// Membranes, tombstones among them.
    pub membranes: u64,
    /// Capabilities, controls among them.
    pub records: u64,
    /// Of those, how many are sealed with an older key than the first.
    pub older_key: u64,
    /// Revoked units.
    pub revoked: u64,
    /// What is wrong; each was told to `complain`.
    pub problems: u64,
}

/// Goes over every row that `scan` gives and over the log: what can be verified without tokens. Complaints name lookup ids and
/// uids, which open nothing.
pub fn check(
    scan: impl FnOnce(&mut (dyn FnMut(Row) -> Result<(), StoreError> + Send)) -> Result<(), StoreError>,
    logged: &[Entry],
    keks: &Keks,
    complain: &mut (dyn FnMut(&str) + Send),
) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let (mut units, mut revoked) = (HashSet::new(), HashSet::new());
    let mut head = None;
    let mut problems = 0;
    let mut wrong = |text: String| {
        problems += 1;
        complain(&text);
    };
    scan(&mut |row| {
        match row {
            Row::Head(position) => head = Some(position),
            Row::Unit { unit, revoked_at } => {
                units.insert(unit);
                if revoked_at.is_some() {
                    revoked.insert(unit);
                }
            }
            Row::Tenant { tenant, gone } => {
                checked.tenants += 1;
                let unit = Unit::Uid(tenant.uid);
                if !units.contains(&unit) || gone != revoked.contains(&unit) {
                    wrong(format!(
                        "tenant {}: its unit is missing, or says otherwise than its row",
                        tenant.uid
                    ));
                }
            }
            Row::Membrane { membrane, gone } => {
                checked.membranes += 1;
                let unit = Unit::Uid(membrane.uid);
                if !units.contains(&unit) || gone != revoked.contains(&unit) {
                    wrong(format!(
                        "membrane {}: its unit is missing, or says otherwise than its row",
                        membrane.uid
                    ));
                }
                if !gone && membrane.escrow.is_empty() {
                    wrong(format!(
                        "membrane {}: it has no escrow, so that query cannot list it",
                        membrane.uid
                    ));
                }
            }
            Row::Record(record) => {
                checked.records += 1;
                if keks.unwrap(record.lookup, &record.sealed).is_err() {
                    wrong(format!("record {}: no key at hand opens its outer layer", record.lookup));
                } else if record.sealed.get(..4) != Some(&keks.first().id()[..]) {
                    checked.older_key += 1;
                }
                if record.kind != Kind::Grant
                    && record.units.uids().any(|uid| !units.contains(&Unit::Uid(uid)))
                {
                    wrong(format!("record {}: a unit of this control is missing", record.lookup));
                }
            }
        }
        Ok(())
    })?;
    let known: HashSet<Unit> = logged.iter().filter_map(|entry| entry.unit).collect();
    for unit in revoked.difference(&known) {
        wrong(format!("unit {unit}: it is revoked, and the revocation log does not know it"));
    }
    for unit in known.difference(&revoked) {
        wrong(format!("unit {unit}: the revocation log says that it was revoked, and it is not"));
    }
    if let (Some(head), Some(last)) = (head, logged.last())
        && last.position.epoch != head.epoch
    {
        wrong("the revocation log ends in another epoch than the store's".to_owned());
    }
    checked.revoked = u64::try_from(revoked.len()).unwrap_or(u64::MAX);
    checked.problems = problems;
    Ok(checked)
}

/// What [`rekey`] did.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rekeyed {
    /// Sealed with the first key now.
    pub rewrapped: u64,
    /// Sealed with it before.
    pub kept: u64,
    /// Opened by no key at hand: they are as they were.
    pub unopened: u64,
}

/// Seals every record that another key sealed with the first one, a few at a time, beside running servers.
pub fn rekey(
    store: &dyn Store,
    keks: &Keks,
    random: &dyn Random,
    mut progress: impl FnMut(u64),
) -> Result<Rekeyed, StoreError> {
    let (mut done, mut after) = (Rekeyed::default(), None);
    loop {
        let batch = store.records(after, BATCH)?;
        let more = batch.len() == BATCH;
        after = batch.last().map(|record| record.lookup);
        let mut changes = Vec::new();
        for record in batch {
            if record.sealed.get(..4) == Some(&keks.first().id()[..]) {
                done.kept += 1;
                continue;
            }
            let inner = keks.unwrap(record.lookup, &record.sealed);
            match inner.and_then(|inner| keks.wrap(record.lookup, &inner, draw(random))) {
                Ok(sealed) => {
                    changes.push(Rewrapped { lookup: record.lookup, before: record.sealed, after: sealed });
                }
                Err(_) => done.unopened += 1,
            }
        }
        if !changes.is_empty() {
            done.rewrapped += u64::try_from(store.rewrap(&changes)?).unwrap_or(u64::MAX);
        }
        progress(done.rewrapped + done.kept + done.unopened);
        if !more {
            return Ok(done);
        }
    }
}

/// Writes a consistent copy of a SQLite store that may be in use into a new file, which its owner alone may read.
pub fn backup(database: &Path, to: &Path) -> Result<u64, BackupError> {
    if to.try_exists().map_err(at(to))? {
        return Err(BackupError::Exists(to.display().to_string()));
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside it first, so that a backup that was cut off is none.
    let half =
        tempfile::Builder::new().prefix(".membrane-unfinished-").tempdir_in(folder).map_err(at(folder))?;
    let copy = half.path().join("copy");
    files::create_private(&copy).map_err(at(&copy))?;
    sqlite::copy(database, &copy)?;
    let file = File::open(&copy).map_err(at(&copy))?;
    file.sync_all().map_err(at(&copy))?;
    fs::hard_link(&copy, to).map_err(at(to))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    Ok(file.metadata().map_err(at(to))?.len())
}

/// Puts a backup in the place of a SQLite store that nobody has open; what was there stays beside it, as `….replaced`. The
/// next to open the store replays the revocation log and begins a new epoch.
pub fn restore(database: &Path, log: &Path, from: &Path, random: &dyn Random) -> Result<(), BackupError> {
    sqlite::verify(from)?;
    let content = File::open(from).map_err(at(from))?;
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut half =
        tempfile::Builder::new().prefix(".membrane-unfinished-").tempfile_in(folder).map_err(at(folder))?;
    io::copy(&mut io::BufReader::new(content), &mut half).map_err(at(from))?;
    half.as_file().sync_all().map_err(at(from))?;
    // An epoch that is nobody's: whoever opens the store finds that its head is another, whatever the backup holds.
    let last = RevocationLog::open(log).and_then(|mut log| Ok((log.last()?, log))).map_err(at(log))?;
    let (last, mut opened) = last;
    let position = Position { epoch: Epoch(draw(random)), seq: last.map_or(0, |entry| entry.position.seq) };
    if database.try_exists().map_err(at(database))? {
        sqlite::close_for_good(database)?;
        let mut replaced = database.as_os_str().to_owned();
        replaced.push(".replaced");
        fs::rename(database, &replaced).map_err(at(database))?;
    }
    opened.append(&[Entry { position, unit: None }]).map_err(at(log))?;
    half.persist(database).map_err(|error| at(database)(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    Ok(())
}

/// Writes a file beside its place first, and puts it there, if nothing is there, once `write` has done its part.
pub fn write_new<T, E: From<BackupError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut half =
        tempfile::Builder::new().prefix(".membrane-unfinished-").tempfile_in(folder).map_err(at(folder))?;
    let done = write(half.as_file_mut())?;
    half.as_file().sync_all().map_err(at(path))?;
    half.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(path.display().to_string()),
        _ => at(path)(error.error),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    Ok(done)
}
