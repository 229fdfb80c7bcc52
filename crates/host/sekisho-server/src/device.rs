//! The device endpoint (broadcast update, section 5).

use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sekisho_apdu::Writer;
use sekisho_hsm::{AuthoriseRequest, HsmError, authorise};
use sekisho_link::{Campaign, Equ, LoaderState, Manifest, Offer, Package, SeId, Staging, Version, Wants};
use sekisho_store::{
    Access as DeviceAccess, CampaignRow, DeviceRow, Grant, Issue, Issued, Report, State as CampaignState,
    Target, TargetState, Word,
};
use std::sync::Arc;

use crate::app::{App, now};
use crate::device_status;
use crate::metrics::Metrics;
use crate::policy::{self, Keys};
use crate::problem::Problem;
use crate::ranges;

type Shared = State<Arc<App>>;

/// The routes of an update, in this version.
fn of_updates(version: Version) -> Router<Arc<App>> {
    Router::new()
        .route(
            "/{se_id}/offer",
            get(move |State(app): Shared, Path(se_id), headers| offer(version, app, se_id, headers)),
        )
        .route("/deliveries/{campaign}", get(delivery))
        .route(
            "/{se_id}/equ",
            post(move |State(app): Shared, Path(se_id), request| equ(version, app, se_id, request)),
        )
        .route(
            "/{se_id}/status",
            post(move |State(app): Shared, Path(se_id), request| {
                device_status::status(version, app, se_id, request)
            }),
        )
}

/// The routes.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .nest("/device/v1", of_updates(Version::One))
        .nest("/device/v2", of_updates(Version::Two))
        .merge(crate::admin_paging::device_routes())
        .layer(DefaultBodyLimit::max(BODY_MAX))
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

pub(crate) fn encoded<const N: usize>(
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
    version: Version,
    app: Arc<App>,
    se_id: String,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let se_id = app.device(&se_id, &headers)?;
    if app.store.device(se_id).await?.access == DeviceAccess::Blocked {
        return Err(Problem::forbidden(
            "this device is blocked; an administrator can lift it",
        ));
    }
    // Who speaks version 1 carries the OS part alone.
    let target = (version == Version::One).then_some(Manifest::OS_PART);
    let Some(campaign) = app.store.offer(se_id, target).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let row = app.store.campaign(campaign).await?;
    let offer = Offer {
        version,
        campaign,
        target: row.target,
        bytes: row.delivery_bytes,
        sha256: row.delivery_sha256,
    };
    Ok(encoded::<{ Offer::MAX_LEN }>(|out| offer.encode(out)))
}

