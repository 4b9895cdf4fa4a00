//! The feed and lookups as gateways see them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use common::{World, open_store};
use registry::store::Store as _;
use serde_json::{Value, json};
use std::time::Duration;

fn position(reply: &common::Reply) -> (String, u64) {
    let position = &reply.json["position"];
    (position["epoch"].as_str().unwrap().to_owned(), position["seq"].as_u64().unwrap())
}

async fn events(world: &World, epoch: &str, after: u64, hold_ms: u64) -> common::Reply {
    let watcher = "AQEBAQEBAQEBAQEBAQEBAQ";
    world
        .ask(&format!("/v1/events?epoch={epoch}&after={after}&hold={hold_ms}&watcher={watcher}&lease=60"))
        .await
}

#[tokio::test]
async fn a_first_question_is_answered_at_once() {
    let world = World::new();
    let reply = world.ask("/v1/events?hold=60000&watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json["events"], json!([]));
    assert_eq!(reply.json["position"], json!({"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 0}));
    assert_eq!(reply.json["slot_key"].as_str().unwrap().len(), 43);
    assert_eq!(
        reply.json["slot_key"],
        world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await.json["slot_key"]
    );
}

#[tokio::test]
async fn events_are_contiguous_pages_of_1024() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let mut units = Vec::new();
    for index in 0..1_100 {
        let id = capability::MembraneId::parse(&index.to_string()).unwrap();
        let bearer = capability::Token::parse(tenant.create.as_bytes()).unwrap();
        let presented = world.registry.present(&bearer).unwrap();
        world.registry.create(&presented, &id).unwrap();
    }
    let uid: capability::Uid = world.registry.store.tenants().unwrap()[0].uid;
    let page = registry::store::Page { limit: 2_000, ..Default::default() };
    for membrane in world.registry.store.membranes(uid, common::NOW, &page).unwrap() {
        let _ = world.registry.store.revoke(None, capability::Unit::Uid(membrane.uid), common::NOW).unwrap();
        units.push(membrane.uid.to_string());
    }
    let (epoch, head) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    assert_eq!(head, 1_100);
    let (mut after, mut seen) = (0, Vec::new());
    while after < head {
        let reply = events(&world, &epoch, after, 0).await;
        let list = reply.json["events"].as_array().unwrap().clone();
        assert!(list.len() <= 1_024);
        for event in &list {
            after += 1;
            assert_eq!(event["seq"], after);
            seen.push(event["unit"].as_str().unwrap().to_owned());
        }
        assert_eq!(position(&reply), (epoch.clone(), after));
    }
    assert_eq!(seen, units);
}

#[tokio::test]
async fn starting_over() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "m").await;
    world.revoke(&membrane.revoke).await;
    let (epoch, _) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    for (epoch, after) in [("AgICAgICAgICAgICAgICAg", 1), (epoch.as_str(), 2)] {
        let reply = events(&world, epoch, after, 60_000).await;
        assert_eq!(reply.status, 410);
        assert_eq!(reply.json["position"], json!({"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 1}));
        assert_eq!(reply.json.get("events"), None);
        assert_eq!(reply.json["slot_key"].as_str().unwrap().len(), 43);
    }
    assert_eq!(events(&world, &epoch, 0, 60_000).await.json["events"].as_array().unwrap().len(), 1);
    // Events that are no longer kept.
    world.sql().execute("DELETE FROM events", []).unwrap();
    world.sql().execute("UPDATE head SET seq = 5", []).unwrap();
    for after in [0, 1, 4] {
        assert_eq!(events(&world, &epoch, after, 0).await.status, 410, "{after}");
    }
    assert_eq!(events(&world, &epoch, 5, 0).await.status, 200);
}

#[tokio::test]
async fn a_held_question_is_answered_when_something_is_revoked() {
    let world = World::new();
    let membrane = world.membrane(&world.tenant("acme").create, "m").await;
    let (epoch, seq) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    let begun = tokio::time::Instant::now();
    let (reply, status) = tokio::join!(events(&world, &epoch, seq, 30_000), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.revoke(&membrane.revoke).await
    });
    assert_eq!(status, 202);
    assert_eq!(reply.json["events"][0]["seq"], 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_held_question_is_answered_when_another_process_revokes() {
    let world = World::new();
    world.membrane(&world.tenant("acme").create, "m").await;
    let (epoch, seq) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    let begun = tokio::time::Instant::now();
    let (reply, ()) = tokio::join!(events(&world, &epoch, seq, 30_000), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let beside = open_store(world.dir.path(), 2);
        let uid = beside.tenants().unwrap()[0].uid;
        let _ = beside.revoke(None, capability::Unit::Uid(uid), common::NOW).unwrap();
    });
    assert_eq!(reply.json["events"][0]["seq"], 1, "{}", reply.text);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_answer_knows_what_was_revoked_before_the_question() {
    let world = World::new();
    world.membrane(&world.tenant("acme").create, "m").await;
    let (epoch, seq) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    let beside = open_store(world.dir.path(), 2);
    let uid = beside.tenants().unwrap()[0].uid;
    let _ = beside.revoke(None, capability::Unit::Uid(uid), common::NOW).unwrap();
    // Not held, not waited for: what another process committed is in the answer all the same.
    let reply = events(&world, &epoch, seq, 0).await;
    assert_eq!(reply.json["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_hold_ends_with_no_news_and_with_the_feed() {
    let world = World::new();
    let (epoch, seq) = position(&world.ask("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60").await);
    let begun = tokio::time::Instant::now();
    let reply = events(&world, &epoch, seq, 1_000).await;
    assert_eq!((reply.status.as_u16(), position(&reply)), (200, (epoch.clone(), seq)));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let (reply, ()) = tokio::join!(events(&world, &epoch, seq, 60_000), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.feed.drain();
    });
    assert_eq!(reply.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn lookups() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "m").await;
    let grant = world.grant(&membrane.export).await;
    let as_of = json!({"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 0});
    let reply = world.lookup(&grant).await;
    let fields: Vec<&String> = reply.json.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["as_of", "expiresAt", "kind", "record", "units"]);
    assert_eq!((&reply.json["as_of"], &reply.json["expiresAt"]), (&as_of, &Value::Null));
    for control in [&tenant.create, &tenant.query, &tenant.delete_self, &membrane.export, &membrane.revoke] {
        assert_eq!(world.lookup(control).await.json, json!({"kind": "control", "as_of": as_of}));
    }
    world.revoke(&membrane.revoke).await;
    let as_of = json!({"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 1});
    for control in [&membrane.export, &membrane.revoke] {
        assert_eq!(
            world.lookup(control).await.json,
            json!({"kind": "control", "as_of": as_of}),
            "dead controls too"
        );
    }
    let dead = world.lookup(&grant).await;
    assert_eq!((dead.status.as_u16(), dead.json), (404, json!({"as_of": as_of})));
    let unknown = world.ask(&format!("/v1/records/{}?{}", "A".repeat(43), common::WATCHER)).await;
    assert_eq!((unknown.status.as_u16(), unknown.json), (404, json!({"as_of": as_of})));
}

#[tokio::test]
async fn questions_that_break_a_rule() {
    let world = World::new();
    for (path, status) in [
        ("/v1/records/AAAA", 400),
        ("/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB", 400),
        ("/v1/records/", 400),
        ("/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 400),
        ("/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA?lease=1", 400),
        ("/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA?x=1", 400),
        ("/v1/events", 400),
        ("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ", 400),
        ("/v1/events?lease=60", 400),
        ("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=0", 400),
        ("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=86401", 400),
        ("/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60&after=1", 400),
        ("/v1/events?epoch=AQEBAQEBAQEBAQEBAQEBAQ", 400),
        ("/v1/events?epoch=AQ&after=1", 400),
        ("/v1/events?hold=-1", 400),
        ("/v1/events?watcher=x", 400),
        ("/v1/events?lease=x", 400),
        ("/v1/events?more=1", 400),
        ("/v1", 404),
        ("/", 404),
        ("/v1/records", 404),
    ] {
        assert_eq!(world.ask(path).await.status, status, "{path}");
    }
}
