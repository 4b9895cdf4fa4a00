//! The request that leaves: built from scratch out of the grant, with those of the requester's headers that are let through.

use crate::incoming::{Incoming, ROUTE_HEADER};
use crate::opened::{Opened, Route};
use crate::payload::Plan;
use crate::reply::Reply;
use core::cell::Cell;
use signing::Timestamp;
use signing::aws4::{Payload, Query};
use std::borrow::Cow;
use zeroize::Zeroizing;

/// A name, and a value that is wiped when dropped.
type Header = (Cow<'static, [u8]>, Zeroizing<Vec<u8>>);

/// Headers to set, in order, pseudo-headers first. Wiped when dropped where they are secret.
pub struct Outgoing {
    headers: Vec<Header>,
    /// How many of the requester's headers were left out, for a metric.
    pub dropped: u32,
}

impl Outgoing {
    fn new() -> Outgoing {
        Outgoing { headers: Vec::with_capacity(24), dropped: 0 }
    }

    fn set(&mut self, name: impl Into<Cow<'static, [u8]>>, value: impl Into<Vec<u8>>) {
        self.headers.push((name.into(), Zeroizing::new(value.into())));
    }

    /// Names and values to set.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.headers.iter().map(|(name, value)| (name.as_ref(), value.as_slice()))
    }
}

/// Most parameters of a requester's query: each is decoded, judged and sorted.
const MAX_QUERY_PAIRS: usize = 256;

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
                | b"x-http-method"
                | b"x-http-method-override"
                | b"x-method-override"
        )
}

