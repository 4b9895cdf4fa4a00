//! envoy/production.yaml as people copy it, but for ports, files and names of hosts: against a local AWS behind TLS whose certificate is
//! a test's, and against impostors. The registry is the real one, over mutual TLS.

use crate::{assert_error, folder};
use harness::aws::{FUNCTION, Moto, REGION};
use harness::gateway::text;
use harness::http::{Client, Response};
use harness::layout;
use harness::names::Names;
use harness::origin::Origin;
use harness::ports::{Port, Ports};
use harness::prepare::{self, Prepared};
use harness::process::Process;
use harness::tls_front::TlsFront;
use registry::certificates::{self, KeyPem, Purpose};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LAMBDA: &str = "lambda.us-east-1.amazonaws.com";

/// A CA, and a key for what it signs.
struct Authority {
    pem: String,
    ca_key: KeyPem,
    key: KeyPem,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Authority {
    fn new() -> Self {
        let ca_key = certificates::new_key().unwrap();
        Self {
            pem: certificates::authority(&ca_key, now()).unwrap(),
            ca_key,
            key: certificates::new_key().unwrap(),
        }
    }

    fn certificate(&self, name: &str) -> String {
        let names = vec![name.to_owned()];
        certificates::issue(&self.pem, &self.ca_key, &self.key, Purpose::Server, names, now()).unwrap()
    }
}

/// Dropped from top to bottom: Envoy first.
struct Production {
    envoy: Process,
    _registry: Process,
    aws: Moto,
    origin: Origin,
    _origin_port: Port,
    front: TlsFront,
    names: Names,
    authority: Authority,
    ports: Ports,
    dir: PathBuf,
    tenant: Value,
    client: Client,
}

/// The file with these in place of its own; each must be there.
fn rendered(replacements: &[(&str, String)]) -> String {
    let file = harness::repository().join("envoy/production.yaml");
    let mut text = std::fs::read_to_string(file).unwrap();
    for (default, actual) in replacements {
        assert!(text.contains(default), "envoy/production.yaml no longer holds {default}");
        text = text.replace(default, actual);
    }
    text
}

impl Production {
    fn start(name: &str) -> Self {
        let ports = Ports::free().unwrap();
        let Prepared { dir, tenant, .. } = prepare::folder(&folder(name), ports.gateway.number()).unwrap();
        let logs = dir.join("logs");
        let registry = harness::registry::serve(&layout::registry(&dir), &logs, &ports, true).unwrap();
        let aws = Moto::start(&layout::aws(&dir), &logs, ports.aws.number()).unwrap();
        let origin_port = Port::free().unwrap();
        let origin = Origin::start(origin_port.number(), ports.aws.number()).unwrap();
        let authority = Authority::new();
        let front =
            TlsFront::start(origin_port.number(), &authority.certificate(LAMBDA), &authority.key).unwrap();
        let names = Names::start().unwrap();
        std::fs::write(dir.join("aws-ca.pem"), &authority.pem).unwrap();

        let file = |name: &str| dir.join(name).display().to_string();
        let loopback = |port: u16| format!("{{ address: 127.0.0.1, port_value: {port} }}");
        let aws_port = front.port.number();
        let resolver = "CaresDnsResolverConfig\n";
        let yaml = rendered(&[
            ("{ address: 127.0.0.1, port_value: 9901 }", loopback(ports.admin.number())),
            ("{ address: 0.0.0.0, port_value: 8443 }", loopback(ports.gateway.number())),
            ("{ address: registry.internal, port_value: 9443 }", loopback(ports.control.number())),
            ("{ address: registry.internal, port_value: 9444 }", loopback(ports.registry.number())),
            ("{ address: lambda.us-east-1.amazonaws.com, port_value: 443 }", loopback(aws_port)),
            // As everywhere, what is not 443 stands in the name of the host.
            (r#"["*.amazonaws.com"]"#, format!(r#"["*.amazonaws.com:{aws_port}"]"#)),
            ("/etc/membrane/tls/ca.pem", file("ca.pem")),
            ("/etc/membrane/tls/", file("gateway/tls/")),
            ("/etc/membrane/membrane.wasm", harness::module().unwrap().display().to_string()),
            ("/etc/ssl/certs/ca-certificates.crt", file("aws-ca.pem")),
            (
                resolver,
                format!(
                    "{resolver}                    resolvers:\n                    - socket_address: {{ protocol: UDP, {} }}\n",
                    loopback(names.port.number()).trim_matches(['{', '}', ' '])
                ),
            ),
        ]);
        let config = dir.join("envoy.yaml");
        std::fs::write(&config, yaml).unwrap();
        let client = Client::tls(ports.gateway.number(), &dir.join("ca.pem")).unwrap();
        let mut command = harness::envoy::command(&config).unwrap();
        // Otherwise a line of the access log may be written ten seconds later.
        command.args(["--concurrency", "2", "--file-flush-interval-msec", "100"]);
        let mut envoy = Process::spawn("Envoy", command, &logs.join("envoy.log")).unwrap();
        envoy
            .wait_until(Duration::from_secs(30), "answering", || {
                client.request("GET", "/").send().is_ok_and(|answer| answer.status == 401)
            })
            .unwrap();
        Self {
            envoy,
            _registry: registry,
            aws,
            origin,
            _origin_port: origin_port,
            front,
            names,
            authority,
            ports,
            dir,
            tenant,
            client,
        }
    }

    fn post(&self, capability: &str, body: &Value) -> Response {
        self.client.request("POST", "/").bearer(capability).json(body).send().unwrap()
    }

    /// Export and revoke of a new membrane.
    fn membrane(&self, id: &str) -> [String; 2] {
        let made = self.post(text(&self.tenant, "create").unwrap(), &json!({ "id": id }));
        let made = made.expect(201, "creating a membrane").unwrap().json();
        ["export", "revoke"].map(|role| text(&made["capabilities"], role).unwrap().to_owned())
    }

    /// A capability for the local AWS's function, at `host`.
    fn function(&self, export: &str, host: &str) -> String {
        let key = &self.aws.key;
        let grant = json!({
            "uri": format!("https://{host}/2015-03-31/functions/{FUNCTION}/invocations"), "method": "POST",
            "hmac": {"aws4-hmac-sha256": {
                "awsAccessKeyId": key.id, "secretAccessKey": key.secret, "region": REGION, "service": "lambda",
            }},
        });
        let exported = self.post(export, &grant).expect(201, "exporting").unwrap().json();
        text(&exported, "capability").unwrap().to_owned()
    }

    /// The host of Lambda that no route names by itself.
    fn dynamic(&self) -> String {
        format!("{LAMBDA}:{}", self.front.port.number())
    }

    fn logged(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.envoy.log()).unwrap();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The last of `count` lines of the access log that `is` one, waiting for it.
    fn logged_times(&self, count: usize, is: impl Fn(&Value) -> bool) -> Value {
        let start = std::time::Instant::now();
        loop {
            let mut found: Vec<Value> = self.logged().into_iter().filter(&is).collect();
            assert!(found.len() <= count, "more than {count}: {found:?}");
            if found.len() == count {
                return found.pop().unwrap();
            }
            assert!(start.elapsed() < Duration::from_secs(20), "not logged");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The only test with this gateway: what it takes to start one is more than what it takes to ask.
#[test]
fn the_published_configuration_works_and_impostors_are_refused() {
    let gateway = Production::start("production");
    let [export, revoke] = gateway.membrane("production");
    let hello = json!({"hello": "world"});

    // Both clusters, by the names that were asked for.
    let (fixed, dynamic) = (gateway.function(&export, LAMBDA), gateway.function(&export, &gateway.dynamic()));
    for capability in [&fixed, &dynamic] {
        let answer = gateway.post(capability, &hello);
        assert_eq!((answer.status, answer.json()), (200, hello.clone()), "{}", answer.text());
    }
    assert_eq!(gateway.origin.requests("/invocations").len(), 2);
    assert_eq!(gateway.names.asked(), [LAMBDA], "the dynamic one is resolved");
    let shaken = |ok: bool| (Some(LAMBDA.to_owned()), ok);
    assert_eq!(gateway.front.greeted(), [shaken(true), shaken(true)]);

    // HTTP/2 downstream.
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--http2",
            "--noproxy",
            "*",
            "--write-out",
            "\n%{http_version}",
            "--cacert",
        ])
        .arg(gateway.dir.join("ca.pem"))
        .args(["-H", &format!("Authorization: Bearer {}", fixed.rsplit('#').next().unwrap())])
        .args(["-d", r#"{"over":2}"#, &format!("https://localhost:{}/", gateway.ports.gateway.number())])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"over\":2}\n2", "{output:?}");

    // A certificate of the right CA for another name, and one for the right name of another CA: nothing is sent to either.
    let (before, stranger) = (gateway.origin.requests("/invocations").len(), Authority::new());
    let others = gateway.authority.certificate("lambda.us-west-2.amazonaws.com");
    for (number, certificate, key) in
        [(1, others, &gateway.authority.key), (2, stranger.certificate(LAMBDA), &stranger.key)]
    {
        gateway.front.show(&certificate, key).unwrap();
        for (capability, cluster) in [(&fixed, "aws_lambda"), (&dynamic, "aws")] {
            assert_error(&gateway.post(capability, &hello), 503, "upstream cannot be reached");
            let line = gateway.logged_times(number, |line| {
                let failure = line["upstream_failure"].as_str().unwrap_or_default();
                line["upstream"] == cluster && failure.contains("CERTIFICATE_VERIFY_FAILED")
            });
            // Before 1.37 Envoy does not tell for what it was refused.
            let tells = line["upstream_failure"].as_str().unwrap().contains("SAN");
            assert!(!tells || number == 1, "{line}");
            assert_eq!((&line["status"], &line["outcome"]), (&json!(503), &json!("granted")), "{line}");
        }
    }
    assert_eq!(gateway.origin.requests("/invocations").len(), before, "an impostor got a request");
    // Positive control: the same with the right one again.
    gateway.front.show(&gateway.authority.certificate(LAMBDA), &gateway.authority.key).unwrap();
    for capability in [&fixed, &dynamic] {
        assert_eq!(gateway.post(capability, &hello).status, 200);
    }

    the_log_tells_who_did_what(&gateway, &export, &fixed, &dynamic);

    // What has no route has none here either, and a load balancer is answered without a capability.
    let elsewhere = gateway.function(&export, "lambda.us-east-1.amazonaws.com.example.net");
    assert_error(&gateway.post(&elsewhere, &hello), 404, "no route");
    assert_eq!(gateway.client.request("GET", "/healthz").send().unwrap().status, 200);
    assert_eq!(gateway.client.request("GET", "/healthz/x").send().unwrap().status, 401);

    let revoked = gateway.client.request("DELETE", "/?wait=fleet").bearer(&revoke).send().unwrap();
    assert_eq!(revoked.status, 202, "{}", revoked.text());
    assert_error(&gateway.post(&fixed, &hello), 401, "");
    let hashed = hash_of(&fixed);
    gateway
        .logged_times(1, |line| line["outcome"] == "unauthorized" && line["capability"] == hashed.as_str());
}

/// As docs/observability.md says.
fn hash_of(capability: &str) -> String {
    let token = capability::Token::parse(capability.rsplit('#').next().unwrap().as_bytes()).unwrap();
    membrane_filter::noted::hashed(&token.lookup_id().0)
}

fn the_log_tells_who_did_what(gateway: &Production, export: &str, fixed: &str, dynamic: &str) {
    let log = std::fs::read_to_string(gateway.envoy.log()).unwrap();
    let lines = gateway.logged();
    let of = |capability: &str| -> Vec<&Value> {
        let hashed = hash_of(capability);
        lines.iter().filter(|line| line["capability"] == hashed.as_str()).collect()
    };
    let [of_fixed, of_dynamic, of_export] = [fixed, dynamic, export].map(of);
    // The last one may not be written yet.
    assert!(of_fixed.len() >= 4 && of_dynamic.len() >= 3, "{lines:?}");
    assert!(of_fixed.iter().chain(&of_dynamic).all(|line| line["outcome"] == "granted"));
    // Both were exported through one membrane, which is another thing than either.
    let membrane = of_fixed[0]["membrane"].as_str().unwrap();
    assert_eq!(membrane.len(), 32);
    assert!(of_fixed.iter().chain(&of_dynamic).all(|line| line["membrane"] == membrane));
    assert!(of_export.len() == 2 && of_export.iter().all(|line| line["outcome"] == "control"));
    let protocols: Vec<&str> = of_fixed.iter().filter_map(|line| line["protocol"].as_str()).collect();
    assert!(protocols.contains(&"HTTP/1.1") && protocols.contains(&"HTTP/2"), "{protocols:?}");
    let key = &gateway.aws.key;
    for secret in [&key.secret, &key.id, fixed.rsplit('#').next().unwrap(), "AWS4-HMAC", "/invocations"] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
}
