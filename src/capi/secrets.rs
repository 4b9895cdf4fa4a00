//! Where secrets come from: a flag, a file, standard input, the environment. A flag stands in the shell's history and
//! in every process list, so each of them can come another way.

use crate::failure::{Failure, Place};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// The longest text read from a file or from standard input, in bytes. The registry takes request bodies of at most
/// 65,536 bytes, so nothing longer could be sent.
pub(crate) const MAX_INPUT_BYTES: u64 = 65_536;

/// Secret text: wiped when dropped, never printed. Where text came through the command line, the operating system's
/// own copy of the arguments remains.
#[derive(Clone)]
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn new(text: String) -> SecretText {
        SecretText(Zeroizing::new(text))
    }

    /// Clap's value parser. It takes everything: a parser that refused would have clap print the value.
    pub(crate) fn argument(text: &str) -> Result<SecretText, Infallible> {
        Ok(SecretText::new(text.to_owned()))
    }

    /// The text. Whoever calls this answers for where it goes.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl serde::Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretText, D::Error> {
        String::deserialize(deserializer).map(SecretText::new)
    }
}

/// The ways in which one secret can be given.
pub(crate) struct Given<'a> {
    /// The flag, as people write it; `<flag>-file` names a file.
    pub(crate) flag: &'static str,
    /// The environment variable, if there is one.
    pub(crate) variable: Option<&'static str>,
    /// The flag's value; `-` means standard input.
    pub(crate) inline: Option<&'a SecretText>,
    pub(crate) file: Option<&'a Path>,
}

/// The outside world, as far as secrets come from it.
pub(crate) struct Sources<'a> {
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    stdin: &'a mut dyn Read,
    stdin_taken_by: Option<&'static str>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(
        environment: &'a dyn Fn(&str) -> Option<OsString>,
        stdin: &'a mut dyn Read,
    ) -> Sources<'a> {
        Sources { environment, stdin, stdin_taken_by: None }
    }

    /// The secret from the first place that has it: flag, file, environment. One line end at its end is dropped, as
    /// editors and `echo` leave one. `None` where no place was named and the environment has none (an empty variable is
    /// none, as everywhere).
    pub(crate) fn secret(&mut self, given: &Given<'_>) -> Result<Option<SecretText>, Failure> {
        let (text, place) = match (given.inline, given.file) {
            (Some(inline), _) if inline.expose() == "-" => (self.stdin(given.flag)?, Place::Stdin),
            (Some(inline), _) => return non_empty(inline.clone(), given.flag).map(Some),
            (None, Some(file)) => (read_file(given.flag, file)?, Place::File(file.to_owned())),
            (None, None) => match given.variable {
                Some(variable) => match (self.environment)(variable).filter(|value| !value.is_empty()) {
                    Some(value) => (
                        value.into_encoded_bytes().try_into_text(given.flag, Place::Environment(variable))?,
                        Place::Environment(variable),
                    ),
                    None => return Ok(None),
                },
                None => return Ok(None),
            },
        };
        let text = without_line_end(text);
        if text.expose().is_empty() {
            return Err(Failure::Unreadable { flag: given.flag, place, reason: "it is empty".into() });
        }
        Ok(Some(text))
    }

    /// Text from a file, whole: line ends are part of it. `-` is standard input.
    pub(crate) fn whole(&mut self, flag: &'static str, file: &Path) -> Result<SecretText, Failure> {
        if file == Path::new("-") { self.stdin(flag) } else { read_file(flag, file) }
    }

    fn stdin(&mut self, flag: &'static str) -> Result<SecretText, Failure> {
        if let Some(other) = self.stdin_taken_by {
            return Err(Failure::bad_value(
                flag,
                format_args!("standard input was already read for {other}"),
            ));
        }
        self.stdin_taken_by = Some(flag);
        read(flag, Place::Stdin, self.stdin)
    }
}

fn non_empty(text: SecretText, flag: &'static str) -> Result<SecretText, Failure> {
    if text.expose().is_empty() { Err(Failure::bad_value(flag, "must not be empty")) } else { Ok(text) }
}

fn read_file(flag: &'static str, path: &Path) -> Result<SecretText, Failure> {
    let place = || Place::File(path.to_owned());
    match std::fs::File::open(path) {
        Ok(mut file) => read(flag, place(), &mut file),
        Err(error) => Err(Failure::Unreadable { flag, place: place(), reason: error.to_string() }),
    }
}

