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
mod writer;

pub use files::{OpenFiles, files_ran_out};
pub use model::{
    Access, CampaignRow, CohortCounts, Counts, DeviceRow, Event, Failure, Grant, Issue, Issued, NewCampaign,
    NewPackage, Report, Standing, State, Target, TargetState, Word,
};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::path::Path;
use std::time::Duration;

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
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(&'static str),
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
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        let writer = writer::Writer::start(pool.clone());
        Ok(Self { pool, writer })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes the database. Everything answered so far is durable with or without it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
