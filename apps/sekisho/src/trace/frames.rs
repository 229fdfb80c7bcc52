//! Frames in words.

use sekisho_apdu::StatusWord;
use sekisho_block::atr::{self, Protocol};
use sekisho_block::block::{Block, Pcb, Shape, Trouble};
use sekisho_block::hci::ids::{
    EVT_CARD_ACTIVATED, EVT_CARD_DEACTIVATED, EVT_FIELD_OFF, EVT_FIELD_ON, EVT_SEND_DATA, EVT_TRANSACTION,
    GATE_CONNECTIVITY, PIPE_ADMIN,
};
use sekisho_block::lr1::{From, Record};
use sekisho_block::pps::Pps;
use sekisho_transport::Seen;

use super::{Wire, arrow};

/// What a card on a bus says when it has nothing to say.
const NOTHING: &str = "nothing is ready";

/// Reads one line along: what a byte means depends on what came before it.
pub(super) struct Reader {
    wire: Wire,
    /// Nothing but ATR and PPS has come since the reset.
    fresh: bool,
    /// The header of T=0 whose answer is under way.
    header: Option<[u8; 5]>,
    /// An empty poll was the last: further ones are not worth a line.
    polled: bool,
    /// Pipes on which a message goes on, by end.
    goes_on: Vec<(From, u8)>,
    /// Pipes and the card gates to which they lead, as they were made.
    gates: Vec<(u8, u8)>,
    /// What has been read of a block on a bus.
    read: Vec<u8>,
}

impl Reader {
    pub(super) const fn new(wire: Wire) -> Self {
        Self {
            wire,
            fresh: false,
            header: None,
            polled: false,
            goes_on: Vec::new(),
            gates: Vec::new(),
            read: Vec::new(),
        }
    }

    /// A line; none for what is not worth one.
    pub(super) fn words(&mut self, seen: Seen<'_>) -> Option<String> {
        match seen {
            Seen::Command(capdu) => Some(format!("C-APDU  {}", hex::encode_upper(capdu))),
            Seen::Answer(rapdu) => Some(format!(
                "R-APDU  {}  {}",
                hex::encode_upper(rapdu),
                meaning(rapdu)
            )),
            Seen::Record(from, record) => self.record(from, record),
        }
    }

