//! `sekisho bench card`: what a command takes of a card in this process: time, reads, writes and erasures of its flash. And how many bytes of flash a file's byte costs.

use core::cell::Cell;
use core::ops::Range;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_applets::file_system::image::{Image, ROOT};
use sekisho_applets::{file_system, sec_app};
use sekisho_keys::{AesKey, KeySet};
use sekisho_nvm::Flash;
use sekisho_os::{Interface, Profile};
use sekisho_paging::Uid;
use sekisho_paging::device::{DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use serde_json::json;

use crate::card::element::{self, VirtualSe};
use crate::card::perso::{
    FirstPart, Perso, SecAppRecords, file_system as file_system_of, sec_app as sec_app_of,
};
use crate::card::ram_flash::{RamError, RamFlash};

/// Calls of each command.
const CALLS: u32 = 1000;
/// Turns; the median of their times counts.
const TURNS: usize = 5;

const INTERFACE: Interface = Interface::Iso7816Contact;

/// What has been done to a flash.
#[derive(Clone, Copy, Default)]
struct Counts {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    erasures: u64,
}

/// A flash that counts what is done to it.
struct Counting {
    flash: RamFlash,
    counts: Cell<Counts>,
}

impl Counts {
    /// Of one call.
    fn line(&self) -> String {
        let counts = [self.reads, self.read_bytes, self.writes, self.written_bytes].map(each);
        let erasures = each(self.erasures);
        counts
            .iter()
            .map(|count| format!("{count:>11.1}"))
            .collect::<String>()
            + &format!("{erasures:>11.3}")
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "reads": each(self.reads), "read_bytes": each(self.read_bytes), "writes": each(self.writes),
            "written_bytes": each(self.written_bytes), "erasures": each(self.erasures),
        })
    }
}

impl Counting {
    fn count(&self, f: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        f(&mut counts);
        self.counts.set(counts);
    }
}

impl Flash for Counting {
    type Error = RamError;

    fn page_size(&self) -> usize {
        self.flash.page_size()
    }

    fn pages(&self) -> usize {
        self.flash.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += out.len() as u64;
        });
        self.flash.read(address, out)
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.flash.mapped(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += bytes.len() as u64;
        });
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        self.count(|counts| counts.erasures += 1);
        self.flash.erase(page)
    }
}

/// The card with its flash counted, and its buffer.
struct Bench {
    se: Box<VirtualSe<Counting>>,
    out: Vec<u8>,
}

/// What a row sends.
#[derive(Clone, Copy)]
enum Row {
    /// A command of the application with this AID.
    Command(&'static [u8], &'static [u8]),
    /// GET DATA of the SE-id at security level 33.
    Protected,
}

const SMALL: &[u8] =
    b"\x62\x14\x80\x02\x00\x40\x82\x02\x01\x21\x83\x02\x2F\x00\x88\x01\xF0\x8C\x03\x03\x00\x00";
const LARGE: &[u8] =
    b"\x62\x14\x80\x02\x10\x00\x82\x02\x01\x21\x83\x02\x2F\x01\x88\x01\xE8\x8C\x03\x03\x00\x00";
const MF: &[u8] = b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x00\x00\x00";
const ISD: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00];

const ROWS: [(&str, Row); 10] = [
    (
        "SELECT",
        Row::Command(
            ISD,
            &[
                0x00, 0xA4, 0x04, 0x00, 0x08, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00, 0x00,
            ],
        ),
    ),
    (
        "INITIALIZE UPDATE",
        Row::Command(ISD, &[0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00]),
    ),
    ("GET DATA 00CF at level 33", Row::Protected),
    (
        "GET DATA 00E0",
        Row::Command(ISD, &[0x80, 0xCA, 0x00, 0xE0, 0x00]),
    ),
    (
        "GET DATA 00C1",
        Row::Command(ISD, &[0x80, 0xCA, 0x00, 0xC1, 0x00]),
    ),
    (
        "GET DATA, not there",
        Row::Command(ISD, &[0x80, 0xCA, 0x00, 0x42, 0x00]),
    ),
    (
        "READ BINARY of 32 bytes",
        Row::Command(file_system::AID, &[0x00, 0xB0, 0x9E, 0x00, 0x20]),
    ),
    (
        "UPDATE BINARY of 32 bytes",
        Row::Command(file_system::AID, &UPDATE),
    ),
    (
        "SecApp POLL",
        Row::Command(sec_app::AID, &[0x80, 0x20, 0x01, 0x00, 0x00]),
    ),
    (
        "SecApp STATUS",
        Row::Command(sec_app::AID, &[0x80, 0x28, 0x00, 0x00, 0x00]),
    ),
];

