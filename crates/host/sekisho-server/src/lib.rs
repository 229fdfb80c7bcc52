//! The management server: campaigns, the administrator's API, the device endpoint and the live page.
//!
//! A **campaign** updates a set of SEs to one package. Its P_SE is made once when the campaign is made; each SE's P_AUT is made when its device asks,
//! is durable before it leaves, and leaves only while the campaign runs. A canary cohort goes first; the rest follows when enough of it is proved
//! updated; too many failures pause the campaign ([`policy`]). Aborting stops authorisations, and without one the bulk that devices already have is inert.
//!
//! Two listeners: the **device endpoint** over TLS, and **administration** (API, page, health, metrics), by default on loopback.
//! The server holds no key: it asks the [`Hsm`].

#![forbid(unsafe_code)]

mod admin;
mod admin_paging;
mod app;
mod authority;
mod device;
mod device_status;
mod door;
pub mod metrics;
mod page;
pub mod paging;
pub mod policy;
mod problem;
mod ranges;
mod receipts;
mod tls;

pub use authority::{Authority, AuthorityError};
pub use device_status::SE_REFUSED;
pub use tls::{Certificate, TlsError};

use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use sekisho_hsm::Hsm;
use sekisho_link::Campaign;
use sekisho_store::{Store, StoreError};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tower_http::timeout::TimeoutLayer;

use app::App;
use metrics::Metrics;

