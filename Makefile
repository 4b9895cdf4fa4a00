# Membrane for Envoy. `make help` lists what can be done.

SHELL := /bin/sh
.DEFAULT_GOAL := help
# What was half made by a command that failed is not there the next time.
.DELETE_ON_ERROR:

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
WASM_TARGET := wasm32-wasip1
WASM := $(TARGET_DIR)/$(WASM_TARGET)/wasm/membrane_filter.wasm
# SHA-256 is a seventh faster with vectors, and Envoy's V8 has them. No path of this machine gets into the module, so that it is
# the same wherever it is built (`make reproducible`).
REMAP = --remap-path-prefix=$(CURDIR)= --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo
WASM_FLAGS = -C target-feature=+simd128 $(REMAP)
# The features of Rust's target, and vectors; the section that names them is stripped.
WASM_FEATURES := --enable-bulk-memory --enable-bulk-memory-opt --enable-sign-ext --enable-mutable-globals \
    --enable-nontrapping-float-to-int --enable-reference-types --enable-multivalue --enable-simd
WASM_OPT := node .tools/binaryen/node_modules/binaryen/bin/wasm-opt $(WASM_FEATURES) -Oz

# Where the gateway of `make run` listens, and where it keeps its files.
export MEMBRANE_PORT MEMBRANE_RUN

say = @printf '\033[1m==>\033[0m %s\n'

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  MEMBRANE_PORT=8543 MEMBRANE_RUN=run-8543 make run    a second gateway beside the first"

.PHONY: demo
demo: build ## Build everything and walk through it: export a Lambda function, invoke, delegate, revoke
	@$(TARGET_DIR)/release/local-gateway demo

.PHONY: run
run: build ## The local gateway in the foreground, until Ctrl-C
	@exec $(TARGET_DIR)/release/local-gateway run

.PHONY: tools
tools: ## Fetch the pinned tools (Envoy, moto, clients from npm) into .tools/
	@tests/tools/install.sh

.PHONY: build
build: wasm binaries ## dist/membrane.wasm with its sha256, and the programs in target/release/

.PHONY: wasm
wasm: tools
	$(say) "building the filter"
	@CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$(WASM_FLAGS)" cargo build --locked --profile wasm -p filter --target $(WASM_TARGET)
	@mkdir -p dist
	@$(WASM_OPT) $(WASM) -o dist/.membrane.wasm
	@# Put in place whole: an Envoy that is just starting must not read half a file.
	@if cmp -s dist/.membrane.wasm dist/membrane.wasm; then rm dist/.membrane.wasm; else mv dist/.membrane.wasm dist/membrane.wasm; fi
	@cd dist && { sha256sum membrane.wasm 2>/dev/null || shasum -a 256 membrane.wasm; } > membrane.wasm.sha256

# After the other one: both are made in the same place.
.PHONY: diagnose
diagnose: wasm ## dist/membrane-diagnose.wasm: the filter, which also logs why AWS refused a signature (docs/observability.md)
	$(say) "building the filter that diagnoses"
	@CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$(WASM_FLAGS)" cargo build --locked --profile wasm -p filter --target $(WASM_TARGET) --features diagnose
	@$(WASM_OPT) $(WASM) -o dist/.membrane-diagnose.wasm
	@mv dist/.membrane-diagnose.wasm dist/membrane-diagnose.wasm

.PHONY: dist
dist: build ## dist/release: the module, its sha256, SBOMs, an OCI image layout, release notes from docs/CHANGELOG.md
	@tests/tools/install.sh sbom
	@rm -rf dist/release
	@.tools/venv/bin/python tests/tools/dist.py --module dist/membrane.wasm --out dist/release --sbom
	$(say) "dist/release"

# In folders of their own, one of them a copy of the sources at another path, as on another machine.
.PHONY: reproducible
reproducible: wasm ## Build the filter again in another folder, and compare it to the byte
	@rm -rf $(TARGET_DIR)/reproducible && mkdir -p $(TARGET_DIR)/reproducible/elsewhere
	@cp -r Makefile Cargo.toml Cargo.lock clippy.toml rust-toolchain.toml src $(TARGET_DIR)/reproducible/elsewhere/
	@mkdir -p $(TARGET_DIR)/reproducible/elsewhere/tests
	@cp -r tests/Cargo.toml tests/tools tests/harness tests/e2e tests/model tests/bench $(TARGET_DIR)/reproducible/elsewhere/tests/
	@ln -s "$(CURDIR)/.tools" $(TARGET_DIR)/reproducible/elsewhere/.tools
	@cd $(TARGET_DIR)/reproducible/elsewhere && CARGO_TARGET_DIR="$$PWD/target" $(MAKE) --no-print-directory wasm
	@cmp dist/membrane.wasm $(TARGET_DIR)/reproducible/elsewhere/dist/membrane.wasm
	@rm -rf $(TARGET_DIR)/reproducible
	$(say) "the same to the byte: $$(cat dist/membrane.wasm.sha256)"

