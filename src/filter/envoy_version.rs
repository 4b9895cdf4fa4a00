//! Which Envoys the filter runs in.

use core::fmt;

/// An Envoy's version, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion {
    /// 1.
    pub major: u64,
    /// 40.
    pub minor: u64,
}

/// The first Envoy whose plugin configuration knows `allow_on_headers_stop_iteration`, without which a request with a body would
/// be held for ever.
pub const OLDEST: EnvoyVersion = EnvoyVersion { major: 1, minor: 35 };

/// This Envoy is older than [`OLDEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld(EnvoyVersion);

impl EnvoyVersion {
    /// Reads the two numbers as the host serialises them (CEL's integers: 8 bytes, little-endian).
    pub fn parse(major: &[u8], minor: &[u8]) -> Option<EnvoyVersion> {
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        Some(EnvoyVersion { major: number(major)?, minor: number(minor)? })
    }

    /// Whether the filter can run in it.
    pub fn check(self) -> Result<(), TooOld> {
        if self < OLDEST { Err(TooOld(self)) } else { Ok(()) }
    }
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy {}.{}", self.major, self.minor)
    }
}

impl fmt::Display for TooOld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the membrane filter: this is {}; it needs at least {OLDEST}, whose plugin configuration knows \
             allow_on_headers_stop_iteration",
            self.0
        )
    }
}

impl std::error::Error for TooOld {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_ones_are_refused_by_name() {
        let version =
            |major: u64, minor: u64| EnvoyVersion::parse(&major.to_le_bytes(), &minor.to_le_bytes()).unwrap();
        for (major, minor) in [(1, 35), (1, 40), (2, 0)] {
            assert_eq!(version(major, minor).check(), Ok(()));
        }
        for (major, minor) in [(1, 34), (1, 0), (0, 99)] {
            let error = version(major, minor).check().unwrap_err().to_string();
            assert!(error.contains(&format!("Envoy {major}.{minor};")), "{error}");
        }
        assert_eq!(EnvoyVersion::parse(b"", b""), None);
        assert_eq!(EnvoyVersion::parse(&[1; 8], &[1; 9]), None);
    }
}
