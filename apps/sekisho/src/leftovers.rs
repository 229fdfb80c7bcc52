//! What must not stay behind when a signal, or a reader that goes away, ends a command: temporary folders, and servers of others that it has started.
//!
//! A signal ends a process without its destructors. So the first leftover starts a thread that waits for SIGINT and SIGTERM, clears up, and ends the process
//! with 128 and the signal's number, as a shell would show it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// What is there now.
#[derive(PartialEq, Eq)]
enum Leftover {
    Folder(PathBuf),
    Process(Pid),
}

static LEFTOVERS: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());
/// The command waits for the signal itself.
static IS_AWAITED: AtomicBool = AtomicBool::new(false);

fn leftovers() -> MutexGuard<'static, Vec<Leftover>> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary folder that goes with its owner, or with the process.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        watch()?;
        // Whoever clears up must not miss a folder that is being made.
        let mut leftovers = leftovers();
        let folder = tempfile::Builder::new()
            .prefix("sekisho-")
            .tempdir()
            .context("making a temporary folder")?;
        leftovers.push(Leftover::Folder(folder.path().to_owned()));
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.path());
        let own = Leftover::Folder(self.0.path().to_owned());
        leftovers().retain(|leftover| *leftover != own);
    }
}

/// A process that ends with its owner, or with this one.
#[derive(Debug)]
pub(crate) struct Process(Child, Pid);

impl Process {
    pub(crate) fn new(child: Child) -> Result<Self> {
        watch()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        leftovers().push(Leftover::Process(pid));
        Ok(Self(child, pid))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        leftovers().retain(|leftover| *leftover != Leftover::Process(self.1));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for SIGINT or SIGTERM, where it is the ordinary end of a command.
pub(crate) async fn stopped() -> Result<()> {
    stopped_after(|| ()).await
}

/// The same; `say` is called when a signal will be heard.
pub(crate) async fn stopped_after(say: impl FnOnce()) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    IS_AWAITED.store(true, Ordering::SeqCst);
    say();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Ends the process, cleared up, where a library panics for what is no fault of the program: `println!` when standard output is closed, as SIGPIPE would end it, or when
/// the disk behind it is full (the card, which writes without `println!`, goes on without a reader); tokio when there is no file left to hear signals with.
pub(crate) fn end_without_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        let is_printing = text.starts_with("failed printing to std");
        if is_printing && text.contains("Broken pipe") {
            end(128 + Signal::SIGPIPE as i32);
        }
        if is_printing || text.contains("Too many open files") {
            let _ = writeln!(std::io::stderr(), "error: {text}");
            end(1);
        }
        usual(info);
    }));
}

/// Starts to wait for a signal, once.
fn watch() -> Result<()> {
    static IS_WATCHED: OnceLock<bool> = OnceLock::new();
    let start = || -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        drop(entered);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let number = runtime.block_on(async {
                    tokio::select! {
                        _ = interrupt.recv() => SignalKind::interrupt(),
                        _ = terminate.recv() => SignalKind::terminate(),
                    }
                });
                if !IS_AWAITED.load(Ordering::SeqCst) {
                    end(128 + number.as_raw_value());
                }
            })?;
        Ok(())
    };
    if !*IS_WATCHED.get_or_init(|| start().is_ok()) {
        bail!("signals cannot be waited for");
    }
    Ok(())
}

/// Clears up and ends the process. Nothing new is begun: who wants to, waits for the lock for ever.
#[expect(
    clippy::disallowed_methods,
    reason = "a signal ends the process, and the main thread is busy"
)]
fn end(code: i32) -> ! {
    let leftovers = leftovers();
    for leftover in leftovers.iter() {
        match leftover {
            Leftover::Process(pid) => drop(kill(*pid, Signal::SIGTERM)),
            // The other threads still run, and may make a file while the folder is emptied.
            Leftover::Folder(path) => {
                for _ in 0..50 {
                    let _ = fs::remove_dir_all(path);
                    if !path.exists() {
                        break;
                    }
                    std::thread::sleep(core::time::Duration::from_millis(2));
                }
            }
        }
    }
    std::process::exit(code)
}
