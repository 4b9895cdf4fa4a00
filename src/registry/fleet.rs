//! Who follows the feed, and until when each may act on what it was told: what `revoke?wait=fleet` waits for.
//!
//! A gateway's worker (a *watcher*) acts on an answer for its lease, counted from when it sent the question. Seen from here: not
//! for longer than its lease after the question's arrival. So once a revocation is committed, a watcher is *confirmed* as soon
//! as it asks from a position that holds it, or its last question is a lease ago. Only durations of this process's monotonic
//! clock enter into that.
//!
//! A watcher is in the store, with the longest lease it has asked for, before it is given an answer. A process that has not heard of
//! it itself presumes that it asked at the last moment: just before this process started, or, where it may ask another replica, just
//! before the commit; and waits out its lease. A question that arrived after the commit is answered with the revocation, whoever
//! answers it.

use crate::ports::Clock;
use crate::store::{Epoch, Position, Store, StoreError, Watching};
use crate::workers::Workers;
use capability::Uid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// The longest lease that a watcher may have: the longest `staleness` of a gateway.
pub const LONGEST_LEASE: Duration = Duration::from_secs(86_400);
/// How long after its request's arrival a barrier says how many are unconfirmed, if it still waits: more than the default lease, and
/// less than the 90 s for which our Envoy configurations let a control request take.
pub const BARRIER_TIMEOUT: Duration = Duration::from_secs(75);
/// Most watchers known at once where nothing else is said, some 100 bytes each. Whoever comes beyond is told to try again.
pub const MAX_WATCHERS: usize = 100_000;
/// Most watchers written in one transaction.
const BATCH: usize = 4_096;
/// Beyond a lease, for how long a watcher's row is good, in seconds: its worker need not be written again for every question. Somewhere
/// between these, by the watcher's name, so that thousands who asked at once are not all due again at once.
const ROW_SLACK: std::ops::RangeInclusive<u64> = 30..=60;
/// In seconds. A row that is good for less than this beyond the lease is written again beside the answer, so that hardly any question
/// waits for that: who has the default lease, 60 s, asks every 20 s.
const RENEW_BELOW: u64 = 25;
/// Between two looks of a barrier while confirmations pour in: each look goes over those who were open at the last.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Most barriers that wait at once, and most for one target. A dead revoke control can be presented again and again; whoever is one
/// too many is told at once how things stand.
const MAX_BARRIERS: usize = 64;
const MAX_BARRIERS_PER_TARGET: usize = 2;
/// Whoever watches a store that has lost track of them is presumed to have the longest lease of those that it still knows, and this
/// one, the default of gateways, where it knows none.
const PRESUMED_LEASE: Duration = Duration::from_secs(60);

/// In seconds, how far the wall clocks of replicas may differ, or one may be set.
const CLOCK_SKEW: u64 = 60;

/// A lease as it is waited out: two clocks that differ by a thousandth, and the last scheduling delays, are within it.
fn with_slack(lease: Duration) -> Duration {
    lease + lease / 1_000 + Duration::from_millis(100)
}

/// For how long beyond a lease this watcher's row is good.
fn slack(watcher: Uid) -> u64 {
    let (least, most) = (*ROW_SLACK.start(), *ROW_SLACK.end());
    least + u64::from(watcher.0[0]) % (most - least + 1)
}

/// Why a watcher could not be noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watcher could not be noted")]
pub struct NotNoted;

#[derive(Debug, Clone, Copy)]
struct Watcher {
    /// Until when it may act on what it was told.
    until: Instant,
    /// The latest position from which it asked.
    at: Option<Position>,
    /// What its row in the store says: the lease, and until when it is good, in seconds since 1970.
    row_lease: u64,
    row_until: u64,
    /// Whether it is being written again.
    renewing: bool,
}

/// How a watcher's row stands towards a question.
enum RowIs {
    Good,
    /// It is good for this question, and not for much longer.
    Ending,
    Due,
}

impl Watcher {
    /// How its row stands towards a question by which it may act until `needed`.
    fn row(&self, lease: u64, needed: u64) -> RowIs {
        if self.row_lease < lease || self.row_until < needed {
            RowIs::Due
        } else if self.row_until < needed.saturating_add(RENEW_BELOW) && !self.renewing {
            RowIs::Ending
        } else {
            RowIs::Good
        }
    }
}

struct Registration {
    watching: Watching,
    done: oneshot::Sender<()>,
}

struct Shared {
    watchers: Mutex<HashMap<Uid, Watcher>>,
    /// Most of them.
    most: usize,
    /// The history that barriers have been about so far.
    epoch: Mutex<Epoch>,
    /// How many barriers wait, by what was revoked.
    barriers: Mutex<HashMap<Uid, usize>>,
    /// Counts what may confirm somebody.
    changes: watch::Sender<u64>,
    registrations: mpsc::Sender<Registration>,
    store: Arc<dyn Store>,
    workers: Arc<Workers>,
    clock: Arc<dyn Clock>,
}

