//! Devices and packages.

use sekisho_link::{Campaign, Manifest, SeId};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, Transaction};

use crate::model::{Access, DeviceRow, NewPackage};
use crate::writer::log;
use crate::{Result, Store, StoreError};

/// Reads an unsigned number that the schema keeps in 64 bits.
pub(crate) fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T> {
    T::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Unreadable(column))
}

/// Reads an identifier.
pub(crate) fn parsed<T: std::str::FromStr>(row: &SqliteRow, column: &'static str) -> Result<T> {
    row.try_get::<&str, _>(column)?
        .parse()
        .map_err(|_| StoreError::Unreadable(column))
}

fn device(row: &SqliteRow) -> Result<DeviceRow> {
    Ok(DeviceRow {
        se_id: parsed(row, "se_id")?,
        kvn: number(row, "kvn")?,
        access: parsed(row, "access")?,
        version: number(row, "version")?,
        key_version: number(row, "key_version")?,
        key_version_said: number(row, "key_version_said")?,
    })
}

const DEVICE: &str = "SELECT se_id, kvn, access, version, key_version, key_version_said FROM devices";

impl Store {
    /// Registers devices, all or none; those that are known stay as they are. Gives how many are new.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn register(&self, devices: &[(SeId, u8)], at: u64) -> Result<u64> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut new = 0;
        for (se_id, kvn) in devices {
            new += sqlx::query("INSERT INTO devices (se_id, kvn, access, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (se_id) DO NOTHING")
                .bind(se_id.to_string())
                .bind(i64::from(*kvn))
                .bind(Access::Allowed.as_str())
                .bind(at.cast_signed())
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        }
        transaction.commit().await?;
        Ok(new)
    }

    /// A device.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn device(&self, se_id: SeId) -> Result<DeviceRow> {
        let query = format!("{DEVICE} WHERE se_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(se_id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        device(&row.ok_or(StoreError::NotFound("device"))?)
    }

    /// Up to `limit` devices behind `after`, in the order of their ids: all, or those that are taken to obey this version of the design system's keys.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn devices(
        &self,
        after: Option<SeId>,
        key_version: Option<u32>,
        limit: u32,
    ) -> Result<Vec<DeviceRow>> {
        let which = match key_version {
            None => "",
            // Those that have proved none obey the first.
            Some(Manifest::FIRST_KEY_VERSION) => " AND key_version IN ($3, 0)",
            Some(_) => " AND key_version = $3",
        };
        let query = format!("{DEVICE} WHERE se_id > $1{which} ORDER BY se_id LIMIT $2");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(after.map(|se_id| se_id.to_string()).unwrap_or_default())
            .bind(i64::from(limit));
        if let Some(version) = key_version {
            query = query.bind(i64::from(version));
        }
        query.fetch_all(&self.pool).await?.iter().map(device).collect()
    }

    /// How many devices are taken to obey which version of the design system's keys, by version. It is counted as it changes, not here.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn key_versions(&self) -> Result<Vec<(u32, u64)>> {
        let rows = sqlx::query(
            "SELECT MAX(key_version, $1) AS obeyed, SUM(devices) AS devices FROM key_version_counts WHERE devices > 0 GROUP BY obeyed ORDER BY obeyed",
        )
        .bind(i64::from(Manifest::FIRST_KEY_VERSION))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok((number(row, "obeyed")?, number(row, "devices")?)))
            .collect()
    }

    /// Takes another SCP03 key set for the SE's: its keys have been rotated.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn set_kvn(&self, se_id: SeId, kvn: u8) -> Result<()> {
        let query =
            sqlx::query("UPDATE devices SET kvn = $1, kvn_said = 0 WHERE se_id = $2").bind(i64::from(kvn));
        self.change_device(query, se_id).await
    }

    /// Logs that a device says another SCP03 key set of its SE than is known here: once for each that it says, until [`Store::set_kvn`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn note_kvn(
        &self,
        se_id: SeId,
        campaign: Campaign,
        said: u8,
        detail: &str,
        at: u64,
    ) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let noted = sqlx::query("UPDATE devices SET kvn_said = $1 WHERE se_id = $2 AND kvn_said <> $1")
            .bind(i64::from(said))
            .bind(se_id.to_string())
            .execute(&mut *transaction)
            .await?;
        if noted.rows_affected() > 0 {
            log(&mut transaction, at, campaign, se_id, "key-set", detail).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Lifts a block.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn set_access(&self, se_id: SeId, access: Access) -> Result<()> {
        let query = sqlx::query("UPDATE devices SET access = $1 WHERE se_id = $2").bind(access.as_str());
        self.change_device(query, se_id).await
    }

    /// Runs an update of one device, whose id is its last parameter.
    async fn change_device(&self, query: Query<'_, Sqlite, SqliteArguments>, se_id: SeId) -> Result<()> {
        let result = query.bind(se_id.to_string()).execute(&self.pool).await?;
        if result.rows_affected() == 0 {
            Err(StoreError::NotFound("device"))
        } else {
            Ok(())
        }
    }

    /// Keeps a package. One that is there already stays, but for what is said of its keys. Gives the version of the design system's keys that it is taken
    /// to be for: what is said; else that of the designer's last package; else, of a key change, the version before its own; else, of a designer of whom
    /// nobody knows, what the highest key change leads to; 0, if there is none. What the designer of a key change has signed before is for its keys too.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another package has its id; [`StoreError::Database`].
    pub async fn add_package(&self, package: &NewPackage<'_>, at: u64) -> Result<u32> {
        let id = hex(&package.package_id);
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let known = sqlx::query("SELECT bytes, key_version FROM packages WHERE package_id = $1")
            .bind(&id)
            .fetch_optional(&mut *transaction)
            .await?;
        let known = match known {
            Some(row) if row.try_get::<&[u8], _>("bytes")? == package.bytes => number(&row, "key_version")?,
            Some(_) => return Err(StoreError::Conflict("another package has this package-id")),
            None => {
                sqlx::query(
                    "INSERT INTO packages (package_id, target, version, custody, bytes, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(&id)
                .bind(i64::from(package.target))
                .bind(i64::from(package.version))
                .bind(package.custody as i64)
                .bind(package.bytes)
                .bind(at.cast_signed())
                .execute(&mut *transaction)
                .await?;
                0
            }
        };
        let key_version = match package.key_version {
            Some(said) => said,
            None if known > 0 => known,
            None => probable_key_version(&mut transaction, package).await?,
        };
        sqlx::query("UPDATE packages SET designer = $1, key_version = $2 WHERE package_id = $3")
            .bind(hex(&package.designer))
            .bind(i64::from(key_version))
            .bind(&id)
            .execute(&mut *transaction)
            .await?;
        if package.target == Manifest::KEYS {
            // Whoever has signed it is the designer of the keys that it is for.
            sqlx::query("UPDATE packages SET key_version = $1 WHERE designer = $2 AND key_version = 0")
                .bind(i64::from(key_version))
                .bind(hex(&package.designer))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(key_version)
    }

    /// Notes which of the design system's keys a device says that its SE obeys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn note_key_version(&self, se_id: SeId, said: u32) -> Result<()> {
        let query =
            sqlx::query("UPDATE devices SET key_version_said = $1 WHERE se_id = $2").bind(i64::from(said));
        self.change_device(query, se_id).await
    }

    /// A package's bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn package(&self, package_id: [u8; 16]) -> Result<Vec<u8>> {
        let bytes =
            sqlx::query_scalar("SELECT bytes FROM packages WHERE package_id = $1").bind(hex(&package_id));
        bytes
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::NotFound("package"))
    }
}

