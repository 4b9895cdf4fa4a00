//! Where the server is, how it is spoken to, and what it must be before anything is asked of it.
//!
//! The URL is libpq's (`postgres://user:password@host:port/database?…`), with what tokio-postgres knows of its parameters, and
//! `sslmode`, `sslrootcert`, `sslcert` and `sslkey` as written here: TLS verifies the server's certificate and name, always, and
//! plain text is for this machine alone. The password may stand in the URL, in `PGPASSWORD`, or in the file that `PGPASSFILE` names.

use super::Fail;
use crate::files;
use crate::store::StoreError;
use capability::Authority;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

/// How long a connection may take to be made, for each of the URL's hosts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long what was sent may go unacknowledged before the connection is given up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// What each session is set to, so that a server that hangs, or a program that does, holds nothing for ever.
const SESSION: &str = "SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '15s'; \
                       SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'";
/// Names a history of a server: the cluster, its timeline (which each promotion changes), and the very table.
const STAMP: &str =
    "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ':' || 'head'::regclass::oid";

/// Where a PostgreSQL store is. `Debug` prints no password.
#[derive(Debug, Clone)]
pub struct PostgresUrl {
    config: Config,
    tls: Option<TlsPaths>,
}

#[derive(Debug, Clone, Default)]
struct TlsPaths {
    roots: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with a URL. Never repeats it: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It is not libpq's form.
    #[error("the store's URL must be postgres://user@host:port/database, with libpq's parameters: {0}")]
    Form(String),
    /// A rule on TLS.
    #[error("the store's URL: {0}")]
    Tls(&'static str),
    /// The password's file.
    #[error(transparent)]
    PassFile(#[from] files::PrivateFileError),
}

impl PostgresUrl {
    /// Reads a URL; `env` gives environment variables (libpq's PGPASSWORD and PGPASSFILE).
    pub fn parse(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<PostgresUrl, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut left, mut mode, mut roots, mut certificate, mut key) = (Vec::new(), None, None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let decoded = form_urlencoded::parse(pair.as_bytes()).next();
            let (name, value) =
                decoded.map_or_else(Default::default, |(name, value)| (name, value.into_owned()));
            match &*name {
                "sslmode" => mode = Some(value),
                "sslrootcert" => roots = Some(PathBuf::from(value)),
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                _ => left.push(pair),
            }
        }
        let url = if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) };
        // Its message names the parameter, and for an unknown one alone what was written: never a value.
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let source = std::error::Error::source(&error);
            UrlError::Form(source.map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        if config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err(UrlError::Form("it names no host, or no user".into()));
        }
        let tls = match mode.as_deref() {
            Some("disable") if config.get_hosts().iter().all(is_local) => None,
            Some("disable") => {
                return Err(UrlError::Tls("sslmode=disable is for this machine alone; leave it out"));
            }
            None | Some("require" | "verify-full") => Some(TlsPaths {
                roots,
                client: match (certificate, key) {
                    (Some(certificate), Some(key)) => Some((certificate, key)),
                    (None, None) => None,
                    _ => return Err(UrlError::Tls("sslcert and sslkey: give both or neither")),
                },
            }),
            Some(_) => return Err(UrlError::Tls("sslmode must be verify-full (the default) or disable")),
        };
        // A Unix socket has no TLS: who may open it is the operating system's business.
        let tls = tls.filter(|_| !config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))));
        if config.get_password().is_none()
            && let Some(password) = password(&config, env)?
        {
            config.password(password);
        }
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("membrane-registry")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(UNACKNOWLEDGED);
        Ok(PostgresUrl { config, tls })
    }

    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }

    /// The TLS configuration; none where plain text was asked for.
    pub(super) fn tls(&self) -> Result<Option<ClientConfig>, StoreError> {
        let Some(paths) = &self.tls else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        match &paths.roots {
            Some(path) => {
                for certificate in CertificateDer::pem_file_iter(path).map_err(at(path))? {
                    roots.add(certificate.map_err(at(path))?).map_err(at(path))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreError::Backend(Box::new(error)))?
            .with_root_certificates(roots);
        Ok(Some(match &paths.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_file_iter(certificate).map_err(at(certificate))?;
                let chain = chain.collect::<Result<Vec<_>, _>>().map_err(at(certificate))?;
                let pem = files::read_private(key).map_err(|error| StoreError::Backend(Box::new(error)))?;
                let private = PrivateKeyDer::from_pem_slice(&pem).map_err(at(key))?;
                builder.with_client_auth_cert(chain, private).map_err(at(certificate))?
            }
        }))
    }
}

/// An error with the file that it is about.
fn at<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> StoreError + use<E> {
    let path = path.to_owned();
    move |error| StoreError::Backend(format!("{}: {error}", path.display()).into())
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
                || name.parse::<Authority>().is_ok_and(|name| name.host() == "localhost")
        }
    }
}

