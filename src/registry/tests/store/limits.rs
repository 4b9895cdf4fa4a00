//! What a tenant may have: what counts, and that no limit is ever passed, however many ask at once.

use super::*;
use registry::store::{Limit, Usage};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fn usage(store: &dyn Store, tenant: u8) -> (u64, u64) {
    let Usage { membranes, capabilities } = store.usage(Uid([tenant; 16]), NOW).unwrap();
    (membranes, capabilities)
}

/// With its two controls, as `create` makes one.
fn with_controls(tenant: u8, uid: u8) -> NewMembrane {
    let mut new = membrane(tenant, uid, &format!("m{uid}"));
    let mut second = new.records[0].clone();
    second.lookup.0[0] ^= 0xff;
    new.records.push(second);
    new
}

fn grant(number: u64, membrane: u8) -> Record {
    let mut grant = record(0, Kind::Grant, &Units::own(pair(1, Some(membrane))), None);
    grant.lookup.0[..8].copy_from_slice(&number.to_be_bytes());
    grant.lookup.0[8] = membrane;
    grant
}

fn export(store: &dyn Store, record: &Record, limits: Limits) -> Added {
    store.add_record(&guard(1), NOW, record, limits).unwrap()
}

fn clear_up(store: &dyn Store, now: u64) {
    let mut after = None;
    loop {
        after = store.collect(after, 7, now).unwrap().next;
        if after.is_none() {
            return;
        }
    }
}

/// What the rows themselves say: a store into which they are brought counts them all.
fn counted_anew(store: &dyn Store, tenant: u8) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let fresh = backends().swap_remove(0)(dir.path(), Epoch([1; 16]));
    let mut all = rows(store).into_iter().map(Ok);
    let _ = fresh.load(&mut all, Epoch([2; 16])).unwrap();
    usage(&*fresh, tenant)
}

fn capabilities(most: u64) -> Limits {
    Limits { capabilities: Some(most), membranes: None }
}

#[test]
fn what_a_tenant_has_is_counted() {
    each(|open| {
        let store = open(1);
        for (uid, id) in [(1, "acme"), (2, "other")] {
            let _ = store.add_tenant(&tenant(uid, id)).unwrap();
        }
        assert_eq!(usage(&*store, 1), (0, 0), "its own three controls are no capabilities of its");
        for uid in [3, 4] {
            let _ = store.add_membrane(&guard(1), NOW, &with_controls(1, uid), Limits::default()).unwrap();
        }
        assert_eq!(usage(&*store, 1), (2, 4));
        let mut expiring = grant(1, 3);
        expiring.expires_at = Some(NOW + 9);
        // Made through a membrane of another tenant's, and this tenant's all the same.
        let mut delegated = grant(2, 3);
        delegated.units = Units::join(pair(1, Some(3)), &[&Units::own(pair(2, None))]).unwrap();
        for record in [expiring, delegated, grant(3, 3), grant(4, 4), grant(5, 4)] {
            assert_eq!(export(&*store, &record, Limits::default()), Added::Yes);
        }
        assert_eq!((usage(&*store, 1), usage(&*store, 2)), ((2, 9), (0, 0)));
        assert_eq!(counted_anew(&*store, 1), (2, 9));
        clear_up(&*store, NOW);
        assert_eq!(usage(&*store, 1), (2, 9), "nothing is dead");

        // What dies by itself counts until it is cleared up.
        assert!(matches!(
            store.revoke(None, Unit::Lookup(grant(3, 3).lookup), NOW).unwrap(),
            Revoked::Now(_)
        ));
        assert!(matches!(revoke(&*store, 2), Revoked::Now(_)));
        assert_eq!(usage(&*store, 1), (2, 9));
        clear_up(&*store, NOW + 9);
        assert_eq!((usage(&*store, 1), counted_anew(&*store, 1)), ((2, 6), (2, 6)));

        // What a membrane had goes with it at once, and only once.
        assert!(matches!(revoke(&*store, 4), Revoked::Now(_)));
        assert_eq!((usage(&*store, 1), counted_anew(&*store, 1)), ((1, 2), (1, 2)));
        assert_eq!(revoke(&*store, 4), Revoked::Already);
        clear_up(&*store, NOW + 9);
        assert_eq!((usage(&*store, 1), counted_anew(&*store, 1)), ((1, 2), (1, 2)));

        assert!(matches!(revoke(&*store, 1), Revoked::Now(_)));
        assert!(matches!(revoke(&*store, 3), Revoked::Now(_)), "its membrane is a unit of its own");
        clear_up(&*store, NOW + 9);
        drop(store);
        // Opened again, everything is as it was.
        let store = open(9);
        assert!(matches!(store.add_tenant(&tenant(9, "acme")).unwrap(), Added::Yes));
        assert_eq!(usage(&*store, 9), (0, 0));
    });
}

