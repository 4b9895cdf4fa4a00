//! The binary against a real TLS server: what goes over the wire, what comes out, and what never does.

// Clippy's exceptions for tests reach test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server;

use capability::Token;
use serde_json::{Value, json};
use server::{Received, Server, response};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A folder to be at home in, with a `trusted-ca.json` for the servers given.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn trusting(servers: &[&Server]) -> Home {
        let dir = tempfile::tempdir().unwrap();
        let map: serde_json::Map<String, Value> =
            servers.iter().map(|server| (server.authority(), json!(server.ca))).collect();
        std::fs::write(dir.path().join("trusted-ca.json"), Value::Object(map).to_string()).unwrap();
        Home { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `capi` with an environment of its own, so that a developer's profile, proxy or CAPI_… cannot matter.
    fn capi(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capi"));
        command.args(line).env_clear().env("HOME", self.dir.path()).stdin(Stdio::null());
        if line.first() == Some(&"membrane") {
            command.arg("--trustedCA-file-path").arg(self.path("trusted-ca.json"));
        }
        command
    }

    fn run(&self, line: &[&str]) -> Done {
        self.capi(line).output().unwrap().into()
    }
}

#[derive(Debug)]
struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done {
            status: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Done {
    fn json(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The message and the JSON after `FAILED`.
    fn failed(&self) -> (String, Value) {
        assert_eq!((self.status, self.stdout.as_str()), (1, ""), "{self:?}");
        let rest = self.stderr.strip_prefix("FAILED\n").unwrap_or_else(|| panic!("{self:?}"));
        let (message, body) = rest.split_once('\n').unwrap();
        (message.to_owned(), serde_json::from_str(body).unwrap())
    }
}

fn token(byte: u8) -> String {
    Token::mint([byte; 64]).expose().to_owned()
}

fn uri(server: &Server, byte: u8) -> String {
    format!("cpblty://{}/#{}", server.authority(), token(byte))
}

fn assert_carries(request: &Received, server: &Server, byte: u8) {
    assert_eq!(request.header("host"), Some(server.authority().as_str()));
    assert_eq!(request.header("authorization"), Some(format!("Bearer {}", token(byte)).as_str()));
    let bearers = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    assert_eq!(bearers.count(), 1);
}

#[test]
fn create_posts_the_id_and_prints_the_answer_in_its_own_order() {
    let answer = json!({"id": "a", "capabilities": {"revoke": "cpblty://h/#r", "export": "cpblty://h/#e"}});
    // Not in alphabetical order, and not indented.
    let wire = r#"{"id":"a","capabilities":{"revoke":"cpblty://h/#r","export":"cpblty://h/#e"}}"#;
    let server = Server::start("localhost", response("201 Created", wire));
    let home = Home::trusting(&[&server]);
    let done = home.run(&["membrane", "create", "--id", "accounts/ü 1", "--capability", &uri(&server, 1)]);
    assert_eq!(done.json(), answer);
    assert_eq!(
        done.stdout,
        "{\n  \"id\": \"a\",\n  \"capabilities\": {\n    \"revoke\": \"cpblty://h/#r\",\n    \"export\": \"cpblty://h/#e\"\n  }\n}\n"
    );
    let request = server.request();
    assert_eq!(request.line, "POST / HTTP/1.1");
    assert_carries(&request, &server, 1);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.body, "{\"id\":\"accounts/ü 1\"}".as_bytes());

    let done =
        home.run(&["membrane", "create", "--id", "a", "--output", "text", "--capability", &uri(&server, 1)]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "a\tcpblty://h/#e\tcpblty://h/#r\n"));
}

#[test]
fn export_posts_the_grant() {
    let server = Server::start("localhost", response("201 Created", r#"{"capability":"cpblty://h/#new"}"#));
    let home = Home::trusting(&[&server]);
    let mine = uri(&server, 1);
    let line = [
        "membrane",
        "export",
        "--capability",
        &mine,
        "--uri",
        "https://lambda.us-east-1.amazonaws.com/x",
        "--header",
        "A: b",
        "C: d",
        "--aws4-hmac-sha256-aws-access-key-id",
        "AKID",
        "--aws4-hmac-sha256-region",
        "us-east-1",
        "--aws4-hmac-sha256-service",
        "lambda",
    ];
    let done: Done =
        home.capi(&line).env("CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY", "secret").output().unwrap().into();
    assert_eq!(done.json(), json!({"capability": "cpblty://h/#new"}));
    let request = server.request();
    assert_carries(&request, &server, 1);
    let aws4 = json!({"awsAccessKeyId": "AKID", "region": "us-east-1", "service": "lambda", "secretAccessKey": "secret"});
    assert_eq!(
        serde_json::from_slice::<Value>(&request.body).unwrap(),
        json!({
            "uri": "https://lambda.us-east-1.amazonaws.com/x",
            "headers": {"A": "b", "C": "d"},
            "hmac": {"aws4-hmac-sha256": aws4},
        })
    );
    let done = home.run(&[
        "membrane",
        "export",
        "--capability",
        &mine,
        "--capability-to-export",
        &uri(&server, 2),
        "--output",
        "text",
    ]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "cpblty://h/#new\n"));
    let sent: Value = serde_json::from_slice(&server.request().body).unwrap();
    assert_eq!(sent, json!({"capability": uri(&server, 2)}));
}

#[test]
fn query_gets_with_parameters() {
    let membrane =
        |id: &str| json!({"id": id, "capabilities": {"export": "cpblty://h/#e", "revoke": "cpblty://h/#r"}});
    let answer = json!({"membranes": [membrane("a"), membrane("b\t\u{1b}[2J")], "completed": false});
    let server = Server::start("localhost", response("200 OK", &answer.to_string()));
    let home = Home::trusting(&[&server]);
    let mine = uri(&server, 1);
    let line =
        ["membrane", "query", "--capability", &mine, "--id", "a b/ü&x=1#", "--last-id", "+%", "--limit", "2"];
    assert_eq!(home.run(&line).json(), answer);
    let request = server.request();
    assert_eq!(request.line, "GET /?id=a%20b%2F%C3%BC%26x%3D1%23&lastId=%2B%25&limit=2 HTTP/1.1");
    assert_carries(&request, &server, 1);
    assert!(request.body.is_empty());
    // An id is somebody else's text: a terminal must not obey it, and a tab must not make a column.
    let done = home.run(&["membrane", "query", "--capability", &mine, "--output", "text"]);
    assert_eq!(
        done.stdout,
        "a\tcpblty://h/#e\tcpblty://h/#r\nb\\u{9}\\u{1b}[2J\tcpblty://h/#e\tcpblty://h/#r\n"
    );
    assert!(done.stderr.contains("--last-id"));
    assert_eq!(server.request().line, "GET / HTTP/1.1");
}

#[test]
fn revoke_and_delete_self_delete() {
    let server =
        Server::start("localhost", response("202 Accepted", r#"{"statusCode":202,"message":"Accepted"}"#));
    let home = Home::trusting(&[&server]);
    for command in ["revoke", "delete-self"] {
        let done = home.run(&["membrane", command, "--capability", &uri(&server, 7)]);
        assert_eq!(done.json(), json!({"statusCode": 202, "message": "Accepted"}));
        let request = server.request();
        assert_eq!(request.line, "DELETE / HTTP/1.1");
        assert_carries(&request, &server, 7);
        assert!(request.body.is_empty());
    }
    // Options stand before or after the command.
    let done = home.run(&["membrane", "--capability", &uri(&server, 7), "revoke", "--output", "text"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "Accepted\n"));
}

#[test]
fn waiting_for_the_fleet_fails_unless_everybody_confirmed() {
    for (answer, failure) in [
        (r#"{"statusCode":202,"message":"Accepted","unconfirmed":0}"#, None),
        (r#"{"statusCode":202,"message":"Accepted","unconfirmed":3}"#, Some("3 of the gateways' workers")),
        (r#"{"statusCode":202,"message":"Accepted"}"#, Some("does not say that it waited")),
    ] {
        let server = Server::start("localhost", response("202 Accepted", answer));
        let home = Home::trusting(&[&server]);
        for command in ["revoke", "delete-self"] {
            let done = home.run(&["membrane", command, "--wait", "--capability", &uri(&server, 7)]);
            assert_eq!(server.request().line, "DELETE /?wait=fleet HTTP/1.1");
            match failure {
                None => assert_eq!(done.json(), serde_json::from_str::<serde_json::Value>(answer).unwrap()),
                Some(part) => {
                    let (message, body) = done.failed();
                    assert!(message.starts_with("revoked, but ") && message.contains(part), "{message}");
                    assert_eq!(body, serde_json::from_str::<serde_json::Value>(answer).unwrap());
                }
            }
        }
    }
}

#[test]
fn profiles_are_configured_listed_and_used() {
    let server = Server::start("localhost", response("200 OK", r#"{"membranes":[],"completed":true}"#));
    let home = Home::trusting(&[&server]);
    let tenant = json!({"id": "t", "create": uri(&server, 1), "query": uri(&server, 2), "deleteSelf": uri(&server, 3)});
    std::fs::write(home.path("tenant.json"), tenant.to_string()).unwrap();
    let from = home.path("tenant.json");
    let done = home.run(&["config", "configure", "--from", from.to_str().unwrap(), "--profile", "work"]);
    let lookup = |byte: u8| json!({"authority": server.authority(), "lookupId": Token::mint([byte; 64]).lookup_id().to_string()});
    let shown = json!({
        "profile": "work",
        "membrane": {"capabilities": {"create": lookup(1), "query": lookup(2), "deleteSelf": lookup(3)}},
    });
    assert_eq!(done.json(), shown);
    assert_eq!(home.run(&["config", "list", "--profile", "work"]).json(), shown);
    assert_eq!(home.run(&["config", "list", "--all"]).json(), json!([shown]));
    assert_eq!(
        home.run(&["config", "list"]).json(),
        json!({"profile": "default", "membrane": {"capabilities": {}}})
    );

    home.run(&["membrane", "query", "--profile", "work"]).json();
    assert_carries(&server.request(), &server, 2);
    home.run(&["membrane", "delete-self", "--profile", "work"]).json();
    assert_carries(&server.request(), &server, 3);
    let (message, body) = home.run(&["membrane", "query"]).failed();
    assert!(
        message.starts_with("No membrane \"query\" capability found for profile \"default\""),
        "{message}"
    );
    assert_eq!(body, json!({"error": "no-capability", "message": message}));
    server.assert_untouched();

    let done = home.run(&["config", "configure"]);
    assert_eq!(done.status, 2, "{done:?}");
    assert!(done.stderr.contains("--from"), "{done:?}");
}

#[test]
fn errors_of_the_service_are_passed_on() {
    let body = r#"{"statusCode":409,"error":"Conflict","message":"the tenant has that id"}"#;
    let server = Server::start("localhost", response("409 Conflict", body));
    let home = Home::trusting(&[&server]);
    let done = home.run(&["membrane", "create", "--id", "a", "--capability", &uri(&server, 1)]);
    let (message, shown) = done.failed();
    assert_eq!(message, "the tenant has that id");
    assert_eq!(shown, serde_json::from_str::<Value>(body).unwrap());
    assert!(
        done.stderr.contains("{\n  \"statusCode\": 409,\n  \"error\""),
        "in the service's order: {done:?}"
    );
    let done =
        home.run(&["membrane", "create", "--id", "a", "--capability", &uri(&server, 1), "--output", "text"]);
    assert_eq!((done.status, done.stderr.as_str()), (1, "FAILED\nthe tenant has that id\n"));
}

#[test]
fn answers_that_are_none_of_the_api_fail() {
    let redirect =
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n";
    let long = response("200 OK", &format!("\"{}\"", "a".repeat(1 << 20)));
    for (answer, reason) in [
        (response("502 Bad Gateway", "<html>"), "answered 502 with something that is not JSON"),
        (response("200 OK", ""), "answered 200 with something that is not JSON"),
        (response("200 OK", "{} {}"), "answered 200 with something that is not JSON"),
        (redirect.to_owned(), "answered 307 with a redirect"),
        (long, "longer than 1048576 bytes"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "the connection broke"),
    ] {
        let server = Server::start("localhost", answer);
        let (message, body) = Home::trusting(&[&server])
            .run(&["membrane", "revoke", "--capability", &uri(&server, 1)])
            .failed();
        assert!(message.starts_with(&server.authority()) && message.contains(reason), "{message}");
        assert_eq!(body["message"], message.as_str());
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Server::start("localhost", response("202 Accepted", r#"{"message":"Accepted"}"#));
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let location = format!("https://{}/", other.authority());
        let server = Server::start(
            "localhost",
            format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"),
        );
        // Nothing but the redirect stands in the way: the first authority is trusted through the other's as well.
        let home = Home::trusting(&[&server, &other]);
        let both =
            json!({server.authority(): format!("{}{}", server.ca, other.ca), other.authority(): other.ca});
        std::fs::write(home.path("trusted-ca.json"), both.to_string()).unwrap();
        for line in
            [&["membrane", "revoke"][..], &["membrane", "query"], &["membrane", "create", "--id", "a"]]
        {
            home.run(&[line, &["--capability", &uri(&server, 1)]].concat()).failed();
            assert_carries(&server.request(), &server, 1);
        }
    }
    other.assert_untouched();
    // It could have been reached.
    Home::trusting(&[&other]).run(&["membrane", "revoke", "--capability", &uri(&other, 1)]).json();
    other.request();
}

#[test]
fn an_authority_is_trusted_through_its_own_certificate_authority_alone() {
    let answer = response("202 Accepted", r#"{"message":"Accepted"}"#);
    let (one, two) = (Server::start("localhost", answer.clone()), Server::start("localhost", answer.clone()));
    let revoke =
        |home: &Home, server: &Server| home.run(&["membrane", "revoke", "--capability", &uri(server, 1)]);
    // Neither the other's, nor the system's.
    let home = Home::trusting(&[&one]);
    let crossed = json!({one.authority(): one.ca, two.authority(): one.ca});
    for map in [None, Some(crossed)] {
        if let Some(map) = &map {
            std::fs::write(home.path("trusted-ca.json"), map.to_string()).unwrap();
        }
        revoke(&home, &one).json();
        one.request();
        let mut command = home.capi(&["membrane", "revoke", "--capability", &uri(&two, 1)]);
        // The system's store of this machine may be empty: one is provided.
        std::fs::write(home.path("system.pem"), &one.ca).unwrap();
        let done: Done = command.env("SSL_CERT_FILE", home.path("system.pem")).output().unwrap().into();
        let (message, body) = done.failed();
        assert!(
            message.starts_with(&two.authority()) && message.contains("--trustedCA-file-path"),
            "{message}"
        );
        assert_eq!(body["error"], "network");
        two.assert_untouched();
    }
    // The system's store serves authorities that were not named, and no other.
    let system = |home: &Home, pem: &str, server: &Server| -> Done {
        std::fs::write(home.path("system.pem"), pem).unwrap();
        let mut command = home.capi(&["membrane", "revoke", "--capability", &uri(server, 1)]);
        command.env("SSL_CERT_FILE", home.path("system.pem")).output().unwrap().into()
    };
    let nobody = Home::trusting(&[]);
    system(&nobody, &two.ca, &two).json();
    two.request();
    let home = Home::trusting(&[]);
    std::fs::write(home.path("trusted-ca.json"), json!({two.authority(): one.ca}).to_string()).unwrap();
    system(&home, &two.ca, &two).failed();
    two.assert_untouched();
    // What is named for one authority serves no other, even where it would fit.
    std::fs::write(home.path("trusted-ca.json"), json!({one.authority(): two.ca}).to_string()).unwrap();
    system(&home, &one.ca, &two).failed();
    two.assert_untouched();
}

#[test]
fn what_stands_in_the_way_is_named() {
    let server = Server::start("elsewhere.example", response("202 Accepted", "{}"));
    let home = Home::trusting(&[&server]);
    let (message, _) = home.run(&["membrane", "revoke", "--capability", &uri(&server, 1)]).failed();
    assert!(message.contains("certificate is for another name"), "{message}");
    server.assert_untouched();

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = |authority: &str| format!("cpblty://{authority}/#{}", token(1));
    // Neither is named in the file: the system's store is asked, and here it is the server's.
    std::fs::write(home.path("system.pem"), &server.ca).unwrap();
    let failed = |authority: &str| {
        let mut command = home.capi(&["membrane", "revoke", "--capability", &at(authority)]);
        Done::from(command.env("SSL_CERT_FILE", home.path("system.pem")).output().unwrap()).failed().0
    };
    let message = failed(&format!("localhost:{port}"));
    assert!(message.contains("cannot connect") && message.contains("that the gateway runs"), "{message}");
    let message = failed("no-such-host.invalid");
    assert!(message.contains("the name cannot be resolved"), "{message}");

    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::Write as _;
        let _ = plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let message = failed(&format!("localhost:{port}"));
    assert!(message.contains("no TLS connection"), "{message}");

    let mut command = home.capi(&["membrane", "revoke", "--capability", &at("localhost")]);
    let none = home.path("empty.pem");
    std::fs::write(&none, "").unwrap();
    let (message, _) = Done::from(command.env("SSL_CERT_FILE", &none).output().unwrap()).failed();
    assert!(message.contains("the system has no certificate authorities"), "{message}");
}

/// Every secret that a command line, a file or a server can hold, and none of them on standard error, at trace.
#[test]
fn no_secret_is_said_at_trace() {
    let mine = token(0xc1);
    let canaries =
        [mine.as_str(), "canary-sak", "canary-session", "canary-header", "canary-body", "canary-location"];
    // The server repeats all of it: in its error, and in a redirect (which ureq logs at trace).
    let echo =
        json!({"statusCode": 400, "error": "Bad Request", "message": canaries.join(" / ")}).to_string();
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://localhost/canary-location?{mine}\r\ncontent-length: 0\r\n\r\n"
    );
    for answer in [
        response("400 Bad Request", &echo.replace(" / canary-location", "")),
        redirect,
        response("201 Created", "{}"),
    ] {
        let server = Server::start("localhost", answer);
        let home = Home::trusting(&[&server]);
        let capability = format!("cpblty://{}/#{mine}", server.authority());
        let line = [
            "-vvv",
            "membrane",
            "export",
            "--capability",
            &capability,
            "--uri",
            "https://www.example.com",
            "--header",
            "X-Key: canary-header",
            "--body",
            "canary-body",
            "--aws4-hmac-sha256-aws-access-key-id",
            "AKID",
            "--aws4-hmac-sha256-region",
            "r",
            "--aws4-hmac-sha256-service",
            "s",
            "--aws4-hmac-sha256-secret-access-key",
            "canary-sak",
            "--aws4-hmac-sha256-session-token",
            "canary-session",
        ];
        // The first word of `line` is a flag, so the trusted CA is added here.
        let mut command = home.capi(&line);
        command.arg("--trustedCA-file-path").arg(home.path("trusted-ca.json"));
        let done: Done = command.env("CAPI_LOG", "trace").env("RUST_LOG", "trace").output().unwrap().into();
        for canary in &canaries {
            assert!(!done.stderr.contains(canary) && !done.stdout.contains(canary), "{canary}: {done:?}");
        }
        assert!(
            done.stderr.contains("INFO") && done.stderr.contains(&server.authority()),
            "it did log: {done:?}"
        );
        // They were sent, all that are ours.
        let request = server.request();
        let body = String::from_utf8(request.body.clone()).unwrap();
        assert!(canaries[1..5].iter().all(|canary| body.contains(canary)), "{body}");
        assert_eq!(request.header("authorization"), Some(format!("Bearer {mine}").as_str()));
    }
}

#[test]
fn usage_errors_show_no_token_and_no_stray_argument() {
    let home = Home::trusting(&[]);
    let mine = token(1);
    let stray = format!("cpblty://localhost/#{mine}");
    for line in [
        &["membrane", "create", "--id", "a", &stray][..],
        &["membrane", "revoke", "canary-secret"],
        &["membrane", "query", "--limit", &stray],
        &["membrane", "revoke", "--capability", "cpblty://localhost/#CPBLTY1-canary-secret"],
        &["membrane", &stray],
        &["membrane", "revoke", &format!("--capabilty={stray}")],
    ] {
        let done = home.run(line);
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{done:?}");
        assert!(!done.stderr.contains(&mine) && !done.stderr.contains("canary"), "{done:?}");
        assert!(done.stderr.starts_with("error: "), "{done:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let server = Server::start("localhost", response("201 Created", r#"{"capability":"cpblty://h/#new"}"#));
    let home = Home::trusting(&[&server]);
    let mut command =
        home.capi(&["membrane", "export", "--uri", "https://a", "--capability", &uri(&server, 1)]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done: Done = command.stdout(full).output().unwrap().into();
    let (message, _) = done.failed();
    assert!(message.starts_with("cannot write the result"), "{message}");
}
