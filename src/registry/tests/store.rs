//! The store's contract, for every backend: add a backend to `backends`, and all of it is asked of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "test code"
)]

#[path = "store/limits.rs"]
mod limits;
#[path = "common/postgres.rs"]
mod postgres;

use capability::record::Kind;
use capability::{LookupId, MembraneId, Uid, Unit, UnitPair, Units};
use registry::store::postgres::PostgresStore;
use registry::store::sqlite::SqliteStore;
use registry::store::{
    Added, Epoch, Event, Events, Limits, Loaded, Membrane, NewMembrane, NewTenant, Page, Position, Record,
    Revoked, Rewrapped, Row, Store,
};
use std::path::Path;
use std::sync::Arc;

const NOW: u64 = 1_790_000_000;

/// Opens, or opens again, a store that was empty at first.
type Open = Box<dyn Fn(&Path, Epoch) -> Arc<dyn Store>>;

fn backends() -> Vec<Open> {
    let sqlite = |dir: &Path, fresh| -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&dir.join("registry.db"), &dir.join("revocations.log"), fresh).unwrap())
    };
    let url = postgres::parse(&postgres::Server::shared().schema());
    let postgres = move |dir: &Path, fresh| -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&url, &dir.join("revocations.log"), move || fresh).unwrap())
    };
    vec![Box::new(sqlite), Box::new(postgres)]
}

fn each(test: impl Fn(&dyn Fn(u8) -> Arc<dyn Store>)) {
    for open in backends() {
        let dir = tempfile::tempdir().unwrap();
        test(&|epoch| open(dir.path(), Epoch([epoch; 16])));
    }
}

fn pair(tenant: u8, membrane: Option<u8>) -> UnitPair {
    UnitPair { tenant: Uid([tenant; 16]), membrane: membrane.map(|m| Uid([m; 16])) }
}

fn record(lookup: u8, kind: Kind, units: &Units, expires_at: Option<u64>) -> Record {
    Record {
        lookup: LookupId([lookup; 32]),
        sealed: vec![lookup; 600],
        kind,
        units: units.clone(),
        expires_at,
        created_at: NOW,
    }
}

fn tenant(uid: u8, id: &str) -> NewTenant {
    let units = Units::own(pair(uid, None));
    NewTenant {
        uid: Uid([uid; 16]),
        id: id.into(),
        records: vec![record(uid, Kind::Control, &units, None)],
        created_at: NOW,
    }
}

fn membrane(tenant: u8, uid: u8, id: &str) -> NewMembrane {
    let units = Units::own(pair(tenant, Some(uid)));
    NewMembrane {
        records: vec![record(uid, Kind::Control, &units, None)],
        membrane: Membrane {
            uid: Uid([uid; 16]),
            tenant: Uid([tenant; 16]),
            id: MembraneId::parse(id).unwrap(),
            units,
            expires_at: None,
            escrow: vec![uid; 300],
            created_at: NOW,
        },
    }
}

fn guard(lookup: u8) -> [LookupId; 1] {
    [LookupId([lookup; 32])]
}

fn ids(store: &dyn Store, tenant: u8, page: Page) -> Vec<String> {
    let membranes = store.membranes(Uid([tenant; 16]), NOW, &page).unwrap();
    membranes.into_iter().map(|membrane| membrane.id.as_str().to_owned()).collect()
}

fn all() -> Page {
    Page { limit: usize::MAX, ..Page::default() }
}

fn revoke(store: &dyn Store, unit: u8) -> Revoked {
    store.revoke(None, Unit::Uid(Uid([unit; 16])), NOW).unwrap()
}

fn is_alive(store: &dyn Store, lookup: u8) -> bool {
    store.find(LookupId([lookup; 32])).unwrap().0.is_some_and(|found| found.is_alive(NOW))
}

