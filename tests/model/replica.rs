//! A process of the registry, as far as it can be one: store, feed, fleet and routers of its own, that end all at once.

use crate::gateway::START;
use crate::mutants::Sequencer;
use crate::random::Shared;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use capability::record::{Kek, Keks};
use registry::feed::Feed;
use registry::fleet::Fleet;
use registry::lookups::Lookups;
use registry::metrics::Metrics;
use registry::ports::{Clock, Random};
use registry::registry::{Authorities, Registry};
use registry::store::sqlite::SqliteStore;
use registry::store::{Epoch, Store};
use registry::workers::Workers;
use registry::{control, gateway};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt as _;

/// A replica's wall clock, which may be wrong.
pub(crate) struct WallClock {
    pub(crate) began: Instant,
    /// In seconds.
    pub(crate) wrong_by: AtomicI64,
}

impl Clock for WallClock {
    fn now(&self) -> u64 {
        let right = (START + self.began.elapsed()).as_secs() + 1_000_000;
        right.saturating_add_signed(self.wrong_by.load(Relaxed))
    }
}

/// The files that replicas share.
pub(crate) struct Files {
    pub(crate) dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Files {
        // In memory where there is such a place: what a disk keeps is not the question here.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Files { dir: dir.unwrap() }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("registry.db")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("revocations.log")
    }

    pub(crate) fn copy(&self) -> PathBuf {
        self.dir.path().join("copy.db")
    }

    /// A copy of the database as a backup tool makes it, beside running replicas. The log is not part of it.
    pub(crate) fn back_up(&self) {
        let _ = std::fs::remove_file(self.copy());
        let database = rusqlite::Connection::open(self.database()).unwrap();
        database.execute("VACUUM INTO ?1", [self.copy().to_str().unwrap()]).unwrap();
    }

    /// Puts the copy in place of the database; nobody has it open.
    pub(crate) fn restore(&self) {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(self.dir.path().join(format!("registry.db{suffix}")));
        }
        std::fs::copy(self.copy(), self.database()).unwrap();
    }
}

pub(crate) struct Replica {
    pub(crate) gateway: Router,
    pub(crate) control: Router,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) sequencer: Option<Arc<Sequencer>>,
    feed: Feed,
    tasks: RefCell<JoinSet<()>>,
}

impl Replica {
    pub(crate) fn start(
        files: &Files,
        clock: Arc<WallClock>,
        fresh: [u8; 16],
        seed: u64,
        sequenced: bool,
    ) -> Rc<Replica> {
        let store = Arc::new(SqliteStore::open(&files.database(), &files.log(), Epoch(fresh)).unwrap());
        let sequencer = sequenced.then(|| Arc::new(Sequencer::new(Arc::clone(&store))));
        let used: Arc<dyn Store> = match &sequencer {
            Some(sequencer) => Arc::clone(sequencer) as Arc<dyn Store>,
            None => Arc::clone(&store) as Arc<dyn Store>,
        };
        let random: Arc<dyn Random> = Arc::new(Shared(Mutex::new(seed)));
        let registry = Arc::new(Registry {
            store: Arc::clone(&used),
            keks: Keks::new(Kek::new(&mut [9; 32]), vec![]),
            authorities: Authorities { first: "localhost:8443".parse().unwrap(), others: vec![] },
            allow_private_targets: false,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random,
            audit: registry::audit::Audit::default(),
            limits: registry::registry::Limits::default(),
        });
        let (workers, for_control, metrics) =
            (Arc::<Workers>::default(), Arc::<Workers>::default(), Arc::<Metrics>::default());
        let feed = Feed::start(Arc::clone(&used), Arc::clone(&workers), Arc::clone(&metrics)).unwrap();
        let fleet = Fleet::start(used, Arc::clone(&workers), clock).unwrap();
        let control = control::router(control::Control {
            registry: Arc::clone(&registry),
            workers: for_control,
            feed: feed.clone(),
            fleet: fleet.clone(),
            metrics: Arc::clone(&metrics),
        });
        let gateway = gateway::router(gateway::Gateway {
            registry: Arc::clone(&registry),
            lookups: Lookups::start(&registry.store, &workers),
            feed: feed.clone(),
            fleet,
            metrics,
        });
        Rc::new(Replica { gateway, control, registry, store, sequencer, feed, tasks: RefCell::default() })
    }

    /// Serves one request; `None`: the process ended meanwhile. Whoever asked may have gone, it is served all the same.
    pub(crate) async fn serve(&self, router: Router, request: Request<Body>) -> Option<(u16, Vec<u8>)> {
        let (give, answer) = oneshot::channel();
        {
            let mut tasks = self.tasks.borrow_mut();
            while tasks.try_join_next().is_some() {}
            tasks.spawn_local(async move {
                let response = router.oneshot(request).await.unwrap();
                let status = response.status().as_u16();
                let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
                let _ = give.send((status, body.to_vec()));
            });
        }
        answer.await.ok()
    }

    /// The process is gone, and with it whatever it was about to answer.
    pub(crate) fn crash(&self) {
        self.tasks.borrow_mut().abort_all();
        self.feed.close();
    }
}
