//! The device endpoint (broadcast update, section 5).

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sekisho_apdu::Writer;
use sekisho_hsm::{AuthoriseRequest, HsmError, authorise, is_of};
use sekisho_link::{
    Access, Campaign, Equ, Manifest, Offer, Outcome, Package, Proof, Receipt, SeId, Staging, Status, Verdict,
    Version, Wants,
};
use sekisho_store::{
    Access as DeviceAccess, Issue, Issued, Report, State as CampaignState, Target, TargetState,
};
use std::sync::Arc;

use crate::app::{App, now};
use crate::metrics::Metrics;
use crate::policy;
use crate::problem::Problem;
use crate::ranges;
use crate::receipts::{self, Expected};

type Shared = State<Arc<App>>;

/// The routes.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/device/v1/{se_id}/offer", get(offer))
        .route("/device/v1/deliveries/{campaign}", get(delivery))
        .route("/device/v1/{se_id}/equ", post(equ))
        .route("/device/v1/{se_id}/status", post(status))
        .merge(crate::admin_paging::device_routes())
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not found",
                "no such resource; see the specification, section 5",
            )
        })
        .with_state(app)
}

pub(crate) fn binary(bytes: Vec<u8>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        )],
        bytes,
    )
        .into_response()
}

fn encoded<const N: usize>(
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), sekisho_link::BufferFull>,
) -> Response {
    let mut buf = [0; N];
    let mut out = Writer::new(&mut buf);
    match write(&mut out) {
        Ok(()) => binary(out.written().to_vec()),
        Err(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "answer too long",
        )
        .into_response(),
    }
}

