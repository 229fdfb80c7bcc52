//! Messages that the servers send to devices.

use sqlx::any::AnyRow;

use super::{PagingStore, advance, next, number, optional, signed};
use crate::{Result, StoreError};

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every device.
    Everybody,
    /// A group.
    Group(u16),
    /// A device, by its index.
    Device(u32),
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its place in the one sequence.
    pub order: u32,
    /// To whom.
    pub to: Target,
    /// KIND (`docs/spec/paging.md`, 5).
    pub kind: u8,
    /// ARG.
    pub argument: u32,
    /// From when on, in seconds since 1970.
    pub not_before: Option<u64>,
    /// Until when.
    pub expires: Option<u64>,
    /// Taken back.
    pub withdrawn: bool,
    /// Given anew, to devices alone that are done with an order above this one.
    pub past: Option<u32>,
}

pub(super) fn intent(row: &AnyRow) -> Result<Intent> {
    let to = match number::<u8>(row, "target_kind")? {
        0 => Target::Everybody,
        1 => Target::Group(number(row, "target")?),
        2 => Target::Device(number(row, "target")?),
        _ => return Err(StoreError::Unreadable("target_kind")),
    };
    Ok(Intent {
        order: number(row, "ord")?,
        to,
        kind: number(row, "kind")?,
        argument: number(row, "argument")?,
        not_before: optional(row, "not_before")?,
        expires: optional(row, "expires")?,
        withdrawn: number::<u8>(row, "withdrawn")? != 0,
        past: None,
    })
}

impl PagingStore {
    /// Adds a message; durable when this returns. Gives its order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn post(&self, message: Intent) -> Result<u32> {
        let (target_kind, target) = match message.to {
            Target::Everybody => (0, 0),
            Target::Group(group) => (1, i64::from(group)),
            Target::Device(index) => (2, i64::from(index)),
        };
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let order = next(&mut tx, "order").await?;
        sqlx::query("INSERT INTO paging_intent VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)")
            .bind(order)
            .bind(target)
            .bind(i64::from(target_kind))
            .bind(i64::from(message.kind))
            .bind(i64::from(message.argument))
            .bind(message.not_before.map(signed))
            .bind(message.expires.map(signed))
            .bind(changed)
            .execute(&mut *tx)
            .await?;
        let order =
            u32::try_from(order).map_err(|_| StoreError::Conflict("there is no order left for a message"))?;
        tx.commit().await?;
        Ok(order)
    }

    /// Sets orders aside for a local server, which numbers messages of its own with them: the first and the last.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there are none left.
    pub async fn reserve_orders(&self, count: u32) -> Result<(u32, u32)> {
        let mut tx = self.pool.begin().await?;
        let last = advance(&mut tx, "order", count).await?;
        let order = |n: i64| {
            u32::try_from(n).map_err(|_| StoreError::Conflict("there is no order left for a message"))
        };
        let orders = (order(last - i64::from(count) + 1)?, order(last)?);
        tx.commit().await?;
        Ok(orders)
    }

    /// Takes a message back.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn withdraw(&self, order: u32) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let done = sqlx::query("UPDATE paging_intent SET withdrawn = 1, changed = $1 WHERE ord = $2")
            .bind(changed)
            .bind(i64::from(order))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound("message"));
        }
        Ok(tx.commit().await?)
    }

    /// Whether there is a message of this order that expires then, taken back or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn knows(&self, order: u32, expires: u64) -> Result<bool> {
        let known =
            sqlx::query_scalar("SELECT expires FROM paging_intent WHERE ord = $1").bind(i64::from(order));
        let known: Option<Option<i64>> = known.fetch_optional(&self.pool).await?;
        Ok(known == Some(Some(signed(expires))))
    }
}
