use std::fmt;

use sha2::Digest;
use zeroize::{Zeroize, Zeroizing};

/// A key or a session token: wiped when dropped, never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An HMAC key brought to the hash's block size (RFC 2104 §2), in which form `hmac` takes it without a `Result` for an error that
/// cannot be.
pub(crate) fn hmac_block<D: Digest, const BLOCK: usize>(key: &[u8]) -> Zeroizing<[u8; BLOCK]> {
    let mut block = Zeroizing::new([0; BLOCK]);
    match block.get_mut(..key.len()) {
        Some(head) => head.copy_from_slice(key),
        None => {
            let mut short = D::digest(key);
            block.iter_mut().zip(&short).for_each(|(to, from)| *to = *from);
            short.as_mut_slice().zeroize();
        }
    }
    block
}
