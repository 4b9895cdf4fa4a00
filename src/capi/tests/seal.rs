//! `capi kek` and `capi seal`, as a user runs them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use capability::configured::{self, ConfiguredRecord};
use capability::record::Keks;
use capability::{CapabilityUri, Token};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn capi(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_capi"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("MEMBRANE_KEK")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What is refused for its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_grant_is_sealed_for_its_capability_and_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let made = capi(dir.path(), &["kek", "--out", "kek"], "");
    assert!(made.status.success() && made.stdout.is_empty(), "{}", text(&made.stderr));
    let path = dir.path().join("kek");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = capi(dir.path(), &["kek", "--out", "kek"], "");
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("cannot write kek"), "never over a key that is there");

    let grant =
        json!({"uri": "https://canary.example/", "headers": {"x-api-key": "canary-secret"}}).to_string();
    std::fs::write(dir.path().join("grant.json"), &grant).unwrap();
    let seal = ["seal", "--authority", "localhost:8443", "--kek-file", "kek"];
    for (more, input) in [(&[][..], grant.as_str()), (&["--grant", "grant.json"], "")] {
        let sealed = capi(dir.path(), &[&seal[..], more].concat(), input);
        assert!(sealed.status.success(), "{}", text(&sealed.stderr));
        let sealed: Value = serde_json::from_slice(&sealed.stdout).unwrap();
        let uri = CapabilityUri::parse(sealed["capability"].as_str().unwrap()).unwrap();
        assert_eq!(uri.authority().as_str(), "localhost:8443");
        assert!(!sealed["record"].to_string().contains("canary"));
        let record: ConfiguredRecord = serde_json::from_value(sealed["record"].clone()).unwrap();
        let keks = Keks::parse(&std::fs::read(&path).unwrap()).unwrap();
        let inner = record.unwrap(&keks).unwrap();
        let grant = configured::open(uri.token(), &inner, None).unwrap();
        assert_eq!(grant.headers[0].value.expose(), b"canary-secret");
        assert!(configured::open(&Token::mint([1; 64]), &inner, None).is_none());
    }
}

#[test]
fn what_cannot_be_sealed_says_why_and_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    capi(dir.path(), &["kek", "--out", "kek"], "");
    std::fs::write(dir.path().join("bad"), "canary-key\n").unwrap();
    let grant = r#"{"uri": "https://a.example/"}"#;
    for (arguments, input, status, message) in [
        (&["seal", "--authority", "a"][..], grant, 2, "capi kek"),
        (&["seal", "--authority", "a", "--kek-file", "bad"], grant, 2, "32 bytes in base64url"),
        (&["seal", "--authority", "a", "--kek-file", "none"], grant, 1, "cannot read none"),
        (&["seal", "--authority", "a b", "--kek-file", "kek"], grant, 2, "--authority"),
        (
            &["seal", "--authority", "a", "--kek-file", "kek"],
            r#"{"uri": "canary"}"#,
            1,
            "--grant: uri: must be",
        ),
        (
            &["seal", "--authority", "a", "--kek-file", "kek"],
            r#"{"capability": "cpblty://a/#x"}"#,
            1,
            "--grant: ",
        ),
        (&["seal", "--authority", "a", "--kek-file", "kek"], "canary", 1, "the body must be JSON"),
    ] {
        let output = capi(dir.path(), arguments, input);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(message), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty() && !said.contains("canary"), "{said}");
    }
}
