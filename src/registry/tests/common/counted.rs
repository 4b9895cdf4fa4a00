//! A store that counts how often it is read.

use capability::{LookupId, Uid, Unit};
use registry::registry::Limits;
use registry::store::{
    Added, Collected, Epoch, Events, Found, Loaded, Membrane, NewMembrane, NewTenant, Page, Position, Record,
    Revoked, Rewrapped, Row, Rows, Store, StoreError, Tenant, Usage, Watching,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) struct Counted {
    pub(crate) inner: Arc<dyn Store>,
    /// How often [`Store::events`] was asked.
    pub(crate) reads: Arc<AtomicU64>,
    /// How often [`Store::find`] was.
    pub(crate) finds: Arc<AtomicU64>,
}

impl Store for Counted {
    fn find(&self, lookup: LookupId) -> Result<(Option<Found>, Position), StoreError> {
        self.finds.fetch_add(1, Relaxed);
        self.inner.find(lookup)
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn add_tenant(&self, tenant: &NewTenant) -> Result<Added, StoreError> {
        self.inner.add_tenant(tenant)
    }

    fn add_membrane(
        &self,
        guards: &[LookupId],
        now: u64,
        new: &NewMembrane,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        self.inner.add_membrane(guards, now, new, limits)
    }

    fn add_record(
        &self,
        guards: &[LookupId],
        now: u64,
        record: &Record,
        limits: Limits,
    ) -> Result<Added, StoreError> {
        self.inner.add_record(guards, now, record, limits)
    }

    fn membranes(&self, tenant: Uid, now: u64, page: &Page) -> Result<Vec<Membrane>, StoreError> {
        self.inner.membranes(tenant, now, page)
    }

    fn usage(&self, tenant: Uid, now: u64) -> Result<Usage, StoreError> {
        self.inner.usage(tenant, now)
    }

    fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.inner.tenants()
    }

    fn revoke(&self, guard: Option<LookupId>, unit: Unit, now: u64) -> Result<Revoked, StoreError> {
        self.inner.revoke(guard, unit, now)
    }

    fn head(&self) -> Result<Position, StoreError> {
        self.inner.head()
    }

    fn events(&self, after: Option<Position>) -> Result<Events, StoreError> {
        self.reads.fetch_add(1, Relaxed);
        self.inner.events(after)
    }

    fn note_watchers(&self, watching: &[Watching], now: u64) -> Result<(), StoreError> {
        self.inner.note_watchers(watching, now)
    }

    fn watchers(&self, now: u64) -> Result<Vec<Watching>, StoreError> {
        self.inner.watchers(now)
    }

    fn has_lost_track(&self) -> bool {
        self.inner.has_lost_track()
    }

    fn collect(&self, after: Option<LookupId>, limit: usize, now: u64) -> Result<Collected, StoreError> {
        self.inner.collect(after, limit, now)
    }

    fn scan(&self, each: &mut (dyn FnMut(Row) -> Result<(), StoreError> + Send)) -> Result<(), StoreError> {
        self.inner.scan(each)
    }

    fn load(&self, rows: &mut Rows<'_>, fresh: Epoch) -> Result<Loaded, StoreError> {
        self.inner.load(rows, fresh)
    }

    fn records(&self, after: Option<LookupId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.inner.records(after, limit)
    }

    fn rewrap(&self, records: &[Rewrapped]) -> Result<usize, StoreError> {
        self.inner.rewrap(records)
    }
}
