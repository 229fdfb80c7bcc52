//! EQU, the request for permission, and what an SE says of its targets (spec 4.4 and 2.4).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Campaign, SeId, Version, open};

/// How far the bulk of a campaign has come in the SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Staging {
    /// Nothing is staged.
    Nothing = 0,
    /// Blocks have been written, not all.
    Begun = 1,
    /// The whole image stands in the inactive slot.
    Complete = 2,
}

/// Value of GET DATA DF20 and DF22: what the loader holds of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderState {
    /// Which part: [`Manifest::OS_PART`](crate::Manifest::OS_PART) or [`Manifest::KEYS`](crate::Manifest::KEYS).
    pub target: u8,
    /// Active slot, 0 or 1; 0 for the keys, which have none.
    pub slot: u8,
    /// Active version.
    pub version: u32,
    /// Host ABI of the SE; 0 for the keys.
    pub abi: u8,
    /// What is staged beside it.
    pub staging: Staging,
    /// Campaign of what is staged; 0 when nothing is.
    pub campaign: Campaign,
    /// The block that the SE expects next; 0 when nothing is staged.
    pub next_block: u16,
}

impl LoaderState {
    const FORMAT: u8 = 1;
    /// Nothing of no target.
    const EMPTY: Self = Self {
        target: 0,
        slot: 0,
        version: 0,
        abi: 0,
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    };
    /// Bytes of the value.
    pub const LEN: usize = 19;

    /// Writes the value.
    ///
    /// # Errors
    /// [`BufferFull`] below [`LoaderState::LEN`] bytes.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(&[Self::FORMAT, self.target, self.slot])?;
        out.u32(self.version)?;
        out.bytes(&[self.abi, self.staging as u8])?;
        out.u64(self.campaign.0)?;
        out.u16(self.next_block)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one value, or its fields contradict each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != Self::FORMAT {
            return Err(DecodeError::Value);
        }
        let (target, slot, version, abi) = (reader.u8()?, reader.u8()?, reader.u32()?, reader.u8()?);
        let staging = match reader.u8()? {
            0 => Staging::Nothing,
            1 => Staging::Begun,
            2 => Staging::Complete,
            _ => return Err(DecodeError::Value),
        };
        let (campaign, next_block) = (Campaign(reader.u64()?), reader.u16()?);
        reader.finish()?;
        // A campaign and a block belong to something that is staged.
        let is_empty = campaign == Campaign(0) && next_block == 0;
        if slot > 1 || (staging == Staging::Nothing && !is_empty) {
            return Err(DecodeError::Value);
        }
        Ok(Self {
            target,
            slot,
            version,
            abi,
            staging,
            campaign,
            next_block,
        })
    }
}

/// What a device wants of an authorisation; the sum of the constants. Others are not built yet, or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants(pub u8);

impl Wants {
    /// To write the bulk and leave broadcast mode, activating nothing.
    pub const LOAD: Self = Self(0x01);
    /// To activate what was written.
    pub const ACTIVATE: Self = Self(0x02);
    /// Both.
    pub const BOTH: Self = Self(0x03);
    /// Added: the SE's card challenge is random or its counter far ahead, and the authorisation is made for its answer to INITIALIZE UPDATE.
    pub const LIVE: u8 = 0x80;

    /// Whether the bulk is to be written.
    pub const fn loads(self) -> bool {
        self.0 & Self::LOAD.0 != 0
    }

    /// Whether what was written is to be activated.
    pub const fn activates(self) -> bool {
        self.0 & Self::ACTIVATE.0 != 0
    }
}

/// The states of an SE's targets, each target once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States([Option<LoaderState>; Self::MAX]);

impl States {
    /// Targets at most.
    pub const MAX: usize = 4;

