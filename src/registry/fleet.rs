//! Who follows the feed, and until when each may act on what it was told: what `revoke?wait=fleet` waits for.
//!
//! A gateway's worker (a *watcher*) acts on an answer for its lease, counted from when it sent the question. Seen from here: not
//! for longer than its lease after the question's arrival. So once a revocation is committed, a watcher is *confirmed* as soon
//! as it asks from a position that holds it, or its last question is a lease ago. Only durations of this process's monotonic
//! clock enter into that.
//!
//! A watcher is in the store before it is given an answer. A process that has not heard of it itself (it asked before a restart,
//! or it asks another replica) presumes that it asked just before the commit, and waits out its lease: a question that arrived
//! after the commit is answered with the revocation, whoever answers it.

use crate::ports::Clock;
use crate::store::{Position, Store, StoreError, Watching};
use crate::workers::Workers;
use capability::Uid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// The longest lease that a watcher may have: the longest `staleness` of a gateway.
pub const LONGEST_LEASE: Duration = Duration::from_secs(86_400);
/// How long a barrier waits before it says how many are unconfirmed: more than the default lease, and less than the 90 s for
/// which our Envoy configurations let a control request take.
pub const BARRIER_TIMEOUT: Duration = Duration::from_secs(75);
/// Most watchers known at once, some 100 bytes each. Whoever comes beyond is told to try again.
pub const MAX_WATCHERS: usize = 100_000;
/// Most watchers written in one transaction.
const BATCH: usize = 4_096;
/// Beyond a lease, for how long a watcher's row is good: its worker need not be written again for every question.
const ROW_SLACK: u64 = 60;
/// Between two looks of a barrier while confirmations pour in: each look goes over all watchers.
const LOOK_EVERY: Duration = Duration::from_millis(2);

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
    /// Until when its row in the store is good, in seconds since 1970.
    row_until: u64,
}

struct Registration {
    watching: Watching,
    done: oneshot::Sender<()>,
}

struct Shared {
    watchers: Mutex<HashMap<Uid, Watcher>>,
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
    /// Begins with nobody; writes those who come in a task of the current runtime.
    pub fn start(store: Arc<dyn Store>, workers: Arc<Workers>, clock: Arc<dyn Clock>) -> Fleet {
        let (registrations, queue) = mpsc::channel(BATCH);
        let shared = Shared {
            watchers: Mutex::default(),
            changes: watch::Sender::new(0),
            registrations,
            store: Arc::clone(&store),
            workers: Arc::clone(&workers),
            clock: Arc::clone(&clock),
        };
        tokio::spawn(write_down(queue, store, workers, clock));
        Fleet(Arc::new(shared))
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<Uid, Watcher>> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher asks, from `at` if it has a position: it may act on the answer for `lease`. To be called before it is answered.
    pub async fn note(&self, watcher: Uid, lease: Duration, at: Option<Position>) -> Result<(), NotNoted> {
        let now = self.0.clock.now();
        let row_until = now.saturating_add(lease.as_secs());
        let known = {
            let mut watchers = self.watchers();
            let until = Instant::now() + lease;
            match watchers.get_mut(&watcher) {
                Some(known) => {
                    known.until = known.until.max(until);
                    // Without a position it holds nothing, and has confirmed nothing.
                    known.at = at.or(known.at);
                    known.row_until >= row_until
                }
                None => {
                    if watchers.len() >= MAX_WATCHERS {
                        let moment = Instant::now();
                        watchers.retain(|_, watcher| watcher.until > moment);
                    }
                    if watchers.len() >= MAX_WATCHERS {
                        return Err(NotNoted);
                    }
                    watchers.insert(watcher, Watcher { until, at, row_until: 0 });
                    false
                }
            }
        };
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        if known {
            return Ok(());
        }
        let until = row_until.saturating_add(ROW_SLACK);
        let (done, written) = oneshot::channel();
        let watching = Watching { watcher, lease: lease.as_secs(), until };
        self.0.registrations.send(Registration { watching, done }).await.map_err(|_| NotNoted)?;
        written.await.map_err(|_| NotNoted)?;
        if let Some(known) = self.watchers().get_mut(&watcher) {
            known.row_until = until;
        }
        Ok(())
    }

    /// Waits until nobody may act any more as if `position`, which was committed before this call, had not been. Gives how many
    /// may still, where that took longer than `patience`.
    pub async fn wait(&self, position: Position, patience: Duration) -> Result<usize, StoreError> {
        let called = Instant::now();
        let (store, now) = (Arc::clone(&self.0.store), self.0.clock.now());
        let mut changes = self.0.changes.subscribe();
        let stored = match self.0.workers.run(move || store.watchers(now)).await {
            Ok(stored) => stored?,
            Err(error) => return Err(StoreError::Backend(error.to_string().into())),
        };
        {
            let mut watchers = self.watchers();
            for Watching { watcher, lease, until } in stored {
                let presumed =
                    Watcher { until: called + Duration::from_secs(lease), at: None, row_until: until };
                watchers.entry(watcher).or_insert(presumed);
            }
        }
        let deadline = called + patience;
        loop {
            changes.mark_unchanged();
            let (unconfirmed, next) = self.unconfirmed(position);
            if unconfirmed == 0 || Instant::now() >= deadline {
                return Ok(unconfirmed);
            }
            let changed = async {
                let _ = changes.changed().await;
                tokio::time::sleep(LOOK_EVERY).await;
            };
            let _ = tokio::time::timeout_at(next.min(deadline), changed).await;
        }
    }

    /// How many may still act without `position`, and when the first of them may no more.
    fn unconfirmed(&self, position: Position) -> (usize, Instant) {
        let now = Instant::now();
        let confirmed = |at: Position| at.epoch == position.epoch && at.seq >= position.seq;
        let watchers = self.watchers();
        let open =
            watchers.values().filter(|watcher| watcher.until > now && !watcher.at.is_some_and(confirmed));
        open.fold((0, now + LONGEST_LEASE), |(count, first), watcher| (count + 1, first.min(watcher.until)))
    }

    /// How many watchers may act on what they were told.
    pub fn watching(&self) -> usize {
        let now = Instant::now();
        self.watchers().values().filter(|watcher| watcher.until > now).count()
    }
}

/// Writes watchers down, as many in one transaction as have come meanwhile; ends when nobody can come any more.
async fn write_down(
    mut queue: mpsc::Receiver<Registration>,
    store: Arc<dyn Store>,
    workers: Arc<Workers>,
    clock: Arc<dyn Clock>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let (store, now) = (Arc::clone(&store), clock.now());
        let watching: Vec<Watching> = batch.iter().map(|registration| registration.watching).collect();
        match workers.run(move || store.note_watchers(&watching, now)).await {
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
