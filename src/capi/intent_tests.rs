//! What each flag comes to. Every body is also put before the registry's own parser.

use super::*;
use crate::args::{Cli, Command};
use capability::Token;
use clap::Parser as _;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;

fn uri(byte: u8) -> String {
    format!("cpblty://localhost:8443/#{}", Token::mint([byte; 64]).expose())
}

/// The request of a command line, without a network: `environment` and `stdin` are all the world there is.
fn asked(line: &[&str], environment: &[(&str, &str)], stdin: &str) -> Result<(Request, Redactor), Failure> {
    let cli = Cli::try_parse_from(["capi", "membrane"].iter().chain(line))
        .map_err(|error| Failure::Usage(Box::new(error)))?;
    let Command::Membrane(args) = cli.command else { panic!("not a membrane command") };
    let environment: HashMap<&str, &str> = environment.iter().copied().collect();
    let environment = |name: &str| environment.get(name).map(OsString::from);
    let mut stdin = stdin.as_bytes();
    let mut sources = Sources::new(&environment, &mut stdin);
    let mut redactor = Redactor::default();
    let capability = capability(&args, &mut sources)?;
    Ok((request(&args, capability, &mut sources, &mut redactor)?, redactor))
}

/// The body of an export with the capability given.
fn export(line: &[&str], environment: &[(&str, &str)], stdin: &str) -> Result<Value, Failure> {
    let mine = uri(1);
    let line = [&["export", "--capability", &mine], line].concat();
    let (request, _) = asked(&line, environment, stdin)?;
    assert_eq!((request.method, request.query.len()), (Method::Post, 0));
    Ok(serde_json::from_slice(&request.body).unwrap())
}

fn refusal(line: &[&str], environment: &[(&str, &str)], stdin: &str) -> String {
    match export(line, environment, stdin) {
        Ok(body) => panic!("{line:?} came to {body}"),
        Err(failure) => failure.to_string(),
    }
}

const AWS: [&str; 8] = [
    "--uri",
    "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations",
    "--aws4-hmac-sha256-aws-access-key-id",
    "AKIDEXAMPLE",
    "--aws4-hmac-sha256-region",
    "us-east-1",
    "--aws4-hmac-sha256-service",
    "lambda",
];

#[test]
fn create_query_revoke_delete_self() {
    let mine = uri(1);
    let (request, _) = asked(&["create", "--id", "accounts/8a56 ü", "--capability", &mine], &[], "").unwrap();
    assert_eq!(request.method, Method::Post);
    assert_eq!(*request.body, "{\"id\":\"accounts/8a56 ü\"}".as_bytes());
    assert_eq!(*request.capability.to_secret_string(), mine);

    let (request, _) =
        asked(&["query", "--capability", &mine, "--id", "a", "--last-id", "b&c", "--limit", "7"], &[], "")
            .unwrap();
    assert_eq!(request.method, Method::Get);
    assert_eq!(
        request.query,
        [("id", "a".to_owned()), ("lastId", "b&c".to_owned()), ("limit", "7".to_owned())]
    );
    assert!(request.body.is_empty());

    for command in ["revoke", "delete-self", "deleteself"] {
        let (request, _) = asked(&[command, "--capability", &mine], &[], "").unwrap();
        assert_eq!((request.method, request.query.len(), request.body.len()), (Method::Delete, 0, 0));
        assert!(!request.waits);
        let (request, _) = asked(&[command, "--wait", "--capability", &mine], &[], "").unwrap();
        assert_eq!(request.query, [("wait", "fleet".to_owned())]);
        assert!(request.waits);
    }
}

