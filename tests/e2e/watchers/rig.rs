//! A registry, its watchers, and whoever revokes.

use super::figures::{Figures, Times};
use super::follower::{Broken, Told, follow};
use crate::folder;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use harness::http::Client;
use harness::memory::Memory;
use harness::ports::{Port, Ports};
use harness::process::Process;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Connections that are being made at once.
const CONNECTING: usize = 64;
/// How long all of them may take to begin.
const BEGIN_WITHIN: Duration = Duration::from_secs(120);
/// How long a watcher waits for what the test asks of it, before the test is the one that says so.
const FOLLOW_WITHIN: Duration = Duration::from_secs(600);

/// How watchers reach the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Plain,
    MutualTls,
}

pub(super) struct Rig {
    link: Link,
    dir: PathBuf,
    plain: Port,
    ports: Ports,
    registry: Process,
    runtime: Runtime,
}

/// Those who follow, and what those heard who have heard of all.
struct Watchers {
    following: JoinSet<Result<Vec<Instant>, Broken>>,
    ended: Vec<Vec<Instant>>,
}

impl Rig {
    pub(super) fn start(link: Link) -> Self {
        let dir = folder(&format!("watchers-{link:?}"));
        std::fs::create_dir_all(&dir).unwrap();
        let (ports, plain) = (Ports::free().unwrap(), Port::free().unwrap());
        harness::registry::init(&dir, "localhost:8443").unwrap();
        let mut command = harness::registry::command(&dir, &ports).unwrap();
        command.args(["--gateway-plain", &format!("127.0.0.1:{}", plain.number())]);
        let mut registry = Process::spawn("membrane-registry", command, &dir.join("registry.log")).unwrap();
        let health = Client::plain(ports.metrics.number());
        registry
            .wait_until(Duration::from_secs(20), "ready", || {
                health.request("GET", "/readyz").send().is_ok_and(|answer| answer.status == 200)
            })
            .unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        Self { link, dir, plain, ports, registry, runtime }
    }

    pub(super) fn check_alive(&mut self) {
        assert!(self.registry.exited().is_none(), "{}", self.registry.log_tail(20));
    }