/// The watchers. Clones are the same.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

impl Fleet {
    /// Presumes that whoever stands in the store asked just now, and writes those who come in a task of the current runtime.
    pub fn start(
        store: Arc<dyn Store>,
        workers: Arc<Workers>,
        clock: Arc<dyn Clock>,
    ) -> Result<Fleet, StoreError> {
        Fleet::start_with(store, workers, clock, MAX_WATCHERS)
    }

    /// The same, with at most so many watchers.
    pub fn start_with(
        store: Arc<dyn Store>,
        workers: Arc<Workers>,
        clock: Arc<dyn Clock>,
        most: usize,
    ) -> Result<Fleet, StoreError> {
        let (registrations, queue) = mpsc::channel(BATCH);
        let started = Instant::now();
        // All of them: a wall clock that was set forward meanwhile must not make anybody be forgotten.
        let stored = store.watchers(0)?;
        let longest = stored.iter().map(|row| row.lease).max().map_or(Duration::ZERO, Duration::from_secs);
        let mut watchers: HashMap<Uid, Watcher> =
            stored.into_iter().map(|row| (row.watcher, presumed(row, started))).collect();
        if store.has_lost_track() {
            // A store that was restored has forgotten who asked since.
            watchers.insert(ANYBODY, presumed(anybody(longest), started));
        }
        let epoch = store.head()?.epoch;
        tokio::spawn(write_down(
            queue,
            Arc::clone(&store),
            Arc::clone(&workers),
            Arc::clone(&clock),
            started + with_slack(longest),
        ));
        let shared = Shared {
            watchers: Mutex::new(watchers),
            most,
            epoch: Mutex::new(epoch),
            barriers: Mutex::default(),
            changes: watch::Sender::new(0),
            registrations,
            store,
            workers,
            clock,
        };
        Ok(Fleet(Arc::new(shared)))
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<Uid, Watcher>> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher asks, from `at` if it has a position that this history knows: it may act on the answer for `lease`. To be called
    /// before it is answered.
    pub async fn note(&self, watcher: Uid, lease: Duration, at: Option<Position>) -> Result<(), NotNoted> {
        let now = self.0.clock.now();
        let (row_lease, needed) = (lease.as_secs(), now.saturating_add(lease.as_secs()));
        let row = {
            let mut watchers = self.watchers();
            let until = Instant::now() + with_slack(lease);
            match watchers.get_mut(&watcher) {
                Some(known) => {
                    known.until = known.until.max(until);
                    // Without a position it holds nothing, and has confirmed nothing new.
                    known.at = at.or(known.at);
                    let row = known.row(row_lease, needed);
                    known.renewing |= matches!(row, RowIs::Ending);
                    row
                }
                None => {
                    if watchers.len() >= self.0.most {
                        let moment = Instant::now();
                        watchers.retain(|_, watcher| watcher.until > moment);
                    }
                    if watchers.len() >= self.0.most {
                        return Err(NotNoted);
                    }
                    let new = Watcher { until, at, row_lease: 0, row_until: 0, renewing: false };
                    watchers.insert(watcher, new);
                    RowIs::Due
                }
            }
        };
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        let watching = Watching { watcher, lease: row_lease, until: needed.saturating_add(slack(watcher)) };
        match row {
            RowIs::Good => Ok(()),
            RowIs::Ending => {
                let fleet = self.clone();
                tokio::spawn(async move {
                    let _ = fleet.write(watching).await;
                    if let Some(known) = fleet.watchers().get_mut(&watcher) {
                        known.renewing = false;
                    }
                });
                Ok(())
            }
            RowIs::Due => self.write(watching).await,
        }
    }

    /// Waits until a watcher stands in the store.
    async fn write(&self, watching: Watching) -> Result<(), NotNoted> {
        let (done, written) = oneshot::channel();
        self.0.registrations.send(Registration { watching, done }).await.map_err(|_| NotNoted)?;
        written.await.map_err(|_| NotNoted)?;
        if let Some(known) = self.watchers().get_mut(&watching.watcher) {
            known.row_lease = known.row_lease.max(watching.lease);
            known.row_until = known.row_until.max(watching.until);
        }
        Ok(())
    }

    /// Waits until nobody may act any more as if `position`, at which `target` was revoked and which was committed before this call,
    /// had not been. Gives how many may still: where that took longer than `patience`, or where too many wait already.
    pub async fn wait(
        &self,
        target: Uid,
        position: Position,
        patience: Duration,
    ) -> Result<usize, StoreError> {
        let called = Instant::now();
        // With room for wall clocks that differ.
        let (store, since) = (Arc::clone(&self.0.store), self.0.clock.now().saturating_sub(CLOCK_SKEW));
        let mut changes = self.0.changes.subscribe();
        let stored = match self.0.workers.run(move || store.watchers(since)).await {
            Ok(stored) => stored?,
            Err(error) => return Err(StoreError::Backend(error.to_string().into())),
        };
        let longest = stored.iter().map(|row| row.lease).max().map_or(Duration::ZERO, Duration::from_secs);
        let begun_anew = {
            let mut epoch = self.0.epoch.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *epoch, position.epoch) != position.epoch
        };
        {
            let mut watchers = self.watchers();
            let mut presume = |row: Watching| {
                let presumed = presumed(row, called);
                let known = watchers.entry(row.watcher).or_insert(presumed);
                known.until = known.until.max(presumed.until);
            };
            // Each may have asked another replica since it asked this one.
            stored.into_iter().for_each(&mut presume);
            if begun_anew {
                presume(anybody(longest));
            }
        }
        // Who comes later is answered from what was read later, and so with the revocation.
        let mut open: Vec<Uid> = self.watchers().keys().copied().collect();
        let barrier = self.take_place(target);
        let deadline = if barrier.is_some() { called + patience } else { called };
        loop {
            changes.mark_unchanged();
            let next = self.drop_confirmed(&mut open, position);
            if open.is_empty() || Instant::now() >= deadline {
                return Ok(open.len());
            }
            let changed = async {
                let _ = changes.changed().await;
                tokio::time::sleep(LOOK_EVERY).await;
            };
            let _ = tokio::time::timeout_at(next.min(deadline), changed).await;
        }
    }

