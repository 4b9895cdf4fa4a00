//! An HTTP/1.1 client that sends exactly the bytes it is given, over TLS or plain TCP: tests must be able to say what no
//! well-behaved client would. One connection a request, unless [`Client::connect`] is used.

use crate::failure::{Failure, Outcome, While};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long one read may wait: longer than any hold or timeout that a test provokes.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    authority: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Client {
    /// Plain HTTP to a port on loopback.
    pub fn plain(port: u16) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            authority: format!("127.0.0.1:{port}"),
            tls: None,
        }
    }

    /// HTTPS to `localhost:port`, trusting the CA in `ca` and nothing else.
    pub fn tls(port: u16, ca: &Path) -> Outcome<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).while_(|| format!("reading {}", ca.display()))? {
            roots
                .add(certificate.while_(|| format!("reading {}", ca.display()))?)
                .while_(|| "adding a CA".into())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .while_(|| "choosing TLS versions".into())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").while_(|| "naming the server".into())?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Ok(Self { address, authority: format!("localhost:{port}"), tls: Some((Arc::new(config), name)) })
    }

    /// A request whose `host` is this client's; change it with [`Request::host`].
    pub fn request(&self, method: &str, target: &str) -> Request<'_> {
        let host = Some(self.authority.clone());
        Request {
            client: self,
            method: method.into(),
            target: target.into(),
            host,
            headers: Vec::new(),
            body: None,
        }
    }

    /// Writes `bytes` and reads one answer. `head` tells that the request is a HEAD, whose answer has no body.
    pub fn raw(&self, bytes: &[u8], head: bool) -> Outcome<Response> {
        let mut connection = self.connect()?;
        connection.write(bytes)?;
        connection.read(head)
    }

    pub fn connect(&self) -> Outcome<Connection> {
        let (tcp, tls) = self.parts()?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let socket = tcp.try_clone()?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(StreamOwned::new(tls, tcp)),
        };
        Ok(Connection { stream, socket, unread: Vec::new() })
    }

    /// A new connection, and what is to speak TLS on it.
    pub fn parts(&self) -> Outcome<(TcpStream, Option<ClientConnection>)> {
        let tcp = TcpStream::connect_timeout(&self.address, PATIENCE)
            .while_(|| format!("connecting to {}", self.address))?;
        let tls = self.tls.as_ref().map(|(config, name)| {
            ClientConnection::new(Arc::clone(config), name.clone()).while_(|| "starting TLS".into())
        });
        Ok((tcp, tls.transpose()?))
    }

    /// What its requests name as their `host`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// A request to be sent well-formed.
#[must_use]
pub struct Request<'a> {
    client: &'a Client,
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The bearer of a capability URI, or a bare token.
    pub fn bearer(self, capability: &str) -> Self {
        let token = capability.rsplit('#').next().unwrap_or(capability).to_owned();
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub fn json(self, body: &serde_json::Value) -> Self {
        self.body(body.to_string())
    }

    /// The request as it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if let Some(host) = &self.host {
            head += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    pub fn send(self) -> Outcome<Response> {
        self.client.raw(&self.bytes(), self.method == "HEAD")
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Connection {
    stream: Box<dyn Stream>,
    /// The same socket, for its options.
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// How long one read or write may wait from now on; [`PATIENCE`] until this is called.
    pub fn patience(&self, patience: Duration) -> Outcome<()> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.set_write_timeout(Some(patience)).while_(|| "setting a timeout".into())
    }

    /// What was read and no answer has taken, for protocols that this client does not speak.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// The connection is gone: no FIN of TLS, a reset at once.
    pub fn abort(self) -> Outcome<()> {
        rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO))
            .while_(|| "setting a socket's linger".into())
    }

    /// Writes. That the peer closes its side while it answers is no failure here: the answer tells.
    pub fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        match self.stream.write_all(bytes).and_then(|()| self.stream.flush()) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => other.while_(|| "writing a request".into()),
        }
    }

    /// Reads one answer.
    pub fn read(&mut self, head: bool) -> Outcome<Response> {
        loop {
            if let Some((length, mut response)) = parse_head(&self.unread)? {
                self.unread.drain(..length);
                if response.status == 100 {
                    continue;
                }
                if !head && response.status != 204 && response.status != 304 {
                    response.body = self.read_body(&response)?;
                }
                return Ok(response);
            }
            if self.more()? == 0 {
                return Err(Failure::new("the connection was closed without a whole answer"));
            }
        }
    }

    /// Reads what there is; 0 once the peer has closed the connection.
    pub fn more(&mut self) -> Outcome<usize> {
        let mut buffer = vec![0; 65_536];
        let read = loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A close without TLS's close_notify, or a reset after the answer: an end all the same.
                Err(error)
                    if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) =>
                {
                    break 0;
                }
                other => break other.while_(|| "reading an answer".into())?,
            }
        };
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    fn take(&mut self, length: usize) -> Outcome<Vec<u8>> {
        while self.unread.len() < length {
            if self.more()? == 0 {
                let have = self.unread.len();
                return Err(Failure::new(format!("the answer's body ended after {have} of {length} bytes")));
            }
        }
        Ok(self.unread.drain(..length).collect())
    }

    fn take_line(&mut self) -> Outcome<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.more()? == 0 {
                return Err(Failure::new("the answer ended within a line"));
            }
        }
    }

    fn read_body(&mut self, response: &Response) -> Outcome<Vec<u8>> {
        if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks();
        }
        if let Some(length) = response.header("content-length") {
            return self.take(length.trim().parse().while_(|| "reading content-length".into())?);
        }
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    fn read_chunks(&mut self) -> Outcome<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).while_(|| "reading a chunk's size".into())?;
            if size == 0 {
                while !self.take_line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.take(2)?;
        }
    }
}

#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Fails unless the status is the expected one; names what was asked and shows what came.
    pub fn expect(self, status: u16, asked: &str) -> Outcome<Self> {
        if self.status == status {
            Ok(self)
        } else {
            let shown: String = self.text().chars().take(400).collect();
            Err(Failure::new(format!("{asked}: expected status {status}, came {}: {shown}", self.status)))
        }
    }
}

/// An answer's head and its length, if it is whole.
fn parse_head(bytes: &[u8]) -> Outcome<Option<(usize, Response)>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(bytes).while_(|| "reading an answer's head".into())? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let status = parsed.code.unwrap_or_default();
            let headers =
                parsed.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
            Ok(Some((length, Response { status, headers, body: Vec::new() })))
        }
    }
}
