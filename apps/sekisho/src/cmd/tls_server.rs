//! `sekisho tls-server`: commands to secure elements that connect over TLS.

use core::fmt;
use core::future::pending;
use core::time::Duration;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use clap::Args as ClapArgs;
use sekisho_gateway::{Credentials, Gateway, Identity, Outcome, Reason, Refusals, Room, Session, Settings};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::agent::print_line;
use super::tls_renew::Renewal;
use super::tls_script::{self, Command, sw};
use super::{OrUsage as _, UNKNOWN, report};
use crate::files;
use crate::leftovers::stopped_after;
use crate::reader::words;

/// How often it is said how many connections became no session.
const PERIOD: Duration = Duration::from_secs(60);

/// Give commands to secure elements whose TLS sessions end in themselves
///
/// Each that connects and proves by its certificate who it is gets the script's commands, one a record; what became of each is printed when its session ends: done with its answer, not
/// sent, or unknown. Nothing is sent twice. With --count or --once: exit code 0 every command was done as expected, 1 one was not, 3 it is not known of one whether it was run.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Where to listen; port 0 for any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8450")]
    listen: SocketAddr,

    /// The server's certificate (PEM), and those behind it; ECDSA on P-256
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Certificate (PEM) of the authority that certifies secure elements; no other is trusted
    #[arg(long, value_name = "FILE")]
    client_ca: PathBuf,

    /// What that authority has revoked: its lists (CRL, PEM), read when the server starts and again when the file has changed and somebody connects or answers; without this nothing is. A file that cannot be used is said, and the lists before hold
    #[arg(long, value_name = "FILE")]
    revoked: Option<PathBuf>,

    /// What to send: lines `select AID`, `> APDU`, `< PATTERN` for the answer (docs/guide/reader.md); - for standard input. It ends at the first answer that is not as it should be
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "commands",
        required_unless_present_any = ["commands", "renew"]
    )]
    script: Option<PathBuf>,

    /// In the place of a script: let each secure element make a key, and write its request into this folder, as KEY.der where KEY is the beginning of the SHA-256 of its present public key; where
    /// KEY.pem is there, a certificate for such a request and those behind it, send it, and the key lives. Its row has to give this server the right
    #[arg(long, value_name = "DIR", conflicts_with_all = ["script", "commands"])]
    renew: Option<PathBuf>,

    /// End after so many sessions; connections that prove no secure element do not count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,

    /// End after one session
    #[arg(long, conflicts_with = "count")]
    once: bool,

    /// The longest record that secure elements take, in bytes; no command is longer
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(32..=16_384))]
    record: u32,

    /// Seconds that a handshake may take, and each answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// How many sessions of TLS 1.3 can be resumed by a ticket; without this none is
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    resumable: u32,

    /// Print JSON objects on standard output, one a line: when a session begins, for each answer, and when a session is over
    #[arg(long)]
    json: bool,

    /// Commands in hexadecimal digits, in the place of a script; any answer will do
    #[arg(value_name = "APDU")]
    commands: Vec<String>,
}

/// What all connections have in common.
struct Shared {
    gateway: Gateway,
    task: Task,
    /// How many sessions may still begin.
    turns: Semaphore,
    /// How many have begun.
    begun: AtomicU32,
    is_json: bool,
    refusals: Mutex<Refusals>,
    lists: Option<Lists>,
}

/// The file of what is revoked.
struct Lists {
    path: PathBuf,
    /// What tells one state of it from another, as it was read last: when it was written, its length, its number.
    state: Mutex<Option<State>>,
}

type State = (SystemTime, u64, u64);

impl Lists {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            state: Mutex::new(state(path)),
        }
    }

    /// What is in it, if it has changed.
    fn changed(&self) -> Option<Result<Vec<u8>>> {
        let now = state(&self.path);
        let mut before = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (now != *before).then(|| {
            *before = now;
            files::read(&self.path)
        })
    }
}

fn state(path: &Path) -> Option<State> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// What is asked of each secure element.
enum Task {
    Script(Vec<Command>),
    Renewal(Renewal),
}

