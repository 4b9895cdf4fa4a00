//! Asking what a bearer stands for: shared data first, then the registry, one call in flight however many requests wait.

use super::{Again, Call, ContextId, Host, Life, Pending, Worker};
use crate::cache::Cached;
use crate::exchange::{Proof, Stage};
use crate::feed::{Now, Verdict};
use crate::lookup::{Answer, Found, Sealed};
use crate::opened::Opened;
use crate::reply::Reply;
use crate::requests::{Held, Streaming};
use crate::slots;
use crate::stats::Counter;
use crate::unknown::Client;
use crate::warnings::Warning;
use capability::{LookupId, Token};
use std::rc::Rc;

/// How often a lookup is sent whose answer was overtaken by the feed, or that failed at once.
const MAX_ATTEMPTS: u8 = 3;
/// Of these, how often one that failed at once.
const MAX_FAILURES: u8 = 2;

impl Worker {
    /// What another worker of this Envoy left about `lookup`, if it is authentic and nothing of it was revoked since. Asked for
    /// under a lease alone.
    pub(super) fn read_slot(
        &mut self,
        host: &mut impl Host,
        token: &Token,
        lookup: LookupId,
        now: &Now,
    ) -> Option<Cached> {
        let slot_key = self.feed.slot_key().filter(|_| self.config.shared_data)?;
        let slot = host.shared(&slots::key(&lookup))?;
        let answer = Answer::parse(200, slots::open(slot_key, &lookup, &slot)?)?;
        let cached = match answer.found? {
            Found::Control => Cached::Control,
            Found::Grant(sealed) => {
                let opened = sealed.open(token, now.wall.as_secs())?;
                let clean = self.feed.verdict(opened.units(), &answer.as_of, self.feed.generation())
                    == Verdict::Clean;
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
    pub(super) fn await_lookup(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        lookup: LookupId,
        client: Option<Client>,
        now: Now,
    ) -> Result<(), Reply> {
        if let Some(pending) = self.pending.get_mut(&lookup) {
            pending.waiters.push(context);
            return Ok(());
        }
        let most = self.config.registry.as_ref().map_or(0, |registry| registry.max_lookups);
        if self.pending.len() >= most {
            return Err(Reply::unavailable());
        }
        self.ask_registry(
            host,
            lookup,
            Pending {
                waiters: vec![context],
                client,
                asked: now,
                generation: self.feed.generation(),
                attempts: 1,
            },
        )
        .map_err(|_| Reply::unavailable())
    }

    /// Sends a lookup; `Err` gives the waiters back.
    pub(super) fn ask_registry(
        &mut self,
        host: &mut impl Host,
        lookup: LookupId,
        pending: Pending,
    ) -> Result<(), Pending> {
        let Some(registry) = &self.config.registry else { return Err(pending) };
        let path = format!("/v1/records/{lookup}?{}", self.feed.reader(self.answers_admit_for()));
        match host.get(&registry.cluster, &registry.authority, &path, registry.timeout, Again::Yes) {
            Some(call) => {
                self.calls.insert(call, Call::Lookup(lookup));
                self.pending.insert(lookup, pending);
                Ok(())
            }
            None => {
                self.stats.add(Counter::LookupFailed, 1);
                let why = "a lookup could not be sent: registry.cluster is not the name of an Envoy cluster, or none of its hosts is up";
                self.warnings.warn(host, Warning::LookupUnsent, pending.asked.monotonic, why);
                Err(pending)
            }
        }
    }

    pub(super) fn on_lookup(
        &mut self,
        host: &mut impl Host,
        lookup: LookupId,
        status: Option<u16>,
        body: &[u8],
    ) {
        let Some(mut pending) = self.pending.remove(&lookup) else { return };
        let now = host.now();
        host.lookup_took(now.monotonic.saturating_sub(pending.asked.monotonic));
        let Some(answer) = status.and_then(|status| Answer::parse(status, body)) else {
            self.stats.add(Counter::LookupFailed, 1);
            let status = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
            self.warnings.warn(
                host,
                Warning::LookupFailed,
                now.monotonic,
                &format!("a lookup failed ({status})"),
            );
            // A connection that the registry had just closed is worth one more try; a registry that does not answer is not.
            let at_once = now.is_within(&pending.asked, self.answers_admit_for() / 2);
            if at_once && pending.attempts < MAX_FAILURES {
                pending.attempts += 1;
                pending.asked = now;
                pending.generation = self.feed.generation();
                if let Err(pending) = self.ask_registry(host, lookup, pending) {
                    self.answer_all(host, pending.waiters, &Reply::unavailable());
                }
            } else {
                self.answer_all(host, pending.waiters, &Reply::unavailable());
            }
            return;
        };
        self.hasten_feed(now);
        match &answer.found {
            None => {
                self.stats.add(Counter::LookupUnknown, 1);
                if let Some(client) = pending.client {
                    self.unknown.charge(client, now.monotonic);
                }
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
                let proof =
                    Proof { as_of: answer.as_of, asked: pending.asked, generation: pending.generation };
                self.leave_slot(host, &lookup, &now, body);
                self.resume_grants(host, lookup, sealed, proof, pending, now);
            }
        }
    }

    /// The record came: opens it for each request with the token that this request presents, and moves the request on.
    pub(super) fn resume_grants(
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
            if let Some(closing) = self.requests.take_closing(context) {
                match self.judge(&closing.opened, &proof, &now) {
                    Life::Alive => self.close(host, context, *closing, proof),
                    Life::Dead => self.refuse(host, context, Reply::unauthorized(), false),
                    Life::Unknown => {
                        self.requests.put(context, Held::Closing(closing));
                        overtaken.push(context);
                    }
                }
                continue;
            }
            let Some(mut exchange) = self.requests.take_waiting(context) else { continue };
            let Stage::Resolving { token, .. } = &exchange.stage else {
                self.requests.put(context, Held::Waiting(exchange));
                continue;
            };
            // The commitment in the record makes a second token with the same lookup id fail here.
            let opened = match first.as_ref().filter(|_| token.lookup_id() == lookup) {
                Some(opened) => Rc::clone(opened),
                None => match sealed.open(token, now.wall.as_secs()) {
                    Some(opened) => Rc::new(opened),
                    None => {
                        self.refuse(host, context, Reply::unauthorized(), exchange.drains());
                        continue;
                    }
                },
            };
            self.note_capability(host, context, lookup, opened.membrane());
            if first.is_none() {
                first = Some(Rc::clone(&opened));
                if self.feed.verdict(opened.units(), &proof.as_of, proof.generation) == Verdict::Clean
                    && !opened.is_expired(now.wall.as_secs())
                    && let Ok(token) = Token::parse(token.expose().as_bytes())
                {
                    self.cache.insert(token, Cached::Grant(Rc::clone(&opened)));
                }
            }
            match self.judge(&opened, &proof, &now) {
                Life::Alive => {}
                Life::Dead => {
                    self.refuse(host, context, Reply::unauthorized(), exchange.drains());
                    continue;
                }
                Life::Unknown => {
                    self.requests.put(context, Held::Waiting(exchange));
                    overtaken.push(context);
                    continue;
                }
            }
            let plan = self.plan(host, &exchange.incoming, &opened, now);
            match plan.and_then(|plan| exchange.on_opened(opened, plan, proof)) {
                Ok(()) => self.move_held(host, context, exchange),
                Err(reply) => {
                    self.refuse(host, context, reply, exchange.drains());
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
        let again = Pending {
            waiters: overtaken,
            client: None,
            asked: now,
            generation: self.feed.generation(),
            attempts: pending.attempts + 1,
        };
        if let Err(pending) = self.ask_registry(host, lookup, again) {
            self.answer_all(host, pending.waiters, &Reply::unavailable());
        }
    }

    pub(super) fn resume_control(&mut self, host: &mut impl Host, context: ContextId) {
        let Some(exchange) = self.requests.take_waiting(context) else {
            // What was a grant is none any more.
            self.answer_all(host, vec![context], &Reply::unauthorized());
            return;
        };
        if let Ok(token) = Token::parse(exchange.incoming.bearer()) {
            self.cache.insert(token, Cached::Control);
        }
        match self.forward_control(host, context, &exchange.incoming) {
            Ok(_) => {
                if !exchange.is_complete() {
                    let moved = exchange.is_within_body();
                    let streaming = Streaming { moved, ..Streaming::control() };
                    self.requests.put(context, Held::Streaming(streaming));
                }
                if exchange.has_trailers() {
                    host.clear_request_trailers(context);
                }
                host.resume(context);
            }
            Err(reply) => {
                self.refuse(host, context, reply, exchange.drains());
            }
        }
    }

    pub(super) fn answer_all(&mut self, host: &mut impl Host, waiters: Vec<ContextId>, reply: &Reply) {
        for context in waiters {
            if let Some(exchange) = self.requests.take_waiting(context) {
                self.refuse(host, context, reply.clone(), exchange.drains());
            } else if self.requests.take_closing(context).is_some() {
                self.refuse(host, context, reply.clone(), false);
            }
        }
    }

    pub(super) fn leave_slot(&mut self, host: &mut impl Host, lookup: &LookupId, now: &Now, answer: &[u8]) {
        if !self.config.shared_data || !self.feed.is_current(now) {
            return;
        }
        if let Some(slot) = self.feed.slot_key().and_then(|key| slots::seal(key, lookup, answer)) {
            host.set_shared(&slots::key(lookup), &slot);
        }
    }
}
