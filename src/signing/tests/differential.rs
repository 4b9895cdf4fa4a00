//! Random requests, signed by us and by two implementations that AWS itself ships: the crate `aws-sigv4` and PyPI's `botocore`.
//!
//! `MEMBRANE_FUZZ_CASES` sets how many (default 3,000 an oracle); `MEMBRANE_PYTHON` the interpreter that has botocore.
//!
//! Where an oracle cannot be asked, or is known to differ from `docs` and from the other one:
//!
//! * `aws-sigv4` refuses header values outside ASCII and reads a query that is not UTF-8 with replacement characters: such
//!   requests go to botocore alone.
//! * botocore folds tabs and Unicode white space inside header values as well as spaces; `aws-sigv4` folds spaces only, and so do
//!   we: values with tabs go to `aws-sigv4` alone.
//! * For a path that ends in `/.` or `/..`, botocore drops the final slash, against RFC 3986 §5.2.4; `aws-sigv4` keeps it, and so
//!   do we. We *send* normalised paths, so both are asked about that; `aws-sigv4` is also asked about the path as it was.
//! * Neither implements `x-amz-s3session-token` by itself: `aws-sigv4` has a setting for it, botocore gets it as a plain header.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request as theirs;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use serde_json::{Value, json};
use signing::aws4::{
    Credential, Payload, Query, Service, SessionToken, Signer, Target, is_unsigned_by_nature, stages,
};
use signing::{Scheme, Secret, Timestamp};

const DEFAULT_CASES: u32 = 3_000;

#[derive(Clone, Debug)]
struct Case {
    service: String,
    region: String,
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    method: String,
    path: Vec<u8>,
    query: Vec<u8>,
    requester_query: Vec<u8>,
    headers: Vec<(String, String)>,
    payload: Payload,
    access_key_id: String,
    secret: String,
    token: Option<Token>,
    now: u64,
}

#[derive(Clone, Debug)]
enum Token {
    Sts(String),
    S3Express(String),
}

fn service() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("s3".to_owned()),
        2 => select(vec!["s3express", "s3-outposts", "s3-object-lambda"]).prop_map(str::to_owned),
        2 => select(vec!["es", "aoss", "glacier", "vpc-lattice-svcs"]).prop_map(str::to_owned),
        3 => select(vec!["lambda", "dynamodb", "sqs", "sts", "execute-api", "bedrock"]).prop_map(str::to_owned),
        1 => "[a-z][a-z0-9.-]{0,12}",
    ]
}

/// Pieces that encoders and normalisers are known to trip over, and plain text between them.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9._~-]{1,6}",
        4 => select(vec![
            "/", "//", "/.", "/..", "/./", "/../", "/...", "/.a", "%2F", "%2f", "%2E", "%2e%2E", "%25", "%2525", "%20", " ",
            "+", "%2B", ":", "%3A", "@", "=", ",", ";", "&", "$", "!", "*", "'", "(", ")", "~", "%7E", "%41", "[", "]", "\"", "<",
            "^", "`", "{", "|", "\\", "%00", "%0a", "%FF", "%C3%A9", "é", "☃", "\u{10348}",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,3}".prop_map(|text| text.replace(['?', '#', '%'], "").chars().filter(|c| !c.is_control()).collect()),
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        12 => prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()).into_bytes()),
    ]
}

fn query() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9._~-]{1,4}",
        6 => select(vec![
            "&", "&", "&", "=", "=", "==", "&&", "+", "%20", "%2B", "%2F", "%2f", "/", "?", ":", "@", "!", "*", "'", "(", ")", ",",
            ";", "$", "%26", "%3D", "%", "%zz", "%2", "%25", "a=1", "a=2", "a=", "a", "acl", "a-b=1", "~", "\"", "[0]", "{", "|",
            "%C3%A9", "é", "☃", "\u{10348}", "%FF", "%00", "%0A",
        ]).prop_map(str::to_owned),
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        3 => prop::collection::vec(piece, 1..14).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

