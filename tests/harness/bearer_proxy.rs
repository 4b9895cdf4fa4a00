//! Lets clients of S3 that know nothing of capabilities use them: a proxy that puts a capability's bearer in place of a request's own
//! `authorization`, and `/` in place of its path. Bodies pass as they come, in any framing and any length, without being held; so do
//! `expect` and 1xx answers. If asked to, it cuts them anew at random.

use crate::failure::{Outcome, While};
use crate::http::Client;
use crate::origin::Recorded;
use crate::ports::Port;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a side may be silent before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at a time, and the largest piece of a body that is cut anew.
const PIECE: usize = 65_536;
const MAX_HEAD: usize = 65_536;

pub struct BearerProxy {
    port: Port,
    state: Arc<State>,
}

struct State {
    gateway: Client,
    tls: Option<Arc<ServerConfig>>,
    /// Method and token.
    bearers: Vec<(String, String)>,
    /// 0: bodies are not cut.
    seed: AtomicU64,
    seen: Mutex<Vec<Recorded>>,
    ending: AtomicBool,
}

impl BearerProxy {
    /// In front of `gateway`. `capabilities` names one for each method. With `run`, a gateway's run folder, it speaks TLS to its clients,
    /// with that gateway's certificate: some clients send their bodies in another way then.
    pub fn start(gateway: &Client, capabilities: &[(&str, &str)], run: Option<&Path>) -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let token = |capability: &str| capability.rsplit('#').next().unwrap_or(capability).to_owned();
        let state = Arc::new(State {
            gateway: gateway.clone(),
            tls: run.map(server_config).transpose()?,
            bearers: capabilities.iter().map(|(method, uri)| ((*method).to_owned(), token(uri))).collect(),
            seed: AtomicU64::new(0),
            seen: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ending.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                // What goes wrong with one connection, its client sees.
                std::thread::spawn(move || serve(client, &state));
            }
        });
        Ok(Self { port, state })
    }

    /// From now on bodies, and what is answered, are cut at random, in a way that `seed` decides.
    pub fn cut(&self, seed: u64) {
        self.state.seed.store(seed.max(1), Ordering::Relaxed);
    }

    pub fn url(&self) -> String {
        let scheme = if self.state.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.port.number())
    }

    /// A client of it, if it speaks no TLS.
    pub fn client(&self) -> Client {
        Client::plain(self.port.number())
    }

    /// The requests so far, as the clients sent them, without their bodies.
    pub fn seen(&self) -> Vec<Recorded> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for BearerProxy {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

fn server_config(run: &Path) -> Outcome<Arc<ServerConfig>> {
    let tls = crate::layout::gateway(run).join("tls");
    let (chain, key) = (tls.join("gateway.pem"), tls.join("gateway-key.pem"));
    let reading = |file: &Path| format!("reading {}", file.display());
    let certificates = CertificateDer::pem_file_iter(&chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .while_(|| reading(&chain))?;
    let key = PrivateKeyDer::from_pem_file(&key).while_(|| reading(&key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .while_(|| "choosing TLS versions".into())?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .while_(|| "setting the certificate".into())?;
    Ok(Arc::new(config))
}

fn serve(tcp: TcpStream, state: &State) -> Outcome<()> {
    let tls = match &state.tls {
        None => None,
        Some(config) => {
            Some(ServerConnection::new(Arc::clone(config)).while_(|| "starting TLS".into())?.into())
        }
    };
    let client = Side::new(tcp, tls)?;
    let mut unread = Vec::new();
    let request = loop {
        if let Some((length, request)) = parse_head(&unread)? {
            unread.drain(..length);
            break request;
        }
        if unread.len() > MAX_HEAD || client.read(&mut unread)? == 0 {
            return Ok(());
        }
    };
    let Some((_, token)) = state.bearers.iter().find(|(method, _)| *method == request.method) else {
        client.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        client.close();
        return Ok(());
    };
    let (tcp, tls) = state.gateway.parts()?;
    let gateway = Side::new(tcp, tls.map(Into::into))?;
    gateway.write(&rewritten(&request, token, state.gateway.authority()))?;
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);

    let (mut cuts, mut answer_cuts) = match state.seed.load(Ordering::Relaxed) {
        0 => (None, None),
        seed => (Some(Cuts(seed)), Some(Cuts(seed.rotate_left(32) | 1))),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The body, and whatever else the client sends on this connection: it is told that no second request may come. What the
            // gateway no longer takes, since it has answered, is read all the same: the client may be waiting for that.
            let mut taken = true;
            loop {
                taken = taken && send(&gateway, &unread, cuts.as_mut()).is_ok();
                unread.clear();
                if !client.read(&mut unread).is_ok_and(|read| read > 0) {
                    // Gone, so the gateway must see that too; after a whole answer this changes nothing.
                    gateway.abort();
                    break;
                }
            }
        });
        let mut answer = Vec::new();
        while gateway.read(&mut answer).is_ok_and(|read| read > 0)
            && send(&client, &answer, answer_cuts.as_mut()).is_ok()
        {
            answer.clear();
        }
        client.close();
        gateway.abort();
    });
    Ok(())
}

