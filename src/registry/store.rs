//! The store: what is kept, and the contract that every backend keeps. `tests/store.rs` is the contract as a test.
//!
//! * **Atomic.** Every method is one transaction: all of it happens, or nothing does. What a method has answered is durable.
//! * **Guarded.** A method that adds something names the records through which it was asked for; they are alive in the same
//!   transaction, or nothing is added.
//! * **Snapshots.** What a method reads, it reads from one snapshot, and a [`Position`] in an answer is that snapshot's.
//! * **Ordered.** Revoking marks the unit, advances the head by one and appends the event in one transaction, so that the
//!   order of events is the order of commits, without gaps.
//! * **Alive** is a record that has not expired and each of whose units is present and not revoked. Missing means dead, so that
//!   clearing up is always safe.
//! * Methods block; callers keep them off the threads that serve the network ([`crate::workers`]).

pub mod postgres;
pub mod sqlite;
pub mod url;

mod rows;

use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, UnitPair, Units};

/// Most events that a store keeps, and so how far behind a reader of the feed may be: some 3 MiB of memory in each replica.
/// Revocations come one by one from people and programs; a reader this far behind starts over, which is cheap.
pub const EVENTS_KEPT: u64 = 65_536;

/// Names one history of a store. New when a store is reset, restored, or found to have lost something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub [u8; 16]);

/// A point in a store's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub epoch: Epoch,
    /// How many revocations it holds.
    pub seq: u64,
}

/// One revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its place in the epoch.
    pub seq: u64,
    /// What was revoked.
    pub unit: Unit,
}

/// A capability as it is kept. The fields in the clear are bound by the seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key: the one-way image of the token.
    pub lookup: LookupId,
    /// The record under both layers, *outer* of `docs/wire.md`.
    pub sealed: Vec<u8>,
    /// What it stands for.
    pub kind: Kind,
    /// What its life depends on.
    pub units: Units,
    /// Seconds since 1970 from which on it is dead.
    pub expires_at: Option<u64>,
    /// Seconds since 1970. For the operator alone; nothing depends on it.
    pub created_at: u64,
}

impl Record {
    /// Its first unit: whose it is.
    pub fn own(&self) -> Option<UnitPair> {
        self.units.iter().next()
    }
}

/// A record, and which of its units are missing or revoked (its own lookup id among them where it was revoked itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// The units that are missing or revoked.
    pub dead: Vec<Unit>,
}

impl Found {
    /// Whether the record has passed its time.
    pub fn is_expired(&self, now: u64) -> bool {
        self.record.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether the record is alive.
    pub fn is_alive(&self, now: u64) -> bool {
        self.dead.is_empty() && !self.is_expired(now)
    }
}

/// A tenant with its three controls.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// The tenant's uid.
    pub uid: Uid,
    /// The name that the operator gave it.
    pub id: String,
    /// Its create, query and deleteSelf records.
    pub records: Vec<Record>,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// What a tenant may have; none: as much as it makes. A store never lets in what would be one more, however many ask at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most membranes, as [`Usage`] counts them.
    pub membranes: Option<u64>,
    /// Most capabilities, as [`Usage`] counts them.
    pub capabilities: Option<u64>,
}

/// Which of a tenant's limits is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Membranes.
    Membranes,
    /// Capabilities.
    Capabilities,
}

/// What a tenant has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its membranes that are neither revoked nor expired.
    pub membranes: u64,
    /// The records whose first unit is a membrane of its that is not revoked: what was exported through it, and its own two controls. One that
    /// died in another way (expired, revoked by itself, made through a delegation that ended) counts until it is cleared up.
    pub capabilities: u64,
}

/// A membrane with its two controls.
#[derive(Debug, Clone)]
pub struct NewMembrane {
    /// The membrane itself.
    pub membrane: Membrane,
    /// Its export and revoke records.
    pub records: Vec<Record>,
}

