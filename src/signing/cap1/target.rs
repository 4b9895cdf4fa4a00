use crate::Error;
use crate::authority::{self, Scheme};
use crate::encoding::{BrokenEscape, is_path_byte, is_unreserved, percent_decode, percent_encode};

/// Where a signed request goes: what is sent and what is signed, both derived from one value when the grant is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    authority: String,
    path_and_query: String,
    canonical_path: String,
    canonical_query: String,
}

impl Target {
    /// Bytes of memory behind it.
    pub fn size(&self) -> usize {
        let texts = [&self.authority, &self.path_and_query, &self.canonical_path, &self.canonical_query];
        texts.iter().map(|text| text.capacity()).sum()
    }

    /// `path` and `query` are those of the grant's uri, as written there, the query without its `?`. They are sent so too, except that
    /// what a uri may not hold is percent-encoded and that empty pairs are dropped.
    ///
    /// # Errors
    /// [`Error::Authority`], [`Error::PathNotAbsolute`], [`Error::PathCharacter`], [`Error::PathEscape`],
    /// [`Error::QueryCharacter`], [`Error::QueryEscape`].
    pub fn new(scheme: Scheme, authority: &str, path: &[u8], query: &[u8]) -> Result<Self, Error> {
        Self::on_host(authority::parse(scheme, authority)?, path, query)
    }

    /// With a host that need not be in the form in which we send it: the reference takes any.
    pub(super) fn on_host(authority: String, path: &[u8], query: &[u8]) -> Result<Self, Error> {
        if path.iter().any(|&byte| byte.is_ascii_control() || matches!(byte, b'?' | b'#')) {
            return Err(Error::PathCharacter);
        }
        let path = if path.is_empty() { b"/" } else { path };
        if !path.starts_with(b"/") {
            return Err(Error::PathNotAbsolute);
        }
        let mut path_and_query = String::new();
        percent_encode(path, |byte| is_path_byte(byte) || byte == b'%', &mut path_and_query);
        let mut canonical_path = String::new();
        let decoded = decode_component(path_and_query.as_bytes()).ok_or(Error::PathEscape)?;
        encode_component(normalise(&decoded).as_bytes(), &mut canonical_path);
        let target = Self { authority, path_and_query, canonical_path, canonical_query: String::new() };
        target.with_query(query)
    }

    /// This target with more pairs after its own: the requester's, where a grant lets them through.
    ///
    /// # Errors
    /// [`Error::QueryCharacter`], [`Error::QueryEscape`].
    pub fn with_query(&self, extra: &[u8]) -> Result<Self, Error> {
        if extra.iter().any(|&byte| byte.is_ascii_control() || byte == b'#') {
            return Err(Error::QueryCharacter);
        }
        let mut target = self.clone();
        for pair in extra.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
            target.path_and_query.push(if target.path_and_query.contains('?') { '&' } else { '?' });
            let keep = |byte| is_path_byte(byte) || matches!(byte, b'%' | b'?');
            percent_encode(pair, keep, &mut target.path_and_query);
        }
        if let Some((_, query)) = target.path_and_query.split_once('?') {
            target.canonical_query = canonical_query(query)?;
        }
        Ok(target)
    }

    /// `:authority` as sent, and `host` as signed.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// `:path` as sent.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The second line of the canonical request.
    pub fn canonical_path(&self) -> &str {
        &self.canonical_path
    }

    /// The third line of the canonical request.
    pub fn canonical_query(&self) -> &str {
        &self.canonical_query
    }
}

/// Raw pairs sorted, and only then decoded and encoded; a name without `=` has the value `undefined`, and whatever follows a second
/// `=` is not signed: because the reference does.
fn canonical_query(query: &str) -> Result<String, Error> {
    let mut pairs: Vec<&str> = query.split('&').collect();
    pairs.sort_unstable();
    let mut canonical = String::new();
    for pair in pairs {
        if !canonical.is_empty() {
            canonical.push('&');
        }
        let mut sides = pair.split('=');
        for (side, end) in [(sides.next(), "="), (sides.next(), "")] {
            let decoded =
                decode_component(side.unwrap_or("undefined").as_bytes()).ok_or(Error::QueryEscape)?;
            encode_component(decoded.as_bytes(), &mut canonical);
            canonical.push_str(end);
        }
    }
    Ok(canonical)
}

