//! The feed alone, at size: many writers over two stores on the same files, many watchers that flap between two feeds.
//!
//! Time is the real one here and the schedule the machine's own, so that a failure is not repeated by a seed; what is checked holds for
//! every schedule. `MEMBRANE_FEED_EVENTS` says how many revocations.

use crate::random::Dice;
use crate::replica::Files;
use capability::{Uid, Unit};
use registry::feed::{Answer, EVENTS_PER_ANSWER, Feed};
use registry::metrics::Metrics;
use registry::store::sqlite::SqliteStore;
use registry::store::{EVENTS_KEPT, Epoch, Event, Loaded, Position, Revoked, Row, Store, StoreError};
use registry::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Revocations in `make test`; `make fuzz-long` asks for a million.
const EVENTS: u64 = 20_000;
const WRITERS: u64 = 16;
const WATCHERS: u64 = 64;
/// The first of them never leave.
const STEADY: u64 = 8;
const EPOCH: Epoch = Epoch([5; 16]);

fn unit(number: u64) -> Unit {
    let mut uid = [0xa5; 16];
    uid[..8].copy_from_slice(&number.to_be_bytes());
    Unit::Uid(Uid(uid))
}

fn number(unit: Unit) -> u64 {
    let Unit::Uid(uid) = unit else { panic!("{unit:?} was never revoked") };
    let number = u64::from_be_bytes(uid.0[..8].try_into().unwrap());
    assert_eq!(unit, self::unit(number), "a unit that was never revoked");
    number
}

/// What anybody was told, by place; and what has been answered to those who revoke.
struct Told {
    /// For each place one more than the number of the unit; 0 where nobody was told yet.
    units: Vec<AtomicU64>,
    /// The last place that a `revoke` has named in its answer.
    acknowledged: AtomicU64,
    finished: AtomicBool,
}

impl Told {
    fn note(&self, event: &Event) {
        let mine = number(event.unit) + 1;
        let place = &self.units[usize::try_from(event.seq - 1).unwrap()];
        let before = place.compare_exchange(0, mine, SeqCst, SeqCst);
        assert!(
            before.is_ok() || before == Err(mine),
            "two watchers were told different things of {}",
            event.seq
        );
    }

    fn acknowledge(&self, position: Position, number: u64) {
        assert_eq!(position.epoch, EPOCH);
        let told = self.units[usize::try_from(position.seq - 1).unwrap()].load(SeqCst);
        assert!(told == 0 || told == number + 1, "the feed told another unit at {}", position.seq);
        self.acknowledged.fetch_max(position.seq, SeqCst);
    }
}

/// What the watchers went through.
#[derive(Default, Debug)]
struct Seen {
    events: AtomicU64,
    start_overs: AtomicU64,
    abandoned: AtomicU64,
    went_back: AtomicU64,
    switched: AtomicU64,
}

/// Revokes every sixteenth unit, through either store; what came back must be in its own order.
fn write(stores: &[Arc<SqliteStore>; 2], told: &Told, writer: u64, events: u64) -> Vec<(u64, u64)> {
    let dice = Dice::new(writer);
    let mut places = Vec::new();
    for number in (writer..events).step_by(usize::try_from(WRITERS).unwrap()) {
        let store = &stores[usize::from(dice.percent(30))];
        match store.revoke(None, unit(number), 1).unwrap() {
            Revoked::Now(position) => {
                told.acknowledge(position, number);
                let last = places.last().map_or(0, |(seq, _)| *seq);
                assert!(position.seq > last, "{} after {last}", position.seq);
                places.push((position.seq, number));
            }
            other => panic!("{other:?}"),
        }
        if dice.percent(1) {
            // Once more, through the other store, which changes nothing.
            let other = &stores[usize::from(!dice.percent(30))];
            assert_eq!(other.revoke(None, unit(number), 2).unwrap(), Revoked::Already);
        }
    }
    places
}

