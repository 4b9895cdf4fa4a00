//! A worker of the filter in a simulated Envoy, and its clients.

use crate::mutants::Mutant;
use crate::network;
use crate::random::Dice;
use crate::truth::judge_outcome;
use crate::world::{STALENESS, Sim, TIMEOUT};
use capability::Token;
use membrane_filter::config::Config;
use membrane_filter::feed::Now;
use membrane_filter::noted::Note;
use membrane_filter::outgoing::Outgoing;
use membrane_filter::pairs::{self, Pairs};
use membrane_filter::records::Records;
use membrane_filter::reply::Reply;
use membrane_filter::stats::Counter;
use membrane_filter::worker::{Again, TICK};
use membrane_filter::{Host, Worker};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// 2026-01-01T00:00:00Z.
pub(crate) const START: Duration = Duration::from_secs(1_767_225_600);
const BODY: &[u8] = b"hello";
/// How long a client waits: longer than any body takes to come, and a lookup with all its attempts.
const PATIENCE: Duration = Duration::from_secs(8);

type Slots = Rc<RefCell<HashMap<String, Vec<u8>>>>;

/// One call that the worker makes.
pub(crate) struct Call {
    pub(crate) id: u32,
    pub(crate) path: String,
    pub(crate) timeout: Duration,
}

pub(crate) struct Request {
    pub(crate) capability: usize,
    pub(crate) begun: Instant,
}

/// What the worker sees of its Envoy.
struct Envoy {
    began: Instant,
    /// How long the machine slept: its monotonic clock stood still.
    slept: Duration,
    /// How far the wall clock has been set, in milliseconds.
    set: i64,
    slots: Slots,
    headers: HashMap<u32, Token>,
    outbox: Vec<Call>,
    sent: Vec<u32>,
    replied: Vec<(u32, u16)>,
    next_call: u32,
}

impl Host for Envoy {
    fn now(&self) -> Now {
        let passed = self.began.elapsed();
        let set = Duration::from_millis(self.set.unsigned_abs());
        let wall = START + Duration::from_secs(1_000_000) + passed;
        Now {
            wall: if self.set < 0 { wall - set } else { wall + set },
            monotonic: Duration::from_secs(3_600) + passed - self.slept,
        }
    }

    fn request_headers(&mut self, context: u32) -> Option<Pairs> {
        let bearer = format!("Bearer {}", self.headers.get(&context)?.expose());
        let headers: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":path", b"/"),
            (b":authority", b"localhost:8443"),
            (b":scheme", b"https"),
            (b"authorization", bearer.as_bytes()),
        ];
        Pairs::parse(pairs::encode(headers.into_iter()).ok()?.to_vec())
    }

    fn set_request_headers(&mut self, context: u32, _before: &Pairs, _outgoing: &Outgoing<'_>) -> bool {
        self.sent.push(context);
        true
    }

    fn remove_request_header(&mut self, _context: u32, _name: &[u8]) {}
    fn clear_request_trailers(&mut self, _context: u32) {}

    fn request_body(&mut self, _context: u32, range: std::ops::Range<usize>) -> Option<Vec<u8>> {
        BODY.get(range).map(<[u8]>::to_vec)
    }

    fn replace_request_body(&mut self, _context: u32, _length: usize, _with: &[u8]) -> bool {
        true
    }

    fn reply(&mut self, context: u32, reply: &Reply) {
        self.replied.push((context, reply.status));
    }

    fn source(&mut self, _context: u32) -> Option<Vec<u8>> {
        None
    }

    fn resume(&mut self, _context: u32) {}

    fn get(
        &mut self,
        _cluster: &str,
        _authority: &str,
        path: &str,
        timeout: Duration,
        _again: Again,
    ) -> Option<u32> {
        self.next_call += 1;
        self.outbox.push(Call { id: self.next_call, path: path.to_owned(), timeout });
        Some(self.next_call)
    }

    fn shared(&mut self, key: &str) -> Option<Vec<u8>> {
        self.slots.borrow().get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8]) {
        self.slots.borrow_mut().insert(key.to_owned(), value.to_vec());
    }

    fn note(&mut self, _context: u32, _note: Note, _value: &str) {}
    fn lookup_took(&mut self, _time: Duration) {}
    fn count(&mut self, _counter: Counter, _by: u32) {}
    fn gauges(&mut self, _cache_entries: u64, _feed_age_seconds: u64) {}
    fn warn(&mut self, _message: &str) {}
}

