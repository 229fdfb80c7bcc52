//! The keyspaces that devices are given: a domain with a generation, stored before anybody has a key of it.
//!
//! Where a device is, is known from its polls, and from those at this server alone. So what it was given counts as much: no keyspace is given twice but to
//! the same domain for as long as the device has not left it, and the message that moves the device names the very keyspace.

use sekisho_link::SeId;
use sqlx::{Any, Row as _, Transaction};

use super::{PagingStore, device, next, number};
use crate::{Result, StoreError};

/// KIND of a message that moves a device (`docs/spec/paging.md`, 5).
const MOVE: i64 = 6;
/// The last generation there is: three bytes.
const GENERATION_MAX: u32 = 0x00FF_FFFF;

/// A device that is to be given a keyspace.
#[derive(Clone, Copy, Debug)]
pub struct Give {
    /// The SE.
    pub se_id: SeId,
    /// Domain and generation in which it has last been seen; `None` if it has no generation, as in scheme `random`.
    pub seen: Option<(u8, u32)>,
    /// How far above all that is known a new generation is; not 0.
    pub step: u32,
}

/// A device with the keyspace that it has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its index.
    pub index: u32,
    /// SE-id.
    pub se_id: SeId,
    /// Its group.
    pub group: u16,
    /// The domain.
    pub domain: u8,
    /// The generation.
    pub generation: u32,
}

impl PagingStore {
    /// Gives devices to a domain, 0 to take them back, and sends each a message that moves it there, in place of all such messages that wait for it. All
    /// of them or none. A device that has this domain already keeps the generation that it was given.
    ///
    /// # Errors
    /// [`StoreError::Device`] for a device that another domain has, whose key rolls, or that has no generation left; [`StoreError::NotFound`].
    pub async fn give(&self, devices: &[Give], domain: u8) -> Result<Vec<Given>> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let mut given = Vec::with_capacity(devices.len());
        for device in devices {
            given.push(give_one(&mut tx, device, domain, changed).await?);
        }
        tx.commit().await?;
        Ok(given)
    }

    /// The domain and generation that a device was given last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn given(&self, index: u32) -> Result<Option<(u8, u32)>> {
        let mut tx = self.pool.begin().await?;
        held(&mut tx, index).await
    }
}

async fn held(tx: &mut Transaction<'_, Any>, index: u32) -> Result<Option<(u8, u32)>> {
    let row = sqlx::query("SELECT domain, generation FROM paging_given WHERE idx = $1")
        .bind(i64::from(index))
        .fetch_optional(&mut **tx)
        .await?;
    row.map(|row| Ok((number(&row, "domain")?, number(&row, "generation")?)))
        .transpose()
}

async fn give_one(tx: &mut Transaction<'_, Any>, to: &Give, domain: u8, changed: i64) -> Result<Given> {
    let row = sqlx::query("SELECT * FROM paging_device WHERE se_id = $1")
        .bind(to.se_id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let known = device(&row.ok_or(StoreError::NotFound("device"))?)?;
    let refused = |why| StoreError::Device(to.se_id, why);
    if known.rolling {
        return Err(refused("a device whose key rolls cannot be given away"));
    }
    let seen = to
        .seen
        .ok_or(refused("a device of scheme random cannot be given away"))?;
    let held = held(tx, known.index).await?;
    // It has gone on from what it was given, by recovery perhaps: then it is where it was seen.
    let here = held.filter(|held| held.1 >= seen.1).unwrap_or(seen);
    if domain != 0 && here.0 != 0 && here.0 != domain {
        return Err(refused("another domain has this device; recall it first"));
    }
    if domain != 0 && here.0 == domain && held != Some(here) {
        return Err(refused(
            "the domain has this device, from an earlier version or a database that is lost; recall it first",
        ));
    }
    let is_again = held == Some(here) && here.0 == domain;
    let generation = if is_again {
        here.1
    } else {
        let highest = known.generation.max(here.1).max(seen.1);
        let next = highest
            .checked_add(to.step)
            .filter(|next| *next <= GENERATION_MAX);
        next.ok_or(refused("the device has no generation left"))?
    };
    let given = Given {
        index: known.index,
        se_id: to.se_id,
        group: known.group,
        domain,
        generation,
    };
    if is_again && is_under_way(tx, &given, seen).await? {
        return Ok(given);
    }
    send(tx, &given, changed).await?;
    Ok(given)
}

/// Whether the device is where it was sent, or the message that sends it there still waits.
async fn is_under_way(tx: &mut Transaction<'_, Any>, given: &Given, seen: (u8, u32)) -> Result<bool> {
    if seen == (given.domain, given.generation) {
        return Ok(true);
    }
    let statement =
        "SELECT i.withdrawn FROM paging_given g JOIN paging_intent i ON i.ord = g.ord WHERE g.idx = $1";
    let row = sqlx::query(statement)
        .bind(i64::from(given.index))
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.is_some_and(|row| {
        row.try_get::<i64, _>("withdrawn")
            .is_ok_and(|withdrawn| withdrawn == 0)
    }))
}

/// Sends the device there: writes down what it is given, and the message, in place of those that wait.
async fn send(tx: &mut Transaction<'_, Any>, given: &Given, changed: i64) -> Result<()> {
    let withdraw = "UPDATE paging_intent SET withdrawn = 1, changed = $1 \
                    WHERE target_kind = 2 AND target = $2 AND kind = $3 AND withdrawn = 0";
    sqlx::query(withdraw)
        .bind(changed)
        .bind(i64::from(given.index))
        .bind(MOVE)
        .execute(&mut **tx)
        .await?;
    let order = next(tx, "order").await?;
    if u32::try_from(order).is_err() {
        return Err(StoreError::Conflict("there is no order left for a message"));
    }
    sqlx::query("INSERT INTO paging_intent VALUES ($1, $2, 2, $3, $4, NULL, NULL, 0, $5)")
        .bind(order)
        .bind(i64::from(given.index))
        .bind(MOVE)
        .bind(i64::from(given.domain) << 24 | i64::from(given.generation))
        .bind(changed)
        .execute(&mut **tx)
        .await?;
    let statement = "INSERT INTO paging_given VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (idx) DO UPDATE SET domain = $2, generation = $3, ord = $4";
    sqlx::query(statement)
        .bind(i64::from(given.index))
        .bind(i64::from(given.domain))
        .bind(i64::from(given.generation))
        .bind(order)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
