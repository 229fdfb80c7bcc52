//! `sekisho bench paging`: a poll beside a bare echo of the same run, with the same sockets, sizes and counting.

use anyhow::{Context, Result, bail};
use sekisho_pager::Engine;
use sekisho_pager::socket::{self, BATCH, Batch};
use sekisho_paging::DATAGRAM;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::Device;
use serde_json::{Value, json};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::cpu;
use crate::leftovers::Folder;
use crate::load::fleet::TestFleet;

/// Devices that poll in a round, and rounds: medians are taken.
const DEVICES: u32 = 100_000;
const ROUNDS: usize = 5;
/// Polls that wait for their answers at the same time.
const WINDOW: usize = 512;

type Datagram = [u8; DATAGRAM];

/// CPU time of a thread of this process in nanoseconds, by its name.
fn cpu_of(thread: &str) -> Result<u64> {
    // A thread that has just been started has not told its name yet.
    for _ in 0..1000 {
        for task in std::fs::read_dir("/proc/self/task")? {
            let path = task?.path();
            // It may have ended since it was listed.
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            if name.trim() == thread {
                return cpu::of_task(&path);
            }
        }
        #[allow(clippy::disallowed_methods, reason = "a thread needs a moment")]
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("no thread {thread}")
}

/// What a round came to.
#[derive(Clone, Copy)]
struct Round {
    /// CPU of the server for each datagram, in microseconds.
    micros: f64,
    per_second: f64,
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.micros.total_cmp(&b.micros));
    rounds[rounds.len() / 2]
}

struct Client {
    socket: UdpSocket,
    batch: Batch,
}

impl Client {
    fn new(server: SocketAddr) -> Result<Self> {
        let socket = socket::open("127.0.0.1:0".parse()?)?;
        socket.connect(server)?;
        Ok(Self {
            socket,
            batch: Batch::new(),
        })
    }

    /// Sends all and takes the answers, which come in the same order; `None` where one was lost.
    #[allow(clippy::disallowed_methods, reason = "a measurement")]
    fn exchange(&mut self, thread: &str, polls: &[Datagram]) -> Result<(Round, Vec<Datagram>)> {
        let mut answers = Vec::with_capacity(polls.len());
        let (mut sent, mut idle) = (0, 0);
        let (cpu, started) = (cpu_of(thread)?, Instant::now());
        while answers.len() < polls.len() && idle < 20 {
            let room = WINDOW
                .saturating_sub(sent - answers.len())
                .min(BATCH)
                .min(polls.len() - sent);
            if room > 0 {
                let to = [None; BATCH];
                self.batch
                    .send(&self.socket, &polls[sent..sent + room], &to[..room]);
                sent += room;
            }
            let count = self
                .batch
                .receive(&self.socket, sent == polls.len() || room == 0)?;
            idle = if count == 0 && room == 0 { idle + 1 } else { 0 };
            for number in 0..count {
                answers.push(
                    self.batch
                        .datagram(number)
                        .try_into()
                        .context("an answer of another length")?,
                );
            }
        }
        let (cpu, seconds) = (cpu_of(thread)? - cpu, started.elapsed().as_secs_f64());
        if answers.len() < polls.len() {
            bail!(
                "{} of {} answers were lost",
                polls.len() - answers.len(),
                polls.len()
            );
        }
        let round = Round {
            micros: cpu as f64 / 1e3 / answers.len() as f64,
            per_second: answers.len() as f64 / seconds,
        };
        Ok((round, answers))
    }
}

/// A server that sends back what it gets, with the engine's own way of receiving and sending.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Echo {
    fn start() -> Result<Self> {
        let socket = socket::open("127.0.0.1:0".parse()?)?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                sekisho_pager::socket::pin(Some(0));
                let mut batch = Batch::new();
                while !stopped.load(Ordering::Relaxed) {
                    let count = batch.receive(&socket, true).unwrap_or(0);
                    let back: Vec<Datagram> = (0..count)
                        .map(|number| batch.datagram(number).try_into().unwrap_or([0; DATAGRAM]))
                        .collect();
                    let to: Vec<_> = (0..count).map(|number| batch.sender(number)).collect();
                    batch.send(&socket, &back, &to);
                }
            })?;
        Ok(Self {
            address,
            stop,
            thread,
        })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

/// The next polls of all devices.
fn polls(devices: &mut [Device], number: u32) -> Vec<Datagram> {
    devices
        .iter_mut()
        .map(|device| device.poll(Reason::Periodic, number.to_be_bytes()))
        .collect()
}

/// A round of real polls: every device's identity changes with it.
fn poll_round(client: &mut Client, devices: &mut [Device], number: u32) -> Result<Round> {
    let polls = polls(devices, number);
    let (round, answers) = client.exchange("paging-0", &polls)?;
    for (device, answer) in devices.iter_mut().zip(&answers) {
        let accepted = device.receive(answer).context("an answer was not accepted")?;
        device.promote(accepted);
    }
    Ok(round)
}

fn bogus_round(engine: &Engine, client: &mut Client) -> Result<f64> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let noise: Vec<Datagram> = (0..20_000)
        .map(|_| {
            std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
        })
        .collect();
    let before = engine.totals().bytes_in;
    let cpu = cpu_of("paging-0")?;
    for _ in 0..20 {
        for noise in noise.chunks(BATCH) {
            let to = [None; BATCH];
            client.batch.send(&client.socket, noise, &to[..noise.len()]);
        }
    }
    #[allow(clippy::disallowed_methods, reason = "what is under way arrives")]
    std::thread::sleep(Duration::from_millis(300));
    let received = (engine.totals().bytes_in - before) / DATAGRAM as u64;
    Ok((cpu_of("paging-0")? - cpu) as f64 / 1e3 / received.max(1) as f64)
}

