//! Local paging servers: what they are given, and how one runs (`docs/spec/paging.md`, LTS).

use anyhow::{Context, Result, bail};
use clap::Args;
use sekisho_hsm::sealed::{self, Purpose};
use sekisho_hsm::{Hsm, SoftHsm, new_file};
use sekisho_link::SeId;
use sekisho_pager::{Engine, Intent, Registration, RootKeys, Scheme, Settings, Target};
use sekisho_paging::keys::{Keyspace, PollKey, Root};
use sekisho_paging::message::{Action, NoAction};
use sekisho_paging::orders::Reach;
use sekisho_paging::ticket::{Ring, TicketKey};
use sekisho_server::paging::{PagingConfig, open_sealed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::secret::{self, Passphrase};
use crate::admin_client::AdminClient;
use crate::files;

/// Time between two snapshots.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// Failed polls a second, from one network, that are denial of service.
const ALARM_RATE: u32 = 1000;
/// Characters of a line that are shown.
const SHOWN_MAX: usize = 120;
/// Longest line that is read as one message: any message is shorter.
const LINE_MAX: u64 = 256;

/// Where the file goes, and what it is made with.
#[derive(Args)]
pub(super) struct Give {
    /// The file to write, for `sekisho paging --local`
    #[arg(long, default_value = "local.sealed")]
    out: PathBuf,
    /// File whose first line is the passphrase that the local server will have
    #[arg(long)]
    local_passphrase_file: PathBuf,
    /// The HSM's keystore
    #[arg(long, default_value = "keystore.sealed", env = "SEKISHO_KEYSTORE")]
    keystore: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// What a local server is given. It has no root of a device: its keys are worth nothing in another domain or generation.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Delegation {
    domain: u8,
    epoch: u32,
    ticket_key: [u8; 16],
    seal_key: [u8; 32],
    first_order: u32,
    last_order: u32,
    devices: Vec<GivenDevice>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct GivenDevice {
    index: u32,
    se_id: [u8; 10],
    group: u16,
    generation: u32,
    key: [u8; 16],
}

fn number<T: TryFrom<u64>>(value: &Value, name: &str) -> Result<T> {
    let number = value[name].as_u64().and_then(|n| T::try_from(n).ok());
    number.with_context(|| format!("the server says nothing of {name}"))
}

/// Gives devices to a domain, 0 to take them back, and sends them there.
pub(super) fn move_to(client: &AdminClient, se_ids: &[SeId], domain: u8) -> Result<Value> {
    let ids: Vec<_> = se_ids.iter().map(SeId::to_string).collect();
    let wanted = json!({ "se_ids": ids });
    client.post(
        &format!("paging/domains/{domain}/devices"),
        wanted.to_string().as_bytes(),
    )
}

/// Sends the devices to the domain, which this server answers for as well, and writes the file. The local server's orders come last: they are above
/// that of the move.
pub(super) fn give(client: &AdminClient, se_ids: &[SeId], domain: u8, file: &Give) -> Result<Value> {
    let passphrase = secret::passphrase_of(&file.local_passphrase_file)?;
    let hsm = secret::keystore(&file.keystore, &file.passphrase.read()?)?;
    let given = client.post(&format!("paging/domains/{domain}"), b"")?;
    let sealed = hex::decode(given["sealed"].as_str().unwrap_or_default()).context("ticket key")?;
    let ticket_key = open_sealed(&*hsm.paging_seal_key()?, &sealed)
        .context("the ticket key does not open: this is not the server's keystore")?;
    let mut delegation = Delegation {
        domain,
        epoch: number(&given, "epoch")?,
        ticket_key: ticket_key.as_slice().try_into().context("ticket key")?,
        seal_key: [0; 32],
        first_order: 0,
        last_order: 0,
        devices: Vec::with_capacity(se_ids.len()),
    };
    hsm.random(&mut delegation.seal_key)?;
    new_file::check(&file.out)?;
    let given = move_to(client, se_ids, domain)?;
    for (se_id, given) in se_ids
        .iter()
        .zip(given["devices"].as_array().into_iter().flatten())
    {
        delegation
            .devices
            .push(given_device(&hsm, *se_id, domain, given)?);
    }
    if delegation.devices.len() != se_ids.len() {
        bail!("the server has not given all devices");
    }
    let orders = client.post("paging/orders", b"")?;
    delegation.first_order = number(&orders, "first")?;
    delegation.last_order = number(&orders, "last")?;
    let content = Zeroizing::new(serde_json::to_vec(&delegation)?);
    sealed::write(&file.out, Purpose::Delegation, passphrase.as_bytes(), &content)?;
    Ok(json!({ "domain": domain, "devices": se_ids.len(), "file": file.out.display().to_string() }))
}

fn given_device(hsm: &SoftHsm, se_id: SeId, domain: u8, given: &Value) -> Result<GivenDevice> {
    let there = Keyspace {
        domain,
        generation: number(given, "generation")?,
    };
    let key = Root::new(hsm.paging_root(se_id)?).poll_key(there);
    Ok(GivenDevice {
        index: number(given, "index")?,
        se_id: se_id.0,
        group: number(given, "group")?,
        generation: there.generation,
        key: *key.as_bytes(),
    })
}

/// Nobody here knows a root.
struct NoRoots;

impl RootKeys for NoRoots {
    fn root(&self, _se_id: &[u8; 10]) -> Option<Root> {
        None
    }
}

/// Messages of the local server: one line each, in a file that outlives it, so that none is forgotten and no order is used twice. Its first line says
/// whose orders they have; `jump INDEX ORDER` stands where the orders went on above ORDER for the device INDEX.
struct Messages {
    file: File,
    next: u32,
    last: u32,
    reach: Reach,
    /// What has been sent, for what has to be given anew.
    sent: Vec<Action>,
    /// How many steps were whose.
    steps: HashMap<u32, u32>,
}

impl Messages {
    /// A folder belongs to one file of `delegate`: under another block of orders its messages would all be new ones.
    fn check(path: &Path, delegation: &Delegation) -> Result<()> {
        let text = if path.exists() {
            files::read_text(path)?
        } else {
            String::new()
        };
        let whose = text.lines().next().filter(|line| line.starts_with(ORDERS));
        if whose.is_some_and(|line| line != orders_line(delegation)) {
            bail!(
                "{} has the messages of another file of `sekisho fleet paging delegate`: give this one a folder of its own",
                path.display()
            );
        }
        Ok(())
    }

    /// Reads what has been sent, and sends it again: devices that are done with it are not told twice.
    fn open(path: &Path, delegation: &Delegation, engine: &Engine) -> Result<Self> {
        let mut messages = Self {
            file: OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write {}", path.display()))?,
            next: delegation.first_order,
            last: delegation.last_order,
            reach: Reach::local(delegation.first_order, delegation.last_order),
            sent: Vec::new(),
            steps: HashMap::new(),
        };
        let text = files::read_text(path)?;
        if text.is_empty() {
            messages.write(&orders_line(delegation))?;
        }
        for line in text.lines().filter(|line| !line.starts_with(ORDERS)) {
            messages
                .read(line, engine)
                .with_context(|| format!("{}: {line}", path.display()))?;
        }
        engine.set_given(messages.next.saturating_sub(1));
        Ok(messages)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.file, "{line}").and_then(|()| self.file.sync_all())?)
    }

    fn read(&mut self, line: &str, engine: &Engine) -> Result<()> {
        let Some(jump) = line.strip_prefix(JUMP) else {
            return self.post(action(line)?, engine).map(drop);
        };
        let (index, upto) = jump.split_once(' ').context("whose jump, and to where?")?;
        self.jump(index.parse()?, upto.parse()?, engine);
        Ok(())
    }

    /// Numbers a message and gives it to the engine.
    fn post(&mut self, action: Action, engine: &Engine) -> Result<u32> {
        if self.next > self.last {
            bail!("no order is left for a message: delegate the devices anew");
        }
        let order = self.next;
        engine.post(intent(order, action, None));
        self.next += 1;
        self.sent.push(action);
        Ok(order)
    }

    /// A new message: durable before a device can hear of it, and above all that devices have said.
    fn send(&mut self, line: &str, engine: &Engine) -> Result<u32> {
        let action = action(line)?;
        self.follow(engine);
        self.write(line)?;
        let order = self.post(action, engine)?;
        engine.set_given(order);
        Ok(order)
    }

    /// Orders go on above `upto`. What has been sent is given anew to devices that are done with an order between, which nobody here has given.
    fn jump(&mut self, index: u32, upto: u32, engine: &Engine) {
        let past = self.next.saturating_sub(1);
        *self.steps.entry(index).or_default() += upto.saturating_sub(past) / self.reach.step;
        self.next = upto.saturating_add(1);
        for action in &self.sent {
            engine.post(intent(self.next, *action, Some(past)));
            self.next = self.next.saturating_add(1);
        }
    }

    /// Follows devices that are done with an order of the block that was not given: this folder is older than they are, or a new one.
    #[allow(clippy::print_stderr)]
    fn follow(&mut self, engine: &Engine) {
        let mut devices = engine.ahead();
        devices.sort_unstable_by_key(|device| std::cmp::Reverse(device.order));
        for device in devices.iter().filter(|device| !device.refused) {
            let (last, order) = (self.next.saturating_sub(1), device.order);
            let used = self.steps.get(&device.index).copied().unwrap_or(0);
            let upto = match self.reach.steps(last, order, used) {
                Some(0) => continue,
                Some(steps) => last + steps * self.reach.step,
                None => u32::MAX,
            };
            let known = engine.device(device.index);
            let se_id = known.map(|known| hex::encode(known.se_id)).unwrap_or_default();
            let anew = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
            let is_room = upto.saturating_add(anew) <= self.reach.ceiling;
            if is_room && self.write(&format!("{JUMP}{} {upto}", device.index)).is_ok() {
                self.jump(device.index, upto, engine);
                engine.set_given(self.next - 1);
                eprintln!(
                    "device {se_id} is done with order {order}, {last} was the last given here: this folder is older than its devices; orders go on above {upto}"
                );
            } else {
                engine.refuse(device.index, true);
                eprintln!(
                    "device {se_id} is done with order {order}, which this server follows no more: it hears of nothing below; delegate the devices anew"
                );
            }
        }
    }
}