#[test]
fn an_expired_membrane_takes_nobodys_place() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let limits = Limits { membranes: Some(2), capabilities: None };
        let add = |uid, expires_at, now| {
            let mut new = with_controls(1, uid);
            new.membrane.expires_at = expires_at;
            store.add_membrane(&guard(1), now, &new, limits).unwrap()
        };
        assert_eq!(add(2, Some(NOW + 1), NOW), Added::Yes);
        assert_eq!(add(3, None, NOW), Added::Yes);
        assert_eq!(add(4, None, NOW), Added::Full(Limit::Membranes));
        assert_eq!(add(4, None, NOW + 1), Added::Yes);
        assert_eq!(add(5, None, NOW + 1), Added::Full(Limit::Membranes));
        assert!(matches!(revoke(&*store, 3), Revoked::Now(_)));
        assert_eq!(add(5, None, NOW + 1), Added::Yes);
        // A guard that is dead, and an id that is taken, say so first.
        let taken = store.add_membrane(&guard(1), NOW + 1, &with_controls(1, 5), limits).unwrap();
        assert_eq!(taken, Added::Taken);
        let dead = store.add_membrane(&guard(77), NOW + 1, &with_controls(1, 6), limits).unwrap();
        assert_eq!(dead, Added::Dead(guard(77)[0]));
    });
}

#[test]
fn the_last_place_is_the_last() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let create = |uid, most| {
            store.add_membrane(&guard(1), NOW, &with_controls(1, uid), capabilities(most)).unwrap()
        };
        assert_eq!(create(2, 1), Added::Full(Limit::Capabilities), "it needs two");
        assert_eq!(create(2, 2), Added::Yes);
        assert_eq!(create(3, 4), Added::Yes);
        assert_eq!(export(&*store, &grant(1, 2), capabilities(4)), Added::Full(Limit::Capabilities));
        assert_eq!(export(&*store, &grant(1, 2), capabilities(5)), Added::Yes);
        assert_eq!(export(&*store, &grant(2, 2), capabilities(5)), Added::Full(Limit::Capabilities));
        assert_eq!(store.find(grant(2, 2).lookup).unwrap().0, None);
        assert!(matches!(revoke(&*store, 3), Revoked::Now(_)));
        assert_eq!(export(&*store, &grant(2, 2), capabilities(5)), Added::Yes, "revoking makes room at once");
        // A limit that is lower than what is there lets nothing in, and takes nothing away.
        assert_eq!(export(&*store, &grant(3, 2), capabilities(1)), Added::Full(Limit::Capabilities));
        assert_eq!(usage(&*store, 1), (1, 4));
    });
}

