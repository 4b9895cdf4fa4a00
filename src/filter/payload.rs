//! How a request's body enters its signature: whether it must be held and hashed, or can stream. The table of payload modes in
//! `docs/architecture.md`; rules by service from AWS, "Signature calculations for the Authorization header: transferring
//! payload in a single chunk", and `signing::aws4::Service`.

use crate::incoming::Incoming;
use crate::opened::{Opened, Signing};
use crate::reply::Reply;
use signing::aws4::{Framing, Payload, Reader, TrailerNames, framed_length};

/// What is done with the body.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Sign at once and let the body, if there is one, stream.
    Stream(Payload),
    /// Sign at once; the body is aws-chunked with unsigned chunks, and passes as it is while its framing is checked.
    Check(Box<Reader>),
    /// Sign at once; the body is aws-chunked, and is signed again in chunks of our own as it passes.
    Resign(Box<Reader>),
    /// Sign at once; the plain body, of this many bytes, is framed in signed chunks as it passes.
    Frame(u64),
    /// Hold the body, hash it as it arrives, sign when it is complete.
    Hash,
    /// The body is the grant's own; the requester must send none.
    Pinned,
}

impl Plan {
    /// What is signed of the body, where that does not depend on its bytes.
    pub fn payload(&self) -> Option<Payload> {
        match self {
            Plan::Stream(payload) => Some(*payload),
            Plan::Check(_) => Some(Payload::StreamingUnsignedTrailer),
            Plan::Resign(reader) => Some(reader.resigned_payload()),
            Plan::Frame(_) => Some(Payload::Streaming),
            Plan::Hash | Plan::Pinned => None,
        }
    }

    /// How long the body will be where its framing is ours. It was looked at when the plan was made: it fits.
    pub fn framed_length(&self) -> Option<u64> {
        match self {
            Plan::Resign(reader) => reader.resigned_length(),
            Plan::Frame(length) => framed_length(*length, None),
            Plan::Stream(_) | Plan::Check(_) | Plan::Hash | Plan::Pinned => None,
        }
    }
}

/// Decides for one request.
pub fn plan(incoming: &Incoming, opened: &Opened, max_body: usize) -> Result<Plan, Reply> {
    if opened.pinned_body().is_some() {
        return if incoming.content_length.is_some_and(|length| length > 0) {
            Err(Reply::pinned_body())
        } else {
            Ok(Plan::Pinned)
        };
    }
    requesters_body(incoming, opened.signing(), max_body)
}

/// `signing` is none where no signature covers the body: then every body streams.
fn requesters_body(incoming: &Incoming, signing: Option<&Signing>, max_body: usize) -> Result<Plan, Reply> {
    let Some(signing) = signing else { return Ok(Plan::Stream(Payload::Empty)) };
    let given = match incoming.single("x-amz-content-sha256")? {
        None => None,
        Some(value) => Some(Payload::parse(value).ok_or_else(|| {
            Reply::bad_request(
                "x-amz-content-sha256 must be 64 hexadecimal digits, UNSIGNED-PAYLOAD or a STREAMING-… mode that is known",
            )
        })?),
    };
    if incoming.ended {
        return Ok(Plan::Stream(Payload::Empty));
    }
    let unsigned_allowed = signing.is_s3 && signing.tls && !signing.payload_signed;
    let plan = match given {
        _ if signing.always_unsigned => Plan::Stream(Payload::Unsigned),
        Some(payload) if let Some(framing) = Framing::of(payload) => {
            if !signing.is_s3 {
                return Err(Reply::bad_request("x-amz-content-sha256: STREAMING-… is for S3 alone"));
            }
            let reader = Box::new(reader(incoming, framing)?);
            if framing == Framing::UnsignedTrailer && unsigned_allowed {
                Plan::Check(reader)
            } else {
                Plan::Resign(reader)
            }
        }
        // The requester's own hash: AWS checks it against the body. Where a session token is sent, a mismatch outside S3 is
        // answered with our canonical request, token included; there the body is hashed by us.
        Some(hash @ Payload::Sha256(_)) if signing.is_s3 || !signing.has_session_token => Plan::Stream(hash),
        Some(Payload::Unsigned) if signing.is_s3 && signing.payload_signed => {
            return Err(Reply::bad_request(
                "x-amz-content-sha256: this capability demands signed bodies: leave UNSIGNED-PAYLOAD out",
            ));
        }
        _ if unsigned_allowed => Plan::Stream(Payload::Unsigned),
        _ if signing.is_s3 && signing.payload_signed => {
            Plan::Frame(incoming.content_length.ok_or_else(Reply::length_required)?)
        }
        _ => Plan::Hash,
    };
    let needs_length = signing.is_s3 && !matches!(plan, Plan::Check(_) | Plan::Resign(_));
    if needs_length && incoming.content_length.is_none() {
        return Err(Reply::length_required());
    }
    if matches!(plan, Plan::Resign(_) | Plan::Frame(_)) && plan.framed_length().is_none() {
        return Err(Reply::bad_request("the declared length of the body is too large to be framed"));
    }
    let too_large = |length: u64| usize::try_from(length).map_or(true, |length| length > max_body);
    if matches!(plan, Plan::Hash) && incoming.content_length.is_some_and(too_large) {
        return Err(Reply::body_too_large(max_body));
    }
    Ok(plan)
}

