//! What of a requester's query is let through.

use crate::simulation::{LAMBDA, token};
use crate::warm;

#[test]
fn queries_are_let_through_by_name_and_never_override() {
    let names = LAMBDA.replace(r#""method": "POST""#, r#""allowQueryNames": ["acl", "version Id"]"#);
    let all = LAMBDA.replace(r#""method": "POST""#, r#""allowQuery": true"#);
    for (export, query, expected) in [
        (LAMBDA, "?a=1", Ok("?Qualifier=1")),
        (all.as_str(), "?a=1&b=%2f+x", Ok("?Qualifier=1&a=1&b=%2F%20x")),
        (&all, "", Ok("?Qualifier=1")),
        (&all, "?", Ok("?Qualifier=1")),
        (&all, "?Qualifier=2", Err(400)),
        (&all, "?Quali%66ier=2", Err(400)),
        (&all, "?X-Amz-Signature=1", Err(400)),
        (&all, "?x-amz%2ddate=1", Err(400)),
        (&all, "?a%26Qualifier=2", Ok("?Qualifier=1&a%26Qualifier=2")),
        (&all, "?a;b=1", Ok("?Qualifier=1&a%3Bb=1")),
        (&names, "?acl&version+Id=3", Ok("?Qualifier=1&acl&version%20Id=3")),
        (&names, "?policy", Err(400)),
    ] {
        let mut bench = warm("", export);
        let (context, _) = bench.headers(token(1).expose(), &[(":path", &format!("/{query}"))], true);
        let base = "/2015-03-31/functions/f/invocations";
        match expected {
            Ok(path) => assert_eq!(bench.sent(context, ":path"), Some(format!("{base}{path}")), "{query}"),
            Err(status) => assert_eq!(bench.status(context), Some(status), "{query}"),
        }
    }
}

#[test]
fn queries_are_bounded_and_cannot_be_read_in_two_ways() {
    let all = LAMBDA.replace(r#""method": "POST""#, r#""allowQuery": true"#);
    let mut bench = warm("", &all);
    for (count, refused) in [(256, None), (257, Some(400))] {
        let path = format!("/?{}", vec!["a=1"; count].join("&"));
        let (context, _) = bench.headers(token(1).expose(), &[(":path", &path)], true);
        assert_eq!(bench.status(context), refused);
    }
    let mut plain = warm("", r#"{"uri": "http://example.com/?role=user", "allowQueryNames": ["page"]}"#);
    for (query, path) in [
        ("page=1", Some("/?role=user&page=1")),
        ("page=1;role=admin", None),
        ("page=1&role=admin", None),
        ("page=1%3Brole=admin", Some("/?role=user&page=1%3Brole=admin")),
    ] {
        let (context, _) = plain.headers(token(1).expose(), &[(":path", &format!("/?{query}"))], true);
        match path {
            Some(path) => assert_eq!(plain.sent(context, ":path").as_deref(), Some(path)),
            None => assert_eq!(plain.status(context), Some(400), "{query}"),
        }
    }
    // A name that one upstream reads as the grant's own, and another does not.
    let mut plain = warm("", r#"{"uri": "http://example.com/?a%2Bb=1&50%25=1", "allowQuery": true}"#);
    for (query, path) in [
        ("a+b=2", None),
        ("x&a+b", None),
        ("50%=2", None),
        ("50%2=2", None),
        ("a%2bb=2", None),
        ("50%25=2", None),
        ("a%20b=c+d%", Some("/?a%2Bb=1&50%25=1&a%20b=c+d%")),
        ("%c3%a4=1", Some("/?a%2Bb=1&50%25=1&%c3%a4=1")),
    ] {
        let (context, _) = plain.headers(token(1).expose(), &[(":path", &format!("/?{query}"))], true);
        match path {
            Some(path) => assert_eq!(plain.sent(context, ":path").as_deref(), Some(path)),
            None => assert_eq!(plain.status(context), Some(400), "{query}"),
        }
    }
}
