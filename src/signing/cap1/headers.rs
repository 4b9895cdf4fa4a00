//! Which headers are signed, and in what form.

use crate::Error;
use crate::encoding::Sink;
use crate::headers::is_rewritten_by_proxies;

/// Headers that signing sets itself. [`super::Signer::sign`] skips the requester's: it must not reach the wire.
pub fn is_set_by_signing(name: &[u8]) -> bool {
    matches!(name, b"host" | b"authorization" | b"x-cap-date")
}

/// Headers that something on the way may change, add or drop, so that signing them breaks the signature: hop-by-hop ones, and
/// what proxies and tracers write. [`super::Signer::sign`] skips them; every other header given is signed.
pub fn is_unsigned_by_nature(name: &[u8]) -> bool {
    is_rewritten_by_proxies(name)
}

/// Refuses a value on whose folding implementations may differ: one with an unpaired quote, and white space that folding would
/// change.
pub(super) fn check(value: &[u8]) -> Result<(), Error> {
    let unpaired = value.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
    let value = trim(value);
    let folds = value.windows(2).any(|pair| pair.iter().all(|&byte| is_white_space(byte)))
        || value.iter().any(|&byte| is_white_space(byte) && byte != b' ');
    if unpaired && folds { Err(Error::HeaderQuotes) } else { Ok(()) }
}

/// Trimmed; white space outside double quotes folded to one space a run; latin1 as UTF-8.
pub(super) fn write_folded(value: &[u8], out: &mut impl Sink) {
    let mut quoted = false;
    let mut in_white_space = false;
    for &byte in trim(value) {
        if is_white_space(byte) && !quoted {
            if !in_white_space {
                out.put(b" ");
            }
            in_white_space = true;
            continue;
        }
        in_white_space = false;
        quoted ^= byte == b'"';
        write_latin1(byte, out);
    }
}

/// One byte, as the UTF-8 of the character with that number.
pub(super) fn write_latin1(byte: u8, out: &mut impl Sink) {
    out.put(char::from(byte).encode_utf8(&mut [0; 4]).as_bytes());
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = value
        && is_white_space(*first)
    {
        value = rest;
    }
    while let [rest @ .., last] = value
        && is_white_space(*last)
    {
        value = rest;
    }
    value
}

/// What of latin1 a JavaScript regular expression calls `\s` (ECMA-262 §22.2.2.9) and `trim` takes off.
fn is_white_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_outside_quotes_only() {
        for (value, folded) in [
            (&b"  trimmed\t"[..], "trimmed"),
            (b"two  spaces", "two spaces"),
            (b"tab\tx", "tab x"),
            (b"a  \"quoted   inner\"  b", "a \"quoted   inner\" b"),
            (b"\"a\tb\" \t \"c  d\"", "\"a\tb\" \"c  d\""),
            (b"\xfcn\xef\xa0 x", "ünï x"),
            ("ü".as_bytes(), "Ã¼"),
            (b"", ""),
        ] {
            let mut out = Vec::new();
            write_folded(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), folded);
            assert_eq!(check(value), Ok(()));
        }
    }

    #[test]
    fn ambiguous_quotes() {
        for value in ["a  b\"", "a\tb\"c", "\"a\" \"  b"] {
            assert_eq!(check(value.as_bytes()), Err(Error::HeaderQuotes), "{value}");
        }
        for value in [" 5\" wide ", "a b \"c", "\"a  b\""] {
            assert_eq!(check(value.as_bytes()), Ok(()), "{value}");
        }
    }
}
