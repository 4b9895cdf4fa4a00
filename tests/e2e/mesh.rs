//! envoy/mesh/: resources for Istio and Envoy Gateway, by the published schemas, by Envoy where they hold parts of its configuration, and by
//! the schema of ours.

use crate::folder;
use crate::schema::{configurations_in, refusals};
use crate::shipped::{all, documents};
use membrane_filter::config::Config;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn resources(name: &str) -> Vec<Value> {
    documents(&harness::repository().join("envoy/mesh").join(name))
}

/// For each resource why its published schema, or the type made of it, refuses it.
fn refused(resources: &[Value]) -> Vec<Option<String>> {
    let root = harness::repository();
    let mut child = Command::new("node")
        .arg(root.join("tests/tools/mesh/check.mjs"))
        .arg(root.join(".tools/mesh"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads everything before it writes anything, so the pipes cannot block each other.
    child.stdin.take().unwrap().write_all(json!(resources).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "run `tests/tools/install.sh mesh` first");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of_kind<'a>(resources: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let found: Vec<&Value> = resources.iter().filter(|resource| resource["kind"] == kind).collect();
    assert!(!found.is_empty(), "no {kind}");
    found
}

#[test]
fn they_are_what_the_published_schemas_allow() {
    for name in ["istio.yaml", "envoy-gateway.yaml"] {
        let resources = resources(name);
        for (resource, refusal) in resources.iter().zip(refused(&resources)) {
            assert_eq!(refusal, None, "{name}: {} {}", resource["kind"], resource["metadata"]["name"]);
        }
    }
    // What a cluster would drop without a word is seen, and so is a wrong value.
    let mut mistaken = resources("envoy-gateway.yaml");
    let policy = mistaken.iter_mut().find(|resource| resource["kind"] == "EnvoyExtensionPolicy").unwrap();
    policy["spec"]["wasm"][0]["allowOnHeadersStopIteration"] = true.into();
    let mut wrong = resources("istio.yaml");
    wrong[0]["spec"]["configPatches"][0]["applyTo"] = "EXTENSION".into();
    let refused = refused(&[policy.clone(), wrong[0].clone()]);
    assert!(
        refused[0].as_ref().is_some_and(|why| why.contains("allowOnHeadersStopIteration")),
        "{refused:?}"
    );
    assert!(refused[1].as_ref().is_some_and(|why| why.contains("applyTo")), "{refused:?}");
}

#[test]
fn the_filters_configuration_in_them_is_valid() {
    let istio: Vec<Value> = resources("istio.yaml").iter().flat_map(configurations_in).collect();
    let gateway = resources("envoy-gateway.yaml");
    let policy = of_kind(&gateway, "EnvoyExtensionPolicy")[0];
    let found = [istio, vec![policy["spec"]["wasm"][0]["config"].clone()]].concat();
    assert_eq!(found.len(), 2);
    for (configuration, refusal) in found.iter().zip(refusals(&found)) {
        assert_eq!(refusal, None, "{configuration}");
        assert!(Config::parse(configuration.to_string().as_bytes()).unwrap().access_log);
    }
}

/// Whether Envoy takes a filter of this typed configuration, and these clusters.
fn accepted(dir: &Path, filter: &Value, clusters: &Value) -> Result<(), String> {
    let router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x", "route_config": {},
        "http_filters": [{"name": "membrane", "typed_config": filter}, {"name": "envoy.filters.http.router", "typed_config": router}],
    });
    let bootstrap = json!({"static_resources": {
        "listeners": [{
            "name": "x", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
        }],
        "clusters": clusters,
    }});
    let certificates = dir.join("certificates");
    let text = bootstrap
        .to_string()
        .replace("/etc/membrane/ca.pem", &certificates.join("ca.pem").display().to_string())
        .replace("/etc/membrane/", &format!("{}/", certificates.join("tls").display()));
    let file = dir.join("envoy.json");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(harness::envoy::program().unwrap())
        .args(["--mode", "validate", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn with_local_code(mut filter: Value) -> Value {
    let code = json!({"local": {"filename": harness::module().unwrap()}});
    filter["config"]["vm_config"]["code"] = code;
    filter
}

#[test]
fn envoy_accepts_their_parts() {
    let dir = folder("mesh");
    harness::registry::init(&dir.join("certificates"), "localhost:8443").unwrap();
    // Istio: the filter stands in it as Envoy has it.
    let istio = resources("istio.yaml");
    let patches = &of_kind(&istio, "EnvoyFilter")[0]["spec"]["configPatches"];
    let extension = &patches[0]["patch"]["value"];
    assert_eq!(
        extension["name"], patches[1]["patch"]["value"]["name"],
        "the one is discovered by the other's name"
    );
    let filter = &extension["typed_config"];
    assert_eq!(filter["config"]["failure_policy"], "FAIL_RELOAD");
    assert_eq!(filter["config"]["allow_on_headers_stop_iteration"], true);
    accepted(&dir, &with_local_code(filter.clone()), &json!([])).unwrap();

    // Envoy Gateway: what its translator makes of the policy (internal/xds/translator/wasm.go), and the two patches on it.
    let gateway = resources("envoy-gateway.yaml");
    let policy = of_kind(&gateway, "EnvoyExtensionPolicy")[0];
    let wasm = &policy["spec"]["wasm"][0];
    assert_eq!(wasm["failOpen"], false);
    let mut filter = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": wasm["name"], "root_id": wasm["rootID"], "vm_config": {"vm_id": "x", "runtime": "envoy.wasm.runtime.v8"},
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": wasm["config"].to_string()},
        },
    });
    let namespace_and_name = format!(
        "{}/{}",
        policy["metadata"]["namespace"].as_str().unwrap(),
        policy["metadata"]["name"].as_str().unwrap()
    );
    let patches = of_kind(&gateway, "EnvoyPatchPolicy")[0]["spec"]["jsonPatches"].as_array().unwrap();
    for patch in patches {
        let operation = &patch["operation"];
        let place = format!(
            "..http_filters[?(@.name=='envoy.filters.http.wasm/envoyextensionpolicy/{namespace_and_name}/wasm/0')].typed_config.config"
        );
        assert_eq!(operation["jsonPath"], place);
        filter["config"][operation["path"].as_str().unwrap()] = operation["value"].clone();
    }
    assert_eq!(filter["config"]["failure_policy"], "FAIL_RELOAD");
    assert_eq!(filter["config"]["allow_on_headers_stop_iteration"], true);
    let bootstrap = of_kind(&gateway, "EnvoyProxy")[0]["spec"]["bootstrap"]["value"].as_str().unwrap();
    let file = dir.join("bootstrap.yaml");
    std::fs::write(&file, bootstrap).unwrap();
    let clusters = documents(&file).remove(0)["static_resources"]["clusters"].clone();
    let filter = with_local_code(filter);
    accepted(&dir, &filter, &clusters).unwrap();
    assert_eq!(clusters[0]["name"], wasm["config"]["registry"]["cluster"]);

    // Envoy does look at what it is given here.
    let mut broken = filter.clone();
    broken["config"]["allow_on_header_stop_iteration"] = true.into();
    accepted(&dir, &broken, &clusters).unwrap_err();
}

