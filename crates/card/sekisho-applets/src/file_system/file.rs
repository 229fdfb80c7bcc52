//! A file's head: what it is, where it hangs, who may do what with it.

use core::hint::black_box;

use sekisho_apdu::tlv::{self, TlvReader};
use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};
use sekisho_keys::ct_eq;
use sekisho_os::Refusal;
use zeroize::Zeroizing;

use super::WRONG_DATA;
use super::access::Rules;
use super::layout::{Layout, Name, Part};
use super::tree::FileNumber;

/// Longest name of a DF.
pub(super) const NAME_MAX: usize = 16;
/// Longest record of a head.
pub(super) const HEAD_MAX: usize = 16 + NAME_MAX;
/// Records of a file.
const RECORDS_MAX: u8 = 32;
/// Longest transparent file.
pub(super) const SIZE_MAX: u16 = 4096;
/// Longest value of a key or a PIN.
const SECRET_MAX: usize = 32;
/// Shortest and longest PIN.
pub(super) const PIN_MIN: usize = 4;
pub(super) const PIN_MAX: usize = 16;

/// File descriptor bytes (ISO/IEC 7816-4, Table 14).
mod descriptor {
    pub(super) const DF: u8 = 0x38;
    pub(super) const TRANSPARENT: u8 = 0x01;
    pub(super) const LINEAR_FIXED: u8 = 0x02;
    pub(super) const LINEAR_VARIABLE: u8 = 0x04;
    pub(super) const CYCLIC: u8 = 0x06;
    pub(super) const INTERNAL: u8 = 0x09;
}

/// Tags of the FCP template (ISO/IEC 7816-4, Table 12).
mod tag {
    pub(super) const FCP: u32 = 0x62;
    pub(super) const SIZE: u32 = 0x80;
    pub(super) const DESCRIPTOR: u32 = 0x82;
    pub(super) const IDENTIFIER: u32 = 0x83;
    pub(super) const NAME: u32 = 0x84;
    pub(super) const SHORT_IDENTIFIER: u32 = 0x88;
    pub(super) const LIFE_CYCLE: u32 = 0x8A;
    pub(super) const RULES: u32 = 0x8C;
    pub(super) const PROPRIETARY: u32 = 0xA5;
    /// In A5: usage, number, tries.
    pub(super) const KEY: u32 = 0x80;
    /// In A5: the value of a key or a PIN, when it is made. Never answered.
    pub(super) const SECRET: u32 = 0x81;
}

/// Life cycle status: operational, activated (ISO/IEC 7816-4, Table 15).
const ACTIVATED: u8 = 0x05;

/// What a key file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// A PIN, for VERIFY.
    Pin,
    /// A key for EXTERNAL AUTHENTICATE.
    External,
    /// A key for INTERNAL AUTHENTICATE.
    Internal,
    /// MKEY, which opens secure messaging.
    Messaging,
}

impl Usage {
    /// Its byte in the FCP template.
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Pin => 0x01,
            Self::External => 0x02,
            Self::Internal => 0x03,
            Self::Messaging => 0x04,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Pin, Self::External, Self::Internal, Self::Messaging]
            .into_iter()
            .find(|usage| usage.byte() == byte)
    }

    /// Whether a value can be of this usage: a PIN of 4 to 16 bytes, an AES key.
    fn takes(self, secret: &[u8]) -> bool {
        match self {
            Self::Pin => (PIN_MIN..=PIN_MAX).contains(&secret.len()),
            _ => matches!(secret.len(), 16 | 24 | 32),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// MF or DF.
    Df,
    /// Bytes.
    Transparent { size: u16 },
    /// Records of one length, or up to a length.
    Linear { fixed: bool, len: u8, most: u8 },
    /// Records of one length, of which the newest is number 1 and pushes out the oldest.
    Cyclic { len: u8, most: u8 },
    /// A key or a PIN.
    Key { usage: Usage, number: u8, tries: u8 },
}

/// What WRITE BINARY and WRITE RECORD do (bits 7 and 6 of the data coding byte, ISO/IEC 7816-4, Table 118).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// Only where nothing but zeros stands.
    Once,
    /// As UPDATE does.
    Replace,
    Or,
    And,
}

/// A file's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) layout: Layout,
    pub(super) fid: u16,
    /// The DF in which it is; the MF is in itself.
    pub(super) parent: FileNumber,
    pub(super) sfi: Option<u8>,
    pub(super) kind: Kind,
    coding: u8,
    pub(super) rules: Rules,
    name: [u8; NAME_MAX],
    name_len: u8,
}