#[test]
fn what_was_added_is_there_after_opening_again() {
    each(|open| {
        let store = open(1);
        assert_eq!(store.add_tenant(&tenant(1, "acme")).unwrap(), Added::Yes);
        assert_eq!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 2, "m"), Limits::default()).unwrap(),
            Added::Yes
        );
        let units = Units::join(pair(1, Some(2)), &[&Units::own(pair(1, None))]).unwrap();
        let grant = record(3, Kind::Grant, &units, Some(NOW + 5));
        assert_eq!(store.add_record(&guard(2), NOW, &grant, Limits::default()).unwrap(), Added::Yes);
        drop(store);
        let store = open(9);
        let (found, as_of) = store.find(LookupId([3; 32])).unwrap();
        let found = found.unwrap();
        assert_eq!((found.record.clone(), found.dead.len()), (grant, 0));
        assert_eq!(as_of, Position { epoch: Epoch([1; 16]), seq: 0 });
        assert!(found.is_alive(NOW + 4) && !found.is_alive(NOW + 5));
        assert_eq!(store.find(LookupId([4; 32])).unwrap().0, None);
        assert_eq!(store.tenants().unwrap()[0].id, "acme");
        assert_eq!(store.membranes(Uid([1; 16]), NOW, &all()).unwrap(), [membrane(1, 2, "m").membrane]);
    });
}

#[test]
fn ids_stand_for_one_thing_at_a_time() {
    each(|open| {
        let store = open(1);
        assert_eq!(store.add_tenant(&tenant(1, "acme")).unwrap(), Added::Yes);
        assert_eq!(store.add_tenant(&tenant(2, "acme")).unwrap(), Added::Taken);
        assert_eq!(store.add_tenant(&tenant(2, "other")).unwrap(), Added::Yes);
        assert_eq!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 3, "m"), Limits::default()).unwrap(),
            Added::Yes
        );
        assert_eq!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 4, "m"), Limits::default()).unwrap(),
            Added::Taken
        );
        assert_eq!(
            store.add_membrane(&guard(2), NOW, &membrane(2, 4, "m"), Limits::default()).unwrap(),
            Added::Yes
        );
        assert!(matches!(revoke(&*store, 3), Revoked::Now(_)));
        assert_eq!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 5, "m"), Limits::default()).unwrap(),
            Added::Yes
        );
        assert!(matches!(revoke(&*store, 1), Revoked::Now(_)));
        assert_eq!(store.add_tenant(&tenant(6, "acme")).unwrap(), Added::Yes);
        // What expired frees its id too, and is revoked before it does.
        let mut short = membrane(2, 7, "short");
        short.membrane.expires_at = Some(NOW + 1);
        assert_eq!(store.add_membrane(&guard(2), NOW, &short, Limits::default()).unwrap(), Added::Yes);
        assert_eq!(
            store.add_membrane(&guard(2), NOW, &membrane(2, 8, "short"), Limits::default()).unwrap(),
            Added::Taken
        );
        assert_eq!(
            store.add_membrane(&guard(2), NOW + 1, &membrane(2, 8, "short"), Limits::default()).unwrap(),
            Added::Yes
        );
        assert_eq!(revoke(&*store, 7), Revoked::Already);
    });
}

#[test]
fn guards_that_are_not_alive_let_nothing_in() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let _ = store.add_membrane(&guard(1), NOW, &membrane(1, 2, "m"), Limits::default()).unwrap();
        let units = Units::own(pair(1, Some(2)));
        let expiring = record(3, Kind::Control, &units, Some(NOW + 1));
        assert_eq!(store.add_record(&guard(2), NOW, &expiring, Limits::default()).unwrap(), Added::Yes);
        let new = record(4, Kind::Grant, &units, None);
        let refused = |guards: &[LookupId], now, dead: u8| {
            assert_eq!(
                store.add_record(guards, now, &new, Limits::default()).unwrap(),
                Added::Dead(LookupId([dead; 32]))
            );
            let added = store.add_membrane(guards, now, &membrane(1, 9, "n"), Limits::default()).unwrap();
            assert_eq!(added, Added::Dead(LookupId([dead; 32])));
            assert_eq!(store.find(new.lookup).unwrap().0, None);
            assert!(!ids(&*store, 1, all()).contains(&"n".to_owned()));
        };
        refused(&[guard(1), guard(8)].concat(), NOW, 8);
        refused(&guard(3), NOW + 1, 3);
        let _ = store.revoke(None, Unit::Lookup(LookupId([3; 32])), NOW).unwrap();
        refused(&guard(3), NOW, 3);
        let _ = revoke(&*store, 2);
        refused(&[guard(1), guard(2)].concat(), NOW, 2);
    });
}

