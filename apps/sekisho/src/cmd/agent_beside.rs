//! What an agent does beside its updates: it carries TLS sessions of the secure element to a gateway, and writes down what a sensor says.

use core::time::Duration;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args as ClapArgs;
use sekisho_device::SharedCard;
use sekisho_device::sensor::{READING_MAX, SensorFile};
use sekisho_device::tls::{Settings, carry};
use sekisho_transport::Stop;
use serde_json::{Value, json};

use super::agent::{Progress, print_line};
use super::in_a_line;
use super::tls::{self, Trace, place};

/// Pauses before each try to connect to the gateway; after the last the next message tries again.
const TRIES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a sensor's command may take.
const SENSOR: Duration = Duration::from_secs(30);
/// How often it is looked whether a connection stands, and whether a sensor's command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Options for what is done beside updates.
#[derive(ClapArgs)]
#[group(id = "beside")]
pub(super) struct Args {
    /// The server of the secure element's TLS sessions, as `sekisho tls-server`: when paging says so (KIND 02) a session of the secure element is carried to it, beside the agent's own HTTPS
    #[arg(long, value_name = "HOST:PORT", value_parser = place, requires = "paging")]
    gateway: Option<String>,

    /// The gateway's row in the secure element's table of peers
    #[arg(long, value_name = "ROW", default_value_t = 1, requires = "gateway", value_parser = clap::value_parser!(u16).range(1..))]
    peer: u16,

    /// Write down the records and commands of these sessions by name, never what is in them; - for standard error
    #[arg(long, value_name = "FILE", requires = "gateway")]
    trace: Option<PathBuf>,

    /// A command of the shell whose output is written to a file of the secure element, in the clear, again and again
    #[arg(long, value_name = "COMMAND")]
    sensor: Option<String>,

    /// How often: seconds, or as 10s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "sensor", value_parser = period)]
    every: Duration,

    /// The file: its identifier in the MF of the file system, a transparent file that anybody may write
    #[arg(long, value_name = "ID", default_value = "0015", requires = "sensor", value_parser = file_id)]
    sensor_file: [u8; 2],
}

fn period(text: &str) -> Result<Duration, String> {
    let wrong = || "write 10s, 5m or 1h; one second to a day".to_owned();
    let (digits, unit) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, "s")) => (digits, 1),
        Some((digits, "m")) => (digits, 60),
        Some((digits, "h")) => (digits, 3600),
        _ => (text, 1),
    };
    let seconds = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=86_400).contains(seconds));
    Ok(Duration::from_secs(seconds.ok_or_else(wrong)?))
}

fn file_id(text: &str) -> Result<[u8; 2], String> {
    let bytes = hex::decode(text).ok();
    let id = bytes.and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
    id.ok_or_else(|| "a file's identifier has four hexadecimal digits".to_owned())
}

/// Says what happens beside the updates: lines on standard error, or objects on standard output.
#[derive(Clone)]
struct Say {
    progress: Progress,
    is_json: bool,
}

impl Say {
    fn say(&self, words: &str, object: &Value) {
        if self.is_json {
            print_line(&object.to_string());
        } else {
            self.progress.say(words);
        }
    }
}

impl Args {
    /// The sensor that was asked for.
    pub(super) fn sensor(&self, is_json: bool) -> Option<Sensor> {
        Some(Sensor {
            command: self.sensor.clone()?,
            every: self.every,
            id: self.sensor_file,
            file: Arc::new(Mutex::new(SensorFile::new(self.sensor_file))),
            is_json,
        })
    }

    /// The gateway that was asked for.
    pub(super) fn gateway(&self, is_json: bool) -> Result<Option<Gateway>> {
        let Some(address) = self.gateway.clone() else {
            return Ok(None);
        };
        let trace = self.trace.as_deref().map(Trace::to).transpose()?;
        Ok(Some(Gateway {
            address,
            peer: self.peer,
            trace: Arc::new(Mutex::new(trace)),
            is_json,
        }))
    }
}

/// A thread that ends with its owner.
pub(super) struct Running {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(run: impl FnOnce(&Stop) + Send + 'static) -> Self {
        let stop = Stop::new();
        let stopped = stop.clone();
        Self {
            stop,
            thread: Some(thread::spawn(move || run(&stopped))),
        }
    }

