//! The states of an update as the device sees it, each made from the one before. No IO.
//!
//! [`Preloaded`] (the delivery is whole and genuine) -> [`Performance`] (P_SE spliced into P_AUT, being played) -> [`Ended`] (what to report).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::sha256;
use sekisho_link::{
    Authorisation, Campaign, Delivery, Equ, Offer, Outcome, PSe, Proof, Receipt, SeId, States, Status,
    Version, Wants, codes,
};

use crate::error::AgentError;
use crate::facts::Facts;

/// A delivery that is what was offered.
#[derive(Debug)]
pub struct Preloaded {
    campaign: Campaign,
    bytes: Vec<u8>,
}

impl Preloaded {
    /// Takes the downloaded bytes, if they are what was offered, whole, and consistent in themselves.
    ///
    /// # Errors
    /// [`AgentError::Delivery`].
    pub fn new(offer: &Offer, bytes: Vec<u8>) -> Result<Self, AgentError> {
        if sha256(&[&bytes]) != offer.sha256 {
            return Err(AgentError::Delivery("another digest"));
        }
        let delivery = Delivery::decode(&bytes).map_err(|_| AgentError::Delivery("not a delivery"))?;
        if delivery.parts.campaign != offer.campaign {
            return Err(AgentError::Delivery("another campaign"));
        }
        if sha256(&[delivery.covered]) != delivery.sha256 {
            return Err(AgentError::Delivery("its own digest is wrong"));
        }
        Ok(Self {
            campaign: offer.campaign,
            bytes,
        })
    }

    /// The campaign.
    pub const fn campaign(&self) -> Campaign {
        self.campaign
    }

    /// P_MOB, for the device itself (step E112).
    pub fn p_mob(&self) -> &[u8] {
        Delivery::decode(&self.bytes).map_or(&[], |delivery| delivery.parts.p_mob)
    }

    /// EQU, the request for permission (step E116).
    pub fn request(&self, facts: &Facts) -> Vec<u8> {
        let Some(states) = States::new(&[facts.state]) else {
            return Vec::new();
        };
        let equ = Equ {
            version: Version::One,
            se_id: facts.se_id,
            campaign: self.campaign,
            kvn: facts.kvn,
            scp_parameter: facts.scp_parameter,
            sequence_counter: facts.sequence_counter,
            wants: Wants::BOTH,
            pauses: 0,
            proof: &[],
            states,
        };
        encoded(&mut [0; Equ::MAX_LEN], |out| equ.encode(out))
    }

    /// Puts P_SE's commands after P_AUT's first `splice` ones (step E132), from the block on that the SE expects. Splice 0: there is no bulk to send.
    ///
    /// # Errors
    /// [`AgentError::Authorisation`] when P_AUT is for another SE, campaign or moment, or cannot be read.
    pub fn splice<'a>(&'a self, facts: &Facts, p_aut: &'a [u8]) -> Result<Performance<'a>, AgentError> {
        let wrong = AgentError::Authorisation;
        let authorisation = Authorisation::decode(p_aut).map_err(|_| wrong("it is malformed"))?;
        if authorisation.head.se_id != facts.se_id {
            return Err(wrong("it is for another secure element"));
        }
        if authorisation.head.campaign != self.campaign {
            return Err(wrong("it is for another campaign"));
        }
        if authorisation.head.sequence_counter != facts.sequence_counter + 1 {
            return Err(wrong("it is for another sequence counter"));
        }
        let splice = authorisation.head.splices.first().copied().map_or(0, usize::from);
        let mut commands: Vec<_> = authorisation.commands().take(splice).collect();
        let mut resumed_at = 0;
        if splice > 0 {
            let delivery =
                Delivery::decode(&self.bytes).map_err(|_| AgentError::Delivery("not a delivery"))?;
            let p_se = PSe::decode(delivery.parts.p_se).map_err(|_| AgentError::Delivery("no P_SE in it"))?;
            if facts.has_staged(self.campaign) {
                resumed_at = facts.state.next_block;
            }
            commands.extend(p_se.commands().skip(resumed_at.into()));
        }
        commands.extend(authorisation.commands().skip(splice));
        Ok(Performance {
            se_id: facts.se_id,
            campaign: self.campaign,
            resumed_at,
            commands,
            position: 0,
        })
    }
}