/// What has been sent, and what became of it.
#[derive(Default)]
pub(super) struct Played {
    pub(super) outcomes: Vec<(Vec<u8>, Outcome)>,
    /// Why not every command was done as expected.
    pub(super) why: Option<Objection>,
    /// What a renewal has brought.
    pub(super) renewed: Option<String>,
}

/// Why not every command was done as expected: a word for programs, and a sentence.
pub(super) struct Objection {
    pub(super) word: &'static str,
    pub(super) text: String,
}

impl Objection {
    /// An answer that is not the one expected.
    pub(super) const fn answer(text: String) -> Self {
        Self { word: "answer", text }
    }
}

/// Which session it is, and with whom.
struct Head {
    /// Counted when it began.
    number: u32,
    identity: Identity,
    from: Option<SocketAddr>,
    protocol: &'static str,
}

/// A session that is over.
struct Ended {
    head: Head,
    played: Played,
}

/// Serves until it is stopped, or as often as it is asked.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let task = match &args.renew {
        Some(folder) => Task::Renewal(Renewal::in_folder(folder).or_usage()?),
        None => Task::Script(script(args).or_usage()?),
    };
    // Before it is read: what changes in between is read again.
    let lists = args.revoked.as_deref().map(Lists::new);
    let gateway = gateway(args).or_usage()?;
    let count = args.count.or(args.once.then_some(1));
    let most = count.map_or(Semaphore::MAX_PERMITS, |count| count as usize);
    let shared = Arc::new(Shared {
        gateway,
        task,
        turns: Semaphore::new(most),
        begun: AtomicU32::new(0),
        is_json: args.json,
        refusals: Mutex::new(Refusals::new(PERIOD)),
        lists,
    });
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(args, &shared, count))
}

fn script(args: &Args) -> Result<Vec<Command>> {
    let most = args.record as usize;
    let Some(path) = &args.script else {
        let given = (1..).zip(&args.commands).map(|(number, text)| {
            let bytes = tls_script::command(text, most).with_context(|| text.clone())?;
            Ok(Command::given(number, bytes))
        });
        return given.collect();
    };
    let text = match path.as_os_str() == "-" {
        true => files::read_stdin(),
        false => files::read_text(path),
    };
    tls_script::parse(&text?, most).with_context(|| path.display().to_string())
}

fn gateway(args: &Args) -> Result<Gateway> {
    let credentials = Credentials {
        chain: files::read(&args.certificate)?,
        key: files::read_secret(&args.key)?.as_bytes().to_vec(),
        authorities: files::read(&args.client_ca)?,
        revoked: args.revoked.as_deref().map(files::read).transpose()?,
    };
    let timeout = Duration::from_secs(args.timeout);
    let settings = Settings {
        record: args.record as usize,
        handshake: timeout,
        answer: timeout,
        resumable: args.resumable as usize,
        ..Settings::DEFAULT
    };
    Gateway::new(&credentials, settings).context("see --certificate, --key, --client-ca and --revoked")
}

/// How it went, all sessions together.
#[derive(Default)]
struct Tally {
    sessions: u32,
    /// Sessions of which a command was not done as expected.
    failed: u32,
    has_unknown: bool,
}

