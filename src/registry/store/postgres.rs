//! The store in PostgreSQL, for registries of several processes and machines.
//!
//! * **Order.** A revocation marks its unit and updates the one row of `head` late in its transaction. That row's lock is held until
//!   the commit, so that the order of sequence numbers is the order of commits, without gaps.
//! * **Snapshots.** Reads see one snapshot (`REPEATABLE READ`). Writes see what was committed before each of their statements, so that two of
//!   them wait for each other where they must instead of being given up. Whoever adds while a guard is revoked comes before that
//!   revocation: what was added carries the units by which it is dead.
//! * **Once.** A transaction that the server gave up (serialisation, deadlock), or that broke off before its commit was sent, is done
//!   anew, [`ATTEMPTS`] times at most. One whose commit was not answered is an error: it may have happened.
//! * **Histories.** Each process keeps a revocation log of its own and writes into it what it hears of others, too. Every new
//!   connection is asked which history the server is in (`connect::stamp`) before it is used: after a failover or a restore all
//!   connections are new, so that the log is replayed, and a new epoch begins, before anything is answered.
//!
//! Statements are prepared once a session: a pooler in front must keep sessions (pgbouncer: `pool_mode = session`).

mod connect;
mod counts;
mod queries;
mod revocations;
mod rows;
mod schema;
mod whole;

pub use connect::{PostgresUrl, UrlError};

use super::{
    Added, Collected, Epoch, Events, Found, Limits, Loaded, Membrane, NewMembrane, NewTenant, Page, Position,
    Record, Revoked, Rewrapped, Row, Rows, Store, StoreError, Tenant, Usage, Watching,
};
use crate::revocation_log::RevocationLog;
use capability::record::Kind;
use capability::{LookupId, Uid, Unit};
use counts::{Hold, Room};
use deadpool_postgres::{ClientWrapper, Manager, Object, Pool, PoolError, Runtime, Timeouts};
use revocations::Log;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Connections at most: as many as the two [`crate::workers`] let run at once.
const CONNECTIONS: usize = 2 * crate::workers::RUNNING;
/// How long work waits for a free connection, and for a new one to be made and asked what it is.
const WAIT: Timeouts = Timeouts {
    wait: Some(Duration::from_secs(5)),
    create: Some(Duration::from_secs(15)),
    recycle: Some(Duration::from_secs(5)),
};
/// How long one transaction may take, after which its connection is given up.
const TRANSACTION: Duration = Duration::from_secs(10);
/// How often a transaction is begun.
const ATTEMPTS: u32 = 8;
/// After the first attempt that failed; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(5);

const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
const WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE";

/// Why a transaction did not happen, or may not have.
#[derive(Debug)]
enum Fail {
    /// The server, or the way to it, before the commit was sent.
    Db(tokio_postgres::Error),
    /// The commit was sent and not answered with success.
    Commit(tokio_postgres::Error),
    /// What was read is not what it must be, or the log failed.
    Store(StoreError),
}