    /// Whether this is the ATR behind a reset; what is to be known for that is kept.
    pub(super) fn is_atr(&mut self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::Record(_, Record::On | Record::Reset) => {
                self.fresh = true;
                false
            }
            Seen::Record(From::Card, Record::Data(bytes)) => {
                let is = self.fresh && atr::parse(bytes).is_ok();
                self.fresh &= !is;
                is && matches!(self.wire, Wire::T0 | Wire::T1)
            }
            _ => false,
        }
    }

    fn record(&mut self, from: From, record: Record<'_>) -> Option<String> {
        let said = match record {
            Record::Data(bytes) => self.data(from, bytes)?,
            Record::On => {
                self.reset();
                "power on".to_owned()
            }
            Record::Off => "power off".to_owned(),
            Record::Reset => {
                self.reset();
                "reset".to_owned()
            }
            Record::Poll(_) => return None,
            Record::Nak => self.nothing()?,
            Record::Tick(micros) => format!("{micros} us pass"),
            Record::Tock => return None,
        };
        self.polled = said == NOTHING;
        Some(format!("{} {said}", arrow(from)))
    }

    fn reset(&mut self) {
        self.fresh = true;
        self.header = None;
        self.goes_on.clear();
        self.read.clear();
    }

    fn nothing(&self) -> Option<String> {
        (!self.polled).then(|| NOTHING.to_owned())
    }

    fn data(&mut self, from: From, bytes: &[u8]) -> Option<String> {
        let digits = hex::encode_upper(bytes);
        let words = match self.wire {
            Wire::T0 | Wire::T1 if self.fresh => match self.beginning(from, bytes) {
                Some(words) => words,
                None => {
                    self.fresh = false;
                    return self.data(from, bytes);
                }
            },
            Wire::T0 => self.t0(from, bytes),
            Wire::T1 => block(Shape::Lrc, bytes),
            Wire::Bus if from == From::Card => return self.read(bytes),
            Wire::Bus => {
                self.read.clear();
                block(Shape::Prime, bytes)
            }
            Wire::Swp => self.frame(from, bytes),
        };
        Some(format!("{words:<30}  {digits}"))
    }

    /// A block is read in pieces, and shown whole.
    fn read(&mut self, bytes: &[u8]) -> Option<String> {
        let is_filler = |byte: &u8| matches!(byte, 0x00 | 0xFF);
        let begins = if self.read.is_empty() {
            bytes.iter().position(|byte| !is_filler(byte))
        } else {
            Some(0)
        };
        let Some(begins) = begins else {
            return self.nothing();
        };
        self.read.extend(bytes.iter().skip(begins));
        let whole = match Shape::Prime.length(&self.read) {
            Ok(Some(length)) => self.read.get(..length).map(<[u8]>::to_vec),
            Ok(None) => None,
            Err(_) => Some(self.read.clone()),
        }?;
        self.read.clear();
        Some(format!(
            "{:<30}  {}",
            block(Shape::Prime, &whole),
            hex::encode_upper(&whole)
        ))
    }

    fn beginning(&self, from: From, bytes: &[u8]) -> Option<String> {
        if let Ok(pps) = Pps::parse(bytes) {
            let speed = pps
                .speed
                .map_or("default rate".to_owned(), |speed| format!("PPS1 {speed:02X}"));
            return Some(format!("PPS T={}, {speed}", pps.protocol.number()));
        }
        let atr = atr::parse(bytes).ok().filter(|_| from == From::Card)?;
        let offers = [Protocol::T0, Protocol::T1]
            .into_iter()
            .filter(|of| atr.offers(*of));
        let names: Vec<_> = offers.map(|of| format!("T={}", of.number())).collect();
        Some(format!("ATR, {}", names.join(" and ")))
    }

    fn t0(&mut self, from: From, bytes: &[u8]) -> String {
        match (from, bytes, self.header) {
            (From::Device, &[cla, ins, p1, p2, p3], None) => {
                self.header = Some([cla, ins, p1, p2, p3]);
                "header".to_owned()
            }
            (From::Device, ..) => "data".to_owned(),
            (From::Card, [.., sw1, sw2], _) if matches!(sw1 >> 4, 6 | 9) && *sw1 != 0x60 => {
                self.header = None;
                let word = StatusWord(u16::from_be_bytes([*sw1, *sw2]));
                if bytes.len() == 2 {
                    format!("status: {}", word.meaning())
                } else {
                    format!("data and status: {}", word.meaning())
                }
            }
            (From::Card, [0x60], _) => "NULL: more time".to_owned(),
            (From::Card, [byte], Some([_, ins, ..])) if byte & !1 == ins & !1 => {
                "acknowledged, all".to_owned()
            }
            (From::Card, [byte], Some([_, ins, ..])) if byte & !1 == !ins & !1 => {
                "acknowledged, one".to_owned()
            }
            _ => "characters".to_owned(),
        }
    }

    fn frame(&mut self, from: From, bytes: &[u8]) -> String {
        let Some((lpdu, _)) = bytes.split_last_chunk::<2>() else {
            return "damaged".to_owned();
        };
        match *lpdu {
            [0x60] => "ACT_READY".to_owned(),
            [0x61, a, b] | [0x69, a, b, _] => format!("ACT_SYNC {a:02X}{b:02X}"),
            [0x62 | 0x72, mode] => format!("ACT_POWER_MODE {mode:02X}"),
            [0xF9, ..] => "RSET".to_owned(),
            [0xE6] => "UA".to_owned(),
            [control @ 0xC0..=0xDF] => {
                let name = ["RR", "REJ", "RNR", "SREJ"][usize::from(control >> 3 & 3)];
                format!("{name} {}", control & 7)
            }
            [control @ 0x80..=0xBF, ref packet @ ..] => {
                let (ns, nr) = (control >> 3 & 7, control & 7);
                format!("I({ns},{nr}) {}", self.packet(from, packet))
            }
            _ => "of no kind that is known".to_owned(),
        }
    }

    fn packet(&mut self, from: From, packet: &[u8]) -> String {
        let Some((head, rest)) = packet.split_first() else {
            return "empty".to_owned();
        };
        let pipe = head & 0x7F;
        let went_on = self.goes_on.contains(&(from, pipe));
        self.goes_on.retain(|open| *open != (from, pipe));
        if head & 0x80 == 0 {
            self.goes_on.push((from, pipe));
        }
        // The answer to CREATE_PIPE: hosts and gates of both ends, and the pipe.
        if let (From::Device, PIPE_ADMIN, [0x80, _, _, _, gate, made]) = (from, pipe, rest) {
            self.gates.retain(|(of, _)| of != made);
            self.gates.push((*made, *gate));
        }
        let gate = self
            .gates
            .iter()
            .find(|(of, _)| *of == pipe)
            .map(|(_, gate)| *gate);
        match rest.first() {
            Some(header) if !went_on => format!("pipe {pipe:02X} {}", message(pipe, gate, from, *header)),
            _ => format!("pipe {pipe:02X}, goes on"),
        }
    }
}

