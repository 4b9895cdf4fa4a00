//! A thousand membranes, listed page by page while others come and go.

use crate::{folder, options};
use harness::gateway::{Gateway, Options, text};
use harness::http::{Connection, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const STANDING: usize = 1_000;
/// Connections that are kept alive, each with a thread of its own.
const CONNECTIONS: usize = 4;

/// Asks over a connection that is kept alive.
fn ask(
    gateway: &Gateway,
    connection: &mut Connection,
    capability: &str,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> Response {
    let request = gateway.request(capability, method, target);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    connection.write(&request.bytes()).unwrap();
    connection.read(false).unwrap()
}

/// Every page from the beginning to `completed`; fails on a page that breaks a rule.
fn listing(gateway: &Gateway, connection: &mut Connection, limit: usize) -> BTreeMap<String, Value> {
    let query = text(&gateway.tenant, "query").unwrap();
    let (mut all, mut last) = (BTreeMap::new(), String::new());
    loop {
        let target = format!("/?limit={limit}&lastId={last}");
        let answer =
            ask(gateway, connection, query, "GET", &target, None).expect(200, &target).unwrap().json();
        let page = answer["membranes"].as_array().unwrap();
        assert!(page.len() <= limit, "{target}: {}", page.len());
        let completed = answer["completed"].as_bool().unwrap();
        assert!(completed || !page.is_empty(), "{target}: nothing, and not all");
        for membrane in page {
            let id = membrane["id"].as_str().unwrap();
            assert!(last.as_str() < id, "{target}: {id} does not come after {last}");
            id.clone_into(&mut last);
            assert!(all.insert(id.to_owned(), membrane["capabilities"].clone()).is_none(), "{id} twice");
        }
        if completed {
            return all;
        }
    }
}

#[test]
fn a_thousand_membranes_with_every_limit_while_others_come_and_go() {
    // Not at trace level: it is the log that would be measured.
    let gateway = Gateway::start(Options { trace: false, ..options(folder("paging")) }).unwrap();
    let create = text(&gateway.tenant, "create").unwrap();
    let make = |connection: &mut Connection, id: &str| -> Value {
        let created = ask(&gateway, connection, create, "POST", "/", Some(&json!({ "id": id })));
        created.expect(201, id).unwrap().json()["capabilities"].clone()
    };
    let standing: BTreeMap<String, Value> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS)
            .map(|worker| {
                let (gateway, make) = (&gateway, &make);
                scope.spawn(move || {
                    let mut connection = gateway.client.connect().unwrap();
                    let numbers = (worker..STANDING).step_by(CONNECTIONS);
                    let ids = numbers.map(|number| format!("m{number:04}"));
                    ids.map(|id| (id.clone(), make(&mut connection, &id))).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(standing.len(), STANDING);

    let (next, ended, churned) = (AtomicUsize::new(1), AtomicBool::new(false), AtomicUsize::new(0));
    let passers = std::thread::scope(|scope| {
        // Between the standing ones, before all of them and after: made, left a while, revoked.
        let churn = scope.spawn(|| {
            let mut connection = gateway.client.connect().unwrap();
            let (mut alive, mut all) = (std::collections::VecDeque::new(), BTreeMap::new());
            for number in 0_usize.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                // 619 is coprime to 1,000: all over the listing.
                let id = match number % 20 {
                    18 => format!("a{number}"),
                    19 => format!("z{number}"),
                    _ => format!("m{:04}-{number}", number * 619 % STANDING),
                };
                let made = make(&mut connection, &id);
                alive.push_back(made["revoke"].as_str().unwrap().to_owned());
                all.insert(id, made);
                if alive.len() > 8 {
                    let revoke = alive.pop_front().unwrap();
                    let answer = ask(&gateway, &mut connection, &revoke, "DELETE", "/", None);
                    answer.expect(202, "revoking").unwrap();
                    churned.fetch_add(1, Ordering::Relaxed);
                }
            }
            all
        });
        let readers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = gateway.client.connect().unwrap();
                    let mut passing = BTreeMap::new();
                    loop {
                        let limit = next.fetch_add(1, Ordering::Relaxed);
                        if limit > 100 {
                            return passing;
                        }
                        let mut all = listing(&gateway, &mut connection, limit);
                        for (id, uris) in &standing {
                            assert_eq!(all.remove(id).as_ref(), Some(uris), "limit {limit}: {id}");
                        }
                        passing.extend(all);
                    }
                })
            })
            .collect();
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Relaxed);
        let all = churn.join().unwrap();
        let passers: BTreeMap<String, Value> =
            results.into_iter().flat_map(|result| result.unwrap()).collect();
        for (id, uris) in &passers {
            assert_eq!(all.get(id), Some(uris), "{id} was listed and never made");
        }
        passers.len()
    });
    // More than the largest page holds, since some that came have not gone: it is cut there, and says so.
    let mut connection = gateway.client.connect().unwrap();
    let query = text(&gateway.tenant, "query").unwrap();
    let largest = ask(&gateway, &mut connection, query, "GET", "/?limit=5000", None).json();
    assert_eq!(
        (largest["membranes"].as_array().unwrap().len(), &largest["completed"]),
        (1_000, &json!(false))
    );
    assert!(listing(&gateway, &mut connection, 5_000).len() > STANDING);
    // Or nothing came and went while it was listed.
    assert!(churned.load(Ordering::Relaxed) > 50 && passers > 20, "{churned:?} revoked, {passers} seen");
    gateway.stop().unwrap();
}
