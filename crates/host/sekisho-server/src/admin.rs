//! The administrator's API: devices, packages, campaigns, events.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sekisho_hsm::{HsmError, SCP03_KVNS, broadcast_package};
use sekisho_keys::{p256sig::VerifyingKey, sha256};
use sekisho_link::{
    Campaign, DecodeError, Delivery, DeliveryParts, Manifest, PACKAGE_MAX, Package, SeId, codes,
};
use sekisho_store::{
    CampaignRow, CohortCounts, Counts, DeviceRow, NewCampaign, NewPackage, State as CampaignState,
    TargetState,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::app::{App, now};
use crate::policy;
use crate::problem::Problem;

type Shared = State<Arc<App>>;
type Answer = Result<Response, Problem>;

/// Largest body of any other request.
const BODY_MAX: usize = 4 << 20;

/// The longest name of a campaign, in characters (broadcast update, 5.4).
const NAME_MAX: usize = 100;

/// How many campaigns an answer lists.
const LISTED: u32 = 100;

/// How many targets that were given up, or set aside, an answer lists.
const LISTED_TARGETS: u32 = 1000;

/// The routes.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/v1/devices", get(devices).post(register))
        .route("/api/v1/devices/{se_id}/unblock", post(unblock))
        .route("/api/v1/devices/{se_id}/key-set", post(key_set))
        .route(
            "/api/v1/packages",
            post(upload).layer(DefaultBodyLimit::max(PACKAGE_MAX)),
        )
        .route("/api/v1/campaigns", get(campaigns).post(create))
        .route("/api/v1/campaigns/{id}", get(campaign))
        .route("/api/v1/campaigns/{id}/{verb}", post(act))
        .route("/api/v1/events", get(events))
        .merge(crate::admin_paging::admin_routes())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

async fn authenticate(State(app): Shared, request: Request, next: Next) -> Response {
    match app.administrator(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(crate) fn json_answer(status: StatusCode, value: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        value.to_string(),
    )
        .into_response()
}

pub(crate) fn body<T: for<'a> Deserialize<'a>>(bytes: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::bad_request(error.to_string()))
}

pub(crate) fn se_id(text: &str) -> Result<SeId, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request(format!("{text:?}: an SE id has 20 hexadecimal digits")))
}

/// A version that SCP03 key sets have.
fn scp03_kvn(kvn: u8) -> Result<u8, Problem> {
    if SCP03_KVNS.contains(&kvn) {
        Ok(kvn)
    } else {
        Err(Problem::bad_request(HsmError::KeyVersion(kvn).to_string()))
    }
}