const fn fleet(random: bool, rolling: bool, devices: u32) -> TestFleet {
    TestFleet {
        devices,
        random,
        rolling,
    }
}

/// Rounds of one fleet, between rounds of the echo.
fn measure(fleet: &TestFleet, echo: &mut Client, echoes: &mut Vec<Round>) -> Result<(Round, f64)> {
    let folder = Folder::new()?;
    let directory = fleet.random.then(|| folder.path().to_owned());
    let engine = fleet.engine("127.0.0.1:0".parse()?, 1, directory, Some(0))?;
    let mut devices = fleet.make()?;
    let mut client = Client::new(engine.local_addr())?;
    poll_round(&mut client, &mut devices, 0)?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let number = u32::try_from(number)?;
        rounds.push(poll_round(&mut client, &mut devices, number)?);
        let same = polls(&mut devices.clone(), number);
        echoes.push(echo.exchange("echo", &same)?.0);
    }
    let bogus = bogus_round(&engine, &mut client)?;
    engine.stop()?;
    Ok((median(rounds), bogus))
}

/// Many devices: memory, snapshot, restart, and the rate with all of them registered.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn many(devices: u32) -> Result<Value> {
    let folder = Folder::new()?;
    let fleet = fleet(false, false, devices);
    let any = "127.0.0.1:0".parse()?;
    let before = super::bench::resident()?;
    let engine = fleet.engine(any, 1, Some(folder.path().to_owned()), Some(0))?;
    let memory = super::bench::resident()?.saturating_sub(before);
    let started = Instant::now();
    let bytes = engine.checkpoint()?;
    let written = started.elapsed().as_secs_f64();
    engine.stop()?;
    let started = Instant::now();
    let engine = fleet.start_again(any, folder.path().to_owned())?;
    let restarted = started.elapsed().as_secs_f64();
    let some = TestFleet {
        devices: DEVICES.min(devices),
        ..fleet
    };
    let mut some = some.make()?;
    let mut client = Client::new(engine.local_addr())?;
    poll_round(&mut client, &mut some, 0)?;
    let round = poll_round(&mut client, &mut some, 1)?;
    engine.stop()?;
    Ok(json!({
        "devices": devices, "bytes_per_device": memory as f64 / f64::from(devices), "snapshot_bytes": bytes,
        "snapshot_seconds": written, "restart_seconds": restarted, "poll_us": round.micros,
        "polls_per_second": round.per_second,
    }))
}

/// Measures and prints.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(as_json: bool, registered: u32) -> Result<()> {
    sekisho_pager::socket::pin(Some(1));
    eprintln!("measuring, about half a minute ...");
    let echo_server = Echo::start()?;
    let mut echo = Client::new(echo_server.address)?;
    let mut echoes = Vec::new();
    let (ticket, bogus) = measure(&fleet(false, false, DEVICES), &mut echo, &mut echoes)?;
    let (rolling, _) = measure(&fleet(false, true, DEVICES), &mut echo, &mut echoes)?;
    let (random, _) = measure(&fleet(true, false, DEVICES), &mut echo, &mut echoes)?;
    let echoed = median(echoes);
    echo_server.stop();
    let many = many(registered)?;
    let (peers, absent) = super::bench_peers::measure_all()?;
    if as_json {
        let row = |round: Round| json!({ "cpu_us": round.micros, "per_second": round.per_second, "echoes": round.micros / echoed.micros });
        let others: Vec<_> = peers
            .iter()
            .map(|peer| json!({ "name": peer.name, "cpu_us": peer.micros, "bytes": peer.bytes, "packets": peer.packets }))
            .collect();
        println!(
            "{}",
            json!({ "echo": row(echoed), "ticket": row(ticket), "rolling": row(rolling), "random": row(random), "bogus_us": bogus, "registered": many, "peers": others })
        );
        return Ok(());
    }
    println!("one core, 44 bytes each way         CPU            of the echo    in this run");
    for (name, round) in [
        ("bare batched UDP echo", echoed),
        ("whole poll, ticket", ticket),
        ("whole poll, ticket, rolling key", rolling),
        ("whole poll, random, written first", random),
    ] {
        println!(
            "  {name:<33} {:>6.2} us       {:>5.2} x      {:>8.0} /s",
            round.micros,
            round.micros / echoed.micros,
            round.per_second
        );
    }
    println!(
        "  bogus datagram, not answered      {bogus:>6.2} us       {:>5.2} x",
        bogus / echoed.micros
    );
    println!("the same question elsewhere         CPU            of a poll         bytes   packets");
    println!(
        "  {:<33} {:>6.1} us       {:>5.1} x      {:>8} {:>9}",
        "a poll", ticket.micros, 1.0, 144, 2
    );
    for peer in &peers {
        println!(
            "  {:<33} {:>6.1} us       {:>5.1} x      {:>8.0} {:>9.1}",
            peer.name,
            peer.micros,
            peer.micros / ticket.micros,
            peer.bytes,
            peer.packets
        );
    }
    absent.iter().for_each(|why| println!("  not measured: {why}"));
    println!("{} devices registered", many["devices"]);
    println!(
        "  memory {:.1} B each, snapshot {:.0} MB in {:.1} s, restart in {:.1} s, poll {:.2} us",
        many["bytes_per_device"].as_f64().unwrap_or(0.0),
        many["snapshot_bytes"].as_f64().unwrap_or(0.0) / 1e6,
        many["snapshot_seconds"].as_f64().unwrap_or(0.0),
        many["restart_seconds"].as_f64().unwrap_or(0.0),
        many["poll_us"].as_f64().unwrap_or(0.0)
    );
    Ok(())
}
