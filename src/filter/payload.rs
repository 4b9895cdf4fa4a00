//! How a request's body enters its signature: whether it must be held and hashed, or can stream. The table of payload modes in
//! `docs/architecture.md`; rules by service from AWS, "Signature calculations for the Authorization header: transferring
//! payload in a single chunk", and `signing::aws4::Service`.

use crate::incoming::Incoming;
use crate::opened::{Opened, Signing};
use crate::reply::Reply;
use signing::aws4::Payload;

/// What is done with the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sign at once and let the body, if there is one, stream.
    Stream(Payload),
    /// Hold the body, hash it as it arrives, sign when it is complete.
    Hash,
    /// The body is the grant's own; the requester must send none.
    Pinned,
}

/// Where the body's length is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What is done with the body.
    pub mode: Mode,
    /// aws-chunked framing: its own headers (`x-amz-decoded-content-length`, `x-amz-trailer`) belong to the payload and pass.
    pub chunked: bool,
}

const STREAM_EMPTY: Plan = Plan { mode: Mode::Stream(Payload::Empty), chunked: false };

/// Decides for one request.
pub fn plan(incoming: &Incoming, opened: &Opened, max_body: usize) -> Result<Plan, Reply> {
    if opened.pinned_body().is_some() {
        return if incoming.content_length.is_some_and(|length| length > 0) {
            Err(Reply::pinned_body())
        } else {
            Ok(Plan { mode: Mode::Pinned, chunked: false })
        };
    }
    requesters_body(incoming, opened.signing(), max_body)
}

