//! What paging servers share: devices, ticket keys, messages, and each other.
//!
//! One database for all of them, PostgreSQL, or SQLite for a single one; the statements are the same. Nothing here is in the path of a poll: a server
//! reads once what there is, and then what has changed ([`PagingStore::changes`]). Every change has a number from one ascending sequence, which is taken
//! inside the transaction that makes it: no reader sees a number before all lower ones.

mod ahead;
mod given;
mod messages;

use std::sync::Once;
use std::time::Duration;

use sekisho_link::SeId;
use sekisho_paging::ticket::RING_MAX;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, AssertSqlSafe, Connection as _, Row, Transaction};

pub use ahead::{Followed, Jump};
pub use given::{Give, Given};
pub use messages::{Intent, Target};

use crate::{Result, StoreError};

/// Rows of a device registration in one statement.
const ROWS: usize = 1000;
/// A connection that says nothing for this long when it is given back is closed.
const SILENCE: Duration = Duration::from_secs(5);
/// A node that has not been seen for this long, in seconds, or whose clock is off by as much, is gone: a rotation does not wait for it.
pub const NODE_GONE: u64 = 60;

/// Binary values are hexadecimal text, so that the statements are the same for both databases.
const SCHEMA: [&str; 8] = [
    "CREATE TABLE IF NOT EXISTS paging_sequence (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS paging_device (idx BIGINT PRIMARY KEY, se_id TEXT NOT NULL UNIQUE, grp BIGINT NOT NULL, \
     domain BIGINT NOT NULL, generation BIGINT NOT NULL, rolling BIGINT NOT NULL, blocked BIGINT NOT NULL, \
     start_key TEXT NOT NULL, changed BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS paging_key (domain BIGINT NOT NULL, epoch BIGINT NOT NULL, sealed TEXT NOT NULL, \
     issues BIGINT NOT NULL, retired BIGINT NOT NULL, changed BIGINT NOT NULL, PRIMARY KEY (domain, epoch))",
    "CREATE TABLE IF NOT EXISTS paging_intent (ord BIGINT PRIMARY KEY, target BIGINT NOT NULL, target_kind BIGINT NOT NULL, \
     kind BIGINT NOT NULL, argument BIGINT NOT NULL, not_before BIGINT, expires BIGINT, withdrawn BIGINT NOT NULL, \
     changed BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS paging_node (name TEXT PRIMARY KEY, domain BIGINT NOT NULL, seen BIGINT NOT NULL, \
     change BIGINT NOT NULL)",
    // How often, from where to where and for which device the orders have jumped: `steps` of `orders::GLOBAL`.
    "CREATE TABLE IF NOT EXISTS paging_jump (past BIGINT PRIMARY KEY, upto BIGINT NOT NULL, idx BIGINT NOT NULL, said BIGINT NOT NULL, \
     steps BIGINT NOT NULL, at BIGINT NOT NULL)",
    // Messages that are given anew, with a higher order, to devices alone that are done with an order above `past`.
    "CREATE TABLE IF NOT EXISTS paging_again (ord BIGINT PRIMARY KEY, original BIGINT NOT NULL, past BIGINT NOT NULL, changed BIGINT NOT NULL)",
    // The keyspace that a device was given last, by delegating or recalling it, and the message that moves it there.
    "CREATE TABLE IF NOT EXISTS paging_given (idx BIGINT PRIMARY KEY, domain BIGINT NOT NULL, generation BIGINT NOT NULL, ord BIGINT NOT NULL)",
];

const INDEXES: [&str; 2] = [
    "CREATE INDEX IF NOT EXISTS paging_device_changed ON paging_device (changed)",
    "CREATE INDEX IF NOT EXISTS paging_intent_target ON paging_intent (target_kind, target)",
];

