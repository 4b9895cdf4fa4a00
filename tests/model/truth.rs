//! What really happened, and whether what a worker did was right.

use crate::world::{STALENESS, Sim};
use capability::Token;
use serde_json::Value;
use std::collections::HashMap;
use std::ops::AddAssign;
use tokio::time::Instant;

/// What a run saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) let_go: u64,
    pub(crate) let_go_after_the_revoke_began: u64,
    pub(crate) refused: u64,
    pub(crate) unavailable: u64,
    pub(crate) judged_in_calm: u64,
    pub(crate) revoked: u64,
    pub(crate) barriers: u64,
    pub(crate) events_heard: u64,
    pub(crate) start_overs: u64,
    pub(crate) epochs: u64,
    pub(crate) crashes: u64,
    pub(crate) torn: u64,
    pub(crate) restores: u64,
    pub(crate) worker_restarts: u64,
    pub(crate) clock_jumps: u64,
    pub(crate) lost_messages: u64,
}

impl Tally {
    fn numbers(&mut self) -> [&mut u64; 16] {
        [
            &mut self.let_go,
            &mut self.let_go_after_the_revoke_began,
            &mut self.refused,
            &mut self.unavailable,
            &mut self.judged_in_calm,
            &mut self.revoked,
            &mut self.barriers,
            &mut self.events_heard,
            &mut self.start_overs,
            &mut self.epochs,
            &mut self.crashes,
            &mut self.torn,
            &mut self.restores,
            &mut self.worker_restarts,
            &mut self.clock_jumps,
            &mut self.lost_messages,
        ]
    }

    pub(crate) fn everything_happened(&self) -> bool {
        self.clone().numbers().iter().all(|number| **number > 0)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, mut other: Tally) {
        for (sum, number) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *number;
        }
    }
}

pub(crate) struct Membrane {
    pub(crate) id: String,
    pub(crate) unit: String,
    pub(crate) made: Instant,
    /// When somebody first set about revoking it.
    pub(crate) attempted: Option<Instant>,
    /// When `revoke` answered first.
    pub(crate) answered: Option<Instant>,
    /// When `revoke?wait=fleet` answered first that nobody is unconfirmed.
    pub(crate) confirmed: Option<Instant>,
}

pub(crate) struct Capability {
    pub(crate) token: Token,
    /// What it depends on, as indices.
    pub(crate) membranes: Vec<usize>,
    pub(crate) made: Instant,
}

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Something that was revoked was let in: what all of this is about.
    Lives,
    /// A watcher was told something that does not follow.
    Told,
    /// Something that lives was refused.
    Refused,
}

#[derive(Default)]
pub(crate) struct Truth {
    /// A mutant is to be caught at its worst, and not because it is inconvenient too.
    pub(crate) only: Option<Wrong>,
    pub(crate) membranes: Vec<Membrane>,
    pub(crate) capabilities: Vec<Capability>,
    /// When copies were made of which a store was restored, and when that was done.
    pub(crate) restores: Vec<(Instant, Instant)>,
    /// By epoch and number, what watchers were told.
    pub(crate) told: HashMap<(String, u64), String>,
    pub(crate) tally: Tally,
    pub(crate) violation: Option<String>,
}

impl Truth {
    pub(crate) fn violated(&mut self, wrong: Wrong, what: String) {
        if self.only.is_none_or(|only| only == wrong) {
            self.violation.get_or_insert(what);
        }
    }

    fn all<'a>(&'a self, capability: &'a Capability) -> impl Iterator<Item = &'a Membrane> {
        capability.membranes.iter().map(|index| &self.membranes[*index])
    }

    /// Nobody has set about revoking anything of it, and no restored store can have lost it.
    pub(crate) fn is_alive(&self, capability: usize) -> bool {
        let capability = &self.capabilities[capability];
        let untouched =
            |membrane: &Membrane| membrane.attempted.is_none() && !self.may_be_lost(membrane.made);
        !self.may_be_lost(capability.made) && self.all(capability).all(untouched)
    }

