//! The registry: `membrane-registry`, with its files in the run folder.

use crate::failure::{Failure, Outcome, While};
use crate::http::Client;
use crate::ports::Ports;
use crate::process::Process;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Makes store, keys and certificates. `authority` stands in the capability URIs that the registry mints.
pub fn init(dir: &Path, authority: &str) -> Outcome<()> {
    operate(&["init", "--authority", authority, "--dir"], dir).map(drop)
}

/// Creates a tenant; gives {`id`, `create`, `query`, `deleteSelf`}.
pub fn create_tenant(dir: &Path, id: &str) -> Outcome<Value> {
    let output = operate(&["tenant", "create", "--id", id, "--dir"], dir)?;
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

fn operate(arguments: &[&str], dir: &Path) -> Outcome<Vec<u8>> {
    let output = Command::new(crate::program("membrane-registry")?).args(arguments).arg(dir).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(format!("membrane-registry {} ended with {}: {said}", arguments[0], output.status)))
    }
}
