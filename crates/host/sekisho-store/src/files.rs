//! Open files, of which a process may have so many.

use std::fs;
use std::io;

/// EMFILE and ENFILE of Linux: the process's limit, and the system's.
const TOO_MANY: [i32; 2] = [24, 23];
/// A database wants several at a time, and has given back those that it got when its error is heard.
const SPARE: usize = 8;

/// How many files the process has open, and how many it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Open now, sockets and all.
    pub open: usize,
    /// The soft limit of `ulimit -n`.
    pub limit: usize,
}

impl OpenFiles {
    /// Counts them.
    ///
    /// # Errors
    /// Where Linux's `/proc` is not mounted, or no file can be opened any more.
    pub fn count() -> io::Result<Self> {
        let limits = fs::read_to_string("/proc/self/limits")?;
        Ok(Self {
            open: fs::read_dir("/proc/self/fd")?.count(),
            limit: soft_limit(&limits).unwrap_or(usize::MAX),
        })
    }

    /// How many it may still open.
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.open)
    }
}

/// Whether the process has as many files open as it may, or nearly. What fails then fails for all sorts of reasons: a database "cannot be opened", a
/// connection is "refused".
pub fn files_ran_out() -> bool {
    match OpenFiles::count() {
        Ok(files) => files.left() < SPARE,
        Err(error) => error.raw_os_error().is_some_and(|code| TOO_MANY.contains(&code)),
    }
}

/// The soft limit, as `/proc/self/limits` says it (proc(5)); none when it is unlimited.
fn soft_limit(limits: &str) -> Option<usize> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             127                  127                  processes\n\
                      Max open files            1024                 4096                 files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(
            soft_limit("Max open files            unlimited            unlimited            files\n"),
            None
        );
        assert_eq!(soft_limit(""), None);
    }
}