/// Begins the first line of a file of messages.
const ORDERS: &str = "orders ";
/// Begins a line of it that is a jump.
const JUMP: &str = "jump ";
/// How often it is looked whether a device is ahead.
const LOOK: Duration = Duration::from_millis(500);

fn orders_line(delegation: &Delegation) -> String {
    format!("{ORDERS}{} {}", delegation.first_order, delegation.last_order)
}

const fn intent(order: u32, action: Action, past: Option<u32>) -> Intent {
    Intent {
        order,
        to: Target::Everybody,
        action,
        not_before: None,
        expires: None,
        past,
    }
}

/// `update 60`: a message in words.
fn action(line: &str) -> Result<Action> {
    let (name, argument) = line.split_once(' ').unwrap_or((line, "0"));
    let argument: u32 = argument.trim().parse().context("the argument is a number")?;
    match Action::named(name, argument) {
        // Only the operator's own servers can move a device.
        Ok(Action::MoveTo(_)) | Err(NoAction::Name) => {
            bail!("there are update, open-https, poll-every, generate-keys and transport-identity")
        }
        Ok(action) => Ok(action),
        Err(NoAction::Argument) => bail!("the argument is out of range"),
    }
}

/// What somebody wrote, for a terminal: no control characters, not long.
fn shown(text: &str) -> String {
    let mut kept: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if text.chars().count() > SHOWN_MAX {
        kept += "...";
    }
    kept
}

