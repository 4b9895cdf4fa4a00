//! Answers of the registry to lookups, and the memory of what it did not know.

use crate::feed::Position;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record;
use capability::{LookupId, Token, Units};
use core::time::Duration;
use hashbrown::HashMap;
use serde::Deserialize;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::rc::Rc;

use crate::opened::Opened;

/// The longest answer that is read: a record of the largest content as base64url, and the fields around it.
pub const MAX_ANSWER: usize = record::MAX_INNER / 3 * 4 + 4_096;

/// How long a token that the registry did not know is refused without asking again.
pub const NEGATIVE_FOR: Duration = Duration::from_secs(2);
/// How many such tokens are remembered. Past it the oldest go: a flood costs lookups, never memory.
const MAX_NEGATIVE: usize = 8_192;

#[derive(Deserialize)]
struct Wire {
    kind: Option<String>,
    record: Option<String>,
    units: Option<Units>,
    #[serde(rename = "expiresAt")]
    expires_at: Option<u64>,
    as_of: Position,
}

/// A record that the registry has, still sealed.
#[derive(Debug)]
pub struct Sealed {
    inner: Rc<[u8]>,
    units: Units,
    expires_at: Option<u64>,
}

/// What the registry says of a lookup id.
#[derive(Debug)]
pub enum Found {
    /// A grant's record, alive at the answer's position.
    Grant(Sealed),
    /// A control: forwarded to the registry, which alone can judge it.
    Control,
}

/// An answer, and the position that it is true for.
#[derive(Debug)]
pub struct Answer {
    /// `None`: unknown, expired or revoked.
    pub found: Option<Found>,
    /// The snapshot that it was read from.
    pub as_of: Position,
}

impl Answer {
    /// Reads an answer; `None` for anything that is not one: the registry could not be asked.
    pub fn parse(status: u16, body: &[u8]) -> Option<Answer> {
        if body.len() > MAX_ANSWER || !matches!(status, 200 | 404) {
            return None;
        }
        let wire: Wire = serde_json::from_slice(body).ok()?;
        let found = match (status, wire.kind.as_deref()) {
            (404, _) => None,
            (_, Some("control")) => Some(Found::Control),
            (_, Some("grant")) => Some(Found::Grant(Sealed {
                inner: B64.decode(wire.record?).ok()?.into(),
                units: wire.units?,
                expires_at: wire.expires_at,
            })),
            _ => return None,
        };
        Some(Answer { found, as_of: wire.as_of })
    }
}

impl Sealed {
    /// Opens the record with the token that *this* request presents, for the day of `now` (seconds since 1970). `None`: it is not
    /// this token's, or was changed.
    pub fn open(&self, token: &Token, now: u64) -> Option<Opened> {
        Opened::open(token, &self.inner, &self.units, self.expires_at, now).ok()
    }
}

/// Lookup ids that the registry did not know a moment ago.
#[derive(Default)]
pub struct Negative {
    until: HashMap<LookupId, Duration, RandomState>,
    order: VecDeque<(Duration, LookupId)>,
}

impl Negative {
    /// Remembers that `lookup` is unknown at `now` (monotonic).
    pub fn insert(&mut self, lookup: LookupId, now: Duration) {
        let until = now + NEGATIVE_FOR;
        self.until.insert(lookup, until);
        self.order.push_back((until, lookup));
        while self.order.len() > MAX_NEGATIVE || self.order.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((until, lookup)) = self.order.pop_front()
                && self.until.get(&lookup) == Some(&until)
            {
                self.until.remove(&lookup);
            }
        }
    }

    /// Whether `lookup` was unknown less than [`NEGATIVE_FOR`] ago.
    pub fn contains(&self, lookup: &LookupId, now: Duration) -> bool {
        self.until.get(lookup).is_some_and(|until| *until > now)
    }

    /// Forgets everything, as after a start-over of the feed.
    pub fn clear(&mut self) {
        *self = Negative::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_answers_are_answers() {
        let as_of = r#""as_of":{"epoch":"AQEBAQEBAQEBAQEBAQEBAQ","seq":3}"#;
        let parse = |status, body: String| Answer::parse(status, body.as_bytes());
        assert!(parse(404, format!("{{{as_of}}}")).unwrap().found.is_none());
        assert!(matches!(
            parse(200, format!(r#"{{"kind":"control",{as_of}}}"#)).unwrap().found,
            Some(Found::Control)
        ));
        let grant = format!(
            r#"{{"kind":"grant","record":"AAAA","units":[["AQEBAQEBAQEBAQEBAQEBAQ",null]],"expiresAt":null,{as_of}}}"#
        );
        assert!(matches!(parse(200, grant.clone()).unwrap().found, Some(Found::Grant(_))));
        for (status, body) in [
            (500, grant.clone()),
            (503, grant.clone()),
            (201, grant.clone()),
            (200, grant.replace("AAAA", "A")),
            (200, grant.replace("grant", "credential")),
            (200, grant.replace(r#"[["AQEBAQEBAQEBAQEBAQEBAQ",null]]"#, "[]")),
            (200, format!("{{{as_of}}}")),
            (200, r#"{"kind":"control"}"#.into()),
            (404, "not found".into()),
            (404, "{}".into()),
            (200, String::new()),
        ] {
            assert!(parse(status, body.clone()).is_none(), "{status} {body}");
        }
    }

    #[test]
    fn negatives_end_and_are_bounded() {
        let mut negative = Negative::default();
        let id = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            LookupId(bytes)
        };
        let second = Duration::from_secs(1);
        negative.insert(id(0), second);
        assert!(negative.contains(&id(0), second * 2));
        assert!(!negative.contains(&id(0), second * 3));
        for n in 0..20_000 {
            negative.insert(id(n), second * 10);
        }
        assert!(negative.until.len() <= MAX_NEGATIVE && negative.order.len() <= MAX_NEGATIVE);
        assert!(negative.contains(&id(19_999), second * 10));
        negative.insert(id(1), second * 20);
        assert_eq!(negative.order.len(), 1);
    }

    proptest! {
        #[test]
        fn a_lying_registry_panics_nobody(status in 0u16..600, body in any::<Vec<u8>>()) {
            let _ = Answer::parse(status, &body);
        }
    }
}
