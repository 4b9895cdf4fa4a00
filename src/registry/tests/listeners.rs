//! What an operator may say of the listeners: one in the clear, and how much each takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "test code"
)]

#[path = "common/process.rs"]
mod program;

use program::{home, ok, plain, program, run, serve, serve_with, token};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

const WATCHER: &str = "watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60";

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn the_plain_listener_answers_as_the_other_does() {
    let (_keep, dir) = home();
    let tenant: Value =
        serde_json::from_str(&ok(&["tenant", "create", "--dir", &dir, "--id", "acme"])).unwrap();
    let server = serve_with(&dir, |command| {
        command.args(["--gateway-plain", "127.0.0.1:0"]);
    });
    let port = server.gateway_plain.unwrap();
    let (_, made) = server.api("POST", "/", token(&tenant["create"]), r#"{"id":"m"}"#);
    let control = |name: &str| token(&made["capabilities"][name]);
    let export = json!({"uri": "https://example.com/"}).to_string();
    let (_, minted) = server.api("POST", "/", control("export"), &export);
    let grant = token(&minted["capability"]);
    let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id();

    let both = |path: &str| {
        let head = format!("GET {path} HTTP/1.1");
        let (status_there, there) = server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap();
        let here = plain(port, path);
        assert_eq!(status(&here), status_there, "{path}");
        assert_eq!(body(&here), serde_json::from_str::<Value>(&there).unwrap(), "{path}");
        (status_there, body(&here))
    };
    let (found, record) = both(&format!("/v1/records/{lookup}?{WATCHER}"));
    assert_eq!((found, &record["kind"]), (200, &"grant".into()));
    let (found, first) = both(&format!("/v1/events?{WATCHER}"));
    assert_eq!((found, first["events"].as_array().map(Vec::len)), (200, Some(0)));
    // The same rules.
    for path in [
        format!("/v1/records/{lookup}"),
        "/v1/events".into(),
        "/v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ".into(),
        "/v1/events?lease=60".into(),
        "/v1/records/AAAA?".to_owned() + WATCHER,
    ] {
        assert_eq!(both(&path).0, 400, "{path}");
    }
    // Nothing of the control listener is here, nor of the metrics.
    assert_eq!(both("/").0, 404);
    assert_eq!(both("/metrics").0, 404);

    // A revocation wakes who is held, and waits for who was told something here.
    let epoch = first["position"]["epoch"].as_str().unwrap().to_owned();
    let held = std::thread::spawn(move || {
        plain(
            port,
            &format!("/v1/events?epoch={epoch}&after=0&hold=20000&watcher=AgICAgICAgICAgICAgICAg&lease=2"),
        )
    });
    std::thread::sleep(Duration::from_millis(300));
    let (code, _) = server.api("DELETE", "/", control("revoke"), "");
    assert_eq!(code, 202);
    let heard = body(&held.join().unwrap());
    assert_eq!((&heard["position"]["seq"], &heard["events"][0]["seq"]), (&1.into(), &1.into()));
    assert_eq!(both(&format!("/v1/records/{lookup}?{WATCHER}")).0, 404);
    let log = server.stop();
    assert!(log.contains("every process of this machine may look up"), "{log}");
}

#[test]
fn the_plain_listener_is_for_loopback_alone_and_only_there_when_asked_for() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    assert_eq!(server.gateway_plain, None);
    assert!(!server.stop().contains("gateway_plain"));
    for (address, message) in [
        ("0.0.0.0:0", "0.0.0.0 is not a loopback address"),
        ("[::]:0", ":: is not a loopback address"),
        ("192.0.2.1:9447", "whoever reaches this listener is let in"),
        ("[::ffff:192.0.2.1]:9447", "is not a loopback address"),
        ("localhost:9447", "must be an address and a port, as 127.0.0.1:9447"),
        ("127.0.0.1", "must be an address and a port"),
    ] {
        let output = run(&["serve", "--dir", &dir, "--gateway-plain", address]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{address}: {said}");
        assert!(said.contains(message), "{address}: {said}");
    }
}

#[test]
fn connections_and_watchers_have_the_bounds_that_were_given() {
    let (_keep, dir) = home();
    let server = serve_with(&dir, |command| {
        let bounds = ["--max-connections", "3", "--max-watchers", "2", "--gateway-plain", "127.0.0.1:0"];
        command.args(bounds);
    });
    let port = server.gateway_plain.unwrap();
    let asks = |watcher: &str| plain(port, &format!("/v1/events?watcher={watcher}&lease=3600"));
    for (watcher, expected) in [
        ("AQEBAQEBAQEBAQEBAQEBAQ", 200),
        ("AgICAgICAgICAgICAgICAg", 200),
        ("AwMDAwMDAwMDAwMDAwMDAw", 503),
        ("AQEBAQEBAQEBAQEBAQEBAQ", 200),
    ] {
        assert_eq!(status(&asks(watcher)), expected, "{watcher}");
    }
    // Connections that say nothing; those that the questions above had have ended.
    let open = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut kept = Vec::new();
    let refused = (0..200).any(|_| {
        let mut connection = open();
        connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // One that is refused ends at once, or is reset; one that is open has nothing to say.
        let ended = connection.read(&mut [0]).map_or_else(
            |error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            |read| read == 0,
        );
        if !ended {
            kept.push(connection);
        }
        ended
    });
    assert!(refused && (1..=3).contains(&kept.len()), "{} are open", kept.len());
    assert!(server.plain("/metrics").contains("membrane_registry_connections_refused_total 1"));
    assert!(server.stop().contains("--max-connections"));
    for wrong in [["--max-connections", "0"], ["--max-watchers", "0"], ["--max-watchers", "x"]] {
        assert_eq!(run(&["serve", "--dir", &dir, wrong[0], wrong[1]]).status.code(), Some(2), "{wrong:?}");
    }
}

/// A thousand is what many systems give by default.
#[cfg(target_os = "linux")]
#[test]
fn the_limit_on_open_files_is_raised_as_far_as_it_may_be() {
    let (_keep, dir) = home();
    let limits = |child: &std::process::Child| {
        let text = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let exe = program(&[]).get_program().to_str().unwrap().to_owned();
    let limited = |limit: &str| {
        let any = "127.0.0.1:0";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit} && exec '{exe}' \"$@\""), "sh", "serve", "--dir", &dir]);
        shell.args(["--control", any, "--gateway", any, "--metrics", any]);
        program::serve_command(&dir, shell)
    };
    let server = limited("-Sn 256");
    let [soft, most] = limits(&server.child).try_into().unwrap();
    assert_eq!(soft, most);
    server.stop();
    // Where that is not enough, the log says so.
    let server = limited("-n 600");
    let log = server.stop();
    assert!(log.contains("so few files may be open") && log.contains("LimitNOFILE="), "{log}");
}
