//! The requester's query, where a grant lets (some of) it through: what it may not say, and how it joins the grant's own.

use crate::incoming::Incoming;
use crate::opened::Opened;
use crate::reply::Reply;
use core::cell::Cell;
use signing::aws4::Query;

/// Most parameters of a requester's query: each is decoded, judged and sorted.
const MAX_QUERY_PAIRS: usize = 256;

/// The requester's query, where the grant lets (some of) it through.
pub(crate) fn requesters<'a>(incoming: &'a Incoming, opened: &Opened) -> Result<Option<&'a [u8]>, Reply> {
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

/// Parsed, for a target that decodes and encodes it anew.
pub(crate) fn decoded(opened: &Opened, query: &[u8]) -> Result<Query, Reply> {
    let query =
        Query::parse(query).map_err(|_| Reply::bad_request("the query must hold no control characters"))?;
    own_names_win(opened, query)
}

/// As it came, for a target that sends it so. `;` separates parameters for some upstreams, and would carry names past the
/// check of names; so would what one upstream reads otherwise than another in a name: `+` (a space in forms, itself in
/// RFC 3986), and a `%` that begins no escape.
pub(crate) fn verbatim<'a>(opened: &Opened, query: &'a [u8]) -> Result<&'a [u8], Reply> {
    if !query.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b';')) {
        return Err(Reply::bad_request("the query must be percent-encoded (a ; is %3B)"));
    }
    let is_plain = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        !name.contains(&b'+') && name.split(|byte| *byte == b'%').skip(1).all(begins_with_hex)
    };
    if !query.split(|byte| *byte == b'&').all(is_plain) {
        let rule = "in a query parameter's name a + must be written %2B or %20, and a % %25";
        return Err(Reply::bad_request(rule));
    }
    let parsed = Query::parse(query).map_err(|_| Reply::bad_request("the query must be percent-encoded"))?;
    own_names_win(opened, parsed)?;
    Ok(query)
}

fn begins_with_hex(after_percent: &[u8]) -> bool {
    after_percent.get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
}
