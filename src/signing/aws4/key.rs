use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::service::Service;
use crate::encoding::{ascii, hex32};
use crate::secret::hmac_block;
use crate::{Secret, Timestamp};

pub(super) type HmacSha256 = Hmac<Sha256>;

/// The signing key of one secret, day, region and service, ready to sign: the two midstates of HMAC in place of the key, which
/// saves two of its four SHA-256 blocks. Wiped when dropped.
#[derive(Clone)]
pub struct DayKey {
    date: [u8; 8],
    mac: HmacSha256,
}

impl DayKey {
    /// For the day of `now`.
    pub fn derive(secret: &Secret, now: &Timestamp, region: &str, service: &Service) -> Self {
        let mut start = Zeroizing::new(String::with_capacity(4 + secret.expose().len()));
        start.push_str("AWS4");
        start.push_str(secret.expose());
        let mut mac = keyed(start.as_bytes());
        for part in [now.date(), region, service.name(), "aws4_request"] {
            let mut key = digest(mac, part.as_bytes());
            mac = keyed(&key);
            key.zeroize();
        }
        let mut date = [0; 8];
        date.copy_from_slice(now.date().as_bytes());
        Self { date, mac }
    }

    /// Whether `now` falls on the day that this key is for.
    pub fn covers(&self, now: &Timestamp) -> bool {
        self.date == now.date().as_bytes()
    }

    /// The MAC of `text` in hexadecimal.
    pub fn sign(&self, text: &str) -> String {
        let mac = digest(self.mac.clone(), text.as_bytes());
        ascii(&hex32(&mac)).to_owned()
    }

    /// A MAC that has taken in `prefix`.
    pub(super) fn begin(&self, prefix: &[&str]) -> HmacSha256 {
        let mut mac = self.mac.clone();
        for part in prefix {
            mac.update(part.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for DayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DayKey({}, …)", ascii(&self.date))
    }
}

pub(super) fn digest(mut mac: HmacSha256, last: &[u8]) -> [u8; 32] {
    mac.update(last);
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new((&*hmac_block::<Sha256, 64>(key)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys shorter than, as long as and longer than a block, against the crate's own way in.
    #[test]
    fn keys_of_every_length() {
        for length in [0, 1, 63, 64, 65, 200] {
            let key = vec![0xa5; length];
            let ours = digest(keyed(&key), b"text");
            let theirs =
                HmacSha256::new_from_slice(&key).unwrap().chain_update(b"text").finalize().into_bytes();
            assert_eq!(ours, <[u8; 32]>::from(theirs), "{length}");
        }
    }
}
