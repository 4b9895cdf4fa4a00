use super::query::Query;
use super::service::Service;
use super::stages::PathRules;
use crate::Error;
use crate::authority::{self, Scheme};
use crate::encoding::{BrokenEscape, is_path_byte, is_unreserved, percent_decode, percent_encode};

/// Where a signed request goes: what is sent and what is signed, both derived from one value when the grant is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    authority: String,
    path_and_query: String,
    /// How much of `path_and_query` is the path.
    path_length: usize,
    query: Query,
    canonical_uri: String,
    canonical_query: String,
}

impl Target {
    /// `path` and `query` are those of the grant's uri, as written there, the query without its `?`.
    ///
    /// Outside the S3 family the path is *sent* without dot segments and empty segments too: their verifiers remove them before
    /// comparing, so that sending them would mean that something else is signed than is sent.
    ///
    /// # Errors
    /// [`Error::Authority`], [`Error::PathNotAbsolute`], [`Error::PathCharacter`], [`Error::PathEscape`],
    /// [`Error::QueryCharacter`].
    pub fn new(
        service: &Service,
        scheme: Scheme,
        authority: &str,
        path: &[u8],
        query: &[u8],
    ) -> Result<Self, Error> {
        Self::with_rules(PathRules::of(service), scheme, authority, path, query)
    }

    /// [`Target::new`] with rules that need not be those of any service: AWS's own vectors mix them.
    pub(super) fn with_rules(
        rules: PathRules,
        scheme: Scheme,
        authority: &str,
        path: &[u8],
        query: &[u8],
    ) -> Result<Self, Error> {
        let (sent, canonical_uri) = paths(rules, path)?;
        let target = Self {
            authority: authority::parse(scheme, authority)?,
            path_length: sent.len(),
            path_and_query: sent,
            query: Query::default(),
            canonical_uri,
            canonical_query: String::new(),
        };
        Ok(target.with_query(&Query::parse(query)?))
    }

    /// This target with more pairs after its own: the requester's, where a grant lets them through.
    #[must_use]
    pub fn with_query(&self, extra: &Query) -> Self {
        let mut target = self.clone();
        target.query.extend(extra);
        target.path_and_query.truncate(self.path_length);
        if !target.query.is_empty() {
            target.path_and_query.push('?');
            target.query.write_wire(&mut target.path_and_query);
        }
        target.canonical_query = target.query.canonical();
        target
    }

