//! Uploads far larger than any buffer, into a sink that counts: how much memory Envoy takes meanwhile, and how long it takes.

use crate::usage::Memory;
use harness::failure::While;
use harness::ports::Port;
use harness::{Failure, Outcome};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How the body is sent, and what becomes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is; S3 gets `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// As it is, with a hash in the headers.
    Hash,
    /// In unsigned chunks with a checksum after them, which pass.
    Trailer,
    /// In signed chunks, which are signed again.
    Resigned,
    /// As it is, and framed in signed chunks by the filter.
    Framed,
}

impl Mode {
    pub(crate) const ALL: [Mode; 5] =
        [Mode::Unsigned, Mode::Hash, Mode::Trailer, Mode::Resigned, Mode::Framed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Unsigned => "`UNSIGNED-PAYLOAD`",
            Mode::Hash => "the hash supplied",
            Mode::Trailer => "unsigned chunks and trailer",
            Mode::Resigned => "signed chunks, signed again",
            Mode::Framed => "framed in signed chunks (`payload: signed`)",
        }
    }

    /// Whether nothing of the body is hashed or changed.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Mode::Unsigned | Mode::Hash | Mode::Trailer)
    }
}

/// Of data in a chunk that a client sends, as AWS' SDKs do.
const CHUNK: u64 = 65_536;

/// Answers every request with 200 once all of its body has come, of which it keeps nothing.
pub(crate) struct Sink {
    pub(crate) port: Port,
}

impl Sink {
    /// Its threads end with this process.
    pub(crate) fn start() -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that Envoy gives up ends its thread with an error that concerns nobody.
                std::thread::spawn(move || swallow(stream));
            }
        });
        Ok(Self { port })
    }
}

fn swallow(mut stream: TcpStream) -> Outcome<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let (head, already) = read_head(&mut stream)?;
        if head.is_empty() {
            return Ok(());
        }
        let mut left = content_length(&head)?.saturating_sub(already);
        while left > 0 {
            match stream.read(&mut buffer)? {
                0 => return Err(Failure::new("a body was cut off")),
                read => left = left.saturating_sub(read as u64),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// The head, and how many bytes of the body came with it. Nothing at the end of the connection.
fn read_head(stream: &mut TcpStream) -> Outcome<(String, u64)> {
    let (mut head, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = head.len() - end - 4;
            return Ok((String::from_utf8_lossy(&head[..end]).into_owned(), body as u64));
        }
        match stream.read(&mut buffer)? {
            0 => return Ok((String::new(), 0)),
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
}

fn content_length(head: &str) -> Outcome<u64> {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.and_then(|value| value.parse().ok()).ok_or_else(|| Failure::new("a request without content-length"))
}

/// What one upload did to Envoy.
pub(crate) struct Uploaded {
    pub(crate) took: Duration,
    /// Bytes that its peak was above what it had before.
    pub(crate) growth: u64,
}

/// Uploads `size` bytes through the Envoy at `port`, whose memory is `memory`.
pub(crate) fn upload(
    port: u16,
    host: &str,
    bearer: &str,
    mode: Mode,
    size: u64,
    memory: &Memory,
) -> Outcome<Uploaded> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    let idle = memory.resident()?;
    memory.forget_peak()?;
    let start = Instant::now();
    let body = Body::new(mode, size);
    let mut head = format!("PUT / HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {bearer}\r\n");
    for (name, value) in &body.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.length());
    stream.write_all(head.as_bytes())?;
    body.send(&mut stream)?;
    let (answer, _) = read_head(&mut stream)?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(Failure::new(format!("an upload was answered: {answer}")));
    }
    Ok(Uploaded { took: start.elapsed(), growth: memory.peak()?.saturating_sub(idle) })
}

/// A body that is never in memory as a whole.
struct Body {
    headers: Vec<(&'static str, String)>,
    size: u64,
    /// Before each chunk of the data and after it, where there are chunks.
    framing: Option<(String, String)>,
    end: String,
}

impl Body {
    fn new(mode: Mode, size: u64) -> Self {
        let signature = "0123456789abcdef".repeat(4);
        let (payload, extension, end) = match mode {
            Mode::Unsigned | Mode::Framed => return Self::plain(Vec::new(), size),
            Mode::Hash => return Self::plain(vec![("x-amz-content-sha256", signature)], size),
            Mode::Trailer => (
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                String::new(),
                "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".to_owned(),
            ),
            Mode::Resigned => (
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                format!(";chunk-signature={signature}"),
                format!("0;chunk-signature={signature}\r\n\r\n"),
            ),
        };
        let mut headers = vec![
            ("x-amz-content-sha256", payload.to_owned()),
            ("content-encoding", "aws-chunked".into()),
            ("x-amz-decoded-content-length", size.to_string()),
        ];
        if mode == Mode::Trailer {
            headers.push(("x-amz-trailer", "x-amz-checksum-crc32".into()));
        }
        assert!(size.is_multiple_of(CHUNK), "bodies here are whole chunks");
        Self { headers, size, framing: Some((format!("{CHUNK:x}{extension}\r\n"), "\r\n".into())), end }
    }

    fn plain(headers: Vec<(&'static str, String)>, size: u64) -> Self {
        Self { headers, size, framing: None, end: String::new() }
    }

    fn length(&self) -> u64 {
        let framing = self.framing.as_ref().map_or(0, |(before, after)| before.len() + after.len());
        self.size + (self.size / CHUNK) * framing as u64 + self.end.len() as u64
    }

    fn send(&self, stream: &mut TcpStream) -> Outcome<()> {
        let data = vec![b'd'; CHUNK as usize];
        let (before, after) = self.framing.clone().unwrap_or_default();
        let piece = [before.as_bytes(), &data, after.as_bytes()].concat();
        for _ in 0..self.size / CHUNK {
            stream.write_all(&piece)?;
        }
        Ok(stream.write_all(self.end.as_bytes())?)
    }
}
