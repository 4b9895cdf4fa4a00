//! The gateway listener: lookups and the feed, for gateways alone. A holder who could ask here would get records.

use crate::answers::{Answers, WirePosition};
use crate::error::ApiError;
use crate::feed::Feed;
use crate::fleet::{Fleet, LONGEST_LEASE};
use crate::lookups::Lookups;
use crate::metrics::{Metrics, count, count_status};
use crate::query_string::QueryString;
use crate::registry::Registry;
use crate::reply;
use crate::store::{Epoch, Position};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record::Kind;
use capability::{LookupId, Uid, Units};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The label under which the slot key is derived from the KEK.
const SLOT_KEY_LABEL: &[u8] = b"CPBLTY1/slot-key/v1";

/// What the gateway listener works with.
#[derive(Clone)]
pub struct Gateway {
    /// What it asks.
    pub registry: Arc<Registry>,
    /// How it reads records.
    pub lookups: Lookups,
    /// The feed.
    pub feed: Feed,
    /// Who follows it.
    pub fleet: Fleet,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Lookups and the feed as a router. Whoever serves it lets nobody in but gateways.
pub fn router(gateway: Gateway) -> Router {
    let answers = Answers::new(gateway.registry.keks.first().derive(SLOT_KEY_LABEL).as_slice());
    Router::new().fallback(answer).with_state(Arc::new(Door { gateway, answers }))
}

/// What all requests share.
struct Door {
    gateway: Gateway,
    answers: Answers,
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let response = door.gateway.serve(request, &door.answers).await.unwrap_or_else(ApiError::into_response);
    count_status(&door.gateway.metrics.gateway, response.status().as_u16());
    response
}

#[derive(Serialize)]
struct Lookup<'a> {
    kind: &'static str,
    record: String,
    units: &'a Units,
    #[serde(rename = "expiresAt")]
    expires_at: Option<u64>,
    as_of: WirePosition,
}

#[derive(Serialize)]
struct Kinded {
    kind: &'static str,
    as_of: WirePosition,
}

#[derive(Serialize)]
struct Missing {
    as_of: WirePosition,
}

impl Gateway {
    async fn serve(&self, request: Request, answers: &Answers) -> Result<Response, ApiError> {
        let path = request.uri().path();
        let lookup = path.strip_prefix("/v1/records/");
        if lookup.is_none() && path != "/v1/events" {
            return Err(ApiError::NotFound);
        }
        if request.method() != Method::GET {
            return Err(ApiError::MethodNotAllowed("GET"));
        }
        let query = request.uri().query();
        match lookup {
            Some(lookup) => {
                let query = QueryString::parse(query, &["watcher", "lease"])?;
                let rule = |_| {
                    ApiError::BadRequest(
                        "the path must end in a lookup id: 43 characters of base64url".into(),
                    )
                };
                let lookup = lookup.parse().map_err(rule)?;
                // It may act on this answer by itself, with no lease of the feed's.
                let (watcher, lease) = reader(&query)?;
                self.fleet.note(watcher, lease, None).await.map_err(|_| ApiError::Busy)?;
                self.lookup(lookup).await
            }
            None => {
                let question = Question::parse(query)?;
                // It may be held for long, and what the request was read from, some KiB, with it.
                drop(request);
                self.events(question, answers).await
            }
        }
    }

    async fn lookup(&self, lookup: LookupId) -> Result<Response, ApiError> {
        let (found, as_of) = self.lookups.find(lookup).await?;
        let as_of = as_of.into();
        let Some(found) = found else { return Ok(self.missing(as_of)) };
        if found.record.kind == Kind::Control {
            count(&self.metrics.lookups_control);
            return Ok(reply::json(StatusCode::OK, &Kinded { kind: Kind::Control.as_str(), as_of }));
        }
        if !found.is_alive(self.registry.clock.now()) {
            return Ok(self.missing(as_of));
        }
        let inner = self.registry.keks.unwrap(lookup, &found.record.sealed).map_err(|error| {
            tracing::error!(%error, "a record's outer layer does not open: a row was edited, or its KEK is not loaded");
            ApiError::Internal
        })?;
        count(&self.metrics.lookups_found);
        let answer = Lookup {
            kind: found.record.kind.as_str(),
            record: B64.encode(inner.as_bytes()),
            units: &found.record.units,
            expires_at: found.record.expires_at,
            as_of,
        };
        Ok(reply::json(StatusCode::OK, &answer))
    }

    fn missing(&self, as_of: WirePosition) -> Response {
        count(&self.metrics.lookups_missing);
        reply::json(StatusCode::NOT_FOUND, &Missing { as_of })
    }

    async fn events(&self, question: Question, answers: &Answers) -> Result<Response, ApiError> {
        let Question { after, hold, watcher, lease } = question;
        // A position that this history does not hold confirms nothing: it is about to be told to start over.
        let known = after.filter(|after| self.feed.holds(after));
        self.fleet.note(watcher, lease, known).await.map_err(|_| ApiError::Busy)?;
        let answer = self.feed.ask(after, hold).await.map_err(|_| ApiError::Busy)?;
        Ok(answers.response(after, answer))
    }
}

/// A question to the feed.
struct Question {
    after: Option<Position>,
    hold: Duration,
    watcher: Uid,
    lease: Duration,
}

impl Question {
    fn parse(query: Option<&str>) -> Result<Question, ApiError> {
        let query = QueryString::parse(query, &["epoch", "after", "hold", "watcher", "lease"])?;
        let hold = query.parsed::<u64>("hold", "must be a whole number of milliseconds")?;
        let hold = hold.map_or(Duration::ZERO, Duration::from_millis);
        let (watcher, lease) = reader(&query)?;
        let epoch =
            query.parsed::<Uid>("epoch", "must be 16 bytes in base64url")?.map(|bytes| Epoch(bytes.0));
        let after = query.parsed::<u64>("after", "must be a whole number")?;
        let after = match (epoch, after) {
            (Some(epoch), Some(seq)) => Some(Position { epoch, seq }),
            (None, None) => None,
            _ => return Err(ApiError::BadRequest("epoch and after: give both or neither".into())),
        };
        Ok(Question { after, hold, watcher, lease })
    }
}

/// Who asks, and for how long it may act on the answer: revocations wait for that.
fn reader(query: &QueryString<'_>) -> Result<(Uid, Duration), ApiError> {
    let watcher = query.parsed::<Uid>("watcher", "must be 16 bytes in base64url")?;
    let longest = LONGEST_LEASE.as_secs();
    let rule = format!("must be a whole number of seconds, 1 to {longest}");
    let lease = query.parsed::<u64>("lease", &rule)?;
    match (watcher, lease) {
        (Some(watcher), Some(lease)) if (1..=longest).contains(&lease) => {
            Ok((watcher, Duration::from_secs(lease)))
        }
        (Some(_), Some(_)) => Err(ApiError::BadRequest(format!("lease: {rule}"))),
        _ => Err(ApiError::BadRequest("watcher and lease: give both, so that revocations can wait".into())),
    }
}
