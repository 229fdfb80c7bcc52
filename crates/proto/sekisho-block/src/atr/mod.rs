//! The answer to reset (ISO/IEC 7816-3, clause 8): made from parameters, and parsed.

mod times;

pub use times::{Rate, Times};

use crate::check::lrc;

/// Bytes of the longest ATR (8.2.1).
pub const LEN_MAX: usize = 33;
/// Historical bytes of the longest ATR: K is half a byte.
pub const HISTORICAL_MAX: usize = 15;
/// F = 372, D = 1: what TA1 says when it is absent.
pub const SPEED_DEFAULT: u8 = 0x11;
/// WI when TC2 is absent (10.2).
pub const WI_DEFAULT: u8 = 10;

const DIRECT: u8 = 0x3B;
const INVERSE: u8 = 0x3F;
const Y_TA: u8 = 0x10;
const Y_TB: u8 = 0x20;
const Y_TC: u8 = 0x40;
const Y_TD: u8 = 0x80;
/// T of a group of bytes that belong to no protocol.
const T_GLOBAL: u8 = 15;

/// A transmission protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Characters, half duplex.
    T0,
    /// Blocks, half duplex.
    T1,
}

impl Protocol {
    /// Its number T.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::T0 => 0,
            Self::T1 => 1,
        }
    }

    /// The protocol of a number T; none for a number that is not known here.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::T0),
            1 => Some(Self::T1),
            _ => None,
        }
    }
}

/// TA2: the card is in specific mode, without PPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specific {
    /// The protocol that it speaks.
    pub protocol: Protocol,
    /// It cannot come into negotiable mode by a warm reset.
    pub fixed: bool,
    /// F and D are known without TA1.
    pub implicit: bool,
}

/// What a card that offers T=1 says of it: the first TA, TB and TC after a TD that names T=1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockParameters {
    /// IFSC: the longest information field that the card takes, 01 to FE.
    pub ifsc: u8,
    /// BWI: how long the card may take for a block, as an exponent, 0 to 9.
    pub bwi: u8,
    /// CWI: the longest time between two characters, as an exponent, 0 to 15.
    pub cwi: u8,
    /// Blocks end with a CRC instead of an LRC.
    pub crc: bool,
}

impl BlockParameters {
    /// What holds when an ATR does not say it (11.4).
    pub const DEFAULT: Self = Self {
        ifsc: 32,
        bwi: 4,
        cwi: 13,
        crc: false,
    };
}

/// An answer to reset, said as parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atr<'a> {
    /// Inverse convention (TS 3F).
    pub inverse: bool,
    /// TA1: Fi and Di that the card can do, [`SPEED_DEFAULT`] when absent.
    pub speed: u8,
    /// TC1: extra guard time, in etu; FF is the least there is.
    pub guard: u8,
    /// T=0, with its WI, when it is offered.
    pub t0: Option<u8>,
    /// T=1, when it is offered.
    pub t1: Option<BlockParameters>,
    /// The first protocol offered, which holds unless PPS chooses another.
    pub first: Protocol,
    /// Specific mode, if it is in that.
    pub specific: Option<Specific>,
    /// After T=15: clock stop and class (TA).
    pub class: Option<u8>,
    /// After T=15: use of the contact C6 (TB), 80 and more for SWP.
    pub spu: Option<u8>,
    /// Historical bytes, at most 15.
    pub historical: &'a [u8],
}

/// Why there is no ATR here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtrError {
    /// It ends before its bytes do.
    Short,
    /// Bytes come after it, or it would be longer than [`LEN_MAX`].
    Long,
    /// The first byte is not 3B or 3F.
    Convention,
    /// TCK is wrong.
    Checksum,
    /// A parameter that is reserved or outside its range.
    Value,
    /// No protocol known here, or one that is named and not offered.
    Protocol,
}

