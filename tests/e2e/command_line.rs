//! `capi` against the real gateway: the documented command lines, every flag that reaches the service, and the ways in
//! which secrets get in without standing in a process list.

use crate::clients::{assert_capability, invocation, members};
use crate::{assert_error, eventually, folder, shared};
use harness::aws::REGION;
use harness::gateway::{Gateway, text};
use harness::origin::RECORDER;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// `capi` with a home of its own, and nothing of the environment's.
struct Capi {
    gateway: &'static Gateway,
    home: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

/// What a run is given besides its arguments.
#[derive(Default)]
struct Given<'a> {
    environment: &'a [(&'a str, &'a str)],
    stdin: &'a str,
}

impl Capi {
    fn new(name: &str) -> Capi {
        let home = folder("command-line").join(name);
        std::fs::create_dir_all(&home).unwrap();
        Capi { gateway: shared(), home }
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, &Given::default())
    }

    fn run_with(&self, arguments: &[&str], given: &Given<'_>) -> Done {
        let mut command = Command::new(harness::program("capi").unwrap());
        command.env_clear().env("HOME", &self.home).args(arguments);
        if arguments[0] == "membrane" {
            command.arg("--trustedCA-file-path").arg(self.gateway.dir.join("trusted-ca.json"));
        }
        for (name, value) in given.environment {
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Who does not ask for it may have ended before it comes.
        let _ = child.stdin.take().unwrap().write_all(given.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done {
            status: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs and reads the answer.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments).json()
    }

    /// `membrane create`; gives the export and the revoke capability.
    fn create(&self, create: &str, id: &str) -> (String, String) {
        let made = self.json(&["membrane", "create", "--id", id, "--capability", create]);
        assert_eq!((members(&made), &made["id"]), (vec!["capabilities", "id"], &json!(id)));
        assert_eq!(members(&made["capabilities"]), ["export", "revoke"]);
        let uri = |name: &str| text(&made["capabilities"], name).unwrap().to_owned();
        (uri("export"), uri("revoke"))
    }

    /// `membrane export` with these flags; gives the new capability.
    #[track_caller]
    fn export(&self, export: &str, flags: &[&str]) -> String {
        self.run(&[&["membrane", "export", "--capability", export], flags].concat()).capability()
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.home.join(name);
        harness::prepare::write_private(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The status of a request to the grant, made with that method and target.
    fn status(&self, capability: &str, method: &str, target: &str) -> u16 {
        self.gateway.request(capability, method, target).send().unwrap().status
    }
}

impl Done {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""));
        let value: Value = serde_json::from_str(&self.stdout).unwrap();
        // As people read it, and as the published command line prints it.
        assert!(self.stdout.starts_with("{\n  \"") && self.stdout.ends_with("\n}\n"));
        value
    }

    #[track_caller]
    fn capability(&self) -> String {
        let made = self.json();
        assert_eq!(members(&made), ["capability"]);
        let capability = text(&made, "capability").unwrap();
        assert_capability(shared(), capability);
        capability.to_owned()
    }

    /// `FAILED`, the message, and the service's JSON with the same message.
    #[track_caller]
    fn refused(&self, status: u16, part: &str) {
        assert_eq!((self.status, self.stdout.as_str()), (1, ""), "{self:?}");
        let (message, body) = self.stderr.strip_prefix("FAILED\n").unwrap().split_once('\n').unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["statusCode"], &body["message"]), (&json!(status), &json!(message)), "{self:?}");
        assert!(message.contains(part), "{self:?}");
    }
}

fn accepted() -> Value {
    json!({"statusCode": 202, "message": "Accepted"})
}

