//! TLS before a plain upstream: it shows whatever certificate a test gives it, and passes what it deciphers on untouched.

use crate::failure::{Outcome, While};
use crate::ports::Port;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long each direction is looked at before the other.
const TURN: Duration = Duration::from_millis(2);
/// A connection on which nothing happens for so many turns in both directions has been forgotten by a test.
const IDLE_TURNS: u32 = 10_000;

pub struct TlsFront {
    pub port: Port,
    shared: Arc<Shared>,
}

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    /// The names that clients asked for, and whether the handshake came to its end.
    greeted: Mutex<Vec<(Option<String>, bool)>>,
    ending: AtomicBool,
}

impl TlsFront {
    /// Before `to`, a port of loopback. Certificate and key in PEM.
    pub fn start(to: u16, certificate: &str, key: &str) -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let shared = Arc::new(Shared {
            config: Mutex::new(server_config(certificate, key)?),
            greeted: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let of_threads = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of_threads.ending.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&of_threads);
                // A client that turns away ends its thread with an error; that is what is noted of it.
                std::thread::spawn(move || relay(client, to, &shared));
            }
        });
        Ok(Self { port, shared })
    }

    /// What new connections are shown from now on.
    pub fn show(&self, certificate: &str, key: &str) -> Outcome<()> {
        let config = server_config(certificate, key)?;
        *self.shared.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The name that each client asked for, and whether its handshake came to its end.
    pub fn greeted(&self) -> Vec<(Option<String>, bool)> {
        self.shared.greeted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

fn server_config(certificate: &str, key: &str) -> Outcome<Arc<ServerConfig>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .while_(|| "reading a certificate".into())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).while_(|| "reading a key".into())?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .while_(|| "choosing TLS versions".into())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .while_(|| "using a certificate".into())?;
    Ok(Arc::new(config))
}

fn relay(mut client: TcpStream, to: u16, shared: &Shared) -> Outcome<()> {
    let config = Arc::clone(&shared.config.lock().unwrap_or_else(PoisonError::into_inner));
    let mut tls = ServerConnection::new(config).while_(|| "starting TLS".into())?;
    let mut done = Ok(());
    while tls.is_handshaking() && done.is_ok() {
        done = tls.complete_io(&mut client).map(drop);
    }
    // With TLS 1.3 a client that does not like the certificate says so after our part of the handshake is over.
    client.set_read_timeout(Some(TURN))?;
    if done.is_ok() && !tls.wants_write() {
        done = match tls.read_tls(&mut client) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if is_late(&error) => Ok(()),
            Ok(_) => tls.process_new_packets().map(drop).map_err(std::io::Error::other),
            Err(error) => Err(error),
        };
    }
    let name = tls.server_name().map(str::to_owned);
    shared.greeted.lock().unwrap_or_else(PoisonError::into_inner).push((name, done.is_ok()));
    done?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).while_(|| "connecting upstream".into())?;
    server.set_read_timeout(Some(TURN))?;
    let mut buffer = vec![0; 65_536];
    let mut idle = 0;
    while idle < IDLE_TURNS {
        idle += 1;
        // What has been deciphered already first, then what comes.
        match tls.reader().read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                server.write_all(&buffer[..length])?;
                idle = 0;
                continue;
            }
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error.into()),
        }
        match tls.read_tls(&mut client) {
            Ok(0) => break,
            Ok(_) => {
                tls.process_new_packets().while_(|| "deciphering".into())?;
                continue;
            }
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error.into()),
        }
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                tls.writer().write_all(&buffer[..length])?;
                idle = 0;
            }
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error.into()),
        }
        while tls.wants_write() {
            tls.write_tls(&mut client)?;
        }
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut client)?;
    }
    client.shutdown(Shutdown::Both)?;
    Ok(())
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