async fn watch(feeds: [Feed; 2], told: Arc<Told>, seen: Arc<Seen>, watcher: u64, events: u64) -> u64 {
    let dice = Dice::new(1_000 + watcher);
    let steady = watcher < STEADY;
    let mut which = usize::from(watcher % 2 == 1);
    let mut at: Option<Position> = None;
    if steady {
        // From the beginning, where nothing has been revoked yet.
        at = Some(Position { epoch: EPOCH, seq: 0 });
    }
    loop {
        if !steady {
            match dice.between(0, 100) {
                0..3 => {
                    seen.switched.fetch_add(1, SeqCst);
                    which = 1 - which;
                }
                3..5 => tokio::time::sleep(dice.milliseconds(1, 300)).await,
                5..6 => at = None,
                6..8 => {
                    if let Some(position) = &mut at {
                        seen.went_back.fetch_add(1, SeqCst);
                        position.seq = position.seq.saturating_sub(dice.between(0, 2 * EVENTS_KEPT));
                    }
                }
                _ => {}
            }
        }
        let acknowledged = told.acknowledged.load(SeqCst);
        let finished = told.finished.load(SeqCst);
        let question = feeds[which].ask(at, Duration::from_millis(200));
        let answer = if !steady && dice.percent(5) {
            match tokio::time::timeout(dice.milliseconds(0, 5), question).await {
                Ok(answer) => answer,
                Err(_) => {
                    seen.abandoned.fetch_add(1, SeqCst);
                    continue;
                }
            }
        } else {
            question.await
        };
        // The store is busy with writers; whoever asks, asks again.
        let Ok(answer) = answer else { continue };
        match answer {
            Answer::Events { position, events } => {
                let mut place = at.map_or(position.seq, |at| at.seq);
                for event in &events {
                    place += 1;
                    assert_eq!(event.seq, place, "the feed skipped, or turned back");
                    told.note(event);
                }
                assert_eq!((position.epoch, position.seq), (EPOCH, place));
                // What had been answered before the question was sent is in the answer, unless there is more to fetch.
                assert!(
                    events.len() == EVENTS_PER_ANSWER || position.seq >= acknowledged,
                    "at {} though {acknowledged} had been acknowledged",
                    position.seq
                );
                seen.events.fetch_add(events.len() as u64, SeqCst);
                at = Some(position);
            }
            Answer::StartOver { position } => {
                let after = at.expect("who asks for the first time has nothing to drop");
                assert!(
                    after.seq + EVENTS_KEPT < position.seq,
                    "start over from {} to {}: what lies between is kept",
                    after.seq,
                    position.seq
                );
                assert!(position.seq >= acknowledged);
                seen.start_overs.fetch_add(1, SeqCst);
                at = Some(position);
            }
        }
        if finished && at.is_some_and(|at| at.seq == events) {
            return watcher;
        }
    }
}

#[test]
fn nothing_is_skipped_or_reordered_at_size() {
    let events = std::env::var("MEMBRANE_FEED_EVENTS").map_or(EVENTS, |text| text.parse().unwrap());
    let files = Files::new();
    let open = || Arc::new(SqliteStore::open(&files.database(), &files.log(), EPOCH).unwrap());
    let first = open();
    let head = [Ok(Row::Head(Position { epoch: EPOCH, seq: 0 }))].into_iter();
    let units =
        (0..events).map(|number| Ok::<_, StoreError>(Row::Unit { unit: unit(number), revoked_at: None }));
    assert!(matches!(first.load(&mut head.chain(units), EPOCH).unwrap(), Loaded::Yes(_)));
    let stores = [first, open()];
    let told = Arc::new(Told {
        units: (0..events).map(|_| AtomicU64::new(0)).collect(),
        acknowledged: AtomicU64::new(0),
        finished: AtomicBool::new(false),
    });
    let seen = Arc::<Seen>::default();

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let watchers = {
        let _inside = runtime.enter();
        let feeds = stores
            .clone()
            .map(|store| Feed::start(store, Arc::<Workers>::default(), Arc::<Metrics>::default()).unwrap());
        let watcher = |name| watch(feeds.clone(), Arc::clone(&told), Arc::clone(&seen), name, events);
        (0..WATCHERS).map(|name| runtime.spawn(watcher(name))).collect::<Vec<_>>()
    };
    let mut places: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let (stores, told) = (&stores, &*told);
        let spawn = |writer| scope.spawn(move || write(stores, told, writer, events));
        let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    told.finished.store(true, SeqCst);
    for watcher in watchers {
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), watcher).await })
            .unwrap()
            .unwrap();
    }
    // Each place once, and what was told of it is what was answered to whoever revoked it.
    places.sort_unstable();
    assert_eq!(places.len() as u64, events);
    for (index, (seq, number)) in places.iter().enumerate() {
        assert_eq!(*seq, index as u64 + 1, "a place was given twice, or none");
        assert_eq!(told.units[index].load(SeqCst), number + 1, "{seq} was told to nobody, or as another");
    }
    println!("{events} revocations by {WRITERS} writers, {WATCHERS} watchers: {seen:?}");
}
