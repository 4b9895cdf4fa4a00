//! What lies between gateways and replicas: delays, losses, reordering, and replicas that are down.

use crate::gateway::Gateway;
use crate::mutants;
use crate::world::Sim;
use std::future::pending;
use std::time::Duration;
use tokio::time::sleep;

/// One way of a message: `false` if it is lost.
pub(crate) async fn way(sim: &Sim) -> bool {
    let dice = &sim.dice;
    if !sim.is_rough() {
        sleep(dice.milliseconds(0, 30)).await;
        return true;
    }
    // Most are quick; some are so slow that others overtake them, and that whoever waits gives up.
    let delay = match dice.between(0, 10) {
        0 => dice.milliseconds(200, 1_600),
        1..=3 => dice.milliseconds(20, 450),
        _ => dice.milliseconds(0, 20),
    };
    sleep(delay).await;
    if dice.percent(7) {
        sim.truth.borrow_mut().tally.lost_messages += 1;
        return false;
    }
    true
}

/// Asks any replica; `None`: it failed at once. What is lost is waited for in vain.
pub(crate) async fn ask(sim: &Sim, gateway: &Gateway, path: &str) -> Option<(u16, Vec<u8>)> {
    if !way(sim).await || gateway.is_cut.get() {
        pending::<()>().await;
    }
    let Some(replica) = sim.replica_for(gateway) else {
        sleep(Duration::from_millis(1)).await;
        return None;
    };
    let asked = mutants::question(sim, path);
    let request = axum::http::Request::builder().uri(asked.as_str());
    let request = request.body(axum::body::Body::empty()).unwrap();
    let (status, body) = replica.serve(replica.gateway.clone(), request).await?;
    if path.starts_with("/v1/events") && status == 200 {
        let after =
            asked.split_once("after=").map(|(_, rest)| rest.split('&').next().unwrap().parse().unwrap());
        sim.truth.borrow_mut().told(after, &serde_json::from_slice(&body).unwrap());
    }
    if !way(sim).await || gateway.is_cut.get() {
        pending::<()>().await;
    }
    let body = mutants::answer(sim, gateway, path, body);
    Some((status, body))
}
