//! How a request is signed: AWS4-HMAC-SHA256 ([`aws4`]) and CAP1-HMAC-SHA512 ([`cap1`]).
//!
//! Pure functions of the request, the key and the time. The value that is signed and the value that is sent are derived
//! together, once, so that they cannot differ.

mod authority;
pub mod aws4;
pub mod cap1;
mod encoding;
mod error;
mod headers;
mod secret;
mod timestamp;

pub use authority::Scheme;
pub use error::Error;
pub use headers::MAX_SIGNED_HEADERS;
pub use secret::Secret;
pub use timestamp::Timestamp;