async fn serve(args: &Args, shared: &Arc<Shared>, count: Option<u32>) -> Result<ExitCode> {
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let mut sessions = JoinSet::new();
    let mut tally = Tally::default();
    let mut signals = Box::pin(stopped_after(|| say(&format!("listening on {address}"))));
    while count.is_none_or(|count| tally.sessions < count) {
        // Whatever becomes no session ends its task, so that this is looked at again.
        let period = shared.refusals().ends();
        tokio::select! {
            () = until(period) => shared.summarise(),
            result = &mut signals => {
                result?;
                break;
            }
            Some(ended) = sessions.join_next() => tally.count(args.json, ended)?,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match shared.renewed().gateway.room(from.ip()) {
                    Some(room) => drop(sessions.spawn(one(Arc::clone(shared), room, stream, stopped.clone()))),
                    None => shared.refuse(Reason::Full, Some(from), &Reason::Full),
                },
                // No file is left, or the connection has gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    while let Some(ended) = sessions.join_next().await {
        tally.count(args.json, ended)?;
    }
    shared.summarise();
    let Some(count) = count else {
        return Ok(ExitCode::SUCCESS);
    };
    if tally.has_unknown {
        report(&anyhow!("it is not known of every command whether it was run"));
        return Ok(ExitCode::from(UNKNOWN));
    }
    match (count - tally.sessions.min(count), tally.failed) {
        (0, 0) => Ok(ExitCode::SUCCESS),
        (0, failed) => Err(anyhow!("{failed} of {count} sessions did not go as expected")),
        (missing, _) => Err(anyhow!(
            "stopped, and {missing} of {count} sessions had not begun"
        )),
    }
}

impl Tally {
    fn count(&mut self, is_json: bool, ended: Result<Option<Ended>, tokio::task::JoinError>) -> Result<()> {
        let Some(ended) = ended.context("a session's task")? else {
            return Ok(());
        };
        self.sessions += 1;
        self.failed += u32::from(ended.played.why.is_some());
        self.has_unknown |= ended
            .played
            .outcomes
            .iter()
            .any(|(_, outcome)| *outcome == Outcome::Unknown);
        match is_json {
            true => print_line(&ended.as_json().to_string()),
            false => print_line(&ended.as_text()),
        }
        Ok(())
    }
}

/// One connection. `None` when it became no session, or came too late for one.
async fn one(
    shared: Arc<Shared>,
    room: Room,
    stream: TcpStream,
    mut stop: watch::Receiver<bool>,
) -> Option<Ended> {
    let from = stream.peer_addr().ok();
    let accepted = tokio::select! {
        accepted = shared.gateway.accept(room, stream) => accepted,
        () = told(&mut stop) => return None,
    };
    let mut session = match accepted {
        Ok(session) => session,
        Err(error) => {
            shared.refuse(error.reason(), from, &error);
            return None;
        }
    };
    let Ok(turn) = shared.turns.try_acquire() else {
        end(session, &mut stop).await;
        return None;
    };
    turn.forget();
    let number = 1 + shared.begun.fetch_add(1, Ordering::Relaxed);
    let head = Head {
        number,
        identity: session.identity().clone(),
        from,
        protocol: session.protocol(),
    };
    shared.begins(&head);
    let mut played = Played::default();
    match &shared.task {
        Task::Script(script) => play(&mut session, &shared, number, script, &mut played, &mut stop).await,
        Task::Renewal(renewal) => {
            let mut next = renewal.begin(&shared.gateway, &head.identity, &mut played);
            while let Some(script) = next {
                play(&mut session, &shared, number, &script, &mut played, &mut stop).await;
                next = renewal.go_on(&head.identity, &mut played);
            }
        }
    }
    end(session, &mut stop).await;
    Some(Ended { head, played })
}

/// Says goodbye; who was stopped does not wait for the other end's.
async fn end(session: Session, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        biased;
        () = session.end() => {}
        () = told(stop) => {}
    }
}

