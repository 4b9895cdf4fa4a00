//! The adapter: Envoy's callbacks in, [`Worker`]'s wishes out. With `abi.rs` the only file that knows proxy-wasm.
//!
//! Only the callbacks that are needed are exported: Envoy calls every one that it finds, and each costs.

use crate::abi::{self, LogLevel};
use crate::abi_numbers::{
    BUFFER_CALL_RESPONSE_BODY, BUFFER_PLUGIN_CONFIGURATION, BUFFER_REQUEST_BODY, MAP_CALL_RESPONSE_HEADERS,
    MAP_REQUEST_HEADERS, MAP_REQUEST_TRAILERS, STREAM_REQUEST,
};
use crate::config::Config;
use crate::envoy_version::EnvoyVersion;
use crate::feed::Now;
use crate::lookup::MAX_ANSWER;
use crate::noted::Note;
use crate::outgoing::Outgoing;
use crate::pairs::{self, Edit, Edits, Pairs};
use crate::records::Records;
use crate::reply::Reply;
use crate::stats::{CACHE_ENTRIES, Counter, FEED_AGE, LOOKUP_TIME};
use crate::worker::{Again, CallId, ContextId, Host, TICK, Worker};
use core::cell::{Cell, RefCell};
use core::ops::Range;
use core::time::Duration;
use hashbrown::HashMap;
use std::hash::RandomState;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};
use zeroize::Zeroizing;

/// One VM: a root context for each configuration of the filter that uses it, and the requests of each.
///
/// Nearly always there is one, so that its requests need no note of whose they are: a request is the first root's unless
/// `strangers` says otherwise.
struct Vm {
    workers: Vec<(u32, Worker)>,
    /// The first that ever was. It stays the first when it is gone, and no number is given again: no request can come to another's.
    first: Option<u32>,
    strangers: HashMap<ContextId, u32, RandomState>,
}

impl Vm {
    fn root_of(&self, context: ContextId) -> Option<u32> {
        if self.strangers.is_empty() {
            self.first
        } else {
            self.strangers.get(&context).copied().or(self.first)
        }
    }

    fn worker(&mut self, root: u32) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|(other, _)| *other == root).map(|(_, worker)| worker)
    }

    fn take_worker(&mut self, root: u32) -> Option<Worker> {
        let place = self.workers.iter().position(|(other, _)| *other == root)?;
        Some(self.workers.swap_remove(place).1)
    }
}

thread_local! {
    static VM: RefCell<Vm> = RefCell::new(Vm {
        workers: Vec::new(),
        first: None,
        strangers: HashMap::with_hasher(RandomState::new()),
    });
}

/// Runs `act` on a context's worker. Envoy never calls us within a call of ours, so the borrow cannot fail; if it did, nothing
/// would be done, and what is held stays held.
fn with_worker<T>(
    root: impl FnOnce(&Vm) -> Option<u32>,
    act: impl FnOnce(&mut Worker, u32) -> T,
) -> Option<T> {
    VM.with(|vm| {
        let mut vm = vm.try_borrow_mut().ok()?;
        let root = root(&vm)?;
        vm.worker(root).map(|worker| act(worker, root))
    })
}

fn of_request<T>(context: ContextId, act: impl FnOnce(&mut Worker, &mut Envoy) -> T) -> Option<T> {
    with_worker(|vm| vm.root_of(context), |worker, root| act(worker, &mut Envoy::in_callback(root, context)))
}

fn of_root<T>(root: u32, act: impl FnOnce(&mut Worker, &mut Envoy) -> T) -> Option<T> {
    with_worker(|_| Some(root), |worker, root| act(worker, &mut Envoy::in_callback(root, root)))
}

/// The real host, during one callback.
struct Envoy {
    root: u32,
    effective: u32,
    /// The time, once it was asked for: a callback takes no time that matters, and to read a clock is a call of the host.
    now: Cell<Option<Now>>,
}

impl Envoy {
    fn in_callback(root: u32, context: u32) -> Envoy {
        Envoy { root, effective: context, now: Cell::new(None) }
    }

    /// Makes the following calls act on `context`; `false` if the host has none of that number, whereupon nothing must be done:
    /// it would be done to another.
    fn act_on(&mut self, context: u32) -> bool {
        if self.effective != context && abi::set_effective_context(context) {
            self.effective = context;
        }
        self.effective == context
    }
}

