//! Campaigns, their targets, and the event log.

use sekisho_link::{Campaign, Custody, Manifest, SeId, Version, Wants};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::devices::{hex, number, parsed};
use crate::model::{
    Announced, CampaignRow, CohortCounts, Counts, Event, Failure, Grant, NewCampaign, State, Target,
    TargetState,
};
use crate::{Result, Store, StoreError};

const CAMPAIGN: &str = "SELECT c.id, c.name, c.package_id, p.target, p.version, p.key_version, p.custody, c.state, c.reason, c.rest_open, c.success_threshold, \
     c.error_threshold, c.attempts_max, length(c.delivery) AS delivery_bytes, c.delivery_sha256, COALESCE(c.announced_order, 0) AS announced_order, c.announced_until \
     FROM campaigns c JOIN packages p ON p.package_id = c.package_id";

fn announced(row: &SqliteRow) -> Result<Option<Announced>> {
    let message = Announced {
        order: number(row, "announced_order")?,
        until: number(row, "announced_until")?,
    };
    Ok((message.order != 0).then_some(message))
}

fn campaign(row: &SqliteRow) -> Result<CampaignRow> {
    let custody: u8 = number(row, "custody")?;
    let sha256: Vec<u8> = row.try_get("delivery_sha256")?;
    let package_id: &str = row.try_get("package_id")?;
    Ok(CampaignRow {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        package_id: unhex(package_id).ok_or(StoreError::Unreadable("package_id"))?,
        target: number(row, "target")?,
        version: number(row, "version")?,
        key_version: number(row, "key_version")?,
        custody: Custody::try_from(custody).map_err(|_| StoreError::Unreadable("custody"))?,
        state: parsed(row, "state")?,
        reason: row.try_get("reason")?,
        rest_open: row.try_get("rest_open")?,
        success_threshold: number(row, "success_threshold")?,
        error_threshold: number(row, "error_threshold")?,
        attempts_max: number(row, "attempts_max")?,
        delivery_bytes: number(row, "delivery_bytes")?,
        delivery_sha256: sha256
            .try_into()
            .map_err(|_| StoreError::Unreadable("delivery_sha256"))?,
        announced: announced(row)?,
    })
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 32)
        .map(u128::to_be_bytes)
}