fn fate(name: &[u8], opened: &Opened, plan: Plan, connection: &[u8]) -> Fate {
    if is_never_allowed(name) || is_named_by_connection(name, connection) {
        return Fate::Drop;
    }
    let grant = &opened.grant;
    if grant.headers.iter().any(|pinned| pinned.name.as_bytes() == name) {
        return Fate::Drop;
    }
    if grant.allow_headers.iter().any(|allowed| allowed.as_bytes() == name) {
        return Fate::Pass;
    }
    if plan.chunked && matches!(name, b"x-amz-decoded-content-length" | b"x-amz-trailer") {
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

/// RFC 9110 §7.6.1: what `Connection` names belongs to one hop.
fn is_named_by_connection(name: &[u8], connection: &[u8]) -> bool {
    !connection.is_empty()
        && connection.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
}

/// What is asked of a grant that its form alone can refuse: path, method, query. Done before a body is awaited.
pub fn check(incoming: &Incoming, opened: &Opened) -> Result<(), Reply> {
    let (path, _) = incoming.path_and_query();
    if path != b"/" {
        return Err(Reply::not_found());
    }
    // The answer's framing would break: a HEAD answered like a GET puts a body where none is read, and a GET answered like a HEAD
    // waits for one that never comes.
    match (opened.grant.method, incoming.method()) {
        (Some("HEAD"), b"HEAD") => Ok(()),
        (Some("HEAD"), _) => {
            Err(Reply::method_not_allowed("this capability answers HEAD alone", Some("HEAD")))
        }
        (Some(_), b"HEAD") => Err(Reply::method_not_allowed(
            "this capability's method is another: HEAD cannot stand for it",
            None,
        )),
        _ => Ok(()),
    }
}

/// Builds and signs the request that leaves. `payload` is what is signed of the body; `length` the body's length where it was
/// held, else what the requester declared passes.
pub fn build(
    incoming: &Incoming,
    opened: &Opened,
    plan: Plan,
    payload: Payload,
    held_length: Option<u64>,
    now: u64,
    max_timeout_ms: u32,
) -> Result<Outgoing, Reply> {
    check(incoming, opened)?;
    let grant = &opened.grant;
    let mut out = Outgoing::new();
    let method: &[u8] = grant.method.map_or(incoming.method(), str::as_bytes);
    out.set(&b":method"[..], method);
    out.set(&b":scheme"[..], grant.target.scheme.as_str());

    let query = requesters_query(incoming, opened)?;
    let signed_target;
    match &opened.route {
        Route::Aws4 { target, .. } => {
            let target = match &query {
                None => target.as_ref(),
                Some(query) => {
                    let extra = Query::parse(query)
                        .map_err(|_| Reply::bad_request("the query must hold no control characters"))?;
                    signed_target = target.with_query(&own_names_win(opened, extra)?);
                    &signed_target
                }
            };
            out.set(&b":authority"[..], target.authority());
            out.set(&b":path"[..], target.path_and_query());
            copy_headers(incoming, opened, plan, &mut out)?;
            frame(incoming, method, held_length, &mut out);
            sign(opened, target, method, payload, now, &mut out)?;
        }
        Route::Plain => {
            out.set(&b":authority"[..], grant.target.authority.as_str());
            out.set(&b":path"[..], plain_path(opened, query)?);
            copy_headers(incoming, opened, plan, &mut out)?;
            frame(incoming, method, held_length, &mut out);
        }
    }
    if let Some(timeout) = grant.timeout_ms.filter(|timeout| *timeout <= max_timeout_ms) {
        out.set(&b"x-envoy-upstream-rq-timeout-ms"[..], timeout.to_string());
    }
    set_routing(&mut out, grant.target.scheme.as_str());
    Ok(out)
}

/// What Envoy's route table looks at. It chooses no route for a request without `x-forwarded-proto`, which the connection
/// manager had set and which rebuilding the headers took off (Envoy, `source/common/router/config_impl.cc`,
/// `VirtualHostImpl::getRouteFromEntries`); with `http` a virtual host that asks for TLS would redirect. Routes remove both.
fn set_routing(out: &mut Outgoing, route: &'static str) {
    out.set(&b"x-forwarded-proto"[..], "https");
    out.set(ROUTE_HEADER, route);
}

/// The control request that is forwarded: path and headers rebuilt, the bearer kept. The registry decides everything else.
pub fn build_control(incoming: &Incoming, authority: &str) -> Result<Outgoing, Reply> {
    let (path, query) = incoming.path_and_query();
    if path != b"/" {
        return Err(Reply::not_found());
    }
    let mut out = Outgoing::new();
    out.set(&b":method"[..], incoming.method());
    out.set(&b":scheme"[..], "https");
    out.set(&b":authority"[..], authority);
    let known: Vec<&[u8]> = query
        .unwrap_or_default()
        .split(|byte| *byte == b'&')
        .filter(|pair| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            matches!(name, b"id" | b"lastId" | b"limit" | b"wait")
        })
        .collect();
    if !known.iter().copied().flatten().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Reply::bad_request("the query must be percent-encoded"));
    }
    let mut path = b"/".to_vec();
    if !known.is_empty() {
        path.push(b'?');
        path.extend(known.join(&b'&'));
    }
    out.set(&b":path"[..], path);
    let mut bearer = Zeroizing::new(b"Bearer ".to_vec());
    bearer.extend_from_slice(incoming.bearer());
    out.headers.push((Cow::Borrowed(b"authorization"), bearer));
    for (name, value) in incoming.headers() {
        let passes = matches!(
            name,
            b"accept"
                | b"content-type"
                | b"content-length"
                | b"user-agent"
                | b"x-request-id"
                | b"traceparent"
                | b"tracestate"
        );
        if passes {
            out.set(name.to_vec(), value);
        }
    }
    set_routing(&mut out, "control");
    Ok(out)
}

fn copy_headers(incoming: &Incoming, opened: &Opened, plan: Plan, out: &mut Outgoing) -> Result<(), Reply> {
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
                out.set(name.to_vec(), value);
            }
            Fate::Pass => out.set(name.to_vec(), value),
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
        out.set(pinned.name.clone().into_bytes(), pinned.value.expose());
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

/// The body's length as it will be: that of the held body, or what was declared; a `0` where a method's body is expected
/// (RFC 9110 §8.6). Chunked framing is Envoy's own to write.
fn frame(incoming: &Incoming, method: &[u8], held_length: Option<u64>, out: &mut Outgoing) {
    let expects_body = matches!(method, b"POST" | b"PUT" | b"PATCH");
    let length =
        held_length.or(if incoming.ended { expects_body.then_some(0) } else { incoming.content_length });
    if let Some(length) = length {
        out.set(&b"content-length"[..], length.to_string());
    }
}

