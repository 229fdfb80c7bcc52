//! pcapng (draft-ietf-opsawg-pcapng): the three blocks that are needed, little endian.
//!
//! Interfaces are made as they come: for each line its APDUs, as GSMTAP of sub-type 0 in UDP, which Wireshark dissects; its ATRs, which Wireshark's `iso7816.atr` dissects when user DLT 0 is set to it; and its frames, which nothing dissects.

use std::io::{self, Write};

use sekisho_apdu::CApdu;
use sekisho_block::lr1::From;
use sekisho_transport::Seen;

use super::frames::Reader;
use super::{Wire, data};

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
/// Options of an interface (its name) and of a packet (flags: its direction, 1 in, 2 out).
const IF_NAME: u16 = 2;
const EPB_FLAGS: u16 = 2;
/// Link types: IPv4, and those that users give a meaning.
const IPV4: u16 = 228;
const USER0: u16 = 147;
/// UDP port of GSMTAP.
const GSMTAP_PORT: u16 = 4729;

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Apdu,
    Atr,
    Frame,
}

impl What {
    const fn link_type(self, wire: Wire) -> u16 {
        match (self, wire) {
            (Self::Apdu, _) => IPV4,
            (Self::Atr, _) => USER0,
            (Self::Frame, Wire::T0 | Wire::T1) => USER0 + 1,
            // USER0 + 2 is dissected as something else (PKTAP).
            (Self::Frame, Wire::Bus) => USER0 + 3,
            (Self::Frame, Wire::Swp) => USER0 + 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Apdu => "APDUs",
            Self::Atr => "ATRs",
            Self::Frame => "frames",
        }
    }
}

/// A capture.
pub(super) struct Pcapng<W> {
    to: W,
    interfaces: Vec<(String, What)>,
    /// By line, the command whose answer is awaited.
    commands: Vec<(String, Vec<u8>)>,
}

impl<W: Write> Pcapng<W> {
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut new = Self {
            to,
            interfaces: Vec::new(),
            commands: Vec::new(),
        };
        let version = 1_u32;
        let unknown_length = [0xFF; 8];
        new.block(
            SECTION,
            &[
                &BYTE_ORDER.to_le_bytes()[..],
                &version.to_le_bytes(),
                &unknown_length,
            ]
            .concat(),
        )?;
        Ok(new)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
        let whole = [&kind.to_le_bytes()[..], &length, body, &length].concat();
        self.to.write_all(&whole)
    }

    fn interface(&mut self, line: &str, what: What) -> io::Result<u32> {
        let found = self
            .interfaces
            .iter()
            .position(|(name, of)| name == line && *of == what);
        let index = found.unwrap_or(self.interfaces.len());
        if found.is_none() {
            let name = format!("{line} {}", what.name());
            let mut body = what.link_type(Wire::of(line)).to_le_bytes().to_vec();
            // Reserved, and no limit to packets; timestamps are in microseconds where nothing is said.
            body.extend([0; 6]);
            option(&mut body, IF_NAME, name.as_bytes());
            body.extend([0; 4]);
            self.block(INTERFACE, &body)?;
            self.interfaces.push((line.to_owned(), what));
        }
        Ok(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn packet(
        &mut self,
        micros: u64,
        (line, what): (&str, What),
        inbound: bool,
        bytes: &[u8],
    ) -> io::Result<()> {
        let interface = self.interface(line, what)?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (high, low) = ((micros >> 32) as u32, (micros & 0xFFFF_FFFF) as u32);
        let mut body: Vec<u8> = [interface, high, low, length, length]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        body.extend(bytes);
        pad(&mut body);
        let direction: u32 = if inbound { 1 } else { 2 };
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
        body.extend([0; 4]);
        self.block(PACKET, &body)
    }

    /// Writes down what is seen on a line; APDUs when they have been answered.
    pub(super) fn see(
        &mut self,
        micros: u64,
        line: &str,
        reader: &mut Reader,
        seen: Seen<'_>,
    ) -> io::Result<()> {
        let is_atr = reader.is_atr(seen);
        match seen {
            Seen::Record(from, record) => match data(&record) {
                Some(bytes) => {
                    let what = if is_atr { What::Atr } else { What::Frame };
                    self.packet(micros, (line, what), from == From::Card, bytes)
                }
                None => Ok(()),
            },
            Seen::Command(capdu) => {
                self.commands.retain(|(of, _)| of != line);
                self.commands.push((line.to_owned(), capdu.to_vec()));
                Ok(())
            }
            Seen::Answer(rapdu) => {
                let at = self.commands.iter().position(|(of, _)| of == line);
                let Some((_, capdu)) = at.map(|at| self.commands.swap_remove(at)) else {
                    return Ok(());
                };
                match tpdu(&capdu, rapdu) {
                    Some(tpdu) => self.packet(micros, (line, What::Apdu), false, &gsmtap(&tpdu)),
                    None => Ok(()),
                }
            }
        }
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// A command and its answer in the shape of T=0, the only one that is dissected: header with P3, data, answer. None for what is no C-APDU, and for data of more than 255 bytes, which that shape cannot say.
fn tpdu(capdu: &[u8], rapdu: &[u8]) -> Option<Vec<u8>> {
    let parsed = CApdu::parse(capdu).ok()?;
    let lc = u8::try_from(parsed.data.len()).ok()?;
    let le = parsed.ne.map(|ne| u8::try_from(ne).unwrap_or(0));
    let p3 = if parsed.data.is_empty() {
        le.unwrap_or(0)
    } else {
        lc
    };
    Some([&capdu[..4], &[p3], parsed.data, rapdu].concat())
}

/// IPv4, UDP and GSMTAP (version 2, type SIM, sub-type APDU) round an APDU.
fn gsmtap(apdu: &[u8]) -> Vec<u8> {
    let header = [2, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let length = |more: usize| {
        u16::try_from(apdu.len() + header.len() + more)
            .unwrap_or(u16::MAX)
            .to_be_bytes()
    };
    let [port_high, port_low] = GSMTAP_PORT.to_be_bytes();
    let [udp_high, udp_low] = length(8);
    let udp = [port_high, port_low, port_high, port_low, udp_high, udp_low, 0, 0];
    let [ip_high, ip_low] = length(28);
    let local = [127, 0, 0, 1];
    let mut ip = [
        &[0x45, 0, ip_high, ip_low, 0, 0, 0x40, 0, 64, 17, 0, 0][..],
        &local,
        &local,
    ]
    .concat();
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let check = !u16::try_from(sum & 0xFFFF).unwrap_or(0);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [&ip[..], &udp, &header, apdu].concat()
}
