//! What holds of every configuration in envoy/.

use crate::folder;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of a folder of the repository whose names end with `.yaml`.
pub(crate) fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(harness::repository().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The documents of a YAML file.
pub(crate) fn documents(file: &Path) -> Vec<Value> {
    let output = Command::new(harness::tool("python").unwrap())
        .arg(harness::repository().join("tests/tools/yaml_as_json.py"))
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every value under that name, wherever it stands.
pub(crate) fn all<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| all(item, name)).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, member)| {
                (key == name).then_some(member).into_iter().chain(all(member, name)).collect::<Vec<_>>()
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn configurations() -> Vec<(String, Value)> {
    let files = yaml_files("envoy");
    assert!(files.len() >= 3, "{files:?}");
    let read = |file: PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        (name, documents(&file).pop().unwrap())
    };
    files.into_iter().map(read).collect()
}

/// The file with every path of a file in it replaced by one that is there.
fn with_files_that_exist(file: &Path, certificates: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let mut replaced = String::new();
    for line in text.lines() {
        let code = line.split('#').next().unwrap_or_default();
        let line = match code.split_once("filename: ") {
            None => line.to_owned(),
            Some((before, rest)) => {
                let path = rest.split([' ', '}']).next().unwrap();
                let name = path.rsplit('/').next().unwrap();
                let there = match name {
                    "membrane.wasm" => harness::module().unwrap(),
                    "ca-certificates.crt" | "ca.pem" => certificates.join("ca.pem"),
                    "gateway.pem" | "gateway-key.pem" | "gateway-client.pem" | "gateway-client-key.pem" => {
                        certificates.join("tls").join(name)
                    }
                    other => panic!("{}: what is {other}?", file.display()),
                };
                format!("{before}filename: {}{}", there.display(), rest.strip_prefix(path).unwrap())
            }
        };
        replaced += &line.replace("path: run/logs/", "path: /dev/null # ");
        replaced.push('\n');
    }
    replaced
}

#[test]
fn envoy_accepts_every_file() {
    let dir = folder("shipped");
    harness::registry::init(&dir.join("certificates"), "localhost:8443").unwrap();
    for file in yaml_files("envoy") {
        let config = dir.join(file.file_name().unwrap());
        std::fs::write(&config, with_files_that_exist(&file, &dir.join("certificates"))).unwrap();
        let output = Command::new(harness::envoy::program().unwrap())
            .args(["--mode", "validate", "-c"])
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
        assert!(!said.to_lowercase().contains("deprecated"), "{}: {said}", file.display());
    }
}

#[test]
fn the_filter_never_fails_open_and_may_hold_requests() {
    for (name, configuration) in configurations() {
        let plugins: Vec<&Value> = all(&configuration, "config")
            .into_iter()
            .filter(|config| config["vm_config"].is_object())
            .collect();
        assert!(!plugins.is_empty(), "{name}");
        for plugin in plugins {
            assert_eq!(plugin["failure_policy"], "FAIL_RELOAD", "{name}");
            assert_eq!(plugin["allow_on_headers_stop_iteration"], true, "{name}");
        }
    }
}

/// Every route asks for a header that the filter alone can set, and removes it; none retries, and none leads to the lookups.
#[test]
fn every_route_is_guarded() {
    for (name, configuration) in configurations() {
        let routes: Vec<&Value> =
            all(&configuration, "routes").into_iter().flat_map(|routes| routes.as_array().unwrap()).collect();
        assert!(!routes.is_empty(), "{name}");
        for route in routes {
            let headers = route["match"]["headers"].as_array().unwrap();
            let guard = headers.iter().find(|header| header["name"] == "x-membrane-route");
            let kind = &guard.unwrap_or_else(|| panic!("{name}: {route}"))["string_match"]["exact"];
            assert!(kind == "https" || kind == "control", "{name}: {route}");
            let removed = route["request_headers_to_remove"].as_array().unwrap();
            assert!(removed.contains(&"x-membrane-route".into()), "{name}: {route}");
            let cluster = route["route"]["cluster"].as_str().unwrap();
            assert_ne!(cluster, "membrane_registry", "{name}");
            assert_eq!(cluster == "membrane_control", kind == "control", "{name}: {route}");
            if kind == "https" {
                // A pinned body that no stage has put in goes nowhere.
                assert!(
                    headers.iter().any(|header| {
                        header["name"] == "x-membrane-body" && header["invert_match"] == true
                    })
                );
            }
        }
        // A control is asked again where nobody has received it, and nothing else is asked again.
        for route in all(&configuration, "routes").into_iter().flat_map(|routes| routes.as_array().unwrap()) {
            let retries = &route["route"]["retry_policy"]["retry_on"];
            let safe = route["route"]["cluster"] == "membrane_control"
                && *retries == "connect-failure,refused-stream,reset-before-request";
            assert!(retries.is_null() || safe, "{name}: {route}");
        }
    }
}

/// TLS everywhere but to the stand-in for AWS; every certificate is checked for its name; nothing is without a bound.
#[test]
fn every_upstream_is_verified_and_bounded() {
    for (name, configuration) in configurations() {
        for cluster in configuration["static_resources"]["clusters"].as_array().unwrap() {
            let of = format!("{name}, {}", cluster["name"]);
            if cluster["name"] == "local_aws" {
                assert_eq!(name, "local.yaml");
                continue;
            }
            let tls = &cluster["transport_socket"]["typed_config"]["common_tls_context"];
            let validation = &tls["validation_context"];
            assert!(validation["trusted_ca"].is_object(), "{of}");
            assert_eq!(tls["tls_params"]["tls_minimum_protocol_version"], "TLSv1_2", "{of}");
            let by_request = all(cluster, "auto_san_validation") == [&Value::Bool(true)];
            let fixed =
                validation["match_typed_subject_alt_names"].as_array().is_some_and(|names| !names.is_empty());
            assert!(by_request || fixed, "{of}: the certificate's name is not checked");
            assert_eq!(cluster["name"] == "membrane_registry", tls["tls_certificates"].is_array(), "{of}");
            assert!(cluster["connect_timeout"].is_string(), "{of}");
            assert!(name == "drop-in.yaml" || cluster["circuit_breakers"].is_object(), "{of}");
        }
    }
}
