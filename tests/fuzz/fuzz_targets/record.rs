//! Sealed records: none opens but the one that was sealed, under the token that it was sealed for. Whoever can write to the store chooses
//! the bytes.
//!
//! Input: a byte that chooses what is read, then either changes to a good record (place, what is added to the byte there) or a record.

#![no_main]

use capability::record::{self, Header, Keks, Kind};
use capability::{Token, Uid, UnitPair, Units};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const KEY: &[u8] = b"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk";
const CONTENT: &[u8] = br#"{"uri":"https://a.example/"}"#;

struct Good {
    token: Token,
    units: Units,
    keks: Keks,
    inner: Vec<u8>,
    outer: Vec<u8>,
}

impl Good {
    fn header(&self) -> Header<'_> {
        Header { kind: Kind::Grant, lookup: self.token.lookup_id(), expires_at: Some(1), units: &self.units }
    }
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let token = Token::mint([1; 64]);
    let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([2; 16])) });
    let keks = Keks::parse(KEY).expect("a key");
    let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at: Some(1), units: &units };
    let inner = record::seal(&token, &header, CONTENT, [3; 24]).expect("a record");
    let outer = keks.wrap(token.lookup_id(), &inner, [4; 24]).expect("wrapped");
    let (inner, outer) = (inner.as_bytes().to_vec(), outer.to_vec());
    Good { token, units, keks, inner, outer }
});

fn changed(good: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
        bytes[place] = bytes[place].wrapping_add(change[2]);
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let good = &*GOOD;
    let inner = if mode & 1 == 0 { changed(&good.inner, rest) } else { rest.to_vec() };
    if let Ok(content) = record::open(&good.token, &good.header(), &inner) {
        assert_eq!((inner.as_slice(), content.as_slice()), (good.inner.as_slice(), CONTENT));
    }
    // Nor does any open elsewhere: another kind, another time, other units, another token.
    let other = Token::mint([9; 64]);
    let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([*mode; 16])) });
    for header in [
        Header { kind: Kind::Control, ..good.header() },
        Header { expires_at: Some(u64::from(*mode)), ..good.header() },
        Header { units: &units, ..good.header() },
    ] {
        let same = header.kind == Kind::Grant && header.expires_at == Some(1) && units == good.units;
        assert!(same || *mode == 1 || *mode == 2 || record::open(&good.token, &header, &inner).is_err());
    }
    assert!(record::open(&other, &good.header(), &inner).is_err());
    let outer = if mode & 1 == 0 { changed(&good.outer, rest) } else { rest.to_vec() };
    if good.keks.unwrap(good.token.lookup_id(), &outer).is_ok() {
        assert_eq!(outer, good.outer);
    }
    assert!(good.keks.unwrap(other.lookup_id(), &outer).is_err());
    let _ = (Keks::parse(rest), Units::from_bytes(rest));
});
