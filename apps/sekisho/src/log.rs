//! What goes wrong inside a server, line by line on standard error; `RUST_LOG` says how much, as `info` or `warn,sekisho_server=debug`.

use anyhow::{Context, Result};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// From here on errors and warnings are printed.
///
/// # Errors
/// `RUST_LOG` says nothing that can be understood.
pub(crate) fn to_stderr() -> Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if !wanted.is_empty() => wanted
            .parse()
            .with_context(|| format!("RUST_LOG is {wanted:?}, which names no levels"))?,
        // Slow statements and connections that are thrown away are the database driver's affair.
        _ => Targets::new()
            .with_default(Level::WARN)
            .with_target("sqlx", Level::ERROR),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .context("the log")
}