    /// Lets `count` watchers follow while membranes are revoked one by one.
    pub(super) fn measure(
        &mut self,
        count: usize,
        revocations: usize,
        idle: Duration,
        within: Duration,
    ) -> Figures {
        allow_open_files(count);
        let tenant = harness::registry::create_tenant(&self.dir, "acme").unwrap();
        let control = Client::tls(self.ports.control.number(), &self.dir.join("ca.pem")).unwrap();
        let revokes: Vec<Value> = (0..revocations)
            .map(|number| {
                let create = control.request("POST", "/").bearer(tenant["create"].as_str().unwrap());
                let made = create.json(&json!({"id": number.to_string()})).send().unwrap();
                assert_eq!(made.status, 201, "{}", made.text());
                made.json()["capabilities"]["revoke"].clone()
            })
            .collect();

        let memory = Memory::of(self.registry.id());
        let before = memory.resident().unwrap();
        let told = Arc::new(Told {
            begun: AtomicUsize::new(0),
            heard: (0..revocations).map(|_| AtomicUsize::new(0)).collect(),
        });
        let mut watchers = self.watch(count, &told);
        self.until(BEGIN_WITHIN, &mut watchers, "all have begun", || {
            told.begun.load(Ordering::Acquire) == count
        });
        self.until_all_wait(&mut watchers, count);
        let waiting = memory.resident().unwrap().saturating_sub(before);
        let (resting, rested) = (self.cpu(), Instant::now());
        std::thread::sleep(idle);
        let idle_cpu = (self.cpu() - resting).as_secs_f64() / rested.elapsed().as_secs_f64().max(1e-9);

        let (mut asked, mut answered, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
        for (number, revoke) in revokes.iter().enumerate() {
            let cpu = self.cpu();
            asked.push(Instant::now());
            let answer = control.request("DELETE", "/").bearer(revoke.as_str().unwrap()).send().unwrap();
            answered.push(Instant::now());
            assert_eq!(answer.status, 202, "{}", answer.text());
            self.until(within, &mut watchers, "every watcher has heard", || {
                told.heard[number].load(Ordering::Acquire) == count
            });
            if number + 1 < revocations {
                self.until_all_wait(&mut watchers, count);
            }
            spent += self.cpu() - cpu;
        }
        let peak = memory.peak().unwrap().saturating_sub(before);
        let heard = self.runtime.block_on(async {
            let mut all = watchers.ended;
            while let Some(ended) = watchers.following.join_next().await {
                all.push(ended.unwrap().unwrap());
            }
            all
        });
        assert_eq!(heard.len(), count);
        assert!(heard.iter().all(|times| times.len() == revocations));
        let since = |begun: &[Instant]| {
            let pairs = heard.iter().flat_map(|times| times.iter().zip(begun));
            Times::new(pairs.map(|(heard, begun)| heard.saturating_duration_since(*begun)).collect())
        };
        let last = |number: usize| {
            let last = heard.iter().map(|times| times[number]).max();
            last.map_or(Duration::ZERO, |last| last.saturating_duration_since(answered[number]))
        };
        Figures {
            lasts: Times::new((0..revocations).map(last).collect()),
            link: self.link,
            watchers: count,
            revocations,
            from_answer: since(&answered),
            from_request: since(&asked),
            before,
            waiting,
            peak,
            cpu_each: spent.as_secs_f64() / (revocations * count) as f64,
            idle_cpu: (!idle.is_zero()).then_some(idle_cpu),
        }
    }

    fn watch(&self, count: usize, told: &Arc<Told>) -> Watchers {
        let connector = (self.link == Link::MutualTls).then(|| connector(&self.dir));
        let port = if connector.is_some() { self.ports.registry.number() } else { self.plain.number() };
        let connecting = Arc::new(Semaphore::new(CONNECTING));
        let mut following = JoinSet::new();
        for number in 0..count {
            // Random, as those of workers are.
            let mut name = [0; 16];
            getrandom::fill(&mut name).unwrap();
            let name = B64.encode(name);
            let (connector, connecting, told) =
                (connector.clone(), Arc::clone(&connecting), Arc::clone(told));
            let follower = async move {
                let failed = |error: std::io::Error| format!("connection {number}: {error}");
                let place = connecting.acquire().await.map_err(|error| error.to_string())?;
                let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
                tcp.set_nodelay(true).map_err(failed)?;
                match connector {
                    None => {
                        drop(place);
                        follow(tcp, name, told).await
                    }
                    Some(connector) => {
                        let server = ServerName::try_from("membrane-registry").unwrap();
                        let tls = connector.connect(server, tcp).await.map_err(failed)?;
                        drop(place);
                        follow(tls, name, told).await
                    }
                }
            };
            let bounded = async move {
                tokio::time::timeout(FOLLOW_WITHIN, follower).await.unwrap_or_else(|_| Err("too long".into()))
            };
            following.spawn_on(bounded, self.runtime.handle());
        }
        Watchers { following, ended: Vec::new() }
    }

    fn until_all_wait(&self, watchers: &mut Watchers, count: usize) {
        let metrics = Client::plain(self.ports.metrics.number());
        let all = format!("membrane_registry_feed_waiting {count}");
        self.until(BEGIN_WITHIN, watchers, "all wait", || {
            let answer = metrics.request("GET", "/metrics").send().unwrap();
            answer.text().lines().any(|line| line == all)
        });
    }

    /// Waits for something; a watcher that broke is told of at once.
    fn until(&self, within: Duration, watchers: &mut Watchers, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            if begun.elapsed() > within {
                panic!("not within {within:?}: {what}; the log: {}", self.registry.log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(2));
            while let Some(ended) = watchers.following.try_join_next() {
                match ended.unwrap() {
                    Ok(heard) => watchers.ended.push(heard),
                    Err(broken) => {
                        panic!("a watcher broke: {broken}; the log: {}", self.registry.log_tail(20))
                    }
                }
            }
        }
    }

    /// What all threads of the registry have spent so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.registry.id())).unwrap();
        // proc_pid_stat(5): after the name, which is in parentheses, utime and stime are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

fn connector(dir: &Path) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_file(dir.join("tls/gateway-client.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("tls/gateway-client-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// Each watcher is a connection of this process.
fn allow_open_files(watchers: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Other tests of this process need some as well.
    let needed = watchers as u64 + 512;
    assert!(
        files >= needed,
        "{needed} files must be open and {files} may: raise the hard limit (ulimit -Hn)"
    );
}
