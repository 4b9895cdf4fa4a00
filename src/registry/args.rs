//! The command line.

use capability::Authority;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use registry::fleet::MAX_WATCHERS;
use registry::home::{GATEWAY_SAN, Leaf};
use registry::serve::{Loopback, MAX_CONNECTIONS};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The Membrane registry: keeps sealed capabilities, and tells gateways what was revoked.
///
/// Logs go to standard error; MEMBRANE_LOG sets their level (off, error, warn, info, debug, trace), MEMBRANE_LOG_FORMAT=json their form. Exit status: 0 done, 1 failed,
/// 2 wrong usage.
#[derive(Parser)]
#[command(name = "membrane-registry", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args)]
pub(crate) struct Dir {
    /// The registry's folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The store: sqlite:PATH, or postgres://user@host/database (libpq's form; the password there, in PGPASSWORD, or in the file that
    /// PGPASSFILE names). Default: sqlite:DIR/registry.db.
    #[arg(long, value_name = "URL", env = "MEMBRANE_STORE", hide_env_values = true)]
    pub(crate) store: Option<String>,
    /// Where the key-encryption keys are: file:PATH, or exec:COMMAND, which prints them, one a line, the one that seals first.
    /// Default: file:DIR/kek.
    #[arg(long, value_name = "SOURCE", env = "MEMBRANE_KEK", hide_env_values = true)]
    pub(crate) kek: Option<String>,
    /// Append a line of JSON for each action of a control or of the operator to this file. It may be renamed at any time; it is then begun anew.
    #[arg(long, value_name = "FILE", env = "MEMBRANE_AUDIT")]
    pub(crate) audit: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a registry's folder: keys, certificates, store. What is there already stays as it is.
    Init {
        #[command(flatten)]
        dir: Dir,
        /// Where capabilities are honoured, host[:port]; repeatable. The first goes into capability URIs.
        #[arg(long, value_name = "AUTHORITY", default_value = "localhost:8443")]
        authority: Vec<Authority>,
    },
    /// Answer gateways, until SIGTERM or SIGINT.
    Serve(Serve),
    /// Tenants: the accounts that own membranes.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Membranes, seen by the operator.
    #[command(subcommand)]
    Membrane(Membrane),
    /// Revoke the one capability that a leaked token stands for.
    Revoke {
        #[command(flatten)]
        dir: Dir,
        /// Read the token or capability URI from standard input, so that it stands in no shell history.
        #[arg(long, required = true)]
        token_stdin: bool,
    },
    /// Certificates between gateways and the registry.
    #[command(subcommand)]
    Cert(Cert),
    /// Write a consistent copy of a SQLite store, which may be in use, into a new file. Without the keys it opens nothing: keep those apart
    /// from it. For PostgreSQL use pg_dump, or export.
    Backup(File),
    /// Put a backup in the place of a SQLite store, whose server is stopped. What was revoked since stays revoked, by the revocation log;
    /// gateways drop what they hold. What was there stays beside it as registry.db.replaced.
    Restore(File),
    /// Go over every row and the revocation log: whether the keys open what is stored, and whether rows, units and log agree. Changes
    /// nothing; complaints go to standard error, and the status is 1 if there are any.
    Check {
        #[command(flatten)]
        dir: Dir,
    },
    /// Seal every capability that an older key sealed with the first key, beside running servers. The older keys stay needed until it says
    /// that nothing is left.
    Rekey {
        #[command(flatten)]
        dir: Dir,
    },
    /// Write every row of a store, which may be in use, as lines of JSON into a new file, for import into another backend.
    Export(File),
    /// Read what export wrote into a store that init has just made. All of it, or nothing.
    Import(File),
}

