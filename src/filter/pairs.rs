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

/// One change of a header map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    /// The header gets this value, or is added with it.
    Set(&'a [u8], &'a [u8]),
    /// The header goes.
    Remove(&'a [u8]),
}

/// As many headers of a side as [`Edits`] looks at: a bit each, and names are compared each with each.
const MAX_EDITED: usize = u64::BITS as usize;

/// What makes one header map into another, where few changes do: most of a request's headers leave as they came, and Envoy takes less
/// time to change some than to take off and put back all of them (docs/decisions.md).
#[derive(Debug)]
pub struct Edits<'a> {
    before: &'a Pairs,
    /// Which of those before stay, with whatever value.
    stay: u64,
    /// Which of those after are there as they must be.
    right: u64,
}

impl<'a> Edits<'a> {
    /// None where a name that leaves stands twice before or after, which a replacement cannot say; where there are more than 64 headers
    /// on a side; or where they are larger than may be set: then all are to be set, or refused by [`encode`].
    pub fn between<'b>(
        before: &'a Pairs,
        after: impl Iterator<Item = (&'b [u8], &'b [u8])> + Clone,
    ) -> Option<Edits<'a>> {
        let mut edits = Edits { before, stay: 0, right: 0 };
        let bytes = after.clone().fold(0usize, |bytes, (name, value)| bytes + name.len() + value.len());
        if before.spans.len() > MAX_EDITED || bytes > MAX_BYTES {
            return None;
        }
        for (index, (name, value)) in after.clone().enumerate() {
            if index >= MAX_EDITED {
                return None;
            }
            let mut there = before.iter().enumerate().filter(|(_, (other, _))| *other == name);
            match there.next() {
                Some((place, (_, old))) => {
                    let bit = 1 << place;
                    if edits.stay & bit != 0 || there.next().is_some() {
                        return None;
                    }
                    edits.stay |= bit;
                    if old == value {
                        edits.right |= 1 << index;
                    }
                }
                None if after.clone().take(index).any(|(other, _)| other == name) => return None,
                None => {}
            }
        }
        Some(edits)
    }

    /// The changes; `after` as it was.
    pub fn iter<'b: 'c, 'c>(
        &self,
        after: impl Iterator<Item = (&'b [u8], &'b [u8])>,
    ) -> impl Iterator<Item = Edit<'c>>
    where
        'a: 'c,
    {
        let (stay, right) = (self.stay, self.right);
        let gone = self.before.iter().enumerate().filter(move |(place, _)| stay & (1 << place) == 0);
        let gone = gone.map(|(_, (name, _))| Edit::Remove(name));
        let set = after.enumerate().filter(move |(index, _)| right & (1 << index) == 0);
        gone.chain(set.map(|(_, (name, value))| Edit::Set(name, value)))
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

    /// Envoy's map: setting replaces the first of a name, or all of them, as it did before and does now.
    fn edited(before: &[(u8, u8)], after: &[(u8, u8)], replaces_all: bool) -> Option<Vec<(u8, u8)>> {
        let bytes = |pairs: &[(u8, u8)]| -> Vec<([u8; 1], [u8; 1])> {
            pairs.iter().map(|(n, v)| ([*n], [*v])).collect()
        };
        let (old, new) = (bytes(before), bytes(after));
        let pairs =
            Pairs::parse(encode(old.iter().map(|(n, v)| (&n[..], &v[..]))).unwrap().to_vec()).unwrap();
        let after = new.iter().map(|(n, v)| (&n[..], &v[..]));
        let edits = Edits::between(&pairs, after.clone())?;
        let mut map = before.to_vec();
        for edit in edits.iter(after) {
            match edit {
                Edit::Remove(name) => map.retain(|(other, _)| *other != name[0]),
                Edit::Set(name, value) => match map.iter().position(|(other, _)| *other == name[0]) {
                    Some(place) if !replaces_all => map[place].1 = value[0],
                    _ => {
                        map.retain(|(other, _)| *other != name[0]);
                        map.push((name[0], value[0]));
                    }
                },
            }
        }
        map.sort_unstable();
        Some(map)
    }

    proptest! {
        #[test]
        fn what_was_edited_is_what_was_to_be(
            before in proptest::collection::vec((0u8..12, 0u8..3), 0..8),
            after in proptest::collection::vec((0u8..12, 0u8..3), 0..8),
            replaces_all in any::<bool>(),
        ) {
            let twice = |name: u8, list: &[(u8, u8)]| list.iter().filter(|(other, _)| *other == name).count() > 1;
            let unclear = after.iter().any(|(name, _)| twice(*name, &after) || twice(*name, &before));
            let mut expected = after.clone();
            expected.sort_unstable();
            prop_assert_eq!(edited(&before, &after, replaces_all), (!unclear).then_some(expected));
        }
    }

    #[test]
    fn the_fewest_edits() {
        let map = |list: &[(&str, &str)]| {
            Pairs::parse(encode(list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).unwrap().to_vec())
                .unwrap()
        };
        let before = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = [(&b"c"[..], &b"3"[..]), (b"a", b"0"), (b"d", b"4")];
        let edits: Vec<_> =
            Edits::between(&before, after.into_iter()).unwrap().iter(after.into_iter()).collect();
        assert_eq!(edits, [Edit::Remove(b"b"), Edit::Set(b"a", b"0"), Edit::Set(b"d", b"4")]);
    }

    #[test]
    fn many_headers_are_not_edited() {
        let names: Vec<[u8; 2]> = (0..=MAX_EDITED as u8).map(|n| [b'x', n]).collect();
        let list = |count: usize| names.iter().take(count).map(|name| (&name[..], &b""[..]));
        let map = |count: usize| Pairs::parse(encode(list(count)).unwrap().to_vec()).unwrap();
        let edits = |before: usize, after: usize| {
            let before = map(before);
            Edits::between(&before, list(after)).map(|edits| edits.iter(list(after)).count())
        };
        let most = MAX_EDITED;
        assert_eq!(edits(most, most), Some(0));
        assert_eq!(edits(0, most), Some(most));
        assert_eq!(edits(most, 0), Some(most));
        assert_eq!((edits(most + 1, 0), edits(0, most + 1)), (None, None));
        let large = |size: usize| {
            Edits::between(&Pairs::default(), [(&b"a"[..], &vec![b'x'; size][..])].into_iter()).is_some()
        };
        assert_eq!((large(MAX_BYTES - 1), large(MAX_BYTES)), (true, false));
    }

    #[test]
    fn what_the_host_would_drop_is_refused() {
        let many = vec![(&b"a"[..], &b"b"[..]); MAX_PAIRS + 1];
        assert_eq!(encode(many.iter().copied()).map(|_| ()), Err(TooLarge));
        let most = encode(many.iter().take(MAX_PAIRS).copied()).unwrap();
        assert_eq!(
            Pairs::parse(most.to_vec()).unwrap().iter().count(),
            MAX_PAIRS,
            "what may be set may be read"
        );
        // A count, two lengths, a name of one byte, two NULs.
        let most = MAX_BYTES - (4 + 8 + 1 + 2);
        let large = |size: usize| {
            encode([(&b"a"[..], vec![b'x'; size].as_slice())].into_iter()).map(|bytes| bytes.len())
        };
        assert_eq!((large(most), large(most + 1)), (Ok(MAX_BYTES), Err(TooLarge)));
    }

    #[test]
    fn many_short_headers_are_counted_as_they_weigh() {
        let many = vec![(&b"a"[..], &b"b"[..]); 100];
        let bytes = encode(many.iter().copied()).unwrap();
        let size = Pairs::parse(bytes.to_vec()).unwrap().size();
        let spans = 100 * 4 * core::mem::size_of::<usize>();
        assert!((bytes.len() + spans..2 * (bytes.len() + spans)).contains(&size), "{size}");
    }

    #[test]
    fn a_doubled_name_has_no_only_value() {
        let bytes = encode([(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"a", b"3")].into_iter()).unwrap();
        let pairs = Pairs::parse(bytes.to_vec()).unwrap();
        assert_eq!((pairs.only(b"a"), pairs.only(b"b"), pairs.only(b"c")), (None, Some(&b"2"[..]), None));
    }
}
