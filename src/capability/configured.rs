//! Grants that stand in a gateway's own configuration, for use without a registry.
//!
//! Such a record is sealed twice like any other: *inner* opens with its token, *outer* with a KEK that reaches the gateway beside its
//! configuration. Nothing can be revoked about it but by taking it out of the configuration, so it has no units of its own.

use crate::fields::FieldError;
use crate::record::{self, Header, Keks, Kind, NONCE_LEN, RecordError};
use crate::{B64, Content, Export, Exported, Grant, LookupId, Token, Uid, UnitPair, Units};
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a configured record's life depends on: nothing that a registry could revoke. No registry gives out this uid.
pub fn units() -> Units {
    Units::own(UnitPair { tenant: Uid([0; 16]), membrane: None })
}

/// A grant as it stands in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfiguredRecord {
    /// The one-way image of its token.
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-]{43}$")))]
    pub lookup: LookupId,
    /// The record under both layers.
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-]*$")))]
    #[serde(serialize_with = "to_b64", deserialize_with = "from_b64")]
    pub record: Vec<u8>,
    /// Seconds since 1970 from which on it is dead.
    #[serde(rename = "expiresAt", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

fn to_b64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&B64.encode(bytes))
}

fn from_b64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    B64.decode(text).map_err(|_| {
        serde::de::Error::custom("a record is base64url without padding, as capi seal prints it")
    })
}

impl ConfiguredRecord {
    /// Seals the grant of an export body under `token`. Both nonces must be random and fresh.
    ///
    /// # Errors
    /// The rule of the export body that is broken. A re-export (`capability`) is refused: nothing here could judge its life.
    pub fn seal(
        export: Export,
        token: &Token,
        keks: &Keks,
        nonces: [[u8; NONCE_LEN]; 2],
    ) -> Result<ConfiguredRecord, FieldError> {
        let Exported::Grant(grant) = export.what else {
            let rule =
                "cannot be sealed: without a registry nobody could tell when it is revoked; give a uri";
            return Err(FieldError::new("capability", rule));
        };
        let (lookup, units) = (token.lookup_id(), units());
        let header = Header { kind: Kind::Grant, lookup, expires_at: export.expires_at, units: &units };
        let [inner, outer] = nonces;
        let record = record::seal(token, &header, Content::Grant(grant).to_json().expose(), inner)
            .and_then(|inner| keks.wrap(lookup, &inner, outer))
            .map_err(|error| FieldError::new("", error.to_string()))?;
        Ok(ConfiguredRecord { lookup, record, expires_at: export.expires_at })
    }

    /// Takes the outer layer off, once, when the configuration is read.
    pub fn unwrap(&self, keks: &Keks) -> Result<record::Inner, RecordError> {
        keks.unwrap(self.lookup, &self.record)
    }
}

/// Opens what [`ConfiguredRecord::unwrap`] gave, with the token that was presented for it. `None`: it is not this token's.
pub fn open(token: &Token, inner: &record::Inner, expires_at: Option<u64>) -> Option<Grant> {
    let units = units();
    let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units: &units };
    let json = record::open(token, &header, inner.as_bytes()).ok()?;
    match Content::from_json(Kind::Grant, &json).ok()? {
        Content::Grant(grant) => Some(*grant),
        Content::Control(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kek;

    fn keks(byte: u8) -> Keks {
        Keks::new(Kek::new(&mut [byte; 32]), vec![])
    }

    fn sealed(body: &str) -> Result<(Token, ConfiguredRecord), FieldError> {
        let token = Token::mint([5; 64]);
        let export = Export::parse(body.as_bytes())?;
        let record = ConfiguredRecord::seal(export, &token, &keks(1), [[1; 24], [2; 24]])?;
        Ok((token, record))
    }

    #[test]
    fn what_is_sealed_opens_with_its_token_and_kek_alone() {
        let body = r#"{"uri": "https://canary.example/", "expiresAt": "2030-01-31T12:00:00Z"}"#;
        let (token, record) = sealed(body).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("canary"), "{text}");
        let record: ConfiguredRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(record.expires_at, Some(1_896_091_200));
        assert!(record.unwrap(&keks(2)).is_err());
        let inner = record.unwrap(&keks(1)).unwrap();
        let grant = open(&token, &inner, record.expires_at).unwrap();
        assert_eq!(grant.target.authority.as_str(), "canary.example");
        assert!(open(&Token::mint([6; 64]), &inner, record.expires_at).is_none());
        // Its end cannot be put off.
        assert!(open(&token, &inner, None).is_none() && open(&token, &inner, Some(u64::MAX)).is_none());
        let moved = ConfiguredRecord { lookup: Token::mint([6; 64]).lookup_id(), ..record };
        assert!(moved.unwrap(&keks(1)).is_err());
    }

    #[test]
    fn what_is_no_grant_or_no_record_is_refused() {
        let token = Token::mint([1; 64]);
        let body = format!(r#"{{"capability": "cpblty://a/#{}"}}"#, token.expose());
        assert!(sealed(&body).unwrap_err().to_string().starts_with("capability: cannot be sealed"));
        let (_, record) = sealed(r#"{"uri": "https://a/"}"#).unwrap();
        let good = serde_json::to_value(&record).unwrap();
        assert_eq!(good.as_object().unwrap().len(), 2);
        for (field, value) in [("record", "a="), ("lookup", "a"), ("more", "a")] {
            let mut bad = good.clone();
            bad[field] = value.into();
            assert!(serde_json::from_value::<ConfiguredRecord>(bad).is_err(), "{field}");
        }
    }
}
