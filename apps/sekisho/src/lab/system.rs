//! Design system, HSM and server of the lab.

use anyhow::{Context, Result};
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::{Custody, SeId};
use sekisho_paging::device::State;
use sekisho_paging::keys::RecoveryKey;
use sekisho_server::paging::{Paging, PagingConfig, Scheme};
use sekisho_server::{Certificate, Config, Server};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

use crate::admin_client::AdminClient;
use crate::leftovers::Folder;

/// The part that the campaign brings.
static NEXT_PART: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v2.wasm");
/// Its version, and the one it replaces.
pub(crate) const NEXT_VERSION: u32 = 2;
const MIN_PREVIOUS: u32 = 1;
/// P_MOB: what the campaign brings for the device itself.
const P_MOB: &[u8] = b"meter firmware settings, for the device and not for its SE";

/// The groups of the lab's devices: of those with sessions, and of all others.
const WITH_SESSIONS: u16 = 2;
const OTHERS: u16 = 1;

/// Polling interval of the lab's devices, in seconds.
const INTERVAL: u32 = 1;

/// Everything but the devices.
pub(crate) struct System {
    pub(crate) hsm: Arc<SoftHsm>,
    pub(crate) ceremony: Ceremony,
    pub(crate) server: Server,
    pub(crate) admin: AdminClient,
    /// The update in the clear, as the rival ways would have to send it.
    pub(crate) image: Vec<u8>,
    folder: Folder,
}

/// How many of the devices go first.
pub(crate) fn canary(devices: u32) -> u32 {
    (devices / 20).max(1)
}

impl System {
    /// Starts the server, with its pages on this port (0: any), for an update that is filled up to so many KiB.
    pub(crate) fn start(runtime: &Runtime, port: u16, image_kib: u32) -> Result<Self> {
        let folder = Folder::new()?;
        let hsm = Arc::new(SoftHsm::generate()?);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            device_address: any,
            admin_address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            database: folder.path().join("fleet.sqlite"),
            certificate: Certificate::self_signed(&["127.0.0.1"])?,
            admin_token: None,
            authority_key: None,
            paging: Some(PagingConfig {
                listen: any,
                threads: 2,
                scheme: Scheme::Ticket,
                database: format!("sqlite:{}", folder.path().join("paging.sqlite").display()),
                directory: Some(folder.path().join("paging")),
                domain: 0,
                node: "lab".to_owned(),
            }),
        };
        let custody: Arc<dyn Hsm> = Arc::clone(&hsm) as Arc<dyn Hsm>;
        let server = runtime.block_on(Server::start(config, custody))?;
        let admin = AdminClient::new(&format!("http://{}", server.admin_address), &server.admin_token);
        let ceremony = Ceremony::generate()?;
        let size = usize::try_from(image_kib).unwrap_or(64) * 1024;
        Ok(Self {
            hsm,
            ceremony,
            server,
            admin,
            image: filled_up(NEXT_PART, size),
            folder,
        })
    }

    /// A folder that goes with the lab.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.server.admin_address)
    }

    /// Packs, uploads, targets these devices, starts. With faults some are meant to fail.
    pub(crate) fn create_campaign(&self, ids: impl Iterator<Item = SeId>, faults: bool) -> Result<String> {
        let options = PackOptions {
            version: NEXT_VERSION,
            min_previous: MIN_PREVIOUS,
            custody: Custody::Hsm,
        };
        let package = self.ceremony.pack(&self.image, options)?;
        let designer = hex::encode(self.ceremony.designer_public());
        let uploaded = self
            .admin
            .post(&format!("packages?designer={designer}"), &package)?;
        let targets: Vec<String> = ids.map(|id| id.to_string()).collect();
        let devices = u32::try_from(targets.len())?;
        let request = json!({
            "name": "meter 2", "package_id": uploaded["package_id"], "targets": targets, "canary": canary(devices),
            "success_threshold": if faults { 10 } else { 90 }, "error_threshold": devices, "attempts_max": 3,
            "p_mob": hex::encode(P_MOB),
        });
        let campaign = self.admin.post("campaigns", request.to_string().as_bytes())?;
        let id = campaign["id"]
            .as_str()
            .context("the server gave the campaign no id")?
            .to_owned();
        self.admin.post(&format!("campaigns/{id}/start"), b"")?;
        Ok(id)
    }

    /// The paging server.
    pub(crate) fn paging(&self) -> Result<&Paging> {
        self.server
            .paging
            .as_deref()
            .context("the lab's server has paging")
    }

    /// Registers SEs for paging, of which the first have sessions, and gives what each is personalised with.
    pub(crate) fn provision(
        &self,
        runtime: &Runtime,
        ids: &[SeId],
        sessions: usize,
    ) -> Result<Vec<(State, RecoveryKey)>> {
        let paging = self.paging()?;
        let (with_sessions, others) = ids.split_at(sessions.min(ids.len()));
        Ok(runtime.block_on(async {
            paging.register(with_sessions, WITH_SESSIONS, false).await?;
            paging.register(others, OTHERS, false).await?;
            paging.provision_all(ids, INTERVAL).await
        })?)
    }

    /// Tells those with sessions to open one (KIND 02).
    pub(crate) fn open_sessions(&self) -> Result<()> {
        let message = json!({ "group": WITH_SESSIONS, "action": "open-https", "argument": 0 });
        self.admin
            .post("paging/messages", message.to_string().as_bytes())?;
        Ok(())
    }

    /// Registers devices and gives their link tokens.
    pub(crate) fn register(&self, ids: &[SeId]) -> Result<Vec<String>> {
        let devices: Vec<_> = ids
            .iter()
            .map(|id| json!({ "se_id": id.to_string(), "kvn": sekisho_hsm::KVN_SCP }))
            .collect();
        let answer = self
            .admin
            .post("devices", json!(devices).to_string().as_bytes())?;
        let tokens = answer["devices"]
            .as_array()
            .context("the server registered nothing")?;
        tokens
            .iter()
            .map(|device| {
                device["link_token"]
                    .as_str()
                    .map(str::to_owned)
                    .context("a device has no link token")
            })
            .collect()
    }

    pub(crate) fn stop(self, runtime: &Runtime) {
        runtime.block_on(self.server.stop());
    }
}

/// Fills a module up with a custom section of bytes that do not compress, which every engine skips.
fn filled_up(module: &[u8], size: usize) -> Vec<u8> {
    let mut image = module.to_vec();
    // Section 0, its length in five bytes of LEB128, a name of one letter.
    let Some(filling) = size.checked_sub(module.len() + 8) else {
        return image;
    };
    let mut length = filling + 2;
    image.push(0);
    for index in 0..5 {
        let more = if index < 4 { 0x80 } else { 0 };
        image.push(length.to_le_bytes()[0] & 0x7F | more);
        length >>= 7;
    }
    image.extend([1, b'x']);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    image.extend((0..filling).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    }));
    image
}
