//! A registry that stands still for longer than the lease.

use super::Sizes;
use super::report::{self, millis};
use crate::{assert_error, folder, recorded};
use harness::fleet::Fleet;
use harness::http::{Client, Response};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const STALENESS: Duration = Duration::from_secs(2);

#[test]
fn within_the_lease_200_beyond_it_503_and_soon_after_it_goes_on_200() {
    let sizes = Sizes::asked();
    let fleet = Fleet::start(folder("revocation-stopped"), 2, r#""staleness": "2s""#).unwrap();
    let gateway = &fleet.gateway;
    let membrane = gateway.create_membrane("stopped").unwrap();
    let capability = gateway.export(&membrane, &recorded(gateway, Some("GET"), "/")).unwrap();
    let ask = |client: &Client| client.request("GET", "/").bearer(&capability).send().unwrap();
    // So many that each worker has answered some.
    let all = |client: &Client| -> Vec<Response> {
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..12).map(|_| scope.spawn(|| ask(client))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        })
    };
    let clients = fleet.clients();
    for client in &clients {
        assert!(all(client).iter().chain(&all(client)).all(|answer| answer.status == 200));
    }
    let mut took = Vec::new();
    for stands in [STALENESS + Duration::from_millis(300), STALENESS * 3] {
        gateway.signal_registry(Signal::STOP);
        let stopped = Instant::now();
        let first = clients.iter().map(ask).collect::<Vec<_>>();
        if stopped.elapsed() < STALENESS / 3 {
            assert!(first.iter().all(|answer| answer.status == 200), "within the lease");
        }
        std::thread::sleep(stands.saturating_sub(stopped.elapsed()));
        for answer in clients.iter().flat_map(all) {
            assert_error(&answer, 503, "registry");
            let retry = answer.header("retry-after").and_then(|value| value.parse::<u32>().ok());
            assert!(retry.is_some(), "Retry-After: {:?}", answer.header("retry-after"));
        }
        gateway.signal_registry(Signal::CONT);
        let goes_on = Instant::now();
        for client in &clients {
            crate::eventually(200, Duration::from_secs(5), || ask(client));
            took.push(goes_on.elapsed());
        }
    }
    let longest = took.into_iter().max().unwrap();
    let text = "From SIGCONT, after SIGSTOP for longer than the lease, to the first 200 of each of 2 Envoys, at most";
    report::write("stopped", &format!("{text}: {} ms.\n", millis(longest)));
    if sizes.judged {
        assert!(longest <= Duration::from_secs(1), "{longest:?}");
    }
    gateway.revoke(&membrane).unwrap();
    for client in &clients {
        crate::eventually(401, STALENESS, || ask(client));
    }
}
