//! Everything that runs beside each other while it is measured.

use crate::calls;
use crate::capabilities::{self, Capabilities};
use crate::envoys::{self, Envoy, SINK_HOST, Setup};
use crate::upload::Sink;
use harness::layout;
use harness::ports::Ports;
use harness::prepare::{self, Prepared};
use harness::process::Process;
use harness::{Outcome, registry};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What lasts for the whole run, and what every Envoy under measurement is started with.
pub(crate) struct Rig {
    _upstream: Envoy,
    _sink: Sink,
    _registry: Process,
    _ports: Ports,
    setups: Setups,
    /// Beside the filter: modules that do one thing, and other builds of it.
    pub(crate) others: Vec<Other>,
    pub(crate) capabilities: Capabilities,
    prepared: Prepared,
    _dir: Folder,
}

struct Setups {
    plain: Setup,
    native: Setup,
    native_unsigned: Setup,
    membrane: Setup,
}

pub(crate) struct Other {
    pub(crate) name: String,
    /// Of its own: another build of the filter has the filter's name, as a rule.
    folder: String,
    setup: Setup,
}

/// One start of all that is measured. Where code and memory come to lie differs from process to process, and with it what a request costs.
pub(crate) struct Envoys {
    pub(crate) plain: Envoy,
    pub(crate) native: Envoy,
    pub(crate) native_unsigned: Envoy,
    pub(crate) membrane: Envoy,
    /// In the order of [`Rig::others`].
    pub(crate) others: Vec<Envoy>,
}

/// A folder that goes with this value. In memory where that can be: making a hundred thousand records, each durable before the next is
/// begun, is not what is measured.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Outcome<Self> {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = root.join(format!("membrane-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is a folder in memory or among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    /// With so many capabilities of Lambda in the registry. `calls`: and with the modules of [`calls`].
    pub(crate) fn start(capabilities: usize, beside: &[PathBuf], calls: bool) -> Outcome<Self> {
        let folder = Folder::new()?;
        let ports = Ports::free()?;
        let prepared = prepare::folder(&folder.0, ports.gateway.number())?;
        let dir = prepared.dir.clone();
        let capabilities = capabilities::make(&layout::registry(&dir), &prepared.tenant, capabilities)?;
        let registry = registry::serve(&layout::registry(&dir), &layout::logs(&dir), &ports, false)?;
        let upstream = Envoy::start("upstream", &dir, &envoys::upstream(), 1)?;
        let sink = Sink::start()?;

        let setup = |filters, headers, registry| {
            let mut clusters =
                vec![envoys::cluster("upstream", upstream.port), envoys::cluster("sink", sink.port.number())];
            clusters.extend(registry);
            Setup { filters, routes: envoys::hosts(&headers, SINK_HOST), clusters }
        };
        let none = || json!([]);
        let ours = json!([{"name": "x-membrane-route", "string_match": {"exact": "https"}}]);
        let filter = |module: &Path, headers| {
            let cluster = envoys::registry_cluster(&dir, ports.registry.number());
            setup(vec![envoys::membrane(module)], headers, Some(cluster))
        };
        let mut others = Vec::new();
        let modules = if calls { calls::modules(&dir)? } else { Vec::new() };
        for (number, (name, module)) in modules.iter().enumerate() {
            // They choose no route, so that theirs ask for no header of ours.
            let (name, folder) = ((*name).to_owned(), format!("calls-{number}"));
            others.push(Other { name, folder, setup: filter(module, none()) });
        }
        for (number, module) in beside.iter().enumerate() {
            let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let folder = format!("beside-{number}");
            others.push(Other { name, folder, setup: filter(module, ours.clone()) });
        }
        let setups = Setups {
            plain: setup(Vec::new(), none(), None),
            native: setup(vec![envoys::native(false)], none(), None),
            native_unsigned: setup(vec![envoys::native(true)], none(), None),
            membrane: filter(&harness::module()?, ours.clone()),
        };
        Ok(Self {
            _upstream: upstream,
            _sink: sink,
            _registry: registry,
            _ports: ports,
            setups,
            others,
            capabilities,
            prepared,
            _dir: folder,
        })
    }

    /// Starts all that is measured. Those of the start before must be gone: they would take memory and time beside these.
    pub(crate) fn envoys(&self) -> Outcome<Envoys> {
        let start = |folder: &str, setup| Envoy::start(folder, &self.prepared.dir, setup, 1);
        Ok(Envoys {
            plain: start("plain", &self.setups.plain)?,
            native: start("native", &self.setups.native)?,
            native_unsigned: start("unsigned", &self.setups.native_unsigned)?,
            membrane: start("membrane", &self.setups.membrane)?,
            others: self
                .others
                .iter()
                .map(|other| start(&other.folder, &other.setup))
                .collect::<Outcome<_>>()?,
        })
    }

    /// Another Envoy with our filter, or with the native one, with so many workers.
    pub(crate) fn another(&self, membrane: bool, workers: u32) -> Outcome<Envoy> {
        let setup = if membrane { &self.setups.membrane } else { &self.setups.native };
        Envoy::start(&format!("another-{membrane}-{workers}"), &self.prepared.dir, setup, workers)
    }
}
