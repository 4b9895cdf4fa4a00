//! The only network code: one request, one answer, no redirects.

use crate::intent::{Method, Request};
use crate::trust::{Trust, TrustError};
use capability::Authority;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::Zeroizing;

/// How long name resolution and, separately, connecting and the TLS handshake may take. A TCP handshake that lost two
/// packets takes 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the service may think. A gateway gives its registry less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same where it waits for all gateways: more than the 90 s for which our Envoy configurations let a control request take.
const WAITING_TIMEOUT: Duration = Duration::from_secs(100);
/// How much longer all of it may take.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer in bytes. A query for 1,000 membranes with the longest ids is half of it.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// An HTTP answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) authority: String,
    pub(crate) status: u16,
    /// Can hold capability URIs.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Why there was no answer. None of these holds anything that was sent.
#[derive(Debug, thiserror::Error)]
#[error("{authority}: {reason}")]
pub(crate) struct NetworkError {
    pub(crate) authority: String,
    pub(crate) reason: Reason,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(
        "its certificate is not signed by a certificate authority that is trusted for it; if the authority is your own, name its PEM with --trustedCA-file-path FILE (a JSON object: {{\"{0}\": \"-----BEGIN CERTIFICATE-----…\"}})"
    )]
    UnknownCa(String),
    #[error(
        "its certificate is for another name: check the authority of the capability, and whether the gateway's certificate names it"
    )]
    WrongName,
    #[error("its certificate has expired, or is not valid yet: renew it, or check this machine's clock")]
    Expired,
    #[error("its certificate is refused: {0}")]
    BadCertificate(String),
    #[error("no TLS connection ({0}): check that the port is that of an https service")]
    Tls(String),
    #[error("the name cannot be resolved: check the authority of the capability, and DNS")]
    NoSuchName,
    #[error("cannot connect ({0}): check the authority of the capability, and that the gateway runs")]
    Connect(String),
    #[error("no connection within {} s: check the authority of the capability, and firewalls", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    #[error("no answer in time: whether the request took effect is not known")]
    ResponseTimeout,
    #[error(
        "the proxy of the environment (HTTPS_PROXY, ALL_PROXY) gave no connection: check it, or set NO_PROXY"
    )]
    Proxy,
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes: ask for less (--limit)")]
    TooLong,
    #[error("the connection broke ({0}): whether the request took effect is not known")]
    Broken(String),
}

/// Sends `request`, trusting the authority as `trust` says.
pub(crate) fn send(request: &Request, trust: &Trust) -> Result<Answer, NetworkError> {
    let authority = request.capability.authority();
    let fail = |reason: Reason| NetworkError { authority: authority.to_string(), reason };
    let patience = if request.waits { WAITING_TIMEOUT } else { RESPONSE_TIMEOUT };
    let agent = agent(authority, trust, patience).map_err(fail)?;
    let url = format!("https://{authority}/");
    log::info!(
        "{:?} {url} with {} query parameters and a body of {} bytes, capability with lookup id {}",
        request.method,
        request.query.len(),
        request.body.len(),
        request.capability.token().lookup_id()
    );
    let bearer = bearer(request).map_err(|error| fail(Reason::Broken(error.to_string())))?;
    let query = request.query.iter().map(|(name, value)| (*name, value.as_str()));
    let response = match request.method {
        Method::Get => agent.get(&url).header("authorization", bearer).query_pairs(query).call(),
        Method::Delete => agent.delete(&url).header("authorization", bearer).query_pairs(query).call(),
        Method::Post => agent
            .post(&url)
            .header("authorization", bearer)
            .header("content-type", "application/json")
            .query_pairs(query)
            .send(request.body.as_slice()),
    };
    let mut response = response.map_err(|error| fail(reason(error, authority)))?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
    let body = body.map(Zeroizing::new).map_err(|error| fail(reason(error, authority)))?;
    log::info!("{authority} answered {status} with {} bytes", body.len());
    Ok(Answer { authority: authority.to_string(), status, body })
}

/// One agent an authority: what is trusted for it is trusted for nothing else. Environment proxies are honoured; TLS runs
/// through them to the authority itself.
fn agent(authority: &Authority, trust: &Trust, patience: Duration) -> Result<ureq::Agent, Reason> {
    let roots = trust.roots(authority)?;
    let roots: Vec<_> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        // A redirect is an answer like any other: following one would carry the bearer elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(patience))
        .timeout_global(Some(patience + REST_TIMEOUT))
        .user_agent(concat!("capi/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent())
}

fn bearer(request: &Request) -> Result<HeaderValue, ureq::http::header::InvalidHeaderValue> {
    let text = Zeroizing::new(format!("Bearer {}", request.capability.token().expose()));
    let mut value = HeaderValue::from_str(&text)?;
    // Debug output shows "Sensitive" in its place.
    value.set_sensitive(true);
    Ok(value)
}

/// Sorts ureq's errors by what the person can do about them.
fn reason(error: ureq::Error, authority: &Authority) -> Reason {
    match error {
        ureq::Error::Rustls(error) => tls_reason(&error, authority),
        ureq::Error::Tls(what) => Reason::Tls(what.into()),
        ureq::Error::HostNotFound => Reason::NoSuchName,
        ureq::Error::ConnectionFailed => Reason::Connect("no address answers".into()),
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => Reason::Proxy,
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => Reason::TooLong,
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => Reason::ConnectTimeout,
        ureq::Error::Timeout(_) => Reason::ResponseTimeout,
        ureq::Error::Io(error) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => tls_reason(error, authority),
                // std gives a failed look-up no kind of its own, only this text.
                None if error.to_string().starts_with("failed to lookup address") => Reason::NoSuchName,
                None => match error.kind() {
                    std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::HostUnreachable
                    | std::io::ErrorKind::NetworkUnreachable => Reason::Connect(error.kind().to_string()),
                    kind => Reason::Broken(kind.to_string()),
                },
            }
        }
        ureq::Error::Protocol(error) => Reason::Broken(error.to_string()),
        // The rest cannot happen to an https request without a cookie, a body reader or a redirect.
        _ => Reason::Broken("unexpected".into()),
    }
}

fn tls_reason(error: &rustls::Error, authority: &Authority) -> Reason {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => Reason::UnknownCa(authority.to_string()),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Reason::WrongName,
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Reason::Expired
            }
            other => Reason::BadCertificate(other.to_string()),
        },
        other => Reason::Tls(other.to_string()),
    }
}
