//! The writer of the device endpoint: one transaction for all that waits, each answered after the commit.

use sekisho_link::{Campaign, SeId};
use sqlx::sqlite::SqlitePool;
use sqlx::{Row, Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::model::{Issue, Issued, Report, State, TargetState};
use crate::{Result, Store, StoreError};

/// Writes in one transaction at most.
const BATCH: usize = 512;
/// Writes that may wait.
const QUEUE: usize = 4096;

enum Work {
    Issue(Issue, oneshot::Sender<Result<Issued>>),
    Report(Report, oneshot::Sender<Result<()>>),
}

/// What is to be told when the transaction is durable.
enum Answer {
    Issued(oneshot::Sender<Result<Issued>>, Issued),
    Reported(oneshot::Sender<Result<()>>),
}

/// A way to the writer's task, which ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::Sender<Work>);

impl Writer {
    pub(crate) fn start(pool: SqlitePool) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(pool, receiver));
        Self(sender)
    }
}

impl Store {
    /// Makes an authorisation durable before it leaves. Asked again for the same one, gives the bytes that left the first time.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Closed`]: nothing may leave then.
    pub async fn issue(&self, issue: Issue) -> Result<Issued> {
        let (sender, answer) = oneshot::channel();
        self.writer
            .0
            .send(Work::Issue(issue, sender))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Records what a device reported.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Closed`].
    pub async fn report(&self, report: Report) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        self.writer
            .0
            .send(Work::Report(report, sender))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn run(pool: SqlitePool, mut receiver: mpsc::Receiver<Work>) {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let result = write(&pool, batch.drain(..), &mut answers).await;
        // A sender that is gone has lost interest; the write stands.
        for answer in answers {
            match (answer, &result) {
                (Answer::Issued(sender, issued), Ok(())) => drop(sender.send(Ok(issued))),
                (Answer::Reported(sender), Ok(())) => drop(sender.send(Ok(()))),
                // Dropped without an answer, the senders of a failed batch read `Closed`.
                (_, Err(_)) => {}
            }
        }
    }
}

async fn write(
    pool: &SqlitePool,
    batch: impl Iterator<Item = Work>,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for work in batch {
        answers.push(match work {
            Work::Issue(issue, sender) => Answer::Issued(sender, issue_one(&mut transaction, &issue).await?),
            Work::Report(report, sender) => {
                report_one(&mut transaction, &report).await?;
                Answer::Reported(sender)
            }
        });
    }
    Ok(transaction.commit().await?)
}

async fn issue_one(transaction: &mut Transaction<'_, Sqlite>, issue: &Issue) -> Result<Issued> {
    let (se_id, campaign) = (issue.se_id.to_string(), issue.campaign.to_string());
    // Asked in the transaction that records it: an abort that has been answered lets nothing leave any more.
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM campaigns WHERE id = $1")
        .bind(&campaign)
        .fetch_optional(&mut **transaction)
        .await?;
    if state.as_deref() != Some(State::Running.as_str()) {
        return Ok(Issued::NotRunning);
    }
    let known = sqlx::query(
        "SELECT campaign, splice, bytes FROM authorisations WHERE se_id = $1 AND sequence_counter = $2",
    )
    .bind(&se_id)
    .bind(i64::from(issue.sequence_counter))
    .fetch_optional(&mut **transaction)
    .await?;
    if let Some(row) = known {
        let is_same = row.get::<String, _>(0) == campaign && row.get::<i64, _>(1) == i64::from(issue.splice);
        if !is_same {
            return Ok(Issued::CounterUsed);
        }
        note_version(transaction, issue).await?;
        return Ok(Issued::Leaves(row.get(2)));
    }
    sqlx::query("INSERT INTO authorisations (se_id, sequence_counter, campaign, splice, bytes) VALUES ($1, $2, $3, $4, $5)")
        .bind(&se_id)
        .bind(i64::from(issue.sequence_counter))
        .bind(&campaign)
        .bind(i64::from(issue.splice))
        .bind(&issue.bytes)
        .execute(&mut **transaction)
        .await?;
    sqlx::query("UPDATE targets SET state = $1, resumed = resumed OR $2 WHERE campaign = $3 AND se_id = $4 AND state IN ('pending', 'authorised')")
        .bind(TargetState::Authorised.as_str())
        .bind(issue.resumes)
        .bind(&campaign)
        .bind(&se_id)
        .execute(&mut **transaction)
        .await?;
    note_version(transaction, issue).await?;
    let detail = format!("counter {}, {} bytes", issue.sequence_counter, issue.bytes.len());
    log(
        transaction,
        issue.at,
        issue.campaign,
        issue.se_id,
        if issue.resumes { "resumed" } else { "authorised" },
        &detail,
    )
    .await?;
    Ok(Issued::Leaves(issue.bytes.clone()))
}

/// What the SE's receipt will have to call the previous version.
async fn note_version(transaction: &mut Transaction<'_, Sqlite>, issue: &Issue) -> Result<()> {
    let Some(version) = issue.version_before else {
        return Ok(());
    };
    sqlx::query(
        "UPDATE targets SET version_before = $1 WHERE campaign = $2 AND se_id = $3 AND state <> 'updated'",
    )
    .bind(i64::from(version))
    .bind(issue.campaign.to_string())
    .bind(issue.se_id.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn report_one(transaction: &mut Transaction<'_, Sqlite>, report: &Report) -> Result<()> {
    let (se_id, campaign) = (report.se_id.to_string(), report.campaign.to_string());
    // An update that is proved stays so, whatever is reported later.
    sqlx::query("UPDATE targets SET state = $1, attempts = attempts + $2 WHERE campaign = $3 AND se_id = $4 AND state <> 'updated'")
        .bind(report.state.as_str())
        .bind(i64::from(report.is_failure))
        .bind(&campaign)
        .bind(&se_id)
        .execute(&mut **transaction)
        .await?;
    if let Some(version) = report.version {
        sqlx::query("UPDATE devices SET version = $1, access = 'allowed' WHERE se_id = $2")
            .bind(i64::from(version))
            .bind(&se_id)
            .execute(&mut **transaction)
            .await?;
    }
    if report.blocks {
        sqlx::query("UPDATE devices SET access = 'blocked' WHERE se_id = $1")
            .bind(&se_id)
            .execute(&mut **transaction)
            .await?;
    }
    log(
        transaction,
        report.at,
        report.campaign,
        report.se_id,
        report.kind,
        &report.detail,
    )
    .await
}

async fn log(
    transaction: &mut Transaction<'_, Sqlite>,
    at: u64,
    campaign: Campaign,
    se_id: SeId,
    kind: &str,
    detail: &str,
) -> Result<()> {
    sqlx::query("INSERT INTO events (at, campaign, se_id, kind, detail) VALUES ($1, $2, $3, $4, $5)")
        .bind(at.cast_signed())
        .bind(campaign.to_string())
        .bind(se_id.to_string())
        .bind(kind)
        .bind(detail)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
