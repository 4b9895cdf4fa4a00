//! Profiles: a tenant's capabilities, kept in `~/.capability/credentials` as the published command line keeps them, one
//! YAML document a profile.

use crate::failure::Failure;
use crate::secrets::SecretText;
use capability::CapabilityUri;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize as _, Zeroizing};

/// The longest credentials file, in bytes: some two thousand profiles.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Why profiles cannot be read or written. Never holds a line of the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("no home folder: set HOME, or give --capability")]
    NoHome,
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("{0} can be read by others: run `chmod 600 {0}`, and consider its capabilities leaked", path.display())]
    Exposed { path: PathBuf },
    #[error(
        "{}: malformed at {place}; it holds YAML documents of `profile: NAME` and `membrane: {{create, query, deleteSelf}}`",
        path.display()
    )]
    Malformed { path: PathBuf, place: String },
}

/// The capabilities that a profile can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Create,
    Query,
    DeleteSelf,
}

impl Role {
    pub(crate) const ALL: [Role; 3] = [Role::Create, Role::Query, Role::DeleteSelf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Create => "create",
            Role::Query => "query",
            Role::DeleteSelf => "deleteSelf",
        }
    }
}

/// All profiles of the credentials file.
pub(crate) struct Credentials {
    path: PathBuf,
    documents: Vec<Document>,
}

/// One YAML document.
#[derive(Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) profile: String,
    #[serde(default)]
    pub(crate) membrane: Membrane,
    /// Other services' capabilities, kept as they are.
    #[serde(flatten)]
    other: Other,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Membrane {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    create: Option<SecretText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<SecretText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete_self: Option<SecretText>,
    /// Late versions of the published command line wrote one level more. Read, never written.
    #[serde(default, skip_serializing)]
    capabilities: Option<Box<Membrane>>,
    #[serde(flatten)]
    other: Other,
}

/// What is in the file but means nothing to this program. Wiped when dropped: it may be another service's capabilities.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Other(BTreeMap<String, serde_json::Value>);

impl Drop for Other {
    fn drop(&mut self) {
        fn wipe(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::String(text) => text.zeroize(),
                serde_json::Value::Array(items) => items.iter_mut().for_each(wipe),
                serde_json::Value::Object(members) => members.values_mut().for_each(wipe),
                _ => {}
            }
        }
        self.0.values_mut().for_each(wipe);
    }
}

impl Membrane {
    pub(crate) fn get(&self, role: Role) -> Option<&SecretText> {
        match role {
            Role::Create => self.create.as_ref(),
            Role::Query => self.query.as_ref(),
            Role::DeleteSelf => self.delete_self.as_ref(),
        }
    }

    pub(crate) fn set(&mut self, role: Role, capability: SecretText) {
        match role {
            Role::Create => self.create = Some(capability),
            Role::Query => self.query = Some(capability),
            Role::DeleteSelf => self.delete_self = Some(capability),
        }
    }

    /// Lifts what stood one level deeper.
    fn flattened(mut self) -> Membrane {
        if let Some(deeper) = self.capabilities.take() {
            for role in Role::ALL {
                if let (None, Some(capability)) = (self.get(role), deeper.get(role)) {
                    self.set(role, capability.clone());
                }
            }
        }
        self
    }
}

impl Credentials {
    /// Reads `~/.capability/credentials`; without the file there are no profiles.
    pub(crate) fn load() -> Result<Credentials, ProfileError> {
        Credentials::load_from(&folder()?)
    }

