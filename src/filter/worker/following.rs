//! Following the revocation feed: asking, and dropping what was revoked.

use super::{Again, Call, FIRST_PAUSE, Host, Poll, Worker};
use crate::feed::{Change, Now};
use crate::stats::Counter;
use crate::warnings::Warning;
use core::time::Duration;

const LAST_PAUSE: Duration = Duration::from_secs(2);
/// An answer without events that comes sooner than this was not held back.
const MIN_HOLD: Duration = Duration::from_millis(50);

impl Worker {
    pub(super) fn ask_feed(&mut self, host: &mut impl Host, now: Now, pause: Duration) {
        let Some(registry) = &self.config.registry else { return };
        let timeout = self.feed.hold() + registry.timeout;
        match host.get(&registry.cluster, &registry.authority, &self.feed.path(&now), timeout, Again::No) {
            Some(call) => {
                self.calls.insert(call, Call::Feed);
                self.poll = Poll::Asked { at: now, pause };
            }
            None => self.feed_failed(host, now, pause, "it could not be sent"),
        }
    }

    pub(super) fn feed_failed(&mut self, host: &mut impl Host, now: Now, pause: Duration, why: &str) {
        self.stats.add(Counter::FeedFailed, 1);
        let message = format!(
            "the revocation feed does not answer ({why}); within the lease cached capabilities go on"
        );
        self.warnings.warn(host, Warning::FeedFailed, now.monotonic, &message);
        self.poll = Poll::Idle { due: now.monotonic + pause, pause: (pause * 2).min(LAST_PAUSE) };
    }

    /// The registry has answered something, so that a feed which failed need not be waited for as long as its failures made it.
    pub(super) fn hasten_feed(&mut self, now: Now) {
        if let Poll::Idle { due, .. } = &mut self.poll
            && !self.feed.is_current(&now)
        {
            *due = (*due).min(now.monotonic + FIRST_PAUSE);
        }
    }

    pub(super) fn on_feed(&mut self, host: &mut impl Host, status: Option<u16>, body: &[u8]) {
        let Poll::Asked { at, pause } = self.poll else { return };
        let now = host.now();
        let began = self.feed.position().is_none();
        let change = match status {
            Some(status) => self.feed.on_answer(at, status, body),
            None => Change::Failed,
        };
        match change {
            Change::Failed => {
                let why = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
                self.feed_failed(host, now, pause, &why);
                return;
            }
            Change::Revoked(units) => {
                self.stats.add(Counter::FeedAnswered, 1);
                if units.is_empty() && now.is_within(&at, MIN_HOLD) {
                    // Nothing new, and not held back either: such a registry would have us ask without pause.
                    self.poll = Poll::Idle { due: now.monotonic + FIRST_PAUSE, pause: FIRST_PAUSE };
                    return;
                }
                for unit in units {
                    self.cache.revoke(unit);
                }
            }
            Change::StartOver => {
                self.stats.add(Counter::FeedStartOver, 1);
                self.cache.clear();
                self.negative.clear();
                if self.feed.position().is_none() {
                    self.feed_failed(host, now, pause, "its answer does not follow the one before");
                    return;
                }
                // Once is how it begins; a registry that says it again and again must not be asked without pause.
                self.poll = Poll::Idle { due: now.monotonic + pause, pause: (pause * 2).min(LAST_PAUSE) };
                if !began {
                    return;
                }
            }
        }
        self.ask_feed(host, now, FIRST_PAUSE);
    }
}
