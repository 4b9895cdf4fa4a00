//! Clearing up in the background: dead records are removed, a few at a time.
//!
//! Nothing depends on it. What is dead is refused whether or not its row is still there.

use crate::metrics::Metrics;
use crate::ports::Clock;
use crate::store::Store;
use crate::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Records looked at in one go: some milliseconds, in which a writer may have to wait.
const BATCH: usize = 256;
/// Between two batches, so that clearing up takes a small part of one core.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two passes over the whole store.
const REST: Duration = Duration::from_secs(60);

/// Goes over the store again and again; ends when it is dropped.
pub async fn run(store: Arc<dyn Store>, workers: Arc<Workers>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) {
    let mut after = None;
    loop {
        let (reading, now) = (Arc::clone(&store), clock.now());
        let collected = workers.run(move || reading.collect(after, BATCH, now)).await;
        after = match collected {
            Ok(Ok(collected)) => {
                let removed = u64::try_from(collected.removed).unwrap_or(u64::MAX);
                metrics.records_removed.fetch_add(removed, Ordering::Relaxed);
                collected.next
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "clearing up failed");
                None
            }
            Err(_) => after,
        };
        tokio::time::sleep(if after.is_some() { PAUSE } else { REST }).await;
    }
}
