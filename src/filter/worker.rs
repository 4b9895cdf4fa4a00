//! One worker's filter: what it knows, and how events from Envoy move it. Everything here is native and tested against a
//! simulated Envoy; [`Host`] is all that it asks of a real one.

#[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
mod diagnosing;
mod following;
mod lookups;
mod streaming;

use crate::abi_numbers::{DataStatus, HeadersStatus, TrailersStatus};
use crate::cache::{Cache, Cached};
use crate::config::Config;
use crate::exchange::{Exchange, Proof, Stage, Step, is_small};
use crate::feed::{self, Feed, Now, Verdict};
use crate::incoming::{self, Arrival, Incoming, OURS};
use crate::lookup::Negative;
use crate::noted::{self, Note};
use crate::opened::Opened;
use crate::outgoing::{self, Outgoing};
use crate::pairs::Pairs;
use crate::payload::{self, Plan};
use crate::records::Records;
use crate::reply::{Outcome, Reply};
use crate::requests::{Held, Requests, Streaming};
use crate::stats::{Counter, Stats};
use crate::unknown::{Client, Unknown};
use crate::warnings::{Warning, Warnings};
use capability::{LookupId, Token, Uid};
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
/// Between failed polls of the feed: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Without a single body callback in a worker's life, a request whose body has not begun after this long is answered: either
/// its client is very slow, or Envoy was not told to call us.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// Whether Envoy asks another host of the cluster, within the same time, where one has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It does: the question may be asked twice, and its answer takes no time.
    Yes,
    /// It does not: the answer may be held back for nearly as long as there is time.
    No,
}

