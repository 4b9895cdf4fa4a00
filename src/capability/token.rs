//! The token: what a holder has. Everything else is derived from it.

use crate::{B64, LookupId};
use base64::Engine as _;
use core::fmt;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "CPBLTY1-";
/// What we mint: 512 bits, far past anything that can be guessed, so that a fast one-way function suffices for lookup ids.
const MINTED_LEN: usize = 64;
/// What we take from others: the published service accepted bodies from 32 bytes on.
const MIN_LEN: usize = 32;

/// Why bytes are not a token. Never holds the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// It does not begin with `CPBLTY1-`.
    Prefix,
    /// What follows is not canonical, unpadded base64url.
    Encoding,
    /// It holds fewer than 32 or more than 64 bytes.
    Length,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenError::Prefix => "a token begins with CPBLTY1-",
            TokenError::Encoding => "a token's body is canonical unpadded base64url",
            TokenError::Length => "a token's body holds 32 to 64 bytes",
        })
    }
}

impl std::error::Error for TokenError {}

/// A bearer token, valid by construction: `CPBLTY1-` and the unpadded base64url of 32 to 64 bytes (64 when minted here).
///
/// Wiped on drop, compared in constant time, redacted in `Debug`.
pub struct Token {
    text: Zeroizing<String>,
    bytes: Zeroizing<Vec<u8>>,
}

/// The two keys that belong to a token's record: one seals it, one commits to the first.
pub struct RecordKeys {
    pub(crate) key: Zeroizing<[u8; 32]>,
    pub(crate) commit: Zeroizing<[u8; 32]>,
}

impl Token {
    /// The longest text of a token, in bytes: `CPBLTY1-` and 86 characters.
    pub const MAX_TEXT_LEN: usize = 94;

    /// A new token from 64 bytes of a cryptographic random source.
    pub fn mint(random: [u8; MINTED_LEN]) -> Token {
        let bytes = Zeroizing::new(random.to_vec());
        Token { text: spell(&bytes), bytes }
    }

    /// Reads a token. One token has one spelling: padding and stray bits in the last character are refused.
    pub fn parse(text: &[u8]) -> Result<Token, TokenError> {
        let body = text.strip_prefix(PREFIX.as_bytes()).ok_or(TokenError::Prefix)?;
        if text.len() > Token::MAX_TEXT_LEN {
            return Err(TokenError::Length);
        }
        let mut bytes = Zeroizing::new(vec![0u8; MINTED_LEN + 2]);
        let len = B64.decode_slice(body, &mut bytes).map_err(|_| TokenError::Encoding)?;
        if !(MIN_LEN..=MINTED_LEN).contains(&len) {
            return Err(TokenError::Length);
        }
        bytes.truncate(len);
        Ok(Token { text: spell(&bytes), bytes })
    }

    /// The token as it stands in a bearer header. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Whether `text` is this token's, in a time that depends on their lengths alone. Eight bytes at a time, and looked at once:
    /// byte by byte, as a slice's `ct_eq` does it, this was a seventh of the filter's own time for a request.
    pub fn is_spelled(&self, text: &[u8]) -> bool {
        let own = self.text.as_bytes();
        if own.len() != text.len() {
            return false;
        }
        let ((own, own_rest), (text, rest)) = (own.as_chunks::<8>(), text.as_chunks::<8>());
        let whole = own
            .iter()
            .zip(text)
            .fold(0, |seen, (own, other)| seen | (u64::from_ne_bytes(*own) ^ u64::from_ne_bytes(*other)));
        let all = own_rest.iter().zip(rest).fold(whole, |seen, (own, other)| seen | u64::from(own ^ other));
        all.ct_eq(&0).into()
    }

    /// The key of the token's record in the store.
    pub fn lookup_id(&self) -> LookupId {
        LookupId(*self.expand(b"CPBLTY1/lookup-id/v1", &[]))
    }

    /// The keys of the token's record under `suite`.
    pub(crate) fn record_keys(&self, suite: u8) -> RecordKeys {
        RecordKeys {
            key: self.expand(b"CPBLTY1/record-key/v1", &[suite]),
            commit: self.expand(b"CPBLTY1/record-commit/v1", &[suite]),
        }
    }

    fn expand(&self, label: &[u8], suite: &[u8]) -> Zeroizing<[u8; 32]> {
        let prk = Hkdf::<Sha256>::new(Some(b"CPBLTY1/token/v1"), &self.bytes);
        let mut out = Zeroizing::new([0u8; 32]);
        // HKDF-Expand fails past 255 hash lengths alone (RFC 5869 §2.3); 32 bytes are one.
        let _ = prk.expand_multi_info(&[label, suite], out.as_mut());
        out
    }
}