    /// Leaves those who may still act without `position`; gives when the first of them may no more.
    fn drop_confirmed(&self, open: &mut Vec<Uid>, position: Position) -> Instant {
        let now = Instant::now();
        let confirmed = |at: Position| at.epoch == position.epoch && at.seq >= position.seq;
        let mut next = now + LONGEST_LEASE;
        let watchers = self.watchers();
        open.retain(|watcher| {
            let known = watchers
                .get(watcher)
                .filter(|watcher| watcher.until > now && !watcher.at.is_some_and(confirmed));
            next = known.map_or(next, |watcher| next.min(watcher.until));
            known.is_some()
        });
        next
    }

    fn take_place(&self, target: Uid) -> Option<Barrier<'_>> {
        let mut barriers = self.0.barriers.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = barriers.values().sum();
        let own = barriers.entry(target).or_default();
        if all >= MAX_BARRIERS || *own >= MAX_BARRIERS_PER_TARGET {
            if *own == 0 {
                barriers.remove(&target);
            }
            return None;
        }
        *own += 1;
        Some(Barrier { shared: &self.0, target })
    }

    /// How many watchers may act on what they were told.
    pub fn watching(&self) -> usize {
        let now = Instant::now();
        self.watchers().values().filter(|watcher| watcher.until > now).count()
    }
}

/// A place among the barriers, for as long as one waits.
struct Barrier<'a> {
    shared: &'a Shared,
    target: Uid,
}

impl Drop for Barrier<'_> {
    fn drop(&mut self) {
        let mut barriers = self.shared.barriers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = barriers.get_mut(&self.target) {
            *own -= 1;
            if *own == 0 {
                barriers.remove(&self.target);
            }
        }
    }
}

/// Stands for whoever watches and was forgotten: no worker draws this name.
const ANYBODY: Uid = Uid([0; 16]);

fn anybody(longest: Duration) -> Watching {
    let lease = if longest.is_zero() { PRESUMED_LEASE } else { longest };
    Watching { watcher: ANYBODY, lease: lease.as_secs(), until: 0 }
}

/// Somebody of whom only the store knows, as if it had asked at `moment`.
fn presumed(row: Watching, moment: Instant) -> Watcher {
    let until = moment + with_slack(Duration::from_secs(row.lease));
    Watcher { until, at: None, row_lease: row.lease, row_until: row.until, renewing: false }
}

/// Writes watchers down, as many in one transaction as have come meanwhile; ends when nobody can come any more.
async fn write_down(
    mut queue: mpsc::Receiver<Registration>,
    store: Arc<dyn Store>,
    workers: Arc<Workers>,
    clock: Arc<dyn Clock>,
    keep_all_until: Instant,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Until the oldest of before the start is waited out, by this process's own clock, none is forgotten by the wall clock.
        let forget = if Instant::now() > keep_all_until { clock.now() } else { 0 };
        let store = Arc::clone(&store);
        let watching: Vec<Watching> = batch.iter().map(|registration| registration.watching).collect();
        match workers.run(move || store.note_watchers(&watching, forget)).await {
            // Whoever hung up meanwhile is written down all the same.
            Ok(Ok(())) => batch.drain(..).for_each(|registration| {
                let _ = registration.done.send(());
            }),
            Ok(Err(error)) => {
                tracing::error!(%error, "watchers could not be written down");
                batch.clear();
            }
            Err(_) => batch.clear(),
        }
    }
}
