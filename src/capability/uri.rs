//! The capability URI: where a token is honoured, and the token.

use crate::{Authority, AuthorityError, Scheme, Token, TokenError};
use core::fmt;
use zeroize::Zeroizing;

/// Why text is not a capability URI. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UriError {
    /// Neither `cpblty://authority/#token` nor `cpblty:authority[@scheme]:token`.
    Form,
    /// The authority is not one.
    Authority(AuthorityError),
    /// The scheme after `@` is neither `http` nor `https`.
    Scheme,
    /// The token is not one.
    Token(TokenError),
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UriError::Form => f.write_str("must be a capability URI: cpblty://authority/#CPBLTY1-…"),
            UriError::Authority(error) => error.fmt(f),
            UriError::Scheme => f.write_str("the scheme after @ must be http or https"),
            UriError::Token(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UriError {}

/// `cpblty://authority/#token`, or in its second form `cpblty:authority[@scheme]:token`.
///
/// It holds a secret: there is no `Display`, and `Debug` leaves the token out.
pub struct CapabilityUri {
    authority: Authority,
    scheme: Scheme,
    token: Token,
}

impl CapabilityUri {
    /// The URI that we hand out: HTTPS at `authority`.
    pub fn new(authority: Authority, token: Token) -> CapabilityUri {
        CapabilityUri { authority, scheme: Scheme::Https, token }
    }

    /// Reads either form.
    pub fn parse(text: &str) -> Result<CapabilityUri, UriError> {
        let rest = text.strip_prefix("cpblty:").ok_or(UriError::Form)?;
        let (authority, scheme, token) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, fragment) = rest.split_once('#').ok_or(UriError::Form)?;
                let authority = authority.strip_suffix('/').unwrap_or(authority);
                (authority, Scheme::Https, fragment)
            }
            None => {
                // The token holds no colon, the authority may hold several.
                let (place, token) = rest.rsplit_once(':').ok_or(UriError::Form)?;
                match place.split_once('@') {
                    None => (place, Scheme::Https, token),
                    Some((authority, "https")) => (authority, Scheme::Https, token),
                    Some((authority, "http")) => (authority, Scheme::Http, token),
                    Some(_) => return Err(UriError::Scheme),
                }
            }
        };
        Ok(CapabilityUri {
            authority: authority.parse().map_err(UriError::Authority)?,
            scheme,
            token: Token::parse(token.as_bytes()).map_err(UriError::Token)?,
        })
    }

    /// Where the token is honoured.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How to speak there; HTTPS unless the second form said otherwise.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The secret part.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The first form, which names no scheme; the second one where the scheme is not HTTPS. Secret: it holds the token.
    pub fn to_secret_string(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.authority.as_str().len() + 128));
        match self.scheme {
            Scheme::Https => {
                text.push_str("cpblty://");
                text.push_str(self.authority.as_str());
                text.push_str("/#");
            }
            Scheme::Http => {
                text.push_str("cpblty:");
                text.push_str(self.authority.as_str());
                text.push_str("@http:");
            }
        }
        text.push_str(self.token.expose());
        text
    }
}

impl fmt::Debug for CapabilityUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapabilityUri({}, [redacted])", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_printed() {
        let token = Token::mint([3; 64]);
        let first = format!("cpblty://Localhost:8443/#{}", token.expose());
        let uri = CapabilityUri::parse(&first).unwrap();
        assert_eq!(uri.authority().as_str(), "localhost:8443");
        assert_eq!(*uri.token(), token);
        assert_eq!(
            *uri.to_secret_string(),
            first.to_lowercase().split('#').next().unwrap().to_owned() + "#" + token.expose()
        );
        assert!(!format!("{uri:?}").contains("CPBLTY1-"));

        for (scheme, suffix) in [(Scheme::Https, ""), (Scheme::Https, "@https"), (Scheme::Http, "@http")] {
            let second = format!("cpblty:[::1]:8443{suffix}:{}", token.expose());
            let uri = CapabilityUri::parse(&second).unwrap();
            assert_eq!((uri.authority().as_str(), uri.scheme()), ("[::1]:8443", scheme));
            assert_eq!(CapabilityUri::parse(&uri.to_secret_string()).unwrap().token(), uri.token());
        }
    }

    #[test]
    fn what_is_no_capability_uri_is_refused() {
        let token = Token::mint([3; 64]);
        for bad in ["", "cpblty:", "https://example.com/", "cpblty://a/", "cpblty:///#x"] {
            assert!(CapabilityUri::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "cpblty://a/path#",
            "cpblty://u@a/#",
            "cpblty://a//#",
            "cpblty:a@ftp:",
            "cpblty://a b/#",
            "CPBLTY://a/#",
        ] {
            assert!(CapabilityUri::parse(&format!("{bad}{}", token.expose())).is_err(), "{bad}");
        }
    }
}
