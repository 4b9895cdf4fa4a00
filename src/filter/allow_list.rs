//! Which of a requester's headers a grant's request carries: an allow-list, so that what nobody thought of stays out.

use crate::incoming::Incoming;
use crate::opened::Opened;
use crate::outgoing::Outgoing;
use crate::payload::Plan;
use crate::reply::Reply;
use signing::aws4::Checksum;

/// The longest name of a requester's that a message repeats.
const MAX_SHOWN_NAME: usize = 64;

/// What becomes of one header of the requester's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Refuse,
}

/// Let through on every grant: they describe the body and the answer wanted, and decide nothing else.
fn is_allowed_by_default(name: &[u8]) -> bool {
    name.starts_with(b"accept")
        || name.starts_with(b"if-")
        || matches!(
            name,
            b"cache-control"
                | b"content-type"
                | b"content-encoding"
                | b"content-language"
                | b"content-disposition"
                | b"content-md5"
                | b"range"
                | b"user-agent"
                | b"traceparent"
                | b"tracestate"
                | b"x-request-id"
        )
}

/// What decides of routing and framing: neither a requester nor a pinned header has a say in it.
fn is_gateways_own(name: &[u8]) -> bool {
    name.starts_with(b"x-envoy-")
        || name.starts_with(b"x-membrane-")
        || matches!(
            name,
            b"connection"
                | b"content-length"
                | b"expect"
                | b"host"
                | b"keep-alive"
                | b"proxy-authenticate"
                | b"proxy-authorization"
                | b"proxy-connection"
                | b"te"
                | b"trailer"
                | b"transfer-encoding"
                | b"upgrade"
                | b"x-forwarded-proto"
        )
}

/// Never let through, whatever a grant says: an export that names them is refused, and this holds for records of any age.
fn is_never_allowed(name: &[u8]) -> bool {
    is_gateways_own(name)
        || name.starts_with(b"x-forwarded-")
        || matches!(
            name,
            b"authorization"
                | b"cookie"
                | b"forwarded"
                | b"x-amz-content-sha256"
                | b"x-amz-date"
                | b"x-amz-s3session-token"
                | b"x-amz-security-token"
                | b"x-cap-date"
                | b"x-http-method"
                | b"x-http-method-override"
                | b"x-method-override"
        )
}

fn fate(name: &[u8], opened: &Opened, plan: &Plan, connection: &[u8]) -> Fate {
    if is_never_allowed(name) || is_named_by_connection(name, connection) {
        return Fate::Drop;
    }
    let grant = &opened.grant;
    if grant.headers.iter().any(|pinned| pinned.name.as_bytes() == name) {
        return Fate::Drop;
    }
    if is_of_framing(name) {
        match plan {
            Plan::Check(_) => return Fate::Pass,
            // The framing is ours then, and so is what describes it.
            Plan::Resign(_) | Plan::Frame(_) => return Fate::Drop,
            _ => {}
        }
    }
    if grant.allow_headers.iter().any(|allowed| allowed.as_bytes() == name) {
        return Fate::Pass;
    }
    // A body of the grant's own is described by the grant.
    if matches!(plan, Plan::Pinned) && (name.starts_with(b"content-") || is_of_checksums(name)) {
        return Fate::Drop;
    }
    if opened.signing().is_some_and(|signing| signing.is_s3) && is_of_checksums(name) {
        return Fate::Pass;
    }
    // SDKs always send it; it says nothing that AWS acts on.
    if name == b"x-amz-user-agent" {
        return Fate::Drop;
    }
    if name.starts_with(b"x-amz-") && opened.signing().is_some() {
        return Fate::Refuse;
    }
    if is_allowed_by_default(name) { Fate::Pass } else { Fate::Drop }
}

/// What describes an aws-chunked body.
fn is_of_framing(name: &[u8]) -> bool {
    matches!(name, b"x-amz-decoded-content-length" | b"x-amz-trailer")
}

/// S3's checksums of the body, or the wish for one in the answer, which its SDKs always send. They can make a request fail and
/// decide nothing else (AWS, "Checking object integrity in Amazon S3").
fn is_of_checksums(name: &[u8]) -> bool {
    Checksum::from_header(name).is_some()
        || matches!(
            name,
            b"x-amz-checksum-algorithm"
                | b"x-amz-checksum-mode"
                | b"x-amz-checksum-type"
                | b"x-amz-sdk-checksum-algorithm"
        )
}

/// RFC 9110 §7.6.1: what `Connection` names belongs to one hop.
fn is_named_by_connection(name: &[u8], connection: &[u8]) -> bool {
    !connection.is_empty()
        && connection.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
}