/// The ids of our metrics, which are Envoy's and the same for all.
struct Metrics {
    counters: Vec<Option<u32>>,
    cache_entries: Option<u32>,
    feed_age: Option<u32>,
    lookup_time: Option<u32>,
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics {
        counters: Counter::ALL.iter().map(|(_, name)| abi::define_counter(name)).collect(),
        cache_entries: abi::define_gauge(CACHE_ENTRIES),
        feed_age: abi::define_gauge(FEED_AGE),
        lookup_time: abi::define_histogram(LOOKUP_TIME),
    })
}

/// A lookup whose replica died is asked of another one; of two that are up and down, four in a row rarely meet the one that is
/// down, and Envoy soon leaves that one alone. Not after 503: who is busy gets no more to do.
const RETRY_ON: &str = "connect-failure,refused-stream,reset";
const MAX_RETRIES: &str = "3";
/// How long the wall clock is reckoned from the monotonic one before it is read again: a tick reads it too, so that it is
/// mostly read there.
const WALL_CLOCK_GOOD_FOR: Duration = Duration::from_millis(500);

// The adapter is where the clock is read; everything else takes the time as a parameter.
#[allow(clippy::disallowed_methods)]
fn read_clocks(both: bool) -> Now {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    thread_local! {
        static LAST: Cell<Option<Now>> = const { Cell::new(None) };
    }
    let began = *BEGAN.get_or_init(Instant::now);
    // An hour ahead, so that early times can be reckoned back from.
    let monotonic = began.elapsed() + Duration::from_secs(3_600);
    if let Some(last) = LAST.get().filter(|_| !both) {
        let since = monotonic.saturating_sub(last.monotonic);
        if since < WALL_CLOCK_GOOD_FOR {
            return Now { wall: last.wall + since, monotonic };
        }
    }
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Now { wall, monotonic };
    LAST.set(Some(now));
    now
}

impl Host for Envoy {
    fn now(&self) -> Now {
        let now = self.now.get().unwrap_or_else(|| read_clocks(false));
        self.now.set(Some(now));
        now
    }

    fn request_headers(&mut self, context: ContextId) -> Option<Pairs> {
        if !self.act_on(context) {
            return None;
        }
        Pairs::parse(abi::header_map(MAP_REQUEST_HEADERS)?)
    }

    fn set_request_headers(&mut self, context: ContextId, before: &Pairs, outgoing: &Outgoing<'_>) -> bool {
        if !self.act_on(context) {
            return false;
        }
        if let Some(edits) = Edits::between(before, outgoing.iter()) {
            return edits.iter(outgoing.iter()).all(|edit| match edit {
                Edit::Set(name, value) => abi::replace_header(MAP_REQUEST_HEADERS, name, value),
                Edit::Remove(name) => abi::remove_header(MAP_REQUEST_HEADERS, name),
            });
        }
        match pairs::encode(outgoing.iter()) {
            Ok(bytes) => abi::set_header_map(MAP_REQUEST_HEADERS, &bytes),
            Err(pairs::TooLarge) => false,
        }
    }

    fn remove_request_header(&mut self, context: ContextId, name: &[u8]) {
        if self.act_on(context) {
            abi::remove_header(MAP_REQUEST_HEADERS, name);
        }
    }

    fn clear_request_trailers(&mut self, context: ContextId) {
        if !self.act_on(context) {
            return;
        }
        if let Ok(none) = pairs::encode(core::iter::empty()) {
            abi::set_header_map(MAP_REQUEST_TRAILERS, &none);
        }
    }

    fn request_body(&mut self, context: ContextId, range: Range<usize>) -> Option<Vec<u8>> {
        if !self.act_on(context) {
            return None;
        }
        abi::buffer(BUFFER_REQUEST_BODY, range.start, range.len())
    }

    fn replace_request_body(&mut self, context: ContextId, length: usize, with: &[u8]) -> bool {
        self.act_on(context) && abi::set_buffer(BUFFER_REQUEST_BODY, 0, length, with)
    }

