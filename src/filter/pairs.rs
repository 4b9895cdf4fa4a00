//! Header maps as proxy-wasm serialises them: a count, the lengths of all names and values, then the bytes, each followed by
//! NUL; integers little-endian. Names and values are bytes: a client may send what is not UTF-8.

use crate::wiped::Wiped;
use core::ops::Range;

/// Envoy empties a map silently that is set with more pairs or bytes (proxy-wasm-cpp-host, `pairs_util.cc`).
const MAX_PAIRS: usize = 1_024;
const MAX_BYTES: usize = 1_048_576;

/// A header map that was read, in one allocation, wiped when dropped: a bearer stands in it.
#[derive(Debug, Default)]
pub struct Pairs {
    bytes: Wiped,
    spans: Vec<(Range<usize>, Range<usize>)>,
}

impl Pairs {
    /// Reads a serialised map; `None` if the host wrote what is not one. No bytes at all are an empty map.
    pub fn parse(bytes: Vec<u8>) -> Option<Pairs> {
        let bytes = Wiped::new(bytes);
        if bytes.is_empty() {
            return Some(Pairs::default());
        }
        let number = |at: usize| -> Option<usize> {
            let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(four)).ok()
        };
        let count = number(0)?;
        if count > MAX_PAIRS {
            return None;
        }
        let mut spans = Vec::with_capacity(count);
        let mut at = 4 + count * 8;
        for index in 0..count {
            let mut span = |length: usize| -> Option<Range<usize>> {
                let end = at.checked_add(length)?;
                // The NUL after it must be there too.
                bytes.get(at..=end)?;
                let span = at..end;
                at = end + 1;
                Some(span)
            };
            let name = span(number(4 + index * 8)?)?;
            let value = span(number(8 + index * 8)?)?;
            spans.push((name, value));
        }
        Some(Pairs { bytes, spans })
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|(name, value)| (self.bytes_of(name), self.bytes_of(value)))
    }

    /// Name and value of one.
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.spans.get(index).map(|(name, value)| (self.bytes_of(name), self.bytes_of(value)))
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * core::mem::size_of::<(Range<usize>, Range<usize>)>()
    }

    fn bytes_of(&self, span: &Range<usize>) -> &[u8] {
        self.bytes.get(span.clone()).unwrap_or_default()
    }

    /// The value of `name` where it stands exactly once.
    pub fn only(&self, name: &[u8]) -> Option<&[u8]> {
        let mut values = self.iter().filter(|(other, _)| *other == name).map(|(_, value)| value);
        let first = values.next();
        if values.next().is_some() { None } else { first }
    }
}

/// A map would be too large for the host to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Serialises a map.
pub fn encode<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Result<Wiped, TooLarge> {
    let (count, text) = pairs
        .clone()
        .fold((0usize, 0usize), |(n, bytes), (name, value)| (n + 1, bytes + name.len() + value.len() + 2));
    let total = 4 + count * 8 + text;
    if count > MAX_PAIRS || total > MAX_BYTES {
        return Err(TooLarge);
    }
    // All of it fits, so that it never moves.
    let mut out = Vec::with_capacity(total);
    // All lengths are below MAX_BYTES.
    out.extend((count as u32).to_le_bytes());
    for (name, value) in pairs.clone() {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    Ok(Wiped::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(pairs in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20)) {
            let bytes = encode(pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice()))).unwrap();
            let read = Pairs::parse(bytes.to_vec()).unwrap();
            let back: Vec<_> = read.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(back, pairs);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = Pairs::parse(bytes);
        }
    }

    #[test]
    fn what_the_host_would_drop_is_refused() {
        let many = vec![(&b"a"[..], &b"b"[..]); MAX_PAIRS + 1];
        assert_eq!(encode(many.iter().copied()).map(|_| ()), Err(TooLarge));
        assert!(encode(many.iter().take(MAX_PAIRS).copied()).is_ok());
        let large = vec![b'x'; MAX_BYTES];
        assert_eq!(encode([(&b"a"[..], large.as_slice())].into_iter()).map(|_| ()), Err(TooLarge));
    }

    #[test]
    fn a_doubled_name_has_no_only_value() {
        let bytes = encode([(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"a", b"3")].into_iter()).unwrap();
        let pairs = Pairs::parse(bytes.to_vec()).unwrap();
        assert_eq!((pairs.only(b"a"), pairs.only(b"b"), pairs.only(b"c")), (None, Some(&b"2"[..]), None));
    }
}