/// The password of libpq's variables: `PGPASSWORD`, or the first line of the file `PGPASSFILE` that fits.
fn password(config: &Config, env: impl Fn(&str) -> Option<String>) -> Result<Option<Vec<u8>>, UrlError> {
    if let Some(password) = env("PGPASSWORD") {
        return Ok(Some(password.into_bytes()));
    }
    let Some(path) = env("PGPASSFILE") else { return Ok(None) };
    let text = files::read_private(Path::new(&path))?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(_)) | None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let user = config.get_user().unwrap_or_default();
    let wanted = [&host, &port, config.get_dbname().unwrap_or(user), user];
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    Ok(lines.map(pass_fields).find_map(|mut fields| {
        let password = fields.pop()?;
        let fits = fields.len() == wanted.len()
            && fields.iter().zip(wanted).all(|(field, wanted)| field == b"*" || field == wanted.as_bytes());
        fits.then_some(password)
    }))
}

/// `host:port:database:user:password`; a backslash takes the next byte as it is.
fn pass_fields(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut fields, mut field) = (Vec::new(), Vec::new());
    let mut bytes = line.strip_suffix(b"\r").unwrap_or(line).iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => field.extend(bytes.next()),
            b':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            _ => field.push(*byte),
        }
    }
    fields.push(field);
    fields
}

/// Sets a new session up, and refuses a server that would lose what it has answered.
pub(super) async fn set_up(client: &Client) -> Result<(), Fail> {
    client.batch_execute(SESSION).await?;
    let row = client
        .query_one(
            "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'), \
             current_setting('synchronous_commit'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let refuse = |why: &str| Err(Fail::Store(StoreError::Backend(why.into())));
    if row.try_get(0)? {
        return refuse("the PostgreSQL server is in recovery: name the endpoint that takes writes");
    }
    for (index, setting) in [(1, "fsync"), (2, "full_page_writes")] {
        if row.try_get::<_, &str>(index)? != "on" {
            return refuse(&format!(
                "the PostgreSQL server has {setting} off: it would lose what was answered"
            ));
        }
    }
    if row.try_get::<_, &str>(4)? != "UTF8" {
        return refuse("the database's encoding must be UTF8");
    }
    // Anything stronger, as remote_apply, stays as the operator has it.
    if ["off", "local"].contains(&row.try_get::<_, &str>(3)?) {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    Ok(())
}

/// The cluster's own name. Not to be asked inside a transaction: some managed services refuse it.
pub(super) async fn system(client: &Client) -> Result<String, Fail> {
    match client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).await {
        Ok(row) => Ok(row.try_get(0)?),
        Err(error) => match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_FUNCTION) => Ok("-".into()),
            _ => Err(error.into()),
        },
    }
}

/// What tells this history of the store from that of a copy: it changes when a standby is promoted, when a backup is brought
/// back with its log of changes, and when the tables are made anew.
pub(super) async fn stamp(client: &Client, system: &str) -> Result<String, Fail> {
    let own: String = client.query_one(STAMP, &[]).await?.try_get(0)?;
    Ok(format!("{system}:{own}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<PostgresUrl, UrlError> {
        PostgresUrl::parse(url, |_| None)
    }

    #[test]
    fn plain_text_is_for_this_machine_alone() {
        for url in ["postgres://u@127.0.0.1/d", "postgres://u@db.example/d?sslmode=require"] {
            assert_eq!(parse(url).unwrap().config.get_ssl_mode(), SslMode::Require, "{url}");
        }
        for local in ["127.0.0.1:5433", "localhost", "%2Frun%2Fpg"] {
            let url = format!("postgres://u@{local}/d?sslmode=disable");
            assert_eq!(parse(&url).unwrap().config.get_ssl_mode(), SslMode::Disable);
        }
        for (url, why) in [
            ("postgres://u@db.example/d?sslmode=disable", "for this machine alone"),
            ("postgres://u@127.0.0.1,db.example/d?sslmode=disable", "for this machine alone"),
            ("postgres://u@db.example/d?sslmode=prefer", "must be verify-full"),
            ("postgres://u@db.example/d?sslcert=a", "both or neither"),
            ("postgres:///d", "no host"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn passwords_are_found_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        let lines = b"# canary\nother:*:*:*:no\n*:5433:d:u:a\\:b\\\\c:d\n*:*:*:*:later\n";
        files::write_whole(&path, lines, files::Readers::Owner, false).unwrap();
        let file = path.to_str().unwrap().to_owned();
        let env = |name: &str| (name == "PGPASSFILE").then(|| file.clone());
        let url = PostgresUrl::parse("postgres://u@h:5433/d", env).unwrap();
        assert_eq!(url.config.get_password(), Some(&b"a:b\\c:d"[..]));
        let url = PostgresUrl::parse("postgres://u:canary@h:5433/d", env).unwrap();
        assert_eq!(url.config.get_password(), Some(&b"canary"[..]));
        assert!(!format!("{url:?}").contains("canary"));
        let bad = parse("postgres://u:canary@h:port/d").unwrap_err();
        assert!(!format!("{bad:?} {bad}").contains("canary"), "{bad}");
    }
}
