//! Takes secrets out of text that others wrote before it is printed: a server may repeat what it was sent.

use crate::secrets::SecretText;
use capability::without_tokens;

/// What stands where a secret stood.
const REDACTED: &str = "[redacted]";
/// Shorter secrets are not searched for: replacing every `a` of an error message would hide the error, and nobody
/// guards anything with fewer characters.
const MIN_SECRET: usize = 6;

/// The secrets of this run.
#[derive(Default)]
pub(crate) struct Redactor {
    secrets: Vec<SecretText>,
}

impl Redactor {
    /// From now on `secret` is taken out, as it is and as it stands in JSON.
    pub(crate) fn learn(&mut self, secret: &SecretText) {
        if secret.expose().len() < MIN_SECRET {
            return;
        }
        if let Ok(mut quoted) = serde_json::to_string(secret) {
            // Within the quotes.
            quoted.pop();
            quoted.remove(0);
            self.secrets.push(SecretText::new(quoted));
        }
        self.secrets.push(secret.clone());
    }

    /// `text` without the learnt secrets and without anything that looks like a token.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.expose()) {
                text = text.replace(secret.expose(), REDACTED);
            }
        }
        without_tokens(&text)
    }
}

/// `text` on one line, with nothing in it that a terminal would obey: control characters (escape sequences among them)
/// and characters that reorder text (Trojan Source, CVE-2021-42574) become `\u{…}`.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let reorders =
            matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if character.is_control() || reorders {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_go() {
        let mut redactor = Redactor::default();
        redactor.learn(&SecretText::new("can\"ary/1".into()));
        redactor.learn(&SecretText::new("abc".into()));
        assert_eq!(
            redactor.apply(
                r#"a can"ary/1, {"b": "can\"ary/1"} abc cpblty://h/#CPBLTY1-xyz_-0, CPBLTY1- CPBLTY1-q"#
            ),
            r#"a [redacted], {"b": "[redacted]"} abc cpblty://h/#CPBLTY1-[redacted], CPBLTY1- CPBLTY1-[redacted]"#
        );
    }

    #[test]
    fn terminals_obey_nothing() {
        assert_eq!(printable("ä\u{1b}[2J\n\u{9b}x\u{202e}"), "ä\\u{1b}[2J\\u{a}\\u{9b}x\\u{202e}");
    }
}
