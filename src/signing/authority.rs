use std::net::Ipv6Addr;

use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The authority in the one form that is sent, signed and routed by: lower case, and without the scheme's own port, which
/// verifiers leave out of `host` (RFC 9110 §4.2.3; the AWS SDKs do).
pub(crate) fn parse(scheme: Scheme, authority: &str) -> Result<String, Error> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']').ok_or(Error::Authority)?;
            address.parse::<Ipv6Addr>().map_err(|_| Error::Authority)?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(Error::Authority),
            };
            (authority.strip_suffix(rest).ok_or(Error::Authority)?, port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if host.is_empty() || !host.bytes().all(allowed) {
                return Err(Error::Authority);
            }
            (host, port)
        }
    };
    let mut parsed = host.to_ascii_lowercase();
    if let Some(port) = port {
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::Authority);
        }
        let port: u16 = port.parse().map_err(|_| Error::Authority)?;
        if port != scheme.default_port() {
            parsed.push(':');
            parsed.push_str(&port.to_string());
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form() {
        for (scheme, given, sent) in [
            (Scheme::Https, "Lambda.US-east-1.amazonaws.com", "lambda.us-east-1.amazonaws.com"),
            (Scheme::Https, "a.example:443", "a.example"),
            (Scheme::Http, "a.example:443", "a.example:443"),
            (Scheme::Http, "a.example:80", "a.example"),
            (Scheme::Http, "localhost:0080", "localhost"),
            (Scheme::Https, "my_bucket.s3.amazonaws.com", "my_bucket.s3.amazonaws.com"),
            (Scheme::Https, "[::1]:8080", "[::1]:8080"),
            (Scheme::Https, "[2001:DB8::1]:443", "[2001:db8::1]"),
            (Scheme::Https, "[::1]", "[::1]"),
        ] {
            assert_eq!(parse(scheme, given).as_deref(), Ok(sent), "{given}");
        }
    }

    #[test]
    fn refusals() {
        for given in [
            "",
            ":80",
            "a b",
            "user@a.example",
            "bücher.example",
            "a.example:",
            "a.example:x",
            "a.example:+1",
            "a.example:65536",
            "a.example:1:2",
            "a.example/",
            "a.example?x",
            "a.example#x",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[a]",
            "::1",
            "a%2eb",
            "a\nb",
        ] {
            assert_eq!(parse(Scheme::Https, given), Err(Error::Authority), "{given}");
        }
    }
}
