//! Units: what a record's life depends on.

use crate::Uid;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Most unit pairs of one record, and so the deepest delegation. A bound on the work of one liveness check.
pub const MAX_UNIT_PAIRS: usize = 16;

/// A record would depend on more than [`MAX_UNIT_PAIRS`] pairs.
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

/// The 1 to [`MAX_UNIT_PAIRS`] pairs on which a record's life depends; the first is its own, the rest inherited.
///
/// A record is alive exactly if it has not expired and every unit in here is present and not revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<UnitPair>", into = "Vec<UnitPair>")]
pub struct Units(Vec<UnitPair>);

impl Units {
    /// The units of something that inherits nothing.
    pub fn own(pair: UnitPair) -> Units {
        Units(vec![pair])
    }

    /// `own` first, then all inherited ones in order: each pair once, and (tenant, none) left out where the same tenant
    /// stands with a membrane, because that says it already.
    pub fn join(own: UnitPair, inherited: &[&Units]) -> Result<Units, TooDeep> {
        let all: Vec<UnitPair> =
            core::iter::once(own).chain(inherited.iter().flat_map(|units| units.iter())).collect();
        let mut kept: Vec<UnitPair> = Vec::new();
        for (index, pair) in all.iter().enumerate() {
            let said_already = index > 0
                && pair.membrane.is_none()
                && all.iter().any(|other| other.tenant == pair.tenant && other.membrane.is_some());
            if !said_already && !kept.contains(pair) {
                kept.push(*pair);
            }
        }
        if kept.len() > MAX_UNIT_PAIRS { Err(TooDeep) } else { Ok(Units(kept)) }
    }

    /// The pairs, the record's own first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = UnitPair> + '_ {
        self.0.iter().copied()
    }

    /// Every tenant and membrane uid, a tenant again for each pair it stands in.
    pub fn uids(&self) -> impl Iterator<Item = Uid> + '_ {
        self.0.iter().flat_map(|pair| core::iter::once(pair.tenant).chain(pair.membrane))
    }

    /// How many bytes a cache may count for these.
    pub fn size(&self) -> usize {
        self.0.len() * core::mem::size_of::<UnitPair>()
    }
}

impl TryFrom<Vec<UnitPair>> for Units {
    type Error = TooDeep;
    /// Fails for no pair as for too many: a record that depends on nothing could not be revoked.
    fn try_from(pairs: Vec<UnitPair>) -> Result<Units, TooDeep> {
        if pairs.is_empty() || pairs.len() > MAX_UNIT_PAIRS { Err(TooDeep) } else { Ok(Units(pairs)) }
    }
}

impl From<Units> for Vec<UnitPair> {
    fn from(units: Units) -> Self {
        units.0
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
}
