//! The live page: drawn here, renewed through server-sent events. It shows; it changes nothing.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::{Stream, StreamExt};
use sekisho_link::Manifest;
use sekisho_store::{CampaignRow, Counts};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::WatchStream;

use crate::app::App;
use crate::problem::Problem;

type Shared = State<Arc<App>>;

/// How often a page is renewed at most.
const RENEWAL: Duration = Duration::from_millis(250);

/// How many campaigns are drawn: all that run or are paused if they are not more, then the newest.
const SHOWN: u32 = 10;

#[derive(Template)]
#[template(path = "index.html")]
struct Index {
    board: String,
}

#[derive(Template)]
#[template(path = "board.html")]
struct Board {
    campaigns: Vec<Card>,
    /// How many campaigns are not shown.
    more: u64,
    events: Vec<sekisho_store::Event>,
    authorisations: u64,
    bytes_each: u64,
    micros_each: String,
    delivery_bytes: String,
    receipts: u64,
    refusals: u64,
    false_receipts: u64,
    /// How many SEs are taken to obey which version of the design system's keys.
    key_versions: Vec<(u32, u64)>,
    paging: Option<PagingFigures>,
}

/// What the paging server in it has seen.
struct PagingFigures {
    answered: u64,
    promoted: u64,
    refused: u64,
    lost: u64,
    linkable: u64,
    alarms: Vec<String>,
    older: Option<String>,
    address: String,
}

/// A campaign as the page shows it.
struct Card {
    id: String,
    name: String,
    state: &'static str,
    reason: String,
    what: &'static str,
    version: u32,
    custody: &'static str,
    bulk: String,
    total: u64,
    resumed: u64,
    cohorts: Vec<Bar>,
}

/// A cohort's bar: widths in thousandths.
struct Bar {
    name: &'static str,
    note: &'static str,
    updated: u64,
    total: u64,
    failed: u64,
    failed_proved: u64,
    aside: u64,
    authorised: u64,
    updated_width: u64,
    authorised_width: u64,
    failed_width: u64,
}

/// The routes: the page, health and metrics.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/health/livez", get(|| async { "ok\n" }))
        .route("/health/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not found",
                "the page is at /, the API below /api/v1",
            )
        })
        .with_state(app)
}

#[allow(clippy::disallowed_methods, reason = "the server is where time is measured")]
async fn ready(State(app): Shared) -> Result<&'static str, Problem> {
    app.store.check_writable(Instant::now()).await?;
    app.hsm.self_test()?;
    Ok("ok\n")
}

async fn metrics(State(app): Shared) -> Response {
    let mut text = app.metrics.render();
    if let Some(paging) = &app.paging {
        text += &paging.engine().totals().to_prometheus();
        text += &paging.orders_prometheus();
    }
    (
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4"),
        )],
        text,
    )
        .into_response()
}

async fn index(State(app): Shared) -> Result<Response, Problem> {
    let page = Index {
        board: board(&app).await?,
    };
    let html = page.render().map_err(unrenderable)?;
    // No script but the page's own, nothing from elsewhere, in no frame.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";
    Ok((
        [
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        Html(html),
    )
        .into_response())
}

fn unrenderable(error: askama::Error) -> Problem {
    tracing::error!(%error, "page");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal error",
        "the page could not be drawn",
    )
}

async fn live(State(app): Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = WatchStream::new(app.changed.subscribe());
    let events = changes.then(move |_| {
        let app = Arc::clone(&app);
        async move {
            tokio::time::sleep(RENEWAL).await;
            // One line, as an event's data is one: askama leaves line feeds, which HTML does not need.
            let board = board(&app).await.unwrap_or_default().replace(['\n', '\r'], " ");
            Ok(Event::default().data(board))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn board(app: &App) -> Result<String, Problem> {
    let mut campaigns = Vec::new();
    for row in app.store.campaigns(SHOWN).await? {
        let counts = app.store.counts(row.id).await?;
        campaigns.push(card(row, &counts));
    }
    let shown = u64::try_from(campaigns.len()).unwrap_or(u64::MAX);
    let more = app.store.campaign_count().await?.saturating_sub(shown);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let authorisations = count(&app.metrics.authorisations);
    let board = Board {
        campaigns,
        more,
        events: app.store.events(None, 12).await?,
        authorisations,
        bytes_each: count(&app.metrics.authorisation_bytes)
            .checked_div(authorisations)
            .unwrap_or(0),
        micros_each: format!("{:.1}", app.metrics.authorisation_micros()),
        delivery_bytes: bytes(count(&app.metrics.delivery_bytes)),
        receipts: count(&app.metrics.receipts),
        refusals: count(&app.metrics.refusals),
        key_versions: app.store.key_versions().await?,
        false_receipts: count(&app.metrics.false_receipts),
        paging: app.paging.as_deref().map(paging_figures),
    };
    board.render().map_err(unrenderable)
}

fn paging_figures(paging: &crate::paging::Paging) -> PagingFigures {
    use sekisho_pager::signals::Signal;
    let engine = paging.engine();
    let totals = engine.totals();
    let failures = Signal::ALL.iter().filter(|(signal, _)| signal.is_failure());
    let alarm = |alarm: &sekisho_pager::alarms::Alarm| {
        format!(
            "{}: {:?}, {} a second at worst",
            alarm.network, alarm.signal, alarm.rate
        )
    };
    PagingFigures {
        answered: totals.answered,
        promoted: totals.promoted,
        refused: failures.map(|(signal, _)| totals.of(*signal)).sum(),
        lost: totals.lost_polls + totals.lost_answers,
        // A poll under an identity that has been on the wire before. No other poll has anything in common with an earlier one.
        linkable: totals.of(Signal::Resend) + totals.of(Signal::Repeat),
        alarms: engine.alarms().iter().take(5).map(alarm).collect(),
        older: paging.older(),
        address: engine.local_addr().to_string(),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} KB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

fn card(row: CampaignRow, counts: &Counts) -> Card {
    let bar = |name, note, cohort: &sekisho_store::CohortCounts| {
        let total = cohort.total();
        let width = |part: u64| (part * 1000).checked_div(total).unwrap_or(0);
        Bar {
            name,
            note,
            updated: cohort.updated,
            total,
            failed: cohort.failed,
            failed_proved: cohort.failed_proved,
            aside: cohort.aside,
            authorised: cohort.authorised,
            updated_width: width(cohort.updated),
            authorised_width: width(cohort.authorised),
            failed_width: width(cohort.failed),
        }
    };
    let mut cohorts = Vec::new();
    if counts.canary.total() > 0 {
        cohorts.push(bar("Canary cohort", "", &counts.canary));
    }
    cohorts.push(bar(
        "The rest",
        if row.rest_open {
            ""
        } else {
            "waits for the canary cohort"
        },
        &counts.rest,
    ));
    Card {
        id: row.id.to_string(),
        name: row.name,
        state: row.state.as_str(),
        reason: row.reason,
        what: match row.target {
            Manifest::KEYS => "keys of version",
            _ => "version",
        },
        version: row.version,
        custody: match row.custody {
            sekisho_link::Custody::Hsm => "keys of the HSM",
            sekisho_link::Custody::DesignSystem => "keys of the design system",
        },
        bulk: bytes(row.delivery_bytes.into()),
        total: counts.canary.total() + counts.rest.total(),
        resumed: counts.canary.resumed + counts.rest.resumed,
        cohorts,
    }
}