fn sign(
    opened: &Opened,
    target: &signing::aws4::Target,
    method: &[u8],
    payload: Payload,
    now: u64,
    out: &mut Outgoing,
) -> Result<(), Reply> {
    let Route::Aws4 { signer, .. } = &opened.route else { return Ok(()) };
    let method =
        core::str::from_utf8(method).map_err(|_| Reply::bad_request("the method must be an HTTP token"))?;
    let mut signer =
        signer.try_borrow_mut().map_err(|_| Reply::misconfigured("a signature is being made"))?;
    let pinned = |name: &[u8]| opened.grant.headers.iter().any(|header| header.name.as_bytes() == name);
    let to_sign =
        out.headers.iter().map(|(name, value)| (name.as_ref(), value.as_slice())).filter(|(name, _)| {
            !name.starts_with(b":") && (signing::aws4::is_signed_by_default(name) || pinned(name))
        });
    let mut buffer = String::new();
    let signed = signer
        .sign(&Timestamp::from_unix(now), method, target, to_sign, payload, &mut buffer)
        .map_err(|error| Reply::bad_request(format!("this request cannot be signed: {error}")))?;
    let set: Vec<(Vec<u8>, Zeroizing<Vec<u8>>)> = signed
        .headers()
        .map(|(name, value)| (name.as_bytes().to_vec(), Zeroizing::new(value.as_bytes().to_vec())))
        .collect();
    out.headers.extend(set.into_iter().map(|(name, value)| (Cow::Owned(name), value)));
    Ok(())
}

/// The requester's query, where the grant lets (some of) it through.
fn requesters_query<'a>(incoming: &'a Incoming, opened: &Opened) -> Result<Option<&'a [u8]>, Reply> {
    let (_, query) = incoming.path_and_query();
    let lets = opened.grant.allow_query || !opened.grant.allow_query_names.is_empty();
    let query = query.filter(|query| lets && !query.is_empty());
    if query.is_some_and(|query| query.split(|byte| *byte == b'&').count() > MAX_QUERY_PAIRS) {
        return Err(Reply::bad_request(format!("a query may have at most {MAX_QUERY_PAIRS} parameters")));
    }
    Ok(query)
}

/// Names that are X-Amz-* are signatures of their own (presigned requests); names that the grant's uri has are the grant's.
/// With `allowQueryNames` every other name is refused: dropping part of what somebody asked is dangerous.
fn own_names_win(opened: &Opened, extra: Query) -> Result<Query, Reply> {
    let refused = Cell::new(None);
    let checked = extra.only(|name| {
        if refused.get().is_none() {
            refused.set(query_rule(opened, name));
        }
        true
    });
    match refused.get() {
        Some(rule) => Err(Reply::bad_request(rule)),
        None => Ok(checked),
    }
}

fn query_rule(opened: &Opened, name: &[u8]) -> Option<&'static str> {
    let allowed = &opened.grant.allow_query_names;
    if name.to_ascii_lowercase().starts_with(b"x-amz-") {
        Some("query parameters named X-Amz-* are never let through")
    } else if opened.own_query.contains(name) {
        Some("a query parameter of the capability's own cannot be given again")
    } else if !allowed.is_empty() && !allowed.iter().any(|allowed| allowed.as_bytes() == name) {
        Some("a query parameter is not among those that this capability lets through (allowQueryNames)")
    } else {
        None
    }
}

/// Path and query where nothing is signed: the grant's own byte for byte, then the requester's as it came, if it is visible ASCII.
fn plain_path(opened: &Opened, query: Option<&[u8]>) -> Result<Vec<u8>, Reply> {
    let target = &opened.grant.target;
    let mut path = target.path.clone().into_bytes();
    let mut separator = b'?';
    if let Some(own) = &target.query {
        path.push(separator);
        path.extend(own.as_bytes());
        separator = b'&';
    }
    if let Some(query) = query {
        // It is sent as it came. `;` separates parameters for some upstreams, and would carry names past the check below.
        if !query.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b';')) {
            return Err(Reply::bad_request("the query must be percent-encoded (a ; is %3B)"));
        }
        let parsed =
            Query::parse(query).map_err(|_| Reply::bad_request("the query must be percent-encoded"))?;
        own_names_win(opened, parsed)?;
        path.push(separator);
        path.extend(query);
    }
    Ok(path)
}
