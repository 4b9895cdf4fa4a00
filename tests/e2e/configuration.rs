//! envoy/local.yaml as people copy it; `shipped.rs` has what holds of every file there.

use crate::shared;
use std::process::Command;

#[test]
fn envoy_accepts_it() {
    let output = Command::new(harness::envoy::program().unwrap())
        .args(["--mode", "validate", "-c"])
        .arg(harness::layout::envoy(&shared().dir))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.to_lowercase().contains("deprecated"), "{said}");
}

/// The filter refuses an Envoy that is too old, which takes that it can read the version: here that of the one that runs.
#[test]
fn the_filter_knows_which_envoy_it_is_in() {
    let version = harness::envoy::version().unwrap();
    let minor = version.rsplit_once('.').unwrap().0;
    let log = std::fs::read_to_string(shared().logs().join("envoy.log")).unwrap();
    assert!(log.contains(&format!("is configured, in Envoy {minor}")), "Envoy {version}");
}

/// Controls alone are asked again, and only where nobody has received them.
#[test]
fn controls_are_asked_again_where_nobody_received_them() {
    let text = std::fs::read_to_string(harness::repository().join("envoy/local.yaml")).unwrap();
    assert_eq!(text.matches("retry_policy:").count(), 1);
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