/// What the filter asks of the proxy it runs in.
pub trait Host {
    /// The time, by both clocks.
    fn now(&self) -> Now;
    /// All request headers; `None` if the host gave none.
    fn request_headers(&mut self, context: ContextId) -> Option<Pairs>;
    /// Makes the request headers, which are those of `before` still, into others. `false`: the host refused, and what the request's
    /// are now is not known.
    fn set_request_headers(&mut self, context: ContextId, before: &Pairs, outgoing: &Outgoing<'_>) -> bool;
    /// Takes one request header off.
    fn remove_request_header(&mut self, context: ContextId, name: &[u8]);
    /// Takes all request trailers off.
    fn clear_request_trailers(&mut self, context: ContextId);
    /// Bytes of the body: of what is held, or of what this callback brought.
    fn request_body(&mut self, context: ContextId, range: core::ops::Range<usize>) -> Option<Vec<u8>>;
    /// Puts `with` in place of the first `length` bytes of the body. `false`: the host refused.
    fn replace_request_body(&mut self, context: ContextId, length: usize, with: &[u8]) -> bool;
    /// Answers the request; one that is on its way upstream is broken off there.
    fn reply(&mut self, context: ContextId, reply: &Reply);
    /// The address that a request comes from, as Envoy's attribute `source.address` writes it.
    fn source(&mut self, context: ContextId) -> Option<Vec<u8>>;
    /// Lets a held request go on.
    fn resume(&mut self, context: ContextId);
    /// Asks `cluster`; the answer comes to [`Worker::on_answer`]. `None`: it could not even be sent.
    fn get(
        &mut self,
        cluster: &str,
        authority: &str,
        path: &str,
        timeout: Duration,
        again: Again,
    ) -> Option<CallId>;
    /// Reads shared data.
    fn shared(&mut self, key: &str) -> Option<Vec<u8>>;
    /// Writes shared data.
    fn set_shared(&mut self, key: &str, value: &[u8]);
    /// Keeps something of a request for access logs. Asked for only where the configuration says so.
    fn note(&mut self, context: ContextId, note: Note, value: &str);
    /// Adds to a counter.
    fn count(&mut self, counter: Counter, by: u32);
    /// Sets the gauges: entries in the cache, age of the lease in seconds.
    fn gauges(&mut self, cache_entries: u64, feed_age_seconds: u64);
    /// A lookup was answered, or failed, after this time.
    fn lookup_took(&mut self, time: Duration);
    /// Tells the operator. Never a secret, a token, or a header's value.
    fn warn(&mut self, message: &str);
}

enum Call {
    Lookup(LookupId),
    Feed,
}

struct Pending {
    waiters: Vec<ContextId>,
    /// Who asked first, and is charged if there is no such capability; none where one is confirmed that there was.
    client: Option<Client>,
    asked: Now,
    generation: feed::Generation,
    attempts: u8,
}

enum Poll {
    Idle { due: Duration, pause: Duration },
    Asked { at: Now, pause: Duration },
}

/// What became of a request that was moved on.
enum Moved {
    Waiting(Box<Exchange>),
    Sent(Streaming),
    /// To be answered so, once the body has come if the second says so.
    Refused(Reply, bool),
}

/// See the module.
pub struct Worker {
    config: Config,
    records: Records,
    cache: Cache,
    feed: Feed,
    negative: Negative,
    unknown: Unknown,
    pending: HashMap<LookupId, Pending, RandomState>,
    calls: HashMap<CallId, Call, RandomState>,
    requests: Requests,
    poll: Poll,
    warnings: Warnings,
    stats: Stats,
    body_callback_seen: bool,
    slow_first_bytes_checked: Duration,
    /// Requests of which a piece is held until the next tick.
    until_tick: Vec<ContextId>,
    /// When the first tick came.
    began: Option<Duration>,
    #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
    diagnosis: crate::diagnosis::Diagnosis,
}

impl Worker {
    /// A worker that knows nothing yet but the records of its configuration. `watcher` is random: the registry tells workers apart
    /// by it.
    pub fn new(config: Config, records: Records, watcher: [u8; 16]) -> Worker {
        Worker {
            records,
            cache: Cache::new(config.cache),
            feed: Feed::new(config.staleness, watcher),
            negative: Negative::default(),
            unknown: Unknown::new(config.registry.as_ref().map_or(0, |registry| registry.max_unknown)),
            pending: HashMap::with_hasher(RandomState::new()),
            calls: HashMap::with_hasher(RandomState::new()),
            requests: Requests::default(),
            warnings: Warnings::default(),
            poll: Poll::Idle { due: Duration::ZERO, pause: FIRST_PAUSE },
            stats: Stats::default(),
            body_callback_seen: false,
            slow_first_bytes_checked: Duration::ZERO,
            until_tick: Vec::new(),
            began: None,
            #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
            diagnosis: Default::default(),
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
            let reply = Reply::misconfigured("the request's headers cannot be read");
            return self.refuse_headers(host, context, reply, false);
        };
        let drains = !ended && is_small(incoming::announced_length(&pairs));
        let incoming = match Incoming::arrive(pairs, ended, self.config.on_missing) {
            Arrival::Refuse(reply) => return self.refuse_headers(host, context, reply, drains),
            Arrival::Pass { strip } => {
                if strip {
                    OURS.iter().for_each(|name| host.remove_request_header(context, name));
                }
                self.stats.add(Counter::Passed, 1);
                self.note_outcome(host, context, Outcome::Passed);
                if !ended {
                    self.requests.put(context, Held::Passed);
                }
                return HeadersStatus::Continue;
            }
            Arrival::Capability(incoming) => incoming,
        };
        if !self.requests.may_wait(incoming.size()) {
            return self.refuse_headers(host, context, Reply::overloaded(), drains);
        }
        let now = host.now();
        match self.begin(host, context, incoming, now) {
            Ok(Moved::Sent(streaming)) => {
                if !ended {
                    self.requests.put(context, Held::Streaming(streaming));
                }
                HeadersStatus::Continue
            }
            Ok(Moved::Waiting(exchange)) => {
                let status = exchange.hold();
                self.requests.put(context, Held::Waiting(exchange));
                status
            }
            Ok(Moved::Refused(reply, drains)) => self.refuse_headers(host, context, reply, drains),
            Err(reply) => self.refuse_headers(host, context, reply, drains),
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
        self.no_longer_until_tick(context);
        let Some(mut exchange) = self.requests.take_waiting(context) else {
            if ended {
                self.give_refusal(host, context);
            }
            if let Some(streaming) = self.requests.take_streaming(context) {
                return self.stream(host, context, streaming, size, ended);
            }
            if let Some(closing) = self.requests.take_closing(context) {
                return self.end_closing(host, context, closing, ended);
            }
            return match self.requests.get(context) {
                Some(Held::Passed) => DataStatus::Continue,
                Some(Held::Refusing(..)) => {
                    self.body_callback_seen = true;
                    DataStatus::StopNoBuffer
                }
                // Answered by us, or never seen: nothing of it goes on.
                _ => DataStatus::StopNoBuffer,
            };
        };
        self.body_callback_seen = true;
        exchange.on_body(size, ended);
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.requests.put(context, Held::Waiting(exchange));
                DataStatus::StopAndBuffer
            }
            Moved::Sent(streaming) => self.pass(host, context, streaming, size, ended),
            Moved::Refused(reply, drains) => {
                self.refuse(host, context, reply, drains);
                DataStatus::StopNoBuffer
            }
        }
    }

