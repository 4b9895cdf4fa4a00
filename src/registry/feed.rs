//! The revocation feed: what was revoked, in order, for gateways that ask with long polls.
//!
//! One task reads the store for all readers. It looks when a question arrives, when this process revoked something, and at
//! intervals while somebody waits, because other processes revoke too. A question is answered only from what was read after it
//! arrived: a reader counts its lease from when it sent the question, so an older answer would stretch the bound.

use crate::metrics::Metrics;
use crate::store::{EVENTS_KEPT, Epoch, Event, Events, Position, Store, StoreError};
use crate::workers::Workers;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Most events in one answer.
pub const EVENTS_PER_ANSWER: usize = 1_024;
/// The longest a question is held.
pub const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// How soon a revocation by another process is noticed while somebody waits. One point read each.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where a reader stands after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The events after the reader's position, contiguous.
    Events {
        /// The position after the last of them.
        position: Position,
        /// At most [`EVENTS_PER_ANSWER`].
        events: Vec<Event>,
    },
    /// The reader's position is in another epoch, too old, or ahead of the head: it drops what it holds and goes on from here.
    StartOver {
        /// The head.
        position: Position,
    },
}

/// What has been read from the store.
#[derive(Debug)]
struct Ring {
    head: Position,
    /// Contiguous up to the head; at most [`EVENTS_KEPT`].
    events: VecDeque<Event>,
}

/// What the readers wait for: the head, and how many of the requested looks are behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    head: Position,
    looks: u64,
    closing: bool,
}

struct Shared {
    ring: RwLock<Ring>,
    /// Looks that were asked for.
    asked: AtomicU64,
    waiting: AtomicU64,
    wake: Notify,
    seen: watch::Sender<Seen>,
    metrics: Arc<Metrics>,
}

/// The feed. Clones are the same feed.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

/// The store cannot be read at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the feed cannot read the store")]
pub struct FeedUnavailable;

/// How long a question waits for its look at the store before it is refused.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

impl Feed {
    /// Reads the store's events and goes on doing so in a task of the current runtime, until [`Feed::close`].
    pub fn start(
        store: Arc<dyn Store>,
        workers: Arc<Workers>,
        metrics: Arc<Metrics>,
    ) -> Result<Feed, StoreError> {
        let Events { head, events } = store.events(None)?;
        metrics.head_seq.store(head.seq, Ordering::Relaxed);
        let shared = Shared {
            ring: RwLock::new(Ring { head, events: events.into() }),
            asked: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            wake: Notify::new(),
            seen: watch::Sender::new(Seen { head, looks: 0, closing: false }),
            metrics,
        };
        let feed = Feed(Arc::new(shared));
        tokio::spawn(feed.clone().follow(store, workers));
        Ok(feed)
    }

    /// Looks at the store soon: something was revoked.
    pub fn look(&self) -> u64 {
        let asked = self.0.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.0.wake.notify_one();
        asked
    }

    /// Answers whoever waits, and all later questions, at once.
    pub fn close(&self) {
        self.0.seen.send_modify(|seen| seen.closing = true);
        self.0.wake.notify_one();
    }

    /// Answers a reader at `after`, or one that asks for the first time. Waits up to `hold` if there is nothing new.
    pub async fn ask(&self, after: Option<Position>, hold: Duration) -> Result<Answer, FeedUnavailable> {
        let mut seen = self.0.seen.subscribe();
        let look = self.look();
        let looked = async { seen.wait_for(|seen| seen.looks >= look || seen.closing).await.is_ok() };
        if !tokio::time::timeout(LOOK_TIMEOUT, looked).await.unwrap_or(false) {
            return Err(FeedUnavailable);
        }
        // Closing, the store is not looked at again: what was read before the question arrived is no answer to it.
        if seen.borrow().looks < look {
            return Err(FeedUnavailable);
        }
        let Some(after) = after else {
            return Ok(Answer::Events { position: seen.borrow().head, events: Vec::new() });
        };
        let _waiting = Waiting::new(&self.0);
        let hold = hold.min(LONGEST_HOLD);
        let news = async { seen.wait_for(|seen| seen.head != after || seen.closing).await.is_ok() };
        if tokio::time::timeout(hold, news).await.is_err() {
            // Still what was read after the question arrived: the promise above holds.
            return Ok(Answer::Events { position: after, events: Vec::new() });
        }
        Ok(self.answer(after))
    }

    /// Whether a reader at `position` stands where this history has been, as far as was read.
    pub fn holds(&self, position: &Position) -> bool {
        let head = self.0.seen.borrow().head;
        head.epoch == position.epoch && position.seq <= head.seq
    }

    fn answer(&self, after: Position) -> Answer {
        let ring = self.0.ring.read().unwrap_or_else(PoisonError::into_inner);
        let head = ring.head;
        let behind = head.seq.checked_sub(after.seq).filter(|_| head.epoch == after.epoch);
        let skip = behind
            .and_then(|behind| usize::try_from(behind).ok())
            .and_then(|behind| ring.events.len().checked_sub(behind));
        let Some(skip) = skip else {
            crate::metrics::count(&self.0.metrics.feed_start_overs);
            return Answer::StartOver { position: head };
        };
        let events: Vec<Event> = ring.events.iter().skip(skip).take(EVENTS_PER_ANSWER).copied().collect();
        let seq = events.last().map_or(after.seq, |event| event.seq);
        Answer::Events { position: Position { epoch: head.epoch, seq }, events }
    }

    async fn follow(self, store: Arc<dyn Store>, workers: Arc<Workers>) {
        loop {
            let somebody_waits = self.0.waiting.load(Ordering::Acquire) > 0;
            if somebody_waits {
                let _ = tokio::time::timeout(LOOK_EVERY, self.0.wake.notified()).await;
            } else {
                self.0.wake.notified().await;
            }
            if self.0.seen.borrow().closing {
                return;
            }
            let looks = self.0.asked.load(Ordering::Acquire);
            let after = self.0.seen.borrow().head;
            let reading = Arc::clone(&store);
            match workers.run(move || reading.events(Some(after))).await {
                Ok(Ok(events)) => {
                    let head = self.take_in(events);
                    self.0.metrics.head_seq.store(head.seq, Ordering::Relaxed);
                    let new = Seen { head, looks, closing: false };
                    self.0.seen.send_if_modified(|seen| {
                        let changed = !seen.closing && *seen != new;
                        if changed {
                            *seen = new;
                        }
                        changed
                    });
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "the feed cannot read the store");
                    tokio::time::sleep(LOOK_EVERY).await;
                    self.0.wake.notify_one();
                }
                Err(_) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    self.0.wake.notify_one();
                }
            }
        }
    }

    fn take_in(&self, read: Events) -> Position {
        let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        let follows = |ring: &Ring, epoch: Epoch| {
            let next = ring.head.seq + 1;
            ring.head.epoch == epoch
                && read.events.first().map_or(ring.head == read.head, |event| event.seq == next)
        };
        if !follows(&ring, read.head.epoch) {
            ring.events.clear();
        }
        ring.events.extend(&read.events);
        let kept = usize::try_from(EVENTS_KEPT).unwrap_or(usize::MAX);
        let surplus = ring.events.len().saturating_sub(kept);
        ring.events.drain(..surplus);
        ring.head = read.head;
        read.head
    }
}

/// Counts one waiting question, for as long as it waits.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Waiting<'a> {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        shared.metrics.feed_waiting.fetch_add(1, Ordering::Relaxed);
        // Begins the intervals, if this is the first.
        shared.wake.notify_one();
        Waiting(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.feed_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
