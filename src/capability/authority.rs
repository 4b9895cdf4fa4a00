//! `host[:port]`: where a capability is honoured, or where a grant leads.

use core::{fmt, str::FromStr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why text is not an authority. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityError {
    /// Empty, or longer than 253 characters (RFC 1035 §2.3.4) and a port.
    Length,
    /// A character that no host has: write internationalised names in their ASCII form (`xn--…`, RFC 5890).
    Character,
    /// A label that is empty, longer than 63 characters, or begins or ends with a hyphen.
    Label,
    /// A name that ends in a number but is no dotted quad: `2130706433` and `0x7f.1` are addresses to some resolvers.
    Number,
    /// An IPv6 address that is not one, or stands without brackets.
    Ipv6,
    /// A port that is not 1 to 65535 in plain digits.
    Port,
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthorityError::Length => "the host must have 1 to 253 characters",
            AuthorityError::Character => {
                "the host may hold letters, digits, '-', '_' and '.' (write an internationalised name as xn--…)"
            }
            AuthorityError::Label => {
                "each part of the host must have 1 to 63 characters and neither begin nor end with '-'"
            }
            AuthorityError::Number => "a host that ends in a number must be a dotted quad such as 192.0.2.1",
            AuthorityError::Ipv6 => "an IPv6 address must be valid and stand in brackets",
            AuthorityError::Port => "the port must be a number from 1 to 65535",
        })
    }
}

impl std::error::Error for AuthorityError {}

/// A DNS name, IPv4 or bracketed IPv6 address with an optional port, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    text: String,
    host_len: usize,
}

/// RFC 1035 §2.3.4, less the root's dot.
const MAX_HOST: usize = 253;

impl Authority {
    /// The authority in lower case, as it goes on the wire.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host alone, an IPv6 address with its brackets.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_len).unwrap_or(&self.text)
    }

    /// The port, if it was written.
    pub fn port(&self) -> Option<u16> {
        self.text.get(self.host_len + 1..).and_then(|port| port.parse().ok())
    }

    /// The address, where the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        let host = self.host();
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }

    /// Whether the host names this machine or a network that is not the public internet: loopback, private
    /// (RFC 1918, RFC 4193), link-local (RFC 3927, RFC 4291; cloud metadata services live there), shared (RFC 6598),
    /// unspecified, multicast, and the IPv6 forms that embed such an IPv4 address; or `localhost` (RFC 6761).
    pub fn is_private_literal(&self) -> bool {
        match self.ip() {
            Some(IpAddr::V4(ip)) => is_private_v4(ip),
            Some(IpAddr::V6(ip)) => is_private_v6(ip),
            None => {
                let host = self.host();
                matches!(host, "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback")
                    || host.ends_with(".localhost")
            }
        }
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        // IETF protocol assignments (RFC 6890), where some clouds keep their metadata, and benchmarking (RFC 2544).
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && matches!(b, 18 | 19))
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
}

/// Global unicast (2000::/3, RFC 4291 §2.4) is public, less the blocks in it that are not or that carry an IPv4 address
/// somewhere: protocol assignments and Teredo (2001::/23), documentation, 6to4, and ISATAP's interface ids (RFC 5214 §6.1).
/// Everything else is private but for IPv4 in its two common clothes, which is judged by itself.
fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [.., a, b, c, d] = ip.octets();
    let embedded = Ipv4Addr::new(a, b, c, d);
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_private_v4(embedded),
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => true,
        [0x2002, ..] | [0x3fff, 0..0x1000, ..] => true,
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => true,
        [first, ..] => first & 0xe000 != 0x2000,
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Authority, AuthorityError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or(AuthorityError::Ipv6)?;
                address.parse::<Ipv6Addr>().map_err(|_| AuthorityError::Ipv6)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(AuthorityError::Port)?),
                };
                (text.get(..address.len() + 2).unwrap_or_default(), port)
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(AuthorityError::Ipv6),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if !host.starts_with('[') {
            parse_name(host)?;
        }
        if let Some(port) = port {
            let plain =
                !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
            if !plain || port.parse::<u16>().is_err() {
                return Err(AuthorityError::Port);
            }
        }
        Ok(Authority { text: text.to_ascii_lowercase(), host_len: host.len() })
    }
}

