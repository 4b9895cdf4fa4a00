//! Lookups that come together share a thread, and nothing else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;
#[path = "common/counted.rs"]
mod counted;

use common::World;
use counted::Counted;
use registry::error::ApiError;
use registry::lookups::Lookups;
use registry::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;

/// Each gets its own record, and what was revoked before it asked is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_at_once_gets_its_own_answer() {
    let world = Arc::new(World::new());
    let tenant = world.tenant("acme");
    let (kept, revoked) =
        (world.membrane(&tenant.create, "kept").await, world.membrane(&tenant.create, "revoked").await);
    let mut tokens = Vec::new();
    for number in 0..64 {
        let dies = number % 4 == 0;
        tokens.push((world.grant(if dies { &revoked.export } else { &kept.export }).await, dies));
    }
    let mut alone = Vec::new();
    for (token, _) in &tokens {
        alone.push(world.lookup(token).await.json["record"].clone());
    }
    assert_eq!(world.revoke(&revoked.revoke).await, 202);
    let mut asking = JoinSet::new();
    for turn in 0..900 {
        let (token, dies) = tokens[turn % tokens.len()].clone();
        let (world, record) = (Arc::clone(&world), alone[turn % tokens.len()].clone());
        asking.spawn(async move {
            let reply = world.lookup(&token).await;
            assert_eq!(reply.status, if dies { 404 } else { 200 }, "{}", reply.text);
            assert!(dies || reply.json["record"] == record, "another's record");
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}

/// Many may wait, and no more than a bound; whoever hangs up is not read for.
#[tokio::test]
async fn past_a_bound_nobody_waits_and_who_hung_up_costs_nothing() {
    let finds = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&finds);
    let world = World::with(|registry| {
        let inner = Arc::clone(&registry.store);
        registry.store = Arc::new(Counted { inner, reads: Arc::default(), finds: counter });
    });
    let lookups = Lookups::start(&world.registry.store, &Arc::<Workers>::default());
    let id = || "A".repeat(43).parse().unwrap();
    // The readers have not run yet: this test has one thread, and has not waited for anything.
    let mut waiting: Vec<_> = (0..1_024).map(|_| Box::pin(lookups.find(id()))).collect();
    for find in &mut waiting {
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(find.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    assert!(matches!(lookups.find(id()).await, Err(ApiError::Busy)));
    waiting.truncate(10);
    for find in waiting {
        assert!(find.await.unwrap().0.is_none());
    }
    // All that waited has been taken by the time that one more is answered.
    let last = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Ok(found) = lookups.find(id()).await {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(last.await.unwrap().0.is_none());
    assert_eq!(finds.load(Relaxed), 11, "those who hung up were read for");
}