impl From<tokio_postgres::Error> for Fail {
    fn from(error: tokio_postgres::Error) -> Fail {
        Fail::Db(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Fail {
        Fail::Store(error)
    }
}

impl From<Fail> for StoreError {
    fn from(fail: Fail) -> StoreError {
        match fail {
            Fail::Db(error) | Fail::Commit(error) => StoreError::Backend(said(&error).into()),
            Fail::Store(error) => error,
        }
    }
}

/// What the server said, without its detail: that repeats what was to be stored.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl Fail {
    /// Whether nothing happened and another attempt may succeed.
    fn is_passing(&self) -> bool {
        let given_up = |error: &tokio_postgres::Error| {
            matches!(
                error.code(),
                Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
            )
        };
        match self {
            // Two that were given one id at once: the one that lost sees the other in its next snapshot.
            Fail::Db(error) => {
                let constraint = error.as_db_error().and_then(|error| error.constraint());
                given_up(error)
                    || error.is_closed()
                    || error.code() == Some(&SqlState::ADMIN_SHUTDOWN)
                    || matches!(constraint, Some("membranes_by_id" | "tenants_by_id"))
            }
            Fail::Commit(error) => given_up(error),
            Fail::Store(_) => false,
        }
    }
}

/// An open store.
pub struct PostgresStore {
    pool: Pool,
    log: Mutex<Log>,
    fresh: Box<dyn Fn() -> Epoch + Send + Sync>,
    /// Drives the connections; none once the store is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.pool.close();
        // Dropped as it is, a runtime waits for its threads, which a thread that serves the network must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn backend(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Backend(Box::new(error))
}

impl PostgresStore {
    /// Connects, makes the tables if there are none, and compares the store with the revocation log at `log`. Where something was lost,
    /// now or at any later connection, what the log holds is revoked again and the next `fresh` epoch begins.
    pub fn open(
        url: &PostgresUrl,
        log: &Path,
        fresh: impl Fn() -> Epoch + Send + Sync + 'static,
    ) -> Result<PostgresStore, StoreError> {
        let manager = match url.tls()? {
            Some(tls) => Manager::new(url.config(), MakeRustlsConnect::new(tls)),
            None => Manager::new(url.config(), NoTls),
        };
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .timeouts(WAIT)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(backend)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(backend)?;
        let log = Log::new(RevocationLog::open(log).map_err(StoreError::Log)?);
        let store =
            PostgresStore { pool, log: Mutex::new(log), fresh: Box::new(fresh), runtime: Some(runtime) };
        store.block_on(async {
            let mut client = store.pool.get().await.map_err(from_pool)?;
            connect::set_up(&client).await?;
            schema::bring_up_to_date(&mut client, (store.fresh)()).await?;
            store.reconcile(&client).await
        })?;
        Ok(store)
    }

