//! The worker's own cache: bearer → what it stands for, ready to be used.
//!
//! Bounded in entries and bytes; the least recently used go first. Dropping what depends on a unit costs in proportion to
//! what is dropped. Bearers are found by a keyed hash (the key is the worker's own, so that nobody can aim at a bucket) and
//! compared in constant time.

use crate::config::CacheLimits;
use crate::opened::Opened;
use capability::{Token, Unit};
use hashbrown::{HashMap, HashSet, HashTable};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

/// What a bearer stands for.
#[derive(Debug, Clone)]
pub enum Cached {
    /// A grant, opened.
    Grant(Rc<Opened>),
    /// A control: only that it is one, since the registry judges it.
    Control,
}

/// What one entry costs beside its content: token, links, its share of the table.
const ENTRY_OVERHEAD: usize = 384;

const NONE: usize = usize::MAX;

struct Entry {
    token: Token,
    cached: Cached,
    size: usize,
    newer: usize,
    older: usize,
}

/// What depends on a unit, by place in [`Cache::entries`].
type Dependants<S> = HashSet<usize, S>;

/// See the module.
pub struct Cache<S = RandomState> {
    limits: CacheLimits,
    hasher: S,
    table: HashTable<usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
    bytes: usize,
    dependants: HashMap<Unit, Dependants<S>, S>,
}

impl Cache {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Cache {
        Cache::with_hasher(limits, RandomState::new())
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Cache::new(self.limits);
    }
}

impl<S: BuildHasher + Clone> Cache<S> {
    fn with_hasher(limits: CacheLimits, hasher: S) -> Cache<S> {
        Cache {
            limits,
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            dependants: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes held, as counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `bearer` stands for, if it is held; it is then the most recently used.
    pub fn get(&mut self, bearer: &[u8]) -> Option<Cached> {
        let index = self.find(bearer)?;
        if index != self.newest {
            self.unlink(index);
            self.link_newest(index);
        }
        self.entries.get(index)?.as_ref().map(|entry| entry.cached.clone())
    }

    /// Holds what `token` stands for, in place of what was held for it. What is larger than the whole cache is not held.
    pub fn insert(&mut self, token: Token, cached: Cached) {
        if let Some(index) = self.find(token.expose().as_bytes()) {
            self.remove(index);
        }
        let size = ENTRY_OVERHEAD
            + match &cached {
                Cached::Grant(opened) => opened.size(),
                Cached::Control => 0,
            };
        if size > self.limits.bytes {
            return;
        }
        while self.oldest != NONE
            && (self.len() >= self.limits.entries || self.bytes + size > self.limits.bytes)
        {
            self.remove(self.oldest);
        }
        let hash = self.hasher.hash_one(token.expose().as_bytes());
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        if let Cached::Grant(opened) = &cached {
            for unit in opened.units() {
                self.dependants
                    .entry(unit)
                    .or_insert_with(|| HashSet::with_hasher(self.hasher.clone()))
                    .insert(index);
            }
        }
        self.bytes += size;
        if let Some(slot) = self.entries.get_mut(index) {
            *slot = Some(Entry { token, cached, size, newer: NONE, older: NONE });
        }
        self.link_newest(index);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.table.insert_unique(hash, index, |index| hash_of(entries, hasher, *index));
    }

    /// Drops what `bearer` stands for.
    pub fn forget(&mut self, bearer: &[u8]) {
        if let Some(index) = self.find(bearer) {
            self.remove(index);
        }
    }

    /// Drops everything that depends on `unit`.
    pub fn revoke(&mut self, unit: Unit) {
        for index in self.dependants.remove(&unit).into_iter().flatten() {
            self.remove(index);
        }
    }

    fn find(&self, bearer: &[u8]) -> Option<usize> {
        let same = |index: &usize| {
            let entry = self.entries.get(*index).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.token.is_spelled(bearer))
        };
        self.table.find(self.hasher.hash_one(bearer), same).copied()
    }

    fn remove(&mut self, index: usize) {
        self.unlink(index);
        let hash = hash_of(&self.entries, &self.hasher, index);
        if let Ok(found) = self.table.find_entry(hash, |other| *other == index) {
            found.remove();
        }
        let Some(entry) = self.entries.get_mut(index).and_then(Option::take) else { return };
        self.free.push(index);
        self.bytes -= entry.size;
        if let Cached::Grant(opened) = &entry.cached {
            for unit in opened.units() {
                if let Some(set) = self.dependants.get_mut(&unit) {
                    set.remove(&index);
                    if set.is_empty() {
                        self.dependants.remove(&unit);
                    } else {
                        // Dropping a set walks all of its table, which is as large as it ever was. With room for as many again, so
                        // that it is made anew only when its number has halved or doubled since.
                        set.shrink_to(set.len() * 2);
                    }
                }
            }
        }
    }

    fn entry(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index).and_then(Option::as_mut)
    }