fn read(flag: &'static str, place: Place, from: &mut dyn Read) -> Result<SecretText, Failure> {
    // Reserved whole, so that growing leaves no copies behind. One byte more than allowed tells too long from just right.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT_BYTES as usize + 1));
    if let Err(error) = from.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes) {
        return Err(Failure::Unreadable { flag, place, reason: error.to_string() });
    }
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(Failure::Unreadable {
            flag,
            place,
            reason: format!("it is longer than {MAX_INPUT_BYTES} bytes"),
        });
    }
    std::mem::take(&mut *bytes).try_into_text(flag, place)
}

trait TryIntoText {
    fn try_into_text(self, flag: &'static str, place: Place) -> Result<SecretText, Failure>;
}

impl TryIntoText for Vec<u8> {
    fn try_into_text(self, flag: &'static str, place: Place) -> Result<SecretText, Failure> {
        String::from_utf8(self).map(SecretText::new).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            Failure::Unreadable { flag, place, reason: "it is not UTF-8 text".into() }
        })
    }
}

fn without_line_end(text: SecretText) -> SecretText {
    let SecretText(mut text) = text;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    SecretText(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--key";

    fn given<'a>(inline: Option<&'a SecretText>, file: Option<&'a Path>) -> Given<'a> {
        Given { flag: FLAG, variable: Some("KEY"), inline, file }
    }

    fn secret(given: &Given<'_>, environment: Option<&str>, stdin: &str) -> Result<Option<String>, Failure> {
        let environment = |name: &str| {
            assert_eq!(name, "KEY");
            environment.map(OsString::from)
        };
        let mut stdin = stdin.as_bytes();
        let mut sources = Sources::new(&environment, &mut stdin);
        Ok(sources.secret(given)?.map(|secret| secret.expose().to_owned()))
    }

    #[test]
    fn flag_then_file_then_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from file\r\n").unwrap();
        let inline = SecretText::new("from flag".into());
        let dash = SecretText::new("-".into());
        let all = given(Some(&inline), Some(&path));
        assert_eq!(secret(&all, Some("env"), "stdin").unwrap().unwrap(), "from flag");
        assert_eq!(secret(&given(None, Some(&path)), Some("env"), "").unwrap().unwrap(), "from file");
        assert_eq!(
            secret(&given(Some(&dash), None), Some("env"), "from stdin\n\n").unwrap().unwrap(),
            "from stdin\n"
        );
        assert_eq!(secret(&given(None, None), Some("from env"), "").unwrap().unwrap(), "from env");
        assert_eq!(secret(&given(None, None), None, "").unwrap(), None);
        assert_eq!(secret(&given(None, None), Some(""), "").unwrap(), None);
    }

    #[test]
    fn unusable_sources_are_named_and_their_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let just_right = write("just-right", &vec![b'a'; MAX_INPUT_BYTES as usize]);
        assert!(secret(&given(None, Some(&just_right)), None, "").is_ok());
        for (path, reason) in [
            (write("empty", b"\n"), "it is empty"),
            (write("long", &vec![b'a'; MAX_INPUT_BYTES as usize + 1]), "longer than 65536 bytes"),
            (write("latin-1", b"canary-\xe9"), "not UTF-8"),
            (dir.path().join("missing"), "No such file"),
        ] {
            let error = secret(&given(None, Some(&path)), None, "").unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(FLAG), "{error}");
            assert!(error.contains(path.to_str().unwrap()) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn standard_input_is_read_once() {
        let environment = |_: &str| None;
        let mut stdin = "canary-once".as_bytes();
        let mut sources = Sources::new(&environment, &mut stdin);
        let dash = SecretText::new("-".into());
        let first = Given { flag: "--capability", variable: None, inline: Some(&dash), file: None };
        assert!(sources.secret(&first).unwrap().is_some());
        let error = sources.secret(&given(Some(&dash), None)).unwrap_err().to_string();
        assert!(error.contains("--key: standard input was already read for --capability"), "{error}");
    }

    #[test]
    fn debug_never_shows_the_text() {
        assert_eq!(format!("{:?}", SecretText::new("canary".into())), "[redacted]");
    }
}