async fn offer(
    State(app): Shared,
    Path(se_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let se_id = app.device(&se_id, &headers)?;
    if app.store.device(se_id).await?.access == DeviceAccess::Blocked {
        return Err(Problem::forbidden(
            "this device is blocked; an administrator can lift it",
        ));
    }
    let Some(campaign) = app.store.offer(se_id).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let row = app.store.campaign(campaign).await?;
    let offer = Offer {
        version: Version::One,
        campaign,
        target: Manifest::OS_PART,
        bytes: row.delivery_bytes,
        sha256: row.delivery_sha256,
    };
    Ok(encoded::<{ Offer::MAX_LEN }>(|out| offer.encode(out)))
}

async fn delivery(
    State(app): Shared,
    Path(campaign): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let campaign: Campaign = campaign
        .parse()
        .map_err(|_| Problem::bad_request("a campaign has 16 hexadecimal digits"))?;
    let bulk = app.bulk(campaign).await?;
    let response = ranges::respond(&headers, &bulk.etag, &bulk.delivery);
    let sent = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    Metrics::add(&app.metrics.delivery_bytes, sent.unwrap_or(0));
    Ok(response)
}

/// May this SE have an authorisation of this campaign now?
async fn admit(app: &App, campaign: Campaign, se_id: SeId) -> Result<u8, Problem> {
    let device = app.store.device(se_id).await?;
    if device.access == DeviceAccess::Blocked {
        return Err(Problem::forbidden(
            "this device is blocked; an administrator can lift it",
        ));
    }
    let row = app.store.campaign(campaign).await?;
    let target = app
        .store
        .target(campaign, se_id)
        .await
        .map_err(|error| match error {
            sekisho_store::StoreError::NotFound(_) => Problem::forbidden("this SE is not in the campaign"),
            error => error.into(),
        })?;
    match (row.state, target) {
        (CampaignState::Aborted, _) => Err(Problem::forbidden("the campaign has been aborted")),
        (CampaignState::Done, _)
        | (
            _,
            Target {
                state: TargetState::Updated | TargetState::Failed,
                ..
            },
        ) => Err(Problem::forbidden("the campaign is over for this SE")),
        (CampaignState::Running, target) if target.is_canary || row.rest_open => Ok(device.kvn),
        _ => Err(Problem::not_yet(30, "the campaign is not open for this SE yet")),
    }
}

/// These URLs speak version 1.
fn first_version(version: Version) -> Result<(), Problem> {
    match version {
        Version::One => Ok(()),
        Version::Two => Err(Problem::bad_request("this URL takes messages of version 1")),
    }
}

async fn equ(
    State(app): Shared,
    Path(se_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let se_id = app.device(&se_id, &headers)?;
    let equ = Equ::decode(&body).map_err(|error| Problem::bad_request(format!("this is no EQU: {error}")))?;
    first_version(equ.version)?;
    if equ.se_id != se_id {
        return Err(Problem::bad_request(
            "the SE in the body is not the one of the path",
        ));
    }
    let kvn = admit(&app, equ.campaign, se_id).await?;
    let issue = make(&app, &equ, kvn).await?;
    let campaign = issue.campaign;
    match app.store.issue(issue).await? {
        Issued::Leaves(bytes) => {
            Metrics::add(
                &app.metrics.authorisation_bytes,
                u64::try_from(bytes.len()).unwrap_or(0),
            );
            app.judge(campaign).await?;
            Ok(binary(bytes))
        }
        Issued::NotRunning => Err(Problem::not_yet(30, "the campaign does not run at the moment")),
        Issued::CounterUsed => Err(Problem::conflict(
            "this sequence counter was used for another authorisation: send one INITIALIZE UPDATE to the SE and ask again",
        )),
    }
}

/// Makes the authorisation, which does not leave before it is durable.
async fn make(app: &App, equ: &Equ<'_>, kvn: u8) -> Result<Issue, Problem> {
    if equ.kvn != kvn {
        return Err(Problem::forbidden(format!(
            "the SE's key version is {:02X}, the registered one {kvn:02X}",
            equ.kvn
        )));
    }
    let sequence_counter = equ.sequence_counter + 1;
    if sequence_counter > 0x00FF_FFFF {
        return Err(Problem::forbidden(
            "the SE's sequence counter is used up: its key set must be replaced",
        ));
    }
    let bulk = app.bulk(equ.campaign).await?;
    let package = stored(&bulk.package)?;
    let manifest = &package.source.manifest;
    let state = equ
        .states
        .of(manifest.target)
        .ok_or_else(|| Problem::bad_request("the state is of another target than the package"))?;
    let is_staged = state.campaign == equ.campaign && state.staging == Staging::Complete;
    let request = AuthoriseRequest {
        se_id: equ.se_id,
        kvn,
        scp_parameter: equ.scp_parameter,
        campaign: equ.campaign,
        sequence_counter,
        version: Version::One,
        wants: if is_staged { Wants::ACTIVATE } else { Wants::BOTH },
        pauses: 0,
        key_set_apart: false,
        package: &package.source,
    };
    let made = app.metrics.time(|| authorise(&*app.hsm, &request));
    let bytes = made.map_err(|error| match error {
        HsmError::Parameter { .. } | HsmError::KeyVersion(_) => Problem::forbidden(error.to_string()),
        error => error.into(),
    })?;
    let resumes = state.campaign == equ.campaign && state.staging != Staging::Nothing;
    let splice = if is_staged { 0 } else { 3 };
    Ok(Issue {
        se_id: equ.se_id,
        campaign: equ.campaign,
        sequence_counter,
        splice,
        resumes,
        // One that is the package's already says nothing of the version before.
        version_before: Some(state.version).filter(|version| *version < manifest.version),
        bytes,
        at: now(),
    })
}

/// A package out of the database.
fn stored(bytes: &[u8]) -> Result<Package<'_>, Problem> {
    Package::decode(bytes).map_err(|error| {
        tracing::error!(%error, "stored package");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "the stored package is unreadable",
        )
    })
}

