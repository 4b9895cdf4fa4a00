//! What many watchers cost: nothing that grows with their number but the answers themselves.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;
#[path = "common/counted.rs"]
mod counted;

use capability::Uid;
use common::World;
use counted::Counted;
use registry::fleet::Fleet;
use registry::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

fn counted() -> (Arc<World>, Arc<AtomicU64>) {
    let reads = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&reads);
    let world = World::with(|registry| {
        let inner = Arc::clone(&registry.store);
        registry.store = Arc::new(Counted { inner, reads: counter, finds: Arc::default() });
    });
    (Arc::new(world), reads)
}

fn name(index: usize) -> Uid {
    let mut bytes = [0x57; 16];
    bytes[..8].copy_from_slice(&u64::try_from(index).unwrap().to_be_bytes());
    Uid(bytes)
}

/// Follows the feed from its beginning; tells each event it hears.
async fn follow(world: Arc<World>, name: Uid, heard: mpsc::UnboundedSender<u64>) {
    let first = world.ask(&format!("/v1/events?watcher={name}&lease=60")).await;
    let epoch = first.json["position"]["epoch"].as_str().unwrap().to_owned();
    let mut after = first.json["position"]["seq"].as_u64().unwrap();
    loop {
        let path = format!("/v1/events?epoch={epoch}&after={after}&hold=20000&watcher={name}&lease=60");
        let reply = world.ask(&path).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        for event in reply.json["events"].as_array().unwrap() {
            after += 1;
            assert_eq!(event["seq"], after, "nothing is skipped");
            if heard.send(after).is_err() {
                return;
            }
        }
    }
}

async fn all_wait(world: &World, count: usize) {
    let begun = Instant::now();
    let all = format!("membrane_registry_feed_waiting {count}");
    while world.metrics.render().lines().all(|line| line != all) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", world.metrics.render());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How often the store is read for `count` watchers while five membranes are revoked; and how long that took.
async fn reads_for(count: usize) -> (u64, Duration) {
    const REVOCATIONS: u64 = 5;
    let (world, reads) = counted();
    let tenant = world.tenant("acme");
    let mut membranes = Vec::new();
    for index in 0..REVOCATIONS {
        membranes.push(world.membrane(&tenant.create, &index.to_string()).await);
    }
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for index in 0..count {
        watchers.spawn(follow(Arc::clone(&world), name(index), tell.clone()));
    }
    all_wait(&world, count).await;
    let (before, begun) = (reads.load(Relaxed), Instant::now());
    for membrane in membranes {
        assert_eq!(world.revoke(&membrane.revoke).await, 202);
        for _ in 0..count {
            tokio::time::timeout(Duration::from_secs(60), heard.recv()).await.unwrap().unwrap();
        }
        all_wait(&world, count).await;
    }
    let done = (reads.load(Relaxed) - before, begun.elapsed());
    watchers.shutdown().await;
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_read_once_for_all_watchers() {
    for count in [1, 10, 1_000] {
        let (reads, took) = reads_for(count).await;
        // One for each revocation, and those of the intervals; one is under way as the counting begins, and the first that waits again
        // begins the intervals.
        let intervals = u64::try_from(took.as_millis()).unwrap() / 200 + 1;
        assert!(reads <= 2 * 5 + intervals + 1, "{reads} reads for {count} watchers in {took:?}");
    }
}

/// First questions, and those that are not held, need a look that begins after them; one serves all that are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_come_together_share_a_look() {
    let (world, reads) = counted();
    let (before, begun) = (reads.load(Relaxed), Instant::now());
    let mut asking = JoinSet::new();
    for index in 0..2_000 {
        let world = Arc::clone(&world);
        asking.spawn(async move {
            let path = format!("/v1/events?watcher={}&lease=60", name(index));
            assert_eq!(world.ask(&path).await.status, 200);
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    // At most one every two milliseconds.
    let most = u64::try_from(begun.elapsed().as_millis()).unwrap() / 2 + 2;
    let reads = reads.load(Relaxed) - before;
    assert!(reads <= most && reads < 1_000, "{reads} reads, {most} expected at most");
}

/// Nobody who waits for nothing costs anything: an idle fleet is five reads a second, whatever its size.
#[tokio::test]
async fn watchers_that_wait_read_at_intervals_alone() {
    let (world, reads) = counted();
    let (tell, _heard) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for index in 0..500 {
        watchers.spawn(follow(Arc::clone(&world), name(index), tell.clone()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, begun) = (reads.load(Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (reads, most) = (reads.load(Relaxed) - before, begun.elapsed().as_millis() / 200 + 2);
    assert!((1..=u64::try_from(most).unwrap()).contains(&reads), "{reads} reads, {most} expected at most");
}

#[tokio::test]
async fn watchers_are_bounded_and_those_who_are_gone_make_room() {
    let world = World::new();
    let (store, clock) = (Arc::clone(&world.registry.store), Arc::clone(&world.registry.clock));
    let fleet = Fleet::start_with(store, Arc::<Workers>::default(), clock, 2).unwrap();
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
    fleet.note(name(1), long, None).await.unwrap();
    fleet.note(name(2), short, None).await.unwrap();
    assert!(fleet.note(name(3), long, None).await.is_err(), "two are known, and act");
    fleet.note(name(1), long, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fleet.note(name(3), long, None).await.unwrap();
}

/// A row that will not be good for long is written again before it is due, and no question waits for it.
#[tokio::test]
async fn rows_are_renewed_before_they_are_due() {
    let (world, _) = counted();
    let (fleet, store) = (&world.fleet, &world.registry.store);
    let (lease, watcher) = (Duration::from_secs(60), name(1));
    fleet.note(watcher, lease, None).await.unwrap();
    let until = || store.watchers(0).unwrap()[0].until;
    let first = until();
    assert!((common::NOW + 90..=common::NOW + 120).contains(&first), "{first}");
    // Good for long: nothing is written.
    fleet.note(watcher, lease, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(until(), first);
    // A second before it is due.
    world.clock.0.store(first - 61, Relaxed);
    fleet.note(watcher, lease, None).await.unwrap();
    let begun = Instant::now();
    while until() == first {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not written again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(until() - first, first - 61 - common::NOW);
    // Thousands who asked at the same moment are not due again at the same moment.
    let mut ends: Vec<u64> = Vec::new();
    for index in 0..64_usize {
        let name = Uid([u8::try_from(index * 4).unwrap(); 16]);
        fleet.note(name, lease, None).await.unwrap();
    }
    ends.extend(store.watchers(0).unwrap().iter().map(|row| row.until));
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 16, "{ends:?}");
}
