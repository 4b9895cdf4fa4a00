//! One request as a state machine without I/O: events in (a record, body bytes, the end), a step out. [`crate::worker`]
//! carries the steps out.

use crate::abi_numbers::HeadersStatus;
use crate::feed::{Generation, Now, Position};
use crate::incoming::Incoming;
use crate::opened::Opened;
use crate::payload::Plan;
use crate::reply::Reply;
use capability::{LookupId, Token};
use core::ops::Range;
use sha2::{Digest, Sha256};
use signing::aws4::Payload;
use std::rc::Rc;

/// How much of a held body is copied into the VM at a time. Reading a body from its beginning at each callback would be O(n²).
pub const SLICE: usize = 65_536;

/// What a capability's life was last judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The position at which it was alive.
    pub as_of: Position,
    /// When the question was sent that said so.
    pub asked: Now,
    /// In which generation of the feed that was.
    pub generation: Generation,
}

impl Proof {
    /// For what stands in the configuration: nothing can end its life but time.
    pub fn configured(now: Now, generation: Generation) -> Proof {
        Proof { as_of: Position::default(), asked: now, generation }
    }
}

/// Where an exchange stands.
#[derive(Debug)]
pub enum Stage {
    /// A lookup is under way.
    Resolving {
        /// What is looked up.
        lookup: LookupId,
        /// What opens it.
        token: Token,
    },
    /// The grant is known; the body may still be arriving.
    Ready {
        /// The grant.
        opened: Rc<Opened>,
        /// What is done with the body.
        plan: Plan,
        /// What its life was last judged by.
        proof: Proof,
    },
}

/// The body as far as Envoy holds it.
#[derive(Debug, Default)]
struct Body {
    /// Bytes that Envoy holds; cumulative while we hold.
    held: usize,
    hashed: usize,
    /// A body callback came.
    begun: bool,
    ended: bool,
    trailers: bool,
    hasher: Sha256,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Nothing until the next event.
    Wait,
    /// Read these bytes of the held body and hand them to [`Exchange::absorb`].
    Read(Range<usize>),
    /// All that the signature needs is there: judge the capability's life once more, sign, go.
    Complete {
        /// What is signed of the body.
        payload: Payload,
        /// The body's length, where it was held or will be framed by us.
        length: Option<u64>,
    },
    /// Answer and be done.
    Refuse(Reply),
}

/// One request that is being held.
#[derive(Debug)]
pub struct Exchange {
    /// As it came.
    pub incoming: Incoming,
    /// Where it stands.
    pub stage: Stage,
    /// When it came.
    pub since: Now,
    body: Body,
    /// Its headers are held in the way in which no body callback comes.
    held_whole: bool,
}

impl Exchange {
    /// A request whose bearer must be looked up.
    pub fn resolving(
        incoming: Incoming,
        lookup: LookupId,
        token: Token,
        now: Now,
        max_body: usize,
    ) -> Exchange {
        let held_whole = must_hold_whole(&incoming, max_body);
        Exchange::new(incoming, Stage::Resolving { lookup, token }, now, held_whole)
    }

    /// A request whose grant is at hand.
    pub fn ready(incoming: Incoming, opened: Rc<Opened>, plan: Plan, proof: Proof, now: Now) -> Exchange {
        Exchange::new(incoming, Stage::Ready { opened, plan, proof }, now, false)
    }

    fn new(incoming: Incoming, stage: Stage, since: Now, held_whole: bool) -> Exchange {
        let body = Body { ended: incoming.ended, ..Body::default() };
        Exchange { incoming, stage, since, body, held_whole }
    }

    /// How its headers are held.
    pub fn hold(&self) -> HeadersStatus {
        if self.held_whole { HeadersStatus::StopAllAndWatermark } else { HeadersStatus::Stop }
    }

    /// More of the body is there, `held` bytes in all; `ended`: and that is all of it.
    pub fn on_body(&mut self, held: usize, ended: bool) {
        self.body.begun = true;
        self.body.held = held;
        self.body.ended |= ended;
    }

    /// The body ended with trailers.
    pub fn on_trailers(&mut self) {
        self.body.ended = true;
        self.body.trailers = true;
    }

    /// Whether trailers came, which are dropped.
    pub fn has_trailers(&self) -> bool {
        self.body.trailers
    }

    /// The body's whole length, where the requester announced it.
    pub fn announced(&self) -> Option<usize> {
        self.incoming.content_length.and_then(|length| usize::try_from(length).ok())
    }

    /// Bytes of the body that Envoy holds.
    pub fn held(&self) -> usize {
        self.body.held
    }

    /// What it takes to hold this request, in bytes.
    pub fn size(&self) -> usize {
        self.incoming.size() + core::mem::size_of::<Exchange>()
    }

    /// Whether its body is still to come and is small enough to be waited for before a refusal.
    pub fn drains(&self) -> bool {
        !self.body.ended && !self.held_whole && is_small(self.incoming.content_length)
    }

    /// Whether its body is still to come, and is held in the way in which Envoy calls us with each piece.
    pub fn awaits_body_callback(&self) -> bool {
        !self.body.ended && !self.held_whole
    }