    fn load_from(folder: &Path) -> Result<Credentials, ProfileError> {
        let path = folder.join("credentials");
        let fail =
            |error: std::io::Error| ProfileError::File { path: path.clone(), reason: error.to_string() };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Credentials { path, documents: Vec::new() });
            }
            Err(error) => return Err(fail(error)),
        };
        if file.metadata().map_err(fail)?.permissions().mode() & OTHERS != 0 {
            return Err(ProfileError::Exposed { path });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(ProfileError::File {
                path,
                reason: format!("it is longer than {MAX_FILE_BYTES} bytes"),
            });
        }
        // The parser's own message quotes the file, so only the place of the fault is passed on.
        let documents: Vec<Document> =
            serde_saphyr::from_multiple(&text).map_err(|error| ProfileError::Malformed {
                path: path.clone(),
                place: error.location().map_or("an unknown place".into(), |at| format!("line {}", at.line())),
            })?;
        log::debug!("{} holds {} profiles", path.display(), documents.len());
        let documents = documents
            .into_iter()
            .map(|mut document| {
                document.membrane = std::mem::take(&mut document.membrane).flattened();
                document
            })
            .collect();
        Ok(Credentials { path, documents })
    }

    pub(crate) fn profiles(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter()
    }

    pub(crate) fn profile(&self, name: &str) -> Option<&Document> {
        self.documents.iter().find(|document| document.profile == name)
    }

    /// The capability of that role in that profile.
    pub(crate) fn capability(&self, profile: &str, role: Role) -> Result<Option<CapabilityUri>, Failure> {
        let Some(text) = self.profile(profile).and_then(|document| document.membrane.get(role)) else {
            return Ok(None);
        };
        CapabilityUri::parse(text.expose()).map(Some).map_err(|error| Failure::BadCapability {
            place: format!("{} (profile \"{profile}\", {})", self.path.display(), role.name()),
            reason: error.to_string(),
        })
    }

    /// Puts capabilities into a profile, which is made where there is none, and writes the file: whole or not at all, and
    /// never while another `capi` does.
    pub(crate) fn store(
        profile: &str,
        capabilities: Vec<(Role, SecretText)>,
    ) -> Result<Credentials, ProfileError> {
        Credentials::store_in(&folder()?, profile, capabilities)
    }

    fn store_in(
        folder: &Path,
        profile: &str,
        capabilities: Vec<(Role, SecretText)>,
    ) -> Result<Credentials, ProfileError> {
        let fail =
            |error: std::io::Error| ProfileError::File { path: folder.to_owned(), reason: error.to_string() };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        let lock =
            private(OpenOptions::new().create(true)).open(folder.join("credentials.lock")).map_err(fail)?;
        lock.lock().map_err(fail)?;
        let mut credentials = Credentials::load_from(folder)?;
        let document = match credentials.documents.iter_mut().position(|document| document.profile == profile)
        {
            Some(index) => credentials.documents.get_mut(index),
            None => {
                let (membrane, other) = (Membrane::default(), Other::default());
                credentials.documents.push(Document { profile: profile.to_owned(), membrane, other });
                credentials.documents.last_mut()
            }
        };
        if let Some(document) = document {
            capabilities.into_iter().for_each(|(role, capability)| document.membrane.set(role, capability));
        }
        credentials.write()?;
        Ok(credentials)
    }

    fn write(&self) -> Result<(), ProfileError> {
        let fail = |reason: String| ProfileError::File { path: self.path.clone(), reason };
        // One line a capability, as the published command line writes them and as people grep for them.
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        let mut text = Zeroizing::new(String::new());
        for (index, document) in self.documents.iter().enumerate() {
            if index > 0 {
                text.push_str("---\n");
            }
            let yaml = serde_saphyr::to_string_with_options(document, options.clone())
                .map_err(|_| fail("its profiles cannot be written as YAML".into()))?;
            text.push_str(&Zeroizing::new(yaml));
        }
        // A credentials file that is a symbolic link stays one.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let fresh = target.with_extension("new");
        // What an interrupted run left behind, perhaps with other permissions, is not written into.
        let _ = std::fs::remove_file(&fresh);
        let written = private(OpenOptions::new().create_new(true)).open(&fresh).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &target)
        });
        written.map_err(|error| {
            // Nothing half-done stays behind; the old file stands.
            let _ = std::fs::remove_file(&fresh);
            fail(error.to_string())
        })
    }
}