/// Waits until the server is stopped.
async fn told(stop: &mut watch::Receiver<bool>) {
    // Nobody could tell any more: the same.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

/// Sends a script's commands behind those before it: what became of each, and why not all were done as expected.
async fn play(
    session: &mut Session,
    shared: &Shared,
    number: u32,
    script: &[Command],
    played: &mut Played,
    stop: &mut watch::Receiver<bool>,
) {
    let before = played.outcomes.len();
    let mut objection = None;
    let as_expected = |at: usize, answer: &[u8]| {
        shared.renewed();
        let command = script.get(at);
        if let Some(command) = command.filter(|_| shared.is_json) {
            let mut line = command_line(&command.bytes, &Outcome::Done(answer.to_vec()));
            (line["event"], line["session"], line["command"]) =
                ("answer".into(), number.into(), (before + at + 1).into());
            print_line(&line.to_string());
        }
        objection = command.and_then(|command| command.objection(answer));
        objection.is_none()
    };
    let (outcomes, lost) = session.run_until(script, as_expected, told(stop)).await;
    let sent = script.iter().map(|command| command.bytes.clone());
    played.outcomes.extend(sent.zip(outcomes));
    let objection = objection.map(Objection::answer);
    let lost = lost.map(|lost| Objection {
        word: lost.word(),
        text: lost.to_string(),
    });
    played.why = objection.or(lost);
}

impl Shared {
    /// Says that a session begins: to whoever looks on, or for programs.
    fn begins(&self, head: &Head) {
        if self.is_json {
            return print_line(&head.as_json("begin").to_string());
        }
        let from = head.from.map_or_else(String::new, |from| format!(" from {from}"));
        say(&format!(
            "session {} begins: {}, {}{from}",
            head.number, head.identity, head.protocol
        ));
    }

    /// With the lists of what is revoked as they are now.
    fn renewed(&self) -> &Self {
        if let Some(read) = self.lists.as_ref().and_then(Lists::changed) {
            let done = read.and_then(|lists| Ok(self.gateway.revoke(lists)?));
            match done {
                Ok(()) => say("the lists of what is revoked were read again"),
                Err(error) => say(&format!("the lists of what is revoked are as before: {error:#}")),
            }
        }
        self
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has become no session: the first for this reason in a minute is said, the others are counted.
    fn refuse(&self, reason: Reason, from: Option<SocketAddr>, why: &dyn fmt::Display) {
        if self.refusals().count(reason, Instant::now().into_std()) {
            let from = from.map_or_else(String::new, |from| format!(" with {from}"));
            say(&format!("no session{from}: {why}"));
        }
    }

    /// Says how many there were.
    fn summarise(&self) {
        for (reason, more) in self.refusals().take() {
            say(&format!("no session with {more} more: {reason}"));
        }
    }
}

/// Waits until then; without a time for ever.
async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(Instant::from_std(time)).await,
        None => pending().await,
    }
}

impl Head {
    /// For programs: what each object of a session begins with.
    fn as_json(&self, event: &str) -> Value {
        json!({
            "event": event, "session": self.number, "names": self.identity.names, "key": hex::encode_upper(self.identity.key),
            "from": self.from.map(|from| from.to_string()), "protocol": self.protocol,
        })
    }
}

/// What became of a command.
fn command_line(command: &[u8], outcome: &Outcome) -> Value {
    let sent = hex::encode_upper(command);
    match outcome {
        Outcome::Done(answer) => json!({
            "sent": sent, "outcome": "done", "received": hex::encode_upper(answer), "sw": format!("{:04X}", sw(answer).0),
        }),
        Outcome::NotSent => json!({"sent": sent, "outcome": "not sent"}),
        Outcome::Unknown => json!({"sent": sent, "outcome": "unknown"}),
    }
}

impl Ended {
    fn as_text(&self) -> String {
        let head = &self.head;
        let from = head
            .from
            .map_or_else(String::new, |from| format!("  from {from}"));
        let mut lines = vec![format!(
            "session {}    {}  {}{from}",
            head.number, head.identity, head.protocol
        )];
        let mut line = |what: &str, text: &str| lines.push(format!("  {what:<12}{text}"));
        for (command, outcome) in &self.played.outcomes {
            let words = format!("{}  {}", hex::encode_upper(command), words::command(command));
            match outcome {
                Outcome::Done(answer) => {
                    line("command", &words);
                    line(
                        "answer",
                        &format!("{}  {}", hex::encode_upper(answer), sw(answer).meaning()),
                    );
                }
                Outcome::NotSent => line("not sent", &words),
                Outcome::Unknown => line("unknown", &words),
            }
        }
        if let Some(renewed) = &self.played.renewed {
            line("renewed", renewed);
        }
        if let Some(why) = &self.played.why {
            line("ended", &why.text);
        }
        lines.join("\n")
    }

    fn as_json(&self) -> Value {
        let commands = self
            .played
            .outcomes
            .iter()
            .map(|(command, outcome)| command_line(command, outcome));
        let mut object = self.head.as_json("end");
        object["commands"] = commands.collect::<Vec<_>>().into();
        object["as_expected"] = self.played.why.is_none().into();
        let why = self.played.why.as_ref();
        object["error"] = why.map(|why| why.text.clone()).into();
        object["why"] = why.map(|why| why.word).into();
        if let Some(renewed) = &self.played.renewed {
            object["renewed"] = renewed.clone().into();
        }
        object
    }
}

#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}
