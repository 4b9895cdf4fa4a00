//! Where things lie in a run folder (docs/wire.md names the files). Each part has a folder of its own with what it needs, and with no key
//! of another's, so that a container can be given that and nothing else. What a person needs lies at the top.

use std::path::{Path, PathBuf};

/// What `membrane-registry init` made: the CA's key, and all certificates with their keys. No part has this folder.
pub fn operator(dir: &Path) -> PathBuf {
    dir.join("operator")
}

/// The registry's folder: its keys, its own certificate, its store or the way to it, its revocation log.
pub fn registry(dir: &Path) -> PathBuf {
    dir.join("registry")
}

/// The second registry's, where the store is PostgreSQL.
pub fn second_registry(dir: &Path) -> PathBuf {
    dir.join("registry-2")
}

/// Envoy's: its configuration, the filter where that is copied, its two certificates.
pub fn gateway(dir: &Path) -> PathBuf {
    dir.join("gateway")
}

/// Envoy's configuration.
pub fn envoy(dir: &Path) -> PathBuf {
    gateway(dir).join("envoy.yaml")
}

/// The local AWS's: what its access key is made from, and that key.
pub fn aws(dir: &Path) -> PathBuf {
    dir.join("aws")
}

/// The password of PostgreSQL, in its folder.
pub fn postgres_password(dir: &Path) -> PathBuf {
    dir.join("postgres/password")
}

pub fn logs(dir: &Path) -> PathBuf {
    dir.join("logs")
}
