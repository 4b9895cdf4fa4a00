//! One worker's filter: what it knows, and how events from Envoy move it. Everything here is native and tested against a
//! simulated Envoy; [`Host`] is all that it asks of a real one.

use crate::abi_numbers::{DataStatus, HeadersStatus, TrailersStatus};
use crate::cache::{Cache, Cached};
use crate::config::Config;
use crate::exchange::{Exchange, Proof, Stage, Step};
use crate::feed::{Change, Feed, Now, Verdict};
use crate::incoming::{Arrival, Incoming, ROUTE_HEADER};
use crate::lookup::{Answer, Found, Negative, Sealed};
use crate::opened::Opened;
use crate::outgoing::{self, Outgoing};
use crate::pairs::Pairs;
use crate::payload;
use crate::reply::{Outcome, Reply};
use crate::slots;
use crate::stats::{Counter, Stats};
use capability::{LookupId, Token};
use core::time::Duration;
use hashbrown::HashMap;
use std::hash::RandomState;
use std::rc::Rc;

/// A request, as the host numbers it.
pub type ContextId = u32;
/// A call to the registry, as the host numbers it.
pub type CallId = u32;

/// How often [`Worker::on_tick`] wants to be called: the delay of a first poll and of metrics.
pub const TICK: Duration = Duration::from_millis(100);
/// Most lookups under way. Past it requests are answered 503: a flood of random tokens must not become one of calls.
const MAX_LOOKUPS: usize = 1_024;
/// How often one request's lookup is repeated because the registry failed at once, or its answer was overtaken.
const MAX_ATTEMPTS: u8 = 3;
/// Between failed polls of the feed: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// An answer without events that comes sooner than this was not held back.
const MIN_HOLD: Duration = Duration::from_millis(50);
/// Without a single body callback in a worker's life, a request whose body has not begun after this long is answered: either
/// its client is very slow, or Envoy was not told to call us.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// What the filter asks of the proxy it runs in.
pub trait Host {
    /// The time, by both clocks.
    fn now(&self) -> Now;
    /// All request headers; `None` if the host gave none.
    fn request_headers(&mut self, context: ContextId) -> Option<Pairs>;
    /// Replaces all request headers. `false`: the host refused.
    fn set_request_headers(&mut self, context: ContextId, outgoing: &Outgoing) -> bool;
    /// Takes one request header off.
    fn remove_request_header(&mut self, context: ContextId, name: &[u8]);
    /// Takes all request trailers off.
    fn clear_request_trailers(&mut self, context: ContextId);
    /// Bytes of the held body.
    fn request_body(&mut self, context: ContextId, range: core::ops::Range<usize>) -> Option<Vec<u8>>;
    /// Answers the request.
    fn reply(&mut self, context: ContextId, reply: &Reply);
    /// Lets a held request go on.
    fn resume(&mut self, context: ContextId);
    /// Asks `cluster`; the answer comes to [`Worker::on_answer`]. `None`: it could not even be sent.
    fn get(&mut self, cluster: &str, authority: &str, path: &str, timeout: Duration) -> Option<CallId>;
    /// Reads shared data.
    fn shared(&mut self, key: &str) -> Option<Vec<u8>>;
    /// Writes shared data.
    fn set_shared(&mut self, key: &str, value: &[u8]);
    /// Adds to a counter.
    fn count(&mut self, counter: Counter, by: u32);
    /// Sets the gauges: entries in the cache, age of the lease in seconds.
    fn gauges(&mut self, cache_entries: u64, feed_age_seconds: u64);
    /// Tells the operator. Never a secret, a token, or a header's value.
    fn warn(&mut self, message: &str);
}

enum Call {
    Lookup(LookupId),
    Feed,
}

struct Pending {
    waiters: Vec<ContextId>,
    asked: Now,
    attempts: u8,
}

enum Poll {
    Idle { due: Duration, pause: Duration },
    Asked { at: Now, pause: Duration },
}

