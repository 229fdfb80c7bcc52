//! The loader's commands, typed (broadcast update, 2.1 to 2.3).

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Reader, StatusWord};
use sekisho_link::{Campaign, Custody, codes};

/// P1 of CHANGE MODE.
const TO_BROADCAST: u8 = 0x01;
const BACK: u8 = 0x00;
const KEEP: u8 = 0x02;
/// P1P2 of the CHANGE MODE that leaves broadcast mode, whole image or not.
const LEAVE: u16 = 0x0001;
/// Data field of a CHANGE MODE whose key set has come before: the campaign.
const CAMPAIGN_LEN: usize = 8;

/// A broadcast key set as CHANGE MODE carries it.
pub struct KeySetField<'a> {
    /// Who made it.
    pub custody: Custody,
    /// The campaign.
    pub campaign: Campaign,
    /// Encryption counter of the first broadcast command.
    pub counter: u32,
    /// MAC chaining value before the first broadcast command.
    pub chaining: [u8; 16],
    /// BK-ENC and BK-MAC, in custody 03 wrapped.
    pub keys: &'a [u8],
}

/// CHANGE MODE.
pub enum ChangeMode<'a> {
    /// From the individual secure channel to broadcast mode.
    Broadcast(KeySetField<'a>),
    /// The same with the key set that was kept.
    BroadcastKept {
        /// Who made it.
        custody: Custody,
        /// The campaign.
        campaign: Campaign,
    },
    /// Keeps a key set for the CHANGE MODE that goes to broadcast mode.
    Keep(KeySetField<'a>),
    /// Back to the saved individual channel, which it is protected by, at whatever block.
    Leave,
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
            (BACK, _) if capdu.p1p2() <= LEAVE && !capdu.data.is_empty() => Err(StatusWord::WRONG_LENGTH),
            (BACK, _) if capdu.p2 == 0 => Ok(Self::Back),
            (BACK, _) if Self::leaves(capdu) => Ok(Self::Leave),
            (TO_BROADCAST, Ok(custody)) if capdu.data.len() == CAMPAIGN_LEN => {
                let campaign = Reader::new(capdu.data).u64();
                campaign
                    .map(|campaign| Self::BroadcastKept {
                        custody,
                        campaign: Campaign(campaign),
                    })
                    .map_err(|_| StatusWord::WRONG_LENGTH)
            }
            (TO_BROADCAST, Ok(custody)) => KeySetField::parse(custody, capdu.data).map(Self::Broadcast),
            (KEEP, Ok(custody)) => KeySetField::parse(custody, capdu.data).map(Self::Keep),
            _ => Err(StatusWord::INCORRECT_P1P2),
        }
    }

    /// Whether a command, protected or not, is the one that leaves broadcast mode: the individual channel protects it.
    pub(crate) const fn leaves(capdu: &CApdu<'_>) -> bool {
        capdu.ins == ins::CHANGE_MODE && capdu.p1p2() == LEAVE
    }
}

impl<'a> KeySetField<'a> {
    fn parse(custody: Custody, data: &'a [u8]) -> Result<Self, StatusWord> {
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
            Ok(Self {
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
