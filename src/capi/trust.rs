//! Which certificate authorities are trusted for which authority.

use capability::Authority;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest file read, in bytes: the whole of Mozilla's list is a quarter of this.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The trusted certificate authorities of every authority.
#[derive(Default)]
pub(crate) struct Trust {
    /// From `--trustedCA-file-path`: each authority is trusted through these alone.
    own: BTreeMap<String, Vec<CertificateDer<'static>>>,
}

/// Why there is nothing to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("--trustedCA-file-path: cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "--trustedCA-file-path: {} must be a JSON object from authority (such as \"localhost:8443\") to PEM text: {reason}",
        path.display()
    )]
    Malformed { path: PathBuf, reason: String },
    #[error(
        "the system has no certificate authorities{reason}: install them (the package is often named ca-certificates), set SSL_CERT_FILE, or name the authority's own with --trustedCA-file-path"
    )]
    NoSystemStore { reason: String },
}

impl Trust {
    /// Reads the file of `--trustedCA-file-path`, if there is one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Trust, TrustError> {
        let Some(path) = path else { return Ok(Trust::default()) };
        let unreadable = |reason: String| TrustError::Unreadable { path: path.to_owned(), reason };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|error| unreadable(error.to_string()))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(unreadable(format!("it is longer than {MAX_FILE_BYTES} bytes")));
        }
        Trust::parse(&text).map_err(|reason| TrustError::Malformed { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<Trust, String> {
        let map: BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut own = BTreeMap::new();
        for (name, pem) in map {
            let authority = parse_authority(&name)
                .ok_or_else(|| format!("{name:?} is no authority (host or host:port)"))?;
            let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| format!("the PEM of {name:?} is damaged"))?;
            let mut store = rustls::RootCertStore::empty();
            for certificate in &certificates {
                store
                    .add(certificate.clone())
                    .map_err(|error| format!("a certificate of {name:?} is damaged: {error}"))?;
            }
            if store.is_empty() {
                return Err(format!("the text of {name:?} holds no PEM certificate"));
            }
            if own.insert(authority, certificates).is_some() {
                return Err(format!("{name:?} stands there twice"));
            }
        }
        Ok(Trust { own })
    }

    /// What to trust for `authority`: its own certificate authorities where it was named, else the system's. The
    /// system's variables SSL_CERT_FILE and SSL_CERT_DIR count.
    pub(crate) fn roots(&self, authority: &Authority) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        if let Some(own) = self.own.get(canonical(authority.as_str())) {
            log::debug!("{authority} is trusted through the {} certificates named for it", own.len());
            return Ok(own.clone());
        }
        let system = rustls_native_certs::load_native_certs();
        log::debug!("{authority} is trusted through the system's {} certificates", system.certs.len());
        if system.certs.is_empty() {
            let reason = system.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(TrustError::NoSystemStore { reason });
        }
        Ok(system.certs)
    }
}

fn parse_authority(name: &str) -> Option<String> {
    let authority = name.parse::<Authority>().ok()?;
    Some(canonical(authority.as_str()).to_owned())
}

/// `example.com:443` and `example.com` are one authority under https.
fn canonical(authority: &str) -> &str {
    authority.strip_suffix(":443").unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
    }

    fn parse(map: &[(&str, &str)]) -> Result<Trust, String> {
        Trust::parse(&serde_json::to_string(&map.iter().copied().collect::<BTreeMap<_, _>>()).unwrap())
    }

    #[test]
    fn only_the_named_authority_is_trusted_through_its_pem() {
        let (one, two) = (pem("one"), pem("two"));
        let both = format!("{one}{two}");
        let trust = parse(&[("Localhost:8443", &one), ("example.com:443", &both)]).unwrap();
        let count =
            |name: &str| trust.own.get(canonical(name.parse::<Authority>().unwrap().as_str())).map(Vec::len);
        assert_eq!(count("localhost:8443"), Some(1));
        assert_eq!(count("example.com"), Some(2));
        assert_eq!(count("localhost:8444"), None);
        assert_eq!(count("localhost"), None);
    }

    #[test]
    fn bad_files_are_told_apart() {
        let good = pem("a");
        for (map, reason) in [
            (vec![("a/b", good.as_str())], "no authority"),
            (vec![("a", "/etc/ssl/ca.pem")], "holds no PEM certificate"),
            (vec![("a", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")], "damaged"),
            (vec![("a", good.as_str()), ("A", good.as_str())], "twice"),
        ] {
            let error = parse(&map).err().unwrap();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Trust::parse(r#"{"a": ["b"]}"#).is_err());
        assert!(Trust::parse("[]").is_err());
    }
}