/// A request that takes longer is answered with 408.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open requests may take once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the device endpoint listens; port 0 takes any.
    pub device_address: SocketAddr,
    /// Where administration listens; port 0 takes any.
    pub admin_address: SocketAddr,
    /// The database.
    pub database: PathBuf,
    /// The device endpoint's certificate and key.
    pub certificate: Certificate,
    /// The administrators' token; `None` makes one.
    pub admin_token: Option<String>,
    /// Key of the fleet's certification authority, PEM; `None` makes one that ends with the process.
    pub authority_key: Option<String>,
    /// The paging server in it; `None` runs without one.
    pub paging: Option<paging::PagingConfig>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store does not open.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The HSM fails its self-test.
    #[error("{0}")]
    Hsm(#[from] sekisho_hsm::HsmError),
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The certificate is not usable.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The paging server does not start.
    #[error("paging: {0}")]
    Paging(#[from] paging::PagingError),
    /// The authority's key is none.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// The administrators' token is too short to be a secret.
    #[error("the administrators' token has {0} characters; at least 32 are wanted")]
    AdminToken(usize),
}

/// A running server. Dropping it does not stop it; [`Server::stop`] does.
#[derive(Debug)]
pub struct Server {
    /// Where the device endpoint listens.
    pub device_address: SocketAddr,
    /// Where administration listens.
    pub admin_address: SocketAddr,
    /// What a device pins: the certificate of the device endpoint, PEM.
    pub certificate: String,
    /// The administrators' token.
    pub admin_token: String,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The paging server in it.
    pub paging: Option<Arc<paging::Paging>>,
    handles: [axum_server::Handle<SocketAddr>; 2],
    tasks: Vec<tokio::task::JoinHandle<std::io::Result<()>>>,
    looking: Option<tokio::task::JoinHandle<()>>,
    store: Store,
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen(address, error);
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// HTTP/1.1 alone. A connection whose next request has no whole head in time is closed, whatever it sends meanwhile.
fn http1<A>(
    mut server: axum_server::Server<SocketAddr, A>,
    handle: axum_server::Handle<SocketAddr>,
) -> axum_server::Server<SocketAddr, A> {
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT);
    server.http1_only().handle(handle)
}

impl Server {
    /// Starts a server on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]: nothing listens then.
    pub async fn start(config: Config, hsm: Arc<dyn Hsm>) -> Result<Self, StartError> {
        hsm.self_test()?;
        let store = Store::open(&config.database).await?;
        let admin_token = match config.admin_token {
            Some(token) => token,
            None => {
                let mut token = [0; 16];
                hsm.random(&mut token)?;
                hex::encode(token)
            }
        };
        // An empty token would let everybody in.
        if admin_token.len() < 32 {
            return Err(StartError::AdminToken(admin_token.len()));
        }
        let authority_key = config.authority_key.map_or_else(Authority::new_key, Ok)?;
        let authority = Authority::new(&authority_key)?;
        let paging = match config.paging {
            Some(paging) => Some(Arc::new(paging::Paging::start(paging, Arc::clone(&hsm)).await?)),
            None => None,
        };
        let to_announce = to_announce(&store, paging.as_deref()).await?;
        let app = Arc::new(App::new(
            store.clone(),
            hsm,
            admin_token.clone(),
            authority,
            paging.clone(),
            to_announce,
        ));
        let metrics = Arc::clone(&app.metrics);
        let timeout =
            || TimeoutLayer::with_status_code(axum::http::StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT);
        let device = device::routes(Arc::clone(&app)).layer(timeout());
        let admin = admin::routes(Arc::clone(&app))
            .layer(timeout())
            .merge(page::routes(Arc::clone(&app)));
        let tls = RustlsConfig::from_config(Arc::new(tls::server_config(&config.certificate)?));
        let (device_listener, device_address) = listen(config.device_address)?;
        let (admin_listener, admin_address) = listen(config.admin_address)?;
        let handles = [axum_server::Handle::new(), axum_server::Handle::new()];
        let [device_handle, admin_handle] = handles.clone();
        let failed = |address| move |error| StartError::Listen(address, error);
        let device_server = axum_server::from_tcp(device_listener).map_err(failed(device_address))?;
        let acceptor = RustlsAcceptor::new(tls).acceptor(door::Door::of_the_process());
        let device_server = http1(device_server.acceptor(acceptor), device_handle);
        let admin_server = axum_server::from_tcp(admin_listener).map_err(failed(admin_address))?;
        let admin_server = http1(admin_server, admin_handle);
        let looking = paging
            .clone()
            .map(|paging| tokio::spawn(watch_paging(paging, Arc::clone(&app))));
        let tasks = vec![
            tokio::spawn(device_server.serve(device.into_make_service())),
            tokio::spawn(admin_server.serve(admin.into_make_service())),
        ];
        let certificate = config.certificate.chain;
        Ok(Self {
            device_address,
            admin_address,
            certificate,
            admin_token,
            metrics,
            paging,
            looking,
            handles,
            tasks,
            store,
        })
    }

    /// Stops: no new requests, a moment for those under way, then the database is closed.
    pub async fn stop(self) {
        for handle in &self.handles {
            handle.graceful_shutdown(Some(STOP_GRACE));
        }
        for task in self.tasks {
            if let Ok(Err(error)) = task.await {
                tracing::warn!(%error, "listener");
            }
        }
        if let Some(looking) = self.looking {
            looking.abort();
        }
        if let Some(paging) = self.paging {
            paging.stop().await;
        }
        self.store.close().await;
    }
}

/// Campaigns whose message may have to be sent or taken back. A message that is not in paging's database, which is another one than it was, is
/// forgotten: its order may be somebody else's there.
async fn to_announce(
    store: &Store,
    paging: Option<&paging::Paging>,
) -> Result<BTreeSet<Campaign>, StartError> {
    let Some(paging) = paging else {
        return Ok(BTreeSet::new());
    };
    let mut campaigns = BTreeSet::new();
    for (id, message) in store.to_announce().await? {
        if let Some(message) = message
            && !paging.knows(message).await?
        {
            store.set_announced(id, None).await?;
        }
        campaigns.insert(id);
    }
    Ok(campaigns)
}

/// Looks for changes, renews the live page while there are polls, and announces what could not be announced at once.
async fn watch_paging(paging: Arc<paging::Paging>, app: Arc<App>) {
    let looks = Arc::clone(&paging).run();
    let renews = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut answered = 0;
        loop {
            ticks.tick().await;
            let now = paging.engine().totals().answered;
            if now != answered {
                answered = now;
                app.changed.send_modify(|count| *count += 1);
            }
        }
    };
    let announces = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            app.announce_owed().await;
        }
    };
    tokio::join!(looks, renews, announces);
}
