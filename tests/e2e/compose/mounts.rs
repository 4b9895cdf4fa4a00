//! No container has another's secrets: what each mounts is searched, after all of it was made.

use super::native::{Native, files, mounts};
use super::{POSTGRES, SQLITE};
use harness::canary::Canaries;
use harness::gateway::text;
use harness::layout;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Every secret that is made, by a name; and whose each is.
const KEYS: [(&str, &str); 5] = [
    ("the CA's key", "operator/ca-key.pem"),
    ("the registry's key", "operator/tls/control-key.pem"),
    ("the gateway's key", "operator/tls/gateway-key.pem"),
    ("the gateway's client key", "operator/tls/gateway-client-key.pem"),
    ("the key-encryption key", "registry/kek"),
];

/// All secrets of a service, of which nobody else has any but the registries, which are one to whoever asks.
fn own(service: &str) -> &'static [&'static str] {
    match service {
        "registry" | "registry-2" => &["the key-encryption key", "the password", "the registry's key"],
        "gateway" => &["the gateway's client key", "the gateway's key"],
        "moto" => &["the AWS secret"],
        "password" | "postgres" => &["the password"],
        _ => &[],
    }
}

fn nobody_has_anothers(name: &str, files_of_compose: &[&str]) {
    let mut native = Native::new(name, files_of_compose);
    native.up();
    let run = native.root.join("run");
    let mut secrets: Vec<(&str, String)> = KEYS
        .iter()
        .map(|(name, file)| {
            let text = native.file(&format!("run/{file}"));
            // Of a PEM file a line in the middle: it may be written in another form, and the first are alike.
            let line = text.lines().find(|line| !line.starts_with("-----")).unwrap();
            (*name, text.lines().nth(2).filter(|line| !line.starts_with("-----")).unwrap_or(line).to_owned())
        })
        .collect();
    secrets
        .push(("the AWS secret", text(&native.json("run/aws.json"), "secretAccessKey").unwrap().to_owned()));
    let has_postgres = native.services.contains_key("postgres");
    if has_postgres {
        secrets.push(("the password", native.file("run/postgres/password").trim().to_owned()));
    }
    let mut canaries = Canaries::default();
    for (name, secret) in &secrets {
        canaries.plant(name, secret);
    }
    for control in ["create", "query", "deleteSelf"] {
        canaries.plant_token("a tenant's control", text(&native.json("run/tenant.json"), control).unwrap());
    }

    for (service, definition) in &native.services {
        // It makes everything, and has ended before any other that it made something for begins.
        if service == "init" {
            continue;
        }
        let places: Vec<PathBuf> = mounts(definition)
            .iter()
            .filter(|mount| mount.starts_with("run"))
            .map(|mount| native.root.join(mount))
            .collect();
        let found = canaries.search(&places).unwrap();
        let found: BTreeSet<&str> = found.iter().map(|place| place.split(" in ").next().unwrap()).collect();
        let own = own(service).iter().copied().filter(|name| has_postgres || *name != "the password");
        assert_eq!(found, own.collect(), "{service}");
        // Nor is there any other private key, whoever's it is.
        let keys = places.iter().flat_map(|place| files(place)).filter(|file| {
            let bytes = std::fs::read(file).unwrap();
            harness::canary::contains(&bytes, b"PRIVATE KEY")
        });
        let expected =
            found.iter().filter(|name| name.ends_with("'s key") || name.ends_with("client key")).count();
        assert_eq!(keys.count(), expected, "{service} has a private key too many");
    }

    // Envoy finds all that it is told to read where its container has something.
    let config = std::fs::read_to_string(layout::envoy(&run)).unwrap();
    let prefix = format!("{}/", native.root.canonicalize().unwrap().display());
    let mounted = mounts(&native.services["gateway"]);
    let named: Vec<&str> = config
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            line.split_once(&prefix).map(|(_, rest)| rest.split([' ', '}', '"']).next().unwrap())
        })
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for path in named {
        assert!(
            mounted.iter().any(|mount| path.starts_with(&format!("{mount}/"))),
            "the gateway does not mount {path}"
        );
    }
}

#[test]
fn no_service_has_anothers_secrets() {
    nobody_has_anothers("compose-mounts", SQLITE);
}

#[test]
fn no_service_has_anothers_secrets_with_postgres() {
    nobody_has_anothers("compose-mounts-postgres", POSTGRES);
}
