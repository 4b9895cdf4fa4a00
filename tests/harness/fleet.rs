//! Two Envoys on one registry: the gateway's own, and another with ports of its own on the same run folder, and so with the
//! same certificates. Each has a link to the registry that can be slowed down or cut. Upstream stands something that answers and
//! keeps nothing, so that it can be loaded for long.

use crate::envoy::{self, Upstreams};
use crate::failure::{Failure, Outcome, While};
use crate::gateway::{Gateway, Options};
use crate::http::Client;
use crate::ports::{Port, Ports};
use crate::prepare;
use crate::process::Process;
use crate::slow_proxy::SlowProxy;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A change to an Envoy configuration.
type Change<'a> = &'a dyn Fn(String) -> Outcome<String>;

pub struct Fleet {
    pub second: SecondEnvoy,
    pub gateway: Gateway,
    _sink: Sink,
}

pub struct SecondEnvoy {
    process: Process,
    pub client: Client,
    pub link: SlowProxy,
    admin: Port,
    config: PathBuf,
    logs: PathBuf,
    options: envoy::Options,
    _ports: [Port; 2],
}

impl Fleet {
    /// Both Envoys with the filter settings `settings` (JSON members, as `"staleness": "1s"`) in place of the defaults.
    pub fn start(dir: PathBuf, workers: u32, settings: &str) -> Outcome<Self> {
        let sink = Sink::start()?;
        let change = |config: String| with_settings(with_upstream(config, sink.port.number())?, settings);
        let options =
            Options { dir, ports: Ports::free()?, workers: Some(workers), trace: false, observed: true };
        let gateway = Gateway::start_with(options, change)?;
        let second = SecondEnvoy::start(&gateway, workers, &change)?;
        Ok(Self { second, gateway, _sink: sink })
    }

    /// To the gateway's own Envoy, and to the other.
    pub fn clients(&self) -> [Client; 2] {
        [self.gateway.client.clone(), self.second.client.clone()]
    }

    /// The links of both Envoys to the registry's gateway listener.
    pub fn links(&self) -> [&SlowProxy; 2] {
        [self.gateway.registry_link(), &self.second.link]
    }

    pub fn check_alive(&mut self) -> Outcome<()> {
        if let Some(status) = self.second.process.exited() {
            let failure = Failure::new(format!("the second Envoy ended ({status})"));
            return Err(failure.with_log(self.second.process.log()));
        }
        self.gateway.check_alive()
    }
}

impl SecondEnvoy {
    fn start(gateway: &Gateway, workers: u32, change: Change<'_>) -> Outcome<Self> {
        let [port, admin, link_port] = [Port::free()?, Port::free()?, Port::free()?];
        let link = SlowProxy::start(link_port.number(), gateway.ports.registry.number())?;
        let upstreams = Upstreams {
            listen: Ipv4Addr::LOCALHOST,
            gateway: port.number(),
            admin: admin.number(),
            control: gateway.ports.control.number(),
            registry: link_port.number(),
            second: None,
            aws: gateway.ports.aws.number(),
        };
        let logs = gateway.logs().join("second");
        std::fs::create_dir_all(&logs).while_(|| format!("making {}", logs.display()))?;
        let text = change(envoy::render(&gateway.dir, &crate::module()?, &upstreams)?)?;
        let own_logs = text.replace("/logs/access.log", "/logs/second/access.log");
        let config = gateway.dir.join("second.yaml");
        prepare::write_private(&config, &own_logs)?;
        let client = Client::tls(port.number(), &gateway.dir.join("ca.pem"))?;
        let options = envoy::Options { workers: Some(workers), trace: false };
        let process = envoy::start_with_filter(&config, &logs, admin.number(), &options, &client)?;
        Ok(Self { process, client, link, admin, config, logs, options, _ports: [port, link_port] })
    }

    /// Ends it at once, as a crash would, and starts it again.
    pub fn restart(&mut self) -> Outcome<()> {
        self.process.kill();
        let admin = self.admin.number();
        self.process =
            envoy::start_with_filter(&self.config, &self.logs, admin, &self.options, &self.client)?;
        Ok(())
    }
}

/// envoy/local.yaml rendered, with these members in the filter's configuration too; `registry` among them replaces its own.
pub fn with_settings(config: String, settings: &str) -> Outcome<String> {
    const REGISTRY: &str = r#""registry": { "cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "2s" }"#;
    match config.split_once(REGISTRY) {
        Some((before, after)) if settings.contains("\"registry\"") => Ok([before, settings, after].concat()),
        Some((before, after)) => Ok([before, REGISTRY, ", ", settings, after].concat()),
        None => {
            Err(Failure::new("envoy/local.yaml no longer has the filter's configuration of the registry"))
        }
    }
}

/// The same, with the cluster of AWS at that port of loopback.
pub fn with_upstream(config: String, port: u16) -> Outcome<String> {
    let changed = || {
        let (before, cluster) = config.split_once("  - name: local_aws\n")?;
        let (head, rest) = cluster.split_once("port_value: ")?;
        let (_, rest) = rest.split_once(' ')?;
        Some(format!("{before}  - name: local_aws\n{head}port_value: {port} {rest}"))
    };
    changed().ok_or_else(|| Failure::new("envoy/local.yaml no longer has a cluster local_aws"))
}

/// Answers every request that has no body with 200, and keeps nothing.
pub(crate) struct Sink {
    pub(crate) port: Port,
    ending: Arc<AtomicBool>,
}

impl Sink {
    pub(crate) fn start() -> Outcome<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .while_(|| format!("listening on {}", port.number()))?;
        let ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ending);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that Envoy gives up ends its thread.
                std::thread::spawn(move || answer(stream));
            }
        });
        Ok(Self { port, ending })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees that it should end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

fn answer(mut stream: TcpStream) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut unread: Vec<u8> = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        unread.extend_from_slice(&buffer[..read]);
        while let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            unread.drain(..end + 4);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
    }
}