async fn delivery(
    State(app): Shared,
    Path(campaign): Path<String>,
    method: Method,
    mut headers: HeaderMap,
) -> Result<Response, Problem> {
    // Of other methods than GET a range is passed over (RFC 9110, 14.2).
    if method != Method::GET {
        headers.remove(header::RANGE);
    }
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
async fn admit(
    app: &App,
    version: Version,
    campaign: Campaign,
    se_id: SeId,
) -> Result<(DeviceRow, CampaignRow), Problem> {
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
    if version == Version::One && row.target != Manifest::OS_PART {
        return Err(Problem::forbidden(format!(
            "the campaign is of target {:02X}, which devices of version 1 do not carry",
            row.target
        )));
    }
    match (row.state, target) {
        (CampaignState::Aborted, _) => Err(Problem::forbidden("the campaign has been aborted")),
        (CampaignState::Done, _)
        | (
            _,
            Target {
                state: TargetState::Updated | TargetState::Failed | TargetState::Aside,
                ..
            },
        ) => Err(Problem::forbidden("the campaign is over for this SE")),
        (CampaignState::Running, target) if target.is_canary || row.rest_open => Ok((device, row)),
        _ => Err(Problem::not_yet(30, "the campaign is not open for this SE yet")),
    }
}

/// Whether a message is of the version and of the SE that its URL takes.
pub(crate) fn of_url(found: (Version, SeId), (version, se_id): (Version, SeId)) -> Result<(), Problem> {
    if found.0 != version {
        let number = version as u8;
        return Err(Problem::bad_request(format!(
            "this URL takes messages of version {number}"
        )));
    }
    if found.1 != se_id {
        return Err(Problem::bad_request(
            "the SE in the body is not the one of the path",
        ));
    }
    Ok(())
}

/// Refuses what is laid out and not built, and what says nothing that can be done (broadcast update, 4.4).
fn check_wants(equ: &Equ<'_>) -> Result<(), Problem> {
    let Wants(wants) = equ.wants;
    if wants & !Wants::BOTH.0 != 0 {
        return Err(Problem::not_built(if wants & Wants::LIVE == 0 {
            "wants has a bit that is not known here"
        } else {
            "authorisations are made ahead, not for the SE's answer to INITIALIZE UPDATE: ask without 80 in wants"
        }));
    }
    if !equ.proof.is_empty() {
        return Err(Problem::not_built(
            "the proof of a sequence counter is not taken yet: ask without one",
        ));
    }
    if wants == 0 {
        return Err(Problem::bad_request(
            "wants is nothing: 01 loads, 02 activates, 03 does both",
        ));
    }
    if equ.pauses > Equ::PAUSES_MAX || (equ.pauses > 0 && !equ.wants.loads()) {
        return Err(Problem::bad_request(
            "pauses are 0 to 8, and none where nothing is loaded",
        ));
    }
    Ok(())
}

/// The longest body that a device may send, in bytes (broadcast update, 5.1).
const BODY_MAX: usize = 4096;

/// The SE that a device's message comes from, and the message, of which nothing is read before its token is known to be right.
pub(crate) async fn message(app: &App, se_id: &str, request: Request) -> Result<(SeId, Bytes), Problem> {
    let se_id = app.device(se_id, request.headers())?;
    let too_long = || {
        let why = format!("at most {BODY_MAX} bytes are taken");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body too long", why)
    };
    let announced = request.body().size_hint().lower();
    if announced > u64::try_from(BODY_MAX).unwrap_or(u64::MAX) {
        return Err(too_long());
    }
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(),
        status => Problem::new(status, "unreadable body", rejection.body_text()),
    })?;
    Ok((se_id, body))
}

