//! `sekisho bench rolling`: what a command costs under each mode of secure messaging, beside fixed keys and beside a new SCP03 session for each
//! command. All in one run, in turns; the median of the turns.

use anyhow::{Context, Result, anyhow};
use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_applets::file_system;
use sekisho_applets::file_system::image::test_key;
use sekisho_keys::{AesKey, KeySet, cbc_encrypt, ecb_block};
use sekisho_messaging::card::{CardMessaging, Received};
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, Schedule};
use sekisho_messaging::setup::{
    CardOpened, DEFAULT_REFRESH_EVERY, Mode, OPENING_ANSWER_MAX, Opened, Policy, open_card,
};
use sekisho_os::Interface;
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use serde_json::json;
use std::time::{Duration, Instant};

use crate::card::element::{SystemRng, VirtualSe};
use crate::card::ram_flash::RamFlash;
use crate::card::test_card;
use crate::reader::{Opening, Setup, encode};

/// Turns of each mode; the medians count.
const TURNS: usize = 400;
/// Exchanges of a turn, but for modes that are used up before.
const EXCHANGES: u32 = 48;
/// UPDATE BINARY of 32 bytes and READ BINARY of 32, in turns.
const WRITE: [u8; 37] = {
    let mut capdu = [0x5A; 37];
    capdu[0] = 0x00;
    capdu[1] = 0xD6;
    capdu[2] = 0x81;
    capdu[3] = 0x00;
    capdu[4] = 32;
    capdu
};
const READ: [u8; 5] = [0x00, 0xB0, 0x81, 0x00, 32];

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    Plain,
    Rolling(Mode, Lanes),
    Scp03,
}

const ROWS: [(Row, &str); 10] = [
    (Row::Rolling(Mode::Fixed, Lanes::Shared), "fixed keys"),
    (Row::Rolling(Mode::Ratchet, Lanes::Shared), "ratchet"),
    (
        Row::Rolling(Mode::Ratchet, Lanes::Separate),
        "ratchet, separate keys",
    ),
    (Row::Rolling(Mode::LegacyXor, Lanes::Shared), "legacy-xor"),
    (Row::Rolling(Mode::LegacyList, Lanes::Shared), "legacy-list"),
    (
        Row::Rolling(Mode::LegacyOperations, Lanes::Shared),
        "legacy-operations",
    ),
    (
        Row::Rolling(Mode::LegacyOperations, Lanes::Separate),
        "legacy-operations, separate",
    ),
    (Row::Rolling(Mode::LegacyTurns, Lanes::Shared), "legacy-turns"),
    (Row::Plain, "in the clear"),
    (Row::Scp03, "new SCP03 session each"),
];

/// Nanoseconds for an exchange.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Secure messaging at the card, and nothing else.
    layer: f64,
    /// The whole card.
    card: f64,
    /// Reader and card.
    both: f64,
}

/// Times what it is given.
#[derive(Default)]
struct Watch(Duration);

impl Watch {
    #[allow(clippy::disallowed_methods, reason = "a measurement")]
    fn time<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        self.0 += start.elapsed();
        result
    }

    fn each(&self, exchanges: u32) -> f64 {
        self.0.as_secs_f64() * 1e9 / f64::from(exchanges)
    }
}

/// The test card with its buffers.
struct Bench {
    se: Box<VirtualSe<RamFlash>>,
    out: Vec<u8>,
}

const INTERFACE: Interface = Interface::Iso7816Contact;

impl Bench {
    fn new() -> Result<Self> {
        Ok(Self {
            se: Box::new(test_card::element()?),
            out: vec![0; 2048],
        })
    }

    fn transmit(&mut self, capdu: &[u8]) -> &[u8] {
        let len = self.se.transmit(INTERFACE, capdu, &mut self.out);
        self.out.get(..len).unwrap_or_default()
    }

    /// The data of an answer of 9000.
    fn ok(&mut self, capdu: &[u8]) -> Result<Vec<u8>> {
        match self.transmit(capdu).split_last_chunk() {
            Some((data, [0x90, 0x00])) => Ok(data.to_vec()),
            answer => Err(anyhow!("the card answers {answer:02X?}")),
        }
    }

