//! The sealed record: how a capability is kept.
//!
//! ```text
//! inner = ver(1) ‖ suite(1) ‖ commit(32) ‖ nonce(24) ‖ XChaCha20-Poly1305(key, nonce, plaintext, AAD)
//! outer = kek_id(4) ‖ nonce(24) ‖ XChaCha20-Poly1305(KEK, nonce, inner, AAD = lookup id)
//! ```
//!
//! *Inner* opens with the token alone, so that a store never sees what it keeps. *Outer* opens with the key-encryption
//! key (KEK) alone, so that a holder who got hold of the database cannot read the credential in their own record. The AAD
//! binds everything that stands beside the record in the clear: a row that was moved or edited does not open.

use crate::{LookupId, Token, Units};
use base64::Engine as _;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use core::fmt;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The only version and suite so far: HKDF-SHA256, XChaCha20-Poly1305, key commitment.
const VERSION: u8 = 1;
const SUITE: u8 = 1;
const LABEL: &[u8] = b"CPBLTY1/record/v1";

/// Bytes of a nonce. XChaCha20's are long enough to be random without a counter.
pub const NONCE_LEN: usize = 24;
const COMMIT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const INNER_HEAD: usize = 2 + COMMIT_LEN + NONCE_LEN;
const KEK_ID_LEN: usize = 4;

/// The smallest padded plaintext: most grants with an AWS credential fit, and so look alike.
const MIN_PADDED: usize = 512;
/// The largest plaintext, and so the largest content: 64 KiB, as large as a control's request body may be.
pub const MAX_CONTENT: usize = 65_536;
/// The longest inner record, for those that read one from a wire.
pub const MAX_INNER: usize = INNER_HEAD + MAX_CONTENT + TAG_LEN;

/// Why a record could not be sealed or opened. Deliberately says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// The content is larger than [`MAX_CONTENT`].
    TooLarge,
    /// Not a record, of a version or suite that this program does not know, or sealed with a KEK that is not loaded.
    Unreadable,
    /// The key is not this record's, or record, row or place do not belong together.
    DoesNotOpen,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordError::TooLarge => "the capability's content is larger than 65536 bytes",
            RecordError::Unreadable => "not a record that can be read with the keys at hand",
            RecordError::DoesNotOpen => "the record does not open",
        })
    }
}

impl std::error::Error for RecordError {}

/// What a record stands for; the one thing about its content that a store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Invoke something.
    Grant = 1,
    /// Create, query, export, revoke, deleteSelf.
    Control = 2,
    /// Keys that several grants share. Planned; its number is taken.
    Credential = 3,
}

impl Kind {
    /// The kind's word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Grant => "grant",
            Kind::Control => "control",
            Kind::Credential => "credential",
        }
    }

    /// The kind of a stored number.
    pub fn from_number(number: u8) -> Option<Kind> {
        [Kind::Grant, Kind::Control, Kind::Credential].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What stands beside a record in the clear, and is bound by it.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// What the record stands for.
    pub kind: Kind,
    /// The record's key in the store.
    pub lookup: LookupId,
    /// Seconds since 1970 from which on the record is dead.
    pub expires_at: Option<u64>,
    /// What its life depends on.
    pub units: &'a Units,
}

impl Header<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut aad = Vec::with_capacity(1_024);
        let mut field = |bytes: &[u8]| {
            // Fields are at most 32 bytes.
            aad.extend((bytes.len() as u32).to_be_bytes());
            aad.extend(bytes);
        };
        field(LABEL);
        field(&[VERSION]);
        field(&[SUITE]);
        field(&[self.kind as u8]);
        field(&self.lookup.0);
        match self.expires_at {
            Some(at) => field(&at.to_be_bytes()),
            None => field(&[]),
        }
        for pair in self.units.iter() {
            field(&pair.to_bytes());
        }
        // A byte longer than a pair, so that neither can be read as the other.
        for source in self.units.sources() {
            field(&[&[1u8][..], &source.0].concat());
        }
        aad
    }
}

/// A record that opens with its token.
#[derive(Clone, PartialEq, Eq)]
pub struct Inner(Vec<u8>);

