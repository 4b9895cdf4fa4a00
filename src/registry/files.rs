//! Files whose content or permissions matter.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file with a secret in it that others than its owner may read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its permissions are too wide.
    #[error("{path} can be read by others than its owner: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

/// Makes an empty file, readable and writable by its owner alone, unless it is there.
pub fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Reads a file with a secret in it; refused if group or others may read or write it.
pub fn read_private(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, PrivateFileError> {
    let io = |source| PrivateFileError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned() });
    }
    fs::read(path).map(zeroize::Zeroizing::new).map_err(io)
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone.
    Owner,
    /// Everybody.
    All,
}

/// Writes a whole file or nothing: beside it first, synced, then put in its place. An existing file stays as it is unless
/// `replace`; returns whether the file was written.
pub fn write_whole(path: &Path, content: &[u8], readers: Readers, replace: bool) -> io::Result<bool> {
    if !replace && path.try_exists()? {
        return Ok(false);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    let placed = if replace {
        file.persist(path).map(|_| true).map_err(|error| error.error)?
    } else {
        match file.persist_noclobber(path) {
            Ok(_) => true,
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error.error),
        }
    };
    File::open(folder)?.sync_all()?;
    Ok(placed)
}

/// What unfinished files of [`write_whole`] begin with.
const TEMPORARY: &str = ".membrane-unfinished-";

/// Removes what a run that was killed left behind in `folder`.
pub fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        assert!(write_whole(&path, b"one", Readers::Owner, false).unwrap());
        assert!(!write_whole(&path, b"two", Readers::Owner, false).unwrap());
        assert_eq!(read_private(&path).unwrap().as_slice(), b"one");
        for mode in [0o640, 0o604, 0o620, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = read_private(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
        }
        fs::write(folder.path().join(".membrane-unfinished-x"), b"half").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
