//! Fleet and campaign state.
//!
//! One [`Store`] over SQLite (WAL, `synchronous=FULL`): what a call has answered is on the disk. Writes of the device endpoint go through one
//! writer that commits many at a time ([`Store::issue`], [`Store::report`]), so that the disk's sync rate does not bound the fleet.
//! What the paging servers share is a database of its own, SQLite or PostgreSQL ([`paging`]).
//! Rules that need no database, such as when a campaign pauses, are the server's; times are arguments.

#![forbid(unsafe_code)]

mod campaigns;
mod devices;
mod files;
mod model;
pub mod paging;
mod schema;
mod settle;
mod writer;

pub use files::{OpenFiles, files_ran_out};
pub use model::{
    Access, Announced, CampaignRow, CohortCounts, Counts, DeviceRow, Event, Failure, Grant, Issue, Issued,
    NewCampaign, NewPackage, Report, Standing, State, Target, TargetState, Word,
};

use nix::fcntl::posix_fallocate;
use sekisho_link::SeId;
use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed.
    #[error("database: {0}")]
    Database(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("schema: {0}")]
    Migration(sqlx::migrate::MigrateError),
    /// The database could not open a file, since the process has as many as it may.
    #[error("too many open files (ulimit -n): {0}")]
    Files(String),
    /// Nothing can be written: no room, or no right to.
    #[error("the database cannot be written: {0}")]
    NotWritable(String),
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A target that a campaign cannot have.
    #[error("target {0} {1}")]
    Target(SeId, &'static str),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(&'static str),
    /// The state of a device does not allow it.
    #[error("{0}: {1}")]
    Device(SeId, &'static str),
    /// A row holds what this version cannot read.
    #[error("the database holds an unreadable {0}")]
    Unreadable(&'static str),
    /// The writer has stopped.
    #[error("the store is shutting down")]
    Closed,
}

/// Whether a database says that a file or a connection could not be opened.
fn is_open_failure(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // SQLITE_CANTOPEN.
        sqlx::Error::Database(error) => error.code().as_deref() == Some("14"),
        _ => false,
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_open_failure(&error) && files_ran_out() {
            Self::Files(error.to_string())
        } else {
            Self::Database(error)
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match error {
            Execute(cause) | ExecuteMigration(cause, _) if is_open_failure(&cause) && files_ran_out() => {
                Self::Files(cause.to_string())
            }
            error => Self::Migration(error),
        }
    }
}

/// The result of a call of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Fleet and campaign state. Clones share one database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
    writer: writer::Writer,
    /// Where the database is.
    folder: PathBuf,
    /// The last try to write.
    probed: Arc<Mutex<Option<Probed>>>,
}

/// When a write was last tried, and why it failed if it did.
type Probed = (Instant, std::result::Result<(), Unwritable>);

/// Why a write failed.
#[derive(Clone, Debug)]
struct Unwritable {
    why: String,
    /// For want of files, which says nothing of the database.
    is_for_files: bool,
}

impl From<Unwritable> for StoreError {
    fn from(error: Unwritable) -> Self {
        match error.is_for_files {
            true => Self::Files(error.why),
            false => Self::NotWritable(error.why),
        }
    }
}

/// How long the outcome of [`Store::check_writable`] stands.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Room that there has to be beside the database, in bytes: what is written between two looks, and more.
const ROOM: i64 = 1 << 20;

/// Writes a page to the database, its `user_version`, which nothing else uses; and takes [`ROOM`] beside it, for a moment and without a name: in its log
/// there may be room for a page when there is none for anything else.
async fn probe(pool: &SqlitePool, folder: &Path) -> std::result::Result<(), Unwritable> {
    try_to_write(pool, folder).await.map_err(|why| Unwritable {
        is_for_files: files_ran_out(),
        why,
    })
}

async fn try_to_write(pool: &SqlitePool, folder: &Path) -> std::result::Result<(), String> {
    let written = sqlx::query("PRAGMA user_version = 1").execute(pool).await;
    written.map_err(|error| error.to_string())?;
    let folder = folder.to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let file = tempfile::tempfile_in(folder)?;
        posix_fallocate(file, 0, ROOM).map_err(std::io::Error::from)
    });
    let taken = taken.await.map_err(|error| error.to_string())?;
    taken.map_err(|error| format!("there is no room of {ROOM} bytes beside it: {error}"))
}

impl Store {
    /// Opens the database at `path`, making it and its schema if need be.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Migration`].
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            // SQLite ends a transaction by itself when its disk is full. The driver's ROLLBACK fails then, and it counts a transaction that is
            // not there, in which it can begin no other, for ever: such a connection is thrown away.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await?;
        schema::steps().run(&pool).await?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        probe(&pool, &folder).await?;
        let writer = writer::Writer::start(pool.clone());
        Ok(Self {
            pool,
            writer,
            folder,
            probed: Arc::default(),
        })
    }

    /// Whether the database can be written, and there is room for more: it is tried, once a second at most, however often it is asked.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`], [`StoreError::Files`].
    pub async fn check_writable(&self, now: Instant) -> Result<()> {
        let mut probed = self.probed.lock().await;
        let outcome = match &*probed {
            Some((at, outcome)) if now.saturating_duration_since(*at) < PROBE_INTERVAL => outcome.clone(),
            _ => {
                let outcome = probe(&self.pool, &self.folder).await;
                *probed = Some((now, outcome.clone()));
                outcome
            }
        };
        outcome.map_err(StoreError::from)
    }

    /// Closes the database. Everything answered so far is durable with or without it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