/// Two processes, eight threads each, until nobody gets in any more; how many did.
fn rush(stores: &[Arc<dyn Store>; 2], attempts: u64, one: impl Fn(&dyn Store, u64) -> Added + Sync) -> u64 {
    let (next, let_in, begin) = (AtomicU64::new(0), AtomicU64::new(0), Barrier::new(16));
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (next, let_in, begin, one) = (&next, &let_in, &begin, &one);
            let store = &stores[thread % 2];
            scope.spawn(move || {
                begin.wait();
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= attempts {
                        return;
                    }
                    match one(&**store, number) {
                        Added::Yes => let_in.fetch_add(1, Relaxed),
                        Added::Full(_) => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    let_in.into_inner()
}

#[test]
fn who_exports_at_once_passes_no_limit() {
    // Far from it, near it (the server has 300 connections), and where one must be alone from the first on.
    for most in [20, 340] {
        each(|open| {
            let stores = [open(1), open(2)];
            let store = &*stores[0];
            let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
            for uid in [2, 3] {
                let _ =
                    store.add_membrane(&guard(1), NOW, &with_controls(1, uid), Limits::default()).unwrap();
            }
            let let_in = rush(&stores, most + 60, |store, number| {
                let membrane = if number % 2 == 0 { 2 } else { 3 };
                export(store, &grant(number, membrane), capabilities(most))
            });
            assert_eq!(
                (let_in, usage(store, 1)),
                (most - 4, (2, most)),
                "each place is taken, and none twice"
            );
            assert_eq!(counted_anew(store, 1), (2, most));
        });
    }
}

#[test]
fn who_creates_at_once_passes_no_limit() {
    each(|open| {
        let stores = [open(1), open(2)];
        let _ = stores[0].add_tenant(&tenant(1, "acme")).unwrap();
        let limits = Limits { membranes: Some(9), capabilities: Some(1_000) };
        let let_in = rush(&stores, 60, |store, number| {
            let uid = 10 + u8::try_from(number).unwrap();
            store.add_membrane(&guard(1), NOW, &with_controls(1, uid), limits).unwrap()
        });
        assert_eq!((let_in, usage(&*stores[0], 1)), (9, (9, 18)));
    });
}

/// Exports, revocations and clearing up, all at once and by two processes: in the end what is counted is what is there.
#[test]
fn counts_stay_true_whatever_happens_at_once() {
    each(|open| {
        let stores = [open(1), open(2)];
        let _ = stores[0].add_tenant(&tenant(1, "acme")).unwrap();
        for uid in 10..20 {
            let _ =
                stores[0].add_membrane(&guard(1), NOW, &with_controls(1, uid), Limits::default()).unwrap();
        }
        let begin = Barrier::new(6);
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let (store, begin) = (&stores[usize::from(thread > 0)], &begin);
                scope.spawn(move || {
                    begin.wait();
                    for number in 0..120 {
                        let membrane = 10 + u8::try_from(number % 10).unwrap();
                        let mut record = grant(thread * 1_000 + number, membrane);
                        record.expires_at = (number % 3 == 0).then_some(NOW + 1);
                        // Guarded by the membrane's own control, so that none comes after its revocation.
                        let added = store.add_record(&guard(membrane), NOW, &record, capabilities(2_000));
                        assert!(matches!(added.unwrap(), Added::Yes | Added::Dead(_)));
                    }
                });
            }
            for store in &stores {
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    (0..6).for_each(|_| clear_up(&**store, NOW + 1));
                });
            }
            let (store, begin) = (&stores[1], &begin);
            scope.spawn(move || {
                begin.wait();
                for uid in 10..15 {
                    std::thread::sleep(std::time::Duration::from_millis(40));
                    assert!(matches!(revoke(&**store, uid), Revoked::Now(_)));
                }
            });
        });
        clear_up(&*stores[0], NOW + 1);
        let left = rows(&*stores[0]).into_iter().filter(|row| match row {
            Row::Record(record) => record.kind == Kind::Grant,
            _ => false,
        });
        assert_eq!(left.count(), 5 * 3 * 8, "of the living membranes, what does not expire");
        assert_eq!(usage(&*stores[0], 1), (5, 5 * 2 + 5 * 3 * 8));
        assert_eq!(counted_anew(&*stores[0], 1), (5, 5 * 2 + 5 * 3 * 8));
    });
}

/// Three tenants, one of them gone; membranes, one of them gone; capabilities of all.
fn populate(store: &dyn Store) {
    for (uid, id) in [(1, "acme"), (2, "other"), (3, "gone")] {
        let _ = store.add_tenant(&tenant(uid, id)).unwrap();
    }
    for uid in [4, 5] {
        let _ = store.add_membrane(&guard(1), NOW, &with_controls(1, uid), Limits::default()).unwrap();
    }
    let _ = store.add_membrane(&guard(3), NOW, &with_controls(3, 6), Limits::default()).unwrap();
    for (number, membrane) in [(1, 4), (2, 4), (3, 5)] {
        assert_eq!(export(store, &grant(number, membrane), Limits::default()), Added::Yes);
    }
    let _ = (revoke(store, 5), revoke(store, 3));
}

