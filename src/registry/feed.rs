//! The revocation feed: what was revoked, in order, for gateways that ask with long polls.
//!
//! One task reads the store for all readers, and what it costs does not grow with their number. It looks when this process revoked
//! something, at intervals while somebody waits, because other processes revoke too, and when a question arrives that cannot wait for
//! the next interval. A question is answered only from what was read after it arrived: a reader counts its lease from when it sent the
//! question, so an older answer would stretch the bound. A question that is held has time, and is covered by the next look.

use crate::metrics::Metrics;
use crate::store::{EVENTS_KEPT, Epoch, Event, Events, Position, Store, StoreError};
use crate::workers::Workers;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Most events in one answer.
pub const EVENTS_PER_ANSWER: usize = 1_024;
/// The longest a question is held.
pub const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// How soon a revocation by another process is noticed while somebody waits. One point read each.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks that questions asked for: however many they are, they cost at most so many reads. What this process revokes does
/// not wait for it.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

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

/// How far the store has been looked at: for questions that wait for their look, each of which is woken once or twice.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Looked {
    /// Of the questions that were numbered, all up to this one are covered.
    looks: u64,
    /// Nothing is read any more.
    ended: bool,
}

/// What held questions wait for. It changes only with news: every change wakes all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct News {
    head: Position,
    ended: bool,
}

struct Shared {
    ring: RwLock<Ring>,
    /// Numbers the questions.
    asked: AtomicU64,
    waiting: AtomicU64,
    /// A question wants a look.
    wake: Notify,
    /// Something was revoked here, or the feed closes.
    hurry: Notify,
    draining: AtomicBool,
    looked: watch::Sender<Looked>,
    news: watch::Sender<News>,
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
    /// Reads the store's events and goes on doing so in a task of the current runtime, until [`Feed::drain`] or [`Feed::close`].
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
            hurry: Notify::new(),
            draining: AtomicBool::new(false),
            looked: watch::Sender::new(Looked { looks: 0, ended: false }),
            news: watch::Sender::new(News { head, ended: false }),
            metrics,
        };
        let feed = Feed(Arc::new(shared));
        tokio::spawn(feed.clone().follow(store, workers));
        Ok(feed)
    }

    /// Looks at the store at once: something was revoked.
    pub fn look(&self) {
        self.0.hurry.notify_one();
    }

    /// Looks at the store once more, answers whoever waits, and closes.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.hurry.notify_one();
    }

    /// Ends every wait. The store is not looked at again, so that who is not covered by then, or asks later, is refused.
    pub fn close(&self) {
        self.0.looked.send_modify(|looked| looked.ended = true);
        self.0.news.send_modify(|news| news.ended = true);
        self.0.hurry.notify_one();
    }

    /// Answers a reader at `after`, or one that asks for the first time. Waits up to `hold` if there is nothing new.
    pub async fn ask(&self, after: Option<Position>, hold: Duration) -> Result<Answer, FeedUnavailable> {
        // Looks that begin from now on cover this question.
        let number = self.0.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let hold = hold.min(LONGEST_HOLD);
        let Some(after) = after else {
            self.covered(number).await?;
            return Ok(Answer::Events { position: self.head(), events: Vec::new() });
        };
        let _waiting = Waiting::new(&self.0);
        // Who has time, and nothing to be told as far as is known, asks for no look of its own.
        if hold < LOOK_EVERY || self.head() != after {
            self.covered(number).await?;
        }
        let mut news = self.0.news.subscribe();
        let news = async { news.wait_for(|news| news.head != after || news.ended).await.is_ok() };
        let mut news = std::pin::pin!(news);
        let begin = hold.min(LOOK_TIMEOUT);
        if tokio::time::timeout(begin, news.as_mut()).await.is_err() {
            // By now the store has been looked at, if it can be.
            self.covered(number).await?;
            let _ = tokio::time::timeout(hold.saturating_sub(begin), news).await;
        } else {
            // The look that brought the news may have begun before the question came.
            self.covered(number).await?;
        }
        Ok(self.answer(after))
    }

    fn head(&self) -> Position {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).head
    }

    /// Waits until the store was looked at after the question of this number arrived.
    async fn covered(&self, number: u64) -> Result<(), FeedUnavailable> {
        if self.0.looked.borrow().looks >= number {
            return Ok(());
        }
        let mut looked = self.0.looked.subscribe();
        self.0.wake.notify_one();
        let covered = async {
            let looked = looked.wait_for(|looked| looked.looks >= number || looked.ended).await;
            // What was read before the question arrived is no answer to it.
            looked.is_ok_and(|looked| looked.looks >= number)
        };
        if tokio::time::timeout(LOOK_TIMEOUT, covered).await.unwrap_or(false) {
            Ok(())
        } else {
            Err(FeedUnavailable)
        }
    }

    /// Whether a reader at `position` stands where this history has been, as far as was read.
    pub fn holds(&self, position: &Position) -> bool {
        let head = self.head();
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
        let mut last = Instant::now();
        loop {
            let asked_for = async {
                if self.0.waiting.load(Ordering::Acquire) > 0 {
                    let _ = tokio::time::timeout(LOOK_EVERY, self.0.wake.notified()).await;
                } else {
                    self.0.wake.notified().await;
                }
                tokio::time::sleep_until(last + LOOK_PAUSE).await;
            };
            tokio::select! {
                () = asked_for => {}
                () = self.0.hurry.notified() => {}
            }
            if self.0.looked.borrow().ended {
                return;
            }
            let draining = self.0.draining.load(Ordering::Acquire);
            let looks = self.0.asked.load(Ordering::Acquire);
            let after = self.head();
            last = Instant::now();
            let reading = Arc::clone(&store);
            let read = workers.run(move || reading.events(Some(after))).await;
            let failed = !matches!(read, Ok(Ok(_)));
            match read {
                Ok(Ok(events)) => {
                    let head = self.take_in(events);
                    self.0.metrics.head_seq.store(head.seq, Ordering::Relaxed);
                    // In this order: whoever hears news must be able to see that they cover it.
                    self.0.looked.send_modify(|looked| looked.looks = looks);
                    self.0.news.send_if_modified(|news| std::mem::replace(&mut news.head, head) != head);
                }
                Ok(Err(error)) => tracing::error!(%error, "the feed cannot read the store"),
                // The threads that read are busy.
                Err(_) => {}
            }
            if draining {
                self.close();
                return;
            }
            if failed {
                tokio::time::sleep(LOOK_EVERY).await;
                self.0.wake.notify_one();
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
        shared.metrics.feed_waiting.fetch_add(1, Ordering::Relaxed);
        if shared.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            // The first begins the intervals.
            shared.wake.notify_one();
        }
        Waiting(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.feed_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
