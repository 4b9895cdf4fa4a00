//! CAP1-HMAC-SHA512: capability.io's own signatures, as `cap1-hmac-sha512` 1.4.3 (JavaScript) makes and verifies them.
//!
//! Like Signature Version 4, but with SHA-512, base64url and no payload hash. Where JavaScript's habits show, so do they here:
//! that implementation's `verify` has to accept what we send. They are marked "because the reference does".
//!
//! JavaScript has strings where HTTP has bytes. Node hands header values to it as latin1, one character a byte, and they are
//! hashed as UTF-8: so are ours.

mod headers;
mod key;
mod signer;
pub mod stages;
mod target;

pub use headers::{is_set_by_signing, is_unsigned_by_nature};
pub use key::DayKey;
pub use signer::{Signed, Signer};
pub use target::Target;
