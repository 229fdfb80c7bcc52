//! `sekisho bench transports`: what each protocol's own frames add to a command: bytes on its line, time on a line of a stated speed and over a socket here, and the CPU of both ends, beside the same command in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::resource::UsageWho;
use sekisho_block::lr1::Record;
use sekisho_messaging::setup::Policy;
use sekisho_os::Protocol;
use sekisho_transport::{
    Card as _, CardLine, CardSide, DeviceLine, Lines, LinkAddress, LinkCard, LinkListener, NodeAddress, Seen,
    Stop, Tap, serve_link,
};
use serde_json::{Value, json};

use super::cpu;
use crate::card::element::{self, CardPlatform};
use crate::card::kind::Kind;
use crate::card::perso::{FirstPart, Perso};
use crate::card::ram_flash::RamFlash;
use crate::card::side::SharedSe;

/// Calls of each command.
const CALLS: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(30);

/// A protocol, and a line for it: microseconds for a byte and for what stands around a frame.
struct Speed {
    device: DeviceLine,
    card: CardLine,
    protocols: &'static [Protocol],
    line: &'static str,
    byte: f64,
    frame: f64,
}

/// Characters at 3.58 MHz, F = 372, D = 32: 3.25 us for an etu.
const ETU: f64 = 372.0 / 32.0 / 3.579_545;

const SPEEDS: [Speed; 5] = [
    Speed {
        device: DeviceLine::T0,
        card: CardLine::T0,
        protocols: &[Protocol::T0],
        line: "3.58 MHz, D 32, 12 etu",
        byte: 12.0 * ETU,
        frame: 0.0,
    },
    Speed {
        device: DeviceLine::T1,
        card: CardLine::T1,
        protocols: &[Protocol::T1],
        line: "3.58 MHz, D 32, 11 etu",
        byte: 11.0 * ETU,
        frame: 0.0,
    },
    Speed {
        device: DeviceLine::Spi(NodeAddress::Ese),
        card: CardLine::Spi,
        protocols: &[Protocol::SpiEse, Protocol::SpiEuicc],
        line: "10 MHz",
        byte: 0.8,
        frame: 0.0,
    },
    Speed {
        device: DeviceLine::I2c(NodeAddress::Ese),
        card: CardLine::I2c,
        protocols: &[Protocol::SpiEse, Protocol::SpiEuicc],
        line: "400 kHz, 9 bits",
        byte: 22.5,
        frame: 25.0,
    },
    Speed {
        device: DeviceLine::ApduGate,
        card: CardLine::Swp,
        protocols: &[Protocol::ApduGate],
        line: "848 kbit/s",
        byte: 8.0 / 0.848,
        frame: 16.0 / 0.848,
    },
];

/// SELECT with its answer, a short answer, and data of 240 bytes.
fn commands() -> [(&'static str, Vec<u8>); 3] {
    let select = [
        &[0x00, 0xA4, 0x04, 0x00, 0x08][..],
        &[0xA0, 0, 0, 1, 0x51, 0, 0, 0],
        &[0x00],
    ]
    .concat();
    let data = [&[0x80, 0xE2, 0x00, 0x00, 0xF0][..], &[0x5A; 240]].concat();
    [
        ("SELECT", select),
        ("GET DATA", vec![0x00, 0xCA, 0x00, 0xCF, 0x00]),
        ("240 bytes of data", data),
    ]
}

/// What has gone over a line.
#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    frames: AtomicU64,
}

struct Figure {
    protocol: &'static str,
    command: &'static str,
    apdu: usize,
    /// For one command.
    bytes: f64,
    line: f64,
    floor: f64,
    socket: f64,
    cpu: f64,
    own: f64,
}

fn secure_element() -> Result<SharedSe<RamFlash>> {
    let profile = Kind::PLAIN.profile();
    let persos = [Perso::developer(false)?];
    let flash = RamFlash::for_profile(&profile);
    let made = Perso::lend(&persos, &FirstPart::new()?, Policy::new(), |personalisations| {
        element::start_as::<CardPlatform<RamFlash>>(flash, &profile, personalisations)
    })?;
    let (se, _) = made.map_err(|error| anyhow!(error))?;
    Ok(SharedSe::new(Box::new(se), profile))
}

