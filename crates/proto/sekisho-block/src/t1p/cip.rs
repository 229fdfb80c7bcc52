//! Communication interface parameters: INF of S(CIP response).

use super::Bus;

/// Bytes of the longest one that is made here.
pub const LEN_MAX: usize = 64;
/// The version that is known.
const VERSION: u8 = 1;
/// PLID: which physical layer follows.
const SPI: u8 = 1;
const I2C: u8 = 2;
/// Bytes of the physical layer's and of the data link layer's parameters.
const SPI_LEN: usize = 12;
const I2C_LEN: usize = 8;
const LINK_LEN: usize = 4;
/// The longest INF of a block.
const IFS_MAX: u16 = 0x0FF9;

/// What both buses say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Configuration byte: which modes of the bus the card can do.
    pub configuration: u8,
    /// PWT: from power to the first access, in ms.
    pub pwt: u8,
    /// MCF: the fastest clock, in kHz.
    pub mcf: u16,
    /// PST: how long without an access until the card saves power, in ms; 0: it does not.
    pub pst: u8,
    /// MPOT: the shortest time between two polls, in 100 us.
    pub mpot: u8,
}

/// What only one bus says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Physical {
    /// SPI.
    Spi {
        /// SEGT: the shortest time between two accesses, in us.
        segt: u16,
        /// SEAL: the longest access, in bytes; 0: any.
        seal: u16,
        /// WUT: from the access that wakes the card to the next, in us.
        wut: u16,
    },
    /// I2C.
    I2c {
        /// RWGT: the shortest time between write and read, in us.
        rwgt: u16,
    },
}

/// The parameters of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cip<'a> {
    /// IIN or OID of the issuer; may be empty.
    pub issuer: &'a [u8],
    /// What both buses say.
    pub common: Common,
    /// What the card's own says.
    pub physical: Physical,
    /// BWT: the longest time to a card's block, in ms.
    pub bwt: u16,
    /// IFSC: the longest INF that the card takes, 1 to 0FF9.
    pub ifsc: u16,
    /// Historical bytes.
    pub historical: &'a [u8],
}

/// Bytes that are no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCip;

impl<'a> Cip<'a> {
    /// The bus that they speak of.
    #[must_use]
    pub const fn bus(&self) -> Bus {
        match self.physical {
            Physical::Spi { .. } => Bus::Spi,
            Physical::I2c { .. } => Bus::I2c,
        }
    }

    /// The shortest time between two accesses, in us.
    #[must_use]
    pub fn gap(&self) -> u64 {
        match self.physical {
            Physical::Spi { segt, .. } => segt.into(),
            Physical::I2c { rwgt } => rwgt.into(),
        }
    }

    /// Writes them and says how long they are; none when they are longer than [`LEN_MAX`], or IFSC is none.
    #[must_use]
    pub fn write(&self, out: &mut [u8; LEN_MAX]) -> Option<usize> {
        if self.ifsc == 0 || self.ifsc > IFS_MAX {
            return None;
        }
        let mut at = 0;
        let mut put = |bytes: &[u8]| -> Option<()> {
            out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            at += bytes.len();
            Some(())
        };
        put(&[VERSION, u8::try_from(self.issuer.len()).ok()?])?;
        put(self.issuer)?;
        let (id, len) = match self.physical {
            Physical::Spi { .. } => (SPI, 12),
            Physical::I2c { .. } => (I2C, 8),
        };
        put(&[id, len, self.common.configuration, self.common.pwt])?;
        put(&self.common.mcf.to_be_bytes())?;
        put(&[self.common.pst, self.common.mpot])?;
        match self.physical {
            Physical::Spi { segt, seal, wut } => {
                for value in [segt, seal, wut] {
                    put(&value.to_be_bytes())?;
                }
            }
            Physical::I2c { rwgt } => put(&rwgt.to_be_bytes())?,
        }
        put(&[4])?;
        put(&self.bwt.to_be_bytes())?;
        put(&self.ifsc.to_be_bytes())?;
        put(&[u8::try_from(self.historical.len()).ok()?])?;
        put(self.historical)?;
        Some(at)
    }

    /// Parses them. Parameters of a layer that are longer than known are taken without what is not known.
    ///
    /// # Errors
    /// [`NoCip`]: another version, bus or IFSC than there is, an access in which no block has room, an end before its bytes end, bytes after it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoCip> {
        let (version, rest) = bytes.split_first().ok_or(NoCip)?;
        if *version != VERSION {
            return Err(NoCip);
        }
        let (issuer, rest) = field(rest)?;
        let (id, rest) = rest.split_first().ok_or(NoCip)?;
        let (layer, rest) = field(rest)?;
        let (link, rest) = field(rest)?;
        let (historical, rest) = field(rest)?;
        let &[configuration, pwt, mcf_high, mcf_low, pst, mpot, ref own @ ..] = layer else {
            return Err(NoCip);
        };
        let physical = match (*id, own) {
            (SPI, &[a, b, c, d, e, f, ..]) if layer.len() >= SPI_LEN => Physical::Spi {
                segt: u16::from_be_bytes([a, b]),
                seal: u16::from_be_bytes([c, d]),
                wut: u16::from_be_bytes([e, f]),
            },
            (I2C, &[a, b, ..]) if layer.len() >= I2C_LEN => Physical::I2c {
                rwgt: u16::from_be_bytes([a, b]),
            },
            _ => return Err(NoCip),
        };
        let &[bwt_high, bwt_low, ifsc_high, ifsc_low, ..] = link else {
            return Err(NoCip);
        };
        let ifsc = u16::from_be_bytes([ifsc_high, ifsc_low]);
        // A block is one access, and one with a byte of INF has seven.
        if matches!(physical, Physical::Spi { seal: 1..=6, .. }) {
            return Err(NoCip);
        }
        if !rest.is_empty() || link.len() < LINK_LEN || ifsc == 0 || ifsc > IFS_MAX {
            return Err(NoCip);
        }
        Ok(Self {
            issuer,
            common: Common {
                configuration,
                pwt,
                mcf: u16::from_be_bytes([mcf_high, mcf_low]),
                pst,
                mpot,
            },
            physical,
            bwt: u16::from_be_bytes([bwt_high, bwt_low]),
            ifsc,
            historical,
        })
    }
}

fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), NoCip> {
    let (len, rest) = bytes.split_first().ok_or(NoCip)?;
    rest.split_at_checked(usize::from(*len)).ok_or(NoCip)
}
