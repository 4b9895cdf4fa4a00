//! The export request: what somebody with an export control asks to be minted.

use crate::fields::{FieldError, Fields};
use crate::{CapabilityUri, Grant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What is to be minted.
#[derive(Debug)]
pub enum Exported {
    /// A grant of its own.
    Grant(Box<Grant>),
    /// Another capability again, of whatever kind; the new one dies with either membrane.
    Capability(Box<CapabilityUri>),
}

/// The body of an export request.
#[derive(Debug)]
pub struct Export {
    /// What is to be minted.
    pub what: Exported,
    /// Seconds since 1970 from which on the capability is as unknown; rounded down.
    pub expires_at: Option<u64>,
}

impl Export {
    /// Parses the JSON body of an export request, whatever its content type; every rule of the API's table holds
    /// afterwards.
    pub fn parse(body: &[u8]) -> Result<Export, FieldError> {
        let mut fields = Fields::parse(body)?;
        let expires_at = match fields.string("expiresAt")? {
            None => None,
            Some(text) => {
                let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
                    fields.error("expiresAt", "must be a time as of RFC 3339: 2030-01-31T12:00:00Z")
                })?;
                Some(
                    u64::try_from(time.unix_timestamp())
                        .map_err(|_| fields.error("expiresAt", "lies before 1970"))?,
                )
            }
        };
        let what = match (fields.has("uri"), fields.has("capability")) {
            (true, true) => {
                return Err(FieldError::new("", "give exactly one of uri and capability, not both"));
            }
            (false, false) => return Err(FieldError::new("", "give exactly one of uri and capability")),
            (true, false) => Exported::Grant(Box::new(Grant::take(&mut fields)?)),
            (false, true) => {
                let text = crate::Secret::from_string(fields.string("capability")?.unwrap_or_default());
                let uri = CapabilityUri::parse(text.expose_str().unwrap_or_default())
                    .map_err(|error| fields.error("capability", error.to_string()))?;
                Exported::Capability(Box::new(uri))
            }
        };
        fields.finish()?;
        Ok(Export { what, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::{Content, Hmac, Payload, Scheme};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn full() -> Value {
        json!({
            "uri": "https://Lambda.us-east-1.amazonaws.com:443/2015-03-31/functions/f/invocations?Qualifier=1",
            "method": "POST",
            "allowQueryNames": ["acl"],
            "headers": {"X-Api-Key": " canary ", "Connection": "close", "content-type": "application/json"},
            "allowHeaders": ["X-Amz-Invocation-Type"],
            "timeoutMs": 5000,
            "hmac": {"aws4-hmac-sha256": {
                "awsAccessKeyId": "AKIA_1", "region": "us-east-1", "service": "lambda", "secretAccessKey": "s/+=", "sessionToken": "t"
            }},
            "expiresAt": "2030-01-31T12:00:00.9Z"
        })
    }

    fn cap1(key_id: &str, key: &str) -> Value {
        json!({"cap1-hmac-sha512": {"key": key, "keyId": key_id}})
    }

    fn parse(value: &Value) -> Result<Export, String> {
        Export::parse(value.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn grant(value: &Value) -> Grant {
        match parse(value).unwrap().what {
            Exported::Grant(grant) => *grant,
            Exported::Capability(_) => panic!("a grant was expected"),
        }
    }

    #[test]
    fn a_full_grant_is_read_sealed_and_read_again() {
        let export = parse(&full()).unwrap();
        assert_eq!(export.expires_at, Some(1_896_091_200));
        let check = |grant: &Grant| {
            assert_eq!(grant.target.scheme, Scheme::Https);
            assert_eq!(grant.target.authority.as_str(), "lambda.us-east-1.amazonaws.com");
            assert_eq!(grant.target.path, "/2015-03-31/functions/f/invocations");
            assert_eq!(grant.target.query.as_deref(), Some("Qualifier=1"));
            assert_eq!(grant.method, Some("POST"));
            assert_eq!(grant.allow_query_names, ["acl"]);
            assert_eq!(grant.allow_headers, ["x-amz-invocation-type"]);
            assert_eq!(grant.timeout_ms, Some(5000));
            let headers: Vec<_> =
                grant.headers.iter().map(|h| (h.name.as_str(), h.value.expose_str().unwrap())).collect();
            assert_eq!(headers, [("content-type", "application/json"), ("x-api-key", "canary")]);
            let Some(Hmac::Aws4(credential)) = &grant.hmac else { panic!() };
            assert_eq!(credential.secret_access_key.expose(), b"s/+=");
            assert_eq!(credential.session_token.as_ref().unwrap().expose(), b"t");
        };
        let first = grant(&full());
        check(&first);
        let json = Content::Grant(Box::new(first)).to_json();
        let Content::Grant(second) = Content::from_json(Kind::Grant, json.expose()).unwrap() else {
            panic!()
        };
        check(&second);
        assert!(!format!("{second:?} {export:?}").contains("canary"));
    }

    /// Each entry: what is changed in a full body, and what the message must name.
    #[test]
    fn every_rule_names_its_field() {
        let long = "x".repeat(300);
        let cases = [
            ("/uri", json!("ftp://a/"), "uri: must be an absolute http or https URI"),
            ("/uri", json!("/path"), "uri: must be an absolute"),
            ("/uri", json!("https://a/#f"), "uri: must have no fragment"),
            ("/uri", json!("https://u:p@a/"), "uri: must have no user information"),
            ("/uri", json!("https://a/b c"), "uri: path and query must be percent-encoded"),
            ("/uri", json!("https://a/%2"), "uri: every %"),
            ("/uri", json!("https://münchen.de/"), "uri: the host may hold"),
            ("/uri", json!("https:///x"), "uri: the host must have"),
            ("/uri", json!("https://2130706433/"), "uri: a host that ends in a number"),
            ("/uri", json!(5), "uri: must be a string"),
            ("/method", json!("post"), "method: must be one of"),
            ("/method", json!("CONNECT"), "method: must be one of"),
            ("/method", json!("TRACE"), "method: must be one of"),
            ("/allowQuery", json!("yes"), "allowQuery: must be true or false"),
            ("/allowQuery", json!(true), "allowQueryNames: stands in place of"),
            ("/allowQueryNames", json!(["X-Amz-Signature"]), "allowQueryNames: X-Amz-*"),
            ("/allowHeaders", json!(["Cookie"]), "allowHeaders: cookie is never"),
            ("/allowHeaders", json!(["x-amz-date"]), "allowHeaders: x-amz-date is never"),
            ("/allowHeaders", json!("a"), "allowHeaders: must be an array of strings"),
            ("/allowHeaders", json!(["a b"]), "allowHeaders: each name must be a header name"),
            ("/headers/host", json!("b"), "headers: host is set by the gateway"),
            ("/headers/:path", json!("b"), "headers: pseudo-headers"),
            ("/headers/X-Envoy-Retry-On", json!("5xx"), "headers: x-envoy-retry-on is set"),
            ("/headers/X-Forwarded-Proto", json!("http"), "headers: x-forwarded-proto is set"),
            ("/headers/x-membrane-route", json!("control"), "headers: x-membrane-route is set"),
            ("/headers/Authorization", json!("x"), "headers: authorization is set"),
            ("/headers/a b", json!("x"), "headers: each name"),
            ("/headers/a", json!("x\r\ny: z"), "headers: a must hold no control characters"),
            ("/headers/x-api-KEY", json!("x"), "headers: x-api-key is given twice"),
            ("/headers/a", json!(1), "headers: must be an object of strings"),
            ("/headers", json!([]), "headers: must be an object"),
            ("/timeoutMs", json!(0), "timeoutMs: must be an integer above 0"),
            ("/timeoutMs", json!(-1), "timeoutMs: must"),
            ("/timeoutMs", json!(1.5), "timeoutMs: must"),
            ("/timeoutMs", json!("5"), "timeoutMs: must"),
            ("/hmac", json!({}), "hmac: must hold exactly one"),
            ("/hmac/other", json!({}), "hmac.other: is not a field"),
            ("/hmac/cap1-hmac-sha512", json!({"key": "a", "keyId": "b"}), "hmac: must hold exactly one of"),
            ("/hmac", json!({"cap1-hmac-sha512": {"key": "a"}}), "hmac.cap1-hmac-sha512.keyId: is missing"),
            ("/hmac", json!({"cap1-hmac-sha512": {"keyId": "a"}}), "hmac.cap1-hmac-sha512.key: is missing"),
            ("/hmac", cap1("a/b", "k"), "hmac.cap1-hmac-sha512.keyId: must have"),
            ("/hmac", cap1("a,b", "k"), "hmac.cap1-hmac-sha512.keyId: must have"),
            ("/hmac", cap1("a", "k="), "hmac.cap1-hmac-sha512.key: must have"),
            ("/hmac", cap1("a", ""), "hmac.cap1-hmac-sha512.key: must have"),
            (
                "/hmac/aws4-hmac-sha256/payload",
                json!("maybe"),
                "hmac.aws4-hmac-sha256.payload: must be signed or unsigned",
            ),
            (
                "/hmac/aws4-hmac-sha256/payload",
                json!("unsigned"),
                "hmac.aws4-hmac-sha256.payload: can be unsigned for",
            ),
            ("/hmac/aws4-hmac-sha256/region", json!(""), "hmac.aws4-hmac-sha256.region: must have 1 to 128"),
            ("/hmac/aws4-hmac-sha256/service", json!("a/b"), "hmac.aws4-hmac-sha256.service: must"),
            (
                "/hmac/aws4-hmac-sha256/awsAccessKeyId",
                json!("a-b"),
                "hmac.aws4-hmac-sha256.awsAccessKeyId: must",
            ),
            (
                "/hmac/aws4-hmac-sha256/secretAccessKey",
                json!(long),
                "hmac.aws4-hmac-sha256.secretAccessKey: must",
            ),
            (
                "/hmac/aws4-hmac-sha256/secretAccessKey",
                Value::Null,
                "hmac.aws4-hmac-sha256.secretAccessKey: is missing",
            ),
            ("/hmac/aws4-hmac-sha256/x", json!(1), "hmac.aws4-hmac-sha256.x: is not a field"),
            ("/tls", json!({"ca": "x"}), "tls: is not supported yet"),
            ("/body", json!("x".repeat(32_769)), "body: must have at most 32768"),
            ("/body", json!(5), "body: must be a string"),
            ("/expiresAt", json!("tomorrow"), "expiresAt: must be a time"),
            ("/unknown", json!(1), "unknown: is not a field"),
            ("/capability", json!("cpblty://a/#x"), "exactly one of uri and capability, not both"),
            ("/uri", Value::Null, "exactly one of uri and capability"),
        ];
        for (pointer, value, message) in cases {
            let error = parse(&with(pointer, value)).map(|_| ()).unwrap_err();
            assert!(error.contains(message), "{pointer}: {error:?} should hold {message:?}");
        }
        for (body, message) in [
            ("", "the body must be JSON"),
            ("[]", "the body must be a JSON object"),
            ("{}", "exactly one of uri and capability"),
            ("{\"uri\"", "the body must be JSON"),
            (r#"{"uri": "https://good/", "uri": "https://evil/"}"#, "each name once"),
            (r#"{"uri": "https://a/", "headers": {"a": "1", "a": "2"}}"#, "each name once"),
            (r#"{"uri": "https://a/", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": 1}"#, "…: is not a field"),
            ("{\"capability\": \"x\"}", "capability: must be a capability URI"),
            ("{\"capability\": 5}", "capability: must be a string"),
        ] {
            let error = Export::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{body}: {error}");
        }
        let token = crate::Token::mint([1; 64]);
        let body = json!({"capability": format!("cpblty://a/#{}", token.expose()), "method": "GET"});
        assert_eq!(parse(&body).unwrap_err(), "method: is not a field of this request");
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut body = full();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
        body
    }

    #[test]
    fn what_is_bounded_may_be_as_long_as_its_bound() {
        let names = |count: usize| (0..count).map(|n| format!("x-{n}")).collect::<Vec<_>>();
        let headers = |count| {
            json!(
                names(count).into_iter().map(|name| (name, "v")).collect::<std::collections::HashMap<_, _>>()
            )
        };
        let uri = |length: usize| json!(format!("https://a/{}", "x".repeat(length - "https://a/".len())));
        let name = |length: usize| json!(["x".repeat(length)]);
        let text = |length: usize| json!("x".repeat(length));
        let token = "/hmac/aws4-hmac-sha256/sessionToken";
        for (pointer, most, value) in [
            ("/uri", 8_192, &uri as &dyn Fn(usize) -> Value),
            ("/allowQueryNames", 256, &name),
            ("/allowHeaders", 256, &name),
            ("/allowQueryNames", 64, &|count| json!(names(count))),
            ("/allowHeaders", 64, &|count| json!(names(count))),
            ("/headers", 64, &headers),
            ("/headers/x-a", 8_192, &text),
            ("/body", 32_768, &text),
            (token, 8_192, &text),
        ] {
            assert!(parse(&with(pointer, value(most))).is_ok(), "{pointer} {most}");
            for more in [most + 1, most + 2] {
                let error = parse(&with(pointer, value(more))).unwrap_err();
                assert!(
                    error.contains(pointer.split('/').next_back().unwrap()) || pointer == "/headers/x-a",
                    "{error}"
                );
            }
        }
        for (pointer, empty) in
            [("/allowQueryNames", json!([""])), ("/allowHeaders", json!([""])), (token, json!(""))]
        {
            assert!(parse(&with(pointer, empty)).is_err(), "{pointer}");
        }
        assert!(parse(&with(token, json!("two words"))).is_err());
    }

    #[test]
    fn no_export_lets_through_what_decides_of_routing_framing_or_signing() {
        for name in [
            "connection",
            "Transfer-Encoding",
            "authorization",
            "x-amz-security-token",
            "x-envoy-upstream-rq-timeout-ms",
            "x-membrane-route",
            "x-forwarded-proto",
            "x-forwarded-for",
            "cookie",
            "host",
            "forwarded",
            "expect",
            "x-http-method-override",
        ] {
            let error = parse(&with("/allowHeaders", json!([name]))).unwrap_err();
            assert!(error.ends_with("is never let through"), "{name}: {error}");
        }
    }

    #[test]
    fn a_pinned_value_is_text_with_spaces_and_tabs() {
        for (value, good) in [
            ("a b\tc é ~!", true),
            ("a\u{1f}b", false),
            ("a\0b", false),
            ("a\u{1}b", false),
            ("a\u{7f}b", false),
        ] {
            assert_eq!(parse(&with("/headers/x-a", json!(value))).is_ok(), good, "{value:?}");
        }
    }

    #[test]
    fn the_schemes_own_port_is_left_out_and_no_other() {
        for (uri, authority) in [
            ("https://a:443/", "a"),
            ("http://a:80/", "a"),
            ("https://a:80/", "a:80"),
            ("http://a:443/", "a:443"),
            ("https://a:8443/", "a:8443"),
            ("HTTPS://[2001:DB8::1]:443/", "[2001:db8::1]"),
        ] {
            assert_eq!(crate::Target::parse(uri).unwrap().authority.as_str(), authority, "{uri}");
        }
    }

    #[test]
    fn vpc_lattice_takes_unsigned_bodies_alone() {
        let body = |payload: &str| {
            json!({"uri": "http://a.example/", "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "A", "region": "r",
                "service": "vpc-lattice-svcs", "secretAccessKey": "s", "payload": payload}}})
        };
        assert!(parse(&body("unsigned")).is_ok());
        assert!(parse(&body("signed")).unwrap_err().contains("payload: must not be signed"));
    }

    /// What is rather a value, perhaps a secret, at the place of a name.
    #[test]
    fn unknown_names_are_repeated_where_they_look_like_names() {
        let longest = "x".repeat(32);
        for (name, shown) in [
            ("expires_at-2", "expires_at-2"),
            (longest.as_str(), longest.as_str()),
            (&"x".repeat(33), "…"),
            ("0f1e2d", "…"),
            ("_x", "…"),
            ("s/+=", "…"),
            ("", "…"),
        ] {
            let error = parse(&json!({"uri": "https://a/", name: 1})).unwrap_err();
            assert_eq!(error, format!("{shown}: is not a field of this request"));
        }
    }

    #[test]
    fn what_is_rarer_comes_back_as_it_was() {
        let s3 = |scheme: &str, payload: &str| {
            json!({"uri": format!("{scheme}://b.s3.amazonaws.com/k"), "body": "canary", "hmac": {"aws4-hmac-sha256": {
                "awsAccessKeyId": "A", "region": "r", "service": "s3", "secretAccessKey": "s", "payload": payload,
            }}})
        };
        let again = |grant: Grant| {
            let json = Content::Grant(Box::new(grant)).to_json();
            match Content::from_json(Kind::Grant, json.expose()).unwrap() {
                Content::Grant(grant) => *grant,
                Content::Control(_) => panic!(),
            }
        };
        for (text, payload) in [("signed", Payload::Signed), ("unsigned", Payload::Unsigned)] {
            let grant = again(grant(&s3("https", text)));
            let Some(Hmac::Aws4(credential)) = &grant.hmac else { panic!() };
            assert_eq!(credential.payload, Some(payload));
            assert_eq!(grant.body.as_ref().unwrap().expose(), b"canary");
            assert!(!format!("{grant:?}").contains("canary"));
        }
        assert!(parse(&s3("http", "unsigned")).unwrap_err().contains("payload: can be unsigned"));
        assert!(parse(&s3("http", "signed")).is_ok());
        let mut head = s3("https", "signed");
        head["method"] = "HEAD".into();
        assert!(parse(&head).unwrap_err().contains("body: cannot be pinned"));

        let mut body = json!({"uri": "https://a/%C3%A9?%C3%A9=1", "hmac": cap1("id=1", "_canary-")});
        let grant = again(grant(&body));
        let Some(Hmac::Cap1(credential)) = &grant.hmac else { panic!() };
        assert_eq!((credential.key_id.as_str(), credential.key.expose()), ("id=1", &b"_canary-"[..]));
        for uri in ["https://a/%FF", "https://a/?a=%C3&b=%A9", "https://a/?%C3=%A9"] {
            body["uri"] = uri.into();
            assert!(parse(&body).unwrap_err().contains("uri: must decode to UTF-8"), "{uri}");
        }
        body["uri"] = "https://a/".into();
        body["headers"] = json!({"x-cap-date": "x"});
        assert!(parse(&body).unwrap_err().contains("headers: x-cap-date"));
    }

    #[test]
    fn headers_of_signing_may_be_pinned_where_nothing_is_signed() {
        let body = json!({"uri": "https://other.example/", "headers": {"Authorization": "Bearer x"}});
        assert_eq!(grant(&body).headers[0].name, "authorization");
    }

    proptest! {
        // Whatever stands where, a message never repeats it: it may be a secret in the wrong field.
        #[test]
        fn no_message_holds_a_value(pointer in prop::sample::select(vec![
            "/uri", "/method", "/allowQuery", "/allowQueryNames", "/headers", "/headers/a", "/allowHeaders", "/timeoutMs", "/hmac",
            "/hmac/aws4-hmac-sha256", "/hmac/aws4-hmac-sha256/region", "/hmac/aws4-hmac-sha256/secretAccessKey", "/tls", "/expiresAt",
            "/capability",
        ]), shape in 0..4) {
            let secret = "CPBLTY1-canary";
            let value = match shape { 0 => json!(secret), 1 => json!([secret]), 2 => json!({"x": secret}), _ => json!([{"x": [secret]}]) };
            if let Err(error) = parse(&with(pointer, value)) {
                prop_assert!(!error.to_lowercase().contains("canary"), "{}", error);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Export::parse(&bytes);
        }

        #[test]
        fn a_uri_is_kept_byte_for_byte(path in "(/[a-zA-Z0-9._~:@!$&'()*+,;=-]{0,8}){0,4}", query in proptest::option::of("[a-zA-Z0-9=&%2F?/+]{0,12}")) {
            let query = query.map(|q| format!("?{}", q.replace('%', "%25"))).unwrap_or_default();
            let uri = format!("https://example.com{path}{query}");
            let target = crate::Target::parse(&uri).unwrap();
            let expected = if path.is_empty() { format!("https://example.com/{query}") } else { uri };
            prop_assert_eq!(target.to_uri(), expected);
        }
    }
}
