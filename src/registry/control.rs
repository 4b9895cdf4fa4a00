//! The control listener: the Membrane API at `/`, and nothing else. The bearer alone decides what a request is.

use crate::audit::Event;
use crate::error::ApiError;
use crate::feed::Feed;
use crate::fleet::{BARRIER_TIMEOUT, Fleet};
use crate::metrics::{Metrics, count, count_status};
use crate::ports::draw;
use crate::query_string::QueryString;
use crate::registry::{Presented, Registry};
use crate::reply;
use crate::store::Page;
use crate::workers::Workers;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use capability::{Create, Export, FieldError, MembraneId, Role, Token};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

/// The published limit of a request's body, in bytes.
pub const MAX_BODY: usize = 65_536;
/// How long a body may take. A gateway sends what it has already read; who is slower holds a connection for nothing.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The published default of `limit`.
const DEFAULT_LIMIT: usize = 1;

/// What the control listener works with.
#[derive(Clone)]
pub struct Control {
    /// What it does.
    pub registry: Arc<Registry>,
    /// Where it does it.
    pub workers: Arc<Workers>,
    /// Who is told of revocations.
    pub feed: Feed,
    /// And who follows that.
    pub fleet: Fleet,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The Membrane API as a router.
pub fn router(control: Control) -> Router {
    Router::new().fallback(answer).with_state(control)
}

async fn answer(State(control): State<Control>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
    let mut event = None;
    let response = control.serve(request, &mut event).await.unwrap_or_else(ApiError::into_response);
    let status = response.status().as_u16();
    count_status(&control.metrics.control, status);
    // What a control that may be used was asked to do, and what came of it; whoever has none is counted and no more.
    if let Some(mut event) = event {
        let request = hex(&draw::<8>(&*control.registry.random));
        tracing::debug!(request, role = event.action, status, "answered");
        (event.status, event.peer, event.request) = (status, peer, Some(request));
        let registry = Arc::clone(&control.registry);
        // Even if this one is not waited for any more.
        let _ = tokio::task::spawn_blocking(move || registry.audit.write(&event)).await;
    }
    response
}

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    status_code: u16,
    message: &'static str,
    /// With `wait=fleet`: how many workers of gateways may still act as if nothing had been revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconfirmed: Option<usize>,
}

impl Control {
    async fn serve(&self, request: Request, event: &mut Option<Event>) -> Result<Response, ApiError> {
        // The route's own timeout runs from here on, whatever the body takes.
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        if parts.uri.path() != "/" {
            return Err(ApiError::NotFound);
        }
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthorized)?;
        // Before the control is judged: a body may take long, and what was alive when it began need not be when it ends.
        let body = read(body).await;
        let registry = Arc::clone(&self.registry);
        let presented = self.workers.run(move || registry.present(&token)).await??;
        let role = presented.control.role;
        let event = event.insert(Event::of(self.registry.clock.now(), &presented.control));
        let query = parts.uri.query();
        let (methods, allow): (&[Method], _) = match role {
            Role::Create | Role::Export => (&[Method::POST], "POST"),
            Role::Query => (&[Method::GET], "GET"),
            Role::Revoke | Role::DeleteSelf => {
                (&[Method::DELETE, Method::GET, Method::POST], "DELETE, GET, POST")
            }
        };
        if !methods.contains(&parts.method) {
            return Err(ApiError::MethodNotAllowed(allow));
        }
        let response = match role {
            Role::Create => {
                QueryString::parse(query, &[])?;
                let Create { id } = Create::parse(&body?)?;
                let created =
                    self.run(presented, move |registry, presented| registry.create(presented, &id)).await?;
                event.membrane = Some(created.uid);
                count(&self.metrics.membranes_created);
                reply::json(StatusCode::CREATED, &created)
            }
            Role::Export => {
                QueryString::parse(query, &[])?;
                let export = Export::parse(&body?)?;
                let minted = self
                    .run(presented, move |registry, presented| registry.export(presented, export))
                    .await?;
                event.capability = Some(minted.lookup);
                count(&self.metrics.capabilities_exported);
                reply::json(StatusCode::CREATED, &minted)
            }
            Role::Query => {
                let page = parse_page(query)?;
                let listed =
                    self.run(presented, move |registry, presented| registry.query(presented, &page)).await?;
                reply::json(StatusCode::OK, &listed)
            }
            Role::Revoke | Role::DeleteSelf => {
                let query = QueryString::parse(query, &["wait"])?;
                let waits = match query.text("wait") {
                    None => false,
                    Some("fleet") => true,
                    Some(_) => return Err(ApiError::BadRequest("wait: must be fleet, or left out".into())),
                };
                // The body says nothing, but must not be larger than others.
                body?;
                let revoked = self.run(presented, Registry::revoke).await?;
                event.position = Some(revoked.position.into());
                if revoked.now {
                    count(&self.metrics.revocations);
                    self.feed.look();
                }
                let unconfirmed = match waits {
                    true => {
                        let patience = BARRIER_TIMEOUT.saturating_sub(arrived.elapsed());
                        Some(self.fleet.wait(revoked.target, revoked.position, patience).await?)
                    }
                    false => None,
                };
                let accepted = StatusCode::ACCEPTED;
                let answer = Accepted { status_code: accepted.as_u16(), message: "Accepted", unconfirmed };
                reply::json(accepted, &answer)
            }
        };
        Ok(response)
    }

    async fn run<T: Send + 'static>(
        &self,
        presented: Presented,
        work: impl FnOnce(&Registry, &Presented) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let registry = Arc::clone(&self.registry);
        self.workers.run(move || work(&registry, &presented)).await?
    }
}

