//! Warnings, at a bounded rate.

use crate::worker::Host;
use core::time::Duration;

/// The same warning is given once in this time, with how often it would have been.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// What is warned of.
#[derive(Clone, Copy)]
pub(crate) enum Warning {
    LateBody,
    LookupUnsent,
    LookupFailed,
    FeedFailed,
    PinnedBody,
    #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
    SignatureRefused,
}

/// Whoever sends tokens must not drive the log.
#[derive(Default)]
pub(crate) struct Warnings([(Option<Duration>, u32); 6]);

impl Warnings {
    /// Warns, unless it did so a moment ago.
    pub(crate) fn warn(&mut self, host: &mut impl Host, warning: Warning, now: Duration, message: &str) {
        let Some((last, unsaid)) = self.0.get_mut(warning as usize) else { return };
        if last.is_some_and(|last| now.saturating_sub(last) < WARN_EVERY) {
            *unsaid += 1;
            return;
        }
        let times = match core::mem::take(unsaid) {
            0 => String::new(),
            more => format!(" ({more} more since)"),
        };
        *last = Some(now);
        host.warn(&format!("{message}{times}"));
    }
}
