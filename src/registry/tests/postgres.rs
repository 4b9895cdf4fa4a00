//! What the store's contract does not say, and PostgreSQL brings with it: several processes, servers that fail over, and TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "test code"
)]

#[path = "common/postgres.rs"]
mod server;

use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, UnitPair, Units};
use registry::store::postgres::{PostgresStore, PostgresUrl};
use registry::store::{
    Added, Epoch, Limits, Membrane, NewMembrane, NewTenant, Record, Revoked, Store, StoreError,
};
use server::Server;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

const NOW: u64 = 1_790_000_000;

fn open(url: &PostgresUrl, dir: &Path, log: &str, epoch: u8) -> Result<PostgresStore, StoreError> {
    let next = AtomicU8::new(epoch);
    PostgresStore::open(url, &dir.join(log), move || Epoch([next.fetch_add(1, Ordering::Relaxed); 16]))
}

fn record(lookup: u8, units: &Units) -> Record {
    Record {
        lookup: LookupId([lookup; 32]),
        sealed: vec![lookup; 600],
        kind: Kind::Control,
        units: units.clone(),
        expires_at: None,
        created_at: NOW,
    }
}

fn add_tenant(store: &dyn Store, uid: u8, id: &str) -> Added {
    let units = Units::own(UnitPair { tenant: Uid([uid; 16]), membrane: None });
    let tenant =
        NewTenant { uid: Uid([uid; 16]), id: id.into(), records: vec![record(uid, &units)], created_at: NOW };
    store.add_tenant(&tenant).unwrap()
}

fn membrane(uid: u8, id: &str) -> NewMembrane {
    let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([uid; 16])) });
    NewMembrane {
        records: vec![record(uid, &units)],
        membrane: Membrane {
            uid: Uid([uid; 16]),
            tenant: Uid([1; 16]),
            id: MembraneId::parse(id).unwrap(),
            units,
            expires_at: None,
            escrow: vec![uid; 300],
            created_at: NOW,
        },
    }
}

fn add_membrane(store: &dyn Store, uid: u8, id: &str) -> Added {
    store.add_membrane(&[LookupId([1; 32])], NOW, &membrane(uid, id), Limits::default()).unwrap()
}

fn revoke(store: &dyn Store, unit: u8) -> Revoked {
    store.revoke(None, Unit::Uid(Uid([unit; 16])), NOW).unwrap()
}

fn is_alive(store: &dyn Store, lookup: u8) -> bool {
    store.find(LookupId([lookup; 32])).unwrap().0.is_some_and(|found| found.is_alive(NOW))
}

fn lines(dir: &Path, log: &str) -> usize {
    std::fs::read_to_string(dir.join(log)).unwrap().lines().count()
}

#[test]
fn a_promoted_copy_that_lost_a_revocation_gets_it_back_before_anybody_is_answered() {
    let (old, dir) = (Server::own(), tempfile::tempdir().unwrap());
    let store = open(&old.plain("public", None), dir.path(), "log", 1).unwrap();
    assert_eq!(add_tenant(&store, 1, "acme"), Added::Yes);
    for uid in [2, 3, 4, 5] {
        assert_eq!(add_membrane(&store, uid, &uid.to_string()), Added::Yes);
    }
    assert!(matches!(revoke(&store, 2), Revoked::Now(_)));
    drop(store);
    let new = old.standby();
    let url = old.plain("public", Some(new.port));
    let alone =
        open(&new.plain("public", None), dir.path(), "alone", 90).map(|_| ()).unwrap_err().to_string();
    assert!(alone.contains("does not allow writes"), "{alone}");
    // Two registries at the old server; the copy gets nothing of what follows.
    let (one, other) =
        (open(&url, dir.path(), "log", 20).unwrap(), open(&url, dir.path(), "other", 40).unwrap());
    let before = one.events(None).unwrap().head;
    assert_eq!(before.epoch, Epoch([1; 16]), "a second process is no new history");
    assert!(matches!(revoke(&one, 3), Revoked::Now(_)));
    assert!(matches!(revoke(&other, 4), Revoked::Now(_)));
    old.stop_at_once();
    assert!(one.find(LookupId([3; 32])).is_err(), "the copy is in recovery: nobody is asked");
    new.promote();
    // One after the other: each brings what its own log alone knows.
    assert!(!is_alive(&one, 3));
    let middle = one.events(None).unwrap().head;
    assert_ne!(middle.epoch, before.epoch);
    assert!(!is_alive(&other, 4) && !is_alive(&other, 3));
    assert!(!is_alive(&one, 4) && !is_alive(&one, 2) && is_alive(&one, 5));
    let after = one.events(None).unwrap().head;
    assert_ne!(
        after.epoch, middle.epoch,
        "something else came to light, so that it is another history again"
    );
    assert_eq!(other.events(None).unwrap().head, after);
    // And all of it is in agreement now.
    assert!(matches!(revoke(&one, 5), Revoked::Now(_)));
    drop((one, other));
    let again = open(&url, dir.path(), "log", 60).unwrap();
    assert_eq!(again.events(None).unwrap().head.epoch, after.epoch);
}