fn spell(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(Token::MAX_TEXT_LEN));
    text.push_str(PREFIX);
    B64.encode_string(bytes, &mut text);
    text
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.bytes.as_slice().ct_eq(other.bytes.as_slice()).into()
    }
}

impl Eq for Token {}

/// `text` with every `CPBLTY1-…` shortened to its prefix, for what others wrote and a person is to read: errors of a parser of
/// command lines, answers of a server.
pub fn without_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(PREFIX) {
        let secret = after.len() - after.trim_start_matches(is_token_character).len();
        out.push_str(before);
        out.push_str(PREFIX);
        if secret > 0 {
            out.push_str("[redacted]");
        }
        rest = after.get(secret..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_are_taken_out_of_text() {
        assert_eq!(
            without_tokens("a cpblty://h/#CPBLTY1-xyz_-0, CPBLTY1- 'CPBLTY1-q'"),
            "a cpblty://h/#CPBLTY1-[redacted], CPBLTY1- 'CPBLTY1-[redacted]'"
        );
    }

    #[test]
    fn minted_tokens_have_the_published_shape() {
        let token = Token::mint([0xff; 64]);
        assert_eq!(token.expose().len(), 94);
        assert!(token.expose().starts_with("CPBLTY1-"));
        assert!("AQgw".contains(token.expose().chars().last().unwrap()));
        assert_eq!(format!("{token:?}"), "Token([redacted])");
    }

    #[test]
    fn a_text_is_told_from_every_other() {
        for len in [MIN_LEN, MIN_LEN + 1, 47, MINTED_LEN] {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8 * 3).collect();
            let token = Token::parse(format!("{PREFIX}{}", B64.encode(bytes)).as_bytes()).unwrap();
            let text = token.expose().as_bytes();
            assert!(token.is_spelled(text));
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut other = text.to_vec();
                    other[at] ^= 1 << bit;
                    assert!(!token.is_spelled(&other), "{at} {bit}");
                }
                assert!(!token.is_spelled(&text[..at]));
                assert!(!token.is_spelled(&text[at + 1..]));
            }
            assert!(!token.is_spelled(&[text, b"A"].concat()));
            // Nor do two differences make up for each other.
            for (at, other) in (0..text.len()).flat_map(|at| (0..at).map(move |other| (at, other))) {
                let mut twice = text.to_vec();
                twice[at] ^= 1;
                twice[other] ^= 1;
                assert!(!token.is_spelled(&twice), "{at} {other}");
            }
        }
    }

    #[test]
    fn only_one_spelling_is_read() {
        let good = Token::mint([9; 64]);
        let text = good.expose();
        assert_eq!(Token::parse(text.as_bytes()).unwrap(), good);
        let mut read = 0;
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
            let other = format!("{}{last}", &text[..93]);
            read += usize::from(Token::parse(other.as_bytes()).is_ok_and(|token| token == good));
        }
        assert_eq!(read, 1);
        for (bad, why) in [
            (format!("{text}="), TokenError::Length),
            (format!("{text} "), TokenError::Length),
            (text.to_lowercase(), TokenError::Prefix),
            (format!("CPBLTY1-{}", B64.encode([1; 31])), TokenError::Length),
            (format!("CPBLTY1-{}", B64.encode([1; 65])), TokenError::Length),
            ("CPBLTY1-".into(), TokenError::Length),
            ("CPBLTY1-a+/a".into(), TokenError::Encoding),
            (String::new(), TokenError::Prefix),
        ] {
            assert_eq!(Token::parse(bad.as_bytes()).unwrap_err(), why, "{}", bad.len());
        }
        assert!(Token::parse(format!("CPBLTY1-{}", B64.encode([1; 32])).as_bytes()).is_ok());
    }

    // Made with Python's hmac and hashlib, which know nothing of this crate: tests/vectors/records.json has the rest.
    #[test]
    fn the_lookup_id_is_hkdf_of_the_token() {
        let bytes: [u8; 64] = core::array::from_fn(|i| i as u8);
        let expected = include_str!("../../tests/vectors/lookup-id.txt").trim();
        assert_eq!(Token::mint(bytes).lookup_id().to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Token::parse(&bytes);
            let mut with_prefix = b"CPBLTY1-".to_vec();
            with_prefix.extend(&bytes);
            if let Ok(token) = Token::parse(&with_prefix) {
                prop_assert_eq!(token.expose().as_bytes(), &with_prefix[..]);
            }
        }

        #[test]
        fn different_tokens_have_different_lookup_ids(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let id = |bytes: [u8; 32]| Token::parse(format!("CPBLTY1-{}", B64.encode(bytes)).as_bytes()).unwrap().lookup_id();
            prop_assert_eq!(a == b, id(a) == id(b));
        }
    }
}
