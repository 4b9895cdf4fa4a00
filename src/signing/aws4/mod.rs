//! AWS Signature Version 4 in the `Authorization` header (AWS4-HMAC-SHA256).
//!
//! What a grant pins is parsed once, into a [`Target`] (where the request goes) and a [`Signer`] (who signs it, and for
//! which service). [`Signer::sign`] then signs one request and says which headers to set.
//!
//! Source of the rules, unless a comment names another: AWS, "Create a signed AWS API request", IAM User Guide.

mod chunk_reader;
mod chunks;
mod fault;
mod headers;
mod key;
mod payload;
mod query;
mod reframing;
mod service;
mod signer;
pub mod stages;
mod target;
mod trailers;
mod transcript;

pub use chunk_reader::{Framing, Reader};
pub use chunks::{CHUNK_SIZE, ChunkSigner, framed_length};
pub use fault::Fault;
pub use headers::{is_set_by_signing, is_signed_by_default, is_unsigned_by_nature};
pub use key::DayKey;
pub use payload::Payload;
pub use query::Query;
pub use reframing::{Framer, Resigner};
pub use service::Service;
pub use signer::{Credential, SessionToken, Signed, Signer};
pub use target::Target;
pub use trailers::{Checksum, MAX_TRAILERS, TrailerNames, Trailers};