    /// Whether a store that was restored may not know what was made then.
    pub(crate) fn may_be_lost(&self, made: Instant) -> bool {
        self.restores.iter().any(|(copied, restored)| (*copied..=*restored).contains(&made))
    }

    pub(crate) fn was_revoked_lately(&self, capability: usize, now: Instant) -> bool {
        // What was torn may be answered much later than it was first attempted: that is when it matters.
        let lately = |at: Instant| now - at < 3 * STALENESS;
        let times = |membrane: &Membrane| [membrane.attempted, membrane.answered, membrane.confirmed];
        self.all(&self.capabilities[capability])
            .any(|membrane| times(membrane).into_iter().flatten().any(lately))
    }

    /// A worker lets a request of `capability` go.
    pub(crate) fn let_go(&mut self, worker: usize, capability: usize, now: Instant) {
        self.tally.let_go += 1;
        let mut wrong = None;
        let mut revoking = false;
        for membrane in self.all(&self.capabilities[capability]) {
            revoking |= membrane.attempted.is_some();
            if let Some(at) = membrane.answered.filter(|at| now > *at + STALENESS) {
                wrong = Some((membrane.id.clone(), "revoke", now - at));
            }
            if let Some(at) = membrane.confirmed.filter(|at| now > *at) {
                wrong = Some((membrane.id.clone(), "revoke?wait=fleet", now - at));
            }
        }
        self.tally.let_go_after_the_revoke_began += u64::from(revoking);
        if let Some((id, what, late)) = wrong {
            self.violated(
                Wrong::Lives,
                format!(
                    "worker {worker} let a request of membrane {id} go {late:?} after {what} had answered"
                ),
            );
        }
    }

    /// A worker is told something by the feed in answer to `after`.
    pub(crate) fn told(&mut self, after: Option<u64>, answer: &Value) {
        let position = &answer["position"];
        let epoch = position["epoch"].as_str().unwrap_or_default();
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        let mut at = after.unwrap_or_else(|| position["seq"].as_u64().unwrap());
        for event in events {
            at += 1;
            self.tally.events_heard += 1;
            let (seq, unit) = (event["seq"].as_u64().unwrap(), event["unit"].as_str().unwrap());
            if seq != at {
                self.violated(Wrong::Told, format!("the feed told {seq} where {at} was next"));
            }
            let before = self.told.entry((epoch.to_owned(), seq)).or_insert_with(|| unit.to_owned()).clone();
            if before != unit {
                self.violated(Wrong::Told, format!("the feed told two watchers different things of {seq}"));
            }
        }
        if position["seq"].as_u64() != Some(at) {
            self.violated(Wrong::Told, format!("the feed's answer ends at {at}, but says {position}"));
        }
    }

    /// A store was restored that knows nothing made after `copied`.
    pub(crate) fn restored(&mut self, copied: Instant) {
        self.tally.restores += 1;
        self.restores.push((copied, Instant::now()));
    }
}

/// A request to a worker was answered, or not in time.
pub(crate) fn judge_outcome(
    sim: &Sim,
    worker: usize,
    request: &crate::gateway::Request,
    outcome: Option<u16>,
) {
    let mut truth = sim.truth.borrow_mut();
    let alive = truth.is_alive(request.capability);
    // From beginning to end, and for long enough before.
    let calm = sim.was_well_since(request.begun);
    match outcome {
        Some(200) => {}
        Some(401) => truth.tally.refused += 1,
        _ => truth.tally.unavailable += 1,
    }
    if !alive {
        return;
    }
    if outcome == Some(401) {
        truth.violated(Wrong::Refused, format!("worker {worker} answered 401 to a live capability"));
    }
    if calm {
        truth.tally.judged_in_calm += 1;
        if outcome != Some(200) {
            truth.violated(Wrong::Refused, format!(
                "worker {worker} answered {outcome:?} to a live capability though all was well since {:?}",
                request.begun
            ));
        }
    }
}