    fn unlink(&mut self, index: usize) {
        let Some((newer, older)) = self.entry(index).map(|entry| (entry.newer, entry.older)) else { return };
        match self.entry(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entry(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, index: usize) {
        let newest = self.newest;
        if let Some(entry) = self.entry(index) {
            entry.newer = NONE;
            entry.older = newest;
        }
        match self.entry(newest) {
            Some(entry) => entry.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }
}

fn hash_of(entries: &[Option<Entry>], hasher: &impl BuildHasher, index: usize) -> u64 {
    entries
        .get(index)
        .and_then(Option::as_ref)
        .map_or(0, |entry| hasher.hash_one(entry.token.expose().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opened::tests::opened;
    use capability::{Export, Exported, Uid, UnitPair, Units};
    use proptest::prelude::*;

    fn token(n: u8) -> Token {
        Token::mint([n; 64])
    }

    fn cached(n: u8, membrane: u8) -> Cached {
        let export = Export::parse(br#"{"uri": "http://example.com/"}"#).unwrap();
        let Exported::Grant(grant) = export.what else { panic!() };
        let units = Units::own(UnitPair { tenant: Uid([0; 16]), membrane: Some(Uid([membrane; 16])) });
        Cached::Grant(Rc::new(opened(n, *grant, &units, 0).unwrap()))
    }

    fn holds(cache: &mut Cache, n: u8) -> bool {
        cache.get(token(n).expose().as_bytes()).is_some()
    }

    fn limits(entries: usize) -> CacheLimits {
        CacheLimits { entries, bytes: 1 << 30 }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(limits(2));
        cache.insert(token(1), cached(1, 1));
        cache.insert(token(2), cached(2, 1));
        assert!(holds(&mut cache, 1));
        cache.insert(token(3), cached(3, 1));
        assert!(holds(&mut cache, 1) && !holds(&mut cache, 2) && holds(&mut cache, 3));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let one = match cached(1, 1) {
            Cached::Grant(opened) => opened.size() + ENTRY_OVERHEAD,
            Cached::Control => panic!(),
        };
        let mut cache = Cache::new(CacheLimits { entries: 100, bytes: 3 * one });
        for n in 0..10 {
            cache.insert(token(n), cached(n, 1));
        }
        assert_eq!((cache.len(), cache.bytes()), (3, 3 * one));
        assert!(!cache.is_empty());
        for (bytes, fits) in [(one - 1, false), (one, true)] {
            let mut cache = Cache::new(CacheLimits { entries: 100, bytes });
            cache.insert(token(1), cached(1, 1));
            assert_eq!((cache.is_empty(), holds(&mut cache, 1)), (!fits, fits));
        }
    }

    #[test]
    fn a_unit_takes_all_that_depends_on_it() {
        let mut cache = Cache::new(limits(100));
        for n in 0..10 {
            cache.insert(token(n), cached(n, n % 2));
        }
        cache.insert(token(20), Cached::Control);
        cache.revoke(Unit::Uid(Uid([1; 16])));
        assert_eq!((0..10).map(|n| holds(&mut cache, n)).collect::<Vec<_>>(), [true, false].repeat(5));
        cache.revoke(Unit::Lookup(token(0).lookup_id()));
        assert!(!holds(&mut cache, 0) && holds(&mut cache, 2));
        cache.revoke(Unit::Uid(Uid([0; 16])));
        assert_eq!(cache.len(), 1, "the tenant's death leaves the control alone");
        assert!(cache.dependants.is_empty());
    }

    /// Counts what is hashed: every step in a table hashes what it looks for or moves.
    #[derive(Clone, Default)]
    struct Counting(RandomState, Rc<std::cell::Cell<usize>>);

    impl BuildHasher for Counting {
        type Hasher = <RandomState as BuildHasher>::Hasher;

        fn build_hasher(&self) -> Self::Hasher {
            self.1.set(self.1.get() + 1);
            self.0.build_hasher()
        }
    }

    fn many_token(n: u32) -> Token {
        let mut random = [0; 64];
        random[..4].copy_from_slice(&n.to_be_bytes());
        Token::mint(random)
    }

    /// A cache of `size` grants of one tenant, ten of them of membrane 2 and the rest of membrane 1.
    fn filled(size: u32) -> (Cache<Counting>, Rc<std::cell::Cell<usize>>) {
        let hasher = Counting::default();
        let steps = Rc::clone(&hasher.1);
        let mut cache = Cache::with_hasher(limits(1_000_000), hasher);
        let (many, few) = (cached(1, 1), cached(2, 2));
        for n in 0..size {
            let is_of_few = n % (size / 10) == 0;
            cache.insert(many_token(n), if is_of_few { few.clone() } else { many.clone() });
        }
        (cache, steps)
    }

    #[test]
    fn dropping_costs_in_proportion_to_what_is_dropped() {
        let work = |size: u32| {
            let (mut cache, steps) = filled(size);
            steps.set(0);
            cache.revoke(Unit::Uid(Uid([2; 16])));
            assert_eq!(cache.len(), size as usize - 10);
            let revoked = steps.replace(0);
            // What nothing depends on.
            cache.revoke(Unit::Uid(Uid([9; 16])));
            let nothing = steps.replace(0);
            cache.revoke(Unit::Uid(Uid([0; 16])));
            assert!(cache.is_empty() && cache.dependants.is_empty());
            (revoked, nothing, steps.get())
        };
        let (small, large) = (work(100), work(100_000));
        // Ten entries, a handful of steps for each. A table that shrinks on the way hashes its rest once.
        assert!(small.0 < 400 && large.0 < 400, "{small:?} {large:?}");
        assert_eq!((small.1, large.1), (1, 1));
        let per_entry = |(_, _, all): (usize, usize, usize), size: usize| all as f64 / (size - 10) as f64;
        let (small, large) = (per_entry(small, 100), per_entry(large, 100_000));
        assert!(large < 1.5 * small, "{small} {large}");
    }

    #[test]
    fn a_unit_that_was_large_is_not_walked_as_if_it_still_were() {
        let (mut cache, _) = filled(100_000);
        let tenant = Unit::Uid(Uid([0; 16]));
        let before = cache.dependants[&tenant].capacity();
        for n in 1..100_000 {
            cache.forget(many_token(n).expose().as_bytes());
        }
        assert_eq!(cache.len(), 1);
        let after = cache.dependants[&tenant].capacity();
        assert!(before >= 100_000 && after < 64, "{before} {after}");
    }

    #[test]
    fn a_unit_whose_number_goes_up_and_down_is_not_hashed_anew_each_time() {
        let (mut cache, steps) = filled(1_000);
        let many = cached(1, 1);
        for n in (200..1_000).rev() {
            cache.forget(many_token(n).expose().as_bytes());
            steps.set(0);
            for _ in 0..5 {
                (n..n + 4).for_each(|n| cache.insert(many_token(n), many.clone()));
                (n..n + 4).for_each(|n| cache.forget(many_token(n).expose().as_bytes()));
            }
            // Twenty come and go, a dozen steps for each; that a table is made smaller, or larger, is worth once all that it holds.
            assert!(steps.get() < 20 * 12 + 2 * n as usize, "{n}: {}", steps.get());
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u8, u8),
        Get(u8),
        Forget(u8),
        Revoke(u8),
    }

    proptest! {
        // Against a list in the order of use.
        #[test]
        fn behaves_like_a_list(ops in proptest::collection::vec(prop_oneof![
            (0..12u8, 1..4u8).prop_map(|(n, m)| Op::Insert(n, m)), (0..12u8).prop_map(Op::Get), (0..12u8).prop_map(Op::Forget), (1..4u8).prop_map(Op::Revoke),
        ], 0..200)) {
            let mut cache = Cache::new(limits(5));
            let mut model: Vec<(u8, u8)> = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(n, m) => {
                        cache.insert(token(n), cached(n, m));
                        model.retain(|(other, _)| *other != n);
                        if model.len() == 5 { model.remove(0); }
                        model.push((n, m));
                    }
                    Op::Get(n) => {
                        prop_assert_eq!(holds(&mut cache, n), model.iter().any(|(other, _)| *other == n));
                        if let Some(at) = model.iter().position(|(other, _)| *other == n) {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                    }
                    Op::Forget(n) => { cache.forget(token(n).expose().as_bytes()); model.retain(|(other, _)| *other != n); }
                    Op::Revoke(m) => { cache.revoke(Unit::Uid(Uid([m; 16]))); model.retain(|(_, other)| *other != m); }
                }
                prop_assert_eq!(cache.len(), model.len());
                // In order, and counted to the byte.
                let mut at = cache.newest;
                for (n, _) in model.iter().rev() {
                    let entry = cache.entries[at].as_ref().unwrap();
                    let expected = token(*n);
                    prop_assert_eq!(entry.token.expose(), expected.expose());
                    at = entry.older;
                }
                prop_assert_eq!(at, NONE);
                let counted: usize = cache.entries.iter().flatten().map(|entry| entry.size).sum();
                prop_assert_eq!(cache.bytes(), counted);
                prop_assert!(cache.entries.len() <= 5);
            }
        }

        /// Whatever comes, neither bound is broken, and what has just come is there.
        #[test]
        fn both_bounds_hold(entries in 1..20_usize, parts in 1..20_usize, inserts in proptest::collection::vec((0..30_u8, 0..4_u8, 0..3_u8), 1..60)) {
            let unit = ENTRY_OVERHEAD * 10;
            let mut cache = Cache::new(CacheLimits { entries, bytes: parts * unit });
            for (n, membrane, kind) in inserts {
                let what = if kind == 0 { Cached::Control } else { cached(n, membrane) };
                cache.insert(token(n), what);
                prop_assert!(cache.len() <= entries && cache.bytes() <= parts * unit);
                prop_assert!(cache.entries.len() <= entries);
                prop_assert!(holds(&mut cache, n));
            }
        }
    }
}
