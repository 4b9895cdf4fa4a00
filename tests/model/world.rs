//! One run: who is there, when it is rough, and what goes wrong then.

use crate::gateway::Gateway;
use crate::mutants::Mutant;
use crate::random::Dice;
use crate::replica::{Files, Replica, WallClock};
use crate::truth::{Tally, Truth, Wrong};
use crate::writer;
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::Uid;
use registry::operator;
use registry::store::Store as _;
use registry::store::sqlite::SqliteStore;
use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// The bound of revocation in this world.
pub(crate) const STALENESS: Duration = Duration::from_secs(3);
/// How long a lookup may take.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(500);
/// After rough times: a worker's last poll is given up and asked again, twice over.
const SETTLE: Duration = Duration::from_secs(5);
const WORKERS: usize = 4;
const REPLICAS: usize = 2;
const WRITERS: usize = 4;
/// Of two workers in one Envoy.
const WORKERS_AN_ENVOY: usize = 2;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mutant: Option<Mutant>,
    /// One replica that does not crash, and a store around its store.
    pub(crate) sequencer: bool,
    /// Rough and calm turns.
    pub(crate) turns: u32,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        Plan { seed, mutant: None, sequencer: false, turns: 3 }
    }

    fn is_sequenced(&self) -> bool {
        self.sequencer || self.mutant == Some(Mutant::PlainSequence)
    }
}

struct Slot {
    running: RefCell<Option<Rc<Replica>>>,
    clock: Arc<WallClock>,
}

pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) truth: RefCell<Truth>,
    pub(crate) create: String,
    pub(crate) tenant: Uid,
    files: Files,
    slots: Vec<Slot>,
    gateways: Vec<Rc<Gateway>>,
    /// Since when all is well; none in rough times.
    calm_since: Cell<Option<Instant>>,
    /// When the copy of the store was made.
    copied: Cell<Instant>,
    /// The stores of replicas that have ended: their files are open until nobody works on them any more.
    ended: RefCell<Vec<Weak<SqliteStore>>>,
    /// The files are not to be opened.
    restoring: Cell<bool>,
}

/// Runs one world to its end, or to the first violation.
pub(crate) fn run(plan: &Plan) -> Result<Tally, String> {
    // With time paused, it passes only while nobody has anything to do: minutes take as long as what happens in them.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).max_blocking_threads(1).build().unwrap();
    LocalSet::new().block_on(&runtime, live(plan.clone()))
}

async fn live(plan: Plan) -> Result<Tally, String> {
    let (files, dice, began) = (Files::new(), Dice::new(plan.seed), Instant::now());
    let replicas = if plan.is_sequenced() { 1 } else { REPLICAS };
    let slot = |_| Slot {
        running: RefCell::default(),
        clock: Arc::new(WallClock { began, wrong_by: AtomicI64::new(0) }),
    };
    let slots: Vec<Slot> = (0..replicas).map(slot).collect();
    for slot in &slots {
        let replica =
            Replica::start(&files, Arc::clone(&slot.clock), dice.bytes(), dice.next(), plan.is_sequenced());
        *slot.running.borrow_mut() = Some(replica);
    }
    let first = slots[0].running.borrow().clone().unwrap();
    let uris = operator::create_tenant(&first.registry, "acme").unwrap();
    let tenant = first.store.tenants().unwrap()[0].uid;
    let mut gateways: Vec<Rc<Gateway>> = Vec::new();
    for _ in 0..WORKERS / WORKERS_AN_ENVOY {
        let shared = Rc::default();
        for _ in 0..WORKERS_AN_ENVOY {
            gateways.push(Rc::new(Gateway::new(gateways.len(), Rc::clone(&shared), &dice)));
        }
    }
    drop(first);
    let create = uris.create.split_once('#').unwrap().1.to_owned();
    let only = plan.mutant.map(|_| Wrong::Lives);
    let sim = Rc::new(Sim {
        plan,
        dice,
        truth: RefCell::new(Truth { only, ..Truth::default() }),
        create,
        tenant,
        files,
        slots,
        gateways,
        calm_since: Cell::new(Some(began)),
        copied: Cell::new(began),
        ended: RefCell::default(),
        restoring: Cell::new(false),
    });
    sim.files.back_up();
    for gateway in &sim.gateways {
        tokio::task::spawn_local(gateway.clone().tick(sim.clone()));
        tokio::task::spawn_local(gateway.clone().clients(sim.clone()));
    }
    for name in 0..WRITERS {
        tokio::task::spawn_local(writer::write(sim.clone(), name));
    }
    let turns = tokio::task::spawn_local(turns(sim.clone()));
    while !turns.is_finished() && sim.truth.borrow().violation.is_none() {
        sleep(Duration::from_millis(20)).await;
    }
    if turns.is_finished() {
        turns.await.unwrap();
    }
    let mut truth = sim.truth.borrow_mut();
    let mut tally = truth.tally.clone();
    tally.revoked = truth.membranes.iter().filter(|membrane| membrane.answered.is_some()).count() as u64;
    tally.barriers = truth.membranes.iter().filter(|membrane| membrane.confirmed.is_some()).count() as u64;
    truth.violation.take().map_or(Ok(tally), Err)
}

