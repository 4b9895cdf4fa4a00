//! A request as it came: read once, and either refused, let pass, or held as a capability's.

use crate::config::OnMissing;
use crate::pairs::Pairs;
use crate::reply::Reply;
use core::ops::Range;

/// Our routing header. Whoever sets it chooses the route, so it is stripped from every request.
pub const ROUTE_HEADER: &[u8] = b"x-membrane-route";

/// Carries a pinned body, in hexadecimal, to the stage behind us that makes it the request's body: proxy-wasm cannot give one to
/// a request that came without. Stripped from every request, like the routing header.
pub const BODY_HEADER: &[u8] = b"x-membrane-body";

/// The longest `authorization` that can hold a bearer of ours: `Bearer `, some spaces, the token.
const MAX_AUTHORIZATION: usize = 128;

/// The place of a header that is not there.
const NONE: usize = usize::MAX;

/// What routes and stages behind us obey; nobody else may say it.
pub const OURS: [&[u8]; 2] = [ROUTE_HEADER, BODY_HEADER];

/// What is to become of a request that just came.
#[derive(Debug)]
pub enum Arrival {
    /// Let it go on; `strip` tells whether it brought headers of ours along ([`OURS`]), which must be taken off.
    Pass {
        /// A header of ours stands in it.
        strip: bool,
    },
    /// Answered at once.
    Refuse(Reply),
    /// It carries a bearer that looks like a capability.
    Capability(Incoming),
}

/// A request that carries a bearer.
#[derive(Debug)]
pub struct Incoming {
    pairs: Pairs,
    bearer: Range<usize>,
    bearer_index: usize,
    method_index: usize,
    path_index: usize,
    /// No body follows the headers.
    pub ended: bool,
    /// The declared length of the body.
    pub content_length: Option<u64>,
}

impl Incoming {
    /// Reads a request's headers. `ended`: no body follows.
    pub fn arrive(pairs: Pairs, ended: bool, on_missing: OnMissing) -> Arrival {
        let mut strip = false;
        let mut authorization: Option<(usize, &[u8])> = None;
        let mut doubled = false;
        let mut upgrade = false;
        let mut method: &[u8] = b"";
        let (mut method_index, mut path_index) = (NONE, NONE);
        let mut lengths: (usize, &[u8]) = (0, b"");
        for (index, (name, value)) in pairs.iter().enumerate() {
            match name {
                b"authorization" => {
                    doubled |= authorization.is_some();
                    authorization = Some((index, value));
                }
                // Envoy has one of each, whatever came.
                b":method" => (method, method_index) = (value, index),
                b":path" => path_index = index,
                b"upgrade" | b":protocol" | b"http2-settings" => upgrade = true,
                b"content-length" => lengths = (lengths.0 + 1, value),
                ROUTE_HEADER | BODY_HEADER => strip = true,
                _ => {}
            }
        }
        let Some((bearer_index, value)) = authorization else {
            return match on_missing {
                OnMissing::Deny => Arrival::Refuse(Reply::unauthorized()),
                OnMissing::Pass => Arrival::Pass { strip },
            };
        };
        let bearer = match bearer(value) {
            Some(bearer) if !doubled => bearer,
            _ => return Arrival::Refuse(Reply::unauthorized()),
        };
        if upgrade || matches!(method, b"CONNECT" | b"TRACE") {
            let message = "a capability takes neither CONNECT nor TRACE nor a protocol upgrade";
            return Arrival::Refuse(Reply::method_not_allowed(message, None));
        }
        let content_length = match lengths {
            (0, _) => None,
            (1, digits) => match parse_length(digits) {
                Some(length) => Some(length),
                None => return Arrival::Refuse(Reply::bad_request("content-length must be a number")),
            },
            _ => return Arrival::Refuse(Reply::bad_request("content-length must stand once")),
        };
        Arrival::Capability(Incoming {
            pairs,
            bearer,
            bearer_index,
            method_index,
            path_index,
            ended,
            content_length,
        })
    }

    /// The bearer's text, a token unless it is malformed.
    pub fn bearer(&self) -> &[u8] {
        let value = self.pairs.get(self.bearer_index).map(|(_, value)| value).unwrap_or_default();
        value.get(self.bearer.clone()).unwrap_or_default()
    }

    /// The method as it came.
    pub fn method(&self) -> &[u8] {
        self.pairs.get(self.method_index).map(|(_, value)| value).unwrap_or_default()
    }

    /// The path before the first `?`, and the query after it.
    pub fn path_and_query(&self) -> (&[u8], Option<&[u8]>) {
        let whole = self.pairs.get(self.path_index).map(|(_, value)| value).unwrap_or_default();
        match whole.iter().position(|byte| *byte == b'?') {
            Some(at) => (whole.get(..at).unwrap_or_default(), whole.get(at + 1..)),
            None => (whole, None),
        }
    }

    /// Headers in order, pseudo-headers left out.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().filter(|(name, _)| !name.starts_with(b":"))
    }

    /// The value of a header that must stand once; `Err` if it stands twice.
    pub fn single(&self, name: &'static str) -> Result<Option<&[u8]>, Reply> {
        let mut values =
            self.headers().filter(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value);
        let first = values.next();
        if values.next().is_some() {
            return Err(Reply::bad_request(format!("{name} must stand once")));
        }
        Ok(first)
    }

    /// Whether the headers promise a body in chunks, which is never held to be hashed.
    pub fn promises_streaming(&self) -> bool {
        self.headers()
            .any(|(name, value)| name == b"x-amz-content-sha256" && value.starts_with(b"STREAMING-"))
    }

    /// All headers, as they came.
    pub fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    /// What it takes to hold these headers, in bytes.
    pub fn size(&self) -> usize {
        self.pairs.size()
    }
}

