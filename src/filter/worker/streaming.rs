//! Bodies that stream: what is done with their bytes once their request is on its way.

use super::{ContextId, Held, Host, Worker};
use crate::abi_numbers::{DataStatus, TrailersStatus};
use crate::exchange::SLICE;
use crate::passing::Passing;
use crate::reply::Reply;

impl Worker {
    /// Takes the `size` bytes that the host has through `passing`; `ended`: and that is all of the body. A fault ends the request
    /// at once: what upstream has so far is not a whole body, by its length or by its framing.
    pub(super) fn pass(
        &mut self,
        host: &mut impl Host,
        context: ContextId,
        passing: Passing,
        size: usize,
        ended: bool,
    ) -> DataStatus {
        match take_through(host, context, passing, size, ended) {
            Ok(None) => DataStatus::Continue,
            Ok(Some(passing)) => {
                self.requests.put(context, Held::Streaming(passing));
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
        passing: Passing,
    ) -> TrailersStatus {
        let mut rest = Vec::new();
        let reply = match passing.finish(&mut rest) {
            Ok(()) if rest.is_empty() => {
                host.clear_request_trailers(context);
                return TrailersStatus::Continue;
            }
            Ok(()) => {
                Reply::bad_request("a body that is signed in chunks must not end with trailers of HTTP's own")
            }
            Err(fault) => Reply::broken_body(fault),
        };
        self.refuse(host, context, reply, false);
        TrailersStatus::Stop
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
