//! The two that are asked.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request as theirs;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::case::{Body, Case, Token};
use crate::ours::Ours;

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
    let body = match &case.body {
        Body::Bytes(bytes) if ours.payload != "UNSIGNED-PAYLOAD" => theirs::SignableBody::Bytes(bytes),
        _ => theirs::SignableBody::Precomputed(ours.payload.clone()),
    };
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

pub(crate) fn against_aws_sigv4(case: &Case) -> Result<(), TestCaseError> {
    let ours = case.sign_afresh_and_again()?;
    let query = [&case.query, "&", &case.requester_query].concat();
    if !is_utf8_when_decoded(query.as_bytes()) || case.headers.iter().any(|(_, value)| !value.is_ascii()) {
        return Err(TestCaseError::reject("aws-sigv4 cannot be asked"));
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
        case.path.clone()
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%!$&'()*+,;=:@".contains(&byte);
    if path.bytes().all(legal) && path.starts_with('/') {
        let raw = format!("{origin}{path}?{query}");
        if let Some(authorization) = aws_sigv4(case, &ours, &raw) {
            prop_assert_eq!(&ours.authorization, &authorization, "{}\n{}", raw, ours.canonical_request);
        }
    }
    Ok(())
}

/// A Python process with botocore in it.
pub(crate) struct Botocore {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Botocore {
    pub(crate) fn start() -> Self {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("MEMBRANE_PYTHON")
            .map_or_else(|| crate_folder.join("../../.tools/venv/bin/python"), PathBuf::from);
        let help = format!("no Python with botocore at {}: run `make tools`", python.display());
        let has_botocore = Command::new(&python).args(["-c", "import botocore.auth"]).status();
        assert!(has_botocore.is_ok_and(|status| status.success()), "{help}");
        let mut child = Command::new(python)
            .arg(crate_folder.join("tests/differential/botocore_oracle.py"))
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

pub(crate) fn against_botocore(botocore: &mut Botocore, case: &Case) -> Result<(), TestCaseError> {
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
        "body": match &case.body { Body::Bytes(bytes) => Some(hex::encode(bytes)), _ => None },
        "content_sha256": ours.content_sha256,
        "access_key_id": case.access_key_id,
        "secret_access_key": case.secret,
        "token": token,
        "now": case.now,
        "raw_path": hex::encode(if case.path.is_empty() { "/" } else { &case.path }),
    }));
    prop_assert_eq!(&Value::from(ours.canonical_request), &answer["canonical_request"]);
    prop_assert_eq!(&Value::from(ours.string_to_sign), &answer["string_to_sign"]);
    prop_assert_eq!(&Value::from(ours.authorization), &answer["authorization"]);
    if case.service().is_s3_family() {
        prop_assert_eq!(&Value::from(ours.target.canonical_uri()), &answer["s3_path"]);
    }
    Ok(())
}
