//! Bodies that stream: what is done with their bytes once their request is on its way.
//!
//! A capability's life is judged again while its body passes: what the feed has said is looked at with every piece, everything
//! with the piece that makes the body whole. A dead one's request ends there, so that upstream never has a whole.

use super::{ContextId, Held, Host, Life, Worker};
use crate::abi_numbers::{DataStatus, TrailersStatus};
use crate::exchange::{Proof, SLICE};
use crate::feed::Verdict;
use crate::opened::Opened;
use crate::passing::Passing;
use crate::reply::Reply;
use crate::requests::{Closing, Streaming};
use std::rc::Rc;

impl Worker {
    /// More of a body that streams has come.
    pub(super) fn stream(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        mut streaming: Streaming,
        size: usize,
        ended: bool,
    ) -> DataStatus {
        let last = ended || is_rest(&streaming, size);
        let moved = core::mem::take(&mut streaming.moved) && size > 0;
        let life = match self.judge_streaming(host, &mut streaming, last) {
            // It goes on later than now, so that it must be alive then: a lookup's answer says so, and lets it go on.
            Life::Alive if moved && last && streaming.life.is_some() => Life::Unknown,
            life => life,
        };
        match life {
            Life::Alive => match self.pass(host, context, streaming, size, ended) {
                DataStatus::Continue if moved => {
                    self.until_tick.push(context);
                    DataStatus::StopAndWatermark
                }
                status => status,
            },
            Life::Dead => {
                self.refuse(host, context, Reply::unauthorized(), false);
                DataStatus::StopNoBuffer
            }
            Life::Unknown => {
                let held = take_through(host, context, streaming.passing, size, ended);
                self.hold_end(host, context, streaming.life, held, false);
                match self.requests.get(context) {
                    Some(Held::Closing(_)) => DataStatus::StopAndBuffer,
                    _ => DataStatus::StopNoBuffer,
                }
            }
        }
    }

    /// Takes the `size` bytes that the host has through; `ended`: and that is all of the body. A fault ends the request at once:
    /// what upstream has so far is not a whole body, by its length or by its framing.
    pub(super) fn pass(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        streaming: Streaming,
        size: usize,
        ended: bool,
    ) -> DataStatus {
        let Streaming { passing, life, left, moved } = streaming;
        match take_through(host, context, passing, size, ended) {
            Ok(None) => DataStatus::Continue,
            Ok(Some(passing)) => {
                let left = left.map(|left| left.saturating_sub(size));
                self.requests.put(context, Held::Streaming(Streaming { passing, life, left, moved }));
                DataStatus::Continue
            }
            Err(reply) => {
                self.refuse(host, context, reply, false);
                DataStatus::StopNoBuffer
            }
        }
    }

    /// The body ended with trailers of HTTP's own, which are dropped. Nothing can be added to the body any more.
    pub(super) fn end_with_trailers(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        mut streaming: Streaming,
    ) -> TrailersStatus {
        match self.judge_streaming(host, &mut streaming, true) {
            Life::Alive => match finish_before_trailers(streaming.passing) {
                Ok(()) => {
                    host.clear_request_trailers(context);
                    return TrailersStatus::Continue;
                }
                Err(reply) => self.refuse(host, context, reply, false),
            },
            Life::Dead => self.refuse(host, context, Reply::unauthorized(), false),
            Life::Unknown => {
                let held = finish_before_trailers(streaming.passing).map(|()| None);
                self.hold_end(host, context, streaming.life, held, true);
            }
        }
        TrailersStatus::Stop
    }

    /// Whether a body may go on; `last`: with the piece that makes it whole. What upstream has whole already is over.
    fn judge_streaming(&self, host: &mut impl Host, streaming: &mut Streaming, last: bool) -> Life {
        if streaming.is_whole() {
            return Life::Alive;
        }
        let Some((opened, proof)) = &mut streaming.life else { return Life::Alive };
        match self.feed.verdict(opened.units(), &proof.as_of, proof.generation) {
            Verdict::Revoked => return Life::Dead,
            // It is alive where the worker stands now: so that a long body does not fall out of the window of what was heard.
            Verdict::Clean => {
                if let (Some(as_of), Some(asked)) = (self.feed.position(), self.feed.leased())
                    && as_of.seq > proof.as_of.seq
                {
                    *proof = Proof { as_of, asked, generation: self.feed.generation() };
                }
            }
            Verdict::Gap | Verdict::NoPosition => {}
        }
        if last { self.judge(opened, proof, &host.now()) } else { Life::Alive }
    }

