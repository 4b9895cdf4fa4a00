//! The operator's commands beside a running gateway: what they revoke is dead at the gateway soon, and nothing else is.

use crate::{assert_error, eventually, recorded, shared, warm};
use harness::canary::Canaries;
use harness::gateway::{Gateway, Membrane, text};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Runs `membrane-registry` on the gateway's own folder, while its server runs.
fn operate(gateway: &Gateway, arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(harness::program("membrane-registry").unwrap());
    command.args(arguments).arg("--dir").arg(gateway.registry_dir()).env("MEMBRANE_LOG", "trace");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who does not ask for it may have ended before it comes.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Its answer, line by line.
#[track_caller]
fn lines(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let output = operate(gateway, arguments, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["id"].as_str().unwrap()).collect()
}

/// A membrane of that tenant, through the gateway.
fn create(gateway: &Gateway, tenant: &Value, id: &str) -> Membrane {
    let asked = gateway.request(text(tenant, "create").unwrap(), "POST", "/").json(&json!({"id": id}));
    let made = asked.send().unwrap().expect(201, "creating").unwrap().json();
    let uri = |role: &str| text(&made["capabilities"], role).unwrap().to_owned();
    Membrane { export: uri("export"), revoke: uri("revoke") }
}

fn status(gateway: &Gateway, capability: &str) -> u16 {
    gateway.request(capability, "GET", "/").send().unwrap().status
}

/// 401 soon, and from then on at every worker.
#[track_caller]
fn assert_dies(gateway: &Gateway, capability: &str) {
    let ask = || gateway.request(capability, "GET", "/").send().unwrap();
    assert_error(&eventually(401, SOON, ask), 401, "a valid capability is required");
    std::thread::sleep(Duration::from_millis(500));
    assert!((0..8).all(|_| ask().status == 401));
}

#[test]
fn tenants_membranes_and_leaked_tokens_are_revoked_beside_a_running_gateway() {
    let gateway = shared();
    let one = gateway.another_tenant("operator/one").unwrap();
    let two = gateway.another_tenant("operator/two").unwrap();
    let listed = lines(gateway, &["tenant", "list"]);
    assert!(["operator/one", "operator/two", "local"].iter().all(|id| ids(&listed).contains(id)));
    let line = listed.iter().find(|line| line["id"] == "operator/one").unwrap();
    assert!(line["uid"].is_string() && line["createdAt"].as_u64().is_some_and(|at| at > 1_700_000_000));

    let (a, b) = (create(gateway, &one, "a"), create(gateway, &one, "b"));
    let c = create(gateway, &two, "c");
    let membranes = |tenant| lines(gateway, &["membrane", "list", "--tenant", tenant]);
    assert_eq!(ids(&membranes("operator/one")), ["a", "b"]);
    assert_eq!(ids(&membranes("operator/two")), ["c"]);

    let export = |membrane: &Membrane, path: &str| {
        gateway.export(membrane, &recorded(gateway, Some("GET"), &format!("/operator/{path}"))).unwrap()
    };
    let (of_a, of_b, leaked, of_c) =
        (export(&a, "a"), export(&b, "b"), export(&b, "leaked"), export(&c, "c"));
    let delegated = gateway.export(&c, &json!({"capability": leaked})).unwrap();
    for capability in [&of_a, &of_b, &leaked, &of_c, &delegated] {
        // In every worker's own cache: what dies must be told to it.
        warm(gateway, capability, "GET");
    }
    let alive = |capabilities: &[&str]| {
        for capability in capabilities {
            assert_eq!(status(gateway, capability), 200);
        }
    };

    // One membrane of a tenant.
    let revoke_a = ["membrane", "revoke", "--tenant", "operator/one", "--id", "a"];
    assert_eq!(lines(gateway, &revoke_a), [json!({"revoked": true})]);
    assert_dies(gateway, &of_a);
    assert_error(&gateway.try_export(&a, &json!({"uri": "https://a.example/"})).unwrap(), 401, "");
    alive(&[&of_b, &leaked, &of_c, &delegated]);
    assert_eq!(ids(&membranes("operator/one")), ["b"]);
    // Its own revoke control goes on saying that it is revoked.
    gateway.revoke(&a).unwrap();

    // One capability that leaked, as a URI; what was made of it goes with it.
    let revoke_token = |text: &str| operate(gateway, &["revoke", "--token-stdin"], text);
    let revoked = |output: Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    assert_eq!(revoked(revoke_token(&format!("{leaked}\n"))), json!({"revoked": true}));
    assert_dies(gateway, &leaked);
    assert_dies(gateway, &delegated);
    alive(&[&of_b, &of_c]);
    assert_eq!(revoked(revoke_token(&leaked)), json!({"revoked": false}), "again");
    // A leaked control, as its token alone: what it made lives.
    let create_token = text(&one, "create").unwrap().split('#').nth(1).unwrap();
    assert_eq!(revoked(revoke_token(create_token)), json!({"revoked": true}));
    let asked = gateway.request(text(&one, "create").unwrap(), "POST", "/").json(&json!({"id": "d"}));
    assert_error(&asked.send().unwrap(), 401, "");
    alive(&[&of_b, &of_c]);

    // A tenant.
    assert_eq!(lines(gateway, &["tenant", "revoke", "--id", "operator/one"]), [json!({"revoked": true})]);
    assert_dies(gateway, &of_b);
    for (control, method) in
        [(text(&one, "query").unwrap(), "GET"), (&b.export, "POST"), (&b.revoke, "DELETE")]
    {
        assert_error(&gateway.request(control, method, "/").body("{}").send().unwrap(), 401, "");
    }
    let listed = lines(gateway, &["tenant", "list"]);
    assert!(!ids(&listed).contains(&"operator/one") && ids(&listed).contains(&"operator/two"));
    alive(&[&of_c]);
    assert_eq!(ids(&membranes("operator/two")), ["c"]);

    let mut canaries = Canaries::default();
    for (name, capability) in
        [("create", text(&one, "create").unwrap()), ("leaked", &leaked), ("of c", &of_c)]
    {
        canaries.plant_token(name, capability);
    }
    assert_eq!(canaries.search(&[gateway.logs()]).unwrap(), Vec::<String>::new());
}

#[test]
fn what_the_operator_does_wrong_is_said() {
    let gateway = shared();
    let tenant = gateway.another_tenant("operator/wrong").unwrap();
    let token = text(&tenant, "query").unwrap().split('#').nth(1).unwrap();
    let unknown = format!("{}AAAA", &token[..token.len() - 4]);
    for (arguments, stdin, part) in [
        (&["tenant", "create", "--id", "operator/wrong"][..], "", "there is a tenant with this id"),
        (&["tenant", "revoke", "--id", "nobody"], "", "tenant list"),
        (&["membrane", "list", "--tenant", "nobody"], "", "tenant list"),
        (&["membrane", "revoke", "--tenant", "nobody", "--id", "a"], "", "tenant list"),
        (&["membrane", "revoke", "--tenant", "operator/wrong", "--id", "a"], "", "membrane list"),
        (&["revoke", "--token-stdin"], &unknown, "no capability of this registry has this token"),
        (&["revoke", "--token-stdin"], "", "is no token"),
        (&["revoke", "--token-stdin"], &token[..40], "is no token"),
    ] {
        let output = operate(gateway, arguments, stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(1), &[][..]),
            "{arguments:?}: {said}"
        );
        assert!(said.contains("error: ") && said.contains(part), "{arguments:?}: {said}");
        assert!(!said.contains(&token[8..40]), "{arguments:?} repeats what it was given");
    }
    // A token must not stand among the arguments, and is not repeated where it does.
    for arguments in
        [&["revoke", token][..], &["revoke", "--token", token], &["revoke", "--token-stdin", token]]
    {
        let output = operate(gateway, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &[][..]), "{said}");
        assert!(!said.contains(token), "usage repeats a token");
    }
    // Nothing of it did anything.
    assert_eq!(status(gateway, text(&tenant, "query").unwrap()), 200);
    for command in [
        &["tenant", "create"][..],
        &["tenant", "list"],
        &["tenant", "revoke"],
        &["membrane", "list"],
        &["membrane", "revoke"],
        &["revoke"],
    ] {
        let output = operate(gateway, &[command, &["--help"]].concat(), "");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        // What it does, before how; and every option with its meaning beside it.
        assert!(help.find("\nUsage: ").is_some_and(|at| at > 20), "{help}");
        for option in help.lines().filter(|line| line.trim_start().starts_with("--")) {
            assert!(option.split("  ").filter(|part| !part.trim().is_empty()).count() == 2, "{option}");
        }
    }
}
