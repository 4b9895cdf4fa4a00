//! The worker's view of the revocation feed: where it stands, how long that is good for, and what was revoked lately.
//!
//! Records are immutable, so what is cached can only be wrong because a unit of it was revoked. The feed tells each
//! revocation with its position, without gaps; whatever breaks that order makes the worker forget everything.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::Unit;
use core::fmt;
use core::time::Duration;
use hashbrown::HashMap;
use serde::{Deserialize, Deserializer};
use std::collections::VecDeque;
use std::hash::RandomState;
use zeroize::Zeroizing;

/// Recent events kept to judge answers that were overtaken by one. An answer is at most a lookup's timeout old; at a thousand
/// revocations a second this is some four seconds.
const WINDOW: usize = 4_096;
/// Most events of one answer, as `docs/wire.md` has it.
const MAX_EVENTS: usize = 1_024;
/// The longest that the registry may hold an answer back (`docs/wire.md`).
const MAX_HOLD: Duration = Duration::from_secs(60);
/// How far wall clock and monotonic clock may drift apart within a lease before we take it for a jump.
const MAX_DRIFT: Duration = Duration::from_secs(1);

/// Both clocks at one moment, since their own beginnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since 1970.
    pub wall: Duration,
    /// Since anything; never steps, but may stand still while the machine sleeps.
    pub monotonic: Duration,
}

impl Now {
    /// Whether at most `limit` has passed since `then`. A clock that jumped, in either direction, counts as too long.
    pub fn is_within(&self, then: &Now, limit: Duration) -> bool {
        let passed = self.monotonic.checked_sub(then.monotonic).zip(self.wall.checked_sub(then.wall));
        passed.is_some_and(|(monotonic, wall)| {
            monotonic <= limit && wall <= limit && monotonic.abs_diff(wall) <= MAX_DRIFT
        })
    }
}

/// Which life of the store a position belongs to: new when it was restored or lost something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch([u8; 16]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&B64.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        // An epoch is spelt like a uid: 16 bytes.
        capability::Uid::deserialize(deserializer).map(|uid| Epoch(uid.0))
    }
}

/// A point in the order of all revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Position {
    /// Positions of different epochs cannot be compared.
    pub epoch: Epoch,
    /// Counts up by one for each event.
    pub seq: u64,
}

/// What is known of units at a position that an answer came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of them was revoked from then to the worker's position.
    Clean,
    /// Something was.
    Revoked,
    /// The position is of another epoch or another generation of the feed, or older than the window: ask again.
    Gap,
    /// The feed has not answered yet, so there is nothing to compare with.
    NoPosition,
}

/// What an answer of the feed means for what the worker holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// These units are dead: drop what depends on them.
    Revoked(Vec<Unit>),
    /// The order is broken or begun anew: drop everything.
    StartOver,
    /// Not an answer: the position and its lease stay as they are.
    Failed,
}

#[derive(Deserialize)]
struct Event {
    seq: u64,
    unit: Unit,
}

#[derive(Deserialize)]
struct Answer {
    position: Position,
    #[serde(default)]
    events: Vec<Event>,
    slot_key: String,
}

/// How often the feed began anew. What was known in one generation of the feed says nothing in the next: a revocation that was
/// heard, and acknowledged, before it began anew is no longer in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// The feed as one worker follows it.
pub struct Feed {
    staleness: Duration,
    watcher: [u8; 16],
    generation: Generation,
    position: Option<Position>,
    leased: Option<Now>,
    slot_key: Option<Zeroizing<[u8; 32]>>,
    /// The events in (floor, position].
    window: VecDeque<(u64, Unit)>,
    floor: u64,
    latest: HashMap<Unit, u64, RandomState>,
}

impl Feed {
    /// Begins without a position. `watcher` is random, one a worker.
    pub fn new(staleness: Duration, watcher: [u8; 16]) -> Feed {
        Feed {
            staleness,
            watcher,
            generation: Generation(0),
            position: None,
            leased: None,
            slot_key: None,
            window: VecDeque::new(),
            floor: 0,
            latest: HashMap::with_hasher(RandomState::new()),
        }
    }

