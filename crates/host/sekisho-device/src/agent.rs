//! The agent: the IO around the states of an update.

use core::num::NonZeroU16;
use std::io::{self, Read};

use sekisho_apdu::StatusWord;
use sekisho_link::{Access, Campaign, Offer, Outcome, Status, Verdict, Version};
use sekisho_transport::{Card, exchange};

use crate::backend::{Backend, BackendError, Permission};
use crate::error::AgentError;
use crate::facts::Facts;
use crate::spool::Spool;
use crate::update::{Ended, Pace, Performance, Plan, Preloaded, encode_status};

/// Bytes that are downloaded between two writes to the spool.
const CHUNK: usize = 64 * 1024;
/// How often EQU is repeated with the next sequence counter in one turn.
const COUNT_UPS_MAX: u32 = 3;
/// How often the SE may stop answering in one turn before the server is told.
const BREAKS_MAX: u32 = 4;
/// HTTP status of a device that is blocked.
const FORBIDDEN: u16 = 403;

/// Takes P_MOB (step E114).
pub type HandOver = Box<dyn FnMut(Campaign, &[u8]) -> io::Result<()> + Send>;

/// What the agent is doing, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The SE has been read.
    Secure(Facts),
    /// The server has a campaign for it.
    Offered(Campaign),
    /// So many bytes of the delivery are there, of so many.
    Downloaded(u32, u32),
    /// P_MOB is with the device.
    HandedOver(usize),
    /// The sequence counter was counted up, as the server asked.
    CountedUp(u32),
    /// So many commands are done, of so many, the bulk going on at a block.
    Played(usize, usize, u16),
    /// The SE has left broadcast mode, expecting this block next, and comes back with the next command. What is to be done in between is done here.
    Paused(u16),
    /// The SE did not answer; why.
    BrokeOff(String),
    /// ST has been sent.
    Reported(Status),
}

/// How far a turn went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is nothing to be done.
    Nothing,
    /// The update came to an end, and the server has spoken.
    Ended {
        /// What was reported.
        status: Status,
        /// The server's word.
        verdict: Verdict,
        /// The block from which the bulk went on; 0 when it was sent from the beginning, or not at all.
        resumed_at: u16,
    },
    /// As many blocks are loaded as one turn may: the next turn goes on.
    Loading {
        /// The campaign.
        campaign: Campaign,
        /// The block that the SE expects next.
        next_block: u16,
        /// Of so many.
        blocks: u16,
    },
    /// Everything is loaded, but the permission comes later: ask again after so many seconds.
    NotYet(u32),
    /// The server refuses permission; its words.
    Blocked(String),
}

/// The agent of one device.
pub struct Agent<B, S> {
    backend: B,
    spool: S,
    limit: u32,
    hand_over: Option<HandOver>,
    pace: Pace,
}

impl<B: Backend, S: Spool> Agent<B, S> {
    /// An agent that keeps deliveries of up to `limit` bytes. Without `hand_over`, P_MOB is of no concern to the device.
    pub const fn new(backend: B, spool: S, limit: u32, hand_over: Option<HandOver>) -> Self {
        Self {
            backend,
            spool,
            limit,
            hand_over,
            pace: Pace {
                blocks: None,
                pauses: 0,
            },
        }
    }

    /// Sends the bulk at this pace from now on.
    #[must_use]
    pub const fn at_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The server as it sees it.
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Goes as far as it can: from where the last turn ended to the verdict, if nothing comes between.
    ///
    /// # Errors
    /// [`AgentError`]: wait as [`Backoff`](crate::Backoff) says, and make another turn.
    pub fn turn(&mut self, card: &mut dyn Card, watch: &mut dyn FnMut(Event)) -> Result<Turn, AgentError> {
        card.reset()?;
        let facts = Facts::read(card)?;
        watch(Event::Secure(facts.clone()));
        if let Some(turn) = self.report_again(watch)? {
            return Ok(turn);
        }
        let offer = match self.backend.offer(facts.se_id) {
            Ok(Some(offer)) => offer,
            Ok(None) => return Ok(Turn::Nothing),
            Err(BackendError::Refused {
                status: FORBIDDEN,
                detail,
                ..
            }) => return Ok(Turn::Blocked(detail)),
            Err(error) => return Err(error.into()),
        };
        if offer.bytes == 0 {
            return Err(BackendError::Malformed("an offer: its delivery has no bytes").into());
        }
        watch(Event::Offered(offer.campaign));
        self.spool.turn_to(offer.campaign).map_err(AgentError::Spool)?;
        if facts.activation(offer.campaign).is_some() {
            let ended = Ended::earlier(facts.se_id, offer.campaign);
            return self.report(ended.with_proof(Some(&facts)), 0, watch);
        }
        let preloaded = self.preload(&offer, watch)?;
        self.hand_over(&preloaded, watch)?;
        self.perform(card, facts, &preloaded, watch)
    }