    fn reply(&mut self, context: ContextId, reply: &Reply) {
        if !self.act_on(context) {
            return;
        }
        if let Ok(headers) =
            pairs::encode(reply.headers().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
        {
            abi::send_local_response(reply.status, &headers, reply.body().as_bytes());
        }
    }

    fn source(&mut self, context: ContextId) -> Option<Vec<u8>> {
        if !self.act_on(context) {
            return None;
        }
        abi::property("source\0address")
    }

    fn resume(&mut self, context: ContextId) {
        if self.act_on(context) {
            abi::continue_stream(STREAM_REQUEST);
        }
    }

    fn get(
        &mut self,
        cluster: &str,
        authority: &str,
        path: &str,
        timeout: Duration,
        again: Again,
    ) -> Option<CallId> {
        // A call belongs to the context that makes it and dies with it; the worker's must outlive the request that asked first.
        if !self.act_on(self.root) {
            return None;
        }
        let headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", authority),
            (":path", path),
            ("accept", "application/json"),
        ];
        // A callout follows no route that could have a retry policy. Envoy's router obeys these all the same, and takes them off.
        let retry: &[(&str, &str)] = match again {
            Again::Yes => &[("x-envoy-retry-on", RETRY_ON), ("x-envoy-max-retries", MAX_RETRIES)],
            Again::No => &[],
        };
        let headers = pairs::encode(
            headers.iter().chain(retry).map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )
        .ok()?;
        abi::http_call(cluster, &headers, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))
    }

    fn shared(&mut self, key: &str) -> Option<Vec<u8>> {
        abi::shared_data(key)
    }

    fn set_shared(&mut self, key: &str, value: &[u8]) {
        abi::set_shared_data(key, value);
    }

    fn note(&mut self, context: ContextId, note: Note, value: &str) {
        if self.act_on(context) {
            abi::set_property(note.name(), value.as_bytes());
        }
    }

    fn count(&mut self, counter: Counter, by: u32) {
        if let Some(Some(id)) = metrics().counters.get(counter as usize) {
            abi::increment(*id, by);
        }
    }

    fn gauges(&mut self, cache_entries: u64, feed_age_seconds: u64) {
        let metrics = metrics();
        if let Some(id) = metrics.cache_entries {
            abi::record(id, cache_entries);
        }
        if let Some(id) = metrics.feed_age {
            abi::record(id, feed_age_seconds);
        }
    }

    fn lookup_took(&mut self, time: Duration) {
        if let Some(id) = metrics().lookup_time {
            abi::record(id, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
    }

    fn warn(&mut self, message: &str) {
        abi::log(LogLevel::Warn, message);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Called once a VM, before everything else.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the host calls `_initialize` once, and the constructors must run once.
    unsafe { __wasm_call_ctors() };
    std::panic::set_hook(Box::new(|panic| {
        // Where, but not what: a message could hold data.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        abi::log(LogLevel::Critical, &format!("the membrane filter panicked at {place}: please report it"));
    }));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, root: u32) {
    if root != 0 {
        VM.with(|vm| {
            if let Ok(mut vm) = vm.try_borrow_mut() {
                let first = *vm.first.get_or_insert(root);
                if root != first {
                    vm.strangers.insert(context, root);
                }
            }
        });
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _configuration_length: usize) -> u32 {
    1
}

/// Deterministic and without effects beyond this VM: it runs in a canary on the main thread too, and a worker that fails it
/// spoils later pushes of the configuration.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, length: usize) -> u32 {
    let json = if length == 0 {
        Vec::new()
    } else {
        abi::buffer(BUFFER_PLUGIN_CONFIGURATION, 0, length).unwrap_or_default()
    };
    let version = envoy_version();
    let new_enough = version.map_or(Ok(()), EnvoyVersion::check).map_err(|error| error.to_string());
    let configured = new_enough.and_then(|()| {
        let mut config = Config::parse(&json).map_err(|error| error.to_string())?;
        // What Envoy's `host_env_keys` names, and nothing else, is in the VM's environment.
        let keys = std::env::var_os(&config.kek_env).map(|keys| Zeroizing::new(keys.into_encoded_bytes()));
        let keys = keys.as_ref().map(|keys| keys.as_slice());
        let records = Records::take(&mut config, keys).map_err(|error| error.to_string())?;
        Ok((config, records))
    });
    let (config, records) = match configured {
        Ok(configured) => configured,
        Err(error) => {
            abi::log(LogLevel::Critical, &error);
            return 0;
        }
    };
    let mut watcher = [0u8; 16];
    if getrandom::fill(&mut watcher).is_err() {
        abi::log(LogLevel::Critical, "the membrane filter: the host gave no random bytes");
        return 0;
    }
    abi::set_tick(u32::try_from(TICK.as_millis()).unwrap_or(100));
    VM.with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => {
            let worker = match vm.take_worker(root) {
                Some(worker) => {
                    worker.reconfigured(&mut Envoy::in_callback(root, root), config, records, watcher)
                }
                None => Worker::new(config, records, watcher),
            };
            vm.workers.push((root, worker));
            let version = version
                .map_or_else(|| "an Envoy that does not say its version".to_owned(), |v| v.to_string());
            let ours = env!("CARGO_PKG_VERSION");
            abi::log(LogLevel::Info, &format!("the membrane filter {ours} is configured, in {version}"));
            1
        }
        Err(_) => 0,
    })
}

