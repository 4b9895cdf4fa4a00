//! An upstream that keeps what it receives, byte for byte. It stands between Envoy and moto: requests to the host
//! [`RECORDER`] it answers itself, those to a host that has a route it passes on as they come, all others it keeps and hands on to
//! moto. It speaks HTTP/1.1, and HTTP/2 to whoever begins so.

use crate::failure::{Failure, Outcome, While};
use crate::origin_http2;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The host that the recorder answers for. Under amazonaws.com, so that envoy/local.yaml routes it as it is.
pub const RECORDER: &str = "recorder.us-east-1.amazonaws.com";

/// In a target: the recorder answers it so many milliseconds late. `/late/500/…`
const LATE: &str = "/late/";

/// In a target: the recorder answers 403, and what [`Origin::refuse_with`] says.
const REFUSED: &str = "/refused/";

/// What a refusal says of a request, as JSON.
pub type Refusal = Arc<dyn Fn(&Recorded) -> String + Send + Sync>;

/// What the recorder answers.
pub const ANSWER: &str = "recorded\n";

/// No answer is later than this: a connection's thread ends while the test runs.
const LATEST: Duration = Duration::from_secs(10);

/// One request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The head, up to and with the empty line; empty over HTTP/2, which has no such text.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body without its chunk framing.
    pub body: Vec<u8>,
}

impl Recorded {
    /// Every value of that header, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The value of a header that must be there once.
    pub fn one(&self, name: &str) -> Outcome<String> {
        let mut all = self.all(name);
        match (all.pop(), all.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err(Failure::new(format!(
                "expected one header {name} at the origin, came {}",
                self.all(name).len()
            ))),
        }
    }
}

pub struct Origin {
    port: u16,
    recorded: Kept,
    broken: Kept,
    routes: Arc<Mutex<Vec<(String, u16)>>>,
    refusal: Arc<Mutex<Option<Refusal>>>,
    ending: Arc<AtomicBool>,
}

type Kept = Arc<Mutex<Vec<Recorded>>>;

impl Origin {
    /// Listens on `port`; everything that is not for the recorder goes to `aws_port`.
    pub fn start(port: u16, aws_port: u16) -> Outcome<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).while_(|| format!("listening on {port}"))?;
        let (recorded, broken) = (Kept::default(), Kept::default());
        let ending = Arc::new(AtomicBool::new(false));
        let routes = Arc::new(Mutex::new(Vec::new()));
        let refusal: Arc<Mutex<Option<Refusal>>> = Arc::default();
        let (kept, cut, known, end) =
            (Arc::clone(&recorded), Arc::clone(&broken), Arc::clone(&routes), Arc::clone(&ending));
        let refused = Arc::clone(&refusal);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (kept, cut, known) = (Arc::clone(&kept), Arc::clone(&cut), Arc::clone(&known));
                let refused = Arc::clone(&refused);
                // A connection that Envoy gives up ends its thread with an error that concerns nobody.
                std::thread::spawn(move || serve(stream, aws_port, &kept, &cut, &known, &refused));
            }
        });
        Ok(Self { port, recorded, broken, routes, refusal, ending })
    }

    /// From now on requests to `host` go to that port of 127.0.0.1. Of these, heads are kept and bodies are not: they pass as they come.
    pub fn route(&self, host: &str, port: u16) {
        self.routes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((host.to_owned(), port));
    }

    /// What the recorder says from now on to requests to `/refused/…`, with 403.
    pub fn refuse_with(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(refusal);
    }

    /// What has come so far to targets that contain `part`. Tests that share a gateway use targets of their own.
    pub fn requests(&self, part: &str) -> Vec<Recorded> {
        let recorded = self.recorded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        recorded.iter().filter(|request| request.target.contains(part)).cloned().collect()
    }

    /// What did not come whole over HTTP/1.1: requests whose body was cut off, with their heads alone, and bytes that are no request,
    /// as a head without a target.
    pub fn broken(&self) -> Vec<Recorded> {
        self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The one request to that target, waiting for it a little.
    pub fn only(&self, part: &str) -> Outcome<Recorded> {
        let start = Instant::now();
        loop {
            let mut found = self.requests(part);
            match (found.pop(), found.is_empty()) {
                (Some(request), true) => return Ok(request),
                (None, _) if start.elapsed() < Duration::from_secs(5) => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                (last, _) => {
                    let count = found.len() + usize::from(last.is_some());
                    return Err(Failure::new(format!(
                        "expected one request for {part} at the origin, came {count}"
                    )));
                }
            }
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(
    mut stream: TcpStream,
    aws_port: u16,
    kept: &Kept,
    broken: &Kept,
    routes: &Mutex<Vec<(String, u16)>>,
    refusal: &Mutex<Option<Refusal>>,
) -> Outcome<()> {
    let note = |kept: &Kept, request| {
        kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(request);
    };
    if origin_http2::is_spoken_on(&stream)? {
        return origin_http2::serve(stream, kept);
    }
    let mut unread = Vec::new();
    loop {
        let head = read_head(&mut stream, &mut unread);
        if head.is_err() && !unread.is_empty() {
            let (method, target) = Default::default();
            let (headers, body) = Default::default();
            note(broken, Recorded { head: unread.clone(), method, target, headers, body });
        }
        let Some(mut request) = head? else { return Ok(()) };
        let host = request.all("host").pop().unwrap_or_default();
        let known = routes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some((_, port)) = known.into_iter().find(|(known, _)| *known == host) {
            note(kept, request.clone());
            return pass_on(&request, &unread, port, stream);
        }
        request.body = match read_body(&request, &mut stream, &mut unread) {
            Ok(body) => body,
            Err(failure) => {
                note(broken, request);
                return Err(failure);
            }
        };
        let for_recorder = request.all("host") == [RECORDER];
        note(kept, request.clone());
        if for_recorder {
            if let Some((_, rest)) = request.target.split_once(LATE) {
                let millis = rest.split('/').next().and_then(|text| text.parse().ok()).unwrap_or_default();
                std::thread::sleep(Duration::from_millis(millis).min(LATEST));
            }
            let refusal = refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            if let Some(refusal) = refusal.filter(|_| request.target.contains(REFUSED)) {
                let said = refusal(&request);
                let head = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n", said.len());
                stream.write_all(format!("{head}{said}").as_bytes())?;
                continue;
            }
            let body = if request.method == "HEAD" { "" } else { ANSWER };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
                ANSWER.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes())?;
        } else {
            hand_on(&request, aws_port, &mut stream)?;
            stream.shutdown(Shutdown::Both)?;
            return Ok(());
        }
    }
}

/// One request and its answer, both ways at once, until one side ends.
fn pass_on(request: &Recorded, unread: &[u8], port: u16, client: TcpStream) -> Outcome<()> {
    let mut server =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).while_(|| "connecting upstream".into())?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
    for (name, value) in &request.headers {
        if !name.eq_ignore_ascii_case("connection") {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    }
    head.extend(b"connection: close\r\n\r\n");
    server.write_all(&head)?;
    server.write_all(unread)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        // If the client goes, the server must see it.
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
        // What the server no longer takes, since it has answered: to leave it unread would reset the connection, which may overtake the
        // answer.
        let _ = std::io::copy(&mut from_client, &mut std::io::sink());
    });
    let mut to_client = client;
    let _ = std::io::copy(&mut server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Write);
    Ok(())
}

