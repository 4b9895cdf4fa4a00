//! `membrane-registry`: the command line, the clock, and the signals that stop the server.

#![forbid(unsafe_code)]

mod args;
mod whole;

use args::{Cert, Cli, Command, Dir, Membrane, Serve, Tenant};
use capability::Authority;
use clap::Parser;
use registry::files::{self, Readers};
use registry::home::{Home, HomeError, Leaf, Place};
use registry::kek::{KekError, KekSource};
use registry::operator::{self, OperatorError};
use registry::ports::{Clock, Random};
use registry::registry::{Authorities, Limits, Registry};
use registry::serve::{Addresses, Bounds, OTHER_FILES, ServeError, Server};
use registry::store::url::{StoreUrl, StoreUrlError};
use serde::Serialize;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Longer than any capability URI: what is read from standard input at most, in bytes.
const MAX_STDIN: u64 = 4_096;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error("{0} is there already: remove it, or name another file")]
    OutputExists(String),
    #[error("{path}: {source}; the tenant was revoked again", path = path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreUrlError),
    #[error(transparent)]
    Whole(#[from] whole::WholeError),
    #[error(transparent)]
    Kek(#[from] KekError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place of this program that reads a clock")]
    fn now(&self) -> u64 {
        // Before 1970 nothing has expired.
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        if getrandom::fill(bytes).is_err() {
            // Linux fails only where the system call is forbidden; tokens that can be guessed would be worse.
            tracing::error!("the system gives no randomness");
            std::process::abort();
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    keep_memory_to_ourselves();
    begin_logging();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Standard error may be closed; the status tells.
            let _ = writeln!(io::stderr(), "error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a usage error, or the help that was asked for, as clap does; a token among the arguments is not repeated, as what is
/// printed is kept by terminals and by whatever runs operators' scripts.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = if error.to_string().contains("CPBLTY1-") {
        write!(io::stderr(), "{}", capability::without_tokens(&error.to_string()))
    } else {
        error.print()
    };
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// No core dumps, neither to a file (the limit) nor to a program that collects them (which ignores the limit).
fn keep_memory_to_ourselves() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Lets this process have as many files open as its hard limit says, and tells where a listener cannot have the connections that it
/// may.
fn raise_open_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // None: as many as one likes.
    let Some(files) = (if raised.is_ok() { maximum } else { current }) else { return };
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    if files < needed {
        tracing::warn!(
            files,
            needed,
            "so few files may be open that a listener cannot have --max-connections: raise the hard limit (LimitNOFILE= of systemd, \
             ulimit -Hn, --ulimit nofile= of a container), or lower --max-connections"
        );
    }
}

/// Our own events at the level asked for. Libraries speak from `warn` on alone: at finer levels some print headers and buffers.
fn begin_logging() {
    let asked = std::env::var("MEMBRANE_LOG").ok().and_then(|level| level.parse::<LevelFilter>().ok());
    let level = asked.unwrap_or(LevelFilter::INFO);
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("registry", level)
        .with_target("membrane_registry", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    if std::env::var("MEMBRANE_LOG_FORMAT").is_ok_and(|format| format == "json") {
        tracing_subscriber::registry().with(lines.json().with_filter(targets)).init();
    } else {
        tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, authority } => init(&dir, authority),
        Command::Serve(options) => serve(options),
        Command::Tenant(Tenant::Create { dir, id, out }) => create_tenant(&open(&dir)?, &id, out.as_deref()),
        Command::Tenant(Tenant::List { dir }) => operator::tenants(&open(&dir)?)?.iter().try_for_each(print),
        Command::Tenant(Tenant::Revoke { dir, id }) => print(&operator::revoke_tenant(&open(&dir)?, &id)?),
        Command::Membrane(Membrane::List { dir, tenant }) => {
            let mut result = Ok(());
            operator::membranes(&open(&dir)?, &tenant, |line| {
                if result.is_ok() {
                    result = print(&line);
                }
            })?;
            result
        }
        Command::Membrane(Membrane::Revoke { dir, tenant, id }) => {
            print(&operator::revoke_membrane(&open(&dir)?, &tenant, &id)?)
        }
        Command::Revoke { dir, .. } => {
            let mut text = Zeroizing::new(String::new());
            io::stdin().take(MAX_STDIN).read_to_string(&mut text)?;
            print(&operator::revoke_token(&open(&dir)?, &text)?)
        }
        Command::Backup(args::File { dir, file }) => Ok(whole::backup(&home(&dir)?, &file)?),
        Command::Restore(args::File { dir, file }) => Ok(whole::restore(&home(&dir)?, &file)?),
        Command::Check { dir } => Ok(whole::check(&home(&dir)?)?),
        Command::Rekey { dir } => Ok(whole::rekey(&open(&dir)?)?),
        Command::Export(args::File { dir, file }) => Ok(whole::export(&open(&dir)?, &file)?),
        Command::Import(args::File { dir, file }) => Ok(whole::import(&open(&dir)?, &file)?),
        Command::Cert(Cert::Issue { dir, name }) => {
            let home = Home::open(&place(&dir)?)?;
            let leaves =
                if name.is_empty() { Leaf::ALL.to_vec() } else { name.into_iter().map(Leaf::from).collect() };
            for leaf in leaves {
                writeln!(io::stdout(), "{}", home.renew(leaf, &SystemClock)?.display())?;
            }
            Ok(())
        }
    }
}

fn place(dir: &Dir) -> Result<Place, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    Ok(Place {
        dir: dir.dir.clone(),
        store: dir.store.as_deref().map(|url| StoreUrl::parse(url, env)).transpose()?,
        kek: dir.kek.as_deref().map(KekSource::parse).transpose()?,
        audit: dir.audit.clone(),
    })
}

fn home(dir: &Dir) -> Result<Home, Failure> {
    Ok(Home::open(&place(dir)?)?)
}

fn open(dir: &Dir) -> Result<Registry, Failure> {
    Ok(Home::open(&place(dir)?)?.registry(Arc::new(SystemClock), Arc::new(SystemRandom), false)?)
}

/// One line of JSON on standard output, wiped once it is written.
fn print(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = to_line(value)?;
    io::stdout().write_all(&line)?;
    line.zeroize();
    Ok(())
}

fn to_line(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut line = Zeroizing::new(serde_json::to_vec(value).map_err(io::Error::from)?);
    line.push(b'\n');
    Ok(line)
}

fn authorities(mut given: Vec<Authority>) -> Option<Authorities> {
    if given.is_empty() {
        return None;
    }
    let first = given.remove(0);
    Some(Authorities { first, others: given })
}

fn init(dir: &Dir, authority: Vec<Authority>) -> Result<(), Failure> {
    let Some(asked) = authorities(authority) else { return Ok(()) };
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let done = Home::init(&place(dir)?, asked, &SystemClock, &random)?;
    let dir = &dir.dir;
    let mut out = io::stdout();
    if done.made.is_empty() {
        writeln!(out, "{} holds a registry already: nothing was changed", dir.display())?;
    }
    for path in &done.made {
        writeln!(out, "made {}", path.display())?;
    }
    writeln!(out, "capabilities are honoured at {}", done.home.authorities.first)?;
    Ok(())
}

fn create_tenant(registry: &Registry, id: &str, out: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = out else { return print(&operator::create_tenant(registry, id)?) };
    let exists = || Failure::OutputExists(path.display().to_string());
    if path.try_exists()? {
        return Err(exists());
    }
    let uris = operator::create_tenant(registry, id)?;
    let written = to_line(&uris).and_then(|line| Ok(files::write_whole(path, &line, Readers::Owner, false)?));
    let failure = match written {
        Ok(true) => return Ok(()),
        Ok(false) => exists(),
        Err(Failure::Io(source)) => Failure::Output { path: path.to_owned(), source },
        Err(failure) => failure,
    };
    // Nobody has its capabilities: it must not stay behind.
    operator::revoke_tenant(registry, id)?;
    Err(failure)
}

fn serve(options: Serve) -> Result<(), Failure> {
    let mut home = Home::open(&place(&options.dir)?)?;
    if let Some(authorities) = authorities(options.authority) {
        home.authorities = authorities;
    }
    let mut registry =
        home.registry(Arc::new(SystemClock), Arc::new(SystemRandom), options.allow_private_targets)?;
    registry.limits = Limits { membranes: options.max_membranes, capabilities: options.max_capabilities };
    let addresses = Addresses {
        control: options.control,
        gateway: options.gateway,
        gateway_plain: options.gateway_plain,
        metrics: options.metrics,
    };
    let bounds = Bounds { connections: options.max_connections, watchers: options.max_watchers };
    raise_open_files(bounds.connections);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        // Before the listeners, so that a signal that comes early is not lost.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::bind(&home, registry, options.gateway_san, addresses, bounds).await?;
        let Addresses { control, gateway, gateway_plain, metrics } = server.addresses;
        let gateway_plain = gateway_plain.map(|address| tracing::field::display(address.address()));
        if gateway_plain.is_some() {
            tracing::warn!(gateway_plain, "every process of this machine may look up and follow the feed");
        }
        tracing::info!(%control, %gateway, gateway_plain, %metrics, authority = %home.authorities.first, "serving");
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stop).await;
        Ok(())
    })
}
