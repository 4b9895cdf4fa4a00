//! Random requests: what encoders, sorters and normalisers are known to trip over, and plain text between it.

use proptest::prelude::*;
use proptest::sample::select;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use signing::Scheme;
use signing::aws4::Payload;

/// One request and who signs it. As JSON it is a vector that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) service: String,
    pub(crate) region: String,
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) requester_query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    pub(crate) access_key_id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<Token>,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Body {
    None,
    /// Hashed by whoever signs.
    Bytes(Vec<u8>),
    /// Signed as it is, in place of a hash: `UNSIGNED-PAYLOAD` and the like.
    Literal(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Token {
    Sts(String),
    S3Express(String),
}

impl Case {
    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls { Scheme::Https } else { Scheme::Http }
    }

    pub(crate) fn scheme_text(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub(crate) fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    pub(crate) fn payload(&self) -> Payload {
        match &self.body {
            Body::None => Payload::Empty,
            Body::Bytes(bytes) => Payload::Sha256(Sha256::digest(bytes).into()),
            Body::Literal(text) => Payload::parse(text.as_bytes()).unwrap(),
        }
    }
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

fn path() -> impl Strategy<Value = String> {
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
        1 => Just(String::new()),
        12 => prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat())),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9._~-]{1,4}",
        6 => select(vec![
            "&", "&", "&", "=", "=", "==", "&&", "+", "%20", "%2B", "%2F", "%2f", "/", "?", ":", "@", "!", "*", "'", "(", ")", ",",
            ";", "$", "%26", "%3D", "%", "%zz", "%2", "%25", "a=1", "a=2", "a=", "a", "acl", "a-b=1", "~", "\"", "[0]", "{", "|",
            "%C3%A9", "é", "☃", "\u{10348}", "%FF", "%00", "%0A",
        ]).prop_map(str::to_owned),
    ];
    prop_oneof![
        1 => Just(String::new()),
        3 => prop::collection::vec(piece, 1..14).prop_map(|pieces| pieces.concat()),
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

fn body() -> impl Strategy<Value = Body> {
    let literals = [
        "UNSIGNED-PAYLOAD",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    ];
    prop_oneof![
        2 => Just(Body::None),
        // Around SHA-256's block of 64 bytes, and nothing: a body that is there and empty.
        2 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Body::Bytes),
        1 => select(literals.to_vec()).prop_map(|text| Body::Literal(text.to_owned())),
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

pub(crate) fn case() -> impl Strategy<Value = Case> {
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
        prop_oneof![2 => Just(String::new()), 1 => query()],
        prop::collection::vec(header(), 0..7),
        body(),
    );
    // Keys on both sides of SHA-256's block, from which HMAC hashes its key first.
    let identity = ("[A-Z0-9]{4,20}", prop_oneof!["[!-~]{1,40}", "[!-~]{55,90}"], token());
    // Half the moments within a second of midnight.
    let now = prop_oneof![
        0..4_102_444_800_u64,
        (0..47_000_u64, 0..3_u64).prop_map(|(day, second)| day * 86_400 + 86_399 + second)
    ];
    (place, request, identity, now).prop_map(|(place, request, identity, now)| {
        let (service, region, tls, host, port) = place;
        let (method, path, query, requester_query, headers, body) = request;
        let (access_key_id, secret, token) = identity;
        Case {
            service,
            region,
            tls,
            host,
            port,
            method,
            path,
            query,
            requester_query,
            headers,
            body,
            access_key_id,
            secret,
            token,
            now,
        }
    })
}
