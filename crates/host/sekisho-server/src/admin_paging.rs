//! The administrator's API of paging, and what devices ask of it over HTTPS.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sekisho_pager::signals::Signal;
use sekisho_paging::message::Action;
use sekisho_paging::recovery::REQUEST;
use sekisho_store::paging::Target;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::admin::{body, json_answer, se_id};
use crate::app::App;
use crate::paging::{Paging, PagingError};
use crate::problem::Problem;

type Shared = State<Arc<App>>;
type Answer = Result<Response, Problem>;

impl From<PagingError> for Problem {
    fn from(error: PagingError) -> Self {
        match error {
            PagingError::Store(error) => error.into(),
            PagingError::Hsm(error) => error.into(),
            PagingError::Recover(error) => Self::forbidden(error.to_string()),
            error => {
                tracing::error!(%error, "paging");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "paging unavailable",
                    error.to_string(),
                )
            }
        }
    }
}

/// The administrator's routes.
pub(crate) fn admin_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/paging", get(overview))
        .route("/api/v1/paging/devices", post(register))
        .route("/api/v1/paging/devices/{se_id}", get(device))
        .route("/api/v1/paging/devices/{se_id}/{verb}", post(act))
        .route("/api/v1/paging/messages", post(send))
        .route("/api/v1/paging/messages/{order}", axum::routing::delete(withdraw))
        .route("/api/v1/paging/ticket-keys", post(rotate))
        .route("/api/v1/paging/domains/{domain}", post(give_domain))
        .route("/api/v1/paging/domains/{domain}/devices", post(give))
        .route("/api/v1/paging/orders", post(give_orders))
        .route(
            "/api/v1/paging/ticket-keys/{domain}/{epoch}",
            axum::routing::delete(retire),
        )
}

/// The devices' routes. What comes here is authenticated by the SE, not by the link token: a device that has lost its identity has its keys.
pub(crate) fn device_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/device/v1/paging/recover", post(recover))
        .route("/device/v1/{se_id}/certify", post(certify))
}

fn paging(app: &App) -> Result<&Arc<Paging>, Problem> {
    app.paging.as_ref().ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not found",
            "this server runs without paging",
        )
    })
}

/// What is going on, as JSON: also for the live page.
pub(crate) async fn overview_value(paging: &Paging) -> Result<Value, Problem> {
    let totals = paging.engine().totals();
    let signals: serde_json::Map<_, _> = Signal::ALL
        .iter()
        .map(|(signal, name)| ((*name).to_owned(), json!(totals.of(*signal))))
        .collect();
    let (groups, networks) = paging.engine().quality();
    let quality = |q: &sekisho_pager::Quality| json!({ "polls": q.polls, "lost_polls": q.lost_polls, "lost_answers": q.lost_answers });
    let groups: serde_json::Map<_, _> = groups
        .iter()
        .map(|(group, q)| (group.to_string(), quality(q)))
        .collect();
    let networks: serde_json::Map<_, _> = networks
        .iter()
        .take(1000)
        .map(|(net, q)| (net.to_string(), quality(q)))
        .collect();
    let alarms: Vec<_> = paging
        .engine()
        .alarms()
        .iter()
        .map(|alarm| {
            json!({ "network": alarm.network.to_string(), "signal": format!("{:?}", alarm.signal).to_lowercase(),
                    "rate": alarm.rate, "since": alarm.since, "until": alarm.until })
        })
        .collect();
    let nodes: Vec<_> = paging
        .nodes()
        .await?
        .iter()
        .map(|node| json!({ "name": node.name, "domain": node.domain, "seen": node.seen, "change": node.change }))
        .collect();
    let orders = paging.orders().await?;
    let jumps = orders.jumps.iter().map(|jump| {
        json!({ "device": jump.index, "said": jump.said, "from": jump.past, "to": jump.upto, "at": jump.at })
    });
    let orders = json!({ "last": orders.last, "ahead": orders.ahead, "jumps": jumps.collect::<Vec<_>>() });
    Ok(json!({
        "address": paging.engine().local_addr().to_string(), "signals": signals, "answered": totals.answered,
        "identities_changed": totals.promoted, "messages": totals.messages, "lost_polls": totals.lost_polls,
        "lost_answers": totals.lost_answers, "messages_waiting": paging.engine().intents(),
        "groups": groups, "networks": networks, "alarms": alarms, "nodes": nodes, "orders": orders,
    }))
}