#[test]
fn the_published_lambda_walk_through() {
    let line = [
        &AWS[..],
        &["--method", "POST", "--allow-query", "false"],
        &["--header", "X-Amz-Invocation-Type: RequestResponse", "--header", "X-Amz-Log-Type: None"],
        &["--aws4-hmac-sha256-secret-access-key", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"],
    ]
    .concat();
    let body = export(&line, &[], "").unwrap();
    assert_eq!(
        body,
        json!({
            "uri": "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations",
            "method": "POST",
            "allowQuery": false,
            "headers": {"X-Amz-Invocation-Type": "RequestResponse", "X-Amz-Log-Type": "None"},
            "hmac": {"aws4-hmac-sha256": {
                "awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "lambda",
                "secretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            }},
        })
    );
    capability::Export::parse(body.to_string().as_bytes()).unwrap();
}

#[test]
fn every_other_option() {
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    let (ca, cert, key) = (pem("CERTIFICATE"), pem("CERTIFICATE"), pem("PRIVATE KEY"));
    for (options, expected) in [
        (vec!["--allow-query"], json!({"allowQuery": true})),
        (vec!["--allow-query", "true"], json!({"allowQuery": true})),
        (vec!["--allow-query=false"], json!({"allowQuery": false})),
        (vec!["--timeout-ms", "1500"], json!({"timeoutMs": 1500})),
        (
            vec!["--header", "A: b", "C:d:e", "--method", "PUT", "--header", " F :  "],
            json!({"headers": {"A": "b", "C": "d:e", "F": ""}, "method": "PUT"}),
        ),
        (vec!["--allow-header", "if-match", "range"], json!({"allowHeaders": ["if-match", "range"]})),
        (vec!["--allow-query-name", "a", "--allow-query-name", "b"], json!({"allowQueryNames": ["a", "b"]})),
        (vec!["--body", "{\"a\": 1}"], json!({"body": "{\"a\": 1}"})),
        (vec!["--expires-at", "2030-01-31T12:00:00Z"], json!({"expiresAt": "2030-01-31T12:00:00Z"})),
        (
            vec!["--cap1-hmac-sha512-key", "c2VjcmV0LWtleQ", "--cap1-hmac-sha512-key-id", "k1"],
            json!({"hmac": {"cap1-hmac-sha512": {"key": "c2VjcmV0LWtleQ", "keyId": "k1"}}}),
        ),
        (
            vec![
                "--tls-ca",
                &ca,
                "--tls-cert",
                &cert,
                "--tls-key",
                &key,
                "--tls-reject-unauthorized",
                "false",
            ],
            json!({"tls": {"ca": ca, "cert": cert, "key": key, "rejectUnauthorized": false}}),
        ),
        (vec!["--tls-reject-unauthorized"], json!({"tls": {"rejectUnauthorized": true}})),
    ] {
        let mut expected = expected;
        expected["uri"] = json!("https://www.example.com");
        assert_eq!(
            export(&[&["--uri", "https://www.example.com"], &options[..]].concat(), &[], "").unwrap(),
            expected
        );
        // What the registry's parser does not take yet, it must at least know by name.
        if let Err(error) = capability::Export::parse(expected.to_string().as_bytes()) {
            assert!(error.to_string().contains("not ") && !error.to_string().contains("unknown"), "{error}");
        }
    }
}

#[test]
fn re_export_takes_a_capability_and_an_end() {
    let old = uri(2);
    let body =
        export(&["--capability-to-export", &old, "--expires-at", "2030-01-31T12:00:00Z"], &[], "").unwrap();
    assert_eq!(body, json!({"capability": old, "expiresAt": "2030-01-31T12:00:00Z"}));
    capability::Export::parse(body.to_string().as_bytes()).unwrap();
    assert_eq!(
        export(&["--capability-to-export", "-"], &[], &format!("{old}\n")).unwrap(),
        json!({"capability": old})
    );
}

#[test]
fn signing_secrets_come_from_flag_file_environment_or_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "from-file\n").unwrap();
    let path = path.to_str().unwrap();
    let environment = [
        ("CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY", "from-env"),
        ("CAPI_AWS4_HMAC_SHA256_SESSION_TOKEN", "session-env"),
    ];
    let hmac = |options: &[&str], environment: &[(&str, &str)]| {
        let body = export(&[&AWS[..], options].concat(), environment, "from-stdin\n").unwrap();
        let aws4 = &body["hmac"]["aws4-hmac-sha256"];
        (
            aws4["secretAccessKey"].as_str().unwrap().to_owned(),
            aws4["sessionToken"].as_str().map(str::to_owned),
        )
    };
    assert_eq!(hmac(&["--aws4-hmac-sha256-secret-access-key", "-"], &[]), ("from-stdin".into(), None));
    assert_eq!(hmac(&["--aws4-hmac-sha256-secret-access-key-file", path], &[]), ("from-file".into(), None));
    assert_eq!(hmac(&[], &environment), ("from-env".into(), Some("session-env".into())));
    assert_eq!(
        hmac(
            &["--aws4-hmac-sha256-secret-access-key", "x", "--aws4-hmac-sha256-session-token", "-"],
            &environment
        ),
        ("x".into(), Some("from-stdin".into()))
    );
    assert_eq!(hmac(&["--aws4-hmac-sha256-secret-access-key", "x"], &environment), ("x".into(), None));
    // A variable that was set for another export stays out of this one.
    let body = export(&["--uri", "https://www.example.com"], &environment, "").unwrap();
    assert_eq!(body, json!({"uri": "https://www.example.com"}));
}

#[test]
fn what_excludes_or_requires_what() {
    let old = uri(2);
    let uri_options: &[&[&str]] = &[
        &["--uri", "https://a"],
        &["--method", "GET"],
        &["--header", "A: b"],
        &["--allow-query"],
        &["--timeout-ms", "1"],
        &["--allow-header", "a"],
        &["--allow-query-name", "a"],
        &["--body", "x"],
        &["--body-file", "x"],
        &["--aws4-hmac-sha256-aws-access-key-id", "a"],
        &["--aws4-hmac-sha256-region", "a"],
        &["--aws4-hmac-sha256-service", "a"],
        &["--aws4-hmac-sha256-secret-access-key", "a"],
        &["--aws4-hmac-sha256-secret-access-key-file", "a"],
        &["--aws4-hmac-sha256-session-token", "a"],
        &["--aws4-hmac-sha256-session-token-file", "a"],
        &["--aws4-hmac-sha256-payload", "signed"],
        &["--cap1-hmac-sha512-key", "a"],
        &["--cap1-hmac-sha512-key-file", "a"],
        &["--cap1-hmac-sha512-key-id", "a"],
        &["--tls-ca", "a"],
        &["--tls-ca-file", "a"],
        &["--tls-cert", "a"],
        &["--tls-cert-file", "a"],
        &["--tls-key", "a"],
        &["--tls-key-file", "a"],
        &["--tls-reject-unauthorized", "false"],
    ];
    for option in uri_options {
        for to_export in [["--capability-to-export", old.as_str()], ["--capability-to-export-file", "x"]] {
            let error = refusal(&[&to_export[..], option].concat(), &[], "");
            assert!(error.contains("cannot be used with"), "{option:?}: {error}");
        }
        if *option != ["--uri", "https://a"] {
            let error = refusal(option, &[], "");
            assert!(
                error.contains("required arguments were not provided") && error.contains("--uri"),
                "{option:?}: {error}"
            );
        }
    }
    let with_uri = |line: &[&str]| refusal(&[&["--uri", "https://a"], line].concat(), &[], "");
    for cap1 in [
        ["--cap1-hmac-sha512-key", "k"],
        ["--cap1-hmac-sha512-key-file", "k"],
        ["--cap1-hmac-sha512-key-id", "k"],
    ] {
        for aws4 in uri_options.iter().filter(|option| option[0].starts_with("--aws4")) {
            let error = with_uri(&[&cap1[..], aws4].concat());
            assert!(error.contains("cannot be used with"), "{cap1:?} {aws4:?}: {error}");
        }
    }
    assert!(refusal(&AWS, &[], "").contains("CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY"));
    assert!(refusal(&AWS[..6], &[], "").contains("--aws4-hmac-sha256-service"));
    assert!(with_uri(&["--cap1-hmac-sha512-key", "k"]).contains("--cap1-hmac-sha512-key-id"));
    assert!(with_uri(&["--cap1-hmac-sha512-key-id", "k"]).contains("CAPI_CAP1_HMAC_SHA512_KEY"));
    assert!(with_uri(&["--allow-query", "--allow-query-name", "a"]).contains("cannot be used with"));
    let cert = "-----BEGIN CERTIFICATE-----";
    assert!(with_uri(&["--tls-cert", cert]).contains("CAPI_TLS_KEY"));
    assert!(with_uri(&["--tls-key", cert]).contains("--tls-key needs --tls-cert"));
    assert!(with_uri(&["--tls-ca", "/etc/ca.pem"]).contains("--tls-ca-file takes the name of a file"));
    assert!(refusal(&[], &[], "").contains("--uri"));
}

#[test]
fn malformed_values_are_named_and_not_shown() {
    for (line, flag) in [
        (vec!["--uri", "https://a", "--header", "A: b", "canary-7"], "--header: header 2"),
        (vec!["--uri", "https://a", "--header", ": canary-7"], "--header: header 1"),
        (vec!["--uri", "https://a", "--header", "A: b", "a: canary-7"], "--header: header 2"),
        (vec!["--capability-to-export", "cpblty://localhost/#CPBLTY1-canary-7"], "--capability-to-export"),
        (vec!["--uri", "https://a", "--tls-cert", "canary-7", "--tls-key", "canary-7"], "--tls-cert"),
        (vec!["--uri", "https://a", "--timeout-ms", "0"], "--timeout-ms"),
    ] {
        let error = refusal(&line, &[], "");
        assert!(error.contains(flag) && !error.contains("canary"), "{error}");
    }
    let mine = uri(1);
    for (line, flag) in [
        (vec!["create", "--id", ""], "--id: must have 1 to 512"),
        (vec!["query", "--last-id", "a\0"], "--last-id: must not hold a NUL"),
        (vec!["query", "--limit", "0"], "--limit"),
    ] {
        let line = [&line[..], &["--capability", &mine]].concat();
        let error = asked(&line, &[], "").err().unwrap().to_string();
        assert!(error.contains(flag), "{error}");
    }
}

#[test]
fn the_capability_comes_from_flag_file_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("capability");
    std::fs::write(&path, uri(2) + "\n").unwrap();
    let path = path.to_str().unwrap();
    let (one, three) = (uri(1), uri(3));
    let environment = [("CAPI_CAPABILITY", three.as_str())];
    let used = |line: &[&str], stdin: &str| {
        let (request, _) = asked(&[&["revoke"], line].concat(), &environment, stdin).unwrap();
        request.capability.to_secret_string().to_string()
    };
    assert_eq!(used(&["--capability", &one], ""), one);
    assert_eq!(used(&["--capability-file", path], ""), uri(2));
    assert_eq!(used(&["--capability", "-"], &uri(4)), uri(4));
    assert_eq!(used(&[], ""), three);
    // A profile named on the command line is nearer than a variable; profiles hold no revoke capability.
    let error = asked(&["revoke", "--profile", "p"], &environment, "").err().unwrap();
    assert!(
        error.to_string().contains("No membrane \"revoke\" capability found for profile \"p\""),
        "{error}"
    );

    for environment in [[("CAPI_CAPABILITY", "canary-8")], [("CAPI_CAPABILITY", "")]] {
        let error = asked(&["revoke"], &environment, "").err().unwrap().to_string();
        assert!(error.contains("CAPI_CAPABILITY") && !error.contains("canary"), "{error}");
    }
    let plain = format!("cpblty:localhost:80@http:{}", Token::mint([1; 64]).expose());
    let error = asked(&["revoke", "--capability", &plain], &[], "").err().unwrap();
    assert!(error.to_string().contains("https alone"), "{error}");
}

#[test]
fn what_is_sent_is_known_to_the_redactor() {
    let (mine, old) = (uri(1), uri(2));
    let line = [
        &["export", "--capability", &mine],
        &AWS[..],
        &["--header", "X-Key: canary-header", "--aws4-hmac-sha256-secret-access-key", "canary-secret"],
        &["--aws4-hmac-sha256-session-token", "canary-session", "--body", "canary-body"],
    ]
    .concat();
    let (request, redactor) = asked(&line, &[], "").unwrap();
    let echoed = redactor.apply(std::str::from_utf8(&request.body).unwrap());
    assert!(!echoed.contains("canary"), "{echoed}");
    let (request, redactor) =
        asked(&["export", "--capability", &mine, "--capability-to-export", &old], &[], "").unwrap();
    assert!(!redactor.apply(std::str::from_utf8(&request.body).unwrap()).contains(&old));
}
