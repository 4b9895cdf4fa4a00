//! The one writer: a thread that does what was asked of it, as much in one transaction as has come meanwhile.
//!
//! A write's cost is that of getting it onto the disk (two syncs where something was revoked: the log's, then the database's). Those
//! who come while the disk is busy share the next one. Each is a savepoint of its own: its error is its own and leaves nothing
//! behind. Nobody is answered before the commit.

use crate::durability;
use crate::revocation_log::{Entry, RevocationLog};
use crate::store::StoreError;
use rusqlite::{Connection, ffi};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Most writes in one transaction: some milliseconds of work, for which another process may have to wait.
const BATCH: usize = 128;
/// Most writes that wait; whoever comes beyond waits to be let in. More than [`crate::workers`] let in at all.
const WAITING: usize = 4_096;

/// What came of the transaction that a write was in.
type Committed = Result<(), String>;
/// Tells whoever waits.
type Answer = Box<dyn FnOnce(Committed) + Send>;
/// Does one write, adding to what goes into the log, unless there is no transaction to do it in; says whether it is to be kept.
type Job = Box<dyn FnOnce(Option<(&Connection, &mut Vec<Entry>)>) -> (bool, Answer) + Send>;

/// The way to the writer.
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What is waiting is still done, and the connection is closed when this returns.
impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended() -> StoreError {
    StoreError::Backend("the writer has ended".into())
}

impl Writer {
    pub(super) fn start(connection: Connection, log: RevocationLog) -> Result<Writer, StoreError> {
        let (jobs, queue) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || run(connection, log, &queue))
            .map_err(|error| StoreError::Backend(Box::new(error)))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `work` in a transaction, and returns once that is on the disk. The entries that it adds are in the log before.
    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Entry>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tell, told) = sync_channel(1);
        let job: Job = Box::new(move |inside| {
            let result = inside.map(|(tx, entries)| work(tx, entries));
            let keep = matches!(result, Some(Ok(_)));
            let answer: Answer = Box::new(move |committed| {
                let result = match (result, committed) {
                    (Some(Err(error)), _) => Err(error),
                    (_, Err(why)) => Err(StoreError::Backend(why.into())),
                    (Some(done), Ok(())) => done,
                    (None, Ok(())) => Err(ended()),
                };
                // Whoever asked may be gone.
                let _ = tell.send(result);
            });
            (keep, answer)
        });
        self.jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        crate::workers::while_others_run(|| told.recv()).map_err(|_| ended())?
    }
}

fn run(connection: Connection, mut log: RevocationLog, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut answers = Vec::new();
        let mut entries = Vec::new();
        let jobs = std::iter::once(first).chain(queue.try_iter()).take(BATCH);
        let done = transact(&connection, &mut log, jobs, &mut answers, &mut entries);
        if done.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        let committed = done.map_err(|error| error.to_string());
        answers.into_iter().for_each(|answer: Answer| answer(committed.clone()));
    }
}

fn transact(
    connection: &Connection,
    log: &mut RevocationLog,
    jobs: impl Iterator<Item = Job>,
    answers: &mut Vec<Answer>,
    entries: &mut Vec<Entry>,
) -> Result<(), StoreError> {
    let mut begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(fatal);
    for job in jobs {
        if begun.is_ok() {
            begun = connection.execute_batch("SAVEPOINT job");
        }
        if begun.is_err() {
            answers.push(job(None).1);
            continue;
        }
        let before = entries.len();
        let (keep, answer) = job(Some((connection, &mut *entries)));
        answers.push(answer);
        if !keep {
            entries.truncate(before);
            // After some errors, as a full disk, SQLite has given up the whole transaction: this fails then, for all.
            begun = connection.execute_batch("ROLLBACK TO job").map_err(fatal);
        }
        if begun.is_ok() {
            begun = connection.execute_batch("RELEASE job");
        }
    }
    begun?;
    // The log first: a revocation that is in the log alone was not acknowledged, and is made good at the next start.
    if !entries.is_empty() {
        log.append(entries).map_err(StoreError::Log)?;
    }
    connection.execute_batch("COMMIT").map_err(fatal)?;
    Ok(())
}