#[test]
fn an_error_leaves_nothing_half_written() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        // The second record's lookup id is there already: the first, the membrane and its unit must go with it.
        let mut new = membrane(1, 2, "m");
        new.records = vec![
            record(2, Kind::Control, &new.membrane.units, None),
            record(1, Kind::Control, &new.membrane.units, None),
        ];
        assert!(store.add_membrane(&guard(1), NOW, &new, Limits::default()).is_err());
        assert_eq!(store.find(LookupId([2; 32])).unwrap().0, None);
        assert!(ids(&*store, 1, all()).is_empty());
        assert_eq!(revoke(&*store, 2), Revoked::Unknown);
        assert_eq!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 2, "m"), Limits::default()).unwrap(),
            Added::Yes
        );
    });
}

#[test]
fn missing_is_dead() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let units = Units::join(pair(1, None), &[&Units::own(pair(7, Some(8)))]).unwrap();
        let _ = store
            .add_record(&guard(1), NOW, &record(2, Kind::Grant, &units, None), Limits::default())
            .unwrap();
        let dead = store.find(LookupId([2; 32])).unwrap().0.unwrap().dead;
        assert_eq!(dead, [Unit::Uid(Uid([7; 16])), Unit::Uid(Uid([8; 16]))]);
    });
}

#[test]
fn membranes_are_listed_by_the_bytes_of_their_ids() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let _ = store.add_tenant(&tenant(2, "other")).unwrap();
        let names = ["b", "B", "\u{e9}", "a b", "ab", "\u{1f980}", "\u{ffff}"];
        for (index, id) in names.iter().enumerate() {
            let _ = store
                .add_membrane(
                    &guard(1),
                    NOW,
                    &membrane(1, 10 + u8::try_from(index).unwrap(), id),
                    Limits::default(),
                )
                .unwrap();
        }
        let mut sorted = names.to_vec();
        sorted.sort_by_key(|id| id.as_bytes());
        assert_eq!(ids(&*store, 1, all()), sorted);
        assert!(ids(&*store, 2, all()).is_empty());
        let after = Some(MembraneId::parse("a b").unwrap());
        assert_eq!(ids(&*store, 1, Page { after, limit: 2, id: None }), ["ab", "b"]);
        let id = Some(MembraneId::parse("ab").unwrap());
        assert_eq!(ids(&*store, 1, Page { id: id.clone(), limit: 5, after: None }), ["ab"]);
        assert!(ids(&*store, 1, Page { after: id.clone(), id, limit: 5 }).is_empty());
        let _ = revoke(&*store, 1);
        assert!(ids(&*store, 1, all()).is_empty());
    });
}

#[test]
fn listing_passes_over_many_that_are_dead() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let _ = store.add_tenant(&tenant(2, "other")).unwrap();
        for index in 0..600u32 {
            let mut new = membrane(1, 3, &format!("{index:04}"));
            new.membrane.uid.0[..4].copy_from_slice(&index.to_be_bytes());
            // All but the last were made through a delegation of tenant 2's.
            let delegation = Units::own(pair(2, None));
            let own = UnitPair { tenant: Uid([1; 16]), membrane: Some(new.membrane.uid) };
            let inherited: &[&Units] = if index < 599 { &[&delegation] } else { &[] };
            new.membrane.units = Units::join(own, inherited).unwrap();
            new.records.clear();
            let _ = store.add_membrane(&guard(1), NOW, &new, Limits::default()).unwrap();
        }
        let _ = revoke(&*store, 2);
        assert_eq!(ids(&*store, 1, Page { limit: 1, ..Page::default() }), ["0599"]);
    });
}