/// moto speaks HTTP/1.0: it closes when its answer is whole, and so do we.
fn hand_on(request: &Recorded, aws_port: u16, answer_to: &mut TcpStream) -> Outcome<()> {
    let mut aws =
        TcpStream::connect((Ipv4Addr::LOCALHOST, aws_port)).while_(|| "connecting to moto".into())?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
    for (name, value) in &request.headers {
        let framing =
            name.eq_ignore_ascii_case("transfer-encoding") || name.eq_ignore_ascii_case("content-length");
        if !framing && !name.eq_ignore_ascii_case("connection") {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    }
    head.extend(format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()).bytes());
    aws.write_all(&head)?;
    aws.write_all(&request.body)?;
    std::io::copy(&mut aws, answer_to)?;
    Ok(())
}

pub(crate) fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Outcome<Option<Recorded>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut parsed = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(length) =
            parsed.parse(unread).while_(|| "reading a request".into())?
        {
            let request = Recorded {
                head: unread[..length].to_vec(),
                method: parsed.method.unwrap_or_default().into(),
                target: parsed.path.unwrap_or_default().into(),
                headers: parsed
                    .headers
                    .iter()
                    .map(|header| (header.name.to_owned(), header.value.to_vec()))
                    .collect(),
                body: Vec::new(),
            };
            unread.drain(..length);
            return Ok(Some(request));
        }
        if more(stream, unread)? == 0 {
            return if unread.is_empty() {
                Ok(None)
            } else {
                Err(Failure::new("a request ended within its head"))
            };
        }
    }
}

fn read_body(request: &Recorded, stream: &mut TcpStream, unread: &mut Vec<u8>) -> Outcome<Vec<u8>> {
    if request.all("transfer-encoding").iter().any(|coding| coding.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let size = take_line(stream, unread)?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
                .while_(|| "reading a chunk".into())?;
            if size == 0 {
                while !take_line(stream, unread)?.is_empty() {}
                return Ok(body);
            }
            body.extend(take(stream, unread, size)?);
            take(stream, unread, 2)?;
        }
    }
    match request.all("content-length").first() {
        Some(length) => take(stream, unread, length.parse().while_(|| "reading content-length".into())?),
        None => Ok(Vec::new()),
    }
}

fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Outcome<usize> {
    let mut buffer = vec![0; 65_536];
    let read = stream.read(&mut buffer)?;
    unread.extend_from_slice(&buffer[..read]);
    Ok(read)
}

fn take(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> Outcome<Vec<u8>> {
    while unread.len() < length {
        if more(stream, unread)? == 0 {
            return Err(Failure::new("a request ended within its body"));
        }
    }
    Ok(unread.drain(..length).collect())
}

fn take_line(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Outcome<String> {
    loop {
        if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
            let line = take(stream, unread, end + 2)?;
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if more(stream, unread)? == 0 {
            return Err(Failure::new("a request ended within a line"));
        }
    }
}