    /// Waits for work on the calling thread, while the store's own runtime drives the connections: so it may be called from
    /// threads that belong to a runtime as well as from those that do not.
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Unpark>) {
                self.0.unpark();
            }
        }
        let _entered = self.runtime.as_ref().map(tokio::runtime::Runtime::enter);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut work = std::pin::pin!(work);
        loop {
            match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return done,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// A connection to a server whose history is known.
    async fn client(&self) -> Result<Object, Fail> {
        let client = self.pool.get().await.map_err(from_pool)?;
        if Object::metrics(&client).recycle_count == 0 {
            let checked = async {
                connect::set_up(&client).await?;
                self.check_history(&client).await
            };
            let checked =
                tokio::time::timeout(TRANSACTION, checked).await.unwrap_or_else(|_| Err(too_slow()));
            if let Err(fail) = checked {
                drop(Object::take(client));
                return Err(fail);
            }
        }
        Ok(client)
    }

    /// One transaction, once. It is over, one way or the other, when this returns.
    async fn attempt<T>(
        &self,
        begin: &str,
        work: &impl AsyncFn(&ClientWrapper) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let client = self.client().await?;
        let whole = async {
            // In one go with the first statement; if it fails, the connection is broken and that one fails too.
            let (begun, done) = tokio::join!(biased; client.batch_execute(begin), work(&client));
            begun?;
            let done = done?;
            client.batch_execute("COMMIT").await.map_err(Fail::Commit)?;
            Ok(done)
        };
        let result = tokio::time::timeout(TRANSACTION, whole).await.unwrap_or_else(|_| Err(too_slow()));
        if result.is_err() {
            let rolled_back = tokio::time::timeout(TRANSACTION, client.batch_execute("ROLLBACK")).await;
            if !matches!(rolled_back, Ok(Ok(()))) {
                drop(Object::take(client));
            }
        }
        result
    }

    async fn transaction<T>(
        &self,
        begin: &str,
        work: impl AsyncFn(&ClientWrapper) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let mut attempt = 0;
        loop {
            match self.attempt(begin, &work).await {
                Err(fail) if fail.is_passing() && attempt + 1 < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * 2_u32.saturating_pow(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn run<T>(
        &self,
        begin: &str,
        work: impl AsyncFn(&ClientWrapper) -> Result<T, Fail>,
    ) -> Result<T, StoreError> {
        Ok(self.block_on(self.transaction(begin, work))?)
    }
}

impl PostgresStore {
    /// Adds something to what a tenant has, as it is told whether there is room: under each hold in turn, until one can tell.
    fn add(
        &self,
        holds: &[Hold],
        tenant: Option<Uid>,
        limits: Limits,
        more: Usage,
        now: u64,
        work: impl AsyncFn(&ClientWrapper, Room) -> Result<Added, Fail>,
    ) -> Result<Added, StoreError> {
        for hold in holds {
            let added = self.run(WRITE, async |tx| {
                let room = match tenant {
                    Some(tenant) => counts::room(tx, tenant, limits, more, now, *hold).await?,
                    None => Room::Yes,
                };
                if room == Room::Unclear { Ok(None) } else { work(tx, room).await.map(Some) }
            })?;
            if let Some(added) = added {
                return Ok(added);
            }
        }
        Err(StoreError::Damaged("count"))
    }

    /// One transaction over all there is, once, and without a bound on its time.
    fn whole<T>(
        &self,
        begin: &str,
        work: impl AsyncFnOnce(&ClientWrapper) -> Result<T, Fail>,
    ) -> Result<T, StoreError> {
        let done = self.block_on(async {
            // The session's own bounds would end it; it is not given back to the pool.
            let client = Object::take(self.client().await?);
            client.batch_execute(begin).await?;
            client
                .batch_execute(
                    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
                )
                .await?;
            let done = work(&client).await?;
            client.batch_execute("COMMIT").await.map_err(Fail::Commit)?;
            Ok::<T, Fail>(done)
        });
        Ok(done?)
    }
}

fn too_slow() -> Fail {
    Fail::Store(StoreError::Backend("the server did not answer in time".into()))
}

fn from_pool(error: PoolError) -> Fail {
    match error {
        PoolError::Backend(error) => Fail::Db(error),
        error => Fail::Store(StoreError::Backend(Box::new(error))),
    }
}

impl Store for PostgresStore {
    fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), StoreError> {
        self.run(READ, async |tx| queries::find_at(tx, lookup).await)
    }

    fn add_tenant(&self, tenant: &NewTenant) -> Result<Added, StoreError> {
        self.run(WRITE, async |tx| queries::add_tenant(tx, tenant).await)
    }

    fn add_membrane(
        &self,
        guards: &[LookupId],
        now: u64,
        new: &NewMembrane,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        let tenant = new.membrane.tenant;
        let more = Usage { membranes: 1, capabilities: super::count(new.records.len()) };
        // Few are made: who may only make so many makes one after the other.
        let holds = [Hold::Alone];
        self.add(&holds, Some(tenant), limits, more, now, async |tx, room| {
            if let Some(dead) = queries::first_dead(tx, guards, now).await? {
                return Ok(Added::Dead(dead));
            }
            if let Some(standing) = queries::membrane(tx, tenant, new.membrane.id.as_str()).await? {
                if queries::is_alive(tx, &standing, now).await? {
                    return Ok(Added::Taken);
                }
                let _ = self.revoke_in(tx, Unit::Uid(standing.uid), now).await?;
            }
            if let Room::Full(limit) = room {
                return Ok(Added::Full(limit));
            }
            queries::insert_membrane(tx, new).await?;
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
        let tenant = record.own().map(|own| own.tenant);
        let more = Usage { membranes: 0, capabilities: 1 };
        let holds = [Hold::Shared, Hold::Alone];
        self.add(&holds, tenant, limits, more, now, async |tx, room| {
            if let Some(dead) = queries::first_dead(tx, guards, now).await? {
                return Ok(Added::Dead(dead));
            }
            if let Room::Full(limit) = room {
                return Ok(Added::Full(limit));
            }
            queries::insert_counted_record(tx, record).await?;
            Ok(Added::Yes)
        })
    }

    fn membranes(&self, tenant: Uid, now: u64, page: &Page) -> Result<Vec<Membrane>, StoreError> {
        self.run(READ, async |tx| queries::membranes(tx, tenant, now, page).await)
    }

    fn usage(&self, tenant: Uid, now: u64) -> Result<Usage, StoreError> {
        self.run(READ, async |tx| counts::usage(tx, tenant, now).await)
    }

    fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.run(READ, async |tx| queries::tenants(tx).await)
    }

    fn revoke(&self, guard: Option<LookupId>, unit: Unit, now: u64) -> Result<Revoked, StoreError> {
        self.run(WRITE, async |tx| {
            if let Some(guard) = guard {
                let (found, _) = queries::find_at(tx, guard).await?;
                let alive =
                    |found: &Found| !found.is_expired(now) && found.dead.iter().all(|dead| *dead == unit);
                if !found.as_ref().is_some_and(alive) {
                    return Ok(Revoked::Dead);
                }
            }
            self.revoke_in(tx, unit, now).await
        })
    }

    fn head(&self) -> Result<Position, StoreError> {
        self.run(READ, async |tx| queries::head(tx).await)
    }

    fn events(&self, after: Option<Position>) -> Result<Events, StoreError> {
        Ok(self.block_on(async {
            let read = self.transaction(READ, async |tx| queries::events(tx, after).await).await?;
            if self.note(&read)? {
                return Ok(read);
            }
            // Another process found that something was lost: what this one knows is compared before anybody hears of it.
            let client = self.client().await?;
            if let Err(fail) = self.reconcile(&client).await {
                drop(Object::take(client));
                return Err(fail);
            }
            drop(client);
            self.transaction(READ, async |tx| queries::events(tx, after).await).await
        })?)
    }

    fn note_watchers(&self, watching: &[Watching], now: u64) -> Result<(), StoreError> {
        self.run(WRITE, async |tx| queries::note_watchers(tx, watching, now).await)
    }

    fn watchers(&self, now: u64) -> Result<Vec<Watching>, StoreError> {
        self.run(READ, async |tx| queries::watchers(tx, now).await)
    }

    /// Whether a fail-over lost somebody before this process came cannot be told from here: so it is presumed.
    fn has_lost_track(&self) -> bool {
        true
    }

    fn collect(&self, after: Option<LookupId>, limit: usize, now: u64) -> Result<Collected, StoreError> {
        let (dead, next) = self.run(READ, async |tx| {
            let batch = queries::records(tx, after, limit).await?;
            let next = batch.last().map(|record| record.lookup).filter(|_| batch.len() == limit);
            let mut dead = Vec::new();
            for found in queries::with_dead_units(tx, batch).await? {
                if found.is_expired(now) || (found.record.kind == Kind::Grant && !found.dead.is_empty()) {
                    dead.extend(found.record.own().map(|own| (found.record.lookup, own)));
                }
            }
            Ok((dead, next))
        })?;
        if !dead.is_empty() {
            self.run(WRITE, async |tx| queries::delete_records(tx, &dead).await)?;
        }
        Ok(Collected { removed: dead.len(), next })
    }

    fn scan(&self, each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send)) -> Result<(), StoreError> {
        self.whole(READ, async |tx| whole::scan(tx, each).await)
    }

    fn load(&self, rows: &mut Rows<'_>, fresh: Epoch) -> Result<Loaded, StoreError> {
        self.whole(WRITE, async |tx| {
            let mut entries = Vec::new();
            let loaded = whole::load(tx, rows, fresh, &mut entries).await?;
            if let Loaded::Yes(_) = loaded {
                self.write_down(&entries)?;
            }
            Ok(loaded)
        })
    }

    fn records(&self, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.run(READ, async |tx| queries::records(tx, after, limit).await)
    }

    fn rewrap(&self, records: &[Rewrapped]) -> Result<usize, StoreError> {
        self.run(WRITE, async |tx| queries::rewrap(tx, records).await)
    }
}