/// Microseconds of this process's CPU so far.
fn cpu() -> Result<f64> {
    cpu::of(UsageWho::RUSAGE_SELF)
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn each(mut f: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let (start, before) = (Instant::now(), cpu()?);
    for _ in 0..CALLS {
        f()?;
    }
    let calls = f64::from(CALLS);
    Ok((
        start.elapsed().as_secs_f64() * 1e6 / calls,
        (cpu()? - before) / calls,
    ))
}

fn measure(speed: &Speed, se: &SharedSe<RamFlash>, address: &LinkAddress) -> Result<Vec<Figure>> {
    let mut listener = LinkListener::bind(address)?;
    let side = |protocol: &Protocol| Box::new(se.on(*protocol)) as Box<dyn CardSide + Send>;
    let lines = Lines {
        line: speed.card,
        sides: speed.protocols.iter().map(side).collect(),
        fresh: *b"measured",
        tap: None,
        chip: None,
    };
    let stop = Stop::new();
    let stopped = stop.clone();
    let thread = thread::spawn(move || serve_link(&mut listener, lines, &stopped, &mut |_| ()));
    let count = Arc::new(Count::default());
    let figures = talk(speed, se, address, &count);
    stop.stop();
    let served = thread.join();
    let figures = figures?;
    served.map_err(|_| anyhow!("a serving thread failed"))??;
    Ok(figures)
}

fn talk(
    speed: &Speed,
    se: &SharedSe<RamFlash>,
    address: &LinkAddress,
    count: &Arc<Count>,
) -> Result<Vec<Figure>> {
    let counted = Arc::clone(count);
    let tap: Tap = Arc::new(move |seen| {
        if let Seen::Record(_, Record::Data(bytes)) = seen {
            counted.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            counted.frames.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut card = LinkCard::tapped(speed.device, address, PATIENCE, Some(tap))?;
    let mut figures = Vec::new();
    for (command, capdu) in commands() {
        let answer = card.transmit(&capdu)?;
        count.bytes.store(0, Ordering::Relaxed);
        count.frames.store(0, Ordering::Relaxed);
        let (socket, cpu) = each(|| {
            card.transmit(&capdu)?;
            Ok(())
        })?;
        let calls = f64::from(CALLS);
        let bytes = count.bytes.load(Ordering::Relaxed) as f64 / calls;
        let frames = count.frames.load(Ordering::Relaxed) as f64 / calls;
        let apdu = capdu.len() + answer.len();
        let protocol = speed.protocols.first().copied().unwrap_or(Protocol::T0);
        let mut side = se.on(protocol);
        let mut out = vec![0; 4096];
        let (_, own) = each(|| {
            side.transmit(&capdu, &mut out);
            Ok(())
        })?;
        figures.push(Figure {
            protocol: speed.device.name(),
            command,
            apdu,
            bytes,
            line: bytes * speed.byte + frames * speed.frame,
            floor: apdu as f64 * speed.byte,
            socket,
            cpu,
            own,
        });
    }
    Ok(figures)
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(is_json: bool) -> Result<()> {
    let folder = tempfile::tempdir().context("no place for sockets")?;
    eprintln!("measuring, about ten seconds ...");
    let se = secure_element()?;
    let mut figures = Vec::new();
    for speed in &SPEEDS {
        let address = LinkAddress::Unix(folder.path().join(speed.device.name()));
        figures.extend(measure(speed, &se, &address)?);
    }
    if is_json {
        println!(
            "{}",
            Value::from(figures.iter().map(Figure::json).collect::<Vec<_>>())
        );
        return Ok(());
    }
    println!(
        "one command and its answer         bytes of   on the    line, at its speed      here, over a   CPU, us: both ends,"
    );
    println!(
        "                                   the APDUs   line     (floor: APDUs), us     socket, us     and in process"
    );
    for (figure, speed) in figures.iter().zip(SPEEDS.iter().flat_map(|speed| [speed; 3])) {
        println!(
            "  {:<4} {:<18} {:>15} {:>9.0} {:>10.0} {:>9.0} {:>13.0} {:>12.1} {:>8.2}   {}",
            figure.protocol,
            figure.command,
            figure.apdu,
            figure.bytes,
            figure.line,
            figure.floor,
            figure.socket,
            figure.cpu,
            figure.own,
            speed.line
        );
    }
    Ok(())
}

impl Figure {
    fn json(&self) -> Value {
        json!({
            "protocol": self.protocol, "command": self.command, "apdu_bytes": self.apdu, "line_bytes": self.bytes,
            "line_us": self.line, "floor_us": self.floor, "socket_us": self.socket, "cpu_us": self.cpu,
            "in_process_cpu_us": self.own,
        })
    }
}
