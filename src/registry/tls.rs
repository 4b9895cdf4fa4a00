//! TLS for both listeners: server certificates that are read again when they change, and the check of who a gateway is.

use crate::files::{self, PrivateFileError};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A listener's TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A key cannot be read, or others may read it.
    #[error(transparent)]
    Key(#[from] PrivateFileError),
    /// A key's file holds none.
    #[error("{path}: holds no private key in PEM", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// They do not go together.
    #[error("{path}: {source}", path = path.display())]
    Tls {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The CA that clients are checked by is of no use.
    #[error("{path}: {reason}", path = path.display())]
    Authority {
        /// The CA.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where a listener's TLS comes from.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who is let in; none: whoever comes.
    pub clients: Option<Clients>,
}

/// Clients that are let in: those with a certificate of this CA that carries one of these SANs. Any other certificate of the same
/// CA, such as a gateway's server certificate, is refused.
#[derive(Debug, Clone)]
pub struct Clients {
    /// The CA, in PEM.
    pub ca: PathBuf,
    /// DNS names or URIs (`spiffe://…`), compared as a whole.
    pub sans: Vec<String>,
}

/// A configuration that follows its files.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Tls { files, config })
    }

    /// The configuration for the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again whenever they change, for ever. What does not go together is not taken: the old stays.
    pub async fn follow(self: Arc<Tls>) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            match read(&self.files) {
                Ok(config) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
                    seen = stamps;
                }
                // Looked at again next time: a certificate and its key cannot change at the same moment.
                Err(error) => {
                    tracing::warn!(%error, "changed certificates cannot be used, the old ones stay")
                }
            }
        }
    }

    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let ca = self.files.clients.iter().map(|clients| &clients.ca);
        let stamp = |path: &PathBuf| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        [&self.files.certificate, &self.files.key].into_iter().chain(ca).map(stamp).collect()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::Certificate { path: path.to_owned(), source })
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let tls = |source| TlsError::Tls { path: files.certificate.clone(), source };
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&files::read_private(&files.key)?)
        .map_err(|_| TlsError::NoKey { path: files.key.clone() })?;
    // TLS 1.2 and 1.3; rustls has nothing older.
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            builder.with_client_cert_verifier(Arc::new(GatewayVerifier::new(clients, provider)?))
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(tls)?;
    if files.clients.is_some() {
        // A resumed session skips the verifier: a certificate that has expired since, or a CA that was replaced, would still do.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The library's verifier, and after it the SAN.
#[derive(Debug)]
struct GatewayVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    sans: Vec<String>,
}

impl GatewayVerifier {
    fn new(clients: &Clients, provider: Arc<CryptoProvider>) -> Result<GatewayVerifier, TlsError> {
        let authority = |reason: String| TlsError::Authority { path: clients.ca.clone(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&clients.ca)? {
            roots.add(certificate).map_err(|error| authority(error.to_string()))?;
        }
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| authority(error.to_string()))?;
        Ok(GatewayVerifier { inner, sans: clients.sans.clone() })
    }

    fn is_let_in(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
        names.value.general_names.iter().any(|name| match name {
            GeneralName::DNSName(name) => self.sans.iter().any(|san| san.eq_ignore_ascii_case(name)),
            GeneralName::URI(uri) => self.sans.iter().any(|san| san == uri),
            _ => false,
        })
    }
}

impl ClientCertVerifier for GatewayVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(certificate, intermediates, now)?;
        if self.is_let_in(certificate) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