.PHONY: binaries
binaries: tools
	$(say) "building membrane-registry, capi and the local gateway"
	@cargo build --locked --release -p registry -p capi -p tests --bins

.PHONY: test
test: build diagnose ## Every test, the end-to-end ones through a real Envoy included
	@tests/tools/install.sh s3
	@tests/tools/install.sh postgres
	@tests/tools/install.sh mesh
	@tests/tools/install.sh sbom
	$(say) "testing"
	@cargo test --locked --workspace

# Random cases for each part of `make fuzz-long`.
FUZZ_CASES ?= 100000
FEED_EVENTS ?= 1000000
POWER_CUTS ?= 200
IMMEDIATE_STOPS ?= 50

# A line for each part; each says how far it is, and ends at the first failure.
.PHONY: fuzz-long
fuzz-long: build ## Long random tests, an hour: 100,000 cases (FUZZ_CASES=…), a million revocations, 36 faults, 200 power cuts
	$(say) "signatures against botocore and aws-sigv4: $(FUZZ_CASES) random requests each"
	@MEMBRANE_FUZZ_CASES=$(FUZZ_CASES) cargo test --locked -p signing --test differential
	$(say) "the feed: $(FEED_EVENTS) revocations by 16 writers, told to 64 watchers that come and go"
	@MEMBRANE_FEED_EVENTS=$(FEED_EVENTS) cargo test --locked --release -p tests --test model events:: -- --nocapture
	$(say) "the model of revocation: $$(($(FUZZ_CASES) / 250)) worlds"
	@MEMBRANE_FUZZ_CASES=$(FUZZ_CASES) cargo test --locked --release -p tests --test model -- what_is_revoked --nocapture
	$(say) "revocations while parts fail: two Envoys under load, 36 faults"
	@MEMBRANE_REVOCATION=full cargo test --locked --release -p tests --test e2e revocation::faults -- --nocapture
	@tests/tools/install.sh postgres
	$(say) "the registry: $(POWER_CUTS) power cuts under load, and $(IMMEDIATE_STOPS) immediate stops of PostgreSQL"
	@MEMBRANE_CUT_CYCLES=$(POWER_CUTS) MEMBRANE_STOP_CYCLES=$(IMMEDIATE_STOPS) cargo test --locked -p registry --test power
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

# A revision; the last release if it is not said.
BASE ?=
.PHONY: compat
compat: build ## The last release's module with this registry, and the reverse (BASE=REVISION: another one's)
	@tests/compat/compat.sh $(BASE)

# Filters of cargo test; with any, README.md keeps its table.
MATRIX ?=
.PHONY: matrix
matrix: build diagnose ## The end-to-end tests with every Envoy from 1.36 to 1.40, into the README's table, an hour (MATRIX=walk::)
	@tests/tools/install.sh s3
	@tests/tools/install.sh postgres
	@tests/tools/install.sh mesh
	@tests/tools/install.sh sbom
	@tests/tools/install.sh envoys
	@.tools/venv/bin/python tests/tools/matrix.py $(MATRIX)

.PHONY: schema
schema: ## docs/config.schema.json anew, from the types of the filter's configuration
	@MEMBRANE_WRITE_SCHEMA=1 cargo test --locked -p tests --test e2e schema::the_file_is_what_the_types_say

.PHONY: bench-signing
bench-signing: ## How fast a signature is, beside the crate aws-sigv4, and that it allocates nothing
	@cargo bench --locked -p signing --bench sign

.PHONY: bench-revocation
bench-revocation: build ## How soon 1,000 revocations are everywhere, under load and while parts fail: docs/performance.md
	@MEMBRANE_REVOCATION=full MEMBRANE_REVOCATION_REPORT=docs/performance.md \
	    cargo test --locked --release -p tests --test e2e revocation:: -- --nocapture --test-threads=1

