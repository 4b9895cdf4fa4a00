//! The registry with many capabilities, over SQLite on this disk: `make bench-registry`. Everything is real but the network and TLS, which
//! are left out: requests go into the routers. MEMBRANE_BENCH_CAPABILITIES says how many (1,000,000).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    dead_code,
    reason = "a benchmark"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use capability::record::{self, Header, Kek, Keks, Kind};
use capability::{Content, Export, Exported, Token, Uid, UnitPair, Units};
use common::TestRandom;
use registry::control::{self, Control};
use registry::feed::Feed;
use registry::fleet::Fleet;
use registry::gateway::{self, Gateway};
use registry::lookups::Lookups;
use registry::metrics::Metrics;
use registry::ports::{Clock, Random};
use registry::registry::{Authorities, Limits, Registry};
use registry::store::{Epoch, Position, Record, Row, Store, StoreError};
use registry::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tower::ServiceExt as _;

const SECONDS: u64 = 10;

fn memory(what: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or("?".into(), |kib| format!("{} MiB", kib / 1024))
}

fn keks() -> Keks {
    Keks::new(Kek::new(&mut [9; 32]), vec![])
}

/// Sealed as export seals them; their tokens are forgotten, but for the lookup ids.
struct Capabilities {
    random: TestRandom,
    units: Units,
    content: Content,
    keks: Keks,
    left: usize,
    head: Option<Row>,
}

impl Iterator for Capabilities {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Result<Row, StoreError>> {
        if let Some(head) = self.head.take() {
            return Some(Ok(head));
        }
        self.left = self.left.checked_sub(1)?;
        let (mut bytes, mut nonces) = ([0; 64], [[0; 24]; 2]);
        self.random.fill(&mut bytes);
        nonces.iter_mut().for_each(|nonce| self.random.fill(nonce));
        let token = Token::mint(bytes);
        let lookup = token.lookup_id();
        let header = Header { kind: Kind::Grant, lookup, expires_at: None, units: &self.units };
        let inner = record::seal(&token, &header, self.content.to_json().expose(), nonces[0]).unwrap();
        let sealed = self.keks.wrap(lookup, &inner, nonces[1]).unwrap();
        Some(Ok(Row::Record(Record {
            lookup,
            sealed,
            kind: Kind::Grant,
            units: self.units.clone(),
            expires_at: None,
            created_at: common::NOW,
        })))
    }
}

