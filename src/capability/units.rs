//! Units: what a record's life depends on.

use crate::{LookupId, Uid, Unit};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Most unit pairs of one record, and so the deepest delegation. A bound on the work of one liveness check.
pub const MAX_UNIT_PAIRS: usize = 16;
/// Most capabilities of which one is a re-export: as deep as delegation goes.
pub const MAX_SOURCES: usize = 16;

/// A record would depend on more than [`MAX_UNIT_PAIRS`] pairs or [`MAX_SOURCES`] sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delegated more than {MAX_UNIT_PAIRS} times")
    }
}

impl std::error::Error for TooDeep {}

/// A tenant and, unless the record belongs to the tenant as a whole, one of its membranes.
///
/// On the wire `["<tenant uid>", "<membrane uid>" | null]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(Uid, Option<Uid>)", into = "(Uid, Option<Uid>)")]
pub struct UnitPair {
    /// The tenant.
    pub tenant: Uid,
    /// The membrane, if there is one.
    pub membrane: Option<Uid>,
}

impl UnitPair {
    /// As the AAD binds it: the tenant's 16 bytes, then the membrane's or zeros. Uids are random, so zeros are no membrane.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let (tenant, membrane) = bytes.split_at_mut(16);
        tenant.copy_from_slice(&self.tenant.0);
        if let Some(uid) = self.membrane {
            membrane.copy_from_slice(&uid.0);
        }
        bytes
    }
}

impl UnitPair {
    fn from_bytes(bytes: &[u8; 32]) -> UnitPair {
        let (mut tenant, mut membrane) = ([0; 16], [0; 16]);
        let (first, second) = bytes.split_at(16);
        tenant.copy_from_slice(first);
        membrane.copy_from_slice(second);
        UnitPair { tenant: Uid(tenant), membrane: (membrane != [0; 16]).then_some(Uid(membrane)) }
    }
}

impl From<(Uid, Option<Uid>)> for UnitPair {
    fn from((tenant, membrane): (Uid, Option<Uid>)) -> UnitPair {
        UnitPair { tenant, membrane }
    }
}

impl From<UnitPair> for (Uid, Option<Uid>) {
    fn from(pair: UnitPair) -> Self {
        (pair.tenant, pair.membrane)
    }
}

/// What a record's life depends on: 1 to [`MAX_UNIT_PAIRS`] pairs, the first its own and the rest inherited, and at most
/// [`MAX_SOURCES`] capabilities of which it is a re-export, one of the other.
///
/// A record is alive exactly if it has not expired, every tenant and membrane in here is present and not revoked, and no
/// source was revoked by itself (as an operator does with a leaked token).
///
/// On the wire one array: the pairs, then the sources' lookup ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Units {
    pairs: Vec<UnitPair>,
    sources: Vec<LookupId>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Pair(UnitPair),
    Source(LookupId),
}

impl Units {
    /// The units of something that inherits nothing.
    pub fn own(pair: UnitPair) -> Units {
        Units { pairs: vec![pair], sources: Vec::new() }
    }

    /// `own` first, then all inherited ones in order: each once, and (tenant, none) left out where the same tenant stands with
    /// a membrane, because that says it already.
    pub fn join(own: UnitPair, inherited: &[&Units]) -> Result<Units, TooDeep> {
        let all: Vec<UnitPair> =
            core::iter::once(own).chain(inherited.iter().flat_map(|units| units.iter())).collect();
        let mut pairs: Vec<UnitPair> = Vec::new();
        for (index, pair) in all.iter().enumerate() {
            let said_already = index > 0
                && pair.membrane.is_none()
                && all.iter().any(|other| other.tenant == pair.tenant && other.membrane.is_some());
            if !said_already && !pairs.contains(pair) {
                pairs.push(*pair);
            }
        }
        let mut sources: Vec<LookupId> = Vec::new();
        for source in inherited.iter().flat_map(|units| units.sources()) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        Units::of(pairs, sources)
    }

    /// The same for a re-export of the capability `source`.
    pub fn re_exporting(mut self, source: LookupId) -> Result<Units, TooDeep> {
        if !self.sources.contains(&source) {
            self.sources.push(source);
        }
        Units::of(self.pairs, self.sources)
    }

    fn of(pairs: Vec<UnitPair>, sources: Vec<LookupId>) -> Result<Units, TooDeep> {
        // What depends on nothing could not be revoked.
        let bounded = (1..=MAX_UNIT_PAIRS).contains(&pairs.len()) && sources.len() <= MAX_SOURCES;
        if bounded { Ok(Units { pairs, sources }) } else { Err(TooDeep) }
    }

