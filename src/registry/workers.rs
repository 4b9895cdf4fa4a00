//! Where blocking work is done: the store's methods and cryptography, off the threads that serve the network.

use crate::error::ApiError;
use tokio::sync::Semaphore;

/// How much runs at once. More readers than cores only wait for each other, and there is one writer.
pub const RUNNING: usize = 8;
/// How much may wait beyond that: at a millisecond each, the last waits an eighth of a second; whoever comes after is told to
/// try again.
const WAITING: usize = 1_024;

/// A bounded queue in front of the threads that may block.
#[derive(Debug)]
pub struct Workers {
    admitted: Semaphore,
    running: Semaphore,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers { admitted: Semaphore::new(RUNNING + WAITING), running: Semaphore::new(RUNNING) }
    }
}

impl Workers {
    /// Does `work` on a thread that may block. Work that has begun is finished even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let _admitted = self.admitted.try_acquire().map_err(|_| ApiError::Busy)?;
        let _running = self.running.acquire().await.map_err(|_| ApiError::Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)
    }
}
