//! Which store: `sqlite:PATH` or `postgres://…`.

use super::postgres::{PostgresUrl, UrlError};
use std::path::PathBuf;

/// Where a store is.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// A SQLite file on this machine.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Box<PostgresUrl>),
}

/// What is wrong with a URL. Never repeats it: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum StoreUrlError {
    /// It begins with something else.
    #[error("the store must be sqlite:PATH or postgres://…")]
    Scheme,
    /// A rule of PostgreSQL's.
    #[error(transparent)]
    Postgres(#[from] UrlError),
}

impl StoreUrl {
    /// Reads a URL; `env` gives environment variables.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<StoreUrl, StoreUrlError> {
        if let Some(path) = text.strip_prefix("sqlite:").filter(|path| !path.is_empty()) {
            return Ok(StoreUrl::Sqlite(PathBuf::from(path)));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(StoreUrl::Postgres(Box::new(PostgresUrl::parse(text, env)?)));
        }
        Err(StoreUrlError::Scheme)
    }
}
