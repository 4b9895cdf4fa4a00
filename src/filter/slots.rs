//! Shared data: how the workers of one Envoy leave each other answers of the registry, still sealed.
//!
//! Envoy never deletes a key, so there is a fixed number of slots and never a key a token. Any plugin of the same `vm_id` can
//! write there (Istio sets none, so that everybody's plugins share it); therefore each slot is authenticated with a key that
//! the registry hands to gateways with the feed, and is judged by its `as_of` like any answer. It is opened with the token
//! of the request at hand.

use capability::LookupId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// How many slots there are. With [`MAX_SLOT`] this bounds what one Envoy keeps at 16 MiB.
const SLOTS: u16 = 1_024;
/// The longest answer that is left; larger records are looked up by each worker.
const MAX_SLOT: usize = 16_384;
const MAC_LEN: usize = 32;
const LOOKUP_LEN: usize = 32;
const LABEL: &[u8] = b"membrane.slot/v1";

/// The shared-data key where an answer about `lookup` would stand.
pub fn key(lookup: &LookupId) -> String {
    let [a, b, ..] = lookup.0;
    format!("membrane.slot.{}", u16::from_le_bytes([a, b]) % SLOTS)
}

/// What to leave for other workers; `None` if the answer is too large.
pub fn seal(slot_key: &[u8; 32], lookup: &LookupId, answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() > MAX_SLOT {
        return None;
    }
    let mut slot = mac(slot_key, lookup, answer)?.to_vec();
    slot.extend(lookup.0);
    slot.extend(answer);
    Some(slot)
}

/// The answer in a slot, if it is about `lookup` and was written by somebody with the key.
pub fn open<'a>(slot_key: &[u8; 32], lookup: &LookupId, slot: &'a [u8]) -> Option<&'a [u8]> {
    let (tag, rest) = slot.split_at_checked(MAC_LEN)?;
    let (about, answer) = rest.split_at_checked(LOOKUP_LEN)?;
    if about != lookup.0 || answer.len() > MAX_SLOT {
        return None;
    }
    let expected = mac(slot_key, lookup, answer)?;
    bool::from(expected.as_slice().ct_eq(tag)).then_some(answer)
}

fn mac(slot_key: &[u8; 32], lookup: &LookupId, answer: &[u8]) -> Option<[u8; MAC_LEN]> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(slot_key).ok()?;
    mac.update(LABEL);
    mac.update(&lookup.0);
    mac.update(answer);
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_plugin_writes_is_not_read() {
        let (key, lookup) = ([1; 32], LookupId([2; 32]));
        let slot = seal(&key, &lookup, b"answer").unwrap();
        assert_eq!(open(&key, &lookup, &slot), Some(&b"answer"[..]));
        assert_eq!(open(&[3; 32], &lookup, &slot), None);
        assert_eq!(open(&key, &LookupId([4; 32]), &slot), None);
        for bit in 0..slot.len() * 8 {
            let mut flipped = slot.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, &lookup, &flipped), None);
        }
        assert_eq!(open(&key, &lookup, &slot[..40]), None);
        assert_eq!(seal(&key, &lookup, &vec![0; MAX_SLOT + 1]), None);
    }

    #[test]
    fn keys_are_bounded() {
        let keys: std::collections::HashSet<String> = (0..=u16::MAX)
            .map(|n| {
                let mut id = [0; 32];
                id[..2].copy_from_slice(&n.to_le_bytes());
                key(&LookupId(id))
            })
            .collect();
        assert_eq!(keys.len(), usize::from(SLOTS));
    }
}
