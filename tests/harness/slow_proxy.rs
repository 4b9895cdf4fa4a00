//! A TCP proxy that can be made slow, or cut, while it runs. It stands before the registry's gateway listener, and passes
//! the mutual TLS through untouched.

use crate::failure::{Outcome, While};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct SlowProxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    delay_ms: AtomicU64,
    cut: AtomicBool,
    ending: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl SlowProxy {
    pub fn start(port: u16, to: u16) -> Outcome<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).while_(|| format!("listening on {port}"))?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ending.load(Ordering::Relaxed) {
                    return;
                }
                if shared.cut.load(Ordering::Relaxed) {
                    continue;
                }
                // The registry may be down: then the client's connection is closed, as it should see.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) {
                    let _ = relay(client, server, &shared);
                }
            }
        });
        Ok(Self { port, state })
    }

    /// From now on each piece of an answer comes this much later.
    pub fn delay(&self, by: Duration) {
        self.state.delay_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Closes every connection, and new ones as they come.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
        let mut open = self.state.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn restore(&self) {
        self.state.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for SlowProxy {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn relay(client: TcpStream, server: TcpStream, state: &Arc<State>) -> Outcome<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    state
        .open
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .extend([client.try_clone()?, server.try_clone()?]);
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(from_client, to_server, || Duration::ZERO));
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        copy(server, client, || Duration::from_millis(state.delay_ms.load(Ordering::Relaxed)))
    });
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, delay: impl Fn() -> Duration) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read) = from.read(&mut buffer) {
        std::thread::sleep(delay());
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