/// Copies those of the requester's headers that are let through, then the grant's pinned ones.
pub(crate) fn copy_headers<'a>(
    incoming: &'a Incoming,
    opened: &'a Opened,
    plan: &Plan,
    out: &mut Outgoing<'a>,
) -> Result<(), Reply> {
    let connection: Vec<u8> = incoming
        .headers()
        .filter(|(name, _)| *name == b"connection")
        .map(|(_, value)| value)
        .collect::<Vec<_>>()
        .join(&b',');
    // Several services speak two protocols at one path, told apart by target and content type together: a pinned target must not
    // be read in the other protocol's way.
    let is_pinned = |name: &str| opened.grant.headers.iter().any(|header| header.name == name);
    let protocol_is_open = is_pinned("x-amz-target") && !is_pinned("content-type");
    let mut protocol_is_said = false;
    for (name, value) in incoming.headers() {
        match fate(name, opened, plan, &connection) {
            Fate::Pass if protocol_is_open && name == b"content-type" => {
                if !is_amz_json(value) || protocol_is_said {
                    return Err(Reply::bad_request(WHICH_PROTOCOL));
                }
                protocol_is_said = true;
                out.set(name, value);
            }
            Fate::Pass => out.set(name, value),
            Fate::Drop => out.dropped += 1,
            Fate::Refuse => {
                let shown = name.get(..MAX_SHOWN_NAME).unwrap_or(name);
                let name = String::from_utf8_lossy(shown);
                return Err(Reply::bad_request(format!(
                    "{name} is not let through by this capability: leave it out, or have the capability exported with it in \
                     allowHeaders"
                )));
            }
        }
    }
    if protocol_is_open && !protocol_is_said {
        return Err(Reply::bad_request(WHICH_PROTOCOL));
    }
    // An export refuses to pin what is the gateway's to set; records may be older than that rule.
    for pinned in opened.grant.headers.iter().filter(|pinned| !is_gateways_own(pinned.name.as_bytes())) {
        out.set(pinned.name.as_bytes(), pinned.value.expose());
    }
    Ok(())
}

const WHICH_PROTOCOL: &str = "this capability pins x-amz-target: send one content-type, application/x-amz-json-1.0 or application/x-amz-json-1.1";

