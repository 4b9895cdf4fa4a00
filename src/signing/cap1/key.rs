use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::{Zeroize, Zeroizing};

use super::headers::write_latin1;
use super::stages::base64url;
use crate::secret::hmac_block;
use crate::{Secret, Timestamp};

pub(super) type HmacSha512 = Hmac<Sha512>;

/// The signing key of one secret, day and host, ready to sign: HMAC's two midstates. Wiped when dropped.
#[derive(Clone)]
pub struct DayKey {
    mac: HmacSha512,
}

impl DayKey {
    /// For the day of `now`. `host` as it is sent, upper case and all; `key` as it is given, not decoded.
    pub fn derive(key: &Secret, now: &Timestamp, host: &str) -> Self {
        let mut start = Zeroizing::new(String::with_capacity(4 + key.expose().len()));
        start.push_str("CAP1");
        start.push_str(key.expose());
        let mut mac = keyed(start.as_bytes());
        for part in [now.date(), host, "cap1_request"] {
            let mut raw = digest(mac, part.as_bytes());
            // Text again, because the reference does: each byte a character, and that as UTF-8.
            let mut text = Zeroizing::new(Vec::with_capacity(2 * raw.len()));
            for byte in raw {
                write_latin1(byte, &mut *text);
            }
            raw.zeroize();
            mac = keyed(&text);
        }
        Self { mac }
    }

    /// The MAC of `text` in base64url.
    pub fn sign(&self, text: &str) -> String {
        let mut signature = String::new();
        base64url(&digest(self.mac.clone(), text.as_bytes()), &mut signature);
        signature
    }

    /// A MAC that has taken in `prefix`.
    pub(super) fn begin(&self, prefix: &[&str]) -> HmacSha512 {
        let mut mac = self.mac.clone();
        for part in prefix {
            mac.update(part.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for DayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DayKey(…)")
    }
}

pub(super) fn digest(mut mac: HmacSha512, last: &[u8]) -> [u8; 64] {
    mac.update(last);
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> HmacSha512 {
    HmacSha512::new((&*hmac_block::<Sha512, 128>(key)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length() {
        for length in [0, 1, 127, 128, 129, 300] {
            let key = vec![0xa5; length];
            let ours = digest(keyed(&key), b"text");
            let theirs =
                HmacSha512::new_from_slice(&key).unwrap().chain_update(b"text").finalize().into_bytes();
            assert_eq!(ours, <[u8; 64]>::from(theirs), "{length}");
        }
    }
}
