//! The program as an operator runs it: init, serve, TLS, signals, logs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use registry::certificates;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_membrane-registry"));
    command.args(args).env("MEMBRANE_LOG", "trace");
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this message, and soon: what should have been refused may otherwise run for ever.
fn fails(args: &[&str], message: &str) {
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

fn home() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reg").to_str().unwrap().to_owned();
    ok(&["init", "--dir", &path, "--authority", "gw.example:8443"]);
    (dir, path)
}

/// Every file, its content and its permissions.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>, u32)> {
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

struct Running {
    child: Child,
    control: u16,
    gateway: u16,
    metrics: u16,
    client: Client,
    log: Option<std::thread::JoinHandle<String>>,
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
struct Client {
    dir: PathBuf,
}

fn serve(dir: &str) -> Running {
    let any = "127.0.0.1:0";
    let mut child = program(&["serve", "--dir", dir, "--control", any, "--gateway", any, "--metrics", any])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
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
    let log = std::thread::spawn(move || {
        lines.read_to_string(&mut log).unwrap();
        log
    });
    Running { child, control, gateway, metrics, client: Client { dir: dir.into() }, log: Some(log) }
}

impl Running {
    /// Stops it as an init system does; its log.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.take().unwrap().join().unwrap()
    }

    fn ask(&self, port: u16, client: Option<&str>, head: &str, body: &str) -> Option<(u16, String)> {
        self.client.ask(port, client, head, body)
    }