.PHONY: bench-watchers
bench-watchers: build ## How soon 10,000 watchers of one registry hear of a revocation, and what each costs: docs/performance.md
	@MEMBRANE_WATCHERS=full MEMBRANE_WATCHERS_REPORT=docs/performance.md \
	    cargo test --locked -p tests --test e2e watchers:: -- --nocapture

# `quick`, or flags of tests/bench/main.rs.
BENCH ?=
.PHONY: bench
bench: build ## This filter beside Envoy's own signer, into docs/performance.md, some nine minutes (BENCH=quick: one or two)
	@cargo bench --locked -p tests --bench gateway -- $(patsubst quick,--quick,$(BENCH))

.PHONY: bench-registry
bench-registry: ## The registry with 1,000,000 capabilities: lookups, exports, revoking, start-up, memory
	@cargo bench --locked -p registry --bench registry

.PHONY: lint
lint: tools
	$(say) "checking the format"
	@cargo fmt --all --check
	@cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	@cargo fetch --quiet --locked --manifest-path tests/fuzz/Cargo.toml
	$(say) "clippy, the workspace"
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	$(say) "clippy, the filter as Envoy loads it"
	@cargo clippy --locked -p filter --target $(WASM_TARGET) -- -D warnings

.PHONY: deny
deny:
	@tests/tools/install.sh deny
	$(say) "licences, bans and sources of dependencies"
	@.tools/bin/cargo-deny --workspace --locked check licenses bans sources
	$(say) "advisories"
	@if .tools/bin/cargo-deny --workspace fetch db >/dev/null 2>&1; then \
	    .tools/bin/cargo-deny --workspace --locked check --disable-fetch advisories; \
	else echo "SKIPPED: the advisory database (github.com/rustsec/advisory-db) cannot be reached from here"; fi

# How long each target runs.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## Every fuzz target, for FUZZ_SECONDS=60 each
	@tests/tools/install.sh fuzz
	@for target in $(notdir $(basename $(wildcard tests/fuzz/fuzz_targets/*.rs))); do \
	    printf '\033[1m==>\033[0m fuzzing %s for %s s\n' "$$target" "$(FUZZ_SECONDS)"; \
	    mkdir -p tests/fuzz/target/corpus/$$target; \
	    RUSTUP_TOOLCHAIN=nightly .tools/bin/cargo-fuzz run --fuzz-dir tests/fuzz $$target \
	        tests/fuzz/target/corpus/$$target tests/fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

.PHONY: soak
soak: build ## Ten minutes of abuse beside good traffic: memory, latency, a trap, and that nothing unsigned leaves
	@MEMBRANE_SOAK=full cargo test --locked --release -p tests --test e2e hostile::soak -- --nocapture --test-threads=1

.PHONY: check
check: lint deny test ## All that CI asks for: format, clippy, licences, tests

.PHONY: clean
clean: ## Remove what was built (not .tools/, not run/)
	@cargo clean
	@rm -rf dist

# `2/8`: the second of eight parts, for several machines. What was caught before is not tried again: so it goes on where it stopped.
SHARD ?=
MUTANTS = .tools/bin/cargo-mutants mutants --config tests/mutants.toml --iterate --no-shuffle $(if $(SHARD),--shard $(SHARD))
.PHONY: mutants
mutants: ## Change the deciding code in some 800 ways, and see the tests fail: hours; goes on where it stopped (SHARD=2/8)
	@tests/tools/install.sh mutants
	$(say) "what decides in the filter"
	@mkdir -p $(TARGET_DIR)/mutants/filter $(TARGET_DIR)/mutants/capability
	@$(MUTANTS) -p filter -o $(TARGET_DIR)/mutants/filter -- --lib --test worker || status=$$?; \
	    printf '\033[1m==>\033[0m %s\n' "what a capability is"; \
	    $(MUTANTS) -p capability --features escrow -o $(TARGET_DIR)/mutants/capability || status=$$?; \
	    for part in filter capability; do \
	        for outcome in caught timeout unviable missed; do \
	            printf '%s %s: %s\n' "$$part" "$$outcome" "$$(wc -l < $(TARGET_DIR)/mutants/$$part/mutants.out/$$outcome.txt)"; \
	        done; done; \
	    exit $${status:-0}
