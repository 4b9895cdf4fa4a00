//! The feed's answers as they are sent: written once for all who ask from the same place.
//!
//! What an answer says depends only on where the reader stood and where it stands after it, so after a revocation thousands of readers
//! get the same bytes.

use crate::feed::Answer;
use crate::reply;
use crate::store::{Epoch, Event, Position};
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// Most answers kept, the latest: at some 85 bytes for each of 1,024 events at most, not quite 1.5 MiB. Readers that are not at the
/// same place are spread over few revocations, or they are catching up and each asks for a page once.
const ANSWERS_KEPT: usize = 16;

#[derive(Serialize)]
struct EventsAnswer<'a> {
    position: WirePosition,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<WireEvent>>,
    slot_key: &'a str,
}

#[derive(Serialize)]
struct WireEvent {
    seq: u64,
    unit: capability::Unit,
}

/// A position as it travels.
#[derive(Serialize)]
pub(crate) struct WirePosition {
    #[serde(serialize_with = "epoch_as_b64")]
    epoch: Epoch,
    seq: u64,
}

fn epoch_as_b64<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&B64.encode(epoch.0))
}

impl From<Position> for WirePosition {
    fn from(position: Position) -> WirePosition {
        WirePosition { epoch: position.epoch, seq: position.seq }
    }
}

impl From<Event> for WireEvent {
    fn from(event: Event) -> WireEvent {
        WireEvent { seq: event.seq, unit: event.unit }
    }
}

/// What tells answers apart. Within an epoch a sequence number stands for one event for ever.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    from: Option<Position>,
    to: Position,
    starts_over: bool,
}

/// The answers that were written last. They hold the slot key, and are wiped once they are neither kept nor being sent.
pub(crate) struct Answers {
    slot_key: Zeroizing<String>,
    kept: Mutex<VecDeque<(Way, Bytes)>>,
}

impl Answers {
    /// Of a registry with this slot key.
    pub(crate) fn new(slot_key: &[u8]) -> Answers {
        Answers { slot_key: Zeroizing::new(B64.encode(slot_key)), kept: Mutex::default() }
    }

    /// The answer for a reader that stood at `from`.
    pub(crate) fn response(&self, from: Option<Position>, answer: Answer) -> Response {
        let (status, to, events) = match answer {
            Answer::Events { position, events } => (StatusCode::OK, position, Some(events)),
            Answer::StartOver { position } => (StatusCode::GONE, position, None),
        };
        let way = Way { from, to, starts_over: events.is_none() };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().rev().find(|(known, _)| *known == way).map(|(_, body)| body.clone());
        if let Some(body) = known {
            drop(kept);
            return reply::with_body(status, body);
        }
        let events = events.map(|events| events.into_iter().map(WireEvent::from).collect());
        let answer = EventsAnswer { position: to.into(), events, slot_key: &self.slot_key };
        // While others wait for it: they would write the same.
        let Some(body) = reply::to_wiped_json(&answer).map(Bytes::from_owner) else {
            return reply::with_body(StatusCode::INTERNAL_SERVER_ERROR, Body::empty());
        };
        if kept.len() >= ANSWERS_KEPT {
            kept.pop_front();
        }
        kept.push_back((way, body.clone()));
        drop(kept);
        reply::with_body(status, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capability::{Uid, Unit};

    async fn sent(response: Response) -> Bytes {
        axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap()
    }

    #[tokio::test]
    async fn who_goes_the_same_way_gets_the_same_memory() {
        let answers = Answers::new(&[7; 32]);
        let at = |epoch: u8, seq| Position { epoch: Epoch([epoch; 16]), seq };
        let event = |seq| Event { seq, unit: Unit::Uid(Uid([seq as u8; 16])) };
        let news = |from: Position, to: u64| Answer::Events {
            position: Position { seq: to, ..from },
            events: (from.seq + 1..=to).map(event).collect(),
        };
        let mut bodies = Vec::new();
        for _ in 0..2 {
            for (from, answer) in [
                (Some(at(1, 1)), news(at(1, 1), 2)),
                (Some(at(1, 0)), news(at(1, 0), 2)),
                (Some(at(2, 1)), news(at(2, 1), 2)),
                (None, Answer::Events { position: at(1, 2), events: vec![] }),
                (Some(at(1, 2)), Answer::StartOver { position: at(1, 1) }),
                (Some(at(1, 2)), Answer::Events { position: at(1, 1), events: vec![] }),
            ] {
                bodies.push(sent(answers.response(from, answer)).await);
            }
        }
        let (first, second) = bodies.split_at(6);
        for (index, (first, second)) in first.iter().zip(second).enumerate() {
            assert_eq!(first.as_ptr(), second.as_ptr(), "{index} was written twice");
        }
        let mut different = first.to_vec();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 6);
        // The oldest go, and what is written again is the same.
        for seq in 10..10 + ANSWERS_KEPT as u64 {
            answers.response(Some(at(1, seq)), news(at(1, seq), seq + 1));
        }
        assert_eq!(answers.kept.lock().unwrap().len(), ANSWERS_KEPT);
        let again = sent(answers.response(Some(at(1, 1)), news(at(1, 1), 2))).await;
        assert_eq!(again, first[0]);
        assert_ne!(again.as_ptr(), first[0].as_ptr());
    }
}