impl Atr<'_> {
    /// A card of direct convention that offers one protocol at the default speed.
    #[must_use]
    pub const fn of(protocol: Protocol) -> Self {
        Self {
            inverse: false,
            speed: SPEED_DEFAULT,
            guard: 0,
            t0: match protocol {
                Protocol::T0 => Some(WI_DEFAULT),
                Protocol::T1 => None,
            },
            t1: match protocol {
                Protocol::T0 => None,
                Protocol::T1 => Some(BlockParameters::DEFAULT),
            },
            first: protocol,
            specific: None,
            class: None,
            spu: None,
            historical: &[],
        }
    }

    /// The protocol that holds when no PPS is made.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.specific.map_or(self.first, |specific| specific.protocol)
    }

    /// Whether the card offers a protocol.
    #[must_use]
    pub const fn offers(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::T0 => self.t0.is_some(),
            Protocol::T1 => self.t1.is_some(),
        }
    }

    /// Writes it and says how long it is.
    ///
    /// # Errors
    /// A parameter is out of its range, or it would be too long.
    pub fn write(&self, out: &mut [u8; LEN_MAX]) -> Result<usize, AtrError> {
        self.check()?;
        let groups = self.groups();
        let mut writer = Writer { out, at: 0 };
        writer.push(if self.inverse { INVERSE } else { DIRECT })?;
        let k = u8::try_from(self.historical.len()).map_err(|_| AtrError::Long)?;
        let mut lead = k;
        let mut checked = false;
        let mut rest = groups.iter().filter(|group| group.present).peekable();
        while let Some(group) = rest.next() {
            let next = rest.peek();
            writer.push(group.indicated() | lead | if next.is_some() { Y_TD } else { 0 })?;
            for byte in [group.ta, group.tb, group.tc].into_iter().flatten() {
                writer.push(byte)?;
            }
            lead = next.map_or(0, |next| next.t);
            checked |= lead != 0;
        }
        for byte in self.historical {
            writer.push(*byte)?;
        }
        if checked {
            let sum = lrc(writer.out.get(1..writer.at).unwrap_or_default());
            writer.push(sum)?;
        }
        Ok(writer.at)
    }

    fn check(&self) -> Result<(), AtrError> {
        if self.historical.len() > HISTORICAL_MAX {
            return Err(AtrError::Long);
        }
        if !self.offers(self.first)
            || self
                .specific
                .is_some_and(|specific| !self.offers(specific.protocol))
        {
            return Err(AtrError::Protocol);
        }
        if Rate::of(self.speed).is_none() || self.t0 == Some(0) || self.t1.is_some_and(|t1| !valid(t1)) {
            return Err(AtrError::Value);
        }
        Ok(())
    }

    /// The groups of interface bytes, each with the T of the TD before it.
    fn groups(&self) -> [Group; 4] {
        let t1 = self.t1.unwrap_or(BlockParameters::DEFAULT);
        let third = self.t1.is_some() && (self.first == Protocol::T0 || t1 != BlockParameters::DEFAULT);
        let second_first = self.first == Protocol::T1 && self.t0.is_some();
        let global = self.class.is_some() || self.spu.is_some();
        let wi = self.t0.filter(|wi| *wi != WI_DEFAULT);
        let later = third || second_first || global;
        [
            Group {
                present: true,
                t: 0,
                ta: Some(self.speed).filter(|speed| *speed != SPEED_DEFAULT),
                tb: None,
                tc: Some(self.guard).filter(|guard| *guard != 0),
            },
            Group {
                present: later || self.first == Protocol::T1 || wi.is_some() || self.specific.is_some(),
                t: self.first.number(),
                ta: self.specific.map(Specific::byte),
                tb: None,
                tc: wi,
            },
            Group {
                present: third,
                t: 1,
                ta: Some(t1.ifsc).filter(|ifsc| *ifsc != BlockParameters::DEFAULT.ifsc),
                tb: Some(t1.bwi << 4 | t1.cwi).filter(|both| *both != 0x4D),
                tc: t1.crc.then_some(1),
            },
            Group {
                present: global,
                t: T_GLOBAL,
                ta: self.class,
                tb: self.spu,
                tc: None,
            },
        ]
    }
}

const fn valid(t1: BlockParameters) -> bool {
    t1.ifsc != 0 && t1.ifsc != 0xFF && t1.bwi <= 9 && t1.cwi <= 15
}

impl Specific {
    const FIXED: u8 = 0x80;
    const IMPLICIT: u8 = 0x10;

    const fn byte(self) -> u8 {
        self.protocol.number()
            | if self.fixed { Self::FIXED } else { 0 }
            | if self.implicit { Self::IMPLICIT } else { 0 }
    }

    fn of(byte: u8) -> Result<Self, AtrError> {
        Ok(Self {
            protocol: Protocol::of(byte & 0x0F).ok_or(AtrError::Protocol)?,
            fixed: byte & Self::FIXED != 0,
            implicit: byte & Self::IMPLICIT != 0,
        })
    }
}

struct Group {
    present: bool,
    t: u8,
    ta: Option<u8>,
    tb: Option<u8>,
    tc: Option<u8>,
}

impl Group {
    fn indicated(&self) -> u8 {
        let bit = |byte: Option<u8>, bit| if byte.is_some() { bit } else { 0 };
        bit(self.ta, Y_TA) | bit(self.tb, Y_TB) | bit(self.tc, Y_TC)
    }
}

struct Writer<'a> {
    out: &'a mut [u8; LEN_MAX],
    at: usize,
}