/// The value of a key or a PIN. Wiped when dropped.
pub(super) struct Secret {
    bytes: Zeroizing<[u8; SECRET_MAX]>,
    len: usize,
}

impl Secret {
    /// A value that `read` writes into the room that it gets, and whose length it gives.
    pub(super) fn read(
        read: impl FnOnce(&mut [u8]) -> Result<Option<usize>, Refusal>,
    ) -> Result<Option<Self>, Refusal> {
        let mut bytes = Zeroizing::new([0; SECRET_MAX]);
        let len = read(bytes.as_mut())?;
        Ok(len.map(|len| Self { bytes, len }))
    }

    /// A value for this usage, or 6A80.
    pub(super) fn of(usage: Usage, value: &[u8]) -> Result<Self, Refusal> {
        if !usage.takes(value) {
            return Err(WRONG_DATA);
        }
        let mut bytes = Zeroizing::new([0; SECRET_MAX]);
        for (to, from) in bytes.iter_mut().zip(value) {
            *to = *from;
        }
        Ok(Self {
            bytes,
            len: value.len(),
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Whether this is the PIN that somebody gives.
    pub(super) fn is_pin(&self, given: &[u8]) -> bool {
        let same = ct_eq(pin_block(self.as_bytes()).as_ref(), pin_block(given).as_ref());
        same && given.len() <= PIN_MAX
    }
}

/// A PIN with its length, always as long, so that comparing takes the same time whatever it is.
fn pin_block(pin: &[u8]) -> Zeroizing<[u8; PIN_MAX + 1]> {
    let mut block = Zeroizing::new([0; PIN_MAX + 1]);
    for (to, from) in block.iter_mut().zip(pin) {
        *to = *from;
    }
    if let Some(last) = block.last_mut() {
        *last = u8::try_from(pin.len()).unwrap_or(u8::MAX);
    }
    block
}

/// A file to be made: its head, and the value of a key or a PIN.
pub(super) struct New {
    pub(super) head: Head,
    secret: Option<Secret>,
}

impl Head {
    pub(super) const fn name(&self) -> &[u8] {
        match self.name.split_at_checked(self.name_len as usize) {
            Some((name, _)) => name,
            None => &[],
        }
    }

    pub(super) const fn is_df(&self) -> bool {
        matches!(self.kind, Kind::Df)
    }

    pub(super) const fn writing(&self) -> Writing {
        match self.coding & 0x60 {
            0x00 => Writing::Once,
            0x20 => Writing::Replace,
            0x40 => Writing::Or,
            _ => Writing::And,
        }
    }

    /// Descriptor byte and four numbers that depend on it.
    fn shape(&self) -> (u8, [u8; 4]) {
        match self.kind {
            Kind::Df => (descriptor::DF, [0; 4]),
            Kind::Transparent { size } => {
                let [high, low] = size.to_be_bytes();
                (descriptor::TRANSPARENT, [high, low, 0, 0])
            }
            Kind::Linear {
                fixed: true,
                len,
                most,
            } => (descriptor::LINEAR_FIXED, [len, most, 0, 0]),
            Kind::Linear { len, most, .. } => (descriptor::LINEAR_VARIABLE, [len, most, 0, 0]),
            Kind::Cyclic { len, most } => (descriptor::CYCLIC, [len, most, 0, 0]),
            Kind::Key { usage, number, tries } => (descriptor::INTERNAL, [usage.byte(), number, tries, 0]),
        }
    }

    fn kind_of(shape: u8, numbers: [u8; 4]) -> Option<Kind> {
        let [a, b, c, _] = numbers;
        let records = a > 0 && (1..=RECORDS_MAX).contains(&b);
        Some(match shape {
            descriptor::DF => Kind::Df,
            descriptor::TRANSPARENT => Kind::Transparent {
                size: Some(u16::from_be_bytes([a, b])).filter(|size| (1..=SIZE_MAX).contains(size))?,
            },
            descriptor::LINEAR_FIXED | descriptor::LINEAR_VARIABLE if records => Kind::Linear {
                fixed: shape == descriptor::LINEAR_FIXED,
                len: a,
                most: b,
            },
            descriptor::CYCLIC if records => Kind::Cyclic { len: a, most: b },
            descriptor::INTERNAL if (1..=14).contains(&b) && (1..=15).contains(&c) => Kind::Key {
                usage: Usage::from_byte(a)?,
                number: b,
                tries: c,
            },
            _ => return None,
        })
    }

    /// Bytes of a transparent file that stand in one record.
    pub(super) const fn piece(&self) -> usize {
        self.layout.piece()
    }

    /// Records in which content can stand.
    pub(super) fn content(&self) -> u8 {
        match self.kind {
            // A layout has no more pieces than have names.
            Kind::Transparent { size } => {
                u8::try_from(usize::from(size).div_ceil(self.piece())).unwrap_or(u8::MAX)
            }
            Kind::Linear { most, .. } | Kind::Cyclic { most, .. } => most,
            Kind::Df | Kind::Key { .. } => 0,
        }
    }

    /// The first byte is the layout's; the DF above has one byte in the first layout, two in the other.
    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferFull> {
        let (shape, numbers) = self.shape();
        w.u8(self.layout.format())?;
        w.u16(self.fid)?;
        w.u16(self.parent.0)?;
        w.bytes(&[shape, self.sfi.unwrap_or(0), self.coding])?;
        w.bytes(&numbers)?;
        w.bytes(&self.rules.conditions())?;
        w.bytes(self.name())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let layout = Layout::from_format(r.u8()?).ok_or(DecodeError::Value)?;
        let fid = r.u16()?;
        let parent = match layout {
            Layout::First => r.u8()?.into(),
            Layout::Pieces => r.u16()?,
        };
        let [shape, sfi, coding] = r.array()?;
        let kind = Self::kind_of(shape, r.array()?).ok_or(DecodeError::Value)?;
        // Read twice, for its two forms.
        let inverse = black_box(&r).clone().array()?;
        let rules = Rules::new(r.array()?, inverse);
        let (name, name_len) = name_of(r.rest()).ok_or(DecodeError::Value)?;
        Ok(Self {
            layout,
            fid,
            parent: FileNumber(parent),
            sfi: (sfi != 0).then_some(sfi),
            kind,
            coding,
            rules,
            name,
            name_len,
        })
    }

    /// The FCP template.
    pub(super) fn control_parameters(&self, w: &mut Writer<'_>) -> Result<(), BufferFull> {
        w.tlv_with(tag::FCP, |w| {
            let (shape, [a, b, c, _]) = self.shape();
            match self.kind {
                Kind::Transparent { .. } => {
                    w.tlv(tag::SIZE, &[a, b])?;
                    w.tlv(tag::DESCRIPTOR, &[shape, self.coding])?;
                }
                Kind::Linear { .. } | Kind::Cyclic { .. } => {
                    w.tlv(tag::DESCRIPTOR, &[shape, self.coding, 0, a, b])?;
                }
                Kind::Df | Kind::Key { .. } => w.tlv(tag::DESCRIPTOR, &[shape])?,
            }
            w.tlv(tag::IDENTIFIER, &self.fid.to_be_bytes())?;
            if self.name_len > 0 {
                w.tlv(tag::NAME, self.name())?;
            }
            if let Some(sfi) = self.sfi {
                w.tlv(tag::SHORT_IDENTIFIER, &[sfi << 3])?;
            }
            w.tlv(tag::LIFE_CYCLE, &[ACTIVATED])?;
            w.tlv_with(tag::RULES, |w| self.rules.write(w))?;
            if let Kind::Key { .. } = self.kind {
                w.tlv_with(tag::PROPRIETARY, |w| w.tlv(tag::KEY, &[a, b, c]))?;
            }
            Ok(())
        })
    }
}

fn name_of(bytes: &[u8]) -> Option<([u8; NAME_MAX], u8)> {
    let mut name = [0; NAME_MAX];
    name.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((name, u8::try_from(bytes.len()).ok()?))
}

impl New {
    /// Reads an FCP template, for a file in the DF `parent`. Tags that it does not know are refused: a file is what was asked for,
    /// or it is not made.
    pub(super) fn parse(fcp: &[u8], parent: FileNumber) -> Result<Self, Refusal> {
        let template = tlv::Tlv::parse(fcp)?;
        if template.tag.0 != tag::FCP {
            return Err(WRONG_DATA);
        }
        let mut parts = Parts::default();
        for object in TlvReader::new(template.value) {
            let object = object?;
            parts.take(object.tag.0, object.value)?;
        }
        parts.finish(parent)
    }

    /// Writes the records of the new file, under their names.
    pub(super) fn store(
        &self,
        file: FileNumber,
        mut put: impl FnMut(Name, &[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut bytes = [0; HEAD_MAX];
        let mut w = Writer::new(&mut bytes);
        self.head.encode(&mut w)?;
        let mut put = |part, value: &[u8]| put(self.head.layout.name(file, part), value);
        put(Part::Head, w.written())?;
        if let (Kind::Key { tries, .. }, Some(secret)) = (self.head.kind, &self.secret) {
            put(Part::Secret, secret.as_bytes())?;
            put(Part::Tries, &[tries])?;
        }
        Ok(())
    }
}

/// The data objects of a template.
#[derive(Default)]
struct Parts<'a> {
    size: Option<&'a [u8]>,
    descriptor: Option<&'a [u8]>,
    identifier: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    sfi: Option<&'a [u8]>,
    rules: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    secret: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, tag: u32, value: &'a [u8]) -> Result<(), Refusal> {
        let slot = match tag {
            tag::SIZE => &mut self.size,
            tag::DESCRIPTOR => &mut self.descriptor,
            tag::IDENTIFIER => &mut self.identifier,
            tag::NAME => &mut self.name,
            tag::SHORT_IDENTIFIER => &mut self.sfi,
            tag::RULES => &mut self.rules,
            tag::LIFE_CYCLE if *value == [ACTIVATED] => return Ok(()),
            tag::PROPRIETARY if self.key.is_none() => {
                self.key = Some(tlv::find(value, tag::KEY)?.ok_or(WRONG_DATA)?);
                self.secret = Some(tlv::find(value, tag::SECRET)?.ok_or(WRONG_DATA)?);
                return Ok(());
            }
            _ => return Err(WRONG_DATA),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(WRONG_DATA),
        }
    }

    /// Descriptor byte, data coding byte, and the numbers.
    fn shape(&self) -> Result<(u8, u8, [u8; 4]), Refusal> {
        match (self.descriptor, self.size, self.key) {
            (Some([shape @ descriptor::TRANSPARENT, coding]), Some([high, low]), None) => {
                Ok((*shape, *coding, [*high, *low, 0, 0]))
            }
            (
                Some(
                    [
                        shape @ (descriptor::LINEAR_FIXED | descriptor::LINEAR_VARIABLE | descriptor::CYCLIC),
                        coding,
                        0,
                        len,
                        most,
                    ],
                ),
                None,
                None,
            ) => Ok((*shape, *coding, [*len, *most, 0, 0])),
            (Some([shape @ descriptor::DF]), None, None) => Ok((*shape, 0, [0; 4])),
            (Some([shape @ descriptor::INTERNAL]), None, Some([usage, number, tries])) => {
                Ok((*shape, 0, [*usage, *number, *tries, 0]))
            }
            _ => Err(WRONG_DATA),
        }
    }

    fn finish(self, parent: FileNumber) -> Result<New, Refusal> {
        let (shape, coding, numbers) = self.shape()?;
        let kind = Head::kind_of(shape, numbers).ok_or(WRONG_DATA)?;
        let [high, low] = *self.identifier.ok_or(WRONG_DATA)? else {
            return Err(WRONG_DATA);
        };
        let sfi = match self.sfi {
            None | Some([]) => None,
            Some([byte]) if byte & 0x07 == 0 && (1..=30).contains(&(byte >> 3)) => Some(byte >> 3),
            Some(_) => return Err(WRONG_DATA),
        };
        let name = self.name.unwrap_or_default();
        let is_df = matches!(kind, Kind::Df);
        if is_df && sfi.is_some() || !is_df && !name.is_empty() {
            return Err(WRONG_DATA);
        }
        let (name, name_len) = name_of(name).ok_or(WRONG_DATA)?;
        Ok(New {
            head: Head {
                layout: Layout::Pieces,
                fid: u16::from_be_bytes([high, low]),
                parent,
                sfi,
                kind,
                coding,
                rules: Rules::parse(self.rules.ok_or(WRONG_DATA)?)?,
                name,
                name_len,
            },
            secret: match kind {
                Kind::Key { usage, .. } => Some(Secret::of(usage, self.secret.unwrap_or_default())?),
                _ => None,
            },
        })
    }
}