#[test]
fn each_process_writes_down_what_others_revoke() {
    let (url, dir) = (server::parse(&Server::shared().schema()), tempfile::tempdir().unwrap());
    let one = open(&url, dir.path(), "one", 1).unwrap();
    assert_eq!(add_tenant(&one, 1, "acme"), Added::Yes);
    for uid in 2..10 {
        assert_eq!(add_membrane(&one, uid, &uid.to_string()), Added::Yes);
    }
    let other = open(&url, dir.path(), "other", 2).unwrap();
    let (before, empty) = (lines(dir.path(), "one"), lines(dir.path(), "other"));
    for uid in [2, 3] {
        assert!(matches!(revoke(&one, uid), Revoked::Now(_)));
    }
    assert!(matches!(revoke(&other, 4), Revoked::Now(_)));
    for store in [&one, &other, &one] {
        assert_eq!(store.events(None).unwrap().events.len(), 3);
    }
    assert_eq!((lines(dir.path(), "one"), lines(dir.path(), "other")), (before + 3, empty + 3));
    // What a process missed while it was away, it reads when it comes back: that is no new history.
    let epoch = one.head().unwrap().epoch;
    drop(other);
    assert!(matches!(revoke(&one, 5), Revoked::Now(_)));
    let other = open(&url, dir.path(), "other", 3).unwrap();
    assert_eq!(other.head().unwrap().epoch, epoch);
    assert!(lines(dir.path(), "other") > empty + 3);
}

#[test]
fn writers_at_once_give_one_id_to_one_membrane() {
    let (url, dir) = (server::parse(&Server::shared().schema()), tempfile::tempdir().unwrap());
    let stores = [open(&url, dir.path(), "one", 1).unwrap(), open(&url, dir.path(), "other", 2).unwrap()];
    assert_eq!(add_tenant(&stores[0], 1, "acme"), Added::Yes);
    for round in 0..10 {
        let added: Vec<Added> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    let store = &stores[usize::from(writer % 2)];
                    scope.spawn(move || add_membrane(store, 10 + round * 6 + writer, &round.to_string()))
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(added.iter().filter(|added| **added == Added::Yes).count(), 1, "{added:?}");
        assert_eq!(added.iter().filter(|added| **added == Added::Taken).count(), 5, "{added:?}");
    }
}

#[test]
fn a_server_that_was_cut_off_is_asked_again_and_has_lost_nothing() {
    let (server, dir) = (Server::own(), tempfile::tempdir().unwrap());
    let store = open(&server.plain("public", None), dir.path(), "log", 1).unwrap();
    assert_eq!(add_tenant(&store, 1, "acme"), Added::Yes);
    assert_eq!(add_membrane(&store, 2, "m"), Added::Yes);
    let head = store.head().unwrap();
    server.stop_at_once();
    assert!(store.find(LookupId([2; 32])).is_err());
    server.start();
    assert!(is_alive(&store, 2));
    assert_eq!(store.head().unwrap(), head, "the same server is no other history");
}

#[test]
fn a_server_that_would_lose_what_it_answered_is_refused() {
    let (server, dir) = (Server::own(), tempfile::tempdir().unwrap());
    server.sql("public", "ALTER SYSTEM SET fsync = off");
    server.sql("public", "ALTER DATABASE postgres SET synchronous_commit = off");
    server.stop_at_once();
    server.start();
    let url = server.plain("public", None);
    let refused = open(&url, dir.path(), "log", 1).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("fsync off"), "{refused}");
    server.sql("public", "ALTER SYSTEM RESET fsync");
    server.stop_at_once();
    server.start();
    // A session's own setting is put right.
    assert!(open(&url, dir.path(), "log", 1).is_ok());
}

#[test]
fn tls_verifies_the_server() {
    let server = Server::shared();
    if !server.has_tls {
        // The PostgreSQL of .tools/ has none: then TLS is what it cannot be asked for.
        let url = format!("postgres://membrane:{}@localhost:{}/postgres", server::PASSWORD, server.port);
        let dir = tempfile::tempdir().unwrap();
        let error = open(&server::parse(&url), dir.path(), "log", 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("TLS"), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = server.schema();
    assert!(open(&server::parse(&good), dir.path(), "log", 1).is_ok());
    // Another CA; a name that the certificate does not have; another password.
    let now = 1_790_000_000;
    let key = registry::certificates::new_key().unwrap();
    let stranger = dir.path().join("stranger.pem");
    std::fs::write(&stranger, registry::certificates::authority(&key, now).unwrap()).unwrap();
    let roots = good.split("sslrootcert=").nth(1).unwrap().split('&').next().unwrap();
    for (wrong, why) in [
        (good.replace(roots, stranger.to_str().unwrap()), "certificate"),
        (good.replace("@localhost", "@127.0.0.2"), "certificate"),
        (good.replace(server::PASSWORD, "canary-wrong"), "password authentication failed"),
    ] {
        let error = open(&server::parse(&wrong), dir.path(), "wrong", 1).map(|_| ()).unwrap_err();
        let error = format!("{error} {error:?}");
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let (url, dir) = (Server::shared().schema(), tempfile::tempdir().unwrap());
    drop(open(&server::parse(&url), dir.path(), "log", 1).unwrap());
    let schema = url.split("search_path%3D").nth(1).unwrap();
    Server::shared().sql(schema, "UPDATE version SET version = 3");
    let error = open(&server::parse(&url), dir.path(), "log", 1).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("use the newer program"), "{error}");
}