async fn status(
    State(app): Shared,
    Path(se_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let se_id = app.device(&se_id, &headers)?;
    let status =
        Status::decode(&body).map_err(|error| Problem::bad_request(format!("this is no ST: {error}")))?;
    first_version(status.version)?;
    if status.se_id != se_id {
        return Err(Problem::bad_request(
            "the SE in the body is not the one of the path",
        ));
    }
    let target = app.store.target(status.campaign, se_id).await?;
    let (report, verdict) = judge_status(&app, &status, target).await?;
    app.store.report(report).await?;
    app.judge(status.campaign).await?;
    Ok(encoded::<{ Verdict::LEN }>(|out| verdict.encode(out)))
}

/// What the SE refused, in words.
fn refused(status: &Status) -> String {
    let sw = status.sw;
    format!("the SE refused step {} with {sw}, {}", status.step, sw.meaning())
}

/// What a status means: only a receipt of this SE, for this campaign and this package, is an update.
async fn judge_status(app: &App, status: &Status, target: Target) -> Result<(Report, Verdict), Problem> {
    let row = app.store.campaign(status.campaign).await?;
    let allowed = Verdict {
        access: Access::Allowed,
        retry_after: 0,
    };
    let report = |state, kind, detail| Report {
        se_id: status.se_id,
        campaign: status.campaign,
        state,
        is_failure: false,
        blocks: false,
        version: None,
        kind,
        detail,
        at: now(),
    };
    // It is proved, and whatever is said later changes nothing.
    if target.state == TargetState::Updated {
        return Ok((report(TargetState::Updated, "repeated", String::new()), allowed));
    }
    let mut no_proof = None;
    if let Some(receipt) = &status.receipt() {
        match verify_receipt(app, status, receipt, &target).await? {
            Ok(()) => {
                Metrics::add(&app.metrics.receipts, 1);
                let detail = format!("version {} to {}", receipt.previous_version, receipt.version);
                let updated = Report {
                    version: Some(receipt.version),
                    ..report(TargetState::Updated, "updated", detail)
                };
                return Ok((updated, allowed));
            }
            Err(why) => {
                Metrics::add(&app.metrics.false_receipts, 1);
                no_proof = Some(why);
            }
        }
    }
    if target.state == TargetState::Pending {
        // No authorisation has left: there is nothing that can have failed.
        let said = no_proof.map_or_else(String::new, |why| format!("its receipt is no proof: {why}"));
        return Ok((report(target.state, "unasked", said), policy::RETRY));
    }
    Metrics::add(&app.metrics.failures, 1);
    let (state, verdict) = policy::after_failure(target.attempts + 1, row.attempts_max);
    let detail = match status.outcome {
        Outcome::Refused => refused(status),
        Outcome::DeviceFailed => "the device failed before the SE answered".to_owned(),
        Outcome::Activated | Outcome::Discarded => "the device says it is done".to_owned(),
    };
    let detail = match &no_proof {
        Some(why) => format!("{detail}; its receipt is no proof: {why}"),
        None => detail,
    };
    let blocks = verdict.access == Access::Blocked;
    let kind = if blocks { "failed" } else { "refused" };
    Ok((
        Report {
            is_failure: true,
            blocks,
            ..report(state, kind, detail)
        },
        verdict,
    ))
}

/// Whether a receipt is this SE's and proves this campaign's update; if not, why.
async fn verify_receipt(
    app: &App,
    status: &Status,
    receipt: &Receipt,
    target: &Target,
) -> Result<Result<(), &'static str>, Problem> {
    let device = app.store.device(status.se_id).await?;
    if !is_of(&*app.hsm, status.se_id, device.kvn, &Proof::Receipt(*receipt))? {
        return Ok(Err("its MAC is wrong"));
    }
    let proved = device.version;
    let bulk = app.bulk(status.campaign).await?;
    let expected = Expected {
        campaign: status.campaign,
        manifest: &stored(&bulk.package)?.source.manifest,
        version_before: target.version_before.or((proved > 0).then_some(proved)),
    };
    Ok(receipts::check(receipt, &expected))
}
