//! Devices that are done with an order which this database has not given: it is older than its fleet, a copy perhaps that was restored.
//!
//! The orders jump above what such a device says, within bounds (`docs/spec/paging.md`, 5.1), and the messages that wait are given anew, with orders above
//! the jump. An order between is given to nobody: whoever names one was told it by a life of the database that is lost. For these devices alone is what
//! is given anew; all others are told nothing twice.

use sekisho_paging::orders::GLOBAL;
use sqlx::any::AnyRow;
use sqlx::{Any, Transaction};

use super::{Intent, PagingStore, advance, messages, next, number, signed};
use crate::{Result, StoreError};

/// What is given anew, and is new or was taken back with its original.
pub(super) const CHANGED: &str = "SELECT a.ord, i.target, i.target_kind, i.kind, i.argument, i.not_before, i.expires, i.withdrawn, a.past \
                                  FROM paging_again a JOIN paging_intent i ON i.ord = a.original \
                                  WHERE (a.changed > $1 AND a.changed <= $2) OR (i.changed > $1 AND i.changed <= $2) ORDER BY a.ord";

pub(super) fn again(row: &AnyRow) -> Result<Intent> {
    Ok(Intent {
        past: Some(number(row, "past")?),
        ..messages::intent(row)?
    })
}

/// A jump of the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The last order before.
    pub past: u32,
    /// The last of those that are given to nobody.
    pub upto: u32,
    /// The device for which it was.
    pub index: u32,
    /// The order that it named.
    pub said: u32,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// What became of a device's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The order has been given.
    Given,
    /// The orders are above it now.
    Jumped(Jump),
    /// It is not followed: the order is too far above, the device has had its share, or no order is left for this.
    Refused,
}

fn jump(row: &AnyRow) -> Result<Jump> {
    Ok(Jump {
        past: number(row, "past")?,
        upto: number(row, "upto")?,
        index: number(row, "idx")?,
        said: number(row, "said")?,
        at: number(row, "at")?,
    })
}

impl PagingStore {
    /// Follows a device that is done with an order: durable when this returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn follow(&self, index: u32, said: u32, now: u64) -> Result<Followed> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        // The row is locked from here on, so that no order is given meanwhile.
        let past = advance(&mut tx, "order", 0).await?;
        let used = sqlx::query(
            "SELECT CAST(COALESCE(SUM(steps), 0) AS BIGINT) AS used FROM paging_jump WHERE idx = $1",
        )
        .bind(i64::from(index))
        .fetch_one(&mut *tx)
        .await?;
        let last = u32::try_from(past).map_err(|_| StoreError::Unreadable("order"))?;
        let steps = match GLOBAL.steps(last, said, number(&used, "used")?) {
            Some(0) => return Ok(Followed::Given),
            Some(steps) => steps,
            None => return Ok(Followed::Refused),
        };
        let upto = advance(&mut tx, "order", steps * GLOBAL.step).await?;
        give_anew(&mut tx, (past, upto), now, changed).await?;
        let top: u32 = advance(&mut tx, "order", 0).await?.try_into().unwrap_or(u32::MAX);
        let upto: u32 = upto.try_into().unwrap_or(u32::MAX);
        if top > GLOBAL.ceiling {
            return Ok(Followed::Refused);
        }
        sqlx::query("INSERT INTO paging_jump VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(past)
            .bind(i64::from(upto))
            .bind(i64::from(index))
            .bind(i64::from(said))
            .bind(i64::from(steps))
            .bind(signed(now))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Followed::Jumped(Jump {
            past: last,
            upto,
            index,
            said,
            at: now,
        }))
    }

    /// The last jumps, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn jumps(&self) -> Result<Vec<Jump>> {
        let rows = sqlx::query("SELECT * FROM paging_jump ORDER BY past DESC LIMIT 10")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(jump).collect()
    }
}

/// Messages up to `past` that wait get orders above `upto` too, in their order.
async fn give_anew(
    tx: &mut Transaction<'_, Any>,
    (past, upto): (i64, i64),
    now: u64,
    changed: i64,
) -> Result<()> {
    let statement = "INSERT INTO paging_again (ord, original, past, changed) \
                     SELECT $1 + ROW_NUMBER() OVER (ORDER BY ord), ord, $2, $3 FROM paging_intent \
                     WHERE withdrawn = 0 AND (expires IS NULL OR expires > $4)";
    let given = sqlx::query(statement)
        .bind(upto)
        .bind(past)
        .bind(changed)
        .bind(signed(now))
        .execute(&mut **tx)
        .await?
        .rows_affected();
    let given =
        u32::try_from(given).map_err(|_| StoreError::Conflict("there are more messages than orders"))?;
    advance(tx, "order", given).await?;
    Ok(())
}
