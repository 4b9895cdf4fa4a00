//! Where blocking work is done: the store's methods and cryptography, off the threads that serve the network.

use crate::error::ApiError;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How much runs at once. More readers than cores only wait for each other, and there is one writer.
pub const RUNNING: usize = 8;
/// How much may wait beyond that: at a millisecond each, the last waits an eighth of a second; whoever comes after is told to
/// try again.
const WAITING: usize = 1_024;

/// A bounded queue in front of the threads that may block.
#[derive(Debug)]
pub struct Workers {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Default for Workers {
    fn default() -> Workers {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Workers { admitted: semaphore(RUNNING + WAITING), running: semaphore(RUNNING) }
    }
}

impl Workers {
    /// Does `work` on a thread that may block. Work that has begun is finished even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| ApiError::Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| ApiError::Busy)?;
        // The permits go with the work: who hangs up ends the waiting, not the work, and must not make room for more.
        let permitted = move || {
            let _permits = (admitted, running);
            work()
        };
        tokio::task::spawn_blocking(permitted).await.map_err(|_| ApiError::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_hangs_up_makes_no_room_before_the_work_is_done() {
        let workers = Workers::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let work = workers.run(move || {
            let _ = released.recv();
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(100), work).await.is_err(),
            "nobody waits any more"
        );
        assert_eq!(workers.running.available_permits(), RUNNING - 1);
        release.send(()).unwrap();
        for _ in 0..100 {
            if workers.running.available_permits() == RUNNING {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the permit never came back");
    }
}
