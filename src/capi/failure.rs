//! Everything that can go wrong, each with what to do about it. No variant holds a secret; what came from a server is
//! passed through the redactor before it is printed.

use crate::{client::NetworkError, profile::ProfileError, trust::TrustError};
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command says something that means nothing: exit status 2, as clap's own errors.
    #[error("{0}")]
    Usage(Box<clap::Error>),
    /// A secret that was to come from a file or from standard input did not.
    #[error("{flag}: cannot read {place}: {reason}")]
    Unreadable { flag: &'static str, place: Place, reason: String },
    /// No capability was given, and the profile has none.
    #[error(
        "No membrane \"{role}\" capability found for profile \"{profile}\": give --capability or --capability-file, set CAPI_CAPABILITY{configure}",
        configure = if *.configurable { ", or run `capi config configure`" } else { " (profiles hold no capability of single membranes)" }
    )]
    NoCapability { role: &'static str, profile: String, configurable: bool },
    #[error("the capability in {place} is not a capability URI (cpblty://authority/#CPBLTY1-…): {reason}")]
    BadCapability { place: String, reason: String },
    #[error(
        "the capability is honoured at {authority} over plain http, where anybody on the way can read it: capi speaks https alone"
    )]
    PlainHttp { authority: String },
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The service answered with an error: its own JSON.
    #[error("{message}")]
    Refused { message: String, body: String },
    /// It is revoked, and not everywhere yet: the service's own JSON.
    #[error("revoked, but {0}", match .count {
        Some(count) => format!("{count} of the gateways' workers have not confirmed it: each may honour it until its staleness bound has passed"),
        None => "the service does not say that it waited for the gateways".to_owned(),
    })]
    Unconfirmed { count: Option<u64>, body: String },
    /// The service answered with something that is no answer of the Membrane API.
    #[error("{authority} answered {status} {what}")]
    NotTheApi { authority: String, status: u16, what: &'static str },
    /// A grant that breaks a rule of the export body.
    #[error("--grant: {reason}")]
    BadGrant { reason: String },
    #[error("cannot write {}: {reason}", path.display())]
    Unwritable { path: PathBuf, reason: String },
    #[error("the system gives no randomness: {0}")]
    NoRandomness(String),
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

/// Where a secret was to come from.
#[derive(Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Stdin,
    Environment(&'static str),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(f),
            Place::Stdin => f.write_str("standard input"),
            Place::Environment(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl Failure {
    /// A usage error in clap's own form, for rules that clap cannot express.
    pub(crate) fn usage(kind: clap::error::ErrorKind, message: impl std::fmt::Display) -> Failure {
        Failure::Usage(Box::new(clap::Error::raw(kind, format_args!("{message}\n"))))
    }

    /// A flag whose value is malformed. `rule` must not hold the value.
    pub(crate) fn bad_value(flag: &str, rule: impl std::fmt::Display) -> Failure {
        Failure::usage(clap::error::ErrorKind::ValueValidation, format_args!("{flag}: {rule}"))
    }

    /// One word for the kind of failure, for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::Unreadable { .. } => "unreadable",
            Failure::NoCapability { .. } => "no-capability",
            Failure::BadCapability { .. } => "bad-capability",
            Failure::PlainHttp { .. } => "plain-http",
            Failure::Profile(_) => "profile",
            Failure::Trust(_) => "trust",
            Failure::Network(_) => "network",
            Failure::Refused { .. } => "refused",
            Failure::Unconfirmed { .. } => "unconfirmed",
            Failure::NotTheApi { .. } => "not-the-api",
            Failure::BadGrant { .. } => "bad-grant",
            Failure::Unwritable { .. } => "unwritable",
            Failure::NoRandomness(_) => "no-randomness",
            Failure::Output(_) => "output",
        }
    }
}
