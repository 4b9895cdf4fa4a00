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
use subtle::ConstantTimeEq;

/// What a bearer stands for.
#[derive(Debug, Clone)]
pub enum Cached {
    /// A grant, opened.
    Grant(Rc<Opened>),
    /// A control: only that it is one, since the registry judges it.
    Control,
}

/// What one entry costs beside its content: token, links, its share of the tables.
const ENTRY_OVERHEAD: usize = 512;

const NONE: usize = usize::MAX;

struct Entry {
    token: Token,
    cached: Cached,
    size: usize,
    newer: usize,
    older: usize,
}

/// See the module.
pub struct Cache {
    limits: CacheLimits,
    hasher: RandomState,
    table: HashTable<usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
    bytes: usize,
    dependants: HashMap<Unit, HashSet<usize, RandomState>, RandomState>,
}

impl Cache {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Cache {
        let hasher = RandomState::new();
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

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Cache::new(self.limits);
    }

    fn find(&self, bearer: &[u8]) -> Option<usize> {
        let same = |index: &usize| {
            let entry = self.entries.get(*index).and_then(Option::as_ref);
            entry.is_some_and(|entry| bool::from(entry.token.expose().as_bytes().ct_eq(bearer)))
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

fn hash_of(entries: &[Option<Entry>], hasher: &RandomState, index: usize) -> u64 {
    entries
        .get(index)
        .and_then(Option::as_ref)
        .map_or(0, |entry| hasher.hash_one(entry.token.expose().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capability::{Export, Exported, Uid, UnitPair, Units};
    use proptest::prelude::*;

    fn token(n: u8) -> Token {
        Token::mint([n; 64])
    }

    fn cached(n: u8, membrane: u8) -> Cached {
        let export = Export::parse(br#"{"uri": "http://example.com/"}"#).unwrap();
        let Exported::Grant(grant) = export.what else { panic!() };
        let units = Units::own(UnitPair { tenant: Uid([0; 16]), membrane: Some(Uid([membrane; 16])) });
        Cached::Grant(Rc::new(Opened::new(&token(n), *grant, units, None).unwrap()))
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
        let mut none = Cache::new(CacheLimits { entries: 100, bytes: one - 1 });
        none.insert(token(1), cached(1, 1));
        assert!(none.is_empty());
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
            }
        }
    }
}
