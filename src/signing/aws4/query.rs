use crate::Error;
use crate::encoding::{BrokenEscape, is_unreserved, percent_decode, percent_encode};

/// A query, taken apart and encoded as AWS compares it. What is sent keeps the order and shape it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<Pair>,
}

/// Encoded strictly; a name without `=` has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    name: String,
    value: Option<String>,
}

impl Pair {
    fn sort_key(&self) -> (&str, &str) {
        (&self.name, self.value.as_deref().unwrap_or_default())
    }
}

impl Query {
    /// Bytes of memory behind it.
    pub(super) fn size(&self) -> usize {
        let text = |pair: &Pair| pair.name.capacity() + pair.value.as_ref().map_or(0, String::capacity);
        self.pairs.capacity() * size_of::<Pair>() + self.pairs.iter().map(text).sum::<usize>()
    }

    /// From the text after `?`, without it. Pairs are split at `&` and their first `=`; empty ones are dropped. A raw `+` means a
    /// space, and a `%` that begins no escape means itself (URL Standard, `application/x-www-form-urlencoded` parsing): both
    /// are encoded, so that nobody after us can read them otherwise.
    ///
    /// # Errors
    /// [`Error::QueryCharacter`].
    pub fn parse(raw: &[u8]) -> Result<Self, Error> {
        if raw.iter().any(|&byte| byte.is_ascii_control() || byte == b'#') {
            return Err(Error::QueryCharacter);
        }
        let pairs = raw
            .split(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.iter().position(|&byte| byte == b'=') {
                Some(equals) => {
                    let (name, value) = pair.split_at(equals);
                    Pair { name: encode(name), value: Some(encode(value.get(1..).unwrap_or_default())) }
                }
                None => Pair { name: encode(pair), value: None },
            })
            .collect();
        Ok(Self { pairs })
    }

    /// Keeps the pairs whose decoded name `allowed` accepts.
    #[must_use]
    pub fn only(mut self, allowed: impl Fn(&[u8]) -> bool) -> Self {
        self.pairs.retain(|pair| {
            percent_decode(pair.name.as_bytes(), BrokenEscape::Keep).is_some_and(|name| allowed(&name))
        });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.pairs.extend_from_slice(&other.pairs);
    }

    /// As sent: `acl` stays without `=`, since S3's own clients send it so.
    pub(super) fn write_wire(&self, out: &mut String) {
        for (index, pair) in self.pairs.iter().enumerate() {
            if index > 0 {
                out.push('&');
            }
            out.push_str(&pair.name);
            if let Some(value) = &pair.value {
                out.push('=');
                out.push_str(value);
            }
        }
    }

    /// As signed: sorted by encoded name, then encoded value; every pair with `=`.
    pub(super) fn canonical(&self) -> String {
        let mut sorted: Vec<&Pair> = self.pairs.iter().collect();
        sorted.sort_by_key(|pair| pair.sort_key());
        let mut out = String::new();
        for (index, pair) in sorted.into_iter().enumerate() {
            if index > 0 {
                out.push('&');
            }
            let (name, value) = pair.sort_key();
            out.push_str(name);
            out.push('=');
            out.push_str(value);
        }
        out
    }
}

fn encode(raw: &[u8]) -> String {
    let spaced: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    // A broken escape is kept, so there is always a decoded form.
    let decoded = percent_decode(&spaced, BrokenEscape::Keep).unwrap_or_default();
    let mut out = String::new();
    percent_encode(&decoded, is_unreserved, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(raw: &str) -> (String, String) {
        let query = Query::parse(raw.as_bytes()).unwrap();
        let mut wire = String::new();
        query.write_wire(&mut wire);
        (wire, query.canonical())
    }

    #[test]
    fn sent_in_order_signed_sorted() {
        for (raw, wire, canonical) in [
            ("", "", ""),
            ("acl", "acl", "acl="),
            ("acl=", "acl=", "acl="),
            ("b=2&a=1&a=0", "b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("a+b=c+d%2B", "a%20b=c%20d%2B", "a%20b=c%20d%2B"),
            ("a=b=c", "a=b%3Dc", "a=b%3Dc"),
            ("&&a=1&&", "a=1", "a=1"),
            ("=v&=", "=v&=", "=&=v"),
            ("prefix=a/b&marker=%2f", "prefix=a%2Fb&marker=%2F", "marker=%2F&prefix=a%2Fb"),
            ("q=100%&r=%zz", "q=100%25&r=%25zz", "q=100%25&r=%25zz"),
            // By encoded name first, and only then by value: as one string `a-b=` would come before `a=`.
            ("a-b=1&a=2", "a-b=1&a=2", "a=2&a-b=1"),
            ("é=1&ﬀ=%FF", "%C3%A9=1&%EF%AC%80=%FF", "%C3%A9=1&%EF%AC%80=%FF"),
            ("b&b=&b=1&a", "b&b=&b=1&a", "a=&b=&b=&b=1"),
            ("q=!*'()", "q=%21%2A%27%28%29", "q=%21%2A%27%28%29"),
        ] {
            assert_eq!(both(raw), (wire.into(), canonical.into()), "{raw}");
        }
    }

    #[test]
    fn names_are_compared_decoded() {
        let query = Query::parse(b"ver%73ion=1&acl&versionId=2")
            .unwrap()
            .only(|name| name != b"version" && name != b"acl");
        assert_eq!(query.canonical(), "versionId=2");
    }

    #[test]
    fn refusals() {
        for raw in ["a#b", "a\nb", "a\tb", "a\0"] {
            assert_eq!(Query::parse(raw.as_bytes()), Err(Error::QueryCharacter));
        }
    }
}