fn header() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        4 => select(vec![
            "content-type", "x-amz-target", "x-amz-meta-a", "x-amz-acl", "x-amz-decoded-content-length", "range", "accept", "a",
            "x-amz-meta-a-b", "x-amz-", "zz", "content-md5", "x-amz.dotted", "x-amz_under", "if-match", "date-like",
        ]).prop_map(str::to_owned),
        2 => "[a-z][a-z0-9!#$&'*+.^_`|~-]{0,8}".prop_filter("set by signing or by HTTP itself", |name| name != "date"),
        1 => select(vec![
            "user-agent", "expect", "content-length", "x-amzn-trace-id", "x-forwarded-for", "x-forwarded-proto",
            "x-envoy-upstream-rq-timeout-ms", "connection", "te", "traceparent", "transfer-encoding", "keep-alive", "upgrade",
            "x-request-id", "authorization", "host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token",
            "x-amz-s3session-token",
        ]).prop_map(str::to_owned),
    ];
    let piece = prop_oneof![
        4 => "[!-~]{1,6}",
        4 => select(vec![" ", "  ", "   ", ",", ", ", " ,", "\"", "\"a   b\"", "a=b", ";", "application/json"])
            .prop_map(str::to_owned),
    ];
    (name, prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat()))
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        2 => Just(Payload::Empty),
        2 => any::<[u8; 32]>().prop_map(Payload::Sha256),
        1 => select(vec![Payload::Unsigned, Payload::StreamingUnsignedTrailer, Payload::StreamingTrailer, Payload::Streaming]),
    ]
}

