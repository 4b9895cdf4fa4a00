//! `local-gateway run` is `make run`, `local-gateway demo` is `make demo`. `local-gateway prepare` makes the run folder for parts
//! that somebody else starts: docker-compose.yaml. `local-gateway password` makes the password of docker-compose.postgres.yaml.

#![allow(clippy::disallowed_methods)]

use harness::failure::While;
use harness::gateway::{Gateway, Options};
use harness::ports::{Port, Ports};
use harness::{Failure, Outcome};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["run"] => run(&mut std::io::stdout()),
        ["demo"] => demo(&mut std::io::stdout()),
        ["prepare", "--dir", dir, "--port", port, "--listen", listen, "--module", module] => {
            prepare(&mut std::io::stdout(), dir, port, listen, module, None)
        }
        [
            "prepare",
            "--dir",
            dir,
            "--port",
            port,
            "--listen",
            listen,
            "--module",
            module,
            "--store",
            store,
        ] => prepare(&mut std::io::stdout(), dir, port, listen, module, Some(store)),
        ["password", file] => harness::prepare::password(Path::new(file)),
        _ => Err(Failure::new(
            "usage: local-gateway run|demo    (better: make run, make demo)\n       \
             local-gateway prepare --dir DIR --port PORT --listen ADDRESS --module FILE [--store postgres://…]\n       \
             local-gateway password FILE",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing better can be done if standard error is closed.
            let _ = writeln!(std::io::stderr(), "\nFAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo(out: &mut dyn Write) -> Outcome<()> {
    harness::demo::demo(out)?;
    writeln!(
        out,
        "\nThe demo succeeded; everything it started has ended. `make run` keeps a gateway running."
    )?;
    Ok(())
}

fn prepare(
    out: &mut dyn Write,
    dir: &str,
    port: &str,
    listen: &str,
    module: &str,
    store: Option<&str>,
) -> Outcome<()> {
    let number = port_number("--port", port)?;
    let address = listen.parse().while_(|| format!("--listen {listen}"))?;
    // One registry's store lies in its folder, and is not chosen.
    if store.is_some_and(|store| !store.starts_with("postgres://")) {
        return Err(Failure::new(
            "--store is for two registries on one PostgreSQL: postgres://user@host/database",
        ));
    }
    let dir = harness::prepare::everything(Path::new(dir), number, address, Path::new(module), store)?;
    writeln!(out, "{} is prepared for https://localhost:{number}", dir.display())?;
    Ok(())
}

fn port_number(name: &str, port: &str) -> Outcome<u16> {
    let number = port.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Failure::new(format!("{name}={port} is not a port number")))
}

/// Runs the gateway until a signal ends it, or one of its parts ends by itself.
fn run(out: &mut dyn Write) -> Outcome<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let dir = std::env::var_os("MEMBRANE_RUN")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| "run".into(), PathBuf::from);
    let ports = match std::env::var("MEMBRANE_PORT").ok().filter(|port| !port.is_empty()) {
        None => Ports::defaults()?,
        Some(port) => Ports::with_gateway(Port::fixed(port_number("MEMBRANE_PORT", &port)?)?)?,
    };
    writeln!(out, "Starting registry, Envoy and a local AWS in {} …", dir.display())?;
    let mut gateway = Gateway::start(Options { dir, ports, workers: None, trace: false, observed: false })?;
    let dir = gateway.dir.display().to_string();
    writeln!(out, "  gateway   {}   (CA: {dir}/ca.pem)", gateway.url())?;
    writeln!(out, "  tenant    {dir}/tenant.json")?;
    writeln!(out, "  local AWS {dir}/aws.json")?;
    writeln!(out, "  logs      {dir}/logs/")?;
    writeln!(out, "Ctrl-C stops all of it.\nready")?;
    out.flush()?;
    while !ended.load(Ordering::Relaxed) {
        gateway.check_alive()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    gateway.stop()?;
    writeln!(out, "stopped")?;
    Ok(())
}
