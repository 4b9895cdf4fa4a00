//! The services natively: `/membrane` is a folder of this test's, the ports are free ones. Each service has a folder of its own with what its
//! container mounts, and nothing else of the run folder.

use super::{WITHOUT_HEALTH, services, texts};
use crate::{folder, postgres};
use harness::layout;
use harness::ports::{Port, Ports};
use harness::process::Process;
use rustix::process::Signal;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Where PostgreSQL listens in its container.
const POSTGRES_PORT: u16 = 5432;

pub(super) struct Native {
    pub(super) root: PathBuf,
    pub(super) ports: Ports,
    /// Control, lookups and feed, metrics of the second registry.
    pub(super) second: [Port; 3],
    postgres_port: Port,
    pub(super) services: Map<String, Value>,
    pub(super) running: BTreeMap<String, Process>,
    /// PostgreSQL's folder, where it must be another user's.
    _elsewhere: Option<tempfile::TempDir>,
}

impl Native {
    pub(super) fn new(name: &str, files: &[&str]) -> Self {
        let root = folder(name);
        let ports = Ports::free().unwrap();
        let services = services(files, &[("MEMBRANE_PORT", &ports.gateway.number().to_string())]);
        std::fs::create_dir_all(root.join("dist")).unwrap();
        // What `mkdir -p` makes, as the files say: Docker wants what it mounts to be there.
        for name in services.iter().filter(|(_, service)| service["profiles"].is_null()).map(|(name, _)| name)
        {
            for folder in
                mounts(&services[name.as_str()]).into_iter().filter(|mount| mount.starts_with("run"))
            {
                std::fs::create_dir_all(root.join(folder)).unwrap();
            }
        }
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
        let second = [(); 3].map(|()| Port::free().unwrap());
        let postgres_port = Port::free().unwrap();
        let mut native =
            Self { root, ports, second, postgres_port, services, running: BTreeMap::new(), _elsewhere: None };
        // It may be that no other user gets to our folder.
        if native.services.contains_key("postgres") && postgres::is_root() {
            let folder = tempfile::tempdir().unwrap();
            postgres::hand_over(folder.path());
            let ours = native.root.join("run/postgres");
            std::fs::remove_dir(&ours).unwrap();
            symlink(folder.path(), &ours).unwrap();
            native._elsewhere = Some(folder);
        }
        native
    }

    /// What the service's container sees of `/membrane`.
    pub(super) fn view(&self, service: &str) -> PathBuf {
        let view = self.root.join("views").join(service);
        std::fs::create_dir_all(&view).unwrap();
        // The image's.
        let own = (service == "init").then(|| "dist".to_owned());
        for path in mounts(&self.services[service]).into_iter().chain(own) {
            let there = view.join(&path);
            std::fs::create_dir_all(there.parent().unwrap()).unwrap();
            if there.symlink_metadata().is_err() {
                symlink(self.root.join(&path), there).unwrap();
            }
        }
        view
    }

    /// Puts our ports in the place of those of docs/wire.md: in two steps, so that none is taken for another's default.
    fn with_our_ports(&self, words: &str) -> String {
        let [_, admin, control, registry, metrics, aws] = Ports::DEFAULT;
        let [second_control, second_registry, second_metrics] = Ports::SECOND_REGISTRY;
        let ours = [
            (second_control, &self.second[0], "\u{1}SECOND-CONTROL"),
            (second_registry, &self.second[1], "\u{1}SECOND-REGISTRY"),
            (second_metrics, &self.second[2], "\u{1}SECOND-METRICS"),
            (POSTGRES_PORT, &self.postgres_port, "\u{1}POSTGRES"),
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
        let view = self.view(service);
        let environment: Vec<(&str, String)> = self.services[service]["environment"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                let value = self.with_our_ports(value.as_str().unwrap());
                (name.as_str(), value.replace("/membrane/", &format!("{}/", view.display())))
            })
            .collect();
        if words[0] == "docker-entrypoint.sh" {
            let given = words[1..].iter().map(|word| self.with_our_ports(word)).collect::<Vec<_>>();
            return postgres_entrypoint(&given, &environment.into_iter().collect());
        }
        let program = match words[0] {
            "envoy" => harness::envoy::program().unwrap(),
            "python3" => harness::tool("python").unwrap(),
            ours @ ("membrane-registry" | "local-gateway" | "capi") => harness::program(ours).unwrap(),
            "pg_isready" => postgres::binaries().0.join("pg_isready"),
            system => system.into(),
        };
        let mut command = Command::new(program);
        command.current_dir(view).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(environment);
        for word in &words[1..] {
            // In a container all addresses are behind the published port; here they are this machine's own.
            command.arg(if *word == "0.0.0.0" { "127.0.0.1".to_owned() } else { self.with_our_ports(word) });
        }
        command
    }

    pub(super) fn part(&self, name: &str) -> Command {
        let service = &self.services[name];
        let words = [texts(&service["entrypoint"]), texts(&service["command"])].concat();
        self.command(name, &words)
    }

    /// Whether the service's health check succeeds now.
    pub(super) fn is_healthy(&self, name: &str) -> bool {
        let test = texts(&self.services[name]["healthcheck"]["test"]);
        assert_eq!(test[0], "CMD", "{name}");
        self.command(name, &test[1..]).output().unwrap().status.success()
    }

