//! Wrong designs, put between the parts as they are: each takes away what one defence looks at.

use crate::gateway::Gateway;
use crate::world::Sim;
use capability::{LookupId, Uid, Unit};
use registry::store::sqlite::SqliteStore;
use registry::store::{
    Added, Collected, Epoch, Event, Events, Found, Limits, Loaded, Membrane, NewMembrane, NewTenant, Page,
    Position, Record, Revoked, Rewrapped, Row, Rows, Store, StoreError, Tenant, Usage, Watching,
};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A lookup's answer is believed whatever was revoked since it was read: its `as_of` says the worker's own position.
    NoAsOf,
    /// A lease begins when the answer comes: the question seems to have been sent only then.
    LeaseFromReceipt,
    /// All epochs look the same, to workers and to the registry.
    IgnoredEpoch,
    /// Numbers of events are given out when a revocation begins, so that a later one can be committed first.
    PlainSequence,
}

const ONE_EPOCH: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A worker's question, on its way to the registry.
pub(crate) fn question(sim: &Sim, path: &str) -> String {
    match sim.plan.mutant {
        Some(Mutant::IgnoredEpoch) => path.replace(ONE_EPOCH, &sim.epoch()),
        _ => path.to_owned(),
    }
}

/// The registry's answer, on its way to a worker.
pub(crate) fn answer(sim: &Sim, gateway: &Gateway, path: &str, body: Vec<u8>) -> Vec<u8> {
    let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else { return body };
    let position = gateway.position.borrow();
    match sim.plan.mutant {
        Some(Mutant::NoAsOf) if path.starts_with("/v1/records/") && position.is_object() => {
            answer["as_of"] = position.clone();
        }
        Some(Mutant::IgnoredEpoch) => {
            for name in ["position", "as_of"] {
                if answer[name].is_object() {
                    answer[name]["epoch"] = ONE_EPOCH.into();
                }
            }
        }
        _ => return body,
    }
    serde_json::to_vec(&answer).unwrap()
}

/// A store whose events have numbers of a sequence beside it. Where a number is taken at the commit, it is as good as the store itself;
/// where one is taken before, it is the mutant.
pub(crate) struct Sequencer {
    store: Arc<SqliteStore>,
    sequence: Mutex<Sequence>,
}

#[derive(Default)]
struct Sequence {
    next: u64,
    /// Numbers that revocations took when they began.
    taken: HashMap<Unit, u64>,
    committed: Vec<Event>,
}

impl Sequence {
    fn take(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Sequencer {
    pub(crate) fn new(store: Arc<SqliteStore>) -> Sequencer {
        Sequencer { store, sequence: Mutex::default() }
    }

    /// A revocation of `unit` begins, and takes its number.
    pub(crate) fn begin(&self, unit: Unit) {
        let mut sequence = self.sequence.lock().unwrap();
        if !sequence.taken.contains_key(&unit) {
            let number = sequence.take();
            sequence.taken.insert(unit, number);
        }
    }

    fn head_of(sequence: &Sequence, position: Position) -> Position {
        Position { seq: sequence.committed.iter().map(|event| event.seq).max().unwrap_or(0), ..position }
    }
}

impl Store for Sequencer {
    fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), StoreError> {
        let sequence = self.sequence.lock().unwrap();
        let (found, position) = self.store.find(lookup)?;
        Ok((found, Self::head_of(&sequence, position)))
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }

    fn revoke(&self, guard: Option<LookupId>, unit: Unit, now: u64) -> Result<Revoked, StoreError> {
        let mut sequence = self.sequence.lock().unwrap();
        let revoked = self.store.revoke(guard, unit, now)?;
        let Revoked::Now(position) = revoked else { return Ok(revoked) };
        let seq = match sequence.taken.remove(&unit) {
            Some(number) => number,
            None => sequence.take(),
        };
        sequence.committed.push(Event { seq, unit });
        Ok(Revoked::Now(Position { seq, ..position }))
    }

    fn head(&self) -> Result<Position, StoreError> {
        let sequence = self.sequence.lock().unwrap();
        Ok(Self::head_of(&sequence, self.store.head()?))
    }

    fn events(&self, after: Option<Position>) -> Result<Events, StoreError> {
        let sequence = self.sequence.lock().unwrap();
        let head = Self::head_of(&sequence, self.store.head()?);
        let after = after.filter(|after| after.epoch == head.epoch && after.seq <= head.seq);
        let after = after.map_or(0, |after| after.seq);
        let mut events: Vec<Event> =
            sequence.committed.iter().filter(|event| event.seq > after).copied().collect();
        events.sort_by_key(|event| event.seq);
        Ok(Events { head, events })
    }

    fn add_tenant(&self, tenant: &NewTenant) -> Result<Added, StoreError> {
        self.store.add_tenant(tenant)
    }
    fn add_membrane(
        &self,
        guards: &[LookupId],
        now: u64,
        new: &NewMembrane,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        self.store.add_membrane(guards, now, new, limits)
    }
    fn add_record(
        &self,
        guards: &[LookupId],
        now: u64,
        record: &Record,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        self.store.add_record(guards, now, record, limits)
    }
    fn membranes(&self, tenant: Uid, now: u64, page: &Page) -> Result<Vec<Membrane>, StoreError> {
        self.store.membranes(tenant, now, page)
    }
    fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.store.tenants()
    }
    fn note_watchers(&self, watching: &[Watching], now: u64) -> Result<(), StoreError> {
        self.store.note_watchers(watching, now)
    }
    fn watchers(&self, now: u64) -> Result<Vec<Watching>, StoreError> {
        self.store.watchers(now)
    }
    fn collect(&self, after: Option<LookupId>, limit: usize, now: u64) -> Result<Collected, StoreError> {
        self.store.collect(after, limit, now)
    }
    fn usage(&self, tenant: Uid, now: u64) -> Result<Usage, StoreError> {
        self.store.usage(tenant, now)
    }
    fn has_lost_track(&self) -> bool {
        self.store.has_lost_track()
    }
    fn scan(&self, each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send)) -> Result<(), StoreError> {
        self.store.scan(each)
    }
    fn load(&self, rows: &mut Rows<'_>, fresh: Epoch) -> Result<Loaded, StoreError> {
        self.store.load(rows, fresh)
    }
    fn records(&self, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.records(after, limit)
    }
    fn rewrap(&self, records: &[Rewrapped]) -> Result<usize, StoreError> {
        self.store.rewrap(records)
    }
}
