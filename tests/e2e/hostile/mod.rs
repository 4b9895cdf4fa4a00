//! Hostile input through the real Envoy, as bytes that no well-behaved client would send: docs/threat-model.md.
//!
//! Each attack has a capability and a target of its own. What is judged is what came to the origin, all of it, whatever was answered.
//! The positive control is the same bytes through a plain Envoy that routes everything: what an attack is after must be found by
//! the judge there, or the attack proves nothing.

mod documents;
mod egress;
mod http1;
mod http2;
mod judge;
mod plain_route;
mod soak;

use crate::{options, recorded};
use harness::gateway::{Gateway, Membrane};
use harness::http::Connection;
use harness::origin::Recorded;
use judge::{Granted, faults, judge};
use plain_route::PlainRoute;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the attacker's capability allows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Grant {
    /// POST to one path, for Lambda: bodies are held and hashed.
    Post,
    /// The same, whose own query is `own=1`, with `allowQuery`.
    Query,
    /// POST for S3: bodies stream, unsigned.
    Stream,
}

/// What must become of an attack.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Answered with one of these, or the connection (over HTTP/2 the stream) is ended without an answer. Nothing reaches the origin.
    Refused(&'static [u16]),
    /// Nothing is answered while the client waits. Nothing reaches the origin.
    Unanswered,
    /// Answered 200 so often; so many requests reach the origin, each as if nothing had been tried.
    AsGranted(usize),
    /// The same, with this query, of a [`Grant::Query`].
    AsGrantedWith(&'static str),
    /// Whatever is answered, only what is granted reaches the origin.
    Whatever,
}

/// Where the control must find the attack.
#[derive(Clone, Copy, Debug)]
enum Control {
    /// The judge names a fault that begins so, of what came through the plain route.
    Fault(&'static str),
    /// A plain Envoy refuses this by itself, in whatever configuration: nothing comes.
    Refused,
    /// What it is after is not seen at an origin: exhaustion, or an answer.
    None,
}

struct Attack {
    name: &'static str,
    /// With [`TOKEN`] in the place of the capability's.
    bytes: Vec<u8>,
    grant: Grant,
    expected: Expected,
    control: Control,
    /// Headers that the capability lets through beside those of every request, which this one sends.
    headers: &'static [&'static str],
}

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Status(u16),
    /// The connection or the stream was ended by the other side.
    Ended,
    /// Nothing came within [`PATIENCE`].
    Nothing,
}

/// How long a client waits where something should come, and where nothing should.
const PATIENCE: Duration = Duration::from_secs(10);
const BRIEFLY: Duration = Duration::from_millis(500);

impl Attack {
    fn granted(&self, protocol: &str, number: usize) -> Granted {
        let query = match (self.expected, self.grant) {
            (Expected::AsGrantedWith(query), _) => query,
            (_, Grant::Query) => "?own=1",
            _ => "",
        };
        let times = match self.expected {
            Expected::Refused(_) | Expected::Unanswered => Some(0),
            Expected::AsGranted(times) => Some(times),
            Expected::AsGrantedWith(_) => Some(1),
            Expected::Whatever => None,
        };
        Granted {
            target: format!("{}{query}", path(protocol, number)),
            times,
            headers: self.headers,
            service: if self.grant == Grant::Stream { "s3" } else { "lambda" },
        }
    }

    /// What is wrong with what the client saw.
    fn complain(&self, seen: &[Seen]) -> Option<String> {
        let right = match self.expected {
            Expected::Unanswered => seen == [Seen::Nothing],
            Expected::Refused(statuses) => match seen {
                [Seen::Ended] => true,
                [Seen::Status(status), ..] => statuses.contains(status),
                _ => false,
            },
            Expected::AsGranted(times) => seen == vec![Seen::Status(200); times],
            Expected::AsGrantedWith(_) => seen == [Seen::Status(200)],
            Expected::Whatever => true,
        };
        (!right).then(|| format!("{}: expected {:?}, saw {seen:?}", self.name, self.expected))
    }

    fn patience(&self) -> Duration {
        if matches!(self.expected, Expected::Unanswered | Expected::Whatever) { BRIEFLY } else { PATIENCE }
    }

    /// How many answers are waited for.
    fn answers(&self) -> usize {
        if let Expected::AsGranted(times) = self.expected { times } else { 1 }
    }
}

fn path(protocol: &str, number: usize) -> String {
    format!("/hostile/{protocol}/{number}/")
}

fn export(gateway: &Gateway, membrane: &Membrane, grant: Grant, target: &str) -> String {
    let target = if grant == Grant::Query { format!("{target}?own=1") } else { target.to_owned() };
    let mut what = recorded(gateway, Some("POST"), &target);
    match grant {
        Grant::Post => {}
        Grant::Query => what["allowQuery"] = true.into(),
        Grant::Stream => what["hmac"] = gateway.aws4("s3"),
    }
    let capability = gateway.export(membrane, &what).unwrap();
    capability.rsplit('#').next().unwrap().to_owned()
}

type Send = fn(&mut Connection, &[u8], &Attack) -> Vec<Seen>;

/// How many attacks go on at once: most of them wait.
const AT_ONCE: usize = 8;

