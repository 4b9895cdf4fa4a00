use super::*;

const OURS: &str = "POST\n/2015-03-31/functions/a%253Ab/invocations\nQualifier=1\ncontent-type:text/plain\nhost:lambda.us-east-1.amazonaws.com\n\
                    x-amz-date:20260101T000000Z\nx-amz-security-token:canary-token\nx-pinned:canary-pinned\n\n\
                    content-type;host;x-amz-date;x-amz-security-token;x-pinned\n\
                    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SCOPE: &str = "20260101/us-east-1/lambda/aws4_request";

fn signed() -> Signed {
    let canonical = Zeroizing::new(OURS.as_bytes().to_vec());
    Signed { canonical, date: "20260101T000000Z".into(), scope: SCOPE.into() }
}

fn to_sign(date: &str, scope: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n0000000000000000000000000000000000000000000000000000000000000000"
    )
}

/// As services with a JSON or REST protocol answer.
fn json(canonical: &str, to_sign: &str) -> String {
    let message = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing \
         method. Consult the service documentation for details.\n\nThe Canonical String for this request should have been\n'{canonical}'\
         \n\nThe String-to-Sign should have been\n'{to_sign}'\n"
    );
    serde_json::json!({ "message": message }).to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// As S3 answers.
fn s3(canonical: &str, to_sign: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we \
         calculated does not match the signature you provided.</Message><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><StringToSign>{}\
         </StringToSign><SignatureProvided>0</SignatureProvided><CanonicalRequest>{}</CanonicalRequest></Error>",
        escaped(to_sign),
        escaped(canonical)
    )
}

/// As services with the query protocol answer.
fn query(canonical: &str, to_sign: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(&json(canonical, to_sign)).unwrap();
    let message = escaped(json["message"].as_str().unwrap());
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code><Message>{message}</Message></Error></ErrorResponse>"
    )
}

#[test]
fn the_first_line_that_differs_is_named_in_each_form_of_answer() {
    let change = |from: &str, to: &str| {
        assert!(OURS.contains(from));
        OURS.replacen(from, to, 1)
    };
    for (theirs, expected) in [
        (
            change("POST", "GET"),
            r#"line 1 of its canonical request differs: the method: AWS has "GET", signed was "POST""#,
        ),
        (
            change("a%253Ab", "a%3Ab"),
            r#"line 2 of its canonical request differs: the path, from its byte 24 on: AWS has "3Ab/invo", signed was "253Ab/in""#,
        ),
        (
            change("Qualifier=1", "Qualifier=2&a=b"),
            r#"line 3 of its canonical request differs: the query, from the parameter "Qualifier" on"#,
        ),
        (
            change("host:lambda.", "host:internal."),
            r#"line 5 of its canonical request differs: the header: AWS has "host:internal.us-east-1.amazonaws.com", signed was "host:lambda.us-east-1.amazonaws.com""#,
        ),
        (
            change("x-amz-security-token:canary-token", "x-amz-security-token:canary-other"),
            r#"line 7 of its canonical request differs: the value of the header "x-amz-security-token" was changed on its way to AWS"#,
        ),
        (
            change("x-pinned:canary-pinned\n", ""),
            r#"line 8 of its canonical request differs: the header "x-pinned" did not reach AWS"#,
        ),
        (
            change("host:lambda.us-east-1.amazonaws.com\n", ""),
            r#"line 5 of its canonical request differs: AWS has the header "x-amz-date" where "host" was signed"#,
        ),
        (
            change("e3b0c442", "00000000"),
            r#"line 11 of its canonical request differs: the hash of the body: AWS has "0000000098fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", signed was "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855""#,
        ),
        (
            format!("{OURS}\nmore"),
            "line 12 of its canonical request differs: AWS has more lines than were signed",
        ),
    ] {
        for form in [json, s3, query] {
            let answer = form(&theirs, &to_sign("20260101T000000Z", SCOPE));
            let said = explain(answer.as_bytes(), &signed()).unwrap();
            assert!(said.ends_with(expected), "{said}\n{expected}");
            assert!(said.contains(SCOPE) && !said.contains("canary"), "{said}");
        }
    }
}

#[test]
fn where_the_same_was_signed_the_key_is_another() {
    for (date, scope, expected) in [
        ("20260101T000000Z", SCOPE, "the grant's secret access key is not that of its access key id"),
        ("20260101T000001Z", SCOPE, "its date is \"20260101T000001Z\""),
        (
            "20260101T000000Z",
            "20260101/eu-west-1/lambda/aws4_request",
            "its scope is \"20260101/eu-west-1/lambda/aws4_request\"",
        ),
    ] {
        for form in [json, s3, query] {
            let said = explain(form(OURS, &to_sign(date, scope)).as_bytes(), &signed()).unwrap();
            assert!(said.contains(expected), "{said}");
        }
    }
}

#[test]
fn other_answers_say_nothing_and_broken_ones_are_bounded() {
    for other in [
        r#"{"message": "User is not authorized to perform: lambda:InvokeFunction"}"#,
        "",
        "<Error><Code>AccessDenied</Code></Error>",
    ] {
        assert_eq!(explain(other.as_bytes(), &signed()), None);
    }
    for bare in [
        "SignatureDoesNotMatch",
        "{\"message\": \"The request signature we calculated does not match\"}",
        "<CanonicalRequest>SignatureDoesNotMatch",
    ] {
        let said = explain(bare.as_bytes(), &signed()).unwrap();
        assert!(said.ends_with("did not say what it would have signed"), "{said}");
    }
    let long = OURS.replacen("host:lambda", &format!("host:{}\u{7}", "x".repeat(60_000)), 1);
    let said = explain(s3(&long, "").as_bytes(), &signed()).unwrap();
    assert!(said.len() < 600 && !said.contains('\u{7}'), "{said}");
}
