//! A registry in a temporary folder with a clock and randomness of the test's own, asked through its routers.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
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
use registry::{control, gateway, operator};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tower::ServiceExt as _;

/// Who asks in tests that are not about that.
/// The key that seals.
pub const KEK: [u8; 32] = [9; 32];
pub const WATCHER: &str = "watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1";

pub const NOW: u64 = 1_790_000_000;

pub struct TestClock(pub AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// SplitMix64: the same bytes in every run.
pub struct TestRandom(Mutex<u64>);

impl TestRandom {
    pub fn new(seed: u64) -> TestRandom {
        TestRandom(Mutex::new(seed))
    }
}

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub registry: Arc<Registry>,
    pub clock: Arc<TestClock>,
    pub feed: Feed,
    pub fleet: Fleet,
    pub metrics: Arc<Metrics>,
    control: Router,
    gateway: Router,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
    pub text: String,
}

pub struct Tenant {
    pub create: String,
    pub query: String,
    pub delete_self: String,
}

pub struct Membrane {
    pub export: String,
    pub revoke: String,
}

pub fn open_store(dir: &Path, epoch: u8) -> SqliteStore {
    SqliteStore::open(&dir.join("registry.db"), &dir.join("revocations.log"), Epoch([epoch; 16])).unwrap()
}

/// The token of a capability URI.
pub fn token(uri: &Value) -> String {
    uri.as_str().unwrap().split_once('#').unwrap().1.to_owned()
}

pub fn uri(token: &str) -> String {
    format!("cpblty://localhost:8443/#{token}")
}

pub fn lookup(token: &str) -> String {
    capability::Token::parse(token.as_bytes()).unwrap().lookup_id().to_string()
}

impl World {
    /// Must run inside a runtime: the feed has a task.
    pub fn new() -> World {
        World::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Registry)) -> World {
        // In memory where there is such a place: these tests write a lot, and none of them is about what a disk keeps.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(NOW)));
        let store: Arc<dyn Store> = Arc::new(open_store(dir.path(), 1));
        let mut registry = Registry {
            store,
            keks: Keks::new(Kek::new(&mut { KEK }), vec![]),
            authorities: Authorities {
                first: "localhost:8443".parse().unwrap(),
                others: vec!["gateway.example".parse().unwrap()],
            },
            allow_private_targets: false,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random: Arc::new(TestRandom::new(7)),
            audit: registry::audit::Audit::default(),
            limits: registry::registry::Limits::default(),
        };
        change(&mut registry);
        let registry = Arc::new(registry);
        let (workers, metrics) = (Arc::<Workers>::default(), Arc::<Metrics>::default());
        let feed =
            Feed::start(Arc::clone(&registry.store), Arc::clone(&workers), Arc::clone(&metrics)).unwrap();
        let fleet =
            Fleet::start(Arc::clone(&registry.store), Arc::clone(&workers), Arc::clone(&registry.clock))
                .unwrap();
        let control = control::router(control::Control {
            registry: Arc::clone(&registry),
            workers: Arc::clone(&workers),
            feed: feed.clone(),
            fleet: fleet.clone(),
            metrics: Arc::clone(&metrics),
        });
        let gateway = gateway::router(gateway::Gateway {
            registry: Arc::clone(&registry),
            lookups: Lookups::start(&registry.store, &workers),
            feed: feed.clone(),
            fleet: fleet.clone(),
            metrics: Arc::clone(&metrics),
        });
        World { dir, registry, clock, feed, fleet, metrics, control, gateway }
    }

    pub fn tenant(&self, id: &str) -> Tenant {
        let uris = operator::create_tenant(&self.registry, id).unwrap();
        let token = |uri: &str| uri.split_once('#').unwrap().1.to_owned();
        Tenant {
            create: token(&uris.create),
            query: token(&uris.query),
            delete_self: token(&uris.delete_self),
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        reply(self.control.clone().oneshot(request).await.unwrap()).await
    }

    pub async fn call(&self, method: &str, path: &str, bearer: &str, body: impl ToString) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {bearer}"))
            // As curl sends it: the content type says nothing.
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(request).await
    }

    pub async fn ask(&self, path: &str) -> Reply {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        reply(self.gateway.clone().oneshot(request).await.unwrap()).await
    }

    pub async fn lookup(&self, token: &str) -> Reply {
        self.ask(&format!("/v1/records/{}?{WATCHER}", lookup(token))).await
    }

    pub async fn is_alive(&self, token: &str) -> bool {
        self.lookup(token).await.status == StatusCode::OK
    }

    pub async fn membrane(&self, create: &str, id: &str) -> Membrane {
        let reply = self.call("POST", "/", create, json!({"id": id})).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        let capabilities = &reply.json["capabilities"];
        Membrane { export: token(&capabilities["export"]), revoke: token(&capabilities["revoke"]) }
    }

    pub async fn export(&self, export: &str, body: Value) -> String {
        let reply = self.call("POST", "/", export, body).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        token(&reply.json["capability"])
    }

    pub async fn re_export(&self, export: &str, capability: &str) -> String {
        self.export(export, json!({"capability": uri(capability)})).await
    }

    pub async fn grant(&self, export: &str) -> String {
        self.export(export, json!({"uri": "https://example.com/"})).await
    }

    pub async fn revoke(&self, revoke: &str) -> StatusCode {
        self.call("DELETE", "/", revoke, "").await.status
    }

    pub fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("registry.db")).unwrap()
    }

    /// Rows of every table: what a request that failed must not change.
    pub fn rows(&self) -> Vec<i64> {
        let sql = self.sql();
        ["head", "units", "tenants", "membranes", "records", "events"]
            .map(|table| {
                sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
            })
            .to_vec()
    }
}

async fn reply(response: axum::response::Response) -> Reply {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Reply {
        status: parts.status,
        headers: parts.headers,
        json: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}
