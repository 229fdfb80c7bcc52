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
use sekisho_device::sensor::{READING_MAX, SensorFile};
use sekisho_device::tls::{Session, Settings, carry};
use sekisho_device::{Agent, AgentError, Backend, Event, SharedCard, Spool, Turn};
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

/// What has happened beside the updates.
pub(crate) enum Happening {
    /// A session has ended, or there was none.
    Session(Result<Session>),
    /// A reading is in this file, or why not.
    Reading([u8; 2], Option<String>),
}

impl Happening {
    /// For people, and for programs.
    fn told(&self) -> (String, Value) {
        match self {
            Self::Session(Ok(session)) => {
                let words = format!("gateway: {}; {}", tls::words(session), tls::counts(session));
                let mut object = tls::as_json(session);
                object["result"] = "session".into();
                (words, object)
            }
            Self::Session(Err(error)) => {
                let words = in_a_line(error);
                let object = json!({"result": "session", "error": words});
                (format!("gateway: {words}"), object)
            }
            Self::Reading(id, None) => {
                let id = hex::encode_upper(id);
                let object = json!({"result": "sensor", "file": id});
                (format!("sensor: written to file {id}"), object)
            }
            Self::Reading(id, Some(error)) => {
                let object = json!({"result": "sensor", "file": hex::encode_upper(id), "error": error});
                (format!("sensor: {error}"), object)
            }
        }
    }
}

/// Hears what happens beside the updates, in whichever thread.
pub(crate) type Tell = Arc<dyn Fn(&Happening) + Send + Sync>;

/// Lines on standard error, or objects on standard output.
fn say(progress: &Progress, is_json: bool) -> Tell {
    let progress = progress.clone();
    Arc::new(move |happening| match (happening.told(), is_json) {
        ((_, object), true) => print_line(&object.to_string()),
        ((words, _), false) => progress.say(&words),
    })
}

impl Args {
    /// What was asked for.
    pub(super) fn beside(&self, progress: &Progress, is_json: bool) -> Result<Beside> {
        let trace = self.trace.as_deref().map(Trace::to).transpose()?;
        let gateway = self.gateway.clone().map(|address| Gateway {
            address,
            peer: self.peer,
            trace: Arc::new(Mutex::new(trace)),
        });
        let sensor = self.sensor.clone().map(|command| Sensor {
            command,
            every: self.every,
            file: self.sensor_file,
        });
        Ok(Beside::new(gateway, sensor, say(progress, is_json)))
    }
}

/// What one device does beside its updates. All of it ends with this.
pub(crate) struct Beside {
    gateway: Option<Gateway>,
    sensor: Option<Sensor>,
    file: Option<Arc<Mutex<SensorFile>>>,
    tell: Tell,
    /// The session with the gateway.
    session: Option<Running>,
    /// The sensor's readings.
    readings: Option<Running>,
}

impl Beside {
    pub(crate) fn new(gateway: Option<Gateway>, sensor: Option<Sensor>, tell: Tell) -> Self {
        let file = |sensor: &Sensor| Arc::new(Mutex::new(SensorFile::new(sensor.file)));
        Self {
            file: sensor.as_ref().map(file),
            gateway,
            sensor,
            tell,
            session: None,
            readings: None,
        }
    }

    /// A device that does nothing else.
    pub(crate) fn nothing() -> Self {
        Self::new(None, None, Arc::new(|_| ()))
    }

    /// Whether the card is needed between the turns too.
    pub(super) const fn has_sensor(&self) -> bool {
        self.sensor.is_some()
    }

    /// The readings begin, unless they have or there is no sensor.
    pub(crate) fn start(&mut self, card: &SharedCard) {
        if let (None, Some(sensor), Some(file)) = (&self.readings, &self.sensor, &self.file) {
            self.readings = Some(sensor.start(Arc::clone(file), card.clone(), Arc::clone(&self.tell)));
        }
    }

    /// One turn of the agent, with a session of the SE beside it if that is asked for, or if there was one. The turn begins with a reset of the SE: a session ends in good order before
    /// it, and begins behind it.
    pub(crate) fn turn<B: Backend, S: Spool>(
        &mut self,
        agent: &mut Agent<B, S>,
        card: &mut SharedCard,
        with_session: bool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Turn, AgentError> {
        let with_session = with_session || self.session.as_ref().is_some_and(Running::goes_on);
        self.session = None;
        let users = card.clone();
        let turn = agent.turn(card, &mut |event| {
            if let Event::Secure(_) = &event {
                // The channel of the readings is opened before an update, and none in it.
                if let Some(file) = &self.file {
                    lock(file).hold(&mut users.clone());
                }
                if let Some(gateway) = self.gateway.as_ref().filter(|_| with_session) {
                    self.session = Some(gateway.start(users.clone(), Arc::clone(&self.tell)));
                }
            }
            watch(event);
        });
        if let Some(file) = &self.file {
            lock(file).release();
        }
        turn
    }

    /// Waits until the session has ended by itself.
    pub(super) fn wait(&mut self) {
        if let Some(session) = self.session.take() {
            session.wait();
        }
    }
}

/// A thread that ends with its owner.
struct Running {
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

    fn goes_on(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits until it has ended by itself.
    fn wait(mut self) {
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
pub(crate) struct Gateway {
    address: String,
    peer: u16,
    trace: Arc<Mutex<Option<Trace>>>,
}

impl Gateway {
    /// The peer of a row, at this address.
    pub(crate) fn new(address: String, peer: u16) -> Self {
        Self {
            address,
            peer,
            trace: Arc::default(),
        }
    }

    /// Carries a session beside whatever else is done with the card. What becomes of it is told and hinders nothing.
    fn start(&self, card: SharedCard, tell: Tell) -> Running {
        let (address, peer, trace) = (self.address.clone(), self.peer, Arc::clone(&self.trace));
        Running::start(move |stop| {
            let settings = Settings {
                stop: Some(stop.clone()),
                ..tls::settings(peer)
            };
            if let Some(session) = session(&address, card, &settings, &trace).transpose() {
                tell(&Happening::Session(session));
            }
        })
    }
}

/// One session; nothing where it was stopped before it began.
fn session(
    address: &str,
    mut card: SharedCard,
    settings: &Settings,
    trace: &Mutex<Option<Trace>>,
) -> Result<Option<Session>> {
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
pub(crate) struct Sensor {
    /// A command of the shell, which says a reading.
    pub(crate) command: String,
    /// How long between two.
    pub(crate) every: Duration,
    /// The file that they are written to.
    pub(crate) file: [u8; 2],
}

impl Sensor {
    /// Writes down what it says, again and again, beside whatever else is done with the card.
    fn start(&self, file: Arc<Mutex<SensorFile>>, mut card: SharedCard, tell: Tell) -> Running {
        let (command, every, id) = (self.command.clone(), self.every, self.file);
        Running::start(move |stop| {
            let mut last = None;
            loop {
                let written =
                    reading(&command).and_then(|reading| Ok(lock(&file).write(&mut card, &reading)?));
                let waits = matches!(written, Ok(false));
                let now = written.err().map(|error| in_a_line(&error));
                // What has not changed since the last reading is not said again.
                if !waits && last.as_ref() != Some(&now) {
                    tell(&Happening::Reading(id, now.clone()));
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
    // One that said too much was not heard to its end, and may have died of it.
    if said.len() <= READING_MAX && !status.success() {
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
        // One that goes on and on is told to stop by SIGPIPE, which is no failure of its own.
        assert_eq!(reading("cat /dev/zero").unwrap().len(), READING_MAX + 2);
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
