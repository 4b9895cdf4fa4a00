//! A grant made ready: what could be done before a request comes, done once.

use capability::record::{self, Kind};
use capability::{
    Aws4Credential, Cap1Credential, Content, Grant, Hmac, LookupId, Payload, Scheme, Token, Uid, Unit, Units,
};
use core::cell::RefCell;
use core::fmt;
use hashbrown::HashSet;
use sha2::{Digest, Sha256};
use signing::aws4::{self, Credential, Query, Service, SessionToken, Signer};
use signing::{Timestamp, cap1};
use std::hash::RandomState;
use std::rc::Rc;

/// What payload modes need to know of how a grant signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    /// S3, S3 Express, Outposts, Object Lambda.
    pub is_s3: bool,
    /// The grant's uri is https.
    pub tls: bool,
    /// VPC Lattice.
    pub always_unsigned: bool,
    /// The credential is a temporary one.
    pub has_session_token: bool,
    /// The grant says `payload: signed`.
    pub payload_signed: bool,
}

/// Where a grant leads, and how it is signed on the way.
pub(crate) enum Route {
    /// Signed: what is sent and what is signed are derived together.
    Aws4 {
        target: Box<aws4::Target>,
        signer: Box<RefCell<Signer>>,
        signing: Signing,
        /// Bytes of the session token, if there is one.
        token_size: usize,
    },
    /// Likewise.
    Cap1 { target: Box<cap1::Target>, signer: Box<RefCell<cap1::Signer>> },
    /// Not signed: path and query as the grant has them.
    Plain,
}

/// A grant that was opened with its token, and all that follows from it alone.
pub struct Opened {
    /// Without its `hmac`, which became the route's signer: a secret is kept once.
    pub(crate) grant: Grant,
    /// The decoded names of the uri's own query.
    pub(crate) own_query: HashSet<Vec<u8>, RandomState>,
    body_hash: Option<[u8; 32]>,
    pub(crate) route: Route,
    /// What an AWS grant's next signing key comes from: the secret itself is not kept.
    sealed: Option<Rc<[u8]>>,
    lookup: LookupId,
    units: Units,
    expires_at: Option<u64>,
    configured: bool,
}

/// Why a record is not a grant that this program can use: the token's is another, it was changed, or another version wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOpened;

impl Opened {
    /// Opens the record of a grant with `token`, and makes it ready for the day of `now` (seconds since 1970).
    pub fn open(
        token: &Token,
        sealed: &Rc<[u8]>,
        units: &Units,
        expires_at: Option<u64>,
        now: u64,
    ) -> Result<Opened, NotOpened> {
        let lookup = token.lookup_id();
        let mut grant = unseal(token, lookup, sealed, units, expires_at)?;
        let route = match grant.hmac.take() {
            None => Route::Plain,
            Some(Hmac::Aws4(credential)) => aws4_route(&grant, &credential, now).ok_or(NotOpened)?,
            Some(Hmac::Cap1(credential)) => cap1_route(&grant, &credential).ok_or(NotOpened)?,
        };
        let body_hash = grant.body.as_ref().map(|body| Sha256::digest(body.expose()).into());
        let own_query = names(grant.target.query.as_deref().unwrap_or_default());
        Ok(Opened {
            own_query,
            body_hash,
            sealed: matches!(route, Route::Aws4 { .. }).then(|| Rc::clone(sealed)),
            route,
            lookup,
            units: units.clone(),
            expires_at,
            configured: false,
            grant,
        })
    }

    /// The same for a grant of the configuration's own, which no registry could revoke.
    pub fn configured(
        token: &Token,
        sealed: &Rc<[u8]>,
        expires_at: Option<u64>,
        now: u64,
    ) -> Result<Opened, NotOpened> {
        let opened = Opened::open(token, sealed, &capability::configured::units(), expires_at, now)?;
        Ok(Opened { configured: true, ..opened })
    }

    /// Opens the record once more, for the signing key of another day.
    pub(crate) fn renew(&self, signer: &mut Signer, bearer: &[u8], now: &Timestamp) -> Result<(), NotOpened> {
        let token = Token::parse(bearer).map_err(|_| NotOpened)?;
        let sealed = self.sealed.as_ref().ok_or(NotOpened)?;
        match unseal(&token, self.lookup, sealed, &self.units, self.expires_at)?.hmac {
            Some(Hmac::Aws4(credential)) => {
                signer.renew(&text(&credential.secret_access_key).ok_or(NotOpened)?, now);
                Ok(())
            }
            _ => Err(NotOpened),
        }
    }

