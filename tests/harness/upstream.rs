//! An upstream that does what a test says, and tells what came: how much of a body, and whether it ended as it should.

use crate::failure::{Outcome, While};
use crate::origin::{Recorded, read_head};
use crate::ports::Port;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is done with each request.
#[derive(Clone, Debug)]
pub enum Script {
    /// Reads the whole body, then answers 200.
    Take,
    /// Says 100 first, then as [`Self::Take`].
    Continue,
    /// Answers as soon as so many bytes of the body have come, and closes; what still comes is thrown away.
    Answer { after: u64, with: &'static str },
}

/// One request, and its body as far as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Without its body.
    pub head: Recorded,
    /// Without HTTP's own chunk framing.
    pub length: u64,
    pub sha256: [u8; 32],
    /// Whether it ended as its head announced.
    pub whole: bool,
}

pub struct Upstream {
    pub port: Port,
    received: Arc<Mutex<Vec<Received>>>,
    ending: Arc<AtomicBool>,
}

impl Upstream {
    pub fn start(script: Script) -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let ending = Arc::new(AtomicBool::new(false));
        let (kept, end) = (Arc::clone(&received), Arc::clone(&ending));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (kept, script) = (Arc::clone(&kept), script.clone());
                // A connection that is given up ends its thread with an error; what came until then is kept.
                std::thread::spawn(move || serve(stream, &script, &kept));
            }
        });
        Ok(Self { port, received, ending })
    }

    /// The requests that have ended so far, in one way or another.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many requests have ended.
    pub fn wait_for(&self, count: usize, within: Duration) -> Vec<Received> {
        let start = Instant::now();
        loop {
            let received = self.received();
            if received.len() >= count || start.elapsed() > within {
                return received;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

fn serve(mut stream: TcpStream, script: &Script, kept: &Mutex<Vec<Received>>) -> Outcome<()> {
    let mut unread = Vec::new();
    let Some(head) = read_head(&mut stream, &mut unread)? else { return Ok(()) };
    if matches!(script, Script::Continue) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let enough = match script {
        Script::Answer { after, .. } => *after,
        Script::Take | Script::Continue => u64::MAX,
    };
    let mut body = Body { stream: &mut stream, unread, length: 0, hash: Sha256::new(), enough };
    // Cut off is how some of these end.
    let whole = body.read(&head).unwrap_or(false);
    let received = Received { length: body.length, sha256: body.hash.finalize().into(), whole, head };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    match script {
        Script::Answer { with, .. } => {
            stream.write_all(with.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            // To close with something unread would be a reset, which may overtake the answer.
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            std::io::copy(&mut stream, &mut std::io::sink())?;
        }
        _ if whole => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?
        }
        _ => {}
    }
    Ok(())
}

struct Body<'a> {
    stream: &'a mut TcpStream,
    unread: Vec<u8>,
    length: u64,
    hash: Sha256,
    enough: u64,
}

impl Body<'_> {
    /// Whether it came whole.
    fn read(&mut self, head: &Recorded) -> std::io::Result<bool> {
        if head.all("transfer-encoding").iter().any(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.line()?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                if !self.data(size)? {
                    return Ok(false);
                }
                self.line()?;
                if size == 0 {
                    return Ok(true);
                }
            }
        }
        let length = head.all("content-length").first().and_then(|length| length.parse().ok());
        self.data(length.unwrap_or(0))
    }

    fn data(&mut self, mut left: u64) -> std::io::Result<bool> {
        while left > 0 {
            if self.length >= self.enough {
                return Ok(false);
            }
            if self.unread.is_empty() && !self.more()? {
                return Ok(false);
            }
            let length = self.unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.hash.update(&self.unread[..length]);
            self.unread.drain(..length);
            left -= length as u64;
            self.length += length as u64;
        }
        Ok(true)
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.unread.drain(..end + 2).collect();
                return String::from_utf8(line).map_err(std::io::Error::other);
            }
            if !self.more()? {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn more(&mut self) -> std::io::Result<bool> {
        let mut buffer = vec![0; 65_536];
        let read = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}