    /// Keeps the end of a body until a lookup says whether its capability lives. `held`: what passes on after it, or why it is
    /// refused all the same.
    fn hold_end(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        life: Option<(Rc<Opened>, Proof)>,
        held: Result<Option<Passing>, Reply>,
        trailers: bool,
    ) {
        let now = host.now();
        let begun = held.and_then(|passing| {
            let (opened, _) = life.ok_or_else(Reply::unavailable)?;
            self.await_lookup(host, context, opened.lookup(), None, now)?;
            Ok(Closing { opened, passing, trailers })
        });
        match begun {
            Ok(closing) => self.requests.put(context, Held::Closing(Box::new(closing))),
            Err(reply) => self.refuse(host, context, reply, false),
        }
    }

    /// The end of a body follows its last piece, which is held: nothing more may come.
    pub(super) fn end_closing(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        mut closing: Box<Closing>,
        ended: bool,
    ) -> DataStatus {
        if ended && let Some(passing) = closing.passing.take() {
            // Such a body is not rewritten: nothing is added to it.
            if let Err(fault) = passing.finish(&mut Vec::new()) {
                self.refuse(host, context, Reply::broken_body(fault), false);
                return DataStatus::StopNoBuffer;
            }
        }
        self.requests.put(context, Held::Closing(closing));
        DataStatus::StopAndBuffer
    }

    /// Likewise, with trailers.
    pub(super) fn end_closing_with_trailers(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        mut closing: Box<Closing>,
    ) -> TrailersStatus {
        closing.trailers = true;
        match closing.passing.take().map_or(Ok(()), finish_before_trailers) {
            Ok(()) => self.requests.put(context, Held::Closing(closing)),
            Err(reply) => self.refuse(host, context, reply, false),
        }
        TrailersStatus::Stop
    }

    /// The capability lives, by `proof`: lets the end go on.
    pub(super) fn close(&mut self, host: &mut impl Host, context: ContextId, closing: Closing, proof: Proof) {
        let Closing { opened, passing, trailers } = closing;
        if let Some(passing) = passing {
            // Nothing but the end should follow; whatever does was held before it, too.
            let streaming = Streaming { passing, life: Some((opened, proof)), left: Some(0), moved: true };
            self.requests.put(context, Held::Streaming(streaming));
        }
        if trailers {
            host.clear_request_trailers(context);
        }
        host.resume(context);
    }
}

/// Whether `size` bytes are the rest of a body that goes on as it came: with them upstream has all of it, although its end may
/// be said later. One that is rewritten is whole with its end alone.
fn is_rest(streaming: &Streaming, size: usize) -> bool {
    !streaming.passing.rewrites() && streaming.left.is_some_and(|left| left <= size)
}

fn finish_before_trailers(passing: Passing) -> Result<(), Reply> {
    let mut rest = Vec::new();
    passing.finish(&mut rest).map_err(Reply::broken_body)?;
    if rest.is_empty() {
        Ok(())
    } else {
        let message = "a body that is signed in chunks must not end with trailers of HTTP's own";
        Err(Reply::bad_request(message))
    }
}

/// What passes on after these bytes; none after the end.
fn take_through(
    host: &mut impl Host,
    context: ContextId,
    mut passing: Passing,
    size: usize,
    ended: bool,
) -> Result<Option<Passing>, Reply> {
    if !passing.looks() {
        return Ok((!ended).then_some(passing));
    }
    let rewrites = passing.rewrites();
    let mut out = Vec::new();
    let mut at = 0;
    while at < size {
        let range = at..size.min(at.saturating_add(SLICE));
        let wanted = range.len();
        let bytes = host.request_body(context, range).filter(|bytes| bytes.len() == wanted);
        let bytes = bytes.ok_or_else(|| Reply::misconfigured("the request's body cannot be read"))?;
        passing.push(&bytes, &mut out).map_err(Reply::broken_body)?;
        at += wanted;
    }
    let rest = if ended {
        passing.finish(&mut out).map_err(Reply::broken_body)?;
        None
    } else {
        Some(passing)
    };
    // Before any of the body has come the host has no buffer to write to, and nothing needs to be written.
    let changed = rewrites && (size > 0 || !out.is_empty());
    if changed && !host.replace_request_body(context, size, &out) {
        return Err(Reply::misconfigured("the request's body cannot be replaced"));
    }
    Ok(rest)
}