pub(crate) struct Gateway {
    pub(crate) index: usize,
    worker: RefCell<Worker>,
    envoy: RefCell<Envoy>,
    requests: RefCell<HashMap<u32, Request>>,
    /// Counts its lives: what belongs to an earlier one does not reach it.
    life: Cell<u64>,
    asleep_until: Cell<Instant>,
    /// Nothing passes between it and any replica.
    pub(crate) is_cut: Cell<bool>,
    /// The replica that it is connected to, by its number.
    pub(crate) prefers: Cell<usize>,
    /// The last position that the feed told it, for the mutant that believes everything.
    pub(crate) position: RefCell<Value>,
    /// For the mutant that counts its lease from an answer's arrival: that answer, until it is asked for again.
    early: RefCell<Option<(String, u16, Vec<u8>)>>,
    next_context: Cell<u32>,
}

fn worker(dice: &Dice) -> Worker {
    let config = format!(
        r#"{{"staleness": "{}ms", "registry": {{"timeout": "{}ms"}}}}"#,
        STALENESS.as_millis(),
        TIMEOUT.as_millis()
    );
    let mut config = Config::parse(config.as_bytes()).unwrap();
    let records = Records::take(&mut config, None).unwrap();
    Worker::new(config, records, dice.bytes())
}

impl Gateway {
    pub(crate) fn new(index: usize, slots: Slots, dice: &Dice) -> Gateway {
        let began = Instant::now();
        let envoy = Envoy {
            began,
            slept: Duration::ZERO,
            set: 0,
            slots,
            headers: HashMap::new(),
            outbox: Vec::new(),
            sent: Vec::new(),
            replied: Vec::new(),
            next_call: 0,
        };
        Gateway {
            index,
            worker: RefCell::new(worker(dice)),
            envoy: RefCell::new(envoy),
            requests: RefCell::default(),
            life: Cell::new(0),
            asleep_until: Cell::new(began),
            is_cut: Cell::new(false),
            prefers: Cell::new(0),
            position: RefCell::new(Value::Null),
            early: RefCell::default(),
            next_context: Cell::new(0),
        }
    }

    /// Something happens to the worker; what it does about it is judged and carried out.
    fn happens<T>(self: &Rc<Gateway>, sim: &Rc<Sim>, event: impl FnOnce(&mut Worker, &mut Envoy) -> T) -> T {
        let result = event(&mut self.worker.borrow_mut(), &mut self.envoy.borrow_mut());
        let (sent, replied, outbox) = {
            let mut envoy = self.envoy.borrow_mut();
            (
                std::mem::take(&mut envoy.sent),
                std::mem::take(&mut envoy.replied),
                std::mem::take(&mut envoy.outbox),
            )
        };
        for context in sent {
            if let Some(request) = self.requests.borrow().get(&context) {
                sim.truth.borrow_mut().let_go(self.index, request.capability, Instant::now());
            }
            self.done(sim, context, Some(200));
        }
        for (context, status) in replied {
            self.done(sim, context, Some(status));
        }
        for call in outbox {
            tokio::task::spawn_local(self.clone().carry(sim.clone(), call));
        }
        result
    }

    fn done(&self, sim: &Sim, context: u32, outcome: Option<u16>) {
        self.envoy.borrow_mut().headers.remove(&context);
        if let Some(request) = self.requests.borrow_mut().remove(&context) {
            judge_outcome(sim, self.index, &request, outcome);
        }
    }