impl Writer<'_> {
    fn push(&mut self, byte: u8) -> Result<(), AtrError> {
        *self.out.get_mut(self.at).ok_or(AtrError::Long)? = byte;
        self.at += 1;
        Ok(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<u8, AtrError> {
        let byte = *self.bytes.get(self.at).ok_or(AtrError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn next_if(&mut self, present: bool) -> Result<Option<u8>, AtrError> {
        if present { self.next().map(Some) } else { Ok(None) }
    }
}

/// Parses a whole ATR.
///
/// # Errors
/// It is cut, goes on after its end, has a wrong TCK, a reserved value, or offers no protocol known here. [`AtrError::Short`] alone says that more bytes may make it one.
pub fn parse(bytes: &[u8]) -> Result<Atr<'_>, AtrError> {
    let mut reader = Reader { bytes, at: 0 };
    let mut atr = Atr::of(Protocol::T0);
    atr.inverse = match reader.next()? {
        DIRECT => false,
        INVERSE => true,
        _ => return Err(AtrError::Convention),
    };
    let t0 = reader.next()?;
    let mut groups = Groups::default();
    let mut indicator = t0;
    while let Some(td) = groups.read(&mut reader, indicator, &mut atr)? {
        if reader.at > LEN_MAX {
            return Err(AtrError::Long);
        }
        groups.named(td & 0x0F, &mut atr)?;
        indicator = td;
    }
    groups.finish(&mut atr)?;
    let start = reader.at;
    let end = start + usize::from(t0 & 0x0F);
    atr.historical = bytes.get(start..end).ok_or(AtrError::Short)?;
    let end = end + usize::from(groups.checked);
    let whole = bytes.get(..end).ok_or(AtrError::Short)?;
    if bytes.len() > end || end > LEN_MAX {
        return Err(AtrError::Long);
    }
    if groups.checked && lrc(whole.get(1..).unwrap_or_default()) != 0 {
        return Err(AtrError::Checksum);
    }
    if Rate::of(atr.speed).is_none() {
        return Err(AtrError::Value);
    }
    Ok(atr)
}

/// Where in its groups of interface bytes a parse is.
#[derive(Default)]
struct Groups {
    /// Number of the group read last, 1 for that of T0.
    number: u8,
    /// T of the TD read last.
    t: u8,
    /// A TD has named another T than 0: there is a TCK.
    checked: bool,
    wi: Option<u8>,
    seen_t0: bool,
    seen_t1: bool,
    seen_other: bool,
    block: Option<BlockParameters>,
    seen_global: bool,
}

impl Groups {
    /// Reads a group and gives the TD that ends it.
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        indicator: u8,
        atr: &mut Atr<'_>,
    ) -> Result<Option<u8>, AtrError> {
        self.number = self.number.saturating_add(1);
        let ta = reader.next_if(indicator & Y_TA != 0)?;
        let tb = reader.next_if(indicator & Y_TB != 0)?;
        let tc = reader.next_if(indicator & Y_TC != 0)?;
        let td = reader.next_if(indicator & Y_TD != 0)?;
        match (self.number, self.t) {
            (1, _) => {
                atr.speed = ta.unwrap_or(SPEED_DEFAULT);
                atr.guard = tc.unwrap_or(0);
            }
            (2, _) => {
                atr.specific = ta.map(Specific::of).transpose()?;
                self.wi = tc;
            }
            (_, 1) if self.block.is_none() => self.block = Some(block_parameters(ta, tb, tc)?),
            (_, T_GLOBAL) if !self.seen_global => {
                self.seen_global = true;
                atr.class = ta;
                atr.spu = tb;
            }
            _ => {}
        }
        Ok(td)
    }

    /// Takes the T of a TD.
    fn named(&mut self, t: u8, atr: &mut Atr<'_>) -> Result<(), AtrError> {
        self.checked |= t != 0;
        if self.number == 1 {
            match Protocol::of(t) {
                Some(protocol) => atr.first = protocol,
                None if t == T_GLOBAL => return Err(AtrError::Value),
                None => self.seen_other = true,
            }
        }
        self.seen_t0 |= t == 0;
        self.seen_t1 |= t == 1;
        self.t = t;
        Ok(())
    }

    /// What the groups together say.
    fn finish(&self, atr: &mut Atr<'_>) -> Result<(), AtrError> {
        let none_named = self.number == 1;
        let wi = self.wi.unwrap_or(WI_DEFAULT);
        if self.seen_t0 && wi == 0 {
            return Err(AtrError::Value);
        }
        atr.t0 = (self.seen_t0 || none_named).then_some(wi);
        atr.t1 = self
            .seen_t1
            .then_some(self.block.unwrap_or(BlockParameters::DEFAULT));
        if self.seen_other {
            atr.first = if self.seen_t0 { Protocol::T0 } else { Protocol::T1 };
        }
        if !atr.offers(atr.first)
            || atr
                .specific
                .is_some_and(|specific| !atr.offers(specific.protocol))
        {
            return Err(AtrError::Protocol);
        }
        Ok(())
    }
}

fn block_parameters(ta: Option<u8>, tb: Option<u8>, tc: Option<u8>) -> Result<BlockParameters, AtrError> {
    let both = tb.unwrap_or(0x4D);
    let parameters = BlockParameters {
        ifsc: ta.unwrap_or(BlockParameters::DEFAULT.ifsc),
        bwi: both >> 4,
        cwi: both & 0x0F,
        crc: tc.unwrap_or(0) & 1 != 0,
    };
    if valid(parameters) {
        Ok(parameters)
    } else {
        Err(AtrError::Value)
    }
}
