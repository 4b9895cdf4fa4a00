use crate::encoding::hex_value;

/// What the last line of the canonical request says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// No body: the hash of nothing.
    Empty,
    /// The body's SHA-256.
    Sha256([u8; 32]),
    /// `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`: aws-chunked, with checksums in trailers.
    StreamingUnsignedTrailer,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`: aws-chunked, every chunk signed.
    Streaming,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`: aws-chunked, every chunk and the trailers signed.
    StreamingTrailer,
}

/// SHA-256 of nothing.
pub(super) const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl Payload {
    /// Reads a requester's `x-amz-content-sha256`: 64 hexadecimal digits of either case, or one of the literals. `None` for
    /// anything else, which cannot be signed (`STREAMING-AWS4-ECDSA-…` for instance).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let literals =
            [Self::Unsigned, Self::StreamingUnsignedTrailer, Self::Streaming, Self::StreamingTrailer];
        if let Some(literal) = literals
            .into_iter()
            .find(|payload| payload.literal().is_some_and(|text| text.as_bytes() == value))
        {
            return Some(literal);
        }
        let (pairs, []) = value.as_chunks::<2>() else { return None };
        let mut hash = [0; 32];
        if pairs.len() != hash.len() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = hex_value(*high)? << 4 | hex_value(*low)?;
        }
        Some(Self::Sha256(hash))
    }

    /// The text signed in place of a hash, if there is one.
    pub fn literal(self) -> Option<&'static str> {
        match self {
            Self::Empty | Self::Sha256(_) => None,
            Self::Unsigned => Some("UNSIGNED-PAYLOAD"),
            Self::StreamingUnsignedTrailer => Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            Self::Streaming => Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            Self::StreamingTrailer => Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_requesters_send() {
        for literal in [
            Payload::Unsigned,
            Payload::StreamingUnsignedTrailer,
            Payload::Streaming,
            Payload::StreamingTrailer,
        ] {
            assert_eq!(Payload::parse(literal.literal().unwrap().as_bytes()), Some(literal));
        }
        let mut hash = [0; 32];
        hex::decode_to_slice(EMPTY_SHA256, &mut hash).unwrap();
        assert_eq!(Payload::parse(EMPTY_SHA256.as_bytes()), Some(Payload::Sha256(hash)));
        assert_eq!(Payload::parse(EMPTY_SHA256.to_uppercase().as_bytes()), Some(Payload::Sha256(hash)));
        for other in [
            "",
            "e3",
            "unsigned-payload",
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
            &EMPTY_SHA256[1..],
            &format!("{EMPTY_SHA256}00"),
            &EMPTY_SHA256.replace('e', "g"),
        ] {
            assert_eq!(Payload::parse(other.as_bytes()), None, "{other}");
        }
    }
}
