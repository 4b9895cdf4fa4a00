//! Uploads far larger than any buffer, into a sink that counts: how much memory Envoy takes meanwhile, and how long it takes.

use harness::failure::While;
use harness::memory::Memory;
use harness::ports::Port;
use harness::uploads::{Body, Mode};
use harness::{Failure, Outcome};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

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
    body.send(|piece| Ok(stream.write_all(piece)?))?;
    let (answer, _) = read_head(&mut stream)?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(Failure::new(format!("an upload was answered: {answer}")));
    }
    Ok(Uploaded { took: start.elapsed(), growth: memory.peak()?.saturating_sub(idle) })
}
