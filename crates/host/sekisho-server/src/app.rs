//! What every handler shares.

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use sekisho_hsm::Hsm;
use sekisho_keys::ct_eq;
use sekisho_link::{Campaign, SeId};
use sekisho_paging::message::Action;
use sekisho_store::{Announced, Store};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, watch};

use crate::authority::Authority;
use crate::metrics::Metrics;
use crate::paging::Paging;
use crate::policy::{self, Step};
use crate::problem::Problem;

/// How long a campaign is announced at most, should nobody take the message back: a month, in seconds.
const ANNOUNCED: u64 = 31 * 24 * 3600;

/// How long a request waits for paging's database before its message is left for later.
const ANNOUNCING: Duration = Duration::from_secs(2);

/// What every handler shares.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) hsm: Arc<dyn Hsm>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admin_token: String,
    pub(crate) authority: Authority,
    pub(crate) paging: Option<Arc<Paging>>,
    /// Held while a campaign's message is sent or taken back, so that there is one of each.
    announcing: Mutex<()>,
    /// Campaigns whose message paging's database has not taken yet, or not given back. Those that a start finds may be.
    owed: Mutex<BTreeSet<Campaign>>,
    /// Packages and deliveries of campaigns under way, so that a million requests are not a million reads.
    cache: Mutex<HashMap<Campaign, Arc<Bulk>>>,
    /// Changes at each change that the live page shows.
    pub(crate) changed: watch::Sender<u64>,
}

/// What a campaign sends and what its authorisations are made of.
pub(crate) struct Bulk {
    pub(crate) package: Vec<u8>,
    pub(crate) delivery: Bytes,
    pub(crate) etag: String,
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the server is where time is read")]
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl App {
    pub(crate) fn new(
        store: Store,
        hsm: Arc<dyn Hsm>,
        admin_token: String,
        authority: Authority,
        paging: Option<Arc<Paging>>,
        owed: BTreeSet<Campaign>,
    ) -> Self {
        let (changed, _) = watch::channel(0);
        Self {
            store,
            hsm,
            metrics: Arc::new(Metrics::default()),
            admin_token,
            authority,
            paging,
            announcing: Mutex::default(),
            owed: Mutex::new(owed),
            cache: Mutex::default(),
            changed,
        }
    }

    /// The bulk of a campaign.
    pub(crate) async fn bulk(&self, id: Campaign) -> Result<Arc<Bulk>, Problem> {
        let mut cache = self.cache.lock().await;
        if let Some(bulk) = cache.get(&id) {
            return Ok(Arc::clone(bulk));
        }
        let campaign = self.store.campaign(id).await?;
        let bulk = Arc::new(Bulk {
            package: self.store.package(campaign.package_id).await?,
            delivery: self.store.delivery(id).await?.into(),
            etag: format!("\"{}\"", hex::encode(campaign.delivery_sha256)),
        });
        if cache.len() >= 16 {
            cache.clear();
        }
        cache.insert(id, Arc::clone(&bulk));
        Ok(bulk)
    }

    /// The SE of a device request, its link token checked.
    pub(crate) fn device(&self, se_id: &str, headers: &HeaderMap) -> Result<SeId, Problem> {
        let se_id: SeId = se_id
            .parse()
            .map_err(|_| Problem::bad_request("the SE id has 20 hexadecimal digits"))?;
        let token = bearer(headers)
            .and_then(|token| hex::decode(token).ok())
            .unwrap_or_default();
        if ct_eq(&token, &self.hsm.link_token(se_id)?) {
            Ok(se_id)
        } else {
            Metrics::add(&self.metrics.unauthorised, 1);
            Err(Problem::unauthorized())
        }
    }

    /// Checks the token of an administrator's request.
    pub(crate) fn administrator(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let token = bearer(headers).unwrap_or_default();
        if ct_eq(token.as_bytes(), self.admin_token.as_bytes()) {
            Ok(())
        } else {
            Err(Problem::unauthorized())
        }
    }

    /// Tells the devices by paging that there is an update, as long as the campaign runs. Who is no target of it asks once, and is told so.
    async fn announce(&self, id: Campaign) -> Result<(), Problem> {
        let Some(paging) = &self.paging else { return Ok(()) };
        let _one_at_a_time = self.announcing.lock().await;
        let campaign = self.store.campaign(id).await?;
        let runs = campaign.state == sekisho_store::State::Running;
        match (runs, campaign.announced) {
            (true, Some(message)) if message.until > now() => {}
            (true, _) => {
                let until = now() + ANNOUNCED;
                let everybody = sekisho_store::paging::Target::Everybody;
                let order = paging
                    .post(everybody, Action::Update(0), None, Some(until))
                    .await?;
                self.store
                    .set_announced(id, Some(Announced { order, until }))
                    .await?;
            }
            (false, Some(message)) => {
                paging.withdraw(message.order).await?;
                self.store.set_announced(id, None).await?;
            }
            (false, None) => {}
        }
        Ok(())
    }

    /// Announces, or leaves it for later: what has become of a campaign stands, whether paging's database is there or not.
    async fn announce_or_owe(&self, id: Campaign) {
        let is_away = self.paging.as_ref().is_some_and(|paging| paging.is_away());
        if !is_away && let Ok(Ok(())) = tokio::time::timeout(ANNOUNCING, self.announce(id)).await {
            self.owed.lock().await.remove(&id);
        } else if self.owed.lock().await.insert(id) {
            tracing::warn!(campaign = %id, "paging: what it tells the devices waits for the database");
        }
    }

    /// Does what was left for later.
    pub(crate) async fn announce_owed(&self) {
        let owed = self.owed.lock().await.clone();
        for id in owed {
            self.announce_or_owe(id).await;
        }
    }

    /// An SE has proved a version: what that means to other campaigns.
    pub(crate) async fn settle(&self, se_id: SeId) -> Result<(), Problem> {
        for campaign in self.store.settle_device(se_id, now()).await? {
            self.judge(campaign).await?;
        }
        Ok(())
    }

    /// Something has changed: judges the campaign, and wakes the live page.
    pub(crate) async fn judge(&self, id: Campaign) -> Result<(), Problem> {
        let campaign = self.store.campaign(id).await?;
        let running = &[sekisho_store::State::Running];
        let result = match policy::step(&campaign, &self.store.counts(id).await?) {
            Step::Stay => Ok(()),
            Step::OpenRest => self.store.open_rest(id, now()).await,
            Step::Pause(reason) => {
                tracing::warn!(campaign = %id, %reason, "campaign paused itself");
                self.store
                    .set_campaign_state(id, running, sekisho_store::State::Paused, &reason, now())
                    .await
            }
            Step::Finish => {
                self.store
                    .set_campaign_state(id, running, sekisho_store::State::Done, "", now())
                    .await
            }
        };
        self.announce_or_owe(id).await;
        self.changed.send_modify(|count| *count += 1);
        match result {
            // Somebody else was faster: it is judged.
            Err(sekisho_store::StoreError::Conflict(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The token of a request; the name of its scheme is written in any case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then_some(token)
}