/// The command lines of the Membrane Service's archived documentation, argument for argument but for host and tokens
/// (the pages are named in `documented.rs`).
#[test]
fn the_documented_command_lines() {
    let capi = Capi::new("documented");
    let tenant = capi.gateway.another_tenant("command-line/documented").unwrap();
    let role = |name: &str| text(&tenant, name).unwrap();

    // your-first-membrane.md, accounts-as-membranes.md
    let (export, revoke) = capi.create(role("create"), "my-first-membrane");
    let uri = format!("https://{RECORDER}/command-line/gistfile1.json");
    let capability = capi.run(&["membrane", "export", "--uri", &uri, "--capability", &export]).capability();
    assert_eq!(capi.status(&capability, "GET", "/"), 200);
    let (ayana, ayana_revoke) = capi.create(role("create"), "Temporary access for Ayana");
    let delegated = capi
        .run(&["membrane", "export", "--capability-to-export", &capability, "--capability", &ayana])
        .capability();
    assert_eq!(capi.status(&delegated, "GET", "/"), 200);
    assert_eq!(capi.json(&["membrane", "revoke", "--capability", &ayana_revoke]), accepted());
    eventually(401, SOON, || capi.gateway.request(&delegated, "GET", "/").send().unwrap());
    assert_eq!(capi.status(&capability, "GET", "/"), 200);

    // export-capability.md
    let www = format!("https://{RECORDER}/command-line/www");
    let line = ["membrane", "export", "--uri", &www, "--header", "TenantID: tenant17", "--method", "DELETE"];
    let capability = capi.run(&[&line[..], &["--capability", &export]].concat()).capability();
    assert_eq!(capi.status(&capability, "GET", "/"), 200);
    let request = capi.gateway.origin().only("/command-line/www").unwrap();
    assert_eq!((request.method.as_str(), request.one("tenantid").unwrap().as_str()), ("DELETE", "tenant17"));

    // aws-lambda-capability.md
    let key = &capi.gateway.aws.key;
    let invoke = capi
        .run(&[
            "membrane",
            "export",
            "--uri",
            &invocation(),
            "--method",
            "POST",
            "--allow-query",
            "false",
            "--header",
            "X-Amz-Invocation-Type: RequestResponse",
            "--header",
            "X-Amz-Log-Type: None",
            "--aws4-hmac-sha256-aws-access-key-id",
            &key.id,
            "--aws4-hmac-sha256-region",
            REGION,
            "--aws4-hmac-sha256-service",
            "lambda",
            "--aws4-hmac-sha256-secret-access-key",
            &key.secret,
            "--capability",
            &export,
        ])
        .capability();
    let answer = capi.gateway.request(&invoke, "POST", "/").body(r#"{"a":1}"#).send().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"a":1}"#));

    assert_eq!(capi.json(&["membrane", "revoke", "--capability", &revoke]), accepted());
    assert_eq!(capi.json(&["membrane", "revoke", "--capability", &revoke]), accepted(), "again");
    let mut waited = accepted();
    waited["unconfirmed"] = 0.into();
    assert_eq!(capi.json(&["membrane", "revoke", "--wait", "--capability", &revoke]), waited, "and waiting");
    eventually(401, SOON, || capi.gateway.request(&invoke, "POST", "/").body("{}").send().unwrap());
}

#[test]
fn query_lists_page_by_page() {
    let capi = Capi::new("query");
    let tenant = capi.gateway.another_tenant("command-line/query").unwrap();
    let (create, query) = (text(&tenant, "create").unwrap(), text(&tenant, "query").unwrap());
    let made = ["my-first-membrane", "my-second-membrane", "my-third-membrane"].map(|id| {
        let (export, revoke) = capi.create(create, id);
        json!({"id": id, "capabilities": {"export": export, "revoke": revoke}})
    });
    let ask = |flags: &[&str]| capi.run(&[&["membrane", "query"], flags, &["--capability", query]].concat());
    // query-membranes.md
    assert_eq!(ask(&["--limit", "2"]).json(), json!({"membranes": made[..2], "completed": false}));
    let more = ask(&["--last-id", "my-second-membrane", "--limit", "2"]);
    assert_eq!(more.json(), json!({"membranes": made[2..], "completed": true}));
    assert_eq!(ask(&[]).json(), json!({"membranes": made[..1], "completed": false}));
    let one = ask(&["--id", "my-third-membrane"]).json();
    assert_eq!(one["membranes"], json!(made[2..]));
    assert_eq!(ask(&["--id", "a&limit=5"]).json(), json!({"membranes": [], "completed": true}));

    let lines = |membranes: &[Value]| -> String {
        let line = |membrane: &Value| {
            let capability = |name: &str| text(&membrane["capabilities"], name).unwrap();
            format!("{}\t{}\t{}\n", text(membrane, "id").unwrap(), capability("export"), capability("revoke"))
        };
        membranes.iter().map(line).collect()
    };
    let done = ask(&["--limit", "2", "--output", "text"]);
    assert_eq!((done.status, done.stdout), (0, lines(&made[..2])));
    assert!(done.stderr.contains("--last-id"), "{}", done.stderr);
    let done = ask(&["--limit", "3", "--output", "text"]);
    assert_eq!((done.status, done.stdout, done.stderr), (0, lines(&made), String::new()));
}

#[test]
fn every_flag_of_an_export_reaches_the_gateway() {
    let capi = Capi::new("flags");
    let (export, _) = capi.create(text(&capi.gateway.tenant, "create").unwrap(), "command-line/flags");
    let origin = capi.gateway.origin();
    let uri = |name: &str| format!("https://{RECORDER}/command-line/flags/{name}");
    let reached = |name: &str| origin.only(&format!("/command-line/flags/{name}")).unwrap();
    let targets = |name: &str| -> Vec<String> {
        let requests = origin.requests(&format!("/command-line/flags/{name}"));
        requests.into_iter().map(|request| request.target.rsplit('/').next().unwrap().to_owned()).collect()
    };

    // Several headers after one flag, and the flag again; a value may hold colons.
    let flags = ["--header", "X-One: 1", "X-Two:2", "--method", "PUT", "--header", "X-Three: a:b, c"];
    let capability = capi.export(&export, &[&["--uri", &uri("headers")], &flags[..]].concat());
    let request =
        capi.gateway.request(&capability, "POST", "/").header("X-One", "mine").header("X-Four", "4");
    assert_eq!(request.body("{}").send().unwrap().status, 200);
    let request = reached("headers");
    assert_eq!(request.method, "PUT");
    for (name, value) in [("x-one", "1"), ("x-two", "2"), ("x-three", "a:b, c")] {
        assert_eq!(request.one(name).unwrap(), value);
    }
    assert!(request.all("x-four").is_empty());

    // Every spelling of a boolean.
    for (name, flags, target) in [
        ("query-absent", &[][..], "query-absent?own=1"),
        ("query-false", &["--allow-query", "false"], "query-false?own=1"),
        ("query-is-false", &["--allow-query=false"], "query-is-false?own=1"),
        ("query-true", &["--allow-query", "true"], "query-true?own=1&acl&x=2"),
        ("query-bare", &["--allow-query"], "query-bare?own=1&acl&x=2"),
    ] {
        let uri = format!("{}?own=1", uri(name));
        let capability = capi.export(&export, &[&["--uri", &uri], flags].concat());
        assert_eq!(capi.status(&capability, "GET", "/?acl&x=2"), 200, "{name}");
        assert_eq!(targets(name), [target]);
    }
    let names = ["--uri", &uri("names"), "--allow-query-name", "x", "y"];
    let capability = capi.export(&export, &names);
    assert_eq!(capi.status(&capability, "GET", "/?x=1"), 200);
    assert_eq!(targets("names"), ["names?x=1"]);

    let flags = ["--uri", &uri("allowed"), "--allow-header", "X-One", "X-Two", "--allow-header", "X-Three"];
    let capability = capi.export(&export, &flags);
    let mut request = capi.gateway.request(&capability, "GET", "/");
    for name in ["X-One", "X-Two", "X-Three", "X-Four"] {
        request = request.header(name, "of the requester");
    }
    assert_eq!(request.send().unwrap().status, 200);
    let request = reached("allowed");
    assert_eq!(["x-one", "x-two", "x-three", "x-four"].map(|name| request.all(name).len()), [1, 1, 1, 0]);

    // Signed for the service and region that the flags name.
    let key = &capi.gateway.aws.key;
    let signed = uri("signed");
    let flags = [
        &["--uri", &signed][..],
        &["--aws4-hmac-sha256-aws-access-key-id", &key.id, "--aws4-hmac-sha256-region", "eu-central-1"],
        &["--aws4-hmac-sha256-service", "execute-api", "--aws4-hmac-sha256-secret-access-key", &key.secret],
        &["--aws4-hmac-sha256-session-token", "a-session-token", "--timeout-ms", "20000"],
    ];
    let capability = capi.export(&export, &flags.concat());
    assert_eq!(capi.status(&capability, "GET", "/"), 200);
    let request = reached("signed");
    let authorization = request.one("authorization").unwrap();
    assert!(authorization.contains(&format!("Credential={}/", key.id)), "{authorization}");
    assert!(authorization.contains("/eu-central-1/execute-api/aws4_request"), "{authorization}");
    assert_eq!(request.one("x-amz-security-token").unwrap(), "a-session-token");

    // The end of a capability, also of a re-export; another's is its own.
    let (past, future) = ("2020-01-31T12:00:00Z", "2999-01-31T12:00:00+01:00");
    let lasting = capi.export(&export, &["--uri", &uri("ends"), "--expires-at", future]);
    assert_eq!(capi.status(&lasting, "GET", "/"), 200);
    let ended = capi.export(&export, &["--uri", &uri("ended"), "--expires-at", past]);
    assert_error(&capi.gateway.request(&ended, "GET", "/").send().unwrap(), 401, "");
    let again = capi.export(&export, &["--capability-to-export", &lasting, "--expires-at", past]);
    assert_error(&capi.gateway.request(&again, "GET", "/").send().unwrap(), 401, "");
    let again = capi.export(&export, &["--capability-to-export", &lasting]);
    assert_eq!(capi.status(&again, "GET", "/"), 200);
    // A control, too.
    let controls = capi.export(&export, &["--capability-to-export", &export]);
    let through = capi.export(&controls, &["--uri", &uri("through")]);
    assert_eq!(capi.status(&through, "GET", "/"), 200);
    assert!(targets("ended").is_empty());
}

#[test]
fn secrets_come_from_environment_file_and_standard_input() {
    let capi = Capi::new("secrets");
    let (export, _) = capi.create(text(&capi.gateway.tenant, "create").unwrap(), "command-line/secrets");
    let key = &capi.gateway.aws.key;
    let scheme = [
        "--aws4-hmac-sha256-aws-access-key-id",
        &key.id,
        "--aws4-hmac-sha256-region",
        REGION,
        "--aws4-hmac-sha256-service",
        "lambda",
    ];
    let invocation = invocation();
    let line = [&["membrane", "export", "--uri", &invocation, "--method", "POST"], &scheme[..]].concat();
    let export_file = capi.write("export", &format!("{export}\n"));
    let secret_file = capi.write("secret", &format!("{}\n", key.secret));
    let both = [
        ("CAPI_CAPABILITY", export.as_str()),
        ("CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY", key.secret.as_str()),
    ];
    for (name, flags, environment, stdin) in [
        ("environment", &[][..], &both[..], ""),
        (
            "files",
            &["--capability-file", &export_file, "--aws4-hmac-sha256-secret-access-key-file", &secret_file][..],
            &[],
            "",
        ),
        (
            "a capability from standard input",
            &["--capability", "-", "--aws4-hmac-sha256-secret-access-key-file", &secret_file][..],
            &[],
            &export,
        ),
        (
            "a key from standard input",
            &["--aws4-hmac-sha256-secret-access-key", "-"],
            &both[..1],
            &key.secret,
        ),
    ] {
        let done = capi.run_with(&[&line[..], flags].concat(), &Given { environment, stdin });
        let answer = capi.gateway.request(&done.capability(), "POST", "/").body("{}").send().unwrap();
        // moto has verified the signature, so the key is whole.
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{name}");
    }
    let what = capi.export(&export, &["--uri", &format!("https://{RECORDER}/command-line/secrets")]);
    let what_file = capi.write("what", &what);
    for (flags, stdin) in
        [(["--capability-to-export-file", &what_file], ""), (["--capability-to-export", "-"], &what)]
    {
        let line = [&["membrane", "export", "--capability", &export][..], &flags].concat();
        let again = capi.run_with(&line, &Given { stdin, ..Given::default() }).capability();
        assert_eq!(capi.status(&again, "GET", "/"), 200);
    }
}

#[test]
fn a_profile_serves_a_tenant_until_it_deletes_itself() {
    let capi = Capi::new("profile");
    let tenant = capi.gateway.another_tenant("command-line/profile").unwrap();
    let from = capi.write("tenant.json", &tenant.to_string());
    let shown = capi.json(&["config", "configure", "--from", &from]);
    assert_eq!(members(&shown["membrane"]["capabilities"]), ["create", "deleteSelf", "query"]);
    let listed = capi.run(&["config", "list"]);
    assert_eq!(listed.json(), shown);
    assert!(!listed.stdout.contains("CPBLTY1-"));
    let kept = capi.home.join(".capability/credentials");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // The published form, so that the published command line reads it as well.
    let yaml = std::fs::read_to_string(&kept).unwrap();
    let line = |name: &str| format!("\n  {name}: {}", text(&tenant, name).unwrap());
    assert!(yaml.starts_with("profile: default\nmembrane:\n"));
    assert!(["create", "query", "deleteSelf"].iter().all(|name| yaml.contains(&line(name))));

    let made = capi.json(&["membrane", "create", "--id", "of the profile"]);
    let export = text(&made["capabilities"], "export").unwrap();
    let capability = capi.export(export, &["--uri", &format!("https://{RECORDER}/command-line/profile")]);
    assert_eq!(capi.status(&capability, "GET", "/"), 200);
    assert_eq!(
        capi.json(&["membrane", "query", "--limit", "5"]),
        json!({"membranes": [made], "completed": true})
    );
    let done = capi.run(&["membrane", "query", "--profile", "other"]);
    assert_eq!(done.status, 1);
    let message = "FAILED\nNo membrane \"query\" capability found for profile \"other\"";
    assert!(done.stderr.starts_with(message), "{}", done.stderr);

    assert_eq!(capi.json(&["membrane", "delete-self"]), accepted());
    assert_eq!(capi.json(&["membrane", "delete-self"]), accepted(), "again");
    eventually(401, SOON, || capi.gateway.request(&capability, "GET", "/").send().unwrap());
    capi.run(&["membrane", "create", "--id", "x"]).refused(401, "a valid capability is required");
    capi.run(&["membrane", "query"]).refused(401, "");
}

#[test]
fn failures_say_what_is_wrong_and_exit_with_1() {
    let capi = Capi::new("failures");
    let create = text(&capi.gateway.tenant, "create").unwrap();
    let (export, revoke) = capi.create(create, "command-line/failures");
    let again = ["membrane", "create", "--id", "command-line/failures", "--capability", create];
    capi.run(&again).refused(409, "id: ");
    let done = capi.run(&[&again[..], &["--output", "text"]].concat());
    let said: Vec<&str> = done.stderr.lines().collect();
    assert_eq!((done.status, done.stdout.as_str(), said[0], said.len()), (1, "", "FAILED", 2), "{done:?}");

    let of = |flags: &[&str]| capi.run(&[&["membrane", "export", "--capability", &export], flags].concat());
    of(&["--uri", "ftp://a.example/"]).refused(400, "uri: ");
    of(&["--uri", "https://a.example/", "--method", "FETCH"]).refused(400, "method: ");
    of(&["--uri", "https://a.example/", "--header", "Host: b.example"]).refused(400, "headers: host");
    of(&["--uri", "https://a.example/", "--expires-at", "tomorrow"]).refused(400, "expiresAt: ");
    capi.run(&["membrane", "query", "--capability", &export]).refused(405, "POST");
    assert_eq!(capi.json(&["membrane", "revoke", "--capability", &revoke]), accepted());
    of(&["--uri", "https://a.example/"]).refused(401, "a valid capability is required");
    // A command that says nothing that can be done is status 2, and goes nowhere.
    for flags in [
        &["--uri", "https://a.example/", "--capability-to-export", &export][..],
        &["--capability-to-export", &export, "--allow-query", "false"],
        &["--uri", "https://a.example/", "--aws4-hmac-sha256-region", "r"],
        &["--method", "GET"],
        &[],
    ] {
        let done = of(flags);
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{done:?}");
        assert!(!done.stderr.contains(export.split('#').nth(1).unwrap()));
    }
}

/// Each script is read by the shell that it is for, where that shell is installed; bash is on every machine that builds.
#[test]
fn completions_are_scripts_that_their_shells_take() {
    let capi = Capi::new("completions");
    let mut taken = Vec::new();
    for (shell, check) in [
        ("bash", "source \"$1\" && complete -p capi >/dev/null"),
        ("zsh", "autoload -U compinit && compinit -D -u && source \"$1\" && (( $+functions[_capi] ))"),
        ("fish", "source $argv[1]; and complete -c capi | string match -q '*membrane*'"),
    ] {
        let done = capi.run(&["completions", shell]);
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        for said in ["membrane", "delete-self", "capability-to-export", "trustedCA-file-path", "last-id"] {
            assert!(done.stdout.contains(said), "{shell}: {said}");
        }
        let script = capi.write(shell, &done.stdout);
        let mut command = Command::new(shell);
        command.env("HOME", &capi.home).args(["-c", check]);
        if shell != "fish" {
            command.arg(shell);
        }
        match command.arg(&script).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && said.is_empty(), "{shell}: {said}");
                taken.push(shell);
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{shell}: {error}"),
        }
    }
    assert!(taken.contains(&"bash"));
}
