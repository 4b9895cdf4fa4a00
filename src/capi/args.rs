//! What can be said on the command line. The published flags keep their published names and meanings; ours are
//! marked as extensions in their help.

use crate::secrets::SecretText;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What every option of a `--uri` export excludes.
const RE_EXPORT: [&str; 2] = ["capability_to_export", "capability_to_export_file"];
/// The members of one signature scheme exclude those of the other.
const CAP1: [&str; 3] = ["cap1_key", "cap1_key_file", "cap1_key_id"];

#[derive(Debug, Parser)]
#[command(
    name = "capi",
    version,
    about = "Create membranes, export capabilities through them, and revoke them",
    after_help = "Prints JSON on standard output. On error: `FAILED`, the reason and JSON on standard error, and exit status \
                  1; exit status 2 when the command itself is wrong.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Say on standard error what is done; -vv and -vvv say more. Never shows a secret. Also CAPI_LOG=info|debug|trace
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,
    /// How results are printed: `text` is one line a result, its columns separated by tabs
    #[arg(long, global = true, value_enum, default_value_t = Format::Json, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Membranes and the capabilities exported through them
    Membrane(MembraneArgs),
    /// Profiles: capabilities kept in ~/.capability/credentials
    Config(ConfigArgs),
    /// Make the key that seals records for a gateway without a registry
    Kek(KekArgs),
    /// Seal a grant for a gateway without a registry: prints the capability, and the record for its configuration
    Seal(SealArgs),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub(crate) struct KekArgs {
    /// File to make, readable by you alone; never over one that is there. Without it the key is printed
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SealArgs {
    /// File that holds the grant: the JSON body of an export with a `uri`, as the Membrane API has it (`-`: standard input)
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) grant: PathBuf,
    /// Where the capability will be honoured: the gateway's host and port
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) authority: String,
    /// File that holds the key that `capi kek` made; or MEMBRANE_KEK
    #[arg(long, value_name = "FILE")]
    pub(crate) kek_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct MembraneArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) command: MembraneCommand,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Membrane")]