fn parse_name(host: &str) -> Result<(), AuthorityError> {
    if host.is_empty() || host.len() > MAX_HOST {
        return Err(AuthorityError::Length);
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(AuthorityError::Character);
    }
    let well_formed =
        |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if !host.split('.').all(well_formed) {
        return Err(AuthorityError::Label);
    }
    // What WHATWG's "ends in a number" checker looks for: such a host is an address, in whatever base, or nothing.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if number && host.parse::<Ipv4Addr>().is_err() {
        return Err(AuthorityError::Number);
    }
    Ok(())
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for good in [
            "a",
            "localhost:8443",
            "Lambda.us-east-1.amazonaws.com",
            "my_bucket.s3.amazonaws.com",
            "192.0.2.1:80",
            "[::1]:443",
            "[2001:db8::1]",
        ] {
            let authority: Authority = good.parse().unwrap();
            assert_eq!(authority.as_str(), good.to_lowercase());
        }
        let authority: Authority = "[2001:DB8::1]:8443".parse().unwrap();
        assert_eq!((authority.host(), authority.port()), ("[2001:db8::1]", Some(8443)));
        assert_eq!("example.com".parse::<Authority>().unwrap().port(), None);
    }

    #[test]
    fn hosts_are_as_long_as_dns_has_them() {
        let label = "x".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(
            longest.parse::<Authority>().is_ok() && format!("{longest}:65535").parse::<Authority>().is_ok()
        );
        for (bad, why) in [
            (format!("{longest}x"), AuthorityError::Length),
            (format!("{longest}xx"), AuthorityError::Length),
            (format!("{label}x.a"), AuthorityError::Label),
        ] {
            assert_eq!(bad.parse::<Authority>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        use AuthorityError::*;
        for (bad, why) in [
            ("", Length),
            (":80", Length),
            ("a b", Character),
            ("münchen.de", Character),
            ("a/b", Character),
            ("a@b", Character),
            ("a..b", Label),
            (".a", Label),
            ("a.", Label),
            ("-a.b", Label),
            ("a-.b", Label),
            ("2130706433", Number),
            ("0x7f000001", Number),
            ("127.1", Number),
            ("127.0.0.01", Number),
            ("1.2.3.4.5", Number),
            ("a:", Port),
            ("a:0", Port),
            ("a:080", Port),
            ("a:65536", Port),
            ("a:+1", Port),
            ("::1", Ipv6),
            ("[::g]", Ipv6),
            ("[::1", Ipv6),
            ("[::1]x", Port),
        ] {
            assert_eq!(bad.parse::<Authority>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn private_literals() {
        for private in [
            "127.0.0.1",
            "10.0.0.1:80",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::]",
            "[ff02::1]",
            "localhost",
            "x.localhost:1",
            "localhost.localdomain",
            "192.0.0.192",
            "198.18.0.1",
            "[fec0::1]",
            "[::ffff:0:169.254.169.254]",
            "[64:ff9b:1:a9fe:a9:fe00:808:808]",
            "[2001::1]",
            "[2600::5efe:10.0.0.1]",
            "[2001:db8::1]",
            // The last addresses of some of these networks.
            "0.255.255.255",
            "100.127.255.255",
            "198.19.255.255",
            "[2001:1ff::1]",
            "[3fff:fff::1]",
            "[1fff::1]",
            "[4000::1]",
            "[2600::200:5efe:a00:1]",
        ] {
            assert!(private.parse::<Authority>().unwrap().is_private_literal(), "{private}");
        }
        for public in [
            "192.0.2.1",
            "8.8.8.8",
            "[2600::1]",
            "[::ffff:8.8.8.8]",
            "example.com",
            "localhost.example.com",
            // Neighbours of private ones, and what is like them in one part.
            "1.0.0.1",
            "223.255.255.255",
            "100.63.255.255",
            "100.128.0.0",
            "8.64.0.1",
            "192.1.0.1",
            "8.0.0.1",
            "8.8.0.1",
            "198.17.255.255",
            "198.20.0.0",
            "8.18.0.1",
            "[2001:200::1]",
            "[2001:4860:4860::8888]",
            "[3ffe::1]",
            "[3fff:1000::1]",
        ] {
            assert!(!public.parse::<Authority>().unwrap().is_private_literal(), "{public}");
        }
    }
}