/// Of the small file's first 32 bytes.
const UPDATE: [u8; 37] = {
    let mut capdu = [0x5A; 37];
    [capdu[0], capdu[1], capdu[2], capdu[3], capdu[4]] = [0x00, 0xD6, 0x9E, 0x00, 0x20];
    capdu
};

/// The offset of an update.
type Offset = fn(u32) -> u32;

/// UPDATE BINARY of 32 bytes: in which file, and at which offset each time.
const UPDATES: [(&str, u8, Offset); 4] = [
    ("file of 64 bytes, at 0", 0x9E, |_| 0),
    ("file of 4,096 bytes, at 0", 0x9D, |_| 0),
    ("file of 4,096 bytes, all over it", 0x9D, |n| n * 32 % 4096),
    // 384 is where a piece begins, of 48 bytes and of 128.
    ("file of 4,096 bytes, across two pieces", 0x9D, |_| 368),
];

fn refused(refusal: sekisho_os::Refusal) -> anyhow::Error {
    anyhow!("the card's files: {}", refusal.0)
}

impl Bench {
    /// A developer's card with SecApp and a file system of two files.
    fn new() -> Result<Self> {
        let (perso, first) = (Perso::developer(false)?, FirstPart::new()?);
        let mut image = Image::new(MF).map_err(refused)?;
        for fcp in [SMALL, LARGE] {
            image.file(ROOT, fcp).map_err(refused)?;
        }
        let files: Vec<_> = image.iter().collect();
        let root = Root::new([0x33; 16]);
        let recovery = root.recovery_key();
        let state = State::new(Uid::default(), Keyspace::default(), DeviceKey::Fixed(root), 900);
        let kept = SecAppRecords::new(&state, &recovery);
        let records = kept.borrowed();
        let applications = [sec_app_of(&records)?, file_system_of(&files)?];
        let profile = Profile::default();
        let flash = Counting {
            flash: RamFlash::for_profile(&profile),
            counts: Cell::default(),
        };
        let (se, _) = element::start(flash, &profile, &perso.borrowed(&first, &applications, &[]))
            .context("the card does not start")?;
        Ok(Self {
            se: Box::new(se),
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
            answer => Err(anyhow!("the card answers {answer:02X?} to {capdu:02X?}")),
        }
    }

    fn select(&mut self, aid: &[u8]) -> Result<()> {
        self.se.reset(INTERFACE);
        let len = u8::try_from(aid.len())?;
        self.ok(&[&[0x00, 0xA4, 0x04, 0x00, len], aid, &[0x00]].concat())
            .map(drop)
    }

    /// What the flash has done since it was last asked.
    fn counts(&self) -> Counts {
        self.se.flash().counts.take()
    }

    /// [`CALLS`] calls: time of each, and what the flash did.
    fn row(&mut self, row: Row) -> Result<(Duration, Counts)> {
        match row {
            Row::Command(aid, capdu) => {
                self.select(aid)?;
                self.counts();
                let time = timed(|| {
                    (0..CALLS).for_each(|_| {
                        black_box(self.transmit(capdu));
                    })
                });
                Ok((time / CALLS, self.counts()))
            }
            Row::Protected => {
                self.select(ISD)?;
                let mut channel = self.channel()?;
                self.counts();
                let command = CApdu::new(Cla::GP, ins::GET_DATA, 0, 0xCF).with_ne(256);
                let (mut sent, mut plain) = ([0; 64], [0; 300]);
                let mut time = Duration::ZERO;
                for _ in 0..CALLS {
                    let mut w = Writer::new(&mut sent);
                    channel.wrap(&command, &mut w)?;
                    let mut len = 0;
                    time += timed(|| len = self.transmit(w.written()).len());
                    channel.unwrap_response(self.out.get(..len).unwrap_or_default(), &mut plain)?;
                }
                Ok((time / CALLS, self.counts()))
            }
        }
    }

    /// A secure channel at level 33, with the initial keys.
    fn channel(&mut self) -> Result<HostChannel> {
        let initial: Vec<u8> = (0x40..=0x4F).collect();
        let key = AesKey::new(&initial)?;
        let keys = KeySet {
            enc: key.clone(),
            mac: key.clone(),
            dek: key,
        };
        let answer = self.ok(&[0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00])?;
        let response = InitializeUpdateResponse::parse(&answer).context("INITIALIZE UPDATE")?;
        let challenge = Challenge::try_from(&[1, 2, 3, 4, 5, 6, 7, 8][..]).context("challenge")?;
        let session = SessionKeys::derive(&keys, &challenge, &response.card_challenge)?;
        let cryptogram = session.host_cryptogram(&challenge, &response.card_challenge)?;
        let mut channel = HostChannel::new(session, MacMode::S8);
        let mut sent = [0; 64];
        let mut w = Writer::new(&mut sent);
        channel.external_authenticate(SecurityLevel::FULL, &cryptogram, &mut w)?;
        self.ok(w.written())?;
        Ok(channel)
    }

    /// What [`CALLS`] updates of 32 bytes do to the flash, compactions included.
    fn updates(&mut self, sfi: u8, offset: Offset) -> Result<Counts> {
        self.select(file_system::AID)?;
        self.counts();
        for number in 0..CALLS {
            let [_, _, high, low] = offset(number).to_be_bytes();
            // An offset above 255 is one in the current file, which the first update has made it.
            let [_, _, _, value] = number.to_be_bytes();
            let (p1, p2) = if number == 0 { (sfi, low) } else { (high, low) };
            let capdu = [&[0x00, 0xD6, p1, p2, 32][..], &[value; 32]].concat();
            self.ok(&capdu)?;
        }
        Ok(self.counts())
    }
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

/// Of one call.
fn each(count: u64) -> f64 {
    count as f64 / f64::from(CALLS)
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(as_json: bool) -> Result<()> {
    eprintln!("measuring, some seconds ...");
    let mut bench = Bench::new()?;
    let mut rows = Vec::new();
    let mut times = vec![Vec::new(); ROWS.len()];
    for _ in 0..TURNS {
        rows.clear();
        for ((_, row), times) in ROWS.iter().zip(&mut times) {
            let (time, counts) = bench.row(*row)?;
            times.push(time);
            rows.push(counts);
        }
    }
    let micros: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times.get(TURNS / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        })
        .collect();
    let mut updates = Vec::new();
    for (name, sfi, offset) in UPDATES {
        updates.push((name, bench.updates(sfi, offset)?));
    }
    if as_json {
        let commands: Vec<_> = ROWS
            .iter()
            .zip(&micros)
            .zip(&rows)
            .map(
                |(((name, _), micros), counts)| json!({ "name": name, "us": micros, "flash": counts.json() }),
            )
            .collect();
        let updates: Vec<_> = updates
            .iter()
            .map(|(name, counts)| json!({ "name": name, "amplification": each(counts.written_bytes) / 32.0, "flash": counts.json() }))
            .collect();
        println!(
            "{}",
            json!({ "commands": commands, "update_binary_of_32_bytes": updates })
        );
        return Ok(());
    }
    println!(
        "a command in process                   us      reads    (bytes)     writes    (bytes)   erasures"
    );
    for (((name, _), micros), counts) in ROWS.iter().zip(&micros).zip(&rows) {
        println!("  {name:<30} {micros:>10.2} {}", counts.line());
    }
    println!(
        "UPDATE BINARY of 32 bytes        written x      reads    (bytes)     writes    (bytes)   erasures"
    );
    for (name, counts) in &updates {
        println!(
            "  {name:<32} {:>8.1} {}",
            each(counts.written_bytes) / 32.0,
            counts.line()
        );
    }
    Ok(())
}
