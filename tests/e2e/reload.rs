//! A new configuration while serving: Envoy gets its listener from a file that it watches, the file changes under load, and no request is
//! lost. envoy/local.yaml with the real registry, so that lookups are under way whenever it changes.

use crate::{folder, options, recorded};
use harness::failure::Outcome;
use harness::gateway::Gateway;
use harness::http::Client;
use harness::load::{Load, Sample, Source};
use harness::ports::Port;
use harness::process::Process;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 12;
const EVERY: Duration = Duration::from_millis(12);
const RELOADS: usize = 6;
/// For how long an old listener's connections go on. Envoy asks them to close (`connection: close`) the more likely the more whole seconds
/// of it are over; what is idle at its end is cut, as at any end of a connection that is kept open.
const DRAIN: Duration = Duration::from_secs(5);
/// After each reload every one of them is unknown to the workers again.
const CAPABILITIES: usize = 200;
/// Below and above the two bounds on bodies that the configurations have in turn.
const BODY: usize = 600_000;
const BOUNDS: [usize; 2] = [1_000_000, 500_000];

/// Requests with and without a body, for one capability after the other.
struct Traffic(Vec<[Vec<u8>; 2]>);

impl Source for Traffic {
    fn next(&self, connection: usize, turn: usize) -> Option<(usize, Vec<u8>)> {
        let number = (connection * 17 + turn) % self.0.len();
        Some((number, self.0[number][turn % 2].clone()))
    }
}

/// The listener of a rendered configuration as a discovery service gives it, with that bound on bodies.
fn listener(config: &str, bound: usize) -> Option<String> {
    let (_, rest) = config.split_once("  listeners:\n")?;
    let (listener, _) = rest.split_once("\n  clusters:\n")?;
    let typed = listener.replacen(
        "  - name: gateway\n",
        "  - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n    name: gateway\n",
        1,
    );
    let setting = "\"pinned_bodies\": true";
    typed.contains(setting).then(|| {
        format!("resources:\n{}", typed.replace(setting, &format!("{setting}, \"max_body\": {bound}")))
    })
}

/// Puts the file in place whole, which is what Envoy watches for.
fn write(file: &Path, text: &str) -> Outcome<()> {
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, text)?;
    Ok(std::fs::rename(unfinished, file)?)
}

#[test]
fn a_new_configuration_under_load_loses_no_request() {
    let mut gateway_config = String::new();
    let gateway = Gateway::start_with(options(folder("reload")), |config| {
        gateway_config.clone_from(&config);
        Ok(config)
    })
    .unwrap();
    // The Envoy that is asked is another one, which discovers its listener; its connections are drained within `DRAIN`.
    let [port, admin] = [Port::free().unwrap(), Port::free().unwrap()];
    let dir = folder("reload-discovered");
    std::fs::create_dir_all(&dir).unwrap();
    let mut whole = gateway_config;
    for (default, actual) in [(&gateway.ports.gateway, &port), (&gateway.ports.admin, &admin)] {
        let [default, actual] = [default, actual].map(|port| format!("port_value: {} ", port.number()));
        assert_eq!(whole.matches(&default).count(), 1);
        whole = whole.replace(&default, &actual);
    }
    let file = dir.join("listeners.yaml");
    write(&file, &listener(&whole, BOUNDS[0]).unwrap()).unwrap();
    let (before, rest) = whole.split_once("static_resources:\n  listeners:\n").unwrap();
    let (_, clusters) = rest.split_once("\n  clusters:\n").unwrap();
    let config = dir.join("envoy.yaml");
    let bootstrap = format!(
        "{before}node: {{ id: reload, cluster: reload }}\n\
         dynamic_resources:\n  lds_config: {{ path_config_source: {{ path: {} }} }}\n\
         static_resources:\n  clusters:\n{clusters}",
        file.display()
    );
    std::fs::write(&config, bootstrap).unwrap();
    let mut command = harness::envoy::command(&config).unwrap();
    command.args(["--concurrency", "2", "--drain-time-s", &DRAIN.as_secs().to_string()]);
    let mut envoy = Process::spawn("Envoy", command, &dir.join("envoy.log")).unwrap();
    let client = Client::tls(port.number(), &gateway.dir.join("ca.pem")).unwrap();
    envoy
        .wait_until(Duration::from_secs(30), "answering", || {
            client.request("GET", "/").send().is_ok_and(|answer| answer.status == 401)
        })
        .unwrap();

    let membrane = gateway.create_membrane("reload").unwrap();
    let requests = (0..CAPABILITIES).map(|number| {
        let what = recorded(&gateway, None, &format!("/reload/{number}"));
        let capability = gateway.export(&membrane, &what).unwrap();
        let request = || client.request("POST", "/").bearer(&capability);
        (capability.clone(), [request().bytes(), request().body("x".repeat(2_000)).bytes()])
    });
    let (capabilities, requests): (Vec<String>, Vec<[Vec<u8>; 2]>) = requests.unzip();
    let large =
        || client.request("POST", "/").bearer(&capabilities[0]).body("x".repeat(BODY)).send().unwrap().status;
    assert_eq!(large(), 200);

    let stat = |name: &str| -> u64 {
        let stats = Client::plain(admin.number()).request("GET", "/stats").send().unwrap().text();
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let load = Load::start(std::slice::from_ref(&client), CONNECTIONS, EVERY, Arc::new(Traffic(requests)));
    let mut changed_at = Vec::new();
    for reload in 1..=RELOADS {
        std::thread::sleep(Duration::from_millis(700));
        let taken = stat("listener_manager.lds.update_success");
        let bound = BOUNDS[reload % 2] + reload;
        write(&file, &listener(&whole, bound).unwrap()).unwrap();
        let start = Instant::now();
        while stat("listener_manager.lds.update_success") == taken {
            assert!(start.elapsed() < Duration::from_secs(20), "the new listener was not taken");
            std::thread::sleep(Duration::from_millis(20));
        }
        // In force for new connections once the workers have it.
        let status = if bound > BODY { 200 } else { 413 };
        while large() != status {
            assert!(start.elapsed() < Duration::from_secs(20), "the new configuration is not in force");
            std::thread::sleep(Duration::from_millis(20));
        }
        changed_at.push(Instant::now());
    }
    // Until the last of the old listeners is gone.
    std::thread::sleep(DRAIN + Duration::from_secs(1));
    let samples = load.stop();
    let lost: Vec<&Sample> = samples.iter().filter(|sample| sample.status != Some(200)).collect();
    assert!(lost.is_empty(), "{} of {} requests were lost: {lost:?}", lost.len(), samples.len());
    // There was traffic between any two changes, and every change made the workers look up anew.
    for pair in changed_at.windows(2) {
        let between =
            samples.iter().filter(|sample| sample.began > pair[0] && sample.ended < pair[1]).count();
        assert!(between > 20, "{between} requests between two changes");
    }
    assert_eq!(stat("listener_manager.lds.update_rejected"), 0);
    // By the registry, and once a worker's feed has begun from what the one before it left in shared data.
    let [found, shared] =
        ["found", "shared"].map(|result| stat(&format!("wasmcustom.membrane_lookups_total.result.{result}")));
    assert!(
        (found + shared) as usize > 4 * CAPABILITIES,
        "{found} and {shared} lookups: workers did not begin anew"
    );
    assert!(found as usize > CAPABILITIES, "{found} lookups: none was under way at a change");
    // What was answered 200 was asked of the origin once.
    let came = gateway.origin().requests("/reload/");
    assert_eq!(came.iter().filter(|request| request.body.len() != BODY).count(), samples.len());
}
