//! CPU time, for measurements.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Of a thread so far, in nanoseconds, by its folder below `/proc` (schedstat: time on the CPU, with what the kernel does for it).
pub(super) fn of_task(folder: &Path) -> Result<u64> {
    let stat = std::fs::read_to_string(folder.join("schedstat")).context("no CPU time")?;
    Ok(stat.split_whitespace().next().unwrap_or_default().parse()?)
}

/// Of this process, or of the processes that it has waited for, so far, in microseconds.
pub(super) fn of(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who).context("no CPU time")?;
    let time = |of: TimeVal| of.tv_sec() as f64 * 1e6 + of.tv_usec() as f64;
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
