//! Vectors that are kept. When a random case fails, proptest shrinks it and what is left is written to
//! `tests/vectors/sigv4/differential/<oracle>/`, as JSON that does not depend on how cases are drawn. Every later run, however
//! short, tries all of them before it draws the first random one. They are committed with the repair.

use std::path::{Path, PathBuf};

use proptest::test_runner::TestCaseError;
use sha2::{Digest, Sha256};

use crate::case::Case;

pub(crate) fn folder(oracle: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/sigv4/differential").join(oracle)
}

/// Writes a case that failed; gives the file.
pub(crate) fn keep(folder: &Path, case: &Case) -> PathBuf {
    let text = serde_json::to_string_pretty(case).unwrap() + "\n";
    let name = hex::encode(&Sha256::digest(&text)[..8]);
    let file = folder.join(format!("{name}.json"));
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(&file, text).unwrap();
    file
}

/// Tries every vector; gives how many there are, or the first that fails and why.
pub(crate) fn replay(
    folder: &Path,
    mut check: impl FnMut(&Case) -> Result<(), TestCaseError>,
) -> Result<usize, String> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        let case: Case = serde_json::from_slice(&std::fs::read(file).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        check(&case).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    Ok(files.len())
}