    /// Whether everything that was revoked up to `staleness` ago is known: the last answer's question was sent within it.
    pub fn is_current(&self, now: &Now) -> bool {
        self.leased.is_some_and(|sent| now.is_within(&sent, self.staleness))
    }

    /// Which generation of the feed this is: an answer must be judged in the one in which it was asked for.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Where the worker stands.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// When the question was sent whose answer is the present lease.
    pub fn leased(&self) -> Option<Now> {
        self.leased
    }

    /// The bound of revocation.
    pub fn staleness(&self) -> Duration {
        self.staleness
    }

    /// The key that authenticates shared-data slots; none before the feed has answered.
    pub fn slot_key(&self) -> Option<&[u8; 32]> {
        self.slot_key.as_deref()
    }

    /// How long the registry shall hold an answer back: a third of the lease, so that one lost answer does not end it.
    pub fn hold(&self) -> Duration {
        (self.staleness / 3).min(MAX_HOLD)
    }

    /// The question's path. What was heard so far is acknowledged by it. Without a lease the answer is wanted at once.
    pub fn path(&self, now: &Now) -> String {
        let hold = if self.is_current(now) { self.hold() } else { Duration::ZERO };
        let (hold, reader) = (hold.as_millis(), self.reader(self.staleness));
        let after = match self.position {
            None => String::new(),
            Some(Position { epoch, seq }) => format!("epoch={epoch}&after={seq}&"),
        };
        format!("/v1/events?{after}hold={hold}&{reader}")
    }

    /// Who asks, and for how long the answer may be acted on: the registry waits for that to run out before it says that a
    /// revocation has reached everybody. A time that is no whole number of seconds is said to be longer.
    pub fn reader(&self, lease: Duration) -> String {
        format!("watcher={}&lease={}", B64.encode(self.watcher), lease.as_millis().div_ceil(1_000))
    }

    /// What is known of `units` since `as_of`, which was asked for in `generation`.
    pub fn verdict(
        &self,
        units: impl Iterator<Item = Unit>,
        as_of: &Position,
        generation: Generation,
    ) -> Verdict {
        if generation != self.generation {
            return Verdict::Gap;
        }
        let Some(position) = self.position else { return Verdict::NoPosition };
        if as_of.epoch != position.epoch || as_of.seq < self.floor {
            return Verdict::Gap;
        }
        if as_of.seq >= position.seq {
            return Verdict::Clean;
        }
        let revoked = |unit| self.latest.get(&unit).is_some_and(|seq| *seq > as_of.seq);
        if units.into_iter().any(revoked) { Verdict::Revoked } else { Verdict::Clean }
    }

    /// Takes an answer to the question that was sent at `sent` from the present position.
    pub fn on_answer(&mut self, sent: Now, status: u16, body: &[u8]) -> Change {
        let answer: Answer = match (status, serde_json::from_slice(body)) {
            (200 | 410, Ok(answer)) => answer,
            _ => return Change::Failed,
        };
        let mut slot_key = Zeroizing::new([0u8; 32]);
        if !matches!(B64.decode_slice(&answer.slot_key, slot_key.as_mut()), Ok(32)) {
            return Change::Failed;
        }
        let Some(position) = self.position.filter(|_| status == 200) else {
            return self.start_over(answer.position, sent, slot_key);
        };
        let count = answer.events.len();
        let contiguous = answer
            .events
            .iter()
            .zip(1u64..)
            .all(|(event, offset)| Some(event.seq) == position.seq.checked_add(offset));
        let arrives = answer.position.seq.checked_sub(position.seq) == u64::try_from(count).ok();
        if answer.position.epoch != position.epoch || !contiguous || !arrives || count > MAX_EVENTS {
            // A registry that skips or repeats cannot be followed: begin again, and hold nothing meanwhile.
            self.begin_anew();
            return Change::StartOver;
        }
        let mut revoked = Vec::with_capacity(count);
        for Event { seq, unit } in answer.events {
            self.window.push_back((seq, unit));
            self.latest.insert(unit, seq);
            revoked.push(unit);
        }
        while self.window.len() > WINDOW {
            if let Some((seq, unit)) = self.window.pop_front() {
                self.floor = seq;
                if self.latest.get(&unit) == Some(&seq) {
                    self.latest.remove(&unit);
                }
            }
        }
        self.position = Some(answer.position);
        self.leased = Some(sent);
        self.slot_key = Some(slot_key);
        Change::Revoked(revoked)
    }