/// The next line, or the next [`LINE_MAX`] bytes of one that is no message; `None` at the end.
fn message_line(stream: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let len = stream.take(LINE_MAX).read_until(b'\n', &mut line).ok()?;
    (len > 0).then(|| String::from_utf8_lossy(&line).into_owned())
}

fn held(messages: &Mutex<Messages>) -> MutexGuard<'_, Messages> {
    messages.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a local server until it is stopped. Each line on standard input is a message to all of its devices.
#[allow(clippy::print_stderr)]
pub(super) fn run(
    file: &Path,
    passphrase: &Passphrase,
    config: &PagingConfig,
    folder: &Path,
) -> Result<ExitCode> {
    let content = sealed::read(file, Purpose::Delegation, passphrase.read()?.as_bytes())
        .with_context(|| format!("{} does not open", file.display()))?;
    let delegation: Delegation = serde_json::from_slice(&content).context("this is no delegation")?;
    files::close_known(file);
    let _alone = files::alone_in(folder)?;
    files::private_folder(folder, &[])?;
    let path = folder.join("messages");
    Messages::check(&path, &delegation)?;
    let engine = Arc::new(start(&delegation, config)?);
    let messages = Arc::new(Mutex::new(Messages::open(&path, &delegation, &engine)?));
    eprintln!("paging         udp {}", engine.local_addr());
    eprintln!(
        "local server of domain {} for {} devices; a line on standard input is a message to them, as: update 60",
        delegation.domain,
        delegation.devices.len()
    );
    let (heard, looked) = (Arc::clone(&engine), Arc::clone(&messages));
    #[allow(clippy::disallowed_methods, reason = "this is the edge that waits")]
    let wait = || std::thread::sleep(LOOK);
    std::thread::spawn(move || {
        loop {
            wait();
            held(&looked).follow(&heard);
        }
    });
    let heard = Arc::clone(&engine);
    std::thread::spawn(move || {
        while let Some(line) = message_line(&mut std::io::stdin().lock()) {
            let sent = held(&messages).send(line.trim(), &heard);
            match sent {
                Ok(order) => eprintln!("message {order}: {}", shown(line.trim())),
                Err(error) => eprintln!("{}: {}", shown(line.trim()), shown(&super::in_a_line(&error))),
            }
        }
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(crate::leftovers::stopped())?;
    eprintln!("stopping");
    engine.checkpoint()?;
    Ok(ExitCode::SUCCESS)
}

fn start(delegation: &Delegation, config: &PagingConfig) -> Result<Engine> {
    let mut ring = Ring::new();
    let key = TicketKey::new(delegation.domain, delegation.epoch, &delegation.ticket_key, true);
    ring.add(key).map_err(|_| anyhow::anyhow!("ticket key"))?;
    let settings = Settings {
        listen: config.listen,
        threads: config.threads,
        first_core: None,
        scheme: Scheme::Ticket,
        domain: delegation.domain,
        directory: config.directory.clone(),
        seal_key: Zeroizing::new(delegation.seal_key),
        snapshot_every: SNAPSHOT_EVERY,
        alarm_rate: ALARM_RATE,
    };
    let engine = Engine::start(settings, Arc::new(NoRoots), ring)?;
    for device in &delegation.devices {
        engine.register(&[Registration {
            index: device.index,
            se_id: device.se_id,
            group: device.group,
            rolling: false,
            keyspace: Keyspace {
                domain: delegation.domain,
                generation: device.generation,
            },
            blocked: false,
            start: Some(PollKey::new(device.key)),
            uid: None,
        }]);
    }
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_reach_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\u{9b}c"), "a[2Jbc");
        assert_eq!(shown(&"x".repeat(256)), format!("{}...", "x".repeat(SHOWN_MAX)));
    }
}
