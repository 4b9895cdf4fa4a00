//! `capi`, the command line of the Membrane API: arguments → intent (which request) → client (the only network code) →
//! output. Exit status 0: done; 1: it failed, and standard error says `FAILED`, why, and the same as JSON; 2: it was
//! asked for in a way that means nothing.

#![forbid(unsafe_code)]

mod args;
mod client;
mod configure;
mod failure;
mod intent;
mod logging;
mod output;
mod profile;
mod redact;
mod seal;
mod secrets;
mod trust;

use args::{Cli, Command, ConfigCommand};
use clap::Parser as _;
use failure::Failure;
use output::Printed;
use redact::Redactor;
use secrets::Sources;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    logging::start(cli.verbose, std::env::var_os("CAPI_LOG"));
    let mut redactor = Redactor::default();
    let done = run(&cli, &mut redactor).and_then(|printed| Ok(output::print(printed)?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => output::usage(&error),
        Err(failure) => output::failed(&failure, cli.output, &redactor),
    }
}

/// Does what was asked for. Every secret that leaves the process is told to `redactor`, so that an answer which repeats
/// one does not get it printed.
fn run(cli: &Cli, redactor: &mut Redactor) -> Result<Printed, Failure> {
    let environment = |name: &str| std::env::var_os(name);
    let mut stdin = std::io::stdin();
    let mut sources = Sources::new(&environment, &mut stdin);
    match &cli.command {
        Command::Membrane(membrane) => {
            let trust = trust::Trust::load(membrane.common.trusted_ca_file_path.as_deref())?;
            let capability = intent::capability(membrane, &mut sources)?;
            let request = intent::request(membrane, capability, &mut sources, redactor)?;
            let answer = client::send(&request, &trust)?;
            output::answer(&membrane.command, answer, cli.output)
        }
        Command::Config(config) => match &config.command {
            ConfigCommand::Configure(configure) => configure::configure(config, configure, &mut sources),
            ConfigCommand::List(list) => configure::list(config, list),
        },
        Command::Kek(args) => seal::kek(args),
        Command::Seal(args) => seal::seal(args, &mut sources),
        Command::Completions { shell } => Ok(output::completions(*shell)),
    }
}
