//! The states of an update as the device sees it, each made from the one before. No IO.
//!
//! [`Preloaded`] (the delivery is whole and genuine) -> [`Plan`] (what is asked) -> [`Performance`] (P_SE spliced into P_AUT, being played) -> [`Ended`] (what to report).

use core::num::NonZeroU16;
use core::ops::Range;

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::sha256;
use sekisho_link::{
    Authorisation, Campaign, Delivery, Equ, Offer, Outcome, PSe, Proof, SeId, Staging, Status, Version,
    Wants, codes,
};

use crate::error::AgentError;
use crate::facts::Facts;

/// How much of the bulk a device sends in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Blocks of the bulk that may be sent in one turn; then the SE leaves broadcast mode, and the next turn goes on. `None`: all of them.
    pub blocks: Option<NonZeroU16>,
    /// How many times the SE leaves broadcast mode within the session and comes back, so that something else may be done in between; up to
    /// [`Equ::PAUSES_MAX`].
    pub pauses: u8,
}

/// What a device asks of the authorisation, and what it will play with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    target: u8,
    wants: Wants,
    /// The blocks to be sent, each piece after another change to broadcast mode; none: no bulk is sent.
    pieces: Vec<Range<u16>>,
    /// Whether the bulk's own way back follows the last of them.
    is_whole: bool,
}

impl Plan {
    /// Blocks that it sends.
    pub fn blocks(&self) -> u16 {
        self.pieces.iter().map(|piece| piece.end - piece.start).sum()
    }

    /// The block that the SE expects once all of it has been played.
    pub fn end(&self) -> u16 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    /// Whether the image is not whole when all of it has been played.
    pub fn leaves_something(&self) -> bool {
        !self.wants.activates()
    }
}

/// A delivery that is what was offered.
#[derive(Debug)]
pub struct Preloaded {
    campaign: Campaign,
    target: u8,
    /// Blocks of the bulk.
    blocks: u16,
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
        let p_se = PSe::decode(delivery.parts.p_se).map_err(|_| AgentError::Delivery("no P_SE in it"))?;
        // The last command is the way back.
        let blocks = p_se.commands().count().saturating_sub(1);
        let blocks =
            u16::try_from(blocks).map_err(|_| AgentError::Delivery("more blocks than there can be"))?;
        Ok(Self {
            campaign: offer.campaign,
            target: offer.target,
            blocks,
            bytes,
        })
    }

    /// The campaign.
    pub const fn campaign(&self) -> Campaign {
        self.campaign
    }

    /// Which part it changes.
    pub const fn target(&self) -> u8 {
        self.target
    }

    /// Blocks of the bulk.
    pub const fn blocks(&self) -> u16 {
        self.blocks
    }

    /// P_MOB, for the device itself (step E112).
    pub fn p_mob(&self) -> &[u8] {
        Delivery::decode(&self.bytes).map_or(&[], |delivery| delivery.parts.p_mob)
    }

    /// What is to be done next, from the block on that the SE expects: to send at most `blocks` blocks if there are more, to send the rest and activate
    /// it, or to activate what is whole.
    pub fn plan(&self, facts: &Facts, blocks: Option<u16>, pauses: u8) -> Plan {
        let staged = facts.staged(self.target, self.campaign);
        if staged.is_some_and(|state| state.staging == Staging::Complete) {
            return Plan {
                target: self.target,
                wants: Wants::ACTIVATE,
                pieces: Vec::new(),
                is_whole: false,
            };
        }
        let from = staged.map_or(0, |state| state.next_block).min(self.blocks);
        let left = self.blocks - from;
        let sent = blocks.map_or(left, |most| most.min(left));
        let is_whole = sent == left;
        let wants = if is_whole { Wants::BOTH } else { Wants::LOAD };
        // A pause between two pieces; no piece is empty.
        let pieces = u16::from(pauses.min(Equ::PAUSES_MAX)).min(sent.saturating_sub(1)) + 1;
        let at = |piece: u16| {
            let share = u32::from(sent) * u32::from(piece) / u32::from(pieces);
            from + u16::try_from(share).unwrap_or(sent)
        };
        Plan {
            target: self.target,
            wants,
            pieces: (0..pieces).map(|piece| at(piece)..at(piece + 1)).collect(),
            is_whole,
        }
    }

    /// EQU, the request for permission (step E116).
    ///
    /// # Errors
    /// [`AgentError::Data`] when the SE says the same of one target twice.
    pub fn request(&self, facts: &Facts, plan: &Plan) -> Result<Vec<u8>, AgentError> {
        let equ = Equ {
            version: Version::Two,
            se_id: facts.se_id,
            campaign: self.campaign,
            kvn: facts.kvn,
            scp_parameter: facts.scp_parameter,
            sequence_counter: facts.sequence_counter,
            wants: plan.wants,
            pauses: u8::try_from(plan.pieces.len().saturating_sub(1)).unwrap_or(Equ::PAUSES_MAX),
            proof: &[],
            states: facts.states().ok_or(AgentError::Data("loader states"))?,
        };
        Ok(encoded(&mut [0; Equ::MAX_LEN], |out| equ.encode(out)))
    }

    /// Puts P_SE's commands into P_AUT's, a piece of the plan after each of its splices (step E132).
    ///
    /// # Errors
    /// [`AgentError::Authorisation`] when P_AUT is for another SE, campaign or moment, does what was not asked for, or cannot be read.
    pub fn splice<'a>(
        &'a self,
        facts: &Facts,
        plan: &Plan,
        p_aut: &'a [u8],
    ) -> Result<Performance<'a>, AgentError> {
        let wrong = AgentError::Authorisation;
        let authorisation = Authorisation::decode(p_aut).map_err(|_| wrong("it is malformed"))?;
        let head = authorisation.head;
        for (is_right, why) in [
            (head.version == Version::Two, "it is of another version"),
            (head.se_id == facts.se_id, "it is for another secure element"),
            (head.campaign == self.campaign, "it is for another campaign"),
            (
                head.sequence_counter == facts.sequence_counter + 1,
                "it is for another sequence counter",
            ),
            (
                head.target == plan.target,
                "it is for a target that was not asked for",
            ),
            (head.wants == plan.wants, "it does what was not asked for"),
            (
                head.splices.len() == plan.pieces.len(),
                "it has not the pauses that were asked for",
            ),
        ] {
            if !is_right {
                return Err(wrong(why));
            }
        }
        let delivery = Delivery::decode(&self.bytes).map_err(|_| AgentError::Delivery("not a delivery"))?;
        let p_se = PSe::decode(delivery.parts.p_se).map_err(|_| AgentError::Delivery("no P_SE in it"))?;
        let (mut commands, mut pauses) = (Vec::new(), Vec::new());
        let mut own = authorisation.commands();
        let mut taken = 0;
        for (index, (splice, piece)) in head.splices.iter().zip(&plan.pieces).enumerate() {
            let splice = usize::from(*splice);
            commands.extend(own.by_ref().take(splice - taken));
            taken = splice;
            let is_last = index + 1 == plan.pieces.len();
            let count = usize::from(piece.end - piece.start) + usize::from(is_last && plan.is_whole);
            commands.extend(p_se.commands().skip(piece.start.into()).take(count));
            if !is_last {
                // The command that leaves broadcast mode is P_AUT's next.
                pauses.push((commands.len() + 1, piece.end));
            }
        }
        commands.extend(own);
        Ok(Performance {
            se_id: facts.se_id,
            campaign: self.campaign,
            sequence_counter: head.sequence_counter,
            resumed_at: plan.pieces.first().map_or(0, |piece| piece.start),
            commands,
            pauses,
            position: 0,
        })
    }
}