impl Inner {
    /// The record's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inner({} bytes)", self.0.len())
    }
}

/// Seals `content` (JSON) for whoever presents `token`. `nonce` must be random and fresh.
pub fn seal(
    token: &Token,
    header: &Header<'_>,
    content: &[u8],
    nonce: [u8; NONCE_LEN],
) -> Result<Inner, RecordError> {
    if content.len() > MAX_CONTENT {
        return Err(RecordError::TooLarge);
    }
    let padded_len = content.len().next_power_of_two().max(MIN_PADDED);
    let mut plaintext = Zeroizing::new(Vec::with_capacity(padded_len));
    plaintext.extend_from_slice(content);
    plaintext.resize(padded_len, b' ');

    let keys = token.record_keys(SUITE);
    let payload = Payload { msg: &plaintext, aad: &header.aad() };
    let sealed = XChaCha20Poly1305::new((&*keys.key).into())
        .encrypt(&XNonce::from(nonce), payload)
        .map_err(|_| RecordError::TooLarge)?;
    let mut inner = Vec::with_capacity(INNER_HEAD + sealed.len());
    inner.extend([VERSION, SUITE]);
    inner.extend(*keys.commit);
    inner.extend(nonce);
    inner.extend(sealed);
    Ok(Inner(inner))
}

/// Opens a record with the token that was presented for it; the content is JSON without its padding.
///
/// The commitment is compared first, in constant time: XChaCha20-Poly1305 alone does not commit to its key, and a record
/// made to open under two tokens would be two capabilities.
pub fn open(token: &Token, header: &Header<'_>, inner: &[u8]) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    let (head, sealed) = inner.split_at_checked(INNER_HEAD).ok_or(RecordError::Unreadable)?;
    let (version, head) = head.split_at(2);
    if version != [VERSION, SUITE] || inner.len() > MAX_INNER {
        return Err(RecordError::Unreadable);
    }
    let (commit, nonce) = head.split_at(COMMIT_LEN);
    let keys = token.record_keys(SUITE);
    if !bool::from(keys.commit.as_slice().ct_eq(commit)) {
        return Err(RecordError::DoesNotOpen);
    }
    let nonce = XNonce::try_from(nonce).map_err(|_| RecordError::Unreadable)?;
    let mut plaintext = XChaCha20Poly1305::new((&*keys.key).into())
        .decrypt(&nonce, Payload { msg: sealed, aad: &header.aad() })
        .map(Zeroizing::new)
        .map_err(|_| RecordError::DoesNotOpen)?;
    let content_len = plaintext.trim_ascii_end().len();
    plaintext.truncate(content_len);
    Ok(plaintext)
}

/// A key-encryption key: 32 random bytes that only the registry (and, without one, a gateway) has.
pub struct Kek(Zeroizing<[u8; 32]>);

impl Kek {
    /// Takes over the key's bytes and wipes the caller's copy.
    pub fn new(bytes: &mut [u8; 32]) -> Kek {
        let kek = Kek(Zeroizing::new(*bytes));
        bytes.zeroize();
        kek
    }

    /// Which key it is, without telling what it is: the first bytes of SHA-256("CPBLTY1/kek-id/v1" ‖ key).
    pub fn id(&self) -> [u8; KEK_ID_LEN] {
        let hash =
            Sha256::new().chain_update(b"CPBLTY1/kek-id/v1").chain_update(self.0.as_slice()).finalize();
        let mut id = [0; KEK_ID_LEN];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        id
    }

    /// A key for another purpose, named by `label` (HKDF-SHA256 with the KEK as input key).
    pub fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0u8; 32]);
        // Fails past 255 hash lengths alone (RFC 5869 §2.3).
        let _ = Hkdf::<Sha256>::new(None, self.0.as_slice()).expand(label, out.as_mut());
        out
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek([redacted])")
    }
}

/// The key-encryption keys at hand, at least one: the first seals, all open.
#[derive(Debug)]
pub struct Keks {
    first: Kek,
    older: Vec<Kek>,
}

impl Keks {
    /// `first` seals; `older` ones still open what they sealed.
    pub fn new(first: Kek, older: Vec<Kek>) -> Keks {
        Keks { first, older }
    }

