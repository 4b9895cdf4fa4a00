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