/// For which keys a package is, if nobody says it; 0: nobody knows ([`Store::add_package`]).
async fn probable_key_version(
    transaction: &mut Transaction<'_, Sqlite>,
    package: &NewPackage<'_>,
) -> Result<u32> {
    let below = if package.target == Manifest::KEYS {
        package.version
    } else {
        u32::MAX
    };
    let of_designer = sqlx::query_scalar(
        "SELECT key_version FROM packages WHERE designer = $1 AND key_version BETWEEN 1 AND $2 - 1 ORDER BY created_at DESC, rowid DESC LIMIT 1",
    );
    let of_designer: Option<i64> = of_designer
        .bind(hex(&package.designer))
        .bind(i64::from(below))
        .fetch_optional(&mut **transaction)
        .await?;
    let of_designer = of_designer
        .map(u32::try_from)
        .transpose()
        .map_err(|_| StoreError::Unreadable("key_version"))?;
    if package.target != Manifest::KEYS {
        let led_to: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM packages WHERE target = $1")
            .bind(i64::from(Manifest::KEYS))
            .fetch_one(&mut **transaction)
            .await?;
        let led_to = u32::try_from(led_to.unwrap_or(0)).map_err(|_| StoreError::Unreadable("version"))?;
        return Ok(of_designer.unwrap_or(led_to));
    }
    Ok(of_designer.unwrap_or_else(|| below.saturating_sub(1).max(Manifest::FIRST_KEY_VERSION)))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
