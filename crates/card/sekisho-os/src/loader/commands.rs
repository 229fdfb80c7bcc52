//! The loader's commands, typed (broadcast update, 2.1 to 2.3).

use sekisho_apdu::{CApdu, Reader, StatusWord};
use sekisho_link::{Campaign, Custody, codes};

/// P1 of CHANGE MODE.
const TO_BROADCAST: u8 = 0x01;
const BACK: u8 = 0x00;

/// CHANGE MODE.
pub enum ChangeMode<'a> {
    /// From the individual secure channel to broadcast mode.
    Broadcast {
        /// Who made the broadcast key set.
        custody: Custody,
        /// The campaign.
        campaign: Campaign,
        /// Encryption counter of the first broadcast command.
        counter: u32,
        /// MAC chaining value before the first broadcast command.
        chaining: [u8; 16],
        /// BK-ENC and BK-MAC, in custody 03 wrapped.
        keys: &'a [u8],
    },
    /// Back to the saved individual channel.
    Back,
}

impl<'a> ChangeMode<'a> {
    /// Reads the command.
    ///
    /// # Errors
    /// 6A86 for P1 or P2, 6700 for a data field of no possible length.
    pub fn parse(capdu: &CApdu<'a>) -> Result<Self, StatusWord> {
        match (capdu.p1, Custody::try_from(capdu.p2)) {
            (BACK, _) if capdu.p2 == 0 && capdu.data.is_empty() => Ok(Self::Back),
            (BACK, _) if capdu.p2 == 0 => Err(StatusWord::WRONG_LENGTH),
            (TO_BROADCAST, Ok(custody)) => Self::parse_broadcast(custody, capdu.data),
            _ => Err(StatusWord::INCORRECT_P1P2),
        }
    }

    fn parse_broadcast(custody: Custody, data: &'a [u8]) -> Result<Self, StatusWord> {
        let mut reader = Reader::new(data);
        let wrong = |_| StatusWord::WRONG_LENGTH;
        let campaign = Campaign(reader.u64().map_err(wrong)?);
        let counter = reader.u32().map_err(wrong)?;
        let chaining = reader.array().map_err(wrong)?;
        let keys = reader.rest();
        let wrapping = match custody {
            Custody::DesignSystem => 8,
            Custody::Hsm => 0,
        };
        if [32, 48, 64].iter().any(|pair| pair + wrapping == keys.len()) {
            Ok(Self::Broadcast {
                custody,
                campaign,
                counter,
                chaining,
                keys,
            })
        } else {
            Err(StatusWord::WRONG_LENGTH)
        }
    }
}

/// WRITE.
pub struct WriteBlock<'a> {
    /// The block number.
    pub block: u16,
    /// The block.
    pub data: &'a [u8],
}

impl<'a> WriteBlock<'a> {
    /// Reads the command.
    ///
    /// # Errors
    /// 6700 for an empty block.
    pub const fn parse(capdu: &CApdu<'a>) -> Result<Self, StatusWord> {
        if capdu.data.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        Ok(Self {
            block: capdu.p1p2(),
            data: capdu.data,
        })
    }
}

/// AUTHORIZE ACTION.
pub enum AuthorizeAction {
    /// Activate what was written.
    Activate {
        /// The campaign.
        campaign: Campaign,
        /// The design integrity code.
        design_code: [u8; 16],
        /// The individual code.
        individual_code: [u8; 16],
    },
    /// Discard what was written.
    Discard {
        /// The campaign.
        campaign: Campaign,
        /// The individual code.
        individual_code: [u8; 16],
    },
}

impl AuthorizeAction {
    /// Reads the command.
    ///
    /// # Errors
    /// 6A86 for P1 or P2, 6700 for a data field of the wrong length.
    pub fn parse(capdu: &CApdu<'_>) -> Result<Self, StatusWord> {
        let mut reader = Reader::new(capdu.data);
        let wrong = |_| StatusWord::WRONG_LENGTH;
        let action = match (capdu.p1, capdu.p2) {
            (codes::ACTION_ACTIVATE, 0) => Self::Activate {
                campaign: Campaign(reader.u64().map_err(wrong)?),
                design_code: reader.array().map_err(wrong)?,
                individual_code: reader.array().map_err(wrong)?,
            },
            (codes::ACTION_DISCARD, 0) => Self::Discard {
                campaign: Campaign(reader.u64().map_err(wrong)?),
                individual_code: reader.array().map_err(wrong)?,
            },
            _ => return Err(StatusWord::INCORRECT_P1P2),
        };
        reader.finish().map_err(wrong)?;
        Ok(action)
    }
}