fn meaning(rapdu: &[u8]) -> String {
    let sw = rapdu.last_chunk().map(|sw| StatusWord(u16::from_be_bytes(*sw)));
    sw.map_or_else(String::new, |sw| sw.meaning().to_string())
}

fn block(shape: Shape, bytes: &[u8]) -> String {
    let Ok(block) = Block::parse(shape, bytes) else {
        return "damaged".to_owned();
    };
    let words = match block.pcb {
        Pcb::I { number, more } => {
            let more = if more { ", goes on" } else { "" };
            format!("I({}{more}) {} bytes", u8::from(number), block.inf.len())
        }
        Pcb::R { number, trouble } => {
            let what = match trouble {
                Trouble::None => "",
                Trouble::Check => ", check bytes",
                Trouble::Other => ", other error",
            };
            format!("R({}{what})", u8::from(number))
        }
        Pcb::Request(service) => format!("S({service:?} request)"),
        Pcb::Response(service) => format!("S({service:?} response)"),
    };
    match block.nad {
        0 => words,
        nad => format!("{words} NAD {nad:02X}"),
    }
}

/// A message of HCI by its header. Names are those of `docs/spec/transports.md`, 6.
fn message(pipe: u8, gate: Option<u8>, from: From, header: u8) -> String {
    let instruction = header & 0x3F;
    let name = match (header >> 6, instruction, from) {
        (1, EVT_TRANSACTION, _) if gate == Some(GATE_CONNECTIVITY) => "EVT_TRANSACTION",
        (1, _, _) if gate.is_some() => match instruction {
            EVT_SEND_DATA => "EVT_SEND_DATA",
            EVT_FIELD_ON => "EVT_FIELD_ON",
            EVT_CARD_DEACTIVATED => "EVT_CARD_DEACTIVATED",
            EVT_CARD_ACTIVATED => "EVT_CARD_ACTIVATED",
            EVT_FIELD_OFF => "EVT_FIELD_OFF",
            other => return format!("event {other:02X}"),
        },
        (0, 0x10, _) if pipe == 1 => "CREATE_PIPE",
        (0, 0x01, _) => "SET_PARAMETER",
        (0, 0x02, _) => "GET_PARAMETER",
        (0, 0x03, _) => "OPEN_PIPE",
        (0, 0x04, _) => "CLOSE_PIPE",
        (0, 0x12, _) if pipe == 1 => "NOTIFY_PIPE_CREATED",
        (0, 0x13, _) if pipe == 1 => "NOTIFY_PIPE_DELETED",
        (0, 0x14, _) if pipe == 1 => "CLEAR_ALL_PIPE",
        (0, 0x15, _) if pipe == 1 => "NOTIFY_ALL_PIPE_CLEARED",
        (1, 0x10, From::Device) => "EVT_C-APDU",
        (1, 0x11, From::Device) => "EVT_ABORT",
        (1, 0x21, From::Device) => "EVT_END_OF_APDU_TRANSACTION",
        (1, 0x10, From::Card) => "EVT_R-APDU",
        (1, 0x11, From::Card) => "EVT_WTX",
        (1, 0x12, From::Card) => "EVT_ATR",
        (2, 0x00, _) => "OK",
        (0, other, _) => return format!("command {other:02X}"),
        (1, other, _) => return format!("event {other:02X}"),
        (_, other, _) => return format!("response {other:02X}"),
    };
    name.to_owned()
}