fn campaign_id(text: &str) -> Result<Campaign, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request("a campaign has 16 hexadecimal digits"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDevice {
    se_id: String,
    kvn: u8,
}

/// Registers devices and gives each its link token; those that are known get the same one again.
async fn register(State(app): Shared, bytes: Bytes) -> Answer {
    let wanted: Vec<NewDevice> = body(&bytes)?;
    let mut devices = Vec::with_capacity(wanted.len());
    let mut tokens = Vec::with_capacity(wanted.len());
    for device in &wanted {
        let id = se_id(&device.se_id)?;
        devices.push((id, scp03_kvn(device.kvn)?));
        tokens.push(json!({ "se_id": id.to_string(), "link_token": hex::encode(app.hsm.link_token(id)?) }));
    }
    let new = app.store.register(&devices, now()).await?;
    Ok(json_answer(
        StatusCode::OK,
        &json!({ "new": new, "devices": tokens }),
    ))
}

#[derive(Deserialize)]
struct Page {
    after: Option<String>,
    #[serde(default = "hundred")]
    limit: u32,
    /// Those that are taken to obey this version of the design system's keys.
    key_version: Option<u32>,
}

const fn hundred() -> u32 {
    100
}

async fn devices(State(app): Shared, Query(page): Query<Page>) -> Answer {
    let after = page.after.as_deref().map(se_id).transpose()?;
    let limit = page.limit.clamp(1, 1000);
    let rows = app.store.devices(after, page.key_version, limit).await?;
    let next = rows.last().map(|row| row.se_id.to_string());
    let devices: Vec<_> = rows.iter().map(describe_device).collect();
    let key_versions = app.store.key_versions().await?;
    let key_versions: Vec<_> = key_versions
        .iter()
        .map(|(version, devices)| json!({ "key_version": version, "devices": devices }))
        .collect();
    Ok(json_answer(
        StatusCode::OK,
        &json!({ "devices": devices, "key_versions": key_versions, "next": next }),
    ))
}

fn describe_device(row: &DeviceRow) -> Value {
    let known = |version: u32| (version > 0).then_some(version);
    json!({
        "se_id": row.se_id.to_string(), "kvn": row.kvn, "access": row.access.as_str(), "version": row.version,
        "key_version": row.obeyed_key_version(), "key_version_proved": known(row.key_version),
        "key_version_said": known(row.key_version_said),
    })
}

async fn unblock(State(app): Shared, Path(id): Path<String>) -> Answer {
    app.store
        .set_access(se_id(&id)?, sekisho_store::Access::Allowed)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySet {
    /// Version of the SCP03 key set that the SE has now.
    kvn: u8,
}

async fn key_set(State(app): Shared, Path(id): Path<String>, bytes: Bytes) -> Answer {
    let wanted: KeySet = body(&bytes)?;
    let kvn = scp03_kvn(wanted.kvn)?;
    app.store.set_kvn(se_id(&id)?, kvn).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Designer {
    /// The designer's public key, uncompressed, in hex: packages signed by another are refused.
    designer: String,
    /// Version of the design system's keys that the package is for; what the server makes of the designer if it is left out.
    key_version: Option<u32>,
}

async fn upload(State(app): Shared, Query(query): Query<Designer>, bytes: Bytes) -> Answer {
    let package = Package::decode(&bytes).map_err(|error| match error {
        DecodeError::Unsupported => {
            Problem::not_built("packages of several parts, or with P_MOB in them, are not taken yet")
        }
        error => Problem::bad_request(format!("this is no package: {error}")),
    })?;
    let key = hex::decode(&query.designer)
        .ok()
        .and_then(|key| <[u8; 65]>::try_from(key).ok());
    let key = key.and_then(|key| VerifyingKey::from_sec1(&key).ok());
    let key = key.ok_or_else(|| {
        Problem::bad_request("designer: an uncompressed P-256 point has 130 hexadecimal digits")
    })?;
    let manifest = package.source.manifest;
    let signatures = [
        (
            codes::MANIFEST_SIGNATURE_PREFIX,
            &manifest.encode()[..],
            &package.source.signature,
        ),
        (
            codes::package_signature_prefix(package.source.version),
            package.signed,
            &package.package_signature,
        ),
    ];
    for (prefix, signed, signature) in signatures {
        if key.verify_parts(&[prefix, signed], signature).is_err() {
            return Err(Problem::bad_request("the package is not signed by this designer"));
        }
    }
    if ![Manifest::OS_PART, Manifest::KEYS].contains(&manifest.target) {
        return Err(Problem::bad_request(format!(
            "the package is of target {:02X}; there are 01, the OS part, and 02, the design system's keys",
            manifest.target
        )));
    }
    let is_led_to =
        manifest.target == Manifest::KEYS && query.key_version.is_some_and(|of| of >= manifest.version);
    if query.key_version == Some(0) || is_led_to {
        return Err(Problem::bad_request(
            "key_version: of the keys that an SE obeys before it takes the package, 1 or more, and below what a key change leads to",
        ));
    }
    let kept = NewPackage {
        package_id: manifest.package_id,
        target: manifest.target,
        version: manifest.version,
        custody: package.source.custody(),
        designer: key.to_sec1(),
        key_version: query.key_version,
        bytes: &bytes,
    };
    let key_version = app.store.add_package(&kept, now()).await?;
    let id = hex::encode(manifest.package_id);
    Ok(json_answer(
        StatusCode::CREATED,
        &json!({ "package_id": id, "target": manifest.target, "version": manifest.version, "key_version": known_keys(key_version) }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    package_id: String,
    /// The targets; all registered devices when left out.
    targets: Option<Vec<String>>,
    /// How many of them are the canary cohort.
    #[serde(default = "one")]
    canary: usize,
    #[serde(default = "ninety")]
    success_threshold: u8,
    #[serde(default = "hundred")]
    error_threshold: u32,
    #[serde(default = "five")]
    attempts_max: u32,
    /// P_MOB, in hex.
    #[serde(default)]
    p_mob: String,
}

const fn one() -> usize {
    1
}

const fn ninety() -> u8 {
    90
}

const fn five() -> u32 {
    5
}

/// A name is one line for people, on a page and in a terminal.
fn check_name(name: &str) -> Result<(), Problem> {
    let length = name.chars().count();
    if (1..=NAME_MAX).contains(&length) && !name.contains(char::is_control) {
        Ok(())
    } else {
        Err(Problem::bad_request(format!(
            "a name has 1 to {NAME_MAX} characters, none of which is a control character"
        )))
    }
}

async fn create(State(app): Shared, bytes: Bytes) -> Answer {
    let wanted: Create = body(&bytes)?;
    check_name(&wanted.name)?;
    if wanted.success_threshold > 100 || wanted.error_threshold == 0 || wanted.attempts_max == 0 {
        return Err(Problem::bad_request(
            "success_threshold is a percentage, error_threshold and attempts_max are above 0",
        ));
    }
    let package_id = hex::decode(&wanted.package_id)
        .ok()
        .and_then(|id| <[u8; 16]>::try_from(id).ok());
    let package_id =
        package_id.ok_or_else(|| Problem::bad_request("package_id has 32 hexadecimal digits"))?;
    let p_mob = hex::decode(&wanted.p_mob).map_err(|_| Problem::bad_request("p_mob is not hexadecimal"))?;
    let targets = match &wanted.targets {
        Some(list) => list.iter().map(|id| se_id(id)).collect::<Result<_, _>>()?,
        None => all_devices(&app).await?,
    };
    if targets.is_empty() || wanted.canary > targets.len() {
        return Err(Problem::bad_request(
            "there must be targets, and no more canaries than targets",
        ));
    }
    let package = app.store.package(package_id).await?;
    let mut id = [0; 8];
    app.hsm.random(&mut id)?;
    let id = Campaign(u64::from_be_bytes(id));
    let delivery = delivery(&app, id, &package, &p_mob)?;
    let new = NewCampaign {
        id,
        name: wanted.name,
        package_id,
        canary: wanted.canary,
        success_threshold: wanted.success_threshold,
        error_threshold: wanted.error_threshold,
        attempts_max: wanted.attempts_max,
        delivery_sha256: sha256(&[&delivery]),
        delivery,
        targets,
    };
    app.store.create_campaign(&new, now()).await?;
    app.changed.send_modify(|count| *count += 1);
    let row = app.store.campaign(id).await?;
    Ok(json_answer(
        StatusCode::CREATED,
        &describe(&row, &app.store.counts(id).await?),
    ))
}

async fn all_devices(app: &App) -> Result<Vec<SeId>, Problem> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let rows = app.store.devices(after, None, 1000).await?;
        let Some(last) = rows.last() else { return Ok(all) };
        after = Some(last.se_id);
        all.extend(rows.iter().map(|row| row.se_id));
    }
}

/// P_SE, made once, with P_MOB (step E106).
fn delivery(app: &App, campaign: Campaign, package: &[u8], p_mob: &[u8]) -> Result<Vec<u8>, Problem> {
    let package =
        Package::decode(package).map_err(|_| Problem::bad_request("the stored package is unreadable"))?;
    let p_se = broadcast_package(&*app.hsm, campaign, &package.source)?;
    let parts = DeliveryParts {
        campaign,
        p_se: &p_se,
        p_mob,
    };
    let mut delivery = vec![0; Delivery::OVERHEAD + p_se.len() + p_mob.len()];
    let mut out = sekisho_apdu::Writer::new(&mut delivery);
    let too_long = |_| Problem::bad_request("the delivery is too long");
    parts.encode_without_digest(&mut out).map_err(too_long)?;
    let digest = sha256(&[out.written()]);
    out.bytes(&digest).map_err(too_long)?;
    Ok(delivery)
}

/// For which keys a package is, if it is known.
fn known_keys(version: u32) -> Option<u32> {
    (version > 0).then_some(version)
}

fn cohort(counts: &CohortCounts) -> Value {
    json!({
        "total": counts.total(), "pending": counts.pending, "authorised": counts.authorised,
        "updated": counts.updated, "failed": counts.failed, "aside": counts.aside, "failed_proved": counts.failed_proved,
        "refusals": counts.refusals, "reports": counts.reports, "resumed": counts.resumed,
    })
}

fn describe(row: &CampaignRow, counts: &Counts) -> Value {
    json!({
        "id": row.id.to_string(), "name": row.name, "package_id": hex::encode(row.package_id), "target": row.target, "version": row.version,
        "key_version": known_keys(row.key_version),
        "custody": row.custody as u8, "state": row.state.as_str(), "reason": row.reason, "rest_open": row.rest_open,
        "success_threshold": row.success_threshold, "error_threshold": row.error_threshold, "attempts_max": row.attempts_max,
        "delivery_bytes": row.delivery_bytes, "canary": cohort(&counts.canary), "rest": cohort(&counts.rest),
    })
}

async fn campaigns(State(app): Shared) -> Answer {
    let mut all = Vec::new();
    for row in app.store.campaigns(LISTED).await? {
        all.push(describe(&row, &app.store.counts(row.id).await?));
    }
    let listed = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let more = app.store.campaign_count().await?.saturating_sub(listed);
    Ok(json_answer(
        StatusCode::OK,
        &json!({ "campaigns": all, "more": more }),
    ))
}

async fn campaign(State(app): Shared, Path(id): Path<String>) -> Answer {
    let id = campaign_id(&id)?;
    let mut value = describe(&app.store.campaign(id).await?, &app.store.counts(id).await?);
    let failures = app
        .store
        .failures(id, TargetState::Failed, LISTED_TARGETS)
        .await?;
    value["failures"] = failures
        .iter()
        .map(|failure| {
            json!({
                "se_id": failure.se_id.to_string(), "detail": failure.detail, "proved": failure.is_proved,
                "refusals": failure.refusals, "reports": failure.reports,
            })
        })
        .collect();
    let aside = app.store.failures(id, TargetState::Aside, LISTED_TARGETS).await?;
    value["set_aside"] = aside
        .iter()
        .map(|aside| json!({ "se_id": aside.se_id.to_string(), "detail": aside.detail }))
        .collect();
    Ok(json_answer(StatusCode::OK, &value))
}

/// A verb on a campaign: start, pause, resume, abort, retry.
async fn act(State(app): Shared, Path((id, verb)): Path<(String, String)>) -> Answer {
    use CampaignState::{Aborted, Done, Draft, Paused, Running};
    let id = campaign_id(&id)?;
    let (from, to): (&[CampaignState], _) = match verb.as_str() {
        "start" => (&[Draft], Running),
        "pause" => (&[Running], Paused),
        "resume" => {
            // A person has looked at the failures so far: the limit counts from here.
            let (row, counts) = (app.store.campaign(id).await?, app.store.counts(id).await?);
            if let Some(reason) = policy::stays_paused(row, &counts) {
                return Err(Problem::conflict(format!(
                    "it would pause itself again, {reason}: retry gives those that were given up another try"
                )));
            }
            app.store
                .tolerate(id, counts.canary.failed + counts.rest.failed)
                .await?;
            (&[Paused], Running)
        }
        "abort" => (&[Draft, Running, Paused], Aborted),
        "retry" => {
            let row = app.store.campaign(id).await?;
            // What a person has paused goes on when a person says so: a pause of the campaign's own has a reason.
            let is_paused = row.state == Paused && row.reason.is_empty();
            let to = if is_paused { Paused } else { Running };
            app.store
                .set_campaign_state(id, &[Running, Paused, Done], to, "", now())
                .await?;
            app.store.retry_failed(id).await?;
            if is_paused {
                (&[Paused], Paused)
            } else {
                (&[Running], Running)
            }
        }
        _ => {
            return Err(Problem::bad_request(
                "the verbs are start, pause, resume, abort and retry",
            ));
        }
    };
    app.store.set_campaign_state(id, from, to, "", now()).await?;
    if to == Running {
        app.store.settle_campaign(id, now()).await?;
    }
    app.judge(id).await?;
    let row = app.store.campaign(id).await?;
    Ok(json_answer(
        StatusCode::OK,
        &describe(&row, &app.store.counts(id).await?),
    ))
}

#[derive(Deserialize)]
struct EventQuery {
    campaign: Option<String>,
    #[serde(default = "hundred")]
    limit: u32,
}

async fn events(State(app): Shared, Query(query): Query<EventQuery>) -> Answer {
    let id = query.campaign.as_deref().map(campaign_id).transpose()?;
    let events = app.store.events(id, query.limit.clamp(1, 1000)).await?;
    let events: Vec<_> = events
        .iter()
        .map(|e| json!({ "seq": e.seq, "at": e.at, "campaign": e.campaign, "se_id": e.se_id, "kind": e.kind, "detail": e.detail }))
        .collect();
    Ok(json_answer(StatusCode::OK, &json!({ "events": events })))
}