#[derive(Args)]
pub(crate) struct File {
    #[command(flatten)]
    pub(crate) dir: Dir,
    /// The file.
    pub(crate) file: PathBuf,
}

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) dir: Dir,
    /// The Membrane API, for gateways that pass controls on (TLS).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443")]
    pub(crate) control: SocketAddr,
    /// Lookups and the revocation feed, for gateways alone (mutual TLS).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9444")]
    pub(crate) gateway: SocketAddr,
    /// The same over plain HTTP/1.1 besides, on a loopback address alone, for a mesh whose sidecar does the TLS, and for tests: every
    /// process of this machine is let in.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway_plain: Option<Loopback>,
    /// /healthz, /readyz and /metrics (plain HTTP, nothing secret).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9445")]
    pub(crate) metrics: SocketAddr,
    /// Where capabilities are honoured, host[:port]; repeatable. The first goes into capability URIs, all are ours when one is
    /// re-exported. Default: as given to init.
    #[arg(long, value_name = "AUTHORITY")]
    pub(crate) authority: Vec<Authority>,
    /// The SAN (DNS name or URI) that a gateway's client certificate must carry; repeatable.
    #[arg(long, value_name = "SAN", default_value = GATEWAY_SAN)]
    pub(crate) gateway_san: Vec<String>,
    /// Let capabilities lead to this machine and to private networks by literal address.
    #[arg(long)]
    pub(crate) allow_private_targets: bool,
    /// Most membranes that a tenant may have at a time; more are answered with 403. Default: no limit.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_membranes: Option<u64>,
    /// Most capabilities that a tenant may have at a time, two for each membrane's own export and revoke among them; more are answered with
    /// 403. Default: no limit.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_capabilities: Option<u64>,
    /// Most connections of each listener. Each needs an open file: the soft limit on those is raised to the hard one at start.
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_CONNECTIONS, value_parser = at_least_one())]
    pub(crate) max_connections: usize,
    /// Most workers of gateways that may follow the feed; more are answered with 503.
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_WATCHERS, value_parser = at_least_one())]
    pub(crate) max_watchers: usize,
}

/// A limit: a million at most, which is beyond what one machine holds open.
fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..=1_000_000).try_map(usize::try_from)
}

#[derive(Subcommand)]
pub(crate) enum Tenant {
    /// Make a tenant and print its capabilities as JSON {id, create, query, deleteSelf}: they are shown this once.
    Create {
        #[command(flatten)]
        dir: Dir,
        /// The tenant's name, 1 to 512 characters.
        #[arg(long)]
        id: String,
        /// Write the JSON to a new file that its owner alone may read, instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the tenants that are not revoked and what each has of what limits count, as lines of JSON.
    List {
        #[command(flatten)]
        dir: Dir,
    },
    /// End a tenant: every membrane and capability of it is dead.
    Revoke {
        #[command(flatten)]
        dir: Dir,
        /// The tenant's name.
        #[arg(long)]
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Membrane {
    /// List a tenant's membranes that are alive, as lines of JSON.
    List {
        #[command(flatten)]
        dir: Dir,
        /// The tenant's name.
        #[arg(long)]
        tenant: String,
    },
    /// Revoke a membrane: every capability exported through it is dead.
    Revoke {
        #[command(flatten)]
        dir: Dir,
        /// The tenant's name.
        #[arg(long)]
        tenant: String,
        /// The membrane's id.
        #[arg(long)]
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Cert {
    /// Sign certificates anew, for the keys that are there. Running servers take them up by themselves.
    Issue {
        #[command(flatten)]
        dir: Dir,
        /// Which one; repeatable. Default: all.
        #[arg(long, value_enum)]
        name: Vec<Name>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// The registry's own.
    Control,
    /// The gateway's, towards its clients.
    Gateway,
    /// The gateway's, towards the registry.
    GatewayClient,
}

impl From<Name> for Leaf {
    fn from(name: Name) -> Leaf {
        match name {
            Name::Control => Leaf::Control,
            Name::Gateway => Leaf::Gateway,
            Name::GatewayClient => Leaf::GatewayClient,
        }
    }
}
