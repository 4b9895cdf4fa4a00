//! The registry: `membrane-registry`, with its files in the run folder.

use crate::failure::{Failure, Outcome, While};
use crate::http::Client;
use crate::ports::Ports;
use crate::process::Process;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where a registry's store is, if not in its folder.
pub struct Store {
    /// What `--store` takes.
    pub url: String,
    /// The file with PostgreSQL's password, unless that stands in the URL.
    pub pass_file: Option<PathBuf>,
}

/// Makes store, keys and certificates. `authority` stands in the capability URIs that the registry mints.
pub fn init(dir: &Path, authority: &str) -> Outcome<()> {
    operate(&["init", "--authority", authority, "--dir"], dir, None).map(drop)
}

/// [`init`], with the store elsewhere.
pub fn init_with(dir: &Path, authority: &str, store: &Store) -> Outcome<()> {
    operate(&["init", "--authority", authority, "--dir"], dir, Some(store)).map(drop)
}

/// Creates a tenant; gives {`id`, `create`, `query`, `deleteSelf`}.
pub fn create_tenant(dir: &Path, id: &str) -> Outcome<Value> {
    tenant(dir, id, None)
}

/// [`create_tenant`], with the store elsewhere.
pub fn create_tenant_in(dir: &Path, id: &str, store: &Store) -> Outcome<Value> {
    tenant(dir, id, Some(store))
}

fn tenant(dir: &Path, id: &str, store: Option<&Store>) -> Outcome<Value> {
    let output = operate(&["tenant", "create", "--id", id, "--dir"], dir, store)?;
    serde_json::from_slice(&output)
        .while_(|| "reading the answer of `membrane-registry tenant create`".into())
}

/// Starts serving, and waits until it is ready.
pub fn serve(dir: &Path, logs: &Path, ports: &Ports, trace: bool) -> Outcome<Process> {
    let mut command = command(dir, ports)?;
    if trace {
        command.env("MEMBRANE_LOG", "trace");
    }
    let mut process = Process::spawn("membrane-registry", command, &logs.join("registry.log"))?;
    let health = Client::plain(ports.metrics.number());
    process.wait_until(Duration::from_secs(20), "ready", || {
        health.request("GET", "/readyz").send().is_ok_and(|answer| answer.status == 200)
    })?;
    Ok(process)
}

/// What docker-compose.yaml starts too.
pub fn command(dir: &Path, ports: &Ports) -> Outcome<Command> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut command = Command::new(crate::program("membrane-registry")?);
    command.arg("serve").arg("--dir").arg(dir);
    command.args(["--control", &address(ports.control.number())]);
    command.args(["--gateway", &address(ports.registry.number())]);
    command.args(["--metrics", &address(ports.metrics.number())]);
    Ok(command)
}

fn operate(arguments: &[&str], dir: &Path, store: Option<&Store>) -> Outcome<Vec<u8>> {
    let mut command = Command::new(crate::program("membrane-registry")?);
    command.args(arguments).arg(dir);
    if let Some(store) = store {
        // Not on the command line, which others see: it may hold a password.
        command.env("MEMBRANE_STORE", &store.url);
        if let Some(file) = &store.pass_file {
            command.env("PGPASSFILE", file);
        }
    }
    let output = command.output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(format!("membrane-registry {} ended with {}: {said}", arguments[0], output.status)))
    }
}