    /// Whether it stands in the configuration: then it lives until it expires or the configuration is another.
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// How it signs bodies, if it does.
    pub fn signing(&self) -> Option<&Signing> {
        match &self.route {
            Route::Aws4 { signing, .. } => Some(signing),
            Route::Cap1 { .. } | Route::Plain => None,
        }
    }

    /// SHA-256 and length of the body that it pins, if it does.
    pub fn pinned_body(&self) -> Option<([u8; 32], u64)> {
        let body = self.grant.body.as_ref()?.expose();
        Some((self.body_hash?, u64::try_from(body.len()).ok()?))
    }

    /// What it is looked up by.
    pub fn lookup(&self) -> LookupId {
        self.lookup
    }

    /// The membrane through which it was exported; none where it stands in the configuration.
    pub fn membrane(&self) -> Option<Uid> {
        self.units.iter().next()?.membrane
    }

    /// Everything whose revocation kills it: its tenants, its membranes, what it is a re-export of, itself.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        self.units.all().chain([Unit::Lookup(self.lookup)])
    }

    /// Whether it has expired at `now`, seconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// What a cache counts for it, in bytes: an estimate from above.
    pub fn size(&self) -> usize {
        let grant = &self.grant;
        let headers: usize = grant.headers.iter().map(|h| h.name.len() + h.value.expose().len() + 64).sum();
        let names: usize =
            grant.allow_headers.iter().chain(&grant.allow_query_names).map(|name| name.len() + 24).sum();
        let uri = grant.target.path.len() + grant.target.query.as_deref().map_or(0, str::len);
        let query: usize = self.own_query.iter().map(|name| 2 * (name.len() + QUERY_NAME_SIZE)).sum();
        let route = match &self.route {
            Route::Aws4 { target, token_size, .. } => target.size() + SIGNER_SIZE + token_size,
            Route::Cap1 { target, .. } => target.size() + SIGNER_SIZE,
            Route::Plain => 0,
        };
        let body = grant.body.as_ref().map_or(0, |body| body.expose().len());
        let sealed = self.sealed.as_ref().map_or(0, |sealed| sealed.len());
        // Each unit stands in the record, and in the cache's index of what depends on it.
        let units = (self.units.iter().len() * 2 + self.units.sources().len() + 1) * UNIT_SIZE;
        OWN_SIZE + route + body + headers + names + uri + query + sealed + units
    }
}

fn unseal(
    token: &Token,
    lookup: LookupId,
    sealed: &[u8],
    units: &Units,
    expires_at: Option<u64>,
) -> Result<Grant, NotOpened> {
    let header = record::Header { kind: Kind::Grant, lookup, expires_at, units };
    let json = record::open(token, &header, sealed).map_err(|_| NotOpened)?;
    match Content::from_json(Kind::Grant, &json).map_err(|_| NotOpened)? {
        Content::Grant(grant) => Ok(*grant),
        Content::Control(_) => Err(NotOpened),
    }
}

/// The structure itself, with its short strings.
const OWN_SIZE: usize = 640;
/// A signer: HMAC states, and the canonical request that it keeps (`signing`'s `LONGEST_KEPT`). CAP1's takes less.
const SIGNER_SIZE: usize = 3_328;
/// A name of the uri's own query, in a table that may be half empty.
const QUERY_NAME_SIZE: usize = 28;
/// A unit's share of two tables, and a set of what depends on it: in the worst case nothing else does.
const UNIT_SIZE: usize = 256;

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({})", self.lookup)
    }
}

fn text(secret: &capability::Secret) -> Option<signing::Secret> {
    Some(signing::Secret::new(secret.expose_str()?.to_owned()))
}

fn scheme(grant: &Grant) -> signing::Scheme {
    match grant.target.scheme {
        Scheme::Http => signing::Scheme::Http,
        Scheme::Https => signing::Scheme::Https,
    }
}

fn cap1_route(grant: &Grant, credential: &Cap1Credential) -> Option<Route> {
    let target = cap1::Target::new(
        scheme(grant),
        grant.target.authority.as_str(),
        grant.target.path.as_bytes(),
        grant.target.query.as_deref().unwrap_or_default().as_bytes(),
    )
    .ok()?;
    let signer = cap1::Signer::new(credential.key_id.clone(), text(&credential.key)?).ok()?;
    Some(Route::Cap1 { target: Box::new(target), signer: Box::new(RefCell::new(signer)) })
}