    fn select(&mut self) -> Result<()> {
        self.se.reset(INTERFACE);
        self.ok(&[&[0x00, 0xA4, 0x04, 0x00, 0x07][..], file_system::AID, &[0x00]].concat())
            .map(drop)
    }

    /// Opens at the card, and gives the reader's end.
    fn open(&mut self, mode: Mode, lanes: Lanes) -> Result<ReaderMessaging<Schedule>> {
        self.select()?;
        let challenge: [u8; 16] = self
            .ok(&[0x00, 0x84, 0, 0, 16])?
            .try_into()
            .map_err(|_| anyhow!("challenge"))?;
        let opening = Opening::new(&mkey(), setup(mode, lanes), challenge)?;
        let answer = self.ok(&opening.command()?)?;
        let Opened { schedule, ssc } = opening.finish(&mkey(), &answer)?;
        Ok(ReaderMessaging::new(schedule, ssc))
    }
}

fn mkey() -> AesKey {
    AesKey::aes128(test_key::MKEY)
}

const fn setup(mode: Mode, lanes: Lanes) -> Setup {
    Setup {
        mode,
        lanes,
        refresh_every: DEFAULT_REFRESH_EVERY,
    }
}

const fn exchanges(mode: Mode, lanes: Lanes) -> u32 {
    match (mode, lanes) {
        (Mode::LegacyXor, _) => 3,
        (Mode::LegacyTurns, _) => 4,
        (Mode::LegacyList, Lanes::Separate) => 8,
        (Mode::LegacyList | Mode::LegacyOperations, _) => 16,
        _ => EXCHANGES,
    }
}

fn capdu(number: u32) -> &'static [u8] {
    if number.is_multiple_of(2) { &WRITE } else { &READ }
}

/// A turn of a mode: secure messaging alone, then in the card.
fn rolling(bench: &mut Bench, mode: Mode, lanes: Lanes) -> Result<Cost> {
    let count = exchanges(mode, lanes);
    let layer = layer(mode, lanes, count)?;
    let mut reader = bench.open(mode, lanes)?;
    let (mut card, mut host) = (Watch::default(), Watch::default());
    let (mut sent, mut plain) = ([0; 300], [0; 300]);
    for number in 0..count {
        let command = CApdu::parse(capdu(number)).context("command")?;
        let selector = reader.propose(&mut SystemRng);
        let protected = host.time(|| reader.protect(&command, selector, &mut sent))?;
        let answer = card.time(|| bench.transmit(protected));
        host.time(|| reader.receive(answer, &mut plain).map(|answer| answer.sw))
            .map_err(|error| anyhow!("{}: {error}", mode.name()))?;
    }
    Ok(Cost {
        layer,
        card: card.each(count),
        both: card.each(count) + host.each(count),
    })
}

/// Secure messaging of the card's role alone.
fn layer(mode: Mode, lanes: Lanes, count: u32) -> Result<f64> {
    let challenge = [7; 16];
    let opening = Opening::new(&mkey(), setup(mode, lanes), challenge)?;
    let command = opening.command()?;
    let command = CApdu::parse(&command).context("opening")?;
    let CardOpened { opened, answer } = open_card(
        &Policy::every_mode(),
        &mkey(),
        challenge,
        &command,
        &mut SystemRng,
    )?;
    let mut card: CardMessaging<_, 300> = CardMessaging::new(opened.schedule, opened.ssc);
    let mut confirmed = [0; OPENING_ANSWER_MAX];
    let Opened { schedule, ssc } = opening.finish(&mkey(), answer.write(&mut confirmed))?;
    let mut reader = ReaderMessaging::new(schedule, ssc);
    let mut watch = Watch::default();
    let (mut sent, mut plain, mut data) = ([0; 300], [0; 300], [0; 300]);
    for number in 0..count {
        let capdu = CApdu::parse(capdu(number)).context("command")?;
        let selector = reader.propose(&mut SystemRng);
        let protected = reader.protect(&capdu, selector, &mut sent)?;
        let back: &[u8] = if capdu.data.is_empty() { &[0x5A; 32] } else { &[] };
        let answer = watch.time(|| {
            match card.receive(protected, &mut plain) {
                Ok(Received::Command(_)) => {}
                _ => return Err(anyhow!("not accepted")),
            }
            Ok(card.answer(back, StatusWord::NO_ERROR)?.to_vec())
        })?;
        reader.receive(&answer, &mut data)?;
    }
    Ok(watch.each(count))
}

