//! The writer of the device endpoint: one transaction for all that waits, each answered after the commit.

use sekisho_link::{Campaign, Manifest, SeId};
use sqlx::sqlite::SqlitePool;
use sqlx::{Row, Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::devices::{number, parsed};
use crate::model::{Access, Grant, Issue, Issued, Report, Standing, State, TargetState, Word};
use crate::settle::replace_canary;
use crate::{Result, Store, StoreError};

/// Writes in one transaction at most.
const BATCH: usize = 512;
/// Writes that may wait.
const QUEUE: usize = 4096;

enum Work {
    Issue(Issue, oneshot::Sender<Result<Issued>>),
    Report(Report, oneshot::Sender<Result<Standing>>),
}

/// What is to be told when the transaction is durable.
enum Answer {
    Issued(oneshot::Sender<Result<Issued>>, Issued),
    Reported(oneshot::Sender<Result<Standing>>, Standing),
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

    /// Records what a device reported, and says how its target stands from now on.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Closed`].
    pub async fn report(&self, report: Report) -> Result<Standing> {
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
        if let Err(error) = &result {
            tracing::error!(%error, "database: nothing of {} writes is kept", answers.len().max(1));
        }
        // A sender that is gone has lost interest; the write stands.
        for answer in answers {
            match (answer, &result) {
                (Answer::Issued(sender, issued), Ok(())) => drop(sender.send(Ok(issued))),
                (Answer::Reported(sender, standing), Ok(())) => drop(sender.send(Ok(standing))),
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
                Answer::Reported(sender, report_one(&mut transaction, &report).await?)
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
        "SELECT campaign, version, wants, pauses, bytes FROM authorisations WHERE se_id = $1 AND sequence_counter = $2",
    )
    .bind(&se_id)
    .bind(i64::from(issue.sequence_counter))
    .fetch_optional(&mut **transaction)
    .await?;
    if let Some(row) = known {
        let is_same =
            row.get::<String, _>(0) == campaign && (1..4).map(|at| row.get::<i64, _>(at)).eq(grant(issue));
        if !is_same {
            return Ok(Issued::CounterUsed);
        }
        note_said(transaction, issue).await?;
        return Ok(Issued::Leaves(row.get(4)));
    }
    let [version, wants, pauses] = grant(issue);
    sqlx::query(
        "INSERT INTO authorisations (se_id, sequence_counter, campaign, version, wants, pauses, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&se_id)
    .bind(i64::from(issue.sequence_counter))
    .bind(&campaign)
    .bind(version)
    .bind(wants)
    .bind(pauses)
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
    note_said(transaction, issue).await?;
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

/// What an authorisation is made for, as it stands in its row.
fn grant(issue: &Issue) -> [i64; 3] {
    let Grant {
        version,
        wants,
        pauses,
    } = issue.grant;
    [i64::from(version as u8), wants.0.into(), pauses.into()]
}

/// What the SE's receipt will have to call the previous version; and which keys its device says it obeys.
async fn note_said(transaction: &mut Transaction<'_, Sqlite>, issue: &Issue) -> Result<()> {
    if let Some(version) = issue.version_before {
        sqlx::query(
            "UPDATE targets SET version_before = $1 WHERE campaign = $2 AND se_id = $3 AND state <> 'updated'",
        )
        .bind(i64::from(version))
        .bind(issue.campaign.to_string())
        .bind(issue.se_id.to_string())
        .execute(&mut **transaction)
        .await?;
    }
    if let Some(version) = issue.key_version_said {
        sqlx::query("UPDATE devices SET key_version_said = $1 WHERE se_id = $2 AND key_version_said <> $1")
            .bind(i64::from(version))
            .bind(issue.se_id.to_string())
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// How a target stands.
async fn standing(transaction: &mut Transaction<'_, Sqlite>, report: &Report) -> Result<Standing> {
    let row = sqlx::query(
        "SELECT t.state, t.attempts, t.refusals, d.access FROM targets t JOIN devices d ON d.se_id = t.se_id \
         WHERE t.campaign = $1 AND t.se_id = $2",
    )
    .bind(report.campaign.to_string())
    .bind(report.se_id.to_string())
    .fetch_optional(&mut **transaction)
    .await?
    .ok_or(StoreError::NotFound("target"))?;
    Ok(Standing {
        state: parsed(&row, "state")?,
        reports: number(&row, "attempts")?,
        refusals: number(&row, "refusals")?,
        access: parsed(&row, "access")?,
    })
}

/// Whether a refusal is the first of an authorisation of this campaign, which it is from then on no more.
async fn count_refusal(
    transaction: &mut Transaction<'_, Sqlite>,
    report: &Report,
    sequence_counter: u32,
) -> Result<bool> {
    let counted = sqlx::query(
        "UPDATE authorisations SET refused = TRUE WHERE se_id = $1 AND sequence_counter = $2 AND campaign = $3 AND NOT refused",
    )
    .bind(report.se_id.to_string())
    .bind(i64::from(sequence_counter))
    .bind(report.campaign.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(counted.rows_affected() > 0)
}

/// What a report makes of a target's standing, and the word for it in the event log.
async fn judged(
    transaction: &mut Transaction<'_, Sqlite>,
    report: &Report,
    before: Standing,
) -> Result<(Standing, &'static str)> {
    use TargetState::{Aside, Authorised, Failed, Pending, Updated};
    let given_up = |failures: u32| failures >= report.attempts_max;
    let state = |failures| if given_up(failures) { Failed } else { Authorised };
    Ok(match (report.word, before.state) {
        // An update that is proved stays so, whatever is reported later.
        (_, Updated) => (before, "repeated"),
        (Word::Updated { .. }, _) => {
            let now = Standing {
                state: Updated,
                access: Access::Allowed,
                ..before
            };
            (now, "updated")
        }
        // So does what was given up or set aside, until somebody gives it another try.
        (_, Failed | Aside) => (before, "repeated"),
        (Word::Aside, _) => {
            let now = Standing {
                state: Aside,
                ..before
            };
            (now, "set aside")
        }
        (Word::Nothing, _) | (Word::Failed, Pending) => (before, "unasked"),
        (Word::Refused { sequence_counter, .. }, _)
            if !count_refusal(transaction, report, sequence_counter).await? =>
        {
            (before, "repeated")
        }
        (
            Word::Refused {
                speaks_against_se: true,
                ..
            },
            _,
        ) => {
            let refusals = before.refusals.saturating_add(1);
            let is_over = given_up(refusals);
            let now = Standing {
                state: state(refusals),
                refusals,
                access: if is_over { Access::Blocked } else { before.access },
                ..before
            };
            (now, if is_over { "failed" } else { "refused" })
        }
        (Word::Failed | Word::Refused { .. }, _) => {
            let reports = before.reports.saturating_add(1);
            let now = Standing {
                state: state(reports),
                reports,
                ..before
            };
            (now, if given_up(reports) { "failed" } else { "reported" })
        }
        (Word::Unfit, _) => {
            let now = Standing {
                state: Failed,
                ..before
            };
            (now, "failed")
        }
    })
}

async fn report_one(transaction: &mut Transaction<'_, Sqlite>, report: &Report) -> Result<Standing> {
    let se_id = report.se_id.to_string();
    let before = standing(transaction, report).await?;
    let (now, kind) = judged(transaction, report, before).await?;
    if now != before {
        sqlx::query(
            "UPDATE targets SET state = $1, attempts = $2, refusals = $3 WHERE campaign = $4 AND se_id = $5",
        )
        .bind(now.state.as_str())
        .bind(i64::from(now.reports))
        .bind(i64::from(now.refusals))
        .bind(report.campaign.to_string())
        .bind(&se_id)
        .execute(&mut **transaction)
        .await?;
        sqlx::query("UPDATE devices SET access = $1 WHERE se_id = $2 AND access <> $1")
            .bind(now.access.as_str())
            .bind(&se_id)
            .execute(&mut **transaction)
            .await?;
    }
    if let (Word::Updated { target, version }, "updated") = (report.word, kind) {
        let column = if target == Manifest::KEYS {
            "key_version"
        } else {
            "version"
        };
        // An SE never goes back: a receipt that comes late does not either.
        let query = format!("UPDATE devices SET {column} = MAX({column}, $1) WHERE se_id = $2");
        sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(i64::from(version))
            .bind(&se_id)
            .execute(&mut **transaction)
            .await?;
    }
    log(
        transaction,
        report.at,
        report.campaign,
        report.se_id,
        kind,
        &report.detail,
    )
    .await?;
    if kind == "set aside" {
        replace_canary(transaction, report.campaign, report.se_id, report.at).await?;
    }
    Ok(now)
}

pub(crate) async fn log(
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
