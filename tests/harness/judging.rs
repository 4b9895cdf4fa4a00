//! An upstream that answers everything with 200, keeps nothing but what a judge finds wrong, and so can be loaded for long.

use crate::failure::{Outcome, While};
use crate::origin::{Recorded, read_head};
use crate::ports::Port;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is wrong with a request; none: nothing.
pub type Judge = fn(&Recorded) -> Option<String>;

/// So many faults are kept; all are counted.
const KEPT: usize = 20;

pub struct Judging {
    pub port: Port,
    seen: Arc<Seen>,
    ending: Arc<AtomicBool>,
}

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    faulty: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Judging {
    pub fn start(judge: Judge) -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let (seen, ending) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (kept, end) = (Arc::clone(&seen), Arc::clone(&ending));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let kept = Arc::clone(&kept);
                // A connection that Envoy gives up ends its thread.
                std::thread::spawn(move || serve(stream, judge, &kept));
            }
        });
        Ok(Self { port, seen, ending })
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// How many of them were wrong, and what was wrong with the first.
    pub fn faults(&self) -> (u64, Vec<String>) {
        let faults = self.seen.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.seen.faulty.load(Ordering::Relaxed), faults)
    }
}

impl Drop for Judging {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

fn serve(mut stream: TcpStream, judge: Judge, seen: &Seen) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(request) = read_head(&mut stream, &mut unread)? {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(fault) = judge(&request) {
            seen.faulty.fetch_add(1, Ordering::Relaxed);
            let mut faults = seen.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if faults.len() < KEPT {
                faults.push(fault);
            }
        }
        let length: usize =
            request.all("content-length").first().and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut buffer = [0; 16_384];
        while unread.len() < length {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            unread.extend_from_slice(&buffer[..read]);
        }
        unread.drain(..length);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
    }
    Ok(())
}
