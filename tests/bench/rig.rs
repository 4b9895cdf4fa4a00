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

pub(crate) struct Rig {
    // The Envoys first, so that they end first.
    pub(crate) plain: Envoy,
    pub(crate) native: Envoy,
    pub(crate) native_unsigned: Envoy,
    pub(crate) membrane: Envoy,
    /// Other builds of the filter, by their files' names.
    pub(crate) beside: Vec<(String, Envoy)>,
    _upstream: Envoy,
    _registry: Process,
    _ports: Ports,
    setups: Setups,
    pub(crate) capabilities: Capabilities,
    _prepared: Prepared,
    _dir: Folder,
}

struct Setups {
    native: Setup,
    membrane: Setup,
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
        let plain = setup(Vec::new(), none(), None);
        let native = setup(vec![envoys::native(false)], none(), None);
        let unsigned = setup(vec![envoys::native(true)], none(), None);
        let ours = json!([{"name": "x-membrane-route", "string_match": {"exact": "https"}}]);
        let mut others = Vec::new();
        for (name, module) in if calls { calls::modules(&dir)? } else { Vec::new() } {
            // They choose no route, so that theirs ask for no header of ours.
            let cluster = envoys::registry_cluster(&dir, ports.registry.number());
            let setup = setup(vec![envoys::membrane(&module)], none(), Some(cluster));
            let file = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            others.push((name.to_owned(), Envoy::start(&file, &dir, &setup, 1)?));
        }
        for module in beside {
            let cluster = envoys::registry_cluster(&dir, ports.registry.number());
            let setup = setup(vec![envoys::membrane(module)], ours.clone(), Some(cluster));
            let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            others.push((name.clone(), Envoy::start(&name, &dir, &setup, 1)?));
        }
        let cluster = envoys::registry_cluster(&dir, ports.registry.number());
        let membrane = setup(vec![envoys::membrane(&harness::module()?)], ours, Some(cluster));
        Ok(Self {
            plain: Envoy::start("plain", &dir, &plain, 1)?,
            native: Envoy::start("native", &dir, &native, 1)?,
            native_unsigned: Envoy::start("unsigned", &dir, &unsigned, 1)?,
            membrane: Envoy::start("membrane", &dir, &membrane, 1)?,
            beside: others,
            _upstream: upstream,
            _registry: registry,
            _ports: ports,
            setups: Setups { native, membrane },
            capabilities,
            _prepared: prepared,
            _dir: folder,
        })
    }

    /// Another Envoy with our filter, or with the native one, with so many workers.
    pub(crate) fn another(&self, membrane: bool, workers: u32) -> Outcome<Envoy> {
        let setup = if membrane { &self.setups.membrane } else { &self.setups.native };
        Envoy::start(&format!("another-{membrane}-{workers}"), &self._prepared.dir, setup, workers)
    }
}
