//! The requests that are not over: which wait, which stream, which were answered.

use crate::exchange::{Exchange, Proof};
use crate::feed::Now;
use crate::opened::Opened;
use crate::passing::Passing;
use crate::reply::Reply;
use crate::worker::ContextId;
use hashbrown::HashMap;
use std::hash::RandomState;
use std::rc::Rc;

/// A request that is on its way, and its body as far as it is not.
pub(crate) struct Streaming {
    /// How the body passes.
    pub(crate) passing: Passing,
    /// What lets it pass, and what its life was last judged by; none for a control, which the registry judges.
    pub(crate) life: Option<(Rc<Opened>, Proof)>,
    /// How much of the body is still to come, where that was announced.
    pub(crate) left: Option<usize>,
}

impl Streaming {
    /// A control request's body.
    pub(crate) fn control() -> Streaming {
        Streaming { passing: Passing::AsItIs, life: None, left: None }
    }

    /// Whether upstream has all of it, and only the end is to be said.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == Some(0) && !self.passing.rewrites()
    }
}

/// Where a request stands that is not over.
pub(crate) enum Held {
    /// Waiting for a record or for its body.
    Waiting(Box<Exchange>),
    /// Signed, its body streaming.
    Streaming(Streaming),
    /// The same, but the piece that makes the body whole is held, since whether its capability lives is being looked up.
    Closing(Box<Closing>),
    /// Without a bearer, let through.
    Passed,
    /// To be answered by us once its body, which is small, has come and been thrown away.
    Refusing(Box<Reply>, Now),
    /// Answered by us.
    Answered,
}

/// A body whose last piece is held.
pub(crate) struct Closing {
    /// Whose life is looked up.
    pub(crate) opened: Rc<Opened>,
    /// What still passes when it goes on; none if all has come.
    pub(crate) passing: Option<Passing>,
    /// It ended with trailers, which are dropped.
    pub(crate) trailers: bool,
}

impl Held {
    /// The same from beginning to end of its stay: what was added is subtracted.
    fn size(&self) -> usize {
        match self {
            Held::Waiting(exchange) => exchange.size(),
            Held::Streaming(streaming) if streaming.passing.looks() => streaming.passing.size(),
            Held::Streaming(_) | Held::Closing(_) | Held::Passed | Held::Refusing(..) | Held::Answered => 0,
        }
    }
}

/// The requests that are not over. What stands here and what does not decides whether bytes go on, so that an absent one
/// never does.
#[derive(Default)]
pub(crate) struct Requests {
    held: HashMap<ContextId, Held, RandomState>,
    bytes: usize,
}

impl Requests {
    /// Where a request stands.
    pub(crate) fn get(&self, context: ContextId) -> Option<&Held> {
        self.held.get(&context)
    }

    /// The answer of a request that is being refused, which is now given.
    pub(crate) fn take_refusal(&mut self, context: ContextId) -> Option<Box<Reply>> {
        match self.held.get_mut(&context) {
            Some(held @ Held::Refusing(..)) => match core::mem::replace(held, Held::Answered) {
                Held::Refusing(reply, _) => Some(reply),
                _ => None,
            },
            _ => None,
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ContextId, &Held)> {
        self.held.iter().map(|(context, held)| (*context, held))
    }

    /// A request whose body streams; it is forgotten unless it is put back.
    pub(crate) fn take_streaming(&mut self, context: ContextId) -> Option<Streaming> {
        if !matches!(self.held.get(&context), Some(Held::Streaming(_))) {
            return None;
        }
        match self.remove(context) {
            Some(Held::Streaming(streaming)) => Some(streaming),
            _ => None,
        }
    }

    /// A request whose last piece is held; it is forgotten unless it is put back.
    pub(crate) fn take_closing(&mut self, context: ContextId) -> Option<Box<Closing>> {
        if !matches!(self.held.get(&context), Some(Held::Closing(_))) {
            return None;
        }
        match self.remove(context) {
            Some(Held::Closing(closing)) => Some(closing),
            _ => None,
        }
    }

    /// Memory that those who wait and those whose bodies are rewritten take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes where a request stands.
    pub(crate) fn put(&mut self, context: ContextId, held: Held) {
        self.remove(context);
        self.bytes += held.size();
        self.held.insert(context, held);
    }

    /// Forgets a request.
    pub(crate) fn remove(&mut self, context: ContextId) -> Option<Held> {
        let held = self.held.remove(&context)?;
        self.bytes -= held.size();
        Some(held)
    }

    /// The exchange of a request that waits; any other request stays as it is.
    pub(crate) fn take_waiting(&mut self, context: ContextId) -> Option<Box<Exchange>> {
        if !matches!(self.held.get(&context), Some(Held::Waiting(_))) {
            return None;
        }
        match self.remove(context) {
            Some(Held::Waiting(exchange)) => Some(exchange),
            _ => None,
        }
    }
}