pub(crate) struct CommonArgs {
    /// Capability URI to use; `-` reads it from standard input. It alone decides what the request does: a revoke
    /// capability revokes, whichever command sends it. Otherwise CAPI_CAPABILITY, then the profile
    #[arg(long, global = true, value_name = "URI", value_parser = SecretText::argument)]
    pub(crate) capability: Option<SecretText>,
    /// File that holds the capability URI, so that it stands neither in the shell's history nor in a process list
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "capability")]
    pub(crate) capability_file: Option<PathBuf>,
    /// Profile whose capability is used when none is given (default: `default`)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// JSON file of the certificate authorities to trust: an object from authority (`localhost:8443`) to PEM text. An
    /// authority that it names is trusted through that PEM alone; every other one through the system's store
    #[arg(long = "trustedCA-file-path", global = true, value_name = "FILE", alias = "trusted-ca-file-path")]
    pub(crate) trusted_ca_file_path: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MembraneCommand {
    /// Create a membrane
    Create(CreateArgs),
    /// Export a capability through a membrane
    Export(Box<ExportArgs>),
    /// List membranes
    Query(QueryArgs),
    /// Revoke a membrane, and with it everything exported through it
    Revoke(WaitArgs),
    /// Delete the tenant itself: every membrane and every capability of it
    #[command(alias = "deleteself")]
    DeleteSelf(WaitArgs),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Revoke")]
pub(crate) struct WaitArgs {
    /// Answer only once no gateway honours it any more, which can take as long as a gateway's staleness bound. Where that takes
    /// too long the answer tells how many of their workers are `unconfirmed`, and the exit status is 1 [extension]
    #[arg(long)]
    pub(crate) wait: bool,
}

impl MembraneCommand {
    /// Whether the answer is to come only once it holds everywhere.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, MembraneCommand::Revoke(WaitArgs { wait }) | MembraneCommand::DeleteSelf(WaitArgs { wait }) if *wait)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Create")]
pub(crate) struct CreateArgs {
    /// Id of the membrane: 1 to 512 characters, unique in the tenant
    #[arg(long, value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Query")]
pub(crate) struct QueryArgs {
    /// Id of the one membrane to look for
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Id of the last membrane of the previous query: continue after it
    #[arg(long, value_name = "ID")]
    pub(crate) last_id: Option<String>,
    /// How many membranes to answer with at most, above 0 (the service's default is 1)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["uri", "capability_to_export", "capability_to_export_file"]))]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) aws4: Aws4Args,
    #[command(flatten)]
    pub(crate) cap1: Cap1Args,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Export")]
pub(crate) struct TargetArgs {
    /// What the capability requests: an absolute http or https URI
    #[arg(long, value_name = "URI")]
    pub(crate) uri: Option<String>,
    /// Existing capability to re-export through the membrane (`-`: from standard input); excludes every option of --uri
    #[arg(long, value_name = "URI", value_parser = SecretText::argument)]
    pub(crate) capability_to_export: Option<SecretText>,
    /// File that holds the capability to re-export [extension]
    #[arg(long, value_name = "FILE")]
    pub(crate) capability_to_export_file: Option<PathBuf>,
    /// HTTP method of the requests, in place of the requester's
    #[arg(long, value_name = "METHOD", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) method: Option<String>,
    /// Header of the requests, in place of the requester's; takes several values, and can be repeated
    #[arg(long, value_name = "NAME: VALUE", num_args = 1.., requires = "uri", conflicts_with_all = RE_EXPORT, value_parser = SecretText::argument)]
    pub(crate) header: Vec<SecretText>,
    /// Append the requester's query to the URI's own [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) allow_query: Option<bool>,
    /// Milliseconds after which the gateway gives up on the upstream; ignored above the gateway's own limit
    #[arg(long, value_name = "MS", requires = "uri", conflicts_with_all = RE_EXPORT, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout_ms: Option<u64>,
    /// Name of a requester's header to let through beyond the usual ones; can be repeated [extension]
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) allow_header: Vec<String>,
    /// Name of a requester's query parameter to let through, in place of --allow-query; can be repeated [extension]
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "uri", conflicts_with_all = RE_EXPORT, conflicts_with = "allow_query")]
    pub(crate) allow_query_name: Vec<String>,
    /// Body of the requests: the requester's is then refused [extension]
    #[arg(long, value_name = "TEXT", requires = "uri", conflicts_with_all = RE_EXPORT, value_parser = SecretText::argument)]
    pub(crate) body: Option<SecretText>,
    /// File that holds the body, taken byte for byte [extension]
    #[arg(long, value_name = "FILE", requires = "uri", conflicts_with_all = RE_EXPORT, conflicts_with = "body")]
    pub(crate) body_file: Option<PathBuf>,
    /// When the capability ends, as RFC 3339 (2030-01-31T12:00:00Z); also for a re-export [extension]
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sign with AWS4-HMAC-SHA256")]
pub(crate) struct Aws4Args {
    /// AWS access key id
    #[arg(long = "aws4-hmac-sha256-aws-access-key-id", value_name = "ID", requires_all = ["uri", "aws4_region", "aws4_service"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_access_key_id: Option<String>,
    /// AWS region, for instance us-east-1
    #[arg(long = "aws4-hmac-sha256-region", value_name = "REGION", requires_all = ["uri", "aws4_access_key_id", "aws4_service"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_region: Option<String>,
    /// AWS service, for instance lambda
    #[arg(long = "aws4-hmac-sha256-service", value_name = "SERVICE", requires_all = ["uri", "aws4_access_key_id", "aws4_region"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_service: Option<String>,
    /// AWS secret access key (`-`: from standard input); or CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY
    #[arg(long = "aws4-hmac-sha256-secret-access-key", value_name = "KEY", value_parser = SecretText::argument, requires_all = ["uri", "aws4_access_key_id", "aws4_region", "aws4_service"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_secret_access_key: Option<SecretText>,
    /// File that holds the AWS secret access key [extension]
    #[arg(long = "aws4-hmac-sha256-secret-access-key-file", value_name = "FILE", requires_all = ["uri", "aws4_access_key_id", "aws4_region", "aws4_service"], conflicts_with = "aws4_secret_access_key", conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_secret_access_key_file: Option<PathBuf>,
    /// AWS session token of temporary credentials (`-`: from standard input); or, with a key from the environment, CAPI_AWS4_HMAC_SHA256_SESSION_TOKEN [extension]
    #[arg(long = "aws4-hmac-sha256-session-token", value_name = "TOKEN", value_parser = SecretText::argument, requires_all = ["uri", "aws4_access_key_id", "aws4_region", "aws4_service"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_session_token: Option<SecretText>,
    /// File that holds the AWS session token [extension]
    #[arg(long = "aws4-hmac-sha256-session-token-file", value_name = "FILE", requires_all = ["uri", "aws4_access_key_id", "aws4_region", "aws4_service"], conflicts_with = "aws4_session_token", conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_session_token_file: Option<PathBuf>,
    /// Whether the signature covers the body [extension]
    #[arg(long = "aws4-hmac-sha256-payload", value_name = "MODE", value_enum, requires_all = ["uri", "aws4_access_key_id", "aws4_region", "aws4_service"], conflicts_with_all = CAP1.into_iter().chain(RE_EXPORT))]
    pub(crate) aws4_payload: Option<Payload>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Payload {
    Signed,
    Unsigned,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sign with CAP1-HMAC-SHA512")]
pub(crate) struct Cap1Args {
    /// Secret key bytes as base64url (`-`: from standard input); or CAPI_CAP1_HMAC_SHA512_KEY
    #[arg(long = "cap1-hmac-sha512-key", allow_hyphen_values = true, value_name = "KEY", value_parser = SecretText::argument, requires_all = ["uri", "cap1_key_id"], conflicts_with_all = RE_EXPORT)]
    pub(crate) cap1_key: Option<SecretText>,
    /// File that holds the secret key [extension]
    #[arg(long = "cap1-hmac-sha512-key-file", value_name = "FILE", requires_all = ["uri", "cap1_key_id"], conflicts_with = "cap1_key", conflicts_with_all = RE_EXPORT)]
    pub(crate) cap1_key_file: Option<PathBuf>,
    /// Secret key id
    #[arg(long = "cap1-hmac-sha512-key-id", value_name = "ID", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) cap1_key_id: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS towards the URI")]
pub(crate) struct TlsArgs {
    /// Certificate authorities to trust in place of the usual ones, as PEM text
    #[arg(long, allow_hyphen_values = true, value_name = "PEM", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) tls_ca: Option<String>,
    /// File that holds the certificate authorities [extension]
    #[arg(long, value_name = "FILE", requires = "uri", conflicts_with_all = RE_EXPORT, conflicts_with = "tls_ca")]
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// Client certificate chain, as PEM text
    #[arg(long, allow_hyphen_values = true, value_name = "PEM", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) tls_cert: Option<String>,
    /// File that holds the client certificate chain [extension]
    #[arg(long, value_name = "FILE", requires = "uri", conflicts_with_all = RE_EXPORT, conflicts_with = "tls_cert")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Private key of the client certificate, as PEM text (`-`: from standard input); or CAPI_TLS_KEY
    #[arg(long, allow_hyphen_values = true, value_name = "PEM", value_parser = SecretText::argument, requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) tls_key: Option<SecretText>,
    /// File that holds the private key [extension]
    #[arg(long, value_name = "FILE", requires = "uri", conflicts_with_all = RE_EXPORT, conflicts_with = "tls_key")]
    pub(crate) tls_key_file: Option<PathBuf>,
    /// `false`: do not verify the server's certificate
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", requires = "uri", conflicts_with_all = RE_EXPORT)]
    pub(crate) tls_reject_unauthorized: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Profile to configure or to show
    #[arg(long, global = true, value_name = "NAME", default_value = "default", help_heading = "Config")]
    pub(crate) profile: String,
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Put a tenant's capabilities into a profile: asks for them, unless --from names a file
    Configure(ConfigureArgs),
    /// Show a profile; capabilities appear by their lookup ids, never by their tokens
    List(ListArgs),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Configure")]
pub(crate) struct ConfigureArgs {
    /// Service to configure
    #[arg(long, value_enum, default_value_t = Service::Membrane, value_name = "SERVICE")]
    pub(crate) service: Service,
    /// JSON file with `create`, `query` and `deleteSelf` capability URIs, any of them (`-`: standard input) [extension]
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "List")]
pub(crate) struct ListArgs {
    /// Service to list
    #[arg(long, value_enum, default_value_t = Service::Membrane, value_name = "SERVICE")]
    pub(crate) service: Service,
    /// Every profile, as an array [extension]
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    Membrane,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_name_in_an_exclusion_is_a_flag() {
        Cli::command().debug_assert();
    }
}