/// The spliced sequence of commands, and how far it has been played.
#[derive(Debug)]
pub struct Performance<'a> {
    se_id: SeId,
    campaign: Campaign,
    resumed_at: u16,
    commands: Vec<&'a [u8]>,
    position: usize,
}

impl<'a> Performance<'a> {
    /// The block from which the bulk goes on; 0 when it begins.
    pub const fn resumed_at(&self) -> u16 {
        self.resumed_at
    }

    /// Number of commands.
    pub const fn len(&self) -> usize {
        self.commands.len()
    }

    /// True when there is nothing to play.
    pub const fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Commands that were answered with 9000.
    pub const fn done(&self) -> usize {
        self.position
    }

    /// The command to send next; `None` when all have been answered.
    pub fn command(&self) -> Option<&'a [u8]> {
        self.commands.get(self.position).copied()
    }

    /// Takes the status word of that command; gives the performance back to go on with, or what it ended in.
    ///
    /// # Errors
    /// [`Ended`] when the SE refused the command.
    pub fn answered(mut self, sw: StatusWord) -> Result<Self, Ended> {
        if sw == StatusWord::NO_ERROR {
            self.position += 1;
            Ok(self)
        } else {
            Err(self.end(Outcome::Refused, sw))
        }
    }

    /// The SE did not answer.
    pub fn broke_off(self) -> Ended {
        self.end(Outcome::DeviceFailed, StatusWord(0))
    }

    /// All commands were answered with 9000. Without a receipt this proves nothing.
    pub fn completed(self) -> Ended {
        self.end(Outcome::DeviceFailed, StatusWord::NO_ERROR)
    }

    fn end(&self, outcome: Outcome, sw: StatusWord) -> Ended {
        Ended {
            is_complete: self.position == self.commands.len(),
            status: Status {
                version: Version::One,
                se_id: self.se_id,
                campaign: self.campaign,
                outcome,
                step: u16::try_from(self.position).unwrap_or(u16::MAX),
                sw,
                proof: None,
            },
        }
    }
}

/// What an update ended in: everything but the receipt.
#[derive(Debug)]
pub struct Ended {
    is_complete: bool,
    status: Status,
}

impl Ended {
    /// An SE that had been updated before this turn began: only its receipt is left to be reported.
    pub const fn earlier(se_id: SeId, campaign: Campaign) -> Self {
        let status = Status {
            version: Version::One,
            se_id,
            campaign,
            outcome: Outcome::DeviceFailed,
            step: 0,
            sw: StatusWord::NO_ERROR,
            proof: None,
        };
        Self {
            is_complete: true,
            status,
        }
    }

    /// True when the SE did not answer a command.
    pub fn broke_off(&self) -> bool {
        !self.is_complete && self.status.outcome == Outcome::DeviceFailed
    }

    /// The status to report, with the receipt that the SE shows now.
    ///
    /// A receipt of an activation settles the matter: the answer may have got lost on the way. One of discarding counts only when the sequence was
    /// played to its end, as it may be from an earlier try.
    pub fn with_receipt(self, receipt: Option<Receipt>) -> Status {
        let receipt = receipt.filter(|r| r.campaign == self.status.campaign);
        let outcome = match receipt.map(|r| r.action) {
            Some(codes::ACTION_ACTIVATE) => Outcome::Activated,
            Some(codes::ACTION_DISCARD) if self.is_complete => Outcome::Discarded,
            _ => return self.status,
        };
        Status {
            outcome,
            sw: StatusWord::NO_ERROR,
            proof: receipt.map(Proof::Receipt),
            ..self.status
        }
    }
}

/// ST as bytes.
pub fn encode_status(status: &Status) -> Vec<u8> {
    encoded(&mut [0; Status::MAX_LEN], |out| status.encode(out))
}

/// Writes into a buffer that has the size of the largest such message.
fn encoded(
    buffer: &mut [u8],
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), sekisho_link::BufferFull>,
) -> Vec<u8> {
    let mut out = Writer::new(buffer);
    // It cannot be full; what did not fit would be missing, and refused by the server.
    let _ = write(&mut out);
    out.written().to_vec()
}