enum Held {
    /// Waiting for a record or for its body.
    Waiting(Box<Exchange>),
    /// Signed, its body streaming: only its trailers are still ours.
    Streaming,
    /// Answered by us.
    Answered,
}

/// What became of a request that was moved on.
enum Moved {
    Waiting(Box<Exchange>),
    Sent,
    Answered,
}

/// See the module.
pub struct Worker {
    config: Config,
    cache: Cache,
    feed: Feed,
    negative: Negative,
    pending: HashMap<LookupId, Pending, RandomState>,
    calls: HashMap<CallId, Call, RandomState>,
    held: HashMap<ContextId, Held, RandomState>,
    poll: Poll,
    stats: Stats,
    body_callback_seen: bool,
    slow_first_bytes_checked: Duration,
}

impl Worker {
    /// A worker that knows nothing yet. `watcher` is random: the registry tells workers apart by it.
    pub fn new(config: Config, watcher: [u8; 16]) -> Worker {
        Worker {
            cache: Cache::new(config.cache),
            feed: Feed::new(config.staleness, watcher),
            negative: Negative::default(),
            pending: HashMap::with_hasher(RandomState::new()),
            calls: HashMap::with_hasher(RandomState::new()),
            held: HashMap::with_hasher(RandomState::new()),
            poll: Poll::Idle { due: Duration::ZERO, pause: FIRST_PAUSE },
            stats: Stats::default(),
            body_callback_seen: false,
            slow_first_bytes_checked: Duration::ZERO,
            config,
        }
    }

    /// A request's headers came; `ended`: and no body follows.
    pub fn on_request_headers(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        ended: bool,
    ) -> HeadersStatus {
        let Some(pairs) = host.request_headers(context) else {
            return self.refuse_headers(
                host,
                context,
                &Reply::misconfigured("the request's headers cannot be read"),
            );
        };
        let incoming = match Incoming::arrive(pairs, ended, self.config.on_missing) {
            Arrival::Refuse(reply) => return self.refuse_headers(host, context, &reply),
            Arrival::Pass { strip } => {
                if strip {
                    host.remove_request_header(context, ROUTE_HEADER);
                }
                self.stats.add(Counter::Passed, 1);
                return HeadersStatus::Continue;
            }
            Arrival::Capability(incoming) => incoming,
        };
        let now = host.now();
        match self.begin(host, context, incoming, now) {
            Ok(Moved::Sent) => {
                if !ended {
                    self.held.insert(context, Held::Streaming);
                }
                HeadersStatus::Continue
            }
            Ok(Moved::Waiting(exchange)) => {
                let status = exchange.hold();
                self.held.insert(context, Held::Waiting(exchange));
                status
            }
            Ok(Moved::Answered) => {
                self.held.insert(context, Held::Answered);
                HeadersStatus::Stop
            }
            Err(reply) => self.refuse_headers(host, context, &reply),
        }
    }

