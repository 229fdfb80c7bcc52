//! P_AUT, the authorisation (spec 4.5).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Campaign, Manifest, SeId, Version, Wants, open};

/// What P_AUT says before its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorisationHead<'a> {
    /// The version that it is written in. One says nothing of target and wants: they are the OS part, and what its splice means.
    pub version: Version,
    /// The SE for which it is made.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// The sequence counter that the SE will use; 24 bits.
    pub sequence_counter: u32,
    /// Which part: [`Manifest::OS_PART`] or [`Manifest::KEYS`].
    pub target: u8,
    /// What its commands do.
    pub wants: Wants,
    /// After how many commands those of P_SE may follow, growing; empty: none follow.
    pub splices: &'a [u8],
}

/// P_AUT, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorisation<'a> {
    /// What stands before the commands.
    pub head: AuthorisationHead<'a>,
    count: u8,
    commands: &'a [u8],
}

const NAME: &[u8; 4] = b"SKAU";

/// The length of the next command: one byte in version 1, two in version 2.
fn command<'a>(version: Version, rest: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = match version {
        Version::One => rest.u8()?.into(),
        Version::Two => rest.u16()?.into(),
    };
    rest.take(len)
}

impl<'a> Authorisation<'a> {
    /// Reads P_AUT and checks every length in it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one P_AUT.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = open(&mut reader, NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let sequence_counter = reader.u24()?;
        let (target, wants, splices) = match version {
            Version::One => match reader.take(1)? {
                [0] => (Manifest::OS_PART, Wants::ACTIVATE, &[][..]),
                splices => (Manifest::OS_PART, Wants::BOTH, splices),
            },
            Version::Two => {
                let (target, wants) = (reader.u8()?, Wants(reader.u8()?));
                let len = reader.u8()?;
                (target, wants, reader.take(len.into())?)
            }
        };
        let count = reader.u8()?;
        let commands = reader.rest();
        let mut rest = Reader::new(commands);
        for _ in 0..count {
            command(version, &mut rest)?;
        }
        rest.finish()?;
        let mut before = 0;
        for splice in splices {
            if *splice <= before || *splice > count {
                return Err(DecodeError::Value);
            }
            before = *splice;
        }
        let head = AuthorisationHead {
            version,
            se_id,
            campaign,
            sequence_counter,
            target,
            wants,
            splices,
        };
        Ok(Self {
            head,
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
        let (version, mut rest) = (self.head.version, Reader::new(self.commands));
        core::iter::from_fn(move || command(version, &mut rest).ok())
    }
}

/// Writes P_AUT command by command.
pub struct AuthorisationWriter<'a> {
    out: Writer<'a>,
    version: Version,
    /// Where the number of commands stands.
    count_at: usize,
    count: u8,
}

impl<'a> AuthorisationWriter<'a> {
    /// Starts P_AUT in `buf`.
    ///
    /// # Errors
    /// [`BufferFull`] when not even the head fits, or says what its version cannot say.
    pub fn new(buf: &'a mut [u8], head: &AuthorisationHead<'_>) -> Result<Self, BufferFull> {
        let mut out = Writer::new(buf);
        out.bytes(NAME)?;
        out.u8(head.version as u8)?;
        out.bytes(&head.se_id.0)?;
        out.u64(head.campaign.0)?;
        out.u24(head.sequence_counter)?;
        match (head.version, head.target, head.wants, head.splices) {
            (Version::One, Manifest::OS_PART, Wants::ACTIVATE, []) => out.u8(0)?,
            (Version::One, Manifest::OS_PART, Wants::BOTH, [splice]) => out.u8(*splice)?,
            (Version::One, ..) => return Err(BufferFull),
            (Version::Two, target, wants, splices) => {
                out.bytes(&[target, wants.0])?;
                out.u8(u8::try_from(splices.len()).map_err(|_| BufferFull)?)?;
                out.bytes(splices)?;
            }
        }
        let count_at = out.len();
        out.u8(0)?;
        Ok(Self {
            out,
            version: head.version,
            count_at,
            count: 0,
        })
    }

    /// Adds a C-APDU.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit or is longer than its length field can say (255 bytes in version 1).
    pub fn command(&mut self, capdu: &[u8]) -> Result<(), BufferFull> {
        self.count = self.count.checked_add(1).ok_or(BufferFull)?;
        match self.version {
            Version::One => self.out.u8(u8::try_from(capdu.len()).map_err(|_| BufferFull)?)?,
            Version::Two => self
                .out
                .u16(u16::try_from(capdu.len()).map_err(|_| BufferFull)?)?,
        }
        self.out.bytes(capdu)
    }

    /// Completes the head and gives P_AUT's length.
    ///
    /// # Errors
    /// Never, as the head has been written; [`BufferFull`] stands for it.
    pub fn finish(self) -> Result<usize, BufferFull> {
        let (count, count_at) = (self.count, self.count_at);
        let written = self.out.into_written();
        *written.get_mut(count_at).ok_or(BufferFull)? = count;
        Ok(written.len())
    }
}