/// For a body that comes framed, as its headers announce it.
fn reader(incoming: &Incoming, framing: Framing) -> Result<Reader, Reply> {
    let decoded = match incoming.single("x-amz-decoded-content-length")? {
        None => return Err(Reply::length_required()),
        Some(digits) => crate::incoming::parse_length(digits)
            .ok_or_else(|| Reply::bad_request("x-amz-decoded-content-length must be a number"))?,
    };
    let announced = incoming.headers().filter(|(name, _)| *name == b"x-amz-trailer").map(|(_, value)| value);
    let fault = |fault: signing::aws4::Fault| Reply::bad_request(fault.to_string());
    Reader::new(framing, decoded, TrailerNames::parse(announced).map_err(fault)?).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnMissing;
    use crate::incoming::Arrival;
    use crate::incoming::tests::pairs;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn lambda() -> Signing {
        Signing {
            is_s3: false,
            tls: true,
            always_unsigned: false,
            has_session_token: false,
            payload_signed: false,
        }
    }

    /// The plan in a word, and the length of the body where the framing is ours; or the status of the refusal.
    fn decide(signing: Option<Signing>, ended: bool, headers: &[(&str, &str)]) -> Result<String, u16> {
        let mut all = vec![("authorization", "Bearer CPBLTY1-x")];
        all.extend(headers);
        let Arrival::Capability(incoming) = Incoming::arrive(pairs(&all), ended, OnMissing::Deny) else {
            panic!()
        };
        let plan = requesters_body(&incoming, signing.as_ref(), 1000).map_err(|reply| reply.status)?;
        let payload = match plan.payload() {
            Some(Payload::Sha256(_)) => "its hash",
            Some(payload) => payload.literal().unwrap_or("nothing"),
            None => "",
        };
        Ok(match &plan {
            Plan::Stream(_) => format!("stream {payload}"),
            Plan::Check(_) => format!("check {payload}"),
            Plan::Resign(_) => format!("resign {payload} {}", plan.framed_length().unwrap()),
            Plan::Frame(_) => format!("frame {payload} {}", plan.framed_length().unwrap()),
            Plan::Hash => "hash".into(),
            Plan::Pinned => "pinned".into(),
        })
    }

    #[test]
    fn the_table_of_payload_modes() {
        let s3 = Signing { is_s3: true, ..lambda() };
        let s3_http = Signing { tls: false, ..s3 };
        let s3_signed = Signing { payload_signed: true, ..s3 };
        let s3_http_signed = Signing { payload_signed: true, ..s3_http };
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
        let crc = ("x-amz-trailer", "x-amz-checksum-crc32");
        let passes = Ok("check STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        // 7 bytes in one chunk: 1+17+64+2 +7+2, the last chunk 1+17+64+2, and 2; the trailers 31 and 90 more.
        let resigned = Ok("resign STREAMING-AWS4-HMAC-SHA256-PAYLOAD 179");
        let resigned_trailer = Ok("resign STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER 300");
        for (name, signing, ended, headers, expected) in [
            ("no body", Some(lambda()), true, vec![], Ok("stream nothing")),
            ("no body, a hash", Some(lambda()), true, vec![sha], Ok("stream nothing")),
            ("no body, s3", Some(s3), true, vec![], Ok("stream nothing")),
            ("no signature", None, false, vec![junk], Ok("stream nothing")),
            ("plain", Some(lambda()), false, vec![length], Ok("hash")),
            ("plain, no length", Some(lambda()), false, vec![], Ok("hash")),
            ("plain, too long", Some(lambda()), false, vec![large], Err(413)),
            ("hash", Some(lambda()), false, vec![sha, large], Ok("stream its hash")),
            ("hash, session token", Some(with_token), false, vec![sha, length], Ok("hash")),
            ("hash, session token, s3", Some(s3_token), false, vec![sha, large], Ok("stream its hash")),
            ("hash, signed", Some(s3_signed), false, vec![sha, large], Ok("stream its hash")),
            ("unsigned, not s3", Some(lambda()), false, vec![unsigned, length], Ok("hash")),
            ("unsigned, s3", Some(s3), false, vec![unsigned, large], Ok("stream UNSIGNED-PAYLOAD")),
            ("unsigned, s3 in the clear", Some(s3_http), false, vec![unsigned, length], Ok("hash")),
            ("unsigned, but signed is demanded", Some(s3_signed), false, vec![unsigned, length], Err(400)),
            ("plain, s3", Some(s3), false, vec![large], Ok("stream UNSIGNED-PAYLOAD")),
            ("plain, s3, no length", Some(s3), false, vec![], Err(411)),
            ("plain, s3 in the clear", Some(s3_http), false, vec![length], Ok("hash")),
            (
                "plain, signed",
                Some(s3_signed),
                false,
                vec![large],
                Ok("frame STREAMING-AWS4-HMAC-SHA256-PAYLOAD 1175"),
            ),
            (
                "plain, signed, in the clear",
                Some(s3_http_signed),
                false,
                vec![large],
                Ok("frame STREAMING-AWS4-HMAC-SHA256-PAYLOAD 1175"),
            ),
            ("plain, signed, no length", Some(s3_signed), false, vec![], Err(411)),
            (
                "plain, signed, beyond all bounds",
                Some(s3_signed),
                false,
                vec![("content-length", "18446744073709551615")],
                Err(400),
            ),
            ("trailer, s3", Some(s3), false, vec![trailer, decoded], passes),
            ("trailer, s3, a checksum", Some(s3), false, vec![trailer, decoded, crc], passes),
            (
                "trailer, s3, not a checksum",
                Some(s3),
                false,
                vec![trailer, decoded, ("x-amz-trailer", "x-amz-checksum-crc32, x-amz-acl")],
                Err(400),
            ),
            ("trailer, s3, no length", Some(s3), false, vec![trailer, large], Err(411)),
            (
                "trailer, s3, not a length",
                Some(s3),
                false,
                vec![trailer, ("x-amz-decoded-content-length", "+7")],
                Err(400),
            ),
            ("trailer, in the clear", Some(s3_http), false, vec![trailer, decoded, crc], resigned_trailer),
            ("trailer, signed", Some(s3_signed), false, vec![trailer, decoded, crc], resigned_trailer),
            ("trailer, signed, none", Some(s3_signed), false, vec![trailer, decoded], resigned),
            ("trailer, not s3", Some(lambda()), false, vec![trailer, decoded], Err(400)),
            ("signed chunks", Some(s3), false, vec![signed, decoded], resigned),
            ("signed chunks, a trailer", Some(s3), false, vec![signed, decoded, crc], Err(400)),
            (
                "signed chunks and trailer",
                Some(s3),
                false,
                vec![signed_trailer, decoded, crc],
                resigned_trailer,
            ),
            ("signed chunks, not s3", Some(lambda()), false, vec![signed, decoded], Err(400)),
            ("ecdsa", Some(s3), false, vec![ecdsa, decoded], Err(400)),
            ("junk", Some(lambda()), false, vec![junk, length], Err(400)),
            ("two", Some(lambda()), false, vec![sha, sha], Err(400)),
            ("lattice", Some(lattice), false, vec![], Ok("stream UNSIGNED-PAYLOAD")),
        ] {
            assert_eq!(decide(signing, ended, &headers), expected.map(str::to_owned), "{name}");
        }
    }
}
