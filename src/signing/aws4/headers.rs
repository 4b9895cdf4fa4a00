//! Which headers are signed, and in what form.

use crate::encoding::{Sink, trim};
use crate::headers::is_rewritten_by_proxies;

/// Headers that signing sets itself. [`super::Signer::sign`] skips the requester's: it must not reach the wire.
pub fn is_set_by_signing(name: &[u8]) -> bool {
    matches!(
        name,
        b"host"
            | b"authorization"
            | b"x-amz-date"
            | b"x-amz-content-sha256"
            | b"x-amz-security-token"
            | b"x-amz-s3session-token"
    )
}

/// Headers that something on the way may change, add or drop, so that signing them breaks the signature: hop-by-hop ones,
/// lengths, what proxies and tracers write. [`super::Signer::sign`] skips them. Includes botocore's `SIGNED_HEADERS_BLACKLIST`
/// and `aws-sigv4`'s `excluded_headers`.
pub fn is_unsigned_by_nature(name: &[u8]) -> bool {
    matches!(name, b"user-agent" | b"content-length") || is_rewritten_by_proxies(name)
}

/// Headers that are signed whenever they are sent. Others are signed if the grant pins them.
pub fn is_signed_by_default(name: &[u8]) -> bool {
    name == b"content-type" || name.starts_with(b"x-amz-")
}

/// Trimmed, and runs of spaces folded to one. Tabs inside stay: AWS says "sequential spaces", and its SDKs do not agree on more.
pub(super) fn write_folded(value: &[u8], out: &mut impl Sink) {
    let mut rest = trim(value);
    if !rest.contains(&b' ') {
        // As most are.
        return out.put(rest);
    }
    while let Some(double) = rest.windows(2).position(|pair| pair == b"  ") {
        let (head, tail) = rest.split_at(double + 1);
        out.put(head);
        let next = tail.iter().position(|&byte| byte != b' ').unwrap_or(tail.len());
        rest = tail.get(next..).unwrap_or_default();
    }
    out.put(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_spaces_become_one() {
        for (value, folded) in [
            ("", ""),
            (" \t ", ""),
            ("  2   two \t", "2 two"),
            ("a  \t  b", "a \t b"),
            ("a\tb", "a\tb"),
            ("\"q   q\"", "\"q q\""),
            ("1, 1,  1", "1, 1, 1"),
        ] {
            let mut out = Vec::new();
            write_folded(value.as_bytes(), &mut out);
            assert_eq!(out, folded.as_bytes(), "{value:?}");
        }
        let mut out = Vec::new();
        write_folded(b"\xff  \xfe", &mut out);
        assert_eq!(out, b"\xff \xfe");
    }
}
