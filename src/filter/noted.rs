//! What an access log may say of a request: how it ended, and of which capability and membrane, without saying which they are.
//!
//! Only where the configuration asks for it (`access_log`): each note is a call of the host, and costs as much as a good part of a request.

use crate::reply::Outcome;
use sha2::{Digest, Sha256};

/// Before what is hashed, so that these hashes are equal to none that somebody else makes of the same ids.
const DOMAIN: &[u8] = b"membrane/access-log/v1";
/// Bytes of a hash that are written: nobody finds two ids that meet in as many.
const LENGTH: usize = 16;

/// A note, by the name under which Envoy keeps it for a request (`wasm.` comes before, in its filter state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Note {
    /// How the filter was done with it: a value of the label `outcome` of `membrane_requests_total`.
    Outcome,
    /// [`hashed`] lookup id of the capability, known to the registry or not.
    Capability,
    /// [`hashed`] uid of the membrane through which it was exported.
    Membrane,
}

impl Note {
    /// Under which it is kept.
    pub fn name(self) -> &'static str {
        match self {
            Note::Outcome => "membrane.outcome",
            Note::Capability => "membrane.capability",
            Note::Membrane => "membrane.membrane",
        }
    }
}

/// An id as a log may have it: 32 hexadecimal digits of SHA-256(`membrane/access-log/v1` ‖ id). The ids are random, so that nobody
/// gets from one back to the other, and whoever knows an id (the registry's audit log has them) finds what it did.
pub fn hashed(id: &[u8]) -> String {
    let hash = Sha256::new().chain_update(DOMAIN).chain_update(id).finalize();
    hex::encode(hash.get(..LENGTH).unwrap_or_default())
}

/// The label's value.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Granted => "granted",
        Outcome::Control => "control",
        Outcome::Passed => "passed",
        Outcome::Unauthorized => "unauthorized",
        Outcome::Refused => "refused",
        Outcome::Unavailable => "unavailable",
        Outcome::Limited => "limited",
        Outcome::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    #[test]
    fn outcomes_are_named_as_they_are_counted() {
        for each in [
            Outcome::Granted,
            Outcome::Control,
            Outcome::Passed,
            Outcome::Unauthorized,
            Outcome::Refused,
            Outcome::Unavailable,
            Outcome::Failed,
        ] {
            let (_, counted) = Counter::ALL[Counter::from(each) as usize];
            assert_eq!(counted, format!("membrane_requests_total.outcome.{}", outcome(each)));
        }
    }

    /// The hash is what the documentation says, computed by `printf 'membrane/access-log/v1'; head -c 32 /dev/zero` into sha256sum.
    #[test]
    fn ids_are_hashed_as_documented() {
        assert_eq!(hashed(&[0; 32]), "a5db6af255dac38dbf20cae3899c7fc1");
        assert_eq!(hashed(&[0; 32]).len(), 2 * LENGTH);
    }
}