    /// The pairs, the record's own first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = UnitPair> + '_ {
        self.pairs.iter().copied()
    }

    /// The capabilities of which it is a re-export.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = LookupId> + '_ {
        self.sources.iter().copied()
    }

    /// Every tenant and membrane uid, a tenant again for each pair it stands in.
    pub fn uids(&self) -> impl Iterator<Item = Uid> + '_ {
        self.pairs.iter().flat_map(|pair| core::iter::once(pair.tenant).chain(pair.membrane))
    }

    /// Everything whose revocation kills the record: uids and sources.
    pub fn all(&self) -> impl Iterator<Item = Unit> + '_ {
        self.uids().map(Unit::Uid).chain(self.sources().map(Unit::Lookup))
    }

    /// As a store keeps it: the number of pairs (1), the pairs (32 each), the sources (32 each).
    pub fn to_bytes(&self) -> Vec<u8> {
        // At most MAX_UNIT_PAIRS.
        let count = self.pairs.len() as u8;
        let pairs = self.pairs.iter().flat_map(|pair| pair.to_bytes());
        core::iter::once(count).chain(pairs).chain(self.sources.iter().flat_map(|source| source.0)).collect()
    }

    /// Reads what [`Units::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Units> {
        let (count, rest) = bytes.split_first()?;
        let (entries, []) = rest.as_chunks::<32>() else { return None };
        let (pairs, sources) = entries.split_at_checked(usize::from(*count))?;
        let pairs = pairs.iter().map(UnitPair::from_bytes).collect();
        Units::of(pairs, sources.iter().copied().map(LookupId).collect()).ok()
    }
}

impl TryFrom<Vec<Entry>> for Units {
    type Error = TooDeep;
    /// Fails for no pair as for too many, and for a pair after a source: one value, one spelling.
    fn try_from(entries: Vec<Entry>) -> Result<Units, TooDeep> {
        let (mut pairs, mut sources) = (Vec::new(), Vec::new());
        for entry in entries {
            match entry {
                Entry::Pair(pair) if sources.is_empty() => pairs.push(pair),
                Entry::Pair(_) => return Err(TooDeep),
                Entry::Source(source) => sources.push(source),
            }
        }
        Units::of(pairs, sources)
    }
}

impl From<Units> for Vec<Entry> {
    fn from(units: Units) -> Self {
        let pairs = units.pairs.into_iter().map(Entry::Pair);
        pairs.chain(units.sources.into_iter().map(Entry::Source)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(tenant: u8, membrane: Option<u8>) -> UnitPair {
        UnitPair { tenant: Uid([tenant; 16]), membrane: membrane.map(|m| Uid([m; 16])) }
    }

    #[test]
    fn joining_keeps_order_and_says_nothing_twice() {
        let create = Units::own(pair(1, None));
        let minted = Units::join(pair(1, Some(2)), &[&create]).unwrap();
        assert_eq!(minted.iter().collect::<Vec<_>>(), [pair(1, Some(2))]);
        let other = Units::join(pair(3, Some(4)), &[&minted, &minted]).unwrap();
        assert_eq!(other.iter().collect::<Vec<_>>(), [pair(3, Some(4)), pair(1, Some(2))]);
        let foreign_tenant = Units::join(pair(3, Some(4)), &[&create]).unwrap();
        assert_eq!(foreign_tenant.iter().len(), 2);
        // Its own pair stands first, whatever it inherits says already.
        let of_the_tenant = Units::join(pair(1, None), &[&minted]).unwrap();
        assert_eq!(of_the_tenant.iter().collect::<Vec<_>>(), [pair(1, None), pair(1, Some(2))]);
    }

    #[test]
    fn the_seventeenth_pair_is_refused() {
        let mut units = Units::own(pair(1, Some(1)));
        for level in 2..=16 {
            units = Units::join(pair(1, Some(level)), &[&units]).unwrap();
        }
        assert_eq!(units.iter().len(), 16);
        assert_eq!(Units::join(pair(1, Some(17)), &[&units]), Err(TooDeep));
        assert!(
            Units::join(pair(1, Some(3)), &[&units]).is_ok(),
            "a membrane that is in already adds nothing"
        );
    }

    #[test]
    fn json_is_pairs() {
        let units = Units::join(pair(1, Some(2)), &[&Units::own(pair(3, None))]).unwrap();
        let json = serde_json::to_string(&units).unwrap();
        assert_eq!(
            json,
            r#"[["AQEBAQEBAQEBAQEBAQEBAQ","AgICAgICAgICAgICAgICAg"],["AwMDAwMDAwMDAwMDAwMDAw",null]]"#
        );
        assert_eq!(serde_json::from_str::<Units>(&json).unwrap(), units);
        assert!(serde_json::from_str::<Units>("[]").is_err());
    }

    #[test]
    fn re_exports_depend_on_what_they_were_made_of() {
        let source = |n| LookupId([n; 32]);
        let first = Units::own(pair(1, Some(2))).re_exporting(source(9)).unwrap();
        let second = Units::join(pair(3, Some(4)), &[&first]).unwrap().re_exporting(source(8)).unwrap();
        assert_eq!(second.sources().collect::<Vec<_>>(), [source(9), source(8)]);
        assert_eq!(second.all().count(), 6);
        assert_eq!(Units::from_bytes(&second.to_bytes()), Some(second.clone()));
        let json = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Units>(&json).unwrap(), second);
        assert!(json.ends_with(&format!(r#","{}","{}"]"#, source(9), source(8))));
        let swapped = json.replacen("[[", &format!(r#"["{}",["#, source(7)), 1);
        assert!(serde_json::from_str::<Units>(&swapped).is_err(), "pairs come first");

        let mut units = Units::own(pair(1, Some(1)));
        for level in 1..=16 {
            units = units.re_exporting(source(level)).unwrap();
        }
        assert_eq!(units.clone().re_exporting(source(17)), Err(TooDeep));
        assert!(units.re_exporting(source(3)).is_ok());
        for bytes in [&[][..], &[0], &[1], &[2; 33], &[1; 34], &[0; 33]] {
            assert_eq!(Units::from_bytes(bytes), None);
        }
    }
}