    fn begin_anew(&mut self) {
        let generation = Generation(self.generation.0 + 1);
        *self = Feed::new(self.staleness, self.watcher);
        self.generation = generation;
    }

    fn start_over(&mut self, position: Position, sent: Now, slot_key: Zeroizing<[u8; 32]>) -> Change {
        self.begin_anew();
        self.floor = position.seq;
        self.position = Some(position);
        self.leased = Some(sent);
        self.slot_key = Some(slot_key);
        Change::StartOver
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use capability::Uid;

    pub(crate) fn at(seconds: u64) -> Now {
        Now { wall: Duration::from_secs(1_700_000_000 + seconds), monotonic: Duration::from_secs(seconds) }
    }

    fn epoch(n: u8) -> String {
        Uid([n; 16]).to_string()
    }

    pub(crate) fn answer(epoch_byte: u8, seq: u64, events: &[(u64, u8)]) -> Vec<u8> {
        let events: Vec<_> = events
            .iter()
            .map(|(seq, unit)| serde_json::json!({"seq": seq, "unit": Uid([*unit; 16])}))
            .collect();
        serde_json::json!({"position": {"epoch": epoch(epoch_byte), "seq": seq}, "events": events, "slot_key": B64.encode([9; 32])})
            .to_string()
            .into_bytes()
    }

    fn position(epoch: u8, seq: u64) -> Position {
        Position { epoch: Epoch([epoch; 16]), seq }
    }

    fn unit(n: u8) -> Unit {
        Unit::Uid(Uid([n; 16]))
    }

    fn begun() -> Feed {
        let mut feed = Feed::new(Duration::from_secs(60), [1; 16]);
        assert_eq!(feed.on_answer(at(0), 200, &answer(1, 10, &[])), Change::StartOver);
        feed
    }

    #[test]
    fn a_lease_counts_from_when_the_question_was_sent() {
        let mut feed = Feed::new(Duration::from_secs(60), [1; 16]);
        assert!(!feed.is_current(&at(0)));
        feed.on_answer(at(100), 200, &answer(1, 10, &[]));
        assert!(feed.is_current(&at(160)));
        assert!(!feed.is_current(&at(161)));
        assert!(!feed.is_current(&at(99)), "a clock that went back counts as expired");
        let jumped = Now { wall: at(130).wall, monotonic: at(105).monotonic };
        assert!(!feed.is_current(&jumped), "a machine that slept counts as expired");
        assert_eq!(feed.on_answer(at(150), 503, b""), Change::Failed);
        assert!(feed.is_current(&at(160)) && !feed.is_current(&at(161)));
    }

    #[test]
    fn revocations_after_an_answers_position_are_seen() {
        let mut feed = begun();
        assert_eq!(
            feed.on_answer(at(1), 200, &answer(1, 12, &[(11, 7), (12, 8)])),
            Change::Revoked(vec![unit(7), unit(8)])
        );
        let verdict =
            |units: &[u8], as_of| feed.verdict(units.iter().map(|n| unit(*n)), &as_of, feed.generation());
        assert_eq!(verdict(&[1, 7], position(1, 10)), Verdict::Revoked);
        assert_eq!(
            verdict(&[1, 7], position(1, 11)),
            Verdict::Clean,
            "it lived after that: another use of the unit's name"
        );
        assert_eq!(verdict(&[8], position(1, 11)), Verdict::Revoked);
        assert_eq!(verdict(&[1], position(1, 10)), Verdict::Clean);
        assert_eq!(verdict(&[1], position(1, 99)), Verdict::Clean);
        assert_eq!(verdict(&[1], position(1, 9)), Verdict::Gap);
        assert_eq!(verdict(&[1], position(2, 12)), Verdict::Gap);
        assert_eq!(
            Feed::new(Duration::from_secs(1), [0; 16]).verdict(
                [].into_iter(),
                &position(1, 1),
                Generation(0)
            ),
            Verdict::NoPosition
        );
    }

    #[test]
    fn whatever_breaks_the_order_starts_over() {
        for (name, status, body) in [
            ("a gap", 200, answer(1, 12, &[(12, 7)])),
            ("a repetition", 200, answer(1, 11, &[(10, 7)])),
            ("a position without its events", 200, answer(1, 11, &[])),
            ("another epoch", 200, answer(2, 11, &[(11, 7)])),
            ("a position behind ours", 200, answer(1, 9, &[])),
            ("gone", 410, answer(2, 3, &[])),
        ] {
            let mut feed = begun();
            assert_eq!(feed.on_answer(at(1), status, &body), Change::StartOver, "{name}");
            if status == 200 {
                assert!(!feed.is_current(&at(1)), "{name}");
            } else {
                assert_eq!(feed.position(), Some(position(2, 3)));
                assert!(feed.is_current(&at(1)));
            }
        }
        for body in ["", "{}", "[]", r#"{"position":{"epoch":"x","seq":1},"slot_key":""}"#] {
            assert_eq!(begun().on_answer(at(1), 200, body.as_bytes()), Change::Failed);
        }
    }

    #[test]
    fn the_window_is_bounded_and_says_so() {
        let mut feed = begun();
        let mut seq = 10;
        for _ in 0..(WINDOW / 1_000 + 2) {
            let events: Vec<_> = (1..=1_000u64).map(|n| (seq + n, (n % 200) as u8)).collect();
            seq += 1_000;
            assert!(matches!(feed.on_answer(at(1), 200, &answer(1, seq, &events)), Change::Revoked(_)));
        }
        assert_eq!(feed.window.len(), WINDOW);
        assert_eq!(feed.latest.len(), 200);
        // What was revoked once is forgotten once it has left the window.
        feed.on_answer(at(1), 200, &answer(1, seq + 1, &[(seq + 1, 250)]));
        assert_eq!(feed.latest.len(), 201);
        for _ in 0..=WINDOW / 1_000 {
            let events: Vec<_> = (2..=1_001u64).map(|n| (seq + n, 1)).collect();
            seq += 1_000;
            feed.on_answer(at(1), 200, &answer(1, seq + 1, &events));
        }
        assert_eq!(feed.latest.len(), 1);
        seq += 1;
        assert_eq!(feed.verdict([unit(250)].into_iter(), &position(1, 10), feed.generation()), Verdict::Gap);
        assert_eq!(
            feed.verdict([unit(250)].into_iter(), &position(1, seq - 4_000), feed.generation()),
            Verdict::Clean
        );
    }

    #[test]
    fn an_answer_of_more_events_than_the_protocol_has_starts_over() {
        for (count, follows) in [(MAX_EVENTS as u64, true), (MAX_EVENTS as u64 + 1, false)] {
            let mut feed = begun();
            let events: Vec<_> = (1..=count).map(|n| (10 + n, 7)).collect();
            let change = feed.on_answer(at(1), 200, &answer(1, 10 + count, &events));
            assert_eq!(matches!(change, Change::Revoked(_)), follows, "{count}");
            assert_eq!(feed.is_current(&at(1)), follows);
        }
    }

    #[test]
    fn a_unit_that_is_revoked_again_stays_so_when_the_first_time_leaves_the_window() {
        let mut feed = begun();
        // Unit 7 first, and once more when half of the window has come.
        let again = 11 + WINDOW as u64 / 2;
        for seq in 11..=11 + WINDOW as u64 {
            let unit = if seq == 11 || seq == again { 7 } else { 8 };
            feed.on_answer(at(1), 200, &answer(1, seq, &[(seq, unit)]));
        }
        assert_eq!(feed.floor, 11);
        let verdict = |as_of| feed.verdict([unit(7)].into_iter(), &position(1, as_of), feed.generation());
        assert_eq!(verdict(11), Verdict::Revoked);
        assert_eq!(verdict(again - 1), Verdict::Revoked);
        assert_eq!(verdict(again), Verdict::Clean);
    }

    #[test]
    fn the_question_acknowledges_what_was_heard() {
        let feed = begun();
        let path = feed.path(&at(1));
        assert!(
            path.starts_with(&format!("/v1/events?epoch={}&after=10&hold=20000&watcher=", epoch(1))),
            "{path}"
        );
        assert!(path.ends_with("&lease=60"));
        assert!(feed.path(&at(100)).contains("&hold=0&"), "without a lease the answer is wanted at once");
    }
}