    /// Reads keys as a key file holds them: one a line, 32 bytes in base64url without padding, the sealing one first. `None` if a line
    /// is anything else, or there is none.
    pub fn parse(text: &[u8]) -> Option<Keks> {
        let parse = |line: &[u8]| {
            let mut bytes = [0; 32];
            let read = crate::B64.decode_slice(line, &mut bytes);
            let kek = matches!(read, Ok(32)).then(|| Kek::new(&mut bytes));
            bytes.zeroize();
            kek
        };
        let mut lines =
            text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let first = parse(lines.next()?)?;
        Some(Keks { first, older: lines.map(parse).collect::<Option<_>>()? })
    }

    /// The key that seals.
    pub fn first(&self) -> &Kek {
        &self.first
    }

    /// Seals a record for the store. `nonce` must be random and fresh.
    pub fn wrap(
        &self,
        lookup: LookupId,
        inner: &Inner,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, RecordError> {
        let sealed = XChaCha20Poly1305::new((&*self.first.0).into())
            .encrypt(&XNonce::from(nonce), Payload { msg: &inner.0, aad: &lookup.0 })
            .map_err(|_| RecordError::TooLarge)?;
        let mut outer = Vec::with_capacity(KEK_ID_LEN + NONCE_LEN + sealed.len());
        outer.extend(self.first.id());
        outer.extend(nonce);
        outer.extend(sealed);
        Ok(outer)
    }

    /// Takes the outer layer off a stored record.
    pub fn unwrap(&self, lookup: LookupId, outer: &[u8]) -> Result<Inner, RecordError> {
        let (id, rest) = outer.split_at_checked(KEK_ID_LEN).ok_or(RecordError::Unreadable)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or(RecordError::Unreadable)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| RecordError::Unreadable)?;
        let kek = core::iter::once(&self.first)
            .chain(&self.older)
            .find(|kek| kek.id() == id)
            .ok_or(RecordError::Unreadable)?;
        XChaCha20Poly1305::new((&*kek.0).into())
            .decrypt(&nonce, Payload { msg: sealed, aad: &lookup.0 })
            .map(Inner)
            .map_err(|_| RecordError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Uid, UnitPair};

    fn units() -> Units {
        let own = UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([2; 16])) };
        Units::join(own, &[&Units::own(UnitPair { tenant: Uid([3; 16]), membrane: None })]).unwrap()
    }

    fn header<'a>(token: &Token, units: &'a Units) -> Header<'a> {
        Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at: Some(1_900_000_000), units }
    }

    #[test]
    fn what_was_sealed_opens_with_its_token_and_header_alone() {
        let (token, units) = (Token::mint([5; 64]), units());
        let header = header(&token, &units);
        let inner = seal(&token, &header, b"{\"a\":1}", [7; 24]).unwrap();
        assert_eq!(open(&token, &header, inner.as_bytes()).unwrap().as_slice(), b"{\"a\":1}");

        assert_eq!(open(&Token::mint([6; 64]), &header, inner.as_bytes()), Err(RecordError::DoesNotOpen));
        let other_units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([2; 16])) });
        for wrong in [
            Header { kind: Kind::Control, ..header },
            Header { lookup: LookupId([0; 32]), ..header },
            Header { expires_at: None, ..header },
            Header { expires_at: Some(1_900_000_001), ..header },
            Header { units: &other_units, ..header },
            Header { units: &units.clone().re_exporting(LookupId([0; 32])).unwrap(), ..header },
        ] {
            assert_eq!(open(&token, &wrong, inner.as_bytes()), Err(RecordError::DoesNotOpen));
        }
    }

    #[test]
    fn every_single_bit_flip_is_refused() {
        let (token, units) = (Token::mint([5; 64]), units());
        let header = header(&token, &units);
        let inner = seal(&token, &header, b"{}", [7; 24]).unwrap();
        let keks = Keks::new(Kek::new(&mut [9; 32]), vec![]);
        let outer = keks.wrap(header.lookup, &inner, [8; 24]).unwrap();
        for bit in 0..inner.as_bytes().len() * 8 {
            let mut flipped = inner.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&token, &header, &flipped).is_err(), "inner bit {bit}");
        }
        for bit in 0..outer.len() * 8 {
            let mut flipped = outer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(keks.unwrap(header.lookup, &flipped).is_err(), "outer bit {bit}");
        }
        for len in 0..inner.as_bytes().len() {
            assert!(open(&token, &header, &inner.as_bytes()[..len]).is_err());
        }
    }

    #[test]
    fn kinds_are_words_on_the_wire_and_numbers_in_a_store() {
        let kinds = [1, 2, 3].map(|number| Kind::from_number(number).unwrap().as_str());
        assert_eq!(kinds, ["grant", "control", "credential"]);
        assert!(Kind::from_number(0).is_none() && Kind::from_number(4).is_none());
    }

    #[test]
    fn keys_are_read_one_a_line() {
        let line = |byte: u8| crate::encode_key(&[byte; 32]);
        let both = Keks::parse(format!("{}\n\n {}\n", line(1), line(2)).as_bytes()).unwrap();
        assert_eq!(
            (both.first.id(), both.older[0].id()),
            (Kek::new(&mut [1; 32]).id(), Kek::new(&mut [2; 32]).id())
        );
        for bad in ["", "\n", "AAAA", &line(1)[1..], &format!("{}\nx", line(1))] {
            assert!(Keks::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn keys_for_other_purposes_are_hkdf_of_the_kek() {
        // Made with Python's hmac and hashlib.
        let expected = "f27f1465158d7f7e7391ec3e8130489e750b0d01a1a26a9e67d21bc02c314de2";
        let derive = |kek: u8, label: &[u8]| hex::encode(Kek::new(&mut [kek; 32]).derive(label));
        assert_eq!(derive(1, b"label"), expected);
        assert!(derive(2, b"label") != expected && derive(1, b"other") != expected);
    }

    #[test]
    fn the_longest_record_opens_and_no_longer_one_is_tried() {
        let (token, units) = (Token::mint([5; 64]), units());
        let header = header(&token, &units);
        let content = vec![b'1'; MAX_CONTENT];
        let mut inner = seal(&token, &header, &content, [7; 24]).unwrap().0;
        assert_eq!(open(&token, &header, &inner).unwrap().as_slice(), content);
        for _ in 0..2 {
            inner.push(0);
            assert_eq!(open(&token, &header, &inner), Err(RecordError::Unreadable));
        }
    }

    #[test]
    fn sizes_are_padded() {
        let (token, units) = (Token::mint([5; 64]), units());
        let len = |content: usize| {
            seal(&token, &header(&token, &units), &vec![b'1'; content], [0; 24])
                .map(|inner| inner.as_bytes().len())
        };
        let padded = |plain: usize| Ok(INNER_HEAD + plain + TAG_LEN);
        assert_eq!(len(0), padded(512));
        assert_eq!(len(512), padded(512));
        assert_eq!(len(513), padded(1024));
        assert_eq!(len(65_536), padded(65_536));
        assert_eq!(len(65_536).unwrap(), MAX_INNER);
        assert_eq!(len(65_537), Err(RecordError::TooLarge));
    }

    #[test]
    fn older_keks_still_open_and_missing_ones_do_not() {
        let (token, units) = (Token::mint([5; 64]), units());
        let inner = seal(&token, &header(&token, &units), b"{}", [7; 24]).unwrap();
        let lookup = token.lookup_id();
        let old = Keks::new(Kek::new(&mut [1; 32]), vec![]);
        let outer = old.wrap(lookup, &inner, [8; 24]).unwrap();
        let rotated = Keks::new(Kek::new(&mut [2; 32]), vec![Kek::new(&mut [1; 32])]);
        assert_eq!(rotated.unwrap(lookup, &outer).unwrap(), inner);
        assert_eq!(rotated.unwrap(LookupId([0; 32]), &outer), Err(RecordError::DoesNotOpen));
        let fresh = Keks::new(Kek::new(&mut [2; 32]), vec![]);
        assert_eq!(fresh.unwrap(lookup, &outer), Err(RecordError::Unreadable));
    }
}
