//! Without a registry: records that `capi seal` made stand in the filter's configuration. envoy/drop-in.yaml as people copy it, but for
//! ports, files, and where it goes for AWS; its listener comes from a file that Envoy watches, so that it can be loaded anew.

use crate::{assert_error, eventually, folder};
use harness::failure::Failure;
use harness::http::Client;
use harness::origin::{Origin, RECORDER};
use harness::ports::Port;
use harness::process::Process;
use harness::verifier::{Expected, verify};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SECRET: &str = "canary-drop-in-secret-access-key";

struct DropIn {
    dir: PathBuf,
    envoy: Process,
    port: Port,
    admin: Port,
    origin: Origin,
    origin_port: Port,
    client: Client,
}

fn capi(dir: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(harness::program("capi").unwrap())
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A capability, and the record for the configuration.
fn seal(dir: &Path, port: u16, path: &str) -> (String, Value) {
    let grant = json!({
        "uri": format!("https://{RECORDER}{path}"),
        "hmac": {"aws4-hmac-sha256": {
            "awsAccessKeyId": "AKIADROPIN", "region": "us-east-1", "service": "lambda", "secretAccessKey": SECRET,
        }},
    });
    let authority = format!("localhost:{port}");
    let sealed = capi(dir, &["seal", "--authority", &authority, "--kek-file", "kek"], &grant.to_string());
    let sealed: Value = serde_json::from_str(&sealed).unwrap();
    (sealed["capability"].as_str().unwrap().to_owned(), sealed["record"].clone())
}

/// The file's listener with these records, as the answer of a discovery service that a file is.
fn listener(yaml: &str, records: &[&Value]) -> String {
    let (_, rest) = yaml.split_once("  listeners:\n").unwrap();
    let (listener, _) = rest.split_once("\n  clusters:\n").unwrap();
    let configuration = json!({"registry": null, "records": records}).to_string();
    let listener = listener.replace(r#"{ "registry": null, "records": [] }"#, &configuration);
    let typed = listener.replacen(
        "  - name: gateway\n",
        "  - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n    name: gateway\n",
        1,
    );
    format!("resources:\n{typed}")
}

impl DropIn {
    fn start(name: &str) -> Self {
        let dir = folder(name);
        std::fs::create_dir_all(dir.join("logs")).unwrap();
        let (port, admin, origin_port) =
            (Port::free().unwrap(), Port::free().unwrap(), Port::free().unwrap());
        // A registry's `init` makes certificates; nothing else of it is used.
        let authority = format!("localhost:{}", port.number());
        harness::registry::init(&dir.join("certificates"), &authority).unwrap();
        capi(&dir, &["kek", "--out", "kek"], "");
        let origin = Origin::start(origin_port.number(), origin_port.number()).unwrap();
        let client = Client::tls(port.number(), &dir.join("certificates/ca.pem")).unwrap();
        let mut this = Self { envoy: idle(), dir, port, admin, origin, origin_port, client };
        this.load(&[]);
        let yaml = this.yaml();
        let (_, clusters) = yaml.split_once("\n  clusters:\n").unwrap();
        assert!(clusters.contains("name: aws"), "envoy/drop-in.yaml no longer has a cluster aws");
        let bootstrap = json!({
            "node": {"id": "drop-in", "cluster": "drop-in"},
            "admin": {"address": address(&this.admin)},
            "dynamic_resources": {"lds_config": {"path_config_source": {"path": this.dir.join("listeners.yaml")}}},
            "static_resources": {"clusters": [{
                "name": "aws", "type": "STATIC", "connect_timeout": "2s",
                "load_assignment": {"cluster_name": "aws", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": address(&this.origin_port)}},
                ]}]},
            }]},
        });
        let config = this.dir.join("envoy.json");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let mut command = Command::new(harness::envoy::program().unwrap());
        command.arg("-c").arg(&config).args(["--disable-hot-restart", "--concurrency", "2", "-l", "info"]);
        command.args(["--component-log-level", "wasm:trace"]);
        command.env("MEMBRANE_KEK", std::fs::read_to_string(this.dir.join("kek")).unwrap().trim());
        this.envoy = Process::spawn("Envoy", command, &this.dir.join("logs/envoy.log")).unwrap();
        let client = this.client.clone();
        this.envoy
            .wait_until(Duration::from_secs(30), "answering", || {
                client.request("GET", "/").send().is_ok_and(|answer| answer.status == 401)
            })
            .unwrap();
        this
    }

    fn yaml(&self) -> String {
        let repository = harness::repository();
        let text = std::fs::read_to_string(repository.join("envoy/drop-in.yaml")).unwrap();
        let mut replaced = text;
        let certificates = self.dir.join("certificates/tls");
        for (default, actual) in [
            ("port_value: 8443", format!("port_value: {}", self.port.number())),
            ("filename: gateway.pem", format!("filename: {}/gateway.pem", certificates.display())),
            ("filename: gateway-key.pem", format!("filename: {}/gateway-key.pem", certificates.display())),
            ("filename: membrane.wasm", format!("filename: {}", harness::module().unwrap().display())),
        ] {
            assert!(replaced.contains(default), "envoy/drop-in.yaml no longer holds {default}");
            replaced = replaced.replace(default, &actual);
        }
        // Names are resolved for the real AWS alone.
        let (before, after) = replaced.split_once("          # Resolves the host").unwrap();
        let (_, after) = after.split_once("          - name: envoy.filters.http.router").unwrap();
        format!("{before}          - name: envoy.filters.http.router{after}")
    }

    /// Puts the file in place whole, which is what Envoy watches for.
    fn load(&self, records: &[&Value]) {
        let unfinished = self.dir.join("listeners.new");
        std::fs::write(&unfinished, listener(&self.yaml(), records)).unwrap();
        std::fs::rename(unfinished, self.dir.join("listeners.yaml")).unwrap();
    }

    fn ask(&self, capability: &str) -> harness::http::Response {
        self.client.request("POST", "/").bearer(capability).body("hello").send().unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        let stats = Client::plain(self.admin.number()).request("GET", "/stats").send().unwrap().text();
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

fn address(port: &Port) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port.number()}})
}

