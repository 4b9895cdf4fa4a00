//! Starts, drives and observes the local gateway: Envoy with the filter, the registry, and a local AWS that verifies
//! signatures and policies. `make run`, `make demo` and the end-to-end tests all come through here.
//!
//! Everything that is started ends with the process that started it, and nothing else is ever ended.

// Test code: a failed expectation should stop the run where it is found. Time is read because processes are waited for.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

pub mod aws;
pub mod bearer_proxy;
pub mod canary;
pub mod clients;
pub mod demo;
pub mod envoy;
pub mod failure;
pub mod fleet;
pub mod gateway;
pub mod http;
pub mod judging;
pub mod layout;
pub mod load;
pub mod memory;
pub mod names;
pub mod origin;
mod origin_http2;
pub mod ports;
pub mod prepare;
pub mod process;
pub mod registry;
pub mod replicas;
pub mod s3;
pub mod slow_proxy;
pub mod tls_front;
pub mod uploads;
pub mod upstream;
pub mod verifier;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use failure::{Failure, Outcome};

/// The repository's root.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the package tests lies in the repository").to_path_buf()
}

/// A file that `make build` or `make tools` makes; names the command if it is not there.
fn built(path: PathBuf, made_by: &str) -> Outcome<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        Err(Failure::new(format!("{} is missing: run `{made_by}` first", path.display())))
    }
}

/// A program of ours: the one beside this program, as in the image, else `target/release/<name>`, or wherever
/// `CARGO_TARGET_DIR` puts it.
pub fn program(name: &str) -> Outcome<PathBuf> {
    // Another version's, for tests of what two versions are to each other (tests/compat/compat.sh).
    if name == "membrane-registry"
        && let Some(other) = std::env::var_os("MEMBRANE_REGISTRY")
    {
        return Ok(other.into());
    }
    let own = std::env::current_exe()?;
    if let Some(beside) = own.parent().map(|folder| folder.join(name)).filter(|path| path.is_file()) {
        return Ok(beside);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    built(repository().join(target).join("release").join(name), "make build")
}

/// `.tools/venv/bin/<name>`.
pub fn tool(name: &str) -> Outcome<PathBuf> {
    built(repository().join(".tools/venv/bin").join(name), "make tools")
}

/// `node` with the clients from npm at hand, on a script of `tests/clients`, free of what whoever runs this has set.
pub fn node(script: &str) -> Outcome<Command> {
    let mut command = Command::new("node");
    for name in ["NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "NODE_DEBUG"] {
        command.env_remove(name);
    }
    command.env("NODE_PATH", built(repository().join(".tools/node/node_modules"), "make tools")?);
    command.arg(repository().join("tests/clients").join(script));
    Ok(command)
}

/// `dist/membrane-diagnose.wasm`.
pub fn diagnosing_module() -> Outcome<PathBuf> {
    built(repository().join("dist/membrane-diagnose.wasm"), "make diagnose")
}

/// `dist/membrane.wasm`, or another version's (`MEMBRANE_MODULE`).
pub fn module() -> Outcome<PathBuf> {
    if let Some(other) = std::env::var_os("MEMBRANE_MODULE") {
        return Ok(other.into());
    }
    built(repository().join("dist/membrane.wasm"), "make build")
}