#[test]
fn the_feed_is_contiguous_and_in_the_order_of_commits() {
    each(|open| {
        let store = open(1);
        let head = |seq| Position { epoch: Epoch([1; 16]), seq };
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        for uid in 10..60 {
            let _ = store
                .add_membrane(&guard(1), NOW, &membrane(1, uid, &uid.to_string()), Limits::default())
                .unwrap();
        }
        // Several writers at once.
        std::thread::scope(|scope| {
            for writer in 0..5 {
                let store = &store;
                scope.spawn(move || {
                    (0..10).for_each(|i| {
                        assert!(matches!(revoke(&**store, 10 + writer * 10 + i), Revoked::Now(_)))
                    })
                });
            }
        });
        let Events { head: now, events } = store.events(None).unwrap();
        assert_eq!(now, head(50));
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
        assert_eq!(revoke(&*store, 10), Revoked::Already);
        let later = store.events(Some(head(48))).unwrap();
        assert_eq!(later.events, events[48..]);
        assert_eq!(store.events(Some(head(50))).unwrap().events, []);
        for elsewhere in [head(51), Position { epoch: Epoch([2; 16]), seq: 50 }] {
            assert_eq!(store.events(Some(elsewhere)).unwrap().events, events, "as if nothing had been said");
        }
        let _ = store.revoke(None, Unit::Lookup(LookupId([10; 32])), NOW).unwrap();
        let last = store.events(Some(head(50))).unwrap();
        assert_eq!(last.events, [Event { seq: 51, unit: Unit::Lookup(LookupId([10; 32])) }]);
        assert_eq!(
            store.find(LookupId([1; 32])).unwrap().1,
            head(51),
            "a lookup's position is its snapshot's"
        );
        assert_eq!(store.revoke(None, Unit::Lookup(LookupId([99; 32])), NOW).unwrap(), Revoked::Unknown);
    });
}

#[test]
fn a_dead_control_revokes_nothing() {
    each(|open| {
        let store = open(1);
        assert!(store.add_tenant(&tenant(1, "one")).is_ok());
        let units = |membrane| Units::own(pair(1, Some(membrane)));
        assert!(matches!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 2, "two"), Limits::default()).unwrap(),
            Added::Yes
        ));
        assert!(matches!(
            store.add_membrane(&guard(1), NOW, &membrane(1, 3, "three"), Limits::default()).unwrap(),
            Added::Yes
        ));
        // A control of membrane 2, delegated through membrane 3; and one that expires.
        let delegated = Units::join(pair(1, Some(3)), &[&units(2)]).unwrap();
        for (lookup, units, expires_at) in [(60, &delegated, None), (61, &units(2), Some(NOW + 10))] {
            assert!(matches!(
                store
                    .add_record(
                        &guard(1),
                        NOW,
                        &record(lookup, Kind::Control, units, expires_at),
                        Limits::default()
                    )
                    .unwrap(),
                Added::Yes
            ));
        }
        let two = Unit::Uid(Uid([2; 16]));
        let through = |lookup: u8, now| store.revoke(Some(LookupId([lookup; 32])), two, now).unwrap();
        let _ = store.revoke(None, Unit::Uid(Uid([3; 16])), NOW).unwrap();
        assert_eq!(through(60, NOW), Revoked::Dead, "its delegation is revoked");
        assert_eq!(through(61, NOW + 10), Revoked::Dead, "it has expired");
        assert_eq!(through(99, NOW), Revoked::Dead, "it was never there");
        assert!(matches!(through(61, NOW), Revoked::Now(_)));
        assert_eq!(through(61, NOW), Revoked::Already, "its own target's death does not count");
    });
}

#[test]
fn clearing_up_removes_what_is_dead_for_ever_and_nothing_else() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        for uid in [2, 3] {
            let _ = store
                .add_membrane(&guard(1), NOW, &membrane(1, uid, &uid.to_string()), Limits::default())
                .unwrap();
        }
        for (lookup, membrane, expires_at) in
            [(20, 2, None), (21, 2, Some(NOW + 9)), (30, 3, None), (31, 3, Some(NOW + 1))]
        {
            let grant = record(lookup, Kind::Grant, &Units::own(pair(1, Some(membrane))), expires_at);
            assert_eq!(store.add_record(&guard(1), NOW, &grant, Limits::default()).unwrap(), Added::Yes);
        }
        let _ = revoke(&*store, 2);
        let (mut after, mut removed, mut steps) = (None, 0, 0);
        loop {
            let collected = store.collect(after, 2, NOW + 1).unwrap();
            (removed, steps) = (removed + collected.removed, steps + 1);
            after = collected.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((removed, steps), (3, 4));
        for (lookup, there) in
            [(1, true), (2, true), (3, true), (20, false), (21, false), (30, true), (31, false)]
        {
            assert_eq!(store.find(LookupId([lookup; 32])).unwrap().0.is_some(), there, "{lookup}");
        }
    });
}