    /// Carries a call to a replica and the answer back, unless its time is over before.
    async fn carry(self: Rc<Gateway>, sim: Rc<Sim>, call: Call) {
        let life = self.life.get();
        let early = self.early.take().filter(|(path, ..)| *path == call.path);
        let held_back = early.is_none() && sim.plan.mutant == Some(Mutant::LeaseFromReceipt);
        let outcome = match early {
            Some((_, status, body)) => Some((status, body)),
            None => {
                let way = network::ask(&sim, &self, &call.path);
                tokio::time::timeout(call.timeout, way).await.ok().flatten()
            }
        };
        self.awake().await;
        if self.life.get() != life {
            return;
        }
        let feed = call.path.starts_with("/v1/events");
        match outcome {
            None => self.happens(&sim, |worker, envoy| worker.on_answer(envoy, call.id, None, b"")),
            // Not a lie, only late: the worker fails, asks again, and has the old answer at once.
            Some((status, body)) if feed && held_back => {
                *self.early.borrow_mut() = Some((call.path, status, body));
                self.happens(&sim, |worker, envoy| worker.on_answer(envoy, call.id, None, b""));
            }
            Some((status, body)) => {
                if feed {
                    let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                    sim.truth.borrow_mut().tally.start_overs += u64::from(status == 410);
                    if matches!(status, 200 | 410) {
                        *self.position.borrow_mut() = answer["position"].clone();
                    }
                }
                self.happens(&sim, |worker, envoy| worker.on_answer(envoy, call.id, Some(status), &body));
            }
        }
    }

    async fn awake(&self) {
        while Instant::now() < self.asleep_until.get() {
            sleep_until(self.asleep_until.get()).await;
        }
    }

    /// The machine sleeps: nothing happens on it, and one of its clocks stands still.
    pub(crate) fn fall_asleep(&self, for_: Duration) {
        if Instant::now() >= self.asleep_until.get() {
            self.asleep_until.set(Instant::now() + for_);
            self.envoy.borrow_mut().slept += for_;
        }
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_clock(&self, by_milliseconds: i64) {
        self.envoy.borrow_mut().set += by_milliseconds;
    }

    /// Ends the worker, with all that it held, and begins a new one. Its Envoy's shared data may stay.
    pub(crate) fn restart(&self, sim: &Sim, forget_slots: bool) {
        self.life.set(self.life.get() + 1);
        *self.worker.borrow_mut() = worker(&sim.dice);
        self.requests.borrow_mut().clear();
        self.early.take();
        let mut envoy = self.envoy.borrow_mut();
        envoy.headers.clear();
        if forget_slots {
            envoy.slots.borrow_mut().clear();
        }
    }

    pub(crate) async fn tick(self: Rc<Gateway>, sim: Rc<Sim>) {
        loop {
            sleep(TICK).await;
            self.awake().await;
            self.happens(&sim, |worker, envoy| worker.on_tick(envoy));
        }
    }

    /// Sends requests for ever: of live capabilities, and of what was revoked lately.
    pub(crate) async fn clients(self: Rc<Gateway>, sim: Rc<Sim>) {
        loop {
            sleep(sim.dice.milliseconds(5, 90)).await;
            self.awake().await;
            let Some(capability) = sim.choose_capability() else { continue };
            tokio::task::spawn_local(self.clone().request(sim.clone(), capability));
        }
    }

    async fn request(self: Rc<Gateway>, sim: Rc<Sim>, capability: usize) {
        let (life, begun) = (self.life.get(), Instant::now());
        let context = self.next_context.get() + 1;
        self.next_context.set(context);
        let token =
            Token::parse(sim.truth.borrow().capabilities[capability].token.expose().as_bytes()).unwrap();
        self.envoy.borrow_mut().headers.insert(context, token);
        self.requests.borrow_mut().insert(context, Request { capability, begun });
        let with_body = sim.dice.percent(25);
        self.happens(&sim, |worker, envoy| worker.on_request_headers(envoy, context, !with_body));
        if with_body {
            // Some bodies take longer than a lease.
            let slow = if sim.dice.percent(20) { 4_500 } else { 200 };
            sleep(sim.dice.milliseconds(1, slow)).await;
            self.awake().await;
            if self.life.get() == life {
                self.happens(&sim, |worker, envoy| worker.on_request_body(envoy, context, BODY.len(), true));
            }
        }
        sleep(PATIENCE).await;
        self.awake().await;
        if self.life.get() == life {
            self.done(&sim, context, None);
            self.happens(&sim, |worker, _| worker.on_delete(context));
        }
    }
}
