//! The listeners on the network: bounded, TLS in front of two of them, drained at the end.

use crate::feed::Feed;
use crate::fleet::{Fleet, MAX_WATCHERS};
use crate::health::Health;
use crate::home::{Home, HomeError, Leaf};
use crate::lookups::Lookups;
use crate::metrics::{Metrics, count};
use crate::registry::Registry;
use crate::store::StoreError;
use crate::tls::{Clients, Tls, TlsError, TlsFiles};
use crate::workers::Workers;
use crate::{control, gateway, health, upkeep};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// Most connections of one listener where nothing else is said. A gateway holds a few; the feed is meant to have thousands of readers.
pub const MAX_CONNECTIONS: usize = 16_384;
/// How many files a server may need beside the connections of one listener: the store's, the other listeners' connections.
pub const OTHER_FILES: u64 = 512;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request's headers may take, and how long an HTTP/1.1 connection may be idle: longer than the idle timeout (60 s) of our
/// Envoy configurations, so that it is Envoy who closes and no request meets a closing connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Most bytes of a request's head. A bearer and a query with an id of 512 characters (percent-encoded, at most 6 KiB) fit.
const MAX_HEAD: usize = 16_384;
/// Most header fields.
const MAX_HEADERS: usize = 64;
/// Most requests at once on one HTTP/2 connection; a gateway with many workers asks the feed once for each.
const MAX_STREAMS: u32 = 256;
/// An HTTP/2 peer that does not answer a ping for this long is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long requests may take to finish once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed, as when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener's address cannot be had.
    #[error("{name} listener on {address}: {source}")]
    Bind {
        /// Which listener.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

impl Loopback {
    /// The address itself.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

/// Why an address is none that a listener in the clear may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLoopback {
    /// Not an address at all.
    #[error("must be an address and a port, as 127.0.0.1:9447")]
    Malformed,
    /// Others reach it.
    #[error(
        "{0} is not a loopback address, and whoever reaches this listener is let in: use 127.0.0.1 or [::1], \
         with whatever does the TLS on this machine, or --gateway, which does it itself"
    )]
    Reached(IpAddr),
}

impl FromStr for Loopback {
    type Err = NotLoopback;

    fn from_str(text: &str) -> Result<Loopback, NotLoopback> {
        let address: SocketAddr = text.parse().map_err(|_| NotLoopback::Malformed)?;
        if address.ip().to_canonical().is_loopback() {
            Ok(Loopback(address))
        } else {
            Err(NotLoopback::Reached(address.ip()))
        }
    }
}

/// How much a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most connections of each listener.
    pub connections: usize,
    /// Most workers of gateways that follow the feed.
    pub watchers: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: MAX_CONNECTIONS, watchers: MAX_WATCHERS }
    }
}

/// Where the listeners stand.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The Membrane API.
    pub control: SocketAddr,
    /// Lookups and the feed.
    pub gateway: SocketAddr,
    /// The same in the clear, if at all.
    pub gateway_plain: Option<Loopback>,
    /// Health and metrics.
    pub metrics: SocketAddr,
}

/// A server whose listeners are bound.
pub struct Server {
    /// Where they are: with the ports that were given for port 0.
    pub addresses: Addresses,
    listeners: Vec<Listening>,
    connections: usize,
    feed: Feed,
    draining: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    metrics: Arc<Metrics>,
}

struct Listening {
    name: &'static str,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
}