/// JavaScript's `decodeURIComponent` (ECMA-262 §19.2.6.3). `None` where that throws.
fn decode_component(text: &[u8]) -> Option<String> {
    String::from_utf8(percent_decode(text, BrokenEscape::Refuse)?).ok()
}

/// JavaScript's `encodeURIComponent` (ECMA-262 §19.2.6.5).
fn encode_component(text: &[u8], out: &mut String) {
    let keep = |byte| is_unreserved(byte) || matches!(byte, b'!' | b'*' | b'\'' | b'(' | b')');
    percent_encode(text, keep, out);
}

/// Node's `path.posix.normalize` of an absolute path: a final slash stays, but none comes of a final `.` or `..`.
fn normalise(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut normalised = String::with_capacity(path.len());
    for segment in &segments {
        normalised.push('/');
        normalised.push_str(segment);
    }
    if segments.is_empty() || path.ends_with('/') {
        normalised.push('/');
    }
    normalised
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str, query: &str) -> Result<Target, Error> {
        Target::new(Scheme::Https, "Example.com:443", path.as_bytes(), query.as_bytes())
    }

    #[test]
    fn paths() {
        for (path, sent, canonical) in [
            ("", "/", "%2F"),
            ("/a/./b/../c//d/", "/a/./b/../c//d/", "%2Fa%2Fc%2Fd%2F"),
            ("/a/.", "/a/.", "%2Fa"),
            ("/a/b/..", "/a/b/..", "%2Fa"),
            ("/../..", "/../..", "%2F"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb", "%2Fb"),
            ("/é b", "/%C3%A9%20b", "%2F%C3%A9%20b"),
            ("/'!*(q)+~", "/'!*(q)+~", "%2F'!*(q)%2B~"),
        ] {
            let target = target(path, "").unwrap();
            assert_eq!((target.path_and_query(), target.canonical_path()), (sent, canonical), "{path}");
            assert_eq!(target.authority(), "example.com");
        }
    }

    #[test]
    fn queries() {
        for (query, sent, canonical) in [
            ("b=2&a=1&a=0", "b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("kmo", "kmo", "kmo=undefined"),
            ("a=b=c", "a=b=c", "a=b"),
            ("a=", "a=", "a="),
            ("&&a&", "a", "a=undefined"),
            ("a+b=c%2b", "a+b=c%2b", "a%2Bb=c%2B"),
            ("é=?\"", "%C3%A9=?%22", "%C3%A9=%3F%22"),
            // Sorted as they stand: `%` comes before every letter.
            ("z=1&%61=1&=", "z=1&%61=1&=", "a=1&=&z=1"),
        ] {
            let target = target("/", query).unwrap();
            assert_eq!(target.path_and_query(), format!("/?{sent}"));
            assert_eq!(target.canonical_query(), canonical, "{query}");
            let later = self::target("/", "").unwrap().with_query(query.as_bytes()).unwrap();
            assert_eq!(later, target);
        }
        assert_eq!(target("/", "&").unwrap().path_and_query(), "/");
    }

    #[test]
    fn the_requesters_query_comes_after_the_grants() {
        let both = target("/", "z=1").unwrap().with_query(b"a=1").unwrap();
        assert_eq!((both.path_and_query(), both.canonical_query()), ("/?z=1&a=1", "a=1&z=1"));
    }

    #[test]
    fn refusals() {
        assert_eq!(target("a", ""), Err(Error::PathNotAbsolute));
        for path in ["/?", "/#", "/\n"] {
            assert_eq!(target(path, ""), Err(Error::PathCharacter));
        }
        for escape in ["%", "%zz", "%FF", "%C3", "%ED%A0%80"] {
            assert_eq!(target(&format!("/{escape}"), ""), Err(Error::PathEscape), "{escape}");
            assert_eq!(target("/", escape), Err(Error::QueryEscape), "{escape}");
            assert_eq!(target("/", &format!("a={escape}")), Err(Error::QueryEscape), "{escape}");
        }
        assert_eq!(target("/", "a#"), Err(Error::QueryCharacter));
        assert_eq!(Target::new(Scheme::Https, "a@b", b"/", b""), Err(Error::Authority));
    }
}