/// In the place of Envoy until its configuration stands.
fn idle() -> Process {
    let log = folder("drop-in-idle");
    std::fs::create_dir_all(&log).unwrap();
    let mut command = Command::new("sleep");
    command.arg("60");
    Process::spawn("sleep", command, &log.join("log")).unwrap()
}

#[test]
fn a_sealed_grant_is_honoured_until_its_record_is_taken_out() {
    let gateway = DropIn::start("drop-in");
    let (first, first_record) = seal(&gateway.dir, gateway.port.number(), "/drop-in/first");
    let (second, second_record) = seal(&gateway.dir, gateway.port.number(), "/drop-in/second");
    assert_error(&gateway.ask(&first), 401, "");
    gateway.load(&[&first_record, &second_record]);
    for capability in [&first, &second] {
        eventually(200, Duration::from_secs(20), || gateway.ask(capability));
        // Both workers, cold and warm.
        assert!((0..8).all(|_| gateway.ask(capability).status == 200));
    }
    let requests = gateway.origin.requests("/drop-in/");
    let expected = Expected {
        access_key_id: "AKIADROPIN",
        secret_access_key: SECRET,
        region: "us-east-1",
        service: "lambda",
    };
    assert!(requests.len() >= 18 && requests.iter().all(|request| request.body == b"hello"));
    verify(&requests, &expected).unwrap();
    // The table of routes is the allow-list here, too, and the rest of a request is judged as ever.
    let smuggled = gateway.client.request("POST", "/x").bearer(&first).send().unwrap();
    assert_error(&smuggled, 404, "path");
    // Taking a record out revokes it; the other one lives on.
    gateway.load(&[&second_record]);
    eventually(401, Duration::from_secs(20), || gateway.ask(&first));
    std::thread::sleep(Duration::from_millis(500));
    assert!((0..8).all(|_| gateway.ask(&first).status == 401 && gateway.ask(&second).status == 200));
    // A file that cannot be used changes nothing: Envoy goes on with the one before.
    let rejected = gateway.stat("listener_manager.lds.update_rejected");
    let mut broken = first_record.clone();
    broken["record"] = second_record["record"].clone();
    gateway.load(&[&broken]);
    let start = std::time::Instant::now();
    while gateway.stat("listener_manager.lds.update_rejected") == rejected {
        assert!(start.elapsed() < Duration::from_secs(20), "the broken records were not refused");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((gateway.ask(&first).status, gateway.ask(&second).status), (401, 200));
    // Nothing of it is written anywhere in the clear.
    let log = std::fs::read_to_string(gateway.dir.join("logs/envoy.log")).unwrap();
    assert!(log.contains("records[0] does not open"), "the log says why");
    let kek = std::fs::read_to_string(gateway.dir.join("kek")).unwrap();
    let dump = Client::plain(gateway.admin.number()).request("GET", "/config_dump").send().unwrap().text();
    assert!(dump.contains("records"));
    for text in [&log, &dump] {
        for secret in
            [SECRET, kek.trim(), first.rsplit('#').next().unwrap(), second.rsplit('#').next().unwrap()]
        {
            assert!(!text.contains(secret));
        }
    }
}

/// Without the key nothing is served: Envoy does not take the listener.
#[test]
fn without_the_key_it_is_refused_and_says_what_to_do() {
    let dir = folder("drop-in-keyless");
    std::fs::create_dir_all(&dir).unwrap();
    capi(&dir, &["kek", "--out", "kek"], "");
    let (_, record) = seal(&dir, 8443, "/x");
    let yaml = std::fs::read_to_string(harness::repository().join("envoy/drop-in.yaml")).unwrap();
    harness::registry::init(&dir.join("certificates"), "localhost:8443").unwrap();
    let tls = dir.join("certificates/tls");
    let records = json!({"registry": null, "records": [record]}).to_string();
    let yaml = yaml
        .replace(r#"{ "registry": null, "records": [] }"#, &records)
        .replace("filename: gateway", &format!("filename: {}/gateway", tls.display()))
        .replace("filename: membrane.wasm", &format!("filename: {}", harness::module().unwrap().display()));
    let config = dir.join("envoy.yaml");
    std::fs::write(&config, yaml).unwrap();
    let kek = std::fs::read_to_string(dir.join("kek")).unwrap();
    let validate = |key: Option<&str>| -> Result<String, Failure> {
        let mut command = Command::new(harness::envoy::program().unwrap());
        command.args(["--mode", "validate", "-c"]).arg(&config).env_remove("MEMBRANE_KEK");
        if let Some(key) = key {
            command.env("MEMBRANE_KEK", key);
        }
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said) } else { Err(Failure::new(said)) }
    };
    validate(Some(kek.trim())).unwrap();
    let said = validate(None).unwrap_err().to_string();
    assert!(said.contains("host_env_keys"), "{said}");
}
