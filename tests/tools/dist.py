"""Makes the files of a release.

Usage: dist.py --module FILE --out FOLDER [--sbom]

    FOLDER/membrane.wasm, membrane.wasm.sha256
    FOLDER/oci/                 an OCI image layout (v1): one layer that holds plugin.wasm alone, the form that Istio and Envoy Gateway take
    FOLDER/release-notes.md     the version's section of docs/CHANGELOG.md
    FOLDER/*.cdx.json           with --sbom: what module, registry and capi are made of (CycloneDX), by cargo-cyclonedx
    FOLDER/SHA256SUMS           of all files

The same sources give the same bytes: no time and no name of a machine gets into any of them.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# OCI Image Format Specification v1.1, and "Wasm Image Specification v0.0.0", variant compat, which is for hosts that take any image.
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
VARIANT = {"module.wasm.image/variant": "compat"}
# What has an SBOM: the crate, and the target that it is built for, where that is another than the machine's.
SBOMS = {"membrane.wasm": ("filter", "wasm32-wasip1"), "membrane-registry": ("registry", None), "capi": ("capi", None)}


def version():
    text = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "([^"]+)"', text, re.MULTILINE)[1]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def layer(module):
    """The layer, and the digest of what it holds uncompressed."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("plugin.wasm")
        entry.size, entry.mode = len(module), 0o444
        archive.addfile(entry, io.BytesIO(module))
    return gzip.compress(plain.getvalue(), mtime=0), sha256(plain.getvalue())


def write_image(module, folder):
    shutil.rmtree(folder, ignore_errors=True)
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(kind, data):
        if not isinstance(data, bytes):
            data = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        (blobs / sha256(data)).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{sha256(data)}", "size": len(data)}

    compressed, plain = layer(module)
    config = {"architecture": "wasm", "os": "wasip1", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]}}
    annotations = {
        "org.opencontainers.image.title": "Membrane for Envoy",
        "org.opencontainers.image.version": version(),
        "org.opencontainers.image.licenses": "Apache-2.0",
        **VARIANT,
    }
    manifest = blob(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob(CONFIG, config),
            "layers": [blob(LAYER, compressed)],
            "annotations": annotations,
        },
    )
    named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": version()}}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}
    (folder / "index.json").write_text(json.dumps(index, sort_keys=True) + "\n")
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}\n')


def release_notes():
    text = (ROOT / "docs/CHANGELOG.md").read_text()
    # Up to the next version's heading, or the end.
    found = re.search(rf"^## \[{re.escape(version())}\][^\n]*\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    if not found or not found[1].strip():
        raise SystemExit(f"docs/CHANGELOG.md says nothing of {version()}: give it a section ## [{version()}]")
    return f"# Membrane for Envoy {version()}\n\n{found[1].strip()}\n"


def write_sboms(folder):
    # By the commit and not by the clock, and without a random number, which this variable brings about.
    said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": said.stdout.strip() or "0"}
    for name, (crate, target) in SBOMS.items():
        made = f"sbom-{crate}"
        command = [ROOT / ".tools/bin/cargo-cyclonedx", "cyclonedx", "--format", "json", "--spec-version", "1.5"]
        command += ["--manifest-path", ROOT / "src" / crate / "Cargo.toml", "--override-filename", made, "--quiet"]
        command += ["--target", target] if target else []
        try:
            subprocess.run(command, check=True, env=environment, cwd=ROOT)
            sbom = json.loads((ROOT / "src" / crate / f"{made}.json").read_text())
        finally:
            # It writes beside every manifest of the workspace.
            for other in [*ROOT.glob(f"src/*/{made}.json"), *ROOT.glob(f"tests/{made}.json")]:
                other.unlink()
        text = json.dumps(sbom, indent=1, sort_keys=True)
        # Crates of ours are named by the folder that they lie in here.
        text = text.replace(f"file://{ROOT}", "file://.").replace(str(ROOT), ".")
        (folder / f"{name}.cdx.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--sbom", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    module = arguments.module.read_bytes()
    (out / "membrane.wasm").write_bytes(module)
    (out / "membrane.wasm.sha256").write_text(f"{sha256(module)}  membrane.wasm\n")
    write_image(module, out / "oci")
    (out / "release-notes.md").write_text(release_notes())
    if arguments.sbom:
        write_sboms(out)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{sha256(path.read_bytes())}  {path.relative_to(out).as_posix()}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums))


main()
