//! What local servers are given.

use std::time::Duration;

use sekisho_link::SeId;
use sekisho_store::paging::{Give, Given};
use sekisho_store::{Result as StoreResult, StoreError};

use super::{Paging, PagingError, Result};

/// What a local server gets of a domain.
#[derive(Debug)]
pub struct GivenDomain {
    /// Epoch of its ticket key.
    pub epoch: u32,
    /// The ticket key, for [`open_sealed`](super::open_sealed).
    pub sealed: Vec<u8>,
}

/// Orders that a local server gets at a time.
const ORDERS_GIVEN: u32 = 10_000;

/// The least that a new generation is above all that is known of a device: its recoveries, of which this server may not know, take one each.
const STEP: u32 = 256;

/// A server that was seen this long ago, in seconds, may be alive: it says so every half second.
const JUST_NOW: u64 = 10;
/// How long it is listened to: it may be slow, and its time is in whole seconds.
const LISTEN: Duration = Duration::from_millis(2500);

impl Paging {
    /// Gives devices to a domain that has a ticket key, 0 to take them back: stored, and the message that moves each on its way, when this returns. The
    /// generations are drawn at random above all that is known, so that a database that is older than its fleet does not give one again.
    ///
    /// # Errors
    /// [`PagingError`]; [`StoreError::Device`] for a device that another domain has.
    pub async fn give(&self, se_ids: &[SeId], domain: u8) -> Result<Vec<Given>> {
        if !self.has_key(domain).await? {
            return Err(StoreError::NotFound("domain").into());
        }
        self.look(0).await?;
        let mut devices = Vec::with_capacity(se_ids.len());
        for se_id in se_ids {
            let row = self.store.device(*se_id).await?;
            let at = match self.engine.device(row.index) {
                Some(view) => view
                    .at
                    .map(|(keyspace, _)| (keyspace.domain, keyspace.generation)),
                None => Some((row.domain, row.generation)),
            };
            let mut random = [0; 2];
            self.hsm.random(&mut random)?;
            devices.push(Give {
                se_id: *se_id,
                seen: at,
                step: STEP + u32::from(u16::from_be_bytes(random) >> 4),
            });
        }
        let given = self.store.give(&devices, domain).await?;
        self.look(0).await?;
        Ok(given)
    }

    /// Two servers under one name would be one to a rotation, which issues when one of them has read the key. A server that has just been killed has the name
    /// as well, and says no more.
    pub(super) async fn check_name(&self) -> Result<()> {
        let named = || async {
            let nodes = self.store.nodes().await?;
            Ok::<_, StoreError>(nodes.into_iter().find(|node| node.name == self.config.node))
        };
        let Some(before) = named().await? else {
            return Ok(());
        };
        if before.seen + JUST_NOW < crate::app::now() {
            return Ok(());
        }
        tokio::time::sleep(LISTEN).await;
        if named().await?.is_some_and(|after| after.seen != before.seen) {
            return Err(PagingError::Name(before.name));
        }
        Ok(())
    }

    /// The domain and generation that a device was given last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn given(&self, index: u32) -> StoreResult<Option<(u8, u32)>> {
        self.store.given(index).await
    }

    /// What a local server needs for a domain, whose first ticket key is made if there is none; all servers accept it from then on.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn give_domain(&self, domain: u8) -> Result<GivenDomain> {
        if !self.has_key(domain).await? {
            self.rotate(domain).await?;
        }
        let keys = self.store.keys().await?;
        let newest = keys.into_iter().rfind(|key| key.domain == domain && key.issues);
        let newest = newest.ok_or(PagingError::Ring)?;
        self.look(0).await?;
        Ok(GivenDomain {
            epoch: newest.epoch,
            sealed: newest.sealed,
        })
    }

    /// Orders for the messages of a local server, above all that have been given so far: the first and the last.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there are none left.
    pub async fn give_orders(&self) -> Result<(u32, u32)> {
        self.catch_up().await?;
        Ok(self.store.reserve_orders(ORDERS_GIVEN).await?)
    }

    /// Whether a domain has a ticket key, so that devices can be moved there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_key(&self, domain: u8) -> StoreResult<bool> {
        Ok(self.store.keys().await?.iter().any(|key| key.domain == domain))
    }
}
