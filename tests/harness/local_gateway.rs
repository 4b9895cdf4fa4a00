//! `local-gateway run` is `make run`, `local-gateway demo` is `make demo`.

#![allow(clippy::disallowed_methods)]

use harness::gateway::{Gateway, Options};
use harness::ports::{Port, Ports};
use harness::{Failure, Outcome};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("run") => run(&mut std::io::stdout()),
        Some("demo") => demo(&mut std::io::stdout()),
        _ => Err(Failure::new("usage: local-gateway run|demo    (better: make run, make demo)")),
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
        Some(port) => {
            let number = port.parse().ok().filter(|number| *number > 0);
            let number =
                number.ok_or_else(|| Failure::new(format!("MEMBRANE_PORT={port} is not a port number")))?;
            Ports::with_gateway(Port::fixed(number)?)?
        }
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
