//! Percent-encoding, hexadecimal and the folding of header values, as bytes go into a signature.

use sha2::{Digest, Sha256, Sha512};

/// Where canonical text goes: a buffer, where a test reads it, or straight into the hash, so that no copy of a session token
/// stays behind.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// One byte of ASCII: every second piece of a canonical request is a separator.
    fn put_byte(&mut self, byte: u8) {
        self.put(&[byte]);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for Sha256 {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Sink for Sha512 {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// A string as a sink for ASCII.
pub(crate) struct Text<'a>(pub(crate) &'a mut String);

impl Sink for Text<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.push_str(ascii(bytes));
    }

    fn put_byte(&mut self, byte: u8) {
        self.0.push(char::from(byte));
    }
}

/// The text of bytes that this crate made of ASCII only.
pub(crate) fn ascii(bytes: &[u8]) -> &str {
    debug_assert!(bytes.is_ascii());
    std::str::from_utf8(bytes).unwrap_or_default()
}

pub(crate) fn hex32(bytes: &[u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [hex_digit(byte >> 4, b'a'), hex_digit(byte & 15, b'a')];
    }
    text
}

fn hex_digit(nibble: u8, ten: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { ten + nibble - 10 }
}

pub(crate) fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986's unreserved characters: the only ones that AWS leaves alone.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3: what a path may hold without being encoded.
pub(crate) fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Appends `bytes`, percent-encoded with upper-case digits except where `keep` says so.
pub(crate) fn percent_encode(bytes: &[u8], keep: impl Fn(u8) -> bool, out: &mut String) {
    out.reserve(bytes.len());
    for &byte in bytes {
        if byte.is_ascii() && keep(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(hex_digit(byte >> 4, b'A')));
            out.push(char::from(hex_digit(byte & 15, b'A')));
        }
    }
}

/// What becomes of a `%` that two hexadecimal digits do not follow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokenEscape {
    Refuse,
    /// Stands for itself, as in the URL standard's percent-decode.
    Keep,
}

/// `None` if an escape is broken and that is to be refused.
pub(crate) fn percent_decode(bytes: &[u8], broken: BrokenEscape) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let escape = match tail {
            [high, low, ..] => hex_value(*high).zip(hex_value(*low)),
            _ => None,
        };
        match (escape, broken) {
            (Some((high, low)), _) => {
                decoded.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            (None, BrokenEscape::Keep) => decoded.push(b'%'),
            (None, BrokenEscape::Refuse) => return None,
        }
    }
    Some(decoded)
}

/// A header's value without the spaces and tabs around it: HTTP gives these no meaning, and every hop may drop them.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `name` is an HTTP token (RFC 9110 §5.6.2).
pub(crate) fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte))
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    // A table, since every byte of every header's name passes here.
    #[allow(clippy::indexing_slicing)] // by the compiler, not by the program
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = is_token_character(byte as u8);
            byte += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).copied().unwrap_or_default()
}

const fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let mut out = String::new();
        percent_encode(bytes, is_unreserved, &mut out);
        out
    }

    #[test]
    fn every_byte_survives_encoding() {
        let all: Vec<u8> = (0..=255).collect();
        let encoded = encode(&all);
        assert!(encoded.starts_with("%00%01") && !encoded.contains('+') && encoded.ends_with("%FE%FF"));
        assert_eq!(percent_decode(encoded.as_bytes(), BrokenEscape::Refuse), Some(all));
    }

    #[test]
    fn broken_escapes() {
        for broken in ["%", "a%2", "%g0", "%0g", "%%41"] {
            assert_eq!(percent_decode(broken.as_bytes(), BrokenEscape::Refuse), None, "{broken}");
        }
        assert_eq!(percent_decode(b"%%41%2", BrokenEscape::Keep).unwrap(), b"%A%2");
        assert_eq!(percent_decode(b"%e2%82%AC+", BrokenEscape::Refuse).unwrap(), "€+".as_bytes());
    }

    #[test]
    fn trims_only_what_http_ignores() {
        assert_eq!(trim(b" \t a\tb \t"), b"a\tb");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b"\xa0"), b"\xa0");
    }

    #[test]
    fn hexadecimal() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 37 + 9) as u8);
        assert_eq!(ascii(&hex32(&bytes)), hex::encode(bytes));
    }
}