/// The spliced sequence of commands, and how far it has been played.
#[derive(Debug)]
pub struct Performance<'a> {
    se_id: SeId,
    campaign: Campaign,
    sequence_counter: u32,
    resumed_at: u16,
    commands: Vec<&'a [u8]>,
    /// After how many commands the SE is out of broadcast mode for a while, and the block that it expects next.
    pauses: Vec<(usize, u16)>,
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

    /// The block that the SE expects next, if it has just left broadcast mode and comes back with the next command.
    pub fn paused_at(&self) -> Option<u16> {
        let here = self.pauses.iter().find(|(after, _)| *after == self.position);
        here.map(|(_, block)| *block)
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
            sequence_counter: Some(self.sequence_counter),
            status: Status {
                version: Version::Two,
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

/// What an update ended in: everything but the SE's own word.
#[derive(Debug)]
pub struct Ended {
    is_complete: bool,
    /// That of the session which was played; `None`: none was.
    sequence_counter: Option<u32>,
    status: Status,
}

impl Ended {
    /// An SE that had been updated before this turn began: only its receipt is left to be reported.
    pub const fn earlier(se_id: SeId, campaign: Campaign) -> Self {
        let status = Status {
            version: Version::Two,
            se_id,
            campaign,
            outcome: Outcome::DeviceFailed,
            step: 0,
            sw: StatusWord::NO_ERROR,
            proof: None,
        };
        Self {
            is_complete: true,
            sequence_counter: None,
            status,
        }
    }

    /// True when the SE did not answer a command.
    pub fn broke_off(&self) -> bool {
        !self.is_complete && self.status.outcome == Outcome::DeviceFailed
    }

    /// True when the SE answered every command with 9000.
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The status to report, with the SE's own word as it shows it now.
    ///
    /// A receipt of an activation settles the matter: the answer may have got lost on the way. One of discarding counts only when the sequence was
    /// played to its end, as it may be from an earlier try; and a refusal only when it is of the session that was played.
    pub fn with_proof(self, facts: Option<&Facts>) -> Status {
        let campaign = self.status.campaign;
        let receipt = facts
            .and_then(|facts| facts.receipt)
            .filter(|r| r.campaign == campaign);
        let refusal = facts.and_then(|facts| facts.refusal).filter(|r| {
            r.campaign == campaign && Some(r.sequence_counter) == self.sequence_counter && !self.is_complete
        });
        let outcome = match receipt.map(|r| r.action) {
            Some(codes::ACTION_ACTIVATE) => Outcome::Activated,
            Some(codes::ACTION_DISCARD) if self.is_complete => Outcome::Discarded,
            _ => {
                return Status {
                    proof: refusal.map(Proof::Refusal),
                    ..self.status
                };
            }
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
