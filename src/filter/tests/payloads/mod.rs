//! What becomes of bodies, by payload mode.

use crate::simulation::{Bench, LAMBDA, grant_answer, token};
use crate::warm;
use membrane_filter::abi_numbers::{DataStatus, HeadersStatus};

#[test]
fn a_pinned_body_is_signed_and_handed_to_the_stage_behind() {
    let export = LAMBDA.replace(r#""headers""#, r#""body": "pinned \u00fc", "headers""#);
    let bench = |config| {
        let mut bench = Bench::with_feed(config);
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
        (bench, context)
    };
    let (mut cold, context) = bench(r#"{"pinned_bodies": true}"#);
    let handed = |bench: &Bench, context| {
        (bench.sent(context, "x-membrane-body").unwrap(), bench.sent(context, "content-length").unwrap())
    };
    let expected = ("70696e6e656420c3bc".to_owned(), "9".to_owned());
    assert_eq!(handed(&cold, context), expected);
    let authorization = cold.sent(context, "authorization");
    // Warm; and with a body that turns out to be empty.
    let (context, _) = cold.headers(token(1).expose(), &[("x-membrane-body", "00")], true);
    assert_eq!(handed(&cold, context), expected);
    assert_eq!(cold.sent(context, "authorization"), authorization);
    let (context, status) = cold.headers(token(1).expose(), &[], false);
    assert_eq!(status, HeadersStatus::Stop);
    assert_eq!(cold.body(context, b"", true), DataStatus::Continue);
    assert_eq!(handed(&cold, context), expected);
    // What a body of the requester's gets, announced or not.
    let (context, _) = cold.headers(token(1).expose(), &[("content-length", "100000")], false);
    assert_eq!(cold.status(context), Some(400));
    let (context, _) = cold.headers(token(1).expose(), &[], false);
    assert_eq!(cold.body(context, b"x", false), DataStatus::StopNoBuffer);
    assert_eq!(cold.status(context), Some(400));

    // Without that stage nothing goes out.
    let (bench, context) = bench("");
    assert_eq!(bench.status(context), Some(500));
    assert!(bench.envoy.warnings[0].contains("pinned_bodies"), "{:?}", bench.envoy.warnings);
}

#[test]
fn cap1_signs_what_is_sent_and_lets_the_body_stream() {
    let export = r#"{"uri": "https://Api.example.com/a?x=1", "headers": {"x-key": "k"}, "allowQuery": true,
        "hmac": {"cap1-hmac-sha512": {"key": "canary", "keyId": "id"}}}"#;
    let mut bench = warm("", export);
    let more =
        [(":path", "/?q=%20"), ("content-type", "text/plain"), ("x-cap-date", "theirs"), ("x-amz-acl", "x")];
    let (context, status) = bench.headers(token(1).expose(), &more, false);
    assert_eq!(status, HeadersStatus::Continue);
    assert_eq!(bench.body(context, &[0; 5_000_000], true), DataStatus::Continue);
    assert_eq!(bench.sent(context, ":path").as_deref(), Some("/a?x=1&q=%20"));
    assert_eq!(bench.sent(context, "x-cap-date").as_deref(), Some("20260101T000000Z"));
    assert_eq!(bench.sent(context, "x-amz-acl"), None);
    let authorization = bench.sent(context, "authorization").unwrap();
    let expected = "CAP1-HMAC-SHA512 Credential=id/20260101/api.example.com/cap1_request,\
                    SignedHeaders=content-type;host;x-cap-date;x-key,Signature=";
    assert!(authorization.starts_with(expected), "{authorization}");
    for (path, status) in [("/?q=%FF", 400), ("/?x=2", 400), ("/?a;x=2", 400)] {
        let (context, _) = bench.headers(token(1).expose(), &[(":path", path)], true);
        assert_eq!(bench.status(context), Some(status), "{path}");
    }
}