fn rewritten(request: &Recorded, token: &str, authority: &str) -> Vec<u8> {
    let mut head = format!("{} / HTTP/1.1\r\nhost: {authority}\r\n", request.method).into_bytes();
    for (name, value) in &request.headers {
        if !["host", "authorization", "connection", "keep-alive"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own))
        {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    }
    head.extend(format!("authorization: Bearer {token}\r\nconnection: close\r\n\r\n").bytes());
    head
}

fn send(to: &Side, mut bytes: &[u8], mut cuts: Option<&mut Cuts>) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = cuts.as_mut().map_or(bytes.len(), |cuts| cuts.next_length()).min(bytes.len());
        let (piece, rest) = bytes.split_at(length);
        to.write(piece)?;
        bytes = rest;
    }
    Ok(())
}

fn parse_head(bytes: &[u8]) -> Outcome<Option<(usize, Recorded)>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(bytes).while_(|| "reading a request".into())? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let pairs = parsed.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec()));
            let request = Recorded {
                head: bytes[..length].to_vec(),
                method: parsed.method.unwrap_or_default().into(),
                target: parsed.path.unwrap_or_default().into(),
                headers: pairs.collect(),
                body: Vec::new(),
            };
            Ok(Some((length, request)))
        }
    }
}

/// Lengths of pieces: mostly some KiB, now and then a few bytes, so that lines are cut as well as data. xorshift64.
struct Cuts(u64);

impl Cuts {
    fn next_length(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let random = (self.0 >> 8) as usize;
        match self.0 % 8 {
            0 => 1 + random % 16,
            1..=3 => 1 + random % 4_096,
            _ => 1 + random % PIECE,
        }
    }
}

/// One side of the proxy, which one thread may read while another writes.
struct Side {
    reading: Mutex<TcpStream>,
    writing: Mutex<TcpStream>,
    tls: Option<Mutex<rustls::Connection>>,
}

impl Side {
    /// With `tls`, after its handshake.
    fn new(tcp: TcpStream, tls: Option<rustls::Connection>) -> Outcome<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let mut handshaken = tls;
        if let Some(tls) = &mut handshaken {
            tls.set_buffer_limit(None);
            while tls.is_handshaking() {
                let mut io = &tcp;
                tls.complete_io(&mut io).while_(|| "shaking hands".into())?;
            }
        }
        let reading = Mutex::new(tcp.try_clone()?);
        Ok(Self { reading, writing: Mutex::new(tcp), tls: handshaken.map(Mutex::new) })
    }

    /// Appends what comes next; 0 at the end.
    fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut tcp = lock(&self.reading);
        let mut buffer = vec![0; PIECE];
        let Some(tls) = &self.tls else {
            let read = tcp.read(&mut buffer)?;
            into.extend_from_slice(&buffer[..read]);
            return Ok(read);
        };
        let mut raw = vec![0; PIECE];
        let start = into.len();
        // First what was read during the handshake.
        let mut records: &[u8] = &[];
        loop {
            let mut tls = lock(tls);
            loop {
                match tls.reader().read(&mut buffer) {
                    Ok(0) => return Ok(into.len() - start),
                    Ok(read) => into.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if records.is_empty() {
                            break;
                        }
                        tls.read_tls(&mut records)?;
                        tls.process_new_packets().map_err(io::Error::other)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            drop(tls);
            if into.len() > start {
                return Ok(into.len() - start);
            }
            let read = tcp.read(&mut raw)?;
            if read == 0 {
                return Ok(0);
            }
            records = &raw[..read];
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut tcp = lock(&self.writing);
        let Some(tls) = &self.tls else { return tcp.write_all(bytes) };
        let mut records = Vec::new();
        {
            let mut tls = lock(tls);
            tls.writer().write_all(bytes)?;
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
        }
        tcp.write_all(&records)
    }

    /// After all that was to be sent.
    fn close(&self) {
        if let Some(tls) = &self.tls {
            lock(tls).send_close_notify();
        }
        // It may be gone already: then there is nobody to tell.
        let _ = self.write(&[]);
        let _ = lock(&self.writing).shutdown(Shutdown::Write);
    }

    fn abort(&self) {
        let _ = lock(&self.writing).shutdown(Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
