//! A name server that knows every name, and that each is this machine: for a gateway that resolves names by itself.

use crate::failure::{Outcome, While};
use crate::ports::Port;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Names {
    pub port: Port,
    asked: Arc<Mutex<Vec<String>>>,
    ending: Arc<AtomicBool>,
}

impl Names {
    pub fn start() -> Outcome<Self> {
        let port = Port::free()?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let (asked, ending) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (kept, end) = (Arc::clone(&asked), Arc::clone(&ending));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                if let Some((name, answer)) = answer(&buffer[..length]) {
                    let kept: &Mutex<Vec<String>> = &kept;
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { port, asked, ending })
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the thread up, so that it sees that it should end.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(&[0], (Ipv4Addr::LOCALHOST, self.port.number()));
        }
    }
}

/// RFC 1035 §4.1, one question: 127.0.0.1 for a type A of class IN, an empty answer for any other.
fn answer(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let id = query.get(..2)?;
    let (mut at, mut name) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8(query.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let is_address = query.get(at..at + 4)? == [0, 1, 0, 1];
    let mut answer = id.to_vec();
    // A response, recursion desired and available; one question; an answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_address {
        // The name of the question; A, IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some((name.join("."), answer))
}