/// A membrane as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membrane {
    /// Its uid.
    pub uid: Uid,
    /// Its tenant.
    pub tenant: Uid,
    /// The name that its maker gave it.
    pub id: MembraneId,
    /// What its controls depend on.
    pub units: Units,
    /// When its controls expire.
    pub expires_at: Option<u64>,
    /// The HPKE ciphertext of its controls' URIs.
    pub escrow: Vec<u8>,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// A tenant as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its uid.
    pub uid: Uid,
    /// The name that the operator gave it.
    pub id: String,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// What came of adding something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Added {
    /// It is there, durably.
    Yes,
    /// Nothing was added: something alive has that id.
    Taken,
    /// Nothing was added: this guard is not alive.
    Dead(LookupId),
    /// Nothing was added: the tenant has all that it may have.
    Full(Limit),
}

/// What came of revoking something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Revoked {
    /// The guard is not alive: nothing was done.
    Dead,
    /// It was alive until now; the event is at this position.
    Now(Position),
    /// It had been revoked before; nothing changed.
    Already,
    /// There is no such unit; nothing changed.
    Unknown,
}

/// Which membranes to list: those of a tenant that are alive, ordered by the bytes of their ids.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Only the one with this id.
    pub id: Option<MembraneId>,
    /// Only those after this id.
    pub after: Option<MembraneId>,
    /// Most membranes to give.
    pub limit: usize,
}

/// A part of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The head.
    pub head: Position,
    /// The events after the position asked for, contiguous, up to the head.
    pub events: Vec<Event>,
}

/// Somebody who follows the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watching {
    /// Its own name for itself: random, one a gateway's worker.
    pub watcher: Uid,
    /// For how long it may act on an answer, in seconds.
    pub lease: u64,
    /// Seconds since 1970 after which it is forgotten.
    pub until: u64,
}

/// What clearing up did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// How many records were removed.
    pub removed: usize,
    /// Where to go on; none at the end of the store.
    pub next: Option<LookupId>,
}

/// One row of a store, as it is: what backups between backends, checks and re-wrapping go over. Sealed parts stay sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// The head; the first row of all.
    Head(Position),
    /// A unit.
    Unit {
        /// What can be revoked.
        unit: Unit,
        /// Seconds since 1970; none while it is not revoked.
        revoked_at: Option<u64>,
    },
    /// A tenant, or the tombstone of one.
    Tenant {
        /// The tenant.
        tenant: Tenant,
        /// Whether it is a tombstone.
        gone: bool,
    },
    /// A membrane, or the tombstone of one.
    Membrane {
        /// The membrane; a tombstone has no escrow.
        membrane: Membrane,
        /// Whether it is a tombstone.
        gone: bool,
    },
    /// A capability.
    Record(Record),
}

/// What came of bringing rows into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Loaded {
    /// All of them are there.
    Yes(u64),
    /// Nothing was done: the store holds something.
    NotEmpty,
}

/// A record's outer layer, exchanged for another one.
#[derive(Debug, Clone)]
pub struct Rewrapped {
    /// Which record.
    pub lookup: LookupId,
    /// What it had.
    pub before: Vec<u8>,
    /// What it is to have.
    pub after: Vec<u8>,
}

/// Where rows come from.
pub type Rows<'a> = dyn Iterator<Item = Result<Row, StoreError>> + Send + 'a;

