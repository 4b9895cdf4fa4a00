//! The commands that are about a store as a whole.

use crate::SystemRandom;
use registry::home::{Home, HomeError};
use registry::maintenance::{self, BackupError};
use registry::ports::Random;
use registry::registry::Registry;
use registry::revocation_log::RevocationLog;
use registry::store::{Epoch, StoreError, sqlite};
use registry::transfer::{self, TransferError};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Between two words on how far it is.
const PROGRESS_EVERY: u64 = 100_000;

/// Why such a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WholeError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{file}: {source}", file = file.display())]
    Transfer { file: PathBuf, source: TransferError },
    #[error(
        "the store is in PostgreSQL: use pg_dump and pg_restore, or export and import; see docs/operations.md"
    )]
    NotSqlite,
    #[error("{0} problems were found")]
    Problems(u64),
    #[error("{0} capabilities are opened by no key at hand: bring back the key that sealed them")]
    Unopened(u64),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Says on standard error how far it is.
fn progress(what: &'static str) -> impl FnMut(u64) + Send {
    let mut next = PROGRESS_EVERY;
    move |done| {
        if done >= next {
            next = done - done % PROGRESS_EVERY + PROGRESS_EVERY;
            let _ = writeln!(io::stderr(), "{what}: {done}");
        }
    }
}

fn database(home: &Home) -> Result<&Path, WholeError> {
    home.database().ok_or(WholeError::NotSqlite)
}

pub(crate) fn backup(home: &Home, file: &Path) -> Result<(), WholeError> {
    let bytes = maintenance::backup(database(home)?, file)?;
    Ok(writeln!(io::stdout(), "wrote {} ({bytes} bytes)", file.display())?)
}

pub(crate) fn restore(home: &Home, file: &Path) -> Result<(), WholeError> {
    let database = database(home)?;
    maintenance::restore(database, &home.log(), file, &SystemRandom)?;
    // Opened once, so that a log that cannot be replayed is found out now.
    let position =
        home.registry(Arc::new(crate::SystemClock), Arc::new(SystemRandom), false)?.store.head()?;
    writeln!(io::stdout(), "restored {}; {} revocations are in force", database.display(), position.seq)?;
    Ok(())
}

pub(crate) fn check(home: &Home) -> Result<(), WholeError> {
    let keks = home.keks()?;
    let logged = RevocationLog::open(&home.log()).and_then(|mut log| log.entries())?;
    let mut complain = |text: &str| {
        let _ = writeln!(io::stderr(), "{text}");
    };
    let checked = match home.database() {
        Some(path) => maintenance::check(|each| sqlite::look(path, each), &logged, &keks, &mut complain)?,
        None => {
            // Connecting compares the log with the store, as a server does when it starts.
            let store = home.registry(Arc::new(crate::SystemClock), Arc::new(SystemRandom), false)?.store;
            let logged = RevocationLog::open(&home.log()).and_then(|mut log| log.entries())?;
            maintenance::check(|each| store.scan(each), &logged, &keks, &mut complain)?
        }
    };
    serde_json::to_writer(io::stdout(), &checked).map_err(io::Error::from)?;
    writeln!(io::stdout())?;
    if checked.problems == 0 { Ok(()) } else { Err(WholeError::Problems(checked.problems)) }
}

pub(crate) fn rekey(registry: &Registry) -> Result<(), WholeError> {
    let done = maintenance::rekey(&*registry.store, &registry.keks, &SystemRandom, progress("records"))?;
    serde_json::to_writer(io::stdout(), &done).map_err(io::Error::from)?;
    writeln!(io::stdout())?;
    if done.unopened == 0 { Ok(()) } else { Err(WholeError::Unopened(done.unopened)) }
}

pub(crate) fn export(registry: &Registry, file: &Path) -> Result<(), WholeError> {
    let named = |source| WholeError::Transfer { file: file.to_owned(), source };
    let rows = maintenance::write_new(file, |out| {
        transfer::export(&*registry.store, &mut BufWriter::new(out), &mut progress("rows")).map_err(named)
    })?;
    Ok(writeln!(io::stdout(), "wrote {} ({rows} rows)", file.display())?)
}

pub(crate) fn import(registry: &Registry, file: &Path) -> Result<(), WholeError> {
    let named = |source| WholeError::Transfer { file: file.to_owned(), source };
    let mut input = BufReader::new(File::open(file).map_err(|error| named(error.into()))?);
    let mut epoch = [0; 16];
    SystemRandom.fill(&mut epoch);
    let rows =
        transfer::import(&*registry.store, &mut input, Epoch(epoch), &mut progress("rows")).map_err(named)?;
    Ok(writeln!(io::stdout(), "read {rows} rows; see membrane-registry check")?)
}
