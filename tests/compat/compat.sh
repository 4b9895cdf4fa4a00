#!/bin/sh
# The promise that a module works with registries one minor version older or newer, held against an earlier version: its module with the
# registry of these sources, and the reverse.
#   compat.sh            with the last release, the newest tag v* before HEAD
#   compat.sh REVISION   with any revision
# What is built of the other version lies in target/compat, and is built once.
set -eu
cd "$(dirname "$0")/../.."

base=${1:-}
if [ -z "$base" ]; then
    base=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || true)
    if [ -z "$base" ]; then
        echo "There is no release before this one yet. Another revision to try it with: make compat BASE=<revision>" >&2
        exit 0
    fi
fi
commit=$(git rev-parse --verify "$base^{commit}")
root=$(pwd)
place=target/compat/$commit
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

if ! [ -e "$place/built" ]; then
    say "building module and registry of $base ($commit)"
    rm -rf "$place"
    mkdir -p "$place/source"
    git archive "$commit" | tar -x -C "$place/source"
    # The optimiser of these sources and no other tool: what that version pins must not replace what this one has installed.
    mkdir "$place/source/.tools"
    ln -s "$root/.tools/binaryen" "$place/source/.tools/binaryen"
    # By its own Makefile, so that its module is what was released.
    (
        cd "$place/source"
        export CARGO_TARGET_DIR="$root/target/compat/target"
        make --old-file=tools wasm >&2
        cargo build --locked --release -p registry >&2
        cp "$CARGO_TARGET_DIR/release/membrane-registry" dist/membrane.wasm "$root/$place/"
    )
    rm -rf "$place/source"
    : > "$place/built"
fi

# What a version must do with another: be exported to, invoked, handed on, revoked everywhere, and outlive its registry.
check() {
    cargo test --locked -p tests --test e2e -- walk:: delegation:: revocation:: outage:: restart:: bodies:: streaming::
}
say "the module of $base with this registry"
MEMBRANE_MODULE="$root/$place/membrane.wasm" check
say "this module with the registry of $base"
MEMBRANE_REGISTRY="$root/$place/membrane-registry" check
say "compatible with $base, both ways"