    /// Asks, splices, plays and reports (steps E116 to E144). When the SE stops answering and is there again after a reset, it goes on with an
    /// authorisation of its own, as the one in play was for that secure channel alone.
    fn perform(
        &mut self,
        card: &mut dyn Card,
        mut facts: Facts,
        preloaded: &Preloaded,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Turn, AgentError> {
        let mut failures = 0;
        let mut resumed_at = 0;
        let mut left = self.pace.blocks.map(NonZeroU16::get);
        loop {
            let plan = preloaded.plan(&facts, left, self.pace.pauses);
            if left == Some(0) && plan.leaves_something() {
                return Ok(loading(preloaded, &plan));
            }
            let permission;
            (facts, permission) = self.ask(card, facts, preloaded, &plan, watch)?;
            let p_aut = match permission {
                Permission::Granted(p_aut) => p_aut,
                Permission::Blocked(words) => return Ok(Turn::Blocked(words)),
                Permission::NotYet(seconds) => return Ok(Turn::NotYet(seconds)),
                Permission::CounterUsed => return Err(AgentError::Counters),
            };
            let performance = preloaded.splice(&facts, &plan, &p_aut)?;
            resumed_at = performance.resumed_at().max(resumed_at);
            let ended = play(card, performance, watch);
            if ended.is_complete() && plan.leaves_something() {
                return Ok(loading(preloaded, &plan));
            }
            let now = facts_now(card, &ended);
            failures += 1;
            match now {
                Some(now)
                    if ended.broke_off()
                        && now.activation(preloaded.campaign()).is_none()
                        && failures < BREAKS_MAX =>
                {
                    // What may have been sent of this turn's blocks is sent.
                    left = left.map(|blocks| blocks.saturating_sub(plan.blocks()));
                    facts = now;
                }
                now => return self.report(ended.with_proof(now.as_ref()), resumed_at, watch),
            }
        }
    }

    /// Brings the whole delivery into the spool (steps E108 and E110), going on where an earlier turn broke off.
    fn preload(&mut self, offer: &Offer, watch: &mut dyn FnMut(Event)) -> Result<Preloaded, AgentError> {
        if offer.bytes > self.limit {
            return Err(AgentError::TooLong {
                bytes: offer.bytes,
                limit: self.limit,
            });
        }
        let bytes = match self.spool.delivery().map_err(AgentError::Spool)? {
            Some(bytes) => bytes,
            None => self.download(offer, watch)?,
        };
        let preloaded = Preloaded::new(offer, bytes);
        if preloaded.is_err() {
            self.spool.restart(None).map_err(AgentError::Spool)?;
        }
        preloaded
    }

    fn download(&mut self, offer: &Offer, watch: &mut dyn FnMut(Event)) -> Result<Vec<u8>, AgentError> {
        let (mut have, mut etag) = self.spool.partial().map_err(AgentError::Spool)?;
        if have > u64::from(offer.bytes) || etag.is_none() {
            (have, etag) = (0, None);
        }
        let from = u32::try_from(have).unwrap_or(0);
        if from < offer.bytes {
            self.fetch(offer, from, etag.as_deref(), watch)?;
        }
        self.spool.complete().map_err(AgentError::Spool)?;
        self.spool
            .delivery()
            .map_err(AgentError::Spool)?
            .ok_or(AgentError::Delivery("it does not fit the spool"))
    }

    fn fetch(
        &mut self,
        offer: &Offer,
        from: u32,
        etag: Option<&str>,
        watch: &mut dyn FnMut(Event),
    ) -> Result<(), AgentError> {
        let part = self.backend.delivery(offer.campaign, from, etag)?;
        let mut have = part.offset;
        if have == 0 {
            self.spool
                .restart(part.etag.as_deref())
                .map_err(AgentError::Spool)?;
        } else if have != from {
            return Err(AgentError::Delivery("a range that was not asked for"));
        }
        let mut body = part.body;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = body
                .read(&mut chunk)
                .map_err(|error| BackendError::Unreachable(error.to_string()))?;
            have = have.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
            if have > offer.bytes {
                self.spool.restart(None).map_err(AgentError::Spool)?;
                return Err(AgentError::Delivery("longer than offered"));
            }
            self.spool.append(&chunk[..n]).map_err(AgentError::Spool)?;
            watch(Event::Downloaded(have, offer.bytes));
            if n == 0 {
                break;
            }
        }
        if have < offer.bytes {
            return Err(BackendError::Unreachable("the delivery broke off".to_owned()).into());
        }
        Ok(())
    }

