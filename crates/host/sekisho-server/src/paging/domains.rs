//! What local servers are given.

use sekisho_store::Result as StoreResult;

use super::{Paging, PagingError, Result};

/// What a local server gets of a domain.
#[derive(Debug)]
pub struct GivenDomain {
    /// Epoch of its ticket key.
    pub epoch: u32,
    /// The ticket key, for [`open_sealed`].
    pub sealed: Vec<u8>,
}

/// Orders that a local server gets at a time.
const ORDERS_GIVEN: u32 = 10_000;

impl Paging {
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
