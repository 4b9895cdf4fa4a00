//! The requests that are not over: which wait, which stream, which were answered.

use crate::exchange::{Exchange, Proof};
use crate::feed::Now;
use crate::opened::Opened;
use crate::passing::Passing;
use crate::reply::Reply;
use crate::worker::ContextId;
use capability::LookupId;
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
    /// Its next piece does not pass by itself: see [`crate::Worker::on_tick`].
    pub(crate) moved: bool,
}

impl Streaming {
    /// A control request's body.
    pub(crate) fn control() -> Streaming {
        Streaming { passing: Passing::AsItIs, life: None, left: None, moved: false }
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

/// Most memory for requests that are held, and so for their headers: 64 MiB of the 1 GiB that a VM has.
const MAX_WAITING: usize = 64 * 1024 * 1024;
/// Most memory for bodies that are looked at or rewritten as they pass: apart, so that neither crowds out the other.
const MAX_PASSING: usize = 32 * 1024 * 1024;
/// And of these for one capability's, so that its holder's uploads leave room for everybody else's.
const MAX_PASSING_OF_ONE: usize = MAX_PASSING / 2;

/// What a request takes, by what it takes it from.
enum Share {
    Waiting(usize),
    Passing(LookupId, usize),
    None,
}

impl Held {
    /// The same from beginning to end of its stay: what was added is subtracted.
    fn share(&self) -> Share {
        match self {
            Held::Waiting(exchange) => Share::Waiting(exchange.size()),
            Held::Streaming(Streaming { passing, life: Some((opened, _)), .. }) if passing.looks() => {
                Share::Passing(opened.lookup(), passing.size())
            }
            Held::Streaming(_) | Held::Closing(_) | Held::Passed | Held::Refusing(..) | Held::Answered => {
                Share::None
            }
        }
    }
}

/// The requests that are not over. What stands here and what does not decides whether bytes go on, so that an absent one
/// never does.
#[derive(Default)]
pub(crate) struct Requests {
    held: HashMap<ContextId, Held, RandomState>,
    waiting: usize,
    passing: usize,
    /// The same by capability.
    passing_of: HashMap<LookupId, usize, RandomState>,
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

    /// Whether there is room for one more that waits and takes so many bytes.
    pub(crate) fn may_wait(&self, size: usize) -> bool {
        self.waiting.saturating_add(size) <= MAX_WAITING
    }

    /// Whether there is room for one more body of a capability's that passes so.
    pub(crate) fn may_pass(&self, opened: &Opened, passing: &Passing) -> bool {
        if !passing.looks() {
            return true;
        }
        let of_one = self.passing_of.get(&opened.lookup()).copied().unwrap_or_default();
        self.passing.saturating_add(passing.size()) <= MAX_PASSING
            && of_one.saturating_add(passing.size()) <= MAX_PASSING_OF_ONE
    }

    /// Notes where a request stands.
    pub(crate) fn put(&mut self, context: ContextId, held: Held) {
        self.remove(context);
        match held.share() {
            Share::Waiting(size) => self.waiting += size,
            Share::Passing(lookup, size) => {
                self.passing += size;
                *self.passing_of.entry(lookup).or_default() += size;
            }
            Share::None => {}
        }
        self.held.insert(context, held);
    }

    /// Forgets a request.
    pub(crate) fn remove(&mut self, context: ContextId) -> Option<Held> {
        let held = self.held.remove(&context)?;
        match held.share() {
            Share::Waiting(size) => self.waiting -= size,
            Share::Passing(lookup, size) => {
                self.passing -= size;
                if let Some(of_one) = self.passing_of.get_mut(&lookup) {
                    *of_one -= size;
                    if *of_one == 0 {
                        self.passing_of.remove(&lookup);
                    }
                }
            }
            Share::None => {}
        }
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
