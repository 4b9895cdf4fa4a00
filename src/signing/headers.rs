//! Headers on their way into a signature, whatever its algorithm.

use arrayvec::ArrayVec;

use crate::Error;
use crate::encoding::{Sink, is_token_byte};

/// How many headers can be signed, those that signing adds included. Envoy lets 100 through by default
/// (`max_request_headers_count`), and a grant may pin some more. They are sorted on the stack, where this takes 4 KiB.
pub const MAX_SIGNED_HEADERS: usize = 128;

/// Headers that proxies on the way add, change or drop: hop-by-hop ones (RFC 9110 §7.6.1 and what came before it), and those that
/// Envoy's codecs, router and tracers write.
pub(crate) fn is_rewritten_by_proxies(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"proxy-connection"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
            | b"http2-settings"
            | b"expect"
            | b"forwarded"
            | b"via"
            | b"x-request-id"
            | b"x-client-trace-id"
            | b"traceparent"
            | b"tracestate"
            | b"baggage"
            | b"b3"
            | b"x-amzn-trace-id"
            | b"x-cloud-trace-context"
            | b"grpc-trace-bin"
            | b"x-ot-span-context"
            | b"uber-trace-id"
            | b"sw8"
    ) || [&b"x-forwarded-"[..], b"x-envoy-", b"x-b3-", b"x-datadog-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Headers in the order in which they are signed: by name, equal names in the order in which they came.
#[derive(Default)]
pub(crate) struct Headers<'a> {
    entries: ArrayVec<(&'a [u8], &'a [u8]), MAX_SIGNED_HEADERS>,
}

impl<'a> Headers<'a> {
    pub(crate) fn insert(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Error> {
        if name.is_empty() || !name.iter().all(|&byte| is_token_byte(byte) && !byte.is_ascii_uppercase()) {
            return Err(Error::HeaderName);
        }
        // Looks at every byte, whatever came before: so the compiler can look at many at once.
        if value.iter().fold(false, |bad, byte| bad | matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(Error::HeaderValue);
        }
        self.insert_own(name, value)
    }

    /// [`Headers::insert`] for what this crate made or checked itself.
    pub(crate) fn insert_own(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Error> {
        let place = self.entries.partition_point(|(other, _)| *other <= name);
        self.entries.try_insert(place, (name, value)).map_err(|_| Error::TooManyHeaders)
    }

    /// `name:value` lines; repeated names share one, their values with `separator` between them.
    pub(crate) fn write_lines<S: Sink>(
        &self,
        separator: &str,
        write_value: impl Fn(&[u8], &mut S),
        out: &mut S,
    ) {
        let mut previous: Option<&[u8]> = None;
        for &(name, value) in &self.entries {
            if previous == Some(name) {
                out.put(separator.as_bytes());
            } else {
                if previous.is_some() {
                    out.put_byte(b'\n');
                }
                out.put(name);
                out.put_byte(b':');
            }
            write_value(value, out);
            previous = Some(name);
        }
        out.put_byte(b'\n');
    }

    /// `host;x-amz-date`.
    pub(crate) fn write_names(&self, out: &mut impl Sink) {
        let mut previous: Option<&[u8]> = None;
        for &(name, _) in &self.entries {
            if previous == Some(name) {
                continue;
            }
            if previous.is_some() {
                out.put_byte(b';');
            }
            out.put(name);
            previous = Some(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(given: &[(&str, &str)]) -> Result<(String, String), Error> {
        let mut headers = Headers::default();
        for (name, value) in given {
            headers.insert(name.as_bytes(), value.as_bytes())?;
        }
        let (mut lines, mut names) = (Vec::new(), Vec::new());
        headers.write_lines(",", |value, out: &mut Vec<u8>| out.put(value), &mut lines);
        headers.write_names(&mut names);
        Ok((String::from_utf8(lines).unwrap(), String::from_utf8(names).unwrap()))
    }

    #[test]
    fn sorted_and_joined() {
        let (lines, names) =
            signed(&[("x-b", "2"), ("host", "h"), ("x-b", "1, 1"), ("x-a", ""), ("x-b", "3"), ("x-ab", "v")])
                .unwrap();
        assert_eq!(lines, "host:h\nx-a:\nx-ab:v\nx-b:2,1, 1,3\n");
        assert_eq!(names, "host;x-a;x-ab;x-b");
    }

    #[test]
    fn refusals() {
        for name in ["", "X-A", "a b", "a:b", "a\nb", "é"] {
            assert_eq!(signed(&[(name, "v")]), Err(Error::HeaderName), "{name}");
        }
        for value in ["a\nb", "a\r", "\0"] {
            assert_eq!(signed(&[("a", value)]), Err(Error::HeaderValue));
        }
        assert!(signed(&[("a", "v"); MAX_SIGNED_HEADERS]).is_ok());
        assert_eq!(signed(&[("a", "v"); MAX_SIGNED_HEADERS + 1]), Err(Error::TooManyHeaders));
    }
}
