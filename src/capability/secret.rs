//! The one type that owns secret bytes.

use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Secret bytes: wiped when dropped, compared in constant time, never printed, never cloned.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`; the allocation itself becomes the secret's, nothing is copied.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// Takes over a string's bytes.
    pub fn from_string(text: String) -> Secret {
        Secret::new(text.into_bytes())
    }

    /// The bytes. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        core::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Secret {}

/// A JSON value that held secrets: its strings are wiped before the memory is given back.
pub(crate) struct WipedJson(pub(crate) serde_json::Value);

impl Drop for WipedJson {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

pub(crate) fn wipe(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(wipe),
        serde_json::Value::Object(map) => map.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_bytes() {
        let secret = Secret::from_string("canary-6f1d".into());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(secret == Secret::from_string("canary-6f1d".into()));
        assert!(secret != Secret::from_string("canary-6f1e".into()));
        assert!(secret != Secret::from_string("canary".into()));
    }

    #[test]
    fn strings_are_wiped_however_deep_they_stand() {
        let mut value = serde_json::json!(["a", {"name": "b", "more": [{"c": "d"}, 1, null]}, true]);
        wipe(&mut value);
        assert_eq!(value, serde_json::json!(["", {"name": "", "more": [{"c": ""}, 1, null]}, true]));
    }
}