/// Envoy's version from the node's build version (`envoy.config.core.v3.BuildVersion`), where it says one. At configuration the
/// node is an attribute of `xds`; the older attribute `node` is there for requests alone.
fn envoy_version() -> Option<EnvoyVersion> {
    let number = |part: &str| abi::property(&format!("xds\0node\0user_agent_build_version\0version\0{part}"));
    EnvoyVersion::parse(&number("major_number")?, &number("minor_number")?)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    let now = read_clocks(true);
    of_root(root, |worker, envoy| {
        envoy.now.set(Some(now));
        worker.on_tick(envoy);
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _count: u32, ended: u32) -> u32 {
    match of_request(context, |worker, envoy| worker.on_request_headers(envoy, context, ended != 0) as u32) {
        Some(status) => status,
        None => refuse_unconfigured(),
    }
}

/// A request without a worker: never forwarded.
fn refuse_unconfigured() -> u32 {
    let reply = Reply::misconfigured("the membrane filter is not configured");
    abi::send_local_response(reply.status, &0u32.to_le_bytes(), reply.body().as_bytes());
    crate::abi_numbers::HeadersStatus::Stop as u32
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, ended: u32) -> u32 {
    let status =
        of_request(context, |worker, envoy| worker.on_request_body(envoy, context, size, ended != 0) as u32);
    status.unwrap_or(crate::abi_numbers::DataStatus::StopNoBuffer as u32)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, _count: u32) -> u32 {
    let status = of_request(context, |worker, envoy| worker.on_request_trailers(envoy, context) as u32);
    status.unwrap_or(crate::abi_numbers::TrailersStatus::Stop as u32)
}

/// Answers are looked at by the module for diagnosing alone: Envoy calls what it finds exported, for every request.
#[cfg(feature = "diagnose")]
mod answers {
    use super::{Pairs, abi, of_request};
    use crate::abi_numbers::{BUFFER_RESPONSE_BODY, MAP_RESPONSE_HEADERS};

    /// Go on, in headers and bodies alike.
    const CONTINUE: u32 = 0;

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_response_headers(context: u32, _count: u32, ended: u32) -> u32 {
        let status = abi::header_map(MAP_RESPONSE_HEADERS)
            .and_then(Pairs::parse)
            .and_then(|pairs| core::str::from_utf8(pairs.only(b":status")?).ok()?.parse().ok());
        of_request(context, |worker, _| worker.on_response_headers(context, status, ended != 0));
        CONTINUE
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_response_body(context: u32, size: usize, ended: u32) -> u32 {
        of_request(context, |worker, envoy| {
            // Nothing is held, so that each callback has what is new alone.
            let wanted = worker.wants_of_response(context).min(size);
            let more = match wanted {
                0 => Vec::new(),
                _ => abi::buffer(BUFFER_RESPONSE_BODY, 0, wanted).unwrap_or_default(),
            };
            worker.on_response_body(envoy, context, &more, ended != 0);
        });
        CONTINUE
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    call: u32,
    headers: u32,
    body_length: usize,
    _trailers: u32,
) {
    // A failed call has no headers at all.
    let status = (headers > 0)
        .then(|| Pairs::parse(abi::header_map(MAP_CALL_RESPONSE_HEADERS)?))
        .flatten()
        .and_then(|pairs| core::str::from_utf8(pairs.only(b":status")?).ok()?.parse::<u16>().ok());
    let body = match body_length {
        // One byte more than is ever an answer, so that a longer one is seen to be too long.
        1.. => abi::buffer(BUFFER_CALL_RESPONSE_BODY, 0, body_length.min(MAX_ANSWER + 1)).unwrap_or_default(),
        0 => Vec::new(),
    };
    of_root(root, |worker, envoy| worker.on_answer(envoy, call, status, &body));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    of_request(context, |worker, _| worker.on_delete(context));
    VM.with(|vm| {
        if let Ok(mut vm) = vm.try_borrow_mut() {
            if !vm.strangers.is_empty() {
                vm.strangers.remove(&context);
            }
            vm.take_worker(context);
        }
    });
}