fn in_the_clear(bench: &mut Bench) -> Result<Cost> {
    bench.select()?;
    let mut card = Watch::default();
    for _ in 0..EXCHANGES {
        // 2F00, which needs no secure messaging.
        card.time(|| bench.transmit(&[0x00, 0xB0, 0x9E, 0x00, 32]).len());
    }
    Ok(Cost {
        layer: 0.0,
        card: card.each(EXCHANGES),
        both: card.each(EXCHANGES),
    })
}

/// INITIALIZE UPDATE, EXTERNAL AUTHENTICATE and a GET DATA at full level, with the initial keys; the issuer security domain is the card's
/// application for this.
fn scp03(bench: &mut Bench) -> Result<Cost> {
    const SESSIONS: u32 = 4;
    let initial: Vec<u8> = (0x40..=0x4F).collect();
    let key = AesKey::new(&initial)?;
    let keys = KeySet {
        enc: key.clone(),
        mac: key.clone(),
        dek: key,
    };
    bench.se.reset(INTERFACE);
    let (mut card, mut whole) = (Watch::default(), Watch::default());
    for _ in 0..SESSIONS {
        whole.time(|| scp03_session(bench, &keys, &mut card))?;
    }
    Ok(Cost {
        layer: 0.0,
        card: card.each(SESSIONS),
        both: whole.each(SESSIONS),
    })
}

fn scp03_session(bench: &mut Bench, keys: &KeySet, card: &mut Watch) -> Result<()> {
    let challenge = [1, 2, 3, 4, 5, 6, 7, 8];
    let start = CApdu::new(Cla::GP, ins::INITIALIZE_UPDATE, 0, 0)
        .with_data(&challenge)
        .with_ne(256);
    let start = encode(&start)?;
    let response = card.time(|| bench.ok(&start))?;
    let response = InitializeUpdateResponse::parse(&response).context("INITIALIZE UPDATE")?;
    let challenge = Challenge::try_from(&challenge[..]).context("challenge")?;
    let session = SessionKeys::derive(keys, &challenge, &response.card_challenge)?;
    let cryptogram = session.host_cryptogram(&challenge, &response.card_challenge)?;
    let mut channel = HostChannel::new(session, MacMode::S8);
    let (mut first, mut second, mut plain) = ([0; 64], [0; 64], [0; 300]);
    let mut w = Writer::new(&mut first);
    channel.external_authenticate(SecurityLevel::FULL, &cryptogram, &mut w)?;
    card.time(|| bench.ok(w.written()))?;
    let mut w = Writer::new(&mut second);
    channel.wrap(&CApdu::new(Cla::GP, ins::GET_DATA, 0, 0xCF).with_ne(256), &mut w)?;
    let answer = card.time(|| bench.transmit(w.written()));
    channel.unwrap_response(answer, &mut plain)?;
    Ok(())
}

/// Key expansions of an exchange under fixed keys, when each use of a key expands it, as here: KSmac for each of the two MACs, and for the data of the command or of the
/// answer KSenc once for the IV and once for CBC. The ratchet's chain key is one more.
const EXPANSIONS: u32 = 4;

