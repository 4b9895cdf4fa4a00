use std::fmt;

/// What is wrong with a framed body, or with what its headers announce. Carries no part of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `x-amz-trailer` names something that is not one of [`super::Checksum`]'s headers.
    TrailerName,
    /// `x-amz-trailer` names a header twice, or more than [`super::MAX_TRAILERS`].
    TrailerNames,
    /// `x-amz-trailer` with a payload that has no trailers.
    TrailersAnnounced,
    /// A chunk's size is not 1 to 16 hexadecimal digits.
    ChunkSize,
    /// What follows a chunk's size: `;chunk-signature=` was expected in a signed body, the line's end in an unsigned one.
    ChunkExtension,
    /// A chunk's signature is not 64 hexadecimal digits.
    ChunkSignature,
    /// CR LF was expected.
    LineEnd,
    /// More data than was declared.
    TooLong,
    /// Less data than was declared, though the last chunk has come.
    TooShort,
    /// A line after the last chunk is not `name:value`, or too long.
    TrailerLine,
    /// A trailer that `x-amz-trailer` does not name.
    TrailerNotAnnounced,
    /// A trailer that has come already.
    TrailerRepeated,
    /// A trailer's value is not a checksum of its algorithm in base64.
    TrailerValue,
    /// `x-amz-trailer-signature` is not 64 hexadecimal digits, comes twice, before another trailer, or in an unsigned body.
    TrailerSignature,
    /// A trailer that was announced, or the signature of the trailers, has not come.
    TrailerMissing,
    /// Something follows the end.
    AfterEnd,
    /// The body ends too early.
    Truncated,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrailerName => "x-amz-trailer may name checksums that are known alone: x-amz-checksum-crc32 and its kin",
            Self::TrailerNames => "x-amz-trailer names a header twice, or more than 4",
            Self::TrailersAnnounced => "x-amz-trailer needs a payload with trailers: STREAMING-…-TRAILER",
            Self::ChunkSize => "a chunk must begin with its size: 1 to 16 hexadecimal digits",
            Self::ChunkExtension => {
                "a chunk's size must be followed by ;chunk-signature= if the payload is signed, else by CR LF"
            }
            Self::ChunkSignature => "a chunk's signature must be 64 hexadecimal digits",
            Self::LineEnd => "the line before a chunk's data, and the data, must end with CR LF",
            Self::TooLong => "the chunks hold more than was declared",
            Self::TooShort => "the chunks hold less than was declared",
            Self::TrailerLine => "what follows the last chunk must be lines of name:value, at most 160 bytes each",
            Self::TrailerNotAnnounced => "a trailer came that x-amz-trailer does not name",
            Self::TrailerRepeated => "a trailer came twice",
            Self::TrailerValue => "a trailer's value must be a checksum of its algorithm in base64",
            Self::TrailerSignature => {
                "x-amz-trailer-signature must be 64 hexadecimal digits, once, last, and in a signed payload alone"
            }
            Self::TrailerMissing => "a trailer that was announced, or the signature of the trailers, did not come",
            Self::AfterEnd => "something follows the end of the chunks",
            Self::Truncated => "the body ends before its last chunk and the line after it",
        })
    }
}

impl std::error::Error for Fault {}
