//! The program as an operator runs it, and whoever speaks to it.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_membrane-registry"));
    command.args(args).env("MEMBRANE_LOG", "trace");
    command
}

pub fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

pub fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this message, and soon: what should have been refused may otherwise run for ever.
pub fn fails(args: &[&str], message: &str) {
    let mut child = program(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..200 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(error.contains(message), "{error} should hold {message}");
}

pub fn home() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reg").to_str().unwrap().to_owned();
    ok(&["init", "--dir", &path, "--authority", "gw.example:8443"]);
    (dir, path)
}

/// Every file, its content and its permissions.
pub fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>, u32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            all.push((path.clone(), fs::read(&path).unwrap(), mode));
        }
    }
    all.sort();
    all
}

pub struct Running {
    pub child: Child,
    pub control: u16,
    pub gateway: u16,
    pub metrics: u16,
    /// Where it was asked for.
    pub gateway_plain: Option<u16>,
    pub client: Client,
    pub log: Option<std::thread::JoinHandle<String>>,
}

/// A test that fails leaves no server behind.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whoever has the certificates of a registry's folder.
#[derive(Clone)]
pub struct Client {
    pub dir: PathBuf,
}

pub fn serve(dir: &str) -> Running {
    serve_with(dir, |_| {})
}

/// A server, with more arguments or another environment.
pub fn serve_with(dir: &str, change: impl FnOnce(&mut Command)) -> Running {
    let any = "127.0.0.1:0";
    let mut command = program(&["serve", "--dir", dir, "--control", any, "--gateway", any, "--metrics", any]);
    change(&mut command);
    serve_command(dir, command)
}

/// A server by a command that is ready to run.
pub fn serve_command(dir: &str, mut command: Command) -> Running {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut log) = (String::new(), String::new());
    while !line.contains("serving") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended: {log}");
        log.push_str(&line);
    }
    let port = |name: &str| {
        let rest = line.split_once(&format!("{name}=127.0.0.1:")).unwrap().1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (control, gateway, metrics) = (port("control"), port("gateway"), port("metrics"));
    let gateway_plain = line.contains("gateway_plain").then(|| port("gateway_plain"));
    let log = std::thread::spawn(move || {
        lines.read_to_string(&mut log).unwrap();
        log
    });
    Running {
        child,
        control,
        gateway,
        metrics,
        gateway_plain,
        client: Client { dir: dir.into() },
        log: Some(log),
    }
}

impl Running {
    /// Stops it as an init system does; its log.
    pub fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.take().unwrap().join().unwrap()
    }

    /// As a power cut stops it.
    pub fn kill(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    pub fn ask(&self, port: u16, client: Option<&str>, head: &str, body: &str) -> Option<(u16, String)> {
        self.client.ask(port, client, head, body)
    }

    pub fn api(&self, method: &str, target: &str, bearer: &str, body: &str) -> (u16, Value) {
        let head = format!("{method} {target} HTTP/1.1\r\nauthorization: Bearer {bearer}");
        let (status, body) = self.ask(self.control, None, &head, body).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    pub fn plain(&self, path: &str) -> String {
        plain(self.metrics, path)
    }
}

/// One request in the clear; the whole answer.
pub fn plain(port: u16, path: &str) -> String {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

impl Client {
    pub fn config(&self, client: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.join("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |end| self.dir.join("tls").join(format!("{name}{end}"));
                let certificate = CertificateDer::from_pem_file(file(".pem")).unwrap();
                let key = PrivateKeyDer::from_pem_file(file("-key.pem")).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        }
    }

    /// One HTTP/1.1 request over TLS, with the client certificate of this name or none. None: refused in the handshake, or cut off.
    pub fn ask(&self, port: u16, client: Option<&str>, head: &str, body: &str) -> Option<(u16, String)> {
        let config = self.config(client);
        let name = ServerName::try_from("membrane-registry").unwrap();
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).ok()?;
        // Long enough for a machine that does much else: what is slow is not lost.
        tcp.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let request =
            format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A server that closes without the TLS farewell has still answered.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// One request over HTTP/2; its status.
    pub async fn ask_http2(&self, port: u16, bearer: &str, body: &str) -> u16 {
        let mut config = self.config(None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("membrane-registry").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = hyper_util::rt::TokioIo::new(tls);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post("https://membrane-registry/")
            .header("authorization", format!("Bearer {bearer}"))
            .header("x-canary", "canary-header")
            .body(body.to_owned())
            .unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    }
}

pub fn token(uri: &Value) -> &str {
    uri.as_str().unwrap().split_once('#').unwrap().1
}
