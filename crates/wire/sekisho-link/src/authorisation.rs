//! EQU, the request for permission, and P_AUT, the authorisation (spec 4.4 and 4.5).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Campaign, SeId, open};

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

/// Value of GET DATA DF20: what the loader holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderState {
    /// Which part: 01 the OS part.
    pub target: u8,
    /// Active slot, 0 or 1.
    pub slot: u8,
    /// Active version.
    pub version: u32,
    /// Host ABI of the SE.
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

/// EQU: a device asks for the authorisation of its SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equ {
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
    /// What its loader holds.
    pub state: LoaderState,
}

impl Equ {
    const NAME: &'static [u8; 4] = b"SKEQ";
    /// Bytes of EQU.
    pub const LEN: usize = 4 + 1 + 10 + 8 + 1 + 1 + 3 + 1 + LoaderState::LEN;

    /// Writes EQU.
    ///
    /// # Errors
    /// [`BufferFull`] below [`Equ::LEN`] bytes.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.u8(crate::VERSION)?;
        out.bytes(&self.se_id.0)?;
        out.u64(self.campaign.0)?;
        out.bytes(&[self.kvn, self.scp_parameter])?;
        out.u24(self.sequence_counter)?;
        out.u8(u8::try_from(LoaderState::LEN).map_err(|_| BufferFull)?)?;
        self.state.encode(out)
    }

    /// Reads EQU.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one EQU.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open(&mut reader, Self::NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let (kvn, scp_parameter, sequence_counter) = (reader.u8()?, reader.u8()?, reader.u24()?);
        let len = reader.u8()?;
        let state = LoaderState::decode(reader.take(usize::from(len))?)?;
        reader.finish()?;
        Ok(Self {
            se_id,
            campaign,
            kvn,
            scp_parameter,
            sequence_counter,
            state,
        })
    }
}

/// P_AUT, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorisation<'a> {
    /// The SE for which it is made.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// The sequence counter that the SE will use.
    pub sequence_counter: u32,
    /// After how many commands those of P_SE follow; 0: none follow.
    pub splice: u8,
    count: u8,
    commands: &'a [u8],
}

impl<'a> Authorisation<'a> {
    const NAME: &'static [u8; 4] = b"SKAU";
    const HEAD: usize = 4 + 1 + 10 + 8 + 3 + 1 + 1;

    /// Reads P_AUT and checks every length in it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one P_AUT.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open(&mut reader, Self::NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let (sequence_counter, splice, count) = (reader.u24()?, reader.u8()?, reader.u8()?);
        let commands = reader.rest();
        let mut rest = Reader::new(commands);
        for _ in 0..count {
            let len = rest.u8()?;
            rest.take(usize::from(len))?;
        }
        rest.finish()?;
        if splice > count {
            return Err(DecodeError::Value);
        }
        Ok(Self {
            se_id,
            campaign,
            sequence_counter,
            splice,
            count,
            commands,
        })
    }

    /// Number of commands.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no command in it.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The C-APDUs in order.
    pub fn commands(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Reader::new(self.commands);
        core::iter::from_fn(move || {
            let len = rest.u8().ok()?;
            rest.take(usize::from(len)).ok()
        })
    }
}

/// Writes P_AUT command by command.
pub struct AuthorisationWriter<'a> {
    out: Writer<'a>,
    count: u8,
}

impl<'a> AuthorisationWriter<'a> {
    /// Starts P_AUT in `buf`; `sequence_counter` is a 24-bit number.
    ///
    /// # Errors
    /// [`BufferFull`] when not even the head fits.
    pub fn new(
        buf: &'a mut [u8],
        se_id: SeId,
        campaign: Campaign,
        sequence_counter: u32,
        splice: u8,
    ) -> Result<Self, BufferFull> {
        let mut out = Writer::new(buf);
        out.bytes(Authorisation::NAME)?;
        out.u8(crate::VERSION)?;
        out.bytes(&se_id.0)?;
        out.u64(campaign.0)?;
        out.u24(sequence_counter)?;
        out.bytes(&[splice, 0])?;
        Ok(Self { out, count: 0 })
    }

    /// Adds a C-APDU.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit or is longer than 255 bytes.
    pub fn command(&mut self, capdu: &[u8]) -> Result<(), BufferFull> {
        self.count = self.count.checked_add(1).ok_or(BufferFull)?;
        self.out.u8(u8::try_from(capdu.len()).map_err(|_| BufferFull)?)?;
        self.out.bytes(capdu)
    }

    /// Completes the head and gives P_AUT's length.
    ///
    /// # Errors
    /// Never, as the head has been written; [`BufferFull`] stands for it.
    pub fn finish(self) -> Result<usize, BufferFull> {
        let count = self.count;
        let written = self.out.into_written();
        *written.get_mut(Authorisation::HEAD - 1).ok_or(BufferFull)? = count;
        Ok(written.len())
    }
}