fn is_amz_json(value: &[u8]) -> bool {
    if value.contains(&b',') {
        return false;
    }
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/x-amz-json-1.0")
        || kind.eq_ignore_ascii_case(b"application/x-amz-json-1.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opened::tests::opened;
    use capability::{Export, Exported, Grant, Header, Secret, Uid, UnitPair, Units};

    /// Each name that nobody may have a say in, as an old record might have them: no export of today takes them.
    const NEVER: [&str; 30] = [
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-",
        "x-membrane-route",
        "x-membrane-body",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-proto",
        "x-forwarded-for",
        "x-forwarded-host",
        "authorization",
        "cookie",
        "forwarded",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-s3session-token",
        "x-amz-security-token",
        "x-cap-date",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
    ];
    /// Of these, what is not even pinned.
    const NEVER_PINNED: usize = 17;

    fn grant(more: &str) -> Grant {
        let export = format!(r#"{{"uri": "https://a.s3.us-east-1.amazonaws.com/k"{more}}}"#);
        let Exported::Grant(grant) = Export::parse(export.as_bytes()).unwrap().what else { panic!() };
        *grant
    }

    const S3: &str = r#", "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "s3", "secretAccessKey": "s"}}"#;
    const LAMBDA: &str = r#", "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "lambda", "secretAccessKey": "s"}}"#;

    fn open(more: &str) -> Opened {
        let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: None });
        opened(1, grant(more), &units, 0).unwrap()
    }

    fn fate_of(name: &str, opened: &Opened) -> Fate {
        fate(name.as_bytes(), opened, &Plan::Hash, b"")
    }

    #[test]
    fn what_is_never_let_through_is_not_even_if_a_record_says_so() {
        // As it is opened: no export of today makes such a record.
        let mut permissive = open(S3);
        permissive.grant.allow_headers = NEVER.iter().map(|name| (*name).to_owned()).collect();
        permissive.grant.allow_headers.push("x-other".into());
        for name in NEVER {
            assert_eq!(fate_of(name, &permissive), Fate::Drop, "{name}");
        }
        assert_eq!(fate_of("x-other", &permissive), Fate::Pass);
        // Names that only look like them.
        for name in ["x-envoyx", "hosts", "x-forward", "cookies", "x-membranes"] {
            assert_eq!(fate_of(name, &open(S3)), Fate::Drop, "{name}");
            assert!(!is_never_allowed(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_the_gateways_is_not_even_pinned() {
        for (index, name) in NEVER.into_iter().enumerate() {
            assert_eq!(is_gateways_own(name.as_bytes()), index < NEVER_PINNED, "{name}");
        }
        let mut pinning = open(S3);
        for name in NEVER {
            pinning.grant.headers.push(Header { name: name.to_owned(), value: Secret::new(b"v".to_vec()) });
        }
        let pairs = crate::incoming::tests::pairs(&[
            ("authorization", "Bearer CPBLTY1-x"),
            (":path", "/"),
            (":method", "GET"),
        ]);
        let crate::incoming::Arrival::Capability(incoming) =
            crate::incoming::Incoming::arrive(pairs, true, crate::config::OnMissing::Deny)
        else {
            panic!()
        };
        let mut out = Outgoing::empty();
        copy_headers(&incoming, &pinning, &Plan::Hash, &mut out).unwrap();
        let names: Vec<&[u8]> = out.iter().map(|(name, _)| name).collect();
        let expected: Vec<&[u8]> = NEVER[NEVER_PINNED..].iter().map(|name| name.as_bytes()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn each_header_has_its_fate() {
        let (s3, lambda, plain) = (open(S3), open(LAMBDA), open(""));
        use Fate::{Drop, Pass, Refuse};
        for (name, on_s3, on_lambda, on_plain) in [
            ("accept", Pass, Pass, Pass),
            ("accept-language", Pass, Pass, Pass),
            ("if-match", Pass, Pass, Pass),
            ("cache-control", Pass, Pass, Pass),
            ("content-type", Pass, Pass, Pass),
            ("content-encoding", Pass, Pass, Pass),
            ("content-language", Pass, Pass, Pass),
            ("content-disposition", Pass, Pass, Pass),
            ("content-md5", Pass, Pass, Pass),
            ("range", Pass, Pass, Pass),
            ("user-agent", Pass, Pass, Pass),
            ("traceparent", Pass, Pass, Pass),
            ("tracestate", Pass, Pass, Pass),
            ("x-request-id", Pass, Pass, Pass),
            ("x-other", Drop, Drop, Drop),
            ("content-location", Drop, Drop, Drop),
            ("x-amz-user-agent", Drop, Drop, Drop),
            ("x-amz-acl", Refuse, Refuse, Drop),
            ("x-amz-copy-source", Refuse, Refuse, Drop),
            ("x-amz-checksum-crc32", Pass, Refuse, Drop),
            ("x-amz-checksum-mode", Pass, Refuse, Drop),
            ("x-amz-checksum-type", Pass, Refuse, Drop),
            ("x-amz-checksum-algorithm", Pass, Refuse, Drop),
            ("x-amz-sdk-checksum-algorithm", Pass, Refuse, Drop),
            ("x-amz-trailer", Refuse, Refuse, Drop),
            ("x-amz-decoded-content-length", Refuse, Refuse, Drop),
        ] {
            assert_eq!(fate_of(name, &s3), on_s3, "{name} on s3");
            assert_eq!(fate_of(name, &lambda), on_lambda, "{name} on lambda");
            assert_eq!(fate_of(name, &plain), on_plain, "{name} on a plain target");
        }
    }

    #[test]
    fn a_body_of_ours_is_described_by_us() {
        let s3 = open(S3);
        for name in
            ["content-type", "content-encoding", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"]
        {
            assert_eq!(fate(name.as_bytes(), &s3, &Plan::Pinned, b""), Fate::Drop, "{name}");
        }
        assert_eq!(fate(b"accept", &s3, &Plan::Pinned, b""), Fate::Pass);
        let allowed = open(&format!(r#", "allowHeaders": ["content-type"]{S3}"#));
        assert_eq!(fate(b"content-type", &allowed, &Plan::Pinned, b""), Fate::Pass);
        for name in [&b"x-amz-trailer"[..], b"x-amz-decoded-content-length"] {
            assert_eq!(fate(name, &s3, &Plan::Frame(1), b""), Fate::Drop);
        }
        assert_eq!(fate(b"x-amz-acl", &s3, &Plan::Frame(1), b""), Fate::Refuse);
    }

    #[test]
    fn what_connection_names_and_what_is_pinned_stays_out() {
        let s3 = open(&format!(r#", "headers": {{"range": "bytes=0-1"}}{S3}"#));
        assert_eq!(fate_of("range", &s3), Fate::Drop);
        for connection in [&b"accept"[..], b"close, Accept", b"ACCEPT ,x"] {
            assert_eq!(fate(b"accept", &s3, &Plan::Hash, connection), Fate::Drop);
        }
        for connection in [&b"close"[..], b"accept-language", b"x accept"] {
            assert_eq!(fate(b"accept", &s3, &Plan::Hash, connection), Fate::Pass);
        }
    }

    #[test]
    fn which_content_types_say_awss_json() {
        for (value, is) in [
            ("application/x-amz-json-1.0", true),
            ("Application/X-Amz-Json-1.1; charset=utf-8", true),
            (" application/x-amz-json-1.1 ", true),
            ("application/x-amz-json-1.2", false),
            ("application/json", false),
            ("application/x-amz-json-1.0, text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_amz_json(value.as_bytes()), is, "{value}");
        }
    }
}