    /// Whether a part of its body is held, and more is to come.
    pub fn is_within_body(&self) -> bool {
        self.body.begun && !self.body.ended
    }

    /// Whether all of the request has come.
    pub fn is_complete(&self) -> bool {
        self.body.ended
    }

    /// The grant is known, and what is done with the body. `Err`: that cannot be done any more.
    pub fn on_opened(&mut self, opened: Rc<Opened>, plan: Plan, proof: Proof) -> Result<(), Reply> {
        if self.held_whole && matches!(plan, Plan::Pinned) {
            return Err(Reply::pinned_body());
        }
        if self.held_whole && matches!(plan, Plan::Hash) {
            // Held so that no byte comes before it is let go, and let go only when it is signed: it cannot be hashed any more.
            return Err(Reply::bad_request(
                "the body must be hashed here: send content-length, and no chunks",
            ));
        }
        self.stage = Stage::Ready { opened, plan, proof };
        Ok(())
    }

    /// What to do next.
    pub fn step(&self, max_body: usize) -> Step {
        let Stage::Ready { plan, opened, .. } = &self.stage else { return Step::Wait };
        let body = &self.body;
        match plan {
            Plan::Stream(_) | Plan::Check(_) | Plan::Resign(_) | Plan::Frame(_) => Step::Complete {
                payload: plan.payload().unwrap_or(Payload::Empty),
                length: plan.framed_length(),
            },
            Plan::Hash if body.held > max_body => Step::Refuse(Reply::body_too_large(max_body)),
            Plan::Hash if body.hashed < body.held => {
                Step::Read(body.hashed..body.held.min(body.hashed.saturating_add(SLICE)))
            }
            Plan::Hash if body.ended => {
                let payload = if body.hashed == 0 {
                    Payload::Empty
                } else {
                    Payload::Sha256(body.hasher.clone().finalize().into())
                };
                Step::Complete { payload, length: u64::try_from(body.hashed).ok() }
            }
            Plan::Pinned if body.held > 0 => Step::Refuse(Reply::pinned_body()),
            Plan::Pinned if body.ended => match opened.pinned_body() {
                Some((hash, length)) => {
                    Step::Complete { payload: Payload::Sha256(hash), length: Some(length) }
                }
                None => Step::Refuse(Reply::misconfigured("there is no pinned body")),
            },
            Plan::Hash | Plan::Pinned => Step::Wait,
        }
    }

    /// Takes bytes that were read for [`Step::Read`].
    pub fn absorb(&mut self, bytes: &[u8]) {
        self.body.hasher.update(bytes);
        self.body.hashed += bytes.len();
    }
}

/// A refusal before the body is read is the answer and a reset of the stream (RFC 9113 §8.1), which clients still sending
/// take for an error: curl 7.88 says so instead of showing the answer. So what is at most this long is read first.
const DRAINED: u64 = 65_536;

/// Whether a body of this announced length is read before a refusal.
pub fn is_small(content_length: Option<u64>) -> bool {
    content_length.is_some_and(|length| length <= DRAINED)
}

/// Before its payload mode is known, a body that cannot be held (its length is above our limit) or need not be (it comes with
/// its hash, length unknown) is slowed down at the client; every other is taken into Envoy's buffer, since what is to be hashed
/// must be read before the headers go on.
fn must_hold_whole(incoming: &Incoming, max_body: usize) -> bool {
    match incoming.content_length {
        _ if incoming.ended => false,
        Some(length) => usize::try_from(length).map_or(true, |length| length > max_body),
        None => incoming.promises_streaming(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnMissing;
    use crate::incoming::Arrival;
    use crate::incoming::tests::pairs;
    use core::time::Duration;

    fn incoming(headers: &[(&str, &str)], ended: bool) -> Incoming {
        let mut all = vec![("authorization", "Bearer CPBLTY1-x"), (":path", "/"), (":method", "POST")];
        all.extend(headers);
        match Incoming::arrive(pairs(&all), ended, OnMissing::Deny) {
            Arrival::Capability(incoming) => incoming,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn how_a_request_is_held_while_it_is_looked_up() {
        let sha = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        for (headers, ended, whole) in [
            (vec![], true, false),
            (vec![], false, false),
            (vec![("content-length", "1000")], false, false),
            (vec![("content-length", "1001")], false, true),
            (vec![("content-length", "18446744073709551615")], false, true),
            (vec![sha], false, true),
            (vec![sha, ("content-length", "10")], false, false),
            (vec![sha, ("content-length", "1001")], false, true),
            (vec![sha], true, false),
        ] {
            assert_eq!(must_hold_whole(&incoming(&headers, ended), 1000), whole, "{headers:?} {ended}");
        }
    }

    #[test]
    fn a_body_that_has_ended_stays_so() {
        let now = Now { wall: Duration::ZERO, monotonic: Duration::ZERO };
        let token = Token::mint([1; 64]);
        let mut exchange = Exchange::resolving(incoming(&[], false), token.lookup_id(), token, now, 1000);
        for (held, ended, complete) in [(1, false, false), (2, true, true), (2, true, true), (2, false, true)]
        {
            exchange.on_body(held, ended);
            assert_eq!(exchange.is_complete(), complete);
        }
    }
}