/// A device of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number: what its tickets carry.
    pub index: u32,
    /// SE-id.
    pub se_id: SeId,
    /// Group.
    pub group: u16,
    /// Domain of the keyspace in which it was last known to be.
    pub domain: u8,
    /// Generation of that keyspace.
    pub generation: u32,
    /// Whether its key rolls.
    pub rolling: bool,
    /// Whether it gets no answers.
    pub blocked: bool,
    /// Key of that keyspace, sealed, of a rolling device; empty otherwise.
    pub start_key: Vec<u8>,
}

/// A ticket key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketKey {
    /// Domain.
    pub domain: u8,
    /// Epoch, from 1 up within a domain.
    pub epoch: u32,
    /// The key, sealed.
    pub sealed: Vec<u8>,
    /// Whether identities are issued under it.
    pub issues: bool,
    /// Whether it is no longer accepted.
    pub retired: bool,
}

/// A paging server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: u8,
    /// When it was last seen, in seconds since 1970.
    pub seen: u64,
    /// The change up to which it has read.
    pub change: u64,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Devices.
    pub devices: Vec<Device>,
    /// All ticket keys, if one has changed; empty otherwise.
    pub keys: Vec<TicketKey>,
    /// Messages, those also that are given anew.
    pub intents: Vec<Intent>,
    /// The change up to which this is all.
    pub upto: u64,
}

/// The database.
#[derive(Clone, Debug)]
pub struct PagingStore {
    pool: AnyPool,
}

fn number<T: TryFrom<i64>>(row: &AnyRow, column: &'static str) -> Result<T> {
    T::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Unreadable(column))
}

fn optional(row: &AnyRow, column: &'static str) -> Result<Option<u64>> {
    let value = row.try_get::<Option<i64>, _>(column)?;
    value
        .map(|value| u64::try_from(value).map_err(|_| StoreError::Unreadable(column)))
        .transpose()
}

fn bytes(row: &AnyRow, column: &'static str) -> Result<Vec<u8>> {
    hex::decode(row.try_get::<String, _>(column)?).map_err(|_| StoreError::Unreadable(column))
}

/// Times and change numbers are far below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn device(row: &AnyRow) -> Result<Device> {
    let se_id = bytes(row, "se_id")?.try_into();
    Ok(Device {
        index: number(row, "idx")?,
        se_id: SeId(se_id.map_err(|_| StoreError::Unreadable("se_id"))?),
        group: number(row, "grp")?,
        domain: number(row, "domain")?,
        generation: number(row, "generation")?,
        rolling: number::<u8>(row, "rolling")? != 0,
        blocked: number::<u8>(row, "blocked")? != 0,
        start_key: bytes(row, "start_key")?,
    })
}

fn key(row: &AnyRow) -> Result<TicketKey> {
    Ok(TicketKey {
        domain: number(row, "domain")?,
        epoch: number(row, "epoch")?,
        sealed: bytes(row, "sealed")?,
        issues: number::<u8>(row, "issues")? != 0,
        retired: number::<u8>(row, "retired")? != 0,
    })
}

/// Whether no device is in a local server's domain, nor on its way there.
async fn is_empty(tx: &mut Transaction<'_, Any>, domain: u8) -> Result<bool> {
    let statement = "SELECT idx FROM paging_device WHERE domain = $1 UNION SELECT idx FROM paging_given WHERE domain = $1 LIMIT 1";
    let row = sqlx::query(statement)
        .bind(i64::from(domain))
        .fetch_optional(&mut **tx)
        .await?;
    Ok(domain != 0 && row.is_none())
}

/// The next number of a sequence. The row is locked until the transaction ends, so that numbers become visible in their order.
async fn next(tx: &mut Transaction<'_, Any>, name: &'static str) -> Result<i64> {
    advance(tx, name, 1).await
}

/// Takes so many numbers of a sequence; gives the last.
async fn advance(tx: &mut Transaction<'_, Any>, name: &'static str, count: u32) -> Result<i64> {
    let row = sqlx::query("UPDATE paging_sequence SET value = value + $1 WHERE name = $2 RETURNING value")
        .bind(i64::from(count))
        .bind(name)
        .fetch_one(&mut **tx)
        .await?;
    Ok(row.try_get("value")?)
}