/// Sends the attacks, one connection each; gives what is wrong with what was answered.
fn attack_all(
    gateway: &Gateway,
    membrane: &Membrane,
    protocol: &str,
    attacks: &[Attack],
    send: Send,
) -> Vec<String> {
    let one = |(number, attack): (usize, &Attack)| {
        let token = export(gateway, membrane, attack.grant, &path(protocol, number));
        let mut connection = gateway.client.connect().unwrap();
        connection.patience(attack.patience()).unwrap();
        let seen = send(&mut connection, &present(attack, &token), attack);
        attack.complain(&seen).map(|complaint| format!("{number} {complaint}"))
    };
    let next = AtomicUsize::new(0);
    let some = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let taken = numbers.map_while(|number| Some((number, attacks.get(number)?)));
        taken.filter_map(one).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Stands in an attack's bytes where its token will: as long as one, so that no length around it changes.
const TOKEN: &str =
    "CPBLTY1-~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~";

/// The attack's bytes with a capability in them.
fn present(attack: &Attack, token: &str) -> Vec<u8> {
    assert_eq!(token.len(), TOKEN.len());
    let mut bytes = attack.bytes.clone();
    let mark = TOKEN.as_bytes();
    while let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        bytes[at..at + mark.len()].copy_from_slice(token.as_bytes());
    }
    bytes
}

/// Good requests on so many new connections, so that every worker gets some.
const CONNECTIONS: usize = 24;

/// The gateway is as it was: each worker serves, no VM died, nothing was logged that should not be.
fn assert_unharmed(gateway: &mut Gateway, membrane: &Membrane, target: &str) -> Granted {
    let token = export(gateway, membrane, Grant::Post, target);
    for _ in 0..CONNECTIONS {
        let answer = gateway.request(&token, "POST", "/").body("good").send().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    gateway.check_alive().unwrap();
    let log = std::fs::read_to_string(gateway.logs().join("envoy.log")).unwrap();
    for word in ["panicked", "wasm trap", "RuntimeError", "failed", "[critical]", "Assert"] {
        let line = log.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "Envoy's log has {word:?}");
    }
    let reloads = gateway.stats_with("vm_reload").unwrap();
    assert!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    Granted { target: target.to_owned(), times: Some(CONNECTIONS), headers: &[], service: "lambda" }
}

/// Everything of one protocol, and the judgement.
fn run(protocol: &str, attacks: &[Attack], send: Send) {
    // Traces would be of megabytes of headers.
    let options =
        harness::gateway::Options { trace: false, ..options(crate::folder(&format!("hostile-{protocol}"))) };
    let mut gateway = Gateway::start(options).unwrap();
    let membrane = gateway.create_membrane("hostile").unwrap();
    let complaints = attack_all(&gateway, &membrane, protocol, attacks, send);
    let mut granted: Vec<Granted> =
        attacks.iter().enumerate().map(|(number, attack)| attack.granted(protocol, number)).collect();
    let good = format!("/hostile/{protocol}/good/");
    granted.push(assert_unharmed(&mut gateway, &membrane, &good));
    // What was on its way has come by now.
    std::thread::sleep(BRIEFLY);
    let found = judge(&gateway, gateway.origin(), &granted);
    assert!(
        complaints.is_empty() && found.is_empty(),
        "{}\nat the origin:\n{}",
        complaints.join("\n"),
        found.join("\n")
    );
    gateway.stop().unwrap();
}

/// The same bytes where nothing defends: the judge must find what each attack is after.
fn control(protocol: &str, attacks: &[Attack], send: Send) {
    let route = PlainRoute::start(crate::folder(&format!("hostile-{protocol}-control"))).unwrap();
    let mut complaints = Vec::new();
    for (number, attack) in attacks.iter().enumerate() {
        let token = format!("CPBLTY1-{number:A>86}");
        let before = route.mark();
        let mut connection = route.client.connect().unwrap();
        connection.patience(BRIEFLY).unwrap();
        let seen = send(&mut connection, &present(attack, &token), attack);
        // A request that is not whole is one to the origin once it cannot become so: not before its client has gone.
        let _answered = (!seen.contains(&Seen::Nothing)).then_some(connection);
        let came = || route.came_since(before);
        let found = |came: &[Recorded]| -> Vec<String> {
            let granted = attack.granted(protocol, number);
            came.iter().flat_map(|request| faults(request, Some(&granted), "AKIA")).collect()
        };
        match attack.control {
            Control::Fault(fault) => {
                let began = Instant::now();
                while !found(&came()).iter().any(|it| it.starts_with(fault)) {
                    // Far more than it takes, since machines are busy at times.
                    if began.elapsed() > Duration::from_secs(15) {
                        complaints.push(format!(
                            "{number} {}: {fault:?} not in {:?}, saw {seen:?}",
                            attack.name,
                            found(&came())
                        ));
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Control::Refused => {
                std::thread::sleep(Duration::from_millis(20));
                // What is still to come of the attack before is of another bearer.
                let own = |it: &Recorded| it.all("authorization").iter().any(|value| value.contains(&token));
                if came().iter().any(own) {
                    complaints.push(format!(
                        "{number} {}: a plain Envoy lets {:?} pass",
                        attack.name,
                        found(&came())
                    ));
                }
            }
            Control::None => {}
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn attacks_over_http1_get_nothing_that_is_not_granted() {
    let attacks = http1::attacks();
    assert!(attacks.len() >= 60, "{}", attacks.len());
    run("h1", &attacks, http1::send);
}

#[test]
fn the_judge_finds_what_the_attacks_over_http1_are_after() {
    control("h1", &http1::attacks(), http1::send);
}

#[test]
fn attacks_over_http2_get_nothing_that_is_not_granted() {
    let attacks = http2::attacks();
    assert!(attacks.len() >= 30, "{}", attacks.len());
    run("h2", &attacks, http2::send);
}

#[test]
fn the_judge_finds_what_the_attacks_over_http2_are_after() {
    control("h2", &http2::attacks(), http2::send);
}