    /// Waits until it has ended by itself.
    pub(super) fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The other end of the secure element's TLS sessions.
pub(super) struct Gateway {
    address: String,
    peer: u16,
    trace: Arc<Mutex<Option<Trace>>>,
    is_json: bool,
}

impl Gateway {
    /// Carries a session beside whatever else is done with the card. What becomes of it is said and hinders nothing.
    pub(super) fn start(&self, card: SharedCard, progress: &Progress) -> Running {
        let say = Say {
            progress: progress.clone(),
            is_json: self.is_json,
        };
        let (address, peer, trace) = (self.address.clone(), self.peer, Arc::clone(&self.trace));
        Running::start(move |stop| {
            let settings = Settings {
                stop: Some(stop.clone()),
                ..tls::settings(peer)
            };
            let (words, mut object) = match session(&address, card, &settings, &trace) {
                Ok(Some(session)) => (
                    format!("{}; {}", tls::words(&session), tls::counts(&session)),
                    tls::as_json(&session),
                ),
                Ok(None) => return,
                Err(error) => {
                    let words = in_a_line(&error);
                    (words.clone(), json!({"error": words}))
                }
            };
            object["result"] = "session".into();
            say.say(&format!("gateway: {words}"), &object);
        })
    }
}

/// One session; nothing where it was stopped before it began.
fn session(
    address: &str,
    mut card: SharedCard,
    settings: &Settings,
    trace: &Mutex<Option<Trace>>,
) -> Result<Option<sekisho_device::tls::Session>> {
    let is_stopped = |pause| settings.stop.as_ref().is_some_and(|stop| stop.wait(pause));
    let mut last = anyhow!("it was not tried");
    for pause in TRIES {
        if is_stopped(pause) {
            return Ok(None);
        }
        let Some(connected) = connect(address, &is_stopped) else {
            return Ok(None);
        };
        match connected {
            Ok(stream) => {
                let carried = carry(&mut card, &stream, settings, &mut |seen| {
                    let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(trace) = trace.as_mut() {
                        trace.see(seen);
                    }
                });
                return Ok(Some(carried?));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects, in a thread of its own: nobody who stops a session waits for it. Nothing when it was stopped.
fn connect(address: &str, is_stopped: &dyn Fn(Duration) -> bool) -> Option<Result<TcpStream>> {
    let (tell, told) = mpsc::channel();
    let address = address.to_owned();
    thread::spawn(move || tell.send(tls::connect(&address, CONNECT)));
    loop {
        match told.recv_timeout(LOOK) {
            _ if is_stopped(Duration::ZERO) => return None,
            Ok(connected) => return Some(connected),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// A sensor of the device.
pub(super) struct Sensor {
    command: String,
    every: Duration,
    id: [u8; 2],
    file: Arc<Mutex<SensorFile>>,
    is_json: bool,
}

impl Sensor {
    /// The SE has been reset and read, and an update may begin: the channel of the readings is opened before it, and none in it.
    pub(super) fn hold(&self, card: &SharedCard) {
        lock(&self.file).hold(&mut card.clone());
    }

    /// The update is over.
    pub(super) fn release(&self) {
        lock(&self.file).release();
    }

    /// Writes down what it says, again and again, beside whatever else is done with the card.
    pub(super) fn start(&self, mut card: SharedCard, progress: &Progress) -> Running {
        let say = Say {
            progress: progress.clone(),
            is_json: self.is_json,
        };
        let (command, every, id) = (self.command.clone(), self.every, self.id);
        let file = Arc::clone(&self.file);
        Running::start(move |stop| {
            let mut last = None;
            loop {
                let written =
                    reading(&command).and_then(|reading| Ok(lock(&file).write(&mut card, &reading)?));
                let waits = matches!(written, Ok(false));
                let now = written.err().map(|error| in_a_line(&error));
                // What has not changed since the last reading is not said again.
                if !waits && last.as_ref() != Some(&now) {
                    let id = hex::encode_upper(id);
                    match &now {
                        None => say.say(
                            &format!("sensor: written to file {id}"),
                            &json!({"result": "sensor", "file": id}),
                        ),
                        Some(error) => say.say(
                            &format!("sensor: {error}"),
                            &json!({"result": "sensor", "file": id, "error": error}),
                        ),
                    }
                }
                if !waits {
                    last = Some(now);
                }
                if stop.wait(every) {
                    return;
                }
            }
        })
    }
}

fn lock(file: &Mutex<SensorFile>) -> MutexGuard<'_, SensorFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the command says, without the end of its last line.
fn reading(command: &str) -> Result<Vec<u8>> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("no shell for the sensor's command")?;
    let said = finish(&mut child);
    if said.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("the sensor's command")?;
    let mut said = said?;
    if !status.success() {
        bail!("its command failed: {status}");
    }
    let end = said.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r'));
    said.truncate(end.map_or(0, |end| end + 1));
    if said.is_empty() {
        bail!("its command said nothing");
    }
    Ok(said)
}

/// What a process says, one byte more than a reading at most, when it has ended.
fn finish(child: &mut Child) -> Result<Vec<u8>> {
    let stdout = child
        .stdout
        .take()
        .context("the output of the sensor's command")?;
    let (tell, told) = mpsc::channel();
    // It ends when the output does, which a process that was left behind may hold for longer than anybody waits.
    thread::spawn(move || {
        let mut said = Vec::new();
        let read = stdout.take(READING_MAX as u64 + 2).read_to_end(&mut said);
        let _ = tell.send(read.map(|_| said));
    });
    let slow = || anyhow!("its command did not end within {} s", SENSOR.as_secs());
    let said = told.recv_timeout(SENSOR).map_err(|_| slow())??;
    let mut left = SENSOR;
    while child.try_wait()?.is_none() {
        left = left.checked_sub(LOOK).ok_or_else(slow)?;
        super::agent::pause(LOOK);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_what_a_command_says() {
        assert_eq!(reading("echo 21.5").unwrap(), b"21.5");
        assert_eq!(reading("printf 'a b\\r\\n\\n'").unwrap(), b"a b");
        for (command, why) in [
            ("exit 3", "failed"),
            ("true", "said nothing"),
            ("echo", "said nothing"),
            ("no-such-command-here 2>&-", "failed"),
        ] {
            let said = reading(command).unwrap_err().to_string();
            assert!(said.contains(why), "{command}: {said}");
        }
        // Too long for any file; the writer says so.
        assert_eq!(reading("head -c 257 /dev/zero").unwrap().len(), READING_MAX + 2);
    }

    #[test]
    fn how_often_and_where_to() {
        for (text, seconds) in [("10s", 10), ("7", 7), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(period(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "s",
            "0s",
            "-1s",
            "25h",
            "10ms",
            "18446744073709551615h",
            "\u{e9}",
        ] {
            assert!(period(text).is_err(), "{text}");
        }
        assert_eq!(file_id("0015"), Ok([0, 0x15]));
        assert!(file_id("15").is_err() && file_id("00150").is_err() && file_id("").is_err());
    }
}