#[test]
fn an_older_sqlite_store_is_counted_when_it_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let open = || backends().swap_remove(0)(dir.path(), Epoch([1; 16]));
    let store = open();
    populate(&*store);
    let (head, before) = (store.head().unwrap(), rows(&*store));
    drop(store);
    // As version 2 left it.
    let old = "DROP TABLE counted; DROP INDEX membranes_by_expiry; PRAGMA user_version = 2;";
    rusqlite::Connection::open(dir.path().join("registry.db")).unwrap().execute_batch(old).unwrap();
    let store = open();
    assert_eq!((store.head().unwrap(), rows(&*store)), (head, before));
    assert!(!store.has_lost_track(), "who follows the feed was noted by version 2, too");
    assert_eq!((usage(&*store, 1), usage(&*store, 2), usage(&*store, 3)), ((1, 4), (0, 0), (0, 0)));
    assert_eq!(export(&*store, &grant(9, 4), capabilities(4)), Added::Full(Limit::Capabilities));
    assert_eq!(export(&*store, &grant(9, 4), capabilities(5)), Added::Yes);
}

#[test]
fn an_older_postgres_store_is_counted_when_it_is_brought_up_to_date() {
    let server = postgres::Server::shared();
    let text = server.schema();
    let schema = text.split_once("search_path%3D").unwrap().1.to_owned();
    let (url, dir) = (postgres::parse(&text), tempfile::tempdir().unwrap());
    let open = || PostgresStore::open(&url, &dir.path().join("log"), || Epoch([1; 16]));
    let store = open().unwrap();
    populate(&store);
    let (head, before) = (store.head().unwrap(), rows(&store));
    drop(store);
    // As version 1 left it.
    let old = "DROP TABLE counted; DROP INDEX membranes_by_expiry; UPDATE version SET version = 1;";
    server.sql(&schema, old);
    // Two programs that are started at once bring it up to date once.
    let stores = std::thread::scope(|scope| {
        [scope.spawn(open), scope.spawn(open)].map(|opened| opened.join().unwrap().unwrap())
    });
    let store = &stores[0];
    assert_eq!((store.head().unwrap(), rows(store)), (head, before));
    assert_eq!((usage(store, 1), usage(store, 2), usage(store, 3)), ((1, 4), (0, 0), (0, 0)));
    assert_eq!(export(store, &grant(9, 4), capabilities(4)), Added::Full(Limit::Capabilities));
    assert_eq!(export(&stores[1], &grant(9, 4), capabilities(5)), Added::Yes);
}

/// What two processes clear up at the same moment goes once; and so does what goes with its membrane at that moment.
#[test]
fn what_goes_twice_at_once_goes_once() {
    each(|open| {
        let stores = [open(1), open(2)];
        let _ = stores[0].add_tenant(&tenant(1, "acme")).unwrap();
        // Enough that a count which went below what is there stays above zero.
        let _ = stores[0].add_membrane(&guard(1), NOW, &with_controls(1, 9), Limits::default()).unwrap();
        for number in 0..400 {
            assert_eq!(export(&*stores[0], &grant(number, 9), Limits::default()), Added::Yes);
        }
        for membrane in 10..18 {
            let new = with_controls(1, membrane);
            let _ = stores[0].add_membrane(&guard(1), NOW, &new, Limits::default()).unwrap();
            for number in 0..40 {
                let mut record = grant(number, membrane);
                record.expires_at = Some(NOW + 1);
                assert_eq!(export(&*stores[0], &record, Limits::default()), Added::Yes);
            }
            let begin = Barrier::new(3);
            std::thread::scope(|scope| {
                for store in &stores {
                    let begin = &begin;
                    scope.spawn(move || {
                        begin.wait();
                        let _ = store.collect(None, 1_000, NOW + 1).unwrap();
                    });
                }
                let (store, begin) = (&stores[0], &begin);
                scope.spawn(move || {
                    begin.wait();
                    if membrane % 2 == 0 {
                        assert!(matches!(revoke(&**store, membrane), Revoked::Now(_)));
                    }
                });
            });
        }
        assert_eq!(usage(&*stores[0], 1), (5, 2 + 400 + 4 * 2));
    });
}