    /// Bytes of memory behind it.
    pub fn size(&self) -> usize {
        let texts = [&self.authority, &self.path_and_query, &self.canonical_uri, &self.canonical_query];
        texts.iter().map(|text| text.capacity()).sum::<usize>() + self.query.size()
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
    pub fn canonical_uri(&self) -> &str {
        &self.canonical_uri
    }

    /// The third line of the canonical request.
    pub fn canonical_query(&self) -> &str {
        &self.canonical_query
    }
}

/// The path as sent and as signed.
fn paths(rules: PathRules, raw: &[u8]) -> Result<(String, String), Error> {
    if raw.iter().any(|&byte| byte.is_ascii_control() || matches!(byte, b'?' | b'#')) {
        return Err(Error::PathCharacter);
    }
    let raw = if raw.is_empty() { b"/" } else { raw };
    if !raw.starts_with(b"/") {
        return Err(Error::PathNotAbsolute);
    }
    let decoded = percent_decode(raw, BrokenEscape::Refuse).ok_or(Error::PathEscape)?;
    let normalised;
    let raw = if rules.normalise {
        normalised = normalise(raw);
        normalised.as_slice()
    } else {
        raw
    };
    let mut sent = String::new();
    if rules.encode_again {
        percent_encode(raw, |byte| is_path_byte(byte) || byte == b'%', &mut sent);
        let mut canonical = String::new();
        percent_encode(sent.as_bytes(), is_canonical_path_byte, &mut canonical);
        return Ok((sent, canonical));
    }
    let decoded = if rules.normalise {
        percent_decode(raw, BrokenEscape::Refuse).ok_or(Error::PathEscape)?
    } else {
        decoded
    };
    percent_encode(&decoded, is_canonical_path_byte, &mut sent);
    let canonical = sent.clone();
    Ok((sent, canonical))
}

/// RFC 3986 §5.2.4 "Remove Dot Segments", and empty segments with them, as AWS has it. An encoded dot or slash is neither.
fn normalise(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for segment in path.split(|&byte| byte == b'/') {
        last = segment;
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut normalised = Vec::with_capacity(path.len());
    for segment in &segments {
        normalised.push(b'/');
        normalised.extend_from_slice(segment);
    }
    if segments.is_empty() || matches!(last, b"" | b"." | b"..") {
        normalised.push(b'/');
    }
    normalised
}

fn is_canonical_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || byte == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(service: &str, path: &str) -> Result<(String, String), Error> {
        let service = Service::new(service).unwrap();
        let target = Target::new(&service, Scheme::Https, "example.com", path.as_bytes(), b"")?;
        Ok((target.path_and_query().into(), target.canonical_uri().into()))
    }

    #[test]
    fn s3_is_encoded_once_and_not_normalised() {
        for service in ["s3", "s3express", "s3-outposts", "s3-object-lambda"] {
            for (path, sent) in [
                ("", "/"),
                ("/a//b/./../c/", "/a//b/./../c/"),
                ("/a%20b+c%2bd", "/a%20b%2Bc%2Bd"),
                ("/a%2fb%7E%41", "/a/b~A"),
                ("/+()!*'=@:,$&;", "/%2B%28%29%21%2A%27%3D%40%3A%2C%24%26%3B"),
                ("/é%C3%A9%ff", "/%C3%A9%C3%A9%FF"),
                ("/a b", "/a%20b"),
                ("/%25", "/%25"),
            ] {
                assert_eq!(target(service, path), Ok((sent.into(), sent.into())), "{path}");
            }
        }
    }

    #[test]
    fn others_are_normalised_and_encoded_again() {
        for (path, sent, canonical) in [
            ("", "/", "/"),
            ("/model/v1%3A0/invoke", "/model/v1%3A0/invoke", "/model/v1%253A0/invoke"),
            ("/model/v1:0/invoke", "/model/v1:0/invoke", "/model/v1%3A0/invoke"),
            ("//a//b/", "/a/b/", "/a/b/"),
            ("/a/b/.", "/a/b/", "/a/b/"),
            ("/a/b/..", "/a/", "/a/"),
            ("/../../a", "/a", "/a"),
            ("/./", "/", "/"),
            ("/a/%2e%2E/b", "/a/%2e%2E/b", "/a/%252e%252E/b"),
            ("/a b/é\"", "/a%20b/%C3%A9%22", "/a%2520b/%25C3%25A9%2522"),
            ("/...", "/...", "/..."),
        ] {
            assert_eq!(target("lambda", path), Ok((sent.into(), canonical.into())), "{path}");
        }
    }

    #[test]
    fn refusals() {
        for service in ["s3", "lambda"] {
            assert_eq!(target(service, "a"), Err(Error::PathNotAbsolute));
            for path in ["/a?b", "/a#b", "/a\nb", "/\x7f"] {
                assert_eq!(target(service, path), Err(Error::PathCharacter));
            }
            for path in ["/100%", "/%zz", "/%2"] {
                assert_eq!(target(service, path), Err(Error::PathEscape));
            }
        }
    }

    #[test]
    fn the_requesters_query_comes_after_the_grants() {
        let s3 = Service::new("s3").unwrap();
        let pinned = Target::new(&s3, Scheme::Https, "b.example", b"/k", b"versionId=2").unwrap();
        let both = pinned.with_query(&Query::parse(b"acl&a=1").unwrap());
        assert_eq!(both.path_and_query(), "/k?versionId=2&acl&a=1");
        assert_eq!(both.canonical_query(), "a=1&acl=&versionId=2");
        assert_eq!(pinned.with_query(&Query::default()), pinned);
    }
}
