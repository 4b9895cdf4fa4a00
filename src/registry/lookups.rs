//! Reading records for gateways: lookups that come together share a thread.
//!
//! Handing a lookup to a thread of its own costs more than the lookup where the store is a file that the system has in memory, and threads that
//! share a core wait for each other's slices of time (milliseconds; the read takes some twenty microseconds). So there are as many readers
//! as cores, and each takes all that wait, up to a bound. Where the store is across a network the readers are more, and each
//! takes one, since what they wait for is the answer.

use crate::error::ApiError;
use crate::store::{Found, Position, Store, StoreError};
use crate::workers::{RUNNING, Workers};
use capability::LookupId;
use std::num::NonZero;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// How many lookups may wait: at twenty microseconds each, the last waits for twenty milliseconds. Whoever comes after is told to try again.
const WAITING: usize = 1_024;
/// How many a reader takes at once. Each is answered as soon as it is read; this bounds for how long a thread is taken, to a millisecond.
const TOGETHER: usize = 32;

type Answer = Result<(Option<Found>, Position), StoreError>;

struct Asked {
    lookup: LookupId,
    answer: oneshot::Sender<Answer>,
}

/// Asks the store. The readers end with the last of its clones.
#[derive(Debug, Clone)]
pub struct Lookups(mpsc::Sender<Asked>);

impl Lookups {
    /// Starts the readers, within a Tokio runtime.
    pub fn start(store: &Arc<dyn Store>, workers: &Arc<Workers>) -> Lookups {
        let (ask, asked) = mpsc::channel(WAITING);
        let asked = Arc::new(Mutex::new(asked));
        let (readers, together) = if store.is_local() {
            (std::thread::available_parallelism().map_or(1, NonZero::get).min(RUNNING), TOGETHER)
        } else {
            (RUNNING, 1)
        };
        for _ in 0..readers {
            tokio::spawn(read(Arc::clone(&asked), Arc::clone(store), Arc::clone(workers), together));
        }
        Lookups(ask)
    }

    /// [`Store::find`]. [`ApiError::Busy`] where too many wait, or the reading came to no end.
    pub async fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), ApiError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Asked { lookup, answer }).map_err(|_| ApiError::Busy)?;
        Ok(answered.await.map_err(|_| ApiError::Busy)??)
    }
}

async fn read(
    asked: Arc<Mutex<mpsc::Receiver<Asked>>>,
    store: Arc<dyn Store>,
    workers: Arc<Workers>,
    together: usize,
) {
    loop {
        let mut batch = Vec::with_capacity(together);
        if asked.lock().await.recv_many(&mut batch, together).await == 0 {
            return;
        }
        let store = Arc::clone(&store);
        let reading = move || {
            for Asked { lookup, answer } in batch {
                // Whoever hung up costs nothing.
                if !answer.is_closed() {
                    let _ = answer.send(store.find(lookup));
                }
            }
        };
        // Where there is no room, or the reading panics, the senders are dropped, which those who wait are told.
        let _ = workers.run(reading).await;
    }
}
