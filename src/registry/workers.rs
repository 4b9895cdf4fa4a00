//! Where blocking work is done: the store's methods and cryptography, off the threads that serve the network.

use crate::error::ApiError;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much runs at once. More readers than cores only wait for each other, and there is one writer.
pub const RUNNING: usize = 8;
/// How much may wait beyond that: at a millisecond each, the last waits an eighth of a second; whoever comes after is told to
/// try again.
const WAITING: usize = 1_024;
/// How much waits for a commit at once without counting as running: as much as shares one. Each holds a thread, and there are others that need
/// some of the runtime's.
const COMMITTING: usize = 128;

thread_local! {
    /// What the work on this thread holds.
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

struct Place {
    _running: OwnedSemaphorePermit,
    committing: Arc<Semaphore>,
}

/// Waits for a commit. Meanwhile other work runs in the place of the work on this thread: those who wait for the disk cost nothing, and the more
/// of them share a commit, the more are done in a second.
pub fn while_others_run<T>(wait: impl FnOnce() -> T) -> T {
    let place = PLACE.with(|place| place.borrow_mut().take());
    let waiting = match place {
        Some(place) => match Arc::clone(&place.committing).try_acquire_owned() {
            // What is left to do after a commit is little.
            Ok(waiting) => Some(waiting),
            Err(_) => {
                PLACE.with(|kept| *kept.borrow_mut() = Some(place));
                None
            }
        },
        None => None,
    };
    let done = wait();
    drop(waiting);
    done
}

/// A bounded queue in front of the threads that may block.
#[derive(Debug)]
pub struct Workers {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    committing: Arc<Semaphore>,
}

impl Default for Workers {
    fn default() -> Workers {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Workers {
            admitted: semaphore(RUNNING + WAITING),
            running: semaphore(RUNNING),
            committing: semaphore(COMMITTING),
        }
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
        let committing = Arc::clone(&self.committing);
        let permitted = move || {
            let _admitted = admitted;
            PLACE.with(|place| *place.borrow_mut() = Some(Place { _running: running, committing }));
            // Also when the work panics: the thread is used again.
            let _left = Left;
            work()
        };
        tokio::task::spawn_blocking(permitted).await.map_err(|_| ApiError::Internal)
    }
}

struct Left;

impl Drop for Left {
    fn drop(&mut self) {
        PLACE.with(|place| place.borrow_mut().take());
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

    #[tokio::test]
    async fn who_waits_for_a_commit_is_in_nobodys_way_and_not_without_bound() {
        let workers = Arc::new(Workers::default());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        let mut all = tokio::task::JoinSet::new();
        let commit = |all: &mut tokio::task::JoinSet<_>| {
            let (workers, released) = (Arc::clone(&workers), Arc::clone(&released));
            all.spawn(async move {
                workers.run(move || while_others_run(|| released.lock().unwrap().recv().unwrap())).await
            });
        };
        let soon = async |what: &dyn Fn() -> bool| {
            for _ in 0..500 {
                if what() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("it did not come to that");
        };
        (0..COMMITTING).for_each(|_| commit(&mut all));
        soon(&|| workers.committing.available_permits() == 0).await;
        soon(&|| workers.running.available_permits() == RUNNING).await;
        assert_eq!(workers.run(|| 7).await.unwrap(), 7);
        // Those beyond wait as what runs.
        (0..RUNNING).for_each(|_| commit(&mut all));
        soon(&|| workers.running.available_permits() == 0).await;
        let no_place = workers.run(|| 7);
        assert!(tokio::time::timeout(Duration::from_millis(100), no_place).await.is_err());
        (0..COMMITTING + RUNNING).for_each(|_| release.send(()).unwrap());
        while let Some(done) = all.join_next().await {
            done.unwrap().unwrap();
        }
        assert_eq!(workers.running.available_permits(), RUNNING);
        assert_eq!(workers.committing.available_permits(), COMMITTING);
        // What panics leaves its place, too.
        assert!(workers.run(|| panic!("canary")).await.is_err());
        assert_eq!(workers.running.available_permits(), RUNNING);
    }
}