    /// The states of these targets; `None` when there are none or too many, or a target comes twice.
    pub fn new(states: &[LoaderState]) -> Option<Self> {
        let mut list = [None; Self::MAX];
        for (at, state) in states.iter().enumerate() {
            let before = states.get(..at).unwrap_or_default();
            if before.iter().any(|other| other.target == state.target) {
                return None;
            }
            *list.get_mut(at)? = Some(*state);
        }
        (!states.is_empty()).then_some(Self(list))
    }

    /// The state of a target.
    pub fn of(&self, target: u8) -> Option<LoaderState> {
        self.iter().find(|state| state.target == target)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = LoaderState> + '_ {
        self.0.iter().flatten().copied()
    }
}

/// EQU: a device asks for the authorisation of its SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equ<'a> {
    /// The version that it is written in. One says the state of one target and nothing of wants, pauses and proof: both, none, none.
    pub version: Version,
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// Version of the SCP03 key set to use.
    pub kvn: u8,
    /// SCP03 parameter "i" of the SE.
    pub scp_parameter: u8,
    /// The SE's sequence counter, the last value used; 24 bits.
    pub sequence_counter: u32,
    /// What the authorisation is to do.
    pub wants: Wants,
    /// How many times the device may leave broadcast mode and come back within the session.
    pub pauses: u8,
    /// The SE's answer to an INITIALIZE UPDATE of the server's, or nothing.
    pub proof: &'a [u8],
    /// What its loader holds.
    pub states: States,
}

impl<'a> Equ<'a> {
    const NAME: &'static [u8; 4] = b"SKEQ";
    /// Pauses at most (spec 4.4).
    pub const PAUSES_MAX: u8 = 8;
    /// Bytes of EQU at most.
    pub const MAX_LEN: usize =
        4 + 1 + 10 + 8 + 1 + 1 + 3 + 1 + 1 + 1 + 255 + 1 + States::MAX * (1 + LoaderState::LEN);

    /// Writes EQU.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit, or says what its version cannot say.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let short = |len: usize| u8::try_from(len).map_err(|_| BufferFull);
        out.bytes(Self::NAME)?;
        out.u8(self.version as u8)?;
        out.bytes(&self.se_id.0)?;
        out.u64(self.campaign.0)?;
        out.bytes(&[self.kvn, self.scp_parameter])?;
        out.u24(self.sequence_counter)?;
        let count = self.states.iter().count();
        match self.version {
            Version::One if count != 1 || self.pauses != 0 || !self.proof.is_empty() => {
                return Err(BufferFull);
            }
            Version::One => {}
            Version::Two => {
                out.bytes(&[self.wants.0, self.pauses, short(self.proof.len())?])?;
                out.bytes(self.proof)?;
                out.u8(short(count)?)?;
            }
        }
        for state in self.states.iter() {
            out.u8(short(LoaderState::LEN)?)?;
            state.encode(out)?;
        }
        Ok(())
    }

    /// Reads EQU.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one EQU.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = open(&mut reader, Self::NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let (kvn, scp_parameter, sequence_counter) = (reader.u8()?, reader.u8()?, reader.u24()?);
        let (wants, pauses, proof, count) = match version {
            Version::One => (Wants::BOTH, 0, &[][..], 1),
            Version::Two => {
                let (wants, pauses, len) = (Wants(reader.u8()?), reader.u8()?, reader.u8()?);
                (wants, pauses, reader.take(len.into())?, reader.u8()?)
            }
        };
        let mut states = [LoaderState::EMPTY; States::MAX];
        let states = states.get_mut(..count.into()).ok_or(DecodeError::Value)?;
        for state in &mut *states {
            let len = reader.u8()?;
            *state = LoaderState::decode(reader.take(len.into())?)?;
        }
        reader.finish()?;
        Ok(Self {
            version,
            se_id,
            campaign,
            kvn,
            scp_parameter,
            sequence_counter,
            wants,
            pauses,
            proof,
            states: States::new(states).ok_or(DecodeError::Value)?,
        })
    }
}
