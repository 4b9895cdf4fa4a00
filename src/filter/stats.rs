//! What is counted. Counting is a number in memory; the numbers go to Envoy at a tick, because each host call costs as much as
//! a good part of a request.

use crate::reply::Outcome;

/// The gauge of capabilities that a worker keeps opened.
pub const CACHE_ENTRIES: &str = "membrane_cache_entries";
/// The gauge of seconds since a worker sent the question whose answer is its lease.
pub const FEED_AGE: &str = "membrane_feed_age_seconds";
/// The histogram of milliseconds from a lookup to its answer, whatever that was.
pub const LOOKUP_TIME: &str = "membrane_lookup_milliseconds";

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A counter, by the name under which Envoy shows it (`wasmcustom.` comes before).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [(Counter, &'static str)] = &[$((Counter::$variant, $name),)*];
        }
    };
}

counters! {
    /// Requests rewritten, signed and forwarded.
    Granted => "membrane_requests_total.outcome.granted",
    /// Requests forwarded to the control listener.
    Control => "membrane_requests_total.outcome.control",
    /// Requests without a bearer let through.
    Passed => "membrane_requests_total.outcome.passed",
    /// 401.
    Unauthorized => "membrane_requests_total.outcome.unauthorized",
    /// Refused for their form.
    Refused => "membrane_requests_total.outcome.refused",
    /// 503.
    Unavailable => "membrane_requests_total.outcome.unavailable",
    /// 429.
    Limited => "membrane_requests_total.outcome.limited",
    /// Faults.
    Failed => "membrane_requests_total.outcome.failed",
    /// Lookups answered with a record.
    LookupFound => "membrane_lookups_total.result.found",
    /// Lookups answered with 404.
    LookupUnknown => "membrane_lookups_total.result.unknown",
    /// Lookups that failed.
    LookupFailed => "membrane_lookups_total.result.failed",
    /// Answers found in shared data.
    SlotHit => "membrane_lookups_total.result.shared",
    /// Requesters' headers that were left out.
    HeadersDropped => "membrane_headers_dropped_total",
    /// Answers of the feed.
    FeedAnswered => "membrane_feed_polls_total.result.ok",
    /// Polls of the feed that failed.
    FeedFailed => "membrane_feed_polls_total.result.failed",
    /// Start-overs of the feed, the first included.
    FeedStartOver => "membrane_feed_polls_total.result.start_over",
}

impl From<Outcome> for Counter {
    fn from(outcome: Outcome) -> Counter {
        match outcome {
            Outcome::Granted => Counter::Granted,
            Outcome::Control => Counter::Control,
            Outcome::Passed => Counter::Passed,
            Outcome::Unauthorized => Counter::Unauthorized,
            Outcome::Refused => Counter::Refused,
            Outcome::Unavailable => Counter::Unavailable,
            Outcome::Limited => Counter::Limited,
            Outcome::Failed => Counter::Failed,
        }
    }
}

/// Counted since the last tick.
#[derive(Debug, Default)]
pub struct Stats([u32; Counter::ALL.len()]);

impl Stats {
    /// Counts.
    pub fn add(&mut self, counter: Counter, by: u32) {
        if let Some(count) = self.0.get_mut(counter as usize) {
            *count = count.saturating_add(by);
        }
    }

    /// What was counted since the last call.
    pub fn take(&mut self) -> impl Iterator<Item = (Counter, u32)> + use<> {
        let counts = core::mem::take(&mut self.0);
        Counter::ALL
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|((counter, _), count)| (*counter, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, (counter, _)) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
        let mut stats = Stats::default();
        stats.add(Counter::Granted, 2);
        assert_eq!(stats.take().collect::<Vec<_>>(), [(Counter::Granted, 2)]);
        assert_eq!(stats.take().count(), 0);
    }
}