async fn overview(State(app): Shared) -> Answer {
    Ok(json_answer(StatusCode::OK, &overview_value(paging(&app)?).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    se_ids: Vec<String>,
    #[serde(default)]
    group: u16,
    #[serde(default)]
    rolling: bool,
}

async fn register(State(app): Shared, bytes: Bytes) -> Answer {
    let wanted: Register = body(&bytes)?;
    let ids = wanted
        .se_ids
        .iter()
        .map(|id| se_id(id))
        .collect::<Result<Vec<_>, _>>()?;
    let new = paging(&app)?.register(&ids, wanted.group, wanted.rolling).await?;
    Ok(json_answer(StatusCode::OK, &json!({ "new": new })))
}

async fn device(State(app): Shared, Path(id): Path<String>) -> Answer {
    let paging = paging(&app)?;
    let id = se_id(&id)?;
    let row = paging.device(id).await?;
    let view = paging.engine().device(row.index);
    let mut value = json!({ "se_id": id.to_string(), "index": row.index, "group": row.group, "rolling": row.rolling, "blocked": row.blocked });
    if let Some((domain, generation)) = paging.given(row.index).await? {
        value["given"] = json!({ "domain": domain, "generation": generation });
    }
    if let Some(view) = view {
        value["domain"] = json!(view.at.map(|(keyspace, _)| keyspace.domain));
        value["generation"] = json!(view.at.map(|(keyspace, _)| keyspace.generation));
        value["counter"] = json!(view.at.map(|(_, counter)| counter));
        value["order_done"] = json!(view.order);
        value["seen"] = json!(view.seen);
        value["lost_polls"] = json!(view.lost_polls);
        value["lost_answers"] = json!(view.lost_answers);
    }
    Ok(json_answer(StatusCode::OK, &value))
}

async fn act(State(app): Shared, Path((id, verb)): Path<(String, String)>) -> Answer {
    let blocked = match verb.as_str() {
        "block" => true,
        "unblock" => false,
        _ => return Err(Problem::bad_request("the verbs are block and unblock")),
    };
    paging(&app)?.block(se_id(&id)?, blocked).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    /// To this SE; or to `group`; without either to everybody.
    se_id: Option<String>,
    group: Option<u16>,
    /// update, open-https, poll-every, generate-keys, transport-identity.
    action: String,
    #[serde(default)]
    argument: u32,
    not_before: Option<u64>,
    expires: Option<u64>,
}

async fn send(State(app): Shared, bytes: Bytes) -> Answer {
    let wanted: Send = body(&bytes)?;
    let paging = paging(&app)?;
    let to = match (&wanted.se_id, wanted.group) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("se_id or group, not both")),
        (Some(id), None) => Target::Device(paging.device(se_id(id)?).await?.index),
        (None, Some(group)) => Target::Group(group),
        (None, None) => Target::Everybody,
    };
    let action = Action::named(&wanted.action, wanted.argument)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    if matches!(action, Action::MoveTo(_)) {
        return Err(Problem::bad_request(
            "devices are moved by sekisho fleet paging delegate and recall",
        ));
    }
    let order = paging.post(to, action, wanted.not_before, wanted.expires).await?;
    Ok(json_answer(StatusCode::CREATED, &json!({ "order": order })))
}

async fn withdraw(State(app): Shared, Path(order): Path<u32>) -> Answer {
    paging(&app)?.withdraw(order).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn rotate(State(app): Shared) -> Answer {
    let paging = paging(&app)?;
    let epoch = paging.rotate(0).await?;
    Ok(json_answer(
        StatusCode::CREATED,
        &json!({ "domain": 0, "epoch": epoch }),
    ))
}

/// For a local server: the ticket key sealed under the HSM's paging seal key, which never goes over this API.
async fn give_domain(State(app): Shared, Path(domain): Path<u8>) -> Answer {
    if domain == 0 {
        return Err(Problem::bad_request(
            "domain 0 is this server's own; a local one has 1 to 255",
        ));
    }
    let given = paging(&app)?.give_domain(domain).await?;
    Ok(json_answer(
        StatusCode::OK,
        &json!({ "domain": domain, "epoch": given.epoch, "sealed": hex::encode(given.sealed) }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Give {
    se_ids: Vec<String>,
}

async fn give(State(app): Shared, Path(domain): Path<u8>, bytes: Bytes) -> Answer {
    let wanted: Give = body(&bytes)?;
    let ids = wanted.se_ids.iter().map(|id| se_id(id));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let given = paging(&app)?.give(&ids, domain).await?;
    let devices = given.iter().map(|device| {
        json!({ "se_id": device.se_id.to_string(), "index": device.index, "group": device.group, "generation": device.generation })
    });
    let devices: Vec<_> = devices.collect();
    Ok(json_answer(
        StatusCode::CREATED,
        &json!({ "domain": domain, "devices": devices }),
    ))
}

async fn give_orders(State(app): Shared) -> Answer {
    let (first, last) = paging(&app)?.give_orders().await?;
    Ok(json_answer(
        StatusCode::CREATED,
        &json!({ "first": first, "last": last }),
    ))
}

async fn retire(State(app): Shared, Path((domain, epoch)): Path<(u8, u32)>) -> Answer {
    paging(&app)?.retire(domain, epoch).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn recover(State(app): Shared, bytes: Bytes) -> Answer {
    let request: &[u8; REQUEST] = bytes
        .as_ref()
        .try_into()
        .map_err(|_| Problem::bad_request("a recovery request has 48 bytes"))?;
    let grant = paging(&app)?.recover(request).await?;
    Ok(crate::device::binary(grant.to_vec()))
}

/// Public key (65), signature (64), proof (16) come; digest (32), proof (16) and certificate (DER) go.
async fn certify(State(app): Shared, Path(id): Path<String>, request: axum::extract::Request) -> Answer {
    let (se_id, bytes) = crate::device::message(&app, &id, request).await?;
    let wrong = || Problem::bad_request("public key, signature and proof have 145 bytes");
    let made: &[u8; 145] = bytes.as_ref().try_into().map_err(|_| wrong())?;
    let (public_key, rest) = made.split_first_chunk::<65>().ok_or_else(wrong)?;
    let (signature, proof) = rest.split_first_chunk::<64>().ok_or_else(wrong)?;
    let proof: &[u8; 16] = proof.try_into().map_err(|_| wrong())?;
    let key = sekisho_keys::p256sig::VerifyingKey::from_sec1(public_key)
        .map_err(|_| Problem::bad_request("the public key is no point of P-256"))?;
    if key.verify_parts(&[&se_id.0, public_key], signature).is_err() {
        return Err(Problem::bad_request("the key's own signature is wrong"));
    }
    let certificate = app.authority.certify(se_id, public_key).map_err(|error| {
        tracing::error!(%error, "certificate");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "no certificate could be made",
        )
    })?;
    let digest = sekisho_keys::sha256(&[&certificate]);
    let word = paging(&app)?.certified(se_id, public_key, proof, &digest)?;
    Ok(crate::device::binary([&digest[..], &word, &certificate].concat()))
}
