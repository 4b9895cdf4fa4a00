//! What docs/architecture.md promises about the code.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom, among the crates of this workspace. Nobody knows the filter.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("capability", &[]),
    ("signing", &[]),
    ("filter", &["capability", "signing"]),
    ("registry", &["capability", "signing"]),
    ("capi", &["capability", "signing"]),
    ("tests", &["capability", "signing", "filter", "registry", "capi"]),
];

const LONGEST_FILE: usize = 800;

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(harness::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_form_one_direction() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into();
    assert_eq!(
        ours.iter().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>()
    );
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let may = !ours.contains(to) || allowed[name(package).as_str()].contains(&to);
            assert!(may, "{} must not depend on {to}", name(package));
        }
    }
}

#[test]
fn capability_and_signing_do_no_io() {
    for krate in ["capability", "signing"] {
        for (file, text) in sources(&format!("src/{krate}")) {
            if file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches") {
                continue;
            }
            for banned in [
                "std::fs",
                "std::net::Tcp",
                "std::net::Udp",
                "ToSocketAddrs",
                "std::process",
                "std::env",
                "std::thread",
                "SystemTime::now",
                "Instant::now",
            ] {
                assert!(!text.contains(banned), "{} names {banned}", file.display());
            }
        }
    }
}

/// So that everything else of the filter builds and is tested natively.
#[test]
fn one_adapter_speaks_to_the_proxy() {
    for (file, text) in sources("src/filter") {
        let path = file.to_string_lossy();
        let adapter = path.contains("host") || path.contains("abi") || path.contains("/tests/");
        if adapter {
            continue;
        }
        for banned in ["fn proxy_", "extern \"C\"", "proxy_wasm::", "wasm_import_module", "SystemTime::now"] {
            assert!(!text.contains(banned), "{path} names {banned}");
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    for (file, text) in sources("src").into_iter().chain(sources("tests")) {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines, more than {LONGEST_FILE}", file.display());
    }
}

/// Nothing in the repository may name a folder of the machine on which it was written.
#[test]
fn no_file_names_a_machine() {
    let root = harness::repository();
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output();
    // From an archive without git there is no list, and nothing that was not meant to be shipped.
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return };
    // Composed, or this file would be found.
    let banned = [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/Use", "rs/"], ["/opt/", "wheels"]]
        .map(|parts| parts.concat());
    for name in output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let file = root.join(String::from_utf8_lossy(name).as_ref());
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for path in &banned {
            let found = text.lines().position(|line| line.contains(path.as_str()));
            assert!(found.is_none(), "{}:{} names {path}", file.display(), found.unwrap_or_default() + 1);
        }
    }
}

/// All Rust sources below a folder of the repository.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(&harness::repository().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}