async fn turns(sim: Rc<Sim>) {
    for _ in 0..sim.plan.turns {
        sleep(sim.dice.milliseconds(6_500, 9_000)).await;
        sim.calm_since.set(None);
        let ends = Instant::now() + sim.dice.milliseconds(8_000, 14_000);
        while Instant::now() < ends {
            sleep(sim.dice.milliseconds(50, 1_000)).await;
            mishap(&sim).await;
        }
        sim.gateways.iter().for_each(|gateway| gateway.is_cut.set(false));
        (0..sim.slots.len()).for_each(|index| sim.start(index));
        sleep(Duration::from_secs(4)).await;
        sim.calm_since.set(Some(Instant::now()));
    }
    sleep(SETTLE + STALENESS).await;
    sim.nothing_revoked_lives().await;
}

/// Something goes wrong.
async fn mishap(sim: &Rc<Sim>) {
    let dice = &sim.dice;
    let gateway = dice.pick(&sim.gateways).unwrap();
    let index = usize::try_from(dice.between(0, sim.slots.len() as u64)).unwrap();
    // What shows with restored stores alone is to be looked for there.
    let often_restored = sim.plan.mutant == Some(Mutant::IgnoredEpoch) && dice.percent(40);
    match dice.between(if often_restored { 85 } else { 0 }, 100) {
        0..35 => {
            let (gateway, long) = (gateway.clone(), dice.milliseconds(300, 7_000));
            gateway.is_cut.set(true);
            tokio::task::spawn_local(async move {
                sleep(long).await;
                gateway.is_cut.set(false);
            });
        }
        35..45 => {
            gateway.restart(sim, dice.percent(50));
            sim.truth.borrow_mut().tally.worker_restarts += 1;
        }
        45..55 => {
            // One of the two clocks of a machine: both at once, in opposite directions, nobody can notice.
            sim.truth.borrow_mut().tally.clock_jumps += 1;
            if gateway.index.is_multiple_of(2) {
                let by = i64::try_from(dice.between(0, 20_000)).unwrap() - 10_000;
                gateway.set_clock(by);
            } else {
                gateway.fall_asleep(dice.milliseconds(100, 3_900));
            }
        }
        55..60 => {
            let by = i64::try_from(dice.between(0, 60)).unwrap() - 30;
            sim.slots[index].clock.wrong_by.store(by, Relaxed);
        }
        _ if sim.plan.is_sequenced() => {}
        60..75 => sim.crash_for_a_while(index),
        75..85 => {
            if sim.tear(index) {
                sim.crash_for_a_while(index);
            }
        }
        85..93 => {
            sim.copied.set(Instant::now());
            sim.files.back_up();
        }
        _ => sim.restore().await,
    }
}

impl Sim {
    pub(crate) fn is_rough(&self) -> bool {
        self.calm_since.get().is_none()
    }

    /// Whether registry and network have been well since long before `then`.
    pub(crate) fn was_well_since(&self, then: Instant) -> bool {
        self.calm_since.get().is_some_and(|calm| calm + SETTLE <= then)
    }

    /// The replica at the other end of a gateway's connections, or another one if it is down.
    pub(crate) fn replica_for(&self, gateway: &Gateway) -> Option<Rc<Replica>> {
        if self.dice.percent(2) {
            gateway.prefers.set(usize::try_from(self.dice.between(0, self.slots.len() as u64)).unwrap());
        }
        let preferred = self.slots[gateway.prefers.get()].running.borrow().clone();
        preferred.filter(|_| self.dice.percent(95)).or_else(|| self.any_replica())
    }

    pub(crate) fn any_replica(&self) -> Option<Rc<Replica>> {
        let running: Vec<Rc<Replica>> =
            self.slots.iter().filter_map(|slot| slot.running.borrow().clone()).collect();
        self.dice.pick(&running).cloned()
    }

    /// The store's epoch, as the wire has it.
    pub(crate) fn epoch(&self) -> String {
        let head = self.any_replica().and_then(|replica| replica.store.head().ok());
        head.map_or_else(String::new, |head| B64.encode(head.epoch.0))
    }