    fn api(&self, method: &str, target: &str, bearer: &str, body: &str) -> (u16, Value) {
        let head = format!("{method} {target} HTTP/1.1\r\nauthorization: Bearer {bearer}");
        let (status, body) = self.ask(self.control, None, &head, body).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    fn plain(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        write!(tcp, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Client {
    fn config(&self, client: Option<&str>) -> ClientConfig {
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

    /// One HTTP/1.1 request over TLS, with the client certificate of this name or none. None: refused in the handshake.
    fn ask(&self, port: u16, client: Option<&str>, head: &str, body: &str) -> Option<(u16, String)> {
        let config = self.config(client);
        let name = ServerName::try_from("membrane-registry").unwrap();
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let request =
            format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A server that closes without the TLS farewell has still answered.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n").unwrap().1.to_owned()))
    }

    /// One request over HTTP/2; its status.
    async fn ask_http2(&self, port: u16, bearer: &str, body: &str) -> u16 {
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

fn token(uri: &Value) -> &str {
    uri.as_str().unwrap().split_once('#').unwrap().1
}

#[test]
fn init_makes_everything_once_and_completes_what_is_half_done() {
    let (_keep, dir) = home();
    let path = Path::new(&dir);
    let before = contents(path);
    for (file, _, mode) in &before {
        let secret = [
            "kek",
            "ca-key.pem",
            "control-key.pem",
            "gateway-key.pem",
            "gateway-client-key.pem",
            "registry.db",
            "revocations.log",
        ]
        .iter()
        .any(|name| file.ends_with(name));
        assert_eq!(*mode, if secret { 0o600 } else { 0o644 }, "{}", file.display());
    }
    assert_eq!(before.len(), 12);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(ok(&["init", "--dir", &dir]).contains("nothing was changed"));
    assert_eq!(contents(path), before);

    // A run that was killed after any file: the next one completes it and overwrites no key.
    let order = [
        "registry.json",
        "registry.db",
        "tls/gateway-client.pem",
        "tls/gateway-client-key.pem",
        "tls/gateway.pem",
        "tls/gateway-key.pem",
        "tls/control.pem",
        "tls/control-key.pem",
        "ca.pem",
        "ca-key.pem",
    ];
    for done in 1..=order.len() {
        order[..done].iter().for_each(|file| fs::remove_file(path.join(file)).unwrap());
        let left: Vec<_> =
            contents(path).into_iter().filter(|file| !file.0.ends_with("revocations.log")).collect();
        ok(&["init", "--dir", &dir, "--authority", "gw.example:8443"]);
        let now = contents(path);
        assert_eq!(now.len(), 12, "after {done}");
        assert!(left.iter().all(|file| now.contains(file)), "after {done}");
    }
    // What must not be made anew is not.
    fs::remove_file(path.join("kek")).unwrap();
    fails(&["init", "--dir", &dir], "restore it from your backup");
    assert!(!path.join("kek").exists());
}

#[test]
fn what_is_wrong_is_said() {
    let (keep, dir) = home();
    let none = keep.path().join("none").to_str().unwrap().to_owned();
    fails(&["serve", "--dir", &none], &format!("run membrane-registry init --dir {none}"));
    let key = format!("{dir}/tls/control-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fails(
        &[
            "serve",
            "--dir",
            &dir,
            "--control",
            "127.0.0.1:0",
            "--gateway",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ],
        &format!("chmod 600 {key}"),
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(format!("{dir}/kek"), fs::Permissions::from_mode(0o604)).unwrap();
    fails(&["tenant", "list", "--dir", &dir], &format!("chmod 600 {dir}/kek"));
    fs::set_permissions(format!("{dir}/kek"), fs::Permissions::from_mode(0o600)).unwrap();
    ok(&["tenant", "create", "--dir", &dir, "--id", "acme"]);
    fails(&["tenant", "create", "--dir", &dir, "--id", "acme"], "there is a tenant with this id");
    fails(&["tenant", "create", "--dir", &dir, "--id", ""], "--id must have 1 to 512 characters");
    fails(&["tenant", "revoke", "--dir", &dir, "--id", "nobody"], "there is no tenant");
    fails(&["membrane", "revoke", "--dir", &dir, "--tenant", "acme", "--id", "m"], "no membrane");
    let out = keep.path().join("no/such/folder.json").to_str().unwrap().to_owned();
    fails(&["tenant", "create", "--dir", &dir, "--id", "lost", "--out", &out], "revoked again");
    let listed = ok(&["tenant", "list", "--dir", &dir]);
    assert!(listed.contains("acme") && !listed.contains("lost"));
    assert_eq!(run(&["serve"]).status.code(), Some(2));
}

#[test]
fn who_is_let_in_where() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let events = "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1";
    let (status, body) = server.ask(server.gateway, Some("gateway-client"), events, "").unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("slot_key"));
    // The same CA, but another name: the gateway's own server certificate, and the registry's.
    for stranger in [None, Some("gateway"), Some("control")] {
        assert_eq!(server.ask(server.gateway, stranger, events, ""), None, "{stranger:?}");
    }
    // Even a client certificate of the same CA, if it carries another name.
    let names = [("other", "membrane-gateway.other"), ("again", "membrane-gateway")];
    for (file, san) in names {
        let read = |file: &str| fs::read_to_string(format!("{dir}/{file}")).unwrap();
        let (ca, ca_key) = (read("ca.pem"), read("ca-key.pem").into());
        let key = certificates::new_key().unwrap();
        let now = std::fs::metadata(&dir).unwrap().modified().unwrap();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let purpose = certificates::Purpose::Client;
        let pem = certificates::issue(&ca, &ca_key, &key, purpose, vec![san.to_owned()], now).unwrap();
        fs::write(format!("{dir}/tls/{file}.pem"), pem).unwrap();
        fs::write(format!("{dir}/tls/{file}-key.pem"), key.as_bytes()).unwrap();
    }
    assert_eq!(server.ask(server.gateway, Some("other"), events, ""), None);
    assert_eq!(server.ask(server.gateway, Some("again"), events, "").unwrap().0, 200);
    // Nothing of the gateway listener is at the control listener, nor the other way round.
    assert_eq!(server.ask(server.control, None, events, "").unwrap().0, 404);
    assert_eq!(server.ask(server.gateway, Some("gateway-client"), "GET / HTTP/1.1", "").unwrap().0, 404);
    // Heads have a limit.
    let huge = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(40_000));
    assert!(server.ask(server.control, None, &huge, "").is_none_or(|(status, _)| status == 431));
    assert!(server.plain("/healthz").starts_with("HTTP/1.1 200"));
    assert!(server.plain("/readyz").starts_with("HTTP/1.1 200"));
    let metrics = server.plain("/metrics");
    assert!(
        metrics.contains("membrane_registry_requests_total{listener=\"gateway\",status=\"2xx\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("membrane_registry_handshakes_failed_total"));
    server.stop();
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let before = fs::read(format!("{dir}/tls/control.pem")).unwrap();
    // Another CA altogether: what was trusted before is refused after.
    let other = tempfile::tempdir().unwrap();
    let theirs = other.path().join("reg").to_str().unwrap().to_owned();
    ok(&["init", "--dir", &theirs]);
    let asks =
        |server: &Running| server.ask(server.control, None, "GET / HTTP/1.1", "").map(|(status, _)| status);
    assert_eq!(asks(&server), Some(401));
    for file in ["tls/control-key.pem", "tls/control.pem"] {
        fs::copy(format!("{theirs}/{file}"), format!("{dir}/{file}")).unwrap();
    }
    let changed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        asks(&server).is_none()
    });
    assert!(changed, "the new certificate is of a CA that this client does not trust");
    server.stop();
    ok(&["cert", "issue", "--dir", &theirs, "--name", "control"]);
    assert_ne!(fs::read(format!("{theirs}/tls/control.pem")).unwrap(), before);
}

#[test]
fn the_operator_beside_a_running_server_and_no_secret_in_any_log() {
    let (keep, dir) = home();
    let server = serve(&dir);
    let out = keep.path().join("tenant.json").to_str().unwrap().to_owned();
    ok(&["tenant", "create", "--dir", &dir, "--id", "acme", "--out", &out]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let tenant: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    let fields: Vec<&String> = tenant.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["create", "deleteSelf", "id", "query"]);
    assert!(tenant["create"].as_str().unwrap().starts_with("cpblty://gw.example:8443/#"));
    fails(&["tenant", "create", "--dir", &dir, "--id", "b", "--out", &out], "is there already");

    let (status, made) = server.api("POST", "/", token(&tenant["create"]), r#"{"id":"m"}"#);
    assert_eq!(status, 201);
    let (export, revoke) = (token(&made["capabilities"]["export"]), token(&made["capabilities"]["revoke"]));
    let body = json!({"uri": "https://canary.example/", "headers": {"x-api-key": "canary-header"},
        "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIACANARY", "region": "r", "service": "s", "secretAccessKey": "canary-secret"}}});
    let (status, minted) = server.api("POST", "/", export, &body.to_string());
    assert_eq!(status, 201);
    let grant = token(&minted["capability"]);
    assert_eq!(server.api("POST", "/", export, r#"{"uri":"canary-uri","canary-field":1}"#).0, 400);
    assert_eq!(server.api("GET", "/?id=canary-id&limit=5", token(&tenant["query"]), "").0, 200);
    assert_eq!(server.api("GET", "/?canary-parameter=1", token(&tenant["query"]), "").0, 400);

    // HTTP/2 as well, whose library prints whole header blocks if it is let.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let over_http2 = server.client.ask_http2(server.control, token(&tenant["create"]), r#"{"id":"over h2"}"#);
    assert_eq!(runtime.block_on(over_http2), 201);
    drop(runtime);

    // A held question is woken by a revocation in another process.
    let leaked = std::thread::scope(|scope| {
        let (_, body) = server
            .ask(
                server.gateway,
                Some("gateway-client"),
                "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1",
                "",
            )
            .unwrap();
        let position: Value = serde_json::from_str(&body).unwrap();
        let epoch = position["position"]["epoch"].as_str().unwrap().to_owned();
        let server = &server;
        let held = scope.spawn(move || {
            let head = format!("GET /v1/events?epoch={epoch}&after=0&hold=30000&watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1");
            server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap().1
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut revoking = program(&["revoke", "--dir", &dir, "--token-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        revoking.stdin.take().unwrap().write_all(grant.as_bytes()).unwrap();
        assert_eq!(revoking.wait_with_output().unwrap().stdout, b"{\"revoked\":true}\n");
        held.join().unwrap()
    });
    let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id().to_string();
    assert!(leaked.contains(&lookup), "{leaked}");

    assert!(ok(&["membrane", "list", "--dir", &dir, "--tenant", "acme"]).contains("\"id\":\"m\""));
    assert_eq!(
        ok(&["membrane", "revoke", "--dir", &dir, "--tenant", "acme", "--id", "m"]),
        "{\"revoked\":true}\n"
    );
    assert_eq!(server.api("POST", "/", export, "{}").0, 401);
    assert_eq!(server.api("DELETE", "/", revoke, "").0, 202);
    assert_eq!(ok(&["tenant", "revoke", "--dir", &dir, "--id", "acme"]), "{\"revoked\":true}\n");
    assert_eq!(server.api("POST", "/", token(&tenant["create"]), "{}").0, 401);

    let log = server.stop();
    assert!(log.contains("serving") && log.contains("answered"), "trace is on: {log}");
    // Libraries are not heard at these levels, whatever they would print: that is theirs to change with every release.
    assert!(!log.contains("h2::") && !log.contains("hyper"), "{log}");
    let secrets = [&tenant["create"], &tenant["query"], &tenant["deleteSelf"]].map(token);
    for secret in secrets.into_iter().chain([export, revoke, grant, "CPBLTY1-", "canary", "AKIACANARY"]) {
        assert!(!log.to_lowercase().contains(&secret.to_lowercase()), "{secret} in the log");
    }
    let files = contents(Path::new(&dir));
    for secret in [export, revoke, grant, "canary"] {
        let found =
            files.iter().find(|file| file.1.windows(secret.len()).any(|window| window == secret.as_bytes()));
        assert!(found.is_none(), "{secret} in {:?}", found.map(|file| &file.0));
    }
}

#[test]
fn a_stopping_server_answers_held_questions() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let (_, body) = server
        .ask(
            server.gateway,
            Some("gateway-client"),
            "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1",
            "",
        )
        .unwrap();
    let position: Value = serde_json::from_str(&body).unwrap();
    let epoch = position["position"]["epoch"].as_str().unwrap().to_owned();
    let (client, port) = (server.client.clone(), server.gateway);
    let held = std::thread::spawn(move || {
        let head = format!(
            "GET /v1/events?epoch={epoch}&after=0&hold=60000&watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1"
        );
        client.ask(port, Some("gateway-client"), &head, "").unwrap().0
    });
    std::thread::sleep(Duration::from_millis(300));
    server.stop();
    assert_eq!(held.join().unwrap(), 200);
}