/// The body's length as a request announces it, where it does so once and well. None where it asks for another protocol: what
/// follows then is no body, and has no end.
pub fn announced_length(pairs: &Pairs) -> Option<u64> {
    let length = parse_length(pairs.only(b"content-length")?)?;
    pairs.iter().all(|(name, _)| name != b"upgrade").then_some(length)
}

/// RFC 6750 §2.1: `Bearer` in any case, spaces, the token. Where the token stands within `value`.
fn bearer(value: &[u8]) -> Option<Range<usize>> {
    if value.len() > MAX_AUTHORIZATION {
        return None;
    }
    let (scheme, rest) = value.split_at_checked(6)?;
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    if !scheme.eq_ignore_ascii_case(b"bearer") || spaces == 0 {
        return None;
    }
    let start = 6 + spaces;
    let end = start + value.get(start..)?.trim_ascii_end().len();
    (end > start).then_some(start..end)
}

pub(crate) fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn pairs(list: &[(&str, &str)]) -> Pairs {
        let bytes = crate::pairs::encode(list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).unwrap();
        Pairs::parse(bytes.to_vec()).unwrap()
    }

    fn arrive(list: &[(&str, &str)], on_missing: OnMissing) -> Arrival {
        Incoming::arrive(pairs(list), true, on_missing)
    }

    #[test]
    fn exactly_one_bearer() {
        for value in ["Bearer CPBLTY1-x", "bearer   CPBLTY1-x", "BEARER CPBLTY1-x "] {
            let Arrival::Capability(incoming) = arrive(&[("authorization", value)], OnMissing::Deny) else {
                panic!("{value}")
            };
            assert_eq!(incoming.bearer(), b"CPBLTY1-x");
        }
        let long = format!("Bearer {}", "x".repeat(200));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer\tx",
            "Basic eDp5",
            "CPBLTY1-x",
            "AWS4-HMAC-SHA256 Credential=x",
            &long,
        ] {
            for on_missing in [OnMissing::Deny, OnMissing::Pass] {
                let Arrival::Refuse(reply) = arrive(&[("authorization", value)], on_missing) else {
                    panic!("{value}")
                };
                assert_eq!(reply, Reply::unauthorized(), "{value}");
            }
        }
        let twice = [("authorization", "Bearer CPBLTY1-x"), ("authorization", "Bearer CPBLTY1-x")];
        assert!(matches!(arrive(&twice, OnMissing::Pass), Arrival::Refuse(reply) if reply.status == 401));
    }

    #[test]
    fn without_a_bearer_the_configuration_decides() {
        assert!(matches!(arrive(&[], OnMissing::Deny), Arrival::Refuse(reply) if reply.status == 401));
        assert!(matches!(arrive(&[("x", "y")], OnMissing::Pass), Arrival::Pass { strip: false }));
        for ours in ["x-membrane-route", "x-membrane-body"] {
            let arrival = arrive(&[(ours, "control")], OnMissing::Pass);
            assert!(matches!(arrival, Arrival::Pass { strip: true }));
        }
    }

    #[test]
    fn tunnels_upgrades_and_broken_lengths() {
        let bearer = ("authorization", "Bearer CPBLTY1-x");
        for (other, status) in [
            ((":method", "CONNECT"), 405),
            ((":method", "TRACE"), 405),
            (("upgrade", "websocket"), 405),
            ((":protocol", "websocket"), 405),
            (("content-length", "1x"), 400),
            (("content-length", "+1"), 400),
            (("content-length", ""), 400),
            (("content-length", "99999999999999999999"), 400),
        ] {
            assert!(
                matches!(arrive(&[bearer, other], OnMissing::Deny), Arrival::Refuse(reply) if reply.status == status),
                "{other:?}"
            );
        }
        let twice = [bearer, ("content-length", "1"), ("content-length", "1")];
        assert!(matches!(arrive(&twice, OnMissing::Deny), Arrival::Refuse(reply) if reply.status == 400));
    }

    /// Or the refusal of an upgrade would wait for a body's end that never comes.
    #[test]
    fn an_upgrade_announces_no_body() {
        let length = ("content-length", "4");
        assert_eq!(announced_length(&pairs(&[length])), Some(4));
        assert_eq!(announced_length(&pairs(&[length, ("upgrade", "websocket")])), None);
        assert_eq!(announced_length(&pairs(&[length, length])), None);
    }

    proptest! {
        #[test]
        fn any_headers_are_read_or_refused(list in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8), value in any::<Vec<u8>>()) {
            let authorization = (&b"authorization"[..], value.as_slice());
            let all = list.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).chain([authorization]);
            let pairs = Pairs::parse(crate::pairs::encode(all).unwrap().to_vec()).unwrap();
            if let Arrival::Capability(incoming) = Incoming::arrive(pairs, false, OnMissing::Deny) {
                prop_assert!(value.ends_with(incoming.bearer()) || value.trim_ascii_end().ends_with(incoming.bearer()));
                incoming.path_and_query();
            }
        }
    }
}
