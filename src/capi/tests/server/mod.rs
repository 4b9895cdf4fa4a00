//! A real TLS server for the tests: takes one connection after another, keeps each request as it came, answers as told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A request as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    /// `POST / HTTP/1.1`
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Server {
    pub(crate) port: u16,
    /// The certificate authority that signed the server's certificate.
    pub(crate) ca: String,
    received: mpsc::Receiver<Received>,
}

impl Server {
    /// Answers every request with `answer`, an HTTP/1.1 response to the byte. Its certificate is for `name`.
    pub(crate) fn start(name: &str, answer: impl Into<Vec<u8>>) -> Server {
        let answer = answer.into();
        let (ca, config) = tls(name);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, received) = mpsc::channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, socket.unwrap());
                // A client that does not trust this server goes away in the handshake: the next one may.
                if let Ok(request) = read(&mut stream) {
                    stream.write_all(&answer).unwrap();
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                    if sender.send(request).is_err() {
                        return;
                    }
                }
            }
        });
        Server { port, ca, received }
    }

    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The next request, which must have been sent already.
    pub(crate) fn request(&self) -> Received {
        self.received.recv_timeout(Duration::from_secs(5)).expect("a request was received")
    }

    /// That no request came, although one could have.
    pub(crate) fn assert_untouched(&self) {
        assert!(self.received.recv_timeout(Duration::from_millis(200)).is_err(), "a request came");
    }
}

/// An HTTP/1.1 response with that body.
pub(crate) fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn tls(name: &str) -> (String, Arc<rustls::ServerConfig>) {
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
    (ca_certificate.pem(), Arc::new(config))
}

fn read(stream: &mut impl std::io::Read) -> std::io::Result<Received> {
    let mut reader = BufReader::new(stream);
    let mut next = || -> std::io::Result<String> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    };
    let line = next()?;
    let mut headers = Vec::new();
    loop {
        let header = next()?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    Ok(Received { line, headers, body })
}