/// What a failed sync has left on the disk nobody knows, and the kernel does not say it twice: see [`durability`].
fn fatal(error: rusqlite::Error) -> rusqlite::Error {
    if let rusqlite::Error::SqliteFailure(failure, _) = &error
        && [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].contains(&failure.extended_code)
    {
        durability::end("the database", &error);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Epoch, Position};
    use capability::{Uid, Unit};

    /// Holds the writer while the others queue up, so that they share one transaction.
    #[test]
    fn those_who_wait_for_one_commit_keep_their_own_errors() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("db")).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        let path = folder.path().join("log");
        let writer = Writer::start(connection, RevocationLog::open(&path).unwrap()).unwrap();
        let (release, released) = sync_channel::<()>(0);
        let entry = |seq: u64, n: u8| Entry {
            position: Position { epoch: Epoch([7; 16]), seq },
            unit: Some(Unit::Uid(Uid([n; 16]))),
        };
        std::thread::scope(|scope| {
            let writer = &writer;
            let holder = scope.spawn(move || {
                writer.write(move |_, _| {
                    let _ = released.recv();
                    Ok(())
                })
            });
            let others: Vec<_> = (0..20_i64)
                .map(|n| {
                    scope.spawn(move || {
                        writer.write(move |tx, log| {
                            tx.execute("INSERT INTO t VALUES (?1)", [n / 2])?;
                            log.push(entry(n.unsigned_abs(), 1));
                            // What came before in the same transaction is seen, and no commit lies between.
                            assert!(!tx.is_autocommit());
                            Ok(tx.query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0))?)
                        })
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(100));
            release.send(()).unwrap();
            holder.join().unwrap().unwrap();
            let done = others.into_iter().map(|other| other.join().unwrap()).filter(Result::is_ok).count();
            assert_eq!(done, 10, "each number went in once; whoever came second has an error of their own");
        });
        drop(writer);
        let connection = Connection::open(folder.path().join("db")).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 10);
        // What failed left nothing in the log either.
        assert_eq!(RevocationLog::open(&path).unwrap().entries().unwrap().len(), 10);
    }

    #[test]
    fn nobody_is_told_of_a_commit_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("db")).unwrap();
        let tables = "PRAGMA foreign_keys = ON; CREATE TABLE a (n INTEGER PRIMARY KEY);
                      CREATE TABLE b (n REFERENCES a DEFERRABLE INITIALLY DEFERRED)";
        connection.execute_batch(tables).unwrap();
        let log = RevocationLog::open(&folder.path().join("log")).unwrap();
        let writer = Writer::start(connection, log).unwrap();
        let broken = writer.write(|tx, _| Ok(tx.execute("INSERT INTO b VALUES (1)", [])?));
        assert!(broken.unwrap_err().to_string().contains("FOREIGN KEY"));
        assert_eq!(writer.write(|tx, _| Ok(tx.execute("INSERT INTO a VALUES (1)", [])?)).unwrap(), 1);
    }

    /// How many commits the WAL holds: frames that say how large the database is after them (SQLite's file format, section 4.1).
    fn commits(wal: &std::path::Path) -> usize {
        let bytes = std::fs::read(wal).unwrap();
        let (header, frames) = bytes.split_at(32);
        let number = |at: &[u8]| u32::from_be_bytes(at.try_into().unwrap());
        let page = number(&header[8..12]) as usize;
        // Frames of an earlier round of the file have another salt.
        let of_now = |frame: &&[u8]| frame[8..16] == header[16..24];
        frames.chunks_exact(24 + page).filter(of_now).filter(|frame| number(&frame[4..8]) != 0).count()
    }

    #[test]
    fn writes_that_queue_share_a_commit() {
        const WRITES: usize = 150;
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("db")).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n)").unwrap();
        let wal = folder.path().join("db-wal");
        let before = commits(&wal);
        let log = RevocationLog::open(&folder.path().join("log")).unwrap();
        let writer = Writer::start(connection, log).unwrap();
        // One by one, each has a commit of its own.
        for n in 0..5 {
            writer.write(move |tx, _| Ok(tx.execute("INSERT INTO t VALUES (?1)", [n])?)).unwrap();
        }
        assert_eq!(commits(&wal) - before, 5);
        let (release, released) = sync_channel::<()>(0);
        let queued = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (writer, queued) = (&writer, &queued);
            scope.spawn(move || {
                writer.write(move |_, _| {
                    let _ = released.recv();
                    Ok(())
                })
            });
            for n in 0..WRITES {
                scope.spawn(move || {
                    queued.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    writer
                        .write(move |tx, _| Ok(tx.execute("INSERT INTO t VALUES (?1)", [n as i64])?))
                        .unwrap();
                });
            }
            while queued.load(std::sync::atomic::Ordering::SeqCst) < WRITES {
                std::thread::yield_now();
            }
            // The last of them are on their way into the queue.
            std::thread::sleep(std::time::Duration::from_millis(200));
            release.send(()).unwrap();
        });
        let shared = commits(&wal) - before - 5;
        // A full batch, and the rest; on a busy machine a late one more than that.
        assert!((2..=10).contains(&shared), "{WRITES} writes at once had {shared} commits");
        drop(writer);
        let connection = Connection::open(folder.path().join("db")).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, WRITES as i64 + 5);
    }
}