    pub(crate) fn answered(&self, unit: &str, at: Instant, confirmed: bool) {
        let mut truth = self.truth.borrow_mut();
        let Some(membrane) = truth.membranes.iter_mut().find(|membrane| membrane.unit == unit) else {
            return;
        };
        membrane.answered.get_or_insert(at);
        if confirmed {
            membrane.confirmed.get_or_insert(at);
        }
    }

    pub(crate) fn any_live_capability(&self) -> Option<usize> {
        let truth = self.truth.borrow();
        let live: Vec<usize> = (0..truth.capabilities.len()).filter(|index| truth.is_alive(*index)).collect();
        self.dice.pick(&live).copied()
    }

    /// A live one, or one that was revoked lately.
    pub(crate) fn choose_capability(&self) -> Option<usize> {
        let dying = {
            let truth = self.truth.borrow();
            let now = Instant::now();
            let all = 0..truth.capabilities.len();
            all.filter(|index| truth.was_revoked_lately(*index, now)).collect::<Vec<_>>()
        };
        if self.dice.percent(60) {
            self.dice.pick(&dying).copied().or_else(|| self.any_live_capability())
        } else {
            self.any_live_capability()
        }
    }

    fn start(&self, index: usize) {
        let slot = &self.slots[index];
        if slot.running.borrow().is_none() && !self.restoring.get() {
            let (fresh, seed) = (self.dice.bytes(), self.dice.next());
            let before = self.epoch();
            let replica =
                Replica::start(&self.files, Arc::clone(&slot.clock), fresh, seed, self.plan.is_sequenced());
            *slot.running.borrow_mut() = Some(replica);
            self.truth.borrow_mut().tally.epochs += u64::from(!before.is_empty() && before != self.epoch());
        }
    }

    fn crash(&self, index: usize) {
        if let Some(replica) = self.slots[index].running.take() {
            replica.crash();
            self.ended.borrow_mut().push(Arc::downgrade(&replica.store));
            self.truth.borrow_mut().tally.crashes += 1;
        }
    }

    fn crash_for_a_while(self: &Rc<Sim>, index: usize) {
        self.crash(index);
        let (sim, long) = (self.clone(), self.dice.milliseconds(100, 2_500));
        tokio::task::spawn_local(async move {
            sleep(long).await;
            sim.start(index);
        });
    }

    /// A replica is about to revoke something and ends between the log and the commit. `false`: there is nothing to revoke.
    fn tear(&self, index: usize) -> bool {
        let Some(replica) = self.slots[index].running.borrow().clone() else { return false };
        let mut truth = self.truth.borrow_mut();
        let candidates: Vec<usize> = (0..truth.membranes.len())
            .filter(|index| truth.membranes[*index].attempted.is_none())
            .filter(|index| !truth.may_be_lost(truth.membranes[*index].made))
            .collect();
        let Some(chosen) = self.dice.pick(&candidates) else { return false };
        let membrane = &mut truth.membranes[*chosen];
        membrane.attempted = Some(Instant::now());
        let head = replica.store.head().unwrap();
        let line = format!("{} {} {}\n", B64.encode(head.epoch.0), head.seq + 1, membrane.unit);
        std::fs::OpenOptions::new()
            .append(true)
            .open(self.files.log())
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        truth.tally.torn += 1;
        true
    }

    /// Every replica ends, and begins again on an older copy of the store.
    async fn restore(self: &Rc<Sim>) {
        self.restoring.set(true);
        (0..self.slots.len()).for_each(|index| self.crash(index));
        while self.ended.borrow().iter().any(|store| store.strong_count() > 0) {
            sleep(Duration::from_millis(5)).await;
        }
        self.ended.borrow_mut().clear();
        self.files.restore();
        self.truth.borrow_mut().restored(self.copied.get());
        self.restoring.set(false);
        (0..self.slots.len()).for_each(|index| self.start(index));
    }

    /// At the end, every replica is asked for everything.
    async fn nothing_revoked_lives(&self) {
        let dead: Vec<String> = {
            let truth = self.truth.borrow();
            let is_dead = |index: &usize| truth.membranes[*index].answered.is_some();
            let dead =
                truth.capabilities.iter().filter(|capability| capability.membranes.iter().any(is_dead));
            dead.map(|capability| capability.token.lookup_id().to_string()).collect()
        };
        for slot in &self.slots {
            let replica = slot.running.borrow().clone().unwrap();
            for lookup in &dead {
                let uri = format!("/v1/records/{lookup}?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1");
                let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
                let answer = replica.serve(replica.gateway.clone(), request).await;
                if answer.is_none_or(|(status, _)| status != 404) {
                    self.truth
                        .borrow_mut()
                        .violated(Wrong::Lives, "what was revoked lives in the store".to_owned());
                }
            }
        }
    }
}
