//! ST, what devices report: only the SE's own word counts for it or against it (broadcast update, 4.6).

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use sekisho_hsm::is_of;
use sekisho_link::{Delivery, Outcome, PSe, Proof, Receipt, Refusal, SeId, Status, Verdict, Version};
use sekisho_store::{DeviceRow, Report, Target, TargetState, Word};
use std::sync::Arc;

use crate::app::{App, now};
use crate::device::{encoded, message, of_url, stored};
use crate::metrics::Metrics;
use crate::policy;
use crate::problem::Problem;
use crate::receipts::{self, Expected, ExpectedRefusal};

pub(crate) async fn status(
    version: Version,
    app: Arc<App>,
    se_id: String,
    request: Request,
) -> Result<Response, Problem> {
    let (se_id, body) = message(&app, &se_id, request).await?;
    let status =
        Status::decode(&body).map_err(|error| Problem::bad_request(format!("this is no ST: {error}")))?;
    of_url((status.version, status.se_id), (version, se_id))?;
    let target = app.store.target(status.campaign, se_id).await?;
    let report = judge(&app, &status, target).await?;
    let proves_version = matches!(report.word, Word::Updated { .. });
    let standing = app.store.report(report).await?;
    app.judge(status.campaign).await?;
    if proves_version {
        app.settle(se_id).await?;
    }
    let verdict = policy::verdict(&standing);
    Ok(encoded::<{ Verdict::LEN }>(|out| verdict.encode(out)))
}

/// What the device says of it, in words.
fn said(status: &Status) -> String {
    let sw = status.sw;
    match status.outcome {
        Outcome::Refused => format!(
            "the device says that the SE refused step {} with {sw}, {}",
            status.step,
            sw.meaning()
        ),
        Outcome::DeviceFailed => "the device failed before the SE answered".to_owned(),
        Outcome::Activated | Outcome::Discarded => "the device says it is done".to_owned(),
    }
}

/// How the words begin that say what an SE has refused, as it says itself under its key.
pub const SE_REFUSED: &str = "its SE refused";

/// What the SE refused, in words.
fn refused(refusal: &Refusal, speaks_against_se: bool) -> String {
    let what = match refusal.action {
        sekisho_link::codes::ACTION_LOAD => format!("block {}", refusal.block),
        _ => "to activate".to_owned(),
    };
    let proved = if speaks_against_se {
        "proved"
    } else {
        "it says so itself, and its device, the way or a package for other keys can have brought it about"
    };
    format!(
        "{SE_REFUSED} {what} with {}, {}; {proved}",
        refusal.sw,
        refusal.sw.meaning()
    )
}

/// What a status is worth.
async fn judge(app: &App, status: &Status, target: Target) -> Result<Report, Problem> {
    let row = app.store.campaign(status.campaign).await?;
    let report = |word, detail| Report {
        se_id: status.se_id,
        campaign: status.campaign,
        word,
        attempts_max: row.attempts_max,
        detail,
        at: now(),
    };
    // It is proved, and whatever is said later changes nothing.
    if target.state == TargetState::Updated {
        return Ok(report(Word::Nothing, String::new()));
    }
    let no_proof = match status.proof {
        None => None,
        Some(Proof::Receipt(receipt)) => match verify_receipt(app, status, &receipt, &target).await? {
            Ok(word) => {
                Metrics::add(&app.metrics.receipts, 1);
                let detail = format!("version {} to {}", receipt.previous_version, receipt.version);
                return Ok(report(word, detail));
            }
            Err(why) => Some(format!("its receipt is no proof: {why}")),
        },
        Some(Proof::Refusal(refusal)) => match verify_refusal(app, status, &refusal).await? {
            Ok(speaks_against_se) => {
                Metrics::add(&app.metrics.refusals, 1);
                let word = Word::Refused {
                    sequence_counter: refusal.sequence_counter,
                    speaks_against_se,
                };
                return Ok(report(word, refused(&refusal, speaks_against_se)));
            }
            Err(why) => Some(format!("its refusal is no proof: {why}")),
        },
    };
    if no_proof.is_some() {
        Metrics::add(&app.metrics.false_receipts, 1);
    }
    Metrics::add(&app.metrics.failures, 1);
    let detail = match no_proof {
        Some(why) => format!("{}; not proved: {why}", said(status)),
        None => format!("{}; not proved", said(status)),
    };
    Ok(report(Word::Failed, detail))
}

/// Whether a proof's MAC is this SE's.
async fn is_its_own(app: &App, se_id: SeId, proof: Proof) -> Result<(bool, DeviceRow), Problem> {
    let device = app.store.device(se_id).await?;
    Ok((is_of(&*app.hsm, se_id, device.kvn, &proof)?, device))
}

const WRONG_MAC: &str = "its MAC is wrong";

/// Whether a receipt is this SE's and proves this campaign's update; if not, why.
async fn verify_receipt(
    app: &App,
    status: &Status,
    receipt: &Receipt,
    target: &Target,
) -> Result<Result<Word, &'static str>, Problem> {
    let (is_its_own, device) = is_its_own(app, status.se_id, Proof::Receipt(*receipt)).await?;
    if !is_its_own {
        return Ok(Err(WRONG_MAC));
    }
    let bulk = app.bulk(status.campaign).await?;
    let manifest = &stored(&bulk.package)?.source.manifest;
    let proved = device.proved_version(manifest.target);
    let expected = Expected {
        campaign: status.campaign,
        manifest,
        version_before: target.version_before.or(proved),
    };
    Ok(receipts::check(receipt, &expected).map(|()| Word::Updated {
        target: receipt.target,
        version: receipt.version,
    }))
}

/// Commands of a campaign's bulk.
fn commands(delivery: &[u8]) -> Result<usize, Problem> {
    let p_se = Delivery::decode(delivery).and_then(|delivery| PSe::decode(delivery.parts.p_se));
    p_se.map(|p_se| p_se.len()).map_err(|error| {
        tracing::error!(%error, "stored delivery");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "the stored delivery is unreadable",
        )
    })
}

/// Whether a refusal is this SE's and of an authorisation of this campaign, and then whether it speaks against the SE; if not, why. The store counts
/// it once.
async fn verify_refusal(
    app: &App,
    status: &Status,
    refusal: &Refusal,
) -> Result<Result<bool, &'static str>, Problem> {
    let (is_its_own, _) = is_its_own(app, status.se_id, Proof::Refusal(*refusal)).await?;
    if !is_its_own {
        return Ok(Err(WRONG_MAC));
    }
    let issued = app
        .store
        .granted(status.se_id, refusal.sequence_counter, status.campaign)
        .await?;
    let bulk = app.bulk(status.campaign).await?;
    let manifest = &stored(&bulk.package)?.source.manifest;
    let expected = ExpectedRefusal {
        campaign: status.campaign,
        manifest,
        commands: commands(&bulk.delivery)?,
        has_the_keys: app.store.has_the_keys(status.se_id, status.campaign).await?,
    };
    Ok(receipts::check_refusal(refusal, &expected, issued))
}
