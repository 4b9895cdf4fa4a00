//! Somebody who makes membranes, exports capabilities through them, and revokes them.

use crate::mutants::Mutant;
use crate::network::way;
use crate::truth::{Capability, Membrane, Wrong};
use crate::world::Sim;
use axum::body::Body;
use axum::http::Request;
use capability::{MembraneId, Token, Unit};
use registry::store::{Page, Store as _};
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longer than a revocation waits for the fleet.
const PATIENCE: Duration = Duration::from_secs(80);

const GRANT: &str = r#"{"uri": "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations", "method": "POST",
    "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "lambda", "secretAccessKey": "secret"}}}"#;

/// An answer, and when the registry gave it.
struct Answer {
    status: u16,
    json: Value,
    at: Instant,
}

/// Sends a request to the Membrane API. `None`: no answer came, and whether it was done is not known.
async fn call(
    sim: &Sim,
    method: &str,
    path: &str,
    bearer: &str,
    body: &str,
    revokes: Option<Unit>,
) -> Option<Answer> {
    let asked = async {
        if !way(sim).await {
            std::future::pending::<()>().await;
        }
        let replica = sim.any_replica()?;
        if let (Some(unit), Some(Mutant::PlainSequence)) = (revokes, sim.plan.mutant) {
            // Its transaction begins, takes its number, and is not committed yet.
            replica.sequencer.as_ref()?.begin(unit);
            sleep(sim.dice.milliseconds(0, 1_500)).await;
        }
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {bearer}"));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (status, body) = replica.serve(replica.control.clone(), request).await?;
        let at = Instant::now();
        Some(Answer { status, json: serde_json::from_slice(&body).unwrap_or(Value::Null), at })
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok().flatten()?;
    // What it promises holds from when it is given, whether or not it arrives.
    if let (Some(Unit::Uid(unit)), 202) = (revokes, answer.status) {
        sim.answered(&unit.to_string(), answer.at, answer.json["unconfirmed"] == 0);
    }
    way(sim).await.then_some(answer)
}

fn token(uri: &Value) -> Option<String> {
    Some(uri.as_str()?.split_once('#')?.1.to_owned())
}

/// Makes, exports, waits and revokes, for ever.
pub(crate) async fn write(sim: Rc<Sim>, name: usize) {
    for number in 0.. {
        sleep(sim.dice.milliseconds(10, 800)).await;
        let id = format!("m-{name}-{number}");
        let Some((index, export, revoke, unit)) = make(&sim, &id).await else { continue };
        for _ in 0..sim.dice.between(1, 4) {
            export_one(&sim, index, &export).await;
        }
        sleep(sim.dice.milliseconds(300, 6_000)).await;
        if sim.dice.percent(10) {
            // Some live on.
            continue;
        }
        sim.truth.borrow_mut().membranes[index].attempted.get_or_insert_with(Instant::now);
        let path = if sim.dice.percent(50) { "/?wait=fleet" } else { "/" };
        loop {
            let answer = call(&sim, "DELETE", path, &revoke, "", Some(unit)).await;
            match answer.map(|answer| answer.status) {
                Some(202) => break,
                Some(401) => {
                    let mut truth = sim.truth.borrow_mut();
                    if !truth.may_be_lost(truth.membranes[index].made) {
                        truth.violated(Wrong::Refused, format!("the revoke control of {id} was refused"));
                    }
                    break;
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn make(sim: &Sim, id: &str) -> Option<(usize, String, String, Unit)> {
    let answer = call(sim, "POST", "/", &sim.create, &json!({"id": id}).to_string(), None).await?;
    let controls = &answer.json["capabilities"];
    let (export, revoke) = (token(&controls["export"])?, token(&controls["revoke"])?);
    let page = Page { id: Some(MembraneId::parse(id).unwrap()), after: None, limit: 1 };
    let listed = sim.any_replica()?.store.membranes(sim.tenant, 0, &page).unwrap();
    let uid = listed.first()?.uid;
    let mut truth = sim.truth.borrow_mut();
    truth.membranes.push(Membrane {
        id: id.to_owned(),
        unit: uid.to_string(),
        made: answer.at,
        attempted: None,
        answered: None,
        confirmed: None,
    });
    Some((truth.membranes.len() - 1, export, revoke, Unit::Uid(uid)))
}

/// A new grant, or one of somebody else's again, which then dies with either membrane.
async fn export_one(sim: &Sim, membrane: usize, export: &str) {
    let other = sim.dice.percent(30).then(|| sim.any_live_capability()).flatten();
    let (body, mut membranes) = match other {
        None => (GRANT.to_owned(), vec![]),
        Some(other) => {
            let truth = sim.truth.borrow();
            let uri = format!("cpblty://localhost:8443/#{}", truth.capabilities[other].token.expose());
            (json!({"capability": uri}).to_string(), truth.capabilities[other].membranes.clone())
        }
    };
    membranes.push(membrane);
    let Some(answer) = call(sim, "POST", "/", export, &body, None).await else { return };
    let Some(token) = token(&answer.json["capability"]) else { return };
    sim.truth.borrow_mut().capabilities.push(Capability {
        token: Token::parse(token.as_bytes()).unwrap(),
        membranes,
        made: answer.at,
    });
}