/// The token of the one `authorization` header, scheme Bearer in any case (RFC 6750 §2.1, RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, rest) = value.split_at_checked("Bearer".len())?;
    let token = rest.trim_ascii_start();
    if !scheme.eq_ignore_ascii_case(b"Bearer") || token.len() == rest.len() {
        return None;
    }
    Token::parse(token).ok()
}

/// A whole body, within the limit of size and time.
async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
        Err(_) => return Err(ApiError::Slow),
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let too_large = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            return Err(if too_large {
                ApiError::TooLarge
            } else {
                ApiError::BadRequest("the body broke off".into())
            });
        }
    };
    // Wiped where the memory is this body's alone.
    Ok(match bytes.try_into_mut() {
        Ok(mut bytes) => {
            let copy = Zeroizing::new(bytes.to_vec());
            bytes.as_mut().zeroize();
            copy
        }
        Err(bytes) => Zeroizing::new(bytes.to_vec()),
    })
}

fn parse_page(query: Option<&str>) -> Result<Page, ApiError> {
    let query = QueryString::parse(query, &["id", "lastId", "limit"])?;
    let id = |name: &str| {
        query
            .text(name)
            .filter(|text| !text.is_empty())
            .map(|text| MembraneId::parse(text).map_err(|error| FieldError::new(name, error.to_string())))
            .transpose()
    };
    // The published SDK writes a parameter that is undefined as an empty one.
    let rule = "must be an integer above 0";
    let limit = match query.text("limit") {
        None | Some("") => DEFAULT_LIMIT,
        Some(_) => query.parsed::<usize>("limit", rule)?.unwrap_or(DEFAULT_LIMIT),
    };
    if limit == 0 {
        return Err(FieldError::new("limit", rule).into());
    }
    Ok(Page { id: id("id")?, after: id("lastId")?, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn one_bearer_is_read_and_nothing_else() {
        let token = Token::mint([1; 64]);
        let read = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            bearer(&headers)
        };
        let text = token.expose();
        for good in [format!("Bearer {text}"), format!("bEARER {text}"), format!("Bearer  {text}")] {
            assert_eq!(read(&[good]), Some(Token::mint([1; 64])));
        }
        for bad in [
            vec![],
            vec![format!("Bearer{text}")],
            vec![format!("Basic {text}")],
            vec![text.to_owned()],
            vec![format!("Bearer {text},")],
            vec![format!("Bearer {text} x")],
            vec!["Bearer".into()],
            vec!["é".into()],
            vec![format!("Bearer {text}"), format!("Bearer {text}")],
        ] {
            assert_eq!(read(&bad), None);
        }
    }
}
