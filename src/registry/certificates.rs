//! Certificates between gateways and the registry: a CA of our own, and what it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// How long a CA is good: ten years, since replacing it means touching every gateway.
const CA_DAYS: i64 = 3_653;
/// How long other certificates are good: what browsers accept of public ones; `cert issue` renews them while serving.
const LEAF_DAYS: i64 = 397;
const DAY: i64 = 86_400;
/// Certificates begin this long before now, in seconds: clocks differ.
const SKEW: i64 = 3_600;

/// A certificate could not be made; the message is that of the library and holds no key.
#[derive(Debug, thiserror::Error)]
#[error("the certificate could not be made: {0}")]
pub struct CertificateError(String);

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> CertificateError {
        CertificateError(error.to_string())
    }
}

/// A private key in PEM.
pub type KeyPem = Zeroizing<String>;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Proves a server.
    Server,
    /// Proves a client.
    Client,
}

/// A new key: ECDSA on P-256, which every TLS library has.
pub fn new_key() -> Result<KeyPem, CertificateError> {
    Ok(Zeroizing::new(KeyPair::generate()?.serialize_pem()))
}

/// The certificate of a CA with this key, in PEM.
pub fn authority(key: &KeyPem, now: u64) -> Result<String, CertificateError> {
    let mut params = params(vec![], "Membrane CA", now, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&KeyPair::from_pem(key)?)?.pem())
}

/// A certificate for `key` with the names `sans` (DNS names and addresses), signed by the CA; PEM.
pub fn issue(
    ca: &str,
    ca_key: &KeyPem,
    key: &KeyPem,
    purpose: Purpose,
    sans: Vec<String>,
    now: u64,
) -> Result<String, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(ca, KeyPair::from_pem(ca_key)?)?;
    let name = sans.first().cloned().unwrap_or_default();
    let mut params = params(sans, &name, now, LEAF_DAYS)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    Ok(params.signed_by(&KeyPair::from_pem(key)?, &issuer)?.pem())
}

fn params(sans: Vec<String>, name: &str, now: u64, days: i64) -> Result<CertificateParams, CertificateError> {
    let time = |seconds: i64| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| CertificateError(error.to_string()))
    };
    let now = i64::try_from(now).unwrap_or(i64::MAX / 2);
    let mut params = CertificateParams::new(sans)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(now.saturating_sub(SKEW))?;
    params.not_after = time(now.saturating_add(days * DAY))?;
    Ok(params)
}