    /// `size` bytes of the body are held, those of this callback included; `ended`: and that is all.
    pub fn on_request_body(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        size: usize,
        ended: bool,
    ) -> DataStatus {
        self.body_callback_seen = true;
        let mut exchange = match self.held.remove(&context) {
            Some(Held::Waiting(exchange)) => exchange,
            Some(Held::Answered) => {
                self.held.insert(context, Held::Answered);
                return DataStatus::StopNoBuffer;
            }
            Some(Held::Streaming) => {
                self.held.insert(context, Held::Streaming);
                return DataStatus::Continue;
            }
            None => return DataStatus::Continue,
        };
        exchange.on_body(size, ended);
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.held.insert(context, Held::Waiting(exchange));
                DataStatus::StopAndBuffer
            }
            Moved::Sent => DataStatus::Continue,
            Moved::Answered => {
                self.held.insert(context, Held::Answered);
                DataStatus::StopNoBuffer
            }
        }
    }

    /// The body ended with trailers; they are dropped.
    pub fn on_request_trailers(&mut self, host: &mut impl Host, context: ContextId) -> TrailersStatus {
        let mut exchange = match self.held.remove(&context) {
            Some(Held::Waiting(exchange)) => exchange,
            Some(Held::Streaming) => {
                host.clear_request_trailers(context);
                return TrailersStatus::Continue;
            }
            Some(Held::Answered) => {
                self.held.insert(context, Held::Answered);
                return TrailersStatus::Stop;
            }
            None => return TrailersStatus::Continue,
        };
        exchange.on_trailers();
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.held.insert(context, Held::Waiting(exchange));
                TrailersStatus::Stop
            }
            Moved::Sent => TrailersStatus::Continue,
            Moved::Answered => {
                self.held.insert(context, Held::Answered);
                TrailersStatus::Stop
            }
        }
    }

    /// The request is over, in whatever way.
    pub fn on_delete(&mut self, context: ContextId) {
        // A lookup that it waits for goes on: others may wait for it too, and it belongs to the worker.
        self.held.remove(&context);
    }

    /// A call was answered; `status` is none if it failed.
    pub fn on_answer(&mut self, host: &mut impl Host, call: CallId, status: Option<u16>, body: &[u8]) {
        match self.calls.remove(&call) {
            Some(Call::Feed) => self.on_feed(host, status, body),
            Some(Call::Lookup(lookup)) => self.on_lookup(host, lookup, status, body),
            None => {}
        }
    }

    /// Time passes: poll the feed, hand over what was counted, look after requests that wait in vain.
    pub fn on_tick(&mut self, host: &mut impl Host) {
        let now = host.now();
        if let Poll::Idle { due, pause } = self.poll
            && now.monotonic >= due
        {
            self.ask_feed(host, now, pause);
        }
        for (counter, by) in self.stats.take() {
            host.count(counter, by);
        }
        let age = self.feed.leased().map_or(u64::MAX, |sent| now.wall.saturating_sub(sent.wall).as_secs());
        host.gauges(self.cache.len() as u64, age);
        if !self.body_callback_seen
            && now.monotonic.saturating_sub(self.slow_first_bytes_checked) >= FIRST_BYTE / 15
        {
            self.slow_first_bytes_checked = now.monotonic;
            self.refuse_missing_bodies(host, now);
        }
    }

    fn refuse_missing_bodies(&mut self, host: &mut impl Host, now: Now) {
        let late: Vec<ContextId> = self
            .held
            .iter()
            .filter(|(_, held)| match held {
                Held::Waiting(exchange) => {
                    exchange.awaits_first_byte() && !now.is_within(&exchange.since, FIRST_BYTE)
                }
                _ => false,
            })
            .map(|(context, _)| *context)
            .collect();
        for context in late {
            host.warn(
                "a request's body has not begun to arrive, and none ever has in this worker: if this happens to every request \
                 with a body, set allow_on_headers_stop_iteration: true in the filter's Envoy plugin configuration",
            );
            self.answer(host, context, &Reply::body_missing());
            self.held.insert(context, Held::Answered);
        }
    }

    fn answer(&mut self, host: &mut impl Host, context: ContextId, reply: &Reply) {
        self.stats.add(reply.outcome.into(), 1);
        host.reply(context, reply);
    }

    fn refuse_headers(&mut self, host: &mut impl Host, context: ContextId, reply: &Reply) -> HeadersStatus {
        self.answer(host, context, reply);
        self.held.insert(context, Held::Answered);
        HeadersStatus::Stop
    }

    /// A request with a bearer: from the worker's own cache, from shared data, or by a lookup.
    fn begin(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: Incoming,
        now: Now,
    ) -> Result<Moved, Reply> {
        if self.feed.is_current(&now)
            && let (Some(as_of), Some(asked)) = (self.feed.position(), self.feed.leased())
        {
            match self.cache.get(incoming.bearer()) {
                Some(Cached::Control) => return self.forward_control(host, context, &incoming),
                Some(Cached::Grant(opened)) => {
                    return self.begin_ready(host, context, incoming, opened, Proof { as_of, asked }, now);
                }
                None => {}
            }
        }
        let token = Token::parse(incoming.bearer()).map_err(|_| Reply::unauthorized())?;
        let lookup = token.lookup_id();
        if self.negative.contains(&lookup, now.monotonic) {
            return Err(Reply::unauthorized());
        }
        match self.read_slot(host, &token, lookup, &now) {
            Some(Cached::Control) => return self.forward_control(host, context, &incoming),
            Some(Cached::Grant(opened)) => {
                if let (Some(as_of), Some(asked)) = (self.feed.position(), self.feed.leased()) {
                    return self.begin_ready(host, context, incoming, opened, Proof { as_of, asked }, now);
                }
            }
            None => {}
        }
        let exchange = Box::new(Exchange::resolving(incoming, lookup, token, now, self.config.max_body));
        self.await_lookup(host, context, lookup, now)?;
        Ok(Moved::Waiting(exchange))
    }

    fn begin_ready(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: Incoming,
        opened: Rc<Opened>,
        proof: Proof,
        now: Now,
    ) -> Result<Moved, Reply> {
        outgoing::check(&incoming, &opened)?;
        let plan = payload::plan(&incoming, opened.signing(), self.config.max_body)?;
        let exchange = Box::new(Exchange::ready(incoming, opened, plan, proof, now));
        Ok(self.advance(host, context, exchange))
    }

    /// Moves a request as far as it can go now.
    fn advance(&mut self, host: &mut impl Host, context: ContextId, mut exchange: Box<Exchange>) -> Moved {
        loop {
            let reply = match exchange.step(self.config.max_body) {
                Step::Wait => return Moved::Waiting(exchange),
                Step::Read(range) => {
                    let wanted = range.len();
                    match host.request_body(context, range) {
                        Some(bytes) if bytes.len() == wanted => {
                            exchange.absorb(&bytes);
                            continue;
                        }
                        _ => Reply::misconfigured("the request's body cannot be read"),
                    }
                }
                Step::Refuse(reply) => reply,
                Step::Complete { payload, length } => {
                    let Stage::Ready { opened, plan, proof } = &exchange.stage else {
                        return Moved::Waiting(exchange);
                    };
                    let now = host.now();
                    match self.judge(opened, proof, &now) {
                        Life::Alive => {
                            let max_timeout =
                                u32::try_from(self.config.max_timeout.as_millis()).unwrap_or(u32::MAX);
                            let built = outgoing::build(
                                &exchange.incoming,
                                opened,
                                *plan,
                                payload,
                                length,
                                now.wall.as_secs(),
                                max_timeout,
                            );
                            match built {
                                Ok(outgoing) => {
                                    if self.send(
                                        host,
                                        context,
                                        &outgoing,
                                        exchange.has_trailers(),
                                        Outcome::Granted,
                                    ) {
                                        return Moved::Sent;
                                    }
                                    Reply::bad_request("the request's headers are too large")
                                }
                                Err(reply) => reply,
                            }
                        }
                        Life::Dead => Reply::unauthorized(),
                        Life::Unknown => {
                            // Its life cannot be told from what is known: ask anew, keeping what was hashed of the body.
                            match Token::parse(exchange.incoming.bearer()) {
                                Ok(token) => {
                                    let lookup = token.lookup_id();
                                    exchange.stage = Stage::Resolving { lookup, token };
                                    match self.await_lookup(host, context, lookup, now) {
                                        Ok(()) => return Moved::Waiting(exchange),
                                        Err(reply) => reply,
                                    }
                                }
                                Err(_) => Reply::unauthorized(),
                            }
                        }
                    }
                }
            };
            self.answer(host, context, &reply);
            return Moved::Answered;
        }
    }

    fn send(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        outgoing: &Outgoing,
        trailers: bool,
        outcome: Outcome,
    ) -> bool {
        if !host.set_request_headers(context, outgoing) {
            return false;
        }
        if trailers {
            host.clear_request_trailers(context);
        }
        self.stats.add(outcome.into(), 1);
        self.stats.add(Counter::HeadersDropped, outgoing.dropped);
        true
    }

    fn forward_control(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: &Incoming,
    ) -> Result<Moved, Reply> {
        let outgoing = outgoing::build_control(incoming, &self.config.registry.authority)?;
        if self.send(host, context, &outgoing, false, Outcome::Control) {
            Ok(Moved::Sent)
        } else {
            Err(Reply::bad_request("the request's headers are too large"))
        }
    }

    /// Whether a grant is alive at `now`, as far as is known.
    fn judge(&self, opened: &Opened, proof: &Proof, now: &Now) -> Life {
        if opened.is_expired(now.wall.as_secs()) {
            return Life::Dead;
        }
        let verdict = self.feed.verdict(opened.units(), &proof.as_of);
        let answer_is_fresh = now.is_within(&proof.asked, self.feed.staleness());
        match verdict {
            Verdict::Revoked => Life::Dead,
            Verdict::Clean if self.feed.is_current(now) || answer_is_fresh => Life::Alive,
            Verdict::NoPosition if answer_is_fresh => Life::Alive,
            Verdict::Clean | Verdict::NoPosition | Verdict::Gap => Life::Unknown,
        }
    }

    /// What another worker of this Envoy left about `lookup`, if it is authentic and nothing of it was revoked since.
    fn read_slot(
        &mut self,
        host: &mut impl Host,
        token: &Token,
        lookup: LookupId,
        now: &Now,
    ) -> Option<Cached> {
        if !self.config.shared_data || !self.feed.is_current(now) {
            return None;
        }
        let slot_key = self.feed.slot_key()?;
        let slot = host.shared(&slots::key(&lookup))?;
        let answer = Answer::parse(200, slots::open(slot_key, &lookup, &slot)?)?;
        let cached = match answer.found? {
            Found::Control => Cached::Control,
            Found::Grant(sealed) => {
                let opened = sealed.open(token, lookup)?;
                let clean = self.feed.verdict(opened.units(), &answer.as_of) == Verdict::Clean;
                if !clean || opened.is_expired(now.wall.as_secs()) {
                    return None;
                }
                Cached::Grant(Rc::new(opened))
            }
        };
        self.stats.add(Counter::SlotHit, 1);
        // A token's canonical text parses to itself.
        if let Ok(token) = Token::parse(token.expose().as_bytes()) {
            self.cache.insert(token, cached.clone());
        }
        Some(cached)
    }

    /// Waits for the lookup that is under way, or begins one. `Err`: it cannot be begun.
    fn await_lookup(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        lookup: LookupId,
        now: Now,
    ) -> Result<(), Reply> {
        if let Some(pending) = self.pending.get_mut(&lookup) {
            pending.waiters.push(context);
            return Ok(());
        }
        if self.pending.len() >= MAX_LOOKUPS {
            return Err(Reply::unavailable());
        }
        self.ask_registry(host, lookup, Pending { waiters: vec![context], asked: now, attempts: 1 })
            .map_err(|_| Reply::unavailable())
    }

    /// Sends a lookup; `Err` gives the waiters back.
    fn ask_registry(
        &mut self,
        host: &mut impl Host,
        lookup: LookupId,
        pending: Pending,
    ) -> Result<(), Pending> {
        let registry = &self.config.registry;
        let path = format!("/v1/records/{lookup}");
        match host.get(&registry.cluster, &registry.authority, &path, registry.timeout) {
            Some(call) => {
                self.calls.insert(call, Call::Lookup(lookup));
                self.pending.insert(lookup, pending);
                Ok(())
            }
            None => {
                self.stats.add(Counter::LookupFailed, 1);
                host.warn("a lookup could not be sent: is registry.cluster the name of an Envoy cluster?");
                Err(pending)
            }
        }
    }

    fn on_lookup(&mut self, host: &mut impl Host, lookup: LookupId, status: Option<u16>, body: &[u8]) {
        let Some(mut pending) = self.pending.remove(&lookup) else { return };
        let now = host.now();
        let Some(answer) = status.and_then(|status| Answer::parse(status, body)) else {
            self.stats.add(Counter::LookupFailed, 1);
            let status = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
            host.warn(&format!("a lookup failed ({status})"));
            // A connection that the registry had just closed is worth one more try; a registry that does not answer is not.
            let at_once = now.is_within(&pending.asked, self.config.registry.timeout / 2);
            if at_once && pending.attempts < MAX_ATTEMPTS {
                pending.attempts += 1;
                pending.asked = now;
                if let Err(pending) = self.ask_registry(host, lookup, pending) {
                    self.answer_all(host, pending.waiters, &Reply::unavailable());
                }
            } else {
                self.answer_all(host, pending.waiters, &Reply::unavailable());
            }
            return;
        };
        match &answer.found {
            None => {
                self.stats.add(Counter::LookupUnknown, 1);
                self.negative.insert(lookup, now.monotonic);
                self.cache.revoke(capability::Unit::Lookup(lookup));
                self.answer_all(host, pending.waiters, &Reply::unauthorized());
            }
            Some(Found::Control) => {
                self.stats.add(Counter::LookupFound, 1);
                self.leave_slot(host, &lookup, &now, body);
                for context in pending.waiters {
                    self.resume_control(host, context);
                }
            }
            Some(Found::Grant(sealed)) => {
                self.stats.add(Counter::LookupFound, 1);
                let proof = Proof { as_of: answer.as_of, asked: pending.asked };
                self.leave_slot(host, &lookup, &now, body);
                self.resume_grants(host, lookup, sealed, proof, pending, now);
            }
        }
    }

    /// The record came: opens it for each request with the token that this request presents, and moves the request on.
    fn resume_grants(
        &mut self,
        host: &mut impl Host,
        lookup: LookupId,
        sealed: &Sealed,
        proof: Proof,
        pending: Pending,
        now: Now,
    ) {
        let mut first: Option<Rc<Opened>> = None;
        let mut overtaken = Vec::new();
        for context in pending.waiters {
            let Some(Held::Waiting(mut exchange)) = self.held.remove(&context) else { continue };
            let Stage::Resolving { token, .. } = &exchange.stage else { continue };
            // The commitment in the record makes a second token with the same lookup id fail here.
            let opened = match first.as_ref().filter(|_| token.lookup_id() == lookup) {
                Some(opened) => Rc::clone(opened),
                None => match sealed.open(token, lookup) {
                    Some(opened) => Rc::new(opened),
                    None => {
                        self.answer(host, context, &Reply::unauthorized());
                        self.held.insert(context, Held::Answered);
                        continue;
                    }
                },
            };
            if first.is_none() {
                first = Some(Rc::clone(&opened));
                if self.feed.verdict(opened.units(), &proof.as_of) == Verdict::Clean
                    && let Ok(token) = Token::parse(token.expose().as_bytes())
                {
                    self.cache.insert(token, Cached::Grant(Rc::clone(&opened)));
                }
            }
            if matches!(self.judge(&opened, &proof, &now), Life::Unknown) {
                self.held.insert(context, Held::Waiting(exchange));
                overtaken.push(context);
                continue;
            }
            match exchange.on_opened(opened, proof, self.config.max_body) {
                Ok(()) => self.move_held(host, context, exchange),
                Err(reply) => {
                    self.answer(host, context, &reply);
                    self.held.insert(context, Held::Answered);
                }
            }
        }
        if overtaken.is_empty() {
            return;
        }
        if pending.attempts >= MAX_ATTEMPTS {
            self.answer_all(host, overtaken, &Reply::unavailable());
            return;
        }
        let again = Pending { waiters: overtaken, asked: now, attempts: pending.attempts + 1 };
        if let Err(pending) = self.ask_registry(host, lookup, again) {
            self.answer_all(host, pending.waiters, &Reply::unavailable());
        }
    }

    fn resume_control(&mut self, host: &mut impl Host, context: ContextId) {
        let Some(Held::Waiting(exchange)) = self.held.remove(&context) else { return };
        if let Ok(token) = Token::parse(exchange.incoming.bearer()) {
            self.cache.insert(token, Cached::Control);
        }
        match self.forward_control(host, context, &exchange.incoming) {
            Ok(_) => {
                if !exchange.is_complete() {
                    self.held.insert(context, Held::Streaming);
                }
                if exchange.has_trailers() {
                    host.clear_request_trailers(context);
                }
                host.resume(context);
            }
            Err(reply) => {
                self.answer(host, context, &reply);
                self.held.insert(context, Held::Answered);
            }
        }
    }

    /// Moves a request on outside its own callbacks: what goes on must be resumed.
    fn move_held(&mut self, host: &mut impl Host, context: ContextId, exchange: Box<Exchange>) {
        let complete = exchange.is_complete();
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.held.insert(context, Held::Waiting(exchange));
            }
            Moved::Sent => {
                if !complete {
                    self.held.insert(context, Held::Streaming);
                }
                host.resume(context);
            }
            Moved::Answered => {
                self.held.insert(context, Held::Answered);
            }
        }
    }

    fn answer_all(&mut self, host: &mut impl Host, waiters: Vec<ContextId>, reply: &Reply) {
        for context in waiters {
            if let Some(Held::Waiting(_)) = self.held.get(&context) {
                self.held.insert(context, Held::Answered);
                self.answer(host, context, reply);
            }
        }
    }

    fn leave_slot(&mut self, host: &mut impl Host, lookup: &LookupId, now: &Now, answer: &[u8]) {
        if !self.config.shared_data || !self.feed.is_current(now) {
            return;
        }
        if let Some(slot) = self.feed.slot_key().and_then(|key| slots::seal(key, lookup, answer)) {
            host.set_shared(&slots::key(lookup), &slot);
        }
    }

    fn ask_feed(&mut self, host: &mut impl Host, now: Now, pause: Duration) {
        let registry = &self.config.registry;
        let timeout = self.feed.hold() + registry.timeout;
        match host.get(&registry.cluster, &registry.authority, &self.feed.path(), timeout) {
            Some(call) => {
                self.calls.insert(call, Call::Feed);
                self.poll = Poll::Asked { at: now, pause };
            }
            None => self.feed_failed(host, now, pause, "it could not be sent"),
        }
    }

    fn feed_failed(&mut self, host: &mut impl Host, now: Now, pause: Duration, why: &str) {
        self.stats.add(Counter::FeedFailed, 1);
        host.warn(&format!(
            "the revocation feed does not answer ({why}); within the lease cached capabilities go on"
        ));
        self.poll = Poll::Idle { due: now.monotonic + pause, pause: (pause * 2).min(LAST_PAUSE) };
    }

    fn on_feed(&mut self, host: &mut impl Host, status: Option<u16>, body: &[u8]) {
        let Poll::Asked { at, pause } = self.poll else { return };
        let now = host.now();
        let change = match status {
            Some(status) => self.feed.on_answer(at, status, body),
            None => Change::Failed,
        };
        match change {
            Change::Failed => {
                let why = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
                self.feed_failed(host, now, pause, &why);
                return;
            }
            Change::Revoked(units) => {
                self.stats.add(Counter::FeedAnswered, 1);
                if units.is_empty() && now.is_within(&at, MIN_HOLD) {
                    // Nothing new, and not held back either: such a registry would have us ask without pause.
                    self.poll = Poll::Idle { due: now.monotonic + FIRST_PAUSE, pause: FIRST_PAUSE };
                    return;
                }
                for unit in units {
                    self.cache.revoke(unit);
                }
            }
            Change::StartOver => {
                self.stats.add(Counter::FeedStartOver, 1);
                self.cache.clear();
                self.negative.clear();
                if self.feed.position().is_none() {
                    self.feed_failed(host, now, pause, "its answer does not follow the one before");
                    return;
                }
            }
        }
        self.ask_feed(host, now, FIRST_PAUSE);
    }
}

enum Life {
    Alive,
    Dead,
    Unknown,
}