fn token() -> impl Strategy<Value = Option<Token>> {
    let text = "[!-~]{1,80}";
    prop_oneof![
        2 => Just(None),
        2 => text.prop_map(|text| Some(Token::Sts(text))),
        1 => text.prop_map(|text| Some(Token::S3Express(text))),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let place = (
        service(),
        "[a-z]{2}-[a-z]{3,9}-[1-9]",
        prop::bool::weighted(0.8),
        prop_oneof![
            "[A-Za-z0-9]([A-Za-z0-9_-]{0,8}[A-Za-z0-9])?(\\.[A-Za-z0-9]{1,6}){0,3}",
            Just("[2001:DB8::1]".into())
        ],
        prop_oneof![3 => Just(None), 1 => select(vec![80_u16, 443, 8443, 1]).prop_map(Some)],
    );
    let request = (
        prop_oneof![4 => select(vec!["GET", "PUT", "POST", "DELETE", "HEAD"]).prop_map(str::to_owned), 1 => "[A-Z]{1,8}"],
        path(),
        query(),
        prop_oneof![2 => Just(Vec::new()), 1 => query()],
        prop::collection::vec(header(), 0..7),
        payload(),
    );
    // Keys on both sides of SHA-256's block, from which HMAC hashes its key first.
    let identity = ("[A-Z0-9]{4,20}", prop_oneof!["[!-~]{1,40}", "[!-~]{55,90}"], token());
    // Half the moments within a second of midnight.
    let now = prop_oneof![
        0..4_102_444_800_u64,
        (0..47_000_u64, 0..3_u64).prop_map(|(day, second)| day * 86_400 + 86_399 + second)
    ];
    (place, request, identity, now).prop_map(|(place, request, identity, now)| {
        let (service, region, https, host, port) = place;
        let (method, path, query, requester_query, headers, payload) = request;
        let (access_key_id, secret, token) = identity;
        let scheme = if https { Scheme::Https } else { Scheme::Http };
        Case {
            service,
            region,
            scheme,
            host,
            port,
            method,
            path,
            query,
            requester_query,
            headers,
            payload,
            access_key_id,
            secret,
            token,
            now,
        }
    })
}

/// What we made of a case.
struct Ours {
    target: Target,
    canonical_request: String,
    string_to_sign: String,
    authorization: String,
    content_sha256: Option<String>,
    payload: String,
}

impl Case {
    fn service(&self) -> Service {
        Service::new(self.service.as_str()).unwrap()
    }

    fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    fn scheme_text(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// Headers that an oracle is to sign: ours minus what signing sets and what nobody may sign.
    fn signable_headers(&self) -> impl Iterator<Item = &(String, String)> {
        self.headers.iter().filter(|(name, _)| {
            !signing::aws4::is_set_by_signing(name.as_bytes()) && !is_unsigned_by_nature(name.as_bytes())
        })
    }

    fn sign(&self, signer: &mut Signer) -> Ours {
        let service = self.service();
        let now = Timestamp::from_unix(self.now);
        let pinned = Target::new(&service, self.scheme, &self.authority(), &self.path, &self.query).unwrap();
        let target = pinned.with_query(&Query::parse(&self.requester_query).unwrap());
        let headers = || self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut out = String::new();
        let signed = signer.sign(&now, &self.method, &target, headers(), self.payload, &mut out).unwrap();

        // The stages once more, from what is *sent*: they have to lead to the very signature.
        let sent: Vec<(&str, &str)> = [("host", target.authority())]
            .into_iter()
            .chain(self.signable_headers().map(|(name, value)| (name.as_str(), value.as_str())))
            .chain(signed.headers().filter(|(name, _)| *name != "authorization"))
            .collect();
        let payload = if service.is_always_unsigned() { Payload::Unsigned } else { self.payload };
        let sent = sent.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let canonical_request = stages::canonical_request(&self.method, &target, sent, payload).unwrap();
        let string_to_sign = stages::string_to_sign(&now, &self.region, &service, &canonical_request);
        let canonical_request = String::from_utf8(canonical_request).unwrap();
        Ours {
            canonical_request: canonical_request.clone(),
            string_to_sign,
            authorization: signed.authorization.to_owned(),
            content_sha256: signed.amz_content_sha256.map(str::to_owned),
            payload: canonical_request.rsplit('\n').next().unwrap().to_owned(),
            target,
        }
    }

    fn signer(&self) -> Signer {
        let session_token = self.token.clone().map(|token| match token {
            Token::Sts(text) => SessionToken::Sts(Secret::new(text)),
            Token::S3Express(text) => SessionToken::S3Express(Secret::new(text)),
        });
        let credential = Credential {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: Secret::new(self.secret.clone()),
            session_token,
        };
        Signer::new(credential, self.region.clone(), self.service()).unwrap()
    }

    /// Signed by a signer that signed at another moment before: what it remembers must not show.
    fn sign_afresh_and_again(&self) -> Result<Ours, TestCaseError> {
        let mut signer = self.signer();
        let ours = self.sign(&mut signer);
        for now in [self.now + 1, self.now + 86_400, self.now, self.now] {
            let then = Case { now, ..self.clone() };
            let again = then.sign(&mut signer);
            prop_assert_eq!(again.authorization, then.sign(&mut then.signer()).authorization);
        }
        for other in self.relatives() {
            let between = other.sign(&mut signer);
            prop_assert_eq!(between.authorization, other.sign(&mut other.signer()).authorization);
            prop_assert_eq!(&self.sign(&mut signer).authorization, &ours.authorization);
        }
        Ok(ours)
    }

    /// Requests through the same grant that differ in one thing each, at the start, in the middle or at the end of the canonical
    /// request.
    fn relatives(&self) -> [Self; 4] {
        let method = if self.method == "GET" { "HEAD" } else { "GET" }.to_owned();
        let payload = if self.payload == Payload::Empty { Payload::Sha256([7; 32]) } else { Payload::Empty };
        [
            Self { method, ..self.clone() },
            Self { requester_query: b"zz=1".to_vec(), ..self.clone() },
            Self { headers: Vec::new(), ..self.clone() },
            Self { payload, ..self.clone() },
        ]
    }
}

/// The signature that the crate `aws-sigv4` puts on `url`, or `None` if it cannot parse that.
fn aws_sigv4(case: &Case, ours: &Ours, url: &str) -> Option<String> {
    let (token, token_header) = match &case.token {
        None => (None, None),
        Some(Token::Sts(text)) => (Some(text.clone()), None),
        Some(Token::S3Express(text)) => (Some(text.clone()), Some("x-amz-s3session-token")),
    };
    let s3 = case.service().is_s3_family();
    let mut settings = theirs::SigningSettings::default();
    settings.session_token_name_override = token_header;
    if s3 {
        settings.percent_encoding_mode = theirs::PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = theirs::UriPathNormalizationMode::Disabled;
    }
    if ours.content_sha256.is_some() {
        settings.payload_checksum_kind = theirs::PayloadChecksumKind::XAmzSha256;
    }
    let identity =
        Credentials::new(case.access_key_id.clone(), case.secret.clone(), token, None, "test").into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region(&case.region)
        .name(&case.service)
        .time(UNIX_EPOCH + Duration::from_secs(case.now))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let headers = case.signable_headers().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = theirs::SignableBody::Precomputed(ours.payload.clone());
    let request = theirs::SignableRequest::new(&case.method, url, headers, body).ok()?;
    let (instructions, _) = theirs::sign(request, &params).unwrap().into_parts();
    instructions.headers().find(|(name, _)| *name == "authorization").map(|(_, value)| value.to_owned())
}

/// As a query parser would: `+` is a space.
fn is_utf8_when_decoded(raw: &[u8]) -> bool {
    raw.split(|byte| matches!(byte, b'&' | b'=')).all(|part| {
        let mut decoded = Vec::new();
        let mut rest = part;
        while let [first, tail @ ..] = rest {
            let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            let byte = digits
                .filter(|two| *first == b'%' && two.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|two| u8::from_str_radix(two, 16).ok());
            decoded.push(byte.unwrap_or(*first));
            rest = if byte.is_some() { &tail[2..] } else { tail };
        }
        std::str::from_utf8(&decoded).is_ok()
    })
}

fn against_aws_sigv4(case: &Case) -> Result<(), TestCaseError> {
    let ours = case.sign_afresh_and_again()?;
    let query = [&case.query[..], b"&", &case.requester_query].concat();
    if !is_utf8_when_decoded(&query) || case.headers.iter().any(|(_, value)| !value.is_ascii()) {
        return Ok(());
    }
    let origin = format!("{}://{}", case.scheme_text(), ours.target.authority());
    let sent = format!("{origin}{}", ours.target.path_and_query());
    prop_assert_eq!(
        Some(ours.authorization.clone()),
        aws_sigv4(case, &ours, &sent),
        "\n{}",
        ours.canonical_request
    );

    // As the grant has it, if the crate can parse that: its own decoding, and outside S3 its own normalisation. S3's path has to
    // be encoded first, by whoever sends it.
    let path = if case.service().is_s3_family() {
        ours.target.canonical_uri().to_owned()
    } else {
        String::from_utf8(case.path.clone()).unwrap()
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%!$&'()*+,;=:@".contains(&byte);
    if path.bytes().all(legal) && path.starts_with('/') {
        let raw = format!("{origin}{path}?{}", String::from_utf8(query).unwrap());
        if let Some(authorization) = aws_sigv4(case, &ours, &raw) {
            prop_assert_eq!(&ours.authorization, &authorization, "{}\n{}", raw, ours.canonical_request);
        }
    }
    Ok(())
}

/// A Python process with botocore in it.
struct Botocore {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Botocore {
    fn start() -> Self {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("MEMBRANE_PYTHON")
            .map_or_else(|| crate_folder.join("../../.tools/venv/bin/python"), PathBuf::from);
        let help = format!("no Python with botocore at {}: run `make tools`", python.display());
        let has_botocore = Command::new(&python).args(["-c", "import botocore.auth"]).status();
        assert!(has_botocore.is_ok_and(|status| status.success()), "{help}");
        let mut child = Command::new(python)
            .arg(crate_folder.join("tests/botocore_oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(&help);
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.input, "{question}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("botocore_oracle.py died");
        assert!(answer.get("error").is_none(), "{}", answer["error"].as_str().unwrap_or_default());
        answer
    }
}

impl Drop for Botocore {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn against_botocore(botocore: &mut Botocore, case: &Case) -> Result<(), TestCaseError> {
    let ours = case.sign_afresh_and_again()?;
    let mut headers: Vec<(&str, &str)> = case
        .headers
        .iter()
        .filter(|(name, _)| {
            // botocore leaves these out by itself; let it.
            matches!(
                name.as_str(),
                "user-agent" | "expect" | "x-amzn-trace-id" | "connection" | "te" | "traceparent"
            ) || case.signable_headers().any(|(signable, _)| signable == name)
        })
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut token = None;
    match &case.token {
        None => {}
        Some(Token::Sts(text)) => token = Some(text),
        Some(Token::S3Express(text)) => headers.push(("x-amz-s3session-token", text)),
    }
    let answer = botocore.ask(&json!({
        "service": case.service,
        "region": case.region,
        "method": case.method,
        // The authority as the grant has it: botocore brings it into form by itself.
        "url": format!("{}://{}{}", case.scheme_text(), case.authority(), ours.target.path_and_query()),
        "headers": headers,
        "payload": ours.payload,
        "content_sha256": ours.content_sha256,
        "access_key_id": case.access_key_id,
        "secret_access_key": case.secret,
        "token": token,
        "now": case.now,
        "raw_path": hex::encode(if case.path.is_empty() { b"/" } else { case.path.as_slice() }),
    }));
    prop_assert_eq!(&Value::from(ours.canonical_request), &answer["canonical_request"]);
    prop_assert_eq!(&Value::from(ours.string_to_sign), &answer["string_to_sign"]);
    prop_assert_eq!(&Value::from(ours.authorization), &answer["authorization"]);
    if case.service().is_s3_family() {
        prop_assert_eq!(&Value::from(ours.target.canonical_uri()), &answer["s3_path"]);
    }
    Ok(())
}

/// Seeds of failures stay in `regressions`, beside this file, and are tried first from then on.
fn runner(regressions: &'static str) -> TestRunner {
    let cases = std::env::var("MEMBRANE_FUZZ_CASES")
        .map_or(DEFAULT_CASES, |count| count.parse().expect("MEMBRANE_FUZZ_CASES is a number"));
    TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..Config::default()
    })
}

#[test]
fn signs_as_the_crate_aws_sigv4() {
    // Tabs inside values: botocore folds them, so only this oracle is asked. (Inside, since HTTP strips those around a value before
    // any verifier sees them, and so do we.)
    let tabbed = (case(), prop::bool::weighted(0.2)).prop_map(|(mut case, tabs)| {
        if tabs {
            case.headers.iter_mut().for_each(|(_, value)| *value = value.replace(",", "x\t \tx"));
        }
        case
    });
    runner(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/aws_sigv4.regressions"))
        .run(&tabbed, |case| against_aws_sigv4(&case))
        .unwrap();
}

#[test]
fn signs_as_botocore() {
    // Values outside ASCII: aws-sigv4 refuses them.
    let unicode = (case(), prop::bool::weighted(0.2)).prop_map(|(mut case, unicode)| {
        if unicode {
            case.headers.iter_mut().for_each(|(_, value)| *value = value.replace(",", "é☃\u{10348}x"));
        }
        case
    });
    let botocore = std::cell::RefCell::new(Botocore::start());
    runner(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/botocore.regressions"))
        .run(&unicode, |case| against_botocore(&mut botocore.borrow_mut(), &case))
        .unwrap();
}