/// `signing` is none where no signature covers the body: then every body streams.
fn requesters_body(incoming: &Incoming, signing: Option<&Signing>, max_body: usize) -> Result<Plan, Reply> {
    let Some(signing) = signing else { return Ok(STREAM_EMPTY) };
    let given = match incoming.single("x-amz-content-sha256")? {
        None => None,
        Some(value) => Some(Payload::parse(value).ok_or_else(|| {
            Reply::bad_request(
                "x-amz-content-sha256 must be 64 hexadecimal digits, UNSIGNED-PAYLOAD or a STREAMING-… mode that is known",
            )
        })?),
    };
    if let Some(Payload::Streaming | Payload::StreamingTrailer) = given {
        return Err(Reply::bad_request(
            "x-amz-content-sha256: bodies with signed chunks are not supported yet; send STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
             UNSIGNED-PAYLOAD or the body's hash",
        ));
    }
    if incoming.ended {
        return Ok(STREAM_EMPTY);
    }
    let s3_over_tls = signing.is_s3 && signing.tls;
    let plan = match given {
        _ if signing.always_unsigned => Plan { mode: Mode::Stream(Payload::Unsigned), chunked: false },
        Some(Payload::StreamingUnsignedTrailer) if s3_over_tls => {
            let decoded = incoming.single("x-amz-decoded-content-length")?;
            if !decoded.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)) {
                return Err(Reply::length_required());
            }
            let checksum = |name: &[u8]| name.trim_ascii().starts_with(b"x-amz-checksum-");
            if incoming
                .single("x-amz-trailer")?
                .is_some_and(|names| !names.split(|b| *b == b',').all(checksum))
            {
                return Err(Reply::bad_request("x-amz-trailer may name x-amz-checksum-* alone"));
            }
            Plan { mode: Mode::Stream(Payload::StreamingUnsignedTrailer), chunked: true }
        }
        Some(Payload::StreamingUnsignedTrailer) => {
            return Err(Reply::bad_request(
                "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER is for S3 over https alone",
            ));
        }
        // The requester's own hash: AWS checks it against the body. Where a session token is sent, a mismatch outside S3 is
        // answered with our canonical request, token included; there the body is hashed by us.
        Some(hash @ Payload::Sha256(_)) if signing.is_s3 || !signing.has_session_token => {
            Plan { mode: Mode::Stream(hash), chunked: false }
        }
        _ if s3_over_tls => Plan { mode: Mode::Stream(Payload::Unsigned), chunked: false },
        _ => Plan { mode: Mode::Hash, chunked: false },
    };
    if signing.is_s3 && incoming.content_length.is_none() && !plan.chunked {
        return Err(Reply::length_required());
    }
    let too_large = |length: u64| usize::try_from(length).map_or(true, |length| length > max_body);
    if plan.mode == Mode::Hash && incoming.content_length.is_some_and(too_large) {
        return Err(Reply::body_too_large(max_body));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnMissing;
    use crate::incoming::Arrival;
    use crate::incoming::tests::pairs;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn lambda() -> Signing {
        Signing { is_s3: false, tls: true, always_unsigned: false, has_session_token: false }
    }

    fn decide(signing: Option<Signing>, ended: bool, headers: &[(&str, &str)]) -> Result<Mode, u16> {
        let mut all = vec![("authorization", "Bearer CPBLTY1-x")];
        all.extend(headers);
        let Arrival::Capability(incoming) = Incoming::arrive(pairs(&all), ended, OnMissing::Deny) else {
            panic!()
        };
        requesters_body(&incoming, signing.as_ref(), 1000).map(|plan| plan.mode).map_err(|reply| reply.status)
    }

    #[test]
    fn the_table_of_payload_modes() {
        let s3 = Signing { is_s3: true, ..lambda() };
        let s3_http = Signing { tls: false, ..s3 };
        let lattice = Signing { always_unsigned: true, ..lambda() };
        let with_token = Signing { has_session_token: true, ..lambda() };
        let s3_token = Signing { has_session_token: true, ..s3 };
        let sha = ("x-amz-content-sha256", HASH);
        let unsigned = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        let trailer = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        let signed = ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
        let signed_trailer = ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER");
        let ecdsa = ("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD");
        let junk = ("x-amz-content-sha256", "abc");
        let length = ("content-length", "1000");
        let large = ("content-length", "1001");
        let decoded = ("x-amz-decoded-content-length", "7");
        let hash = Mode::Stream(Payload::Sha256([0xaa; 32]));
        for (name, signing, ended, headers, expected) in [
            ("no body", Some(lambda()), true, vec![], Ok(Mode::Stream(Payload::Empty))),
            ("no body, a hash", Some(lambda()), true, vec![sha], Ok(Mode::Stream(Payload::Empty))),
            ("no body, s3", Some(s3), true, vec![], Ok(Mode::Stream(Payload::Empty))),
            ("no signature", None, false, vec![junk], Ok(Mode::Stream(Payload::Empty))),
            ("plain", Some(lambda()), false, vec![length], Ok(Mode::Hash)),
            ("plain, no length", Some(lambda()), false, vec![], Ok(Mode::Hash)),
            ("plain, too long", Some(lambda()), false, vec![large], Err(413)),
            ("hash", Some(lambda()), false, vec![sha, large], Ok(hash)),
            ("hash, session token", Some(with_token), false, vec![sha, length], Ok(Mode::Hash)),
            ("hash, session token, s3", Some(s3_token), false, vec![sha, large], Ok(hash)),
            ("unsigned, not s3", Some(lambda()), false, vec![unsigned, length], Ok(Mode::Hash)),
            ("unsigned, s3", Some(s3), false, vec![unsigned, large], Ok(Mode::Stream(Payload::Unsigned))),
            ("unsigned, s3 in the clear", Some(s3_http), false, vec![unsigned, length], Ok(Mode::Hash)),
            ("plain, s3", Some(s3), false, vec![large], Ok(Mode::Stream(Payload::Unsigned))),
            ("plain, s3, no length", Some(s3), false, vec![], Err(411)),
            (
                "trailer, s3",
                Some(s3),
                false,
                vec![trailer, decoded],
                Ok(Mode::Stream(Payload::StreamingUnsignedTrailer)),
            ),
            (
                "trailer, s3, a checksum",
                Some(s3),
                false,
                vec![trailer, decoded, ("x-amz-trailer", "x-amz-checksum-crc32")],
                Ok(Mode::Stream(Payload::StreamingUnsignedTrailer)),
            ),
            (
                "trailer, s3, not a checksum",
                Some(s3),
                false,
                vec![trailer, decoded, ("x-amz-trailer", "x-amz-checksum-crc32, x-amz-acl")],
                Err(400),
            ),
            ("trailer, s3, no length", Some(s3), false, vec![trailer, large], Err(411)),
            ("trailer, s3 in the clear", Some(s3_http), false, vec![trailer, decoded], Err(400)),
            ("trailer, not s3", Some(lambda()), false, vec![trailer, decoded], Err(400)),
            ("signed chunks", Some(s3), false, vec![signed, decoded], Err(400)),
            ("signed chunks and trailer", Some(s3), false, vec![signed_trailer, decoded], Err(400)),
            ("ecdsa", Some(s3), false, vec![ecdsa, decoded], Err(400)),
            ("junk", Some(lambda()), false, vec![junk, length], Err(400)),
            ("two", Some(lambda()), false, vec![sha, sha], Err(400)),
            ("lattice", Some(lattice), false, vec![], Ok(Mode::Stream(Payload::Unsigned))),
        ] {
            assert_eq!(decide(signing, ended, &headers), expected, "{name}");
        }
    }
}
