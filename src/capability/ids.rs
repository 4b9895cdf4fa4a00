//! Names that are not secret: uids of tenants and membranes, lookup ids, and the ids that people choose for membranes.

use crate::B64;
use base64::Engine as _;
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a name was refused. Never holds the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// Not unpadded, canonical base64url of the right length.
    NotCanonical,
    /// A membrane id of no or of more than 512 characters.
    Length,
    /// A membrane id with a NUL character.
    Nul,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdError::NotCanonical => "must be canonical unpadded base64url of the right length",
            IdError::Length => "must have 1 to 512 characters",
            IdError::Nul => "must not hold a NUL character",
        })
    }
}

impl std::error::Error for IdError {}

macro_rules! b64_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&B64.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0u8; $len];
                match B64.decode_slice(text, &mut bytes) {
                    Ok($len) => Ok($name(bytes)),
                    _ => Err(IdError::NotCanonical),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

b64_bytes!(
    /// The random, never reused id of a tenant or a membrane: 16 bytes, 22 characters as text.
    Uid, 16
);
b64_bytes!(
    /// The one-way image of a token, under which its record is stored: 32 bytes, 43 characters as text.
    LookupId, 32
);

/// What can be revoked: a tenant or membrane by its uid, or one capability by its lookup id. Its length tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A tenant or a membrane.
    Uid(Uid),
    /// One capability.
    Lookup(LookupId),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Uid(uid) => uid.fmt(f),
            Unit::Lookup(lookup) => lookup.fmt(f),
        }
    }
}

impl FromStr for Unit {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Unit, IdError> {
        text.parse().map(Unit::Uid).or_else(|_| text.parse().map(Unit::Lookup))
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unit, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The id that people give a membrane: 1 to 512 characters of Unicode, no NUL; ordered by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembraneId(String);

impl MembraneId {
    /// Most characters (Unicode scalar values) of an id, as published.
    pub const MAX_CHARS: usize = 512;

    /// The id, if it keeps the rules.
    pub fn parse(text: &str) -> Result<MembraneId, IdError> {
        if text.is_empty() || text.chars().count() > Self::MAX_CHARS {
            return Err(IdError::Length);
        }
        if text.contains('\0') {
            return Err(IdError::Nul);
        }
        Ok(MembraneId(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MembraneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        let uid = Uid([7; 16]);
        let text = uid.to_string();
        assert_eq!(text.len(), 22);
        assert_eq!(text.parse::<Uid>(), Ok(uid));
        // The last character carries four bits that must be zero: each other spelling is refused.
        let mut spellings = 0;
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
            let other = format!("{}{last}", &text[..21]);
            spellings += usize::from(other.parse::<Uid>() == Ok(uid));
        }
        assert_eq!(spellings, 1);
        assert!(format!("{text}=").parse::<Uid>().is_err());
        assert!(text[..21].parse::<Uid>().is_err());
    }

    #[test]
    fn a_units_length_tells_its_kind() {
        assert_eq!(Uid([1; 16]).to_string().parse(), Ok(Unit::Uid(Uid([1; 16]))));
        assert_eq!(LookupId([1; 32]).to_string().parse(), Ok(Unit::Lookup(LookupId([1; 32]))));
        assert!("AAAA".parse::<Unit>().is_err());
    }

    #[test]
    fn membrane_ids_count_characters_not_bytes() {
        assert!(MembraneId::parse(&"é".repeat(512)).is_ok());
        assert_eq!(MembraneId::parse(&"é".repeat(513)), Err(IdError::Length));
        assert_eq!(MembraneId::parse(""), Err(IdError::Length));
        assert_eq!(MembraneId::parse("a\0b"), Err(IdError::Nul));
        assert!(MembraneId::parse("accounts/8a56 with spaces").is_ok());
    }
}
