//! Looks for secrets where none may be.

use crate::failure::{Failure, Outcome, While};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::path::{Path, PathBuf};

/// Secrets under names that may be told.
#[derive(Default)]
pub struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    /// A secret text, also as it would look in base64 or hexadecimal.
    pub fn plant(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 16, "{name} is too short to be told from chance");
        self.forms(name, secret.as_bytes());
    }

    /// A capability URI or token: its text, and the bytes that the text stands for.
    pub fn plant_token(&mut self, name: &str, capability: &str) {
        let text = capability.rsplit("CPBLTY1-").next().unwrap_or(capability);
        self.plant(name, text);
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        assert!(bytes.len() >= 32, "{name} is no token");
        self.forms(&format!("{name} (decoded)"), &bytes);
    }

    fn forms(&mut self, name: &str, secret: &[u8]) {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push((name.into(), secret.into()));
        self.0.push((format!("{name} (hex)"), hex.into_bytes()));
        self.0.push((format!("{name} (base64)"), STANDARD.encode(secret).into_bytes()));
    }

    /// Where secrets were found, by name and place, never by value. `places` are files or folders.
    pub fn search(&self, places: &[PathBuf]) -> Outcome<Vec<String>> {
        let mut found = Vec::new();
        for place in places {
            for file in files(place)? {
                let bytes = std::fs::read(&file).while_(|| format!("reading {}", file.display()))?;
                for (name, needle) in &self.0 {
                    if contains(&bytes, needle) {
                        found.push(format!("{name} in {}", file.display()));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether the text holds any of the secrets; names them.
    pub fn in_text(&self, text: &[u8]) -> Vec<String> {
        self.0.iter().filter(|(_, needle)| contains(text, needle)).map(|(name, _)| name.clone()).collect()
    }
}

pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn files(place: &Path) -> Outcome<Vec<PathBuf>> {
    if !place.exists() {
        return Err(Failure::new(format!("{} should be searched but is not there", place.display())));
    }
    if place.is_file() {
        return Ok(vec![place.into()]);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() || path.is_file() {
            all.extend(files(&path)?);
        }
    }
    Ok(all)
}