fn aws4_route(grant: &Grant, credential: &Aws4Credential, now: u64) -> Option<Route> {
    let service = Service::new(credential.service.clone()).ok()?;
    let target = aws4::Target::new(
        &service,
        scheme(grant),
        grant.target.authority.as_str(),
        grant.target.path.as_bytes(),
        grant.target.query.as_deref().unwrap_or_default().as_bytes(),
    )
    .ok()?;
    let token_size = credential.session_token.as_ref().map_or(0, |token| token.expose().len());
    let session_token = match &credential.session_token {
        None => None,
        // A bucket of S3 Express takes the token of its own CreateSession under another name.
        Some(token) if service.name() == "s3express" => Some(SessionToken::S3Express(text(token)?)),
        Some(token) => Some(SessionToken::Sts(text(token)?)),
    };
    let signing = Signing {
        is_s3: service.is_s3_family(),
        tls: grant.target.scheme == Scheme::Https,
        always_unsigned: service.is_always_unsigned(),
        has_session_token: session_token.is_some(),
        payload_signed: credential.payload == Some(Payload::Signed),
    };
    let region = credential.region.clone();
    let credential = Credential {
        access_key_id: credential.access_key_id.clone(),
        secret_access_key: text(&credential.secret_access_key)?,
        session_token,
    };
    let mut signer = Signer::new(credential, region, service).ok()?;
    signer.keep_day_key(&Timestamp::from_unix(now));
    Some(Route::Aws4 {
        target: Box::new(target),
        signer: Box::new(RefCell::new(signer)),
        signing,
        token_size,
    })
}

/// The decoded names of a query.
fn names(query: &str) -> HashSet<Vec<u8>, RandomState> {
    let found = RefCell::new(HashSet::with_hasher(RandomState::new()));
    if let Ok(query) = Query::parse(query.as_bytes()) {
        let _ = query.only(|name| {
            if let Ok(mut found) = found.try_borrow_mut() {
                found.insert(name.to_vec());
            }
            true
        });
    }
    found.into_inner()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use capability::{Export, Exported, Uid, UnitPair};
    use proptest::prelude::*;

    /// `grant` as the registry would have sealed it, opened at `now`.
    pub(crate) fn opened(n: u8, grant: Grant, units: &Units, now: u64) -> Result<Opened, NotOpened> {
        let token = Token::mint([n; 64]);
        let header = record::Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at: None, units };
        let content = Content::Grant(Box::new(grant)).to_json();
        let inner = record::seal(&token, &header, content.expose(), [n; 24]).unwrap();
        Opened::open(&token, &inner.as_bytes().into(), units, None, now)
    }

    proptest! {
        // What an export accepts must be signable: else its capability would be minted and answer 401 for ever.
        #[test]
        fn what_is_exported_can_be_signed(
            uri in "(http|https)://([a-zA-Z0-9_-]{1,5}\\.){0,2}[a-z]{1,5}(:[0-9]{1,5})?(/(%[0-9a-fA-F]{2}|[!-~]){0,12})?(\\?(%[0-9a-fA-F]{2}|[!-~]){0,12})?",
            key_id in "\\w{1,8}|[A-Z]{4}", region in "[a-z0-9_-]{1,8}|[ -~]{1,8}", service in "([a-z0-9_.-]{1,8}|s3|s3express|vpc-lattice-svcs)",
            secret in "[ -~]{1,8}", token in proptest::option::of("[ -~]{1,8}"),
        ) {
            let mut aws4 = serde_json::json!({
                "awsAccessKeyId": key_id, "region": region, "service": service, "secretAccessKey": secret,
            });
            if let Some(token) = token {
                aws4["sessionToken"] = token.into();
            }
            let cap1 = serde_json::json!({"keyId": key_id, "key": region});
            for hmac in [serde_json::json!({"aws4-hmac-sha256": aws4}), serde_json::json!({"cap1-hmac-sha512": cap1})] {
            let body = serde_json::json!({"uri": uri, "hmac": hmac}).to_string();
            if let Ok(Export { what: Exported::Grant(grant), .. }) = Export::parse(body.as_bytes()) {
                let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: None });
                prop_assert!(opened(1, *grant, &units, 0).is_ok());
            }
            }
        }
    }
}
