//! Refusals as receipts: what the SE has refused, under K-AUT, so that a device cannot say it in its place (broadcast update, 2.6).

use sekisho_apdu::StatusWord;
use sekisho_keys::cmac;
use sekisho_link::{Campaign, Refusal, codes};
use sekisho_nvm::Op;

use super::authorise::Authority;
use super::commands::AuthorizeAction;
use super::records::{REFUSAL, Staged};
use super::{Loader, commit};
use crate::nvm::{Nvm, has_room_for_refusal};

/// How far a campaign has come.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) campaign: Campaign,
    /// Which part; 0 when nothing says it.
    pub(super) target: u8,
    /// The next block, or that of a WRITE that is being carried out.
    pub(super) block: u16,
}

impl Position {
    /// Nothing has been staged for this campaign.
    pub(super) const fn new(campaign: Campaign) -> Self {
        Self {
            campaign,
            target: 0,
            block: 0,
        }
    }
}

/// What a command was about when it was refused.
#[derive(Clone, Copy)]
pub struct Subject {
    position: Position,
    /// Digest of what is staged; zero when nothing is.
    digest: [u8; 32],
}

impl Subject {
    fn at(nvm: &mut Nvm<'_>, position: Position) -> Self {
        let staged = Staged::load(nvm).ok().flatten();
        Self {
            position,
            digest: staged.map_or([0; 32], |staged| staged.manifest.digest),
        }
    }
}

/// What was refused, in which individual session, and how it was answered.
#[derive(Clone, Copy)]
pub struct Refused {
    /// [`codes::ACTION_LOAD`], [`codes::ACTION_ACTIVATE`] or [`codes::ACTION_DISCARD`].
    pub action: u8,
    /// What it was about.
    pub subject: Subject,
    /// Sequence counter of the session.
    pub sequence_counter: u32,
    /// The status word.
    pub sw: StatusWord,
}

impl Loader {
    /// What a refusal in broadcast mode is about.
    pub fn loading(&self, nvm: &mut Nvm<'_>) -> Subject {
        Subject::at(nvm, self.loading)
    }

    /// Action and subject of an AUTHORIZE ACTION, as they are before it is carried out.
    pub fn subject(&self, nvm: &mut Nvm<'_>, command: &AuthorizeAction) -> (u8, Subject) {
        let (action, campaign) = match command {
            AuthorizeAction::Activate { campaign, .. } => (codes::ACTION_ACTIVATE, *campaign),
            AuthorizeAction::Discard { campaign, .. } => (codes::ACTION_DISCARD, *campaign),
        };
        let (_, staged) = self.staged;
        (action, Subject::at(nvm, Position { campaign, ..staged }))
    }

    /// Keeps a refusal. The answer is given whatever becomes of it: what stands there already is not written again, and where the store is full,
    /// or has failed, there is none.
    pub fn refuse(&self, nvm: &mut Nvm<'_>, authority: &Authority, refused: Refused) {
        if refused.sw == StatusWord::MEMORY_FAILURE {
            return;
        }
        let Subject { position, digest } = refused.subject;
        let Position {
            campaign,
            target,
            block,
        } = position;
        let refusal = Refusal {
            action: refused.action,
            target,
            campaign,
            sequence_counter: refused.sequence_counter,
            sw: refused.sw,
            block,
            version: self.version(target),
            digest,
            mac: [0; 16],
        };
        let mac = cmac(&authority.k_aut, &[&refusal.message(authority.se_id)]);
        let bytes = Refusal { mac, ..refusal }.encode();
        let mut last = [0; Refusal::LEN];
        let stands = nvm.get(REFUSAL, &mut last) == Ok(Some(bytes.len())) && last == bytes;
        let op = Op::Put(REFUSAL, &bytes);
        if !stands && has_room_for_refusal(nvm, &op) {
            // Cut here, the last one stands; a flash that has failed says so at the next command.
            let _ = commit(nvm, &[op]);
        }
    }
}
