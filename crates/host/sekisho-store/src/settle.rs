//! Targets that need no authorisation, since their SEs have proved to have what the package brings, or what is newer, or to obey keys that it is not for.

use sekisho_link::{Campaign, Manifest, SeId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::devices::{number, parsed};
use crate::model::TargetState;
use crate::writer::log;
use crate::{Result, Store};

/// Targets that are not over, of campaigns that are not, with what their SEs have proved of the package's part.
const OPEN: &str = "SELECT t.campaign, t.se_id, t.state, p.version, p.key_version, d.key_version AS obeyed, \
     CASE p.target WHEN $2 THEN d.key_version ELSE d.version END AS proved, \
     EXISTS (SELECT 1 FROM targets o JOIN campaigns oc ON oc.id = o.campaign \
     WHERE o.se_id = t.se_id AND o.state = 'updated' AND oc.package_id = c.package_id) AS is_same \
     FROM targets t JOIN campaigns c ON c.id = t.campaign JOIN packages p ON p.package_id = c.package_id JOIN devices d ON d.se_id = t.se_id \
     WHERE c.state IN ('running', 'paused') AND t.state IN ('pending', 'authorised', 'aside')";

/// Those whose SEs are proved to be right to refuse the package.
const PROVED: &str = "proved >= p.version OR (p.key_version > 0 AND d.key_version > p.key_version)";

/// One of them.
struct Open {
    campaign: Campaign,
    se_id: SeId,
    state: TargetState,
    /// Of the package.
    version: u32,
    /// Of the SE; 0 when it has proved none.
    proved: u32,
    /// Version of the design system's keys that the package is for; 0 when nobody knows.
    key_version: u32,
    /// Version of those that the SE has proved to obey; 0 when it has proved none.
    obeyed: u32,
    /// Whether its receipt of this very package is here.
    is_same: bool,
}

impl Open {
    fn read(row: &SqliteRow) -> Result<Self> {
        Ok(Self {
            campaign: parsed(row, "campaign")?,
            se_id: parsed(row, "se_id")?,
            state: parsed(row, "state")?,
            version: number(row, "version")?,
            proved: number(row, "proved")?,
            key_version: number(row, "key_version")?,
            obeyed: number(row, "obeyed")?,
            is_same: row.try_get("is_same")?,
        })
    }

    /// What becomes of it, the word for that in the event log, and why; `None`: it stays.
    fn settled(&self) -> Option<(TargetState, &'static str, String)> {
        let Self {
            version,
            proved,
            key_version,
            obeyed,
            ..
        } = *self;
        let to = if proved == version && self.is_same {
            let why = format!("its receipt of another campaign has proved version {version} of this package");
            (TargetState::Updated, "already there", why)
        } else if proved >= version {
            let why = format!("its SE has proved version {proved}, the package's is {version}");
            (TargetState::Aside, "set aside", why)
        } else if key_version > 0 && obeyed > key_version {
            let why = format!(
                "its SE has proved to obey keys of version {obeyed}, the package is for those of version {key_version}"
            );
            (TargetState::Aside, "set aside", why)
        } else {
            let why = "its SE has proved something else since it was set aside".to_owned();
            (TargetState::Pending, "open again", why)
        };
        let is_open = self.state != TargetState::Aside;
        let stays = to.0 == self.state || (is_open && to.0 == TargetState::Pending);
        (!stays).then_some(to)
    }
}

impl Store {
    /// Looks at all targets of a campaign that begins or goes on: those whose SEs have proved the package's version are updated, those whose SEs
    /// cannot take it any more are set aside. A canary among them gives its place to a target of the rest.
    ///
    /// # Errors
    /// [`StoreError::Database`](crate::StoreError::Database).
    pub async fn settle_campaign(&self, id: Campaign, at: u64) -> Result<()> {
        let which = format!("t.campaign = $1 AND ({PROVED})");
        self.settle(&which, &id.to_string(), at).await.map(drop)
    }

    /// Looks at all targets of an SE that has proved something new; what was set aside is open again where it may be taken now. Gives the campaigns
    /// in which something has changed.
    ///
    /// # Errors
    /// [`StoreError::Database`](crate::StoreError::Database).
    pub async fn settle_device(&self, se_id: SeId, at: u64) -> Result<Vec<Campaign>> {
        let which = format!("t.se_id = $1 AND ({PROVED} OR t.state = 'aside')");
        self.settle(&which, &se_id.to_string(), at).await
    }

    async fn settle(&self, which: &str, id: &str, at: u64) -> Result<Vec<Campaign>> {
        let query = format!("{OPEN} AND {which}");
        let open = || {
            sqlx::query(sqlx::AssertSqlSafe(query.clone()))
                .bind(id.to_owned())
                .bind(i64::from(Manifest::KEYS))
        };
        // Mostly there is nothing, which costs no transaction.
        if open().fetch_optional(&self.pool).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let rows = open().fetch_all(&mut *transaction).await?;
        let mut settled = Vec::new();
        for row in &rows {
            let open = Open::read(row)?;
            let Some((state, kind, why)) = open.settled() else {
                continue;
            };
            sqlx::query("UPDATE targets SET state = $1 WHERE campaign = $2 AND se_id = $3")
                .bind(state.as_str())
                .bind(open.campaign.to_string())
                .bind(open.se_id.to_string())
                .execute(&mut *transaction)
                .await?;
            log(&mut transaction, at, open.campaign, open.se_id, kind, &why).await?;
            settled.push((open, state));
        }
        // Behind all of them: who takes a place has not been settled.
        for (open, state) in &settled {
            if *state != TargetState::Pending {
                replace_canary(&mut transaction, open.campaign, open.se_id, at).await?;
            }
        }
        transaction.commit().await?;
        let mut campaigns: Vec<_> = settled.iter().map(|(open, _)| open.campaign).collect();
        campaigns.dedup();
        Ok(campaigns)
    }
}

/// A canary that tries nothing says nothing of the package: as long as the rest waits, the next target of it goes first in its place, if there is one.
pub(crate) async fn replace_canary(
    transaction: &mut Transaction<'_, Sqlite>,
    campaign: Campaign,
    se_id: SeId,
    at: u64,
) -> Result<()> {
    let next: Option<String> = sqlx::query_scalar(
        "SELECT n.se_id FROM campaigns c JOIN targets t ON t.campaign = c.id JOIN targets n ON n.campaign = c.id \
         WHERE c.id = $1 AND NOT c.rest_open AND t.se_id = $2 AND t.cohort = 0 AND n.cohort = 1 AND n.state = 'pending' \
         ORDER BY n.se_id LIMIT 1",
    )
    .bind(campaign.to_string())
    .bind(se_id.to_string())
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(next) = next else { return Ok(()) };
    sqlx::query("UPDATE targets SET cohort = 1 - cohort WHERE campaign = $1 AND se_id IN ($2, $3)")
        .bind(campaign.to_string())
        .bind(se_id.to_string())
        .bind(&next)
        .execute(&mut **transaction)
        .await?;
    let next = next.parse().map_err(|_| crate::StoreError::Unreadable("se_id"))?;
    let why = format!("goes first in the place of {se_id}, which has nothing to try");
    log(transaction, at, campaign, next, "canary", &why).await
}