impl PagingStore {
    /// Opens a database: `sqlite:PATH` or `postgres://...`, and makes its schema if need be.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn open(url: &str) -> Result<Self> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let is_sqlite = url.starts_with("sqlite:");
        let url = if is_sqlite {
            format!("{url}?mode=rwc")
        } else {
            url.to_owned()
        };
        let pool = AnyPoolOptions::new()
            // SQLite has one writer: a second connection would find it locked.
            .max_connections(if is_sqlite { 1 } else { 4 })
            .acquire_timeout(Duration::from_secs(5))
            // As in `Store::open`.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            // A database behind a network that has gone says nothing for ever, and the driver would wait as long, for each connection.
            .after_release(|connection, _| {
                Box::pin(async {
                    let heard = tokio::time::timeout(SILENCE, connection.ping()).await;
                    heard.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
                })
            })
            .connect(&url)
            .await?;
        if is_sqlite {
            for pragma in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"] {
                sqlx::query(pragma).execute(&pool).await?;
            }
        }
        let store = Self { pool };
        store.make_schema(is_sqlite).await?;
        Ok(store)
    }

    async fn make_schema(&self, is_sqlite: bool) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        if !is_sqlite {
            // Two servers that start at once would both make the tables.
            sqlx::query("SELECT pg_advisory_xact_lock(1397441359)")
                .execute(&mut *tx)
                .await?;
        }
        for statement in SCHEMA {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        for name in ["change", "order", "device"] {
            let statement =
                "INSERT INTO paging_sequence (name, value) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
            sqlx::query(statement).bind(name).execute(&mut *tx).await?;
        }
        // An index locks its table, also where it is there. Whoever writes has this row first: the other way round they would wait for each other.
        advance(&mut tx, "change", 0).await?;
        for statement in INDEXES {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Registers SEs in a group; those that are known stay as they are. Gives how many are new. Their indices follow each other.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn register(&self, se_ids: &[SeId], group: u16, rolling: bool) -> Result<u64> {
        let mut new = 0;
        for se_ids in se_ids.chunks(ROWS) {
            let mut tx = self.pool.begin().await?;
            let changed = next(&mut tx, "change").await?;
            let from = self.reserve(&mut tx, se_ids.len()).await?;
            let mut statement = String::from(
                "INSERT INTO paging_device (idx, se_id, grp, domain, generation, rolling, blocked, start_key, changed) VALUES ",
            );
            for (index, se_id) in (from..).zip(se_ids) {
                if index > from {
                    statement.push(',');
                }
                // Numbers and hexadecimal digits alone: nothing that anybody could break out of.
                let row = format!(
                    "({index},'{se_id}',{group},0,0,{},0,'',{changed})",
                    u8::from(rolling)
                );
                statement.push_str(&row);
            }
            statement.push_str(" ON CONFLICT (se_id) DO NOTHING");
            new += sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            tx.commit().await?;
        }
        Ok(new)
    }

    async fn reserve(&self, tx: &mut Transaction<'_, Any>, count: usize) -> Result<i64> {
        let count = i64::try_from(count).unwrap_or(0);
        let statement = "UPDATE paging_sequence SET value = value + $1 WHERE name = 'device' RETURNING value";
        let row = sqlx::query(statement).bind(count).fetch_one(&mut **tx).await?;
        let last: i64 = row.try_get("value")?;
        if u32::try_from(last).is_err() {
            return Err(StoreError::Conflict("there is no number left for a device"));
        }
        Ok(last - count)
    }

    /// The device of an SE.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn device(&self, se_id: SeId) -> Result<Device> {
        let row = sqlx::query("SELECT * FROM paging_device WHERE se_id = $1")
            .bind(se_id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        device(&row.ok_or(StoreError::NotFound("device"))?)
    }

    /// Writes down where a device is, whether it is blocked, its group and its start key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_device(&self, to: &Device) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let statement = "UPDATE paging_device SET grp = $1, domain = $2, generation = $3, rolling = $4, blocked = $5, \
                         start_key = $6, changed = $7 WHERE idx = $8";
        let done = sqlx::query(statement)
            .bind(i64::from(to.group))
            .bind(i64::from(to.domain))
            .bind(i64::from(to.generation))
            .bind(i64::from(to.rolling))
            .bind(i64::from(to.blocked))
            .bind(hex::encode(&to.start_key))
            .bind(changed)
            .bind(i64::from(to.index))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound("device"));
        }
        Ok(tx.commit().await?)
    }

    /// Adds a ticket key of the domain's next epoch: accepted from now on, not yet issued. Where the domain has none it issues at once. Gives the epoch.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there are as many as every server accepts.
    pub async fn add_key(&self, domain: u8, sealed: &[u8]) -> Result<u32> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let live = sqlx::query("SELECT domain FROM paging_key WHERE retired = 0")
            .fetch_all(&mut *tx)
            .await?;
        if live.len() >= RING_MAX {
            return Err(StoreError::Conflict(
                "there are 16 live ticket keys, over all domains, which is as many as there may be; retire some",
            ));
        }
        let mut is_first = true;
        for row in &live {
            is_first &= number::<u8>(row, "domain")? != domain;
        }
        let row = sqlx::query("SELECT COALESCE(MAX(epoch), 0) AS epoch FROM paging_key WHERE domain = $1")
            .bind(i64::from(domain))
            .fetch_one(&mut *tx)
            .await?;
        let epoch = row.try_get::<i64, _>("epoch")? + 1;
        sqlx::query("INSERT INTO paging_key VALUES ($1, $2, $3, $4, 0, $5)")
            .bind(i64::from(domain))
            .bind(epoch)
            .bind(hex::encode(sealed))
            .bind(i64::from(is_first))
            .bind(changed)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        u32::try_from(epoch).map_err(|_| StoreError::Unreadable("epoch"))
    }

    /// Issues under every key that all live nodes have read; gives whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn issue_ready(&self, now: u64) -> Result<bool> {
        let mut tx = self.pool.begin().await?;
        // Nobody waits either for a node that was last seen when its clock was ahead: it would be there until that time has come.
        let statement =
            "SELECT COALESCE(MIN(change), 0) AS change FROM paging_node WHERE seen BETWEEN $1 AND $2";
        let row = sqlx::query(statement)
            .bind(signed(now.saturating_sub(NODE_GONE)))
            .bind(signed(now.saturating_add(NODE_GONE)))
            .fetch_one(&mut *tx)
            .await?;
        let read: i64 = row.try_get("change")?;
        let waiting =
            sqlx::query("SELECT epoch FROM paging_key WHERE issues = 0 AND retired = 0 AND changed <= $1")
                .bind(read)
                .fetch_all(&mut *tx)
                .await?;
        if waiting.is_empty() {
            return Ok(false);
        }
        let changed = next(&mut tx, "change").await?;
        sqlx::query("UPDATE paging_key SET issues = 1, changed = $1 WHERE issues = 0 AND retired = 0 AND changed <= $2")
            .bind(changed)
            .bind(read)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Retires a ticket key: devices that still sleep with its identities must come back by recovery.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for the newest of its domain, while devices are there; that of domain 0 always.
    pub async fn retire(&self, domain: u8, epoch: u32) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let changed = next(&mut tx, "change").await?;
        let row = sqlx::query(
            "SELECT COALESCE(MAX(epoch), 0) AS epoch FROM paging_key WHERE domain = $1 AND issues = 1",
        )
        .bind(i64::from(domain))
        .fetch_one(&mut *tx)
        .await?;
        if row.try_get::<i64, _>("epoch")? <= i64::from(epoch) && !is_empty(&mut tx, domain).await? {
            return Err(StoreError::Conflict(
                "the newest ticket key of a domain cannot be retired while devices are there",
            ));
        }
        let statement =
            "UPDATE paging_key SET retired = 1, sealed = '', changed = $1 WHERE domain = $2 AND epoch = $3";
        let done = sqlx::query(statement)
            .bind(changed)
            .bind(i64::from(domain))
            .bind(i64::from(epoch))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound("ticket key"));
        }
        Ok(tx.commit().await?)
    }

    /// The ticket keys that are accepted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keys(&self) -> Result<Vec<TicketKey>> {
        let rows = sqlx::query("SELECT * FROM paging_key WHERE retired = 0 ORDER BY domain, epoch")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(key).collect()
    }

    /// The last change there is, and the last order that has been given.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn latest(&self) -> Result<(u64, u32)> {
        let statement = "SELECT c.value AS change, o.value AS ord FROM paging_sequence c, paging_sequence o \
                         WHERE c.name = 'change' AND o.name = 'order'";
        let row = sqlx::query(statement).fetch_one(&self.pool).await?;
        Ok((number(&row, "change")?, number(&row, "ord")?))
    }

    /// What has changed after a change; 0 for everything. Devices come in pieces: call again until there are none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn changes(&self, after: u64) -> Result<Changes> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query("SELECT value FROM paging_sequence WHERE name = 'change'")
            .fetch_one(&mut *tx)
            .await?;
        let upto: i64 = row.try_get("value")?;
        if upto <= signed(after) {
            return Ok(Changes {
                upto: after,
                ..Changes::default()
            });
        }
        // Only up to `upto`: what is committed meanwhile comes next time.
        let rows = |statement: &'static str| sqlx::query(statement).bind(signed(after)).bind(upto);
        let devices = rows("SELECT * FROM paging_device WHERE changed > $1 AND changed <= $2")
            .fetch_all(&mut *tx)
            .await?;
        let intents = rows("SELECT * FROM paging_intent WHERE changed > $1 AND changed <= $2 ORDER BY ord")
            .fetch_all(&mut *tx)
            .await?;
        let again = rows(ahead::CHANGED).fetch_all(&mut *tx).await?;
        let news = rows("SELECT epoch FROM paging_key WHERE changed > $1 AND changed <= $2 LIMIT 1")
            .fetch_optional(&mut *tx)
            .await?;
        let keys = match news {
            Some(_) => {
                sqlx::query("SELECT * FROM paging_key WHERE retired = 0 ORDER BY domain, epoch")
                    .fetch_all(&mut *tx)
                    .await?
            }
            None => Vec::new(),
        };
        Ok(Changes {
            devices: devices.iter().map(device).collect::<Result<_>>()?,
            keys: keys.iter().map(key).collect::<Result<_>>()?,
            intents: intents
                .iter()
                .map(messages::intent)
                .chain(again.iter().map(ahead::again))
                .collect::<Result<_>>()?,
            upto: u64::try_from(upto).unwrap_or(0),
        })
    }

    /// A node says that it is there, and up to which change it has read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn see(&self, node: &Node) -> Result<()> {
        let statement = "INSERT INTO paging_node VALUES ($1, $2, $3, $4) \
                         ON CONFLICT (name) DO UPDATE SET domain = $2, seen = $3, change = $4";
        sqlx::query(statement)
            .bind(&node.name)
            .bind(i64::from(node.domain))
            .bind(signed(node.seen))
            .bind(signed(node.change))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let rows = sqlx::query("SELECT * FROM paging_node ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        let node = |row: &AnyRow| {
            Ok(Node {
                name: row.try_get("name")?,
                domain: number(row, "domain")?,
                seen: number(row, "seen")?,
                change: number(row, "change")?,
            })
        };
        rows.iter().map(node).collect()
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