#[test]
fn two_processes_see_each_other() {
    each(|open| {
        let (server, operator) = (open(1), open(2));
        let _ = server.add_tenant(&tenant(1, "acme")).unwrap();
        let _ = server.add_membrane(&guard(1), NOW, &membrane(1, 2, "m"), Limits::default()).unwrap();
        assert!(is_alive(&*server, 2));
        assert!(matches!(revoke(&*operator, 2), Revoked::Now(_)));
        assert!(!is_alive(&*server, 2));
        assert_eq!(server.events(None).unwrap().head.seq, 1);
    });
}

fn rows(store: &dyn Store) -> Vec<Row> {
    let mut rows = Vec::new();
    store
        .scan(&mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
    rows
}

#[test]
fn what_is_scanned_from_one_backend_is_loaded_into_any_other() {
    for (from, into) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let store = backends().swap_remove(from)(dirs[0].path(), Epoch([1; 16]));
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let _ = store.add_tenant(&tenant(2, "gone")).unwrap();
        for uid in [3, 4, 5] {
            let _ = store
                .add_membrane(&guard(1), NOW, &membrane(1, uid, &format!("m\u{e9} {uid}")), Limits::default())
                .unwrap();
        }
        let units = Units::join(pair(1, Some(3)), &[&Units::own(pair(1, Some(4)))]).unwrap();
        let units = units.re_exporting(LookupId([77; 32])).unwrap();
        for lookup in 100..160 {
            let grant = record(lookup, Kind::Grant, &units, Some(NOW + u64::from(lookup)));
            assert_eq!(store.add_record(&guard(3), NOW, &grant, Limits::default()).unwrap(), Added::Yes);
        }
        let _ = (revoke(&*store, 2), revoke(&*store, 5));
        let _ = store.revoke(None, Unit::Lookup(LookupId([101; 32])), NOW).unwrap();
        let before = rows(&*store);
        assert_eq!(before.len(), 1 + 6 + 2 + 3 + 65, "head, units, tenants, membranes, records");

        let open = backends().swap_remove(into);
        let other = open(dirs[1].path(), Epoch([2; 16]));
        // Half of it, and then an error: nothing.
        let mut broken =
            before.iter().take(9).cloned().map(Ok).chain([Err(registry::store::StoreError::Damaged("x"))]);
        assert!(other.load(&mut broken, Epoch([3; 16])).is_err());
        assert_eq!(rows(&*other).len(), 1);
        let mut all = before.iter().cloned().map(Ok);
        assert_eq!(other.load(&mut all, Epoch([3; 16])).unwrap(), Loaded::Yes(77));
        let after = rows(&*other);
        assert_eq!(after[1..], before[1..]);
        assert_eq!(after[0], Row::Head(Position { epoch: Epoch([3; 16]), seq: 3 }));
        let mut again = before.iter().cloned().map(Ok);
        assert_eq!(other.load(&mut again, Epoch([4; 16])).unwrap(), Loaded::NotEmpty);
        // The log knows what was revoked: opened again, nothing disagrees.
        assert!(matches!(revoke(&*other, 4), Revoked::Now(at) if at.seq == 4));
        drop(other);
        let other = open(dirs[1].path(), Epoch([9; 16]));
        assert_eq!(other.head().unwrap(), Position { epoch: Epoch([3; 16]), seq: 4 });
    }
}

