use std::fmt;

/// Why something cannot be signed. Carries no part of the input: any of it may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The access key id (or `keyId`) is empty or holds a character that the `Authorization` header gives a meaning.
    KeyId,
    /// The secret key is empty.
    SecretKey,
    /// The session token is empty or not visible ASCII.
    SessionToken,
    /// The region is empty or holds something other than letters, digits, `-`, `_`, `.` and `*`.
    Region,
    /// The service is empty or holds something other than letters, digits, `-`, `_` and `.`.
    Service,
    /// The authority is not an ASCII host name or a bracketed IPv6 address, with an optional port from 0 to 65535.
    Authority,
    /// The path does not begin with `/`.
    PathNotAbsolute,
    /// The path holds `?`, `#` or a control character.
    PathCharacter,
    /// A `%` in the path is not followed by two hexadecimal digits, or what is decoded is not UTF-8 where it must be.
    PathEscape,
    /// The query holds `#` or a control character.
    QueryCharacter,
    /// A `%` in the query is not followed by two hexadecimal digits, or what is decoded is not UTF-8 where it must be.
    QueryEscape,
    /// The method is not an HTTP token.
    Method,
    /// A header's name is not an HTTP token in lower case.
    HeaderName,
    /// A header's value holds a line break or a NUL.
    HeaderValue,
    /// A header's value has an odd number of double quotes and white space that CAP1 would fold.
    HeaderQuotes,
    /// More headers than [`crate::MAX_SIGNED_HEADERS`] would be signed.
    TooManyHeaders,
    /// The signer keeps one day's key alone, and it is another day.
    AnotherDay,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyId => "the key id must be visible ASCII without '/', ',' and '='",
            Self::SecretKey => "the secret key must not be empty",
            Self::SessionToken => "the session token must be visible ASCII, and not empty",
            Self::Region => "the region must be made of letters, digits, '-', '_', '.' and '*'",
            Self::Service => "the service must be made of letters, digits, '-', '_' and '.'",
            Self::Authority => {
                "the authority must be an ASCII host name (an international one in its xn-- form) or a bracketed IPv6 \
                 address, without userinfo, with an optional port from 0 to 65535"
            }
            Self::PathNotAbsolute => "the path must begin with '/'",
            Self::PathCharacter => "the path must not hold '?', '#' or a control character",
            Self::PathEscape => "every '%' in the path must begin a percent-encoded UTF-8 character",
            Self::QueryCharacter => "the query must not hold '#' or a control character",
            Self::QueryEscape => "every '%' in the query must begin a percent-encoded UTF-8 character",
            Self::Method => "the method must be an HTTP token",
            Self::HeaderName => "a header's name must be an HTTP token in lower case",
            Self::HeaderValue => "a header's value must not hold a line break or a NUL",
            Self::HeaderQuotes => {
                "a header's value with an unpaired double quote must have single spaces for white space, or CAP1 verifiers \
                 may not agree on what was signed"
            }
            Self::TooManyHeaders => "too many headers to sign: at most 128, those that signing adds included",
            Self::AnotherDay => "the signing key at hand is another day's",
        })
    }
}

impl std::error::Error for Error {}