    pub(super) fn start(&mut self, name: &str) {
        let log = self.root.join("output").join(name);
        let has_health = !WITHOUT_HEALTH.contains(&name);
        assert!(!has_health || !self.is_healthy(name), "{name} is healthy before it was started");
        let mut process =
            Process::spawn(name, self.part(name), &log).unwrap_or_else(|error| panic!("{error}"));
        if has_health {
            process.wait_until(Duration::from_secs(60), "healthy", || self.is_healthy(name)).unwrap();
        }
        self.running.insert(name.to_owned(), process);
    }

    pub(super) fn complete(&mut self, name: &str) -> Output {
        let output = self.part(name).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        if name != "init" {
            return output;
        }
        // Docker needs this not: the other ports in Envoy's configuration.
        let config = layout::envoy(&self.root.join("run"));
        let rendered = std::fs::read_to_string(&config).unwrap();
        let ours = rendered.lines().map(|line| {
            if line.contains("port_value: ") { self.with_our_ports(line) } else { line.to_owned() }
        });
        std::fs::write(&config, ours.collect::<Vec<_>>().join("\n")).unwrap();
        output
    }

    /// Everything that `docker compose up` starts, in its order.
    pub(super) fn up(&mut self) {
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

    pub(super) fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.root.join(file)).unwrap()).unwrap()
    }

    pub(super) fn file(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.join(file)).unwrap()
    }

    /// What was printed by everything that runs or ran.
    pub(super) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.root.join("output")).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    /// The content of what is mounted read-only of the run folder.
    pub(super) fn read_only(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let volumes =
            self.services.values().flat_map(|service| service["volumes"].as_array().into_iter().flatten());
        let targets = volumes.filter(|volume| volume["read_only"] == true).map(target);
        let places = targets.filter(|target| target.starts_with("run/")).map(|target| self.root.join(target));
        places
            .flat_map(|place| files(&place))
            .map(|file| (file.clone(), std::fs::read(file).unwrap()))
            .collect()
    }

    /// `docker compose run --rm -T capi …`
    pub(super) fn capi(&self, arguments: &[&str]) -> Value {
        let mut command = self.part("capi");
        let output =
            command.args(arguments).args(["--trustedCA-file-path", "run/trusted-ca.json"]).output().unwrap();
        assert!(output.status.success(), "capi: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // PostgreSQL last, and with the signal that its image is stopped by: it does not wait for who is connected.
        let postgres = self.running.remove("postgres");
        self.running.clear();
        if let Some(postgres) = postgres {
            postgres.signal(Signal::INT);
        }
    }
}

/// What of `/membrane` a service mounts.
pub(super) fn mounts(service: &Value) -> Vec<String> {
    service["volumes"].as_array().into_iter().flatten().map(target).collect()
}

fn target(volume: &Value) -> String {
    volume["target"].as_str().unwrap().strip_prefix("/membrane/").unwrap().to_owned()
}

/// A file, or all that are in a folder.
pub(super) fn files(place: &Path) -> Vec<PathBuf> {
    if !place.is_dir() {
        return vec![place.to_owned()];
    }
    let entries = std::fs::read_dir(place).unwrap();
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// What the entrypoint of PostgreSQL's image does before it becomes the server, for the variables that we set: a cluster in PGDATA where there is
/// none, with the user, and a database of the same name.
fn postgres_entrypoint(words: &[String], environment: &BTreeMap<&str, String>) -> Command {
    let bin = postgres::binaries().0;
    // By its own name, which its user can follow whatever folders of ours it may not enter.
    let data = Path::new(&environment["PGDATA"]);
    let data = data.parent().unwrap().canonicalize().unwrap().join(data.file_name().unwrap());
    let user = &environment["POSTGRES_USER"];
    let finished = |command: &mut Command| {
        let output = command.current_dir("/").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    if !data.join("PG_VERSION").exists() {
        let password = data.with_file_name("for-initdb");
        std::fs::copy(&environment["POSTGRES_PASSWORD_FILE"], &password).unwrap();
        postgres::hand_over(&password);
        let mut initdb = postgres::command(&bin.join("initdb"));
        initdb.arg("--username").arg(user).arg("--pwfile").arg(&password).arg("-D").arg(&data);
        finished(initdb.args(environment["POSTGRES_INITDB_ARGS"].split(' ')));
        std::fs::remove_file(&password).unwrap();
        let sql = data.with_file_name("for-postgres");
        std::fs::write(&sql, format!("CREATE DATABASE \"{user}\"\n")).unwrap();
        let mut single = postgres::command(&bin.join("postgres"));
        single.stdin(Stdio::from(std::fs::File::open(&sql).unwrap()));
        finished(single.arg("--single").arg("-D").arg(&data).arg("postgres"));
        std::fs::remove_file(&sql).unwrap();
    }
    assert_eq!(words[0], "postgres");
    let mut server = postgres::command(&bin.join("postgres"));
    server.current_dir("/").args(&words[1..]).arg("-D").arg(data);
    // The image has a folder for its socket, which nobody here asks for.
    server.args(["-c", "unix_socket_directories="]);
    server
}