#[test]
fn outer_layers_are_exchanged_where_they_are_what_they_were() {
    each(|open| {
        let store = open(1);
        let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
        let units = Units::own(pair(1, None));
        for lookup in [10, 11] {
            let _ = store
                .add_record(&guard(1), NOW, &record(lookup, Kind::Grant, &units, None), Limits::default())
                .unwrap();
        }
        let change = |lookup: u8, before: u8| Rewrapped {
            lookup: LookupId([lookup; 32]),
            before: vec![before; 600],
            after: vec![9; 700],
        };
        assert_eq!(store.rewrap(&[change(10, 10), change(11, 10), change(12, 12)]).unwrap(), 1);
        let records = store.records(Some(LookupId([1; 32])), 10).unwrap();
        assert_eq!(records.iter().map(|record| record.sealed.len()).collect::<Vec<_>>(), [700, 600]);
        assert_eq!(store.records(None, 2).unwrap().len(), 2);
    });
}

#[test]
fn an_older_copy_of_the_store_forgets_no_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("registry.db"), dir.path().join("copy.db"));
    let open =
        |epoch| SqliteStore::open(&live, &dir.path().join("revocations.log"), Epoch([epoch; 16])).unwrap();
    let store = open(1);
    let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
    for uid in [2, 3, 4] {
        let _ = store
            .add_membrane(&guard(1), NOW, &membrane(1, uid, &uid.to_string()), Limits::default())
            .unwrap();
    }
    let _ = revoke(&store, 2);
    rusqlite::Connection::open(&live).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let _ = revoke(&store, 3);
    drop(store);
    for file in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    std::fs::rename(&copy, &live).unwrap();
    let store = open(7);
    assert!(!is_alive(&store, 2) && !is_alive(&store, 3) && is_alive(&store, 4));
    let head = store.events(None).unwrap().head;
    assert_eq!(head, Position { epoch: Epoch([7; 16]), seq: 2 });
    let _ = revoke(&store, 4);
    drop(store);
    // In agreement again: no third epoch.
    assert_eq!(open(8).events(None).unwrap().head, Position { epoch: Epoch([7; 16]), seq: 3 });
    // The log lost: nothing lives again, and nobody trusts the old positions.
    std::fs::remove_file(dir.path().join("revocations.log")).unwrap();
    let store = open(9);
    assert_eq!(store.events(None).unwrap().head.epoch, Epoch([9; 16]));
    assert!(!is_alive(&store, 4));
    drop(store);
    // ... and the log was written anew from what the store knew.
    assert_eq!(std::fs::read_to_string(dir.path().join("revocations.log")).unwrap().lines().count(), 4);
}

#[test]
fn a_revocation_that_reached_the_log_alone_is_made_good() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("revocations.log");
    let open = |epoch| SqliteStore::open(&dir.path().join("registry.db"), &log, Epoch([epoch; 16])).unwrap();
    let store = open(1);
    let _ = store.add_tenant(&tenant(1, "acme")).unwrap();
    drop(store);
    let line = format!("{} 1 {}\n", Uid([1; 16]), Uid([1; 16]));
    std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(line.as_bytes()).unwrap();
    let store = open(5);
    assert!(!is_alive(&store, 1));
    assert_eq!(store.events(None).unwrap().head.epoch, Epoch([5; 16]));
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (db, log) = (dir.path().join("registry.db"), dir.path().join("revocations.log"));
    drop(SqliteStore::open(&db, &log, Epoch([1; 16])).unwrap());
    rusqlite::Connection::open(&db).unwrap().pragma_update(None, "user_version", 4).unwrap();
    let error = SqliteStore::open(&db, &log, Epoch([1; 16])).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("use the newer program"), "{error}");
}

#[test]
fn an_older_store_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (db, log) = (dir.path().join("registry.db"), dir.path().join("revocations.log"));
    let before = SqliteStore::open(&db, &log, Epoch([1; 16])).unwrap().head().unwrap();
    // As version 1 left it.
    let old =
        "DROP TABLE counted; DROP INDEX membranes_by_expiry; DROP TABLE watchers; PRAGMA user_version = 1;";
    rusqlite::Connection::open(&db).unwrap().execute_batch(old).unwrap();
    let store = SqliteStore::open(&db, &log, Epoch([2; 16])).unwrap();
    assert_eq!(store.head().unwrap(), before);
    assert!(store.watchers(0).unwrap().is_empty());
}
