//! Tokens and capability URIs, as bytes that somebody sends.

#![no_main]

use capability::{CapabilityUri, Token, without_tokens};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(token) = Token::parse(input) {
        // One token, one spelling; and what is shown of it is not it.
        assert_eq!(token.expose().as_bytes(), input);
        assert!(input.len() <= Token::MAX_TEXT_LEN);
        assert!(!format!("{token:?}").contains(&token.expose()["CPBLTY1-".len()..]));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let shown = without_tokens(text);
    for (at, _) in shown.match_indices("CPBLTY1-") {
        let rest = &shown.as_bytes()[at..];
        // Every token's text that could begin here.
        assert!(
            (51..=Token::MAX_TEXT_LEN)
                .all(|end| rest.get(..end).is_none_or(|part| Token::parse(part).is_err()))
        );
    }
    if let Ok(uri) = CapabilityUri::parse(text) {
        let spelt = uri.to_secret_string();
        let again = CapabilityUri::parse(&spelt).expect("what was written is read");
        assert!(
            again.token() == uri.token()
                && again.authority() == uri.authority()
                && again.scheme() == uri.scheme()
        );
        assert!(!format!("{uri:?}").contains(&uri.token().expose()["CPBLTY1-".len()..]));
    }
});