    /// Gives P_MOB to the device, once (steps E112 and E114).
    fn hand_over(&mut self, preloaded: &Preloaded, watch: &mut dyn FnMut(Event)) -> Result<(), AgentError> {
        let p_mob = preloaded.p_mob();
        let Some(hand_over) = self.hand_over.as_mut().filter(|_| !p_mob.is_empty()) else {
            return Ok(());
        };
        if !self.spool.is_handed_over().map_err(AgentError::Spool)? {
            hand_over(preloaded.campaign(), p_mob).map_err(AgentError::HandOver)?;
            self.spool.set_handed_over().map_err(AgentError::Spool)?;
            watch(Event::HandedOver(p_mob.len()));
        }
        Ok(())
    }

    /// Asks for permission (steps E116 to E130), counting the sequence counter up when its value was used.
    fn ask(
        &mut self,
        card: &mut dyn Card,
        mut facts: Facts,
        preloaded: &Preloaded,
        plan: &Plan,
        watch: &mut dyn FnMut(Event),
    ) -> Result<(Facts, Permission), AgentError> {
        let mut counted_up = 0;
        loop {
            let equ = preloaded.request(&facts, plan)?;
            match self.backend.permission(facts.se_id, &equ)? {
                Permission::CounterUsed if counted_up < COUNT_UPS_MAX => {
                    facts = facts.count_up(card)?;
                    counted_up += 1;
                    watch(Event::CountedUp(facts.sequence_counter));
                }
                permission => return Ok((facts, permission)),
            }
        }
    }

    /// Reports ST (step E142); it is kept until the server has answered.
    fn report(
        &mut self,
        status: Status,
        resumed_at: u16,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Turn, AgentError> {
        let st = encode_status(&status);
        self.spool.set_report(Some(&st)).map_err(AgentError::Spool)?;
        let verdict = self.backend.status(status.se_id, &st)?;
        watch(Event::Reported(status));
        let is_over = matches!(status.outcome, Outcome::Activated | Outcome::Discarded);
        if is_over && verdict.access == Access::Allowed {
            self.spool.clear().map_err(AgentError::Spool)?;
        }
        self.spool.set_report(None).map_err(AgentError::Spool)?;
        Ok(Turn::Ended {
            status,
            verdict,
            resumed_at,
        })
    }

    /// Reports what an earlier turn could not. What the server will never take is forgotten.
    fn report_again(&mut self, watch: &mut dyn FnMut(Event)) -> Result<Option<Turn>, AgentError> {
        let Some(st) = self.spool.report().map_err(AgentError::Spool)? else {
            return Ok(None);
        };
        let forgotten = match Status::decode(&st) {
            Ok(status) => {
                // What an earlier version has left is said in today's.
                let status = Status {
                    version: Version::Two,
                    ..status
                };
                self.spool.turn_to(status.campaign).map_err(AgentError::Spool)?;
                match self.report(status, 0, watch) {
                    Err(AgentError::Backend(error)) if error.is_final() => true,
                    result => return result.map(Some),
                }
            }
            Err(_) => true,
        };
        if forgotten {
            self.spool.set_report(None).map_err(AgentError::Spool)?;
        }
        Ok(None)
    }
}

/// A turn that has loaded what it may.
fn loading(preloaded: &Preloaded, plan: &Plan) -> Turn {
    Turn::Loading {
        campaign: preloaded.campaign(),
        next_block: plan.end(),
        blocks: preloaded.blocks(),
    }
}

/// Sends the commands one by one (steps E134 and E136).
fn play(card: &mut dyn Card, mut performance: Performance<'_>, watch: &mut dyn FnMut(Event)) -> Ended {
    let (len, resumed_at) = (performance.len(), performance.resumed_at());
    while let Some(command) = performance.command() {
        performance = match exchange(card, command) {
            Ok(response) => match performance.answered(StatusWord(response.sw)) {
                Ok(performance) => performance,
                Err(ended) => return ended,
            },
            Err(error) => {
                watch(Event::BrokeOff(error.to_string()));
                return performance.broke_off();
            }
        };
        watch(Event::Played(performance.done(), len, resumed_at));
        if let Some(block) = performance.paused_at() {
            watch(Event::Paused(block));
        }
    }
    performance.completed()
}

/// What the SE says after it was played to, if anything; from its next start when it stopped answering.
fn facts_now(card: &mut dyn Card, ended: &Ended) -> Option<Facts> {
    if !ended.broke_off()
        && let Ok(facts) = Facts::read(card)
    {
        return Some(facts);
    }
    card.reset().ok()?;
    Facts::read(card).ok()
}
