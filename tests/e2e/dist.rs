//! What `make dist` makes.

use crate::folder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn made(name: &str, more: &[&str]) -> PathBuf {
    let out = folder(name);
    let output = Command::new(harness::tool("python").unwrap())
        .arg(harness::repository().join("tests/tools/dist.py"))
        .arg("--module")
        .arg(harness::module().unwrap())
        .arg("--out")
        .arg(&out)
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// What a descriptor of an OCI image points to, held against its digest and its size.
fn blob(image: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let bytes = std::fs::read(image.join("blobs/sha256").join(digest)).unwrap();
    assert_eq!((sha256(&bytes).as_str(), Some(bytes.len() as u64)), (digest, descriptor["size"].as_u64()));
    bytes
}

/// The names and bytes of a tar archive's files, by another reader than the one that wrote it.
fn unpacked(layer: &[u8], dir: &Path) -> Vec<(String, Vec<u8>)> {
    let (archive, to) = (dir.join("layer.tar.gz"), dir.join("unpacked"));
    std::fs::create_dir_all(&to).unwrap();
    std::fs::write(&archive, layer).unwrap();
    assert!(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&to).status().unwrap().success());
    let files = std::fs::read_dir(to).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn the_image_is_one_layer_with_the_module_and_every_digest_holds() {
    let out = made("dist", &[]);
    let module = std::fs::read(harness::module().unwrap()).unwrap();
    let image = out.join("oci");
    assert_eq!(json(&image.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&image.join("index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let manifest: Value = serde_json::from_slice(&blob(&image, &index["manifests"][0])).unwrap();
    assert_eq!(manifest["annotations"]["module.wasm.image/variant"], "compat");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let layer = blob(&image, &layers[0]);
    assert_eq!(unpacked(&layer, &out), [("plugin.wasm".to_owned(), module.clone())]);
    let config: Value = serde_json::from_slice(&blob(&image, &manifest["config"])).unwrap();
    let plain = Command::new("gzip").args(["-dc"]).arg(out.join("layer.tar.gz")).output().unwrap().stdout;
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([format!("sha256:{}", sha256(&plain))]));
    // Nothing else lies among the blobs.
    assert_eq!(std::fs::read_dir(image.join("blobs/sha256")).unwrap().count(), 3);

    assert_eq!(std::fs::read(out.join("membrane.wasm")).unwrap(), module);
    let sum = std::fs::read_to_string(out.join("membrane.wasm.sha256")).unwrap();
    assert_eq!(sum, format!("{}  membrane.wasm\n", sha256(&module)));
    // The same again is the same to the byte, digests of images included.
    let again = made("dist-again", &[]);
    let sums = |out: &Path| std::fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&out), sums(&again));
    for line in sums(&out).lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(sha256(&std::fs::read(out.join(name)).unwrap()), sum, "{name}");
    }
}

#[test]
fn the_notes_are_those_of_the_version() {
    let notes = std::fs::read_to_string(made("dist-notes", &[]).join("release-notes.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(notes.starts_with(&format!("# Membrane for Envoy {version}\n")));
    assert!(notes.contains("### Added\n") && !notes.contains("Unreleased") && !notes.contains("## ["));
    // A module that is built says the same version.
    let changelog = std::fs::read_to_string(harness::repository().join("docs/CHANGELOG.md")).unwrap();
    assert!(changelog.contains(&format!("\n## [{version}]")));
}

#[test]
fn the_boms_name_every_crate_that_is_built_in() {
    let out = made("dist-sbom", &["--sbom"]);
    for (file, krate, target) in [
        ("membrane.wasm.cdx.json", "filter", Some("wasm32-wasip1")),
        ("membrane-registry.cdx.json", "registry", None),
        ("capi.cdx.json", "capi", None),
    ] {
        let sbom = json(&out.join(file));
        assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        let named: BTreeSet<(String, String)> = sbom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| {
                let text = |name: &str| component[name].as_str().unwrap().to_owned();
                (text("name"), text("version"))
            })
            .collect();
        // What Cargo says that it builds in, build scripts and macros left out.
        let mut tree = Command::new(env!("CARGO"));
        tree.current_dir(harness::repository()).args(["tree", "--locked", "--offline", "-p", krate]);
        tree.args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]);
        if let Some(target) = target {
            tree.args(["--target", target]);
        }
        let output = tree.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let built = String::from_utf8(output.stdout).unwrap();
        let mut count = 0;
        for line in built.lines() {
            let mut words = line.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            // Itself it names elsewhere.
            if name != krate {
                assert!(
                    named.contains(&(name.to_owned(), version.to_owned())),
                    "{file} does not name {line}"
                );
                count += 1;
            }
        }
        assert!(count > 20, "{krate}: {count} crates");
        let text = std::fs::read_to_string(out.join(file)).unwrap();
        assert!(
            !text.contains(&harness::repository().display().to_string()),
            "{file} names a folder of this machine"
        );
    }
    // It leaves nothing beside the sources.
    let left = Command::new("git")
        .args(["status", "--porcelain", "--", "src"])
        .current_dir(harness::repository())
        .output();
    assert!(!String::from_utf8(left.unwrap().stdout).unwrap().contains("sbom-"));
}