/// Every route but that for clients asks for the header that the filter alone can set, and removes it; none leads to the lookups.
#[test]
fn their_routes_are_guarded() {
    let istio = resources("istio.yaml");
    for service in of_kind(&istio, "VirtualService") {
        for route in service["spec"]["http"].as_array().unwrap() {
            let kind = &route["match"][0]["headers"]["x-membrane-route"]["exact"];
            assert!(kind == "https" || kind == "control", "{route}");
            assert!(
                route["headers"]["request"]["remove"]
                    .as_array()
                    .unwrap()
                    .contains(&"x-membrane-route".into())
            );
            // Without this Istio retries twice.
            assert_eq!(route["retries"]["attempts"], 0, "{route}");
            assert_eq!(route["match"].as_array().unwrap().len(), 1);
        }
        assert!(!all(service, "number").contains(&&json!(9444)), "{service}");
    }
    let gateway = resources("envoy-gateway.yaml");
    for service in of_kind(&gateway, "HTTPRoute") {
        if service["metadata"]["name"] == "membrane-clients" {
            assert!(all(service, "backendRefs").is_empty());
            continue;
        }
        for rule in service["spec"]["rules"].as_array().unwrap() {
            let headers = rule["matches"][0]["headers"].as_array().unwrap();
            assert!(headers.iter().any(|header| header["name"] == "x-membrane-route"), "{rule}");
            let removed = &rule["filters"][0]["requestHeaderModifier"]["remove"];
            assert!(removed.as_array().unwrap().contains(&"x-membrane-route".into()), "{rule}");
        }
    }
    // On the whole Gateway, so that the filter strips the header on every route.
    let policy = of_kind(&gateway, "EnvoyExtensionPolicy")[0];
    assert_eq!(policy["spec"]["targetRefs"][0]["kind"], "Gateway");
    for backend in of_kind(&gateway, "Backend") {
        assert!(!all(backend, "port").contains(&&json!(9444)), "{backend}");
    }
}