impl Server {
    /// Reads the certificates, binds the listeners and begins to follow store and files. Nothing is answered before
    /// [`Server::run`].
    pub async fn bind(
        home: &Home,
        registry: Registry,
        gateway_sans: Vec<String>,
        addresses: Addresses,
        bounds: Bounds,
    ) -> Result<Server, ServeError> {
        let own = |clients| TlsFiles {
            certificate: home.certificate(Leaf::Control),
            key: home.key(Leaf::Control),
            clients,
        };
        let control_tls = Arc::new(Tls::load(own(None))?);
        let gateway_tls = Arc::new(Tls::load(own(Some(Clients { ca: home.ca(), sans: gateway_sans })))?);
        let (control_listener, control_address) = bind("control", addresses.control).await?;
        let (gateway_listener, gateway_address) = bind("gateway", addresses.gateway).await?;
        let (metrics_listener, metrics_address) = bind("metrics", addresses.metrics).await?;
        let plain = match addresses.gateway_plain {
            Some(Loopback(address)) => Some(bind("plain gateway", address).await?),
            None => None,
        };
        let addresses = Addresses {
            control: control_address,
            gateway: gateway_address,
            gateway_plain: plain.as_ref().map(|(_, address)| Loopback(*address)),
            metrics: metrics_address,
        };

        let (registry, metrics) = (Arc::new(registry), Arc::<Metrics>::default());
        // Writers wait for each other, and listings are long: neither may keep gateways from their lookups and the feed.
        let (workers, for_control) = (Arc::<Workers>::default(), Arc::<Workers>::default());
        let store = Arc::clone(&registry.store);
        let feed = Feed::start(Arc::clone(&store), Arc::clone(&workers), Arc::clone(&metrics))?;
        let clock = Arc::clone(&registry.clock);
        let fleet =
            Fleet::start_with(Arc::clone(&store), Arc::clone(&workers), Arc::clone(&clock), bounds.watchers)?;
        let draining = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&control_tls).follow());
        tasks.spawn(Arc::clone(&gateway_tls).follow());
        tasks.spawn(upkeep::run(Arc::clone(&store), Arc::clone(&for_control), clock, Arc::clone(&metrics)));

        let health = Health {
            store,
            registry: Arc::clone(&registry),
            workers: Arc::clone(&workers),
            metrics: Arc::clone(&metrics),
            draining: Arc::clone(&draining),
        };
        let control = control::Control {
            registry: Arc::clone(&registry),
            workers: for_control,
            feed: feed.clone(),
            fleet: fleet.clone(),
            metrics: Arc::clone(&metrics),
        };
        let metrics_too = Arc::clone(&metrics);
        let lookups = Lookups::start(&registry.store, &workers);
        let gateway = gateway::Gateway { registry, lookups, feed: feed.clone(), fleet, metrics: metrics_too };
        let (control, gateway) = (control::router(control), gateway::router(gateway));
        let listening = |name, listener, tls, router| Listening { name, listener, tls, router };
        let mut listeners = vec![
            listening("control", control_listener, Some(control_tls), control),
            listening("gateway", gateway_listener, Some(gateway_tls), gateway.clone()),
            listening("metrics", metrics_listener, None, health::router(health)),
        ];
        listeners.extend(plain.map(|(listener, _)| listening("plain gateway", listener, None, gateway)));
        Ok(Server { addresses, listeners, connections: bounds.connections, feed, draining, tasks, metrics })
    }

    /// Answers until `stop`, then finishes what it has begun.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Server { listeners, connections, feed, draining, mut tasks, metrics, .. } = self;
        let closing = watch::Sender::new(false);
        // Every connection holds a sender; nothing is sent, and all gone means all finished.
        let (open, mut all_finished) = mpsc::channel::<()>(1);
        for Listening { name, listener, tls, router } in listeners {
            let permits = Arc::new(Semaphore::new(connections));
            let ends = Ends { closing: closing.subscribe(), _open: open.clone() };
            let door = Door { name, tls, router, ends, permits, metrics: Arc::clone(&metrics) };
            tasks.spawn(door.accept(listener));
        }
        drop(open);
        stop.await;
        tracing::info!("stopping");
        draining.store(true, Ordering::Release);
        // No new connections; held questions are answered now.
        tasks.shutdown().await;
        feed.drain();
        closing.send_replace(true);
        if tokio::time::timeout(DRAIN_TIMEOUT, all_finished.recv()).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
    }
}

/// The listener, and where it stands: with the port that was given for port 0.
async fn bind(name: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { name, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// How a connection learns that it shall end, and tells that it has.
#[derive(Clone)]
struct Ends {
    closing: watch::Receiver<bool>,
    _open: mpsc::Sender<()>,
}

/// One listener's way in.
struct Door {
    name: &'static str,
    tls: Option<Arc<Tls>>,
    router: Router,
    ends: Ends,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let listener_name = self.name;
        // Each is said once until it is over: whoever floods a listener must not flood the log.
        let (mut failing, mut full) = (false, false);
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(listener = listener_name, %error, "connections cannot be taken; if too many files are open, \
                            raise the hard limit: LimitNOFILE= of systemd, ulimit -Hn, --ulimit nofile= of a container");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                count(&self.metrics.connections_refused);
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(
                        listener = listener_name,
                        "a connection is refused, there are as many as may be: --max-connections"
                    );
                }
                continue;
            };
            full = false;
            // Answers are small and waited for.
            let _ = stream.set_nodelay(true);
            let tls = self.tls.as_ref().map(|tls| tls.config());
            let metrics = Arc::clone(&self.metrics);
            let (router, ends) = (self.router.clone(), self.ends.clone());
            tokio::spawn(async move {
                match tls {
                    None => converse(stream, peer, router, ends, permit).await,
                    Some(config) => {
                        let handshake = TlsAcceptor::from(config).accept(stream);
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                            Ok(Ok(stream)) => converse(stream, peer, router, ends, permit).await,
                            Ok(Err(error)) => refused(&metrics, &error),
                            Err(_) => refused(&metrics, &io::ErrorKind::TimedOut.into()),
                        }
                    }
                }
            });
        }
    }
}

fn refused(metrics: &Metrics, error: &io::Error) {
    count(&metrics.handshakes_failed);
    tracing::debug!(%error, "a handshake failed");
}

/// A stream that says which protocol was agreed on.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn is_http2(&self) -> bool;
}

impl Stream for TcpStream {
    fn is_http2(&self) -> bool {
        false
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn is_http2(&self) -> bool {
        self.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

async fn converse(
    stream: impl Stream,
    peer: SocketAddr,
    router: Router,
    mut ends: Ends,
    permit: OwnedSemaphorePermit,
) {
    // By what was agreed on, and not by the first bytes: waiting for those has no timeout.
    let mut builder = Builder::new(TokioExecutor::new());
    builder = if stream.is_http2() { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS);
    let router = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(control::Peer(peer));
        request
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A client that went away or broke the protocol has been told, if it could be.
    let Ends { closing, _open } = &mut ends;
    let closed = async { closing.wait_for(|closing| *closing).await.is_ok() };
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = closed => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(permit);
}
