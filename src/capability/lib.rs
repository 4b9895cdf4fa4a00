//! What a capability is: the token its holder has, the URI it travels in, the grant or control it stands for, and the
//! sealed record in which a store keeps it.
//!
//! Nothing here does I/O, reads a clock or draws a random number: nonces and token bytes are parameters, so that every
//! rule can be tested natively and byte for byte. The formats are those of `docs/wire.md`.

#![forbid(unsafe_code)]

mod authority;
pub mod configured;
mod content;
mod create;
#[cfg(feature = "escrow")]
pub mod escrow;
mod export;
mod fields;
mod grant;
mod hmac;
mod ids;
pub mod record;
mod secret;
mod token;
mod units;
mod uri;

pub use authority::{Authority, AuthorityError};
pub use content::{Content, ContentError, Control, EscrowKey, Role};
pub use create::Create;
pub use export::{Export, Exported};
pub use fields::FieldError;
pub use grant::{Grant, Header, MAX_BODY, MAX_TIMEOUT_MS, Scheme, Target};
pub use hmac::{Aws4Credential, Cap1Credential, Hmac, Payload};
pub use ids::{IdError, LookupId, MembraneId, Uid, Unit};
pub use secret::Secret;
pub use token::{RecordKeys, Token, TokenError, without_tokens};
pub use units::{MAX_SOURCES, MAX_UNIT_PAIRS, TooDeep, UnitPair, Units};
pub use uri::{CapabilityUri, UriError};

/// The message of a 401. The registry's and the filter's are the same, so that nobody can tell a dead control, which only the
/// registry refuses, from a token that never was.
pub const UNAUTHORIZED: &str = "a valid capability is required: Authorization: Bearer CPBLTY1-…";

/// A key as key files hold it ([`record::Keks::parse`]). Secret: whoever asks for it wipes it.
pub fn encode_key(bytes: &[u8; 32]) -> String {
    use base64::Engine as _;
    B64.encode(bytes)
}

/// base64url without padding (RFC 4648 §5), refusing non-canonical last characters: one value, one spelling.
pub(crate) const B64: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;