/// Why a store could not do what it was asked. Nothing was done. Never holds what was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backend failed.
    #[error("the store failed: {0}")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store was written by a newer program.
    #[error(
        "the store has version {found}, this program knows versions up to {known}: use the newer program"
    )]
    Newer {
        /// The store's version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// What stands in the store cannot be read.
    #[error("the store holds a {0} that cannot be read")]
    Damaged(&'static str),
    /// The revocation log could not be read or written.
    #[error("the revocation log failed: {0}")]
    Log(#[source] std::io::Error),
}

/// A backend. See the module's documentation for what it promises.
pub trait Store: Send + Sync + 'static {
    /// The record with this lookup id, dead or alive, and the position of the snapshot.
    fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), StoreError>;

    /// Whether reading waits for no other machine.
    fn is_local(&self) -> bool {
        false
    }

    /// Adds a tenant, unless one that is not revoked has its id.
    fn add_tenant(&self, tenant: &NewTenant) -> Result<Added, StoreError>;

    /// Adds a membrane, unless one of the same tenant that is alive has its id. One that is dead without having been revoked
    /// (expired, or made through a delegation that ended) is revoked first, so that an id never stands for two membranes.
    fn add_membrane(
        &self,
        guards: &[LookupId],
        now: u64,
        new: &NewMembrane,
        limits: Limits,
    ) -> Result<Added, StoreError>;

    /// Adds a record; the limits are those of the tenant that its first unit names.
    fn add_record(
        &self,
        guards: &[LookupId],
        now: u64,
        record: &Record,
        limits: Limits,
    ) -> Result<Added, StoreError>;

    /// The tenant's membranes that are alive.
    fn membranes(&self, tenant: Uid, now: u64, page: &Page) -> Result<Vec<Membrane>, StoreError>;

    /// What the tenant has. Its cost does not grow with that.
    fn usage(&self, tenant: Uid, now: u64) -> Result<Usage, StoreError>;

    /// The tenants that are not revoked, ordered by the bytes of their ids.
    fn tenants(&self) -> Result<Vec<Tenant>, StoreError>;

    /// Revokes a tenant, a membrane or a single record, whatever depends on it: its cost does not grow with that. The guard is the
    /// control by which it is revoked, and must be alive in the same transaction but for the unit itself; an operator needs none.
    fn revoke(&self, guard: Option<LookupId>, unit: Unit, now: u64) -> Result<Revoked, StoreError>;

    /// The head.
    fn head(&self) -> Result<Position, StoreError>;

    /// The head, and the events after `after`. `None`: the events that are kept. A position in another epoch, ahead of the head
    /// or older than what is kept is answered as `None` is.
    fn events(&self, after: Option<Position>) -> Result<Events, StoreError>;

    /// Notes who follows the feed; of what was noted of them before, the longer lease and the later time stay. Forgets those whose
    /// time is over at `now`.
    fn note_watchers(&self, watching: &[Watching], now: u64) -> Result<(), StoreError>;

    /// Those who follow the feed and are not to be forgotten at `now`.
    fn watchers(&self, now: u64) -> Result<Vec<Watching>, StoreError>;

    /// Whether who follows the feed may be unknown: the store was found restored, or was brought up to date, when it was opened.
    fn has_lost_track(&self) -> bool;

    /// Looks at up to `limit` records after `after` in the order of lookup ids, and removes those that will never be alive
    /// again: expired ones, and dead grants. Dead controls stay, because a repeated revoke must go on being answered.
    fn collect(&self, after: Option<LookupId>, limit: usize, now: u64) -> Result<Collected, StoreError>;

    /// Every row, in one snapshot: the head, units, tenants, membranes, records. Events and watchers belong to this store's
    /// epoch and to nobody else's. An error that `each` gives ends it.
    fn scan(&self, each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send)) -> Result<(), StoreError>;

    /// Brings rows that [`Store::scan`] gave into a store that holds nothing, all or none. The head's sequence number is taken over and
    /// `fresh` becomes the epoch. The log gets what the rows say was revoked.
    fn load(&self, rows: &mut Rows<'_>, fresh: Epoch) -> Result<Loaded, StoreError>;

    /// Records in the order of lookup ids, after `after`.
    fn records(&self, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Exchanges outer layers, where they are still what they were; how many were exchanged.
    fn rewrap(&self, records: &[Rewrapped]) -> Result<usize, StoreError>;
}

/// A number of things in memory.
fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
