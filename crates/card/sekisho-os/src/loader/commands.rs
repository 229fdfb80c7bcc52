//! The commands of the broadcast update, typed (broadcast update, section 2).

use sekisho_apdu::{CApdu, Reader, StatusWord};
use sekisho_link::{Campaign, Custody};

/// CHANGE MODE.
pub enum ChangeMode<'a> {
    /// To broadcast mode.
    Broadcast {
        /// Who made the broadcast key set.
        custody: Custody,
        /// The campaign.
        campaign: Campaign,
        /// Encryption counter of the first command.
        counter: u32,
        /// MAC chaining value of the first command.
        chaining: [u8; 16],
        /// W in custody 03, BK-ENC and BK-MAC in custody 04.
        keys: &'a [u8],
    },
    /// Back to the saved secure channel.
    Back,
}

impl<'a> ChangeMode<'a> {
    /// Reads the command.
    ///
    /// # Errors
    /// 6A86 for another P1 or P2; 6A80 for data that is too short.
    pub fn parse(capdu: &CApdu<'a>) -> Result<Self, StatusWord> {
        let custody = match (capdu.p1, capdu.p2) {
            (0, 0) if capdu.data.is_empty() => return Ok(Self::Back),
            (0, 0) => return Err(StatusWord::WRONG_LENGTH),
            (1, p2) => Custody::try_from(p2).map_err(|_| StatusWord::INCORRECT_P1P2)?,
            _ => return Err(StatusWord::INCORRECT_P1P2),
        };
        let wrong = |_| StatusWord::INCORRECT_DATA;
        let mut r = Reader::new(capdu.data);
        Ok(Self::Broadcast {
            custody,
            campaign: Campaign(r.u64().map_err(wrong)?),
            counter: r.u32().map_err(wrong)?,
            chaining: r.array().map_err(wrong)?,
            keys: r.rest(),
        })
    }
}

/// WRITE.
#[derive(Clone, Copy, Debug)]
pub struct WriteBlock<'a> {
    /// Block number.
    pub block: u16,
    /// The block.
    pub data: &'a [u8],
}

impl<'a> WriteBlock<'a> {
    /// Reads the command.
    ///
    /// # Errors
    /// None yet.
    pub const fn parse(capdu: &CApdu<'a>) -> Result<Self, StatusWord> {
        Ok(Self {
            block: capdu.p1p2(),
            data: capdu.data,
        })
    }
}

/// AUTHORIZE ACTION.
#[derive(Clone, Copy, Debug)]
pub enum AuthorizeAction {
    /// Activate what was written.
    Activate {
        /// The campaign.
        campaign: Campaign,
        /// The design integrity code.
        design_code: [u8; 16],
        /// The individual authorisation code.
        individual_code: [u8; 16],
    },
    /// Discard what was written.
    Discard {
        /// The campaign.
        campaign: Campaign,
        /// The individual authorisation code.
        individual_code: [u8; 16],
    },
}

impl AuthorizeAction {
    /// Reads the command.
    ///
    /// # Errors
    /// 6A86 for another P1 or P2; 6A80 for another length.
    pub fn parse(capdu: &CApdu<'_>) -> Result<Self, StatusWord> {
        let wrong = |_| StatusWord::INCORRECT_DATA;
        let mut r = Reader::new(capdu.data);
        let mut campaign = || r.u64().map(Campaign).map_err(wrong);
        let action = match (capdu.p1, capdu.p2) {
            (1, 0) => Self::Activate {
                campaign: campaign()?,
                design_code: r.array().map_err(wrong)?,
                individual_code: r.array().map_err(wrong)?,
            },
            (2, 0) => Self::Discard {
                campaign: campaign()?,
                individual_code: r.array().map_err(wrong)?,
            },
            _ => return Err(StatusWord::INCORRECT_P1P2),
        };
        r.finish().map_err(wrong)?;
        Ok(action)
    }
}