async fn equ(version: Version, app: Arc<App>, se_id: String, request: Request) -> Result<Response, Problem> {
    let (se_id, body) = message(&app, &se_id, request).await?;
    let equ = Equ::decode(&body).map_err(|error| Problem::bad_request(format!("this is no EQU: {error}")))?;
    of_url((equ.version, equ.se_id), (version, se_id))?;
    check_wants(&equ)?;
    let (device, row) = admit(&app, version, equ.campaign, se_id).await?;
    let issue = make(&app, &equ, &device, &row).await?;
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

/// Ends a campaign for an SE that asks: what has become of the target, and what its device is told.
async fn over(
    app: &App,
    equ: &Equ<'_>,
    row: &CampaignRow,
    word: Word,
    detail: String,
) -> Result<Problem, Problem> {
    let report = Report {
        se_id: equ.se_id,
        campaign: equ.campaign,
        word,
        attempts_max: row.attempts_max,
        detail: detail.clone(),
        at: now(),
    };
    app.store.report(report).await?;
    app.judge(equ.campaign).await?;
    Ok(Problem::forbidden(format!(
        "{detail}: the campaign is over for it"
    )))
}

/// What the SE says of the package's target. One that says nothing of it does not have it: its target is given up, and nobody is blocked for it.
async fn state_of(app: &App, equ: &Equ<'_>, row: &CampaignRow) -> Result<LoaderState, Problem> {
    let target = row.target;
    if let Some(state) = equ.states.of(target) {
        return Ok(state);
    }
    if equ.version == Version::One {
        return Err(Problem::bad_request(
            "the state is of another target than the package",
        ));
    }
    let detail = format!("the SE says nothing of target {target:02X}, which this campaign is of");
    Err(over(app, equ, row, Word::Unfit, detail).await?)
}

/// Nothing leaves that the SE would be right to refuse. Its target is set aside, or updated where it has proved to have this very package; one for keys
/// that the SE does not obey yet waits for them.
async fn check_fit(
    app: &App,
    equ: &Equ<'_>,
    (device, row): (&DeviceRow, &CampaignRow),
    manifest: &Manifest,
    said: u32,
) -> Result<(), Problem> {
    // An SE that does not say it has not changed its keys yet.
    let keys_state = equ.states.of(Manifest::KEYS);
    let keys_said = keys_state.map_or(Manifest::FIRST_KEY_VERSION, |state| state.version);
    let proved = device.proved_version(manifest.target);
    let detail = match (
        policy::right_to_refuse(manifest, proved, said),
        policy::keys(row.key_version, device.key_version, keys_said),
    ) {
        (None, Keys::Right) => return Ok(()),
        (None, Keys::Later(why)) => {
            app.store.note_key_version(equ.se_id, keys_said).await?;
            return Err(Problem::not_yet(30, why));
        }
        (Some(why), _) | (None, Keys::Gone(why)) => why,
    };
    if keys_state.is_some() {
        app.store.note_key_version(equ.se_id, keys_said).await?;
    }
    app.settle(equ.se_id).await?;
    Err(over(app, equ, row, Word::Aside, detail).await?)
}

/// What is granted. A device of version 1 asks for both and is given what is left to be done.
fn grant(equ: &Equ<'_>, state: LoaderState) -> Result<Grant, Problem> {
    let is_staged = state.campaign == equ.campaign && state.staging == Staging::Complete;
    let wants = match (equ.version, equ.wants) {
        (Version::One, _) if is_staged => Wants::ACTIVATE,
        (Version::Two, Wants::ACTIVATE) if !is_staged => {
            return Err(Problem::bad_request(
                "wants is to activate what was loaded, and nothing whole of this campaign is staged",
            ));
        }
        (Version::Two, Wants::LOAD) if is_staged => {
            return Err(Problem::bad_request(
                "wants is to load, and the whole of this campaign is staged",
            ));
        }
        (_, wants) => wants,
    };
    Ok(Grant {
        version: equ.version,
        wants,
        pauses: equ.pauses,
    })
}

/// The SE's keys are not those that the server was told of: nobody is blocked for it, and who runs the server is told.
async fn other_key_set(app: &App, equ: &Equ<'_>, known: u8) -> Result<Problem, Problem> {
    let Equ {
        se_id, campaign, kvn, ..
    } = *equ;
    let detail = format!("the SE has key set {kvn:02X}, and the server knows it by key set {known:02X}");
    app.store.note_kvn(se_id, campaign, kvn, &detail, now()).await?;
    Ok(Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "another key set",
        format!("{detail}: if the SE is right, sekisho fleet key-set {se_id} {kvn:02X}"),
    ))
}

/// Makes the authorisation, which does not leave before it is durable.
async fn make(app: &App, equ: &Equ<'_>, device: &DeviceRow, row: &CampaignRow) -> Result<Issue, Problem> {
    let kvn = device.kvn;
    if equ.kvn != kvn {
        return Err(other_key_set(app, equ, kvn).await?);
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
    let state = state_of(app, equ, row).await?;
    check_fit(app, equ, (device, row), manifest, state.version).await?;
    let grant = grant(equ, state)?;
    let request = AuthoriseRequest {
        version: grant.version,
        se_id: equ.se_id,
        kvn,
        scp_parameter: equ.scp_parameter,
        campaign: equ.campaign,
        sequence_counter,
        wants: grant.wants,
        pauses: grant.pauses,
        key_set_apart: false,
        package: &package.source,
    };
    let made = app.metrics.time(|| authorise(&*app.hsm, &request));
    let bytes = made.map_err(|error| match error {
        HsmError::Parameter { .. } | HsmError::KeyVersion(_) => Problem::forbidden(error.to_string()),
        error => error.into(),
    })?;
    Ok(Issue {
        se_id: equ.se_id,
        campaign: equ.campaign,
        sequence_counter,
        grant,
        resumes: state.campaign == equ.campaign && state.staging != Staging::Nothing,
        // One that is the package's already says nothing of the version before.
        version_before: Some(state.version).filter(|version| *version < manifest.version),
        key_version_said: equ.states.of(Manifest::KEYS).map(|state| state.version),
        bytes,
        at: now(),
    })
}

/// A package out of the database.
pub(crate) fn stored(bytes: &[u8]) -> Result<Package<'_>, Problem> {
    Package::decode(bytes).map_err(|error| {
        tracing::error!(%error, "stored package");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "the stored package is unreadable",
        )
    })
}