async fn get(router: &Router, lookup: &str) -> u16 {
    let request = Request::builder()
        .uri(format!("/v1/records/{lookup}?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1"))
        .body(Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap().status().as_u16()
}

async fn send(router: &Router, method: &str, bearer: &str, body: &'static str) -> (u16, serde_json::Value) {
    let request =
        Request::builder().method(method).uri("/").header("authorization", format!("Bearer {bearer}"));
    let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// `tasks` loops for [`SECONDS`]; how many in a second.
async fn throughput<F: Future<Output = ()> + Send>(
    tasks: usize,
    one: impl Fn(u64) -> F + Clone + Send + 'static,
) -> f64 {
    let (done, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut all = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let (one, done) = (one.clone(), Arc::clone(&done));
        all.spawn(async move {
            let mut number = task as u64 * 7_919;
            while begun.elapsed() < Duration::from_secs(SECONDS) {
                one(number).await;
                number += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    all.join_all().await;
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Puts this thread, and those that it starts from now on, onto one core; false where there is no such core, or no way to say so.
fn pin(core: usize) -> bool {
    let Ok(thread) = std::fs::read_link("/proc/thread-self") else { return false };
    let Some(thread) = thread.file_name().and_then(|name| name.to_str()) else { return false };
    let pinned = std::process::Command::new("taskset")
        .args(["-pc", &core.to_string(), thread])
        .stdout(std::process::Stdio::null())
        .status();
    pinned.is_ok_and(|status| status.success())
}

/// Lookups at a fixed rate for [`SECONDS`], each timed from when it was due: who comes late has waited. Whoever asks has a core of its own
/// and does nothing but look at the clock, since a timer's milliseconds would be counted as the registry's.
async fn at_rate(router: &Router, ids: &Arc<Vec<String>>, rate: f64) -> (Vec<Duration>, usize, &'static str) {
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let asker = std::thread::spawn(move || {
        let alone = pin(1);
        let (begun, gap) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        for number in 0..(rate * SECONDS as f64) as u32 {
            let due = begun + gap * number;
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            let _ = ask.send((number as usize, due));
        }
        alone
    });
    let mut all = tokio::task::JoinSet::new();
    while let Some((number, due)) = asked.recv().await {
        let (router, ids) = (router.clone(), Arc::clone(ids));
        all.spawn(async move {
            let status = get(&router, &ids[number * 31 % ids.len()]).await;
            // A core that others took for long enough is busy, and says so; nothing else may happen.
            assert!([200, 503].contains(&status), "{status}");
            (status == 200).then(|| due.elapsed())
        });
    }
    let placed = if asker.join().unwrap() { "asked from another core" } else { "asked from the same core" };
    let all = all.join_all().await;
    let times: Vec<Duration> = all.iter().copied().flatten().collect();
    let refused = all.len() - times.len();
    (times, refused, placed)
}

/// What bounds a commit: how often the disk takes one page and says that it has it.
fn syncs(dir: &std::path::Path) -> f64 {
    use std::io::Write as _;
    let mut file = std::fs::File::create(dir.join("syncs")).unwrap();
    let (begun, mut done) = (Instant::now(), 0.0);
    while begun.elapsed() < Duration::from_secs(2) {
        file.write_all(&[7; 4_096]).unwrap();
        file.sync_data().unwrap();
        done += 1.0;
    }
    done / begun.elapsed().as_secs_f64()
}

fn main() {
    // The registry has one core, whatever asks it.
    let _ = pin(0);
    // `cargo test --benches` runs it too, to see that it works.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let asked = std::env::var("MEMBRANE_BENCH_CAPABILITIES").ok().and_then(|text| text.parse().ok());
    let count: usize = if quick { 100 } else { asked.unwrap_or(1_000_000) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bench(count, quick));
}

async fn bench(count: usize, quick: bool) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let uid = |n: u8| Uid([n; 16]);
    let units = Units::own(UnitPair { tenant: uid(1), membrane: Some(uid(2)) });
    let export = Export::parse(br#"{"uri":"https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations",
        "hmac":{"aws4-hmac-sha256":{"awsAccessKeyId":"AKIDEXAMPLE","region":"us-east-1","service":"lambda","secretAccessKey":"x"}}}"#);
    let Ok(Export { what: Exported::Grant(grant), .. }) = export else { panic!("the export is well-formed") };
    let begun = Instant::now();
    {
        let position = Position { epoch: Epoch([0; 16]), seq: 0 };
        let mut rows = Capabilities {
            random: TestRandom::new(1),
            units: units.clone(),
            content: Content::Grant(grant),
            keks: keks(),
            left: count,
            head: Some(Row::Head(position)),
        };
        let mut all = [2, 1]
            .map(|n| Ok(Row::Unit { unit: capability::Unit::Uid(uid(n)), revoked_at: None }))
            .into_iter()
            .chain(&mut rows);
        let _ = common::open_store(dir.path(), 1).load(&mut all, Epoch([1; 16])).unwrap();
    }
    println!("made {count} capabilities in {:.1} s", begun.elapsed().as_secs_f64());
    let size = std::fs::metadata(dir.path().join("registry.db")).unwrap().len();
    println!("the database has {} MiB, {} bytes for each", size >> 20, size / count as u64);

    let begun = Instant::now();
    let store: Arc<dyn Store> = Arc::new(common::open_store(dir.path(), 2));
    println!(
        "start-up: the store opens in {:.1} ms, with {} of memory",
        begun.elapsed().as_secs_f64() * 1e3,
        memory("VmRSS")
    );
    let clock: Arc<dyn Clock> = Arc::new(common::TestClock(AtomicU64::new(common::NOW)));
    let registry = Arc::new(Registry {
        store: Arc::clone(&store),
        keks: keks(),
        authorities: Authorities { first: "localhost:8443".parse().unwrap(), others: vec![] },
        allow_private_targets: false,
        clock: Arc::clone(&clock),
        random: Arc::new(TestRandom::new(2)),
        audit: registry::audit::Audit::default(),
        limits: Limits::default(),
    });
    let (workers, metrics) = (Arc::<Workers>::default(), Arc::<Metrics>::default());
    let feed = Feed::start(Arc::clone(&store), Arc::clone(&workers), Arc::clone(&metrics)).unwrap();
    let fleet = Fleet::start(Arc::clone(&store), Arc::clone(&workers), clock).unwrap();
    let (registry_, feed_, fleet_, metrics_) =
        (Arc::clone(&registry), feed.clone(), fleet.clone(), Arc::clone(&metrics));
    let lookups = gateway::router(Gateway {
        registry: registry_,
        lookups: Lookups::start(&store, &workers),
        feed: feed_,
        fleet: fleet_,
        metrics: metrics_,
    });
    let api = control::router(Control {
        registry: Arc::clone(&registry),
        workers: Arc::default(),
        feed,
        fleet,
        metrics,
    });

    // A sample in random order: more than any cache of pages holds.
    let (mut ids, mut after) = (Vec::<String>::new(), None);
    while ids.len() < count.min(200_000) {
        let page = store.records(after, 1_000).unwrap();
        ids.extend(page.iter().map(|record| record.lookup.to_string()));
        after = page.last().map(|record| record.lookup);
    }
    ids.sort_by_key(|id| id.bytes().rev().collect::<Vec<_>>());
    let ids = Arc::new(ids);
    assert_eq!(get(&lookups, &ids[0]).await, 200);
    if quick {
        return;
    }
    let rate = {
        let (router, ids) = (lookups.clone(), Arc::clone(&ids));
        throughput(16, move |number| {
            let (router, ids) = (router.clone(), Arc::clone(&ids));
            async move { assert_eq!(get(&router, &ids[number as usize % ids.len()]).await, 200) }
        })
        .await
    };
    println!("lookups: {rate:.0} a second (16 at a time, on one core with whoever asks)");
    // Half of what is wanted of it, and half of what it can.
    for rate in [10_000.0, rate / 2.0] {
        let (mut times, refused, placed) = at_rate(&lookups, &ids, rate).await;
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 1000].as_secs_f64() * 1e3;
        println!(
            "lookups at {rate:.0} a second, {placed}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, {refused} refused",
            at(500),
            at(990),
            at(999)
        );
    }

    let tenant = registry::operator::create_tenant(&registry, "acme").unwrap();
    let (_, made) = send(&api, "POST", tenant.create.split_once('#').unwrap().1, r#"{"id":"m"}"#).await;
    let control = |name: &str| common::token(&made["capabilities"][name]);
    let export = Arc::new(control("export"));
    println!("the disk: {:.0} syncs a second of 4 KiB each, one after the other", syncs(dir.path()));
    for tasks in [1, 64, 256] {
        let (router, export) = (api.clone(), Arc::clone(&export));
        let rate = throughput(tasks, move |_| {
            let (router, export) = (router.clone(), Arc::clone(&export));
            async move {
                let body = r#"{"uri":"https://example.com/"}"#;
                assert_eq!(send(&router, "POST", &export, body).await.0, 201);
            }
        })
        .await;
        println!("exports, each on the disk before it is answered: {rate:.0} a second, {tasks} at a time");
    }
    let begun = Instant::now();
    let revoked = store.revoke(None, capability::Unit::Uid(uid(2)), common::NOW).unwrap();
    println!(
        "revoking the membrane of all {count}: {:.2} ms ({revoked:?})",
        begun.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(get(&lookups, &ids[0]).await, 404);
    println!("memory: {} now, {} at most", memory("VmRSS"), memory("VmHWM"));
}