/// Nanoseconds for expanding an AES-128 key: one block under it, less what a block of CBC costs under a key that is expanded.
fn key_expansion() -> f64 {
    const ROUNDS: u32 = 2000;
    const BLOCKS: u32 = 64;
    let key = mkey();
    let (mut block, mut blocks) = ([0x5A; 16], [0x5A; 16 * BLOCKS as usize]);
    let mut turns: Vec<f64> = (0..TURNS / 8)
        .map(|_| {
            let (mut one, mut many) = (Watch::default(), Watch::default());
            one.time(|| (0..ROUNDS).for_each(|_| ecb_block(&key, &mut block)));
            many.time(|| {
                for _ in 0..ROUNDS / BLOCKS {
                    // Whole blocks: it cannot fail.
                    let _ = cbc_encrypt(&key, &block, &mut blocks);
                }
            });
            // many: an expansion and BLOCKS blocks, each time.
            let (one, many) = (one.each(ROUNDS), many.each(ROUNDS / BLOCKS));
            let a_block = (many - one) / f64::from(BLOCKS - 1);
            std::hint::black_box((&block, &blocks));
            (one - a_block).max(0.0)
        })
        .collect();
    turns.sort_by(f64::total_cmp);
    turns.get(turns.len() / 2).copied().unwrap_or(0.0)
}

fn median(costs: &mut [Cost]) -> Cost {
    let mut middle = |field: fn(&Cost) -> f64| {
        costs.sort_by(|a, b| field(a).total_cmp(&field(b)));
        costs.get(costs.len() / 2).map_or(0.0, field)
    };
    Cost {
        layer: middle(|cost| cost.layer),
        card: middle(|cost| cost.card),
        both: middle(|cost| cost.both),
    }
}

/// Megahertz of the processor, as the system states them; `None` where it does not.
fn megahertz() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    line.split(':').nth(1)?.trim().parse().ok()
}

/// Measures and prints.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(as_json: bool) -> Result<()> {
    eprintln!("measuring, some seconds ...");
    let mut bench = Bench::new()?;
    let mut turns = vec![Vec::with_capacity(TURNS); ROWS.len()];
    for _ in 0..TURNS {
        for ((row, _), turns) in ROWS.iter().zip(&mut turns) {
            turns.push(match row {
                Row::Plain => in_the_clear(&mut bench)?,
                Row::Rolling(mode, lanes) => rolling(&mut bench, *mode, *lanes)?,
                Row::Scp03 => scp03(&mut bench)?,
            });
        }
    }
    let costs: Vec<_> = turns.iter_mut().map(|turns| median(turns)).collect();
    let fixed = costs.first().copied().unwrap_or_default();
    let ratchet = costs.get(1).copied().unwrap_or_default();
    let (megahertz, expansion) = (megahertz(), key_expansion());
    let kept = fixed.layer - f64::from(EXPANSIONS) * expansion;
    if as_json {
        let rows: Vec<_> = ROWS
            .iter()
            .zip(&costs)
            .map(|((_, name), cost)| json!({ "name": name, "layer_ns": cost.layer, "card_ns": cost.card, "both_ns": cost.both }))
            .collect();
        println!(
            "{}",
            json!({
                "megahertz": megahertz, "rows": rows, "key_expansion_ns": expansion, "key_expansions_fixed": EXPANSIONS,
                "ratchet_beside_fixed_keys_kept_expanded": ratchet.layer / kept,
            })
        );
        return Ok(());
    }
    match megahertz {
        Some(megahertz) => {
            println!("one command of 32 bytes and its answer; thousands of cycles at {megahertz:.0} MHz")
        }
        None => println!("one command of 32 bytes and its answer; microseconds"),
    }
    println!("                                  messaging alone      whole card     reader and card");
    let unit = |nanos: f64| nanos * megahertz.unwrap_or(1000.0) / 1e6;
    for ((_, name), cost) in ROWS.iter().zip(&costs) {
        let column = |cost: f64, fixed: f64| match cost {
            0.0 => format!("{:>18}", "-"),
            cost => format!("{:>8.2} {:>7.2} x", unit(cost), cost / fixed),
        };
        println!(
            "  {name:<28} {} {} {}",
            column(cost.layer, fixed.layer),
            column(cost.card, fixed.card),
            column(cost.both, fixed.both)
        );
    }
    println!(
        "the cipher's hidden cost: each use of a key expands it, {:.2} each time; {EXPANSIONS} times in an exchange under fixed keys, once more in the ratchet.",
        unit(expansion)
    );
    println!(
        "Fixed keys that were kept expanded would cost {:.2} in messaging alone, and the ratchet, whose keys are new each time, {:.2} x that",
        unit(kept),
        ratchet.layer / kept
    );
    Ok(())
}