/// For the owner's eyes alone.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true).mode(0o600)
}

fn folder() -> Result<PathBuf, ProfileError> {
    let home =
        std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).ok_or(ProfileError::NoHome)?;
    Ok(home.join(".capability"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(byte: u8) -> SecretText {
        let token = capability::Token::mint([byte; 64]);
        SecretText::new(format!("cpblty://localhost:8443/#{}", token.expose()))
    }

    fn write(folder: &Path, text: &str, mode: u32) -> PathBuf {
        let path = folder.join("credentials");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn both_published_forms_are_read_and_other_services_survive_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let (create, query) = (uri(1), uri(2));
        let text = format!(
            "profile: default\nmembrane:\n  create: {}\nmedia:\n  capabilities:\n    createEmail: kept-{}\n---\n\
             profile: late\nmembrane:\n  region: amzn-us-east-1\n  capabilities:\n    query: {}\n",
            create.expose(),
            "x",
            query.expose()
        );
        let path = write(dir.path(), &text, 0o600);
        let new = uri(3);
        Credentials::store_in(dir.path(), "default", vec![(Role::DeleteSelf, new.clone())]).unwrap();
        Credentials::store_in(dir.path(), "third", vec![(Role::Create, new.clone())]).unwrap();
        let credentials = Credentials::load_from(dir.path()).unwrap();
        let get = |profile, role| {
            credentials.capability(profile, role).unwrap().map(|uri| uri.to_secret_string().to_string())
        };
        assert_eq!(get("default", Role::Create).as_deref(), Some(create.expose()));
        assert_eq!(get("default", Role::DeleteSelf).as_deref(), Some(new.expose()));
        assert_eq!(get("default", Role::Query), None);
        assert_eq!(get("late", Role::Query).as_deref(), Some(query.expose()));
        assert_eq!(get("third", Role::Create).as_deref(), Some(new.expose()));
        assert_eq!(get("none", Role::Create), None);
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written.contains("createEmail: kept-x") && written.contains("region: amzn-us-east-1"),
            "{written}"
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing but the file and its lock");
    }

    #[test]
    fn the_folder_and_the_file_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(".capability");
        Credentials::store_in(&folder, "default", vec![(Role::Create, uri(1))]).unwrap();
        for (path, mode) in [
            (folder.clone(), 0o700),
            (folder.join("credentials"), 0o600),
            (folder.join("credentials.lock"), 0o600),
        ] {
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                mode,
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn what_an_interrupted_run_left_behind_is_not_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("credentials.new");
        std::fs::write(&left, "").unwrap();
        std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o666)).unwrap();
        Credentials::store_in(dir.path(), "default", vec![(Role::Create, uri(1))]).unwrap();
        let mode = std::fs::metadata(dir.path().join("credentials")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!left.exists());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "profile: default\n", 0o640);
        let error = Credentials::load_from(dir.path()).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn errors_name_the_line_and_quote_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "profile: a\nmembrane: canary-6\n",
            "profile: a\nmembrane:\n  create: [canary-6\n",
            "membrane: {}\nx: canary-6\n",
        ] {
            write(dir.path(), text, 0o600);
            let error = Credentials::load_from(dir.path()).err().unwrap().to_string();
            assert!(error.contains("malformed at") && !error.contains("canary"), "{error}");
        }
        write(dir.path(), "profile: a\nmembrane:\n  create: canary-6\n", 0o600);
        let error = Credentials::load_from(dir.path())
            .unwrap()
            .capability("a", Role::Create)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("profile \"a\", create") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "profile: default\n").unwrap();
        std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("credentials")).unwrap();
        Credentials::store_in(dir.path(), "default", vec![(Role::Create, uri(1))]).unwrap();
        assert!(std::fs::symlink_metadata(dir.path().join("credentials")).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&elsewhere).unwrap().contains("create"));
    }
}