impl Store {
    /// Makes a campaign with its targets, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Target`], [`StoreError::Database`].
    pub async fn create_campaign(&self, new: &NewCampaign, at: u64) -> Result<()> {
        let id = new.id.to_string();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO campaigns (id, name, package_id, state, rest_open, success_threshold, error_threshold, attempts_max, \
             delivery, delivery_sha256, created_at, announced_order) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0)",
        )
        .bind(&id)
        .bind(&new.name)
        .bind(hex(&new.package_id))
        .bind(State::Draft.as_str())
        .bind(new.canary == 0)
        .bind(i64::from(new.success_threshold))
        .bind(i64::from(new.error_threshold))
        .bind(i64::from(new.attempts_max))
        .bind(&new.delivery)
        .bind(&new.delivery_sha256[..])
        .bind(at.cast_signed())
        .execute(&mut *transaction)
        .await?;
        for (index, se_id) in new.targets.iter().enumerate() {
            let made = sqlx::query(
                "INSERT INTO targets (campaign, se_id, cohort, state) SELECT $1, se_id, $3, $4 FROM devices WHERE se_id = $2 ON CONFLICT DO NOTHING",
            )
            .bind(&id)
            .bind(se_id.to_string())
            .bind(i64::from(index >= new.canary))
            .bind(TargetState::Pending.as_str())
            .execute(&mut *transaction)
            .await?;
            if made.rows_affected() == 0 {
                let is_twice = new.targets[..index].contains(se_id);
                let why = if is_twice {
                    "is named twice"
                } else {
                    "is not registered"
                };
                return Err(StoreError::Target(*se_id, why));
            }
        }
        Ok(transaction.commit().await?)
    }

    /// A campaign.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn campaign(&self, id: Campaign) -> Result<CampaignRow> {
        let query = format!("{CAMPAIGN} WHERE c.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        campaign(&row.ok_or(StoreError::NotFound("campaign"))?)
    }

    /// Up to `limit` campaigns: those that run, those that are paused, then the others; of each the newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn campaigns(&self, limit: u32) -> Result<Vec<CampaignRow>> {
        // Rows are never deleted, so that rowid says which was made first within a second.
        let query = format!(
            "{CAMPAIGN} ORDER BY CASE c.state WHEN 'running' THEN 0 WHEN 'paused' THEN 1 ELSE 2 END, c.created_at DESC, c.rowid DESC LIMIT $1"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(campaign).collect()
    }

    /// How many campaigns there are.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn campaign_count(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM campaigns")
            .fetch_one(&self.pool)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// A campaign's delivery.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn delivery(&self, id: Campaign) -> Result<Vec<u8>> {
        let delivery =
            sqlx::query_scalar("SELECT delivery FROM campaigns WHERE id = $1").bind(id.to_string());
        delivery
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::NotFound("campaign"))
    }

    /// Campaigns of which a message tells, and those that run without one, each with its message: what paging tells the devices may have to change.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn to_announce(&self) -> Result<Vec<(Campaign, Option<Announced>)>> {
        let rows = sqlx::query(
            "SELECT id, announced_order, announced_until FROM campaigns WHERE announced_order > 0 OR (announced_order = 0 AND state = $1)",
        )
        .bind(State::Running.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok((parsed(row, "id")?, announced(row)?)))
            .collect()
    }

    /// Notes which paging message tells of a campaign.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn set_announced(&self, id: Campaign, message: Option<Announced>) -> Result<()> {
        sqlx::query("UPDATE campaigns SET announced_order = $1, announced_until = $2 WHERE id = $3")
            .bind(message.map_or(0, |message| i64::from(message.order)))
            .bind(message.map_or(0, |message| message.until.cast_signed()))
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Changes a campaign's state if it is one of `from`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`], [`StoreError::Database`].
    pub async fn set_campaign_state(
        &self,
        id: Campaign,
        from: &[State],
        to: State,
        reason: &str,
        at: u64,
    ) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM campaigns WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let state: State = state.ok_or(StoreError::NotFound("campaign"))?.parse()?;
        if !from.contains(&state) {
            return Err(StoreError::Conflict(
                "the campaign is not in a state in which this can be done",
            ));
        }
        sqlx::query("UPDATE campaigns SET state = $1, reason = $2 WHERE id = $3")
            .bind(to.as_str())
            .bind(reason)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO events (at, campaign, se_id, kind, detail) VALUES ($1, $2, '', $3, $4)")
            .bind(at.cast_signed())
            .bind(id.to_string())
            .bind(format!("campaign {}", to.as_str()))
            .bind(reason)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Lets the rest follow the canary cohort.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn open_rest(&self, id: Campaign, at: u64) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE campaigns SET rest_open = TRUE WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO events (at, campaign, se_id, kind, detail) VALUES ($1, $2, '', 'canary passed', '')",
        )
        .bind(at.cast_signed())
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Raises a paused campaign's error threshold by the failures that it has been paused for.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn tolerate(&self, id: Campaign, failed: u64) -> Result<()> {
        sqlx::query("UPDATE campaigns SET error_threshold = error_threshold + $1 WHERE id = $2 AND state = 'paused' AND error_threshold <= $1")
            .bind(failed.cast_signed())
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Gives another try to what was given up or set aside, and asks all that are not updated again which keys they obey.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn retry_failed(&self, id: Campaign) -> Result<u64> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE devices SET access = 'allowed' WHERE se_id IN (SELECT se_id FROM targets WHERE campaign = $1 AND state = 'failed')")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE devices SET key_version_said = 0 WHERE se_id IN (SELECT se_id FROM targets WHERE campaign = $1 AND state <> 'updated')")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let result = sqlx::query(
            "UPDATE targets SET state = 'pending', attempts = 0, refusals = 0 WHERE campaign = $1 AND state IN ('failed', 'aside')",
        )
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(result.rows_affected())
    }

    /// The oldest running campaign that wants to update this SE now, of any target or of this one. One for later keys of the design system than those
    /// that it obeys, as its receipts or its device have said, waits for these.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn offer(&self, se_id: SeId, target: Option<u8>) -> Result<Option<Campaign>> {
        let id: Option<String> = sqlx::query_scalar(
            "SELECT c.id FROM targets t JOIN campaigns c ON c.id = t.campaign JOIN packages p ON p.package_id = c.package_id JOIN devices d ON d.se_id = t.se_id \
             WHERE t.se_id = $1 AND t.state IN ('pending', 'authorised') AND c.state = 'running' AND (t.cohort = 0 OR c.rest_open) \
             AND (MAX(d.key_version, d.key_version_said) = 0 OR MAX(d.key_version, d.key_version_said) >= p.key_version) \
             AND ($2 IS NULL OR p.target = $2) ORDER BY c.created_at, c.rowid LIMIT 1",
        )
        .bind(se_id.to_string())
        .bind(target.map(i64::from))
        .fetch_optional(&self.pool)
        .await?;
        id.map(|id| id.parse().map_err(|_| StoreError::Unreadable("id")))
            .transpose()
    }

    /// An SE as a target of a campaign.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is none; [`StoreError::Database`].
    pub async fn target(&self, id: Campaign, se_id: SeId) -> Result<Target> {
        let row = sqlx::query(
            "SELECT cohort, state, attempts, refusals, version_before FROM targets WHERE campaign = $1 AND se_id = $2",
        )
        .bind(id.to_string())
        .bind(se_id.to_string())
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("target"))?;
        let version_before: Option<i64> = row.try_get("version_before")?;
        Ok(Target {
            is_canary: row.try_get::<i64, _>("cohort")? == 0,
            state: parsed(&row, "state")?,
            reports: number(&row, "attempts")?,
            refusals: number(&row, "refusals")?,
            version_before: version_before
                .map(u32::try_from)
                .transpose()
                .map_err(|_| StoreError::Unreadable("version_before"))?,
        })
    }

    /// What the authorisation of this campaign with this sequence counter was made for, if one has left.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn granted(
        &self,
        se_id: SeId,
        sequence_counter: u32,
        campaign: Campaign,
    ) -> Result<Option<Grant>> {
        let row = sqlx::query(
            "SELECT version, wants, pauses FROM authorisations WHERE se_id = $1 AND sequence_counter = $2 AND campaign = $3",
        )
        .bind(se_id.to_string())
        .bind(i64::from(sequence_counter))
        .bind(campaign.to_string())
        .fetch_optional(&self.pool)
        .await?;
        let grant = |row: &SqliteRow| {
            Ok(Grant {
                version: match number::<u8>(row, "version")? {
                    1 => Version::One,
                    2 => Version::Two,
                    _ => return Err(StoreError::Unreadable("version")),
                },
                wants: Wants(number(row, "wants")?),
                pauses: number(row, "pauses")?,
            })
        };
        row.as_ref().map(grant).transpose()
    }

    /// Whether an SE's refusal for want of the right keys can be its own fault: the package is for the keys that it obeys, no authorisation has left
    /// that would have changed them since, and another SE has proved this very package.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Database`].
    pub async fn has_the_keys(&self, se_id: SeId, campaign: Campaign) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT (p.key_version = MAX(d.key_version, $3) OR (p.key_version = 0 AND NOT EXISTS (SELECT 1 FROM packages WHERE target = $4))) \
             AND NOT EXISTS (SELECT 1 FROM authorisations a JOIN campaigns ac ON ac.id = a.campaign JOIN packages ap ON ap.package_id = ac.package_id \
             WHERE a.se_id = d.se_id AND ap.target = $4 AND ap.version > p.key_version) \
             AND EXISTS (SELECT 1 FROM campaigns oc JOIN targets o ON o.campaign = oc.id \
             WHERE oc.package_id = p.package_id AND o.state = 'updated' AND o.se_id <> d.se_id) \
             FROM campaigns c JOIN packages p ON p.package_id = c.package_id JOIN devices d ON d.se_id = $2 WHERE c.id = $1",
        )
        .bind(campaign.to_string())
        .bind(se_id.to_string())
        .bind(i64::from(Manifest::FIRST_KEY_VERSION))
        .bind(i64::from(Manifest::KEYS))
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("campaign"))
    }

    /// Counts a campaign's targets.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn counts(&self, id: Campaign) -> Result<Counts> {
        let rows = sqlx::query(
            "SELECT t.cohort, t.state, COUNT(*) AS targets, SUM(CASE WHEN t.resumed THEN 1 ELSE 0 END) AS resumed, \
             SUM(CASE WHEN t.refusals >= c.attempts_max THEN 1 ELSE 0 END) AS proved, \
             SUM(t.refusals) AS refusals, SUM(t.attempts) AS reports \
             FROM targets t JOIN campaigns c ON c.id = t.campaign WHERE t.campaign = $1 GROUP BY t.cohort, t.state",
        )
        .bind(id.to_string())
        .fetch_all(&self.pool)
        .await?;
        let mut counts = Counts::default();
        for row in &rows {
            let cohort: &mut CohortCounts = if row.try_get::<i64, _>("cohort")? == 0 {
                &mut counts.canary
            } else {
                &mut counts.rest
            };
            let targets = number(row, "targets")?;
            cohort.refusals += number::<u64>(row, "refusals")?;
            cohort.reports += number::<u64>(row, "reports")?;
            match parsed(row, "state")? {
                TargetState::Pending => cohort.pending = targets,
                TargetState::Authorised => cohort.authorised = targets,
                TargetState::Updated => {
                    cohort.updated = targets;
                    cohort.resumed = number(row, "resumed")?;
                }
                TargetState::Failed => {
                    cohort.failed = targets;
                    cohort.failed_proved = number(row, "proved")?;
                }
                TargetState::Aside => cohort.aside = targets,
            }
        }
        Ok(counts)
    }

    /// Up to `limit` targets of a campaign that were given up, or that were set aside, with what was last said of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn failures(&self, id: Campaign, state: TargetState, limit: u32) -> Result<Vec<Failure>> {
        let rows = sqlx::query(
            "SELECT t.se_id, t.attempts, t.refusals, t.refusals >= c.attempts_max AS proved, COALESCE((SELECT e.detail FROM events e \
             WHERE e.campaign = t.campaign AND e.se_id = t.se_id ORDER BY e.seq DESC LIMIT 1), '') AS detail \
             FROM targets t JOIN campaigns c ON c.id = t.campaign \
             WHERE t.campaign = $1 AND t.state = $3 ORDER BY t.se_id LIMIT $2",
        )
        .bind(id.to_string())
        .bind(i64::from(limit))
        .bind(state.as_str())
        .fetch_all(&self.pool)
        .await?;
        let failure = |row: &SqliteRow| {
            Ok(Failure {
                se_id: parsed(row, "se_id")?,
                detail: row.try_get("detail")?,
                reports: number(row, "attempts")?,
                refusals: number(row, "refusals")?,
                is_proved: row.try_get("proved")?,
            })
        };
        rows.iter().map(failure).collect()
    }

    /// Up to `limit` events, the newest first, of a campaign or of all.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn events(&self, id: Option<Campaign>, limit: u32) -> Result<Vec<Event>> {
        let rows = sqlx::query(
            "SELECT e.seq, e.at, e.campaign, COALESCE(c.name, '') AS name, e.se_id, e.kind, e.detail FROM events e LEFT JOIN campaigns c ON c.id = e.campaign \
             WHERE $1 = '' OR e.campaign = $1 ORDER BY e.seq DESC LIMIT $2",
        )
        .bind(id.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let event = |row: &SqliteRow| {
            Ok(Event {
                seq: row.try_get("seq")?,
                at: number(row, "at")?,
                campaign: row.try_get("campaign")?,
                name: row.try_get("name")?,
                se_id: row.try_get("se_id")?,
                kind: row.try_get("kind")?,
                detail: row.try_get("detail")?,
            })
        };
        rows.iter().map(event).collect()
    }
}
