//! `revoke?wait=fleet`: it answers when nobody may act any more as if nothing had been revoked, and not before.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use axum::body::{Body, Bytes};
use axum::http::Request;
use capability::Uid;
use common::{Reply, World};
use registry::fleet::Fleet;
use registry::store::{Position, Watching};
use registry::workers::Workers;
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

const TARGET: Uid = Uid([9; 16]);

/// One worker of a gateway, as the registry sees it.
struct Watcher<'a> {
    world: &'a World,
    name: Uid,
    lease: u64,
    at: Option<(String, u64)>,
}

impl<'a> Watcher<'a> {
    fn new(world: &'a World, name: u8, lease: u64) -> Watcher<'a> {
        Watcher { world, name: Uid([name; 16]), lease, at: None }
    }

    async fn ask(&mut self, hold_ms: u64) -> Reply {
        let at = match &self.at {
            None => String::new(),
            Some((epoch, seq)) => format!("&epoch={epoch}&after={seq}"),
        };
        let (name, lease) = (self.name, self.lease);
        let reply =
            self.world.ask(&format!("/v1/events?hold={hold_ms}&watcher={name}&lease={lease}{at}")).await;
        let position = &reply.json["position"];
        self.at = Some((position["epoch"].as_str().unwrap().to_owned(), position["seq"].as_u64().unwrap()));
        reply
    }
}

async fn revoke_and_wait(world: &World) -> (Reply, Duration) {
    let membrane = world.membrane(&world.tenant("acme").create, "m").await;
    let begun = Instant::now();
    (world.call("DELETE", "/?wait=fleet", &membrane.revoke, "").await, begun.elapsed())
}

fn confirmed() -> serde_json::Value {
    json!({"statusCode": 202, "message": "Accepted", "unconfirmed": 0})
}

#[tokio::test]
async fn with_nobody_watching_it_answers_at_once() {
    let world = World::new();
    let (reply, took) = revoke_and_wait(&world).await;
    assert_eq!((reply.status.as_u16(), reply.json), (202, confirmed()));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn it_answers_when_everybody_has_asked_again() {
    let world = World::new();
    let mut watchers: Vec<_> = (1..=3).map(|name| Watcher::new(&world, name, 3_600)).collect();
    for watcher in &mut watchers {
        watcher.ask(0).await;
    }
    let mut revocation = Box::pin(revoke_and_wait(&world));
    // Everybody hears it; that is no proof yet that they do.
    for watcher in &mut watchers {
        let heard = tokio::select! {
            reply = watcher.ask(30_000) => reply,
            _ = &mut revocation => panic!("nobody has confirmed yet"),
        };
        assert_eq!(heard.json["events"].as_array().unwrap().len(), 1);
    }
    // Two of three say so by asking from there.
    for watcher in &mut watchers[..2] {
        watcher.ask(0).await;
    }
    let early = tokio::time::timeout(Duration::from_millis(300), &mut revocation).await;
    assert!(early.is_err(), "the third may still let requests in");
    watchers[2].ask(0).await;
    assert_eq!(revocation.await.0.json, confirmed());
}

#[tokio::test]
async fn who_went_silent_is_waited_out_from_its_last_question() {
    let world = World::new();
    let mut watcher = Watcher::new(&world, 1, 2);
    let asked = Instant::now();
    watcher.ask(0).await;
    let (reply, _) = revoke_and_wait(&world).await;
    assert_eq!(reply.json, confirmed());
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
    // A lookup says for how long its answer counts.
    let asked = Instant::now();
    let path = format!("/v1/records/{}?watcher={}&lease=2", "A".repeat(43), Uid([2; 16]));
    assert_eq!(world.ask(&path).await.status, 404);
    let tenant = world.tenant("other");
    let reply = world.call("DELETE", "/?wait=fleet", &tenant.delete_self, "").await;
    assert_eq!(reply.json, confirmed());
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_repeated_revoke_waits_too() {
    let world = World::new();
    let membrane = world.membrane(&world.tenant("acme").create, "m").await;
    let mut watcher = Watcher::new(&world, 1, 2);
    watcher.ask(0).await;
    assert_eq!(world.revoke(&membrane.revoke).await, 202);
    let begun = Instant::now();
    let reply = world.call("DELETE", "/?wait=fleet", &membrane.revoke, "").await;
    assert_eq!(reply.json, confirmed());
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

/// A registry that has just started has heard of nobody, but they are in the store.
#[tokio::test]
async fn who_asked_before_a_restart_is_waited_out() {
    let world = World::new();
    let (mut silent, mut back) = (Watcher::new(&world, 1, 2), Watcher::new(&world, 2, 3_600));
    silent.ask(0).await;
    back.ask(0).await;
    let restarted = Fleet::start(
        Arc::clone(&world.registry.store),
        Arc::<Workers>::default(),
        Arc::clone(&world.registry.clock),
    )
    .unwrap();
    let head = world.registry.store.head().unwrap();
    let position = Position { seq: head.seq + 1, ..head };
    let begun = Instant::now();
    let mut wait = Box::pin(restarted.wait(TARGET, position, Duration::from_secs(30)));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut wait).await.is_err());
    restarted.note(back.name, Duration::from_secs(3_600), Some(position)).await.unwrap();
    assert_eq!(wait.await.unwrap(), 0);
    assert!(begun.elapsed() >= Duration::from_secs(2), "the silent one: {:?}", begun.elapsed());
    // With less patience, it says how many are open: the silent one, too, which may ask another replica now.
    let again = Position { seq: head.seq + 2, ..head };
    assert_eq!(restarted.wait(TARGET, again, Duration::from_millis(50)).await.unwrap(), 2);
}

#[tokio::test]
async fn another_epoch_confirms_nothing() {
    let world = World::new();
    let head = world.registry.store.head().unwrap();
    let (name, hour) = (Uid([1; 16]), Duration::from_secs(3_600));
    let other = Position { epoch: registry::store::Epoch([9; 16]), seq: 1_000 };
    world.fleet.note(name, hour, Some(other)).await.unwrap();
    let short = Duration::from_millis(50);
    assert_eq!(world.fleet.wait(TARGET, Position { seq: head.seq + 1, ..head }, short).await.unwrap(), 1);
    assert_eq!(world.fleet.watching(), 1);
}

#[tokio::test]
async fn rows_of_watchers_end() {
    let world = World::new();
    let store = &world.registry.store;
    let row = |name: u8, until| Watching { watcher: Uid([name; 16]), lease: 60, until };
    store.note_watchers(&[row(1, common::NOW + 10), row(2, common::NOW + 20)], common::NOW).unwrap();
    assert_eq!(store.watchers(common::NOW).unwrap().len(), 2);
    assert_eq!(store.watchers(common::NOW + 11).unwrap(), [row(2, common::NOW + 20)]);
    store.note_watchers(&[row(2, common::NOW + 90)], common::NOW + 11).unwrap();
    assert_eq!(store.watchers(common::NOW).unwrap(), [row(2, common::NOW + 90)]);
    // The longer lease and the later time stay.
    let shorter = Watching { lease: 1, ..row(2, common::NOW + 50) };
    store.note_watchers(&[shorter], common::NOW + 11).unwrap();
    assert_eq!(store.watchers(common::NOW).unwrap(), [row(2, common::NOW + 90)]);
}

/// A lookup's short lease never takes the place of a poll's, whichever came first: neither here nor in the store.
#[tokio::test]
async fn the_longest_lease_is_waited_out() {
    let restart = |world: &World| {
        let workers = Arc::<Workers>::default();
        Fleet::start(Arc::clone(&world.registry.store), workers, Arc::clone(&world.registry.clock)).unwrap()
    };
    let (name, short, long) = (Uid([1; 16]), Duration::from_secs(1), Duration::from_secs(4));
    for lookup_first in [false, true] {
        let world = World::new();
        let head = world.registry.store.head().unwrap();
        let position = Position { seq: head.seq + 1, ..head };
        if lookup_first {
            world.fleet.note(name, short, None).await.unwrap();
        }
        world.fleet.note(name, long, Some(head)).await.unwrap();
        if !lookup_first {
            world.fleet.note(name, short, None).await.unwrap();
        }
        assert_eq!(world.registry.store.watchers(0).unwrap()[0].lease, 4, "lookup first: {lookup_first}");
        // After a restart a lookup comes before the first poll.
        let restarted = restart(&world);
        let begun = Instant::now();
        restarted.note(name, short, None).await.unwrap();
        assert_eq!(restarted.wait(TARGET, position, Duration::from_secs(30)).await.unwrap(), 0);
        assert!(begun.elapsed() >= long, "{:?}", begun.elapsed());
        // And one of which nothing is heard.
        let begun = Instant::now();
        let restarted = restart(&world);
        assert_eq!(restarted.wait(TARGET, position, Duration::from_secs(30)).await.unwrap(), 0);
        assert!(begun.elapsed() >= long, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_position_ahead_of_the_history_confirms_nothing() {
    let world = World::new();
    let head = world.registry.store.head().unwrap();
    let epoch = Uid(head.epoch.0);
    let path = format!("/v1/events?epoch={epoch}&after=100&watcher={}&lease=3600", Uid([1; 16]));
    assert_eq!(world.ask(&path).await.status, 410);
    let position = Position { seq: head.seq + 1, ..head };
    assert_eq!(world.fleet.wait(TARGET, position, Duration::from_millis(50)).await.unwrap(), 1);
}

/// A restored store may have forgotten who asked since it was copied.
#[tokio::test]
async fn a_restored_store_presumes_that_somebody_watches() {
    let world = World::new();
    let membrane = world.membrane(&world.tenant("acme").create, "m").await;
    let copy = tempfile::tempdir().unwrap();
    world.sql().execute("VACUUM INTO ?1", [copy.path().join("registry.db").to_str().unwrap()]).unwrap();
    world.revoke(&membrane.revoke).await;
    std::fs::copy(world.dir.path().join("revocations.log"), copy.path().join("revocations.log")).unwrap();
    let store = Arc::new(common::open_store(copy.path(), 7));
    assert!(registry::store::Store::has_lost_track(&*store));
    let clock = Arc::clone(&world.registry.clock);
    let restored = Fleet::start(store, Arc::<Workers>::default(), clock).unwrap();
    assert_eq!(restored.watching(), 1);
    assert!(!world.registry.store.has_lost_track());
}

#[tokio::test]
async fn barriers_are_bounded_and_the_next_is_told_how_things_stand() {
    let world = World::new();
    let head = world.registry.store.head().unwrap();
    let position = Position { seq: head.seq + 1, ..head };
    world.fleet.note(Uid([1; 16]), Duration::from_secs(3_600), None).await.unwrap();
    let wait = |target: u8| world.fleet.wait(Uid([target; 16]), position, Duration::from_secs(2));
    let begun = Instant::now();
    let (first, second, third, other) = tokio::join!(
        async { (wait(1).await.unwrap(), begun.elapsed()) },
        async { (wait(1).await.unwrap(), begun.elapsed()) },
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            (wait(1).await.unwrap(), begun.elapsed())
        },
        async { (wait(2).await.unwrap(), begun.elapsed()) },
    );
    let patience = Duration::from_secs(2);
    assert!(first.1 >= patience && second.1 >= patience && other.1 >= patience);
    assert!(third.0 == 1 && third.1 < patience, "{third:?}");
}

/// A body that ends late.
struct Late(Pin<Box<tokio::time::Sleep>>);

impl hyper::body::Body for Late {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.as_mut().poll(context).map(|()| None)
    }
}

/// The route's timeout is 90 s whatever the body took, so that the answer must be there by then. The clock is the test's.
#[tokio::test(start_paused = true)]
async fn patience_counts_from_the_arrival_of_the_request() {
    let world = World::new();
    let membrane = world.membrane(&world.tenant("acme").create, "m").await;
    world.fleet.note(Uid([1; 16]), Duration::from_secs(3_600), None).await.unwrap();
    // Just within the time that a body may take.
    let body = Late(Box::pin(tokio::time::sleep(Duration::from_secs(29))));
    let request = Request::delete("/?wait=fleet")
        .header("authorization", format!("Bearer {}", membrane.revoke))
        .body(Body::new(body))
        .unwrap();
    let begun = Instant::now();
    let reply = world.send(request).await;
    assert_eq!(reply.json, json!({"statusCode": 202, "message": "Accepted", "unconfirmed": 1}));
    let took = begun.elapsed();
    assert!(took >= registry::fleet::BARRIER_TIMEOUT, "{took:?}");
    assert!(took < registry::fleet::BARRIER_TIMEOUT + Duration::from_secs(5), "{took:?}");
}