    /// The body ended with trailers; they are dropped.
    pub fn on_request_trailers(&mut self, host: &mut impl Host, context: ContextId) -> TrailersStatus {
        self.no_longer_until_tick(context);
        let Some(mut exchange) = self.requests.take_waiting(context) else {
            self.give_refusal(host, context);
            if let Some(streaming) = self.requests.take_streaming(context) {
                return self.end_with_trailers(host, context, streaming);
            }
            if let Some(closing) = self.requests.take_closing(context) {
                return self.end_closing_with_trailers(host, context, closing);
            }
            return match self.requests.get(context) {
                Some(Held::Passed) => TrailersStatus::Continue,
                _ => TrailersStatus::Stop,
            };
        };
        exchange.on_trailers();
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.requests.put(context, Held::Waiting(exchange));
                TrailersStatus::Stop
            }
            // It was held whole, and what of it leaves stands in the host's buffer.
            Moved::Sent(_) => TrailersStatus::Continue,
            Moved::Refused(reply, drains) => {
                self.refuse(host, context, reply, drains);
                TrailersStatus::Stop
            }
        }
    }

    /// The request is over, in whatever way.
    pub fn on_delete(&mut self, context: ContextId) {
        // A lookup that it waits for goes on: others may wait for it too, and it belongs to the worker.
        self.requests.remove(context);
        self.no_longer_until_tick(context);
        #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
        self.diagnosis.forget(context);
    }

    /// A new configuration for requests that are under way: what waits is answered 503, since it was judged by the old one;
    /// what streams goes on, and is judged by the new worker at its end.
    pub fn reconfigured(
        mut self,
        host: &mut impl Host,
        config: Config,
        records: Records,
        watcher: [u8; 16],
    ) -> Worker {
        let waiting: Vec<ContextId> = self.requests.iter().map(|(context, _)| context).collect();
        self.answer_all(host, waiting, &Reply::unavailable());
        let mut worker = Worker::new(config, records, watcher);
        worker.requests = self.requests;
        worker.until_tick = self.until_tick;
        worker.stats = self.stats;
        #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
        {
            worker.diagnosis = self.diagnosis;
        }
        worker
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
    ///
    /// And let go on what was held until now. After a request that was held within its body is let go, Envoy moves the body's next
    /// piece into its buffer, and loses it if that is then let pass, unless it has the fix of envoyproxy/envoy#46842: it is held,
    /// and goes on with the piece that follows, or now.
    pub fn on_tick(&mut self, host: &mut impl Host) {
        let now = host.now();
        for context in core::mem::take(&mut self.until_tick) {
            host.resume(context);
        }
        if let Poll::Idle { due, pause } = self.poll
            && now.monotonic >= due
            && self.config.registry.is_some()
        {
            self.ask_feed(host, now, pause);
        }
        for (counter, by) in self.stats.take() {
            host.count(counter, by);
        }
        // Without an answer yet, the age is the worker's own.
        let began = *self.began.get_or_insert(now.monotonic);
        let since = self.feed.leased().map_or(began, |sent| sent.monotonic);
        let age = match self.config.registry {
            Some(_) => now.monotonic.saturating_sub(since).as_secs(),
            None => 0,
        };
        host.gauges(self.cache.len() as u64, age);
        if !self.body_callback_seen
            && now.monotonic.saturating_sub(self.slow_first_bytes_checked) >= FIRST_BYTE / 15
        {
            self.slow_first_bytes_checked = now.monotonic;
            self.refuse_missing_bodies(host, now);
        }
    }

    /// What follows takes along what is held.
    fn no_longer_until_tick(&mut self, context: ContextId) {
        self.until_tick.retain(|other| *other != context);
    }

    /// Asked while no body callback was ever seen: of what awaits one, nothing has come.
    fn refuse_missing_bodies(&mut self, host: &mut impl Host, now: Now) {
        let late: Vec<ContextId> = self
            .requests
            .iter()
            .filter(|(_, held)| match held {
                Held::Waiting(exchange) => {
                    exchange.awaits_body_callback() && !now.is_within(&exchange.since, FIRST_BYTE)
                }
                Held::Refusing(_, since) => !now.is_within(since, FIRST_BYTE),
                _ => false,
            })
            .map(|(context, _)| context)
            .collect();
        for context in late {
            self.warnings.warn(
                host,
                Warning::LateBody,
                now.monotonic,
                "a request's body has not begun to arrive, and none ever has in this worker: if this happens to every request \
                 with a body, set allow_on_headers_stop_iteration: true in the filter's Envoy plugin configuration",
            );
            self.answer(host, context, &Reply::body_missing());
            self.requests.put(context, Held::Answered);
        }
    }

    fn answer(&mut self, host: &mut impl Host, context: ContextId, reply: &Reply) {
        self.stats.add(reply.outcome.into(), 1);
        self.note_outcome(host, context, reply.outcome);
        host.reply(context, reply);
    }

    fn refuse_headers(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        reply: Reply,
        drains: bool,
    ) -> HeadersStatus {
        self.refuse(host, context, reply, drains);
        HeadersStatus::Stop
    }

    fn note_outcome(&self, host: &mut impl Host, context: ContextId, outcome: Outcome) {
        if self.config.access_log {
            host.note(context, Note::Outcome, noted::outcome(outcome));
        }
    }

    fn note_capability(
        &self,
        host: &mut impl Host,
        context: ContextId,
        lookup: LookupId,
        membrane: Option<Uid>,
    ) {
        if self.config.access_log {
            host.note(context, Note::Capability, &noted::hashed(&lookup.0));
            if let Some(membrane) = membrane {
                host.note(context, Note::Membrane, &noted::hashed(&membrane.0));
            }
        }
    }

    /// Answers now, or once the body has come that `drains` tells to wait for.
    fn refuse(&mut self, host: &mut impl Host, context: ContextId, reply: Reply, drains: bool) {
        if drains {
            let now = host.now();
            self.requests.put(context, Held::Refusing(Box::new(reply), now));
        } else {
            self.answer(host, context, &reply);
            self.requests.put(context, Held::Answered);
        }
    }

    /// The body of a request that is being refused has come.
    fn give_refusal(&mut self, host: &mut impl Host, context: ContextId) {
        if let Some(reply) = self.requests.take_refusal(context) {
            self.answer(host, context, &reply);
        }
    }

    /// A request with a bearer: from the worker's own cache, from shared data, or by a lookup.
    fn begin(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: Incoming,
        now: Now,
    ) -> Result<Moved, Reply> {
        if let Some(opened) = self.records.get(incoming.bearer()) {
            return self.begin_configured(host, context, incoming, opened, now);
        }
        let lease = self.lease(&now);
        if let Some(proof) = lease
            && let Some(cached) = self.cache.get(incoming.bearer())
        {
            return self.begin_cached(host, context, incoming, cached, proof, now);
        }
        let token = Token::parse(incoming.bearer()).map_err(|_| Reply::unauthorized())?;
        let lookup = token.lookup_id();
        self.note_capability(host, context, lookup, None);
        if let Some(opened) = self.records.open(&token, lookup, now.wall.as_secs()) {
            return self.begin_configured(host, context, incoming, opened, now);
        }
        if self.config.registry.is_none() || self.negative.contains(&lookup, now.monotonic) {
            return Err(Reply::unauthorized());
        }
        if let Some(proof) = lease
            && let Some(cached) = self.read_slot(host, &token, lookup, &now)
        {
            return self.begin_cached(host, context, incoming, cached, proof, now);
        }
        let client = Client::parse(&host.source(context).unwrap_or_default());
        if self.unknown.is_spent(client, now.monotonic) {
            return Err(Reply::too_many_unknown());
        }
        let exchange = Box::new(Exchange::resolving(incoming, lookup, token, now, self.config.max_body));
        self.await_lookup(host, context, lookup, Some(client), now)?;
        Ok(Moved::Waiting(exchange))
    }

    /// What proves the life of all that is cached: the feed's last answer, while it is good. None: nothing cached counts.
    fn lease(&self, now: &Now) -> Option<Proof> {
        let (as_of, asked) = (self.feed.position()?, self.feed.leased()?);
        self.feed.is_current(now).then_some(Proof { as_of, asked, generation: self.feed.generation() })
    }

    fn begin_configured(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: Incoming,
        opened: Rc<Opened>,
        now: Now,
    ) -> Result<Moved, Reply> {
        let proof = Proof::configured(now, self.feed.generation());
        self.begin_cached(host, context, incoming, Cached::Grant(opened), proof, now)
    }

    fn begin_cached(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: Incoming,
        cached: Cached,
        proof: Proof,
        now: Now,
    ) -> Result<Moved, Reply> {
        let opened = match cached {
            Cached::Control => {
                // Its id is not kept, since nothing but a log would want it.
                if self.config.access_log
                    && let Ok(token) = Token::parse(incoming.bearer())
                {
                    self.note_capability(host, context, token.lookup_id(), None);
                }
                return self.forward_control(host, context, &incoming);
            }
            Cached::Grant(opened) => opened,
        };
        self.note_capability(host, context, opened.lookup(), opened.membrane());
        if matches!(self.judge(&opened, &proof, &now), Life::Dead) {
            self.cache.forget(incoming.bearer());
            return Err(Reply::unauthorized());
        }
        let plan = self.plan(host, &incoming, &opened, now)?;
        let exchange = Box::new(Exchange::ready(incoming, opened, plan, proof, now));
        Ok(self.advance(host, context, exchange))
    }

    /// Whether a grant allows this request, as far as its headers tell, and what is then done with its body.
    fn plan(
        &mut self,
        host: &mut impl Host,
        incoming: &Incoming,
        opened: &Opened,
        now: Now,
    ) -> Result<Plan, Reply> {
        outgoing::check(incoming, opened)?;
        let plan = payload::plan(incoming, opened, self.config.max_body)?;
        if matches!(plan, Plan::Pinned) && !self.config.pinned_bodies {
            let message = "a capability with a pinned body was used: set pinned_bodies: true in the filter's configuration, and put \
                           the stage behind it that adds the body (README, pinned bodies)";
            self.warnings.warn(host, Warning::PinnedBody, now.monotonic, message);
            return Err(Reply::misconfigured(
                "this gateway is not set up for capabilities with a pinned body",
            ));
        }
        Ok(plan)
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
                                plan,
                                payload,
                                length,
                                now.wall.as_secs(),
                                max_timeout,
                            );
                            match built {
                                Ok((_, passing)) if !self.requests.may_pass(opened, &passing) => {
                                    Reply::overloaded()
                                }
                                Ok((outgoing, passing)) => {
                                    let trailers = exchange.has_trailers();
                                    let streaming = Streaming {
                                        passing,
                                        life: Some((Rc::clone(opened), *proof)),
                                        left: exchange.announced(),
                                        moved: false,
                                    };
                                    if self.send(
                                        host,
                                        context,
                                        &exchange.incoming,
                                        &outgoing,
                                        trailers,
                                        Outcome::Granted,
                                    ) {
                                        #[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
                                        self.diagnosis.keep(
                                            context,
                                            crate::diagnosis::Signed::of(&outgoing, opened, payload),
                                        );
                                        return Moved::Sent(streaming);
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
                                    match self.await_lookup(host, context, lookup, None, now) {
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
            return Moved::Refused(reply, exchange.drains());
        }
    }

    fn send(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: &Incoming,
        outgoing: &Outgoing<'_>,
        trailers: bool,
        outcome: Outcome,
    ) -> bool {
        if !host.set_request_headers(context, incoming.pairs(), outgoing) {
            return false;
        }
        if trailers {
            host.clear_request_trailers(context);
        }
        self.stats.add(outcome.into(), 1);
        self.note_outcome(host, context, outcome);
        self.stats.add(Counter::HeadersDropped, outgoing.dropped);
        true
    }

    fn forward_control(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        incoming: &Incoming,
    ) -> Result<Moved, Reply> {
        let registry = self.config.registry.as_ref().ok_or_else(Reply::unauthorized)?;
        let outgoing = outgoing::build_control(incoming, &registry.authority)?;
        if self.send(host, context, incoming, &outgoing, false, Outcome::Control) {
            Ok(Moved::Sent(Streaming::control()))
        } else {
            Err(Reply::bad_request("the request's headers are too large"))
        }
    }

    /// For how long a lookup's answer counts by itself, from when it was asked for.
    fn answers_admit_for(&self) -> Duration {
        let timeout = self.config.registry.as_ref().map_or(Duration::ZERO, |registry| registry.timeout);
        timeout.min(self.feed.staleness())
    }

    /// Whether a grant is alive at `now`, as far as is known.
    fn judge(&self, opened: &Opened, proof: &Proof, now: &Now) -> Life {
        if opened.is_expired(now.wall.as_secs()) {
            return Life::Dead;
        }
        if opened.is_configured() {
            return Life::Alive;
        }
        let verdict = self.feed.verdict(opened.units(), &proof.as_of, proof.generation);
        // Without a lease what the worker was told just now admits the request that asked, and nothing later: for so long, which
        // the question said, a revocation waits for it.
        let answer_is_fresh = now.is_within(&proof.asked, self.answers_admit_for());
        match verdict {
            Verdict::Revoked => Life::Dead,
            Verdict::Clean if self.feed.is_current(now) || answer_is_fresh => Life::Alive,
            Verdict::NoPosition if answer_is_fresh => Life::Alive,
            Verdict::Clean | Verdict::NoPosition | Verdict::Gap => Life::Unknown,
        }
    }

    /// Moves a request on outside its own callbacks: what goes on must be resumed.
    fn move_held(&mut self, host: &mut impl Host, context: ContextId, exchange: Box<Exchange>) {
        let (held, complete, moved) = (exchange.held(), exchange.is_complete(), exchange.is_within_body());
        match self.advance(host, context, exchange) {
            Moved::Waiting(exchange) => {
                self.requests.put(context, Held::Waiting(exchange));
            }
            // What was held does not come again.
            Moved::Sent(streaming) => {
                let streaming = Streaming { moved, ..streaming };
                if self.pass(host, context, streaming, held, complete) == DataStatus::Continue {
                    host.resume(context);
                }
            }
            Moved::Refused(reply, drains) => self.refuse(host, context, reply, drains),
        }
    }
}

enum Life {
    Alive,
    Dead,
    Unknown,
}
